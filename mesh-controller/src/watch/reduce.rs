//! From what the API server has to what is kept of it: kilobytes, and nothing that no proxy needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde_json::{Map, Value};
use weir_config::api::{Kind, ObjectKey, kubernetes};

use super::{
    Watched, WatchedKind,
    request::{Document, Identity},
};
use crate::store::{
    Change, Entry, Locality, Node, Place, Pod, Refused, Unusable, Written,
    annotate_foreign_addresses, generation,
};

const REGION_LABEL: &str = "topology.kubernetes.io/region";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const SUB_ZONE_LABEL: &str = "topology.istio.io/subzone";

/// The fields of a Service that have to do with traffic.
const SERVICE_FIELDS: &[&str] = &[
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "ports",
    "publishNotReadyAddresses",
    "selector",
    "trafficDistribution",
    "type",
];
const ENDPOINT_FIELDS: &[&str] =
    &["addresses", "conditions", "hostname", "nodeName", "targetRef", "zone"];
/// What certificates, keys, authorities and revocation lists are called in Secrets and ConfigMaps.
const MATERIAL_FIELDS: &[&str] =
    &["ca.crl", "ca.crt", "cacert", "cert", "crl", "key", "tls.crt", "tls.key", "tls.ocsp-staple"];
/// Those of them that make it one for TLS.
const MATERIAL_MARKS: &[&str] = &["ca.crt", "cacert", "cert", "tls.crt"];

/// The change that a new version of an object is.
pub(super) fn upsert(watched: &Watched, mut object: Document, domain: &str) -> Change {
    let Identity { namespace, name, .. } = Identity::of(&object);
    let (namespace, name): (Arc<str>, Arc<str>) = (namespace.into(), name.into());
    let kind = match watched.kind {
        WatchedKind::Pod => {
            return Change::Pod { namespace, name, pod: Some(pod(&object)) };
        }
        WatchedKind::Node => {
            let labels = labels(&object);
            let label = |name| labels.get(name).map(|value| value.as_str().into());
            let locality = Locality {
                region: label(REGION_LABEL).unwrap_or_default(),
                zone: label(ZONE_LABEL).unwrap_or_default(),
                sub_zone: label(SUB_ZONE_LABEL).unwrap_or_default(),
            };
            let node = Node { locality, addresses: node_addresses(&object) };
            return Change::Node { name, node: Some(node) };
        }
        WatchedKind::Namespace => {
            let uid = object.get("metadata").and_then(|metadata| metadata.get("uid")?.as_str());
            let uid = uid.unwrap_or_default().into();
            return Change::Namespace { name, labels: Some(labels(&object)), uid };
        }
        WatchedKind::Object(kind) => kind,
    };
    let key = ObjectKey { kind, namespace, name };
    name_type(watched, kind, &mut object);
    match kind {
        Kind::Secret | Kind::ConfigMap => {
            if let Some(text) = mesh_config(kind, &object) {
                return Change::MeshConfig { key, text };
            }
            if !keep_material(&mut object) {
                return Change::Remove(key);
            }
        }
        Kind::ServiceEntry | Kind::WorkloadEntry => annotate_foreign_addresses(&mut object, ""),
        Kind::Service => {
            keep(object.get_mut("spec"), SERVICE_FIELDS);
            annotate_foreign_addresses(&mut object, "");
        }
        Kind::EndpointSlice => {
            reduce_slice(&mut object);
            return Change::EndpointSlice(object);
        }
        _ => {}
    }
    let (generation, written) = (generation(&object), Written::of(&object));
    match Entry::read(object, domain) {
        Ok(entry) => Change::Upsert(entry),
        Err(reason) => Change::Unreadable(key, Refused { reason, generation, written }),
    }
}

/// The change that a new version of an object is if it cannot be read because of a bug; `None`: of its
/// kind the last version just stays.
pub(super) fn unread(watched: &Watched, object: &Document) -> Option<Change> {
    let WatchedKind::Object(kind) = watched.kind else { return None };
    let Identity { namespace, name, .. } = Identity::of(object);
    let key = ObjectKey { kind, namespace: namespace.into(), name: name.into() };
    let (generation, written) = (generation(object), Written::of(object));
    Some(Change::Unreadable(key, Refused { reason: Unusable::Bug, generation, written }))
}

/// The change that the end of an object is.
pub(super) fn remove(watched: &Watched, namespace: &str, name: &str) -> Change {
    let (namespace, name) = (Arc::from(namespace), Arc::from(name));
    match watched.kind {
        WatchedKind::Pod => Change::Pod { namespace, name, pod: None },
        WatchedKind::Node => Change::Node { name, node: None },
        WatchedKind::Namespace => Change::Namespace { name, labels: None, uid: Arc::default() },
        WatchedKind::Object(kind) => Change::Remove(ObjectKey { kind, namespace, name }),
    }
}

/// What a ConfigMap has where mesh configurations are.
fn mesh_config(kind: Kind, object: &Document) -> Option<String> {
    let data = object.get("data").filter(|_| kind == Kind::ConfigMap)?;
    data.get("mesh")?.as_str().map(str::to_owned)
}

/// Lists of Kubernetes' own kinds do not repeat for each object what it is.
fn name_type(watched: &Watched, kind: Kind, object: &mut Map<String, Value>) {
    let version = watched.versions[0];
    let api_version = match watched.group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    object.entry("apiVersion").or_insert(Value::String(api_version));
    object.entry("kind").or_insert_with(|| Value::String(kind.name().to_owned()));
}

fn keep(value: Option<&mut Value>, fields: &[&str]) {
    if let Some(Value::Object(object)) = value {
        object.retain(|field, _| fields.contains(&field.as_str()));
    }
}

fn reduce_slice(slice: &mut Map<String, Value>) {
    let Some(Value::Array(endpoints)) = slice.get_mut("endpoints") else { return };
    for endpoint in endpoints {
        keep(Some(endpoint), ENDPOINT_FIELDS);
        keep(endpoint.get_mut("targetRef"), &["kind", "name", "namespace"]);
    }
}

/// Leaves of a Secret or ConfigMap what TLS needs. Returns whether there is anything.
fn keep_material(object: &mut Map<String, Value>) -> bool {
    object.retain(|field, _| {
        ["apiVersion", "kind", "metadata", "type", "data", "binaryData"].contains(&field.as_str())
    });
    keep(object.get_mut("metadata"), &["name", "namespace", "creationTimestamp", "uid"]);
    let mut is_material = false;
    for field in ["data", "binaryData"] {
        keep(object.get_mut(field), MATERIAL_FIELDS);
        if let Some(Value::Object(data)) = object.get(field) {
            is_material |= MATERIAL_MARKS.iter().any(|mark| data.contains_key(*mark));
        }
    }
    is_material
}

fn pod(object: &Document) -> Pod {
    let account = object.get("spec").and_then(|spec| spec.get("serviceAccountName"));
    Pod {
        labels: Arc::new(labels(object)),
        service_account: account.and_then(Value::as_str).unwrap_or_default().into(),
        addresses: own_addresses(object),
        node_addresses: status_addresses(object, "hostIP", "hostIPs"),
        is_on_node: is_on_node(object),
        place: place(object),
    }
}

/// The addresses that are a pod's until it is over; one in the network of its node has none.
fn own_addresses(object: &Document) -> Box<[IpAddr]> {
    let phase = object.get("status").and_then(|it| it.get("phase")).cloned().unwrap_or_default();
    if is_on_node(object) || phase == "Succeeded" || phase == "Failed" {
        return Box::default();
    }
    status_addresses(object, "podIP", "podIPs")
}

fn is_on_node(object: &Document) -> bool {
    let spec = object.get("spec");
    spec.and_then(|spec| spec.get("hostNetwork")) == Some(&Value::Bool(true))
}

/// The addresses of a node, whatever they are for; some are names.
fn node_addresses(object: &Document) -> Box<[IpAddr]> {
    let list = object.get("status").and_then(|status| status.get("addresses"));
    let list = list.and_then(Value::as_array).into_iter().flatten();
    let texts = list.filter_map(|it| it.get("address")?.as_str());
    let addresses: BTreeSet<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    addresses.into_iter().collect()
}

/// What `status` has in a list, of which older Kubernetes has the first one only.
fn status_addresses(object: &Document, first: &str, all: &str) -> Box<[IpAddr]> {
    let Some(status) = object.get("status") else { return Box::default() };
    let list = status.get(all).and_then(Value::as_array).into_iter().flatten();
    let list = list.filter_map(|entry| entry.get("ip"));
    let texts = status.get(first).into_iter().chain(list).filter_map(Value::as_str);
    let addresses: BTreeSet<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    addresses.into_iter().collect()
}

/// Where a pod is that can be sent to: it is ready and not about to end.
fn place(object: &Document) -> Option<Place> {
    let is_leaving = object.get("metadata").is_some_and(|it| it.get("deletionTimestamp").is_some());
    if is_leaving {
        return None;
    }
    let read = |field: &str| object.get(field).cloned().unwrap_or_default();
    let (status, spec) = (read("status"), read("spec"));
    let pod = kubernetes::Pod {
        spec: serde_json::from_value(spec.clone()).ok()?,
        status: serde_json::from_value(status).ok()?,
        locality: String::new(),
    };
    // The kubelet says of every pod whether it is ready, before there is anything to connect to.
    let is_said = pod.status.conditions.iter().any(|condition| condition.r#type == "Ready");
    let node = spec.get("nodeName").and_then(Value::as_str).unwrap_or_default();
    let ports = pod.named_ports().into_iter().map(|(name, number)| (name.into(), number));
    (is_said && pod.is_ready()).then_some(())?;
    Some(Place {
        address: pod.status.pod_ip.parse().ok()?,
        node: node.into(),
        ports: ports.collect(),
    })
}

fn labels(object: &Document) -> BTreeMap<String, String> {
    let labels = object.get("metadata").and_then(|metadata| metadata.get("labels"));
    let labels = labels.and_then(Value::as_object).into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::watch::WATCHED;

    fn change(kind: Kind, object: &Value) -> Change {
        let watched = WATCHED.iter().find(|watched| watched.kind == WatchedKind::Object(kind));
        upsert(watched.unwrap(), object.as_object().unwrap().clone(), "cluster.local")
    }

    #[test]
    fn of_a_secret_nothing_but_certificates_is_kept() {
        let change = change(
            Kind::Secret,
            &json!({"metadata": {"name": "web", "namespace": "a", "labels": {"team": "x"}},
                "type": "Opaque",
                "data": {"tls.crt": "Yw==", "tls.key": "aw==", "password": "c2VjcmV0"}}),
        );
        let Change::Upsert(entry) = change else { panic!("{change:?}") };
        let object = Value::Object(entry.object());
        assert_eq!(object["data"], json!({"tls.crt": "Yw==", "tls.key": "aw=="}));
        assert_eq!(object["metadata"], json!({"name": "web", "namespace": "a"}));
    }

    #[test]
    fn a_secret_for_something_else_is_not_kept_at_all() {
        let change = change(
            Kind::Secret,
            &json!({"metadata": {"name": "db", "namespace": "a"},
                "data": {"password": "c2VjcmV0", "key": "eA=="}}),
        );
        let Change::Remove(key) = change else { panic!("{change:?}") };
        assert_eq!(key.to_string(), "Secret a/db");
    }

    #[test]
    fn what_tools_write_into_objects_is_dropped() {
        let change = change(
            Kind::VirtualService,
            &json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                "metadata": {"name": "v", "namespace": "a", "generation": 3, "resourceVersion": "77",
                    "managedFields": [{"manager": "kubectl"}],
                    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
                "spec": {"hosts": ["a.com"]}, "status": {"conditions": []}}),
        );
        let Change::Upsert(entry) = change else { panic!("{change:?}") };
        assert_eq!(entry.generation, Some(3));
        let object = Value::Object(entry.object());
        assert_eq!(object["metadata"], json!({"name": "v", "namespace": "a", "generation": 3}));
        assert_eq!(object.get("status"), None);
    }

    #[test]
    fn an_object_with_wrong_types_says_so() {
        let change = change(
            Kind::VirtualService,
            &json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                "metadata": {"name": "v", "namespace": "a"}, "spec": {"hosts": 7}}),
        );
        let Change::Unreadable(key, Refused { reason, .. }) = change else { panic!("{change:?}") };
        assert_eq!(key.to_string(), "VirtualService a/v");
        assert!(reason.to_string().contains("spec.hosts"), "{reason}");
    }
}
