//! Rules for ServiceEntry.

use std::collections::BTreeSet;

use super::{Findings, export_to, name, selector, workload_entry};
use crate::{
    api::{
        Protocol,
        istio::{
            WorkloadEntry,
            service_entry::{Resolution, ServiceEntry, ServicePort},
        },
    },
    diagnostic::FieldPath,
};

const MAX_HOSTS: usize = 256;
/// On a ServiceEntry with `DYNAMIC_DNS`: networks its names may lead to, beside the public internet.
pub const ALLOWED_RANGES_ANNOTATION: &str = "weir.dev/allowedIPRanges";

pub(super) fn validate(entry: &ServiceEntry, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    hosts(entry, spec.field("hosts"), findings);
    addresses(entry, spec.field("addresses"), findings);
    ports(&entry.ports, spec.field("ports"), findings);
    if !entry.endpoints.is_empty() && entry.workload_selector.is_some() {
        findings.error(spec, "only one of endpoints and workloadSelector may be set");
    }
    if let Some(selected) = &entry.workload_selector {
        let at = spec.field("workloadSelector");
        let at = at.field("labels");
        selector::workload(&selected.labels, at, findings);
    }
    let endpoints = spec.field("endpoints");
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        self::endpoint(endpoint, entry, endpoints.index(index), findings);
    }
    match entry.resolution {
        Resolution::None => none(entry, spec, findings),
        Resolution::Static => {}
        Resolution::Dns | Resolution::DnsRoundRobin => dns(entry, spec, findings),
        Resolution::DynamicDns => dynamic_dns(entry, spec, findings),
    }
    allowed_ranges(entry, findings);
    tell_hosts_apart(entry, spec, findings);
    export_to::validate(&entry.export_to, true, spec, findings);
}

fn hosts(entry: &ServiceEntry, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if entry.hosts.is_empty() {
        findings.error(at, "a ServiceEntry needs at least one host");
    }
    if entry.hosts.len() > MAX_HOSTS {
        findings.error(at, format!("at most {MAX_HOSTS} hosts; split the ServiceEntry"));
    }
    for (index, host) in entry.hosts.iter().enumerate() {
        let at = at.index(index);
        if host == "*" {
            findings.error(at, "* would be every host there is; name the hosts or write *.suffix");
        } else if !name::is_wildcard_domain(host) {
            findings.error(at, format!("{host:?} is not a host name; write a name or *.suffix"));
        } else if name::is_partial_wildcard(host) {
            findings.warning(at, "* stands for whole labels only; write *.suffix");
        }
    }
}

fn addresses(entry: &ServiceEntry, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let cidr_allowed = matches!(entry.resolution, Resolution::None | Resolution::Static);
    for (index, address) in entry.addresses.iter().enumerate() {
        if name::is_ip(address) {
            continue;
        }
        if !name::is_cidr(address) {
            let message = format!("{address:?} is neither an IP address nor a CIDR");
            findings.error(at.index(index), message);
        } else if !cidr_allowed {
            findings.error(
                at.index(index),
                format!(
                    "a CIDR needs resolution NONE or STATIC, not {}; write single addresses",
                    entry.resolution.name()
                ),
            );
        }
    }
}

fn ports(ports: &[ServicePort], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        if port.number == 0 {
            findings.error(at.field("number"), "a port number from 1 to 65535 is needed");
        } else if !numbers.insert(port.number) {
            findings.error(at.field("number"), "another port has this number; remove one");
        }
        if !name::is_dns_label(&port.name) {
            findings.error(at.field("name"), "a port needs a name of letters, digits and hyphens");
        } else if !names.insert(&port.name) {
            findings.error(at.field("name"), "another port has this name; rename one");
        }
        if port.target_port == Some(0) {
            findings.error(at.field("targetPort"), "a port number is from 1 to 65535");
        }
        if port.protocol == Some(Protocol::Udp) {
            findings.error(at.field("protocol"), "UDP is not supported in a ServiceEntry");
        }
    }
}

/// An endpoint's address must be what the resolution can work with.
fn endpoint(
    endpoint: &WorkloadEntry,
    entry: &ServiceEntry,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let address = endpoint.address.as_str();
    let at_address = at.field("address");
    let unix = name::unix_socket_is_absolute(address);
    if unix == Some(false) {
        findings.error(at_address, "the path of a unix socket is absolute: unix:///path");
    }
    let resolution = entry.resolution.name();
    match entry.resolution {
        Resolution::Static if unix.is_some() => {
            if entry.ports.len() != 1 {
                findings
                    .error(at_address, "a unix socket serves one port; give exactly one in ports");
            }
        }
        Resolution::Static => {
            let behind_network = address.is_empty() && !endpoint.network.is_empty();
            if !behind_network && !name::is_ip(address) {
                findings.error(
                    at_address,
                    format!("{address:?} is not an IP address; names need resolution DNS"),
                );
            }
        }
        Resolution::Dns | Resolution::DnsRoundRobin => {
            if unix.is_some() {
                findings.error(at_address, "a unix socket needs resolution STATIC");
            } else if !name::is_ip(address) && !name::is_fqdn(address) {
                let message = format!("{address:?} is neither a host name nor an IP address");
                findings.error(at_address, message);
            }
        }
        Resolution::None | Resolution::DynamicDns => findings.error(
            at,
            format!(
                "resolution {resolution} takes no endpoints; use STATIC or DNS, or remove them"
            ),
        ),
    }
    for port in endpoint.ports.keys() {
        if !entry.ports.iter().any(|known| known.name == *port) {
            findings.error(
                at.field("ports").key(port),
                "no port of the service has this name; add it to spec.ports or correct it",
            );
        }
    }
    workload_entry::ports_and_labels(endpoint, at, findings);
}

fn none(entry: &ServiceEntry, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    if entry.workload_selector.is_some() {
        findings.warning(
            spec.field("workloadSelector"),
            "resolution NONE goes where the client wants and selects nothing; use STATIC",
        );
    }
}

fn dns(entry: &ServiceEntry, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    let resolution = entry.resolution.name();
    if entry.endpoints.is_empty() && entry.workload_selector.is_none() {
        for (index, host) in entry.hosts.iter().enumerate() {
            if host.starts_with('*') {
                findings.error(
                    spec.field("hosts").index(index),
                    format!(
                        "a wildcard cannot be resolved; give endpoints, or use resolution NONE or \
                             DYNAMIC_DNS instead of {resolution}"
                    ),
                );
            }
        }
    }
    if entry.resolution == Resolution::DnsRoundRobin && entry.endpoints.len() > 1 {
        findings.error(
            spec.field("endpoints"),
            "resolution DNS_ROUND_ROBIN takes one endpoint; use DNS for several",
        );
    }
}

fn dynamic_dns(entry: &ServiceEntry, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    for (index, host) in entry.hosts.iter().enumerate() {
        if !host.starts_with("*.") {
            findings.error(
                spec.field("hosts").index(index),
                "resolution DYNAMIC_DNS is for wildcard hosts; use DNS for this one",
            );
        }
    }
    if !entry.addresses.is_empty() {
        findings.error(spec.field("addresses"), "resolution DYNAMIC_DNS takes no addresses");
    }
    for (index, port) in entry.ports.iter().enumerate() {
        let names_host = port.protocol.is_some_and(|protocol| {
            matches!(protocol, Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tls)
        });
        if !names_host {
            findings.error(
                spec.field("ports").index(index).field("protocol"),
                "resolution DYNAMIC_DNS reads the host from the request; use HTTP, HTTP2, GRPC or TLS",
            );
        }
    }
}

fn allowed_ranges(entry: &ServiceEntry, findings: &mut Findings<'_>) {
    let annotations = findings.object.map(|object| &object.metadata.annotations);
    let Some(text) = annotations.and_then(|all| all.get(ALLOWED_RANGES_ANNOTATION)) else { return };
    let metadata = FieldPath::ROOT.field("metadata");
    let annotations = metadata.field("annotations");
    let at = annotations.key(ALLOWED_RANGES_ANNOTATION);
    if entry.resolution != Resolution::DynamicDns {
        findings.warning(at, "this has an effect with resolution DYNAMIC_DNS only");
    }
    for range in text.split(',').map(str::trim).filter(|range| !name::is_cidr(range)) {
        findings.error(at, format!("{range:?} is no CIDR; write 10.1.0.0/16,10.2.3.4/32"));
    }
}

/// Without a Host header or SNI only the address says which service is meant.
fn tell_hosts_apart(entry: &ServiceEntry, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    let names_host =
        |protocol: Option<Protocol>| protocol.is_some_and(|p| p.is_http() || p.is_tls());
    let at = spec.field("ports");
    for (index, port) in entry.ports.iter().enumerate() {
        if names_host(port.protocol) {
            continue;
        }
        if entry.hosts.len() > 1 && entry.resolution != Resolution::None {
            findings.error(
                at.index(index),
                "on a port that is neither HTTP nor TLS several hosts cannot be told apart; use one \
                 ServiceEntry for each",
            );
        }
        if entry.addresses.is_empty() && entry.resolution == Resolution::None {
            findings.warning(
                at.index(index),
                "a sidecar can only recognise this traffic by address; add addresses",
            );
        }
    }
}
