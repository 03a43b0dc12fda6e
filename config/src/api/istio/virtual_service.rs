use std::collections::BTreeMap;

use serde::Deserialize;

pub use super::http_route::HttpRoute;
use crate::api::PortSelector;

/// `networking.istio.io` VirtualService: where requests for some hosts go.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualService {
    /// Names, `*.suffix`, `*` or addresses. Empty for a delegate, which other VirtualServices
    /// include by `delegate`.
    pub hosts: Vec<String>,
    /// Gateways the rules apply to, `[namespace/]name`; `mesh` stands for all sidecars and is the
    /// default.
    pub gateways: Vec<String>,
    /// Rules for HTTP, the first match wins.
    pub http: Vec<HttpRoute>,
    /// Rules for TLS that is not terminated, by SNI.
    pub tls: Vec<TlsRoute>,
    /// Rules for everything else.
    pub tcp: Vec<TcpRoute>,
    /// Namespaces that see this object: `.` its own, `*` all, or names.
    pub export_to: Vec<String>,
}

/// A rule for TLS connections that are not terminated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRoute {
    /// Any of these; required.
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatchAttributes>,
    pub route: Vec<RouteDestination>,
}

/// Conditions on a TLS connection, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsMatchAttributes {
    /// Server names, each within one of the VirtualService's hosts.
    pub sni_hosts: Vec<String>,
    /// CIDRs, one of which holds the destination address.
    pub destination_subnets: Vec<String>,
    /// Listener port.
    pub port: Option<u16>,
    /// Labels of the client workload (sidecars only).
    pub source_labels: BTreeMap<String, String>,
    /// Those of the VirtualService's gateways the condition is for; all when empty.
    pub gateways: Vec<String>,
    /// Namespace of the client workload (sidecars only).
    pub source_namespace: String,
}

/// A rule for TCP connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRoute {
    /// Any of these; everything when empty.
    #[serde(rename = "match")]
    pub matches: Vec<L4MatchAttributes>,
    pub route: Vec<RouteDestination>,
}

/// Conditions on a TCP connection, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4MatchAttributes {
    /// CIDRs, one of which holds the destination address.
    pub destination_subnets: Vec<String>,
    /// Listener port.
    pub port: Option<u16>,
    /// CIDR that holds the client address.
    pub source_subnet: String,
    /// Labels of the client workload (sidecars only).
    pub source_labels: BTreeMap<String, String>,
    /// Those of the VirtualService's gateways the condition is for; all when empty.
    pub gateways: Vec<String>,
    /// Namespace of the client workload (sidecars only).
    pub source_namespace: String,
}

/// A weighted destination of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteDestination {
    pub destination: Option<Destination>,
    /// Share of the connections, relative to the other weights; a single destination gets all.
    pub weight: u32,
}

/// A service, or a subset of it, that receives traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Destination {
    /// Service name; a name without dots is of the VirtualService's own namespace.
    pub host: String,
    /// Name of a subset that a DestinationRule defines.
    pub subset: String,
    /// Service port; may be left out when the service has one.
    pub port: Option<PortSelector>,
}
