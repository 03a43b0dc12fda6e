//! What the servers of this process show, and whom they believe.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use arc_swap::ArcSwapOption;
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::args::Arguments;

/// Columns of PEM (RFC 7468).
const COLUMNS: usize = 64;

/// How often certificates in files are looked at.
const RELOAD: Duration = Duration::from_secs(10);

/// A certificate with its key, and the authorities of clients.
#[derive(Debug)]
pub struct Credentials {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// Whose client certificates are accepted; may be empty.
    pub client_roots: Vec<CertificateDer<'static>>,
}

/// The TLS of the servers. Whoever issues certificates publishes them here; connections take what is
/// there when they come.
#[derive(Debug, Default)]
pub struct Serving {
    discovery: ArcSwapOption<ServerConfig>,
    webhook: ArcSwapOption<ServerConfig>,
    /// As PEM; empty until there are any.
    authorities: watch::Sender<String>,
}

impl Serving {
    /// For new connections.
    ///
    /// # Errors
    /// Certificate and key do not fit, or an authority is none.
    pub fn publish(&self, credentials: &Credentials) -> anyhow::Result<()> {
        let Credentials { chain, key, client_roots } = credentials;
        let builder = || ServerConfig::builder_with_protocol_versions(&[
            &rustls::version::TLS13,
            &rustls::version::TLS12,
        ]);
        let mut roots = RootCertStore::empty();
        for root in client_roots {
            roots.add(root.clone()).context("use an authority of clients")?;
        }
        let discovery = if roots.is_empty() {
            builder().with_no_client_auth()
        } else {
            // Who has no certificate yet shows a token.
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated();
            builder().with_client_cert_verifier(verifier.build().context("verify clients")?)
        };
        let mut discovery = discovery
            .with_single_cert(chain.clone(), key.clone_key())
            .context("use the certificate")?;
        discovery.alpn_protocols = vec![b"h2".to_vec()];
        let mut webhook = builder()
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key.clone_key())
            .context("use the certificate")?;
        webhook.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        self.discovery.store(Some(Arc::new(discovery)));
        self.webhook.store(Some(Arc::new(webhook)));
        let authorities: String = client_roots.iter().map(pem).collect();
        self.authorities.send_if_modified(|known| {
            let is_new = *known != authorities;
            *known = authorities;
            is_new
        });
        Ok(())
    }

    /// The authorities that also clients of these servers verify them with.
    #[must_use]
    pub fn watch_authorities(&self) -> watch::Receiver<String> {
        self.authorities.subscribe()
    }

    /// `None` until there is a certificate.
    #[must_use]
    pub fn discovery(&self) -> Option<Arc<ServerConfig>> {
        self.discovery.load_full()
    }

    /// `None` until there is a certificate.
    #[must_use]
    pub fn webhook(&self) -> Option<Arc<ServerConfig>> {
        self.webhook.load_full()
    }
}

/// Publishes the certificate of the files in `arguments`, and again whenever they change. Returns
/// whether any are named.
///
/// # Errors
/// They cannot be read or used.
pub fn from_files(arguments: &Arguments, serving: &Arc<Serving>) -> anyhow::Result<bool> {
    let (Some(certificate), Some(key)) = (&arguments.tls_cert_file, &arguments.tls_key_file) else {
        return Ok(false);
    };
    let files = [Some(certificate), Some(key), arguments.ca_cert_file.as_ref()];
    let files = files.map(|path| path.cloned());
    let contents = read(&files)?;
    serving.publish(&parse(&contents)?)?;
    let serving = Arc::clone(serving);
    tokio::spawn(async move {
        let mut current = contents;
        loop {
            tokio::time::sleep(RELOAD).await;
            let result = read(&files).and_then(|contents| {
                if contents != current {
                    serving.publish(&parse(&contents)?)?;
                    info!("the certificate of the servers was renewed");
                    current = contents;
                }
                Ok(())
            });
            if let Err(error) = result {
                warn!("the certificate of the servers stays as it was: {error:#}");
            }
        }
    });
    Ok(true)
}

fn pem(certificate: &CertificateDer<'static>) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(COLUMNS) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

type Files<T> = [Option<T>; 3];

fn read(files: &Files<impl AsRef<Path>>) -> anyhow::Result<Files<Vec<u8>>> {
    let mut contents = [None, None, None];
    for (content, path) in contents.iter_mut().zip(files) {
        let Some(path) = path else { continue };
        let path = path.as_ref();
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        *content = Some(bytes);
    }
    Ok(contents)
}

fn parse([certificate, key, roots]: &Files<Vec<u8>>) -> anyhow::Result<Credentials> {
    let certificates = |pem: &Option<Vec<u8>>| {
        CertificateDer::pem_slice_iter(pem.as_deref().unwrap_or_default())
            .collect::<Result<Vec<_>, _>>()
            .context("read a certificate")
    };
    Ok(Credentials {
        chain: certificates(certificate)?,
        key: PrivateKeyDer::from_pem_slice(key.as_deref().unwrap_or_default())
            .context("read the key of the certificate")?,
        client_roots: certificates(roots)?,
    })
}
