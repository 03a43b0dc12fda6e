//! The workload a pod is of, and what tells others.

use serde_json::Value;

use super::{config::Config, pod::Pod};

const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
/// What a label's value may be long.
const MAX_LABEL: usize = 63;

/// Labels and annotations that say what workload it is. Those that are there are the user's.
pub fn name(pod: &mut Pod, namespace: &str, config: &Config) {
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

/// The workload a pod belongs to.
pub struct Owner {
    pub name: String,
    /// As Istio writes it: `kubernetes://apis/apps/v1/namespaces/NS/deployments/NAME`.
    pub path: String,
}

impl Owner {
    /// The workload, as its owner says; a Deployment is known by the ReplicaSet in between.
    pub fn of(pod: &Pod, namespace: &str) -> Self {
        let owners = pod.0.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let controls = |owner: &&Value| owner.get("controller") == Some(&Value::Bool(true));
        let owner = owners.and_then(|owners| owners.iter().find(controls));
        let text =
            |field: &str| owner.and_then(|owner| owner.get(field)?.as_str()).unwrap_or_default();
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
        Self {
            path: format!("kubernetes://apis/{version}/namespaces/{namespace}/{kinds}/{name}"),
            name,
        }
    }
}

fn canonical_name(pod: &Pod, namespace: &str) -> String {
    let said = first_label(pod, &[CANONICAL_NAME, "app.kubernetes.io/name", "app"]);
    let name = said.map_or_else(|| Owner::of(pod, namespace).name, str::to_owned);
    let name: String = name.chars().take(MAX_LABEL).collect();
    // A label ends with a letter or digit.
    name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

fn first_label<'a>(pod: &'a Pod, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| pod.label(name)).filter(|value| !value.is_empty())
}
