//! What one kind of proxy may see and needs, kept up to date change by change.
//!
//! ```text
//! Gateway --Routes--> VirtualService --Host--> Service, ServiceEntry --Endpoints--> EndpointSlice
//!    |                  |        \--Rules--> DestinationRule               \--Workloads--> WorkloadEntry
//!    \--Material--> Secret       \--Delegate--> VirtualService            \--Peers--> PeerAuthentication
//! ```
//!
//! An object is in the scope if it is one to begin with (a Gateway or policy that selects the proxy, a
//! Service in front of it), or if an object in the scope asks for it through a [`Link`]; and if the
//! proxy may see it at all. Links are counted, so that a change costs what hangs on it.
//!
//! The proxy's compiler applies the same rules to what it gets, and finer ones (hosts, ports). What
//! is decided here is what must not leave the controller.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use weir_config::{
    api::{Kind, ObjectKey},
    compile::reference::{contains, is_exported},
};

use crate::store::{Encoded, Entry, Facts, Labels, Link, Store};

mod labels;
mod sidecar;

pub use self::labels::{Distinctive, Selectable};

/// For whom a scope is. Proxies that are equal in this share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Audience {
    /// Of the service account that was authenticated.
    pub namespace: Arc<str>,
    /// Those that tell proxies apart ([`Distinctive`]).
    pub labels: Arc<Labels>,
    /// The service account may read the Secrets of its namespace.
    pub reads_secrets: bool,
    /// Gateways of other namespaces do not select it.
    pub own_gateways_only: bool,
    pub proxy_type: ProxyType,
}

/// What a proxy stands in front of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyType {
    /// Services, as Gateways say.
    Gateway,
    /// One workload, which may call whatever is exported to it.
    Sidecar,
}

/// What changed for the proxies of a scope: the resource, or that it is gone.
pub type Delta = BTreeMap<Arc<str>, Option<Arc<Encoded>>>;

/// The objects for an [`Audience`].
#[derive(Debug, Clone)]
pub struct Scope {
    audience: Audience,
    /// The Sidecar resource that limits what the workload knows.
    sidecar: Option<Arc<Entry>>,
    members: BTreeMap<ObjectKey, Arc<Entry>>,
    /// How many members ask for each link.
    wants: BTreeMap<Link, u32>,
}

/// One round of changes.
struct Round<'a> {
    store: &'a Store,
    /// Objects to look at.
    queue: Vec<ObjectKey>,
    /// What was there before, of everything that changed.
    before: BTreeMap<ObjectKey, Option<Arc<Entry>>>,
}

impl Scope {
    /// The scope with everything that is in `store` now.
    #[must_use]
    pub fn new(audience: Audience, store: &Store) -> Self {
        let sidecar = sidecar::resource(&audience, store);
        let mut scope =
            Self { audience, sidecar, members: BTreeMap::new(), wants: BTreeMap::new() };
        scope.settle(store, scope.roots(store));
        scope
    }

    /// The same for proxies with other labels, which up to now nothing told apart from these.
    #[must_use]
    pub fn for_labels(&self, labels: Labels) -> Self {
        let audience = Audience { labels: Arc::new(labels), ..self.audience.clone() };
        Self { audience, ..self.clone() }
    }

    #[must_use]
    pub fn audience(&self) -> &Audience {
        &self.audience
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn resources(&self) -> impl Iterator<Item = &Arc<Encoded>> + Clone {
        self.members.values().map(|entry| &entry.resource)
    }

    /// Follows a change of these objects in `store`.
    pub fn update<'a>(
        &mut self,
        store: &Store,
        changed: impl IntoIterator<Item = &'a ObjectKey>,
    ) -> Delta {
        let changed: Vec<_> = changed.into_iter().cloned().collect();
        if changed.iter().any(|key| key.kind == Kind::Sidecar) && self.knows_others(store) {
            return self.rebuild(store);
        }
        self.settle(store, changed)
    }

    /// Follows a change that may concern every object.
    pub fn rebuild(&mut self, store: &Store) -> Delta {
        let fresh = Self::new(self.audience.clone(), store);
        let old = std::mem::replace(self, fresh);
        let before = old.members.into_iter().map(|(key, entry)| (key, Some(entry)));
        let mut before: BTreeMap<_, _> = before.collect();
        for key in self.members.keys() {
            before.entry(key.clone()).or_default();
        }
        self.delta(before)
    }

    /// What is in the scope whoever asks for it.
    fn roots(&self, store: &Store) -> Vec<ObjectKey> {
        if self.is_sidecar() {
            return sidecar::roots(store);
        }
        let own = &self.audience.namespace;
        let root = &store.mesh().root_namespace;
        let gateways = store.of_kind(Kind::Gateway);
        let services = store.in_namespace(Kind::Service, own);
        let policies = [Kind::RequestAuthentication, Kind::AuthorizationPolicy]
            .into_iter()
            .flat_map(|kind| store.in_namespace(kind, own).chain(store.in_namespace(kind, root)));
        gateways.chain(services).chain(policies).map(|entry| entry.key.clone()).collect()
    }

    fn settle(&mut self, store: &Store, queue: Vec<ObjectKey>) -> Delta {
        let mut round = Round { store, queue, before: BTreeMap::new() };
        while let Some(key) = round.queue.pop() {
            self.look_at(key, &mut round);
        }
        self.delta(round.before)
    }

    /// Brings one object into the scope, out of it, or up to date.
    fn look_at(&mut self, key: ObjectKey, round: &mut Round<'_>) {
        let entry = round.store.find(&key).filter(|entry| self.admits(round.store, entry));
        let member = self.members.get(&key).cloned();
        match (&member, entry) {
            (None, None) => return,
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => return,
            _ => {}
        }
        let root = Arc::clone(&round.store.mesh().root_namespace);
        if let Some(new) = entry {
            self.members.insert(key.clone(), Arc::clone(new));
            for link in self.links(new, &root) {
                self.acquire(link, round);
            }
        } else {
            self.members.remove(&key);
        }
        if let Some(old) = &member {
            for link in self.links(old, &root) {
                self.release(link, round);
            }
        }
        if let (Some(old), Some(new)) = (&member, entry)
            && admits_others(old, new)
        {
            // It takes VirtualServices of other namespaces than before.
            round.queue.extend(round.store.candidates(&Link::Routes(key.clone())));
        }
        round.before.entry(key).or_insert(member);
    }

    fn acquire(&mut self, link: Link, round: &mut Round<'_>) {
        match self.wants.get_mut(&link) {
            Some(count) => *count += 1,
            None => {
                round.queue.extend(round.store.candidates(&link));
                self.wants.insert(link, 1);
            }
        }
    }

    fn release(&mut self, link: Link, round: &mut Round<'_>) {
        match self.wants.get_mut(&link) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                self.wants.remove(&link);
                round.queue.extend(round.store.candidates(&link));
            }
            None => {}
        }
    }

    /// Whether `entry` belongs to the scope, as things are now.
    fn admits(&self, store: &Store, entry: &Entry) -> bool {
        let Audience { namespace: to, labels, reads_secrets, own_gateways_only, proxy_type: _ } =
            &self.audience;
        let own = &entry.key.namespace;
        let mesh = store.mesh();
        // Certificates are a proxy's own, wherever it runs.
        if !matches!(entry.facts, Facts::Material) && !store.discovers(own) {
            return false;
        }
        match &entry.facts {
            Facts::Gateway { selector, .. } => {
                !self.is_sidecar()
                    && contains(labels, selector)
                    && (!own_gateways_only || own == to)
            }
            Facts::VirtualService { is_root: true, export_to, gateways, mesh_hosts, .. } => {
                is_exported(export_to, &mesh.virtual_service_export_to, own, to)
                    && (gateways.iter().any(|gateway| self.routes(store, gateway, own))
                        || mesh_hosts.iter().any(|host| self.imports(own, host)))
            }
            Facts::VirtualService { is_root: false, export_to, .. } => {
                let exports =
                    |from: &str| is_exported(export_to, &mesh.virtual_service_export_to, own, from);
                self.delegating_namespaces(&entry.key).any(exports)
            }
            Facts::DestinationRule { host, export_to, selector, .. } => {
                let selects = selector
                    .as_ref()
                    .is_none_or(|selector| own == to && contains(labels, selector));
                let link = Link::Rules { host: Arc::clone(host), namespace: Arc::clone(own) };
                selects
                    && is_exported(export_to, &mesh.destination_rule_export_to, own, to)
                    && (!self.needs(&link, &mesh.root_namespace) || self.wants.contains_key(&link))
            }
            Facts::Service { host, export_to, selector } => {
                let is_front = own == to && !selector.is_empty() && contains(labels, selector);
                is_exported(export_to, &mesh.service_export_to, own, to)
                    && (is_front || self.reaches(own, host))
            }
            Facts::ServiceEntry { hosts, export_to, selector } => {
                let selects = |it: &Arc<Labels>| !it.is_empty() && contains(labels, it);
                let is_front =
                    self.is_sidecar() && own == to && selector.as_ref().is_some_and(selects);
                is_exported(export_to, &mesh.service_export_to, own, to)
                    && (is_front || hosts.iter().any(|host| self.reaches(own, host)))
            }
            Facts::EndpointSlice { service, .. } => self.wants.contains_key(&Link::Endpoints {
                namespace: Arc::clone(own),
                service: Arc::clone(service),
            }),
            Facts::Workload { labels } => self.selects_workload(own, labels),
            Facts::Policy { .. }
                if entry.key.kind == Kind::PeerAuthentication
                    && self.wants.contains_key(&Link::Peers(Arc::clone(own))) =>
            {
                true
            }
            Facts::Policy { selector } => {
                (own == to || *own == mesh.root_namespace)
                    && (self.is_sidecar() || entry.key.kind != Kind::PeerAuthentication)
                    && selector.as_ref().is_none_or(|selector| contains(labels, selector))
            }
            Facts::Sidecar { .. } => self.sidecar.as_ref().is_some_and(|it| it.key == entry.key),
            Facts::Material => {
                own == to
                    && (*reads_secrets || entry.key.kind != Kind::Secret)
                    && self.wants.contains_key(&Link::Material(entry.key.clone()))
            }
            Facts::Unused => false,
        }
    }

    /// Whether a Gateway in the scope takes VirtualServices of `namespace`.
    fn routes(&self, store: &Store, gateway: &ObjectKey, namespace: &str) -> bool {
        let is_wanted = self.wants.contains_key(&Link::Routes(gateway.clone()));
        let entry = store.find(gateway).filter(|_| is_wanted);
        entry.is_some_and(|entry| match &entry.facts {
            Facts::Gateway { admits, .. } => admits.namespace(namespace),
            _ => false,
        })
    }

    /// The namespaces with VirtualServices in the scope that delegate to `key`.
    fn delegating_namespaces<'a>(&'a self, key: &'a ObjectKey) -> impl Iterator<Item = &'a str> {
        let first = Link::Delegate { to: key.clone(), from: Arc::default() };
        self.wants.range((Bound::Included(first), Bound::Unbounded)).map_while(move |(link, _)| {
            match link {
                Link::Delegate { to, from } if to == key => Some(&**from),
                _ => None,
            }
        })
    }

    /// Whether a Service or ServiceEntry in the scope selects workloads with these labels.
    fn selects_workload(&self, namespace: &Arc<str>, labels: &Labels) -> bool {
        let first =
            Link::Workloads { namespace: Arc::clone(namespace), labels: Arc::new(Labels::new()) };
        self.wants
            .range((Bound::Included(first), Bound::Unbounded))
            .map_while(|(link, _)| match link {
                Link::Workloads { namespace: other, labels } if other == namespace => Some(labels),
                _ => None,
            })
            .any(|selector| contains(labels, selector))
    }

    fn delta(&self, before: BTreeMap<ObjectKey, Option<Arc<Entry>>>) -> Delta {
        let changed = before.into_iter().filter_map(|(key, old)| {
            let new = self.members.get(&key);
            match (old, new) {
                (Some(old), Some(new)) if old.is_same_resource(new) => None,
                (_, Some(new)) => {
                    Some((Arc::clone(&new.resource.name), Some(Arc::clone(&new.resource))))
                }
                (Some(old), None) => Some((Arc::clone(&old.resource.name), None)),
                (None, None) => None,
            }
        });
        changed.collect()
    }
}

/// Whether a Gateway takes VirtualServices of other namespaces than before.
fn admits_others(old: &Entry, new: &Entry) -> bool {
    match (&old.facts, &new.facts) {
        (Facts::Gateway { admits: old, .. }, Facts::Gateway { admits: new, .. }) => old != new,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
