//! From a bound address to a connection that is being served: bind, accept, filter chain, TLS.
//!
//! `Listeners` is configuration ready to run and part of the snapshot; `ListenerManager` owns the
//! sockets and makes them follow it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_config::model::{Delta, FilterChain, FilterChainName, Listener, ListenerName, Resources};

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
mod tunnelled;

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
        // Those of redirected connections are changed and not made again, once they are there.
        let is_whole = |name: &ListenerName| {
            let known = prev.by_name.get(name);
            known.is_none_or(|known| !known.config.kind.is_redirected())
        };
        let whole: BTreeSet<_> = affected.iter().copied().filter(|name| is_whole(name)).collect();
        let mut configs: BTreeMap<&ListenerName, Vec<&Arc<FilterChain>>> = BTreeMap::new();
        if !whole.is_empty() {
            for chain in resources.filter_chains.values() {
                if whole.contains(&chain.listener) {
                    configs.entry(&chain.listener).or_default().push(chain);
                }
            }
        }
        let mut by_name = BTreeMap::clone(&prev.by_name);
        for name in affected {
            let Some(config) = resources.listeners.get(name) else {
                by_name.remove(name);
                continue;
            };
            let known = prev.by_name.get(name).map(|prev| &prev.chains);
            let chains = match known {
                Some(known) if !whole.contains(name) => {
                    let changes = changes(name, known, delta, secrets);
                    FilterChains::changed(known, changes, secrets)
                }
                known => {
                    FilterChains::next(known, configs.remove(name).unwrap_or_default(), secrets)
                }
            };
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
                state.chains.dependents(secrets).next().map(|_| listener)
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

/// What is different about the chains of one listener.
fn changes<'a>(
    listener: &'a ListenerName,
    known: &'a FilterChains,
    delta: &'a Delta,
    secrets: &'a Secrets,
) -> impl Iterator<Item = (&'a FilterChainName, Option<&'a Arc<FilterChain>>)> {
    let configured = delta.filter_chains.iter().filter_map(move |(name, change)| {
        let change = change.as_ref().filter(|chain| chain.listener == *listener);
        (change.is_some() || known.contains(name)).then_some((name, change))
    });
    let dependents = known.dependents(secrets).map(|chain| &chain.config);
    let unchanged = dependents.filter(|config| !delta.filter_chains.contains_key(&config.name));
    configured.chain(unchanged.map(|config| (&config.name, Some(config))))
}

#[cfg(test)]
mod tests;
