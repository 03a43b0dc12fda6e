//! Services and policies -> what a sidecar does with the connections redirected to it.

use std::{collections::BTreeSet, sync::Arc};

use crate::compile::{
    Compiler, Unit,
    dirty::Dirty,
    finding::Findings,
    route::Lookup,
    sidecar::{self, Made, Outbound},
};

impl Compiler {
    /// What the sidecar knows. Everything it knows, and what is around it, is seen anew if that
    /// changed.
    pub(super) fn compile_scope(&mut self, dirty: &mut Dirty) {
        if !self.view.is_sidecar() {
            return;
        }
        let mut findings = Findings::default();
        let scope = sidecar::Scope::of(&self.view, &mut findings);
        self.output.set_findings(Unit::Sidecar, findings);
        if self.view.scope != scope {
            self.view.scope = scope;
            let all = Dirty::everything(self);
            dirty.services.extend(all.services);
            dirty.virtual_services.extend(all.virtual_services);
            dirty.outbound.extend(all.outbound);
        }
        dirty.inbound = true;
        let made = sidecar::catch_all(&self.view);
        made.replace(&mut self.sidecar.catch_all, &mut self.output);
        // What is done with hosts nobody knows is part of every port.
        let ports: BTreeSet<u16> = self.sidecar.ports.keys().copied().collect();
        self.compile_ports(ports);
    }

    pub(super) fn compile_outbound(&mut self, dirty: &mut Dirty) {
        if !self.view.is_sidecar() {
            return;
        }
        let mut hosts = std::mem::take(&mut dirty.outbound);
        let is_headless =
            |host: &&Arc<str>| self.registry.find(host).is_some_and(|it| it.is_headless);
        // Their endpoints are what clients connect to.
        hosts.extend(dirty.endpoints.iter().filter(is_headless).cloned());
        let mut ports = BTreeSet::new();
        for host in hosts {
            let mut findings = Findings::default();
            let lookup = Lookup { view: &self.view, registry: &self.registry };
            let Outbound { made, uses } = sidecar::outbound(lookup, &host, &mut findings);
            for (port, hosts) in &mut self.sidecar.ports {
                if hosts.remove(&host).is_some() {
                    ports.insert(*port);
                }
            }
            for (port, uses) in uses {
                self.sidecar.ports.entry(port).or_default().insert(Arc::clone(&host), uses);
                ports.insert(port);
            }
            let before = self.sidecar.hosts.entry(Arc::clone(&host)).or_default();
            made.replace(before, &mut self.output);
            self.output.set_dns_record(&host, sidecar::dns_record(lookup, &host));
            self.output.set_findings(Unit::Outbound(host), findings);
        }
        self.compile_ports(ports);
    }

    fn compile_ports(&mut self, ports: BTreeSet<u16>) {
        for port in ports {
            let hosts = self.sidecar.ports.get(&port).filter(|hosts| !hosts.is_empty());
            let made = match hosts {
                Some(hosts) => sidecar::port(&self.view, port, hosts.values()),
                None => Made::default(),
            };
            if hosts.is_none() {
                self.sidecar.ports.remove(&port);
            }
            made.replace(self.sidecar.port_names.entry(port).or_default(), &mut self.output);
        }
    }

    pub(super) fn compile_inbound(&mut self) {
        if !self.view.is_sidecar() {
            return;
        }
        let mut findings = Findings::default();
        let made = sidecar::inbound(&self.view, &mut findings);
        made.replace(&mut self.sidecar.inbound, &mut self.output);
        self.output.set_findings(Unit::Inbound, findings);
    }
}
