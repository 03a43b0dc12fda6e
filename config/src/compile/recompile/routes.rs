//! VirtualServices -> virtual hosts and the chains of passed-through and TCP connections.

use std::collections::BTreeSet;

use crate::{
    api::{Object, ObjectKey, Spec, istio::virtual_service::VirtualService},
    compile::{
        Compiler, Unit,
        dirty::Dirty,
        finding::Findings,
        listener::{Table, TableKind},
        members::Members,
        name::{is_exported, resolve_gateway},
        route::{
            Contribution, Domain, Lookup, Scope, binding,
            tcp::{self, Contributors},
            virtual_service::{Bound, virtual_host, virtual_host_name},
        },
    },
    model::{FilterChainName, VirtualHost, matcher::HostPattern},
};

impl Compiler {
    pub(super) fn compile_virtual_services(&mut self, dirty: &mut Dirty) {
        let stale = std::mem::take(&mut dirty.virtual_services);
        let rebound = std::mem::take(&mut dirty.bindings);
        for key in stale.union(&rebound) {
            let mut findings = Findings::default();
            self.compile_virtual_service(key, stale.contains(key), dirty, &mut findings);
            self.output.set_findings(Unit::VirtualService(key.clone()), findings);
        }
    }

    fn compile_virtual_service(
        &mut self,
        key: &ObjectKey,
        is_stale: bool,
        dirty: &mut Dirty,
        findings: &mut Findings,
    ) {
        let mut bound = self.bound.remove(key).unwrap_or_default();
        let old = std::mem::take(&mut bound.domains);
        let mut routes_changed = false;
        if let Some(object) = self.view.store.find(key)
            && let Spec::VirtualService(spec) = &object.spec
        {
            bound.domains = self.bind(object, spec, findings);
            if !bound.domains.is_empty() {
                let scopes = self.scopes(&bound);
                let lookup = self.lookup();
                routes_changed = bound.compile(lookup, (object, spec), scopes, is_stale, findings);
            }
        }
        for left in old.iter().filter(|binding| bound.domains.binary_search(binding).is_err()) {
            let (domain, contribution) = left;
            let contributions = self.contributions.get_mut(domain);
            if contributions.is_some_and(|contributions| contributions.remove(contribution)) {
                self.contributions.remove(domain);
            }
            dirty.domains.insert(domain.clone());
        }
        for binding in &bound.domains {
            let (domain, contribution) = binding;
            if old.binary_search(binding).is_ok() {
                // Chains of server names and TCP servers are made from the rules directly.
                let is_http = self.is_http(domain);
                if (is_http && routes_changed) || (!is_http && is_stale) {
                    dirty.domains.insert(domain.clone());
                }
            } else {
                self.contributions
                    .entry(domain.clone())
                    .and_modify(|contributions| contributions.insert(contribution.clone()))
                    .or_insert_with(|| Members::One(contribution.clone()));
                dirty.domains.insert(domain.clone());
            }
        }
        if !bound.domains.is_empty() {
            self.bound.insert(key.clone(), bound);
        }
    }

    fn lookup(&self) -> Lookup<'_> {
        Lookup { view: &self.view, registry: &self.registry }
    }

    fn is_http(&self, domain: &Domain) -> bool {
        self.tables.get(&domain.table).is_some_and(|table| table.is_http())
    }

    /// Where routes of a VirtualService are needed for.
    fn scopes(&self, bound: &Bound) -> BTreeSet<Scope> {
        let tables = bound.domains.iter().filter_map(|(domain, contribution)| {
            let table = self.tables.get(&domain.table)?;
            let server = table.servers.get(&contribution.server)?;
            table.is_http().then(|| Scope::of(server))
        });
        tables.collect()
    }

    /// The domains of this proxy's tables that a VirtualService takes part in.
    fn bind(
        &self,
        object: &Object,
        spec: &VirtualService,
        findings: &mut Findings,
    ) -> Box<[(Domain, Contribution)]> {
        let mut domains = Vec::new();
        if spec.hosts.is_empty() || self.view.is_sidecar() {
            return domains.into();
        }
        let own = &object.metadata.namespace;
        let default = &self.view.mesh.default_virtual_service_export_to;
        let to = &self.view.proxy.namespace;
        let is_visible = is_exported(&spec.export_to, default, own, to);
        let mut seen = BTreeSet::new();
        for (index, name) in spec.gateways.iter().enumerate() {
            let Some(gateway) = resolve_gateway(name, own) else { continue };
            if !seen.insert(gateway.clone()) {
                continue;
            }
            let mut warn = |message: String| {
                findings.warn(object, format!("spec.gateways[{index}]"), message);
            };
            let Some(gateway_object) = self.view.store.find(&gateway) else {
                warn(format!("{gateway} does not exist, so nothing is routed by it"));
                continue;
            };
            let Some(tables) = self.tables_of.get(&gateway) else { continue };
            if !is_visible {
                warn(format!(
                    "{gateway} is served by a proxy in namespace {to}, which this VirtualService is \
                     not exported to"
                ));
                continue;
            }
            let before = domains.len();
            for table in tables.iter().filter_map(|name| self.tables.get(name)) {
                let servers = table.servers_of(gateway_object);
                domains.extend(binding::bind(&self.view, object, spec, table, servers));
            }
            if domains.len() == before {
                warn(format!(
                    "{gateway} has no server for the hosts and rules of this VirtualService; check \
                     the server's hosts, the namespaces before them, and its protocol"
                ));
            }
        }
        domains.sort_unstable();
        domains.dedup();
        domains.into()
    }

    pub(super) fn compile_domains(&mut self, dirty: &Dirty) {
        for domain in &dirty.domains {
            let mut findings = Findings::default();
            self.compile_domain(domain, &mut findings);
            self.output.set_findings(Unit::Domain(domain.clone()), findings);
        }
    }

    fn compile_domain(&mut self, domain: &Domain, findings: &mut Findings) {
        let contributions = self.contributions.get(domain);
        let Some(table) = self.tables.get(&domain.table) else {
            self.output.set_virtual_host(virtual_host_name(domain), None);
            self.output.set_filter_chain(tcp::sni_chain_name(domain), None);
            if domain.host == HostPattern::Any {
                let own = FilterChainName::new(domain.table.shared());
                self.output.set_filter_chain(own, None);
            }
            return;
        };
        let contributors = Contributors {
            lookup: Lookup { view: &self.view, registry: &self.registry },
            table,
            contributions: contributions.into_iter().flat_map(Members::iter).collect(),
        };
        match &table.kind {
            TableKind::Http { redirecting } => {
                let is_redirecting = redirecting.contains(&domain.host);
                let contributions = &contributors.contributions;
                let value = self.http_domain(domain, table, is_redirecting, contributions);
                self.output.set_virtual_host(virtual_host_name(domain), value);
            }
            TableKind::Sni { terminated } => {
                let is_taken = terminated.contains(&domain.host);
                let chain = tcp::sni_chain(&contributors, is_taken, domain, findings);
                self.output.set_filter_chain(tcp::sni_chain_name(domain), chain);
            }
            TableKind::Tcp { chain } => {
                let chain = tcp::tcp_chain(&contributors, chain, findings);
                self.output.set_filter_chain(chain.name.clone(), Some(chain));
            }
        }
    }

    fn http_domain(
        &self,
        domain: &Domain,
        table: &Table,
        is_redirecting: bool,
        contributions: &[&Contribution],
    ) -> Option<VirtualHost> {
        let mut seen = BTreeSet::new();
        let mut routes = Vec::new();
        let mut require_tls = is_redirecting;
        for contribution in contributions {
            let Some(server) = table.servers.get(&contribution.server) else { continue };
            require_tls |= server.redirect;
            let scope = Scope::of(server);
            // Two servers of one Gateway may share a port and both have the host.
            if !seen.insert((&contribution.virtual_service, scope.clone())) {
                continue;
            }
            if let Some(bound) = self.bound.get(&contribution.virtual_service) {
                routes.extend(bound.routes(scope).iter().cloned());
            }
        }
        virtual_host(domain, require_tls, routes.into_iter())
    }
}
