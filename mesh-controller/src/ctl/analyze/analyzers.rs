//! Findings that take several objects, each with the words of istioctl.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use weir_config::{
    api::{
        Kind, Object, Spec,
        istio::{
            Gateway,
            virtual_service::{Destination, VirtualService},
        },
    },
    compile::reference::{
        Rules, contains, is_exported_elsewhere, mesh_hosts, namespace_of, resolve_gateway,
        resolve_host, routes_elsewhere, said_of_definition, said_of_rules,
    },
};

use super::{
    config::{Config, DOMAIN, Host},
    message::{Code, Message},
};
use crate::ctl::args::Level;

/// In the order they run, which says nothing about the order of what they find.
pub const ALL: [fn(&Config, &mut Vec<Message>); 5] =
    [gateway_references, destination_references, selectors, destination_rules, takeovers];

fn message(
    code: Code,
    level: Level,
    object: &Object,
    field: impl Into<String>,
    text: impl Into<String>,
) -> Message {
    Message {
        code,
        level,
        object: Some(object.key()),
        source: object.source.clone(),
        field: field.into(),
        text: text.into(),
    }
}

/// Gateways that VirtualServices name: whether they are there, and serve one of the hosts.
fn gateway_references(config: &Config, messages: &mut Vec<Message>) {
    for (object, spec) in config.virtual_services() {
        let namespace = &object.metadata.namespace;
        for (index, name) in spec.gateways.iter().enumerate() {
            // All sidecars; there is no object of it.
            let Some(key) = resolve_gateway(name, namespace) else { continue };
            let field = format!("spec.gateways[{index}]");
            let gateway = config.objects.get(&key);
            let Some(Spec::Gateway(gateway)) = gateway.map(|object| &object.spec) else {
                let text = format!("Referenced gateway not found: {name:?}");
                let code = Code::ReferencedResourceNotFound;
                messages.push(message(code, Level::Error, object, field, text));
                continue;
            };
            let is_served = |host: &String| serves(gateway, &key.namespace, host, namespace);
            if !spec.hosts.is_empty() && !spec.hosts.iter().any(is_served) {
                let text = format!(
                    "one or more host [{}] defined in VirtualService {namespace}/{} not found in \
                     Gateway {}/{}.",
                    spec.hosts.join(" "),
                    object.metadata.name,
                    key.namespace,
                    key.name
                );
                let code = Code::VirtualServiceHostNotFoundInGateway;
                messages.push(message(code, Level::Warning, object, field, text));
            }
        }
    }
}

/// Whether a server of the Gateway is for `host`, and lets VirtualServices of `namespace` have it.
fn serves(gateway: &Gateway, own: &str, host: &str, namespace: &str) -> bool {
    let hosts = gateway.servers.iter().flat_map(|server| &server.hosts);
    hosts.into_iter().any(|served| {
        let (of, served) = served.split_once('/').unwrap_or(("*", served));
        let is_let = match of {
            "*" => true,
            "." => own == namespace,
            of => of == namespace,
        };
        is_let && (covers(served, host) || covers(host, served))
    })
}

/// Whether every name that `host` stands for is one of `pattern`.
fn covers(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    match pattern.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix) && host.len() > suffix.len(),
        None => pattern == host,
    }
}

/// Hosts, ports and subsets that VirtualServices send traffic to.
fn destination_references(config: &Config, messages: &mut Vec<Message>) {
    let known = Known::of(config);
    for (object, spec) in config.virtual_services() {
        for (field, destination) in destinations(spec) {
            messages.extend(known.check(object, &field, destination));
        }
    }
}

/// What destinations can refer to.
struct Known {
    hosts: BTreeMap<String, Host>,
    /// Names of subsets by host.
    subsets: BTreeMap<String, BTreeSet<String>>,
}

impl Known {
    fn of(config: &Config) -> Self {
        let mut subsets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for object in config.of_kind(Kind::DestinationRule) {
            let Spec::DestinationRule(rule) = &object.spec else { continue };
            let host = resolve_host(&rule.host, &object.metadata.namespace, DOMAIN);
            let names = rule.subsets.iter().map(|subset| subset.name.clone());
            subsets.entry(host.to_string()).or_default().extend(names);
        }
        Self { hosts: config.hosts(), subsets }
    }

    /// The host, or the pattern that covers it.
    fn find(&self, host: &str) -> Option<&Host> {
        let pattern =
            || patterns(&self.hosts).find(|(pattern, _)| covers(pattern, host)).map(|(_, it)| it);
        self.hosts.get(host).or_else(pattern)
    }

    fn has_subset(&self, host: &str, subset: &str) -> bool {
        let general = patterns(&self.subsets).filter(|(pattern, _)| covers(pattern, host));
        let own = self.subsets.get(host);
        own.into_iter().chain(general.map(|(_, names)| names)).any(|names| names.contains(subset))
    }

    fn check(&self, object: &Object, field: &str, destination: &Destination) -> Option<Message> {
        let error = |code, part: &str, text: String| {
            Some(message(code, Level::Error, object, format!("{field}.{part}"), text))
        };
        let Destination { host: name, subset, port } = destination;
        let host = resolve_host(name, &object.metadata.namespace, DOMAIN);
        let Some(found) = self.find(&host) else {
            let text = format!("Referenced host not found: {name:?}");
            return error(Code::ReferencedResourceNotFound, "host", text);
        };
        if !subset.is_empty() && !self.has_subset(&host, subset) {
            let text = format!(
                "Referenced host+subset in destinationrule not found: {:?}",
                format!("{name}+{subset}")
            );
            return error(Code::ReferencedResourceNotFound, "subset", text);
        }
        if port.is_none_or(|port| port.number == 0) && found.ports.len() > 1 {
            let ports: Vec<String> = found.ports.iter().map(ToString::to_string).collect();
            let text = format!(
                "This VirtualService routes to a service {host:?} that exposes multiple ports [{}]. \
                 Specifying a port in the destination is required to disambiguate.",
                ports.join(" ")
            );
            return error(Code::VirtualServiceDestinationPortSelectorRequired, "port", text);
        }
        None
    }
}

/// The entries for more than one host.
fn patterns<V>(map: &BTreeMap<String, V>) -> impl Iterator<Item = (&String, &V)> {
    // `+` comes after `*`.
    map.range::<str, _>((Bound::Included("*"), Bound::Excluded("+")))
}

/// Every destination of a VirtualService with its field.
fn destinations<'a>(spec: &'a VirtualService) -> Vec<(String, &'a Destination)> {
    let mut all = Vec::new();
    let mut push = |field: String, destination: Option<&'a Destination>| {
        all.extend(destination.map(|destination| (field, destination)));
    };
    for (index, rule) in spec.http.iter().enumerate() {
        let field = format!("spec.http[{index}]");
        for (at, route) in rule.route.iter().enumerate() {
            push(format!("{field}.route[{at}].destination"), route.destination.as_ref());
        }
        push(format!("{field}.mirror"), rule.mirror.as_ref());
        for (at, mirror) in rule.mirrors.iter().enumerate() {
            push(format!("{field}.mirrors[{at}].destination"), mirror.destination.as_ref());
        }
    }
    let tls = spec.tls.iter().map(|rule| &rule.route).enumerate();
    let tls = tls.map(|(index, route)| (format!("spec.tls[{index}]"), route));
    let tcp = spec.tcp.iter().map(|rule| &rule.route).enumerate();
    let tcp = tcp.map(|(index, route)| (format!("spec.tcp[{index}]"), route));
    for (field, routes) in tls.chain(tcp) {
        for (at, route) in routes.iter().enumerate() {
            push(format!("{field}.route[{at}].destination"), route.destination.as_ref());
        }
    }
    all
}

/// Gateways that no pod of the cluster is selected by.
fn selectors(config: &Config, messages: &mut Vec<Message>) {
    let Some(workloads) = &config.workloads else { return };
    for object in config.of_kind(Kind::Gateway) {
        let Spec::Gateway(gateway) = &object.spec else { continue };
        let selector = &gateway.selector;
        if selector.is_empty() || workloads.iter().any(|it| contains(&it.labels, selector)) {
            continue;
        }
        let labels: Vec<String> =
            selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let text = format!("Referenced selector not found: {:?}", labels.join(","));
        let code = Code::ReferencedResourceNotFound;
        messages.push(message(code, Level::Error, object, "spec.selector", text));
    }
}

/// DestinationRules for hosts that nothing defines.
fn destination_rules(config: &Config, messages: &mut Vec<Message>) {
    let known = Known::of(config);
    for object in config.of_kind(Kind::DestinationRule) {
        let Spec::DestinationRule(rule) = &object.spec else { continue };
        let host = resolve_host(&rule.host, &object.metadata.namespace, DOMAIN);
        let is_pattern = host.starts_with('*');
        let is_known = known.find(&host).is_some()
            || (is_pattern && known.hosts.keys().any(|it| covers(&host, it)));
        if !is_known {
            let text = format!(
                "The host {} defined in the DestinationRule does not match any services in the mesh.",
                rule.host
            );
            let code = Code::UnknownDestinationRuleHost;
            messages.push(message(code, Level::Warning, object, "spec.host", text));
        }
    }
}

/// VirtualServices and ServiceEntries for hosts of other namespaces.
fn takeovers(config: &Config, messages: &mut Vec<Message>) {
    let mesh = config.mesh.clone().unwrap_or_default();
    let root_namespace = match mesh.root_namespace.as_str() {
        "" => "istio-system",
        name => name,
    };
    let rules = Rules { root_namespace, takeover: mesh.host_takeover };
    let definitions = config.definitions();
    for object in config.objects.values() {
        let from = &*object.metadata.namespace;
        let said = match &object.spec {
            Spec::VirtualService(spec)
                if is_exported_elsewhere(
                    &spec.export_to,
                    &mesh.default_virtual_service_export_to,
                    from,
                ) =>
            {
                let claims = mesh_hosts(spec, from, DOMAIN).map(|hosts| {
                    let covered = definitions.iter().filter(|(host, _)| hosts.covers(host));
                    let covered: Vec<_> = covered.map(|(_, it)| it.clone()).collect();
                    routes_elsewhere(&rules, from, &hosts, DOMAIN, &covered)
                });
                claims.max().and_then(said_of_rules)
            }
            Spec::ServiceEntry(spec)
                if is_exported_elsewhere(
                    &spec.export_to,
                    &mesh.default_service_export_to,
                    from,
                ) =>
            {
                let hosts = spec.hosts.iter().map(|host| resolve_host(host, from, DOMAIN));
                let claims = hosts.map(|host| rules.claim(from, namespace_of(&host, DOMAIN)));
                claims.max().and_then(said_of_definition)
            }
            _ => None,
        };
        let code = Code::SchemaWarning;
        messages.extend(said.map(|text| message(code, Level::Warning, object, "spec.hosts", text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_the_names_and_patterns_below_it() {
        for (pattern, host, expected) in [
            ("*", "a.test", true),
            ("*.a.test", "b.A.test", true),
            ("*.a.test", "*.b.a.test", true),
            ("*.a.test", "a.test", false),
            ("a.test", "a.test", true),
            ("a.test", "*.test", false),
        ] {
            assert_eq!(covers(pattern, host), expected, "{pattern} {host}");
        }
    }
}
