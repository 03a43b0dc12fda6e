//! The resources made so far, what changed in them, and what was found on the way.

use std::{collections::BTreeMap, sync::Arc};

use super::{Unit, finding::Findings, packed::pack};
use crate::{
    diagnostic::Diagnostic,
    model::{
        Cluster, ClusterEndpoints, ClusterName, Delta, DnsRecord, FilterChain, FilterChainName,
        Listener, ListenerName, Resources, Secret, SecretName, Settings, VirtualHost,
        VirtualHostName, WorkloadPolicies,
    },
};

/// Every resource belongs to one unit, so that no unit can undo what another did.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) resources: Resources,
    delta: Delta,
    findings: BTreeMap<Unit, Vec<Diagnostic>>,
}

impl Output {
    pub(super) fn pack(&mut self) {
        let resources = &mut self.resources;
        pack(&mut resources.filter_chains);
        pack(&mut resources.virtual_hosts);
        pack(&mut resources.clusters);
        pack(&mut resources.endpoints);
        pack(&mut resources.dns_records);
    }

    /// What changed since this was called last.
    pub(super) fn take_delta(&mut self) -> Delta {
        std::mem::take(&mut self.delta)
    }

    pub(super) fn findings(&self) -> impl Iterator<Item = (&Unit, &Vec<Diagnostic>)> {
        self.findings.iter()
    }

    /// What `unit` found when it was compiled last.
    pub(super) fn findings_of(&self, unit: &Unit) -> &[Diagnostic] {
        self.findings.get(unit).map(Vec::as_slice).unwrap_or_default()
    }

    /// Replaces what `unit` found when it was compiled before.
    pub(super) fn set_findings(&mut self, unit: Unit, findings: Findings) {
        let findings = findings.into_vec();
        if findings.is_empty() {
            self.findings.remove(&unit);
        } else {
            self.findings.insert(unit, findings);
        }
    }

    pub(super) fn set_settings(&mut self, settings: Settings) {
        if *self.resources.settings != settings {
            self.resources.settings = Arc::new(settings);
            self.delta.settings = Some(Arc::clone(&self.resources.settings));
        }
    }

    pub(super) fn set_policies(&mut self, mut policies: WorkloadPolicies) {
        keep_equal(&self.resources.policies.jwt_authn, &mut policies.jwt_authn);
        keep_equal(&self.resources.policies.authz, &mut policies.authz);
        if *self.resources.policies != policies {
            self.resources.policies = Arc::new(policies);
            self.delta.policies = Some(Arc::clone(&self.resources.policies));
        }
    }

    pub(super) fn set_listener(&mut self, name: ListenerName, value: Option<Listener>) {
        let Self { resources, delta, .. } = self;
        set(&mut resources.listeners, &mut delta.listeners, name, value, PartialEq::eq);
    }

    pub(super) fn set_filter_chain(&mut self, name: FilterChainName, value: Option<FilterChain>) {
        let Self { resources, delta, .. } = self;
        set(&mut resources.filter_chains, &mut delta.filter_chains, name, value, PartialEq::eq);
    }

    pub(super) fn set_virtual_host(&mut self, name: VirtualHostName, value: Option<VirtualHost>) {
        let Self { resources, delta, .. } = self;
        set(&mut resources.virtual_hosts, &mut delta.virtual_hosts, name, value, same_virtual_host);
    }

    pub(super) fn set_cluster(&mut self, name: ClusterName, value: Option<Cluster>) {
        let Self { resources, delta, .. } = self;
        set(&mut resources.clusters, &mut delta.clusters, name, value, PartialEq::eq);
    }

    pub(super) fn set_endpoints(&mut self, name: ClusterName, value: Option<ClusterEndpoints>) {
        let Self { resources, delta, .. } = self;
        set(&mut resources.endpoints, &mut delta.endpoints, name, value, PartialEq::eq);
    }

    pub(super) fn set_dns_record(&mut self, host: &Arc<str>, value: Option<DnsRecord>) {
        let Self { resources, delta, .. } = self;
        let records = &mut resources.dns_records;
        set(records, &mut delta.dns_records, Arc::clone(host), value, PartialEq::eq);
    }

    pub(super) fn set_secret(&mut self, name: SecretName, value: Option<Secret>) {
        let Self { resources, delta, .. } = self;
        set(&mut resources.secrets, &mut delta.secrets, name, value, PartialEq::eq);
    }
}

fn keep_equal<T: PartialEq>(old: &Option<Arc<T>>, new: &mut Option<Arc<T>>) {
    if old == new {
        new.clone_from(old);
    }
}

/// Brings `map` to hold `value` under `name`, keeping the `Arc` of an equal one, and notes a change.
fn set<K: Ord + Clone, V>(
    map: &mut BTreeMap<K, Arc<V>>,
    delta: &mut BTreeMap<K, Option<Arc<V>>>,
    name: K,
    value: Option<V>,
    same: impl Fn(&V, &V) -> bool,
) {
    match value {
        Some(value) => {
            if map.get(&name).is_none_or(|old| !same(old, &value)) {
                let value = Arc::new(value);
                map.insert(name.clone(), Arc::clone(&value));
                delta.insert(name, Some(value));
            }
        }
        None => {
            if map.remove(&name).is_some() {
                delta.insert(name, None);
            }
        }
    }
}

/// Equality that does not look into routes that are shared: a virtual host may have ten thousand,
/// and all but one are usually the same `Arc` as before.
fn same_virtual_host(a: &VirtualHost, b: &VirtualHost) -> bool {
    let VirtualHost { name, route_table, domain, aliases, require_tls, routes } = a;
    *name == b.name
        && *route_table == b.route_table
        && *domain == b.domain
        && *aliases == b.aliases
        && *require_tls == b.require_tls
        && routes.len() == b.routes.len()
        && routes.iter().zip(&*b.routes).all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
}
