//! Who is at which address, and which objects name addresses that are not theirs to name.
//!
//! Whoever may write a WorkloadEntry, ServiceEntry or EndpointSlice in one namespace could otherwise have a
//! gateway send to the pods of all others and to nodes, or have traffic for them. Proxies do not know all pods, so
//! the objects they get say which of their addresses are foreign.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Bound,
    sync::Arc,
};

use ipnet::IpNet;
use serde_json::{Map, Value};
use weir_config::{
    api::{Kind, ObjectKey},
    compile::reference::{FOREIGN_ADDRESSES_ANNOTATION, is_single, place_text},
    diagnostic::Diagnostic,
    model::cluster::is_local,
};

mod named;

pub use self::named::Named;
use self::named::Use;
use super::{Entry, Pod, endpoints::PodName};

/// Who is at an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Pod(PodName),
    /// The node that the pod runs on.
    NodeOf(PodName),
    Node(Arc<str>),
    Service(ObjectKey),
}

/// By address: who is there, and who names it.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    holders: BTreeMap<IpAddr, BTreeSet<Holder>>,
    named_by: BTreeSet<(IpAddr, ObjectKey)>,
    /// Networks that are named, of which there are few.
    networks: BTreeSet<(IpNet, ObjectKey)>,
}

impl Addresses {
    /// Follows a pod. Returns the objects that name an address at which it was or is.
    pub(super) fn move_pod(
        &mut self,
        name: &PodName,
        old: Option<&Pod>,
        new: Option<&Pod>,
    ) -> Vec<ObjectKey> {
        let held = |pod: Option<&Pod>| -> BTreeSet<(IpAddr, Holder)> {
            let own = pod.iter().flat_map(|it| &it.addresses).copied();
            let nodes = pod.iter().flat_map(|it| &it.node_addresses).copied();
            let own = own.map(|address| (address, Holder::Pod(name.clone())));
            own.chain(nodes.map(|address| (address, Holder::NodeOf(name.clone())))).collect()
        };
        self.replace(&held(old), &held(new))
    }

    /// Follows a node, whose addresses these are.
    pub(super) fn move_node(
        &mut self,
        name: &Arc<str>,
        old: &[IpAddr],
        new: &[IpAddr],
    ) -> Vec<ObjectKey> {
        let held = |addresses: &[IpAddr]| -> BTreeSet<(IpAddr, Holder)> {
            let addresses = addresses.iter();
            addresses.map(|address| (*address, Holder::Node(Arc::clone(name)))).collect()
        };
        self.replace(&held(old), &held(new))
    }

    /// Follows an object. Returns the others that name an address of it.
    pub(super) fn move_entry(
        &mut self,
        old: Option<&Entry>,
        new: Option<&Entry>,
    ) -> Vec<ObjectKey> {
        let others = |entry: Option<&Entry>| -> Vec<(IpNet, ObjectKey)> {
            let all = entry.iter().flat_map(|entry| entry.named.iter().map(|it| (it, &entry.key)));
            let others = all.filter(|(named, _)| named.r#use != Use::Own);
            others.map(|(named, key)| (named.place, key.clone())).collect()
        };
        for (place, key) in others(old) {
            if is_single(&place) {
                self.named_by.remove(&(place.addr(), key));
            } else {
                self.networks.remove(&(place, key));
            }
        }
        for (place, key) in others(new) {
            if is_single(&place) {
                self.named_by.insert((place.addr(), key));
            } else {
                self.networks.insert((place, key));
            }
        }
        let held = |entry: Option<&Entry>| -> BTreeSet<(IpAddr, Holder)> {
            let all = entry.iter().flat_map(|entry| entry.named.iter().map(|it| (it, &entry.key)));
            let own = all.filter(|(named, _)| named.r#use == Use::Own);
            own.map(|(named, key)| (named.place.addr(), Holder::Service(key.clone()))).collect()
        };
        self.replace(&held(old), &held(new))
    }

    fn replace(
        &mut self,
        old: &BTreeSet<(IpAddr, Holder)>,
        new: &BTreeSet<(IpAddr, Holder)>,
    ) -> Vec<ObjectKey> {
        let mut moved = Vec::new();
        for (address, holder) in old.difference(new) {
            if let Some(holders) = self.holders.get_mut(address) {
                holders.remove(holder);
                if holders.is_empty() {
                    self.holders.remove(address);
                }
            }
            moved.extend(self.named_by(*address));
        }
        for (address, holder) in new.difference(old) {
            self.holders.entry(*address).or_default().insert(holder.clone());
            moved.extend(self.named_by(*address));
        }
        moved
    }

    fn named_by(&self, address: IpAddr) -> impl Iterator<Item = ObjectKey> {
        let first =
            ObjectKey { kind: Kind::Gateway, namespace: Arc::default(), name: Arc::default() };
        let single = self
            .named_by
            .range((Bound::Included((address, first)), Bound::Unbounded))
            .take_while(move |(other, _)| *other == address)
            .map(|(_, key)| key.clone());
        let within = self.networks.iter().filter(move |(network, _)| network.contains(&address));
        single.chain(within.map(|(_, key)| key.clone()))
    }

    /// Whether somebody else is where an object of `namespace` says that something of it is.
    fn is_foreign(&self, namespace: &str, named: &Named) -> bool {
        if named.r#use == Use::Endpoint && is_local(named.place.addr()) {
            return true;
        }
        let is_other = |holder: &Holder| match holder {
            Holder::Pod((of, _)) => **of != *namespace,
            Holder::NodeOf(_) | Holder::Node(_) => true,
            // Who may send to a Service does so by its name; the address takes nobody's traffic.
            Holder::Service(key) => named.r#use == Use::Virtual && *key.namespace != *namespace,
        };
        let (first, last) = (named.place.network(), named.place.broadcast());
        self.holders.range(first..=last).any(|(_, holders)| holders.iter().any(is_other))
    }

    fn foreign<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Named> {
        let others = entry.named.iter().filter(|named| named.r#use != Use::Own);
        others.filter(|named| self.is_foreign(&entry.key.namespace, named))
    }

    /// What proxies are to be told of the entry's addresses; empty: nothing.
    pub(super) fn told_of(&self, entry: &Entry) -> Box<str> {
        let foreign: BTreeSet<String> =
            self.foreign(entry).map(|it| place_text(&it.place)).collect();
        Vec::from_iter(foreign).join(",").into()
    }

    pub(super) fn warnings(&self, entry: &Entry) -> Vec<Diagnostic> {
        self.foreign(entry).map(|named| named.warning(&entry.key)).collect()
    }
}

/// Has the annotation say that, or nothing, whoever wrote it.
pub fn annotate(object: &mut Map<String, Value>, text: &str) {
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return };
    if !text.is_empty() {
        let annotations = metadata.entry("annotations").or_insert_with(|| Map::new().into());
        if let Value::Object(annotations) = annotations {
            annotations.insert(FOREIGN_ADDRESSES_ANNOTATION.to_owned(), text.into());
        }
    } else if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.remove(FOREIGN_ADDRESSES_ANNOTATION);
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
}

#[cfg(test)]
mod tests;
