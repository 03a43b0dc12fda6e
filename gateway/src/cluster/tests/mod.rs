//! Clusters across configurations, and clusters of names against a name server of our own.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use weir_config::model::{
    ClusterEndpoints, ClusterName, Delta,
    cluster::{
        CircuitBreakers, Destination, Discovery, DynamicNames, Endpoint as Member, EndpointAddress,
        LbPolicy, OutlierDetection, SourceAddress, UpstreamProtocol,
    },
    matcher::HostPattern,
};

use super::*;
use crate::{
    limits::Limits,
    telemetry::{Protocol, Telemetry, labels::Reporter},
    tls::Secrets,
};

mod dns;
mod state;

/// A proxy as far as its clusters go.
struct Proxy {
    telemetry: Arc<Telemetry>,
    resolver: Resolver,
    secrets: Secrets,
    clusters: Clusters,
}

impl Proxy {
    fn new() -> Self {
        Self::with_resolver((Ipv4Addr::LOCALHOST, 53).into())
    }

    fn with_resolver(name_server: SocketAddr) -> Self {
        Self {
            telemetry: Arc::new(Telemetry::new(&Reporter::new("test", &BTreeMap::new()), 1)),
            resolver: Resolver::with_name_server(name_server).expect("a resolver"),
            secrets: Secrets::default(),
            clusters: Clusters::default(),
        }
    }

    fn apply(&mut self, delta: &Delta) {
        self.secrets = Secrets::next(&self.secrets, delta);
        let environment = Arc::new(Environment {
            secrets: self.secrets.clone(),
            resolver: self.resolver.clone(),
            limits: Limits::default(),
            telemetry: Arc::clone(&self.telemetry),
        });
        self.clusters = Clusters::next(&self.clusters, delta, &environment);
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(self.clusters.find(&name()).expect("the cluster is configured"))
    }
}

pub(crate) fn name() -> ClusterName {
    ClusterName::new("outbound|80||a.example")
}

pub(crate) fn config() -> model::Cluster {
    model::Cluster {
        name: name(),
        discovery: Discovery::Static,
        protocol: UpstreamProtocol::Http1,
        lb_policy: LbPolicy::LeastRequest,
        hash_key: None,
        warmup: None,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: None,
        tcp_idle_timeout: None,
        max_connection_duration: None,
        tcp_keepalive: None,
        max_requests_per_connection: 0,
        max_concurrent_streams: 100,
        circuit_breakers: CircuitBreakers::default(),
        auto_mtls: false,
        tunnel: None,
        source_address: SourceAddress::Any,
        outlier_detection: None,
        tls: None,
        destination: Destination::default(),
    }
}

pub(crate) fn member(address: EndpointAddress) -> Member {
    Member {
        address,
        weight: 1,
        locality: Arc::default(),
        mesh_tls: false,
        hbone: false,
        workload: Arc::default(),
    }
}

fn address(number: u8) -> EndpointAddress {
    EndpointAddress::Ip((Ipv4Addr::new(10, 0, 0, number), 80).into())
}

pub(crate) fn cluster_change(config: model::Cluster) -> Delta {
    let change = Some(Arc::new(config));
    Delta { clusters: BTreeMap::from([(name(), change)]), ..Delta::default() }
}

pub(crate) fn members_change(members: Vec<Member>) -> Delta {
    let change = ClusterEndpoints { cluster: name(), endpoints: members.into() };
    Delta { endpoints: BTreeMap::from([(name(), Some(Arc::new(change)))]), ..Delta::default() }
}

fn endpoints_change(numbers: &[u8]) -> Delta {
    members_change(numbers.iter().map(|number| member(address(*number))).collect())
}

/// The addresses of all members, sorted.
fn addresses(cluster: &Cluster) -> Vec<String> {
    let address = |endpoint: &Arc<Endpoint>| match endpoint.address().socket_addr() {
        Some(address) => address.to_string(),
        None => "-".to_owned(),
    };
    let mut addresses: Vec<_> =
        cluster.members().iter().map(|(endpoint, _)| address(endpoint)).collect();
    addresses.sort();
    addresses
}
