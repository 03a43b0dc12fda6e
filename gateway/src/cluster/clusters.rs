//! The clusters of a configuration by name.

use std::{sync::Arc, time::Duration};

use rustc_hash::FxHashMap;
use tokio::time::Instant;
use weir_config::model::{ClusterName, Delta};

use super::{Cluster, dns::Members, on_demand::OnDemand, resolver::Resolver};
use crate::{limits::Limits, telemetry::Telemetry, tls::Secrets};

/// All clusters. Cloning shares everything; a change costs one copy of the table of names.
#[derive(Debug, Clone, Default)]
pub struct Clusters {
    by_name: Arc<FxHashMap<ClusterName, Entry>>,
    /// Those the TLS contexts were built from.
    secrets: Secrets,
}

/// A cluster and its members, which are separate resources: either may come first.
#[derive(Debug, Clone, Default)]
struct Entry {
    cluster: Option<Arc<OnDemand>>,
    members: Members,
}

/// What clusters need from around them.
#[derive(Debug)]
pub struct Environment {
    pub secrets: Secrets,
    pub resolver: Resolver,
    pub limits: Limits,
    pub telemetry: Arc<Telemetry>,
}

impl Clusters {
    /// The clusters after `delta`. Unchanged ones keep their identity and with it everything that
    /// runs; changed and removed ones finish what they have in flight.
    ///
    /// Has to be called within a Tokio runtime: names are resolved by tasks of it.
    #[must_use]
    pub fn next(prev: &Self, delta: &Delta, environment: &Arc<Environment>) -> Self {
        let same_secrets = prev.secrets.is_same(&environment.secrets);
        if delta.clusters.is_empty() && delta.endpoints.is_empty() && same_secrets {
            return prev.clone();
        }
        let mut by_name = FxHashMap::clone(&prev.by_name);
        for (name, change) in &delta.endpoints {
            let members = change.as_ref().map(|change| Arc::clone(&change.endpoints));
            by_name.entry(name.clone()).or_default().members = members.unwrap_or_default();
        }
        for (name, change) in &delta.clusters {
            let entry = by_name.entry(name.clone()).or_default();
            let before = entry.cluster.take();
            entry.cluster = change.as_ref().map(|config| {
                OnDemand::next(before.as_deref(), config, &entry.members, environment)
            });
            if change.is_none()
                && let Some(removed) = before.as_ref().and_then(|before| before.made())
            {
                removed.retire(None);
            }
        }
        // Clusters that changed have their new members already.
        for name in delta.endpoints.keys().filter(|name| !delta.clusters.contains_key(*name)) {
            if let Some(entry) = by_name.get_mut(name) {
                entry.refresh(environment);
            }
        }
        if !same_secrets {
            by_name.values_mut().for_each(|entry| entry.refresh(environment));
        }
        for name in delta.clusters.keys().chain(delta.endpoints.keys()) {
            if by_name.get(name).is_some_and(Entry::is_empty) {
                by_name.remove(name);
            }
        }
        Self { by_name: Arc::new(by_name), secrets: environment.secrets.clone() }
    }

    #[must_use]
    pub fn find(&self, name: &ClusterName) -> Option<&Arc<Cluster>> {
        self.by_name.get(name)?.cluster.as_ref().map(|cluster| cluster.cluster())
    }

    /// All of them, to look at: those that nobody has called are made for that, one after the other,
    /// and forgotten.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Cluster>> {
        self.on_demand().map(|cluster| cluster.look())
    }

    /// Those that are there: somebody called them, or they have something to do before.
    pub fn running(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.on_demand().filter_map(|cluster| cluster.made())
    }

    /// Returns once the names of all clusters were asked for, or after `limit`; true in the first
    /// case. A proxy is not ready before.
    pub async fn warm(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut resolved = true;
        for cluster in self.running() {
            resolved &= cluster.resolved(deadline).await;
        }
        resolved
    }

    fn on_demand(&self) -> impl Iterator<Item = &Arc<OnDemand>> {
        self.by_name.values().filter_map(|entry| entry.cluster.as_ref())
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.cluster.is_none() && self.members.is_empty()
    }

    /// Brings the cluster to the members, keys and trust of now: connections made with old keys take
    /// no new requests.
    fn refresh(&mut self, environment: &Arc<Environment>) {
        if let Some(cluster) = &self.cluster {
            self.cluster = Some(cluster.with(&self.members, environment));
        }
    }
}
