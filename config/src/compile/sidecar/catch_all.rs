//! What happens to outbound connections that are not to a service: on the ports services have, and on
//! all others.

use std::{net::SocketAddr, sync::Arc};

use http::StatusCode;

use super::{Made, auto_address, scope::Unknown};
use crate::{
    compile::{View, cluster::default_pool, route::mesh},
    model::{
        Cluster, ClusterEndpoints, ClusterName, FilterChain, FilterChainName, Listener,
        ListenerName, RouteTableName, VirtualHost, VirtualHostName,
        cluster::{Destination, Discovery, LbPolicy, SourceAddress, UpstreamProtocol, UpstreamTls},
        listener::{Beginning, BindAddress, ListenerKind, NetworkFilter, RedirectMatch},
        matcher::HostPattern,
    },
};

/// What the weighted clusters of a chain are called in Istio's metrics and logs.
const PASSTHROUGH: &str = "PassthroughCluster";
const BLACK_HOLE: &str = "BlackHoleCluster";
/// Where connections of a workload are redirected to, and the listener's name.
const OUTBOUND_PORT: u16 = 15001;
const OUTBOUND: &str = "virtualOutbound";

/// What the chains of a host do with connections to a port whatever their address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::compile) struct Uses {
    /// Its requests are told from others by their host.
    pub(in crate::compile) http: bool,
    /// All that is not told apart is its.
    pub(in crate::compile) rest: bool,
}

/// The table of requests to `port`.
pub(super) fn table(port: u16) -> RouteTableName {
    RouteTableName::new(port.to_string())
}

pub(super) fn chain(
    name: String,
    redirected: RedirectMatch,
    network: NetworkFilter,
) -> FilterChain {
    FilterChain {
        name: FilterChainName::new(name),
        listener: ListenerName::new(OUTBOUND),
        server_names: Arc::default(),
        redirected: Some(redirected),
        mesh_only: false,
        tls: None,
        network,
        gateway: Arc::default(),
    }
}

pub(super) fn tcp(cluster: ClusterName) -> NetworkFilter {
    NetworkFilter::TcpProxy { clusters: mesh::only(cluster), idle_timeout: None }
}

fn unknown_cluster(view: &View) -> ClusterName {
    match &view.scope.unknown {
        Unknown::Passed => ClusterName::new(PASSTHROUGH),
        Unknown::Proxied(cluster) => cluster.clone(),
        Unknown::Refused => ClusterName::new(BLACK_HOLE),
    }
}

/// The listener, what it does with connections nothing else is for, and the clusters of those.
pub(in crate::compile) fn catch_all(view: &View) -> Made {
    let port = view.mesh.proxy_listen_port.filter(|&port| port != 0).unwrap_or(OUTBOUND_PORT);
    let mut made = Made::default();
    made.listeners.push(listener(OUTBOUND, port, ListenerKind::Outbound));
    let any = RedirectMatch { address: None, port: None, begins: Beginning::Any };
    made.chains.push(chain(OUTBOUND.to_owned(), any, tcp(unknown_cluster(view))));
    for net in auto_address::NETWORKS {
        let redirected = RedirectMatch { address: net.parse().ok(), ..any };
        let nowhere = NetworkFilter::TcpProxy { clusters: Arc::default(), idle_timeout: None };
        made.chains.push(chain(format!("{OUTBOUND}|{net}"), redirected, nowhere));
    }
    let discovery = Discovery::OriginalDst { members_only: false };
    made.clusters.push(named(view, PASSTHROUGH, discovery));
    made.clusters.push(named(view, BLACK_HOLE, Discovery::Static));
    let cluster = ClusterName::new(BLACK_HOLE);
    made.endpoints.push(ClusterEndpoints { cluster, endpoints: Arc::default() });
    made
}

/// What is left of a port that services share: requests for hosts nobody knows, and what is no
/// request.
pub(in crate::compile) fn port<'a>(
    view: &View,
    port: u16,
    uses: impl Iterator<Item = &'a Uses>,
) -> Made {
    let mut all = Uses::default();
    for uses in uses {
        all.http |= uses.http;
        all.rest |= uses.rest;
    }
    let mut made = Made::default();
    let on_port = |begins| RedirectMatch { address: None, port: Some(port), begins };
    if all.http {
        let network = NetworkFilter::Http { route_table: table(port) };
        made.chains.push(chain(format!("0.0.0.0_{port}"), on_port(Beginning::Http), network));
        let routes = match &view.scope.unknown {
            Unknown::Passed | Unknown::Proxied(_) => mesh::once("allow_any", unknown_cluster(view)),
            Unknown::Refused => {
                let cluster = unknown_cluster(view);
                mesh::answer("block_all", StatusCode::BAD_GATEWAY, cluster)
            }
        };
        made.virtual_hosts.push(VirtualHost {
            name: VirtualHostName::new(format!("{port}|*")),
            route_table: table(port),
            domain: HostPattern::Any,
            aliases: Arc::default(),
            require_tls: false,
            routes,
        });
    }
    if !all.rest {
        let network = tcp(unknown_cluster(view));
        made.chains.push(chain(format!("0.0.0.0_{port}|*"), on_port(Beginning::Any), network));
    }
    made
}

/// A listener that everything is redirected to, of both families.
pub(super) fn listener(name: &str, port: u16, kind: ListenerKind) -> Listener {
    let everywhere = std::net::Ipv6Addr::UNSPECIFIED;
    Listener {
        name: ListenerName::new(name),
        address: BindAddress::Ip(SocketAddr::new(everywhere.into(), port)),
        port,
        kind,
        is_transparent: false,
    }
}

/// A cluster for connections to what is not a service; metrics call the destination what it is called.
fn named(view: &View, name: &str, discovery: Discovery) -> Cluster {
    let destination = Destination { service_name: name.into(), ..Destination::default() };
    let protocol = UpstreamProtocol::MatchDownstream;
    plain(view, ClusterName::new(name), discovery, protocol, destination)
}

/// A cluster no rule is for, in clear text.
pub(super) fn plain(
    view: &View,
    name: ClusterName,
    discovery: Discovery,
    protocol: UpstreamProtocol,
    destination: Destination,
) -> Cluster {
    let pool = default_pool(view);
    let tls: Option<UpstreamTls> = None;
    Cluster {
        name,
        discovery,
        protocol,
        lb_policy: LbPolicy::LeastRequest,
        hash_key: None,
        warmup: None,
        connect_timeout: pool.connect_timeout,
        idle_timeout: pool.idle_timeout,
        tcp_idle_timeout: pool.tcp_idle_timeout,
        max_connection_duration: pool.max_connection_duration,
        tcp_keepalive: pool.tcp_keepalive,
        max_requests_per_connection: pool.max_requests_per_connection,
        max_concurrent_streams: pool.max_concurrent_streams,
        circuit_breakers: pool.circuit_breakers,
        outlier_detection: None,
        tls,
        auto_mtls: false,
        tunnel: None,
        source_address: SourceAddress::Any,
        destination,
    }
}
