//! Rules for the conditions of an http rule.

use super::super::{Findings, name, regex};
use crate::{
    api::{StringMatch, istio::http_route::HttpMatchRequest},
    diagnostic::FieldPath,
};

/// Prefix of header names that compare a claim of the validated JWT.
const CLAIM_PREFIX: &str = "@request.auth.claims";

const PSEUDO_HEADERS: [&str; 5] = [":method", ":scheme", ":authority", ":path", ":status"];

/// Checks one condition. `at_gateway`: some gateway other than `mesh` applies it.
pub(super) fn validate(
    condition: &HttpMatchRequest,
    at_gateway: bool,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    // An empty prefix of the path is `/`, and common.
    if let Some(uri) = condition.uri.as_ref().filter(|uri| !is_empty_prefix(uri)) {
        string_match(uri, at.field("uri"), findings);
    }
    for (field, value) in [
        ("scheme", &condition.scheme),
        ("method", &condition.method),
        ("authority", &condition.authority),
    ] {
        if let Some(value) = value {
            string_match(value, at.field(field), findings);
        }
    }
    for (field, headers) in
        [("headers", &condition.headers), ("withoutHeaders", &condition.without_headers)]
    {
        let at = at.field(field);
        for (name, value) in headers {
            header_name(name, at_gateway, at.key(name), findings);
            present_or_match(value, at.key(name), findings);
        }
    }
    let parameters = at.field("queryParams");
    for (name, value) in &condition.query_params {
        if name.is_empty() {
            findings.error(parameters, "a query parameter needs a name");
        }
        present_or_match(value, parameters.key(name), findings);
    }
    super::conditions(
        condition.port,
        &condition.source_labels,
        &condition.source_namespace,
        at,
        findings,
    );
}

fn is_empty_prefix(value: &StringMatch) -> bool {
    matches!(value, StringMatch::Prefix(prefix) if prefix.is_empty())
}

fn string_match(value: &StringMatch, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    match value {
        StringMatch::Exact(_) => {}
        StringMatch::Prefix(prefix) => {
            if prefix.is_empty() {
                findings.error(at.field("prefix"), "an empty prefix matches everything; remove it");
            }
        }
        StringMatch::Regex(pattern) => regex::validate(pattern, at.field("regex"), findings),
        StringMatch::Present => {
            findings.warning(at, "matches anything; set one of exact, prefix, regex, or remove it");
        }
    }
}

/// For headers and query parameters nothing, or the regex `*`, means present with any value.
fn present_or_match(value: &StringMatch, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let present = match value {
        StringMatch::Present => true,
        StringMatch::Regex(pattern) => pattern == "*",
        StringMatch::Exact(_) | StringMatch::Prefix(_) => false,
    };
    if !present {
        string_match(value, at, findings);
    }
}

fn header_name(header: &str, at_gateway: bool, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if header.starts_with(CLAIM_PREFIX) {
        if !is_claim(header) {
            findings
                .error(at, "name a claim: @request.auth.claims.sub or @request.auth.claims[sub]");
        }
        if !at_gateway {
            findings.error(at, "claims are only compared at gateways; name one in gateways");
        }
    } else if header.starts_with(':') {
        if !PSEUDO_HEADERS.contains(&header) {
            findings.error(
                at,
                format!("not a pseudo header; use one of {}", PSEUDO_HEADERS.join(", ")),
            );
        }
    } else if !name::is_header_name(header) {
        findings.error(at, "not a header name; use letters, digits, - and _");
    }
}

/// `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`, every part named.
fn is_claim(header: &str) -> bool {
    let claim = &header[CLAIM_PREFIX.len()..];
    if let Some(path) = claim.strip_prefix('.') {
        return path.split('.').all(|part| !part.is_empty());
    }
    claim
        .strip_prefix('[')
        .and_then(|claim| claim.strip_suffix(']'))
        .is_some_and(|path| path.split("][").all(|part| !part.is_empty()))
}
