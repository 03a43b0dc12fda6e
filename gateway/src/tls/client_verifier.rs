//! Which client certificates a server accepts: a chain to its CAs, not revoked, and where asked for
//! one of the names and one of the pinned keys or certificates.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use weir_config::model::listener::ClientValidation;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{LoadedSecret, file::sha256, peer::AlternativeNames, provider};

/// Webpki's verification of the chain, then ours of what the leaf says.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    accepted: ClientValidation,
}

impl ClientVerifier {
    /// `optional`: a client without a certificate is let in, one with a bad certificate is not.
    ///
    /// # Errors
    /// A message for the user where `bundle` cannot verify anybody.
    pub(super) fn new(
        accepted: &ClientValidation,
        bundle: &LoadedSecret,
        optional: bool,
    ) -> Result<Self, String> {
        let name = &accepted.trust_bundle;
        let roots = bundle.roots.as_ref().ok_or_else(|| match &bundle.problem {
            Some(problem) => format!("client CA `{name}`: {problem}"),
            None => format!("client CA `{name}` holds no CA certificate; add `ca.crt` or `cacert`"),
        })?;
        // What Istio has Envoy do: revocation of the leaf only, and an outdated list refuses all.
        let mut builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
                .with_crls(bundle.crls.iter().cloned())
                .only_check_end_entity_revocation()
                .enforce_revocation_expiration();
        if optional {
            builder = builder.allow_unauthenticated();
        }
        let chain = builder.build().map_err(|error| format!("client CA `{name}`: {error}"))?;
        Ok(Self { chain, accepted: accepted.clone() })
    }

    fn accepts_names(&self, names: &AlternativeNames<'_>) -> bool {
        let accepted = &self.accepted.subject_alt_names;
        accepted.is_empty() || accepted.iter().any(|name| names.contains(name))
    }

    fn accepts_pins(&self, der: &[u8], certificate: &X509Certificate<'_>) -> bool {
        let ClientValidation { spki_sha256, certificate_sha256, .. } = &self.accepted;
        (spki_sha256.is_empty() && certificate_sha256.is_empty())
            || (!spki_sha256.is_empty()
                && spki_sha256.contains(&sha256(certificate.public_key().raw)))
            || (!certificate_sha256.is_empty() && certificate_sha256.contains(&sha256(der)))
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        // A name that could be read in two ways is no name, whether or not one is asked for.
        let (_, certificate) = X509Certificate::from_der(end_entity)
            .map_err(|_malformed| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let names = AlternativeNames::of(&certificate)
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.accepts_names(&names) && self.accepts_pins(end_entity, &certificate) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
