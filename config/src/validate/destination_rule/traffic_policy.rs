//! Rules for traffic policies: pools, outlier detection, TLS, tunnels.

use super::{
    super::{Findings, name, time},
    load_balancer,
};
use crate::{
    api::istio::{
        client_tls::{ClientTlsMode, ClientTlsSettings},
        connection_pool::{
            ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, OutlierDetection, RetryBudget,
            TcpSettings,
        },
        destination_rule::{PortTrafficPolicy, TrafficPolicy, TunnelSettings},
        load_balancer::LoadBalancerSettings,
    },
    diagnostic::FieldPath,
};

const MAX_PORT_LEVEL_SETTINGS: usize = 4096;

pub(super) fn validate(policy: &TrafficPolicy, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if *policy == TrafficPolicy::default() {
        return findings.error(at, "the policy sets nothing; set a block or remove it");
    }
    let blocks = Blocks {
        load_balancer: policy.load_balancer.as_ref(),
        connection_pool: policy.connection_pool.as_ref(),
        outlier_detection: policy.outlier_detection.as_ref(),
        tls: policy.tls.as_ref(),
    };
    self::blocks(blocks, at, findings);
    let ports = at.field("portLevelSettings");
    if policy.port_level_settings.len() > MAX_PORT_LEVEL_SETTINGS {
        findings.error(ports, format!("at most {MAX_PORT_LEVEL_SETTINGS} ports"));
    }
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        port_policy(port, ports.index(index), findings);
    }
    if let Some(tunnel) = &policy.tunnel {
        if policy.proxy_protocol.is_some() {
            findings.error(
                at.field("proxyProtocol"),
                "only one of tunnel and proxyProtocol may be set",
            );
        }
        self::tunnel(tunnel, at.field("tunnel"), findings);
    }
    if let Some(budget) = &policy.retry_budget {
        retry_budget(budget, at.field("retryBudget"), findings);
    }
}

/// The four blocks a policy and a port's policy share.
struct Blocks<'a> {
    load_balancer: Option<&'a LoadBalancerSettings>,
    connection_pool: Option<&'a ConnectionPoolSettings>,
    outlier_detection: Option<&'a OutlierDetection>,
    tls: Option<&'a ClientTlsSettings>,
}

fn blocks(blocks: Blocks<'_>, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let Blocks { load_balancer, connection_pool, outlier_detection, tls } = blocks;
    if let Some(settings) = load_balancer {
        let has_outlier_detection = outlier_detection.is_some();
        load_balancer::validate(
            settings,
            has_outlier_detection,
            at.field("loadBalancer"),
            findings,
        );
    }
    if let Some(pool) = connection_pool {
        self::connection_pool(pool, at.field("connectionPool"), findings);
    }
    if let Some(outlier) = outlier_detection {
        self::outlier_detection(outlier, at.field("outlierDetection"), findings);
    }
    if let Some(tls) = tls {
        client_tls(tls, at.field("tls"), findings);
    }
}

fn port_policy(policy: &PortTrafficPolicy, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let PortTrafficPolicy { port, load_balancer, connection_pool, outlier_detection, tls } = policy;
    if port.is_none_or(|port| port.number == 0) {
        findings.error(at.field("port"), "the number of a service port is needed");
    }
    if *policy == (PortTrafficPolicy { port: *port, ..PortTrafficPolicy::default() }) {
        findings.error(
            at,
            "sets nothing; set loadBalancer, connectionPool, outlierDetection or tls, or remove it",
        );
    }
    let blocks = Blocks {
        load_balancer: load_balancer.as_ref(),
        connection_pool: connection_pool.as_ref(),
        outlier_detection: outlier_detection.as_ref(),
        tls: tls.as_ref(),
    };
    self::blocks(blocks, at, findings);
}

pub(in crate::validate) fn connection_pool(
    pool: &ConnectionPoolSettings,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if pool.tcp.is_none() && pool.http.is_none() {
        findings.error(at, "sets nothing; set tcp or http, or remove it");
    }
    if let Some(tcp) = &pool.tcp {
        tcp_settings(tcp, at.field("tcp"), findings);
    }
    if let Some(http) = &pool.http {
        http_settings(http, at.field("http"), findings);
    }
}

fn tcp_settings(tcp: &TcpSettings, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    time::validate(tcp.connect_timeout, at.field("connectTimeout"), findings);
    time::validate(tcp.max_connection_duration, at.field("maxConnectionDuration"), findings);
    time::validate_or_zero(tcp.idle_timeout, at.field("idleTimeout"), findings);
    if let Some(keepalive) = &tcp.tcp_keepalive {
        let at = at.field("tcpKeepalive");
        time::validate(keepalive.time, at.field("time"), findings);
        time::validate(keepalive.interval, at.field("interval"), findings);
    }
}

fn http_settings(http: &HttpSettings, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    time::validate(http.idle_timeout, at.field("idleTimeout"), findings);
    if http.use_client_protocol && http.h2_upgrade_policy == H2UpgradePolicy::Upgrade {
        findings.error(
            at.field("h2UpgradePolicy"),
            "useClientProtocol keeps the client's version; remove one of the two",
        );
    }
    let Some(keepalive) = &http.http2_keep_alive else { return };
    let at = at.field("http2KeepAlive");
    for (field, duration) in [("interval", keepalive.interval), ("timeout", keepalive.timeout)] {
        if duration.is_none() {
            findings.error(at.field(field), "both interval and timeout are needed");
        }
        time::validate(duration, at.field(field), findings);
    }
}

pub(in crate::validate) fn outlier_detection(
    outlier: &OutlierDetection,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    time::validate(outlier.interval, at.field("interval"), findings);
    time::validate(outlier.base_ejection_time, at.field("baseEjectionTime"), findings);
    for (field, percent) in [
        ("maxEjectionPercent", outlier.max_ejection_percent),
        ("minHealthPercent", outlier.min_health_percent),
    ] {
        if percent.is_some_and(|percent| percent > 100) {
            findings.error(at.field(field), "a percentage is at most 100");
        }
    }
    let local_failures = outlier.consecutive_local_origin_failures.is_some_and(|count| count > 0);
    if local_failures && !outlier.split_external_local_origin_errors {
        findings.error(
            at.field("consecutiveLocalOriginFailures"),
            "only counts when splitExternalLocalOriginErrors is true; set that too",
        );
    }
    if outlier.consecutive_errors.is_some() {
        findings.warning(
            at.field("consecutiveErrors"),
            "deprecated; use consecutiveGatewayErrors or consecutive5xxErrors",
        );
    }
    let ranges = at.field("outlierDetectionHttpErrorCodes");
    for (index, range) in outlier.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(&range.start) || !(range.start..=599).contains(&range.end) {
            findings
                .error(ranges.index(index), "start and end are status codes, start the lower one");
        }
    }
}

fn client_tls(tls: &ClientTlsSettings, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let by_secret = !tls.credential_name.is_empty();
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("caCrl", &tls.ca_crl),
    ];
    if by_secret {
        for (field, _) in files.into_iter().filter(|(_, path)| !path.is_empty()) {
            findings.error(
                at.field(field),
                "credentialName names a Secret that holds everything; keep one of the two",
            );
        }
        credential(&tls.credential_name, at.field("credentialName"), findings);
    } else if tls.mode == ClientTlsMode::Mutual {
        for (field, path) in &files[..2] {
            if path.is_empty() {
                findings.error(
                    at.field(field),
                    "mode MUTUAL presents a certificate; give the file's path or a credentialName",
                );
            }
        }
    }
    if tls.insecure_skip_verify == Some(true) {
        skip_verify(tls, by_secret, at, findings);
    }
    if tls.mode == ClientTlsMode::Disable && *tls != ClientTlsSettings::default() {
        findings.warning(
            at.field("mode"),
            "mode DISABLE, the default, sends clear text, so the other tls fields have no effect; use \
             SIMPLE or MUTUAL",
        );
    }
}

fn credential(credential: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let Some(reference) = credential.strip_prefix("configmap://") else { return };
    let (namespace, _) = name::split_namespace(reference);
    if namespace.is_some_and(|namespace| namespace != findings.namespace()) {
        findings.error(at, "a ConfigMap of another namespace cannot be used; copy it here");
    }
}

fn skip_verify(
    tls: &ClientTlsSettings,
    by_secret: bool,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let pointless = [
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        ("credentialName", tls.mode == ClientTlsMode::Simple && by_secret),
    ];
    for (field, _) in pointless.into_iter().filter(|(_, set)| *set) {
        findings.error(
            at.field(field),
            "insecureSkipVerify is true, so the server is not verified at all; remove one of the two",
        );
    }
}

fn tunnel(tunnel: &TunnelSettings, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if !["", "CONNECT", "POST"].contains(&tunnel.protocol.as_str()) {
        findings.error(at.field("protocol"), "the protocol of a tunnel is CONNECT or POST");
    }
    if !name::is_ip(&tunnel.target_host) && !name::is_fqdn(&tunnel.target_host) {
        findings.error(at.field("targetHost"), "a host name or IP address is needed");
    }
    if tunnel.target_port == 0 {
        findings.error(at.field("targetPort"), "a port number from 1 to 65535 is needed");
    }
}

fn retry_budget(budget: &RetryBudget, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if budget.percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        findings.error(at.field("percent"), "a percentage is from 0 to 100");
    }
    time::validate(budget.budget_interval, at.field("budgetInterval"), findings);
}
