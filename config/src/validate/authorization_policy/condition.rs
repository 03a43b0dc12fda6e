//! Rules for the `when` conditions of an AuthorizationPolicy.

use super::super::{Findings, name};
use crate::{
    api::istio::authorization_policy::{Action, Condition},
    diagnostic::FieldPath,
};

/// Attributes with a fixed name.
const KEYS: [&str; 13] = [
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.headers[<name>], request.auth.claims[<name>]",
];

/// Attributes of old versions, and what took their place.
const REPLACED: [(&str, &str); 4] = [
    ("destination.labels", "selector"),
    ("destination.name", "selector"),
    ("destination.namespace", "metadata.namespace"),
    ("destination.user", "selector"),
];

pub(super) fn validate(
    condition: &Condition,
    action: Action,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let Condition { key, values, not_values } = condition;
    self::key(key, action, at.field("key"), findings);
    if values.is_empty() && not_values.is_empty() {
        findings.error(at, "nothing to compare with; set values or notValues");
    }
    for (field, list) in [("values", values), ("notValues", not_values)] {
        for (index, value) in list.iter().enumerate() {
            if let Some(message) = value_problem(key, value) {
                findings.error(at.field(field).index(index), message);
            }
        }
    }
}

fn key(key: &str, action: Action, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let replaced = REPLACED.iter().find(|(old, _)| {
        key.strip_prefix(old).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
    });
    if let Some((_, instead)) = replaced {
        return findings.error(at, format!("{key} is no longer supported; use {instead} instead"));
    }
    if !is_known(key) {
        return findings
            .error(at, format!("{key:?} is not an attribute; use one of {}", KEYS.join(", ")));
    }
    let needs_identity =
        key.starts_with("request.auth.") || key.starts_with("source.") && key != "source.ip";
    if action == Action::Custom && needs_identity {
        findings.error(at, "action CUSTOM is decided before identities are known; use another key");
    }
}

fn is_known(key: &str) -> bool {
    let indexed = |prefix: &str| {
        key.strip_prefix(prefix).is_some_and(|rest| {
            rest.strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|path| path.split("][").all(|part| !part.is_empty()))
        })
    };
    KEYS[..KEYS.len() - 1].contains(&key)
        || indexed("request.headers")
        || indexed("request.auth.claims")
        || key.starts_with("experimental.envoy.filters.") && key.ends_with(']') && key.contains('[')
}

fn value_problem(key: &str, value: &str) -> Option<String> {
    if value.is_empty() {
        return Some("the value is empty; remove it".to_owned());
    }
    let is_address = matches!(key, "source.ip" | "remote.ip" | "destination.ip");
    if is_address && !name::is_ip_or_cidr(value) {
        return Some(format!("{value:?} is neither an IP address nor a CIDR"));
    }
    if key == "destination.port" {
        return super::port(value);
    }
    None
}
