//! Service, ServiceEntry and DestinationRule -> Cluster: one per host, port and subset.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;

mod endpoint;
mod load_balancer;
mod policy;
mod registry;
mod rule;
mod slice;
mod tls;

pub use self::{registry::service_export_to, rule::patterns};

use self::policy::Policy;
use self::registry::Subset;
pub(super) use self::{
    endpoint::{compile as compile_endpoints, workload_labels},
    policy::{default_pool, warn_unsupported},
    registry::{Port, Registry, Service, own as own_service},
    rule::warn_unknown_host,
};
use super::{View, finding::Findings, name::cluster_name, ownership, secret::Reference};
use crate::{
    api::{
        Object, Protocol, Spec,
        istio::{connection_pool::H2UpgradePolicy, service_entry::Resolution},
        kubernetes::service::ServiceType,
    },
    model::{
        Cluster, ClusterName,
        cluster::{Destination, Discovery, DynamicNames, SourceAddress, UpstreamProtocol},
        matcher::HostPattern,
    },
    validate::ALLOWED_RANGES_ANNOTATION,
};

/// How often names are looked up when their records do not say (`meshConfig.dnsRefreshRate`).
const DEFAULT_DNS_REFRESH: std::time::Duration = std::time::Duration::from_secs(60);

/// Everything a host comes to.
#[derive(Default)]
pub(super) struct CompiledService {
    /// `None`: nothing visible defines the host.
    pub(super) service: Option<Service>,
    pub(super) clusters: BTreeMap<ClusterName, Cluster>,
    pub(super) secrets: Vec<Reference>,
    pub(super) findings: Findings,
}

/// The service of `host` and its clusters.
pub(super) fn compile(view: &View, host: &Arc<str>) -> CompiledService {
    let mut compiled = CompiledService::default();
    let Some(mut service) = registry::define(view, host, &mut compiled.findings) else {
        return compiled;
    };
    let rule = rule::find(view, host, &service.namespace, &mut compiled.findings);
    if let Some(rule) = &rule {
        let subsets = rule.subsets.iter();
        service.subsets =
            subsets.map(|(object, index, subset)| Subset::new(object, *index, subset)).collect();
    }
    let builder = Builder { view, service: &service, rule: rule.as_ref() };
    let mut clusters = BTreeMap::new();
    for port in &service.ports {
        let subsets = service.subsets.iter().map(|subset| &*subset.name);
        for subset in std::iter::once("").chain(subsets) {
            let name = cluster_name(host, port.number, subset);
            // A cluster that cannot be made safely is left out, and its requests get a 503.
            if let Some(cluster) = builder.build(&name, port, subset, &mut compiled) {
                clusters.insert(name, cluster);
            }
        }
    }
    compiled.clusters = clusters;
    compiled.service = Some(service);
    compiled
}

struct Builder<'a> {
    view: &'a View,
    service: &'a Service,
    rule: Option<&'a rule::Merged<'a>>,
}

impl Builder<'_> {
    fn build(
        &self,
        name: &ClusterName,
        port: &Port,
        subset: &str,
        compiled: &mut CompiledService,
    ) -> Option<Cluster> {
        let policy = Policy::of(self.view, self.rule, port.number, subset);
        let pool = policy.connection_pool();
        let protocol = self.protocol(port, &policy);
        let Self { view, service, .. } = *self;
        let upstream = tls::Upstream { view, service, port, subset, protocol };
        let tls = policy.tls(upstream, compiled).ok()?;
        let auto_mtls = tls.is_some() && !policy.says_tls();
        let tunnel = tls.as_ref().and_then(|tls| tls::tunnel(self.view, tls));
        Some(Cluster {
            name: name.clone(),
            discovery: self.discovery(port, &policy),
            protocol,
            lb_policy: policy.lb_policy(),
            warmup: policy.warmup(),
            hash_key: policy.consistent_hash().and_then(load_balancer::hash_key),
            connect_timeout: pool.connect_timeout,
            idle_timeout: pool.idle_timeout,
            tcp_idle_timeout: pool.tcp_idle_timeout,
            max_connection_duration: pool.max_connection_duration,
            tcp_keepalive: pool.tcp_keepalive,
            max_requests_per_connection: pool.max_requests_per_connection,
            max_concurrent_streams: pool.max_concurrent_streams,
            circuit_breakers: pool.circuit_breakers,
            outlier_detection: policy.outlier_detection(),
            tls,
            auto_mtls,
            tunnel,
            source_address: SourceAddress::Any,
            destination: Destination {
                service: Arc::clone(&self.service.host),
                service_name: Arc::clone(&self.service.name),
                service_namespace: Arc::clone(&self.service.namespace),
                is_own: false,
            },
        })
    }

    fn protocol(&self, port: &Port, policy: &Policy<'_>) -> UpstreamProtocol {
        let http = policy.http_settings();
        if http.is_some_and(|http| http.use_client_protocol) {
            return UpstreamProtocol::MatchDownstream;
        }
        let upgrade = match http.map(|http| http.h2_upgrade_policy).unwrap_or_default() {
            H2UpgradePolicy::Default => self.view.mesh.h2_upgrade_policy.into(),
            policy => policy,
        };
        match port.protocol {
            Some(Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb) => UpstreamProtocol::Http2,
            Some(Protocol::Http) if upgrade == H2UpgradePolicy::Upgrade => UpstreamProtocol::Http2,
            // HTTP rules may send to these as well, by TLS origination in the case of HTTPS and TLS.
            Some(Protocol::Http | Protocol::Https | Protocol::Tls) | None => {
                UpstreamProtocol::Http1
            }
            Some(
                Protocol::Tcp | Protocol::Mongo | Protocol::Redis | Protocol::Mysql | Protocol::Udp,
            ) => UpstreamProtocol::Tcp,
        }
    }

    fn discovery(&self, port: &Port, policy: &Policy<'_>) -> Discovery {
        if self.view.is_sidecar() && policy.is_passthrough() {
            return Discovery::OriginalDst { members_only: false };
        }
        let refresh = self.view.mesh.dns_refresh_rate.map_or(DEFAULT_DNS_REFRESH, |rate| rate.0);
        let owner = self.view.store.find(&port.owner);
        let refuses_local = owner.is_some_and(|it| ownership::refuses_local(self.view, it));
        match owner.map(|object| &object.spec) {
            Some(Spec::Service(service)) if service.r#type == ServiceType::ExternalName => {
                Discovery::StrictDns { refresh, refuses_local }
            }
            Some(Spec::ServiceEntry(entry)) => match entry.resolution {
                Resolution::Dns => Discovery::StrictDns { refresh, refuses_local },
                Resolution::DnsRoundRobin => Discovery::LogicalDns { refresh, refuses_local },
                Resolution::None if self.view.is_sidecar() => {
                    Discovery::OriginalDst { members_only: false }
                }
                Resolution::DynamicDns => Discovery::DynamicDns(Arc::new(DynamicNames {
                    pattern: HostPattern::parse(&self.service.host),
                    port: port.target,
                    refresh,
                    allowed: allowed_networks(owner),
                    refuses_local,
                })),
                Resolution::None | Resolution::Static => Discovery::Static,
            },
            // Clients know the endpoints; one that is gone must not become another one.
            _ if self.view.is_sidecar() && self.service.is_headless => {
                Discovery::OriginalDst { members_only: true }
            }
            _ => Discovery::Static,
        }
    }
}

/// What the annotation of a ServiceEntry allows names to resolve to; what is wrong with it is said by
/// validation.
fn allowed_networks(owner: Option<&Arc<Object>>) -> Arc<[IpNet]> {
    let text = owner.and_then(|object| object.metadata.annotations.get(ALLOWED_RANGES_ANNOTATION));
    let ranges = text.unwrap_or_default().split(',');
    ranges.filter_map(|range| range.trim().parse().ok()).collect()
}

impl CompiledService {
    /// Whether routes to the host have to be looked at again.
    pub(super) fn looks_like(&self, old: Option<&Service>) -> bool {
        match (&self.service, old) {
            (Some(new), Some(old)) => new.has_same_clusters(old),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}
