//! The connection to the controller: found by name, verified against the mounted root, opened with
//! what this process can prove about itself.
//!
//! Two gRPC services are reached through it, discovery and certificates; both authenticate alike.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Uri, header::AUTHORIZATION};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    body::Body,
    client::{Grpc, GrpcService},
};

mod backoff;
mod credentials;

pub use self::backoff::Backoff;

use self::credentials::Credentials;
use crate::tls::Workload;

/// For one address, from the first packet to the end of the handshakes.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A controller whose machine is gone closes nothing: it is asked whether it is there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Enough for the first push to flow without waiting for the round trip.
const WINDOW: u32 = 4 * 1024 * 1024;

/// Where a controller is: `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

/// Which controller, and how both sides know each other.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    pub address: Address,
    /// What its certificate has to be for.
    pub server_name: ServerName<'static>,
    /// File of the roots it is verified against; read for every connection, because they rotate.
    pub root: PathBuf,
    /// File of the service account token; read for every connection, because it expires.
    pub token: PathBuf,
    /// Shown where there is no token.
    pub workload: watch::Receiver<Option<Arc<Workload>>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the roots of the controller at {}", path.display())]
    Roots {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds no certificate to verify the controller with", path.display())]
    NoRoots { path: PathBuf },
    #[error(
        "there is neither a token at {} nor a workload certificate to show to the controller",
        path.display()
    )]
    NoCredential {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds no token: it has bytes that no header may have", path.display())]
    Token { path: PathBuf },
    #[error("the workload certificate cannot be used")]
    Certificate(#[source] rustls::Error),
    #[error("find the address of {host}")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("connect to the controller at {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "TLS with the controller at {address}, which has to be {name} and signed by {}",
        root.display()
    )]
    Tls {
        address: SocketAddr,
        name: String,
        root: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("HTTP/2 with the controller at {address}")]
    Http2 {
        address: SocketAddr,
        #[source]
        source: hyper::Error,
    },
    #[error("the controller at {address} did not answer within {} s", CONNECT_LIMIT.as_secs())]
    Timeout { address: SocketAddr },
}

/// `HOST:PORT` is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address of the controller is written HOST:PORT")]
pub struct InvalidAddress;

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(InvalidAddress)?;
        let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        // It becomes a server name and the authority of requests.
        ServerName::try_from(host).map_err(|_invalid| InvalidAddress)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl ControlPlane {
    /// Opens a connection to one of the addresses behind the name: the first that answers, in an
    /// order of chance, so that proxies spread over the replicas.
    ///
    /// # Errors
    /// What is missing here, or what the address that was tried last said.
    pub async fn connect(&self) -> Result<Grpc<Channel>, Error> {
        let credentials = Credentials::read(self)?;
        let Address { host, port } = &self.address;
        let found = tokio::net::lookup_host((host.as_str(), *port)).await;
        let unresolved = |source| Error::Resolve { host: host.clone(), source };
        let mut addresses: Vec<_> = found.map_err(unresolved)?.collect();
        fastrand::shuffle(&mut addresses);
        let mut last = unresolved(io::Error::other("the name has no address"));
        for address in addresses {
            match timeout(CONNECT_LIMIT, self.open(address, &credentials)).await {
                Ok(Ok(channel)) => return Ok(Grpc::with_origin(channel, self.origin())),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = Error::Timeout { address },
            }
        }
        Err(last)
    }

    async fn open(&self, address: SocketAddr, credentials: &Credentials) -> Result<Channel, Error> {
        let tls = self.handshake(address, credentials).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let opened = builder.handshake(TokioIo::new(tls)).await;
        let (sender, connection) = opened.map_err(|source| Error::Http2 { address, source })?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the controller broke");
            }
        });
        Ok(Channel {
            sender,
            authorization: credentials.authorization.clone(),
            peer: address,
            _driver: Arc::new(AbortOnDropHandle::new(driver)),
        })
    }

    async fn handshake(
        &self,
        address: SocketAddr,
        credentials: &Credentials,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let refused = |source| Error::Connect { address, source };
        let tcp = TcpStream::connect(address).await.map_err(refused)?;
        tcp.set_nodelay(true).map_err(refused)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&credentials.tls));
        let stream = connector.connect(self.server_name.clone(), tcp).await;
        stream.map_err(|source| Error::Tls {
            address,
            name: self.server_name.to_str().into_owned(),
            root: self.root.clone(),
            source,
        })
    }

    fn origin(&self) -> Uri {
        let uri = format!("https://{}", self.address);
        uri.parse().expect("an address was checked to be a host and a port")
    }
}

/// An open connection. It ends with the last clone.
#[derive(Clone)]
pub struct Channel {
    sender: http2::SendRequest<Body>,
    /// With the token in it, if that is how this process is known.
    authorization: Option<HeaderValue>,
    pub peer: SocketAddr,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl GrpcService<Body> for Channel {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Box::pin(self.sender.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for text in ["weir-controller.weir-system.svc:15012", "10.0.0.1:15012", "[2001:db8::1]:1"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for wrong in ["", "weir", "weir:", "weir:0", "weir:70000", ":15012", "a b:1", "http://a:1"]
        {
            assert_eq!(wrong.parse::<Address>(), Err(InvalidAddress), "{wrong}");
        }
    }
}
