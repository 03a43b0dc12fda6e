//! From a server's TLS settings and secrets to what rustls runs.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig, SignatureAlgorithm, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use smallvec::SmallVec;
use weir_config::model::{
    SecretName,
    listener::{ClientAuth, ClientValidation, DownstreamTls, TlsVersion},
};

use super::{LoadedSecret, Secrets, cipher, client_verifier::ClientVerifier, peer, provider};

/// The secrets `tls` reads, in a fixed order; what a configuration has to be rebuilt for.
pub fn secrets_of(tls: &DownstreamTls) -> impl Iterator<Item = &SecretName> {
    let bundle = match &tls.client_auth {
        ClientAuth::None => None,
        ClientAuth::Optional(validation) | ClientAuth::Required(validation) => {
            Some(&validation.trust_bundle)
        }
    };
    tls.certificates.iter().chain(bundle)
}

/// Builds the configuration of one filter chain.
///
/// Its session tickets have keys of their own, so that a session is only ever resumed where, and
/// under the client authentication with which, it began (CVE-2022-21654, CVE-2025-23419).
///
/// # Errors
/// A message for the user: why no handshake can succeed, and what to do about it.
pub fn build(tls: &DownstreamTls, secrets: &Secrets) -> Result<Arc<ServerConfig>, String> {
    let certificates = Certificates::new(tls, secrets)?;
    let client_verifier = client_verifier(&tls.client_auth, secrets)?;
    let (provider, versions) = versions(tls)?;

    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| format!("its TLS settings cannot be used: {error}"))?;
    let builder = match client_verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = tls.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new()
        .map_err(|error| format!("no key for session tickets could be made: {error}"))?;
    // Early data can be replayed by whoever recorded it.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The URI in the first certificate, where clients show one as well: whom they found.
#[must_use]
pub fn local_uri(tls: Option<&DownstreamTls>, secrets: &Secrets) -> Option<Arc<str>> {
    let tls = tls.filter(|tls| tls.client_auth != ClientAuth::None)?;
    let key = secrets.find(tls.certificates.first()?)?.key.as_ref()?;
    peer::only_uri(key.cert.first()?)
}

fn client_verifier(
    client_auth: &ClientAuth,
    secrets: &Secrets,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let verifier = |validation: &ClientValidation, optional| {
        let name = &validation.trust_bundle;
        let bundle = secrets.find(name).ok_or_else(|| missing("client CA", name))?;
        ClientVerifier::new(validation, bundle, optional)
            .map(|verifier| Some(Arc::new(verifier) as Arc<dyn ClientCertVerifier>))
    };
    match client_auth {
        ClientAuth::None => Ok(None),
        ClientAuth::Optional(validation) => verifier(validation, true),
        ClientAuth::Required(validation) => verifier(validation, false),
    }
}

type Versions = SmallVec<[&'static SupportedProtocolVersion; 2]>;

/// The versions asked for and a provider with the suites asked for. Suites that do not exist here
/// are left out; the default set never takes their place.
fn versions(tls: &DownstreamTls) -> Result<(Arc<CryptoProvider>, Versions), String> {
    let mut provider = provider();
    let mut tls12 = tls.min_version == TlsVersion::V1_2;
    if tls12 && !tls.cipher_suites.is_empty() {
        let suites: Vec<_> =
            tls.cipher_suites.iter().filter_map(|name| cipher::tls12_suite(name)).collect();
        tls12 = !suites.is_empty();
        let mut restricted = CryptoProvider::clone(&provider);
        restricted.cipher_suites.retain(|suite| suite.tls13().is_some());
        restricted.cipher_suites.extend(suites);
        provider = Arc::new(restricted);
    }
    let mut versions = Versions::new();
    if tls.max_version == TlsVersion::V1_3 {
        versions.push(&TLS13);
    }
    if tls12 {
        versions.push(&TLS12);
    }
    if versions.is_empty() {
        return Err("no TLS version and cipher suite is left by `minProtocolVersion`, \
                    `maxProtocolVersion` and `cipherSuites`; allow TLS 1.3, or a suite such as \
                    ECDHE-ECDSA-AES128-GCM-SHA256 and ECDHE-RSA-AES128-GCM-SHA256"
            .to_owned());
    }
    Ok((provider, versions))
}

fn missing(what: &str, name: &SecretName) -> String {
    format!("{what} `{name}` does not exist; handshakes fail until the secret is there")
}

/// The certificates of one chain, ECDSA before RSA: it is the cheaper one to sign with.
struct Certificates(SmallVec<[Arc<CertifiedKey>; 2]>);

impl Certificates {
    /// Of a pair, one that works is enough.
    fn new(tls: &DownstreamTls, secrets: &Secrets) -> Result<Self, String> {
        let mut keys = SmallVec::new();
        let mut problem = "it names no certificate; set `credentialName`".to_owned();
        for name in &*tls.certificates {
            match secrets.find(name).map(|secret| &**secret) {
                Some(LoadedSecret { key: Some(key), .. }) => keys.push(Arc::clone(key)),
                Some(LoadedSecret { problem: Some(text), .. }) => {
                    problem = format!("certificate `{name}`: {text}");
                }
                Some(_) => {
                    problem = format!(
                        "certificate `{name}` holds only CA certificates; add `tls.crt` and \
                         `tls.key`"
                    );
                }
                None => problem = missing("certificate", name),
            }
        }
        if keys.is_empty() {
            return Err(problem);
        }
        keys.sort_by_key(|key: &Arc<CertifiedKey>| key.key.algorithm() == SignatureAlgorithm::RSA);
        Ok(Self(keys))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        self.0.iter().find(|key| key.key.choose_scheme(schemes).is_some()).map(Arc::clone)
    }
}

impl fmt::Debug for Certificates {
    /// Never the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| key.key.algorithm())).finish()
    }
}
