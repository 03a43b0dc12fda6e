//! Rules for VirtualService: hosts, gateways, and the tls and tcp rules.

use std::collections::BTreeMap;

use super::{Findings, export_to, name, selector};
use crate::{
    api::istio::virtual_service::{
        Destination, L4MatchAttributes, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute,
        VirtualService,
    },
    diagnostic::FieldPath,
};

mod fault;
mod header;
mod http_match;
mod http_route;
mod reachability;
pub(super) mod retry;

pub(super) fn validate(
    virtual_service: &VirtualService,
    spec: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let VirtualService { hosts, gateways, http, tls, tcp, export_to } = virtual_service;
    let is_delegate = hosts.is_empty();
    if is_delegate {
        delegate(virtual_service, spec, findings);
    } else {
        self::hosts(hosts, applies_to_mesh(gateways), spec.field("hosts"), findings);
    }
    self::gateways(gateways, spec.field("gateways"), findings);
    if http.is_empty() && tls.is_empty() && tcp.is_empty() {
        findings.error(spec, "a VirtualService needs rules: at least one of http, tls, tcp");
    }
    http_route::validate(virtual_service, spec.field("http"), findings);
    reachability::validate(http, spec.field("http"), findings);
    for (index, route) in tls.iter().enumerate() {
        tls_route(route, hosts, spec.field("tls").index(index), findings);
    }
    for (index, route) in tcp.iter().enumerate() {
        tcp_route(route, spec.field("tcp").index(index), findings);
    }
    export_to::validate(export_to, false, spec, findings);
}

/// A VirtualService without hosts is only reached through another's `delegate`.
fn delegate(virtual_service: &VirtualService, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    let without_hosts = "a VirtualService without hosts is a delegate";
    if !virtual_service.gateways.is_empty() {
        let message =
            format!("{without_hosts} and takes its root's gateways; remove them or add hosts");
        findings.error(spec.field("gateways"), message);
    }
    if !virtual_service.tls.is_empty() {
        let message = format!("{without_hosts} and has http rules only; remove these or add hosts");
        findings.error(spec.field("tls"), message);
    }
    if !virtual_service.tcp.is_empty() {
        let message = format!("{without_hosts} and has http rules only; remove these or add hosts");
        findings.error(spec.field("tcp"), message);
    }
}

fn applies_to_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
}

fn hosts(hosts: &[String], mesh: bool, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    for (index, host) in hosts.iter().enumerate() {
        let at = at.index(index);
        if host == "*" && mesh {
            findings.error(
                at,
                "* would capture all traffic of the mesh; name the hosts, or name gateways other \
                 than mesh",
            );
        } else if !name::is_ip(host) && !name::is_wildcard_domain(host) {
            findings.error(at, format!("{host:?} is not a host name; write a name, *.suffix or *"));
        }
    }
    overlaps(hosts, at, findings);
}

/// `*.com` and `*.foo.com` in one VirtualService: which rules a host gets would be unclear.
fn overlaps(hosts: &[String], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for (index, host) in hosts.iter().enumerate() {
        if let Some(first) = names.insert(host.to_ascii_lowercase(), index) {
            findings.error(at.index(index), format!("the same host as hosts[{first}]; remove one"));
        }
    }
    for (index, host) in hosts.iter().enumerate() {
        let host = host.to_ascii_lowercase();
        // Every wildcard that covers the host ends at one of its dots, or is *.
        let suffixes = host.match_indices('.').map(|(dot, _)| format!("*{}", &host[dot..]));
        let covering = suffixes
            .chain(std::iter::once("*".to_owned()))
            .filter(|wildcard| *wildcard != host)
            .find_map(|wildcard| names.get_key_value(&wildcard));
        if let Some((wildcard, _)) = covering {
            findings.error(
                at.index(index),
                format!("already covered by {wildcard:?}; give it a VirtualService of its own"),
            );
        }
    }
}

fn gateways(gateways: &[String], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    for (index, gateway) in gateways.iter().enumerate() {
        let at = at.index(index);
        let (namespace, gateway_name) = name::split_namespace(gateway);
        let namespace_is_valid = namespace.is_none_or(name::is_kubernetes_label);
        if namespace.is_none() && gateway_name.contains('.') && name::is_fqdn(gateway_name) {
            findings
                .warning(at, "the form name.namespace.svc... is outdated; write namespace/name");
        } else if !namespace_is_valid || !name::is_kubernetes_label(gateway_name) {
            findings.error(
                at,
                format!("{gateway:?} is not a gateway; write name, namespace/name or mesh"),
            );
        }
    }
}

fn tls_route(route: &TlsRoute, hosts: &[String], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let matches = at.field("match");
    if route.matches.is_empty() {
        findings.error(matches, "a tls rule needs at least one match with sniHosts");
    }
    for (index, condition) in route.matches.iter().enumerate() {
        tls_match(condition, hosts, matches.index(index), findings);
    }
    route_destinations(&route.route, at.field("route"), findings);
}

fn tls_match(
    condition: &TlsMatchAttributes,
    hosts: &[String],
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let sni = at.field("sniHosts");
    if condition.sni_hosts.is_empty() {
        findings.error(sni, "at least one server name is needed");
    }
    for (index, host) in condition.sni_hosts.iter().enumerate() {
        let at = sni.index(index);
        if name::is_ip(host) {
            findings.warning(at, "clients send no SNI for an address; name the host");
        } else if !name::is_wildcard_domain(host) {
            findings.error(at, format!("{host:?} is not a host name; write a name, *.suffix or *"));
        } else if !hosts.is_empty() && !hosts.iter().any(|allowed| covers(allowed, host)) {
            findings.error(
                at,
                format!("{host:?} is not among the VirtualService's hosts; add it there"),
            );
        }
    }
    subnets(&condition.destination_subnets, at.field("destinationSubnets"), findings);
    conditions(condition.port, &condition.source_labels, &condition.source_namespace, at, findings);
}

/// Whether every name `host` stands for is one `allowed` stands for.
fn covers(allowed: &str, host: &str) -> bool {
    let (allowed, host) = (allowed.to_ascii_lowercase(), host.to_ascii_lowercase());
    match allowed.strip_prefix('*') {
        Some(suffix) => host.strip_prefix('*').unwrap_or(&host).ends_with(suffix),
        None => allowed == host,
    }
}

fn tcp_route(route: &TcpRoute, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    for (index, condition) in route.matches.iter().enumerate() {
        l4_match(condition, at.field("match").index(index), findings);
    }
    route_destinations(&route.route, at.field("route"), findings);
}

fn l4_match(condition: &L4MatchAttributes, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    subnets(&condition.destination_subnets, at.field("destinationSubnets"), findings);
    if !condition.source_subnet.is_empty() && !name::is_ip_or_cidr(&condition.source_subnet) {
        let message = format!("{:?} is neither an address nor a CIDR", condition.source_subnet);
        findings.error(at.field("sourceSubnet"), message);
    }
    conditions(condition.port, &condition.source_labels, &condition.source_namespace, at, findings);
}

fn subnets(subnets: &[String], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    for (index, subnet) in subnets.iter().enumerate() {
        if !name::is_ip_or_cidr(subnet) {
            findings.error(at.index(index), format!("{subnet:?} is neither an address nor a CIDR"));
        }
    }
}

/// The conditions every kind of match shares.
fn conditions(
    port: Option<u16>,
    source_labels: &BTreeMap<String, String>,
    source_namespace: &str,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if port == Some(0) {
        findings.error(at.field("port"), "a port number is from 1 to 65535");
    }
    selector::labels(source_labels, at.field("sourceLabels"), findings);
    if !source_namespace.is_empty() && !name::is_kubernetes_label(source_namespace) {
        findings.error(at.field("sourceNamespace"), "not a namespace name");
    }
}

fn route_destinations(
    destinations: &[RouteDestination],
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if destinations.is_empty() {
        findings.error(at, "a rule needs at least one destination");
    }
    for (index, RouteDestination { destination: to, .. }) in destinations.iter().enumerate() {
        destination(to.as_ref(), at.index(index).field("destination"), findings);
    }
    weights(destinations.iter().map(|destination| destination.weight), at, findings);
}

/// Weights are relative; a single destination needs none.
fn weights(
    weights: impl ExactSizeIterator<Item = u32>,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if weights.len() > 1 && weights.map(u64::from).sum::<u64>() == 0 {
        findings.error(at, "all weights are 0, so no destination is ever chosen; set weights");
    }
}

/// A destination, which every route and mirror must have.
fn destination(destination: Option<&Destination>, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let Some(destination) = destination else {
        return findings.error(at, "a destination with a host is needed");
    };
    let host = destination.host.as_str();
    let at_host = at.field("host");
    if host.is_empty() {
        findings.error(at_host, "the service's name is needed");
    } else if host == "*" {
        findings.error(at_host, "* is not a service; name one");
    } else if !name::is_ip(host) && !name::is_wildcard_domain(host) {
        findings.error(at_host, format!("{host:?} is not a service name"));
    }
    if !destination.subset.is_empty() && !name::is_dns_label(&destination.subset) {
        findings.error(
            at.field("subset"),
            format!(
                "{:?} is not a subset name; use letters, digits and hyphens",
                destination.subset
            ),
        );
    }
    if destination.port.is_some_and(|port| port.number == 0) {
        findings.error(at.field("port").field("number"), "a port number from 1 to 65535 is needed");
    }
}
