//! Rules for the TLS settings of a Gateway's server.

use std::collections::BTreeSet;

use super::super::Findings;
use crate::{
    api::istio::gateway::{ServerTlsMode, ServerTlsSettings, TlsCertificate, TlsVersion},
    diagnostic::FieldPath,
};

/// Cipher suites Istio knows by OpenSSL name. TLS 1.3's are fixed.
const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

const ECDH_CURVES: [&str; 7] =
    ["P-224", "P-256", "P-384", "P-521", "X25519", "X25519Kyber768Draft00", "X25519MLKEM768"];

/// Certificates of one server: one for RSA and one for ECDSA clients.
const MAX_CERTIFICATES: usize = 2;

/// Whether any certificate is named, in whatever way.
pub(super) fn has_certificate(tls: &ServerTlsSettings) -> bool {
    !certificate_fields(tls).is_empty()
}

pub(super) fn validate(tls: &ServerTlsSettings, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    versions(tls, at, findings);
    known_once(&tls.cipher_suites, is_known_cipher, at.field("cipherSuites"), findings);
    let known_curve = |curve: &str| ECDH_CURVES.contains(&curve);
    known_once(&tls.ecdh_curves, known_curve, at.field("ecdhCurves"), findings);
    match tls.mode {
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            for field in certificate_fields(tls) {
                findings.warning(
                    at.field(field),
                    format!("not used in mode {}, which does not terminate TLS", tls.mode.name()),
                );
            }
        }
        ServerTlsMode::IstioMutual => {
            for field in certificate_fields(tls) {
                findings.error(
                    at.field(field),
                    "mode ISTIO_MUTUAL uses the mesh's own certificates; remove the field",
                );
            }
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            certificates(tls, at, findings);
        }
    }
}

fn versions(tls: &ServerTlsSettings, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let (min, max) = (tls.min_protocol_version, tls.max_protocol_version);
    if matches!(min, TlsVersion::V1_0 | TlsVersion::V1_1) {
        findings.warning(
            at.field("minProtocolVersion"),
            "TLS below 1.2 is broken and not offered; the minimum is TLSV1_2",
        );
    }
    if matches!(max, TlsVersion::V1_0 | TlsVersion::V1_1) {
        findings.error(
            at.field("maxProtocolVersion"),
            "TLS below 1.2 is not offered, so no version is left; use TLSV1_2 or TLSV1_3",
        );
    } else if max != TlsVersion::Auto && min > max {
        findings.error(
            at.field("maxProtocolVersion"),
            "below minProtocolVersion, so no version is left; raise it",
        );
    }
}

fn is_known_cipher(cipher: &str) -> bool {
    // OpenSSL operators such as "!aNULL" pass; they only ever narrow the fixed set.
    let operator = cipher.bytes().next().is_some_and(|byte| !byte.is_ascii_alphanumeric());
    cipher == "ALL" || operator || CIPHER_SUITES.contains(&cipher)
}

fn known_once(
    names: &[String],
    known: impl Fn(&str) -> bool,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let mut seen = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        if !known(name) {
            findings.warning(at.index(index), format!("{name:?} is not known and is ignored"));
        } else if !seen.insert(name) {
            findings.warning(at.index(index), format!("{name:?} is listed twice"));
        }
    }
}

/// The fields that name a certificate, key or CA.
fn certificate_fields(tls: &ServerTlsSettings) -> Vec<&'static str> {
    [
        ("serverCertificate", !tls.server_certificate.is_empty()),
        ("privateKey", !tls.private_key.is_empty()),
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
    ]
    .into_iter()
    .filter_map(|(field, set)| set.then_some(field))
    .collect()
}

/// Where the certificate of a terminating server comes from: exactly one of four ways.
fn certificates(tls: &ServerTlsSettings, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let by_secret = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
    let by_path = !tls.server_certificate.is_empty() || !tls.private_key.is_empty();
    let sources = [
        !tls.credential_name.is_empty(),
        !tls.credential_names.is_empty(),
        by_path,
        !tls.tls_certificates.is_empty(),
    ];
    if sources.into_iter().filter(|used| *used).count() > 1 {
        findings.error(
            at,
            "the certificate is named more than once; keep one of credentialName, credentialNames, \
             serverCertificate with privateKey, tlsCertificates",
        );
    }
    if tls.credential_names.len() > MAX_CERTIFICATES {
        findings.warning(at.field("credentialNames"), TOO_MANY);
    }
    if tls.tls_certificates.len() > MAX_CERTIFICATES {
        findings.warning(at.field("tlsCertificates"), TOO_MANY);
    }
    revocations(tls, by_secret, at, findings);
    if !by_secret {
        files(tls, at, findings);
    }
}

const TOO_MANY: &str = "at most two certificates are used, one RSA and one ECDSA";

fn revocations(
    tls: &ServerTlsSettings,
    by_secret: bool,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if tls.ca_crl.is_empty() {
        return;
    }
    if by_secret {
        findings.error(
            at.field("caCrl"),
            "with credentialName the revocation list is key ca.crl of the Secret; remove the field",
        );
    }
    if tls.mode == ServerTlsMode::Simple {
        findings.error(
            at.field("caCrl"),
            "mode SIMPLE asks for no client certificate that could be revoked; remove the field",
        );
    }
}

fn files(tls: &ServerTlsSettings, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let mode = tls.mode.name();
    if tls.tls_certificates.is_empty() {
        let alternative = "name a Secret with credentialName or give the file's path";
        if tls.server_certificate.is_empty() {
            findings.error(
                at.field("serverCertificate"),
                format!("mode {mode} needs a certificate; {alternative}"),
            );
        }
        if tls.private_key.is_empty() {
            findings.error(
                at.field("privateKey"),
                format!("mode {mode} needs a private key; {alternative}"),
            );
        }
    }
    let list = at.field("tlsCertificates");
    for (index, TlsCertificate { server_certificate, private_key, .. }) in
        tls.tls_certificates.iter().enumerate()
    {
        if server_certificate.is_empty() || private_key.is_empty() {
            findings.error(
                list.index(index),
                "a certificate needs the paths serverCertificate and privateKey",
            );
        }
    }
    let in_list = || tls.tls_certificates.iter().any(|pair| !pair.ca_certificates.is_empty());
    let has_ca =
        !tls.ca_certificates.is_empty() || !tls.ca_cert_credential_name.is_empty() || in_list();
    if tls.mode != ServerTlsMode::Simple && !has_ca {
        findings.error(
            at.field("caCertificates"),
            format!("mode {mode} verifies clients and needs the CA's file; or use credentialName"),
        );
    }
}
