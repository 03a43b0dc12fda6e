//! Rules for Sidecar.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Findings, destination_rule::traffic_policy, name, selector};
use crate::{
    api::{
        Protocol,
        istio::{
            gateway::{ServerTlsMode, ServerTlsSettings},
            sidecar::{
                CaptureMode, EgressListener, IngressListener, OutboundTrafficPolicy, Sidecar,
            },
        },
        mesh_config::OutboundTrafficPolicyMode,
    },
    diagnostic::FieldPath,
};

pub(super) fn validate(sidecar: &Sidecar, spec: FieldPath<'_>, findings: &mut Findings<'_>) {
    let Sidecar {
        workload_selector,
        ingress,
        egress,
        inbound_connection_pool,
        outbound_traffic_policy,
    } = sidecar;
    if ingress.is_empty()
        && egress.is_empty()
        && inbound_connection_pool.is_none()
        && outbound_traffic_policy.is_none()
    {
        findings.error(
            spec,
            "this Sidecar sets nothing; add egress, ingress, outboundTrafficPolicy or \
             inboundConnectionPool",
        );
    }
    if let Some(workloads) = workload_selector {
        selector::workload(&workloads.labels, spec.field("workloadSelector"), findings);
    }
    ingress_listeners(ingress, spec.field("ingress"), findings);
    egress_listeners(egress, spec.field("egress"), findings);
    if let Some(pool) = inbound_connection_pool {
        traffic_policy::connection_pool(pool, spec.field("inboundConnectionPool"), findings);
    }
    if let Some(policy) = outbound_traffic_policy {
        outbound(policy, spec.field("outboundTrafficPolicy"), findings);
    }
}

fn ingress_listeners(
    listeners: &[IngressListener],
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let mut seen = BTreeSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let at = at.index(index);
        match &listener.port {
            None => findings.error(at.field("port"), "the port is needed"),
            Some(port) => {
                let number = at.field("port");
                if port.number == 0 {
                    let at = number.field("number");
                    findings.error(at, "a port number from 1 to 65535 is needed");
                } else if !seen.insert(port.number) {
                    findings.error(number.field("number"), "the port is listed twice; remove one");
                }
                if port.target_port.is_some() {
                    let message = "not for this kind; say where the application listens with \
                                   defaultEndpoint";
                    findings.error(number.field("targetPort"), message);
                }
            }
        }
        bind(&listener.bind, at.field("bind"), findings);
        if !is_endpoint(&listener.default_endpoint) {
            findings.error(
                at.field("defaultEndpoint"),
                "use 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:///path",
            );
        }
        if let Some(tls) = &listener.tls {
            let protocol = listener.port.as_ref().and_then(|port| port.protocol);
            server_tls(tls, protocol, at.field("tls"), findings);
        }
        if let Some(pool) = &listener.connection_pool {
            traffic_policy::connection_pool(pool, at.field("connectionPool"), findings);
        }
    }
}

fn bind(bind: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if !bind.is_empty() && !name::is_ip(bind) {
        findings.error(at, format!("{bind:?} is not an IP address"));
    }
}

/// Empty, an address of the workload itself with a port, or a unix socket.
fn is_endpoint(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    if let Some(is_absolute) = name::unix_socket_is_absolute(text) {
        return is_absolute;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let has_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_own = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_unspecified() || ip == std::net::Ipv4Addr::LOCALHOST,
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_loopback(),
    };
    has_port && (host.is_empty() || host.parse().is_ok_and(is_own))
}

fn server_tls(
    tls: &ServerTlsSettings,
    protocol: Option<Protocol>,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let mut refuse = |field: &str, is_set: bool| {
        if is_set {
            findings.error(at.field(field), "not for sidecars; remove it");
        }
    };
    refuse("subjectAltNames", !tls.subject_alt_names.is_empty());
    refuse("httpsRedirect", tls.https_redirect);
    refuse("credentialName", !tls.credential_name.is_empty());
    refuse("credentialNames", !tls.credential_names.is_empty());
    refuse("tlsCertificates", !tls.tls_certificates.is_empty());
    let is_mesh = matches!(tls.mode, ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough);
    refuse("mode", is_mesh);
    if !matches!(protocol, Some(Protocol::Tls | Protocol::Https)) {
        findings.error(at, "the port's protocol has to be TLS or HTTPS");
    }
}

fn egress_listeners(listeners: &[EgressListener], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let place = at.index(index);
        let is_unix = listener.bind.starts_with("unix://");
        match &listener.port {
            None if index + 1 < listeners.len() => findings.error(
                place.field("port"),
                "only the last listener may be for every port; give this one a port",
            ),
            None => {}
            Some(port) if port.number == 0 && !is_unix => findings.error(
                place.field("port").field("number"),
                "a port number from 1 to 65535 is needed, unless bind is a unix socket",
            ),
            Some(port) if !seen.insert((port.number, &listener.bind)) => {
                findings.error(place.field("port"), "the port is listed twice; remove one");
            }
            Some(_) => {}
        }
        if is_unix && listener.capture_mode == CaptureMode::Iptables {
            findings.error(place.field("captureMode"), "nothing is redirected to a unix socket");
        }
        if !is_unix {
            bind(&listener.bind, place.field("bind"), findings);
        }
        hosts(&listener.hosts, place.field("hosts"), findings);
    }
}

fn hosts(hosts: &[String], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if hosts.is_empty() {
        findings.error(at, "at least one namespace/host is needed; */* is everything");
    }
    let mut seen = BTreeSet::new();
    for (index, host) in hosts.iter().enumerate() {
        let place = at.index(index);
        if !is_egress_host(host) {
            findings.error(place, "use NAMESPACE/HOST, as in ./*, */*.example.com or ~/*");
        } else if !seen.insert(host) {
            findings.warning(place, "listed twice; remove one");
        }
    }
    if hosts.len() > 1 && seen.iter().any(|host| *host == "*/*") {
        findings.warning(at, "*/* is everything already; remove the other hosts");
    }
}

fn is_egress_host(text: &str) -> bool {
    let Some((namespace, host)) = text.split_once('/') else { return false };
    let namespace =
        namespace.strip_prefix('~').filter(|rest| !rest.is_empty()).unwrap_or(namespace);
    let is_namespace = matches!(namespace, "*" | "." | "~") || name::is_kubernetes_label(namespace);
    is_namespace && (host == "*" || name::is_fqdn(host) || name::is_wildcard_domain(host))
}

fn outbound(policy: &OutboundTrafficPolicy, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let mode = policy.mode.unwrap_or(OutboundTrafficPolicyMode::RegistryOnly);
    if mode == OutboundTrafficPolicyMode::AllowAnyDynamicDns {
        findings.error(at.field("mode"), "use ALLOW_ANY or REGISTRY_ONLY");
    }
    let Some(proxy) = &policy.egress_proxy else { return };
    let at = at.field("egressProxy");
    if mode == OutboundTrafficPolicyMode::RegistryOnly {
        findings.error(at, "with REGISTRY_ONLY nothing goes to it; use ALLOW_ANY");
    }
    if !name::is_fqdn(&proxy.host) {
        findings.error(at.field("host"), "a fully qualified host name is needed");
    }
    if proxy.port.is_none_or(|port| port.number == 0) {
        findings.error(at.field("port"), "the port's number is needed");
    }
}
