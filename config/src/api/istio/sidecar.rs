use serde::Deserialize;

use super::{
    connection_pool::ConnectionPoolSettings, gateway::ServerTlsSettings,
    service_entry::WorkloadSelector, virtual_service::Destination,
};
use crate::api::{Protocol, mesh_config::OutboundTrafficPolicyMode};

/// `networking.istio.io` Sidecar: what the sidecars of a namespace listen on, and which services they
/// know.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sidecar {
    /// Workloads of the namespace; all when absent, and in the root namespace all of the mesh.
    pub workload_selector: Option<WorkloadSelector>,
    /// Ports the workload is reached on. Once there is one, only these are.
    pub ingress: Vec<IngressListener>,
    /// Services the workload may reach; all when empty.
    pub egress: Vec<EgressListener>,
    /// For every inbound connection of the workload.
    pub inbound_connection_pool: Option<ConnectionPoolSettings>,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

/// A port the workload is reached on.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressListener {
    pub port: Option<SidecarPort>,
    /// IP address to listen on; the workload's when empty.
    pub bind: String,
    pub capture_mode: CaptureMode,
    /// Where the application listens: `127.0.0.1:PORT`, `0.0.0.0:PORT` (the workload's address),
    /// `[::1]:PORT` or `unix:///path`.
    pub default_endpoint: String,
    pub tls: Option<ServerTlsSettings>,
    pub connection_pool: Option<ConnectionPoolSettings>,
}

/// Services reached through one listener.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressListener {
    /// A port only; every port when absent.
    pub port: Option<SidecarPort>,
    /// IP address or `unix://` path to listen on.
    pub bind: String,
    pub capture_mode: CaptureMode,
    /// `namespace/host` each. The namespace is a name, `.` (the Sidecar's), `*` (any) or `~` (none);
    /// `~name/host` excludes. The host is a name, `*` or `*.suffix`.
    pub hosts: Vec<String>,
}

/// The port of a sidecar's listener.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarPort {
    /// 1 to 65535.
    pub number: u16,
    pub protocol: Option<Protocol>,
    pub name: String,
    /// Deprecated and refused.
    pub target_port: Option<u16>,
}

/// How connections come to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CaptureMode {
    #[default]
    Default,
    Iptables,
    /// Nothing is redirected: the application connects to the listener itself.
    None,
}

/// What happens to connections to unknown hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutboundTrafficPolicy {
    /// REGISTRY_ONLY when absent, unlike the mesh's.
    pub mode: Option<OutboundTrafficPolicyMode>,
    /// Where those connections go instead of where they were going.
    pub egress_proxy: Option<Destination>,
}
