//! `/certs`: which certificates are in use and how long they last.

use std::{fs, net::IpAddr, time::SystemTime};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use weir_config::model::{Resources, secret::SecretMaterial};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::tls::SecretProblem;

/// Every secret with its certificates, and what is wrong with any.
pub(super) fn json(resources: &Resources, problems: &[SecretProblem]) -> Value {
    let now = SystemTime::now();
    let secrets = resources.secrets.values().map(|secret| {
        let (chain, trust_bundle) = match &secret.material {
            SecretMaterial::Inline { certificate_chain, trust_bundle, .. } => (
                certificate_chain.as_deref().map(|pem| certificates(pem, now)),
                trust_bundle.as_deref().map(|pem| certificates(pem, now)),
            ),
            SecretMaterial::Files { certificate_chain, trust_bundle, .. } => (
                certificate_chain.as_deref().map(|path| in_file(path, now)),
                trust_bundle.as_deref().map(|path| in_file(path, now)),
            ),
        };
        json!({ "name": secret.name, "certificateChain": chain, "trustBundle": trust_bundle })
    });
    let problems = problems.iter().map(|problem| {
        json!({
            "secret": problem.secret,
            "severity": problem.severity,
            "message": problem.message,
        })
    });
    json!({ "secrets": secrets.collect::<Vec<_>>(), "problems": problems.collect::<Vec<_>>() })
}

fn in_file(path: &str, now: SystemTime) -> Value {
    match fs::read(path) {
        Ok(pem) => json!({ "path": path, "certificates": certificates(&pem, now) }),
        Err(error) => json!({ "path": path, "error": error.to_string() }),
    }
}

fn certificates(pem: &[u8], now: SystemTime) -> Value {
    let all = CertificateDer::pem_slice_iter(pem).map(|der| match der {
        Ok(der) => certificate(&der, now),
        Err(error) => json!({ "error": error.to_string() }),
    });
    Value::Array(all.collect())
}

fn certificate(der: &CertificateDer<'_>, now: SystemTime) -> Value {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return json!({ "error": "this is no certificate" });
    };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let validity = certificate.validity();
    let seconds_left = validity.not_after.timestamp() - i64::try_from(now).unwrap_or(i64::MAX);
    json!({
        "subject": certificate.subject().to_string(),
        "serialNumber": certificate.raw_serial_as_string(),
        "subjectAltNames": alt_names(&certificate),
        "validFrom": validity.not_before.to_string(),
        "expirationTime": validity.not_after.to_string(),
        "daysUntilExpiration": seconds_left.div_euclid(86_400),
    })
}

fn alt_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    names
        .map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) => (*name).to_owned(),
            GeneralName::IPAddress(octets) => ip(octets).unwrap_or_else(|| name.to_string()),
            other => other.to_string(),
        })
        .collect()
}

fn ip(octets: &[u8]) -> Option<String> {
    let ip = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
    };
    Some(ip.to_string())
}
