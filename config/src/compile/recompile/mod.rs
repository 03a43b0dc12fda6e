//! The order units are compiled in.

use std::{collections::BTreeSet, sync::Arc};

mod auto_passthrough;
mod listeners;
mod routes;
mod sidecar;

use super::{
    Compiler, Unit,
    cluster::{self, Service},
    dirty::Dirty,
    finding::Findings,
    name::cluster_name,
    policy, secret, settings,
    store::Link,
};
use crate::{
    api::Spec,
    model::{ClusterName, Delta, matcher::HostPattern},
};

impl Compiler {
    /// Compiles what is dirty; returns what changed.
    pub(super) fn recompile(&mut self, dirty: Dirty) -> Delta {
        self.compile_units(dirty);
        self.output.take_delta()
    }

    /// The order matters: routes need to know servers and services, secrets who refers to them.
    pub(super) fn compile_units(&mut self, mut dirty: Dirty) {
        if dirty.settings {
            self.compile_settings();
        }
        if dirty.policies {
            self.compile_policies();
        }
        dirty.services.extend(self.view.auto_addresses.assign());
        if dirty.scope {
            self.compile_scope(&mut dirty);
        }
        self.compile_gateways(&mut dirty);
        self.compile_listeners(&mut dirty);
        self.compile_services(&mut dirty);
        self.compile_destination_rules(&dirty);
        self.compile_virtual_services(&mut dirty);
        self.compile_domains(&dirty);
        self.compile_auto_passthrough(&dirty);
        self.compile_outbound(&mut dirty);
        if dirty.inbound {
            self.compile_inbound();
        }
        self.compile_endpoints(&dirty);
        self.compile_secrets(&dirty);
    }

    fn compile_settings(&mut self) {
        let mut findings = Findings::default();
        let mesh = self.has_mesh.then_some(&self.view.mesh);
        self.output.set_settings(settings::compile(mesh, self.view.is_sidecar(), &mut findings));
        self.output.set_findings(Unit::Settings, findings);
    }

    fn compile_policies(&mut self) {
        let mut findings = Findings::default();
        self.output.set_policies(policy::compile(&self.view, &mut findings));
        self.output.set_findings(Unit::Policies, findings);
    }

    fn compile_services(&mut self, dirty: &mut Dirty) {
        for host in std::mem::take(&mut dirty.services) {
            let compiled = cluster::compile(&self.view, &host);
            let old = self.registry.find(&host);
            if !compiled.looks_like(old) {
                let link = Link::Destination(Arc::clone(&host));
                for key in self.view.store.linked_keys(&link) {
                    dirty.mark_virtual_service(self, key.clone());
                }
            }
            if old.is_some() != compiled.service.is_some() {
                let link = Link::Rule(HostPattern::parse(&host));
                dirty.destination_rules.extend(self.view.store.linked_keys(&link).cloned());
            }
            let unit = Unit::Service(Arc::clone(&host));
            dirty.secrets.extend(self.references.set(&unit, compiled.secrets));
            self.output.set_findings(unit, compiled.findings);

            let names = compiled.service.as_ref().map(cluster_names).unwrap_or_default();
            let old = self.registry.replace(&host, compiled.service);
            for name in old.as_ref().map(cluster_names).unwrap_or_default().union(&names) {
                if !compiled.clusters.contains_key(name) {
                    self.output.set_cluster(name.clone(), None);
                    self.output.set_endpoints(name.clone(), None);
                }
            }
            for (name, cluster) in compiled.clusters {
                self.output.set_cluster(name, Some(cluster));
            }
            dirty.outbound.insert(Arc::clone(&host));
            dirty.endpoints.insert(host);
        }
    }

    /// Rules say themselves what is not acted on, and whether there is anything to act on.
    fn compile_destination_rules(&mut self, dirty: &Dirty) {
        for key in &dirty.destination_rules {
            let mut findings = Findings::default();
            if let Some(object) = self.view.store.find(key)
                && let Spec::DestinationRule(rule) = &object.spec
            {
                cluster::warn_unsupported(object, rule, &mut findings);
                cluster::warn_unknown_host(&self.view, &self.registry, object, rule, &mut findings);
            }
            self.output.set_findings(Unit::DestinationRule(key.clone()), findings);
        }
    }

    fn compile_endpoints(&mut self, dirty: &Dirty) {
        for host in &dirty.endpoints {
            let mut findings = Findings::default();
            if let Some(service) = self.registry.find(host) {
                for members in cluster::compile_endpoints(&self.view, service, &mut findings) {
                    // A cluster that was left out has no use for endpoints.
                    if self.output.resources.clusters.contains_key(&members.cluster) {
                        self.output.set_endpoints(members.cluster.clone(), Some(members));
                    }
                }
            }
            self.output.set_findings(Unit::Endpoints(Arc::clone(host)), findings);
        }
    }

    fn compile_secrets(&mut self, dirty: &Dirty) {
        for name in &dirty.secrets {
            let mut findings = Findings::default();
            let secret = secret::compile(&self.view, &self.references, name, &mut findings);
            self.output.set_secret(name.clone(), secret);
            self.output.set_findings(Unit::Secret(name.clone()), findings);
        }
    }
}

/// The names of all clusters a service can have.
fn cluster_names(service: &Service) -> BTreeSet<ClusterName> {
    let subsets = || std::iter::once("").chain(service.subsets.iter().map(|subset| &*subset.name));
    service
        .ports
        .iter()
        .flat_map(|port| {
            subsets().map(move |subset| cluster_name(&service.host, port.number, subset))
        })
        .collect()
}
