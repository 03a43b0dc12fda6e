//! Asking for a certificate.

use http::uri::PathAndQuery;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use weir_config::wire::certificate::{
    CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse,
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::{Options, material, usable};
use crate::{control_plane, tls::Workload};

/// What is asked for: Istio's default. The authority may give less.
const LIFETIME_SECONDS: i64 = 24 * 60 * 60;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    NotConnected(#[from] control_plane::Error),
    #[error("make a key and a request for {identity}")]
    Request {
        identity: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("the authority does not sign for {identity} ({code:?}): {message}")]
    Refused { identity: String, code: Code, message: String },
    #[error("what the authority answered cannot be used: {0}")]
    Unusable(String),
}

/// A new key, and the certificate for it.
pub(super) async fn request(options: &Options) -> Result<Workload, Error> {
    let Options { authority, identity, agent: _, files: _, kept_in: _ } = options;
    let failed = |source| Error::Request { identity: identity.clone(), source };
    let key = KeyPair::generate().map_err(failed)?;
    let csr = signing_request(identity, &key).map_err(failed)?;
    let mut grpc = authority.connect().await?;
    let request =
        IstioCertificateRequest { csr, validity_duration: LIFETIME_SECONDS, metadata: None };
    let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
    let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
    let answer = grpc.unary(Request::new(request), path, codec).await;
    let answer = answer.map_err(|status| Error::Refused {
        identity: identity.clone(),
        code: status.code(),
        message: status.message().to_owned(),
    })?;
    workload(answer.into_inner(), identity, &key)
}

fn signing_request(identity: &str, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    params.serialize_request(key)?.pem()
}

/// Checks that it is what was asked for before anybody sees it.
pub(super) fn workload(
    answer: IstioCertificateResponse,
    identity: &str,
    key: &KeyPair,
) -> Result<Workload, Error> {
    let [chain @ .., root] = answer.cert_chain.as_slice() else {
        return Err(Error::Unusable("it has no certificate".to_owned()));
    };
    let pem = |text: String| Some(text.into_bytes().into());
    let workload = usable(material(
        pem(chain.concat()),
        pem(key.serialize_pem()),
        // Several roots may be the last of the chain: what is its own issuer is one.
        pem(roots(chain, root)),
    ));
    let workload = workload.map_err(Error::Unusable)?;
    is_for(&workload, identity).map_err(Error::Unusable)?;
    Ok(workload)
}

/// Checks whose certificate it is.
pub(super) fn is_for(workload: &Workload, identity: &str) -> Result<(), String> {
    let leaf = workload.key.cert.first();
    let named = leaf.and_then(uri_of).unwrap_or_else(|| "nobody".to_owned());
    if named == identity {
        return Ok(());
    }
    Err(format!("it is for {named}, not for {identity}"))
}

/// The last certificate, and those before it that are roots too: while the root is rotated, there
/// are two.
fn roots(chain: &[String], last: &str) -> String {
    let is_root = |pem: &&String| {
        let der = <CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(
            pem.as_bytes(),
        );
        der.is_ok_and(|der| {
            X509Certificate::from_der(&der).is_ok_and(|(_, certificate)| {
                certificate.is_ca() && certificate.subject() == certificate.issuer()
            })
        })
    };
    let more: String = chain.iter().filter(is_root).map(String::as_str).collect();
    format!("{more}{last}")
}

fn uri_of(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}
