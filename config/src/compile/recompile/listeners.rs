//! Gateways -> listeners, their chains and tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    api::ObjectKey,
    compile::{
        Compiler, Unit,
        dirty::Dirty,
        finding::Findings,
        listener::{self, Layout, Socket, Table},
        route::Domain,
        store::Link,
    },
    model::{FilterChainName, RouteTableName},
};

impl Compiler {
    /// Which sockets each Gateway has servers on.
    pub(super) fn compile_gateways(&mut self, dirty: &mut Dirty) {
        for key in std::mem::take(&mut dirty.gateways) {
            let mut findings = Findings::default();
            let object = self.view.store.find(&key);
            let sockets = object.map_or_else(BTreeSet::new, |object| {
                listener::sockets(&self.view, object, &mut findings)
            });
            let old = self.sockets.remove(&key).unwrap_or_default();
            for socket in old.difference(&sockets) {
                if let Some(gateways) = self.gateways.get_mut(socket) {
                    gateways.remove(&key);
                }
            }
            for socket in &sockets {
                self.gateways.entry(socket.clone()).or_default().insert(key.clone());
            }
            dirty.listeners.extend(old);
            dirty.listeners.extend(sockets.iter().cloned());
            if object.is_some() {
                self.sockets.insert(key.clone(), sockets);
            }
            self.output.set_findings(Unit::Gateway(key), findings);
        }
    }

    pub(super) fn compile_listeners(&mut self, dirty: &mut Dirty) {
        for socket in std::mem::take(&mut dirty.listeners) {
            let mut findings = Findings::default();
            let gateways = self.gateways.get(&socket).into_iter().flatten();
            let gateways = listener::oldest_first(&self.view, gateways);
            let layout = listener::layout(&self.view, &socket, &gateways, &mut findings);
            if gateways.is_empty() {
                self.gateways.remove(&socket);
            }
            self.replace_layout(&socket, layout, dirty);
            self.output.set_findings(Unit::Listener(socket), findings);
        }
    }

    fn replace_layout(&mut self, socket: &Socket, layout: Option<Layout>, dirty: &mut Dirty) {
        let old = self.layouts.remove(socket);
        let name = socket.listener();
        self.output.set_listener(name, layout.as_ref().map(|layout| layout.listener.clone()));

        let chains = layout.iter().flat_map(|layout| &layout.chains);
        let kept: BTreeSet<&FilterChainName> = chains.clone().map(|chain| &chain.name).collect();
        for chain in old.iter().flat_map(|layout| &layout.chains) {
            if !kept.contains(&chain.name) {
                self.output.set_filter_chain(chain.name.clone(), None);
            }
        }
        for chain in chains {
            self.output.set_filter_chain(chain.name.clone(), Some(chain.clone()));
        }

        let auto = |layout: Option<&'_ Layout>| layout.map_or(0, |layout| layout.auto.len());
        dirty.auto_passthrough |= match (&old, &layout) {
            (Some(old), Some(new)) => old.auto != new.auto,
            (old, new) => auto(old.as_ref()) + auto(new.as_ref()) > 0,
        };

        let nothing = BTreeMap::new();
        let tables = layout.as_ref().map_or(&nothing, |layout| &layout.tables);
        let old_tables = old.as_ref().map_or(&nothing, |layout| &layout.tables);
        let names: BTreeSet<&RouteTableName> = old_tables.keys().chain(tables.keys()).collect();
        for name in names {
            self.replace_table(name, old_tables.get(name), tables.get(name), dirty);
        }

        let unit = Unit::Listener(socket.clone());
        let references = layout.as_ref().map(|layout| layout.secrets.clone()).unwrap_or_default();
        dirty.secrets.extend(self.references.set(&unit, references));
        if let Some(layout) = layout {
            self.layouts.insert(socket.clone(), layout);
        }
    }

    /// Marks what a table's servers change for VirtualServices of their Gateways.
    fn replace_table(
        &mut self,
        name: &RouteTableName,
        old: Option<&Arc<Table>>,
        new: Option<&Arc<Table>>,
        dirty: &mut Dirty,
    ) {
        if old == new {
            return;
        }
        let (before, after) = (old.map(|table| &**table), new.map(|table| &**table));
        for host in Table::changed_domains(before, after) {
            dirty.domains.insert(Domain { table: name.clone(), host });
        }
        let servers = after.into_iter().flat_map(|table| table.servers.values());
        let gateways: BTreeSet<&ObjectKey> = servers.map(|server| &server.gateway).collect();
        for gateway in Table::changed_gateways(before, after) {
            for key in self.view.store.linked_keys(&Link::Gateway(gateway.clone())) {
                dirty.bindings.insert(key.clone());
                let bound = self.bound.get(key).into_iter().flat_map(|bound| &bound.domains);
                let domains = bound.map(|(domain, _)| domain);
                dirty.domains.extend(domains.filter(|domain| domain.table == *name).cloned());
            }
            let tables = self.tables_of.entry(gateway.clone()).or_default();
            if gateways.contains(&gateway) {
                tables.insert(name.clone());
            } else {
                tables.remove(name);
                if tables.is_empty() {
                    self.tables_of.remove(&gateway);
                }
            }
        }
        match new {
            Some(table) => self.tables.insert(name.clone(), Arc::clone(table)),
            None => self.tables.remove(name),
        };
    }
}
