//! What EndpointSlices do not say themselves: the labels and identities of pods, and where nodes are.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use serde_json::{Map, Value};
use weir_config::api::ObjectKey;

use super::{Entry, Facts, Labels};

type PodName = (Arc<str>, Arc<str>);

/// Where a node is. Its zone is in the slices already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locality {
    pub region: Arc<str>,
    pub sub_zone: Arc<str>,
}

/// What is known of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    pub labels: Arc<Labels>,
    /// Whom its certificate in the mesh is for.
    pub service_account: Arc<str>,
}

#[derive(Debug, Default)]
pub(super) struct Endpoints {
    pods: BTreeMap<PodName, Pod>,
    nodes: BTreeMap<Arc<str>, Locality>,
    slices: BTreeSet<(PodName, ObjectKey)>,
}

impl Endpoints {
    pub(super) fn pod(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Pod> {
        self.pods.get(&(Arc::clone(namespace), Arc::clone(name)))
    }

    /// Returns whether slices of the pod have to be completed again. Not when it is gone: then the
    /// slices are about to be.
    pub(super) fn set_pod(
        &mut self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        pod: Option<Pod>,
    ) -> bool {
        let name = (Arc::clone(namespace), Arc::clone(name));
        let Some(pod) = pod else {
            self.pods.remove(&name);
            return false;
        };
        if self.pods.get(&name) == Some(&pod) {
            return false;
        }
        self.pods.insert(name, pod);
        true
    }

    /// Returns whether slices have to be completed again.
    pub(super) fn set_node(&mut self, name: &Arc<str>, locality: Option<Locality>) -> bool {
        let Some(locality) = locality else {
            self.nodes.remove(name);
            return false;
        };
        if self.nodes.get(name) == Some(&locality) {
            return false;
        }
        let is_empty = locality == Locality::default();
        self.nodes.insert(Arc::clone(name), locality);
        !is_empty
    }

    pub(super) fn slices_of(&self, namespace: &Arc<str>, name: &Arc<str>) -> Vec<ObjectKey> {
        let pod = (Arc::clone(namespace), Arc::clone(name));
        let first = ObjectKey {
            kind: weir_config::api::Kind::Gateway,
            namespace: Arc::default(),
            name: Arc::default(),
        };
        self.slices
            .range((Bound::Included((pod.clone(), first)), Bound::Unbounded))
            .take_while(|(other, _)| *other == pod)
            .map(|(_, key)| key.clone())
            .collect()
    }

    pub(super) fn link(&mut self, entry: &Entry) {
        self.slices.extend(pods(entry).map(|pod| (pod, entry.key.clone())));
    }

    pub(super) fn unlink(&mut self, entry: &Entry) {
        for pod in pods(entry) {
            self.slices.remove(&(pod, entry.key.clone()));
        }
    }

    /// Writes what is known of pods and nodes into the endpoints of a slice, in the place of what was
    /// known before.
    pub(super) fn complete(&self, slice: &mut Map<String, Value>) {
        let namespace: Arc<str> = slice
            .get("metadata")
            .and_then(|metadata| metadata.get("namespace"))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .into();
        let Some(Value::Array(endpoints)) = slice.get_mut("endpoints") else { return };
        for endpoint in endpoints.iter_mut().filter_map(Value::as_object_mut) {
            let name = |endpoint: &Map<String, Value>, pointer: &[&str]| -> Option<Arc<str>> {
                let mut value = endpoint.get(pointer[0])?;
                for field in &pointer[1..] {
                    value = value.get(field)?;
                }
                value.as_str().map(Into::into)
            };
            let pod = name(endpoint, &["targetRef", "name"]);
            if let Some(Pod { labels, service_account }) =
                pod.and_then(|pod| self.pod(&namespace, &pod))
            {
                let labels = labels.iter().map(|(key, value)| (key.clone(), value.clone().into()));
                endpoint.insert("labels".to_owned(), Value::Object(labels.collect()));
                if !service_account.is_empty() {
                    let account = Value::String(service_account.to_string());
                    endpoint.insert("serviceAccount".to_owned(), account);
                }
            }
            let node = name(endpoint, &["nodeName"]);
            let locality = node.and_then(|node| self.nodes.get(&node));
            let locality = locality.into_iter();
            for (field, value) in locality.flat_map(|locality| {
                [("region", &locality.region), ("subZone", &locality.sub_zone)]
            }) {
                if value.is_empty() {
                    endpoint.remove(field);
                } else {
                    endpoint.insert(field.to_owned(), Value::String(value.to_string()));
                }
            }
        }
    }
}

fn pods(entry: &Entry) -> impl Iterator<Item = PodName> {
    let pods = match &entry.facts {
        Facts::EndpointSlice { pods, .. } => &pods[..],
        _ => &[],
    };
    pods.iter().map(|name| (Arc::clone(&entry.key.namespace), Arc::clone(name)))
}
