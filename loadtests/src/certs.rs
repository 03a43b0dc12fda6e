//! Certificates and tokens of one run. Every proxy gets the same ones.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk as PublicKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SanType, SignatureAlgorithm,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;

use crate::{
    lan::{CLIENT_IDENTITY, SERVER_IDENTITY},
    scenario::{Case, Certificate, Jwt, Reconnect},
};

/// The name on the certificates, and of the passthrough route.
pub const SERVER_NAME: &str = "bench.example.test";

/// Who signs the tokens.
pub const ISSUER: &str = "https://issuer.example.test";

/// A certificate authority with what it signed, as files in one folder.
#[derive(Debug)]
pub struct Credentials {
    dir: PathBuf,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Both in one file, for proxies that want it so.
    pub combined: PathBuf,
}

impl Credentials {
    /// Makes everything new in the folder.
    pub fn create(dir: &Path) -> anyhow::Result<Self> {
        let issuer = authority()?;
        fs::write(dir.join("ca.pem"), issuer.pem())?;
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let name = SanType::DnsName(SERVER_NAME.try_into()?);
        let named = |usage| Bearer { name: name.clone(), usages: vec![usage] };
        issue(dir, "ecdsa", &issuer, named(server.clone()), &PKCS_ECDSA_P256_SHA256)?;
        issue(dir, "rsa", &issuer, named(server.clone()), &PKCS_RSA_SHA256)?;
        issue(dir, "client", &issuer, named(client.clone()), &PKCS_ECDSA_P256_SHA256)?;
        for (account, identity) in [("client", CLIENT_IDENTITY), ("bench", SERVER_IDENTITY)] {
            let name = SanType::URI(identity.try_into()?);
            let bearer = Bearer { name, usages: vec![server.clone(), client.clone()] };
            issue_workload(dir, account, &issuer, bearer)?;
        }
        for (name, algorithm) in [("RS256", &PKCS_RSA_SHA256), ("ES256", &PKCS_ECDSA_P256_SHA256)] {
            let key = KeyPair::generate_for(algorithm)?;
            fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem())?;
            fs::write(dir.join(format!("{name}.pem")), key.public_key_pem())?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub fn server(&self, kind: Certificate) -> Identity {
        self.identity(match kind {
            Certificate::Ecdsa => "ecdsa",
            Certificate::Rsa => "rsa",
        })
    }

    /// The folder with what a workload of the mesh shows, and whom it trusts, under the names that
    /// sidecars look for.
    pub fn workload(&self, account: &str) -> PathBuf {
        self.dir.join(format!("workload-{account}"))
    }

    fn identity(&self, name: &str) -> Identity {
        Identity {
            certificate: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}-key.pem")),
            combined: self.dir.join(format!("{name}-combined.pem")),
        }
    }

    /// What clients of a run use: one suite and one curve, so that every proxy computes the same.
    pub fn client_config(&self, case: &Case, alpn: &[&str]) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca())?)?;
        let builder = ClientConfig::builder_with_provider(one_suite())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let mut config = if case.proxy.client_certificate {
            let (chain, key) = self.identity("client").load()?;
            builder.with_client_auth_cert(chain, key)?
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        if case.load.reconnect != Reconnect::Resumed {
            config.resumption = Resumption::disabled();
        }
        Ok(config)
    }

    /// For an origin that terminates TLS itself.
    pub fn server_config(&self) -> anyhow::Result<ServerConfig> {
        let (chain, key) = self.identity("ecdsa").load()?;
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The public key tokens are checked with, as a PEM file.
    pub fn token_key(&self, algorithm: Jwt) -> PathBuf {
        self.dir.join(format!("{}.pem", name(algorithm)))
    }

    /// The same as a JSON Web Key Set.
    pub fn jwks(&self, algorithm: Jwt) -> anyhow::Result<String> {
        let key = self.signing_key(algorithm)?;
        let mut jwk = PublicKey::from_encoding_key(&key, jws(algorithm))?;
        jwk.common.key_id = Some("bench".into());
        Ok(json!({ "keys": [jwk] }).to_string())
    }

    /// Different tokens, valid for an hour.
    pub fn tokens(&self, algorithm: Jwt, count: usize) -> anyhow::Result<Vec<String>> {
        let key = self.signing_key(algorithm)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut header = Header::new(jws(algorithm));
        header.kid = Some("bench".into());
        (0..count)
            .map(|n| {
                let claims = json!({
                    "iss": ISSUER, "sub": format!("client-{n}"), "iat": now, "exp": now + 3600,
                });
                encode(&header, &claims, &key).context("sign a token")
            })
            .collect()
    }

    fn signing_key(&self, algorithm: Jwt) -> anyhow::Result<EncodingKey> {
        let pem = fs::read(self.dir.join(format!("{}-key.pem", name(algorithm))))?;
        Ok(match algorithm {
            Jwt::Rs256 => EncodingKey::from_rsa_pem(&pem)?,
            Jwt::Es256 => EncodingKey::from_ec_pem(&pem)?,
        })
    }
}

impl Identity {
    fn load(&self) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_file_iter(&self.certificate)?.collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_file(&self.key)?))
    }
}

fn name(algorithm: Jwt) -> &'static str {
    match algorithm {
        Jwt::Rs256 => "RS256",
        Jwt::Es256 => "ES256",
    }
}

fn jws(algorithm: Jwt) -> Algorithm {
    match algorithm {
        Jwt::Rs256 => Algorithm::RS256,
        Jwt::Es256 => Algorithm::ES256,
    }
}

fn authority() -> anyhow::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Weir loadtests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Whose certificate it is, and for what.
struct Bearer {
    name: SanType,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Bearer {
    /// Its certificate and key.
    fn sign(
        self,
        issuer: &CertifiedIssuer<'static, KeyPair>,
        algorithm: &'static SignatureAlgorithm,
    ) -> anyhow::Result<(String, String)> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
        params.subject_alt_names = vec![self.name];
        params.extended_key_usages = self.usages;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate_for(algorithm)?;
        Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
    }
}

fn issue_workload(
    dir: &Path,
    account: &str,
    issuer: &CertifiedIssuer<'static, KeyPair>,
    bearer: Bearer,
) -> anyhow::Result<()> {
    let (certificate, key) = bearer.sign(issuer, &PKCS_ECDSA_P256_SHA256)?;
    let folder = dir.join(format!("workload-{account}"));
    fs::create_dir(&folder)?;
    fs::write(folder.join("cert-chain.pem"), certificate)?;
    fs::write(folder.join("key.pem"), key)?;
    fs::write(folder.join("root-cert.pem"), issuer.pem())?;
    Ok(())
}

fn issue(
    dir: &Path,
    name: &str,
    issuer: &CertifiedIssuer<'static, KeyPair>,
    bearer: Bearer,
    algorithm: &'static SignatureAlgorithm,
) -> anyhow::Result<()> {
    let (certificate, key) = bearer.sign(issuer, algorithm)?;
    fs::write(dir.join(format!("{name}-combined.pem")), format!("{certificate}{key}"))?;
    fs::write(dir.join(format!("{name}.pem")), certificate)?;
    fs::write(dir.join(format!("{name}-key.pem")), key)?;
    Ok(())
}

fn one_suite() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
}
