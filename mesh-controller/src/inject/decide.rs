//! Whether a pod is injected. The API server asks only about pods that the webhook's selectors let
//! through; what is decided here is the rest.

use std::collections::BTreeMap;

use weir_config::api::LabelSelector;

use super::{config::Config, pod::Pod};

/// Namespaces whose pods the cluster itself needs.
const SYSTEM: [&str; 4] = ["kube-node-lease", "kube-public", "kube-system", "local-path-storage"];
const INJECT: &str = "sidecar.istio.io/inject";

/// Why a pod is not injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Because {
    /// The rules would be those of the node.
    #[error("it uses the node's network")]
    HostNetwork,
    /// Its namespace is the cluster's own.
    #[error("its namespace is the cluster's own")]
    SystemNamespace,
    /// It says so.
    #[error("its label or annotation sidecar.istio.io/inject is false")]
    Unwanted,
    /// The configuration says so of pods with such labels.
    #[error("a neverInjectSelector selects it")]
    NeverSelected,
    /// The configuration says so of pods that say nothing.
    #[error("pods are injected on request only, and it does not ask")]
    NotAsked,
}

/// What there is to be warned of if it is injected.
pub fn decide(pod: &Pod, namespace: &str, config: &Config) -> Result<Vec<String>, Because> {
    if pod.flag("/spec/hostNetwork") {
        return Err(Because::HostNetwork);
    }
    if SYSTEM.contains(&namespace) {
        return Err(Because::SystemNamespace);
    }
    let word = pod.label(INJECT).or_else(|| pod.annotation(INJECT)).unwrap_or_default();
    let mut warnings = Vec::new();
    match word {
        "true" => return Ok(warnings),
        "false" => return Err(Because::Unwanted),
        "" => {}
        word => {
            warnings.push(format!("{INJECT}: {word:?} is neither true nor false; it is ignored"))
        }
    }
    let labels = labels(pod);
    if any_selects(&config.never_inject_selector, &labels) {
        return Err(Because::NeverSelected);
    }
    if any_selects(&config.always_inject_selector, &labels) || config.auto_inject {
        return Ok(warnings);
    }
    Err(Because::NotAsked)
}

fn labels(pod: &Pod) -> BTreeMap<&str, &str> {
    let labels = pod.0.pointer("/metadata/labels").and_then(|labels| labels.as_object());
    let labels = labels.into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
}

fn any_selects(selectors: &[LabelSelector], labels: &BTreeMap<&str, &str>) -> bool {
    selectors.iter().any(|selector| selects(selector, labels))
}

/// An empty selector selects nothing: it is more likely to be a mistake than meant for all.
fn selects(selector: &LabelSelector, labels: &BTreeMap<&str, &str>) -> bool {
    !selector.is_empty() && selector.selects(|key| labels.get(key).copied())
}
