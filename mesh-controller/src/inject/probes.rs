//! Probes of the kubelet, which has no certificate: they are sent to the sidecar, which asks the
//! application.

use serde_json::{Map, Value, json};

use super::{
    knobs::Knobs,
    pod::{INIT, LISTS, PROXY, Pod, VALIDATION, name_of, set_env},
};

/// The sidecar's variable with what it asks the application, by the path it is asked itself.
pub const ENV: &str = "ISTIO_KUBE_APP_PROBERS";

/// Where a handler is in a container, and the path it is asked at.
const HANDLERS: [(&[&str], &str, &str); 5] = [
    (&["livenessProbe"], "app-health", "livez"),
    (&["readinessProbe"], "app-health", "readyz"),
    (&["startupProbe"], "app-health", "startupz"),
    (&["lifecycle", "preStop"], "app-lifecycle", "prestopz"),
    (&["lifecycle", "postStart"], "app-lifecycle", "poststartz"),
];
/// What a handler does that goes over the network.
const KINDS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Sends the probes and hooks of the application to the sidecar. Those that were are kept as they
/// were recorded.
pub fn rewrite(pod: &mut Pod, knobs: &Knobs, earlier: &Map<String, Value>) {
    let Some(port) = knobs.status_port.filter(|_| knobs.rewrites_probes) else { return };
    let mut probers = Map::new();
    for list in LISTS {
        for container in pod.list_mut(list).into_iter().flatten() {
            if ![PROXY, INIT, VALIDATION].contains(&name_of(container)) {
                rewrite_container(container, port, earlier, &mut probers);
            }
        }
    }
    if let Some(proxy) = pod.container_mut(PROXY).filter(|_| !probers.is_empty()) {
        set_env(proxy, ENV, &Value::Object(probers).to_string());
    }
}

fn rewrite_container(
    container: &mut Value,
    port: u16,
    earlier: &Map<String, Value>,
    probers: &mut Map<String, Value>,
) {
    let name = name_of(container).to_owned();
    let ports = container.get("ports").cloned().unwrap_or_default();
    for (place, folder, page) in HANDLERS {
        let path = format!("/{folder}/{name}/{page}");
        let handler = place.iter().try_fold(&mut *container, |value, field| value.get_mut(field));
        let Some(handler) = handler else { continue };
        let ours = json!({ "path": path, "port": port });
        if handler.get("httpGet").is_some_and(|get| is_ours(get, &ours)) {
            probers.extend(earlier.get(&path).map(|prober| (path, prober.clone())));
        } else if let Some(prober) = prober(handler, &ports) {
            let handler = handler.as_object_mut().expect("it has a handler");
            KINDS.iter().for_each(|kind| drop(handler.remove(*kind)));
            handler.insert("httpGet".into(), ours);
            probers.insert(path, prober);
        }
    }
}

/// Whether it was rewritten before. The API server adds what is usual (`scheme`) in between.
fn is_ours(get: &Value, ours: &Value) -> bool {
    get.get("path") == ours.get("path") && get.get("port") == ours.get("port")
}

/// What the sidecar has to ask; `None` where nobody asks over the network, or nobody knows the port.
fn prober(handler: &Value, ports: &Value) -> Option<Value> {
    let (kind, asked) = KINDS.iter().find_map(|kind| Some((*kind, handler.get(kind)?)))?;
    let mut asked = asked.clone();
    asked["port"] = json!(number(asked.get("port")?, ports)?);
    let mut prober = Map::from_iter([(kind.to_owned(), asked)]);
    prober
        .extend(handler.get("timeoutSeconds").map(|time| ("timeoutSeconds".into(), time.clone())));
    Some(Value::Object(prober))
}

fn number(port: &Value, ports: &Value) -> Option<u64> {
    let name = match port {
        Value::String(name) => name,
        port => return port.as_u64(),
    };
    let named = ports.as_array()?.iter().find(|port| name_of(port) == name);
    named.and_then(|port| port.get("containerPort")?.as_u64()).or_else(|| name.parse().ok())
}
