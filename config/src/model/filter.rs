//! Configuration of the HTTP filters, one struct each.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode};
use ipnet::IpNet;

use super::matcher::StringMatch;

/// Cross-origin resource sharing (`corsPolicy`).
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    pub allow_origins: Arc<[StringMatch]>,
    /// Joined with `,`, ready to be sent; `None`: the header is not sent. The same for the next two.
    pub allow_methods: Option<Arc<str>>,
    pub allow_headers: Option<Arc<str>>,
    pub expose_headers: Option<Arc<str>>,
    pub max_age: Option<Duration>,
    pub allow_credentials: Option<bool>,
    /// `unmatchedPreflights: FORWARD`.
    pub forward_unmatched_preflights: bool,
}

/// Fault injection; shares are in millionths, decided independently, delay first.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultDelay {
    pub duration: Duration,
    pub per_million: u32,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    pub status: AbortStatus,
    pub per_million: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AbortStatus {
    Http(#[serde(with = "super::serialize::status_code")] StatusCode),
    Grpc(u8),
}

/// What applies to every request of this proxy.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPolicies {
    pub jwt_authn: Option<Arc<JwtAuthn>>,
    pub authz: Option<Arc<Authz>>,
}

/// RequestAuthentication, unioned over the policies that select this workload, sorted by issuer.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtAuthn {
    pub rules: Arc<[JwtRule]>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtRule {
    /// `namespace/name` of the RequestAuthentication.
    pub origin: Arc<str>,
    pub issuer: Arc<str>,
    /// A token has to name one of these; empty: any.
    pub audiences: Arc<[Arc<str>]>,
    pub keys: JwksSource,
    pub locations: Arc<[JwtLocation]>,
    #[serde(with = "super::serialize::option_header_name")]
    pub output_payload_to_header: Option<HeaderName>,
    pub output_claim_to_headers: Arc<[ClaimToHeader]>,
    pub forward_original_token: bool,
    pub space_delimited_claims: Arc<[Arc<str>]>,
    /// For the fetch of keys.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum JwksSource {
    /// A JWKS document.
    Inline(Arc<str>),
    Uri(Arc<str>),
    /// `<issuer>/.well-known/openid-configuration` names the keys' address.
    Discovery,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum JwtLocation {
    Header {
        #[serde(with = "super::serialize::header_name")]
        name: HeaderName,
        prefix: Arc<str>,
    },
    QueryParam(Arc<str>),
    Cookie(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimToHeader {
    #[serde(with = "super::serialize::header_name")]
    pub header: HeaderName,
    /// Names from the outermost object inwards.
    pub claim: Arc<[Arc<str>]>,
}

/// AuthorizationPolicy: deny first, then allow (istio-compat 1.9).
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authz {
    pub deny: Arc<[AuthzPolicy]>,
    /// Empty: everything not denied is allowed.
    pub allow: Arc<[AuthzPolicy]>,
    /// Only reported, never enforced.
    pub audit: Arc<[AuthzPolicy]>,
    /// Policies that cannot be enforced. While there is one, every request is denied.
    pub unenforceable: Arc<[Arc<str>]>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthzPolicy {
    /// `ns[x]-policy[y]`; the rule's index is added when it is reported.
    pub name: Arc<str>,
    /// Evaluated and reported, not enforced (`istio.io/dry-run`).
    pub dry_run: bool,
    /// One has to match. No rules: never matches.
    pub rules: Arc<[AuthzRule]>,
}

/// All three parts have to match; an empty part matches anything.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthzRule {
    /// One source has to match; all its conditions.
    pub from: Arc<[Arc<[Condition]>]>,
    /// One operation has to match; all its conditions.
    pub to: Arc<[Arc<[Condition]>]>,
    pub when: Arc<[Condition]>,
}

/// Some value of the attribute is among `values`, and none among `not_values`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    pub attribute: Attribute,
    /// Empty: no positive condition.
    pub values: Arc<[ValueMatch]>,
    pub not_values: Arc<[ValueMatch]>,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Attribute {
    /// `trust-domain/ns/n/sa/s` of the client's certificate.
    SourcePrincipal,
    SourceNamespace,
    /// `ns/sa`.
    SourceServiceAccount,
    SourceTrustDomain,
    /// The socket's peer.
    SourceIp,
    /// The client after X-Forwarded-For and the trusted hops.
    RemoteIp,
    DestinationIp,
    DestinationPort,
    ConnectionSni,
    /// Case does not matter.
    Host,
    Method,
    /// Normalised, without query.
    Path,
    Header(#[serde(with = "super::serialize::header_name")] HeaderName),
    /// `issuer/subject`.
    RequestPrincipal,
    RequestAudiences,
    RequestPresenter,
    RequestClaim(Arc<[Arc<str>]>),
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ValueMatch {
    /// `Present` here means present and not empty.
    String(StringMatch),
    Cidr(IpNet),
    Port(u16),
    Method(#[serde(with = "super::serialize::method")] Method),
    /// A path template: `{*}` one segment, `{**}` any number.
    PathTemplate(super::matcher::FullRegex),
}
