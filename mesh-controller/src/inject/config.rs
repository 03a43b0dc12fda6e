//! What is injected, and into whom: values of the chart. Names are those of Istio's.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use weir_config::api::{LabelSelector, mesh_config::MeshConfig};

/// The settings of injection.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// What the namespaces' label `istio.io/rev` says for this controller.
    pub revision: String,
    /// Whether pods are injected that do not say whether they want to be.
    pub auto_inject: bool,
    pub never_inject_selector: Vec<LabelSelector>,
    pub always_inject_selector: Vec<LabelSelector>,
    /// Annotations that every injected pod gets.
    pub injected_annotations: BTreeMap<String, String>,
    /// Templates for pods that name none.
    pub default_templates: Vec<String>,
    /// Templates by name: pods in YAML that are merged into the injected one.
    pub templates: BTreeMap<String, String>,
    #[serde(rename = "rewriteAppHTTPProbe")]
    pub rewrite_app_http_probe: bool,
    /// The rules are programmed by the node's agent, and only asked for by the pod.
    pub cni: bool,
    /// Sidecars are init containers that stay, which all nodes have to be able to; absent, where they
    /// are.
    pub native_sidecars: Option<bool>,
    /// Where they are, what programs the rules stays too: the sidecar starts without waiting for the
    /// kubelet to notice that it has ended.
    pub resident_init: bool,
    /// Image of the sidecar, which also holds `weir-init`.
    pub image: String,
    pub image_pull_policy: String,
    pub image_pull_secrets: Vec<String>,
    /// Where the sidecar gets its configuration and certificates.
    pub discovery_address: String,
    pub cluster_domain: String,
    pub cluster_name: String,
    pub network: String,
    pub mesh_id: String,
    /// Audience of the token that the sidecar shows.
    pub token_audience: String,
    pub log_level: String,
    pub resources: Resources,
    pub init_resources: Resources,
    /// In place of our hooks.
    pub lifecycle: Option<Value>,
    pub capture: Capture,
    /// The settings of the mesh, a MeshConfig: what they say of proxies.
    pub mesh_config: Value,
}

/// What a container asks for, and what it may have.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

/// What is captured where a pod does not say.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    #[serde(rename = "includeIPRanges")]
    pub include_ip_ranges: String,
    #[serde(rename = "excludeIPRanges")]
    pub exclude_ip_ranges: String,
    #[serde(rename = "includeInboundPorts")]
    pub include_inbound_ports: String,
    #[serde(rename = "excludeInboundPorts")]
    pub exclude_inbound_ports: String,
    #[serde(rename = "includeOutboundPorts")]
    pub include_outbound_ports: String,
    #[serde(rename = "excludeOutboundPorts")]
    pub exclude_outbound_ports: String,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            include_ip_ranges: "*".into(),
            exclude_ip_ranges: String::new(),
            include_inbound_ports: "*".into(),
            exclude_inbound_ports: String::new(),
            include_outbound_ports: String::new(),
            exclude_outbound_ports: String::new(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let amounts = |cpu: &str, memory: &str| {
            BTreeMap::from([("cpu".into(), cpu.into()), ("memory".into(), memory.into())])
        };
        let resources = Resources { requests: amounts("50m", "32Mi"), limits: amounts("2", "1Gi") };
        Self {
            revision: "default".into(),
            auto_inject: true,
            never_inject_selector: Vec::new(),
            always_inject_selector: Vec::new(),
            injected_annotations: BTreeMap::new(),
            default_templates: vec!["sidecar".into()],
            templates: BTreeMap::new(),
            rewrite_app_http_probe: true,
            cni: false,
            native_sidecars: None,
            resident_init: true,
            image: "weir/weir-sidecar".into(),
            image_pull_policy: String::new(),
            image_pull_secrets: Vec::new(),
            discovery_address: "weir-controller.weir-system.svc:15012".into(),
            cluster_domain: "cluster.local".into(),
            cluster_name: "Kubernetes".into(),
            network: String::new(),
            mesh_id: "cluster.local".into(),
            token_audience: "istio-ca".into(),
            log_level: "info".into(),
            init_resources: Resources {
                requests: amounts("1m", "8Mi"),
                limits: amounts("1", "32Mi"),
            },
            resources,
            lifecycle: None,
            capture: Capture::default(),
            mesh_config: Value::Object(serde_json::Map::new()),
        }
    }
}

impl Config {
    /// Reads settings in YAML.
    ///
    /// # Errors
    /// What they cannot be, or say that has no meaning.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut config: Self = serde_yaml::from_str(text)?;
        config.set_mesh_config(config.mesh_config.clone())?;
        for name in config.templates.keys() {
            config.custom_template(name).map_err(anyhow::Error::msg)?;
        }
        Ok(config)
    }

    /// Replaces the settings of the mesh.
    ///
    /// # Errors
    /// They are none.
    pub fn set_mesh_config(&mut self, mesh: Value) -> anyhow::Result<()> {
        let _: MeshConfig = serde_json::from_value(mesh.clone())?;
        self.mesh_config = mesh;
        Ok(())
    }

    /// A template of the user, as a pod.
    pub(super) fn custom_template(&self, name: &str) -> Result<Value, String> {
        let Some(text) = self.templates.get(name) else {
            let known: Vec<_> = self.templates.keys().map(String::as_str).collect();
            let known = [&["sidecar"], &known[..]].concat().join(", ");
            return Err(format!("there is no template {name:?}; there are: {known}"));
        };
        if text.contains("{{") {
            return Err(format!("the template {name:?} has expressions in {{{{ }}}}: write YAML"));
        }
        let pod: Value = serde_yaml::from_str(text)
            .map_err(|error| format!("the template {name:?} is no YAML: {error}"))?;
        if !pod.is_object() {
            return Err(format!("the template {name:?} is no pod"));
        }
        Ok(pod)
    }
}
