//! What EndpointSlices do not say themselves: the labels and identities of pods, and where nodes are;
//! and the pods that ServiceEntries select.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Bound,
    sync::Arc,
};

use serde_json::{Map, Value, json};
use weir_config::api::ObjectKey;

use super::{Entry, Facts, Labels, Named};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

pub(super) type PodName = (Arc<str>, Arc<str>);

/// Where a node is. Slices have its zone already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub sub_zone: Arc<str>,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    pub locality: Locality,
    /// Of every type.
    pub addresses: Box<[IpAddr]>,
}

/// What is known of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    pub labels: Arc<Labels>,
    /// Whom its certificate in the mesh is for.
    pub service_account: Arc<str>,
    /// Those it alone has, ready or not.
    pub addresses: Box<[IpAddr]>,
    /// Those of the node it is on.
    pub node_addresses: Box<[IpAddr]>,
    /// It is in the network of its node, and has the addresses of that.
    pub is_on_node: bool,
    /// `None` while nothing is to be sent to it.
    pub place: Option<Place>,
}

impl Pod {
    fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
            || (self.is_on_node && self.node_addresses.contains(&address))
    }

    pub(super) fn is_where(&self, other: &Self) -> bool {
        self.addresses == other.addresses
            && self.is_on_node == other.is_on_node
            && self.node_addresses == other.node_addresses
    }
}

/// Where a pod that is ready is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub address: IpAddr,
    pub node: Arc<str>,
    /// Its TCP ports that have names.
    pub ports: Box<[(Arc<str>, u16)]>,
}

/// What has to be done again after a pod changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    Nothing,
    /// It can be sent to elsewhere, or not any more.
    Place,
    /// What its slices say of it.
    Description,
}

#[derive(Debug, Default)]
pub(super) struct Endpoints {
    pods: BTreeMap<PodName, Pod>,
    nodes: BTreeMap<Arc<str>, Node>,
    slices: BTreeSet<(PodName, ObjectKey)>,
}

impl Endpoints {
    pub(super) fn pod(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Pod> {
        self.pods.get(&(Arc::clone(namespace), Arc::clone(name)))
    }

    /// The pods of a namespace.
    pub(super) fn pods_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Arc<str>> {
        let first: PodName = (Arc::clone(namespace), Arc::default());
        self.pods
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |((other, _), _)| other == namespace)
            .map(|((_, name), _)| name)
    }

    /// The pods on a node.
    pub(super) fn pods_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a PodName> {
        let is_there = move |pod: &Pod| pod.place.as_ref().is_some_and(|it| *it.node == *node);
        self.pods.iter().filter(move |(_, pod)| is_there(pod)).map(|(name, _)| name)
    }

    /// A gone pod has no description to complete slices with: they are about to be gone as well.
    pub(super) fn set_pod(&mut self, name: PodName, pod: Option<Pod>) -> Moved {
        let Some(pod) = pod else {
            self.pods.remove(&name);
            return Moved::Place;
        };
        let moved = match self.pods.get(&name) {
            Some(old) if *old == pod => return Moved::Nothing,
            Some(old) if old.labels == pod.labels && old.service_account == pod.service_account => {
                Moved::Place
            }
            _ => Moved::Description,
        };
        self.pods.insert(name, pod);
        moved
    }

    /// A pod as proxies get it; `None` while nothing is to be sent to it.
    pub(super) fn pod_object(
        &self,
        namespace: &Arc<str>,
        name: &Arc<str>,
    ) -> Option<Map<String, Value>> {
        let Pod { labels, service_account, place, .. } = self.pod(namespace, name)?;
        let Place { address, node, ports } = place.as_ref()?;
        let ports: Vec<Value> = ports
            .iter()
            .map(|(name, number)| json!({"name": **name, "containerPort": number}))
            .collect();
        let locality = self.locality(node);
        let locality = locality.filter(|it| **it != Locality::default()).map(|it| {
            let Locality { region, zone, sub_zone } = it;
            format!("{region}/{zone}/{sub_zone}")
        });
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": **name, "namespace": **namespace, "labels": **labels},
            "spec": {"serviceAccountName": **service_account, "containers": [{"ports": ports}]},
            "status": {"podIP": address.to_string()},
            "locality": locality.unwrap_or_default(),
        });
        match object {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    fn locality(&self, node: &str) -> Option<&Locality> {
        self.node(node).map(|node| &node.locality)
    }

    /// Returns whether slices have to be completed again.
    pub(super) fn set_node(&mut self, name: &Arc<str>, node: Option<Node>) -> bool {
        let Some(node) = node else {
            self.nodes.remove(name);
            return false;
        };
        let is_same = self.locality(name) == Some(&node.locality);
        let is_empty = node.locality == Locality::default();
        self.nodes.insert(Arc::clone(name), node);
        !is_same && !is_empty
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

    /// The addresses of a slice at which there is no pod of its namespace that it names: whose they are has
    /// to be looked at.
    pub(super) fn unknown_addresses(&self, slice: &Map<String, Value>) -> Box<[Named]> {
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let metadata = slice.get("metadata");
        let namespace: Arc<str> = text(metadata.and_then(|it| it.get("namespace"))).into();
        let labels = metadata.and_then(|it| it.get("labels"));
        if is_of_kubernetes(&namespace, &text(labels.and_then(|it| it.get(SERVICE_LABEL)))) {
            return Box::default();
        }
        let endpoints = slice.get("endpoints").and_then(Value::as_array).into_iter().flatten();
        let unknown = endpoints.enumerate().filter_map(|(index, endpoint)| {
            let address = endpoint.get("addresses")?.get(0)?.as_str()?.parse().ok()?;
            let pod: Arc<str> =
                text(endpoint.get("targetRef").and_then(|it| it.get("name"))).into();
            let is_there = self.pod(&namespace, &pod).is_some_and(|pod| pod.has(address));
            (!is_there).then(|| Named::in_slice(address, index))
        });
        unknown.collect()
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
            if let Some(Pod { labels, service_account, .. }) =
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
            let locality = node.and_then(|node| self.locality(&node));
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

/// Where Kubernetes itself has endpoints on nodes: whoever writes there has the cluster.
fn is_of_kubernetes(namespace: &str, service: &str) -> bool {
    namespace == "kube-system" || (namespace, service) == ("default", "kubernetes")
}

fn pods(entry: &Entry) -> impl Iterator<Item = PodName> {
    let pods = match &entry.facts {
        Facts::EndpointSlice { pods, .. } => &pods[..],
        _ => &[],
    };
    pods.iter().map(|name| (Arc::clone(&entry.key.namespace), Arc::clone(name)))
}
