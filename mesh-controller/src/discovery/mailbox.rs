//! What a proxy has yet to be told: one entry for each resource, the latest.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::{sync::Notify, time::Instant};

use crate::{store::Encoded, translate::Delta};

/// Filled by the writer, emptied by the session. However slow the proxy is, there is never more in it
/// than there are resources.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pending: Mutex<Pending>,
    /// Nothing follows any more.
    is_closed: AtomicBool,
    wake: Notify,
}

/// What is to be sent.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) changes: Delta,
    /// When the oldest of it was known.
    pub(super) since: Option<Instant>,
}

impl Mailbox {
    /// With the first push, which is sent even if it is empty: the proxy waits for its end.
    pub(super) fn new(changes: Delta) -> Self {
        let pending = Pending { changes, since: Some(Instant::now()) };
        let mailbox = Self { pending: Mutex::new(pending), ..Self::default() };
        mailbox.wake.notify_one();
        mailbox
    }

    pub(super) fn post(&self, delta: &Delta, since: Instant) {
        let mut pending = self.lock();
        let changes = delta.iter().map(|(name, change)| (Arc::clone(name), change.clone()));
        pending.changes.extend(changes);
        pending.since.get_or_insert(since);
        drop(pending);
        self.wake.notify_one();
    }

    /// Says that nothing will follow, not even what is in there.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// Waits until there is something; `None`: nothing will follow.
    pub(super) async fn take(&self) -> Option<Pending> {
        loop {
            if self.is_closed.load(Relaxed) {
                return None;
            }
            {
                let mut pending = self.lock();
                if pending.since.is_some() {
                    return Some(std::mem::take(&mut pending));
                }
            }
            self.wake.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Nothing in here panics while it holds the lock.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first push for a proxy that has `known`: what differs from `wanted`, and what is not in there
/// any more, unless it `is_kept`.
pub(super) fn difference<'a>(
    known: &BTreeMap<String, String>,
    wanted: impl Iterator<Item = &'a Arc<Encoded>> + Clone,
    is_kept: impl Fn(&str) -> bool,
) -> Delta {
    let version_had = |resource: &Encoded| known.get(&*resource.name).map(String::as_str);
    let changed =
        wanted.clone().filter(|resource| version_had(resource) != Some(&*resource.version));
    let mut delta: Delta =
        changed.map(|resource| (Arc::clone(&resource.name), Some(Arc::clone(resource)))).collect();
    let still_there = wanted.clone().filter(|resource| version_had(resource).is_some()).count();
    if still_there < known.len() {
        let wanted: HashSet<&str> = wanted.map(|resource| &*resource.name).collect();
        let gone = known.keys().filter(|name| !wanted.contains(name.as_str()) && !is_kept(name));
        delta.extend(gone.map(|name| (name.as_str().into(), None)));
    }
    delta
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::Section;

    fn encoded(name: &str, version: &str) -> Arc<Encoded> {
        Arc::new(Encoded {
            name: name.into(),
            version: version.into(),
            section: Section::Object,
            bytes: Bytes::new(),
        })
    }

    fn delta(changes: &[(&str, Option<&str>)]) -> Delta {
        let changes = changes.iter();
        changes
            .map(|(name, version)| ((*name).into(), version.map(|version| encoded(name, version))))
            .collect()
    }

    fn shown(delta: &Delta) -> Vec<(&str, Option<&str>)> {
        delta.iter().map(|(name, change)| (&**name, change.as_ref().map(|c| &*c.version))).collect()
    }

    #[tokio::test]
    async fn a_slow_proxy_gets_the_latest_of_each_resource() {
        let mailbox = Mailbox::new(Delta::new());
        assert!(mailbox.take().await.unwrap().changes.is_empty());
        for version in ["1", "2", "3"] {
            mailbox.post(&delta(&[("a", Some(version)), ("b", Some(version))]), Instant::now());
        }
        mailbox.post(&delta(&[("b", None)]), Instant::now());
        let pending = mailbox.take().await.unwrap();
        assert_eq!(shown(&pending.changes), [("a", Some("3")), ("b", None)]);
    }

    #[test]
    fn a_proxy_that_comes_back_gets_only_what_differs() {
        let known = [("same", "1"), ("changed", "1"), ("gone", "1"), ("unreadable", "1")];
        let known = known.map(|(name, version)| (name.to_owned(), version.to_owned())).into();
        let wanted = [encoded("same", "1"), encoded("changed", "2"), encoded("new", "1")];
        let difference = difference(&known, wanted.iter(), |name| name == "unreadable");
        assert_eq!(
            shown(&difference),
            [("changed", Some("2")), ("gone", None), ("new", Some("1"))]
        );
    }
}
