//! Mutual TLS of the mesh towards whoever connects: what sidecars take inbound, and servers of gateways
//! with `ISTIO_MUTUAL`.

use std::sync::Arc;

use super::View;
use crate::{
    api::istio::gateway::TlsVersion as ApiVersion,
    model::{
        SecretName,
        listener::{ClientAuth, ClientValidation, DownstreamTls, TlsVersion},
    },
};

/// HTTP, and what is offered by clients of the mesh that do not know what they speak.
pub(super) const HTTP_ALPN: [&str; 3] = ["h2", "http/1.1", "istio"];
/// Not `istio-peer-exchange`: it stands for a message before the first byte, which gateways do without.
pub(super) const TCP_ALPN: [&str; 3] = ["istio", "h2", "http/1.1"];
/// Of sidecars, whose metrics are about who calls.
pub(super) const INBOUND_TCP_ALPN: [&str; 4] = ["istio-peer-exchange", "istio", "h2", "http/1.1"];

/// With the workload's certificate, and one of the mesh from whoever connects. `identities`: those that
/// may; none is any of the mesh.
pub(super) fn downstream(view: &View, alpn: &[&str], identities: &[String]) -> DownstreamTls {
    let mesh = view.mesh.mesh_mtls.as_ref();
    let min_version = match mesh.map(|mesh| mesh.min_protocol_version) {
        Some(ApiVersion::V1_3) => TlsVersion::V1_3,
        _ => TlsVersion::V1_2,
    };
    let suites = mesh.map(|mesh| mesh.cipher_suites.as_slice()).unwrap_or_default();
    DownstreamTls {
        certificates: [SecretName::workload()].into(),
        client_auth: ClientAuth::Required(ClientValidation {
            trust_bundle: SecretName::workload(),
            subject_alt_names: identities.iter().map(|name| name.as_str().into()).collect(),
            spki_sha256: Arc::default(),
            certificate_sha256: Arc::default(),
        }),
        min_version,
        max_version: TlsVersion::V1_3,
        cipher_suites: suites.iter().map(|suite| suite.as_str().into()).collect(),
        alpn: alpn.iter().map(|&name| name.into()).collect(),
    }
}
