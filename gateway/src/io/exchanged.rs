//! A stream on which the peer says something of itself before its first byte: magic, length, message.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;

/// Magic and length.
const HEADER_BYTES: usize = 8;
/// Read at once.
const READ_BYTES: usize = 1024;

/// The stream behind the message, which is taken out of what is read whenever it comes.
#[derive(Debug)]
pub struct Exchanged {
    pub(super) io: Io,
    incoming: Incoming,
    frame: Frame,
}

/// How a message is told from what is none.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub magic: u32,
    /// Of the message.
    pub max_bytes: usize,
}

#[derive(Debug)]
enum Incoming {
    /// What is there of the message, header included.
    Message(Vec<u8>),
    /// There was none: what was read for it comes first.
    None {
        bytes: Vec<u8>,
        read: usize,
    },
    /// It is complete, and nobody has asked for it yet.
    Complete(Vec<u8>),
    Over,
}

impl Exchanged {
    #[must_use]
    pub fn new(io: Io, frame: Frame) -> Self {
        Self { io, incoming: Incoming::Message(Vec::new()), frame }
    }

    /// The message, once it is there; `None`: there is none. May be dropped at any time.
    ///
    /// # Errors
    /// Of the stream; a message that is too long is one.
    pub async fn message(&mut self) -> io::Result<Option<Vec<u8>>> {
        poll_fn(|cx| self.poll_message(cx)).await?;
        match std::mem::replace(&mut self.incoming, Incoming::Over) {
            Incoming::Complete(message) => Ok(Some(message)),
            other => {
                self.incoming = other;
                Ok(None)
            }
        }
    }

    /// Reads on until it is known what the message is.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Incoming::Message(bytes) = &mut self.incoming {
            let Some(missing) = missing(bytes, self.frame)? else {
                let bytes = std::mem::take(bytes);
                self.incoming = Incoming::None { bytes, read: 0 };
                break;
            };
            if missing == 0 {
                let message = bytes.split_off(HEADER_BYTES);
                self.incoming = Incoming::Complete(message);
                break;
            }
            // Never more than belongs to it, so that what follows stays where it is.
            let mut room = [0; READ_BYTES];
            let wanted = missing.min(READ_BYTES);
            let mut buf = ReadBuf::new(&mut room[..wanted]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                let bytes = std::mem::take(bytes);
                self.incoming = Incoming::None { bytes, read: 0 };
                break;
            }
            bytes.extend_from_slice(buf.filled());
        }
        Poll::Ready(Ok(()))
    }
}

/// How many bytes of a message that begins with these are not there yet; `None`: it is no message.
fn missing(bytes: &[u8], frame: Frame) -> io::Result<Option<usize>> {
    let magic = frame.magic.to_be_bytes();
    let begun = bytes.len().min(magic.len());
    if bytes[..begun] != magic[..begun] {
        return Ok(None);
    }
    let Some((header, message)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(Some(HEADER_BYTES - bytes.len()));
    };
    let [_, _, _, _, length @ ..] = header;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    match length <= frame.max_bytes {
        true => Ok(Some(length - message.len())),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the peer says too much of itself"))
        }
    }
}

impl AsyncRead for Exchanged {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_message(cx))?;
        if let Incoming::None { bytes, read } = &mut this.incoming {
            let rest = &bytes[*read..];
            let length = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..length]);
            *read += length;
            if *read < bytes.len() {
                return Poll::Ready(Ok(()));
            }
            this.incoming = Incoming::Over;
            if length > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Exchanged {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;

    const FRAME: Frame = Frame { magic: 0x0102_0304, max_bytes: 100 };

    fn message(text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap();
        [&FRAME.magic.to_be_bytes()[..], &length.to_be_bytes(), text].concat()
    }

    /// What is read behind the message, and the message, of these pieces.
    async fn read(pieces: &[&[u8]]) -> (io::Result<Option<Vec<u8>>>, Vec<u8>) {
        let (io, mut peer) = UnixStream::pair().unwrap();
        let mut exchanged = Exchanged::new(Io::Unix(io), FRAME);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let writing = tokio::spawn(async move {
            for piece in pieces {
                peer.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let message = exchanged.message().await;
        let mut rest = Vec::new();
        if message.is_ok() {
            exchanged.read_to_end(&mut rest).await.unwrap();
        }
        writing.await.unwrap();
        (message, rest)
    }

    #[tokio::test]
    async fn a_message_is_taken_out_however_it_is_cut() {
        let bytes = [&message(b"who")[..], b"data"].concat();
        for cut in 0..bytes.len() {
            let (before, after) = bytes.split_at(cut);
            let (message, rest) = read(&[before, after]).await;
            assert_eq!((message.unwrap().as_deref(), &*rest), (Some(&b"who"[..]), &b"data"[..]));
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_read_as_it_came() {
        let begun = &message(b"who")[..6];
        for bytes in [&b""[..], b"\x01", b"data that is longer than a header", begun] {
            let (message, rest) = read(&[bytes]).await;
            assert_eq!((message.unwrap(), &*rest), (None, bytes));
        }
    }

    #[tokio::test]
    async fn a_message_that_nobody_asks_for_is_taken_out_too() {
        let (io, mut peer) = UnixStream::pair().unwrap();
        peer.write_all(&[&message(b"who")[..], b"data"].concat()).await.unwrap();
        drop(peer);
        let mut rest = Vec::new();
        Exchanged::new(Io::Unix(io), FRAME).read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"data");
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_an_error() {
        let (message, _) = read(&[&message(&[0; 101])]).await;
        assert_eq!(message.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
