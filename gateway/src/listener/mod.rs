//! From a bound address to a connection that is being served: bind, accept, filter chain, TLS.
//!
//! `Listeners` is configuration ready to run and part of the snapshot; `ListenerManager` owns the
//! sockets and makes them follow it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_config::model::{Delta, FilterChain, Listener, ListenerName, Resources};

use crate::tls::Secrets;

mod accept;
mod bind;
mod destination;
pub mod filter_chain;
mod first_bytes;
mod manager;
mod original_dst;
mod overload;
mod proxy_protocol;
mod redirected;
mod serve;
mod server_names;
mod tls;

pub use self::{
    bind::{BindError, BoundAddress},
    manager::{ListenerManager, ListenerStatus},
    overload::raise_open_file_limit,
};
use filter_chain::{Chain, FilterChains};

/// One listener, ready to run.
#[derive(Debug)]
pub struct ListenerState {
    pub config: Arc<Listener>,
    pub chains: FilterChains,
}

/// The listeners of a configuration by name. Unchanged ones keep their identity.
#[derive(Debug, Default, Clone)]
pub struct Listeners {
    by_name: Arc<BTreeMap<ListenerName, Arc<ListenerState>>>,
    secrets: Secrets,
}

impl Listeners {
    /// The listeners of `resources`, which are those of `prev` after `delta`. `secrets` are the ones
    /// in force from now on.
    #[must_use]
    pub fn next(prev: &Self, resources: &Resources, delta: &Delta, secrets: &Secrets) -> Self {
        let affected = prev.affected(delta, secrets);
        if affected.is_empty() {
            return Self { by_name: Arc::clone(&prev.by_name), secrets: secrets.clone() };
        }
        let mut configs: BTreeMap<&ListenerName, Vec<&Arc<FilterChain>>> = BTreeMap::new();
        for chain in resources.filter_chains.values() {
            if affected.contains(&chain.listener) {
                configs.entry(&chain.listener).or_default().push(chain);
            }
        }
        let mut by_name = BTreeMap::clone(&prev.by_name);
        for name in affected {
            let Some(config) = resources.listeners.get(name) else {
                by_name.remove(name);
                continue;
            };
            let chains = FilterChains::next(
                prev.by_name.get(name).map(|prev| &prev.chains),
                configs.remove(name).unwrap_or_default(),
                secrets,
            );
            let state = ListenerState { config: Arc::clone(config), chains };
            by_name.insert(name.clone(), Arc::new(state));
        }
        Self { by_name: Arc::new(by_name), secrets: secrets.clone() }
    }

    fn affected<'a>(&'a self, delta: &'a Delta, secrets: &Secrets) -> BTreeSet<&'a ListenerName> {
        let mut affected: BTreeSet<_> = delta.listeners.keys().collect();
        for (name, change) in &delta.filter_chains {
            affected.extend(change.as_ref().map(|chain| &chain.listener));
            // Where it was until now: it may have moved, or be gone.
            affected.extend(
                self.by_name.iter().filter_map(|(listener, state)| {
                    state.chains.contains(name).then_some(listener)
                }),
            );
        }
        if !self.secrets.is_same(secrets) {
            affected.extend(self.by_name.iter().filter_map(|(listener, state)| {
                state.chains.depend_on_change(secrets).then_some(listener)
            }));
        }
        affected
    }

    #[must_use]
    pub fn find(&self, name: &ListenerName) -> Option<&Arc<ListenerState>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<ListenerState>> {
        self.by_name.values()
    }

    /// Chains no handshake of which can succeed, with the reason.
    pub fn unavailable(&self) -> impl Iterator<Item = (&Chain, &str)> {
        self.iter().flat_map(|state| state.chains.unavailable())
    }

    /// Those of `self` that are not the same in `other`, with what they are there.
    fn changed<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a Arc<ListenerState>, Option<&'a Arc<ListenerState>>)> {
        self.by_name
            .iter()
            .map(|(name, state)| (state, other.by_name.get(name)))
            .filter(|(state, there)| !there.is_some_and(|there| Arc::ptr_eq(state, there)))
    }
}

#[cfg(test)]
mod tests;
