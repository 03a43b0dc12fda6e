//! TLS towards upstreams: one `rustls::ClientConfig` per cluster and wire protocol, so that keys are
//! parsed once, sessions are resumed, and neither crosses from one trust configuration to another. It is
//! made for the first handshake: a sidecar knows ten thousand clusters, and its workload calls a few.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, LazyLock, OnceLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::ServerName,
    sign::SingleCertAndKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weir_config::model::{
    SecretName,
    cluster::{UpstreamTls, UpstreamTrust},
};

use super::{
    Protocol,
    error::TlsFailure,
    verify::{IdentityVerifier, Names, Wanted},
};
use crate::tls::{LoadedSecret, Secrets, provider};

/// rustls's own number: what it keeps room for, of which a server has eight.
const SESSIONS: usize = 256;
/// Of a context whose every connection names the same server.
const SESSIONS_OF_ONE: usize = 8;

/// Everything a handshake with a cluster's endpoints needs. Two contexts never share connections or
/// sessions.
pub struct TlsContext {
    tls: UpstreamTls,
    protocol: Protocol,
    config: OnceLock<Result<Arc<ClientConfig>, TlsFailure>>,
    /// From configuration; `None`: the request's host.
    server_name: Option<ServerName<'static>>,
    /// Known before the first handshake.
    failure: Option<TlsFailure>,
    /// HTTP/2 is spoken only where it was negotiated (RFC 9113 section 3.3).
    requires_h2: bool,
    /// Who answers has to be of the mesh.
    is_mesh: bool,
    /// What it was built from, to see when that has changed.
    secrets: Vec<(SecretName, Option<Arc<LoadedSecret>>)>,
}

impl fmt::Debug for TlsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsContext")
            .field("server_name", &self.server_name)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl TlsContext {
    /// A context that cannot be built is one whose every handshake fails with the reason, so that
    /// the rest of the configuration is not held up.
    #[must_use]
    pub fn new(tls: &UpstreamTls, protocol: Protocol, secrets: &Secrets) -> Self {
        let used = |name: &SecretName| (name.clone(), secrets.find(name).cloned());
        let is_mesh = matches!(tls.trust, UpstreamTrust::Mesh { .. });
        let secrets: Vec<_> =
            tls.certificate.iter().chain(trust_bundle(&tls.trust)).map(used).collect();
        let (server_name, failure) = match tls.sni.as_deref().map(parse_server_name).transpose() {
            Ok(server_name) => (server_name, problem(tls, &secrets)),
            Err(failure) => (None, Some(failure)),
        };
        Self {
            tls: tls.clone(),
            protocol,
            config: OnceLock::new(),
            server_name,
            failure,
            // Sidecars know by our names for protocols what is spoken, and may select none of them.
            requires_h2: protocol == Protocol::Http2 && (!is_mesh || !tls.alpn.is_empty()),
            is_mesh,
            secrets,
        }
    }

    /// Whether building it again from `secrets` would give the same.
    #[must_use]
    pub fn is_current(&self, secrets: &Secrets) -> bool {
        self.secrets.iter().all(|(name, used)| match (used, secrets.find(name)) {
            (Some(used), Some(now)) => Arc::ptr_eq(used, now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        })
    }

    /// Whether connections belong to the host they were made for.
    #[must_use]
    pub fn is_per_host(&self) -> bool {
        self.server_name.is_none()
    }

    /// Whether whoever is connected to is verified to be of the mesh.
    #[must_use]
    pub fn is_mesh(&self) -> bool {
        self.is_mesh
    }

    /// Why no handshake can succeed with this context.
    #[must_use]
    pub fn failure(&self) -> Option<TlsFailure> {
        self.failure
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TlsFailure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let make = || client_config(&self.tls, self.protocol, &self.secrets).map(Arc::new);
        self.config.get_or_init(make).clone()
    }

    /// The handshake. `host` is the request's, with or without port; without one the address stands
    /// in: nothing is indicated, and the certificate has to be for the address. A Unix socket has
    /// none, so it needs a name. Generic because both kinds of sockets are as good.
    pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: S,
        host: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<TlsStream<S>, TlsFailure> {
        let config = self.config()?;
        let server_name = match (&self.server_name, host) {
            (Some(name), _) => name.clone(),
            (None, Some(host)) => parse_server_name(without_port(host))?,
            (None, None) => ServerName::IpAddress(address.ok_or(TlsFailure::ServerName)?.into()),
        };
        let stream = TlsConnector::from(config)
            .connect(server_name, io)
            .await
            .map_err(|error| TlsFailure::from_handshake(&error))?;
        if self.requires_h2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(TlsFailure::Alpn);
        }
        Ok(stream)
    }
}

/// What a context was built from.
type Used = [(SecretName, Option<Arc<LoadedSecret>>)];

fn find<'a>(used: &'a Used, name: &SecretName) -> Result<&'a Arc<LoadedSecret>, TlsFailure> {
    let found = used.iter().find(|(known, _)| known == name);
    found.and_then(|(_, secret)| secret.as_ref()).ok_or(TlsFailure::Secret)
}

fn trust_bundle(trust: &UpstreamTrust) -> Option<&SecretName> {
    match trust {
        UpstreamTrust::Verify { trust_bundle, .. } => trust_bundle.as_ref(),
        UpstreamTrust::Mesh { trust_bundle, .. } => Some(trust_bundle),
        UpstreamTrust::Insecure => None,
    }
}

/// Why no handshake can succeed with these secrets.
fn problem(tls: &UpstreamTls, used: &Used) -> Option<TlsFailure> {
    let key = tls
        .certificate
        .iter()
        .map(|name| find(used, name)?.key.as_ref().map(drop).ok_or(TlsFailure::Secret));
    let roots = trust_bundle(&tls.trust).into_iter().map(|name| {
        let roots = find(used, name)?.roots.as_ref().ok_or(TlsFailure::Secret)?;
        if roots.is_empty() { Err(TlsFailure::NoRoots) } else { Ok(()) }
    });
    key.chain(roots).find_map(Result::err)
}

fn client_config(
    tls: &UpstreamTls,
    protocol: Protocol,
    secrets: &Used,
) -> Result<ClientConfig, TlsFailure> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|_no_version| TlsFailure::Protocol)?
        .dangerous()
        .with_custom_certificate_verifier(verifier(&tls.trust, secrets)?);
    let mut config = match &tls.certificate {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = find(secrets, name)?.key.clone().ok_or(TlsFailure::Secret)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
    };
    config.alpn_protocols = alpn(tls, protocol);
    let sessions = if tls.sni.is_some() { SESSIONS_OF_ONE } else { SESSIONS };
    config.resumption = Resumption::in_memory_sessions(sessions);
    Ok(config)
}

fn verifier(
    trust: &UpstreamTrust,
    secrets: &Used,
) -> Result<Arc<dyn ServerCertVerifier>, TlsFailure> {
    let (trust_bundle, names) = match trust {
        UpstreamTrust::Verify { trust_bundle, subject_alt_names } => {
            (trust_bundle.as_ref(), subject_alt_names)
        }
        UpstreamTrust::Mesh { trust_bundle, identities } => (Some(trust_bundle), identities),
        UpstreamTrust::Insecure => return Ok(Arc::new(IdentityVerifier::new(None))),
    };
    let (roots, crls) = match trust_bundle {
        None => (Arc::clone(&OS_ROOTS), Arc::default()),
        Some(name) => {
            let secret = find(secrets, name)?;
            let roots = secret.roots.clone().ok_or(TlsFailure::Secret)?;
            (roots, Arc::clone(&secret.crls))
        }
    };
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider())
        .with_crls(crls.iter().cloned())
        .only_check_end_entity_revocation()
        .build()
        .map_err(|_no_anchor| TlsFailure::NoRoots)?;
    let names = match trust {
        UpstreamTrust::Mesh { .. } if names.is_empty() => Names::AnyWorkload,
        UpstreamTrust::Verify { .. } if names.is_empty() => return Ok(webpki),
        _ => Names::of(names),
    };
    let wanted = Wanted { webpki, roots, has_crls: !crls.is_empty(), names };
    Ok(Arc::new(IdentityVerifier::new(Some(wanted))))
}

/// What is offered: of the configured protocols those that fit what will be spoken.
fn alpn(tls: &UpstreamTls, protocol: Protocol) -> Vec<Vec<u8>> {
    if matches!(tls.trust, UpstreamTrust::Mesh { .. }) && tls.alpn.is_empty() {
        let offers: &[&str] = match protocol {
            Protocol::Http1 => &["istio-http/1.1", "istio", "http/1.1"],
            Protocol::Http2 => &["istio-h2", "istio", "h2"],
            // The first stands for a message of both sides before the first byte.
            Protocol::Tcp => &["istio-peer-exchange", "istio"],
        };
        return offers.iter().map(|offer| offer.as_bytes().to_vec()).collect();
    }
    let fits = |offer: &&Arc<str>| match protocol {
        Protocol::Http1 => &***offer != "h2",
        Protocol::Http2 => &***offer == "h2",
        Protocol::Tcp => true,
    };
    let mut offers: Vec<Vec<u8>> =
        tls.alpn.iter().filter(fits).map(|offer| offer.as_bytes().to_vec()).collect();
    if offers.is_empty() && protocol == Protocol::Http2 {
        offers.push(b"h2".to_vec());
    }
    offers
}

/// Read once: they are hundreds of files on some systems, and a cluster more should not cost that.
static OS_ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "cannot read a certificate of the operating system's roots");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    Arc::new(roots)
});

fn parse_server_name(host: &str) -> Result<ServerName<'static>, TlsFailure> {
    // A trailing dot is legal in a host but not in a server name (RFC 6066 section 3).
    let host = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(host)
        .map(|name| name.to_owned())
        .map_err(|_invalid| TlsFailure::ServerName)
}

/// `host:port`, `[v6]:port` and bare forms of both.
pub(super) fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(authority, |(address, _)| address);
    }
    match authority.rsplit_once(':') {
        // More than one colon is an address of version 6 without brackets.
        Some((host, _)) if !host.contains(':') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_has_no_port() {
        for (authority, host) in [
            ("a.example", "a.example"),
            ("a.example:8443", "a.example"),
            ("10.0.0.1:443", "10.0.0.1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(without_port(authority), host, "{authority}");
        }
    }

    #[test]
    fn only_protocols_that_will_be_spoken_are_offered() {
        let tls = UpstreamTls {
            sni: None,
            certificate: None,
            trust: UpstreamTrust::Insecure,
            alpn: ["h2".into(), "http/1.1".into()].into(),
        };
        assert_eq!(alpn(&tls, Protocol::Http1), [b"http/1.1".to_vec()]);
        assert_eq!(alpn(&tls, Protocol::Http2), [b"h2".to_vec()]);
        let silent = UpstreamTls { alpn: Arc::default(), ..tls };
        assert_eq!(alpn(&silent, Protocol::Http1), Vec::<Vec<u8>>::new());
        assert_eq!(alpn(&silent, Protocol::Http2), [b"h2".to_vec()]);
    }
}
