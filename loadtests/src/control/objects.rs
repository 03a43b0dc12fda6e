//! The objects of a case.

use anyhow::Context as _;
use serde_json::{Value, json};

/// What Gateways select, and proxies have.
pub const LABEL: (&str, &str) = ("istio", "loadtests");

/// The host of the origin behind every route of a gateway.
pub const ORIGIN: &str = "origin.test";

/// Where objects of a kind are.
const COLLECTIONS: [(&str, &str, &str); 8] = [
    ("Namespace", "/api/v1", "namespaces"),
    ("ServiceAccount", "/api/v1", "serviceaccounts"),
    ("Service", "/api/v1", "services"),
    ("EndpointSlice", "/apis/discovery.k8s.io/v1", "endpointslices"),
    ("Gateway", "/apis/networking.istio.io/v1", "gateways"),
    ("VirtualService", "/apis/networking.istio.io/v1", "virtualservices"),
    ("DestinationRule", "/apis/networking.istio.io/v1", "destinationrules"),
    ("ServiceEntry", "/apis/networking.istio.io/v1", "serviceentries"),
];

/// Where an object is created.
pub fn collection(object: &Value) -> anyhow::Result<String> {
    let kind = object["kind"].as_str().context("an object has a kind")?;
    let known = COLLECTIONS.iter().find(|(known, ..)| *known == kind);
    let (_, base, plural) = known.with_context(|| format!("where is a {kind}?"))?;
    Ok(match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{base}/namespaces/{namespace}/{plural}"),
        None => format!("{base}/{plural}"),
    })
}

/// Where an object is.
pub fn path(object: &Value) -> anyhow::Result<String> {
    let name = object["metadata"]["name"].as_str().context("an object has a name")?;
    Ok(format!("{}/{name}", collection(object)?))
}

pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub fn service_account(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace}})
}

/// The Gateway that all routes are of, for every host.
pub fn gateway(namespace: &str, port: u16) -> Value {
    let (label, value) = LABEL;
    json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": namespace},
        "spec": {"selector": {label: value}, "servers": [
            {"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}})
}

/// A host of its own, sent to `destination`; answers say which host's route they took.
pub fn virtual_service(namespace: &str, host: &str, destination: &str) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": host, "namespace": namespace},
        "spec": {"hosts": [host], "gateways": ["edge"], "http": [{
            "headers": {"response": {"set": {"x-route": host}}},
            "route": [{"destination": {"host": destination, "port": {"number": 80}}}]}]}})
}

pub fn destination_rule(namespace: &str, service: &str) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": service, "namespace": namespace},
        "spec": {"host": service, "trafficPolicy": {
            "connectionPool": {"http": {"http2MaxRequests": 1000}}}}})
}

/// [`ORIGIN`] on a port of this host.
pub fn origin(namespace: &str, port: u16) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "origin", "namespace": namespace},
        "spec": {"hosts": [ORIGIN], "location": "MESH_EXTERNAL", "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": "127.0.0.1", "ports": {"http": port}}]}})
}

/// Has kube-proxy leave alone what nobody calls: with each change of an endpoint it would write the rules
/// of all Services anew, for most of the machine's time.
const UNCALLED: (&str, &str) = ("service.kubernetes.io/service-proxy-name", "none");

/// A Service whose endpoints nobody but us keeps, and that nobody calls.
pub fn service(namespace: &str, name: &str) -> Value {
    let (label, value) = UNCALLED;
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": {label: value}},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

/// The EndpointSlice of a Service, with the endpoints of [`endpoints`].
pub fn slice(namespace: &str, service: &str, edition: u32) -> Value {
    let (label, value) = UNCALLED;
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-1"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service, label: value}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints(edition)})
}

/// Three endpoints; each edition has another first one.
pub fn endpoints(edition: u32) -> Value {
    let [_, a, b, c] = edition.to_be_bytes();
    let ready = json!({"ready": true, "serving": true, "terminating": false});
    let addresses = [format!("10.{a}.{b}.{c}"), "10.255.255.1".into(), "10.255.255.2".into()];
    addresses
        .into_iter()
        .map(|address| json!({"addresses": [address], "conditions": ready}))
        .collect()
}
