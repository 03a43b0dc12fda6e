//! The byte stream under a connection, whichever way it came about.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::tunnel::Tunnel;

mod exchanged;

pub use exchanged::{Exchanged, Frame};

/// Any stream the proxy reads from and writes to. An enum, so that the plain case costs a branch and
/// TLS state is allocated only where there is TLS.
#[derive(Debug)]
pub enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    ServerTls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    UnixServerTls(Box<tokio_rustls::server::TlsStream<UnixStream>>),
    ClientTls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    UnixClientTls(Box<tokio_rustls::client::TlsStream<UnixStream>>),
    /// Inside a stream of another connection. Boxed: few are.
    Tunnel(Box<Tunnel>),
    /// Of which something was read to find out what it is. Boxed: few connections are looked at.
    Replayed(Box<Replayed>),
    /// TLS between sidecars that say who they are before the first byte.
    Exchanged(Box<Exchanged>),
}

/// A socket that is read after what was read from it before.
#[derive(Debug)]
pub struct Replayed {
    bytes: Vec<u8>,
    read: usize,
    io: TcpStream,
}

macro_rules! each {
    ($self:expr, $io:ident => $body:expr) => {
        match $self {
            Io::Tcp($io) => $body,
            Io::Unix($io) => $body,
            Io::ServerTls($io) => $body,
            Io::UnixServerTls($io) => $body,
            Io::ClientTls($io) => $body,
            Io::UnixClientTls($io) => $body,
            Io::Tunnel($io) => $body,
            Io::Replayed($io) => $body,
            Io::Exchanged($io) => $body,
        }
    };
}

impl Io {
    /// What was negotiated as a client of TLS; `None`: nothing.
    #[must_use]
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        match self {
            Self::ClientTls(io) => io.get_ref().1.alpn_protocol(),
            Self::UnixClientTls(io) => io.get_ref().1.alpn_protocol(),
            Self::Exchanged(exchanged) => exchanged.io.alpn_protocol(),
            Self::Tcp(_)
            | Self::Unix(_)
            | Self::ServerTls(_)
            | Self::UnixServerTls(_)
            | Self::Tunnel(_)
            | Self::Replayed(_) => None,
        }
    }

    /// The socket under any TLS; `None`: it is shared with others.
    #[must_use]
    pub fn socket(&self) -> Option<SockRef<'_>> {
        Some(match self {
            Self::Tcp(io) => SockRef::from(io),
            Self::Unix(io) => SockRef::from(io),
            Self::ServerTls(io) => SockRef::from(io.get_ref().0),
            Self::UnixServerTls(io) => SockRef::from(io.get_ref().0),
            Self::ClientTls(io) => SockRef::from(io.get_ref().0),
            Self::UnixClientTls(io) => SockRef::from(io.get_ref().0),
            Self::Replayed(replayed) => SockRef::from(&replayed.io),
            Self::Exchanged(exchanged) => return exchanged.io.socket(),
            Self::Tunnel(_) => return None,
        })
    }

    /// The same stream before `bytes` were read from it. Only what carries no TLS of ours is looked into.
    #[must_use]
    pub fn after(self, bytes: Vec<u8>) -> Self {
        match self {
            Self::Tcp(io) if !bytes.is_empty() => {
                Self::Replayed(Box::new(Replayed { bytes, read: 0, io }))
            }
            Self::Tunnel(io) => Self::Tunnel(Box::new(io.after(bytes))),
            other => other,
        }
    }
}

impl AsyncRead for Replayed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = &this.bytes[this.read..];
        if rest.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let length = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..length]);
        this.read += length;
        if this.read == this.bytes.len() {
            // A connection lasts longer than its first bytes.
            (this.bytes, this.read) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replayed {
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

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, io => io.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => Pin::new(io).poll_shutdown(cx))
    }
}
