//! Who is calling: a client certificate of ours, or a service-account token.

use http::{HeaderMap, header::AUTHORIZATION};
use rustls_pki_types::CertificateDer;
use tonic::Status;
use tracing::warn;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use super::{Identity, identity::parse_spiffe};
use crate::review::Reviews;

/// The identity behind a request. A token goes before the certificate, as it is newer.
///
/// # Errors
/// There is none, or it cannot be found out now.
pub(super) async fn authenticate(
    headers: &HeaderMap,
    certificate: Option<&CertificateDer<'static>>,
    trust_domain: &str,
    reviews: &Reviews,
) -> Result<Identity, Status> {
    let Some(authorization) = headers.get(AUTHORIZATION) else {
        let identity = certificate.and_then(|certificate| of_certificate(certificate, trust_domain));
        return identity.ok_or_else(|| {
            Status::unauthenticated("no service-account token, and no certificate of this mesh")
        });
    };
    let token = authorization.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let token = token.ok_or_else(|| Status::unauthenticated("the authorization is no token"))?;
    match reviews.token(token).await {
        Ok(Some(account)) => Ok(Identity { account }),
        Ok(None) => Err(Status::unauthenticated("the token is not valid here")),
        Err(error) => {
            warn!("a token cannot be reviewed: {error:#}");
            Err(Status::unavailable("tokens cannot be reviewed"))
        }
    }
}

/// The identity in a certificate that was verified. More than one is none.
fn of_certificate(certificate: &CertificateDer<'_>, trust_domain: &str) -> Option<Identity> {
    let (_, certificate) =
        x509_parser::certificate::X509Certificate::from_der(certificate.as_ref()).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next()?;
    uris.next().is_none().then(|| parse_spiffe(uri, trust_domain))?
}
