//! Being the agent for the other programs of the pod.

use std::{
    convert::Infallible, fs, io, os::unix::fs::PermissionsExt, path::Path, pin::Pin, sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
};
use tonic::{
    Status, Streaming,
    body::Body,
    codegen::tokio_stream::wrappers::ReceiverStream,
    server::{Grpc, StreamingService, UnaryService},
};
use tonic_prost::ProstCodec;
use weir_config::{
    model::secret::SecretMaterial,
    wire::{
        google::Any,
        secret::{
            DEFAULT, DataSource, DiscoveryRequest, DiscoveryResponse, FETCH_SECRETS, ROOT_CA,
            SECRET_TYPE, STREAM_SECRETS, Secret,
        },
    },
};

use crate::tls::Workload;

/// Whoever may use the certificate: this user and its group.
const MODE: u32 = 0o660;
/// A request: names, and what an Envoy says of itself.
const MAX_REQUEST: usize = 256 * 1024;
/// Before accepting again what could not be accepted: files may be short for a moment.
const PAUSE: Duration = Duration::from_millis(100);

type Current = watch::Receiver<Option<Arc<Workload>>>;

/// Serves until an error that leaves nothing to serve.
pub async fn serve(socket: &Path, current: Current) -> io::Result<Infallible> {
    let listener = bind(socket)?;
    tracing::info!(socket = %socket.display(), "other programs are given the workload's certificate");
    loop {
        let Ok((io, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let current = current.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let current = current.clone();
                async move { Ok::<_, Infallible>(route(request, current).await) }
            });
            let connection = http2::Builder::new(TokioExecutor::new());
            if let Err(error) = connection.serve_connection(TokioIo::new(io), service).await {
                tracing::debug!(%error, "a program that was given the certificate went away");
            }
        });
    }
}

/// Under another name until nobody else may connect any more.
fn bind(socket: &Path) -> io::Result<UnixListener> {
    let mut next = socket.as_os_str().to_owned();
    next.push(".next");
    let next = Path::new(&next);
    // One that a crash has left.
    let _ = fs::remove_file(next);
    let listener = UnixListener::bind(next)?;
    fs::set_permissions(next, fs::Permissions::from_mode(MODE))?;
    fs::rename(next, socket)?;
    Ok(listener)
}

async fn route(request: Request<Incoming>, current: Current) -> Response<Body> {
    let secrets = Secrets(current);
    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_REQUEST);
    match request.uri().path() {
        STREAM_SECRETS => grpc.streaming(secrets, request).await,
        FETCH_SECRETS => grpc.unary(secrets, request).await,
        _ => Status::unimplemented("no such method").into_http(),
    }
}

struct Secrets(Current);

type Answer<T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, Status>> + Send>>;

impl StreamingService<DiscoveryRequest> for Secrets {
    type Response = DiscoveryResponse;
    type ResponseStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type Future = Answer<Self::ResponseStream>;

    fn call(&mut self, request: tonic::Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let current = self.0.clone();
        Box::pin(async move {
            let (responses, stream) = mpsc::channel(1);
            tokio::spawn(converse(request.into_inner(), current, responses));
            Ok(tonic::Response::new(ReceiverStream::new(stream)))
        })
    }
}

impl UnaryService<DiscoveryRequest> for Secrets {
    type Response = DiscoveryResponse;
    type Future = Answer<DiscoveryResponse>;

    fn call(&mut self, request: tonic::Request<DiscoveryRequest>) -> Self::Future {
        let workload = self.0.borrow().clone();
        Box::pin(async move {
            let workload =
                workload.ok_or_else(|| Status::unavailable("there is no certificate yet"))?;
            let names = request.into_inner().resource_names;
            Ok(tonic::Response::new(response(&workload, &names, 1)))
        })
    }
}

/// One stream: what is asked for, now and whenever it changes.
async fn converse(
    mut requests: Streaming<DiscoveryRequest>,
    mut current: Current,
    responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let mut wanted: Option<Vec<String>> = None;
    let mut sent = 0;
    loop {
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                if let Some(error) = request.error_detail {
                    tracing::warn!("a program does not take the certificate: {}", error.message);
                }
                let is_answer = !request.response_nonce.is_empty();
                if is_answer && wanted.as_ref() == Some(&request.resource_names) {
                    continue;
                }
                wanted = Some(request.resource_names);
            }
            changed = current.changed() => if changed.is_err() { return },
        }
        let workload = current.borrow_and_update().clone();
        let (Some(workload), Some(names)) = (workload, &wanted) else { continue };
        sent += 1;
        if responses.send(Ok(response(&workload, names, sent))).await.is_err() {
            return;
        }
    }
}

/// What of `names` there is; no name is everything.
fn response(workload: &Workload, names: &[String], number: u64) -> DiscoveryResponse {
    let asked = |secret: &Secret| names.is_empty() || names.contains(&secret.name);
    let resources = secrets(workload).into_iter().filter(asked).map(|secret| Any {
        type_url: SECRET_TYPE.to_owned(),
        value: secret.encode_to_vec().into(),
    });
    DiscoveryResponse {
        version_info: number.to_string(),
        resources: resources.collect(),
        type_url: SECRET_TYPE.to_owned(),
        nonce: number.to_string(),
    }
}

fn secrets(workload: &Workload) -> Vec<Secret> {
    let SecretMaterial::Inline { certificate_chain, private_key, trust_bundle, .. } =
        &workload.secret.material
    else {
        return Vec::new();
    };
    let source = |pem: &Option<Arc<[u8]>>| {
        DataSource::inline(Bytes::copy_from_slice(pem.as_deref().unwrap_or_default()))
    };
    vec![
        Secret::certificate(DEFAULT, source(certificate_chain), source(private_key)),
        Secret::roots(ROOT_CA, source(trust_bundle)),
    ]
}
