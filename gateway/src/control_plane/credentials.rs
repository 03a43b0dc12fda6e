//! What a connection to the controller is opened with. Read anew for each, so that what was rotated
//! meanwhile is used.

use std::{fs, io, sync::Arc};

use http::HeaderValue;
use rustls::{
    ClientConfig, RootCertStore,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{ControlPlane, Error};
use crate::tls::provider;

pub(super) struct Credentials {
    pub(super) tls: Arc<ClientConfig>,
    pub(super) authorization: Option<HeaderValue>,
}

impl Credentials {
    /// The token if there is one, else the certificate: a token is issued again by Kubernetes alone,
    /// so it is good even where the certificate's authority is no longer trusted.
    pub(super) fn read(control_plane: &ControlPlane) -> Result<Self, Error> {
        let roots = roots(control_plane)?;
        let (authorization, certificate) = match token(control_plane) {
            Ok(authorization) => (Some(authorization), None),
            Err(Error::NoCredential { path, source }) => {
                let workload = control_plane.workload.borrow();
                let certificate = workload.as_ref().map(|workload| Arc::clone(&workload.key));
                let missing = Error::NoCredential { path, source };
                (None, Some(certificate.ok_or(missing)?))
            }
            Err(error) => return Err(error),
        };
        let tls = client_config(roots, certificate).map_err(Error::Certificate)?;
        Ok(Self { tls: Arc::new(tls), authorization })
    }
}

fn roots(control_plane: &ControlPlane) -> Result<RootCertStore, Error> {
    let path = &control_plane.root;
    let pem = fs::read(path).map_err(|source| Error::Roots { path: path.clone(), source })?;
    let mut roots = RootCertStore::empty();
    // One of several roots that cannot be used must not shut out the others.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(Error::NoRoots { path: path.clone() });
    }
    Ok(roots)
}

fn token(control_plane: &ControlPlane) -> Result<HeaderValue, Error> {
    let path = &control_plane.token;
    let missing = |source| Error::NoCredential { path: path.clone(), source };
    let token = fs::read_to_string(path).map_err(missing)?;
    let token = token.trim();
    if token.is_empty() {
        return Err(missing(io::Error::other("the file is empty")));
    }
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_invalid| Error::Token { path: path.clone() })?;
    header.set_sensitive(true);
    Ok(header)
}

fn client_config(
    roots: RootCertStore,
    certificate: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match certificate {
        Some(key) => {
            let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(key));
            builder.with_client_cert_resolver(resolver)
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
