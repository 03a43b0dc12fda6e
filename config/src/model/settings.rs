//! What holds for the whole proxy (MeshConfig).

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    pub path_normalization: PathNormalization,
    /// Trusted proxies in front of us (`gatewayTopology.numTrustedProxies`).
    pub num_trusted_proxies: u32,
    /// Every connection begins with a PROXY protocol header (`gatewayTopology.proxyProtocol`).
    pub proxy_protocol: bool,
    pub forward_client_cert: ForwardClientCert,
    pub access_log: Option<AccessLog>,
    /// `server` of responses; `None`: the upstream's is passed on.
    #[serde(with = "super::serialize::option_header_value")]
    pub server_name: Option<HeaderValue>,
    pub request_id: bool,
    pub attempt_count: bool,
    pub x_forwarded_host: bool,
    pub x_forwarded_port: bool,
    pub trust_domain: Arc<str>,
    pub trust_domain_aliases: Arc<[Arc<str>]>,
    pub drain_duration: Duration,
}

impl Default for Settings {
    /// Istio's defaults.
    fn default() -> Self {
        Self {
            path_normalization: PathNormalization::Base,
            num_trusted_proxies: 0,
            proxy_protocol: false,
            forward_client_cert: ForwardClientCert::SanitizeSet,
            access_log: None,
            server_name: Some(HeaderValue::from_static("istio-envoy")),
            request_id: true,
            attempt_count: true,
            x_forwarded_host: false,
            x_forwarded_port: false,
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Arc::default(),
            drain_duration: Duration::from_secs(45),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathNormalization {
    None,
    /// RFC 3986 dot segments and unreserved escapes; `\` becomes `/`.
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

/// What happens to `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCert {
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    /// `/dev/stdout`, `/dev/stderr` or a file.
    pub path: Arc<str>,
    pub format: AccessLogFormat,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessLogFormat {
    /// A format string of Envoy's operators; `None`: Istio's default line.
    Text(Option<Arc<str>>),
    /// Key and format string of each field; `None`: Istio's default fields.
    Json(Option<Arc<[AccessLogField]>>),
}

/// Key and format string.
pub type AccessLogField = (Arc<str>, Arc<str>);
