//! The state of the cluster, as far as proxies are concerned: one writer, and what is found by what.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use serde_json::{Map, Value};
use tracing::{debug, error, warn};
use weir_config::{
    api::{Kind, ObjectKey},
    compile::reference::contains,
};

mod addresses;
mod endpoints;
mod entry;
mod facts;
mod imports;
mod link;
mod mesh;
mod position;
mod takeover;
mod written;

use self::{
    addresses::Addresses,
    endpoints::{Endpoints, Moved},
    mesh::MeshConfigMaps,
    position::Reaches,
    takeover::Claims,
};
pub use self::{
    addresses::{Named, annotate as annotate_foreign_addresses},
    endpoints::{Locality, Node, Place, Pod},
    entry::{Encoded, Entry, Unusable, generation},
    facts::{Admits, Credential, Facts, Labels, Passes},
    imports::Imports,
    link::Link,
    mesh::Mesh,
    position::{InvalidPosition, Position},
    written::{ACCEPTED, Condition, PROGRAMMED, Written},
};

/// Every cluster has it from its beginning, so its UID is taken for the cluster's.
const OLDEST_NAMESPACE: &str = "kube-system";

/// What the watches report.
#[derive(Debug)]
pub enum Change {
    Upsert(Entry),
    /// An EndpointSlice as it came: pods and nodes complete it.
    EndpointSlice(Map<String, Value>),
    /// An object that cannot be read: its last good version stays, here and in proxies.
    Unreadable(ObjectKey, Refused),
    Remove(ObjectKey),
    Pod {
        namespace: Arc<str>,
        name: Arc<str>,
        pod: Option<Pod>,
    },
    Node {
        name: Arc<str>,
        node: Option<Node>,
    },
    Namespace {
        name: Arc<str>,
        labels: Option<Labels>,
        uid: Arc<str>,
    },
    /// All objects of a kind are told, as of `version`; the newest was changed with `changed`.
    Listed {
        kind: &'static str,
        version: u64,
        changed: u64,
    },
    /// A kind was watched up to this version, at which something changed or not.
    Watched {
        kind: &'static str,
        version: u64,
        is_change: bool,
    },
    /// The text under `mesh` in a ConfigMap that may hold the mesh configuration.
    MeshConfig {
        key: ObjectKey,
        text: String,
    },
}

/// An object that cannot be read.
#[derive(Debug)]
pub struct Refused {
    pub reason: Unusable,
    pub generation: Option<i64>,
    pub written: Written,
}

/// What a batch of changes touched.
#[derive(Debug, Default)]
pub struct Dirty {
    pub objects: BTreeSet<ObjectKey>,
    /// VirtualServices about whose hosts others have a say than before.
    pub claims: BTreeSet<ObjectKey>,
    /// Everybody's resource of that name changed.
    pub mesh: bool,
    /// What is visible to whom may have changed for every object.
    pub visibility: bool,
    /// Where selectors came, went or changed: of which kind, in which namespace.
    pub selectors: BTreeSet<(Kind, Arc<str>)>,
}

impl Dirty {
    /// An object became another, or came (`old` is none) or went.
    fn object(&mut self, key: &ObjectKey, old: Option<&Entry>, new: Option<&Entry>) {
        let is_same = match (old, new) {
            (Some(old), Some(new)) => old.facts.tells_apart_like(&new.facts),
            (Some(entry), None) | (None, Some(entry)) => {
                entry.facts.selector().is_none() && key.kind != Kind::Sidecar
            }
            (None, None) => true,
        };
        if !is_same {
            self.selectors.insert((key.kind, Arc::clone(&key.namespace)));
        }
        self.objects.insert(key.clone());
    }
}

/// The objects in force.
#[derive(Debug)]
pub struct Store {
    domain: Arc<str>,
    entries: BTreeMap<ObjectKey, Arc<Entry>>,
    /// Every link with each object that answers to it.
    index: BTreeSet<(Link, ObjectKey)>,
    unreadable: BTreeMap<ObjectKey, Refused>,
    endpoints: Endpoints,
    addresses: Addresses,
    claims: Claims,
    namespaces: BTreeMap<Arc<str>, Labels>,
    mesh_config_maps: MeshConfigMaps,
    mesh: Mesh,
    reaches: Reaches,
}

impl Store {
    /// Without objects. `namespace` is the controller's own.
    #[must_use]
    pub fn new(namespace: &str, domain: &str) -> Self {
        let mesh_config_maps = MeshConfigMaps::new(namespace);
        let mesh = mesh_config_maps.defaults();
        Self {
            domain: domain.into(),
            entries: BTreeMap::new(),
            index: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            endpoints: Endpoints::default(),
            addresses: Addresses::default(),
            claims: Claims::default(),
            namespaces: BTreeMap::new(),
            mesh_config_maps,
            mesh,
            reaches: Reaches::default(),
        }
    }

    /// Up to where in the history of Kubernetes everything is that is known.
    #[must_use]
    pub fn position(&self) -> Position {
        self.reaches.position()
    }

    /// Whether everything up to `position` is known.
    #[must_use]
    pub fn includes(&self, position: &Position) -> bool {
        self.reaches.include(position)
    }

    #[must_use]
    pub fn find(&self, key: &ObjectKey) -> Option<&Arc<Entry>> {
        self.entries.get(key)
    }

    /// Why the object cannot be read as it is now.
    #[must_use]
    pub fn find_unreadable(&self, key: &ObjectKey) -> Option<&Refused> {
        self.unreadable.get(key)
    }

    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// What was last said about objects that cannot be read.
    pub fn unreadable(&self) -> impl Iterator<Item = (&ObjectKey, &Refused)> {
        self.unreadable.iter()
    }

    /// The labels of a pod, if it is known.
    #[must_use]
    pub fn pod_labels(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Arc<Labels>> {
        self.endpoints.pod(namespace, name).map(|pod| &pod.labels)
    }

    /// Whether the mesh configuration lets objects of that namespace count.
    #[must_use]
    pub fn discovers(&self, namespace: &str) -> bool {
        self.mesh.discovers(self.namespaces.get(namespace))
    }

    /// The objects of one kind in every namespace.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Entry>> {
        let from = ObjectKey { kind, namespace: Arc::default(), name: Arc::default() };
        self.entries
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, entry)| entry)
    }

    /// The objects of one kind in one namespace.
    pub fn in_namespace<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let from = ObjectKey { kind, namespace: namespace.into(), name: Arc::default() };
        self.entries
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(key, _)| key.kind == kind && *key.namespace == *namespace)
            .map(|(_, entry)| entry)
    }

    /// The objects that may answer to `link`, to be looked at.
    #[must_use]
    pub fn candidates(&self, link: &Link) -> Vec<ObjectKey> {
        match link {
            Link::Delegate { to, .. } => vec![to.clone()],
            Link::Material(key) => vec![key.clone()],
            Link::Workloads { namespace, .. } => {
                let entries = self.in_namespace(Kind::WorkloadEntry, namespace);
                let pods = self.in_namespace(Kind::Pod, namespace);
                entries.chain(pods).map(|entry| entry.key.clone()).collect()
            }
            Link::Passes(_) => {
                let entries = self.of_kind(Kind::Service).chain(self.of_kind(Kind::ServiceEntry));
                entries.map(|entry| entry.key.clone()).collect()
            }
            Link::Routes(_)
            | Link::Host(_)
            | Link::Rules { .. }
            | Link::Endpoints { .. }
            | Link::Peers(_) => {
                let first = ObjectKey {
                    kind: Kind::Gateway,
                    namespace: Arc::default(),
                    name: Arc::default(),
                };
                self.index
                    .range((Bound::Included((link.clone(), first)), Bound::Unbounded))
                    .take_while(|(other, _)| other == link)
                    .map(|(_, key)| key.clone())
                    .collect()
            }
        }
    }

    /// Applies changes in their order. A panic, which is a bug, costs the change that brought it out.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Dirty {
        let mut dirty = Dirty::default();
        for change in changes {
            let apply = AssertUnwindSafe(|| self.apply_one(change, &mut dirty));
            if catch_unwind(apply).is_err() {
                error!("a change brought out a bug; it is left out");
            }
        }
        dirty
    }

    fn apply_one(&mut self, change: Change, dirty: &mut Dirty) {
        match change {
            Change::Upsert(entry) => self.upsert(entry, dirty),
            Change::EndpointSlice(slice) => self.read_slice(slice, dirty),
            Change::Unreadable(key, refused) => {
                let reason = &refused.reason;
                warn!(object = %key, "cannot be read; its last good version stays: {reason}");
                dirty.objects.insert(key.clone());
                self.unreadable.insert(key, refused);
            }
            Change::Remove(key) => {
                self.unreadable.remove(&key);
                if let Some(old) = self.remove(&key, dirty) {
                    self.select_anew(Some(&*old), None, dirty);
                } else if self.mesh_config_maps.remove(&key) {
                    self.refresh_mesh(dirty);
                }
            }
            Change::Pod { namespace, name, pod } => {
                self.move_pod(&namespace, &name, pod, dirty);
            }
            Change::Node { name, node } => self.move_node(&name, node, dirty),
            Change::Namespace { name, labels, uid } => {
                if *name == *OLDEST_NAMESPACE && labels.is_some() {
                    self.reaches.set_history(uid);
                }
                let before = self.discovers(&name);
                match labels {
                    Some(labels) => self.namespaces.insert(Arc::clone(&name), labels),
                    None => self.namespaces.remove(&name),
                };
                dirty.visibility |= self.discovers(&name) != before;
            }
            Change::Listed { kind, version, changed } => {
                self.reaches.listed(kind, version, changed);
            }
            Change::Watched { kind, version, is_change } => {
                self.reaches.watched(kind, version, is_change);
            }
            Change::MeshConfig { key, text } => {
                if self.mesh_config_maps.insert(&key, text) {
                    self.refresh_mesh(dirty);
                }
            }
        }
    }

    fn move_pod(
        &mut self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        pod: Option<Pod>,
        dirty: &mut Dirty,
    ) {
        let full_name = (Arc::clone(namespace), Arc::clone(name));
        let old = self.endpoints.pod(namespace, name);
        let named_by = self.addresses.move_pod(&full_name, old, pod.as_ref());
        // What a slice says of it may be true no more.
        let has_moved = old.is_some_and(|old| pod.as_ref().is_none_or(|pod| !pod.is_where(old)));
        let moved = self.endpoints.set_pod(full_name, pod);
        if moved == Moved::Description || has_moved {
            let slices = self.endpoints.slices_of(namespace, name);
            self.complete(slices, dirty);
        }
        if moved != Moved::Nothing {
            self.select_pod(namespace, name, dirty);
        }
        self.name_anew(named_by, dirty);
    }

    fn move_node(&mut self, name: &Arc<str>, node: Option<Node>, dirty: &mut Dirty) {
        let of = |node: Option<&Node>| node.map(|it| it.addresses.clone()).unwrap_or_default();
        let (old, new) = (of(self.endpoints.node(name)), of(node.as_ref()));
        let named_by = self.addresses.move_node(name, &old, &new);
        if self.endpoints.set_node(name, node) {
            let slices = self.of_kind(Kind::EndpointSlice).map(|entry| entry.key.clone()).collect();
            self.complete(slices, dirty);
            let pods: Vec<_> = self.endpoints.pods_on(name).cloned().collect();
            for (namespace, name) in pods {
                self.select_pod(&namespace, &name, dirty);
            }
        }
        self.name_anew(named_by, dirty);
    }

    /// Looks again at objects with addresses at which somebody came or went.
    fn name_anew(&mut self, keys: Vec<ObjectKey>, dirty: &mut Dirty) {
        for key in keys {
            let Some(entry) = self.entries.get(&key) else { continue };
            let foreign = self.addresses.told_of(entry);
            // Others come and go in a network all the time.
            if foreign != entry.foreign
                && let Some(entry) = self.named(entry, foreign)
            {
                self.upsert_named(entry, dirty);
            }
        }
    }

    /// The same object, with what is known of the addresses in it.
    fn named(&self, entry: &Entry, foreign: Box<str>) -> Option<Entry> {
        let mut object = entry.object();
        annotate_foreign_addresses(&mut object, &foreign);
        let read = Entry::read(object, &self.domain).ok()?;
        let findings = read.findings.into_iter().chain(self.addresses.warnings(entry)).collect();
        let (named, written) = (entry.named.clone(), entry.written.clone());
        Some(Entry { findings, foreign, named, written, ..read })
    }

    fn upsert(&mut self, entry: Entry, dirty: &mut Dirty) {
        let foreign = self.addresses.told_of(&entry);
        let named = if foreign.is_empty() { None } else { self.named(&entry, foreign) };
        self.upsert_named(named.unwrap_or(entry), dirty);
    }

    fn upsert_named(&mut self, entry: Entry, dirty: &mut Dirty) {
        self.unreadable.remove(&entry.key);
        let entry = Arc::new(entry);
        let old = self.entries.insert(entry.key.clone(), Arc::clone(&entry));
        old.iter().for_each(|old| self.unlink(old));
        for link in entry.answers() {
            self.index.insert((link, entry.key.clone()));
        }
        self.endpoints.link(&entry);
        let named_by = self.addresses.move_entry(old.as_deref(), Some(&entry));
        dirty.claims.extend(self.claims.follow(old.as_deref(), Some(&entry)));
        dirty.object(&entry.key, old.as_deref(), Some(&entry));
        self.select_anew(old.as_deref(), Some(&*entry), dirty);
        self.name_anew(named_by, dirty);
    }

    fn remove(&mut self, key: &ObjectKey, dirty: &mut Dirty) -> Option<Arc<Entry>> {
        let old = self.entries.remove(key)?;
        self.unlink(&old);
        let named_by = self.addresses.move_entry(Some(&old), None);
        dirty.claims.extend(self.claims.follow(Some(&old), None));
        dirty.object(key, Some(&old), None);
        self.name_anew(named_by, dirty);
        Some(old)
    }

    /// Follows a ServiceEntry that selects other pods than before.
    fn select_anew(&mut self, old: Option<&Entry>, new: Option<&Entry>, dirty: &mut Dirty) {
        let Some(entry) = old.or(new) else { return };
        if old.and_then(Entry::pod_selector) == new.and_then(Entry::pod_selector) {
            return;
        }
        let namespace = Arc::clone(&entry.key.namespace);
        let pods: Vec<_> = self.endpoints.pods_of(&namespace).cloned().collect();
        for name in pods {
            self.select_pod(&namespace, &name, dirty);
        }
    }

    /// Has a pod among the objects while it is ready and a ServiceEntry of its namespace selects it:
    /// of others nothing is kept but what slices need.
    fn select_pod(&mut self, namespace: &Arc<str>, name: &Arc<str>, dirty: &mut Dirty) {
        let key =
            ObjectKey { kind: Kind::Pod, namespace: Arc::clone(namespace), name: Arc::clone(name) };
        let selects = |labels: &Labels| {
            let entries = self.in_namespace(Kind::ServiceEntry, namespace);
            entries.filter_map(|entry| entry.pod_selector()).any(|it| contains(labels, it))
        };
        let is_selected = self.pod_labels(namespace, name).is_some_and(|labels| selects(labels));
        let object = self.endpoints.pod_object(namespace, name).filter(|_| is_selected);
        match object.map(|object| Entry::read(object, &self.domain)) {
            Some(Ok(entry)) => self.upsert(entry, dirty),
            Some(Err(error)) => debug!("{key} is left out: {error}"),
            None => {
                self.remove(&key, dirty);
            }
        }
    }

    fn unlink(&mut self, old: &Entry) {
        for link in old.answers() {
            self.index.remove(&(link, old.key.clone()));
        }
        self.endpoints.unlink(old);
    }

    fn read_slice(&mut self, mut slice: Map<String, Value>, dirty: &mut Dirty) {
        self.endpoints.complete(&mut slice);
        annotate_foreign_addresses(&mut slice, "");
        let named = self.endpoints.unknown_addresses(&slice);
        match Entry::read(slice, &self.domain) {
            Ok(entry) => self.upsert(Entry { named, ..entry }, dirty),
            Err(error) => debug!("an EndpointSlice is left out: {error}"),
        }
    }

    /// Brings slices up to date with their pods and nodes.
    fn complete(&mut self, slices: Vec<ObjectKey>, dirty: &mut Dirty) {
        for key in slices {
            if let Some(entry) = self.entries.get(&key) {
                let slice = entry.object();
                self.read_slice(slice, dirty);
            }
        }
    }

    fn refresh_mesh(&mut self, dirty: &mut Dirty) {
        let Some(mesh) = self.mesh_config_maps.in_force() else { return };
        dirty.mesh |= mesh.resource.version != self.mesh.resource.version;
        dirty.visibility |= !mesh.has_same_visibility(&self.mesh);
        self.mesh = mesh;
    }
}
