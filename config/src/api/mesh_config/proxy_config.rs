use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::api::{Duration, istio::client_tls::ClientTlsSettings};

/// Settings of a proxy: MeshConfig's `defaultConfig`, or the annotation `proxy.istio.io/config`.
///
/// Fields of type [`Value`] are accepted as written and not interpreted.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    /// Worker threads; 0 for one per core, from the CPU limit when absent.
    pub concurrency: Option<u32>,
    pub discovery_address: String,
    /// Time in which connections are drained when a listener goes; 45s when absent.
    pub drain_duration: Option<Duration>,
    /// Time between SIGTERM and exit; 5s when absent.
    pub termination_drain_duration: Option<Duration>,
    pub proxy_admin_port: Option<u16>,
    pub status_port: Option<u16>,
    pub hold_application_until_proxy_starts: Option<bool>,
    pub interception_mode: InterceptionMode,
    pub tracing: Option<Tracing>,
    pub gateway_topology: Option<Topology>,
    pub proxy_headers: Option<ProxyHeaders>,
    pub proxy_stats_matcher: Option<ProxyStatsMatcher>,
    pub extra_stat_tags: Vec<String>,
    pub stat_name_length: Option<u32>,
    /// Environment variables of the proxy.
    pub proxy_metadata: BTreeMap<String, String>,
    pub service_cluster: String,
    pub tracing_service_name: String,
    pub control_plane_auth_policy: String,
    pub config_path: String,
    pub binary_path: String,
    pub readiness_probe: Option<Value>,
    pub image: Option<Value>,
    pub private_key_provider: Option<Value>,
    pub ca_certificates_pem: Vec<String>,
    pub envoy_access_log_service: Option<Value>,
    pub envoy_metrics_service: Option<Value>,
    pub runtime_values: BTreeMap<String, String>,
    pub file_flush_interval: Option<Duration>,
    pub file_flush_min_size_kb: Option<u32>,
    pub connection_settings: Option<Value>,
    pub zipkin_address: String,
    pub statsd_udp_address: String,
}

/// How a sidecar's traffic is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum InterceptionMode {
    #[default]
    Redirect,
    Tproxy,
    None,
}

/// Trace sampling and where spans go.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// Percent of requests that start a trace; 1 when absent.
    pub sampling: Option<f64>,
    pub zipkin: Option<Value>,
    pub lightstep: Option<Value>,
    pub datadog: Option<Value>,
    pub stackdriver: Option<Value>,
    pub open_census_agent: Option<Value>,
    pub custom_tags: BTreeMap<String, Value>,
    /// 256 when absent.
    pub max_path_tag_length: Option<u32>,
    pub tls_settings: Option<ClientTlsSettings>,
    pub enable_istio_tags: Option<bool>,
}

/// What stands in front of the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Topology {
    /// Proxies in front whose X-Forwarded-For entries are believed.
    pub num_trusted_proxies: u32,
    pub forward_client_cert_details: ForwardClientCertDetails,
    /// Present: connections start with a PROXY protocol header.
    pub proxy_protocol: Option<ProxyProtocolConfiguration>,
}

/// PROXY protocol on accepted connections; it has no settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ProxyProtocolConfiguration {}

/// What happens to `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCertDetails {
    /// `SANITIZE_SET` at gateways, `APPEND_FORWARD` at sidecars.
    #[default]
    Undefined,
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

/// Which headers the proxy adds. All standard ones are on when absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyHeaders {
    pub forwarded_client_cert: ForwardClientCertDetails,
    pub set_current_client_cert_details: Option<SetCurrentClientCertDetails>,
    pub request_id: Option<HeaderSwitch>,
    pub server: Option<ServerHeader>,
    pub attempt_count: Option<HeaderSwitch>,
    pub envoy_debug_headers: Option<HeaderSwitch>,
    pub metadata_exchange_headers: Option<MetadataExchangeHeaders>,
    #[serde(rename = "preserveHttp1HeaderCase")]
    pub preserve_http1_header_case: Option<bool>,
    pub x_forwarded_host: Option<HeaderEnable>,
    pub x_forwarded_port: Option<HeaderEnable>,
}

/// Parts of the client certificate in `x-forwarded-client-cert`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SetCurrentClientCertDetails {
    pub subject: Option<bool>,
    pub cert: Option<bool>,
    pub chain: Option<bool>,
    pub dns: Option<bool>,
    pub uri: Option<bool>,
}

/// A header that is on unless it is disabled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderSwitch {
    pub disabled: Option<bool>,
}

/// A header that is off unless it is enabled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderEnable {
    pub enabled: Option<bool>,
}

/// The response header `server`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerHeader {
    pub disabled: Option<bool>,
    /// Its value, instead of the default.
    pub value: String,
}

/// Headers by which proxies tell each other about their workloads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataExchangeHeaders {
    pub mode: MetadataExchangeMode,
}

/// Everywhere, or only within the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MetadataExchangeMode {
    #[default]
    Undefined,
    InMesh,
}

/// Further statistics that are exported.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStatsMatcher {
    pub inclusion_prefixes: Vec<String>,
    pub inclusion_suffixes: Vec<String>,
    pub inclusion_regexps: Vec<String>,
}
