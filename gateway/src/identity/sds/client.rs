//! Following an agent.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use bytes::Bytes;
use http::{Uri, uri::PathAndQuery};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code, Request,
    body::Body,
    client::{Grpc, GrpcService},
    codegen::tokio_stream::wrappers::ReceiverStream,
};
use tonic_prost::ProstCodec;
use weir_config::wire::{
    discovery::Node,
    google::Status,
    secret::{
        CertificateValidationContext, DEFAULT, DiscoveryRequest, DiscoveryResponse, ROOT_CA,
        SECRET_TYPE, STREAM_SECRETS, Secret, SecretKind, TlsCertificate,
    },
};

use super::super::{material, now, usable, withdraw_ended};
use crate::{control_plane::Backoff, tls::Workload};

/// A request and the answer to a response.
const REQUESTS: usize = 4;

/// Why a stream ended, or did not begin.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("connect to {socket}: {source}")]
    Connect { socket: String, source: std::io::Error },
    #[error("HTTP/2 with {socket}: {source}")]
    Http2 { socket: String, source: hyper::Error },
    #[error("{socket} does not give a certificate ({code:?}): {message}")]
    Refused { socket: String, code: Code, message: String },
    #[error("{socket} ended the stream")]
    Ended { socket: String },
}

/// Keeps `current` what the agent behind `socket` says. Never ends by itself.
pub async fn follow(socket: &Path, current: &watch::Sender<Option<Arc<Workload>>>) {
    let mut backoff = Backoff::default();
    let mut said = BTreeSet::new();
    loop {
        let before = current.borrow().clone();
        let end = session(socket, current).await;
        let is_new = match (&before, &*current.borrow()) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if is_new {
            (backoff, said) = (Backoff::default(), BTreeSet::new());
        }
        let problem = format!("{end}");
        if said.insert(problem.clone()) {
            let left = current.borrow().as_ref().map(|it| it.validity.not_after - now());
            tracing::warn!(
                seconds_left = left,
                "the workload's certificate is not followed: {problem}"
            );
        }
        withdraw_ended(current);
        tokio::time::sleep(backoff.wait()).await;
    }
}

/// One stream, to its end.
async fn session(socket: &Path, current: &watch::Sender<Option<Arc<Workload>>>) -> End {
    let name = socket.display().to_string();
    let io = match UnixStream::connect(socket).await {
        Ok(io) => io,
        Err(source) => return End::Connect { socket: name, source },
    };
    let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await;
    let (sender, connection) = match opened {
        Ok(opened) => opened,
        Err(source) => return End::Http2 { socket: name, source },
    };
    // Ends with this session.
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut grpc = Grpc::with_origin(Channel(sender), Uri::from_static("http://localhost"));
    let (requests, outgoing) = mpsc::channel(REQUESTS);
    let subscription = DiscoveryRequest {
        node: Some(Node { id: "weir".to_owned(), ..Node::default() }),
        ..request()
    };
    // There is room for it.
    let _ = requests.send(subscription).await;
    let path = PathAndQuery::from_static(STREAM_SECRETS);
    let codec = ProstCodec::<DiscoveryRequest, DiscoveryResponse>::default();
    let outgoing = Request::new(ReceiverStream::new(outgoing));
    let refused = |status: &tonic::Status| End::Refused {
        socket: socket.display().to_string(),
        code: status.code(),
        message: status.message().to_owned(),
    };
    let mut responses = match grpc.streaming(outgoing, path, codec).await {
        Ok(responses) => responses.into_inner(),
        Err(status) => return refused(&status),
    };
    let mut given = Given::default();
    loop {
        let response = match responses.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return End::Ended { socket: name },
            Err(status) => return refused(&status),
        };
        let error_detail = given.take(&response, current).err().map(|problem| {
            tracing::warn!("the certificate of {name} is not used: {problem}");
            Status { code: Code::InvalidArgument.into(), message: problem, details: Vec::new() }
        });
        let answer = DiscoveryRequest {
            version_info: response.version_info,
            response_nonce: response.nonce,
            error_detail,
            ..request()
        };
        if requests.send(answer).await.is_err() {
            return End::Ended { socket: name };
        }
    }
}

fn request() -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: vec![DEFAULT.to_owned(), ROOT_CA.to_owned()],
        type_url: SECRET_TYPE.to_owned(),
        ..DiscoveryRequest::default()
    }
}

/// What was given so far: the two parts may come one after the other.
#[derive(Default)]
struct Given {
    certificate: Option<TlsCertificate>,
    roots: Option<CertificateValidationContext>,
}

impl Given {
    /// Takes a response in; once both parts are there and fit together, they are the workload's.
    fn take(
        &mut self,
        response: &DiscoveryResponse,
        current: &watch::Sender<Option<Arc<Workload>>>,
    ) -> Result<(), String> {
        for resource in response.resources.iter().filter(|any| any.type_url == SECRET_TYPE) {
            let secret = Secret::decode(Bytes::clone(&resource.value));
            let secret = secret.map_err(|error| format!("a secret cannot be read: {error}"))?;
            match secret.kind {
                Some(SecretKind::TlsCertificate(certificate)) => {
                    self.certificate = Some(certificate);
                }
                Some(SecretKind::ValidationContext(roots)) => self.roots = Some(roots),
                None => return Err(format!("{} is no certificate and no root", secret.name)),
            }
        }
        let (Some(certificate), Some(roots)) = (&self.certificate, &self.roots) else {
            return Ok(());
        };
        let bytes = |source: &Option<weir_config::wire::secret::DataSource>| -> Option<Arc<[u8]>> {
            source.as_ref()?.bytes().map(Arc::from)
        };
        let workload = usable(material(
            bytes(&certificate.certificate_chain),
            bytes(&certificate.private_key),
            bytes(&roots.trusted_ca),
        ))?;
        let is_same = current.borrow().as_ref().is_some_and(|it| it.secret == workload.secret);
        if !is_same {
            tracing::info!(
                identity = workload.uri().as_deref(),
                "the workload has a new certificate"
            );
            current.send_replace(Some(Arc::new(workload)));
        }
        Ok(())
    }
}

/// An open connection to the agent.
struct Channel(http2::SendRequest<Body>);

impl GrpcService<Body> for Channel {
    type ResponseBody = hyper::body::Incoming;
    type Error = hyper::Error;
    type Future = std::pin::Pin<
        Box<
            dyn Future<Output = Result<http::Response<hyper::body::Incoming>, hyper::Error>> + Send,
        >,
    >;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
