//! What the sidecar is told of its pod.

use serde_json::{Value, json};
use weir_config::api::mesh_config::proxy_config::InterceptionMode;

use super::{
    config::Config,
    knobs::Knobs,
    pod::{PROXY, Pod, name_of},
    workload::Owner,
};

/// Variables of the sidecar: what Istio's template gives them, by its names.
pub fn variables(pod: &Pod, namespace: &str, config: &Config, knobs: &Knobs) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let plain = |name: &str, value: &str| json!({ "name": name, "value": value });
    let owner = Owner::of(pod, namespace);
    let mode = match knobs.mode {
        InterceptionMode::Redirect => "REDIRECT",
        InterceptionMode::Tproxy => "TPROXY",
        InterceptionMode::None => "NONE",
    };
    let trust_domain = config.mesh_config.get("trustDomain").and_then(Value::as_str);
    let mut environment = vec![
        plain("CA_ADDR", knobs.proxy_config["discoveryAddress"].as_str().unwrap_or_default()),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("INSTANCE_IPS", "status.podIPs"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        json!({ "name": "ISTIO_CPU_LIMIT", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } }),
        plain("PROXY_CONFIG", &knobs.proxy_config.to_string()),
        plain("ISTIO_META_POD_PORTS", &Value::from(ports(pod)).to_string()),
        plain("ISTIO_META_APP_CONTAINERS", &application(pod).join(",")),
        plain("ISTIO_META_CLUSTER_ID", &config.cluster_name),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        plain("ISTIO_META_INTERCEPTION_MODE", mode),
        plain("ISTIO_META_WORKLOAD_NAME", &owner.name),
        plain("ISTIO_META_OWNER", &owner.path),
        plain("ISTIO_META_MESH_ID", &config.mesh_id),
        plain("TRUST_DOMAIN", trust_domain.unwrap_or("cluster.local")),
        plain("DOMAIN_SUFFIX", &config.cluster_domain),
    ];
    let network = pod.label("topology.istio.io/network").unwrap_or(&config.network);
    if !network.is_empty() {
        environment.push(plain("ISTIO_META_NETWORK", network));
    }
    if let Some(port) = knobs.own_status_port() {
        environment.push(plain("WEIR_AGENT", &format!("0.0.0.0:{port}")));
    }
    let metadata = &knobs.proxy.proxy_metadata;
    environment.extend(metadata.iter().map(|(name, value)| plain(name, value)));
    environment
}

fn ports(pod: &Pod) -> Vec<Value> {
    let containers = pod.list("containers").iter().filter(|container| name_of(container) != PROXY);
    let ports = containers.filter_map(|container| container.get("ports")?.as_array());
    ports.flatten().cloned().collect()
}

fn application(pod: &Pod) -> Vec<&str> {
    pod.list("containers").iter().map(name_of).filter(|name| *name != PROXY).collect()
}
