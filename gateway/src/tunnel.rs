//! The byte stream inside a CONNECT stream of HTTP/2 (RFC 9113 section 8.5), of either side.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::{Error, Received, Stream};

/// Handed to the connection at once: what a frame holds unless the peer says otherwise.
const WRITE_BYTES: usize = 16 * 1024;

/// A connection inside a stream. Dropped before both sides have said all, it is broken off; others of
/// the same HTTP/2 connection go on.
pub struct Tunnel {
    stream: Stream,
    /// Received and not read yet.
    unread: Bytes,
    read_ended: bool,
    write_ended: bool,
    /// Told by being dropped that the stream is over.
    _open: Option<OpenStream>,
}

/// One of the streams of a connection, for as long as it lives.
pub type OpenStream = std::sync::Arc<()>;

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Of a CONNECT that was answered with success.
    #[must_use]
    pub fn new(stream: Stream, open: Option<OpenStream>) -> Self {
        Self { stream, unread: Bytes::new(), read_ended: false, write_ended: false, _open: open }
    }

    /// The same stream before `bytes` were read from it.
    #[must_use]
    pub fn after(mut self, bytes: Vec<u8>) -> Self {
        if self.unread.is_empty() {
            self.unread = bytes.into();
        } else if !bytes.is_empty() {
            let mut all = BytesMut::from(&*bytes);
            all.extend_from_slice(&self.unread);
            self.unread = all.freeze();
        }
        self
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.unread.is_empty() {
                let length = this.unread.len().min(buf.remaining());
                buf.put_slice(&this.unread.split_to(length));
                return Poll::Ready(Ok(()));
            }
            if this.read_ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(this.stream.poll_receive(cx)).map_err(Error::into_io)? {
                None | Some(Received::Trailers(_)) => this.read_ended = true,
                Some(Received::Data(bytes)) => {
                    // As much may come again; nothing is read before this is.
                    this.stream.release(bytes.len());
                    this.unread = bytes;
                }
            }
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = bytes.len().min(WRITE_BYTES);
        let room = ready!(this.stream.poll_room(wanted, cx)).map_err(Error::into_io)?;
        let piece = Bytes::copy_from_slice(&bytes[..room]);
        this.stream.send_data(piece, false).map_err(Error::into_io)?;
        Poll::Ready(Ok(room))
    }

    /// The connection's task sends what it is given.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.write_ended {
            this.write_ended = true;
            this.stream.send_data(Bytes::new(), true).map_err(Error::into_io)?;
        }
        Poll::Ready(Ok(()))
    }
}
