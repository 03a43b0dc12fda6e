//! A pod as JSON, and the parts of it that injection looks at.

use serde_json::{Map, Value, json};

/// The sidecar's container: users and tools know it by this name.
pub const PROXY: &str = "istio-proxy";
/// The init container that programs the rules.
pub const INIT: &str = "istio-init";
/// The init container that asks whether somebody else did.
pub const VALIDATION: &str = "istio-validation";
/// Fields of the spec that list containers.
pub const LISTS: [&str; 2] = ["initContainers", "containers"];

/// A pod with metadata and spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod(pub Value);

impl Pod {
    /// `None` if it has no spec.
    pub fn new(pod: &Value) -> Option<Self> {
        pod.get("spec")?.as_object()?;
        Some(Self(pod.clone()))
    }

    pub fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn flag(&self, pointer: &str) -> bool {
        self.0.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.0.get("metadata")?.get("labels")?.get(name)?.as_str()
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.0.get("metadata")?.get("annotations")?.get(name)?.as_str()
    }

    pub fn set_annotation(&mut self, name: &str, value: impl Into<String>) {
        self.metadata("annotations").insert(name.into(), json!(value.into()));
    }

    pub fn set_label(&mut self, name: &str, value: impl Into<String>) {
        self.metadata("labels").insert(name.into(), json!(value.into()));
    }

    pub fn remove_annotation(&mut self, name: &str) -> Option<String> {
        let annotations = self.0.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?;
        annotations.remove(name)?.as_str().map(str::to_owned)
    }

    /// The containers of a list, which may not be there.
    pub fn list(&self, list: &str) -> &[Value] {
        let list = self.0.get("spec").and_then(|spec| spec.get(list)).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    pub fn list_mut(&mut self, list: &str) -> Option<&mut Vec<Value>> {
        self.0.get_mut("spec")?.get_mut(list)?.as_array_mut()
    }

    /// Init containers and containers.
    pub fn containers(&self) -> impl Iterator<Item = &Value> {
        LISTS.into_iter().flat_map(|list| self.list(list))
    }

    pub fn container(&self, name: &str) -> Option<&Value> {
        self.containers().find(|container| name_of(container) == name)
    }

    pub fn container_mut(&mut self, name: &str) -> Option<&mut Value> {
        let list = LISTS.into_iter().find(|list| has(self.list(list), name))?;
        self.list_mut(list)?.iter_mut().find(|container| name_of(container) == name)
    }

    /// The first container of the application.
    pub fn first_of_application(&self) -> Option<&str> {
        self.list("containers").iter().map(name_of).find(|name| *name != PROXY)
    }

    fn metadata(&mut self, field: &str) -> &mut Map<String, Value> {
        let metadata = object(&mut self.0["metadata"]);
        object(metadata.entry(field).or_insert_with(|| json!({})))
    }
}

/// Sets a variable of a container, in the place of one of the same name.
pub fn set_env(container: &mut Value, name: &str, value: &str) {
    let variable = json!({ "name": name, "value": value });
    if !container["env"].is_array() {
        container["env"] = json!([]);
    }
    let Some(env) = container["env"].as_array_mut() else { return };
    match env.iter_mut().find(|variable| name_of(variable) == name) {
        Some(there) => *there = variable,
        None => env.push(variable),
    }
}

/// A variable of a container that has a plain value.
pub fn env<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    let variables = container.get("env")?.as_array()?;
    variables.iter().find(|variable| name_of(variable) == name)?.get("value")?.as_str()
}

/// The name of a container, volume or variable.
pub fn name_of(item: &Value) -> &str {
    item.get("name").and_then(Value::as_str).unwrap_or_default()
}

pub fn has(list: &[Value], name: &str) -> bool {
    list.iter().any(|item| name_of(item) == name)
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made an object")
}
