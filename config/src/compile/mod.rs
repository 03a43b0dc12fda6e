//! API objects -> the runtime model of one proxy.
//!
//! ```text
//! changes --validate--> store --links--> dirty units --compile--> resources + delta + diagnostics
//! ```
//!
//! The configuration is compiled in units: a listener, a virtual host, the clusters of a host, a
//! secret. A changed object marks the units that read it, found through the store's links; each is
//! compiled again, and what comes out equal keeps its `Arc`. So a change costs what depends on it.
//!
//! **Invariants**: pure and total; the result depends on the objects in force, not on the order they
//! came in; every resource belongs to exactly one unit.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

mod cluster;
mod dirty;
mod finding;
mod listener;
mod members;
mod mesh_tls;
mod mtls;
mod name;
mod output;
mod ownership;
mod packed;
mod policy;
mod recompile;
mod restart;
mod route;
mod secret;
mod settings;
mod sidecar;
mod store;

/// What the names in objects refer to, for whoever chooses which objects a proxy gets: it must not
/// see them differently than the proxy does.
pub mod reference {
    pub use super::{
        cluster::{patterns, service_export_to},
        name::{
            Age, is_exported, is_exported_elsewhere, resolve_gateway, resolve_host, service_host,
        },
        ownership::{
            Claim, Definition, FOREIGN_ADDRESSES_ANNOTATION, FOREIGN_ENDPOINT,
            FOREIGN_VIRTUAL_ADDRESS, Rules, endpoint_place, is_single, namespace_of, network,
            place_text, routes_elsewhere, said_of_definition, said_of_rules,
        },
        store::{contains, delegate_key, destinations, mesh_hosts},
    };
}

#[cfg(test)]
mod tests;

pub use self::restart::Before;
use self::{
    cluster::Registry,
    dirty::Dirty,
    finding::Findings,
    listener::{Layout, Socket, Table},
    members::Members,
    output::Output,
    route::{Contribution, Domain},
    secret::References,
    sidecar::{AutoAddresses, Scope as SidecarScope, Sidecar},
    store::Store,
};
use crate::{
    api::{MeshConfig, Object, ObjectKey},
    diagnostic::{Diagnostic, Severity},
    model::{Delta, Resources, RouteTableName, SecretName},
    validate::validate,
};

/// What a proxy stands in front of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ProxyKind {
    /// A cluster: it listens on what Gateways say.
    #[default]
    Gateway,
    /// A workload, with these addresses: it takes what is redirected to it.
    Sidecar { addresses: Vec<IpAddr> },
}

/// Who the configuration is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub kind: ProxyKind,
    pub namespace: Arc<str>,
    /// What Gateway and policy selectors are compared with.
    pub labels: BTreeMap<String, String>,
    /// What Kubernetes host names end with, `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// The process may not bind ports below 1024.
    pub unprivileged: bool,
    /// The proxy has a certificate of the mesh, or will.
    pub has_identity: bool,
    /// Ports of the workload by their names, which services call them by.
    pub named_ports: BTreeMap<String, u16>,
    /// The workload's DNS queries are redirected to the proxy.
    pub captures_dns: bool,
    /// Connections to the workload come to the proxy with the addresses they had (TPROXY).
    pub is_transparent: bool,
    /// HBONE is spoken, and this is what the other side is told of the workload (`baggage`).
    pub hbone: Option<Arc<str>>,
    /// Ports of the proxy itself, beside those of its listeners: nobody's connections are let through
    /// to them.
    pub own_ports: Vec<u16>,
    /// The objects are for this proxy and no other, so that one which is not is worth a warning.
    pub stands_alone: bool,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            kind: ProxyKind::Gateway,
            namespace: "default".into(),
            labels: BTreeMap::new(),
            cluster_domain: "cluster.local".into(),
            unprivileged: false,
            has_identity: false,
            named_ports: BTreeMap::new(),
            captures_dns: false,
            is_transparent: false,
            hbone: None,
            own_ports: Vec::new(),
            stands_alone: false,
        }
    }
}

/// One change of the set of objects.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Upsert(Arc<Object>),
    Remove(ObjectKey),
}

/// Compiles a whole configuration at once.
#[must_use]
pub fn compile(
    proxy: Proxy,
    mesh: Option<MeshConfig>,
    objects: impl IntoIterator<Item = Arc<Object>>,
) -> (Resources, Vec<Diagnostic>) {
    let mut compiler = Compiler::new(proxy, mesh);
    compiler.apply(objects.into_iter().map(Change::Upsert));
    let diagnostics = compiler.diagnostics();
    (compiler.output.resources, diagnostics)
}

/// What every unit reads.
#[derive(Debug)]
struct View {
    proxy: Proxy,
    mesh: MeshConfig,
    store: Store,
    /// What a sidecar knows of the mesh, and what it does with what it does not know.
    scope: SidecarScope,
    auto_addresses: AutoAddresses,
}

impl View {
    /// The namespace whose policies are for the whole mesh.
    fn root_namespace(&self) -> &str {
        match self.mesh.root_namespace.as_str() {
            "" => "istio-system",
            name => name,
        }
    }

    fn is_sidecar(&self) -> bool {
        matches!(self.proxy.kind, ProxyKind::Sidecar { .. })
    }

    fn trust_domain(&self) -> &str {
        match self.mesh.trust_domain.as_str() {
            "" => "cluster.local",
            name => name,
        }
    }
}

/// What is compiled, and said something about, at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Settings,
    Policies,
    /// Validation of one object. True while the object in force is an older one.
    Object(ObjectKey),
    Gateway(ObjectKey),
    Listener(Socket),
    DestinationRule(ObjectKey),
    Service(Arc<str>),
    Endpoints(Arc<str>),
    /// What a sidecar does with connections to a host.
    Outbound(Arc<str>),
    /// What a sidecar does with connections to its workload.
    Inbound,
    Sidecar,
    VirtualService(ObjectKey),
    Domain(Domain),
    Secret(SecretName),
}

/// The objects in force and the resources made of them.
#[derive(Debug)]
pub struct Compiler {
    view: View,
    /// Whether `view.mesh` was given, and not only stands for the defaults.
    has_mesh: bool,
    /// Objects whose last version was refused.
    refused: BTreeSet<ObjectKey>,
    registry: Registry,
    /// The sockets each Gateway has servers on, and the other way round.
    sockets: BTreeMap<ObjectKey, BTreeSet<Socket>>,
    gateways: BTreeMap<Socket, BTreeSet<ObjectKey>>,
    layouts: BTreeMap<Socket, Layout>,
    tables: BTreeMap<RouteTableName, Arc<Table>>,
    /// The tables that have a server of a Gateway.
    tables_of: BTreeMap<ObjectKey, BTreeSet<RouteTableName>>,
    bound: BTreeMap<ObjectKey, route::virtual_service::Bound>,
    contributions: BTreeMap<Domain, Members<Contribution>>,
    references: References,
    /// What leads to each host by `AUTO_PASSTHROUGH`.
    auto_passthrough: BTreeMap<Arc<str>, sidecar::Names>,
    /// Of sidecars only.
    sidecar: Sidecar,
    output: Output,
}

impl Compiler {
    /// Starts without objects. The first delta, of [`Self::apply`] or [`Self::set_mesh_config`], is
    /// the difference from `Resources::default()`.
    #[must_use]
    pub fn new(proxy: Proxy, mesh: Option<MeshConfig>) -> Self {
        let has_mesh = mesh.is_some();
        let mesh = mesh.unwrap_or_default();
        let mut compiler = Self {
            view: View {
                proxy,
                mesh,
                store: Store::default(),
                scope: SidecarScope::default(),
                auto_addresses: AutoAddresses::default(),
            },
            has_mesh,
            refused: BTreeSet::new(),
            registry: Registry::default(),
            sockets: BTreeMap::new(),
            gateways: BTreeMap::new(),
            layouts: BTreeMap::new(),
            tables: BTreeMap::new(),
            tables_of: BTreeMap::new(),
            bound: BTreeMap::new(),
            contributions: BTreeMap::new(),
            references: References::default(),
            auto_passthrough: BTreeMap::new(),
            sidecar: Sidecar::default(),
            output: Output::default(),
        };
        compiler.compile_units(Dirty::everything(&compiler));
        compiler
    }

    /// Applies the changes in order and brings the resources up to date. An object that does not
    /// validate is refused: its last good version, if there is one, stays in force.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Delta {
        let mut dirty = Dirty::default();
        let mut count = 0;
        for change in changes {
            count += 1;
            match change {
                Change::Upsert(object) => self.upsert(object, &mut dirty),
                Change::Remove(key) => {
                    self.refused.remove(&key);
                    self.output.set_findings(Unit::Object(key.clone()), Findings::default());
                    let old = self.view.store.remove(&key, &self.view.proxy);
                    self.view.auto_addresses.mark(&self.view.proxy, old.as_deref(), None);
                    dirty.mark(self, &key, old.as_deref(), None);
                }
            }
        }
        let delta = self.recompile(dirty);
        // It costs what the change did.
        if count > self.view.store.len() / 2 {
            self.pack();
        }
        delta
    }

    fn pack(&mut self) {
        self.view.store.pack();
        self.registry.pack();
        self.sidecar.pack();
        self.output.pack();
    }

    /// Replaces the mesh configuration; `None` is Istio's defaults with an access log.
    pub fn set_mesh_config(&mut self, mesh: Option<MeshConfig>) -> Delta {
        self.has_mesh = mesh.is_some();
        self.view.mesh = mesh.unwrap_or_default();
        let dirty = Dirty::everything(self);
        self.recompile(dirty)
    }

    /// Everything the proxy runs.
    #[must_use]
    pub fn resources(&self) -> &Resources {
        &self.output.resources
    }

    /// Objects in force.
    #[must_use]
    pub fn object_count(&self) -> usize {
        self.view.store.len()
    }

    /// Why the last version of an object was refused; empty if it was not.
    #[must_use]
    pub fn refusal(&self, key: &ObjectKey) -> Vec<&Diagnostic> {
        if !self.refused.contains(key) {
            return Vec::new();
        }
        let findings = self.output.findings_of(&Unit::Object(key.clone())).iter();
        findings.filter(|it| it.severity == Severity::Error).collect()
    }

    /// Everything there is to say about the objects now, sorted by object.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all: Vec<Diagnostic> = Vec::new();
        for (unit, findings) in self.output.findings() {
            let is_refused = matches!(unit, Unit::Object(key) if self.refused.contains(key));
            all.extend(findings.iter().cloned().map(|mut diagnostic| {
                // The object may have moved in its file since this was found.
                let object = diagnostic.object.as_ref().and_then(|key| self.view.store.find(key));
                if let Some(object) = object.filter(|_| !is_refused) {
                    diagnostic.source = object.source.clone();
                }
                diagnostic
            }));
        }
        all.sort_by(|a, b| {
            let key = |d: &'_ Diagnostic| (d.object.clone(), d.source.clone(), d.severity);
            key(a).cmp(&key(b)).then_with(|| (&a.field, &a.message).cmp(&(&b.field, &b.message)))
        });
        all.dedup();
        all
    }

    fn upsert(&mut self, object: Arc<Object>, dirty: &mut Dirty) {
        let key = object.key();
        let current = self.view.store.find(&key);
        let is_same = current.is_some_and(|current| {
            current.metadata == object.metadata && current.spec == object.spec
        });
        if is_same && !self.refused.contains(&key) {
            self.view.store.relocate(object);
            return;
        }
        let mut findings = Findings::default();
        let mut is_valid = true;
        for diagnostic in validate(&object) {
            is_valid &= diagnostic.severity != Severity::Error;
            findings.push(diagnostic);
        }
        self.output.set_findings(Unit::Object(key.clone()), findings);
        if !is_valid {
            self.refused.insert(key);
            return;
        }
        self.refused.remove(&key);
        if is_same {
            self.view.store.relocate(object);
            return;
        }
        let old = self.view.store.insert(Arc::clone(&object), &self.view.proxy);
        self.view.auto_addresses.mark(&self.view.proxy, old.as_deref(), Some(&object));
        dirty.mark(self, &key, old.as_deref(), Some(&object));
    }
}
