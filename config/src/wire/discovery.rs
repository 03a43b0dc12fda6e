//! `envoy.service.discovery.v3` and `envoy.config.core.v3`, as far as the delta protocol needs them.

use std::collections::BTreeMap;

use super::google::{Any, Status, Struct};

/// The service's one method that is used.
pub const DELTA_AGGREGATED_RESOURCES: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Bytes of resources after which a response is ended and another begun: large pushes are read while
/// they are made, and no message comes near the limits of gRPC. The sender's buffer of a stream stays as
/// large as the largest response was, for as long as the proxy is connected.
pub const RESPONSE_SIZE: usize = 64 * 1024;

/// What a proxy says in [`Node::client_features`] if a push may come as one response.
pub const WHOLE_PUSHES: &str = "dev.weir.whole-pushes";

/// Bytes a message may have: a response is ended by the resource that fills it, the largest of which
/// is an object of [`crate::parse::MAX_OBJECT_SIZE`].
pub const MAX_MESSAGE_SIZE: usize = 4 * 1024 * 1024;

/// Bytes the first request for a type may have: it names everything the proxy has of it.
pub const MAX_REQUEST_SIZE: usize = 32 * 1024 * 1024;

/// From a proxy: a subscription (without nonce), or the answer to a response (with its nonce).
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// In the first request of a stream.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    #[prost(string, tag = "2")]
    pub type_url: String,
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// What the proxy has: versions by name. In the first request for the type only.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: BTreeMap<String, String>,
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Set: not everything in that response could be applied.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// From the controller: what is new, and what is gone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// The push this is part of; for people.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// A named, versioned thing; what is in it is in [`super::resource`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    #[prost(string, tag = "3")]
    pub name: String,
}

/// Who a proxy says it is. Only authentication is believed; this is for people, and for what has no
/// bearing on what the proxy may see.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// `router~<IP>~<pod>.<namespace>~<namespace>.svc.<cluster domain>`.
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub cluster: String,
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Struct>,
    #[prost(message, optional, tag = "4")]
    pub locality: Option<Locality>,
    #[prost(string, tag = "6")]
    pub user_agent_name: String,
    #[prost(string, tag = "7")]
    pub user_agent_version: String,
    /// What may be said to it that proxies before it would not have understood.
    #[prost(string, repeated, tag = "10")]
    pub client_features: Vec<String>,
}

/// Where a proxy runs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Locality {
    #[prost(string, tag = "1")]
    pub region: String,
    #[prost(string, tag = "2")]
    pub zone: String,
    #[prost(string, tag = "3")]
    pub sub_zone: String,
}
