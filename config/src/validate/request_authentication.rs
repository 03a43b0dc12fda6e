//! Rules for RequestAuthentication.

use super::{Findings, name, selector, time};
use crate::{
    api::istio::request_authentication::{JwtRule, RequestAuthentication},
    diagnostic::FieldPath,
};

pub(super) fn validate(
    policy: &RequestAuthentication,
    spec: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let RequestAuthentication { selector: workloads, target_ref, target_refs, jwt_rules } = policy;
    selector::policy_target(workloads.as_ref(), target_ref.as_ref(), target_refs, spec, findings);
    for (index, rule) in jwt_rules.iter().enumerate() {
        jwt_rule(rule, spec.field("jwtRules").index(index), findings);
    }
}

fn jwt_rule(rule: &JwtRule, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if rule.issuer.is_empty() && rule.jwks_uri.is_empty() {
        findings.error(at.field("issuer"), "an issuer is needed, or at least jwksUri");
    }
    keys(rule, at, findings);
    for (field, list) in [
        ("audiences", &rule.audiences),
        ("fromParams", &rule.from_params),
        ("fromCookies", &rule.from_cookies),
        ("spaceDelimitedClaims", &rule.space_delimited_claims),
    ] {
        for (index, _) in list.iter().enumerate().filter(|(_, entry)| entry.is_empty()) {
            findings.error(at.field(field).index(index), "the entry is empty; remove it");
        }
    }
    for (index, header) in rule.from_headers.iter().enumerate() {
        if !name::is_header_name(&header.name) {
            findings.error(
                at.field("fromHeaders").index(index).field("name"),
                "the name of a header is needed",
            );
        }
    }
    let payload = &rule.output_payload_to_header;
    if !payload.is_empty() && !name::is_header_name(payload) {
        findings
            .error(at.field("outputPayloadToHeader"), format!("{payload:?} is not a header name"));
    }
    let claims = at.field("outputClaimToHeaders");
    for (index, copy) in rule.output_claim_to_headers.iter().enumerate() {
        let at = claims.index(index);
        if !name::is_header_name(&copy.header) {
            findings.error(at.field("header"), "the name of a header is needed");
        }
        if copy.claim.is_empty() {
            findings.error(at.field("claim"), "the name of a claim is needed");
        }
    }
    time::validate(rule.timeout, at.field("timeout"), findings);
}

fn keys(rule: &JwtRule, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if !rule.jwks.is_empty() && !rule.jwks_uri.is_empty() {
        findings.error(at.field("jwks"), "only one of jwks and jwksUri may be set");
    }
    if !rule.jwks_uri.is_empty() && !is_http_url(&rule.jwks_uri) {
        findings
            .error(at.field("jwksUri"), format!("{:?} is not an http or https URL", rule.jwks_uri));
    }
    if !rule.jwks.is_empty() {
        jwks(&rule.jwks, at.field("jwks"), findings);
    }
}

fn is_http_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
}

/// A JSON Web Key Set (RFC 7517): an object with a list of keys, each with its type.
fn jwks(text: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let parsed: serde_json::Value = match serde_json::from_str(text) {
        Ok(parsed) => parsed,
        Err(error) => return findings.error(at, format!("not JSON: {error}")),
    };
    let Some(keys) = parsed.get("keys").and_then(|keys| keys.as_array()) else {
        return findings.error(at, "not a key set; it is a JSON object with a list named keys");
    };
    if keys.is_empty() {
        findings.warning(at, "the key set has no keys, so no token is ever valid");
    }
    for (index, key) in keys.iter().enumerate() {
        let Some(kind) = key.get("kty").and_then(|kind| kind.as_str()) else {
            findings.error(at, format!("key {index} of the set does not say its type, kty"));
            continue;
        };
        if kind == "oct" || key.get("d").is_some() {
            findings.warning(
                at,
                format!(
                    "key {index} of the set is secret: whoever reads this object can issue \
                         tokens; publish public keys only"
                ),
            );
        }
    }
}
