//! The L4 line: authorize -> cluster -> admit -> pick -> dial -> copy -> record. Also for TLS that is passed
//! through, the ClientHello of which goes first.

use std::{
    borrow::Cow,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;
use tokio::time::sleep;
use weir_config::{
    model::{cluster::HashKey, route::WeightedCluster},
    xxh64::xxh64,
};

use crate::{
    cluster::{Cluster, Clusters, EndpointId, InFlight, Outcome},
    connection::ConnectionInfo,
    drain::DrainSignal,
    engine::Engine,
    io::Io,
    telemetry::{
        Protocol, ResponseFlag, StreamInfo,
        peer_metadata::{OwnMetadata, PEER_EXCHANGE},
    },
    upstream::{self, Caller, ConnectError, Slot},
};

mod copy;
pub mod peer_exchange;
mod proxied;

use self::{
    copy::{BothWays, Buffer},
    proxied::Proxied,
};

/// Connect attempts, each at another endpoint while there is one.
const MAX_ATTEMPTS: u32 = 3;

const DRAIN_TIMEOUT: &str = "drain_timeout";

/// What a filter chain does with the bytes of a connection.
#[derive(Debug)]
pub struct TcpProxy {
    pub clusters: Arc<[WeightedCluster]>,
    /// `None`: what the cluster says.
    pub idle_timeout: Option<Duration>,
    /// Read from the client already.
    pub hello: Vec<u8>,
}

/// The upstream's side of a connection and what it counts against.
#[derive(Debug)]
struct Upstream {
    io: Io,
    cluster: Arc<Cluster>,
    admitted: Slot,
    in_flight: InFlight,
}

/// What serves a connection to its end. What it took to get there is gone.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Finds a connection its upstream; what is returned proxies it to its end and records it. `None`: there
/// is no upstream, which is recorded.
pub async fn begin(
    engine: &Arc<Engine>,
    downstream: Io,
    connection: Arc<ConnectionInfo>,
    proxy: TcpProxy,
    drain: DrainSignal,
) -> Option<Serving> {
    let is_redirected = connection.original_dst().is_some();
    match Opened::open(engine, connection, &proxy, &drain).await {
        Some(opened) => Some(opened.serve(engine, downstream, proxy, drain)),
        None => {
            if is_redirected {
                // The client should see what it would see without us: nobody is there.
                reset(&downstream);
            }
            None
        }
    }
}

/// An upstream that is connected. That may be before the client said anything: it may be the one to
/// begin.
#[derive(Debug)]
pub struct Opened {
    upstream: Upstream,
    info: StreamInfo,
    /// What it said.
    greeting: Option<Buffer>,
}

impl Opened {
    /// `None`: there is no upstream, which is recorded.
    pub async fn open(
        engine: &Engine,
        connection: Arc<ConnectionInfo>,
        proxy: &TcpProxy,
        drain: &DrainSignal,
    ) -> Option<Self> {
        let mut info = StreamInfo::start(connection, Protocol::Tcp);
        match Box::pin(open(engine, proxy, drain, &mut info)).await {
            Ok(upstream) => Some(Self { upstream, info, greeting: None }),
            Err(unopened) => {
                engine.telemetry.record_tcp_opened(&info);
                unopened.tell(&mut info);
                engine.telemetry.record_tcp(&info);
                None
            }
        }
    }

    /// Returns once the upstream says something, or that it will not. May be dropped at any time.
    pub async fn spoken(&mut self) {
        let said = poll_fn(|cx| Buffer::poll_read(cx, &mut self.upstream.io)).await;
        // A failure is met again by whoever reads on.
        self.greeting = said.unwrap_or_default();
    }

    /// What proxies the connection to its end and records it.
    pub fn serve(
        self,
        engine: &Arc<Engine>,
        downstream: Io,
        proxy: TcpProxy,
        drain: DrainSignal,
    ) -> Serving {
        let Self { upstream, info, greeting } = self;
        engine.telemetry.record_tcp_opened(&info);
        let Upstream { io, cluster, admitted, in_flight } = upstream;
        let idle_timeout = proxy.idle_timeout.or(cluster.config().tcp_idle_timeout);
        let proxied = Proxied {
            engine: Arc::clone(engine),
            downstream,
            upstream: io,
            copying: BothWays::new(proxy.hello, greeting, idle_timeout),
            age: cluster.config().max_connection_duration.map(|max| Box::pin(sleep(max))),
            begun: info.begun(),
            _admitted: admitted,
            _in_flight: in_flight,
        };
        Box::pin(proxied.serve(drain))
    }
}

/// Why a connection ends before it has an upstream.
enum Unopened {
    /// A policy says so; the details name it.
    Denied(String),
    Failed(ResponseFlag),
    /// The time to drain was up first.
    Cut,
}

impl Unopened {
    fn tell(self, info: &mut StreamInfo) {
        match self {
            Self::Denied(details) => info.termination_details = Cow::Owned(details),
            Self::Failed(flag) => info.flags.set(flag),
            Self::Cut => info.termination_details = Cow::Borrowed(DRAIN_TIMEOUT),
        }
    }
}

/// Authorizes the connection and finds it an upstream.
async fn open(
    engine: &Engine,
    proxy: &TcpProxy,
    drain: &DrainSignal,
    info: &mut StreamInfo,
) -> Result<Upstream, Unopened> {
    let snapshot = engine.snapshot();
    let filters = snapshot.filters_for(info.connection.direction);
    if let Err(details) = filters.on_connection(&info.connection) {
        name_cluster(&snapshot.clusters, &proxy.clusters, info);
        return Err(Unopened::Denied(details));
    }
    // The clusters only: a snapshot must not live as long as connecting may take.
    let clusters = snapshot.clusters.clone();
    drop(snapshot);
    let own = &engine.telemetry.own;
    let connecting = pin!(connect(&clusters, &proxy.clusters, own, info));
    match drain.clone().until_cut(connecting).await {
        Some(connected) => connected.map_err(Unopened::Failed),
        None => Err(Unopened::Cut),
    }
}

/// What is refused before a cluster was chosen is told under the one that was asked for.
fn name_cluster(clusters: &Clusters, choice: &[WeightedCluster], info: &mut StreamInfo) {
    let [only] = choice else { return };
    info.upstream.cluster_name = Some(only.cluster.shared());
    let cluster = clusters.find(&only.cluster);
    info.upstream.stats = cluster.map(|cluster| Arc::clone(cluster.stats()));
}

/// Everything before the first byte.
async fn connect(
    clusters: &Clusters,
    choice: &[WeightedCluster],
    own: &OwnMetadata,
    info: &mut StreamInfo,
) -> Result<Upstream, ResponseFlag> {
    let name = &choose(choice, fastrand::u64(..)).ok_or(ResponseFlag::NoRoute)?.cluster;
    info.upstream.cluster_name = Some(name.shared());
    let cluster = clusters.find(name).ok_or(ResponseFlag::NoCluster)?;
    info.upstream.stats = Some(Arc::clone(cluster.stats()));
    let admitted = cluster.admit_connection().ok_or(ResponseFlag::UpstreamOverflow)?;
    let (io, in_flight) = dial(cluster, own, info).await?;
    Ok(Upstream { io, cluster: Arc::clone(cluster), admitted, in_flight })
}

/// The cluster `random` falls on. Without weights the first.
fn choose(choice: &[WeightedCluster], random: u64) -> Option<&WeightedCluster> {
    let total: u64 = choice.iter().map(|cluster| u64::from(cluster.weight)).sum();
    let mut at = random.checked_rem(total).unwrap_or_default();
    choice
        .iter()
        .find(|cluster| {
            let weight = u64::from(cluster.weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
        .or_else(|| choice.first())
}

/// A connection to one of the cluster's endpoints. One that does not answer costs the client only
/// time while there is another.
async fn dial(
    cluster: &Cluster,
    own: &OwnMetadata,
    info: &mut StreamInfo,
) -> Result<(Io, InFlight), ResponseFlag> {
    let mut tried: SmallVec<[EndpointId; MAX_ATTEMPTS as usize]> = SmallVec::new();
    // The only key a connection without requests has.
    let by_address = matches!(cluster.config().hash_key, Some(HashKey::SourceIp));
    let hash = by_address.then(|| xxh64(info.client_addr.ip().to_string().as_bytes(), 0));
    loop {
        let server_name = info.connection.server_name();
        let original_dst = info.connection.original_dst();
        let endpoint = match cluster.select(hash, &tried, original_dst, server_name).await {
            Ok(endpoint) => endpoint,
            Err(reply) => {
                info.details = reply.details;
                return Err(reply.flag.unwrap_or(ResponseFlag::NoHealthyUpstream));
            }
        };
        if tried.contains(&endpoint.id()) {
            // Nobody else is left to ask.
            return Err(ResponseFlag::UpstreamConnectionFailure);
        }
        tried.push(endpoint.id());
        info.upstream.attempts += 1;
        info.upstream.workload = Some(Arc::clone(endpoint.workload()));
        info.upstream.remote_addr = endpoint.address().socket_addr();

        let in_flight = endpoint.begin();
        let caller = Caller { host: server_name, source: info.connection.transparent_source };
        let dialled = upstream::dial(endpoint.target(), caller).await;
        match introduced(dialled, own).await {
            Ok(io) => {
                cluster.report(&endpoint, Outcome::Response(200));
                let local = io.socket().and_then(|socket| socket.local_addr().ok());
                info.upstream.local_addr = local.and_then(|local| local.as_socket());
                info.upstream.tls = endpoint.target().transport.is_secure();
                info.upstream.failure = None;
                return Ok((io, in_flight));
            }
            Err(error) => {
                cluster.report(&endpoint, Outcome::ConnectFailure);
                info.upstream.failure = Some(error.reason());
                if info.upstream.attempts == MAX_ATTEMPTS {
                    return Err(error.flag());
                }
            }
        }
    }
}

/// Says who we are, to a server that wants to know.
async fn introduced(
    dialled: Result<Io, ConnectError>,
    own: &OwnMetadata,
) -> Result<Io, ConnectError> {
    match dialled {
        Ok(io) if io.alpn_protocol() == Some(PEER_EXCHANGE) => {
            let asked = peer_exchange::ask(io, own).await;
            asked.map_err(|error| ConnectError::from_connect(&error))
        }
        other => other,
    }
}

/// The other side broke off: what this side got is not the whole, and must not look like it.
fn reset(io: &Io) {
    // A socket that is gone already needs no reset, and a tunnel is reset by being dropped.
    let _ = io.socket().map(|socket| socket.set_linger(Some(Duration::ZERO)));
}

#[cfg(test)]
mod tests {
    use weir_config::model::{ClusterName, route::HeaderMutation};

    use super::*;

    fn cluster(name: &str, weight: u32) -> WeightedCluster {
        WeightedCluster {
            cluster: ClusterName::new(name),
            weight,
            request_headers: HeaderMutation::default(),
            response_headers: HeaderMutation::default(),
            host_rewrite: None,
        }
    }

    #[test]
    fn each_weight_is_its_share_of_the_numbers() {
        let choice = [cluster("a", 1), cluster("none", 0), cluster("b", 3)];
        let chosen = (0..8).map(|random| choose(&choice, random).unwrap().cluster.as_str());
        assert_eq!(chosen.collect::<Vec<_>>(), ["a", "b", "b", "b", "a", "b", "b", "b"]);
    }

    #[test]
    fn without_weights_the_first_is_chosen_and_without_clusters_none() {
        let choice = [cluster("a", 0), cluster("b", 0)];
        assert_eq!(choose(&choice, 7).unwrap().cluster.as_str(), "a");
        assert!(choose(&[], 7).is_none());
    }
}
