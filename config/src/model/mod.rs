//! The runtime model: plain data a proxy runs, `Clone + PartialEq`, collections shared.
//!
//! Children point at parents (a filter chain names its listener, a virtual host its route table), so
//! that one edit is one small message and one small rebuild. Serialisation is for dumps only.

use std::{collections::BTreeMap, sync::Arc};

pub mod cluster;
pub mod dns;
pub mod filter;
pub mod listener;
pub mod matcher;
pub mod name;
mod re2;
pub mod route;
pub mod secret;
mod serialize;
pub mod settings;

pub use self::{
    cluster::{Cluster, ClusterEndpoints},
    dns::DnsRecord,
    filter::WorkloadPolicies,
    listener::{FilterChain, Listener},
    name::{
        ClusterName, FilterChainName, ListenerName, RouteName, RouteTableName, SecretName,
        VirtualHostName,
    },
    route::{Route, VirtualHost},
    secret::Secret,
    settings::Settings,
};

/// Everything one proxy runs.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    pub settings: Arc<Settings>,
    pub listeners: BTreeMap<ListenerName, Arc<Listener>>,
    pub filter_chains: BTreeMap<FilterChainName, Arc<FilterChain>>,
    pub virtual_hosts: BTreeMap<VirtualHostName, Arc<VirtualHost>>,
    pub clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    pub endpoints: BTreeMap<ClusterName, Arc<ClusterEndpoints>>,
    pub secrets: BTreeMap<SecretName, Arc<Secret>>,
    /// By host. Of sidecars that answer DNS only.
    pub dns_records: BTreeMap<Arc<str>, Arc<DnsRecord>>,
    pub policies: Arc<WorkloadPolicies>,
}

/// What changed from one configuration to the next: `None` is a removal. Resources that are not
/// named here are the same as before, and so is everything that runs because of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    pub settings: Option<Arc<Settings>>,
    pub listeners: BTreeMap<ListenerName, Option<Arc<Listener>>>,
    pub filter_chains: BTreeMap<FilterChainName, Option<Arc<FilterChain>>>,
    pub virtual_hosts: BTreeMap<VirtualHostName, Option<Arc<VirtualHost>>>,
    pub clusters: BTreeMap<ClusterName, Option<Arc<Cluster>>>,
    pub endpoints: BTreeMap<ClusterName, Option<Arc<ClusterEndpoints>>>,
    pub secrets: BTreeMap<SecretName, Option<Arc<Secret>>>,
    pub dns_records: BTreeMap<Arc<str>, Option<Arc<DnsRecord>>>,
    pub policies: Option<Arc<WorkloadPolicies>>,
}

impl Delta {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This change followed by `later`, as one.
    pub fn merge(&mut self, later: Self) {
        let Self {
            settings,
            listeners,
            filter_chains,
            virtual_hosts,
            clusters,
            endpoints,
            secrets,
            dns_records,
            policies,
        } = later;
        self.settings = settings.or_else(|| self.settings.take());
        self.listeners.extend(listeners);
        self.filter_chains.extend(filter_chains);
        self.virtual_hosts.extend(virtual_hosts);
        self.clusters.extend(clusters);
        self.endpoints.extend(endpoints);
        self.secrets.extend(secrets);
        self.dns_records.extend(dns_records);
        self.policies = policies.or_else(|| self.policies.take());
    }
}

impl Resources {
    /// Brings these resources to the state after `delta`.
    pub fn apply(&mut self, delta: &Delta) {
        fn merge<K: Ord + Clone, V>(
            map: &mut BTreeMap<K, Arc<V>>,
            changes: &BTreeMap<K, Option<Arc<V>>>,
        ) {
            for (name, change) in changes {
                match change {
                    Some(value) => map.insert(name.clone(), Arc::clone(value)),
                    None => map.remove(name),
                };
            }
        }
        let Delta {
            settings,
            listeners,
            filter_chains,
            virtual_hosts,
            clusters,
            endpoints,
            secrets,
            dns_records,
            policies,
        } = delta;
        if let Some(settings) = settings {
            self.settings = Arc::clone(settings);
        }
        merge(&mut self.listeners, listeners);
        merge(&mut self.filter_chains, filter_chains);
        merge(&mut self.virtual_hosts, virtual_hosts);
        merge(&mut self.clusters, clusters);
        merge(&mut self.endpoints, endpoints);
        merge(&mut self.secrets, secrets);
        merge(&mut self.dns_records, dns_records);
        if let Some(policies) = policies {
            self.policies = Arc::clone(policies);
        }
    }
}
