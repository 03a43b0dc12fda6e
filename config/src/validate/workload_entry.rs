//! Rules for WorkloadEntry, and what it shares with a ServiceEntry's endpoints.

use super::{Findings, name, selector};
use crate::{api::istio::WorkloadEntry, diagnostic::FieldPath};

pub(super) fn validate(entry: &WorkloadEntry, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    let at = spec.field("address");
    if entry.address.is_empty() {
        if entry.network.is_empty() {
            findings.error(at, "an address is needed, unless network says how to get there");
        } else {
            findings.warning(
                at,
                "without an address the workload is reached through its network's \
                                  gateway only",
            );
        }
    } else {
        address(&entry.address, at, findings);
    }
    ports_and_labels(entry, spec, findings);
}

/// An IP address, a name, or a unix socket.
fn address(address: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    match name::unix_socket_is_absolute(address) {
        Some(true) => {}
        Some(false) => findings.error(at, "the path of a unix socket is absolute: unix:///path"),
        None if name::is_ip(address) || name::is_fqdn(address) => {}
        None => findings.error(
            at,
            format!("{address:?} is neither an IP address, a host name nor unix:///path"),
        ),
    }
}

pub(super) fn ports_and_labels(
    entry: &WorkloadEntry,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let ports = at.field("ports");
    if entry.address.starts_with("unix://") && !entry.ports.is_empty() {
        findings.error(ports, "a unix socket has no ports; remove them");
    }
    for (port, number) in &entry.ports {
        if !name::is_dns_label(port) {
            findings.error(ports.key(port), "not a port name; use letters, digits and hyphens");
        }
        if *number == 0 {
            findings.error(ports.key(port), "a port number from 1 to 65535 is needed");
        }
    }
    selector::labels(&entry.labels, at.field("labels"), findings);
}
