//! The configuration in force, ready to run.

use std::sync::Arc;

use weir_config::model::{Delta, Resources, Settings};

use crate::{
    cluster::{Clusters, Environment},
    connection::Direction,
    dns::DnsTable,
    filter::HttpFilters,
    listener::Listeners,
    route::RouteTables,
};

/// Immutable; replaced as a whole, with everything unchanged shared with its predecessor.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up by one with every change.
    pub version: u64,
    pub settings: Arc<Settings>,
    pub listeners: Listeners,
    pub route_tables: RouteTables,
    /// Of every request of this proxy.
    pub filters: Arc<HttpFilters>,
    pub clusters: Clusters,
    /// What a sidecar answers DNS queries with.
    pub dns: DnsTable,
}

impl Snapshot {
    /// What holds for everything that is asked of a proxy, or of its workload. What the workload asks
    /// of others is theirs to judge.
    #[must_use]
    pub fn filters_for(&self, direction: Direction) -> &HttpFilters {
        match direction {
            Direction::Gateway | Direction::Inbound => &self.filters,
            Direction::Outbound => HttpFilters::none(),
        }
    }

    /// The snapshot after `delta`, whose outcome `resources` is. Data is replaced, running things
    /// are kept by name.
    ///
    /// Has to be called within the data plane's runtime: what resolves names and fetches keys runs
    /// there.
    #[must_use]
    pub fn next(
        prev: &Self,
        resources: &Resources,
        delta: &Delta,
        environment: &Arc<Environment>,
    ) -> Self {
        Self {
            version: prev.version + 1,
            settings: Arc::clone(&resources.settings),
            listeners: Listeners::next(&prev.listeners, resources, delta, &environment.secrets),
            route_tables: RouteTables::next(&prev.route_tables, delta),
            filters: match &delta.policies {
                Some(policies) => Arc::new(HttpFilters::next(&prev.filters, policies)),
                None => Arc::clone(&prev.filters),
            },
            clusters: Clusters::next(&prev.clusters, delta, environment),
            dns: DnsTable::next(&prev.dns, delta),
        }
    }
}
