//! One stream: a push at a time, and what the proxy says to it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::body::Incoming;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};
use weir_config::wire::discovery::DeltaDiscoveryRequest;

use super::{
    Identity, Proxies, ProxyStatus,
    codec::Response,
    hello::{Hello, first_requests, labels, proxy_type},
    in_flight::{Push, short},
    mailbox::{Mailbox, Pending},
    proxies::Connected,
    push::{Subscription, Writer},
    requests::Requests,
};
use crate::{metrics::Metrics, review::Reviews, translate::Audience};

/// How long a proxy may take to say what it wants.
const FIRST_REQUESTS: Duration = Duration::from_secs(30);
/// How long it may take to take note of how the stream ends.
const LAST_WORD: Duration = Duration::from_millis(500);
/// How often it is asked whether it may still read Secrets.
const PERMISSION: Duration = Duration::from_secs(60);

/// What all sessions share.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) writer: Writer,
    pub(super) reviews: Arc<Reviews>,
    pub(super) proxies: Arc<Proxies>,
    pub(super) metrics: Arc<Metrics>,
    /// Of this replica, in the names of pushes.
    pub(super) replica: Arc<str>,
    pub(super) own_gateways_only: bool,
    pub(super) pushes: AtomicU64,
}

impl Sessions {
    /// Serves one proxy until it leaves, `ended`, or does something wrong.
    pub(super) async fn serve(
        &self,
        identity: Identity,
        mut requests: Requests<Incoming>,
        responses: mpsc::Sender<Result<Response, Status>>,
        ended: CancellationToken,
    ) {
        let result = tokio::select! {
            result = self.converse(&identity, &mut requests, &responses) => result,
            () = ended.cancelled() => Err(Status::unavailable("this replica is ending")),
        };
        match result {
            Ok(()) => debug!(%identity, "a proxy left"),
            Err(status) => {
                info!(%identity, code = ?status.code(), "a stream ends: {}", status.message());
                // It may be gone already, or not be reading.
                let _ = timeout(LAST_WORD, responses.send(Err(status))).await;
            }
        }
    }

    async fn converse(
        &self,
        identity: &Identity,
        requests: &mut Requests<Incoming>,
        responses: &mpsc::Sender<Result<Response, Status>>,
    ) -> Result<(), Status> {
        let first = timeout(FIRST_REQUESTS, first_requests(requests))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no subscription")))?;
        let Some(Hello { node, known }) = first else { return Ok(()) };
        let reads_secrets = self.reads_secrets(identity).await?;
        let audience = Audience {
            namespace: Arc::clone(&identity.account.namespace),
            labels: Arc::new(labels(&node)),
            reads_secrets,
            own_gateways_only: self.own_gateways_only,
            proxy_type: proxy_type(&node),
        };
        info!(%identity, node = node.id, has = known.len(), "a proxy connected");
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
        let _counted = Counted::new(&self.metrics);
        tokio::select! {
            result = self.exchange(&mailbox, &connected, requests, responses) => result,
            status = self.permission_lost(identity, reads_secrets) => Err(status),
        }
    }

    /// Sends what comes into the mailbox, one push after the other.
    async fn exchange(
        &self,
        mailbox: &Mailbox,
        connected: &Connected,
        requests: &mut Requests<Incoming>,
        responses: &mpsc::Sender<Result<Response, Status>>,
    ) -> Result<(), Status> {
        let mut push: Option<Push> = None;
        loop {
            let deadline = push.as_ref().map(|push| push.deadline);
            let has_unsent = push.as_ref().is_some_and(|push| !push.unsent.is_empty());
            tokio::select! {
                pending = mailbox.take(), if push.is_none() => {
                    let pending = pending.ok_or_else(|| Status::unavailable("a bug; see the log"))?;
                    let started = self.start(pending);
                    connected.update(|status| status.sent = Arc::clone(&started.version));
                    push = Some(started);
                }
                permit = responses.reserve(), if has_unsent => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(response) = push.as_mut().and_then(|push| push.unsent.pop_front()) {
                        self.metrics.pushes.with_label_values(&[short(response.type_url)]).inc();
                        permit.send(Ok(response));
                    }
                }
                request = requests.message() => {
                    let Some(request) = request? else { return Ok(()) };
                    if let Some(current) = &mut push {
                        self.answer(current, request);
                        if current.is_done() {
                            self.finish(current, connected);
                            push = None;
                        }
                    }
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Err(Status::deadline_exceeded("a push was not answered"));
                }
            }
        }
    }

    fn start(&self, pending: Pending) -> Push {
        let number = self.pushes.fetch_add(1, Ordering::Relaxed);
        let push = Push::new(format!("{}/{number}", self.replica).into(), pending);
        self.metrics.push_size.observe(push.size as f64);
        debug!(push = &*push.version, resources = push.names.len(), size = push.size, "push");
        push
    }

    /// Takes note of the answer to a response.
    fn answer(&self, push: &mut Push, request: DeltaDiscoveryRequest) {
        let r#type = short(&request.type_url);
        if let Some(refusal) = push.answer(request) {
            self.metrics.rejects.with_label_values(&[r#type]).inc_by(refusal.count);
            let message = refusal.message;
            warn!(push = &*push.version, r#type, "a proxy did not apply everything: {message}");
        }
    }

    fn finish(&self, push: &mut Push, connected: &Connected) {
        self.metrics.convergence.observe(push.since.elapsed().as_secs_f64());
        let rejected = std::mem::take(&mut push.rejected);
        connected.update(|status| {
            status.acknowledged = Arc::clone(&push.version);
            status.rejected.retain(|name, _| !push.names.contains(name.as_str()));
            status.rejected.extend(rejected);
        });
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

/// Counts a connected proxy as long as it exists.
struct Counted<'a>(&'a Metrics);

impl<'a> Counted<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.connected.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connected.dec();
    }
}
