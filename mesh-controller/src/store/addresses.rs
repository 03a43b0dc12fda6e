//! Who is at which address, and which objects name addresses that are not theirs to name.
//!
//! Whoever may write a WorkloadEntry or ServiceEntry in one namespace could otherwise have a gateway send
//! to the pods of all others and to nodes, or have traffic for them. Proxies do not know all pods, so
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
    api::{Kind, Object, ObjectKey, Source, Spec},
    compile::reference::{FOREIGN_ADDRESSES_ANNOTATION, FOREIGN_ENDPOINT, FOREIGN_VIRTUAL_ADDRESS},
    diagnostic::{Diagnostic, Severity},
};

use super::{Entry, Pod, endpoints::PodName};

/// What an address is to the object that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Traffic goes there.
    Endpoint,
    /// Clients connect to it, wherever that ends.
    Virtual,
    /// It is the object's own.
    Own,
}

/// An address in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    address: IpAddr,
    r#use: Use,
    field: Box<str>,
}

impl Named {
    /// All of them.
    #[must_use]
    pub fn of(object: &Object) -> Box<[Self]> {
        let single = |text: &String| {
            let net = text.parse::<IpNet>().or_else(|_| text.parse().map(IpAddr::into)).ok();
            net.filter(|net| net.prefix_len() == net.max_prefix_len()).map(|net| net.addr())
        };
        let named = |text: &String, r#use: Use, field: &str| {
            Some(Self { address: single(text)?, r#use, field: field.into() })
        };
        match &object.spec {
            Spec::WorkloadEntry(spec) => {
                named(&spec.address, Use::Endpoint, "spec.address").into_iter().collect()
            }
            Spec::ServiceEntry(spec) => {
                let endpoints = spec.endpoints.iter().enumerate().filter_map(|(index, it)| {
                    let field = format!("spec.endpoints[{index}].address");
                    named(&it.address, Use::Endpoint, &field)
                });
                let virtual_ones = spec.addresses.iter().enumerate();
                let virtual_ones = virtual_ones.filter_map(|(index, text)| {
                    named(text, Use::Virtual, &format!("spec.addresses[{index}]"))
                });
                endpoints.chain(virtual_ones).collect()
            }
            Spec::Service(spec) => {
                let all = spec.cluster_ips.iter().chain([&spec.cluster_ip]);
                all.filter_map(|text| named(text, Use::Own, "")).collect()
            }
            _ => Box::default(),
        }
    }

    /// What it is a warning to name it, when somebody else is there.
    fn warning(&self, key: &ObjectKey) -> Diagnostic {
        let message = match self.r#use {
            Use::Endpoint | Use::Own => FOREIGN_ENDPOINT,
            Use::Virtual => FOREIGN_VIRTUAL_ADDRESS,
        };
        Diagnostic {
            severity: Severity::Warning,
            object: Some(key.clone()),
            source: Source::default(),
            field: self.field.to_string(),
            message: message.to_owned(),
        }
    }
}

/// Who is at an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Pod(PodName),
    /// The node that the pod runs on.
    NodeOf(PodName),
    Service(ObjectKey),
}

/// By address: who is there, and who names it.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    holders: BTreeMap<IpAddr, BTreeSet<Holder>>,
    named_by: BTreeSet<(IpAddr, ObjectKey)>,
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

    /// Follows an object. Returns the others that name an address of it.
    pub(super) fn move_entry(
        &mut self,
        old: Option<&Entry>,
        new: Option<&Entry>,
    ) -> Vec<ObjectKey> {
        let named = |entry: Option<&Entry>, is_own: bool| -> Vec<(IpAddr, ObjectKey)> {
            let all = entry
                .iter()
                .flat_map(|entry| entry.named.iter().map(|named| (named, entry.key.clone())));
            let all = all.filter(|(named, _)| (named.r#use == Use::Own) == is_own);
            all.map(|(named, key)| (named.address, key)).collect()
        };
        named(old, false).iter().for_each(|it| {
            self.named_by.remove(it);
        });
        self.named_by.extend(named(new, false));
        let held = |entry| -> BTreeSet<(IpAddr, Holder)> {
            let own = named(entry, true).into_iter();
            own.map(|(address, key)| (address, Holder::Service(key))).collect()
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
        self.named_by
            .range((Bound::Included((address, first)), Bound::Unbounded))
            .take_while(move |(other, _)| *other == address)
            .map(|(_, key)| key.clone())
    }

    /// Whether somebody else is where an object of `namespace` says that something of it is.
    fn is_foreign(&self, namespace: &str, named: &Named) -> bool {
        if named.r#use == Use::Endpoint && is_of_whoever_asks(named.address) {
            return true;
        }
        let mut holders = self.holders.get(&named.address).into_iter().flatten();
        holders.any(|holder| match holder {
            Holder::Pod((of, _)) => **of != *namespace,
            Holder::NodeOf(_) => true,
            // Who may send to a Service does so by its name; the address takes nobody's traffic.
            Holder::Service(key) => named.r#use == Use::Virtual && *key.namespace != *namespace,
        })
    }

    fn foreign<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Named> {
        let others = entry.named.iter().filter(|named| named.r#use != Use::Own);
        others.filter(|named| self.is_foreign(&entry.key.namespace, named))
    }

    pub(super) fn has_foreign(&self, entry: &Entry) -> bool {
        self.foreign(entry).next().is_some()
    }

    /// Writes into `object`, which is the entry's, which of its addresses are foreign. Returns what there
    /// is to say about that.
    pub(super) fn complete(
        &self,
        entry: &Entry,
        object: &mut Map<String, Value>,
    ) -> Vec<Diagnostic> {
        let foreign: BTreeSet<String> =
            self.foreign(entry).map(|named| named.address.to_string()).collect();
        let foreign: Vec<String> = foreign.into_iter().collect();
        annotate(object, (!foreign.is_empty()).then(|| foreign.join(",")));
        self.foreign(entry).map(|named| named.warning(&entry.key)).collect()
    }
}

/// Loopback and link-local addresses lead every proxy to another place: itself, where its admin pages are,
/// or the metadata of its node. Kubernetes takes them for no endpoint either.
fn is_of_whoever_asks(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

/// Has the annotation say that, or nothing, whoever wrote it.
pub fn annotate(object: &mut Map<String, Value>, text: Option<String>) {
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return };
    if let Some(text) = text {
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
mod tests {
    use weir_config::parse::{Options, parse};

    use super::*;
    use crate::store::{Change, Store};

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                           spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ports: [{port: 80}]}";

    fn upsert(yaml: &str) -> Change {
        let Ok(Value::Object(object)) = serde_yaml::from_str(yaml) else { panic!("{yaml}") };
        Change::Upsert(Entry::read(object, "cluster.local").unwrap())
    }

    fn entry(namespace: &str) -> Change {
        upsert(&format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: e, namespace: {namespace}, annotations: {{weir.dev/kept: a}}}}\n\
             spec: {{hosts: [x.test], ports: [{{number: 80, name: tcp, protocol: TCP}}], \
             addresses: ['fd00::1', 10.0.0.0/8, 192.0.2.9], resolution: STATIC, endpoints: \
             [{{address: 192.0.2.1}}, {{address: 10.0.0.1}}, {{address: 198.51.100.1}}]}}"
        ))
    }

    fn pod(namespace: &str, addresses: &[[u8; 4]], node_addresses: &[[u8; 4]]) -> Change {
        let all = |all: &[[u8; 4]]| all.iter().map(|octets| IpAddr::from(*octets)).collect();
        let pod = Pod {
            addresses: all(addresses),
            node_addresses: all(node_addresses),
            ..Pod::default()
        };
        Change::Pod { namespace: namespace.into(), name: "p".into(), pod: Some(pod) }
    }

    /// What is foreign in the ServiceEntry, and the fields that a warning is about.
    fn foreign(store: &Store, namespace: &str) -> (Option<String>, Vec<String>) {
        let key =
            ObjectKey { kind: Kind::ServiceEntry, namespace: namespace.into(), name: "e".into() };
        let entry = store.find(&key).unwrap();
        let yaml = Value::Object(entry.object()).to_string();
        let parsed = parse("test", yaml.as_bytes(), &Options::default());
        let annotations = &parsed.objects[0].metadata.annotations;
        assert_eq!(&annotations["weir.dev/kept"], "a");
        let fields = entry.findings.iter().map(|finding| finding.field.clone());
        (annotations.get(FOREIGN_ADDRESSES_ANNOTATION).map(str::to_owned), fields.collect())
    }

    #[test]
    fn an_address_is_foreign_while_somebody_else_is_there_whoever_came_first() {
        let changes = || {
            [entry("thief"), pod("shop", &[[192, 0, 2, 1]], &[[198, 51, 100, 1]]), upsert(SERVICE)]
        };
        let mut reversed = changes();
        reversed.reverse();
        for changes in [changes(), reversed] {
            let mut store = Store::new("weir-system", "cluster.local");
            store.apply(changes);
            let fields = ["endpoints[0].address", "endpoints[2].address", "addresses[0]"];
            let expected = (
                Some("192.0.2.1,198.51.100.1,fd00::1".to_owned()),
                fields.map(|field| format!("spec.{field}")).into(),
            );
            assert_eq!(foreign(&store, "thief"), expected);

            let gone = Change::Pod { namespace: "shop".into(), name: "p".into(), pod: None };
            let dirty = store.apply([gone]);
            assert!(dirty.objects.iter().any(|key| key.kind == Kind::ServiceEntry));
            let expected = (Some("fd00::1".to_owned()), vec!["spec.addresses[0]".to_owned()]);
            assert_eq!(foreign(&store, "thief"), expected);
            let service =
                ObjectKey { kind: Kind::Service, namespace: "shop".into(), name: "web".into() };
            store.apply([Change::Remove(service)]);
            assert_eq!(foreign(&store, "thief"), (None, vec![]));
        }
    }

    #[test]
    fn what_is_elsewhere_for_everybody_is_nobodys_to_name() {
        for (text, expected) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("::1", true),
            ("0.0.0.0", true),
            ("169.254.169.254", true),
            ("fe80::1", true),
            ("192.0.2.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(is_of_whoever_asks(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn a_namespace_may_name_its_own_pods_and_services_but_no_node() {
        let mut store = Store::new("weir-system", "cluster.local");
        let pod = pod("shop", &[[192, 0, 2, 1]], &[[198, 51, 100, 1]]);
        store.apply([entry("shop"), pod, upsert(SERVICE)]);
        let (addresses, _) = foreign(&store, "shop");
        assert_eq!(addresses.as_deref(), Some("198.51.100.1"));
    }
}
