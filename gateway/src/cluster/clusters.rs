//! The clusters of a configuration by name.

use std::{fmt, sync::Arc, time::Duration};

use rustc_hash::FxHashMap;
use tokio::time::Instant;
use weir_config::model::{self, ClusterName, Delta, cluster::Destination};

use super::{Cluster, dns::Members, resolver::Resolver};
use crate::{
    limits::Limits,
    telemetry::{clusters::ClusterGauges, labels::ClusterStats},
    tls::Secrets,
};

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
    cluster: Option<Arc<Cluster>>,
    members: Members,
}

/// What clusters need from around them.
pub struct Environment<'a> {
    pub secrets: &'a Secrets,
    pub resolver: &'a Resolver,
    pub limits: &'a Limits,
    /// The metric handles of a destination.
    pub stats: &'a dyn Fn(&Destination) -> Arc<ClusterStats>,
    /// The gauges of a cluster's name; the same for as long as anyone holds them.
    pub gauges: &'a dyn Fn(&ClusterName) -> Arc<ClusterGauges>,
}

impl fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("secrets", self.secrets).finish_non_exhaustive()
    }
}

impl Clusters {
    /// The clusters after `delta`. Unchanged ones keep their identity and with it everything that
    /// runs; changed and removed ones finish what they have in flight.
    ///
    /// Has to be called within a Tokio runtime: names are resolved by tasks of it.
    #[must_use]
    pub fn next(prev: &Self, delta: &Delta, environment: &Environment<'_>) -> Self {
        let same_secrets = prev.secrets.is_same(environment.secrets);
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
            entry.cluster = match change {
                Some(config) => Some(entry.next(config, environment)),
                None => {
                    if let Some(removed) = &entry.cluster {
                        removed.retire(None);
                    }
                    None
                }
            };
        }
        // Clusters that changed have their new members already.
        for name in delta.endpoints.keys().filter(|name| !delta.clusters.contains_key(*name)) {
            if let Some(Entry { cluster: Some(cluster), members }) = by_name.get(name) {
                cluster.set_members(members);
            }
        }
        if !same_secrets {
            for entry in by_name.values_mut() {
                entry.renew(environment);
            }
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
        self.by_name.get(name)?.cluster.as_ref()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.by_name.values().filter_map(|entry| entry.cluster.as_ref())
    }

    /// Returns once the names of all clusters were asked for, or after `limit`; true in the first
    /// case. A proxy is not ready before.
    pub async fn warm(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut resolved = true;
        for cluster in self.iter() {
            resolved &= cluster.resolved(deadline).await;
        }
        resolved
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.cluster.is_none() && self.members.is_empty()
    }

    fn next(&self, config: &Arc<model::Cluster>, environment: &Environment<'_>) -> Arc<Cluster> {
        if let Some(prev) = &self.cluster
            && prev.config == *config
            && prev.transports.are_current(environment.secrets)
        {
            prev.set_members(&self.members);
            return Arc::clone(prev);
        }
        Cluster::next(self.cluster.as_ref(), config, &self.members, environment)
    }

    /// Builds the cluster again if its keys or its trust have changed: connections made with the old
    /// ones take no new requests.
    fn renew(&mut self, environment: &Environment<'_>) {
        if let Some(prev) = &self.cluster
            && !prev.transports.are_current(environment.secrets)
        {
            let config = Arc::clone(&prev.config);
            self.cluster = Some(Cluster::next(Some(prev), &config, &self.members, environment));
        }
    }
}
