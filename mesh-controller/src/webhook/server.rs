//! Port 15017: HTTPS for the API server.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    injector::Injector,
    validate::{Verdict, review},
};
use crate::{metrics::Metrics, tls::Serving};

/// An object of the largest size, before and after, as JSON in JSON.
const MAX_BODY: usize = 8 * 1024 * 1024;
const MAX_CONNECTIONS: usize = 256;
/// Objects that are judged at a time: what a burst may cost.
const MAX_REVIEWS: usize = 8;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// What the API server waits for at most.
const REQUEST: Duration = Duration::from_secs(30);
/// How long after it was asked to end a replica tells the API server so: by then new connections go to
/// the others.
const SPREAD: Duration = Duration::from_secs(1);
/// How long reviews under way may take then.
const FLUSH: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Webhook {
    metrics: Arc<Metrics>,
    /// None: nothing is injected here.
    injector: Option<Arc<Injector>>,
    reviews: Semaphore,
    ending: CancellationToken,
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    connections: TaskTracker,
}

impl Server {
    /// Waits, a while at most, until the API server has left: a review that nobody answers is a write that
    /// fails.
    pub async fn drain(self) {
        self.connections.close();
        if timeout(SPREAD + FLUSH, self.connections.wait()).await.is_err() {
            warn!("connections for admission are cut off");
        }
    }
}

/// Starts to serve. When it is `ending`, connections are ended in order, and new ones still taken: some
/// may not know yet.
///
/// # Errors
/// The address cannot be bound.
pub async fn start(
    address: SocketAddr,
    serving: Arc<Serving>,
    metrics: Arc<Metrics>,
    injector: Option<Injector>,
    ending: CancellationToken,
) -> anyhow::Result<Server> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} for admission"))?;
    let address = listener.local_addr().context("find out where admission listens")?;
    info!(%address, "admission");
    let (injector, reviews) = (injector.map(Arc::new), Semaphore::new(MAX_REVIEWS));
    let webhook = Arc::new(Webhook { metrics, injector, reviews, ending });
    let connections = TaskTracker::new();
    tokio::spawn(accept(listener, serving, webhook, connections.clone()));
    Ok(Server { connections })
}

async fn accept(
    listener: TcpListener,
    serving: Arc<Serving>,
    webhook: Arc<Webhook>,
    connections: TaskTracker,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((socket, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (serving, webhook) = (Arc::clone(&serving), Arc::clone(&webhook));
        connections.spawn(async move {
            if let Err(error) = connection(socket, &serving, webhook).await {
                debug!(%peer, "a connection for admission ended: {error:#}");
            }
            drop(slot);
        });
    }
}

async fn connection(
    socket: TcpStream,
    serving: &Serving,
    webhook: Arc<Webhook>,
) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let config = serving.webhook().context("there is no certificate yet")?;
    let stream = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(socket)).await??;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    serve(stream, is_http2, webhook).await
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: bool,
    webhook: Arc<Webhook>,
) -> anyhow::Result<()> {
    let leaves = webhook.leaves();
    let service = service_fn(move |request| {
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, Infallible>(webhook.respond(request).await) }
    });
    let stream = TokioIo::new(stream);
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(REQUEST);
        let connection = pin!(builder.serve_connection(stream, service));
        to_its_end(connection, leaves, |connection| connection.graceful_shutdown()).await?;
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(REQUEST);
        let connection = pin!(builder.serve_connection(stream, service));
        to_its_end(connection, leaves, |connection| connection.graceful_shutdown()).await?;
    }
    Ok(())
}

/// Serves until the client leaves, or until `leaves`; what it asked by then is still answered. Generic
/// because the protocols' connections have `shutdown` by the same name only.
async fn to_its_end<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    leaves: impl Future<Output = ()>,
    shutdown: impl FnOnce(Pin<&mut C>),
) -> hyper::Result<()> {
    tokio::select! {
        result = &mut connection => return result,
        () = leaves => {}
    }
    shutdown(connection.as_mut());
    connection.await
}

type Answer = Response<Full<Bytes>>;

/// What became of a review.
enum Judged {
    Validated(Verdict),
    Injected(Value),
}

impl Webhook {
    /// Waits until the API server is to turn to another replica.
    fn leaves(&self) -> impl Future<Output = ()> + use<> {
        let ending = self.ending.clone();
        async move {
            ending.cancelled().await;
            tokio::time::sleep(SPREAD).await;
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Answer {
        let injector = match (request.method(), request.uri().path(), &self.injector) {
            (&Method::POST, "/validate", _) => None,
            (&Method::POST, "/inject", Some(injector)) => Some(Arc::clone(injector)),
            (_, "/validate", _) | (_, "/inject", Some(_)) => {
                return plain(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
            }
            _ => return plain(StatusCode::NOT_FOUND, "no such page\n"),
        };
        let body = Limited::new(request.into_body(), MAX_BODY).collect();
        let body = match timeout(REQUEST, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "the review is too large\n"),
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the review is too slow\n"),
        };
        // Reviews take processor time; the semaphore is never closed.
        let permit = self.reviews.acquire().await;
        let judged = tokio::task::spawn_blocking(move || match injector {
            Some(injector) => injector.review(&body).map(Judged::Injected),
            None => review(&body).map(Judged::Validated),
        })
        .await;
        drop(permit);
        match judged {
            Ok(Some(Judged::Validated(verdict))) => self.answer(&verdict),
            Ok(Some(Judged::Injected(review))) => json(&review),
            Ok(None) => plain(StatusCode::BAD_REQUEST, "not an AdmissionReview\n"),
            Err(error) if error.is_cancelled() => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "this replica is ending\n")
            }
            Err(panic) => {
                // Of this request only; the failurePolicy says what becomes of the object.
                warn!("a review failed; this is a bug, please report it: {panic}");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the review failed\n")
            }
        }
    }

    fn answer(&self, verdict: &Verdict) -> Answer {
        let Verdict { review, kind, is_allowed, is_dry_run } = verdict;
        let counter = if *is_allowed {
            &self.metrics.validation_passed
        } else {
            &self.metrics.validation_failed
        };
        if !is_dry_run {
            counter.with_label_values(&[kind]).inc();
        }
        json(review)
    }
}

fn json(review: &Value) -> Answer {
    let mut answer = Response::new(Full::new(review.to_string().into()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        task::JoinHandle,
    };

    use super::*;

    /// Connected to a webhook that may be told to end, and what serves it.
    fn client(ending: CancellationToken) -> (DuplexStream, JoinHandle<anyhow::Result<()>>) {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let webhook = Webhook { metrics, injector: None, reviews: Semaphore::new(1), ending };
        let (client, server) = duplex(1024);
        (client, tokio::spawn(serve(server, false, Arc::new(webhook))))
    }

    /// Hardening C03.
    #[tokio::test(start_paused = true)]
    async fn a_review_that_does_not_come_is_given_up() {
        let (mut client, serving) = client(CancellationToken::new());
        let head = "POST /validate HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n";
        client.write_all(head.as_bytes()).await.expect("a head");
        // Something comes all the time, and never all of it.
        let (mut reads, mut writes) = tokio::io::split(client);
        let slow = tokio::spawn(async move {
            while writes.write_all(b"{").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let mut answer = Vec::new();
        reads.read_to_end(&mut answer).await.expect("an answer and the end");
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert!(answer.ends_with("the review is too slow\n"), "{answer}");
        slow.abort();
        serving.await.expect("no panic").expect("the connection ends in peace");
    }

    #[tokio::test(start_paused = true)]
    async fn the_api_server_is_told_that_a_replica_ends_and_what_it_asks_until_then_is_answered() {
        let ending = CancellationToken::new();
        let (mut client, serving) = client(ending.clone());
        let request = "POST /validate HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}";
        let mut answer = [0; 1024];
        for _ in 0..2 {
            // The second comes when the replica is ending, and nobody has noticed.
            client.write_all(request.as_bytes()).await.expect("a request");
            let length = client.read(&mut answer).await.expect("an answer");
            assert!(answer[..length].starts_with(b"HTTP/1.1 400 Bad Request\r\n"));
            ending.cancel();
        }
        let end = timeout(2 * SPREAD, client.read(&mut answer)).await.expect("soon");
        assert_eq!(end.expect("the end"), 0);
        serving.await.expect("no panic").expect("the connection ends in peace");
    }
}
