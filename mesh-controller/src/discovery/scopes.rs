//! All scopes: who belongs to which, and that each is up to date.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tracing::error;

use super::served::{Round, Served};
use crate::{
    store::{Dirty, Store},
    translate::{Audience, Distinctive, Selectable},
};

/// Those that somebody is served from.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    served: BTreeMap<Audience, Served>,
    /// The labels that count, for each kind of proxies there is.
    distinctive: BTreeMap<Selectable, Arc<Distinctive>>,
}

impl Scopes {
    pub(super) fn len(&self) -> usize {
        self.served.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Audience, &Served)> {
        self.served.iter()
    }

    /// That of a proxy of this audience, with all labels that it has.
    pub(super) fn enter(&mut self, mut audience: Audience, store: &Store) -> &mut Served {
        self.served.retain(|_, served| served.is_used());
        let distinctive = self.distinctive.entry(Selectable::from(&audience));
        let distinctive = distinctive.or_insert_with_key(|it| Distinctive::of(it, store).into());
        audience.labels = Arc::new(distinctive.among(&audience.labels));
        let served = self.served.entry(audience);
        served.or_insert_with_key(|audience| Served::new(audience.clone(), store))
    }

    /// Brings all of them up to date.
    pub(super) fn update(&mut self, round: &Round<'_>) {
        let regrouped = self.regroup(round.store, round.dirty);
        self.served.retain(|_, served| follow(served, round));
        for mut served in regrouped {
            if !follow(&mut served, round) {
                continue;
            }
            // Only now: before the round they were not equal.
            match self.served.entry(served.scope.audience().clone()) {
                Entry::Occupied(mut equal) => equal.get_mut().take_over(served),
                Entry::Vacant(place) => {
                    place.insert(served);
                }
            }
        }
    }

    /// Takes out the scopes whose proxies other labels tell apart now, put together anew.
    fn regroup(&mut self, store: &Store, dirty: &Dirty) -> Vec<Served> {
        if dirty.selectors.is_empty() && !dirty.visibility {
            return Vec::new();
        }
        let used: BTreeSet<Selectable> = self.served.keys().map(Selectable::from).collect();
        self.distinctive.retain(|proxies, _| used.contains(proxies));
        let mut changed = BTreeMap::new();
        for (proxies, known) in &mut self.distinctive {
            if dirty.visibility || proxies.are_meant(&dirty.selectors, store) {
                let now = Distinctive::of(proxies, store);
                if now != **known {
                    *known = Arc::new(now);
                    changed.insert(proxies.clone(), Arc::clone(known));
                }
            }
        }
        if changed.is_empty() {
            return Vec::new();
        }
        let mut parts = Vec::new();
        for (audience, served) in std::mem::take(&mut self.served) {
            match changed.get(&Selectable::from(&audience)) {
                Some(distinctive) => parts.extend(served.split(distinctive)),
                None => drop(self.served.insert(audience, served)),
            }
        }
        parts
    }
}

/// Brings a scope up to date; returns whether it is still wanted. A panic, which is a bug, leaves a
/// scope that is not to be gone on with. Its proxies come back, and get what they lack of a new one.
fn follow(served: &mut Served, round: &Round<'_>) -> bool {
    let updated = catch_unwind(AssertUnwindSafe(|| served.update(round)));
    if updated.is_err() {
        let namespace = &*served.scope.audience().namespace;
        error!(namespace, "a scope brought out a bug; it is begun anew");
        served.close();
    }
    updated.is_ok() && served.is_used()
}
