//! The two services of the discovery port.

use std::{sync::Arc, time::Duration};

use http::{Request, Response as HttpResponse, header::CONTENT_TYPE};
use hyper::body::Incoming;
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body, metadata::GRPC_CONTENT_TYPE, server::Grpc};
use tonic_prost::ProstCodec;
use weir_config::wire::{
    certificate::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse},
    discovery::DELTA_AGGREGATED_RESOURCES,
};

use super::{
    Identity,
    auth::authenticate,
    codec::Messages,
    requests::Requests,
    session::{End, Sessions},
};
use crate::{ca::Authorities, review::ServiceAccount, tls::Serving};

/// A request for a certificate: a key, and what proxies of Istio say about themselves.
const MAX_SIGNING_REQUEST: usize = 256 * 1024;

/// Messages that wait to be written: of a push in parts the next is made while one is sent. What else is
/// to be sent stays shared.
const WAITING: usize = 2;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) sessions: Sessions,
    pub(super) serving: Arc<Serving>,
    pub(super) authorities: Arc<Authorities>,
    pub(super) streams: TaskTracker,
    pub(super) closed: CancellationToken,
    pub(super) ended: CancellationToken,
    pub(super) drain: Arc<DrainTime>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) certificate: Option<Arc<CertificateDer<'static>>>,
    /// Cuts the connection off.
    pub(super) cut: CancellationToken,
}

/// Over how long streams end, once that is known.
pub(super) type DrainTime = std::sync::OnceLock<Duration>;

impl Shared {
    /// Who it is, and then to what is asked for.
    pub(super) async fn route(
        self: Arc<Self>,
        request: Request<Incoming>,
        Peer { certificate, cut }: Peer,
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
            Ok(identity) => self.converse(identity, request.into_body(), cut),
            Err(status) => {
                self.sessions.metrics.unauthenticated.inc();
                status.into_http()
            }
        }
    }

    /// Begins a discovery stream.
    fn converse(
        self: Arc<Self>,
        identity: Identity,
        body: Incoming,
        cut: CancellationToken,
    ) -> HttpResponse<Body> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let ended = CancellationToken::new();
        let turn = tokio::spawn(Arc::clone(&self).turn_comes(ended.clone()));
        let streams = self.streams.clone();
        streams.spawn(async move {
            let end = self.sessions.serve(identity, Requests::new(body), sender, ended).await;
            if end == End::Unread {
                cut.cancel();
            }
            turn.abort();
        });
        let mut response = HttpResponse::new(Body::new(Messages::new(receiver)));
        response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
        response
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
