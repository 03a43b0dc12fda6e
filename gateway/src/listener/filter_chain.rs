//! Which filter chain a connection gets: by the ClientHello's server name, exact before the longest
//! wildcard before `*`. Looked up by hash; the number of names does not matter.

use std::{net::SocketAddr, sync::Arc};

use rustls::ServerConfig;
use smallvec::SmallVec;
use weir_config::model::{
    FilterChain, FilterChainName,
    listener::{DownstreamTls, NetworkFilter},
};

use super::{
    destination::{DestinationChains, Destinations},
    server_names::ServerNames,
};
use crate::{
    drain::{DrainSignal, DrainTrigger},
    sharded_map::ShardedMap,
    tls::{LoadedSecret, Secrets, server_config},
};

/// A filter chain, ready to run.
#[derive(Debug)]
pub struct Chain {
    pub config: Arc<FilterChain>,
    pub tls: ChainTls,
    /// Of the certificate clients are shown, where they have to show one too.
    pub local_uri: Option<Arc<str>>,
    /// The versions of the secrets `tls` was built from.
    secrets: SecretVersions,
    drain: Arc<DrainTrigger>,
}

/// What a chain does with the ClientHello.
#[derive(Debug, Clone)]
pub enum ChainTls {
    /// Nothing: there is none, or it belongs to the upstream.
    None,
    Terminate(Arc<ServerConfig>),
    /// Every handshake fails; the text says why and what to do.
    Unavailable(Arc<str>),
}

type SecretVersions = SmallVec<[Option<Arc<LoadedSecret>>; 3]>;

impl Chain {
    /// The chain for `config`; `prev` itself where nothing it depends on has changed.
    fn next(prev: Option<&Arc<Self>>, config: &Arc<FilterChain>, secrets: &Secrets) -> Arc<Self> {
        let versions = versions(config.tls.as_ref(), secrets);
        let Some(prev) = prev else {
            return Arc::new(Self {
                config: Arc::clone(config),
                tls: ChainTls::new(config.tls.as_ref(), secrets),
                local_uri: server_config::local_uri(config.tls.as_ref(), secrets),
                secrets: versions,
                drain: Arc::default(),
            });
        };
        let same_tls = same_versions(&prev.secrets, &versions) && prev.config.tls == config.tls;
        if same_tls && prev.config == *config {
            return Arc::clone(prev);
        }
        let tls =
            if same_tls { prev.tls.clone() } else { ChainTls::new(config.tls.as_ref(), secrets) };
        let local_uri = match same_tls {
            true => prev.local_uri.clone(),
            false => server_config::local_uri(config.tls.as_ref(), secrets),
        };
        let drain = if still_serves(&prev.config, config) {
            Arc::clone(&prev.drain)
        } else {
            Arc::default()
        };
        Arc::new(Self { config: Arc::clone(config), tls, local_uri, secrets: versions, drain })
    }

    #[must_use]
    pub fn drain_signal(&self) -> DrainSignal {
        self.drain.signal()
    }
}

impl ChainTls {
    fn new(tls: Option<&DownstreamTls>, secrets: &Secrets) -> Self {
        match tls.map(|tls| server_config::build(tls, secrets)) {
            None => Self::None,
            Some(Ok(config)) => Self::Terminate(config),
            Some(Err(problem)) => Self::Unavailable(problem.into()),
        }
    }
}

fn versions(tls: Option<&DownstreamTls>, secrets: &Secrets) -> SecretVersions {
    tls.into_iter()
        .flat_map(server_config::secrets_of)
        .map(|name| secrets.find(name).map(Arc::clone))
        .collect()
}

fn same_versions(a: &SecretVersions, b: &SecretVersions) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        })
}

/// Whether connections made under `old` are still what `new` asks for. Certificates, versions, host
/// names and weights concern new connections only; what clients had to prove, and where their
/// requests go, concerns all.
fn still_serves(old: &FilterChain, new: &FilterChain) -> bool {
    let same_auth = match (&old.tls, &new.tls) {
        (None, None) => true,
        (Some(old), Some(new)) => old.client_auth == new.client_auth,
        _ => false,
    };
    let same_filter = match (&old.network, &new.network) {
        (NetworkFilter::Http { route_table: old }, NetworkFilter::Http { route_table: new }) => {
            old == new
        }
        (NetworkFilter::TcpProxy { .. }, NetworkFilter::TcpProxy { .. })
        | (NetworkFilter::Connect { .. }, NetworkFilter::Connect { .. }) => true,
        _ => false,
    };
    same_auth && same_filter
}

/// The chains of one listener and who is for which name.
#[derive(Debug, Default, Clone)]
pub struct FilterChains {
    by_name: ShardedMap<FilterChainName, Arc<Chain>>,
    server_names: ServerNames,
    /// Of redirected connections.
    destinations: Destinations,
}

impl FilterChains {
    /// The chains for `configs`, which come in the order of their names: of two with one server
    /// name the first has it.
    pub(super) fn next<'a>(
        prev: Option<&Self>,
        configs: impl IntoIterator<Item = &'a Arc<FilterChain>>,
        secrets: &Secrets,
    ) -> Self {
        let mut chains = Self::default();
        for config in configs {
            let prev = prev.and_then(|prev| prev.by_name.get(&config.name));
            chains.insert(Chain::next(prev, config, secrets));
        }
        chains
    }

    /// The chains after `changes`, where `None` is a removal: of redirected connections, whose sidecar
    /// may know ten thousand services. The others keep their place, and the same is where it was.
    pub(super) fn changed<'a>(
        prev: &Self,
        changes: impl IntoIterator<Item = (&'a FilterChainName, Option<&'a Arc<FilterChain>>)>,
        secrets: &Secrets,
    ) -> Self {
        let mut chains = prev.clone();
        for (name, config) in changes {
            let old = chains.by_name.remove(name);
            if let Some(old) = &old
                && let Some(redirected) = &old.config.redirected
            {
                chains.destinations.remove(redirected, old);
            }
            if let Some(config) = config {
                chains.insert(Chain::next(old.as_ref(), config, secrets));
            }
        }
        chains
    }

    /// Chains that would be others with `secrets`.
    pub(super) fn dependents<'a>(
        &'a self,
        secrets: &'a Secrets,
    ) -> impl Iterator<Item = &'a Arc<Chain>> {
        self.by_name.values().filter(|chain| {
            !same_versions(&chain.secrets, &versions(chain.config.tls.as_ref(), secrets))
        })
    }

    fn insert(&mut self, chain: Arc<Chain>) {
        match &chain.config.redirected {
            Some(redirected) => self.destinations.insert(redirected, &chain),
            None => self.server_names.insert(&chain),
        }
        self.by_name.insert(chain.config.name.clone(), chain);
    }

    /// The chain for a ClientHello's server name (lower case, without trailing dot). A client that
    /// names none gets what is for all names.
    #[must_use]
    pub fn select(&self, server_name: Option<&str>) -> Option<&Arc<Chain>> {
        self.server_names.select(server_name)
    }

    /// What there is for connections that were going to `address`.
    pub(super) fn destination(&self, address: SocketAddr) -> &Arc<DestinationChains> {
        self.destinations.find(address)
    }

    /// The chain of a listener that has but one.
    #[must_use]
    pub fn only(&self) -> Option<&Arc<Chain>> {
        self.by_name.values().next()
    }

    pub(super) fn contains(&self, name: &FilterChainName) -> bool {
        self.by_name.get(name).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.by_name.values()
    }

    /// Chains no handshake of which can succeed, with the reason.
    pub(super) fn unavailable(&self) -> impl Iterator<Item = (&Chain, &str)> {
        self.iter().filter_map(|chain| match &chain.tls {
            ChainTls::Unavailable(reason) => Some((&**chain, &**reason)),
            ChainTls::None | ChainTls::Terminate(_) => None,
        })
    }

    /// Logs what cannot do handshakes and could in `prev`, or could not for another reason.
    pub(super) fn tell_unavailable(&self, prev: Option<&Self>) {
        for (chain, reason) in self.unavailable() {
            let prev = prev.and_then(|prev| prev.by_name.get(&chain.config.name));
            let told = matches!(prev.map(|prev| &prev.tls),
                Some(ChainTls::Unavailable(told)) if **told == *reason);
            if !told {
                let FilterChain { name, gateway, .. } = &*chain.config;
                tracing::warn!(%gateway, chain = %name, reason, "handshakes fail");
            }
        }
    }

    /// The triggers of chains that are not in `next`, or do not serve there what they did.
    pub(super) fn drained_by<'a>(
        &'a self,
        next: Option<&'a Self>,
    ) -> impl Iterator<Item = &'a Arc<DrainTrigger>> {
        self.by_name.values().filter_map(move |chain| {
            let stays = next
                .and_then(|next| next.by_name.get(&chain.config.name))
                .is_some_and(|next| Arc::ptr_eq(&next.drain, &chain.drain));
            (!stays).then_some(&chain.drain)
        })
    }
}
