//! The sidecar as a pod that is merged into the user's.

use serde_json::{Map, Value, json};
use weir_config::api::mesh_config::proxy_config::InterceptionMode;

use super::{
    config::Config,
    knobs::Knobs,
    pod::{INIT, PROXY, Pod, VALIDATION, name_of},
    record::Own,
};

/// The name of our own template.
pub const SIDECAR: &str = "sidecar";

const USER: u64 = 1337;
const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
/// What a label's value may be long.
const MAX_LABEL: usize = 63;

/// A pod with nothing but what the sidecar needs.
pub fn sidecar(pod: &Pod, namespace: &str, config: &Config, knobs: &Knobs, own: &Own) -> Value {
    let user = user(knobs, own);
    let proxy = proxy(pod, namespace, config, knobs, user);
    let mut init: Vec<Value> = Vec::new();
    if knobs.mode != InterceptionMode::None {
        init.push(if config.cni { validation(config, knobs) } else { rules(config, knobs, user) });
    }
    let mut containers = Vec::new();
    if knobs.is_native {
        init.push(proxy)
    } else {
        containers.push(proxy)
    }
    let mut spec = json!({ "volumes": volumes(config, knobs) });
    for (list, items) in [("initContainers", init), ("containers", containers)] {
        if !items.is_empty() {
            spec[list] = json!(items);
        }
    }
    if !config.image_pull_secrets.is_empty() {
        let secrets = config.image_pull_secrets.iter().map(|name| json!({ "name": name }));
        spec["imagePullSecrets"] = secrets.collect();
    }
    json!({ "spec": spec, "metadata": metadata(pod, config) })
}

/// Labels and annotations that say what workload it is. Those that are there are the user's.
pub fn name_workload(pod: &mut Pod, namespace: &str, config: &Config) {
    let name = canonical_name(pod, namespace);
    let revision = first_label(pod, &[CANONICAL_REVISION, "app.kubernetes.io/version", "version"]);
    let revision = revision.unwrap_or("latest").to_owned();
    for (label, value) in [(CANONICAL_NAME, name), (CANONICAL_REVISION, revision)] {
        if pod.label(label).is_none() {
            pod.set_label(label, value);
        }
    }
    let annotations = config.injected_annotations.clone();
    annotations.into_iter().for_each(|(name, value)| pod.set_annotation(&name, value));
}

fn metadata(pod: &Pod, _config: &Config) -> Value {
    let mut annotations = Map::new();
    if let Some(container) = pod.first_of_application() {
        for name in ["default-container", "default-logs-container"] {
            let name = format!("kubectl.kubernetes.io/{name}");
            if pod.annotation(&name).is_none() {
                annotations.insert(name, json!(container));
            }
        }
    }
    let mut labels = Map::new();
    // Whoever says otherwise takes no mutual TLS.
    if pod.label("security.istio.io/tlsMode").is_none() {
        labels.insert("security.istio.io/tlsMode".into(), json!("istio"));
    }
    json!({ "annotations": annotations, "labels": labels })
}

/// Who the sidecar runs as. TPROXY needs the superuser.
fn user(knobs: &Knobs, own: &Own) -> u64 {
    let said = own.proxy().and_then(|proxy| proxy.pointer("/securityContext/runAsUser")?.as_u64());
    match knobs.mode {
        InterceptionMode::Tproxy => 0,
        InterceptionMode::Redirect | InterceptionMode::None => said.unwrap_or(USER),
    }
}

fn group(user: u64) -> u64 {
    if user == 0 { USER } else { user }
}

/// Programs the rules. It is the one step that a `restricted` namespace does not take.
fn rules(config: &Config, knobs: &Knobs, user: u64) -> Value {
    let mut container = init_container(INIT, config, knobs, init_arguments(knobs, user));
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": 0,
        "runAsNonRoot": false,
        "runAsUser": 0,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    container
}

/// Asks whether the node's agent has programmed the rules: not as the sidecar's user, whose
/// connections are not captured.
fn validation(config: &Config, knobs: &Knobs) -> Value {
    let arguments = vec!["--skip-rule-apply".into(), "--run-validation".into()];
    let mut container = init_container(VALIDATION, config, knobs, arguments);
    container["securityContext"] = unprivileged(65532, 65532);
    container
}

fn init_container(name: &str, config: &Config, knobs: &Knobs, arguments: Vec<String>) -> Value {
    let mut container = json!({
        "name": name,
        "image": knobs.image,
        "command": ["weir-init"],
        "args": arguments,
        "resources": config.init_resources,
    });
    pull_policy(&mut container, config);
    container
}

fn init_arguments(knobs: &Knobs, user: u64) -> Vec<String> {
    let mode = match knobs.mode {
        InterceptionMode::Tproxy => "TPROXY",
        InterceptionMode::Redirect | InterceptionMode::None => "REDIRECT",
    };
    let (user, group) = (user.to_string(), group(user).to_string());
    // As the superuser the sidecar is told from the application by its group alone.
    let owner = if user == "0" { &group } else { &user };
    let mut arguments: Vec<String> = ["-p", "15001", "-z", "15006", "-u", owner, "-g", &group]
        .into_iter()
        .chain(["-m", mode])
        .map(str::to_owned)
        .collect();
    for (flag, value) in &knobs.capture {
        arguments.extend([(*flag).to_owned(), value.clone()]);
    }
    if metadata_says(knobs, "ISTIO_META_DNS_CAPTURE") {
        arguments.extend(["--redirect-dns".into(), "--capture-all-dns".into()]);
    }
    if metadata_says(knobs, "INVALID_DROP") {
        arguments.push("--drop-invalid".into());
    }
    arguments
}

fn metadata_says(knobs: &Knobs, name: &str) -> bool {
    knobs.proxy.proxy_metadata.get(name).is_some_and(|value| super::annotations::is_true(value))
}

fn proxy(pod: &Pod, namespace: &str, config: &Config, knobs: &Knobs, user: u64) -> Value {
    let mut container = json!({
        "name": PROXY,
        "image": knobs.image,
        "command": ["weir-sidecar"],
        "args": ["--discovery", knobs.proxy_config["discoveryAddress"], "--log-level", knobs.log_level],
        "ports": [{ "name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP" }],
        "env": environment(pod, namespace, config, knobs),
        "resources": knobs.resources,
        "securityContext": security_context(knobs, user),
        "volumeMounts": mounts(knobs),
    });
    pull_policy(&mut container, config);
    if let Some(lifecycle) = lifecycle(config, knobs) {
        container["lifecycle"] = lifecycle;
    }
    if knobs.is_native {
        container["restartPolicy"] = json!("Always");
    }
    if knobs.status_port.is_some() {
        let ready = json!({ "path": "/healthz/ready", "port": 15021 });
        // Native, the next init container waits for it; else the application does not.
        container["startupProbe"] = json!({
            "httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 600,
        });
        container["readinessProbe"] = json!({
            "httpGet": ready,
            "initialDelaySeconds": knobs.readiness.initial_delay_seconds,
            "periodSeconds": knobs.readiness.period_seconds,
            "timeoutSeconds": 3,
            "failureThreshold": knobs.readiness.failure_threshold,
        });
    }
    container
}

/// Hooks run our own program: a page to ask would be open to the cluster.
fn lifecycle(config: &Config, knobs: &Knobs) -> Option<Value> {
    if let Some(lifecycle) = &config.lifecycle {
        return Some(lifecycle.clone());
    }
    let run = |command: &str| json!({ "exec": { "command": ["weir-sidecar", command] } });
    if knobs.is_native {
        return Some(json!({ "preStop": run("drain") }));
    }
    knobs.holds.then(|| json!({ "postStart": run("wait") }))
}

fn security_context(knobs: &Knobs, user: u64) -> Value {
    let mut context = unprivileged(user, group(user));
    let capability = match knobs.mode {
        InterceptionMode::Tproxy => Some("NET_ADMIN"),
        InterceptionMode::Redirect | InterceptionMode::None => {
            knobs.binds_low_ports.then_some("NET_BIND_SERVICE")
        }
    };
    if let Some(capability) = capability {
        context["capabilities"]["add"] = json!([capability]);
    }
    context
}

fn unprivileged(user: u64, group: u64) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": group,
        "runAsNonRoot": user != 0,
        "runAsUser": user,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

fn environment(pod: &Pod, namespace: &str, config: &Config, knobs: &Knobs) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let plain = |name: &str, value: &str| json!({ "name": name, "value": value });
    let owner = owner(pod, namespace);
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

/// Whom a pod belongs to.
struct Owner {
    name: String,
    path: String,
}

/// The workload, as its owner says; a Deployment is known by the ReplicaSet in between.
fn owner(pod: &Pod, namespace: &str) -> Owner {
    let owners = pod.0.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controls = |owner: &&Value| owner.get("controller") == Some(&Value::Bool(true));
    let owner = owners.and_then(|owners| owners.iter().find(controls));
    let text = |field: &str| owner.and_then(|owner| owner.get(field)?.as_str()).unwrap_or_default();
    let (mut version, mut kind, mut name) = (text("apiVersion"), text("kind"), text("name"));
    if owner.is_none() {
        let own = [pod.text("/metadata/name"), pod.text("/metadata/generateName")];
        name = own.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        (version, kind) = ("v1", "Pod");
    }
    let hash = pod.label("pod-template-hash").filter(|_| kind == "ReplicaSet");
    let deployment = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    if let Some(deployment) = deployment {
        (kind, name) = ("Deployment", deployment);
    }
    let name = name.trim_end_matches('-').to_owned();
    let kinds = format!("{}s", kind.to_lowercase());
    Owner {
        path: format!("kubernetes://apis/{version}/namespaces/{namespace}/{kinds}/{name}"),
        name,
    }
}

fn canonical_name(pod: &Pod, namespace: &str) -> String {
    let said = first_label(pod, &[CANONICAL_NAME, "app.kubernetes.io/name", "app"]);
    let mut name = said.map_or_else(|| owner(pod, namespace).name, str::to_owned);
    name.truncate(MAX_LABEL);
    // A label ends with a letter or digit.
    name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

fn first_label<'a>(pod: &'a Pod, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| pod.label(name)).filter(|value| !value.is_empty())
}

fn volumes(config: &Config, knobs: &Knobs) -> Vec<Value> {
    let memory = json!({ "medium": "Memory" });
    let fields = |path: &str| json!({ "path": path, "fieldRef": { "fieldPath": format!("metadata.{path}") } });
    let token = json!({
        "audience": config.token_audience, "expirationSeconds": 43200, "path": "istio-token",
    });
    let mut volumes = vec![
        json!({ "name": "workload-socket", "emptyDir": {} }),
        json!({ "name": "credential-socket", "emptyDir": {} }),
        json!({ "name": "workload-certs", "emptyDir": {} }),
        json!({ "name": "istio-envoy", "emptyDir": memory }),
        json!({ "name": "istio-data", "emptyDir": {} }),
        json!({ "name": "istio-podinfo", "downwardAPI": { "items": [fields("labels"), fields("annotations")] } }),
        json!({ "name": "istio-token", "projected": { "sources": [{ "serviceAccountToken": token }] } }),
        json!({ "name": "istiod-ca-cert", "configMap": { "name": "istio-ca-root-cert" } }),
    ];
    volumes.extend(knobs.volumes.iter().cloned());
    volumes
}

fn mounts(knobs: &Knobs) -> Vec<Value> {
    const PLACES: [(&str, &str); 8] = [
        ("workload-socket", "/var/run/secrets/workload-spiffe-uds"),
        ("credential-socket", "/var/run/secrets/credential-uds"),
        ("workload-certs", "/var/run/secrets/workload-spiffe-credentials"),
        ("istiod-ca-cert", "/var/run/secrets/istio"),
        ("istio-data", "/var/lib/istio/data"),
        ("istio-envoy", "/etc/istio/proxy"),
        ("istio-token", "/var/run/secrets/tokens"),
        ("istio-podinfo", "/etc/istio/pod"),
    ];
    let ours = PLACES.iter().map(|(name, path)| json!({ "name": name, "mountPath": path }));
    ours.chain(knobs.volume_mounts.iter().cloned()).collect()
}

fn pull_policy(container: &mut Value, config: &Config) {
    if !config.image_pull_policy.is_empty() {
        container["imagePullPolicy"] = json!(config.image_pull_policy);
    }
}
