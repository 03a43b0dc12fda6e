//! RequestAuthentication -> JwtAuthn (istio-compat 1.8).

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use crate::{
    api::{Kind, Object, Spec, istio::request_authentication},
    compile::{View, finding::Findings, name::origin},
    model::filter::{ClaimToHeader, JwksSource, JwtAuthn, JwtLocation, JwtRule},
};

const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The rules of every policy that selects the proxy, sorted by issuer.
pub(super) fn compile(view: &View, findings: &mut Findings) -> Option<JwtAuthn> {
    let mut rules = Vec::new();
    for object in super::candidates(view, Kind::RequestAuthentication) {
        let Spec::RequestAuthentication(spec) = &object.spec else { continue };
        let targets = super::targets(spec.target_ref.as_ref(), &spec.target_refs);
        if !super::applies(view, object, spec.selector.as_ref(), targets, findings) {
            continue;
        }
        for (index, jwt_rule) in spec.jwt_rules.iter().enumerate() {
            rules.push(rule(object, jwt_rule, &format!("spec.jwtRules[{index}]"), findings));
        }
    }
    rules.sort_by(|a, b| (&a.issuer, &a.origin).cmp(&(&b.issuer, &b.origin)));
    (!rules.is_empty()).then(|| JwtAuthn { rules: rules.into() })
}

fn rule(
    object: &Object,
    rule: &request_authentication::JwtRule,
    field: &str,
    findings: &mut Findings,
) -> JwtRule {
    let mut header_name = |text: &str, field: String| match HeaderName::from_bytes(text.as_bytes())
    {
        Ok(name) => Some(name),
        Err(_) => {
            findings.warn(object, field, format!("{text:?} is not a header name; it is not used"));
            None
        }
    };
    let mut locations = Vec::new();
    for (index, header) in rule.from_headers.iter().enumerate() {
        let name = header_name(&header.name, format!("{field}.fromHeaders[{index}].name"));
        let prefix = header.prefix.as_str();
        locations.extend(name.map(|name| JwtLocation::Header { name, prefix: prefix.into() }));
    }
    locations
        .extend(rule.from_params.iter().map(|name| JwtLocation::QueryParam(name.as_str().into())));
    locations
        .extend(rule.from_cookies.iter().map(|name| JwtLocation::Cookie(name.as_str().into())));
    let has_own_locations = !rule.from_headers.is_empty()
        || !rule.from_params.is_empty()
        || !rule.from_cookies.is_empty();
    if !has_own_locations {
        locations = default_locations();
    }
    let mut output_claim_to_headers = Vec::new();
    for (index, output) in rule.output_claim_to_headers.iter().enumerate() {
        let field = format!("{field}.outputClaimToHeaders[{index}].header");
        let claim = output.claim.split('.').map(Into::into).collect();
        let header = header_name(&output.header, field);
        output_claim_to_headers.extend(header.map(|header| ClaimToHeader { header, claim }));
    }
    let output_payload_to_header = Some(rule.output_payload_to_header.as_str())
        .filter(|name| !name.is_empty())
        .and_then(|name| header_name(name, format!("{field}.outputPayloadToHeader")));
    JwtRule {
        origin: origin(object),
        issuer: rule.issuer.as_str().into(),
        audiences: strings(&rule.audiences),
        keys: keys(rule),
        locations: locations.into(),
        output_payload_to_header,
        output_claim_to_headers: output_claim_to_headers.into(),
        forward_original_token: rule.forward_original_token,
        space_delimited_claims: strings(&rule.space_delimited_claims),
        timeout: rule.timeout.map_or(DEFAULT_FETCH_TIMEOUT, |timeout| timeout.0),
    }
}

/// `Authorization: Bearer`, then the query parameter `access_token`.
fn default_locations() -> Vec<JwtLocation> {
    vec![
        JwtLocation::Header { name: http::header::AUTHORIZATION, prefix: "Bearer ".into() },
        JwtLocation::QueryParam("access_token".into()),
    ]
}

fn keys(rule: &request_authentication::JwtRule) -> JwksSource {
    match (rule.jwks.as_str(), rule.jwks_uri.as_str()) {
        ("", "") => JwksSource::Discovery,
        ("", uri) => JwksSource::Uri(uri.into()),
        (jwks, _) => JwksSource::Inline(jwks.into()),
    }
}

fn strings(list: &[String]) -> Arc<[Arc<str>]> {
    list.iter().map(|text| text.as_str().into()).collect()
}
