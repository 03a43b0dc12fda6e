use serde::Deserialize;

use crate::api::{Duration, PolicyTargetReference, Selector};

/// `security.istio.io` RequestAuthentication: which JWTs are valid. A request *without* a token
/// passes; require one with an AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAuthentication {
    /// Workloads of the namespace the rules are for; all when absent.
    pub selector: Option<Selector>,
    /// Older, single form of `targetRefs`.
    pub target_ref: Option<PolicyTargetReference>,
    /// Objects the rules are for, instead of a selector.
    pub target_refs: Vec<PolicyTargetReference>,
    pub jwt_rules: Vec<JwtRule>,
}

/// One issuer, its keys, and where its tokens are found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtRule {
    /// The token's `iss`, exactly.
    pub issuer: String,
    /// Accepted audiences, one of which the token's `aud` must hold; any when empty.
    pub audiences: Vec<String>,
    /// URL of the key set. Exclusive with `jwks`; with neither, the issuer's OpenID discovery
    /// document names it.
    pub jwks_uri: String,
    /// The key set itself, as JSON text.
    pub jwks: String,
    /// Headers that may carry the token. Any `from` field turns off the defaults: header
    /// `Authorization: Bearer` and query parameter `access_token`.
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters that may carry the token.
    pub from_params: Vec<String>,
    /// Cookies that may carry the token.
    pub from_cookies: Vec<String>,
    /// Header that carries the verified payload upstream, in base64url.
    pub output_payload_to_header: String,
    /// Headers that carry verified claims upstream.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// Leave the token in the request that is forwarded.
    pub forward_original_token: bool,
    /// Time to fetch the key set; 5s when absent.
    pub timeout: Option<Duration>,
    /// Claims that hold a list separated by spaces, besides `scope` and `permission`.
    pub space_delimited_claims: Vec<String>,
}

/// A header that may carry the token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtHeader {
    pub name: String,
    /// Text before the token, `Bearer `.
    pub prefix: String,
}

/// Copies a verified claim to a request header.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimToHeader {
    pub header: String,
    /// Claim name; `a.b` is nested.
    pub claim: String,
}
