//! A scope, and who gets it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use tokio::time::Instant;

use super::{
    mailbox::Mailbox,
    post::{Place, Post},
};
use crate::{
    store::{Dirty, Labels, Store},
    translate::{Audience, Delta, Distinctive, Scope},
};

/// Proxies that see the same.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) scope: Scope,
    proxies: Vec<Recipient>,
}

#[derive(Debug)]
struct Recipient {
    mailbox: Weak<Mailbox>,
    /// All that it has, of which the audience of the scope has those that count.
    labels: Arc<Labels>,
}

/// One round of changes.
pub(super) struct Round<'a> {
    pub(super) store: &'a Store,
    pub(super) dirty: &'a Dirty,
    pub(super) place: Place,
    pub(super) since: Instant,
}

impl Served {
    pub(super) fn new(audience: Audience, store: &Store) -> Self {
        Self { scope: Scope::new(audience, store), proxies: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.proxies.len()
    }

    pub(super) fn add(&mut self, mailbox: &Arc<Mailbox>, labels: Arc<Labels>) {
        self.proxies.push(Recipient { mailbox: Arc::downgrade(mailbox), labels });
    }

    /// Takes over the proxies of a scope that has become the same.
    pub(super) fn take_over(&mut self, other: Self) {
        self.proxies.extend(other.proxies);
    }

    /// Puts together those who are equal in what counts now. What they see is still what they saw,
    /// and the same for all, so each part goes on from it.
    pub(super) fn split(self, distinctive: &Distinctive) -> Vec<Self> {
        let Self { scope, proxies } = self;
        let mut parts: BTreeMap<Labels, Vec<Recipient>> = BTreeMap::new();
        for proxy in proxies {
            parts.entry(distinctive.among(&proxy.labels)).or_default().push(proxy);
        }
        let part = |(labels, proxies)| Self { scope: scope.for_labels(labels), proxies };
        parts.into_iter().map(part).collect()
    }

    /// Brings the scope up to date, and posts what changed.
    pub(super) fn update(&mut self, round: &Round<'_>) {
        let Round { store, dirty, place, since } = round;
        let mut delta = if dirty.visibility {
            self.scope.rebuild(store)
        } else {
            self.scope.update(store, &dirty.objects)
        };
        if dirty.mesh {
            add_mesh(&mut delta, store);
        }
        if !delta.is_empty() {
            let post = Arc::new(Post::new(place.clone(), *since, delta));
            self.mailboxes().for_each(|mailbox| mailbox.post(&post));
        }
    }

    /// Ends the streams of its proxies.
    pub(super) fn close(&self) {
        self.mailboxes().for_each(|mailbox| mailbox.close());
    }

    /// Drops the mailboxes of streams that have ended.
    pub(super) fn is_used(&mut self) -> bool {
        self.proxies.retain(|proxy| proxy.mailbox.strong_count() > 0);
        !self.proxies.is_empty()
    }

    fn mailboxes(&self) -> impl Iterator<Item = Arc<Mailbox>> {
        self.proxies.iter().filter_map(|proxy| proxy.mailbox.upgrade())
    }
}

fn add_mesh(delta: &mut Delta, store: &Store) {
    let resource = &store.mesh().resource;
    delta.insert(Arc::clone(&resource.name), Some(Arc::clone(resource)));
}
