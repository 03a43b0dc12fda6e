//! One stream: a push at a time, and what the proxy says to it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::body::Incoming;
use prometheus::IntGauge;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};
use weir_config::wire::{
    discovery::{DeltaDiscoveryRequest, WHOLE_PUSHES},
    resource::type_of_name,
};

use super::{
    Identity, Proxies, ProxyStatus,
    hello::{Hello, first_requests, labels, proxy_type},
    in_flight::{Push, Refusal, short},
    mailbox::Mailbox,
    post::Post,
    proxies::Connected,
    push::{Subscription, Writer},
    requests::Requests,
};
use crate::{metrics::Metrics, review::Reviews, store::Position, translate::Audience};

/// How long a proxy may take to say what it wants.
const FIRST_REQUESTS: Duration = Duration::from_secs(30);
/// How long it may take to take note of how the stream ends.
const LAST_WORD: Duration = Duration::from_millis(500);
/// How long a proxy waits here that was told newer things elsewhere, before it is sent away.
const BEHIND: Duration = Duration::from_secs(5);
/// How often it is asked whether it may still read Secrets.
const PERMISSION: Duration = Duration::from_secs(60);

/// What all sessions share.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) writer: Writer,
    pub(super) reviews: Arc<Reviews>,
    pub(super) proxies: Arc<Proxies>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) own_gateways_only: bool,
    /// How long a proxy may take to apply a push. One that does not answer holds resources, and nobody
    /// else.
    pub(super) push_timeout: Duration,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The proxy left, or was told why.
    Told,
    /// The proxy did not read how: what was sent before is still in the way.
    Unread,
}

/// Messages to a proxy, and how its stream ends.
type Responses = mpsc::Sender<Result<Bytes, Status>>;

/// Both ways to a proxy.
struct Link<'a> {
    requests: &'a mut Requests<Incoming>,
    responses: &'a Responses,
    /// It understands a push that is one response.
    takes_whole: bool,
}

/// What became of a push.
enum Delivered {
    Answered,
    /// The proxy is gone.
    Left,
}

impl Sessions {
    /// Serves one proxy until it leaves, `ended`, or does something wrong.
    pub(super) async fn serve(
        &self,
        identity: Identity,
        mut requests: Requests<Incoming>,
        responses: Responses,
        ended: CancellationToken,
    ) -> End {
        let result = tokio::select! {
            result = self.converse(&identity, &mut requests, &responses) => result,
            () = ended.cancelled() => Err(Status::unavailable("this replica is ending")),
        };
        match result {
            Ok(()) => {
                debug!(%identity, "a proxy left");
                End::Told
            }
            Err(status) => {
                info!(%identity, code = ?status.code(), "a stream ends: {}", status.message());
                let told = async {
                    // It may be gone already.
                    let _ = responses.send(Err(status)).await;
                    responses.closed().await;
                };
                let told = timeout(LAST_WORD, told).await;
                told.map_or(End::Unread, |()| End::Told)
            }
        }
    }

    async fn converse(
        &self,
        identity: &Identity,
        requests: &mut Requests<Incoming>,
        responses: &Responses,
    ) -> Result<(), Status> {
        let first = timeout(FIRST_REQUESTS, first_requests(requests))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no subscription")))?;
        let Some(Hello { node, known, position }) = first else { return Ok(()) };
        self.catch_up(position).await?;
        let reads_secrets = self.reads_secrets(identity).await?;
        let audience = Audience {
            namespace: Arc::clone(&identity.account.namespace),
            labels: Arc::new(labels(&node)),
            reads_secrets,
            own_gateways_only: self.own_gateways_only,
            proxy_type: proxy_type(&node),
        };
        info!(%identity, node = node.id, has = known.len(), "a proxy connected");
        let takes_whole = node.client_features.iter().any(|feature| feature == WHOLE_PUSHES);
        let pod = identity.account.pod.clone();
        let subscription = Subscription { audience, pod, known };
        let mailbox = self.writer.subscribe(subscription).await;
        let mailbox = mailbox.ok_or_else(|| Status::unavailable("this replica is ending"))?;
        let metadata = node.metadata.as_ref();
        let cluster = metadata.and_then(|metadata| metadata.text("CLUSTER_ID"));
        let connected = self.proxies.connect(ProxyStatus {
            cluster: cluster.unwrap_or_default().into(),
            node: node.id.into(),
            identity: identity.to_string().into(),
            version: node.user_agent_version.into(),
            sent: Arc::default(),
            acknowledged: Arc::default(),
            rejected: BTreeMap::new(),
        });
        let _counted = Counted::new(&self.metrics.connected);
        let link = Link { requests, responses, takes_whole };
        tokio::select! {
            result = self.exchange(&mailbox, &connected, link) => result,
            status = self.permission_lost(identity, reads_secrets) => Err(status),
        }
    }

    /// Sends what comes into the mailbox, one push after the other.
    async fn exchange(
        &self,
        mailbox: &Mailbox,
        connected: &Connected,
        Link { requests, responses, takes_whole }: Link<'_>,
    ) -> Result<(), Status> {
        loop {
            let post = tokio::select! {
                post = mailbox.take() => post.ok_or_else(|| Status::unavailable("a bug; see the log"))?,
                // Between pushes nothing is waited for; what comes is read so that its end is seen.
                request = requests.message() => match request? {
                    Some(_) => continue,
                    None => return Ok(()),
                },
            };
            let mut push = self.start(post, takes_whole);
            connected.update(|status| status.sent = Arc::clone(&push.post.version));
            let delivered =
                timeout(self.push_timeout, self.deliver(&mut push, requests, responses)).await;
            match delivered {
                Ok(Ok(Delivered::Answered)) => self.finish(push, connected),
                Ok(Ok(Delivered::Left)) => return Ok(()),
                Ok(Err(status)) => return Err(status),
                Err(_) => return Err(Status::deadline_exceeded("a push was not answered")),
            }
        }
    }

    /// Sends a push and waits until all of it is answered.
    async fn deliver(
        &self,
        push: &mut Push,
        requests: &mut Requests<Incoming>,
        responses: &Responses,
    ) -> Result<Delivered, Status> {
        while !push.is_done() {
            tokio::select! {
                permit = responses.reserve(), if push.has_unsent() => {
                    let Ok(permit) = permit else { return Ok(Delivered::Left) };
                    if let Some(message) = push.next() {
                        permit.send(Ok(message));
                    }
                }
                request = requests.message() => {
                    let Some(request) = request? else { return Ok(Delivered::Left) };
                    self.answer(push, request);
                }
            }
        }
        Ok(Delivered::Answered)
    }

    fn start(&self, post: Arc<Post>, takes_whole: bool) -> Push {
        self.metrics.push_size.observe(post.size as f64);
        for type_url in post.types() {
            self.metrics.pushes.with_label_values(&[short(type_url)]).inc();
        }
        debug!(push = &*post.version, resources = post.changes.len(), size = post.size, "push");
        Push::new(post, takes_whole)
    }

    /// Takes note of the answer to a response.
    fn answer(&self, push: &mut Push, request: DeltaDiscoveryRequest) {
        let answered = short(&request.type_url);
        let Some(Refusal { message, names }) = push.answer(request) else { return };
        let count = |r#type: &str| self.metrics.rejects.with_label_values(&[r#type]).inc();
        names.iter().for_each(|name| count(short(type_of_name(name))));
        if names.is_empty() {
            // It does not say which: one at least.
            count(answered);
        }
        warn!(push = &*push.post.version, "a proxy did not apply everything: {message}");
    }

    fn finish(&self, push: Push, connected: &Connected) {
        let Push { post, rejected, .. } = push;
        self.metrics.convergence.observe(post.since.elapsed().as_secs_f64());
        connected.update(|status| {
            status.acknowledged = Arc::clone(&post.version);
            status.rejected.retain(|name, _| !post.changes.contains_key(name.as_str()));
            status.rejected.extend(rejected);
        });
    }

    /// Waits until what a proxy has from elsewhere is known here: it is not to go back.
    async fn catch_up(&self, position: Position) -> Result<(), Status> {
        let _counted = Counted::new(&self.metrics.waiting);
        let reached = timeout(BEHIND, self.writer.reaches(position)).await;
        reached.map_err(|_elapsed| {
            self.metrics.behind.inc();
            Status::failed_precondition("this replica knows less than the proxy was sent before")
        })
    }

    async fn reads_secrets(&self, identity: &Identity) -> Result<bool, Status> {
        self.reviews.reads_secrets(&identity.account).await.map_err(|error| {
            warn!(%identity, "permissions cannot be looked up: {error:#}");
            Status::unavailable("permissions cannot be looked up")
        })
    }

    /// Returns when the answer to whether it may read Secrets has become another.
    async fn permission_lost(&self, identity: &Identity, reads_secrets: bool) -> Status {
        loop {
            tokio::time::sleep(PERMISSION).await;
            if self.reads_secrets(identity).await.is_ok_and(|now| now != reads_secrets) {
                return Status::unavailable("permissions changed");
            }
        }
    }
}

/// Counts a proxy as long as it exists.
struct Counted<'a>(&'a IntGauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
