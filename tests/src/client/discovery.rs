//! A proxy's side of delta discovery, one step at a time.

use std::{collections::BTreeMap, net::Ipv4Addr, pin::Pin, sync::Arc, task};

use futures_util::stream;
use http::Uri;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::{Map, Value};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Status, Streaming,
    client::Grpc,
    codegen::Service,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use weir_config::wire::{
    discovery::{
        DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        MAX_MESSAGE_SIZE, Node, WHOLE_PUSHES,
    },
    google,
    resource::{Document, OBJECT_TYPE, Rejection, Rejections, SYNC_NAME, SYNC_TYPE, Sync, TYPES},
};

use crate::{controller::NAME, eventually::DEADLINE};

/// How a proxy presents itself.
#[derive(Debug, Clone, Default)]
pub struct Hello {
    pub token: Option<String>,
    pub labels: Vec<(&'static str, &'static str)>,
    /// Versions by name.
    pub known: BTreeMap<String, String>,
    /// Up to where that was told.
    pub position: String,
    /// Whether a push has to come as one response for each type, with an end, as it was at first.
    pub in_parts: bool,
}

/// A connected proxy.
pub struct Proxy {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// What it has: versions by name.
    pub versions: BTreeMap<String, String>,
    /// Up to where that was told.
    pub position: String,
    /// And the documents themselves.
    pub documents: BTreeMap<String, Value>,
}

/// All responses up to the end of the push.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    pub version: String,
    /// In the order they came, without the end.
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    /// The responses: type and nonce.
    pub responses: Vec<(String, String)>,
}

impl Proxy {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// The status the stream was refused with.
    pub async fn connect(port: u16, tls: &ClientConfig, hello: Hello) -> Result<Self, Status> {
        let channel = channel(port, tls).await?;
        let (requests, receiver) = mpsc::unbounded_channel::<DeltaDiscoveryRequest>();
        let outgoing = stream::unfold(receiver, |mut receiver| async {
            let request = receiver.recv().await?;
            Some((request, receiver))
        });
        let mut request = tonic::Request::new(outgoing);
        if let Some(token) = &hello.token {
            let value = format!("Bearer {token}").parse().expect("a header value");
            request.metadata_mut().insert("authorization", value);
        }
        for (index, type_url) in TYPES.iter().enumerate() {
            let request = DeltaDiscoveryRequest {
                node: (index == 0).then(|| node(&hello)),
                type_url: (*type_url).to_owned(),
                initial_resource_versions: match *type_url {
                    OBJECT_TYPE => hello.known.clone(),
                    SYNC_TYPE if !hello.position.is_empty() => {
                        BTreeMap::from([(SYNC_NAME.to_owned(), hello.position.clone())])
                    }
                    _ => BTreeMap::new(),
                },
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(request).expect("the stream is open");
        }
        let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE_SIZE);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let path = DELTA_AGGREGATED_RESOURCES.parse().expect("a path");
        let responses = timeout(DEADLINE, grpc.streaming(request, path, codec))
            .await
            .expect("an answer in time")?
            .into_inner();
        let Hello { known: versions, position, .. } = hello;
        Ok(Self { requests, responses, versions, position, documents: BTreeMap::new() })
    }

    /// The next push, which is not answered yet.
    ///
    /// # Errors
    /// The status the stream ended with.
    pub async fn next(&mut self) -> Result<Push, Status> {
        let mut push = Push {
            version: String::new(),
            changed: Vec::new(),
            removed: Vec::new(),
            responses: Vec::new(),
        };
        loop {
            let response = timeout(DEADLINE, self.responses.message()).await;
            let response = response.expect("a push in time")?;
            let response = response.ok_or_else(|| Status::ok("the stream ended"))?;
            push.responses.push((response.type_url.clone(), response.nonce));
            push.removed.extend(response.removed_resources.clone());
            for name in response.removed_resources {
                self.versions.remove(&name);
                self.documents.remove(&name);
            }
            for resource in response.resources {
                let body = resource.resource.expect("a body").value;
                if resource.name == SYNC_NAME {
                    push.version = resource.version;
                    self.position = Sync::decode(body).expect("an end").position;
                    continue;
                }
                let document = Document::decode(body).expect("a document");
                let document = serde_json::from_slice(&document.json).expect("JSON");
                self.documents.insert(resource.name.clone(), document);
                self.versions.insert(resource.name.clone(), resource.version);
                push.changed.push(resource.name);
            }
            if response.type_url == SYNC_TYPE {
                return Ok(push);
            }
        }
    }

    /// The next push, applied.
    pub async fn push(&mut self) -> Push {
        let push = self.next().await.expect("a push");
        self.accept(&push);
        push
    }

    /// Says that all of it is applied.
    pub fn accept(&self, push: &Push) {
        self.answer(push, None);
    }

    /// Says that all but this is applied.
    pub fn reject(&self, push: &Push, resource_name: &str, message: &str) {
        let rejection =
            Rejection { resource_name: resource_name.to_owned(), message: message.to_owned() };
        let details = vec![Rejections { rejections: vec![rejection] }.to_any()];
        let message = format!("{resource_name}: {message}");
        self.answer(push, Some(google::Status { code: 3, message, details }));
    }

    fn answer(&self, push: &Push, mut error: Option<google::Status>) {
        let is_whole = push.responses.len() == 1;
        for (type_url, nonce) in &push.responses {
            let is_object = is_whole || type_url.ends_with("Object");
            let request = DeltaDiscoveryRequest {
                type_url: type_url.clone(),
                response_nonce: nonce.clone(),
                error_detail: if is_object { error.take() } else { None },
                ..DeltaDiscoveryRequest::default()
            };
            self.requests.send(request).expect("the stream is open");
        }
    }
}

/// A connection on which RPCs can be made.
pub async fn channel(port: u16, tls: &ClientConfig) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_static("http://controller");
    let connector = Connector { port, tls: TlsConnector::from(Arc::new(tls.clone())) };
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| Status::unavailable(format!("{error:?}")))
}

fn node(hello: &Hello) -> Node {
    let labels: Map<String, Value> = hello
        .labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
        .collect();
    let metadata = Map::from_iter([("LABELS".to_owned(), Value::Object(labels))]);
    Node {
        id: "router~127.0.0.1~proxy.test~test.svc.cluster.local".to_owned(),
        metadata: Some(metadata.into()),
        user_agent_version: "test".to_owned(),
        client_features: if hello.in_parts { vec![] } else { vec![WHOLE_PUSHES.to_owned()] },
        ..Node::default()
    }
}

#[derive(Clone)]
struct Connector {
    port: u16,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { port, tls } = self.clone();
        Box::pin(async move {
            let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            let name = ServerName::try_from(NAME).expect("a name");
            Ok(TokioIo::new(tls.connect(name, socket).await?))
        })
    }
}
