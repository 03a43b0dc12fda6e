//! A certificate authority for one test.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, SanType, SignatureAlgorithm,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

/// Signs the certificates of one test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    #[must_use]
    pub fn new(common_name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("generate a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("sign the root") }
    }

    /// The root certificate.
    #[must_use]
    pub fn root(&self) -> String {
        self.issuer.pem()
    }

    /// A server certificate for these names (IP addresses are recognised).
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Identity {
        self.issue(names, ExtendedKeyUsagePurpose::ServerAuth, &PKCS_ECDSA_P256_SHA256)
    }

    /// A server certificate with an RSA key.
    #[must_use]
    pub fn rsa_server(&self, names: &[&str]) -> Identity {
        self.issue(names, ExtendedKeyUsagePurpose::ServerAuth, &PKCS_RSA_SHA256)
    }

    /// A client certificate. Names with a scheme become URI names.
    #[must_use]
    pub fn client(&self, names: &[&str]) -> Identity {
        self.issue(names, ExtendedKeyUsagePurpose::ClientAuth, &PKCS_ECDSA_P256_SHA256)
    }

    /// Signs what a workload asks for, from now on for so many seconds; also returns the URI names.
    ///
    /// # Panics
    /// The request is none.
    #[must_use]
    pub fn sign(&self, csr: &str, seconds: i64) -> (String, Vec<String>) {
        let mut request = CertificateSigningRequestParams::from_pem(csr).expect("a request");
        let now = SystemTime::now();
        request.params.not_before = now.into();
        let lifetime = Duration::from_secs(seconds.try_into().expect("a lifetime"));
        request.params.not_after = (now + lifetime).into();
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let uri = |name: &SanType| match name {
            SanType::URI(uri) => Some(uri.to_string()),
            _ => None,
        };
        let names = request.params.subject_alt_names.iter().filter_map(uri).collect();
        (request.signed_by(&self.issuer).expect("sign a certificate").pem(), names)
    }

    /// The certificate of a workload of the mesh, which shows it to clients and to servers.
    #[must_use]
    pub fn workload(&self, uri: &str) -> Identity {
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue_for(&[uri], usages.into(), &PKCS_ECDSA_P256_SHA256)
    }

    fn issue(
        &self,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
        algorithm: &'static SignatureAlgorithm,
    ) -> Identity {
        self.issue_for(names, vec![usage], algorithm)
    }

    fn issue_for(
        &self,
        names: &[&str],
        usages: Vec<ExtendedKeyUsagePurpose>,
        algorithm: &'static SignatureAlgorithm,
    ) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.subject_alt_names = names.iter().map(|name| subject_alt_name(name)).collect();
        params.extended_key_usages = usages;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate_for(algorithm).expect("generate a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("sign a certificate");
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A client configuration that trusts this authority, shows `identity` and offers `alpn`.
    #[must_use]
    pub fn client_config(&self, identity: Option<&Identity>, alpn: &[&str]) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(self.roots());
        let mut config = match identity {
            Some(identity) => builder
                .with_client_auth_cert(identity.chain(), identity.private_key())
                .expect("the key fits the certificate"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// A server configuration; with `require_client`, only clients signed by this authority.
    #[must_use]
    pub fn server_config(
        &self,
        identity: &Identity,
        alpn: &[&str],
        require_client: bool,
    ) -> ServerConfig {
        if !require_client {
            return identity.server_config(alpn);
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider())
            .build()
            .expect("the root is usable");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain(), identity.private_key())
            .expect("the key fits the certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("the root is a certificate");
        Arc::new(roots)
    }
}

impl Identity {
    /// A server configuration that shows this, and asks nobody for a certificate.
    #[must_use]
    pub fn server_config(&self, alpn: &[&str]) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions");
        let mut config = builder
            .with_no_client_auth()
            .with_single_cert(self.chain(), self.private_key())
            .expect("the key fits the certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .expect("certificates are PEM")
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("keys are PEM")
    }
}

fn subject_alt_name(name: &str) -> SanType {
    if let Ok(address) = name.parse::<IpAddr>() {
        SanType::IpAddress(address)
    } else if name.contains("://") {
        SanType::URI(name.try_into().expect("names are ASCII"))
    } else {
        SanType::DnsName(name.try_into().expect("names are ASCII"))
    }
}

/// Named wherever it is needed: no test depends on which one the process installed.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
