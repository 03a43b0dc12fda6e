use std::sync::Arc;

use serde::Deserialize;

use super::{EndpointPort, ObjectReference};
use crate::api::Labels;

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
    pub zone: Arc<str>,
    pub target_ref: Option<ObjectReference>,
    /// Not of Kubernetes: the labels of the pod, which subsets are chosen by. The controller adds
    /// them.
    pub labels: Labels,
    /// Not of Kubernetes: of the pod, which its certificate in the mesh is for. The controller adds it.
    pub service_account: Arc<str>,
    /// Not of Kubernetes: of the node, as the zone is. The controller adds it.
    pub region: Arc<str>,
    /// Not of Kubernetes: as `region`.
    pub sub_zone: Arc<str>,
}

impl EndpointSlice {
    /// Keeps what neighbours have in common once: mostly they are pods of one kind.
    pub(crate) fn share(&mut self) {
        let mut endpoints = self.endpoints.iter_mut();
        let Some(mut before) = endpoints.next() else { return };
        for endpoint in endpoints {
            endpoint.share_with(before);
            before = endpoint;
        }
    }
}

impl Endpoint {
    fn share_with(&mut self, other: &Self) {
        for (text, known) in [
            (&mut self.zone, &other.zone),
            (&mut self.service_account, &other.service_account),
            (&mut self.region, &other.region),
            (&mut self.sub_zone, &other.sub_zone),
        ] {
            share(text, known);
        }
        self.labels.share_with(&other.labels);
        if let (Some(target), Some(known)) = (&mut self.target_ref, &other.target_ref) {
            share(&mut target.kind, &known.kind);
            share(&mut target.namespace, &known.namespace);
        }
    }
}

fn share(value: &mut Arc<str>, known: &Arc<str>) {
    if value == known {
        value.clone_from(known);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_neighbours_have_in_common_is_kept_once() {
        let endpoint = |version: &str| Endpoint {
            zone: "a".into(),
            service_account: "shop".into(),
            target_ref: Some(ObjectReference { kind: "Pod".into(), ..ObjectReference::default() }),
            labels: [("version".to_owned(), version.to_owned())].into(),
            ..Endpoint::default()
        };
        let endpoints = vec![endpoint("v1"), endpoint("v1"), endpoint("v2")];
        let written = EndpointSlice { endpoints, ..EndpointSlice::default() };
        let mut slice = written.clone();
        slice.share();
        assert_eq!(slice, written);
        let [first, second, third] = &slice.endpoints[..] else { panic!("{slice:?}") };
        assert!(first.labels.is_shared_with(&second.labels));
        assert!(!second.labels.is_shared_with(&third.labels), "they differ");
        for other in [second, third] {
            assert!(Arc::ptr_eq(&first.zone, &other.zone));
            assert!(Arc::ptr_eq(&first.service_account, &other.service_account));
            let kind =
                |endpoint: &Endpoint| Arc::clone(&endpoint.target_ref.as_ref().unwrap().kind);
            assert!(Arc::ptr_eq(&kind(first), &kind(other)));
        }
    }
}
