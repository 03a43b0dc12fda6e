//! The sockets queries come to.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{
    message::{self, Received},
    upstream::{Upstream, read_framed, write_framed},
};
use crate::engine::Engine;

/// Larger than any query.
const MAX_QUERY_BYTES: usize = 4096;
/// Queries that wait for the name server; a client that is not answered asks again.
const MAX_WAITING: usize = 1024;
const MAX_CONNECTIONS: usize = 128;
/// For the next query on a connection.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// After a failure that will not be over at once, as having no more file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Where queries come to, and who is asked what is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub listen: Vec<SocketAddr>,
    pub name_servers: Vec<SocketAddr>,
}

/// Answers queries until it is dropped.
#[derive(Debug)]
pub struct DnsServer(Vec<AbortOnDropHandle<()>>);

/// What all queries share.
struct Shared {
    engine: Arc<Engine>,
    upstream: Upstream,
    waiting: Semaphore,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl DnsServer {
    /// Has to be called within the runtime that is to serve. An address of a family the host does not
    /// have is left out.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub fn start(options: Options, engine: Arc<Engine>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            engine,
            upstream: Upstream::new(options.name_servers),
            waiting: Semaphore::new(MAX_WAITING),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            tasks: TaskTracker::new(),
        });
        let mut tasks = Vec::new();
        for address in options.listen {
            let (udp, tcp) = match bind(address) {
                Ok(sockets) => sockets,
                Err(error) if address.is_ipv6() && is_absent(&error) => continue,
                Err(error) => return Err(error),
            };
            tracing::info!(%address, "answering DNS");
            let datagrams = serve_udp(Arc::clone(&shared), Arc::new(udp));
            let connections = serve_tcp(Arc::clone(&shared), tcp);
            tasks.push(AbortOnDropHandle::new(tokio::spawn(datagrams)));
            tasks.push(AbortOnDropHandle::new(tokio::spawn(connections)));
        }
        Ok(Self(tasks))
    }

    /// Whether anybody is answered.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        !self.0.is_empty()
    }
}

fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = std::net::UdpSocket::bind(address)?;
    udp.set_nonblocking(true)?;
    let tcp = std::net::TcpListener::bind(address)?;
    tcp.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}

/// There is no IPv6.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}

async fn serve_udp(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; MAX_QUERY_BYTES];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Also that an earlier answer met nobody.
                tracing::debug!(%error, "receive a query");
                sleep(PAUSE).await;
                continue;
            }
        };
        let query = &buffer[..length];
        match shared.known(query, true) {
            Known::Answer(answer) => {
                // A client that is gone misses nothing.
                let _ = socket.send_to(&answer, client).await;
            }
            Known::Nobody => {}
            Known::Unknown => {
                let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
                let query = query.to_vec();
                let tasks = shared.tasks.clone();
                tasks.spawn(async move {
                    let Ok(_room) = shared.waiting.try_acquire() else { return };
                    let answer = shared.upstream.ask(&query, true).await;
                    let _ = socket.send_to(&answer, client).await;
                });
            }
        }
    }
}

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        // Acquired first: who is not let in waits in the queue of the socket.
        let Ok(room) = Arc::clone(&shared.connections).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let served = shared.serve(stream).await;
                    tracing::trace!(?served, "a connection for DNS ended");
                    drop(room);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept a connection for DNS");
                sleep(PAUSE).await;
            }
        }
    }
}

/// What is to be done with a message without asking anybody.
enum Known {
    Answer(Vec<u8>),
    Unknown,
    Nobody,
}

impl Shared {
    fn known(&self, message: &[u8], is_udp: bool) -> Known {
        let query = match message::read(message) {
            Received::Addresses(query) => query,
            Received::Other => return Known::Unknown,
            Received::Garbage => return Known::Nobody,
        };
        let snapshot = self.engine.snapshot();
        let Some(addresses) = snapshot.dns.find(&query.name) else { return Known::Unknown };
        if addresses.len() < 2 {
            return Known::Answer(query.answer(addresses, is_udp));
        }
        // Clients take the first.
        let mut shuffled = addresses.to_vec();
        fastrand::shuffle(&mut shuffled);
        Known::Answer(query.answer(&shuffled, is_udp))
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let query = timeout(IDLE_LIMIT, read_framed(&mut stream)).await??;
            let answer = match self.known(&query, false) {
                Known::Answer(answer) => answer,
                Known::Unknown => self.upstream.ask(&query, false).await,
                Known::Nobody => return Ok(()),
            };
            timeout(IDLE_LIMIT, write_framed(&mut stream, &answer)).await??;
        }
    }
}
