//! Which request goes where, and what happens to it on the way.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{
    filter::{Cors, Fault},
    matcher::{FullRegex, HostPattern, RegexRewrite, StringMatch},
    name::{ClusterName, RouteName, RouteTableName, VirtualHostName},
};

/// Domains of a route table with their routes, in the order they are tried.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualHost {
    pub name: VirtualHostName,
    pub route_table: RouteTableName,
    pub domain: HostPattern,
    /// What else the host is called: one list of routes, however many names a service has.
    #[serde(skip_serializing_if = "is_empty")]
    pub aliases: Arc<[HostPattern]>,
    /// `httpsRedirect`: plain requests are answered with a 301 to https before any route.
    pub require_tls: bool,
    pub routes: Arc<[Arc<Route>]>,
}

impl VirtualHost {
    /// Everything requests may call the host.
    pub fn domains(&self) -> impl Iterator<Item = &HostPattern> {
        std::iter::once(&self.domain).chain(&*self.aliases)
    }
}

fn is_empty(aliases: &[HostPattern]) -> bool {
    aliases.is_empty()
}

/// One match of one rule, with its action.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    pub name: RouteName,
    /// `namespace/name` of the object the route came from.
    pub origin: Arc<str>,
    #[serde(rename = "match")]
    pub matcher: RouteMatch,
    pub action: RouteAction,
    pub request_headers: HeaderMutation,
    pub response_headers: HeaderMutation,
    pub cors: Option<Arc<Cors>>,
    pub fault: Option<Arc<Fault>>,
}

/// All parts have to match; absent parts match anything.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// Compared with the normalised path without query.
    pub path: PathMatch,
    /// For `Exact`, `Prefix` and `SegmentPrefix` only.
    pub ignore_path_case: bool,
    pub method: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: Arc<[HeaderMatch]>,
    pub query_params: Arc<[QueryParamMatch]>,
    pub claims: Arc<[ClaimMatch]>,
}

impl RouteMatch {
    /// Whether nothing gets past this match: it ends the list it stands in (istio-compat 1.1 and trap 3).
    #[must_use]
    pub fn is_catch_all(&self) -> bool {
        let any_path = match &self.path {
            PathMatch::Any => true,
            PathMatch::Prefix(prefix) | PathMatch::SegmentPrefix(prefix) => &**prefix == "/",
            PathMatch::Regex(regex) => regex.pattern() == ".*",
            PathMatch::Exact(_) => false,
        };
        any_path
            && self.method.is_none()
            && self.scheme.is_none()
            && self.authority.is_none()
            && self.headers.is_empty()
            && self.query_params.is_empty()
            && self.claims.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    Any,
    Exact(Arc<str>),
    /// Of bytes: `/foo` matches `/foobar` (Istio).
    Prefix(Arc<str>),
    /// Of segments: `/foo` matches `/foo` and `/foo/bar` (Ingress, Gateway API). No trailing slash.
    SegmentPrefix(Arc<str>),
    Regex(FullRegex),
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    #[serde(with = "super::serialize::header_name")]
    pub name: HeaderName,
    pub value: StringMatch,
    /// `withoutHeaders`: the route matches where this does not.
    pub invert: bool,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryParamMatch {
    pub name: Arc<str>,
    /// Applied to the first value of the key.
    pub value: StringMatch,
}

/// A match on a claim of the validated token (`@request.auth.claims.a.b`).
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimMatch {
    /// Names from the outermost object inwards.
    pub path: Arc<[Arc<str>]>,
    /// A string claim equal to it, or a list with such an element.
    pub value: StringMatch,
    pub invert: bool,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteAction {
    Forward(Forward),
    Redirect(Redirect),
    DirectResponse(DirectResponse),
}

/// To one of several clusters.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forward {
    /// Never empty; weights are positive where there is more than one.
    pub clusters: Arc<[WeightedCluster]>,
    pub path_rewrite: Option<PathRewrite>,
    /// Replaces `Host` / `:authority` towards the upstream.
    pub host_rewrite: Option<Arc<str>>,
    /// From the end of the request head to the end of the response, retries included. `None`: no limit.
    pub timeout: Option<Duration>,
    pub retry: RetryPolicy,
    /// Clusters that get a copy of the request.
    pub mirrors: Arc<[Mirror]>,
}

/// Where a copy of some requests goes; what becomes of it counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    pub cluster: ClusterName,
    /// Requests copied, of a million; at least 1.
    pub per_million: u32,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightedCluster {
    pub cluster: ClusterName,
    pub weight: u32,
    /// Applied after the route's own.
    pub request_headers: HeaderMutation,
    pub response_headers: HeaderMutation,
    pub host_rewrite: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    /// What the route's prefix matched is replaced.
    Prefix(Arc<str>),
    /// The whole path is replaced.
    Full(Arc<str>),
    Regex(RegexRewrite),
}

/// When a request is sent again (istio-compat 1.1 "retries").
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Re-tries, not tries; 0 is off.
    pub attempts: u32,
    /// Time for one try up to the response's head. `None`: only the route's timeout.
    pub per_try_timeout: Option<Duration>,
    pub on: RetryOn,
    pub retriable_status_codes: Arc<[u16]>,
    /// Base of the jittered exponential back-off; its cap is ten times this.
    pub backoff: Duration,
    /// Whether a retry avoids the endpoints already tried.
    pub ignore_previous_hosts: bool,
}

impl RetryPolicy {
    /// Nothing is done twice.
    #[must_use]
    pub fn none() -> Self {
        Self {
            attempts: 0,
            per_try_timeout: None,
            on: RetryOn::default(),
            retriable_status_codes: Arc::default(),
            backoff: Duration::ZERO,
            ignore_previous_hosts: true,
        }
    }
}

/// Conditions of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryOn {
    pub server_error: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub envoy_ratelimited: bool,
    pub retriable_4xx: bool,
    pub refused_stream: bool,
    pub retriable_status_codes: bool,
    pub grpc_cancelled: bool,
    pub grpc_deadline_exceeded: bool,
    pub grpc_internal: bool,
    pub grpc_resource_exhausted: bool,
    pub grpc_unavailable: bool,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    pub path: Option<RedirectPath>,
    pub authority: Option<Arc<str>>,
    pub scheme: Option<Scheme>,
    pub port: Option<RedirectPort>,
    #[serde(with = "super::serialize::status_code")]
    pub code: StatusCode,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RedirectPath {
    Full(Arc<str>),
    Prefix(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RedirectPort {
    Number(u16),
    /// 80 or 443, by the scheme redirected to.
    FromProtocolDefault,
    /// The port the request came in on.
    FromRequestPort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectResponse {
    #[serde(with = "super::serialize::status_code")]
    pub status: StatusCode,
    #[serde(with = "super::serialize::body")]
    pub body: Bytes,
    /// What logs and metrics call the destination; nothing is sent there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stands_for: Option<ClusterName>,
}

/// Header operations: `set` overwrites, then `add` appends, each sorted by key; `remove` is independent.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMutation {
    #[serde(with = "super::serialize::header_templates")]
    pub set: Arc<[(HeaderName, HeaderTemplate)]>,
    #[serde(with = "super::serialize::header_templates")]
    pub add: Arc<[(HeaderName, HeaderTemplate)]>,
    #[serde(with = "super::serialize::header_names")]
    pub remove: Arc<[HeaderName]>,
}

impl HeaderMutation {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// A header value, possibly with Envoy's `%OPERATOR%`s in it.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderTemplate {
    Literal(HeaderValue),
    /// Alternating literals and operators, in order.
    Format(Arc<[TemplatePart]>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum TemplatePart {
    Literal(Arc<str>),
    Operator(Operator),
}

/// The operators allowed in header values; the access log has more of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    Protocol,
    Hostname,
    RequestedServerName,
    UpstreamHost,
    UpstreamCluster,
    RouteName,
    ResponseCode,
    StartTime,
    DownstreamPeerUriSan,
    DownstreamPeerSubject,
    /// `%REQ(name?alternative):max%`
    Request {
        name: Arc<str>,
        alternative: Option<Arc<str>>,
        max: Option<usize>,
    },
    /// `%RESP(name?alternative):max%`
    Response {
        name: Arc<str>,
        alternative: Option<Arc<str>>,
        max: Option<usize>,
    },
}

impl fmt::Display for Operator {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::DownstreamRemoteAddress => "DOWNSTREAM_REMOTE_ADDRESS",
            Self::DownstreamRemoteAddressWithoutPort => "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
            Self::DownstreamLocalAddress => "DOWNSTREAM_LOCAL_ADDRESS",
            Self::DownstreamLocalAddressWithoutPort => "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
            Self::DownstreamLocalPort => "DOWNSTREAM_LOCAL_PORT",
            Self::Protocol => "PROTOCOL",
            Self::Hostname => "HOSTNAME",
            Self::RequestedServerName => "REQUESTED_SERVER_NAME",
            Self::UpstreamHost => "UPSTREAM_HOST",
            Self::UpstreamCluster => "UPSTREAM_CLUSTER",
            Self::RouteName => "ROUTE_NAME",
            Self::ResponseCode => "RESPONSE_CODE",
            Self::StartTime => "START_TIME",
            Self::DownstreamPeerUriSan => "DOWNSTREAM_PEER_URI_SAN",
            Self::DownstreamPeerSubject => "DOWNSTREAM_PEER_SUBJECT",
            Self::Request { .. } => "REQ",
            Self::Response { .. } => "RESP",
        };
        write!(f, "%{name}")?;
        if let Self::Request { name, alternative, max }
        | Self::Response { name, alternative, max } = self
        {
            write!(f, "({name}")?;
            if let Some(alternative) = alternative {
                write!(f, "?{alternative}")?;
            }
            f.write_str(")")?;
            if let Some(max) = max {
                write!(f, ":{max}")?;
            }
        }
        f.write_str("%")
    }
}

/// Methods that may be repeated without asking (RFC 9110 section 9.2.2).
#[must_use]
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}
