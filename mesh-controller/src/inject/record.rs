//! What was done to a pod, kept in its annotations: so that doing it again begins where it began.

use serde_json::{Map, Value, json};

use super::{
    config::Config,
    merge::merge,
    pod::{INIT, LISTS, PROXY, Pod, env, has, name_of},
    probes, scrape,
};

const STATUS: &str = "sidecar.istio.io/status";
const OVERRIDES: &str = "proxy.istio.io/overrides";
const REVISION: &str = "istio.io/rev";
/// Lists of the spec that templates add to.
const RECORDED: [&str; 4] = ["initContainers", "containers", "volumes", "imagePullSecrets"];

/// What an earlier injection did, and what this one does.
#[derive(Debug, Default)]
pub struct Record {
    probers: Map<String, Value>,
    scraped: Option<String>,
    /// Names by list.
    added: Vec<(&'static str, String)>,
}

/// Containers of the user with names of ours, and the lists they were in: what they say wins.
#[derive(Debug, Default)]
pub struct Own(Vec<(&'static str, Value)>);

impl Record {
    /// Undoes an earlier injection.
    pub fn take_from(pod: &mut Pod) -> Result<Self, String> {
        let mut record = Self::default();
        let Some(status) = pod.remove_annotation(STATUS) else { return Ok(record) };
        let unreadable = |name: &str| format!("metadata.annotations[{name}]: no record of ours");
        let status: Value = serde_json::from_str(&status).ok().ok_or_else(|| unreadable(STATUS))?;
        if let Some(proxy) = pod.container(PROXY) {
            let probers = env(proxy, probes::ENV).and_then(|text| serde_json::from_str(text).ok());
            record.probers = probers.unwrap_or_default();
            record.scraped = env(proxy, scrape::ENV).map(str::to_owned);
        }
        for list in RECORDED {
            let names: Vec<_> =
                status.get(list).and_then(Value::as_array).into_iter().flatten().collect();
            if let Some(items) = pod.list_mut(list) {
                items.retain(|item| !names.iter().any(|name| *name == name_of(item)));
            }
        }
        if let Some(overrides) = pod.remove_annotation(OVERRIDES) {
            let overrides: Value =
                serde_json::from_str(&overrides).ok().ok_or_else(|| unreadable(OVERRIDES))?;
            merge(&mut pod.0, &json!({ "spec": overrides }));
        }
        Ok(record)
    }

    /// Takes out the user's containers that are named as ours.
    pub fn own_containers(&self, pod: &mut Pod) -> Own {
        let mut own = Own::default();
        for list in LISTS {
            let Some(containers) = pod.list_mut(list) else { continue };
            containers.retain(|container| {
                let is_own = [PROXY, INIT].contains(&name_of(container));
                if is_own {
                    own.0.push((list, container.clone()));
                }
                !is_own
            });
        }
        own
    }

    /// Notes what a template is about to add.
    pub fn note(&mut self, pod: &Pod, overlay: &Value) {
        for list in RECORDED {
            let items = overlay.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
            for item in items.into_iter().flatten() {
                let name = name_of(item);
                if !name.is_empty() && !has(pod.list(list), name) {
                    self.added.push((list, name.to_owned()));
                }
            }
        }
    }

    /// Probes that were rewritten before, by their new path.
    pub fn probers(&self) -> &Map<String, Value> {
        &self.probers
    }

    /// Where the application's metrics were, if they were moved before.
    pub fn scraped(&self) -> Option<&str> {
        self.scraped.as_deref()
    }

    /// Writes it down.
    pub fn write_to(&self, pod: &mut Pod, own: &Own, config: &Config) {
        let mut status = Map::new();
        for list in RECORDED {
            let names = self.added.iter().filter(|(of, _)| *of == list).map(|(_, name)| name);
            let names: Vec<_> = names.collect();
            status.insert(list.into(), if names.is_empty() { Value::Null } else { json!(names) });
        }
        status.insert("revision".into(), json!(config.revision));
        pod.set_annotation(STATUS, Value::Object(status).to_string());
        pod.set_annotation(REVISION, &config.revision);
        if !own.0.is_empty() {
            let mut overrides = Map::new();
            for (list, container) in &own.0 {
                let list = overrides.entry(*list).or_insert_with(|| json!([]));
                list.as_array_mut().expect("it was made a list").push(container.clone());
            }
            pod.set_annotation(OVERRIDES, Value::Object(overrides).to_string());
        }
    }
}

impl Own {
    /// What the user says of the sidecar's container.
    pub fn proxy(&self) -> Option<&Value> {
        self.0.iter().map(|(_, container)| container).find(|container| name_of(container) == PROXY)
    }

    /// Merges what the user says over what the templates do. Image `auto` is theirs.
    pub fn win(&self, pod: &mut Pod) {
        for (list, container) in &self.0 {
            let mut container = container.clone();
            if container.get("image").is_some_and(|image| image == "auto") {
                container.as_object_mut().expect("it has a field").remove("image");
            }
            match pod.container_mut(name_of(&container)) {
                Some(ours) => merge(ours, &container),
                // No template has one: it is just a container of the user.
                None => merge(&mut pod.0, &json!({ "spec": { (*list): [container] } })),
            }
        }
    }
}
