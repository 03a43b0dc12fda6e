//! Services -> what leads to them by way of servers with `AUTO_PASSTHROUGH`.

use std::{collections::BTreeSet, sync::Arc};

use crate::compile::{Compiler, dirty::Dirty, listener, sidecar::Made};

impl Compiler {
    pub(super) fn compile_auto_passthrough(&mut self, dirty: &Dirty) {
        if self.view.is_sidecar() {
            return;
        }
        let servers: Vec<_> = self.layouts.values().flat_map(|layout| &layout.auto).collect();
        if servers.is_empty() && self.auto_passthrough.is_empty() {
            return;
        }
        let mut hosts: BTreeSet<Arc<str>> =
            dirty.outbound.union(&dirty.endpoints).cloned().collect();
        if dirty.auto_passthrough {
            hosts.extend(self.registry.hosts().cloned());
            hosts.extend(self.auto_passthrough.keys().cloned());
        }
        for host in hosts {
            let service = self.registry.find(&host);
            let made = service.map_or_else(Made::default, |service| {
                let clusters = &self.output.resources.clusters;
                let servers = servers.iter().copied();
                listener::auto_passthrough(&self.view, service, clusters, servers)
            });
            let is_empty = made.chains.is_empty();
            let names = self.auto_passthrough.entry(Arc::clone(&host)).or_default();
            made.replace(names, &mut self.output);
            if is_empty {
                self.auto_passthrough.remove(&host);
            }
        }
    }
}
