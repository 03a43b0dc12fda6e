//! Who an upstream may be, where that is not simply the host asked for.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::error::TlsFailure;
use crate::tls::provider;

/// Verifies that the peer has the key of its certificate, and of that what is wanted.
#[derive(Debug)]
pub(super) struct IdentityVerifier {
    /// `None`: any will do (`insecureSkipVerify`).
    wanted: Option<Wanted>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The chain as usual, but instead of the host the certificate has to carry one of the configured names
/// (`subjectAltNames`).
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) webpki: Arc<WebPkiServerVerifier>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) has_crls: bool,
    pub(super) names: Names,
}

/// Who is meant.
#[derive(Debug)]
pub(super) enum Names {
    OneOf(Vec<Identity>),
    /// Whoever has an identity (SPIFFE) that the roots vouch for.
    AnyWorkload,
}

#[derive(Debug)]
pub(super) enum Identity {
    /// Compared byte by byte.
    Uri(Arc<str>),
    /// A DNS name, which a wildcard of the certificate may cover, or an address.
    Host(ServerName<'static>),
}

impl Names {
    pub(super) fn of(names: &[Arc<str>]) -> Self {
        let identity = |name: &Arc<str>| {
            if name.contains("://") {
                return Some(Identity::Uri(Arc::clone(name)));
            }
            // Anything else no certificate can carry: it matches none.
            ServerName::try_from(&**name).ok().map(|name| Identity::Host(name.to_owned()))
        };
        Self::OneOf(names.iter().filter_map(identity).collect())
    }
}

impl IdentityVerifier {
    pub(super) fn new(wanted: Option<Wanted>) -> Self {
        Self { wanted, algorithms: provider().signature_verification_algorithms }
    }
}

impl Wanted {
    fn carries_a_name(&self, leaf: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> bool {
        let uri = single_uri(leaf);
        let names = match &self.names {
            Names::OneOf(names) => names,
            Names::AnyWorkload => return uri.is_some_and(|uri| uri.starts_with("spiffe://")),
        };
        names.iter().any(|name| match name {
            Identity::Uri(wanted) => uri.as_deref() == Some(&**wanted),
            Identity::Host(wanted) => verify_server_name(parsed, wanted).is_ok(),
        })
    }
}

/// The certificate's URI name. More than one is no identity at all (SPIFFE X509-SVID section 2).
fn single_uri(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next()?;
    uris.next().is_none().then(|| uri.to_owned())
}

/// Whether a verified chain is of one workload of the mesh and no other.
pub(super) fn is_workload(chain: &[CertificateDer<'_>], principal: &str) -> Result<(), TlsFailure> {
    let uri = chain.first().and_then(single_uri);
    let is_same = uri.as_deref().and_then(|uri| uri.strip_prefix("spiffe://")) == Some(principal);
    if is_same { Ok(()) } else { Err(TlsFailure::Identity) }
}

impl ServerCertVerifier for IdentityVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(wanted) = &self.wanted else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &wanted.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        if wanted.has_crls {
            // rustls checks revocation only together with the host, which it looks at last: a wrong
            // host means that everything before was in order. The chain does not depend on that.
            let checked = wanted.webpki.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
            match checked {
                Ok(_)
                | Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )) => {}
                Err(error) => return Err(error),
            }
        }
        if !wanted.carries_a_name(end_entity, &parsed) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
