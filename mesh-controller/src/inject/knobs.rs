//! What a pod asks for in annotations, over what the configuration says.

use serde_json::{Map, Value};
use weir_config::{
    api::mesh_config::{ProxyConfig, proxy_config::InterceptionMode},
    parse::parse_proxy_config,
};

use super::{
    annotations,
    config::{Config, Resources},
    merge::merge,
    pod::Pod,
};

/// Where the sidecar answers for the kubelet unless it is told another port.
const STATUS_PORT: u16 = 15020;

/// The settings of one pod's sidecar.
#[derive(Debug)]
pub struct Knobs {
    pub templates: Vec<String>,
    pub mode: InterceptionMode,
    /// Arguments of `weir-init`, flag and value.
    pub capture: Vec<(&'static str, String)>,
    /// None: the sidecar does not answer for the kubelet.
    pub status_port: Option<u16>,
    pub readiness: Readiness,
    pub rewrites_probes: bool,
    pub merges_metrics: bool,
    pub is_native: bool,
    /// The application starts after the sidecar is ready.
    pub holds: bool,
    pub image: String,
    pub resources: Resources,
    pub log_level: String,
    pub binds_low_ports: bool,
    /// Volumes and mounts that the user adds to the sidecar.
    pub volumes: Vec<Value>,
    pub volume_mounts: Vec<Value>,
    /// The ProxyConfig as written, of the mesh and the pod; and read.
    pub proxy_config: Value,
    pub proxy: ProxyConfig,
}

/// When the sidecar is asked whether it is ready.
#[derive(Debug)]
pub struct Readiness {
    pub initial_delay_seconds: u32,
    pub period_seconds: u32,
    pub failure_threshold: u32,
}

impl Knobs {
    /// The settings of this pod.
    ///
    /// # Errors
    /// Everything that is wrong with its annotations.
    pub fn of(pod: &Pod, config: &Config) -> Result<Self, Vec<String>> {
        let mut problems = annotations::problems(pod);
        let proxy_config = proxy_config(pod, config).unwrap_or_else(|wrong| {
            let annotation = "metadata.annotations[proxy.istio.io/config]";
            problems.extend(wrong.into_iter().map(|wrong| format!("{annotation}: {wrong}")));
            Value::Null
        });
        let proxy = serde_json::from_value(proxy_config.clone()).unwrap_or_else(|error| {
            // What is wrong with the pod's own was said already.
            if !proxy_config.is_null() {
                problems.push(format!("defaultConfig of the mesh configuration: {error}"));
            }
            ProxyConfig::default()
        });
        if problems.is_empty() {
            Ok(Self::read(pod, config, proxy_config, proxy))
        } else {
            Err(problems)
        }
    }

    /// The status port, where it is not the usual one.
    pub fn own_status_port(&self) -> Option<u16> {
        self.status_port.filter(|port| *port != STATUS_PORT)
    }

    fn read(pod: &Pod, config: &Config, proxy_config: Value, proxy: ProxyConfig) -> Self {
        let says = |name: &str| pod.annotation(name).map(annotations::is_true);
        let number = |name: &str, default| {
            pod.annotation(name).and_then(|word| word.parse().ok()).unwrap_or(default)
        };
        let status_port = pod.annotation("status.sidecar.istio.io/port");
        let status_port = status_port.and_then(|word| word.parse().ok()).or(proxy.status_port);
        Self {
            templates: templates(pod, config),
            mode: mode(pod, &proxy),
            capture: capture(pod, config),
            status_port: Some(status_port.unwrap_or(STATUS_PORT)).filter(|port| *port > 0),
            readiness: Readiness {
                initial_delay_seconds: number(
                    "readiness.status.sidecar.istio.io/initialDelaySeconds",
                    0,
                ),
                period_seconds: number("readiness.status.sidecar.istio.io/periodSeconds", 15),
                failure_threshold: number("readiness.status.sidecar.istio.io/failureThreshold", 4),
            },
            rewrites_probes: says("sidecar.istio.io/rewriteAppHTTPProbers")
                .unwrap_or(config.rewrite_app_http_probe),
            merges_metrics: says("prometheus.istio.io/merge-metrics").unwrap_or_else(|| {
                config.mesh_config.get("enablePrometheusMerge") != Some(&Value::Bool(false))
            }),
            is_native: says("sidecar.istio.io/nativeSidecar")
                .or(config.native_sidecars)
                .unwrap_or(true),
            holds: proxy.hold_application_until_proxy_starts.unwrap_or_default(),
            image: image(pod, config),
            resources: resources(pod, config),
            log_level: pod
                .annotation("sidecar.istio.io/logLevel")
                .unwrap_or(&config.log_level)
                .into(),
            binds_low_ports: says("sidecar.istio.io/capNetBindService").unwrap_or_default(),
            volumes: listed(pod, "sidecar.istio.io/userVolume"),
            volume_mounts: listed(pod, "sidecar.istio.io/userVolumeMount"),
            proxy_config,
            proxy,
        }
    }
}

/// The mesh's settings of proxies with the pod's own in their place.
fn proxy_config(pod: &Pod, config: &Config) -> Result<Value, Vec<String>> {
    let mut merged = config.mesh_config.get("defaultConfig").cloned().unwrap_or_default();
    if merged.is_null() {
        merged = Value::Object(Map::new());
    }
    let own = pod.annotation("proxy.istio.io/config");
    if let Some(text) = own.filter(|text| !text.trim().is_empty()) {
        parse_proxy_config(text)?;
        let own: Value =
            serde_yaml::from_str(text).map_err(|error| vec![format!("no YAML: {error}")])?;
        merge(&mut merged, &own);
    }
    let address = merged.get("discoveryAddress").and_then(Value::as_str).unwrap_or_default();
    if address.is_empty() {
        merged["discoveryAddress"] = Value::String(config.discovery_address.clone());
    }
    Ok(merged)
}

fn templates(pod: &Pod, config: &Config) -> Vec<String> {
    let Some(names) = pod.annotation("inject.istio.io/templates") else {
        return config.default_templates.clone();
    };
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn mode(pod: &Pod, proxy: &ProxyConfig) -> InterceptionMode {
    match pod.annotation("sidecar.istio.io/interceptionMode") {
        Some("TPROXY") => InterceptionMode::Tproxy,
        Some("NONE") => InterceptionMode::None,
        Some(_) => InterceptionMode::Redirect,
        None => proxy.interception_mode,
    }
}

fn capture(pod: &Pod, config: &Config) -> Vec<(&'static str, String)> {
    const PREFIX: &str = "traffic.sidecar.istio.io/";
    let defaults = &config.capture;
    let knobs = [
        ("-i", "includeOutboundIPRanges", &defaults.include_ip_ranges),
        ("-x", "excludeOutboundIPRanges", &defaults.exclude_ip_ranges),
        ("-b", "includeInboundPorts", &defaults.include_inbound_ports),
        ("-d", "excludeInboundPorts", &defaults.exclude_inbound_ports),
        ("-q", "includeOutboundPorts", &defaults.include_outbound_ports),
        ("-o", "excludeOutboundPorts", &defaults.exclude_outbound_ports),
    ];
    let said = |name: &str| pod.annotation(&format!("{PREFIX}{name}"));
    let mut capture: Vec<_> = knobs
        .into_iter()
        .map(|(flag, name, default)| (flag, said(name).unwrap_or(default).to_owned()))
        // What is excluded or added is nothing unless it is said; what is included is.
        .filter(|(flag, value)| ["-i", "-b"].contains(flag) || !value.is_empty())
        .collect();
    let machines = pod.annotation("istio.io/reroute-virtual-interfaces");
    let machines = machines.or_else(|| said("kubevirtInterfaces"));
    for (flag, names) in [("-k", machines), ("-c", said("excludeInterfaces"))] {
        capture.extend(names.map(|names| (flag, names.to_owned())));
    }
    capture
}

/// The image; a type of it is the ending of its tag.
fn image(pod: &Pod, config: &Config) -> String {
    if let Some(image) = pod.annotation("sidecar.istio.io/proxyImage") {
        return image.into();
    }
    let has_tag = config.image.rsplit('/').next().is_some_and(|name| name.contains(':'));
    match pod.annotation("sidecar.istio.io/proxyImageType") {
        Some(kind) if has_tag && kind != "default" => format!("{}-{kind}", config.image),
        _ => config.image.clone(),
    }
}

/// One amount that is said replaces all that are not.
fn resources(pod: &Pod, config: &Config) -> Resources {
    let said = |name: &str| pod.annotation(&format!("sidecar.istio.io/{name}")).map(str::to_owned);
    let amounts = |cpu: &str, memory: &str| {
        let amounts = [("cpu", said(cpu)), ("memory", said(memory))];
        amounts.into_iter().filter_map(|(name, amount)| Some((name.to_owned(), amount?))).collect()
    };
    let said = Resources {
        requests: amounts("proxyCPU", "proxyMemory"),
        limits: amounts("proxyCPULimit", "proxyMemoryLimit"),
    };
    if said == Resources::default() { config.resources.clone() } else { said }
}

/// Of Istio these are a list of objects with names, or an object by name.
fn listed(pod: &Pod, annotation: &str) -> Vec<Value> {
    let said = pod.annotation(annotation).and_then(|text| serde_json::from_str(text).ok());
    match said {
        Some(Value::Array(items)) => items,
        Some(Value::Object(by_name)) => by_name
            .into_iter()
            .map(|(name, mut item)| {
                if item.is_object() {
                    item["name"] = Value::String(name);
                }
                item
            })
            .collect(),
        _ => Vec::new(),
    }
}
