//! Kubernetes core objects a proxy's configuration refers to.

pub mod config_map;
pub mod endpoint_slice;
pub mod endpoints;
pub mod namespace;
pub mod pod;
pub mod secret;
pub mod service;

pub use config_map::ConfigMap;
pub use endpoint_slice::EndpointSlice;
pub use endpoints::Endpoints;
pub use namespace::Namespace;
pub use pod::Pod;
pub use secret::Secret;
pub use service::Service;

use std::sync::Arc;

use serde::Deserialize;

/// A reference from an endpoint to the object behind it, usually a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// A port behind a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// The service port's name; empty for the port of a single-port service.
    pub name: String,
    pub port: Option<u16>,
    pub protocol: TransportProtocol,
    pub app_protocol: String,
}

/// Kubernetes' port protocol: what carries the bytes, not what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TransportProtocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}
