//! The `http` part of a VirtualService.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::virtual_service::Destination;
use crate::api::{Base64Bytes, Duration, Percent, StringMatch};

/// A rule for HTTP requests: conditions, and one of route, redirect, directResponse, delegate.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// Name shown in logs.
    pub name: String,
    /// Any of these; everything when empty.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatchRequest>,
    /// Forward to these destinations by weight.
    pub route: Vec<HttpRouteDestination>,
    /// Answer with a redirect.
    pub redirect: Option<HttpRedirect>,
    /// Answer with a fixed response.
    pub direct_response: Option<HttpDirectResponse>,
    /// Continue with the rules of another VirtualService.
    pub delegate: Option<Delegate>,
    /// Change path or authority before forwarding.
    pub rewrite: Option<HttpRewrite>,
    /// Time for the whole request with its retries; none when absent or `0s`.
    pub timeout: Option<Duration>,
    pub retries: Option<HttpRetry>,
    pub fault: Option<HttpFaultInjection>,
    /// Also send a copy here and drop its response; older form of `mirrors`.
    pub mirror: Option<Destination>,
    /// Deprecated for `mirrorPercentage`.
    pub mirror_percent: Option<u32>,
    /// Share of requests `mirror` gets; all when absent.
    pub mirror_percentage: Option<Percent>,
    /// Also send copies here and drop their responses.
    pub mirrors: Vec<HttpMirrorPolicy>,
    pub cors_policy: Option<CorsPolicy>,
    /// Header changes for every destination of the rule.
    pub headers: Option<Headers>,
}

/// Conditions on an HTTP request, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatchRequest {
    /// Appended to the rule's name in logs.
    pub name: String,
    /// Prefix of the statistics of requests that match.
    pub stat_prefix: String,
    /// Path without the query.
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    /// Headers by name, in any case. `@request.auth.claims.<name>` compares a claim of the
    /// validated JWT.
    pub headers: BTreeMap<String, StringMatch>,
    /// None of these headers may match.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Query parameters by name; the first value of each counts.
    pub query_params: BTreeMap<String, StringMatch>,
    /// `exact` and `prefix` of `uri` ignore case.
    pub ignore_uri_case: bool,
    /// Listener port.
    pub port: Option<u16>,
    /// Labels of the client workload (sidecars only).
    pub source_labels: BTreeMap<String, String>,
    /// Namespace of the client workload (sidecars only).
    pub source_namespace: String,
    /// Those of the VirtualService's gateways the condition is for; all when empty.
    pub gateways: Vec<String>,
}

/// A weighted destination of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteDestination {
    pub destination: Option<Destination>,
    /// Share of the requests, relative to the other weights; a single destination gets all.
    pub weight: u32,
    /// Header changes for this destination only.
    pub headers: Option<Headers>,
}

/// An answer that sends the client elsewhere. What is not set stays as in the request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRedirect {
    /// Replaces the path.
    pub uri: String,
    /// Replaces the prefix that matched.
    pub prefix_rewrite: String,
    pub authority: String,
    pub port: Option<u16>,
    pub derive_port: Option<RedirectPortSelection>,
    pub scheme: String,
    /// Status code; 301 when absent.
    pub redirect_code: Option<u16>,
}

/// Where a redirect's port comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RedirectPortSelection {
    /// 80 for http, 443 for https.
    #[default]
    FromProtocolDefault,
    /// The port the request came in on.
    FromRequestPort,
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpDirectResponse {
    pub status: u16,
    pub body: Option<HttpBody>,
}

/// The body of a fixed answer: text or base64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpBody {
    pub string: Option<String>,
    pub bytes: Option<Base64Bytes>,
}

impl HttpBody {
    pub fn as_bytes(&self) -> &[u8] {
        match (&self.bytes, &self.string) {
            (Some(bytes), _) => bytes,
            (None, Some(text)) => text.as_bytes(),
            (None, None) => &[],
        }
    }
}

/// A VirtualService without hosts whose rules continue here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delegate {
    pub name: String,
    /// The including VirtualService's own namespace when empty.
    pub namespace: String,
}

/// Changes to the request line before forwarding.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRewrite {
    /// Replaces the prefix that matched, or the whole path for `exact` and `regex`.
    pub uri: String,
    /// Replaces the Host header.
    pub authority: String,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// Replaces every match of an RE2 expression in the path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegexRewrite {
    #[serde(rename = "match")]
    pub pattern: String,
    /// Replacement; `\1` to `\9` are groups, `\0` is the match.
    pub rewrite: String,
}

/// When and how often a failed request is sent again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRetry {
    /// Number of tries after the first; 0 turns retries off.
    pub attempts: u32,
    /// Time for each try; the rule's timeout when absent.
    pub per_try_timeout: Option<Duration>,
    /// Comma-separated conditions and status codes; the default conditions when empty.
    pub retry_on: String,
    /// Whether retries may leave the locality.
    pub retry_remote_localities: Option<bool>,
    /// Whether retries avoid endpoints already tried; true when absent.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// Base of the exponential pause between tries; 25ms when absent.
    pub backoff: Option<Duration>,
}

/// Faults injected on purpose.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpFaultInjection {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
}

/// Holds a share of the requests back.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultDelay {
    pub fixed_delay: Option<Duration>,
    /// Not supported by Istio either; refused.
    pub exponential_delay: Option<Duration>,
    /// Share of requests; none when absent.
    pub percentage: Option<Percent>,
    /// Deprecated for `percentage`.
    pub percent: Option<u32>,
}

/// Answers a share of the requests with an error.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultAbort {
    pub http_status: Option<u16>,
    /// gRPC status by name, `UNAVAILABLE`.
    pub grpc_status: String,
    /// Not supported by Istio either; refused.
    pub http2_error: String,
    /// Share of requests; none when absent.
    pub percentage: Option<Percent>,
}

/// A copy of a share of the requests.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMirrorPolicy {
    pub destination: Option<Destination>,
    /// Share of requests; all when absent.
    pub percentage: Option<Percent>,
}

/// Cross-origin resource sharing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    /// Deprecated for `allowOrigins`: exact origins, or `*`.
    pub allow_origin: Vec<String>,
    /// Origins that are allowed; the one that matched is echoed.
    pub allow_origins: Vec<StringMatch>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    /// How long a preflight's answer may be cached; whole seconds.
    pub max_age: Option<Duration>,
    pub allow_credentials: Option<bool>,
    pub unmatched_preflights: UnmatchedPreflights,
}

/// What happens to preflights of other origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    /// As `FORWARD`.
    #[default]
    Unspecified,
    /// Forwarded like any other request.
    Forward,
    /// Answered without CORS headers.
    Ignore,
}

/// Header changes in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Headers {
    pub request: Option<HeaderOperations>,
    pub response: Option<HeaderOperations>,
}

/// Header changes; `set` is applied before `add`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderOperations {
    /// Overwrite. Values may hold `%REQ(name)%` and other variables; a plain percent sign is `%%`.
    pub set: BTreeMap<String, String>,
    /// Append.
    pub add: BTreeMap<String, String>,
    pub remove: Vec<String>,
}
