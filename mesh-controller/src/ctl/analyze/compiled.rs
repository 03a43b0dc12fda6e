//! What compiling finds, for each kind of gateway there is.

use std::collections::BTreeSet;

use weir_config::{
    api::{Kind, Object, Spec},
    compile::{self, Proxy, reference::contains},
    diagnostic::Diagnostic,
};

use super::{
    config::{Config, DOMAIN, Workload},
    message::{Code, Message},
};
use crate::ctl::args::Level;

pub fn messages(config: &Config) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    for workload in gateways(config) {
        let proxy = Proxy {
            namespace: workload.namespace.as_str().into(),
            labels: workload.labels,
            cluster_domain: DOMAIN.into(),
            // In a mesh it will have one; without, it says so itself.
            has_identity: true,
            ..Proxy::default()
        };
        let objects = config.objects.values().cloned();
        let (_, diagnostics) = compile::compile(proxy, config.mesh.clone(), objects);
        let of_objects = diagnostics.iter().filter(|it| !is_known(it, config));
        messages.extend(of_objects.map(message));
    }
    messages.sort();
    messages.dedup();
    messages
}

/// Workloads that a Gateway selects. Without a cluster, what each Gateway seems to expect.
fn gateways(config: &Config) -> BTreeSet<Workload> {
    let gateways = config.of_kind(Kind::Gateway);
    match &config.workloads {
        None => gateways.filter_map(|object| expected(object)).collect(),
        Some(workloads) => {
            let selectors: Vec<_> = gateways.filter_map(|object| expected(object)).collect();
            let is_selected = |workload: &&Workload| {
                let selects =
                    |it: &Workload| !it.labels.is_empty() && contains(&workload.labels, &it.labels);
                selectors.iter().any(selects)
            };
            workloads.iter().filter(is_selected).cloned().collect()
        }
    }
}

fn expected(gateway: &Object) -> Option<Workload> {
    let Spec::Gateway(spec) = &gateway.spec else { return None };
    let namespace = gateway.metadata.namespace.to_string();
    Some(Workload { namespace, labels: spec.selector.clone() })
}

/// Objects are validated as they are read. Nothing is known of Secrets that may not be listed; nor,
/// without a cluster, of the namespace that they are looked for in, which is the gateway's.
fn is_known(diagnostic: &Diagnostic, config: &Config) -> bool {
    let is_found = |message: &Message| {
        message.object == diagnostic.object
            && message.field == diagnostic.field
            && message.text == diagnostic.message
    };
    let is_unknown = is_credential(&diagnostic.field)
        && (config.hides_secrets || (config.workloads.is_none() && is_missing(diagnostic)));
    is_unknown || config.found.iter().any(is_found)
}

fn message(diagnostic: &Diagnostic) -> Message {
    let code = match &diagnostic.object {
        Some(object) if object.kind == Kind::Gateway && is_conflict(diagnostic) => {
            Code::ConflictingGateways
        }
        _ if is_credential(&diagnostic.field) && is_missing(diagnostic) => {
            Code::ReferencedResourceNotFound
        }
        _ if is_credential(&diagnostic.field) => Code::InvalidGatewayCredential,
        _ => Code::SchemaWarning,
    };
    Message::new(code, Level::Warning, diagnostic)
}

fn is_credential(field: &str) -> bool {
    let name = field.rsplit('.').next().unwrap_or_default();
    let name = name.split('[').next().unwrap_or_default();
    ["credentialName", "credentialNames", "caCertCredentialName"].contains(&name)
}

fn is_missing(diagnostic: &Diagnostic) -> bool {
    diagnostic.message.contains(" does not exist")
}

/// A server that another one leaves no room for.
fn is_conflict(diagnostic: &Diagnostic) -> bool {
    let field = diagnostic.field.as_str();
    field.ends_with("].port") || field.ends_with("].hosts")
}
