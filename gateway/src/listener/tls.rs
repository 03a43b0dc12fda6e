//! Downstream TLS: reading the ClientHello, which chooses the filter chain, and the rest of the
//! handshake under that chain's configuration.

use std::{
    io,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::{
    AlertDescription, CertificateError, Error as TlsError, ServerConfig, ServerConnection,
    server::{Accepted, AcceptedAlert, Acceptor},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{StartHandshake, server::TlsStream};

use super::{filter_chain::Chain, overload::Overload};
use crate::{
    connection::{PeerIdentity, TlsInfo},
    io::Io,
    tls::{cipher_suite_name, version_name},
};

/// A ClientHello with post-quantum key shares has 2 KiB; nobody needs this much.
const MAX_HELLO_BYTES: usize = 16 * 1024;
/// Most have less than this.
const FIRST_READ_BYTES: usize = 2 * 1024;

/// A complete ClientHello.
pub(super) struct Hello {
    accepted: Accepted,
    /// As they came, for an upstream that does the handshake itself.
    pub(super) bytes: Vec<u8>,
    /// Lower case, without a trailing dot.
    pub(super) server_name: Option<Arc<str>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the handshake was not done within its deadline")]
    Timeout,
    #[error("the connection ended during the handshake")]
    Closed,
    #[error("the ClientHello is larger than {MAX_HELLO_BYTES} bytes")]
    HelloTooLarge,
    #[error("the filter chain cannot do handshakes: {0}")]
    Unavailable(Arc<str>),
    #[error("TLS")]
    Tls(#[source] TlsError),
    #[error("the client's certificate is not valid any more, or cannot be read")]
    PeerCertificate,
}

impl HandshakeError {
    /// A label of the metric: a closed set.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed by the client",
            Self::HelloTooLarge => "protocol error",
            Self::Unavailable(_) => "no certificate",
            Self::Tls(error) => tls_reason(error),
            Self::PeerCertificate => "client certificate invalid",
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
            Some(error) => Self::Tls(error.clone()),
            None => Self::Closed,
        }
    }
}

fn tls_reason(error: &TlsError) -> &'static str {
    match error {
        TlsError::NoCertificatesPresented => "no client certificate",
        TlsError::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "client certificate expired",
        TlsError::InvalidCertificate(CertificateError::Revoked) => "client certificate revoked",
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "client certificate of unknown issuer"
        }
        TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            "client certificate not accepted"
        }
        TlsError::InvalidCertificate(_) | TlsError::InvalidCertRevocationList(_) => {
            "client certificate invalid"
        }
        TlsError::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown,
        ) => "our certificate refused by the client",
        TlsError::AlertReceived(_) => "alert from the client",
        TlsError::PeerIncompatible(_) => "nothing in common",
        TlsError::NoApplicationProtocol => "no common application protocol",
        _ => "protocol error",
    }
}

impl Hello {
    /// Reads until the ClientHello is complete, however it is cut into records and packets.
    pub(super) async fn read(io: &mut Io) -> Result<Self, HandshakeError> {
        Self::read_on(io, Vec::with_capacity(FIRST_READ_BYTES)).await
    }

    /// The same, of a ClientHello that begins with `bytes`.
    pub(super) async fn read_on(io: &mut Io, mut bytes: Vec<u8>) -> Result<Self, HandshakeError> {
        let mut acceptor = Acceptor::default();
        let mut fed = 0;
        let mut needs_more = bytes.is_empty();
        loop {
            let start = fed;
            if bytes.len() >= MAX_HELLO_BYTES {
                return Err(HandshakeError::HelloTooLarge);
            }
            let room = MAX_HELLO_BYTES - bytes.len();
            if needs_more && (&mut *io).take(room as u64).read_buf(&mut bytes).await? == 0 {
                return Err(HandshakeError::Closed);
            }
            (needs_more, fed) = (true, bytes.len());
            let mut unread = &bytes[start..];
            while !unread.is_empty() {
                acceptor.read_tls(&mut unread)?;
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let server_name = accepted.client_hello().server_name().map(normalized);
                    return Ok(Self { accepted, bytes, server_name });
                }
                Err((error, alert)) => {
                    send_alert(io, alert).await;
                    return Err(HandshakeError::Tls(error));
                }
            }
        }
    }
}

/// What a ClientHello says about the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MeshOffer {
    /// Nothing: its TLS is the application's, or somebody else's.
    None,
    Bytes,
    Http,
}

impl Hello {
    /// The protocols of the mesh it offers (istio-compat 1.14).
    pub(super) fn mesh_offer(&self) -> MeshOffer {
        let mut offer = MeshOffer::None;
        for name in self.accepted.client_hello().alpn().into_iter().flatten() {
            match name {
                b"istio-http/1.0" | b"istio-http/1.1" | b"istio-h2" => return MeshOffer::Http,
                b"istio" | b"istio-peer-exchange" => offer = MeshOffer::Bytes,
                _ => {}
            }
        }
        offer
    }
}

fn normalized(server_name: &str) -> Arc<str> {
    let name = server_name.strip_suffix('.').unwrap_or(server_name);
    name.to_ascii_lowercase().into()
}

/// Tells a client that does not speak TLS, or not ours, before it is closed.
async fn send_alert(io: &mut Io, mut alert: AcceptedAlert) {
    let mut bytes = Vec::new();
    if alert.write_all(&mut bytes).is_ok() {
        // The client may be gone; there is nobody else to tell.
        let _ = io.write_all(&bytes).await;
    }
}

/// Does the rest of the handshake.
pub(super) async fn terminate(
    io: Io,
    hello: Hello,
    chain: &Chain,
    config: &Arc<ServerConfig>,
    overload: &Overload,
) -> Result<(Io, TlsInfo), HandshakeError> {
    let _room = overload.handshake().await;
    let accepted = hello.accepted;
    match io {
        Io::Tcp(io) => {
            let stream = handshake(io, accepted, config, overload).await?;
            let facts = facts(stream.get_ref().1, chain)?;
            Ok((Io::ServerTls(Box::new(stream)), facts))
        }
        Io::Unix(io) => {
            let stream = handshake(io, accepted, config, overload).await?;
            let facts = facts(stream.get_ref().1, chain)?;
            Ok((Io::UnixServerTls(Box::new(stream)), facts))
        }
        // Only sockets are accepted.
        Io::ServerTls(_)
        | Io::UnixServerTls(_)
        | Io::ClientTls(_)
        | Io::UnixClientTls(_)
        | Io::Tunnel(_)
        | Io::Replayed(_)
        | Io::Exchanged(_) => Err(HandshakeError::Closed),
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    accepted: Accepted,
    config: &Arc<ServerConfig>,
    overload: &Overload,
) -> Result<TlsStream<S>, HandshakeError> {
    let turn = overload.turn().await;
    // Key exchange and signature happen in this call; what follows mostly waits.
    let rest = StartHandshake::from_parts(accepted, io).into_stream(Arc::clone(config));
    drop(turn);
    Ok(rest.await?)
}

/// What the connection is from now on known by.
fn facts(connection: &ServerConnection, chain: &Chain) -> Result<TlsInfo, HandshakeError> {
    let peer = match connection.peer_certificates() {
        None => None,
        Some(chain) => {
            Some(PeerIdentity::from_chain(chain, now()).ok_or(HandshakeError::PeerCertificate)?)
        }
    };
    Ok(TlsInfo {
        version: connection.protocol_version().map_or("-", version_name),
        cipher_suite: connection
            .negotiated_cipher_suite()
            .map_or("-", |suite| cipher_suite_name(suite.suite())),
        alpn: connection.alpn_protocol().map(Arc::from),
        peer,
        local_uri: chain.local_uri.clone(),
    })
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
