//! The two gRPC services of a controller.

use std::{collections::BTreeMap, convert::Infallible, future::Future, pin::Pin, sync::Arc};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_rustls::TlsAcceptor;
use tonic::{
    Status, Streaming,
    body::Body,
    codegen::tokio_stream::wrappers::ReceiverStream,
    server::{Grpc, StreamingService, UnaryService},
};
use tonic_prost::ProstCodec;
use weir_config::wire::{
    certificate::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse},
    discovery::{
        DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        MAX_REQUEST_SIZE, Resource,
    },
    resource::{Rejections, SYNC_TYPE, TYPES},
};

use super::{Difference, Shared, Signed, Stream};
use crate::certs::Authority;

type Responses = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;
type Held = BTreeMap<(&'static str, String), String>;

pub(super) fn known_type(type_url: &str) -> &'static str {
    TYPES.into_iter().find(|known| *known == type_url).expect("a type of ours")
}

/// Serves one connection to its end.
pub(super) async fn serve(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    authority: Arc<Authority>,
) {
    // Whoever trusts another root goes away here.
    let Ok(tls) = acceptor.accept(tcp).await else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, authority) = (Arc::clone(&shared), Arc::clone(&authority));
        async move { Ok::<_, Infallible>(route(request, shared, authority).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new());
    // Broken off by tests and by gateways that end.
    let _ = connection.serve_connection(TokioIo::new(tls), service).await;
}

async fn route(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    authority: Arc<Authority>,
) -> Response<Body> {
    let authorization = authorization(request.headers());
    if authorization != format!("Bearer {}", shared.lock().token) {
        return Status::unauthenticated("the token was not issued for this controller").into_http();
    }
    match request.uri().path() {
        DELTA_AGGREGATED_RESOURCES => {
            let codec = ProstCodec::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST_SIZE);
            grpc.streaming(Discovery(shared), request).await
        }
        CREATE_CERTIFICATE => {
            let signing = Signing { shared, authority, authorization };
            Grpc::new(ProstCodec::default()).unary(signing, request).await
        }
        other => Status::unimplemented(other).into_http(),
    }
}

fn authorization(headers: &HeaderMap) -> String {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

struct Discovery(Arc<Shared>);

impl StreamingService<DeltaDiscoveryRequest> for Discovery {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;
    type Future =
        Pin<Box<dyn Future<Output = Result<tonic::Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let (responses, stream) = mpsc::channel(16);
            // Ends with the connection, which drops both sides of it.
            tokio::spawn(converse(request.into_inner(), responses, shared));
            Ok(tonic::Response::new(ReceiverStream::new(stream)))
        })
    }
}

/// One stream, from the subscriptions to its end.
async fn converse(
    mut requests: Streaming<DeltaDiscoveryRequest>,
    responses: Responses,
    shared: Arc<Shared>,
) {
    let changed = shared.changed.subscribe();
    let mut stream = Stream::default();
    let mut held = Held::new();
    loop {
        let Ok(Some(request)) = requests.message().await else { return };
        stream.node = request.node.unwrap_or(stream.node);
        let type_url = known_type(&request.type_url);
        for (name, version) in request.initial_resource_versions {
            if type_url == SYNC_TYPE {
                stream.position = Some(version);
                continue;
            }
            stream.initial.insert(name.clone(), version.clone());
            held.insert((type_url, name), version);
        }
        if type_url == SYNC_TYPE {
            break;
        }
    }
    let (number, is_refused) = {
        let mut state = shared.lock();
        let is_refused = state.is_behind && stream.position.is_some();
        state.streams.push(stream);
        (state.streams.len() - 1, is_refused)
    };
    if is_refused {
        let behind = Status::failed_precondition("this replica knows less");
        // The proxy may be gone.
        let _ = responses.send(Err(behind)).await;
        return;
    }
    tokio::join!(
        push(&shared, number, held, changed, responses),
        listen(&shared, number, requests),
    );
}

async fn push(
    shared: &Shared,
    number: usize,
    mut held: Held,
    mut changed: watch::Receiver<u64>,
    responses: Responses,
) {
    let mut nonce = 0;
    loop {
        let version = *changed.borrow_and_update();
        let difference = shared.lock().difference(&held);
        for response in push_of(difference, version, shared, number, &mut held) {
            nonce += 1;
            let response = DeltaDiscoveryResponse { nonce: nonce.to_string(), ..response };
            if responses.send(Ok(response)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            () = responses.closed() => return,
        }
    }
}

/// The responses of a push, each with one resource so that proxies have to collect them.
fn push_of(
    difference: Difference,
    version: u64,
    shared: &Shared,
    number: usize,
    held: &mut Held,
) -> Vec<DeltaDiscoveryResponse> {
    let Difference { mut put, mut removed } = difference;
    let mut state = shared.lock();
    let state = &mut *state;
    let stream = &mut state.streams[number];
    let mut responses = Vec::new();
    for type_url in TYPES {
        for resource in put.remove(type_url).unwrap_or_default() {
            held.insert((type_url, resource.name.clone()), resource.version.clone());
            stream.sent.push(resource.name.clone());
            responses.push(response(type_url, vec![resource], Vec::new()));
        }
        if let Some(names) = removed.remove(type_url) {
            held.retain(|(known, name), _| *known != type_url || !names.contains(name));
            stream.removed.extend(names.iter().cloned());
            responses.push(response(type_url, Vec::new(), names));
        }
    }
    let sync = Resource::sync_at(version.to_string(), state.position.clone());
    responses.push(response(SYNC_TYPE, vec![sync], Vec::new()));
    responses
}

fn response(
    type_url: &str,
    resources: Vec<Resource>,
    removed_resources: Vec<String>,
) -> DeltaDiscoveryResponse {
    let type_url = type_url.to_owned();
    DeltaDiscoveryResponse { type_url, resources, removed_resources, ..Default::default() }
}

async fn listen(shared: &Shared, number: usize, mut requests: Streaming<DeltaDiscoveryRequest>) {
    while let Ok(Some(request)) = requests.message().await {
        let mut state = shared.lock();
        let stream = &mut state.streams[number];
        stream.acknowledged += usize::from(request.type_url == SYNC_TYPE);
        if let Some(error) = request.error_detail {
            stream.rejections.extend(Rejections::of_details(&error.details));
        }
    }
}

struct Signing {
    shared: Arc<Shared>,
    authority: Arc<Authority>,
    authorization: String,
}

impl UnaryService<IstioCertificateRequest> for Signing {
    type Response = IstioCertificateResponse;
    type Future = std::future::Ready<Result<tonic::Response<IstioCertificateResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<IstioCertificateRequest>) -> Self::Future {
        let IstioCertificateRequest { csr, validity_duration, .. } = request.into_inner();
        let mut state = self.shared.lock();
        let seconds = state.certificate_seconds.unwrap_or(validity_duration);
        let (certificate, names) = self.authority.sign(&csr, seconds);
        state.signed.push(Signed { authorization: self.authorization.clone(), names });
        let cert_chain = vec![certificate, self.authority.root()];
        std::future::ready(Ok(tonic::Response::new(IstioCertificateResponse { cert_chain })))
    }
}
