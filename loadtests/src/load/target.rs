//! Where a load goes to: the address, and how a connection is made.

use std::{
    cell::Cell,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weir_tests::net::{Namespace, Owner};

/// Source addresses, so that connections made and closed by the thousand do not run out of ports.
const SOURCES: u32 = 200;

/// An address, and the network it is an address of: the host's, or that of a namespace.
#[derive(Debug, Clone)]
pub struct Place {
    pub addr: SocketAddr,
    pub namespace: Option<Rc<Namespace>>,
}

impl From<SocketAddr> for Place {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, namespace: None }
    }
}

/// One listener.
#[derive(Debug)]
pub struct Target {
    pub place: Place,
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    next_source: Cell<u32>,
}

/// A connection, plain or TLS.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Target {
    pub fn new(place: Place, tls: Option<(Arc<ClientConfig>, ServerName<'static>)>) -> Self {
        Self { place, tls, next_source: Cell::new(0) }
    }

    /// Connects, and shakes hands over TLS if the target has it.
    pub async fn connect(&self) -> io::Result<Stream> {
        let stream = self.connect_plain().await?;
        let Some((config, name)) = &self.tls else { return Ok(Stream::Plain(stream)) };
        let connector = TlsConnector::from(Arc::clone(config));
        Ok(Stream::Tls(Box::new(connector.connect(name.clone(), stream).await?)))
    }

    /// Connects without TLS, whatever the target has.
    pub async fn connect_plain(&self) -> io::Result<TcpStream> {
        let socket = match &self.place.namespace {
            // A socket belongs to the namespace it is made in; who connects it does not matter.
            Some(namespace) => namespace.within(Owner::ROOT, TcpSocket::new_v4)?,
            None => self.loopback()?,
        };
        let stream = socket.connect(self.place.addr).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn loopback(&self) -> io::Result<TcpSocket> {
        let source = self.next_source.get();
        self.next_source.set((source + 1) % SOURCES);
        let socket = TcpSocket::new_v4()?;
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 1)) + source);
        // The port is chosen when connecting, where one in TIME_WAIT to another peer is free.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::from((ip, 0)))?;
        Ok(socket)
    }
}

impl Stream {
    /// Whether the TLS session continued an earlier one.
    pub fn resumed(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => {
                stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
            }
        }
    }

    /// The protocol agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
