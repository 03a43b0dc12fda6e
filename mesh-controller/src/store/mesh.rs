//! The mesh configuration in force.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};
use tracing::{info, warn};
use weir_config::{
    api::{Kind, LabelSelector, MeshConfig, ObjectKey, mesh_config::HostTakeover},
    diagnostic::Severity,
    parse::parse_mesh_config,
    wire::discovery::Resource,
};

use super::{Encoded, Labels};

/// The ConfigMaps that may hold it, the first that exists is the one.
const NAMES: [&str; 2] = ["weir", "istio"];

/// What of it decides who sees what, and the whole as it is sent.
#[derive(Debug, Clone)]
pub struct Mesh {
    pub root_namespace: Arc<str>,
    pub trust_domain: Arc<str>,
    pub host_takeover: HostTakeover,
    pub service_export_to: Box<[String]>,
    pub virtual_service_export_to: Box<[String]>,
    pub destination_rule_export_to: Box<[String]>,
    /// Namespaces that count; all where there is none.
    discovery_selectors: Box<[LabelSelector]>,
    pub resource: Arc<Encoded>,
}

impl Mesh {
    /// Whether objects of a namespace with these labels count; `None`: it is not known.
    pub(super) fn discovers(&self, labels: Option<&Labels>) -> bool {
        let selects = |selector: &LabelSelector| {
            labels.is_some_and(|labels| selector.selects(|key| labels.get(key).map(String::as_str)))
        };
        self.discovery_selectors.is_empty() || self.discovery_selectors.iter().any(selects)
    }

    /// Whether both show the same objects to the same proxies.
    pub(super) fn has_same_visibility(&self, other: &Self) -> bool {
        let of = |mesh: &Self| {
            (
                Arc::clone(&mesh.root_namespace),
                mesh.service_export_to.clone(),
                mesh.virtual_service_export_to.clone(),
                mesh.destination_rule_export_to.clone(),
                mesh.discovery_selectors.clone(),
            )
        };
        of(self) == of(other)
    }
}

/// The texts of the ConfigMaps that exist.
#[derive(Debug)]
pub(super) struct MeshConfigMaps {
    namespace: Arc<str>,
    texts: BTreeMap<Arc<str>, String>,
}

impl MeshConfigMaps {
    pub(super) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.into(), texts: BTreeMap::new() }
    }

    /// Whether `key` is one of them.
    fn is_one(&self, key: &ObjectKey) -> bool {
        key.kind == Kind::ConfigMap
            && key.namespace == self.namespace
            && NAMES.contains(&&*key.name)
    }

    /// Returns whether something changed.
    pub(super) fn insert(&mut self, key: &ObjectKey, text: String) -> bool {
        if !self.is_one(key) || self.texts.get(&key.name) == Some(&text) {
            return false;
        }
        self.texts.insert(Arc::clone(&key.name), text);
        true
    }

    /// Returns whether something changed.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        self.is_one(key) && self.texts.remove(&key.name).is_some()
    }

    /// Where none is given.
    pub(super) fn defaults(&self) -> Mesh {
        self.mesh(&MeshConfig::default(), Map::new())
    }

    /// The configuration, or `None` if what is written is wrong: the last good one stays.
    pub(super) fn in_force(&self) -> Option<Mesh> {
        let found = NAMES.iter().find_map(|name| Some((name, self.texts.get(*name)?)));
        let Some((name, text)) = found else {
            info!("there is no mesh configuration; the defaults are in force");
            return Some(self.defaults());
        };
        let file = format!("ConfigMap {}/{name}", self.namespace);
        let (config, diagnostics) = parse_mesh_config(&file, text.as_bytes());
        let mut is_valid = true;
        for diagnostic in &diagnostics {
            is_valid &= diagnostic.severity != Severity::Error;
            warn!("mesh configuration: {diagnostic}");
        }
        // An empty text is a configuration with nothing set.
        let document = serde_yaml::from_str::<Option<Map<String, Value>>>(text);
        match (config, document) {
            (Some(config), Ok(document)) if is_valid => {
                Some(self.mesh(&config, document.unwrap_or_default()))
            }
            (_, Err(error)) => {
                warn!("{file} is not used, the last good one stays: {error}");
                None
            }
            _ => None,
        }
    }

    fn mesh(&self, config: &MeshConfig, mut document: Map<String, Value>) -> Mesh {
        let or = |value: &str, default: &str| -> Arc<str> {
            if value.is_empty() { default.into() } else { value.into() }
        };
        let root_namespace = or(&config.root_namespace, &self.namespace);
        // Proxies cannot know where the controller is.
        document.insert("rootNamespace".to_owned(), Value::String(root_namespace.to_string()));
        Mesh {
            root_namespace,
            trust_domain: or(&config.trust_domain, "cluster.local"),
            host_takeover: config.host_takeover,
            service_export_to: config.default_service_export_to.as_slice().into(),
            virtual_service_export_to: config.default_virtual_service_export_to.as_slice().into(),
            destination_rule_export_to: config.default_destination_rule_export_to.as_slice().into(),
            discovery_selectors: config.discovery_selectors.as_slice().into(),
            resource: Arc::new(Resource::of_mesh_config(document).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { kind: Kind::ConfigMap, namespace: "weir-system".into(), name: name.into() }
    }

    #[test]
    fn the_root_namespace_is_the_controllers_unless_said_otherwise() {
        let mut maps = MeshConfigMaps::new("weir-system");
        assert_eq!(&*maps.defaults().root_namespace, "weir-system");
        assert!(maps.insert(&key("istio"), "rootNamespace: istio-config".to_owned()));
        assert_eq!(maps.in_force().map(|mesh| mesh.root_namespace), Some("istio-config".into()));
    }

    #[test]
    fn our_config_map_comes_before_istios() {
        let mut maps = MeshConfigMaps::new("weir-system");
        maps.insert(&key("istio"), "trustDomain: theirs".to_owned());
        maps.insert(&key("weir"), "trustDomain: ours".to_owned());
        assert_eq!(maps.in_force().map(|mesh| mesh.trust_domain), Some("ours".into()));
        assert!(maps.remove(&key("weir")));
        assert_eq!(maps.in_force().map(|mesh| mesh.trust_domain), Some("theirs".into()));
        assert!(!maps.insert(&key("other"), String::new()));
    }

    #[test]
    fn a_text_that_is_no_mesh_configuration_is_not_used() {
        let mut maps = MeshConfigMaps::new("weir-system");
        maps.insert(&key("weir"), "trustDomain: [1".to_owned());
        assert!(maps.in_force().is_none());
        maps.insert(&key("weir"), String::new());
        assert!(maps.in_force().is_some());
    }
}
