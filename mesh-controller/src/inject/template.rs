//! The sidecar as a pod that is merged into the user's.

use serde_json::{Map, Value, json};
use weir_config::api::mesh_config::proxy_config::InterceptionMode;

use super::{
    config::Config,
    environment,
    knobs::Knobs,
    pod::{INIT, PROXY, Pod, VALIDATION},
    record::Own,
};

/// The name of our own template.
pub const SIDECAR: &str = "sidecar";

const USER: u64 = 1337;
/// What a container that is started again goes on with: in memory, as it holds the workload's key, and
/// gone with the pod.
const STATE_DIR: &str = "/etc/istio/proxy";
/// The variable with the arguments of `weir-init`, a list in JSON.
const REDIRECT: &str = "WEIR_REDIRECT";
/// How long a native sidecar may take until it is ready. A restarted controller is back by then.
const START_LIMIT: &str = "30s";

/// A pod with nothing but what the sidecar needs.
pub fn sidecar(pod: &Pod, namespace: &str, config: &Config, knobs: &Knobs, own: &Own) -> Value {
    let proxy = proxy(pod, namespace, config, knobs, own);
    let mut init: Vec<Value> = Vec::new();
    if knobs.mode != InterceptionMode::None {
        if !config.cni {
            init.push(rules(config, knobs, user(knobs, own)));
        } else if !knobs.is_native {
            // What follows a native sidecar waits for it, and it asks by itself.
            init.push(validation(config, knobs));
        }
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
    json!({ "spec": spec, "metadata": metadata(pod, knobs) })
}

fn metadata(pod: &Pod, knobs: &Knobs) -> Value {
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
    const TUNNEL: &str = "networking.istio.io/tunnel";
    if metadata_says(knobs, "ISTIO_META_ENABLE_HBONE") && pod.label(TUNNEL).is_none() {
        labels.insert(TUNNEL.into(), json!("http"));
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

/// The agent of the node programs the rules. The sidecar is told which: the agent reads that of the pod,
/// where it cannot be changed any more.
fn awaits_redirection(config: &Config, knobs: &Knobs) -> bool {
    config.cni && knobs.mode != InterceptionMode::None
}

/// Programs the rules. It is the one step that a `restricted` namespace does not take.
fn rules(config: &Config, knobs: &Knobs, user: u64) -> Value {
    let mut arguments = init_arguments(knobs, user);
    let stays = knobs.is_native && config.resident_init;
    if stays {
        arguments.insert(0, "stay".into());
    }
    let mut container = init_container(INIT, config, knobs, arguments);
    if stays {
        container["restartPolicy"] = json!("Always");
        // The kubelet starts the sidecar when it has ended.
        container["lifecycle"] = json!({ "postStart": run(&["weir-init", "wait"]) });
    }
    // Why there are no rules.
    container["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
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
    if let Some(port) = knobs.own_status_port() {
        exclude_inbound(&mut arguments, port);
    }
    if metadata_says(knobs, "ISTIO_META_DNS_CAPTURE") {
        arguments.extend(["--redirect-dns".into(), "--capture-all-dns".into()]);
    }
    if metadata_says(knobs, "INVALID_DROP") {
        arguments.push("--drop-invalid".into());
    }
    arguments
}

/// A port that the sidecar answers on itself, beside those that it always does.
fn exclude_inbound(arguments: &mut Vec<String>, port: u16) {
    let value = arguments.iter().position(|it| it == "-d").map(|flag| flag + 1);
    match value.and_then(|at| arguments.get_mut(at)) {
        Some(ports) => *ports += &format!(",{port}"),
        None => arguments.extend(["-d".to_owned(), port.to_string()]),
    }
}

fn metadata_says(knobs: &Knobs, name: &str) -> bool {
    knobs.proxy.proxy_metadata.get(name).is_some_and(|value| super::annotations::is_true(value))
}

fn proxy(pod: &Pod, namespace: &str, config: &Config, knobs: &Knobs, own: &Own) -> Value {
    let mut container = json!({
        "name": PROXY,
        "image": knobs.image,
        "command": ["weir-sidecar"],
        "args": [
            "--discovery", knobs.proxy_config["discoveryAddress"],
            "--state-dir", STATE_DIR,
            "--identity-dir", STATE_DIR,
            "--log-level", knobs.log_level,
        ],
        "ports": [{ "name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP" }],
        "env": environment::variables(pod, namespace, config, knobs),
        "resources": knobs.resources,
        "securityContext": security_context(knobs, user(knobs, own)),
        "volumeMounts": mounts(knobs),
    });
    if awaits_redirection(config, knobs) {
        push(&mut container["args"], json!("--await-redirection"));
        let arguments = init_arguments(knobs, user(knobs, own));
        let told = json!({ "name": REDIRECT, "value": json!(arguments).to_string() });
        push(&mut container["env"], told);
    }
    pull_policy(&mut container, config);
    let waits = waits(config, knobs, own);
    if let Some(lifecycle) = lifecycle(config, knobs, waits) {
        container["lifecycle"] = lifecycle;
    }
    if knobs.is_native {
        container["restartPolicy"] = json!("Always");
    }
    if knobs.status_port.is_some() {
        let ready = json!({ "path": "/healthz/ready", "port": 15021 });
        // Beside the hook it would only delay: the kubelet probes once a second, and acts on the result
        // when it next looks at all pods.
        if !waits {
            container["startupProbe"] = json!({
                "httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 600,
            });
        }
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

/// Whether what comes after the sidecar waits for our hook, which ends when the sidecar is ready. Native,
/// that are the other init containers and the application; else it is the application, where it is to.
fn waits(config: &Config, knobs: &Knobs, own: &Own) -> bool {
    let is_theirs = |proxy: &Value| proxy.pointer("/lifecycle/postStart").is_some();
    let is_ours = config.lifecycle.is_none() && !own.proxy().is_some_and(is_theirs);
    is_ours && (knobs.is_native || knobs.holds)
}

/// Hooks run our own program: a page to ask would be open to the cluster.
fn lifecycle(config: &Config, knobs: &Knobs, waits: bool) -> Option<Value> {
    if let Some(lifecycle) = &config.lifecycle {
        return Some(lifecycle.clone());
    }
    let mut hooks = Map::new();
    if waits {
        // While it runs, the kubelet neither shows how the pod is nor ends it. Native, nothing starts
        // when it fails, so that it can: the sidecar is started again.
        let limit: &[&str] = if knobs.is_native { &["--timeout", START_LIMIT] } else { &[] };
        hooks.insert("postStart".into(), run(&[&["weir-sidecar", "wait"], limit].concat()));
    }
    if knobs.is_native {
        hooks.insert("preStop".into(), run(&["weir-sidecar", "drain"]));
    }
    (!hooks.is_empty()).then_some(Value::Object(hooks))
}

/// A hook.
fn run(command: &[&str]) -> Value {
    json!({ "exec": { "command": command } })
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
        ("istio-envoy", STATE_DIR),
        ("istio-token", "/var/run/secrets/tokens"),
        ("istio-podinfo", "/etc/istio/pod"),
    ];
    let ours = PLACES.iter().map(|(name, path)| json!({ "name": name, "mountPath": path }));
    ours.chain(knobs.volume_mounts.iter().cloned()).collect()
}

fn push(list: &mut Value, item: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

fn pull_policy(container: &mut Value, config: &Config) {
    if !config.image_pull_policy.is_empty() {
        container["imagePullPolicy"] = json!(config.image_pull_policy);
    }
}
