use std::collections::BTreeMap;

use serde::Deserialize;

use super::{EndpointPort, ObjectReference};

/// The label that names the Service a slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// `discovery.k8s.io/v1` EndpointSlice: some of the endpoints of one Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    pub address_type: AddressType,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<EndpointPort>,
}

/// One endpoint, ready unless its conditions say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Interchangeable addresses of the endpoint; the first one is used.
    pub addresses: Vec<String>,
    pub conditions: EndpointConditions,
    pub hostname: String,
    pub node_name: String,
    pub zone: String,
    pub target_ref: Option<ObjectReference>,
    /// Not of Kubernetes: the labels of the pod, which subsets are chosen by. The controller adds
    /// them.
    pub labels: BTreeMap<String, String>,
    /// Not of Kubernetes: of the pod, which its certificate in the mesh is for. The controller adds it.
    pub service_account: String,
    /// Not of Kubernetes: of the node, as the zone is. The controller adds it.
    pub region: String,
    /// Not of Kubernetes: as `region`.
    pub sub_zone: String,
}

/// An absent condition counts as Kubernetes documents it: ready, serving, not terminating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

/// What kind of text `addresses` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum AddressType {
    #[default]
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}
