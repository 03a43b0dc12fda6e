//! Connection pools, outlier detection and retry budgets of a destination.

use serde::Deserialize;

use crate::api::Duration;

/// Limits and lifetimes of connections to a destination.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionPoolSettings {
    pub tcp: Option<TcpSettings>,
    pub http: Option<HttpSettings>,
}

/// Settings of TCP connections, also those that carry HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpSettings {
    /// Connections to one destination; unlimited when absent.
    pub max_connections: Option<u32>,
    /// 10s when absent.
    pub connect_timeout: Option<Duration>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Age at which a connection is closed; none when absent.
    pub max_connection_duration: Option<Duration>,
    /// Idle time after which a connection is closed; 1h when absent, `0s` never.
    pub idle_timeout: Option<Duration>,
}

/// TCP keepalive probes; the system's values when absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpKeepalive {
    /// Unanswered probes until the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// Settings of HTTP connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpSettings {
    /// Requests that wait for a connection; unlimited when absent.
    pub http1_max_pending_requests: Option<u32>,
    /// Requests in flight, of every HTTP version; unlimited when absent.
    pub http2_max_requests: Option<u32>,
    /// Requests per connection; 0 unlimited, 1 no keep-alive.
    pub max_requests_per_connection: Option<u32>,
    /// Retries in flight; unlimited when absent.
    pub max_retries: Option<u32>,
    /// 1h when absent.
    pub idle_timeout: Option<Duration>,
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// Use the HTTP version of the downstream connection.
    pub use_client_protocol: bool,
    /// Streams per HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

/// Whether HTTP/1.1 requests are sent upstream as HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    /// What the mesh configuration says.
    #[default]
    Default,
    DoNotUpgrade,
    Upgrade,
}

/// HTTP/2 PING probes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Http2KeepAlive {
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
}

/// When an endpoint that misbehaves is taken out of balancing for a while.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Deprecated for `consecutiveGatewayErrors`.
    pub consecutive_errors: Option<u32>,
    /// 502, 503 and 504 in a row until ejection; off when absent or 0.
    pub consecutive_gateway_errors: Option<u32>,
    /// 5xx in a row until ejection; 5 when absent, 0 off.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// Count connection failures apart from responses.
    pub split_external_local_origin_errors: bool,
    /// Connection failures in a row until ejection, when counted apart; 5 when absent.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Time between sweeps; 10s when absent.
    pub interval: Option<Duration>,
    /// First ejection time, multiplied by the number of ejections; 30s when absent.
    pub base_ejection_time: Option<Duration>,
    /// Endpoints that may be ejected at the same time; 10 when absent.
    pub max_ejection_percent: Option<u32>,
    /// Below this share of healthy endpoints all are used; 0 when absent.
    pub min_health_percent: Option<u32>,
    /// Status codes that count as errors.
    pub outlier_detection_http_error_codes: Vec<HttpStatusRange>,
}

/// Status codes from `start` to `end`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpStatusRange {
    pub start: u16,
    pub end: u16,
}

/// How much of the load may be retries.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Share of the active requests in percent; 20 when absent.
    pub percent: Option<f64>,
    /// Retries that are always allowed; 3 when absent.
    pub min_retry_concurrency: Option<u32>,
    pub budget_interval: Option<Duration>,
}
