//! From PEM to keys and trust. What cannot be used is a sentence for the user, never an error that
//! stops anything else.

use std::{borrow::Cow, path::PathBuf, sync::Arc};

use rustls::{
    InconsistentKeys, RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use weir_config::model::{Secret, secret::SecretMaterial};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{LoadedSecret, Validity, file::FileStamps, provider};

/// PEM of one part of a secret: not given, there, or not readable.
type Part<'a> = Result<Option<Cow<'a, [u8]>>, String>;

struct Parts<'a> {
    certificate_chain: Part<'a>,
    private_key: Part<'a>,
    trust_bundle: Part<'a>,
    revocation_list: Part<'a>,
    ocsp_staple: Option<&'a [u8]>,
}

struct Identity {
    key: CertifiedKey,
    validity: Validity,
}

struct Trust {
    roots: RootCertStore,
    crls: Vec<CertificateRevocationListDer<'static>>,
}

/// Parses `secret`. Where its key pair or its trust is broken, that half of `last_good` stays.
pub(super) fn load(
    secret: &Secret,
    last_good: Option<&LoadedSecret>,
) -> (LoadedSecret, Option<FileStamps>) {
    let (parts, files) = read(&secret.material);
    let (identity, trust) = (identity(&parts), trust(&parts));

    let mut loaded = LoadedSecret::default();
    let mut problems = Vec::new();
    match identity {
        Ok(Some(Identity { key, validity })) => {
            loaded.key = Some(Arc::new(key));
            loaded.validity = Some(validity);
        }
        Ok(None) => {}
        Err(problem) => {
            problems.push(problem);
            loaded.key = last_good.and_then(|last| last.key.clone());
            loaded.validity = last_good.and_then(|last| last.validity);
        }
    }
    match trust {
        Ok(Some(Trust { roots, crls })) => {
            loaded.roots = Some(Arc::new(roots));
            loaded.crls = crls.into();
        }
        Ok(None) => {}
        // A broken revocation list takes the roots with it: without it, revoked clients would pass.
        Err(problem) => {
            problems.push(problem);
            loaded.roots = last_good.and_then(|last| last.roots.clone());
            loaded.crls = last_good.map(|last| Arc::clone(&last.crls)).unwrap_or_default();
        }
    }
    if problems.is_empty() && loaded.key.is_none() && loaded.roots.is_none() {
        problems.push(
            "it holds neither a certificate with its key nor CA certificates; a Secret has them \
             under `tls.crt`, `tls.key` and `ca.crt`, or `cert`, `key` and `cacert`"
                .to_owned(),
        );
    }
    loaded.problem = (!problems.is_empty()).then(|| problems.join("; "));
    (loaded, files)
}

/// The files `material` names.
pub(super) fn paths(material: &SecretMaterial) -> Vec<PathBuf> {
    match material {
        SecretMaterial::Inline { .. } => Vec::new(),
        SecretMaterial::Files { certificate_chain, private_key, trust_bundle, revocation_list } => {
            [certificate_chain, private_key, trust_bundle, revocation_list]
                .into_iter()
                .flatten()
                .map(|path| PathBuf::from(&**path))
                .collect()
        }
    }
}

fn read(material: &SecretMaterial) -> (Parts<'_>, Option<FileStamps>) {
    match material {
        SecretMaterial::Inline {
            certificate_chain,
            private_key,
            trust_bundle,
            revocation_list,
            ocsp_staple,
        } => {
            let inline =
                |part| Ok(Option::<&Arc<[u8]>>::map(part, |bytes| Cow::Borrowed(&**bytes)));
            let parts = Parts {
                certificate_chain: inline(certificate_chain.as_ref()),
                private_key: inline(private_key.as_ref()),
                trust_bundle: inline(trust_bundle.as_ref()),
                revocation_list: inline(revocation_list.as_ref()),
                ocsp_staple: ocsp_staple.as_deref(),
            };
            (parts, None)
        }
        SecretMaterial::Files { certificate_chain, private_key, trust_bundle, revocation_list } => {
            let mut stamps = FileStamps::default();
            let mut file = |path: &Option<Arc<str>>| match path {
                None => Ok(None),
                Some(path) => stamps
                    .read(path)
                    .map(|bytes| Some(Cow::Owned(bytes)))
                    .map_err(|error| format!("cannot read `{path}`: {error}")),
            };
            let parts = Parts {
                certificate_chain: file(certificate_chain),
                private_key: file(private_key),
                trust_bundle: file(trust_bundle),
                revocation_list: file(revocation_list),
                ocsp_staple: None,
            };
            (parts, Some(stamps))
        }
    }
}

fn identity(parts: &Parts<'_>) -> Result<Option<Identity>, String> {
    let (chain, key) = match (present(&parts.certificate_chain)?, present(&parts.private_key)?) {
        (None, None) => return Ok(None),
        (Some(_), None) => {
            return Err(
                "it has a certificate but no private key; add it as `tls.key` or `key`".to_owned()
            );
        }
        (None, Some(_)) => {
            return Err(
                "it has a private key but no certificate; add it as `tls.crt` or `cert`".to_owned()
            );
        }
        (Some(chain), Some(key)) => (chain, key),
    };
    let chain = certificates(chain, "certificate chain")?;
    let validity = check_chain(&chain)?;
    let key = private_key(key)?;
    let mut key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the private key does not belong to the first certificate of the chain; put the \
             server's own certificate first, or renew certificate and key together"
                .to_owned()
        }
        error => format!(
            "the private key cannot be used ({error}); use RSA of at least 2048 bits, ECDSA P-256, \
             P-384 or P-521, or Ed25519"
        ),
    })?;
    key.ocsp = parts.ocsp_staple.map(<[u8]>::to_vec);
    Ok(Some(Identity { key, validity }))
}

fn trust(parts: &Parts<'_>) -> Result<Option<Trust>, String> {
    let Some(bundle) = present(&parts.trust_bundle)? else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(bundle, "CA bundle")?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            format!("certificate {} of the CA bundle cannot be used: {error}", index + 1)
        })?;
    }
    let crls = match present(&parts.revocation_list)? {
        None => Vec::new(),
        Some(list) => CertificateRevocationListDer::pem_slice_iter(list)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad_pem("revocation list", &error))?,
    };
    if present(&parts.revocation_list)?.is_some() && crls.is_empty() {
        return Err("the revocation list has no `BEGIN X509 CRL` block".to_owned());
    }
    check_crls(&roots, &crls)?;
    Ok(Some(Trust { roots, crls }))
}

/// Blank counts as not given: cert-manager writes an empty `ca.crt` for public issuers.
fn present<'a>(part: &'a Part<'_>) -> Result<Option<&'a [u8]>, String> {
    match part {
        Ok(bytes) => Ok(bytes.as_deref().filter(|bytes| !bytes.trim_ascii().is_empty())),
        Err(problem) => Err(problem.clone()),
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad_pem(what, &error))?;
    if certificates.is_empty() {
        return Err(format!("the {what} has no `BEGIN CERTIFICATE` block; it has to be PEM"));
    }
    Ok(certificates)
}

/// Every certificate of a chain has to be one; the leaf's dates are kept.
fn check_chain(chain: &[CertificateDer<'_>]) -> Result<Validity, String> {
    let mut leaf = None;
    for (index, certificate) in chain.iter().enumerate() {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| {
            format!("certificate {} of the chain is not an X.509 certificate: {error}", index + 1)
        })?;
        leaf.get_or_insert_with(|| Validity {
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        });
    }
    leaf.ok_or_else(|| "the certificate chain is empty".to_owned())
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound if memchr::memmem::find(pem, b"ENCRYPTED").is_some() => {
            "the private key is encrypted; store it without a passphrase (`openssl pkey -in ... \
             -out ...`)"
                .to_owned()
        }
        pem::Error::NoItemsFound => {
            "the private key has no `BEGIN PRIVATE KEY`, `BEGIN RSA PRIVATE KEY` or `BEGIN EC \
             PRIVATE KEY` block; it has to be PEM"
                .to_owned()
        }
        error => bad_pem("private key", &error),
    })
}

/// Revocation lists are parsed by the verifier that uses them; that it can is found out here.
fn check_crls(
    roots: &RootCertStore,
    crls: &[CertificateRevocationListDer<'static>],
) -> Result<(), String> {
    if crls.is_empty() {
        return Ok(());
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider())
        .with_crls(crls.iter().cloned())
        .build()
        .map(drop)
        .map_err(|error| format!("the revocation list cannot be used: {error}"))
}

/// The parser's own text may quote the input, which may be a key.
fn bad_pem(what: &str, error: &pem::Error) -> String {
    let reason = match error {
        pem::Error::MissingSectionEnd { .. } => "a block has no END line",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "a block is not base64",
        pem::Error::NoItemsFound => "no block was found",
        _ => "it cannot be read",
    };
    format!("the {what} is not well-formed PEM: {reason}")
}
