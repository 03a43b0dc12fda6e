use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::api::Duration;

/// A named service that policies refer to: authorizer, tracer or log sink. One kind is set.
///
/// Kinds of type [`Value`] are accepted as written and not interpreted.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtensionProvider {
    pub name: String,
    pub envoy_ext_authz_http: Option<ExtAuthzHttp>,
    pub envoy_ext_authz_grpc: Option<ExtAuthzGrpc>,
    pub zipkin: Option<Zipkin>,
    pub datadog: Option<TracingService>,
    pub skywalking: Option<Skywalking>,
    pub opentelemetry: Option<OpenTelemetry>,
    pub lightstep: Option<Value>,
    pub opencensus: Option<Value>,
    pub stackdriver: Option<Value>,
    pub prometheus: Option<Prometheus>,
    pub envoy_file_access_log: Option<FileAccessLog>,
    pub envoy_http_als: Option<AccessLogService>,
    pub envoy_tcp_als: Option<AccessLogService>,
    pub envoy_otel_als: Option<OtelAccessLog>,
    pub sds: Option<Value>,
}

/// An authorizer that answers plain HTTP: 2xx allows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtAuthzHttp {
    /// `[namespace/]host`.
    pub service: String,
    pub port: u16,
    /// 600s when absent.
    pub timeout: Option<Duration>,
    /// Put before the path of the check request.
    pub path_prefix: String,
    /// Allow when the authorizer cannot be asked.
    pub fail_open: bool,
    pub clear_route_cache: bool,
    /// Status when the authorizer cannot be asked; 403 when empty.
    pub status_on_error: String,
    /// Names, `prefix*`, `*suffix` or `*`.
    pub include_request_headers_in_check: Vec<String>,
    /// Deprecated for `includeRequestHeadersInCheck`.
    pub include_headers_in_check: Vec<String>,
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    pub include_request_body_in_check: Option<RequestBody>,
    pub headers_to_upstream_on_allow: Vec<String>,
    pub headers_to_downstream_on_deny: Vec<String>,
    pub headers_to_downstream_on_allow: Vec<String>,
}

/// An authorizer that speaks `envoy.service.auth.v3.Authorization`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtAuthzGrpc {
    /// `[namespace/]host`.
    pub service: String,
    pub port: u16,
    /// 600s when absent.
    pub timeout: Option<Duration>,
    /// Allow when the authorizer cannot be asked.
    pub fail_open: bool,
    pub clear_route_cache: bool,
    /// Status when the authorizer cannot be asked; 403 when empty.
    pub status_on_error: String,
    pub include_request_body_in_check: Option<RequestBody>,
}

/// How much of the body the authorizer sees.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestBody {
    pub max_request_bytes: u32,
    pub allow_partial_message: bool,
    pub pack_as_bytes: bool,
}

/// A Zipkin collector.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Zipkin {
    /// `[namespace/]host`.
    pub service: String,
    pub port: u16,
    pub max_tag_length: Option<u32>,
    #[serde(rename = "enable64bitTraceId")]
    pub enable_64bit_trace_id: bool,
    pub path: String,
    pub timeout: Option<Duration>,
    pub headers: Vec<Value>,
    pub trace_context_option: Option<Value>,
}

/// A tracer without further settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TracingService {
    /// `[namespace/]host`.
    pub service: String,
    pub port: u16,
    pub max_tag_length: Option<u32>,
}

/// A SkyWalking collector.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Skywalking {
    /// `[namespace/]host`.
    pub service: String,
    pub port: u16,
    pub access_token: String,
}

/// An OpenTelemetry collector for spans.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenTelemetry {
    /// `[namespace/]host`.
    pub service: String,
    pub port: u16,
    pub max_tag_length: Option<u32>,
    /// OTLP over HTTP instead of gRPC.
    pub http: Option<OtlpHttp>,
    pub grpc: Option<Value>,
    pub resource_detectors: Option<Value>,
    pub dynatrace_sampler: Option<Value>,
    pub service_attribute_enrichment: Option<Value>,
}

/// OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtlpHttp {
    pub path: String,
    pub timeout: Option<Duration>,
    pub headers: Vec<Value>,
}

/// Prometheus scrapes the proxy; there is nothing to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Prometheus {}

/// Access logs to a file.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileAccessLog {
    pub path: String,
    pub log_format: Option<LogFormat>,
    pub omit_empty_values: bool,
}

/// A text format, or a JSON object of formats.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogFormat {
    pub text: String,
    pub labels: Option<Value>,
}

/// Access logs to a service that speaks Envoy's access log API.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessLogService {
    /// `[namespace/]host`.
    pub service: String,
    pub port: u16,
    pub log_name: String,
    pub filter_state_objects_to_log: Vec<String>,
    pub additional_request_headers_to_log: Vec<String>,
    pub additional_response_headers_to_log: Vec<String>,
    pub additional_response_trailers_to_log: Vec<String>,
}

/// Access logs to an OpenTelemetry collector.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtelAccessLog {
    /// `[namespace/]host`.
    pub service: String,
    pub port: u16,
    pub log_name: String,
    pub log_format: Option<LogFormat>,
}
