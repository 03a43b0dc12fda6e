//! What a proxy has yet to be told: one entry for each resource, the latest.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

use super::post::Post;
use crate::{store::Encoded, translate::Delta};

/// Filled by the writer, emptied by the session. However slow the proxy is, there is never more in it
/// than there are resources.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// One that nothing was added to is the same for all proxies of a scope.
    pending: Mutex<Option<Arc<Post>>>,
    /// Nothing follows any more.
    is_closed: AtomicBool,
    wake: Notify,
}

impl Mailbox {
    /// With the first push, which is sent even if it is empty: the proxy waits for its end.
    pub(super) fn new(first: Post) -> Self {
        let mailbox = Self {
            pending: Mutex::new(Some(Arc::new(first))),
            is_closed: AtomicBool::default(),
            wake: Notify::new(),
        };
        mailbox.wake.notify_one();
        mailbox
    }

    pub(super) fn post(&self, post: &Arc<Post>) {
        let mut pending = self.lock();
        match &mut *pending {
            Some(pending) => Arc::make_mut(pending).add(post),
            None => *pending = Some(Arc::clone(post)),
        }
        drop(pending);
        self.wake.notify_one();
    }

    /// Says that nothing will follow, not even what is in there.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// Waits until there is something; `None`: nothing will follow.
    pub(super) async fn take(&self) -> Option<Arc<Post>> {
        loop {
            if self.is_closed.load(Relaxed) {
                return None;
            }
            let pending = self.lock().take();
            if pending.is_some() {
                return pending;
            }
            self.wake.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Post>>> {
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
    use tokio::time::Instant;

    use super::*;
    use crate::discovery::post::Place;

    fn encoded(name: &str, version: &str) -> Arc<Encoded> {
        Arc::new(Encoded { name: name.into(), version: version.into(), bytes: Bytes::new() })
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

    fn post(version: &str, changes: Delta) -> Arc<Post> {
        let place = Place { version: version.into(), position: "".into() };
        Arc::new(Post::new(place, Instant::now(), changes))
    }

    #[tokio::test]
    async fn a_slow_proxy_gets_the_latest_of_each_resource() {
        let first = Arc::into_inner(post("0", Delta::new())).unwrap();
        let mailbox = Mailbox::new(first);
        assert!(mailbox.take().await.unwrap().changes.is_empty());
        for version in ["1", "2", "3"] {
            let changes = delta(&[("a", Some(version)), ("b", Some(version))]);
            mailbox.post(&post(version, changes));
        }
        mailbox.post(&post("4", delta(&[("b", None)])));
        let pending = mailbox.take().await.unwrap();
        assert_eq!(shown(&pending.changes), [("a", Some("3")), ("b", None)]);
        assert_eq!(&*pending.version, "4");
    }

    #[tokio::test]
    async fn proxies_that_follow_share_what_is_sent_and_a_slow_one_changes_nothing_of_it() {
        let mailboxes = [(); 2].map(|()| Mailbox::new(Post::clone(&post("0", Delta::new()))));
        for mailbox in &mailboxes {
            mailbox.take().await.unwrap();
        }
        let shared = post("1", delta(&[("a", Some("1"))]));
        mailboxes.iter().for_each(|mailbox| mailbox.post(&shared));
        mailboxes[1].post(&post("2", delta(&[("b", Some("2"))])));
        let taken = mailboxes[0].take().await.unwrap();
        assert_eq!(taken.whole().unwrap().as_ptr(), shared.whole().unwrap().as_ptr());
        assert_eq!(shown(&taken.changes), [("a", Some("1"))]);
        let taken = mailboxes[1].take().await.unwrap();
        assert_eq!(shown(&taken.changes), [("a", Some("1")), ("b", Some("2"))]);
        assert_ne!(taken.whole().unwrap(), shared.whole().unwrap());
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
