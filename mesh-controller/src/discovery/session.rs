//! One stream: a push at a time, and what the proxy says to it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost::Message;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};
use weir_config::wire::{
    discovery::{DeltaDiscoveryRequest, Node, RESPONSE_SIZE, Resource},
    google::{Kind, Struct},
    resource::{MESH_TYPE, OBJECT_TYPE, Rejections, SECRET_TYPE, SYNC_TYPE, TYPES},
};

use super::{
    Identity, Proxies, ProxyStatus,
    codec::Response,
    mailbox::{Mailbox, Pending},
    proxies::Connected,
    push::{Subscription, Writer},
};
use crate::{
    metrics::Metrics,
    review::Reviews,
    store::{Labels, Section},
    translate::Audience,
};

/// How long a proxy may take to say what it wants.
const FIRST_REQUESTS: Duration = Duration::from_secs(30);
/// How long it may take to apply a push. One that does not answer holds resources, and nobody else.
const ANSWER: Duration = Duration::from_secs(120);
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

/// A push that is under way.
#[derive(Debug)]
struct Push {
    version: Arc<str>,
    since: Instant,
    deadline: Instant,
    unsent: VecDeque<Response>,
    /// Responses that were not answered yet.
    unanswered: BTreeSet<String>,
    rejected: BTreeMap<String, String>,
    /// What is in it: what is not rejected of that is no longer rejected.
    names: BTreeSet<Arc<str>>,
}

impl Sessions {
    /// Serves one proxy until it leaves, `ended`, or does something wrong.
    pub(super) async fn serve(
        &self,
        identity: Identity,
        mut requests: Streaming<DeltaDiscoveryRequest>,
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
                // It may be gone already.
                let _ = responses.try_send(Err(status));
            }
        }
    }

    async fn converse(
        &self,
        identity: &Identity,
        requests: &mut Streaming<DeltaDiscoveryRequest>,
        responses: &mpsc::Sender<Result<Response, Status>>,
    ) -> Result<(), Status> {
        let first = timeout(FIRST_REQUESTS, first_requests(requests))
            .await
            .map_err(|_| Status::deadline_exceeded("no subscription"))??;
        let Some(Hello { node, known }) = first else { return Ok(()) };
        let reads_secrets = self.reads_secrets(identity).await?;
        let audience = Audience {
            namespace: Arc::clone(&identity.account.namespace),
            labels: Arc::new(labels(&node)),
            reads_secrets,
            own_gateways_only: self.own_gateways_only,
        };
        info!(%identity, node = node.id, has = known.len(), "a proxy connected");
        let pod = identity.account.pod.clone();
        let subscription = Subscription { audience, pod, known };
        let mailbox = self.writer.subscribe(subscription).await;
        let mailbox = mailbox.ok_or_else(|| Status::unavailable("this replica is ending"))?;
        let connected = self.proxies.connect(ProxyStatus {
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
        requests: &mut Streaming<DeltaDiscoveryRequest>,
        responses: &mpsc::Sender<Result<Response, Status>>,
    ) -> Result<(), Status> {
        let mut push: Option<Push> = None;
        loop {
            let deadline = push.as_ref().map(|push| push.deadline);
            let has_unsent = push.as_ref().is_some_and(|push| !push.unsent.is_empty());
            tokio::select! {
                pending = mailbox.take(), if push.is_none() => {
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
                        if current.unanswered.is_empty() {
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

    /// Cuts what is pending into responses, in the order of their types, with the end at the end.
    fn start(&self, pending: Pending) -> Push {
        let number = self.pushes.fetch_add(1, Ordering::Relaxed);
        let version: Arc<str> = format!("{}/{number}", self.replica).into();
        let mut unsent = VecDeque::new();
        let mut size = 0;
        for (section, type_url) in
            [(Section::Mesh, MESH_TYPE), (Section::Secret, SECRET_TYPE), (Section::Object, OBJECT_TYPE)]
        {
            size += cut(&pending, section, type_url, &version, &mut unsent);
        }
        let sync = Resource::sync(version.to_string()).encode_to_vec().into();
        unsent.push_back(Response {
            push: Arc::clone(&version),
            type_url: SYNC_TYPE,
            nonce: String::new(),
            resources: vec![sync],
            removed: Vec::new(),
        });
        for (index, response) in unsent.iter_mut().enumerate() {
            response.nonce = format!("{version}/{index}");
        }
        self.metrics.push_size.observe(size as f64);
        debug!(push = &*version, resources = pending.changes.len(), size, "push");
        let now = Instant::now();
        Push {
            since: pending.since.unwrap_or(now),
            deadline: now + ANSWER,
            unanswered: unsent.iter().map(|response| response.nonce.clone()).collect(),
            unsent,
            rejected: BTreeMap::new(),
            names: pending.changes.into_keys().collect(),
            version,
        }
    }

    /// Takes note of the answer to a response.
    fn answer(&self, push: &mut Push, request: DeltaDiscoveryRequest) {
        if !push.unanswered.remove(&request.response_nonce) {
            // A subscription, or the answer to what is no longer asked.
            return;
        }
        let Some(error) = request.error_detail else { return };
        let rejections = Rejections::of_details(&error.details);
        let count = rejections.len().max(1) as u64;
        self.metrics.rejects.with_label_values(&[short(&request.type_url)]).inc_by(count);
        warn!(
            push = &*push.version,
            r#type = short(&request.type_url),
            "a proxy did not apply everything: {}",
            error.message
        );
        for rejection in rejections {
            push.rejected.insert(rejection.resource_name, rejection.message);
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

/// What a proxy says first.
struct Hello {
    node: Node,
    known: BTreeMap<String, String>,
}

/// Reads up to the first request for the end of pushes, with which all is said. `None` if the proxy
/// leaves before.
async fn first_requests(
    requests: &mut Streaming<DeltaDiscoveryRequest>,
) -> Result<Option<Hello>, Status> {
    let mut hello = Hello { node: Node::default(), known: BTreeMap::new() };
    let mut subscribed = BTreeSet::new();
    while let Some(request) = requests.message().await? {
        let Some(type_url) = TYPES.iter().find(|known| **known == request.type_url) else {
            // Of a newer proxy; it is not answered.
            debug!(type_url = request.type_url, "a type that is not served");
            continue;
        };
        if let Some(node) = request.node {
            hello.node = node;
        }
        hello.known.extend(request.initial_resource_versions);
        if !subscribed.insert(*type_url) {
            return Err(Status::invalid_argument("a type was subscribed to twice"));
        }
        if *type_url == SYNC_TYPE {
            hello.known.remove(weir_config::wire::resource::SYNC_NAME);
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

/// The responses for one type; returns their bytes.
fn cut(
    pending: &Pending,
    section: Section,
    type_url: &'static str,
    push: &Arc<str>,
    responses: &mut VecDeque<Response>,
) -> usize {
    let empty = || Response {
        push: Arc::clone(push),
        type_url,
        nonce: String::new(),
        resources: Vec::new(),
        removed: Vec::new(),
    };
    let mut response = empty();
    let (mut size, mut total) = (0, 0);
    for (name, change) in &pending.changes {
        if Section::of_name(name) != section {
            continue;
        }
        size += match change {
            Some(resource) => {
                response.resources.push(resource.bytes.clone());
                resource.bytes.len()
            }
            None => {
                response.removed.push(Arc::clone(name));
                name.len()
            }
        };
        if size >= RESPONSE_SIZE {
            responses.push_back(std::mem::replace(&mut response, empty()));
            total += std::mem::take(&mut size);
        }
    }
    if size > 0 {
        responses.push_back(response);
    }
    total + size
}

/// The labels a proxy says it has.
fn labels(node: &Node) -> Labels {
    let metadata = node.metadata.as_ref();
    let labels = metadata.and_then(|metadata| metadata.fields.get("LABELS")?.kind.as_ref());
    let Some(Kind::Struct(Struct { fields })) = labels else { return Labels::new() };
    let texts = fields.iter().filter_map(|(name, value)| match &value.kind {
        Some(Kind::String(text)) => Some((name.clone(), text.clone())),
        _ => None,
    });
    texts.collect()
}

/// The last part of a type's URL, as metrics and logs name it.
fn short(type_url: &str) -> &str {
    TYPES
        .iter()
        .find(|known| **known == type_url)
        .and_then(|known| known.rsplit('.').next())
        .unwrap_or("other")
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
