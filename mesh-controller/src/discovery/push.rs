//! The one writer: applies changes, brings the scopes up to date, and fills mailboxes.
//!
//! Nothing waits on purpose. While it works, changes gather, and the next round takes them all; so an
//! idle controller pushes at once, and a busy one in batches.

use std::{
    collections::{BTreeMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tracing::{error, info};
use weir_config::{api::Kind, wire::resource::ResourceName};

use super::mailbox::{Mailbox, difference};
use crate::{
    metrics::Metrics,
    store::{Change, Dirty, Store},
    translate::{Audience, Delta, Scope},
    watch::Listed,
};

/// Changes that are applied in one round, so that a storm does not keep proxies waiting for its end.
const ROUND: usize = 4096;

/// Everything the writer has.
#[derive(Debug)]
pub struct State {
    pub store: Store,
    scopes: BTreeMap<Audience, Served>,
    metrics: Arc<Metrics>,
}

/// A scope, and who gets it.
#[derive(Debug)]
struct Served {
    scope: Scope,
    mailboxes: Vec<Weak<Mailbox>>,
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

    pub(super) async fn subscribe(&self, subscription: Subscription) -> Option<Arc<Mailbox>> {
        self.visit(move |state| state.subscribe(subscription)).await
    }
}

/// Starts the writer; nothing goes on without it, so the process is to end with its task. `touched` hears which objects every round touched.
pub fn start(
    store: Store,
    changes: mpsc::Receiver<Vec<Change>>,
    listed: Listed,
    metrics: Arc<Metrics>,
    touched: mpsc::UnboundedSender<Dirty>,
) -> (Writer, JoinHandle<()>) {
    let (sender, visits) = mpsc::channel(64);
    let state = State { store, scopes: BTreeMap::new(), metrics };
    let task = tokio::spawn(run(state, changes, listed, visits, touched));
    (Writer { visits: sender }, task)
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
        self.scopes
            .iter()
            .map(|(audience, served)| (audience, served.scope.len(), served.mailboxes.len()))
    }

    /// What proxies of `audience` have.
    #[must_use]
    pub fn scope(&self, audience: &Audience) -> Option<&Scope> {
        self.scopes.get(audience).map(|served| &served.scope)
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
        let store = &self.store;
        self.scopes.retain(|audience, served| {
            // A panic, which is a bug, leaves a scope that is not to be gone on with. Its proxies come
            // back, and get what they lack of a new one.
            let updated = catch_unwind(AssertUnwindSafe(|| served.update(store, &dirty, since)));
            if updated.is_err() {
                error!(
                    namespace = &*audience.namespace,
                    "a scope brought out a bug; it is begun anew"
                );
                served.close();
            }
            updated.is_ok() && served.is_used()
        });
        self.observe(since);
        dirty
    }

    fn observe(&self, since: Instant) {
        self.metrics.push_time.observe(since.elapsed().as_secs_f64());
        self.metrics.scopes.set(self.scopes.len() as i64);
    }

    fn subscribe(&mut self, subscription: Subscription) -> Arc<Mailbox> {
        let Subscription { mut audience, pod, known } = subscription;
        if let Some(labels) = pod.and_then(|pod| self.store.pod_labels(&audience.namespace, &pod)) {
            audience.labels = Arc::clone(labels);
        }
        self.scopes.retain(|_, served| served.is_used());
        let store = &self.store;
        let served = self.scopes.entry(audience.clone()).or_insert_with(|| Served {
            scope: Scope::new(audience, store),
            mailboxes: Vec::new(),
        });
        let wanted = served.scope.resources().chain([&store.mesh().resource]);
        let unreadable: HashSet<String> =
            store.unreadable().map(|(key, _)| ResourceName::from(key).to_string()).collect();
        // What cannot be read is not gone: the proxy has its last good version.
        let first = difference(&known, wanted, |name| unreadable.contains(name));
        let mailbox = Arc::new(Mailbox::new(first));
        served.mailboxes.push(Arc::downgrade(&mailbox));
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

impl Served {
    /// Brings the scope up to date, and posts what changed.
    fn update(&mut self, store: &Store, dirty: &Dirty, since: Instant) {
        let mut delta = if dirty.visibility {
            self.scope.rebuild(store)
        } else {
            self.scope.update(store, &dirty.objects)
        };
        if dirty.mesh {
            add_mesh(&mut delta, store);
        }
        if !delta.is_empty() {
            self.post(&delta, since);
        }
    }

    /// Ends the streams of its proxies.
    fn close(&self) {
        self.mailboxes.iter().filter_map(Weak::upgrade).for_each(|mailbox| mailbox.close());
    }

    fn post(&self, delta: &Delta, since: Instant) {
        for mailbox in self.mailboxes.iter().filter_map(Weak::upgrade) {
            mailbox.post(delta, since);
        }
    }

    /// Drops the mailboxes of streams that have ended.
    fn is_used(&mut self) -> bool {
        self.mailboxes.retain(|mailbox| mailbox.strong_count() > 0);
        !self.mailboxes.is_empty()
    }
}

fn add_mesh(delta: &mut Delta, store: &Store) {
    let resource = &store.mesh().resource;
    delta.insert(Arc::clone(&resource.name), Some(Arc::clone(resource)));
}
