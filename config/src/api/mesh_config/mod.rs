//! MeshConfig: settings of the whole mesh, from `--mesh-config` or the `istio` ConfigMap.

use serde::Deserialize;
use serde_json::Value;

use super::{Duration, LabelSelector};
use crate::api::istio::{
    connection_pool::{ConnectionPoolSettings, H2UpgradePolicy, OutlierDetection, TcpKeepalive},
    gateway::TlsVersion,
    http_route::HttpRetry,
    load_balancer::{LocalityLoadBalancerSetting, ZoneAwareLoadBalancerSetting},
};

pub mod extension_provider;
mod host_takeover;
mod outbound_mode;
pub mod proxy_config;

pub use extension_provider::ExtensionProvider;
pub use host_takeover::HostTakeover;
pub use outbound_mode::OutboundTrafficPolicyMode;
pub use proxy_config::ProxyConfig;

/// Settings of the whole mesh. Absent fields have the defaults Istio documents.
///
/// Fields of type [`Value`] are accepted as written and not interpreted.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// Where access logs go, `/dev/stdout`; empty turns them off.
    pub access_log_file: String,
    /// Format of text logs, or a JSON object of formats; Istio's default when empty.
    pub access_log_format: String,
    pub access_log_encoding: AccessLogEncoding,
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    pub inbound_traffic_policy: InboundTrafficPolicy,
    /// Use mesh mTLS wherever the destination supports it; true when absent.
    pub enable_auto_mtls: Option<bool>,
    /// `cluster.local` when empty.
    pub trust_domain: String,
    pub trust_domain_aliases: Vec<String>,
    /// Namespace whose policies apply to the whole mesh; `istio-system` when empty.
    pub root_namespace: String,
    pub default_service_export_to: Vec<String>,
    pub default_virtual_service_export_to: Vec<String>,
    pub default_destination_rule_export_to: Vec<String>,
    /// Not of Istio: whether namespaces may claim each other's hosts.
    pub host_takeover: HostTakeover,
    /// Namespaces that are read at all; every one when empty.
    pub discovery_selectors: Vec<LabelSelector>,
    pub ingress_class: String,
    pub ingress_service: String,
    pub ingress_selector: String,
    pub ingress_controller_mode: IngressControllerMode,
    /// 10s when absent.
    pub connect_timeout: Option<Duration>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub protocol_detection_timeout: Option<Duration>,
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
    pub path_normalization: ProxyPathNormalization,
    pub default_http_retry_policy: Option<HttpRetry>,
    pub default_inbound_http_retry_policy: Option<HttpRetry>,
    pub default_traffic_policy: Option<DefaultTrafficPolicy>,
    /// TLS of mesh mTLS.
    #[serde(rename = "meshMTLS")]
    pub mesh_mtls: Option<TlsConfig>,
    /// TLS of everything else.
    pub tls_defaults: Option<TlsConfig>,
    pub extension_providers: Vec<ExtensionProvider>,
    pub default_providers: DefaultProviders,
    pub enable_tracing: Option<bool>,
    pub enable_prometheus_merge: Option<bool>,
    /// 60s when absent.
    pub dns_refresh_rate: Option<Duration>,
    pub h2_upgrade_policy: MeshH2UpgradePolicy,
    pub ca_certificates: Vec<Value>,
    pub ca: Option<Value>,
    pub certificates: Vec<Value>,
    pub service_settings: Vec<ServiceSettings>,
    pub service_scope_configs: Vec<Value>,
    pub inbound_cluster_stat_name: String,
    pub outbound_cluster_stat_name: String,
    pub proxy_listen_port: Option<u16>,
    pub proxy_inbound_listen_port: Option<u16>,
    pub proxy_http_port: Option<u16>,
    pub disable_envoy_listener_log: bool,
    pub enable_envoy_access_log_service: bool,
    pub verify_certificate_at_client: Option<bool>,
    pub hbone_idle_timeout: Option<Duration>,
    pub service_entry_visibility: Option<Value>,
    pub config_sources: Vec<Value>,
    /// Settings of every proxy; a workload's own replace them field by field.
    pub default_config: ProxyConfig,
}

/// Access log lines as text or JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AccessLogEncoding {
    #[default]
    Text,
    Json,
}

/// What happens to outbound traffic to unknown hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutboundTrafficPolicy {
    pub mode: OutboundTrafficPolicyMode,
}

/// Where inbound traffic to unlisted ports goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InboundTrafficPolicy {
    pub mode: InboundTrafficPolicyMode,
}

/// To the pod's address, or to localhost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum InboundTrafficPolicyMode {
    #[default]
    Passthrough,
    Localhost,
}

/// Which Ingress objects are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum IngressControllerMode {
    Unspecified,
    Off,
    Default,
    /// Those of the class.
    #[default]
    Strict,
}

/// How paths are normalised before anything looks at them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyPathNormalization {
    pub normalization: PathNormalization,
}

/// Each value includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathNormalization {
    /// As `BASE`.
    #[default]
    Default,
    /// The path is taken as sent.
    None,
    /// RFC 3986 normalisation, and `\` becomes `/`.
    Base,
    /// Repeated slashes become one.
    MergeSlashes,
    /// `%2F` and `%5C` are decoded first.
    DecodeAndMergeSlashes,
}

/// Baseline for destinations whose DestinationRule leaves a block out.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultTrafficPolicy {
    pub connection_pool: Option<ConnectionPoolSettings>,
    pub outlier_detection: Option<OutlierDetection>,
}

/// TLS parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsConfig {
    pub min_protocol_version: TlsVersion,
    pub cipher_suites: Vec<String>,
    pub ecdh_curves: Vec<String>,
}

/// Providers used where a Telemetry names none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultProviders {
    pub tracing: Vec<String>,
    pub metrics: Vec<String>,
    pub access_logging: Vec<String>,
}

/// Whether HTTP/1.1 requests go upstream as HTTP/2 when a DestinationRule does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MeshH2UpgradePolicy {
    #[default]
    DoNotUpgrade,
    Upgrade,
}

impl From<MeshH2UpgradePolicy> for H2UpgradePolicy {
    fn from(policy: MeshH2UpgradePolicy) -> Self {
        match policy {
            MeshH2UpgradePolicy::DoNotUpgrade => Self::DoNotUpgrade,
            MeshH2UpgradePolicy::Upgrade => Self::Upgrade,
        }
    }
}

/// Settings of some services.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSettings {
    pub settings: Settings,
    pub hosts: Vec<String>,
}

/// Settings of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Endpoints of other clusters are not used.
    pub cluster_local: bool,
}
