//! One connection, from accept to its end.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use weir_config::model::{
    ListenerName,
    listener::{ListenerKind, NetworkFilter},
};

use super::{
    ListenerState,
    filter_chain::{Chain, ChainTls},
    overload::{OpenConnection, Overload},
    proxy_protocol, redirected,
    tls::{self, HandshakeError, Hello},
    tunnelled,
};
use crate::{
    connection::{ConnectionInfo, Direction, TlsInfo},
    engine::Engine,
    http,
    io::Io,
    tcp::{self, Serving, TcpProxy},
    telemetry::{Protocol, ResponseFlag, StreamInfo, metrics::ListenerMetrics},
    worker::Workers,
};

/// What the connections of one bound address share. The state is replaced when the configuration
/// changes; a connection reads it once.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) state: ArcSwap<ListenerState>,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: ListenerMetrics,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Arc<Engine>,
    pub(super) overload: Arc<Overload>,
    pub(super) workers: Workers,
    pub(super) connections: TaskTracker,
}

impl Binding {
    pub(super) fn name(&self) -> ListenerName {
        self.state.load().config.name.clone()
    }

    pub(super) fn refused(&self, connections: usize, reason: &'static str) {
        for _ in 0..connections {
            self.metrics.refused(reason);
        }
    }

    /// Serves a connection in a task of its own of that worker, or closes it.
    pub(super) fn take_in(this: &Arc<Self>, worker: usize, accepted: Accepted) {
        let Shared { overload, workers, connections, .. } = &*this.shared;
        let Some(open) = overload.admit(worker) else {
            this.refused(1, "connection limit");
            return;
        };
        connections.spawn_on(serve(this, accepted, open), workers.runtime(worker));
    }
}

/// A connection of which nothing was read yet.
pub(super) struct Accepted {
    pub(super) io: Io,
    pub(super) peer_addr: SocketAddr,
    pub(super) local_addr: SocketAddr,
}

/// A connection whose filter chain serves it from now on.
pub(super) struct Established {
    pub(super) io: Io,
    pub(super) info: Arc<ConnectionInfo>,
    pub(super) chain: Arc<Chain>,
    /// Read already, and for the upstream.
    pub(super) hello: Vec<u8>,
    /// An upstream that was connected before the client said anything.
    pub(super) early: Option<Box<tcp::Opened>>,
}

/// A connection to its end.
fn serve(
    binding: &Arc<Binding>,
    accepted: Accepted,
    open: OpenConnection,
) -> impl Future<Output = ()> + Send + use<> {
    let counted = binding.metrics.connection();
    to_its_end(begin(Arc::clone(binding), accepted), (counted, open))
}

/// What `beginning` comes to, to its end; `held` is let go then. What begins a connection is large, and
/// gone before its long life does: hence a box, and no `async fn`, which would have room for what it
/// begins with as well.
pub(super) fn to_its_end(
    beginning: impl Future<Output = Option<Serving>> + Send,
    held: impl Send,
) -> impl Future<Output = ()> + Send {
    let beginning = Box::pin(beginning);
    async move {
        if let Some(serving) = beginning.await {
            serving.await;
        }
        drop(held);
    }
}

/// The line of a connection: filter chain and TLS, then what the chain has for it. `None`: it is closed.
async fn begin(binding: Arc<Binding>, accepted: Accepted) -> Option<Serving> {
    let accepted = match binding.shared.engine.snapshot().settings.proxy_protocol {
        false => accepted,
        // Boxed, because few configurations have it.
        true => Box::pin(announced(&binding, accepted)).await?,
    };
    let kind = binding.state.load().config.kind;
    let established = match kind {
        ListenerKind::Inbound | ListenerKind::Outbound => {
            Box::pin(redirected::establish(&binding, accepted)).await?
        }
        ListenerKind::Http | ListenerKind::Tcp => plain(&binding, accepted)?,
        // Boxed, because the others have no use for the room.
        ListenerKind::Tls => Box::pin(secure_in_time(&binding, accepted)).await?,
        ListenerKind::Tunnel => {
            let established = Box::pin(secure_in_time(&binding, accepted)).await?;
            return Some(Box::pin(tunnelled::serve(binding, established)));
        }
    };
    established.begin(&binding.shared.engine).await
}

/// Who the load balancer in front says the client is. A connection that does not say is closed.
async fn announced(binding: &Binding, mut accepted: Accepted) -> Option<Accepted> {
    let deadline = binding.shared.engine.limits.handshake_timeout;
    match timeout(deadline, proxy_protocol::read(&mut accepted.io)).await {
        Ok(Ok(None)) => Some(accepted),
        Ok(Ok(Some(proxied))) => {
            accepted.peer_addr = proxied.source;
            accepted.local_addr = proxied.destination;
            Some(accepted)
        }
        Ok(Err(error)) => {
            tracing::debug!(listener = %binding.name(), %error, "no PROXY header");
            binding.refused(1, "proxy protocol");
            None
        }
        Err(_elapsed) => {
            binding.refused(1, "proxy protocol timeout");
            None
        }
    }
}

/// The chain of a listener that does not look at what the client sends.
fn plain(binding: &Binding, accepted: Accepted) -> Option<Established> {
    let state = binding.state.load();
    let Accepted { io, peer_addr, local_addr } = accepted;
    let info = state.info(peer_addr, local_addr, None, None);
    let Some(chain) = state.chains.only() else {
        record_no_chain(&binding.shared.engine, info);
        return None;
    };
    Some(Established { io, info, chain: Arc::clone(chain), hello: Vec::new(), early: None })
}

async fn secure_in_time(binding: &Binding, accepted: Accepted) -> Option<Established> {
    let deadline = binding.shared.engine.limits.handshake_timeout;
    let outcome = timeout(deadline, secure(binding, accepted)).await;
    outcome.unwrap_or(Err(HandshakeError::Timeout)).unwrap_or_else(|error| {
        let cause: &(dyn std::error::Error + 'static) = &error;
        tracing::debug!(listener = %binding.name(), cause, "handshake failed");
        binding.metrics.handshake_error(error.reason());
        None
    })
}

/// ClientHello, the chain it chooses, and the rest of the handshake where that is ours to do.
async fn secure(
    binding: &Binding,
    accepted: Accepted,
) -> Result<Option<Established>, HandshakeError> {
    let Accepted { mut io, peer_addr, local_addr } = accepted;
    let hello = Hello::read(&mut io).await?;
    // Only now, so that a client that took its time gets the configuration of now.
    let state = binding.state.load_full();
    let server_name = hello.server_name.clone();
    let info = |tls| state.info(peer_addr, local_addr, server_name, tls);

    // Clear text of the application in TLS of its own would get past who asks for the mesh's.
    let offers_mesh = || hello.mesh_offer() != tls::MeshOffer::None;
    let selected = state.chains.select(hello.server_name.as_deref());
    let Some(chain) = selected.filter(|chain| !chain.config.mesh_only || offers_mesh()) else {
        record_no_chain(&binding.shared.engine, info(None));
        return Ok(None);
    };
    let chain = Arc::clone(chain);
    Ok(Some(match &chain.tls {
        ChainTls::None => {
            Established { io, info: info(None), chain, hello: hello.bytes, early: None }
        }
        ChainTls::Unavailable(why) => return Err(HandshakeError::Unavailable(Arc::clone(why))),
        ChainTls::Terminate(config) => {
            let (io, tls) =
                tls::terminate(io, hello, &chain, config, &binding.shared.overload).await?;
            Established { io, info: info(Some(tls)), chain, hello: Vec::new(), early: None }
        }
    }))
}

impl Established {
    /// What serves it to its end; `None`: it is over.
    pub(super) async fn begin(self, engine: &Arc<Engine>) -> Option<Serving> {
        let Self { io, info, chain, hello, early } = self;
        let drain = chain.drain_signal();
        let network = chain.config.network.clone();
        // A long connection must not keep the certificates of its beginning in memory.
        drop(chain);
        match network {
            NetworkFilter::Http { route_table } => {
                let engine = Arc::clone(engine);
                let io = io.after(hello);
                Some(Box::pin(http::serve_connection(engine, io, info, route_table, drain)))
            }
            NetworkFilter::TcpProxy { clusters, idle_timeout } => {
                let proxy = TcpProxy { clusters, idle_timeout, hello };
                match early {
                    Some(early) => Some(early.serve(engine, io, proxy, drain)),
                    None => tcp::begin(engine, io, info, proxy, drain).await,
                }
            }
            // Its connections are not served as a whole.
            NetworkFilter::Connect { .. } => None,
        }
    }
}

pub(super) fn record_no_chain(engine: &Engine, info: Arc<ConnectionInfo>) {
    let mut stream = StreamInfo::start(info, Protocol::Tcp);
    engine.telemetry.record_tcp_opened(&stream);
    stream.flags.set(ResponseFlag::NoRoute);
    stream.details = "filter_chain_not_found".into();
    engine.telemetry.record_tcp(&stream);
}

impl ListenerState {
    pub(super) fn info(
        &self,
        peer_addr: SocketAddr,
        local_addr: SocketAddr,
        server_name: Option<Arc<str>>,
        tls: Option<TlsInfo>,
    ) -> Arc<ConnectionInfo> {
        let direction = match self.config.kind {
            ListenerKind::Inbound | ListenerKind::Tunnel => Direction::Inbound,
            ListenerKind::Outbound => Direction::Outbound,
            ListenerKind::Http | ListenerKind::Tls | ListenerKind::Tcp => Direction::Gateway,
        };
        Arc::new(ConnectionInfo {
            peer_addr,
            local_addr,
            direction,
            listener: self.config.name.clone(),
            port: match direction {
                Direction::Gateway => self.config.port,
                Direction::Inbound | Direction::Outbound => local_addr.port(),
            },
            server_name,
            tls: tls.map(Box::new),
            transparent_source: None,
            peer: crate::connection::Peer::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use tokio::{net::UnixStream, runtime::Handle};
    use weir_config::model::{Listener, listener::BindAddress};

    use super::*;
    use crate::{
        limits::Limits, listener::filter_chain::FilterChains, telemetry::Telemetry,
        telemetry::labels::Reporter,
    };

    /// Ten thousand idle connections are ten thousand of these.
    #[tokio::test]
    async fn the_task_of_a_connection_is_small() {
        let telemetry = Telemetry::new(&Reporter::new("test", &BTreeMap::new()), 1);
        let limits = Limits::default();
        let overload = Overload::new(&limits, 1, &telemetry.metrics);
        let config = Arc::new(Listener {
            name: ListenerName::new("tls"),
            address: BindAddress::Ip((Ipv4Addr::LOCALHOST, 0).into()),
            port: 443,
            kind: ListenerKind::Tls,
            is_transparent: false,
        });
        let chains = FilterChains::default();
        let binding = Arc::new(Binding {
            state: ArcSwap::from_pointee(ListenerState { config, chains }),
            metrics: telemetry.metrics.listener(&ListenerName::new("tls")),
            shared: Arc::new(Shared {
                engine: Arc::new(Engine::new(limits, Arc::new(telemetry))),
                overload: Arc::clone(&overload),
                workers: Workers::new([Handle::current()]),
                connections: TaskTracker::new(),
            }),
        });
        let (io, _other_end) = UnixStream::pair().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let accepted = Accepted { io: Io::Unix(io), peer_addr: address, local_addr: address };
        let task = serve(&binding, accepted, overload.admit(0).unwrap());
        let size = size_of_val(&task);
        assert!(size <= 64, "{size} bytes");
    }
}
