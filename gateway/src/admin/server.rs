//! The sockets of the admin thread and the limits of those who use them.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tracing::{debug, warn};

use super::{Shared, agent, pages};

/// Open at once on one port.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// For a request's head, from the moment one could be sent.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For a whole connection: a client that takes its answer byte by byte does not keep it.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Admin,
    Status,
    /// Metrics for whoever scrapes the pod.
    Metrics,
    /// The pod of a sidecar: probes, metrics, its end.
    Agent,
}

/// A bound port.
#[derive(Debug)]
pub(super) struct Server {
    pub kind: Kind,
    pub addr: SocketAddr,
    socket: TcpListener,
}

impl Server {
    pub(super) fn bind(kind: Kind, addr: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(addr)?;
        socket.set_nonblocking(true)?;
        Ok(Self { kind, addr: socket.local_addr()?, socket })
    }
}

/// Serves the ports until it is dropped, and does what `SIGUSR1` asks for: the same as
/// `/reopen_logs`.
pub(super) async fn run(servers: Vec<Server>, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    for server in servers {
        tasks.spawn(accept(server, Arc::clone(&shared)));
    }
    match signal(SignalKind::user_defined1()) {
        Ok(mut reopen) => {
            while reopen.recv().await.is_some() {
                shared.state.engine.telemetry.access_log.reopen();
            }
        }
        Err(error) => warn!(%error, "listen for SIGUSR1"),
    }
    while tasks.join_next().await.is_some() {}
}

async fn accept(server: Server, shared: Arc<Shared>) {
    let Server { kind, addr, socket } = server;
    let socket = match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, %addr, "listen"),
    };
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                while connections.try_join_next().is_some() {}
                oldest_first.retain(|connection| !connection.is_finished());
                // Whoever has been here longest makes room: clients that only connect must not keep
                // a probe waiting.
                if oldest_first.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    oldest.abort();
                }
                let shared = Arc::clone(&shared);
                oldest_first.push_back(connections.spawn(async move {
                    let serving = connection((stream, peer.ip()), (kind, addr), &shared);
                    // At its end the connection is cut; so it is by dropping it.
                    let _ = timeout(CONNECTION_TIMEOUT, serving).await;
                }));
            }
            Err(error) => {
                warn!(%error, %addr, "accept");
                // Out of file descriptors, most likely: some will be given back.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    (stream, peer): (TcpStream, IpAddr),
    (kind, addr): (Kind, SocketAddr),
    shared: &Shared,
) {
    let answer = |request: Request<Incoming>| async move {
        let response = match kind {
            Kind::Admin => pages::admin(&request, addr, shared).await,
            Kind::Status => pages::status(&request, shared),
            Kind::Metrics => pages::scraped(&request, shared),
            Kind::Agent => agent::page_of(&request, peer, shared).await,
        };
        Ok::<Response<Full<Bytes>>, Infallible>(response)
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::default())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    if let Err(error) = served {
        debug!(%error, %addr, "admin connection");
    }
}
