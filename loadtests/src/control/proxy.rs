//! A proxy that does nothing but follow the controller: it takes every push and answers it.
//!
//! Written on h2 itself: a thousand of them share a processor with what is measured.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::ResponseFuture};
use http::HeaderMap;
use prost::Message;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Map, Value};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weir_config::wire::{
    certificate::{CREATE_CERTIFICATE, IstioCertificateRequest},
    discovery::{
        DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource,
        WHOLE_PUSHES,
    },
    resource::{OBJECT_TYPE, SYNC_TYPE, TYPES},
};

use super::{objects::LABEL, process::Controller};

/// Bytes the controller may be ahead.
const WINDOW: u32 = 1 << 20;
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// How a controller is reached.
#[derive(Clone)]
pub struct Access {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    origin: String,
}

/// A connected proxy.
pub struct Proxy {
    requests: SendStream<Bytes>,
    responses: RecvStream,
    input: BytesMut,
}

/// A push that was taken.
#[derive(Debug, Default)]
pub struct Push {
    /// Objects in it.
    pub objects: usize,
    /// The last of them: name and version.
    pub last: Option<(String, String)>,
}

impl Access {
    pub fn new(controller: &Controller, root: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(root.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            address: controller.discovery,
            name: ServerName::try_from(controller.name.clone())?,
            tls: Arc::new(tls),
            origin: format!("https://{}", controller.name),
        })
    }

    /// Has a certificate signed; whether the controller could be asked at all.
    ///
    /// # Errors
    /// It refuses.
    pub async fn certificate(
        &self,
        token: &str,
        request: &str,
        lifetime: Duration,
    ) -> anyhow::Result<bool> {
        let request = IstioCertificateRequest {
            csr: request.to_owned(),
            validity_duration: i64::try_from(lifetime.as_secs())?,
            metadata: None,
        };
        match self.signed(token, &request).await {
            Ok(trailers) => refused(&trailers).map(|()| true),
            Err(_unreachable) => Ok(false),
        }
    }

    /// What the answer says of itself at its end.
    async fn signed(
        &self,
        token: &str,
        request: &IstioCertificateRequest,
    ) -> anyhow::Result<HeaderMap> {
        let (response, mut requests) = self.call(CREATE_CERTIFICATE, token).await?;
        requests.send_data(framed(request), true)?;
        let response = response.await?;
        if response.headers().contains_key("grpc-status") {
            return Ok(response.headers().clone());
        }
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data?.len())?;
        }
        body.trailers().await?.context("an answer ends with trailers")
    }

    /// Opens a connection and calls a method on it.
    async fn call(
        &self,
        method: &str,
        token: &str,
    ) -> anyhow::Result<(ResponseFuture, SendStream<Bytes>)> {
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let stream = tls.connect(self.name.clone(), socket).await?;
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(stream)
            .await?;
        // Ends with the last handle of the connection.
        tokio::task::spawn_local(connection);
        let request = http::Request::post(format!("{}{method}", self.origin))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {token}"))
            .body(())?;
        Ok(client.ready().await?.send_request(request, false)?)
    }
}

impl Proxy {
    /// Connects with a token and subscribes to everything.
    pub async fn connect(access: &Access, token: &str) -> anyhow::Result<Self> {
        let (response, mut requests) = access.call(DELTA_AGGREGATED_RESOURCES, token).await?;
        for (index, type_url) in TYPES.iter().enumerate() {
            let request = DeltaDiscoveryRequest {
                node: (index == 0).then(node),
                type_url: (*type_url).to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send_data(framed(&request), false)?;
        }
        let response = response.await?;
        refused(response.headers())?;
        Ok(Self { requests, responses: response.into_body(), input: BytesMut::new() })
    }

    /// Takes the next push, and says that all of it is applied.
    pub async fn push(&mut self) -> anyhow::Result<Push> {
        let mut push = Push::default();
        let mut answers = Vec::new();
        loop {
            let response = self.response().await?;
            let is_last = response.type_url == SYNC_TYPE;
            for resource in response.resources {
                if type_of(&resource) == Some(OBJECT_TYPE) {
                    push.objects += 1;
                    push.last = Some((resource.name, resource.version));
                }
            }
            answers.push(DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            });
            if is_last {
                break;
            }
        }
        for answer in answers {
            self.requests.send_data(framed(&answer), false)?;
        }
        Ok(push)
    }

    async fn response(&mut self) -> anyhow::Result<DeltaDiscoveryResponse> {
        loop {
            if let Some(message) = message(&mut self.input) {
                return Ok(DeltaDiscoveryResponse::decode(message)?);
            }
            let Some(data) = self.responses.data().await else {
                let trailers = self.responses.trailers().await?.unwrap_or_default();
                refused(&trailers)?;
                bail!("the controller ended the stream");
            };
            let data = data?;
            self.responses.flow_control().release_capacity(data.len())?;
            self.input.extend_from_slice(&data);
        }
    }
}

fn type_of(resource: &Resource) -> Option<&str> {
    resource.resource.as_ref().map(|body| &*body.type_url)
}

/// Takes a message off the input, if it is there completely.
fn message(input: &mut BytesMut) -> Option<Bytes> {
    let prefix = input.get(..PREFIX)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if input.len() < PREFIX + length {
        return None;
    }
    input.advance(PREFIX);
    Some(input.split_to(length).freeze())
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("what a proxy says is short"));
    message.encode(&mut frame).expect("a buffer grows");
    frame.freeze()
}

/// Fails with what gRPC's trailers say is wrong.
fn refused(headers: &HeaderMap) -> anyhow::Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").unwrap_or("0");
    let message = text("grpc-message").unwrap_or_default();
    ensure!(code == "0", "the controller refuses with status {code}: {message}");
    Ok(())
}

fn node() -> Node {
    let (label, value) = LABEL;
    let labels = Map::from_iter([(label.to_owned(), Value::from(value))]);
    let metadata = Map::from_iter([("LABELS".to_owned(), Value::Object(labels))]);
    let (id, metadata) = ("router~127.0.0.1~swarm.test~test.svc.cluster.local", metadata.into());
    let client_features = vec![WHOLE_PUSHES.to_owned()];
    Node { id: id.to_owned(), metadata: Some(metadata), client_features, ..Node::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_one_by_one_whatever_the_pieces() {
        let request = |nonce: &str| DeltaDiscoveryRequest {
            response_nonce: nonce.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        let sent = [framed(&request("first")), framed(&request("second"))].concat();
        let (mut input, mut taken) = (BytesMut::new(), Vec::new());
        for byte in sent {
            input.put_u8(byte);
            if let Some(message) = message(&mut input) {
                taken.push(DeltaDiscoveryRequest::decode(message).unwrap().response_nonce);
            }
        }
        assert_eq!(taken, ["first", "second"]);
        assert!(input.is_empty());
    }
}
