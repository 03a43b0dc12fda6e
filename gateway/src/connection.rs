//! What is known of a downstream connection before its first request.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use weir_config::model::{ListenerName, cluster::Workload};

/// On which side of a proxy its own workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// It has none.
    #[default]
    Gateway,
    /// A sidecar's workload is who is asked.
    Inbound,
    /// A sidecar's workload is who asks.
    Outbound,
}

/// Facts of one accepted connection; shared by all its exchanges, never changed.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The socket's peer. For Unix sockets an unspecified address.
    pub peer_addr: SocketAddr,
    /// Where the connection was accepted; where it was going, if it was redirected.
    pub local_addr: SocketAddr,
    pub direction: Direction,
    pub listener: ListenerName,
    /// The number of the Gateway's server port, or of the one the connection was going to, which
    /// `match.port` and authorization see.
    pub port: u16,
    /// The ClientHello's server name, lower case, without a trailing dot; also where TLS is passed
    /// through.
    pub server_name: Option<Arc<str>>,
    /// `None`: the connection is not TLS, or its TLS is passed through. Boxed, so that the
    /// others do not hold the room for it.
    pub tls: Option<Box<TlsInfo>>,
    /// Of an inbound connection: the client's address, where it came without a change of that (TPROXY)
    /// and the workload is to see it.
    pub transparent_source: Option<IpAddr>,
    pub peer: Peer,
}

/// What metrics call the client of an inbound connection. Nothing is decided by it.
#[derive(Debug, Default)]
pub struct Peer {
    /// As far as its certificate says; `None`: it has none of the mesh.
    pub identified: Option<Arc<Workload>>,
    /// As it says itself, which it does once: before the first byte, or with its first request.
    pub described: OnceLock<DescribedPeer>,
}

/// A client that said what workload it is.
#[derive(Debug)]
pub struct DescribedPeer {
    pub workload: Arc<Workload>,
    /// It counts on being told the same of us.
    pub wants_answer: bool,
}

impl ConnectionInfo {
    /// Where the client was connecting to, if that was not us.
    #[must_use]
    pub fn original_dst(&self) -> Option<SocketAddr> {
        (self.direction != Direction::Gateway).then_some(self.local_addr)
    }

    /// `https` where we terminated TLS.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Whom the client found by our certificate.
    #[must_use]
    pub fn local_uri(&self) -> Option<&str> {
        self.tls.as_ref().and_then(|tls| tls.local_uri.as_deref())
    }

    /// The client as metrics know it.
    #[must_use]
    pub fn peer_workload(&self) -> Option<&Arc<Workload>> {
        let described = self.peer.described.get().map(|described| &described.workload);
        described.or(self.peer.identified.as_ref())
    }

    #[must_use]
    pub fn peer_identity(&self) -> Option<&PeerIdentity> {
        self.tls.as_ref().and_then(|tls| tls.peer.as_ref())
    }
}

/// Facts of a finished handshake.
#[derive(Debug, Clone)]
pub struct TlsInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// OpenSSL's name of the suite.
    pub cipher_suite: &'static str,
    pub alpn: Option<Arc<[u8]>>,
    /// `None`: the client showed no certificate.
    pub peer: Option<PeerIdentity>,
    /// The URI in the certificate that clients were shown: our SPIFFE ID, in the mesh.
    pub local_uri: Option<Arc<str>>,
}

/// A client certificate that was verified. There is no value of this type for one that was not.
#[derive(Debug, Clone)]
pub struct PeerIdentity {
    /// RFC 2253 form, for `x-forwarded-client-cert`.
    pub subject: Arc<str>,
    pub uri_sans: Arc<[Arc<str>]>,
    pub dns_sans: Arc<[Arc<str>]>,
    /// SHA-256 of the DER certificate, lower-case hex.
    pub fingerprint: Arc<str>,
    /// The chain as sent, leaf first, DER.
    pub chain: Arc<[rustls::pki_types::CertificateDer<'static>]>,
}

impl PeerIdentity {
    /// `trust-domain/ns/namespace/sa/account` when the certificate carries exactly one SPIFFE ID.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        match &*self.uri_sans {
            [uri] => uri.strip_prefix("spiffe://"),
            _ => None,
        }
    }
}
