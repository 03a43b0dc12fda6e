//! A client of HBONE, as ztunnel speaks it: CONNECT streams of HTTP/2 in mutual TLS.

use std::{net::TcpStream, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{Method, Request};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    certs::{Authority, Identity},
    eventually::DEADLINE,
};

/// A connection that takes any number of tunnels.
pub struct Hbone {
    send: SendRequest<Bytes>,
    _connection: AbortOnDropHandle<()>,
}

/// One tunnel, if `status` is 200.
pub struct Tunnel {
    pub status: u16,
    send: SendStream<Bytes>,
    receive: RecvStream,
}

impl Hbone {
    /// Over a connection to port 15008. The server may be anybody: it is who is tested.
    ///
    /// # Errors
    /// There is no connection, for example because the server refuses the identity.
    pub async fn new(
        stream: TcpStream,
        authority: &Authority,
        identity: Option<&Identity>,
    ) -> anyhow::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let mut config: ClientConfig = authority.client_config(identity, &["h2"]);
        config.dangerous().set_certificate_verifier(Arc::new(AnyServer));
        let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (send, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(async move {
            // Its streams tell of an error.
            let _ = connection.await;
        });
        // A server that refuses a certificate of TLS 1.3 says so after the handshake.
        let send = timeout(DEADLINE, send.ready()).await??;
        Ok(Self { send, _connection: AbortOnDropHandle::new(connection) })
    }

    /// Asks for a tunnel to `authority`.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn open(&self, authority: &str) -> anyhow::Result<Tunnel> {
        self.ask(Method::CONNECT, authority).await
    }

    /// The same with another method.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn ask(&self, method: Method, uri: &str) -> anyhow::Result<Tunnel> {
        let request = Request::builder().method(method).uri(uri);
        let request = request
            .header("baggage", "k8s.namespace.name=shop,k8s.deployment.name=client")
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .body(())?;
        let mut sender = self.send.clone().ready().await?;
        let (response, send) = sender.send_request(request, false)?;
        let response = timeout(DEADLINE, response).await.context("no answer")??;
        Ok(Tunnel { status: response.status().as_u16(), send, receive: response.into_body() })
    }
}

impl Tunnel {
    /// All that comes back for `bytes`, after which nothing more is said; `None`: it is broken off.
    pub async fn exchange(mut self, bytes: &[u8]) -> Option<String> {
        self.send.send_data(Bytes::copy_from_slice(bytes), true).ok()?;
        let mut all = BytesMut::new();
        let reading = async {
            while let Some(piece) = self.receive.data().await {
                let piece = piece.ok()?;
                self.receive.flow_control().release_capacity(piece.len()).ok()?;
                all.extend_from_slice(&piece);
            }
            Some(())
        };
        timeout(DEADLINE + Duration::from_secs(1), reading).await.ok()??;
        Some(String::from_utf8_lossy(&all).into_owned())
    }
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
