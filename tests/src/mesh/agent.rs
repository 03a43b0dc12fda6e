//! An agent that gives out certificates over a unix socket, and a program that is given one.

use std::{
    convert::Infallible,
    fs::{self, Permissions},
    future::Future,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    task,
};

use http::{Request, Response, Uri};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Status, Streaming,
    body::Body,
    client::Grpc as Client,
    codegen::{Service, tokio_stream::wrappers::ReceiverStream},
    server::{Grpc, StreamingService},
    transport::Endpoint,
};
use tonic_prost::ProstCodec;
use weir_config::wire::{
    google::Any,
    secret::{
        DEFAULT, DataSource, DiscoveryRequest, DiscoveryResponse, ROOT_CA, SECRET_TYPE,
        STREAM_SECRETS, Secret, SecretKind,
    },
};

use crate::{
    certs::{Authority, Identity},
    eventually::DEADLINE,
};

/// What an agent gives out: PEM.
#[derive(Debug, Clone)]
struct Given {
    certificate: String,
    key: String,
    roots: String,
}

impl Given {
    fn of(identity: &Identity, authority: &Authority) -> Self {
        let Identity { certificate, key } = identity.clone();
        Self { certificate, key, roots: authority.root() }
    }
}

/// An agent; it ends with this.
#[derive(Debug)]
pub struct Agent {
    pub socket: PathBuf,
    given: watch::Sender<Given>,
    refusals: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Agent {
    /// Gives out `identity` at `socket`, to everybody.
    ///
    /// # Panics
    /// The socket cannot be bound.
    #[must_use]
    pub fn start(socket: PathBuf, identity: &Identity, authority: &Authority) -> Self {
        let listener = UnixListener::bind(&socket).expect("bind the agent's socket");
        fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("open the socket");
        let (given, receiver) = watch::channel(Given::of(identity, authority));
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, receiver, Arc::clone(&refusals)));
        Self { socket, given, refusals, _task: AbortOnDropHandle::new(task) }
    }

    /// Gives out another one from now on.
    pub fn rotate(&self, identity: &Identity, authority: &Authority) {
        self.given.send_replace(Given::of(identity, authority));
    }

    /// What was said about what could not be used.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.lock().expect("nobody panics with the lock").clone()
    }
}

async fn serve(
    listener: UnixListener,
    given: watch::Receiver<Given>,
    refusals: Arc<Mutex<Vec<String>>>,
) {
    loop {
        let (io, _) = listener.accept().await.expect("accept a program");
        let secrets = Secrets { given: given.clone(), refusals: Arc::clone(&refusals) };
        let service = service_fn(move |request: Request<Incoming>| {
            let secrets = secrets.clone();
            async move { Ok::<_, Infallible>(route(request, secrets).await) }
        });
        tokio::spawn(async move {
            // Broken off by programs that end, and by those that only look whether an agent is there.
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(io), service)
                .await;
        });
    }
}

async fn route(request: Request<Incoming>, secrets: Secrets) -> Response<Body> {
    match request.uri().path() {
        STREAM_SECRETS => Grpc::new(ProstCodec::default()).streaming(secrets, request).await,
        other => Status::unimplemented(other).into_http(),
    }
}

#[derive(Clone)]
struct Secrets {
    given: watch::Receiver<Given>,
    refusals: Arc<Mutex<Vec<String>>>,
}

impl StreamingService<DiscoveryRequest> for Secrets {
    type Response = DiscoveryResponse;
    type ResponseStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type Future =
        Pin<Box<dyn Future<Output = Result<tonic::Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let Self { given, refusals } = self.clone();
        Box::pin(async move {
            let (responses, stream) = mpsc::channel(4);
            tokio::spawn(converse(request.into_inner(), given, refusals, responses));
            Ok(tonic::Response::new(ReceiverStream::new(stream)))
        })
    }
}

/// As SPIRE's: everything that was asked for, whenever something of it changes.
async fn converse(
    mut requests: Streaming<DiscoveryRequest>,
    mut given: watch::Receiver<Given>,
    refusals: Arc<Mutex<Vec<String>>>,
    responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let Ok(Some(first)) = requests.message().await else { return };
    assert_eq!(first.type_url, SECRET_TYPE);
    let mut version = 0;
    loop {
        version += 1;
        let now = given.borrow_and_update().clone();
        let source = |pem: String| DataSource::inline(pem.into_bytes());
        let all = [
            Secret::certificate(DEFAULT, source(now.certificate), source(now.key)),
            Secret::roots(ROOT_CA, source(now.roots)),
        ];
        let asked = all.into_iter().filter(|secret| first.resource_names.contains(&secret.name));
        let resources = asked.map(|secret| Any {
            type_url: SECRET_TYPE.to_owned(),
            value: secret.encode_to_vec().into(),
        });
        let response = DiscoveryResponse {
            version_info: version.to_string(),
            nonce: version.to_string(),
            type_url: SECRET_TYPE.to_owned(),
            resources: resources.collect(),
        };
        if responses.send(Ok(response)).await.is_err() {
            return;
        }
        let Ok(Some(answer)) = requests.message().await else { return };
        assert_eq!(answer.response_nonce, version.to_string());
        if let Some(error) = answer.error_detail {
            refusals.lock().expect("nobody panics with the lock").push(error.message);
        }
        tokio::select! {
            changed = given.changed() => if changed.is_err() { return },
            () = responses.closed() => return,
        }
    }
}

/// A program that is given a certificate.
pub struct Program {
    _requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Program {
    /// Asks at `socket` for all there is.
    ///
    /// # Panics
    /// Nobody listens there, or not to this.
    pub async fn connect(socket: &Path) -> Self {
        let connector = Connector(socket.to_owned());
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.expect("connect to the socket");
        let (requests, outgoing) = mpsc::channel(4);
        let request = DiscoveryRequest {
            resource_names: vec![DEFAULT.to_owned(), ROOT_CA.to_owned()],
            type_url: SECRET_TYPE.to_owned(),
            ..DiscoveryRequest::default()
        };
        requests.send(request).await.expect("there is room");
        let mut grpc = Client::new(channel);
        grpc.ready().await.expect("the connection is open");
        let codec = ProstCodec::<DiscoveryRequest, DiscoveryResponse>::default();
        let path = STREAM_SECRETS.parse().expect("a path");
        let request = tonic::Request::new(ReceiverStream::new(outgoing));
        let responses = timeout(DEADLINE, grpc.streaming(request, path, codec)).await;
        let responses = responses.expect("an answer in time").expect("a stream").into_inner();
        Self { _requests: requests, responses }
    }

    /// The certificate, key and roots that are given next.
    ///
    /// # Panics
    /// They are not given in time.
    pub async fn next(&mut self) -> (Identity, String) {
        let response = timeout(DEADLINE, self.responses.message()).await;
        let response = response.expect("a response in time").expect("a stream");
        let (mut identity, mut roots) = (None, None);
        for resource in response.expect("a response").resources {
            assert_eq!(resource.type_url, SECRET_TYPE);
            let secret = Secret::decode(resource.value).expect("a secret");
            let text = |source: Option<DataSource>| {
                let source = source.expect("a source");
                String::from_utf8(source.bytes().expect("inline").to_vec()).expect("PEM")
            };
            match (secret.name.as_str(), secret.kind.expect("a kind")) {
                (DEFAULT, SecretKind::TlsCertificate(it)) => {
                    let certificate = text(it.certificate_chain);
                    identity = Some(Identity { certificate, key: text(it.private_key) });
                }
                (ROOT_CA, SecretKind::ValidationContext(it)) => roots = Some(text(it.trusted_ca)),
                (name, _) => panic!("nobody asked for {name}"),
            }
        }
        (identity.expect("a certificate"), roots.expect("roots"))
    }
}

struct Connector(PathBuf);

impl Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(socket).await?)) })
    }
}
