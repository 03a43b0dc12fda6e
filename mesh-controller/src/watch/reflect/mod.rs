//! Keeps the store equal to what the API server has of one kind.
//!
//! List, then watch from the list's version on. A watch that ends is continued where it stopped; one
//! that is too old for that (410) begins with a list again, and what the list lacks of what is known
//! is gone. No failure is a deletion.

use std::{
    collections::HashSet,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use kube::Client;
use rustc_hash::FxBuildHasher;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Timing, Watched,
    known::{Known, Missing},
    reduce,
    request::{self, Document, Error, Event, Identity},
};
use crate::{metrics::Metrics, store::Change};

/// How long the API server may take to begin an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a watch may be silent. The API server says every minute that nothing happened, so after
/// this one the connection is dead, or the server is: asking anew tells.
const SILENCE: Duration = Duration::from_secs(75);
/// How long a watch goes on, at least; some more each time, so that they do not all end at once.
const WATCH_SECONDS: u32 = 300;

/// Failures in a row that are worth a warning.
const NOTEWORTHY: u32 = 2;

/// One kind's.
pub(super) struct Reflector {
    pub(super) watched: &'static Watched,
    pub(super) client: Client,
    pub(super) domain: Arc<str>,
    pub(super) timing: Timing,
    pub(super) metrics: Arc<Metrics>,
    pub(super) changes: mpsc::Sender<Vec<Change>>,
    /// Told when the API server answers one of the kinds again.
    pub(super) reachable: Arc<Notify>,
}

/// Where it stands.
#[derive(Default)]
struct State {
    known: Known,
    /// The version to watch from; `None`: list first.
    position: Option<String>,
    /// The version that is served, of those that are read.
    served: usize,
    failures: u32,
    /// Since the last thing that went well.
    after_failure: bool,
    /// When to list again because the last list was not believed.
    list_at: Option<Instant>,
    /// The newest version of the whole that was seen.
    newest: u64,
    older_since: Option<Instant>,
}

impl State {
    /// A server that lags behind would bring back what has changed since. If it goes on, history has
    /// been rewritten (a restored backup), and it is right.
    fn reject_older(&mut self, version: &str, doubt: Duration) -> Result<(), Error> {
        let Ok(version) = version.parse::<u64>() else { return Ok(()) };
        let is_older = version < self.newest
            && self.older_since.get_or_insert_with(Instant::now).elapsed() < doubt;
        if is_older {
            let newest = self.newest;
            return Err(Error::Failed(anyhow::anyhow!(
                "the list is of version {version}, and {newest} was seen already"
            )));
        }
        self.older_since = None;
        self.newest = version;
        Ok(())
    }
}

impl Reflector {
    /// Runs until nobody listens. `listed` is called after the first list, or when the kind turns out
    /// not to be installed.
    pub(super) async fn run(self, listed: impl FnOnce() + Send) {
        let mut state = State::default();
        let mut listed = Some(listed);
        while !self.changes.is_closed() {
            let result = match state.position.clone() {
                None => self.list(&mut state).await,
                Some(position) => self.watch(&mut state, position).await,
            };
            let has_list = state.position.is_some() || matches!(result, Err(Error::NotInstalled));
            if has_list && let Some(listed) = listed.take() {
                listed();
            }
            self.recover(&mut state, result).await;
        }
    }

    /// After success nothing; after a failure, a wait.
    async fn recover(&self, state: &mut State, result: Result<(), Error>) {
        let kind = self.watched.kind.name();
        match result {
            Ok(()) => {
                self.succeeded(state);
            }
            Err(Error::Expired) => {
                debug!(kind, "the version to go on from is no longer kept; listing again");
                state.position = None;
                // The list may be answered by a server that is as old: not at full speed.
                sleep(jitter(self.timing.first_retry)).await;
            }
            Err(Error::NotInstalled) => {
                debug!(kind, "not installed");
                state.position = None;
                sleep(jitter(self.timing.not_installed)).await;
            }
            Err(Error::Failed(error)) => {
                state.failures = state.failures.saturating_add(1);
                state.after_failure = true;
                self.metrics.watch_failures.with_label_values(&[kind]).inc();
                // Connections end for many reasons; the next attempt tells.
                if state.failures == NOTEWORTHY {
                    warn!(kind, "cannot be watched; what is known stays in force: {error:#}");
                } else {
                    debug!(kind, "a request of the watch failed: {error:#}");
                }
                let doubled = self.timing.first_retry * 2_u32.pow(state.failures.min(16) - 1);
                let wait = jitter(doubled.min(self.timing.longest_retry));
                tokio::select! {
                    () = sleep(wait) => {}
                    // Another kind has got through: so that they do not all come at once.
                    () = self.reachable.notified() => {
                        sleep(jitter(self.timing.first_retry).min(wait)).await;
                    }
                }
            }
        }
    }

    fn succeeded(&self, state: &mut State) {
        if state.failures == 0 {
            return;
        }
        if state.failures >= NOTEWORTHY {
            info!(kind = self.watched.kind.name(), "the API server answers again");
        }
        state.failures = 0;
        self.reachable.notify_waiters();
    }

    /// Everything there is, page by page, and what is no more.
    async fn list(&self, state: &mut State) -> Result<(), Error> {
        let mut listed: HashSet<Box<str>, FxBuildHasher> = HashSet::default();
        let mut next: Option<String> = None;
        let mut changed = 0;
        let position = loop {
            let page = self.page(state, next.as_deref()).await?;
            state.reject_older(&page.version, self.timing.doubt)?;
            let mut batch = Vec::with_capacity(page.items.len());
            for object in page.items {
                changed = changed.max(number(Identity::of(&object).resource_version));
                let (name, change) = self.read(&mut state.known, object);
                listed.insert(name);
                batch.extend(change);
            }
            self.send(batch).await;
            match page.next {
                Some(token) => next = Some(token),
                None => break page.version,
            }
        };
        self.remove_missing(state, |name| listed.contains(name)).await;
        // What is missing may be kept in doubt: then everything up to here is known all the same.
        let (kind, version) = (self.watched.kind.name(), number(&position));
        self.send(vec![Change::Listed { kind, version, changed }]).await;
        state.after_failure = false;
        state.position = Some(position);
        Ok(())
    }

    /// A page of the list, in the first version that is served.
    async fn page(&self, state: &mut State, next: Option<&str>) -> Result<request::Page, Error> {
        loop {
            let version = self.watched.versions[state.served];
            match answer(request::list(&self.client, self.watched, version, next)).await {
                Err(Error::NotInstalled) if state.served + 1 < self.watched.versions.len() => {
                    state.served += 1;
                }
                Err(Error::NotInstalled) => {
                    state.served = 0;
                    return Err(self.not_installed());
                }
                page => return page,
            }
        }
    }

    async fn remove_missing(&self, state: &mut State, is_listed: impl Fn(&str) -> bool) {
        let doubt = self.timing.doubt;
        let kind = self.watched.kind.name();
        match state.known.missing(is_listed, state.after_failure, Instant::now(), doubt) {
            Missing::Gone(names) => {
                state.list_at = None;
                self.forget(&mut state.known, &names).await;
            }
            Missing::Doubted(count) => {
                warn!(
                    kind,
                    count,
                    "after a failure, the list lacks much of what is known; it is kept until later \
                     lists say the same"
                );
                self.metrics.doubted_deletions.with_label_values(&[kind]).inc();
                state.list_at = Some(Instant::now() + doubt / 4);
            }
        }
    }

    /// A kind of Kubernetes' own is always there: an API server that says otherwise is not well.
    fn not_installed(&self) -> Error {
        if self.watched.is_custom() {
            Error::NotInstalled
        } else {
            Error::Failed(anyhow::anyhow!("the API server says there is no such kind"))
        }
    }

    /// Follows what happens from `position` on, until the API server ends the watch.
    async fn watch(&self, state: &mut State, position: String) -> Result<(), Error> {
        let now = Instant::now();
        let seconds = WATCH_SECONDS + fastrand::u32(..WATCH_SECONDS);
        let version = self.watched.versions[state.served];
        let end = now + Duration::from_secs(u64::from(seconds) + 30);
        let list_at = state.list_at.unwrap_or(end);
        let events = request::watch(&self.client, self.watched, version, &position, seconds);
        let mut events = answer(events).await?;
        self.succeeded(state);
        loop {
            let event = tokio::select! {
                event = timeout(SILENCE, events.next()) => event,
                () = tokio::time::sleep_until(list_at) => {
                    state.position = None;
                    return Ok(());
                }
            };
            // Silent: it is continued where it stopped, on another connection.
            let Ok(event) = event else { return Ok(()) };
            let Some(event) = event? else { return Ok(()) };
            let changes = self.follow(state, event);
            state.after_failure = false;
            self.send(changes).await;
        }
    }

    /// The change an event is, if it is one, and how far the watch is with it.
    fn follow(&self, state: &mut State, event: Event) -> Vec<Change> {
        let kind = self.watched.kind.name();
        let (Event::Upsert(object) | Event::Delete(object) | Event::Bookmark(object)) = &event;
        let identity = Identity::of(object);
        let version = number(identity.resource_version);
        if !identity.resource_version.is_empty() {
            state.position = Some(identity.resource_version.to_owned());
            state.newest = state.newest.max(version);
        }
        let is_change = !matches!(event, Event::Bookmark(_));
        let change = match event {
            Event::Upsert(object) => {
                self.metrics.watch_events.with_label_values(&[kind, "update"]).inc();
                self.read(&mut state.known, object).1
            }
            Event::Delete(_) => {
                self.metrics.watch_events.with_label_values(&[kind, "delete"]).inc();
                let is_known = state.known.remove(&name(identity));
                is_known.then(|| reduce::remove(self.watched, identity.namespace, identity.name))
            }
            Event::Bookmark(_) => None,
        };
        change.into_iter().chain([Change::Watched { kind, version, is_change }]).collect()
    }

    /// The name of an object, and what is new about it.
    fn read(&self, known: &mut Known, object: Document) -> (Box<str>, Option<Change>) {
        let identity = Identity::of(&object);
        let name = name(identity);
        let is_new = known.insert(&name, identity.resource_version);
        if !is_new {
            return (name, None);
        }
        // A bug that one object brings out must not stop all others of its kind.
        let unread = reduce::unread(self.watched, &object);
        let read = AssertUnwindSafe(|| reduce::upsert(self.watched, object, &self.domain));
        let change = catch_unwind(read).ok().or(unread);
        (name, change)
    }

    async fn forget(&self, known: &mut Known, names: &[Box<str>]) {
        let mut batch = Vec::with_capacity(names.len());
        for full_name in names {
            known.remove(full_name);
            let (namespace, name) = full_name.split_once('/').unwrap_or_default();
            batch.push(reduce::remove(self.watched, namespace, name));
        }
        self.send(batch).await;
    }

    /// Waits while the store is busy. That nobody listens any more ends [`Self::run`].
    async fn send(&self, batch: Vec<Change>) {
        if !batch.is_empty() {
            let _ = self.changes.send(batch).await;
        }
    }
}

/// Versions are numbers, by which the API server promises that they can be compared. Of anything else
/// nothing is known.
fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

fn name(identity: Identity<'_>) -> Box<str> {
    format!("{}/{}", identity.namespace, identity.name).into()
}

async fn answer<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(ANSWER, request)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("the API server does not answer").into()))
}

/// Between half and one and a half of it: many clients must not come at once.
fn jitter(duration: Duration) -> Duration {
    duration.mul_f64(0.5 + fastrand::f64())
}

#[cfg(test)]
mod tests;
