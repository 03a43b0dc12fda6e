//! Rules for MeshConfig, as far as a proxy uses it.

use std::collections::BTreeSet;

use super::{Findings, destination_rule::traffic_policy, name, time, virtual_service::retry};
use crate::{
    api::{
        MeshConfig,
        mesh_config::{DefaultTrafficPolicy, ExtensionProvider, ProxyConfig},
    },
    diagnostic::FieldPath,
};

const MAX_PROVIDER_NAME: usize = 63;

pub(super) fn validate(mesh: &MeshConfig, findings: &mut Findings<'_>) {
    let root = FieldPath::ROOT;
    trust_domains(mesh, findings);
    if !mesh.root_namespace.is_empty() && !name::is_kubernetes_label(&mesh.root_namespace) {
        findings.error(root.field("rootNamespace"), "not a namespace name");
    }
    log_file(&mesh.access_log_file, root.field("accessLogFile"), findings);
    time::validate(mesh.connect_timeout, root.field("connectTimeout"), findings);
    time::validate(mesh.dns_refresh_rate, root.field("dnsRefreshRate"), findings);
    if let Some(keepalive) = &mesh.tcp_keepalive {
        let at = root.field("tcpKeepalive");
        time::validate(keepalive.time, at.field("time"), findings);
        time::validate(keepalive.interval, at.field("interval"), findings);
    }
    for (field, policy) in [
        ("defaultHttpRetryPolicy", &mesh.default_http_retry_policy),
        ("defaultInboundHttpRetryPolicy", &mesh.default_inbound_http_retry_policy),
    ] {
        if let Some(policy) = policy {
            retry::validate(policy, root.field(field), findings);
        }
    }
    if let Some(DefaultTrafficPolicy { connection_pool, outlier_detection }) =
        &mesh.default_traffic_policy
    {
        let at = root.field("defaultTrafficPolicy");
        if let Some(pool) = connection_pool {
            traffic_policy::connection_pool(pool, at.field("connectionPool"), findings);
        }
        if let Some(outlier) = outlier_detection {
            traffic_policy::outlier_detection(outlier, at.field("outlierDetection"), findings);
        }
    }
    export_lists(mesh, findings);
    providers(mesh, findings);
    proxy_config(&mesh.default_config, root.field("defaultConfig"), findings);
}

fn trust_domains(mesh: &MeshConfig, findings: &mut Findings<'_>) {
    let root = FieldPath::ROOT;
    let problem = "not a trust domain; write a DNS name such as cluster.local";
    if !mesh.trust_domain.is_empty() && !name::is_fqdn(&mesh.trust_domain) {
        findings.error(root.field("trustDomain"), problem);
    }
    let aliases = root.field("trustDomainAliases");
    for (index, alias) in mesh.trust_domain_aliases.iter().enumerate() {
        if !name::is_fqdn(alias) {
            findings.error(aliases.index(index), problem);
        }
    }
}

fn log_file(path: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if !path.is_empty() && !path.starts_with('/') {
        findings.error(at, "the path of the log is absolute; /dev/stdout is the standard output");
    }
}

fn export_lists(mesh: &MeshConfig, findings: &mut Findings<'_>) {
    let root = FieldPath::ROOT;
    for (field, list) in [
        ("defaultServiceExportTo", &mesh.default_service_export_to),
        ("defaultVirtualServiceExportTo", &mesh.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", &mesh.default_destination_rule_export_to),
    ] {
        let at = root.field(field);
        for (index, entry) in list.iter().enumerate() {
            if !matches!(entry.as_str(), "." | "*" | "~") && !name::is_kubernetes_label(entry) {
                findings.error(
                    at.index(index),
                    "not a namespace; use . (the object's own), * (all) or a namespace name",
                );
            }
        }
    }
}

fn providers(mesh: &MeshConfig, findings: &mut Findings<'_>) {
    let root = FieldPath::ROOT;
    let mut names = BTreeSet::new();
    let list = root.field("extensionProviders");
    for (index, provider) in mesh.extension_providers.iter().enumerate() {
        let at = list.index(index);
        let name = provider.name.as_str();
        if name.is_empty() || name.len() > MAX_PROVIDER_NAME {
            findings.error(at.field("name"), "a provider needs a name of at most 63 characters");
        } else if !names.insert(name) {
            findings.error(at.field("name"), "another provider has this name; rename one");
        }
        self::provider(provider, at, findings);
    }
}

fn provider(provider: &ExtensionProvider, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if let Some(http) = &provider.envoy_ext_authz_http {
        let at = at.field("envoyExtAuthzHttp");
        service(&http.service, http.port, at, findings);
        status_on_error(&http.status_on_error, at, findings);
        time::validate(http.timeout, at.field("timeout"), findings);
    }
    if let Some(grpc) = &provider.envoy_ext_authz_grpc {
        let at = at.field("envoyExtAuthzGrpc");
        service(&grpc.service, grpc.port, at, findings);
        status_on_error(&grpc.status_on_error, at, findings);
        time::validate(grpc.timeout, at.field("timeout"), findings);
    }
    if let Some(log) = &provider.envoy_file_access_log {
        let at = at.field("envoyFileAccessLog");
        log_file(&log.path, at.field("path"), findings);
    }
}

/// `[namespace/]host` and its port.
fn service(service: &str, port: u16, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let (namespace, host) = name::split_namespace(service);
    let namespace_is_valid = namespace.is_none_or(name::is_kubernetes_label);
    if !namespace_is_valid || !(name::is_fqdn(host) || name::is_ip(host)) {
        findings.error(at.field("service"), "write host or namespace/host of the service");
    }
    if port == 0 {
        findings.error(at.field("port"), "a port number from 1 to 65535 is needed");
    }
}

fn status_on_error(status: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let is_status = || status.parse::<u16>().is_ok_and(|code| (100..=599).contains(&code));
    if !status.is_empty() && !is_status() {
        findings.error(at.field("statusOnError"), "a status code is needed, for example \"403\"");
    }
}

fn proxy_config(config: &ProxyConfig, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    time::validate_or_zero(config.drain_duration, at.field("drainDuration"), findings);
    let sampling = config.tracing.as_ref().and_then(|tracing| tracing.sampling);
    if sampling.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        let at = at.field("tracing");
        findings.error(at.field("sampling"), "a percentage is from 0 to 100");
    }
    let server = config.proxy_headers.as_ref().and_then(|headers| headers.server.as_ref());
    let value = server.map_or("", |server| server.value.as_str());
    if http::HeaderValue::from_str(value).is_err() {
        let at = at.field("proxyHeaders");
        let at = at.field("server");
        findings.error(at.field("value"), "no header can carry this value");
    }
}

#[cfg(test)]
mod tests {
    use crate::{api::Source, parse::parse_mesh_config, validate::validate_mesh_config};

    fn fields(yaml: &str) -> Vec<String> {
        let (mesh, unread) = parse_mesh_config("mesh.yaml", yaml.as_bytes());
        assert_eq!(unread, []);
        let source = Source { file: "mesh.yaml".into(), line: 1 };
        let found = validate_mesh_config(&mesh.unwrap(), &source);
        found.into_iter().map(|diagnostic| diagnostic.field).collect()
    }

    #[test]
    fn every_wrong_value_is_said() {
        for (yaml, field) in [
            ("trustDomain: a/b", "trustDomain"),
            ("trustDomainAliases: [ok.example, 'x y']", "trustDomainAliases[1]"),
            ("rootNamespace: Root", "rootNamespace"),
            ("accessLogFile: access.log", "accessLogFile"),
            ("connectTimeout: 0s", "connectTimeout"),
            ("dnsRefreshRate: 0.1ms", "dnsRefreshRate"),
            ("tcpKeepalive: {time: 0s}", "tcpKeepalive.time"),
            (
                "defaultHttpRetryPolicy: {attempts: 1, retryOn: often}",
                "defaultHttpRetryPolicy.retryOn",
            ),
            ("defaultTrafficPolicy: {connectionPool: {}}", "defaultTrafficPolicy.connectionPool"),
            (
                "defaultTrafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}",
                "defaultTrafficPolicy.outlierDetection.maxEjectionPercent",
            ),
            ("defaultServiceExportTo: [A]", "defaultServiceExportTo[0]"),
            ("extensionProviders: [{name: ''}]", "extensionProviders[0].name"),
            ("extensionProviders: [{name: a}, {name: a}]", "extensionProviders[1].name"),
            (
                "extensionProviders: [{name: a, envoyExtAuthzHttp: {service: a.b, port: 0}}]",
                "extensionProviders[0].envoyExtAuthzHttp.port",
            ),
            (
                "extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: 'a b', port: 1}}]",
                "extensionProviders[0].envoyExtAuthzGrpc.service",
            ),
            (
                "extensionProviders: [{name: a, envoyFileAccessLog: {path: x}}]",
                "extensionProviders[0].envoyFileAccessLog.path",
            ),
            ("defaultConfig: {tracing: {sampling: 101}}", "defaultConfig.tracing.sampling"),
            (
                "defaultConfig: {proxyHeaders: {server: {value: \"a\\nb\"}}}",
                "defaultConfig.proxyHeaders.server.value",
            ),
            ("defaultConfig: {drainDuration: 0.5ms}", "defaultConfig.drainDuration"),
        ] {
            assert_eq!(fields(yaml), [field], "{yaml}");
        }
    }

    #[test]
    fn what_istio_installs_is_right() {
        let yaml = "
accessLogFile: /dev/stdout
trustDomain: cluster.local
rootNamespace: istio-system
defaultServiceExportTo: ['*']
connectTimeout: 10s
defaultProviders: {metrics: [prometheus]}
extensionProviders:
- {name: ext, envoyExtAuthzGrpc: {service: foo/ext-authz.foo.svc.cluster.local, port: 9000}}
- {name: log, envoyFileAccessLog: {path: /dev/stdout}}
defaultConfig: {discoveryAddress: 'istiod.istio-system.svc:15012', drainDuration: 45s}
";
        assert_eq!(fields(yaml), [""; 0]);
    }
}
