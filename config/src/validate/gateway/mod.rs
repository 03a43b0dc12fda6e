//! Rules for Gateway.

use std::collections::BTreeSet;

use super::{Findings, name};
use crate::{
    api::{
        Protocol,
        istio::gateway::{Gateway, Server, ServerPort},
    },
    diagnostic::FieldPath,
};

mod server_tls;

pub(super) fn validate(gateway: &Gateway, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    let at = spec.field("servers");
    if gateway.servers.is_empty() {
        findings.error(at, "a Gateway needs at least one server");
    }
    let mut names = BTreeSet::new();
    for (index, server) in gateway.servers.iter().enumerate() {
        let at = at.index(index);
        self::server(server, at, findings);
        let name = server.port.as_ref().map_or("", |port| &port.name);
        if !name.is_empty() && !names.insert(name) {
            findings.error(
                at.field("port").field("name"),
                format!(
                    "{name:?} is the name of another server's port; names are unique in a Gateway"
                ),
            );
        }
    }
    if !gateway.selector.is_empty() {
        super::selector::workload(&gateway.selector, spec.field("selector"), findings);
    }
}

fn server(server: &Server, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    hosts(&server.hosts, at.field("hosts"), findings);
    let unix = bind(&server.bind, at.field("bind"), findings);
    if !server.default_endpoint.is_empty() {
        findings.warning(
            at.field("defaultEndpoint"),
            "not implemented, by Istio neither; route with a VirtualService",
        );
    }
    match &server.port {
        None => {
            findings.error(at.field("port"), "a server needs a port with number, name and protocol")
        }
        Some(written) => {
            port(written, unix, at.field("port"), findings);
            tls(server, written.protocol, at.field("tls"), findings);
        }
    }
}

fn hosts(hosts: &[String], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if hosts.is_empty() {
        findings.error(at, "a server needs at least one host; \"*\" is any host");
    }
    for (index, host) in hosts.iter().enumerate() {
        let at = at.index(index);
        let (namespace, dns) = name::split_namespace(host);
        let namespace_is_valid = match namespace {
            None | Some("*" | ".") => true,
            Some(namespace) => name::is_kubernetes_label(namespace),
        };
        if !namespace_is_valid {
            findings.error(at, "before the / stands a namespace, . (this one) or * (any)");
        }
        if name::is_ip(dns) || dns == "*" {
            continue;
        }
        if name::is_partial_wildcard(dns) {
            findings.error(at, "* stands for whole labels only; write * or *.example.com");
        } else if !name::is_wildcard_domain(dns) {
            findings.error(at, format!("{dns:?} is not a host name; write a name, *.suffix or *"));
        } else if !dns.contains('.') {
            findings.error(
                at,
                format!(
                    "short names mean nothing to clients outside; write {dns:?} with its domain"
                ),
            );
        }
    }
}

/// Whether `bind` is a unix socket.
fn bind(bind: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) -> bool {
    match name::unix_socket_is_absolute(bind) {
        Some(true) => true,
        Some(false) => {
            findings.error(at, "the path of a unix socket is absolute: unix:///path");
            true
        }
        None => {
            if !bind.is_empty() && !name::is_ip(bind) {
                findings.error(at, format!("{bind:?} is neither an IP address nor unix:///path"));
            }
            false
        }
    }
}

fn port(port: &ServerPort, unix: bool, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if port.name.is_empty() {
        findings.error(at.field("name"), "a port needs a name, unique in the Gateway");
    }
    if port.number == 0 && !unix {
        findings.error(at.field("number"), "a port number from 1 to 65535 is needed");
    }
    if port.target_port.is_some() {
        findings.error(at.field("targetPort"), "not supported in a Gateway; remove it");
    }
    match port.protocol {
        None => findings.error(
            at.field("protocol"),
            "a protocol is needed: HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TLS, TCP, MONGO, MYSQL or REDIS",
        ),
        Some(Protocol::Udp) => {
            findings.error(at.field("protocol"), "UDP is not supported in a Gateway");
        }
        Some(_) => {}
    }
}

/// TLS settings and protocol must fit each other.
fn tls(
    server: &Server,
    protocol: Option<Protocol>,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let Some(protocol) = protocol else { return };
    let Some(tls) = &server.tls else {
        if protocol.is_tls() {
            findings.error(at, format!("protocol {protocol} needs tls settings, at least a mode"));
        }
        return;
    };
    if tls.https_redirect && !protocol.is_http() {
        findings.warning(
            at.field("httpsRedirect"),
            format!("only plain HTTP can be redirected to https; no effect on {protocol}"),
        );
    }
    if protocol.is_tls() {
        server_tls::validate(tls, at, findings);
    } else if protocol.is_http() {
        if !tls.mode.is_passthrough() || server_tls::has_certificate(tls) {
            findings.error(
                at,
                format!(
                    "protocol {protocol} is clear text and takes no tls settings but httpsRedirect; \
                     use HTTPS to terminate TLS"
                ),
            );
        }
    } else {
        findings.error(
            at,
            format!(
                "protocol {protocol} is clear text and takes no tls settings; use TLS to terminate \
                     or route TLS"
            ),
        );
    }
}
