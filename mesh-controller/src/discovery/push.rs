//! The one writer: applies changes, brings the scopes up to date, and fills mailboxes.
//!
//! Nothing waits on purpose. While it works, changes gather, and the next round takes them all; so an
//! idle controller pushes at once, and a busy one in batches.

use std::{
    collections::{BTreeMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tracing::{error, info};
use weir_config::{api::Kind, wire::resource::ResourceName};

use super::{
    mailbox::{Mailbox, difference},
    post::{Place, Post},
    scopes::Scopes,
    served::Round,
};
use crate::{
    metrics::Metrics,
    store::{Change, Dirty, Position, Store},
    translate::Audience,
    watch::Listed,
};

/// Changes that are applied in one round, so that a storm does not keep proxies waiting for its end.
const ROUND: usize = 4096;

/// Everything the writer has.
#[derive(Debug)]
pub struct State {
    pub store: Store,
    scopes: Scopes,
    metrics: Arc<Metrics>,
    /// Of this replica, in the names of pushes.
    replica: Arc<str>,
    /// Rounds so far, told to who waits for one.
    rounds: watch::Sender<u64>,
}

/// What the writer works with.
#[derive(Debug)]
pub struct Parts {
    pub store: Store,
    pub changes: mpsc::Receiver<Vec<Change>>,
    pub listed: Listed,
    pub metrics: Arc<Metrics>,
    /// Names this replica.
    pub replica: Arc<str>,
    /// Hears which objects every round touched.
    pub touched: mpsc::UnboundedSender<Dirty>,
}

/// A proxy that wants to be told.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) audience: Audience,
    /// The pod it runs in, whose labels are the ones that count, if it is known.
    pub(super) pod: Option<Arc<str>>,
    /// What it has: versions by name.
    pub(super) known: BTreeMap<String, String>,
}

/// Something to do with the state, between two rounds.
type Visit = Box<dyn FnOnce(&mut State) + Send>;

/// The way to the writer, for everybody else.
#[derive(Debug, Clone)]
pub struct Writer {
    visits: mpsc::Sender<Visit>,
    /// Rounds so far.
    rounds: watch::Receiver<u64>,
}

impl Writer {
    /// Runs `visit` on the writer once the first lists are complete, and returns what it returns.
    /// `None` if the writer has ended. To be short: everybody waits.
    pub async fn visit<T: Send + 'static>(
        &self,
        visit: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let visit: Visit = Box::new(move |state| {
            // Nobody waits any more if it fails.
            let _ = sender.send(visit(state));
        });
        self.visits.send(visit).await.ok()?;
        receiver.await.ok()
    }

    /// Waits until everything up to `position` is known.
    pub(super) async fn reaches(&self, position: Position) {
        let (position, mut rounds) = (Arc::new(position), self.rounds.clone());
        loop {
            let wanted = Arc::clone(&position);
            let includes = self.visit(move |state| state.store.includes(&wanted)).await;
            if includes != Some(false) || rounds.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) async fn subscribe(&self, subscription: Subscription) -> Option<Arc<Mailbox>> {
        self.visit(move |state| state.subscribe(subscription)).await
    }
}

/// Starts the writer; nothing goes on without it, so the process is to end with its task.
pub fn start(parts: Parts) -> (Writer, JoinHandle<()>) {
    let Parts { store, changes, listed, metrics, replica, touched } = parts;
    let (sender, visits) = mpsc::channel(64);
    let (rounds, told) = watch::channel(0);
    let state = State { store, scopes: Scopes::default(), metrics, replica, rounds };
    let task = tokio::spawn(run(state, changes, listed, visits, touched));
    (Writer { visits: sender, rounds: told }, task)
}

async fn run(
    mut state: State,
    mut changes: mpsc::Receiver<Vec<Change>>,
    mut listed: Listed,
    mut visits: mpsc::Receiver<Visit>,
    touched: mpsc::UnboundedSender<Dirty>,
) {
    let mut is_complete = false;
    loop {
        tokio::select! {
            // Changes first: who visits sees all that is known.
            biased;
            batch = changes.recv() => {
                let Some(mut batch) = batch else { return };
                while batch.len() < ROUND && let Ok(more) = changes.try_recv() {
                    batch.extend(more);
                }
                let dirty = state.round(batch);
                // Nobody may be interested in status.
                let _ = touched.send(dirty);
                // In a storm of changes there are always more.
                while is_complete && let Ok(visit) = visits.try_recv() {
                    state.visited(visit);
                }
            }
            visit = visits.recv(), if is_complete => {
                let Some(visit) = visit else { return };
                state.visited(visit);
            }
            // Each list is in the channel before it is said to be complete, and that is read first.
            result = listed.wait_for(|listed| listed.iter().all(|done| *done)), if !is_complete => {
                if result.is_err() {
                    return;
                }
                is_complete = changes.is_empty();
                if is_complete {
                    info!(objects = state.store.entries().count(), "the first lists are complete");
                }
            }
        }
    }
}

impl State {
    /// The audiences that are served, with the number of their objects and proxies.
    pub fn audiences(&self) -> impl Iterator<Item = (&Audience, usize, usize)> {
        self.scopes.iter().map(|(audience, served)| (audience, served.scope.len(), served.len()))
    }

    /// A panic, which is a bug, costs the visitor his answer.
    fn visited(&mut self, visit: Visit) {
        if catch_unwind(AssertUnwindSafe(|| visit(self))).is_err() {
            error!("a question to the store brought out a bug; it is not answered");
        }
    }

    fn round(&mut self, changes: Vec<Change>) -> Dirty {
        let since = Instant::now();
        let dirty = self.store.apply(changes);
        self.rounds.send_modify(|rounds| *rounds += 1);
        let round = Round { store: &self.store, dirty: &dirty, place: self.place(), since };
        self.scopes.update(&round);
        self.observe(since);
        dirty
    }

    /// Where proxies are that have everything up to this round.
    fn place(&self) -> Place {
        Place {
            version: format!("{}/{}", self.replica, *self.rounds.borrow()).into(),
            position: self.store.position().to_string().into(),
        }
    }

    fn observe(&self, since: Instant) {
        self.metrics.push_time.observe(since.elapsed().as_secs_f64());
        self.metrics.scopes.set(self.scopes.len() as i64);
    }

    fn subscribe(&mut self, subscription: Subscription) -> Arc<Mailbox> {
        let Subscription { mut audience, pod, known } = subscription;
        let (place, store) = (self.place(), &self.store);
        let labels = pod.and_then(|pod| store.pod_labels(&audience.namespace, &pod));
        audience.labels = Arc::clone(labels.unwrap_or(&audience.labels));
        let labels = Arc::clone(&audience.labels);
        let served = self.scopes.enter(audience, store);
        let wanted = served.scope.resources().chain([&store.mesh().resource]);
        let unreadable: HashSet<String> =
            store.unreadable().map(|(key, _)| ResourceName::from(key).to_string()).collect();
        // What cannot be read is not gone: the proxy has its last good version.
        let first = difference(&known, wanted, |name| unreadable.contains(name));
        let mailbox = Mailbox::new(Post::new(place, Instant::now(), first));
        let mailbox = Arc::new(mailbox);
        served.add(&mailbox, labels);
        self.metrics.scopes.set(self.scopes.len() as i64);
        mailbox
    }

    /// Brings the gauges of objects up to date.
    pub fn count_objects(&self) {
        let mut counts: BTreeMap<Kind, i64> = BTreeMap::new();
        for entry in self.store.entries() {
            *counts.entry(entry.key.kind).or_default() += 1;
        }
        let count = |kind: Kind| counts.get(&kind).copied().unwrap_or_default();
        self.metrics.services.set(count(Kind::Service) + count(Kind::ServiceEntry));
        self.metrics.virtual_services.set(count(Kind::VirtualService));
        self.metrics.objects.reset();
        for (kind, count) in counts {
            self.metrics.objects.with_label_values(&[kind.name()]).set(count);
        }
    }
}
