//! Injection without a cluster: the manifests of a user, of which pods and templates of pods are
//! injected and the rest is passed on as it is.

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{Config, Decision, inject, merge::merge};

/// Kinds that make pods, and where in them the pod is.
const TEMPLATES: [(&str, &str); 8] = [
    ("Pod", ""),
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("ReplicationController", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];

/// A manifest that cannot be injected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no YAML.
    #[error("document {document}: {source}")]
    Yaml {
        /// Counted from 1.
        document: usize,
        /// What is wrong with it.
        #[source]
        source: serde_yaml::Error,
    },
    /// A pod in it cannot be injected.
    #[error("document {document}, {kind} {name}: {source}")]
    Rejected {
        /// Counted from 1.
        document: usize,
        /// The kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: super::Rejection,
    },
}

/// Injects every pod of a stream of YAML documents. `namespace` is that of objects that name none.
///
/// # Errors
/// The first document that is no YAML, or that has a pod that cannot be injected.
pub fn inject_manifests(text: &str, namespace: &str, config: &Config) -> Result<String, Error> {
    let mut documents = Vec::new();
    for (index, text) in split(text).into_iter().enumerate() {
        let document = index + 1;
        let yaml = |source| Error::Yaml { document, source };
        let object = Value::deserialize(serde_yaml::Deserializer::from_str(text)).map_err(yaml)?;
        let injected = inject_object(&object, namespace, config).map_err(|source| {
            let said = |pointer| object.pointer(pointer).and_then(Value::as_str);
            let (kind, name) = (said("/kind"), said("/metadata/name"));
            let [kind, name] = [kind, name].map(|word| word.unwrap_or_default().to_owned());
            Error::Rejected { document, kind, name, source }
        })?;
        documents.push(match injected {
            // As JSON, which is YAML: a text like `yes` is none for every reader unless it is quoted.
            Some(object) => format!("{object:#}\n"),
            // As it was written, with its comments.
            None => text.to_owned(),
        });
    }
    Ok(documents.join("---\n"))
}

/// `None` if nothing in it is injected.
fn inject_object(
    object: &Value,
    namespace: &str,
    config: &Config,
) -> Result<Option<Value>, super::Rejection> {
    if let Some(items) = object.get("items").and_then(Value::as_array) {
        let mut list = object.clone();
        for (index, item) in items.iter().enumerate() {
            if let Some(injected) = inject_object(item, namespace, config)? {
                list["items"][index] = injected;
            }
        }
        return Ok((list != *object).then_some(list));
    }
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let Some((_, place)) = TEMPLATES.iter().find(|(known, _)| *known == kind) else {
        return Ok(None);
    };
    let Some(pod) = object.pointer(place) else { return Ok(None) };
    let own = object.pointer("/metadata/namespace").and_then(Value::as_str);
    let pod = if place.is_empty() { pod.clone() } else { owned(pod, object) };
    let Decision::Inject(injected) = inject(&pod, own.unwrap_or(namespace), config)? else {
        return Ok(None);
    };
    let mut pod = injected.pod;
    let mut object = object.clone();
    if !place.is_empty() {
        disown(&mut pod);
    }
    *object.pointer_mut(place).expect("the pod was found there") = pod;
    Ok(Some(object))
}

/// A pod of a template as the cluster makes it: what it belongs to is its name.
fn owned(template: &Value, owner: &Value) -> Value {
    let of = |pointer: &str| owner.pointer(pointer).cloned().unwrap_or_default();
    let owners = json!([{
        "apiVersion": of("/apiVersion"), "kind": of("/kind"), "name": of("/metadata/name"),
        "controller": true,
    }]);
    let mut pod = template.clone();
    merge(&mut pod, &json!({ "metadata": { "ownerReferences": owners } }));
    pod
}

fn disown(pod: &mut Value) {
    if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("ownerReferences");
    }
}

/// The documents of a stream, which lines of `---` are between. Empty ones are left out.
fn split(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" {
            documents.push(&text[start..at]);
            start = at + line.len();
        }
        at += line.len();
    }
    documents.push(&text[start..]);
    let is_comment = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    documents.retain(|document| !document.lines().all(is_comment));
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFESTS: &str = "\
# The application.
---
apiVersion: v1
kind: Service # as it is
metadata: {name: web}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: front}}
    spec:
      containers: [{name: web, image: web}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  jobTemplate:
    spec:
      template:
        metadata: {labels: {sidecar.istio.io/inject: \"false\"}}
        spec: {containers: [{name: job, image: job}]}
";

    #[test]
    fn templates_of_pods_are_injected_and_the_rest_is_as_it_was_written() {
        let injected = inject_manifests(MANIFESTS, "default", &Config::default()).unwrap();
        let documents: Vec<_> = injected.split("---\n").collect();
        assert_eq!(documents.len(), 3);
        assert!(documents[0].contains("kind: Service # as it is"), "{}", documents[0]);
        let deployment: Value = serde_yaml::from_str(documents[1]).unwrap();
        assert_eq!(deployment["spec"]["replicas"], 2);
        let pod = &deployment["spec"]["template"];
        assert_eq!(pod["spec"]["initContainers"][1]["name"], "istio-proxy");
        assert_eq!(pod["metadata"].get("ownerReferences"), None);
        let owner = "kubernetes://apis/apps/v1/namespaces/shop/deployments/web";
        assert!(documents[1].contains(owner), "{}", documents[1]);
        assert!(documents[2].contains("{name: job, image: job}"), "{}", documents[2]);
    }

    #[test]
    fn what_was_injected_is_injected_to_the_same() {
        let once = inject_manifests(MANIFESTS, "default", &Config::default()).unwrap();
        assert_eq!(inject_manifests(&once, "default", &Config::default()).unwrap(), once);
    }

    #[test]
    fn items_of_a_list_are_injected() {
        let list =
            "kind: List\nitems:\n- {kind: Pod, metadata: {name: a}, spec: {containers: []}}\n";
        let injected = inject_manifests(list, "default", &Config::default()).unwrap();
        assert!(injected.contains("istio-proxy"), "{injected}");
    }

    #[test]
    fn what_cannot_be_injected_is_named() {
        let refused = |text: &str| {
            let error = inject_manifests(text, "default", &Config::default()).unwrap_err();
            error.to_string()
        };
        let annotation = "{inject.istio.io/templates: gate}";
        let pod =
            format!("kind: Pod\nmetadata: {{name: a, annotations: {annotation}}}\nspec: {{}}\n");
        assert_eq!(
            refused(&pod),
            "document 1, Pod a: the pod cannot be injected: there is no template \"gate\"; there are: \
             sidecar"
        );
        assert!(refused("a: [\n").starts_with("document 1: "), "{}", refused("a: [\n"));
    }
}
