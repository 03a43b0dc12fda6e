use serde::Deserialize;

use super::TransportProtocol;
use crate::api::{IntOrString, Labels};

/// `v1` Service: a name and ports for a set of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    pub ports: Vec<ServicePort>,
    /// Labels of the pods behind the service.
    pub selector: Labels,
    /// Virtual address; `None` as text marks a headless service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    pub r#type: ServiceType,
    /// DNS name the service stands for when `type` is `ExternalName`.
    pub external_name: String,
    /// Endpoints count as usable even before they are ready.
    pub publish_not_ready_addresses: bool,
    /// `PreferSameZone`, `PreferSameNode` or `PreferClose`.
    pub traffic_distribution: String,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// May be empty when the service has one port. `http-web` also says that it speaks HTTP.
    pub name: String,
    pub protocol: TransportProtocol,
    /// What the port speaks; wins over the name's prefix.
    pub app_protocol: String,
    pub port: u16,
    /// Port of the pods, by number or name; `port` when absent.
    pub target_port: Option<IntOrString>,
    pub node_port: Option<u16>,
}

/// How a service is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalName,
}
