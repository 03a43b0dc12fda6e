//! The authority's key and certificates, as they are kept in a Secret.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Clocks that are behind ours have to believe what was signed just now: of two that are five minutes
/// off each, one may be ten behind the other.
pub(super) const BACKDATED: Duration = Duration::from_secs(600);

/// A certificate that may sign, and its key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Signer {
    /// PEM, one certificate.
    pub(super) certificate: String,
    /// PEM.
    pub(super) key: String,
}

/// Everything that is needed to sign, and to believe what was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) signer: Signer,
    /// Certificates between the signer's and the root, PEM; empty where the signer is the root.
    pub(super) intermediates: String,
    /// Every root that is to be trusted, PEM.
    pub(super) roots: String,
}

/// From when to when a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// The contents of a Secret.
pub(super) type Data = BTreeMap<String, Vec<u8>>;

impl fmt::Debug for Signer {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Signer {
    /// A new root of this organisation.
    pub(super) fn generate(
        organisation: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + lifetime).into();
        let key = KeyPair::generate().context("generate a key")?;
        let certificate = params.self_signed(&key).context("sign the root")?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    pub(super) fn validity(&self) -> anyhow::Result<Validity> {
        validity(&self.certificate)
    }

    pub(super) fn issuer(&self) -> anyhow::Result<Issuer<'static, KeyPair>> {
        let key = KeyPair::from_pem(&self.key).context("read the authority's key")?;
        Issuer::from_ca_cert_pem(&self.certificate, key).context("read the authority's certificate")
    }

    /// Whether the certificate may sign, with this key.
    fn check(&self) -> anyhow::Result<()> {
        let key = KeyPair::from_pem(&self.key).context("read the authority's key")?;
        let der = first(&self.certificate)?;
        let (_, parsed) = X509Certificate::from_der(&der).context("read the certificate")?;
        ensure!(parsed.is_ca(), "the certificate is not one of an authority (CA:TRUE)");
        let public = parsed.public_key().subject_public_key.data.as_ref();
        ensure!(public == key.public_key_raw(), "the key does not belong to the certificate");
        Ok(())
    }
}

impl Authority {
    /// One that somebody else made: Secret `cacerts`, under the names of Istio or those of a
    /// `kubernetes.io/tls` Secret.
    pub(super) fn plugged_in(data: &Data) -> anyhow::Result<Self> {
        let text = |names: &[&'static str]| text(data, names);
        let chain = text(&["ca-cert.pem", "tls.crt"])?;
        let key = text(&["ca-key.pem", "tls.key"])?;
        let roots = text(&["root-cert.pem", "ca.crt"])?;
        // `tls.crt` may be the chain itself.
        let mut certificates = split(&chain);
        ensure!(!certificates.is_empty(), "the authority's certificate is no PEM");
        let certificate = certificates.remove(0);
        let intermediates = match text(&["cert-chain.pem"]) {
            Ok(chain) => split(&chain).into_iter().filter(|it| *it != certificate).collect(),
            Err(_) => certificates,
        };
        let roots = split(&roots);
        ensure!(!roots.is_empty(), "the root is no PEM certificate");
        let is_root = |certificate: &String| roots.contains(certificate);
        let intermediates = intermediates.into_iter().filter(|it| !is_root(it)).collect::<String>();
        let signer = Signer { certificate, key };
        signer.check()?;
        Ok(Self { signer, intermediates, roots: roots.concat() })
    }

    /// What is appended to a certificate of this authority: the way up to a root, which is last.
    pub(super) fn chain(&self) -> Vec<String> {
        let mut chain = Vec::new();
        if !self.roots.contains(self.signer.certificate.trim()) {
            chain.push(self.signer.certificate.clone());
        }
        chain.extend(split(&self.intermediates));
        chain.extend(split(&self.roots));
        chain
    }

    /// The certificates that a server of this authority shows beside its own.
    pub(super) fn shown(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let is_root = self.roots.contains(self.signer.certificate.trim());
        let own = if is_root { "" } else { &*self.signer.certificate };
        certificates(&format!("{own}{}", self.intermediates))
    }

    pub(super) fn root_certificates(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        certificates(&self.roots)
    }
}

/// The first of these entries that is there, as text.
pub(super) fn text(data: &Data, names: &[&'static str]) -> anyhow::Result<String> {
    let found = names.iter().find_map(|name| data.get(*name)).filter(|it| !it.is_empty());
    let Some(bytes) = found else { bail!("it has no {}", names.join(" or ")) };
    String::from_utf8(bytes.clone()).with_context(|| format!("{} is no text", names.join(" or ")))
}

pub(super) fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .context("read a certificate")
}

/// When the first certificate of `pem` holds.
pub(super) fn validity(pem: &str) -> anyhow::Result<Validity> {
    let der = first(pem)?;
    let (_, parsed) = X509Certificate::from_der(&der).context("read the certificate")?;
    let time = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    };
    let validity = parsed.validity();
    Ok(Validity { not_before: time(validity.not_before), not_after: time(validity.not_after) })
}

fn first(pem: &str) -> anyhow::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).context("read a certificate")
}

/// The certificates of a text, each with the lines around it and nothing else.
pub(super) fn split(pem: &str) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    let mut rest = pem;
    while let Some(from) = rest.find(BEGIN) {
        let Some(length) = rest[from..].find(END) else { break };
        let to = from + length + END.len();
        found.push(format!("{}\n", rest[from..to].replace("\r\n", "\n")));
        rest = &rest[to..];
    }
    found
}
