//! MeshConfig -> Settings.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use super::finding::Findings;
use crate::{
    api::{
        MeshConfig, Source,
        mesh_config::{
            AccessLogEncoding, PathNormalization as ApiNormalization, ProxyConfig,
            extension_provider::FileAccessLog,
            proxy_config::{ForwardClientCertDetails, ProxyHeaders},
        },
    },
    diagnostic::{Diagnostic, Severity},
    model::{
        Settings,
        settings::{AccessLog, AccessLogFormat, ForwardClientCert, PathNormalization},
    },
};

const STDOUT: &str = "/dev/stdout";
/// The provider that needs no definition.
const BUILT_IN_LOG_PROVIDER: &str = "envoy";

/// The settings of `mesh`. Without a mesh configuration they are Istio's defaults, with an access
/// log: a gateway someone tries out should say what it does.
pub(super) fn compile(
    mesh: Option<&MeshConfig>,
    is_sidecar: bool,
    findings: &mut Findings,
) -> Settings {
    let defaults = defaults(is_sidecar);
    let Some(mesh) = mesh else {
        let path = STDOUT.into();
        let access_log = Some(AccessLog { path, format: AccessLogFormat::Text(None) });
        return Settings { access_log, ..defaults };
    };
    let config = &mesh.default_config;
    let topology = config.gateway_topology.as_ref();
    let no_headers = ProxyHeaders::default();
    let headers = config.proxy_headers.as_ref().unwrap_or(&no_headers);
    let is_on = |disabled: Option<bool>| disabled != Some(true);
    let server = headers.server.as_ref();
    Settings {
        path_normalization: match mesh.path_normalization.normalization {
            ApiNormalization::Default | ApiNormalization::Base => PathNormalization::Base,
            ApiNormalization::None => PathNormalization::None,
            ApiNormalization::MergeSlashes => PathNormalization::MergeSlashes,
            ApiNormalization::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
        },
        num_trusted_proxies: topology.map_or(0, |topology| topology.num_trusted_proxies),
        proxy_protocol: topology.is_some_and(|topology| topology.proxy_protocol.is_some()),
        forward_client_cert: forward_client_cert(config, headers, defaults.forward_client_cert),
        access_log: access_log(mesh, findings),
        server_name: match server {
            Some(server) if server.disabled == Some(true) => None,
            Some(server) if !server.value.is_empty() => {
                // What no header can carry is an error of its own.
                HeaderValue::from_str(&server.value).ok().or(defaults.server_name)
            }
            Some(_) | None => defaults.server_name,
        },
        request_id: is_on(headers.request_id.as_ref().and_then(|header| header.disabled)),
        attempt_count: is_on(headers.attempt_count.as_ref().and_then(|header| header.disabled)),
        x_forwarded_host: headers.x_forwarded_host.as_ref().and_then(|header| header.enabled)
            == Some(true),
        x_forwarded_port: headers.x_forwarded_port.as_ref().and_then(|header| header.enabled)
            == Some(true),
        trust_domain: Some(mesh.trust_domain.as_str())
            .filter(|domain| !domain.is_empty())
            .map_or(defaults.trust_domain, Into::into),
        trust_domain_aliases: mesh
            .trust_domain_aliases
            .iter()
            .map(|alias| alias.as_str().into())
            .collect(),
        drain_duration: config
            .drain_duration
            .map(|drain| drain.0)
            .filter(|drain| *drain > Duration::ZERO)
            .unwrap_or(defaults.drain_duration),
    }
}

/// A sidecar passes on who came before, and what the application calls itself (istio-compat 5.4).
fn defaults(is_sidecar: bool) -> Settings {
    match is_sidecar {
        false => Settings::default(),
        true => Settings {
            forward_client_cert: ForwardClientCert::AppendForward,
            server_name: None,
            ..Settings::default()
        },
    }
}

/// The topology's word, else the headers', else what such proxies do.
fn forward_client_cert(
    config: &ProxyConfig,
    headers: &ProxyHeaders,
    default: ForwardClientCert,
) -> ForwardClientCert {
    let topology = config.gateway_topology.as_ref();
    let details = match topology.map(|topology| topology.forward_client_cert_details) {
        None | Some(ForwardClientCertDetails::Undefined) => headers.forwarded_client_cert,
        Some(details) => details,
    };
    match details {
        ForwardClientCertDetails::Undefined => default,
        ForwardClientCertDetails::SanitizeSet => ForwardClientCert::SanitizeSet,
        ForwardClientCertDetails::Sanitize => ForwardClientCert::Sanitize,
        ForwardClientCertDetails::ForwardOnly => ForwardClientCert::ForwardOnly,
        ForwardClientCertDetails::AppendForward => ForwardClientCert::AppendForward,
        ForwardClientCertDetails::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
    }
}

/// The first default provider that writes a file, else `accessLogFile`.
fn access_log(mesh: &MeshConfig, findings: &mut Findings) -> Option<AccessLog> {
    for name in &mesh.default_providers.access_logging {
        if name == BUILT_IN_LOG_PROVIDER {
            return Some(AccessLog { path: STDOUT.into(), format: mesh_format(mesh, findings) });
        }
        let provider = mesh.extension_providers.iter().find(|provider| provider.name == *name);
        if let Some(log) = provider.and_then(|provider| provider.envoy_file_access_log.as_ref()) {
            let path = if log.path.is_empty() { STDOUT } else { &log.path };
            return Some(AccessLog { path: path.into(), format: provider_format(log, findings) });
        }
        warn(
            findings,
            "defaultProviders.accessLogging",
            &format!("provider {name} is not supported; only envoyFileAccessLog is"),
        );
    }
    let path = Some(mesh.access_log_file.as_str()).filter(|path| !path.is_empty())?;
    Some(AccessLog { path: path.into(), format: mesh_format(mesh, findings) })
}

fn mesh_format(mesh: &MeshConfig, findings: &mut Findings) -> AccessLogFormat {
    let format = mesh.access_log_format.as_str();
    match mesh.access_log_encoding {
        AccessLogEncoding::Text => {
            AccessLogFormat::Text(Some(format).filter(|f| !f.is_empty()).map(Into::into))
        }
        AccessLogEncoding::Json if format.is_empty() => AccessLogFormat::Json(None),
        AccessLogEncoding::Json => match serde_json::from_str(format) {
            Ok(value) => json_fields("accessLogFormat", &value, findings),
            Err(error) => {
                let message = format!("not a JSON object, so the default is used: {error}");
                warn(findings, "accessLogFormat", &message);
                AccessLogFormat::Json(None)
            }
        },
    }
}

fn provider_format(log: &FileAccessLog, findings: &mut Findings) -> AccessLogFormat {
    let Some(format) = &log.log_format else { return AccessLogFormat::Text(None) };
    match &format.labels {
        Some(labels) => json_fields("extensionProviders", labels, findings),
        None => {
            let text = Some(format.text.as_str()).filter(|text| !text.is_empty());
            AccessLogFormat::Text(text.map(Into::into))
        }
    }
}

fn json_fields(field: &str, value: &serde_json::Value, findings: &mut Findings) -> AccessLogFormat {
    let Some(object) = value.as_object() else {
        warn(findings, field, "not a JSON object, so the default fields are logged");
        return AccessLogFormat::Json(None);
    };
    let mut fields: Vec<(Arc<str>, Arc<str>)> = Vec::with_capacity(object.len());
    for (key, value) in object {
        match value {
            serde_json::Value::String(text) => {
                fields.push((key.as_str().into(), text.as_str().into()));
            }
            other => {
                warn(findings, field, &format!("{key} is left out: {other} is not a format string"))
            }
        }
    }
    fields.sort();
    AccessLogFormat::Json(Some(fields.into()))
}

fn warn(findings: &mut Findings, field: &str, message: &str) {
    findings.push(Diagnostic {
        severity: Severity::Warning,
        object: None,
        source: Source { file: "MeshConfig".into(), line: 1 },
        field: field.to_owned(),
        message: message.to_owned(),
    });
}
