//! Signing: what is asked for, within what is allowed.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::root::{Authority, BACKDATED};

/// A request is a key and a name.
const MAX_REQUEST: usize = 16 * 1024;
/// Shorter ones would be renewed all the time.
const MIN_LIFETIME: Duration = Duration::from_secs(60);
/// A public RSA key of 2048 bits, as DER; and one of 8192, which costs its verifiers too much.
const RSA_KEY: std::ops::RangeInclusive<usize> = 270..=1040;

/// An authority that is ready to sign.
pub(super) struct Signing {
    authority: Authority,
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
    limits: Limits,
}

/// How long certificates live.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Where a request says nothing.
    pub default: Duration,
    /// Requests for more get this.
    pub max: Duration,
}

/// Why nothing was signed; for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the request cannot be used: {0}")]
    Malformed(String),
    #[error("the request is for {0}, which is not who asks")]
    NotYours(String),
    #[error("{0}")]
    Failed(String),
}

/// A server's certificate and key.
pub(super) struct Served {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Signing {
    pub(super) fn new(authority: Authority, limits: Limits) -> anyhow::Result<Self> {
        let issuer = authority.signer.issuer()?;
        let not_after = authority.signer.validity()?.not_after;
        Ok(Self { authority, issuer, not_after, limits })
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Signs a workload's request: the leaf first, the root last. `lifetime` as it was asked for;
    /// zero or less is the default.
    pub(super) fn workload(
        &self,
        request: &str,
        identity: &str,
        lifetime: i64,
        now: SystemTime,
    ) -> Result<Vec<String>, Refusal> {
        if request.len() > MAX_REQUEST {
            return Err(Refusal::Malformed(format!("it has more than {MAX_REQUEST} bytes")));
        }
        // Its signature is verified too: who asks has the key.
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| Refusal::Malformed(error.to_string()))?;
        let CertificateSigningRequestParams { params: wanted, public_key } = request;
        check_key(&public_key)?;
        if let Some(other) = wanted.subject_alt_names.iter().find(|name| !is_uri(name, identity)) {
            return Err(Refusal::NotYours(describe(other)));
        }
        let lifetime = match u64::try_from(lifetime) {
            Ok(0) | Err(_) => self.limits.default,
            Ok(seconds) => Duration::from_secs(seconds).clamp(MIN_LIFETIME, self.limits.max),
        };
        let name = identity.try_into().map_err(|_not_ascii| {
            Refusal::Failed(format!("{identity} cannot stand in a certificate"))
        })?;
        let params = self
            .params(vec![SanType::URI(name)], lifetime, now)
            .map_err(|error| Refusal::Failed(format!("{error:#}")))?;
        // Only the key is taken over from the request.
        let signed = CertificateSigningRequestParams { params, public_key }
            .signed_by(&self.issuer)
            .map_err(|error| Refusal::Failed(error.to_string()))?;
        let mut chain = vec![signed.pem()];
        chain.extend(self.authority.chain());
        Ok(chain)
    }

    /// A certificate for the servers of this process.
    pub(super) fn server(
        &self,
        names: &[String],
        identity: &str,
        now: SystemTime,
    ) -> anyhow::Result<Served> {
        let mut subjects = vec![SanType::URI(identity.try_into()?)];
        for name in names {
            subjects.push(SanType::DnsName(name.as_str().try_into()?));
        }
        let params = self.params(subjects, self.limits.default, now)?;
        let key = KeyPair::generate().context("generate a key")?;
        let signed = params.signed_by(&key, &self.issuer).context("sign the certificate")?;
        let mut chain = vec![signed.der().clone()];
        chain.extend(self.authority.shown()?);
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes());
        Ok(Served { chain, key: key.context("read the key")? })
    }

    fn params(
        &self,
        names: Vec<SanType>,
        lifetime: Duration,
        now: SystemTime,
    ) -> anyhow::Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        params.not_before = (now - BACKDATED).into();
        // None outlives who signed it.
        params.not_after = (now + lifetime).min(self.not_after).into();
        Ok(params)
    }
}

/// Small keys are broken, large ones are a burden on everybody who verifies.
fn check_key(key: &rcgen::PublicKey) -> Result<(), Refusal> {
    use rcgen::PublicKeyData;
    let is_rsa = [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_RSA_SHA384, &rcgen::PKCS_RSA_SHA512]
        .iter()
        .any(|algorithm| *key.algorithm() == **algorithm);
    if is_rsa && !RSA_KEY.contains(&key.der_bytes().len()) {
        return Err(Refusal::Malformed("RSA keys have 2048 to 8192 bits".to_owned()));
    }
    Ok(())
}

fn is_uri(name: &SanType, identity: &str) -> bool {
    matches!(name, SanType::URI(uri) if uri.as_str() == identity)
}

fn describe(name: &SanType) -> String {
    match name {
        SanType::URI(name) | SanType::DnsName(name) | SanType::Rfc822Name(name) => {
            name.as_str().to_owned()
        }
        SanType::IpAddress(address) => address.to_string(),
        _ => "another kind of name".to_owned(),
    }
}

/// 127 bits of chance (CA/Browser Forum 7.1 asks for 64), positive.
fn serial() -> anyhow::Result<SerialNumber> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).context("get random bytes")?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests;
