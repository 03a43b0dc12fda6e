//! Rules for AuthorizationPolicy.

use super::{Findings, name, selector};
use crate::{
    api::istio::authorization_policy::{
        Action, AuthorizationPolicy, Condition, Operation, Rule, Source,
    },
    diagnostic::FieldPath,
};

mod condition;
mod path_template;

const MAX_RULES: usize = 512;
const MAX_SERVICE_ACCOUNTS: usize = 16;
const MAX_SERVICE_ACCOUNT_LENGTH: usize = 320;

pub(super) fn validate(
    policy: &AuthorizationPolicy,
    spec: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    selector::policy_target(
        policy.selector.as_ref(),
        policy.target_ref.as_ref(),
        &policy.target_refs,
        spec,
        findings,
    );
    action(policy, spec, findings);
    let rules = spec.field("rules");
    if policy.rules.len() > MAX_RULES {
        findings.error(rules, format!("at most {MAX_RULES} rules; split the policy"));
    }
    for (index, written) in policy.rules.iter().enumerate() {
        rule(written, policy.action, rules.index(index), findings);
    }
}

fn action(policy: &AuthorizationPolicy, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    let provider = spec.field("provider");
    match (policy.action, &policy.provider) {
        (Action::Custom, None) => {
            findings.error(provider, "action CUSTOM needs the name of an extension provider");
        }
        (Action::Custom, Some(named)) if named.name.is_empty() => {
            findings.error(provider.field("name"), "the name of an extension provider is needed");
        }
        (Action::Custom, Some(_)) | (_, None) => {}
        (action, Some(_)) => findings.error(
            provider,
            format!("action {} asks no provider; use CUSTOM or remove the field", action.name()),
        ),
    }
    if policy.rules.is_empty() && matches!(policy.action, Action::Deny | Action::Custom) {
        findings.error(
            spec.field("rules"),
            format!(
                "a {} policy without rules never matches; rules: [{{}}] matches everything",
                policy.action.name()
            ),
        );
    }
}

fn rule(rule: &Rule, action: Action, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let from = at.field("from");
    if rule.from.as_ref().is_some_and(Vec::is_empty) {
        findings.error(from, EMPTY);
    }
    for (index, entry) in rule.from.iter().flatten().enumerate() {
        let at = from.index(index);
        let at = at.field("source");
        match &entry.source {
            Some(written) if *written != Source::default() => source(written, action, at, findings),
            _ => findings.error(at, "says nothing about the source; add a field or remove it"),
        }
    }
    let to = at.field("to");
    if rule.to.as_ref().is_some_and(Vec::is_empty) {
        findings.error(to, EMPTY);
    }
    for (index, entry) in rule.to.iter().flatten().enumerate() {
        let at = to.index(index);
        let at = at.field("operation");
        match &entry.operation {
            Some(written) if *written != Operation::default() => operation(written, at, findings),
            _ => findings.error(at, "says nothing about the operation; add a field or remove it"),
        }
    }
    let when = at.field("when");
    if rule.when.as_ref().is_some_and(Vec::is_empty) {
        findings.error(when, EMPTY);
    }
    for (index, written) in rule.when.iter().flatten().enumerate() {
        condition::validate(written, action, when.index(index), findings);
    }
    if action == Action::Deny && is_http_only(rule) {
        findings.warning(
            at,
            "only looks at HTTP; on TCP ports such fields are ignored, so the rule denies every \
             connection there; add ports to each operation",
        );
    }
}

/// Written by a template that rendered nothing, it would otherwise match everyone.
const EMPTY: &str = "the list is empty; remove it to match anything, or fill it";

/// Every field of a source or operation with its name, in the order of the documentation.
type Lists<'a> = Vec<(&'static str, Option<&'a Vec<String>>)>;

fn source_lists(source: &Source) -> Lists<'_> {
    vec![
        ("principals", source.principals.as_ref()),
        ("notPrincipals", source.not_principals.as_ref()),
        ("requestPrincipals", source.request_principals.as_ref()),
        ("notRequestPrincipals", source.not_request_principals.as_ref()),
        ("namespaces", source.namespaces.as_ref()),
        ("notNamespaces", source.not_namespaces.as_ref()),
        ("serviceAccounts", source.service_accounts.as_ref()),
        ("notServiceAccounts", source.not_service_accounts.as_ref()),
        ("trustDomains", source.trust_domains.as_ref()),
        ("notTrustDomains", source.not_trust_domains.as_ref()),
        ("ipBlocks", source.ip_blocks.as_ref()),
        ("notIpBlocks", source.not_ip_blocks.as_ref()),
        ("remoteIpBlocks", source.remote_ip_blocks.as_ref()),
        ("notRemoteIpBlocks", source.not_remote_ip_blocks.as_ref()),
    ]
}

fn operation_lists(operation: &Operation) -> Lists<'_> {
    vec![
        ("hosts", operation.hosts.as_ref()),
        ("notHosts", operation.not_hosts.as_ref()),
        ("ports", operation.ports.as_ref()),
        ("notPorts", operation.not_ports.as_ref()),
        ("methods", operation.methods.as_ref()),
        ("notMethods", operation.not_methods.as_ref()),
        ("paths", operation.paths.as_ref()),
        ("notPaths", operation.not_paths.as_ref()),
    ]
}

fn source(source: &Source, action: Action, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let identities = [
        source.principals.as_ref(),
        source.not_principals.as_ref(),
        source.namespaces.as_ref(),
        source.not_namespaces.as_ref(),
    ];
    let accounts = source.service_accounts.is_some() || source.not_service_accounts.is_some();
    if accounts && identities.iter().any(Option::is_some) {
        findings.error(
            at,
            "serviceAccounts already say namespace and name; remove principals and namespaces",
        );
    }
    for (field, values) in source_lists(source) {
        let Some(values) = values else { continue };
        let place = at.field(field);
        not_empty(values, place, findings);
        if action == Action::Custom && needs_identity(field) {
            findings.error(
                place,
                "action CUSTOM is decided before identities are known; use ipBlocks or remoteIpBlocks",
            );
        }
        for (index, value) in values.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
            if let Some(message) = source_value(field, value) {
                findings.error(place.index(index), message);
            }
        }
        if field.ends_with("erviceAccounts") && values.len() > MAX_SERVICE_ACCOUNTS {
            findings.error(place, format!("at most {MAX_SERVICE_ACCOUNTS} service accounts"));
        }
    }
}

fn needs_identity(field: &str) -> bool {
    !field.ends_with("pBlocks")
}

/// What is wrong with one value of a source field.
fn source_value(field: &str, value: &str) -> Option<String> {
    let field = field.strip_prefix("not").unwrap_or(field).to_ascii_lowercase();
    match field.as_str() {
        "ipblocks" | "remoteipblocks" if !name::is_ip_or_cidr(value) => {
            Some(format!("{value:?} is neither an IP address nor a CIDR"))
        }
        "serviceaccounts" if !is_service_account(value) => {
            Some(format!("{value:?} is not a service account; write name or namespace/name, no *"))
        }
        "trustdomains" if !is_trust_domain_pattern(value) => Some(format!(
            "{value:?} is not a trust domain; it has no / and at most one *, at an end"
        )),
        _ => None,
    }
}

fn is_service_account(value: &str) -> bool {
    let (namespace, account) = name::split_namespace(value);
    value.len() <= MAX_SERVICE_ACCOUNT_LENGTH
        && !value.contains('*')
        && !account.is_empty()
        && !account.contains('/')
        && namespace.is_none_or(|namespace| !namespace.is_empty())
}

fn is_trust_domain_pattern(value: &str) -> bool {
    let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
    !value.contains('/') && !inner.contains('*')
}

fn operation(operation: &Operation, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    for (field, values) in operation_lists(operation) {
        let Some(values) = values else { continue };
        let place = at.field(field);
        not_empty(values, place, findings);
        for (index, value) in values.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
            let message = match field {
                "ports" | "notPorts" => port(value),
                "paths" | "notPaths" => path_template::problem(value),
                _ => None,
            };
            if let Some(message) = message {
                findings.error(place.index(index), message);
            }
        }
    }
}

fn port(value: &str) -> Option<String> {
    let valid = value.parse::<u16>().is_ok_and(|port| port > 0);
    (!valid).then(|| format!("{value:?} is not a port number from 1 to 65535"))
}

/// Neither the list nor any of its values may be empty.
fn not_empty(values: &[String], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if values.is_empty() {
        findings.error(at, EMPTY);
    }
    for (index, _) in values.iter().enumerate().filter(|(_, value)| value.is_empty()) {
        findings.error(at.index(index), "the value is empty and matches nothing; remove it");
    }
}

/// Whether nothing in the rule limits it on a TCP port, although something limits it on HTTP.
fn is_http_only(rule: &Rule) -> bool {
    let Rule { from, to, when } = rule;
    let from_is_http = from.iter().flatten().all(|from| {
        from.source.as_ref().is_none_or(|source| {
            let Source { request_principals, not_request_principals, .. } = source;
            let http = Source {
                request_principals: request_principals.clone(),
                not_request_principals: not_request_principals.clone(),
                ..Source::default()
            };
            *source == http
        })
    });
    let to_is_http = to.iter().flatten().all(|to| {
        to.operation
            .as_ref()
            .is_none_or(|operation| operation.ports.is_none() && operation.not_ports.is_none())
    });
    let when_is_http =
        when.iter().flatten().all(|Condition { key, .. }| key.starts_with("request."));
    let says_something = from.is_some() || to.is_some() || when.is_some();
    says_something && from_is_http && to_is_http && when_is_http
}
