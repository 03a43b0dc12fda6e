//! ServerTLSSettings -> DownstreamTls.

use base64::{Engine, engine::general_purpose::STANDARD};
use std::sync::Arc;

use crate::{
    api::{
        Object,
        istio::gateway::{ServerTlsMode, ServerTlsSettings, TlsVersion as ApiTlsVersion},
    },
    compile::{
        View,
        finding::Findings,
        mesh_tls,
        secret::{Credentials, Reference},
    },
    model::{
        SecretName,
        listener::{ClientAuth, ClientValidation, DownstreamTls, TlsVersion},
    },
};

/// Suites that may be named (istio-compat 1.2); others are ignored, as validation says.
const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

/// Makes the TLS context of one server and notes the secrets it refers to.
pub(super) struct Builder<'a> {
    view: &'a View,
    gateway: &'a Object,
    /// `spec.servers[0].tls`
    field: String,
    findings: &'a mut Findings,
    references: Vec<Reference>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        view: &'a View,
        gateway: &'a Object,
        field: String,
        findings: &'a mut Findings,
    ) -> Self {
        Self { view, gateway, field, findings, references: Vec::new() }
    }

    pub(super) fn into_references(self) -> Vec<Reference> {
        self.references
    }

    /// The context, or `None` where serving without what is asked for would be less safe than not
    /// serving at all; that is said.
    pub(super) fn build(
        &mut self,
        settings: &ServerTlsSettings,
        is_http: bool,
    ) -> Option<DownstreamTls> {
        if settings.mode == ServerTlsMode::IstioMutual {
            let alpn = if is_http { mesh_tls::HTTP_ALPN } else { mesh_tls::TCP_ALPN };
            return Some(mesh_tls::downstream(self.view, &alpn, &settings.subject_alt_names));
        }
        let certificates = self.certificates(settings);
        let client_auth = self.client_auth(settings)?;
        let (min_version, max_version) = self.versions(settings)?;
        if !settings.ecdh_curves.is_empty() {
            self.warn("ecdhCurves", "ecdhCurves is not applied yet; the default groups are used");
        }
        let alpn: &[&str] = if is_http { &["h2", "http/1.1"] } else { &[] };
        Some(DownstreamTls {
            certificates: certificates.into(),
            client_auth,
            min_version,
            max_version,
            cipher_suites: self.cipher_suites(settings),
            alpn: alpn.iter().map(|&name| name.into()).collect(),
        })
    }

    fn certificates(&mut self, settings: &ServerTlsSettings) -> Vec<SecretName> {
        let names = &settings.credential_names;
        if !settings.credential_name.is_empty() {
            vec![self.credentials("credentialName").certificate(&settings.credential_name)]
        } else if !names.is_empty() {
            let mut secrets = Vec::new();
            for (index, name) in names.iter().enumerate() {
                let field = format!("credentialNames[{index}]");
                secrets.push(self.credentials(&field).certificate(name));
            }
            secrets
        } else if !settings.tls_certificates.is_empty() {
            let mut secrets = Vec::new();
            for pair in &settings.tls_certificates {
                let mut credentials = self.credentials("tlsCertificates");
                secrets.push(
                    credentials.certificate_files(&pair.server_certificate, &pair.private_key),
                );
            }
            secrets
        } else {
            let mut credentials = self.credentials("serverCertificate");
            vec![credentials.certificate_files(&settings.server_certificate, &settings.private_key)]
        }
    }

    fn client_auth(&mut self, settings: &ServerTlsSettings) -> Option<ClientAuth> {
        match settings.mode {
            ServerTlsMode::Mutual => Some(ClientAuth::Required(self.validation(settings)?)),
            ServerTlsMode::OptionalMutual => Some(ClientAuth::Optional(self.validation(settings)?)),
            ServerTlsMode::Simple
            | ServerTlsMode::Passthrough
            | ServerTlsMode::AutoPassthrough
            | ServerTlsMode::IstioMutual => Some(ClientAuth::None),
        }
    }

    fn validation(&mut self, settings: &ServerTlsSettings) -> Option<ClientValidation> {
        let spki = settings.verify_certificate_spki.iter().map(|text| {
            let digest = STANDARD.decode(text).ok()?;
            <[u8; 32]>::try_from(digest).ok()
        });
        let hashes = settings.verify_certificate_hash.iter().map(|text| sha256_from_hex(text));
        // An unreadable pin must not turn into no pin.
        let (Some(spki), Some(hashes)) =
            (spki.collect::<Option<Vec<_>>>(), hashes.collect::<Option<Vec<_>>>())
        else {
            self.warn(
                "verifyCertificateSpki",
                "this server is skipped: verifyCertificateSpki takes SHA-256 digests in base64 and \
                 verifyCertificateHash in hex",
            );
            return None;
        };
        Some(ClientValidation {
            trust_bundle: self.trust_bundle(settings),
            subject_alt_names: settings
                .subject_alt_names
                .iter()
                .map(|name| (**name).into())
                .collect(),
            spki_sha256: spki.into(),
            certificate_sha256: hashes.into(),
        })
    }

    fn trust_bundle(&mut self, settings: &ServerTlsSettings) -> SecretName {
        let name = settings.credential_names.first().unwrap_or(&settings.credential_name);
        if !settings.ca_cert_credential_name.is_empty() {
            let mut credentials = self.credentials("caCertCredentialName");
            credentials.authority(&settings.ca_cert_credential_name)
        } else if !name.is_empty() {
            self.credentials("credentialName").companion_authority(name)
        } else {
            let nested = settings.tls_certificates.iter().map(|pair| &pair.ca_certificates);
            let path = std::iter::once(&settings.ca_certificates)
                .chain(nested)
                .find(|path| !path.is_empty())
                .map_or("", String::as_str);
            self.credentials("caCertificates").authority_files(path, &settings.ca_crl)
        }
    }

    fn credentials(&mut self, field: &str) -> Credentials<'_> {
        Credentials {
            view: self.view,
            object: self.gateway,
            field: format!("{}.{field}", self.field),
            findings: self.findings,
            references: &mut self.references,
        }
    }

    /// Server, then mesh, then 1.2 to 1.3; what is older is not spoken.
    fn versions(&mut self, settings: &ServerTlsSettings) -> Option<(TlsVersion, TlsVersion)> {
        let mesh = self.view.mesh.tls_defaults.as_ref().map(|tls| tls.min_protocol_version);
        let min = match settings.min_protocol_version {
            ApiTlsVersion::Auto => mesh.unwrap_or(ApiTlsVersion::Auto),
            version => version,
        };
        let min = match min {
            ApiTlsVersion::V1_3 => TlsVersion::V1_3,
            ApiTlsVersion::V1_0 | ApiTlsVersion::V1_1 => {
                self.warn("minProtocolVersion", "TLS 1.0 and 1.1 are not supported; 1.2 is used");
                TlsVersion::V1_2
            }
            ApiTlsVersion::Auto | ApiTlsVersion::V1_2 => TlsVersion::V1_2,
        };
        let max = match settings.max_protocol_version {
            ApiTlsVersion::Auto | ApiTlsVersion::V1_3 => TlsVersion::V1_3,
            ApiTlsVersion::V1_2 => TlsVersion::V1_2,
            ApiTlsVersion::V1_0 | ApiTlsVersion::V1_1 => {
                self.warn(
                    "maxProtocolVersion",
                    "this server is skipped: TLS 1.0 and 1.1 are not supported; use at least \
                     TLSV1_2",
                );
                return None;
            }
        };
        if min > max {
            self.warn(
                "minProtocolVersion",
                "this server is skipped: minProtocolVersion is above maxProtocolVersion",
            );
            return None;
        }
        Some((min, max))
    }

    fn cipher_suites(&self, settings: &ServerTlsSettings) -> Arc<[Arc<str>]> {
        let mesh = self.view.mesh.tls_defaults.as_ref().map(|tls| &tls.cipher_suites);
        let chosen = match mesh {
            Some(mesh) if settings.cipher_suites.is_empty() => mesh,
            _ => &settings.cipher_suites,
        };
        let mut known: Vec<Arc<str>> = Vec::new();
        for name in chosen.iter().filter(|name| CIPHER_SUITES.contains(&name.as_str())) {
            if !known.iter().any(|other| **other == **name) {
                known.push(name.as_str().into());
            }
        }
        known.into()
    }

    fn warn(&mut self, field: &str, message: &str) {
        self.findings.warn(self.gateway, format!("{}.{field}", self.field), message);
    }
}

/// Reads 64 hex digits, with or without colons between the bytes.
fn sha256_from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|&c| c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |n, d| n * 16 + d)).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}
