//! Sets of upstreams and how they are used.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::HeaderName;
use ipnet::IpNet;

use super::{
    matcher::HostPattern,
    name::{ClusterName, SecretName},
};

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    pub name: ClusterName,
    pub discovery: Discovery,
    pub protocol: UpstreamProtocol,
    pub lb_policy: LbPolicy,
    /// What requests that belong together have in common; for policies that hash.
    pub hash_key: Option<HashKey>,
    /// For `LeastRequest` and `RoundRobin`.
    pub warmup: Option<Warmup>,
    pub connect_timeout: Duration,
    /// An idle pooled connection is closed after this; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// For proxied TCP connections without traffic; `None`: never.
    pub tcp_idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Requests after which a connection is not used again; 0: no limit.
    pub max_requests_per_connection: u32,
    pub max_concurrent_streams: u32,
    pub circuit_breakers: CircuitBreakers,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<UpstreamTls>,
    /// Only endpoints that offer the mesh's TLS are talked to with `tls`, the others in clear text.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto_mtls: bool,
    /// How endpoints that speak HBONE are talked to; `None`: as the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    #[serde(skip_serializing_if = "SourceAddress::is_any")]
    pub source_address: SourceAddress,
    /// What the standard metrics call this destination.
    pub destination: Destination,
}

/// Where the endpoints come from. `refuses_local`: names that others wrote must not lead to where
/// everybody is himself ([`is_local`]).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Discovery {
    /// From the cluster's `ClusterEndpoints`; their addresses are IPs or sockets.
    Static,
    /// Names among the endpoints are resolved, every address is an endpoint (`resolution: DNS`).
    StrictDns {
        refresh: Duration,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        refuses_local: bool,
    },
    /// The name is resolved, new connections go to the first address (`DNS_ROUND_ROBIN`).
    LogicalDns {
        refresh: Duration,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        refuses_local: bool,
    },
    /// The address the client was connecting to. `members_only`: if an endpoint has it.
    OriginalDst { members_only: bool },
    /// The request's host, or the ClientHello's server name, looked up when it comes (`DYNAMIC_DNS`).
    DynamicDns(Arc<DynamicNames>),
}

/// The names a client may choose from, and where they may lead: what it names is not where it says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamicNames {
    pub pattern: HostPattern,
    /// Whatever port the client wrote.
    pub port: u16,
    pub refresh: Duration,
    /// Networks beside the public internet that names may resolve to.
    pub allowed: Arc<[IpNet]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refuses_local: bool,
}

/// Loopback and link-local addresses lead every proxy to another place: itself, where its admin pages are,
/// or the metadata of its node. Kubernetes takes them for no endpoint either.
#[must_use]
pub fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

/// What connections to endpoints come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceAddress {
    /// As the operating system chooses.
    #[default]
    Any,
    /// 127.0.0.6 or `::6`, which is not redirected: the connection was taken in already.
    Inbound,
}

impl SourceAddress {
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamProtocol {
    Http1,
    Http2,
    /// What the client speaks (`useClientProtocol`).
    MatchDownstream,
    Tcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum LbPolicy {
    /// Of two random endpoints, the one with fewer requests in flight.
    LeastRequest,
    RoundRobin,
    Random,
    /// Equal keys to the same endpoint; a change of the endpoints moves few of them.
    RingHash {
        minimum_size: u32,
    },
    /// As `RingHash`, in a table of this prime size: more even, and cheaper to look up.
    Maglev {
        table_size: u32,
    },
}

/// How an endpoint that joins a cluster comes to its share.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Warmup {
    /// Not zero.
    pub duration: Duration,
    /// The share of its weight it begins with, from 0 to 1.
    pub minimum: f64,
    /// The share is the part of the duration that has passed, to the power of 1 / this.
    pub aggression: f64,
}

/// The part of a request (`consistentHash`) that is hashed. Where it is missing, the choice is random.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum HashKey {
    Header(#[serde(with = "super::serialize::header_name")] HeaderName),
    Cookie(HashCookie),
    SourceIp,
    QueryParam(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HashCookie {
    pub name: Arc<str>,
    /// A client without the cookie is given one that lasts this long, zero: for its session. `None`: it
    /// is not.
    pub ttl: Option<Duration>,
    /// What follows the value in `Set-Cookie`: `; Path=/; HttpOnly`.
    pub attributes: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// Limits per proxy; beyond them a request is answered 503 `UO`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreakers {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
}

impl Default for CircuitBreakers {
    /// Istio's: as good as none.
    fn default() -> Self {
        Self {
            max_connections: u32::MAX,
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_retries: u32::MAX,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// 0: off.
    pub consecutive_5xx: u32,
    pub consecutive_gateway_errors: Option<u32>,
    pub split_external_local_origin_errors: bool,
    pub consecutive_local_origin_failures: u32,
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_percent: u8,
    pub min_health_percent: u8,
}

/// TLS towards the upstream.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamTls {
    /// `None`: the request's host.
    pub sni: Option<Arc<str>>,
    /// Our certificate (`MUTUAL`).
    pub certificate: Option<SecretName>,
    pub trust: UpstreamTrust,
    pub alpn: Arc<[Arc<str>]>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum UpstreamTrust {
    /// `None`: the operating system's roots. Names empty: the SNI's host is verified.
    Verify { trust_bundle: Option<SecretName>, subject_alt_names: Arc<[Arc<str>]> },
    /// The mesh's roots, and one of these identities; empty: any of the mesh.
    Mesh { trust_bundle: SecretName, identities: Arc<[Arc<str>]> },
    /// `insecureSkipVerify`.
    Insecure,
}

/// HBONE towards the upstream.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    pub tls: UpstreamTls,
    /// What the other side is told of this workload.
    pub baggage: Arc<str>,
}

/// Labels of Istio's standard metrics that a cluster decides.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// `destination_service`: the host.
    pub service: Arc<str>,
    /// `destination_service_name`: the short name.
    pub service_name: Arc<str>,
    pub service_namespace: Arc<str>,
    /// It is the proxy's own workload that is asked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_own: bool,
}

/// The members of a cluster; separate, so that their change is a message of its own.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterEndpoints {
    pub cluster: ClusterName,
    pub endpoints: Arc<[Endpoint]>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// Relative; at least 1.
    pub weight: u32,
    /// Shared by endpoints of one place.
    pub locality: Arc<Locality>,
    /// It takes the mesh's TLS (`security.istio.io/tlsMode: istio`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mesh_tls: bool,
    /// It takes the mesh's tunnels (`networking.istio.io/tunnel: http`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hbone: bool,
    /// What the standard metrics call the workload; empty where not known. Shared by endpoints that
    /// are called the same.
    pub workload: Arc<Workload>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum EndpointAddress {
    Ip(std::net::SocketAddr),
    /// Resolved by the proxy.
    Dns {
        host: Arc<str>,
        port: u16,
    },
    Unix(Arc<std::path::Path>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub app: Arc<str>,
    pub version: Arc<str>,
    /// What it is part of, whatever it is called there; empty where nothing but its name says.
    #[serde(skip_serializing_if = "is_empty")]
    pub canonical_service: Arc<str>,
    #[serde(skip_serializing_if = "is_empty")]
    pub canonical_revision: Arc<str>,
    /// The SPIFFE ID's path form, for `destination_principal`.
    pub principal: Arc<str>,
}

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

/// Where labels say what a workload is, the first that is there: app, version, and what they are part of
/// (istio-compat 4.2).
const APP: [&str; 2] = ["app", "app.kubernetes.io/name"];
const VERSION: [&str; 2] = ["version", "app.kubernetes.io/version"];
const CANONICAL_SERVICE: [&str; 3] =
    ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
const CANONICAL_REVISION: [&str; 3] =
    ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];

impl Workload {
    /// What its labels say of it.
    #[must_use]
    pub fn labelled<'a>(label: impl Fn(&str) -> Option<&'a str>) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| label(name)).unwrap_or_default();
        let (app, version) = (Arc::<str>::from(first(&APP)), Arc::<str>::from(first(&VERSION)));
        // Mostly the same text; there are many endpoints.
        let or_shared = |text: &str, shared: &Arc<str>| match text == &**shared {
            true => Arc::clone(shared),
            false => text.into(),
        };
        Self {
            canonical_service: or_shared(first(&CANONICAL_SERVICE), &app),
            canonical_revision: or_shared(first(&CANONICAL_REVISION), &version),
            app,
            version,
            ..Self::default()
        }
    }
}
