use std::collections::BTreeMap;

use serde::Deserialize;

pub use super::{
    client_tls::{ClientTlsMode, ClientTlsSettings},
    connection_pool::{ConnectionPoolSettings, OutlierDetection, RetryBudget},
    load_balancer::{LoadBalancerSettings, SimpleLb},
};
use crate::api::{PortSelector, Selector};

/// `networking.istio.io` DestinationRule: how a service is reached once a route has chosen it.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRule {
    /// Service name or `*.suffix`; a name without dots is of the rule's own namespace.
    pub host: String,
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named groups of endpoints that routes can choose.
    pub subsets: Vec<Subset>,
    /// Namespaces that see this object: `.` its own, `*` all, or names.
    pub export_to: Vec<String>,
    /// Client workloads the rule is for; all when absent.
    pub workload_selector: Option<Selector>,
}

/// The endpoints of a service that carry all of some labels.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Replaces the rule's policy block by block.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Balancing, limits, health and TLS of a destination.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    pub load_balancer: Option<LoadBalancerSettings>,
    pub connection_pool: Option<ConnectionPoolSettings>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<ClientTlsSettings>,
    /// Policies of single ports. They replace the four blocks above as a whole.
    pub port_level_settings: Vec<PortTrafficPolicy>,
    pub tunnel: Option<TunnelSettings>,
    /// PROXY protocol header sent upstream; exclusive with `tunnel`.
    pub proxy_protocol: Option<ProxyProtocolSettings>,
    pub retry_budget: Option<RetryBudget>,
}

/// The policy of one port of the destination service.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortTrafficPolicy {
    pub port: Option<PortSelector>,
    pub load_balancer: Option<LoadBalancerSettings>,
    pub connection_pool: Option<ConnectionPoolSettings>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<ClientTlsSettings>,
}

/// An HTTP tunnel through the destination.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TunnelSettings {
    /// `CONNECT` (default) or `POST`.
    pub protocol: String,
    pub target_host: String,
    pub target_port: u16,
}

/// Sends a PROXY protocol header upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocolSettings {
    pub version: ProxyProtocolVersion,
}

/// The text or the binary header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
pub enum ProxyProtocolVersion {
    #[default]
    V1,
    V2,
}
