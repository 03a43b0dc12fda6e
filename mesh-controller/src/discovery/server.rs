//! Port 15012: TLS, HTTP/2, and the two services on it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Context;
use futures_util::{Stream, stream};
use http::{Request, Response as HttpResponse};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, Streaming, body::Body, server::Grpc};
use tonic_prost::ProstCodec;
use tracing::{debug, info, warn};
use weir_config::wire::{
    certificate::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse},
    discovery::{DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, MAX_MESSAGE_SIZE},
};

use super::{
    Identity, Proxies,
    auth::authenticate,
    codec::{DeltaCodec, Response},
    push::Writer,
    session::Sessions,
};
use crate::{
    ca::Authorities,
    metrics::Metrics,
    review::{Reviews, ServiceAccount},
    tls::Serving,
};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 20_000;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams of one connection: a proxy needs one, and another for its certificate.
const MAX_STREAMS: u32 = 16;
const KEEPALIVE: Duration = Duration::from_secs(30);
/// A request names what the proxy has, of as many objects as there may be.
const MAX_REQUEST: usize = 4 * MAX_MESSAGE_SIZE;

/// A request for a certificate: a key, and what proxies of Istio say about themselves.
const MAX_SIGNING_REQUEST: usize = 256 * 1024;

/// What the server needs of the others.
#[derive(Debug)]
pub struct Parts {
    pub serving: Arc<Serving>,
    pub writer: Writer,
    pub reviews: Arc<Reviews>,
    pub proxies: Arc<Proxies>,
    pub metrics: Arc<Metrics>,
    /// Names this replica.
    pub replica: Arc<str>,
    pub own_gateways_only: bool,
    pub authorities: Arc<Authorities>,
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    closed: CancellationToken,
    streams: TaskTracker,
    ended: CancellationToken,
    drain: Arc<DrainTime>,
}

#[derive(Debug)]
struct Shared {
    sessions: Sessions,
    serving: Arc<Serving>,
    authorities: Arc<Authorities>,
    streams: TaskTracker,
    closed: CancellationToken,
    ended: CancellationToken,
    drain: Arc<DrainTime>,
}

/// Over how long streams end, once that is known.
type DrainTime = std::sync::OnceLock<Duration>;

/// Starts to serve.
///
/// # Errors
/// The address cannot be bound.
pub async fn start(address: SocketAddr, parts: Parts) -> anyhow::Result<Server> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} for discovery"))?;
    let address = listener.local_addr().context("find out where discovery listens")?;
    info!(%address, "discovery");
    let Parts {
        serving,
        writer,
        reviews,
        proxies,
        metrics,
        replica,
        own_gateways_only,
        authorities,
    } = parts;
    let (streams, drain) = (TaskTracker::new(), Arc::new(DrainTime::new()));
    let (closed, ended) = (CancellationToken::new(), CancellationToken::new());
    let shared = Arc::new(Shared {
        sessions: Sessions {
            writer,
            reviews,
            proxies,
            metrics,
            replica,
            own_gateways_only,
            pushes: AtomicU64::new(1),
        },
        serving,
        authorities,
        streams: streams.clone(),
        closed: closed.clone(),
        ended: ended.clone(),
        drain: Arc::clone(&drain),
    });
    tokio::spawn(accept(listener, shared));
    Ok(Server { address, closed, streams, ended, drain })
}

impl Server {
    /// Takes no more connections, and ends the streams one after another over `time`, so that not all
    /// proxies turn to the other replicas at once.
    pub async fn drain(self, time: Duration) {
        // Only set here, once.
        let _ = self.drain.set(time);
        self.closed.cancel();
        self.streams.close();
        if timeout(time + Duration::from_secs(1), self.streams.wait()).await.is_err() {
            self.ended.cancel();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.closed.cancelled() => return,
        };
        let Ok((socket, peer)) = accepted else {
            // Out of descriptors: someone has to leave first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            warn!(%peer, "too many connections");
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Err(error) = connection(socket, shared).await {
                debug!(%peer, "a connection ended: {error:#}");
            }
            drop(slot);
        });
    }
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let config = shared.serving.discovery().context("there is no certificate yet")?;
    let stream = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(socket)).await??;
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|chain| chain.first()).cloned().map(Arc::new);
    let ended = shared.ended.clone();
    let service = service_fn(move |request| {
        let (shared, certificate) = (Arc::clone(&shared), certificate.clone());
        async move { Ok::<_, Infallible>(shared.route(request, certificate).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE / 2)
        // What waits for a slow proxy: one response, not all of them.
        .max_send_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        result = connection => result.context("serve"),
        () = ended.cancelled() => Ok(()),
    }
}

impl Shared {
    async fn route(
        self: Arc<Self>,
        request: Request<Incoming>,
        certificate: Option<Arc<CertificateDer<'static>>>,
    ) -> HttpResponse<Body> {
        let path = request.uri().path();
        let is_signing = path == CREATE_CERTIFICATE;
        if !is_signing && path != DELTA_AGGREGATED_RESOURCES {
            return Status::unimplemented("no such method").into_http();
        }
        let writer = &self.sessions.writer;
        let trust_domain = writer.visit(|state| Arc::clone(&state.store.mesh().trust_domain)).await;
        let Some(trust_domain) = trust_domain else {
            return Status::unavailable("this replica is ending").into_http();
        };
        let (headers, certificate) = (request.headers(), certificate.as_deref());
        let reviews = &self.sessions.reviews;
        match authenticate(headers, certificate, &trust_domain, reviews).await {
            Ok(identity) if is_signing => {
                let authorities = Arc::clone(&self.authorities);
                let service = Certificates { authorities, trust_domain, identity };
                let codec = ProstCodec::default();
                let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_SIGNING_REQUEST);
                grpc.unary(service, request).await
            }
            Ok(identity) => {
                let service = Delta { shared: self, identity };
                let mut grpc =
                    Grpc::new(DeltaCodec::default()).max_decoding_message_size(MAX_REQUEST);
                grpc.streaming(service, request).await
            }
            Err(status) => {
                self.sessions.metrics.unauthenticated.inc();
                status.into_http()
            }
        }
    }

    /// Ends some time in the drain, if there is one.
    async fn turn_comes(self: Arc<Self>, turn: CancellationToken) {
        self.closed.cancelled().await;
        let time = self.drain.get().copied().unwrap_or_default();
        tokio::time::sleep(time.mul_f64(fastrand::f64())).await;
        turn.cancel();
    }
}

/// One certificate to be.
struct Certificates {
    authorities: Arc<Authorities>,
    trust_domain: Arc<str>,
    identity: Identity,
}

impl tonic::server::UnaryService<IstioCertificateRequest> for Certificates {
    type Response = IstioCertificateResponse;
    type Future = std::future::Ready<Result<tonic::Response<IstioCertificateResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<IstioCertificateRequest>) -> Self::Future {
        let ServiceAccount { namespace, name, .. } = &self.identity.account;
        let request = request.into_inner();
        let created = self.authorities.create(&self.trust_domain, (namespace, name), &request);
        std::future::ready(created.map(tonic::Response::new))
    }
}

/// One stream to be.
struct Delta {
    shared: Arc<Shared>,
    identity: Identity,
}

type Responses = stream::BoxStream<'static, Result<Response, Status>>;

impl tonic::server::StreamingService<DeltaDiscoveryRequest> for Delta {
    type Response = Response;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<tonic::Response<Responses>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        // One that is being written and one that waits: what else is to be sent stays shared.
        let (sender, receiver) = mpsc::channel(1);
        let (shared, identity) = (Arc::clone(&self.shared), self.identity.clone());
        let ended = CancellationToken::new();
        let turn = tokio::spawn(Arc::clone(&shared).turn_comes(ended.clone()));
        let streams = shared.streams.clone();
        streams.spawn(async move {
            shared.sessions.serve(identity, request.into_inner(), sender, ended).await;
            turn.abort();
        });
        std::future::ready(Ok(tonic::Response::new(Box::pin(received(receiver)))))
    }
}

fn received<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::unfold(receiver, |mut receiver| async {
        let item = receiver.recv().await?;
        Some((item, receiver))
    })
}
