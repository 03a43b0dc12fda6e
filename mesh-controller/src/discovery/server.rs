//! Port 15012: TLS and HTTP/2.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    Proxies,
    push::Writer,
    services::{DrainTime, Peer, Shared},
    session::Sessions,
};
use crate::{ca::Authorities, metrics::Metrics, review::Reviews, tls::Serving};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 20_000;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams of one connection: a proxy needs one, and another for its certificate.
const MAX_STREAMS: u32 = 16;
/// How long the end of what is served may take.
const FLUSH: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What the server needs of the others.
#[derive(Debug)]
pub struct Parts {
    pub serving: Arc<Serving>,
    pub writer: Writer,
    pub reviews: Arc<Reviews>,
    pub proxies: Arc<Proxies>,
    pub metrics: Arc<Metrics>,
    pub own_gateways_only: bool,
    /// How long a proxy may take to apply a push.
    pub push_timeout: Duration,
    pub authorities: Arc<Authorities>,
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    closed: CancellationToken,
    streams: TaskTracker,
    connections: TaskTracker,
    ended: CancellationToken,
    drain: Arc<DrainTime>,
}

/// Starts to serve.
///
/// # Errors
/// The address cannot be bound.
pub async fn start(address: SocketAddr, parts: Parts) -> anyhow::Result<Server> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} for discovery"))?;
    let address = listener.local_addr().context("find out where discovery listens")?;
    info!(%address, "discovery");
    let Parts {
        serving,
        writer,
        reviews,
        proxies,
        metrics,
        own_gateways_only,
        push_timeout,
        authorities,
    } = parts;
    let (streams, connections) = (TaskTracker::new(), TaskTracker::new());
    let drain = Arc::new(DrainTime::new());
    let (closed, ended) = (CancellationToken::new(), CancellationToken::new());
    let shared = Arc::new(Shared {
        sessions: Sessions { writer, reviews, proxies, metrics, own_gateways_only, push_timeout },
        serving,
        authorities,
        streams: streams.clone(),
        closed: closed.clone(),
        ended: ended.clone(),
        drain: Arc::clone(&drain),
    });
    tokio::spawn(accept(listener, shared, connections.clone()));
    Ok(Server { address, closed, streams, connections, ended, drain })
}

impl Server {
    /// Takes no more connections, and ends the streams one after another over `time`, so that not all
    /// proxies turn to the other replicas at once.
    pub async fn drain(self, time: Duration) {
        // Only set here, once.
        let _ = self.drain.set(time);
        self.closed.cancel();
        self.streams.close();
        let streams_end = timeout(time + FLUSH, self.streams.wait()).await;
        if streams_end.is_err() {
            warn!("streams are cut off");
        }
        // How a stream ended is still to be written.
        self.ended.cancel();
        self.connections.close();
        let _ = timeout(FLUSH, self.connections.wait()).await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, connections: TaskTracker) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.closed.cancelled() => return,
        };
        let Ok((socket, peer)) = accepted else {
            // Out of descriptors: someone has to leave first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            warn!(%peer, "too many connections");
            continue;
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            if let Err(error) = connection(socket, shared).await {
                debug!(%peer, "a connection ended: {error:#}");
            }
            drop(slot);
        });
    }
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let config = shared.serving.discovery().context("there is no certificate yet")?;
    let stream = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(socket)).await??;
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|chain| chain.first()).cloned().map(Arc::new);
    // One token for both: it is looked at whenever the connection does something.
    let ended = shared.ended.clone();
    let cut = ended.child_token();
    let peer = Peer { certificate, cut: cut.clone() };
    let service = service_fn(move |request| {
        let (shared, peer) = (Arc::clone(&shared), peer.clone());
        async move { Ok::<_, Infallible>(shared.route(request, peer).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE / 2)
        // What waits for a slow proxy: one response, not all of them.
        .max_send_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = &mut connection => return result.context("serve"),
        () = cut.cancelled() => {}
    }
    if !ended.is_cancelled() {
        bail!("the proxy reads no more");
    }
    connection.as_mut().graceful_shutdown();
    connection.await.context("serve to the end")
}
