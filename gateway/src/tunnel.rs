//! The byte stream inside a CONNECT stream of HTTP/2 (RFC 9113 section 8.5), of either side.

use std::{
    fmt,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Handed to the connection at once: what a frame holds unless the peer says otherwise.
const WRITE_BYTES: usize = 16 * 1024;

/// A connection inside a stream. Dropped before both sides have said all, it is broken off; others of
/// the same HTTP/2 connection go on.
pub struct Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
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
        f.debug_struct("Tunnel").field("stream", &self.send.stream_id()).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Of a CONNECT that was answered with success.
    #[must_use]
    pub fn new(send: SendStream<Bytes>, receive: RecvStream, open: Option<OpenStream>) -> Self {
        Self {
            send,
            receive,
            unread: Bytes::new(),
            read_ended: false,
            write_ended: false,
            _open: open,
        }
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
            match ready!(this.receive.poll_data(cx)) {
                None => this.read_ended = true,
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                Some(Ok(bytes)) => {
                    // As much may come again; nothing is read before this is. The error is a stream
                    // that is over.
                    let _ = this.receive.flow_control().release_capacity(bytes.len());
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
        this.send.reserve_capacity(wanted);
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                None => return Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                Some(Ok(_granted)) => {}
            }
        }
        let length = wanted.min(this.send.capacity());
        let piece = Bytes::copy_from_slice(&bytes[..length]);
        this.send.send_data(piece, false).map_err(io_error)?;
        Poll::Ready(Ok(length))
    }

    /// The connection's task sends what it is given.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.write_ended {
            this.write_ended = true;
            this.send.send_data(Bytes::new(), true).map_err(io_error)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// The end of the stream, or of its whole connection.
fn io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| ErrorKind::ConnectionReset.into());
    }
    io::Error::new(ErrorKind::ConnectionReset, error)
}
