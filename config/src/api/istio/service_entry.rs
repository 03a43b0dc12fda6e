use std::collections::BTreeMap;

use serde::Deserialize;

use super::WorkloadEntry;
use crate::api::Protocol;

/// `networking.istio.io` ServiceEntry: a service that Kubernetes does not know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntry {
    /// Names, or `*.suffix`.
    pub hosts: Vec<String>,
    /// Virtual addresses or CIDRs of the service.
    pub addresses: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub location: Location,
    pub resolution: Resolution,
    /// Exclusive with `workloadSelector`.
    pub endpoints: Vec<WorkloadEntry>,
    /// Pods and WorkloadEntries of the same namespace behind the service.
    pub workload_selector: Option<WorkloadSelector>,
    /// Namespaces that see this object: `.` its own, `*` all, `~` none, or names.
    pub export_to: Vec<String>,
    /// Names, one of which the server's certificate must carry.
    pub subject_alt_names: Vec<String>,
}

/// A port of the service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    pub number: u16,
    /// What the port speaks; detected when absent.
    pub protocol: Option<Protocol>,
    pub name: String,
    /// Port of the endpoints; `number` when absent.
    pub target_port: Option<u16>,
}

/// Whether the service is part of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Reached as it is.
    #[default]
    MeshExternal,
    /// Workloads of the mesh, for example virtual machines.
    MeshInternal,
}

/// How a connection finds its endpoint's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// To the address the client asked for.
    #[default]
    None,
    /// The addresses of the endpoints.
    Static,
    /// Every address the endpoints' or hosts' names resolve to.
    Dns,
    /// The first address a name resolves to, looked up again for new connections.
    DnsRoundRobin,
    /// The request's host or SNI, looked up when it comes; for wildcard hosts.
    DynamicDns,
}

impl Resolution {
    /// The value as written in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Static => "STATIC",
            Self::Dns => "DNS",
            Self::DnsRoundRobin => "DNS_ROUND_ROBIN",
            Self::DynamicDns => "DYNAMIC_DNS",
        }
    }
}

/// Selects workloads of the same namespace by label.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    pub labels: BTreeMap<String, String>,
}
