//! Servers with `AUTO_PASSTHROUGH`: mutual TLS of the mesh passes as it is to the endpoints of the service
//! its server name says (`outbound_.PORT_.SUBSET_.HOST`), as clients of other networks send it.
//!
//! Each name that leads somewhere is a chain of its own, so that nothing else does: the service has to be
//! exported to the gateway and be one of the server's hosts, the port and subset have to exist, and the
//! endpoint has to be one that ends the TLS itself (hardening C5).

use std::{collections::BTreeMap, sync::Arc};

use super::server::ServerHosts;
use crate::{
    compile::{
        View,
        cluster::{Service, compile_endpoints},
        finding::Findings,
        name::{cluster_name, mesh_server_name},
        route::mesh,
        sidecar::Made,
    },
    model::{
        Cluster, ClusterEndpoints, ClusterName, FilterChain, FilterChainName, ListenerName,
        cluster::UpstreamProtocol, listener::NetworkFilter, matcher::HostPattern,
    },
};

/// A server, as the services see it.
#[derive(Debug, PartialEq)]
pub(in crate::compile) struct AutoServer {
    pub(super) listener: ListenerName,
    pub(super) hosts: ServerHosts,
    /// Namespace and name of the Gateway.
    pub(super) gateway: Arc<str>,
}

/// What leads to `service` by way of `servers`.
pub(in crate::compile) fn compile<'a>(
    view: &View,
    service: &Service,
    clusters: &BTreeMap<ClusterName, Arc<Cluster>>,
    servers: impl Iterator<Item = &'a AutoServer>,
) -> Made {
    let mut made = Made::default();
    let host = HostPattern::parse(&service.host);
    let open: Vec<&AutoServer> = servers
        .filter(|server| !server.hosts.intersect(&host, &service.namespace).is_empty())
        .collect();
    // A wildcard is no host that clients could have found endpoints of.
    if open.is_empty() || !matches!(host, HostPattern::Exact(_)) {
        return made;
    }
    // What there is to say about them is said of their own clusters.
    let mut endpoints: BTreeMap<ClusterName, ClusterEndpoints> =
        compile_endpoints(view, service, &mut Findings::default())
            .into_iter()
            .map(|members| (members.cluster.clone(), members))
            .collect();
    for port in &service.ports {
        let subsets = service.subsets.iter().map(|subset| &*subset.name);
        for subset in std::iter::once("").chain(subsets) {
            let own = cluster_name(&service.host, port.number, subset);
            let Some(cluster) = clusters.get(&own) else { continue };
            let name = mesh_server_name(&service.host, port.number, subset);
            let passed = ClusterName::new(name.to_string());
            let ends_tls = endpoints.remove(&own).into_iter().flat_map(|members| {
                let ends_tls = members.endpoints.iter().filter(|endpoint| endpoint.mesh_tls);
                ends_tls.cloned().collect::<Vec<_>>()
            });
            made.endpoints
                .push(ClusterEndpoints { cluster: passed.clone(), endpoints: ends_tls.collect() });
            made.clusters.push(Cluster {
                name: passed.clone(),
                protocol: UpstreamProtocol::Tcp,
                tls: None,
                auto_mtls: false,
                ..Cluster::clone(cluster)
            });
            made.chains.extend(open.iter().map(|server| chain(server, &name, &passed)));
        }
    }
    made
}

fn chain(server: &AutoServer, name: &Arc<str>, cluster: &ClusterName) -> FilterChain {
    let AutoServer { listener, gateway, .. } = server;
    FilterChain {
        name: FilterChainName::new(format!("{listener}|{name}")),
        listener: listener.clone(),
        server_names: [HostPattern::Exact(Arc::clone(name))].into(),
        redirected: None,
        mesh_only: true,
        tls: None,
        network: NetworkFilter::TcpProxy {
            clusters: mesh::only(cluster.clone()),
            idle_timeout: None,
        },
        gateway: Arc::clone(gateway),
    }
}
