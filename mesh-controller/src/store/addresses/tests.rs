use weir_config::parse::{Options, parse};

use super::*;
use crate::store::{Change, Node, Store};

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
         addresses: ['fd00::1', 10.9.0.0/16, 192.0.2.9], resolution: STATIC, endpoints: \
         [{{address: 192.0.2.1}}, {{address: 10.0.0.1}}, {{address: 198.51.100.1}}]}}"
    ))
}

fn pod(namespace: &str, addresses: &[[u8; 4]], node_addresses: &[[u8; 4]]) -> Change {
    let all = |all: &[[u8; 4]]| all.iter().map(|octets| IpAddr::from(*octets)).collect();
    let pod =
        Pod { addresses: all(addresses), node_addresses: all(node_addresses), ..Pod::default() };
    Change::Pod { namespace: namespace.into(), name: "p".into(), pod: Some(pod) }
}

/// What is foreign in the ServiceEntry, and the fields that a warning is about.
fn foreign(store: &Store, namespace: &str) -> (Option<String>, Vec<String>) {
    let key = ObjectKey { kind: Kind::ServiceEntry, namespace: namespace.into(), name: "e".into() };
    let entry = store.find(&key).unwrap();
    let fields = entry.findings.iter().map(|finding| finding.field.clone());
    (told(store, &key), fields.collect())
}

/// What proxies are told of an object.
fn told(store: &Store, key: &ObjectKey) -> Option<String> {
    let yaml = Value::Object(store.find(key).unwrap().object()).to_string();
    let parsed = parse("test", yaml.as_bytes(), &Options::default());
    let annotations = &parsed.objects[0].metadata.annotations;
    assert_eq!(&annotations["weir.dev/kept"], "a");
    annotations.get(FOREIGN_ADDRESSES_ANNOTATION).map(str::to_owned)
}

fn store(changes: impl IntoIterator<Item = Change>) -> Store {
    let mut store = Store::new("weir-system", "cluster.local");
    store.apply(changes);
    store
}

fn node(addresses: &[[u8; 4]]) -> Change {
    let addresses = addresses.iter().map(|octets| IpAddr::from(*octets)).collect();
    Change::Node { name: "n".into(), node: Some(Node { addresses, ..Node::default() }) }
}

#[test]
fn an_address_is_foreign_while_somebody_else_is_there_whoever_came_first() {
    let changes =
        || [entry("thief"), pod("shop", &[[192, 0, 2, 1]], &[[198, 51, 100, 1]]), upsert(SERVICE)];
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
        assert_eq!(is_local(text.parse().unwrap()), expected, "{text}");
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

#[test]
fn a_node_is_known_by_all_its_addresses_whoever_runs_on_it() {
    let mut store = store([entry("shop"), node(&[[192, 0, 2, 1], [198, 51, 100, 1]])]);
    let (addresses, _) = foreign(&store, "shop");
    assert_eq!(addresses.as_deref(), Some("192.0.2.1,198.51.100.1"));
    store.apply([node(&[[192, 0, 2, 9]])]);
    let (addresses, fields) = foreign(&store, "shop");
    assert_eq!((addresses.as_deref(), &*fields[0]), (Some("192.0.2.9"), "spec.addresses[2]"));
    store.apply([Change::Node { name: "n".into(), node: None }]);
    assert_eq!(foreign(&store, "shop"), (None, vec![]));
}

#[test]
fn a_network_is_foreign_while_somebody_else_is_in_it() {
    let mut store = store([entry("thief")]);
    for (pod, expected) in [
        (pod("shop", &[[10, 9, 255, 255]], &[]), Some("10.9.0.0/16")),
        (pod("shop", &[[10, 10, 0, 0]], &[]), None),
        (pod("shop", &[], &[[10, 9, 0, 0]]), Some("10.9.0.0/16")),
        (Change::Pod { namespace: "shop".into(), name: "p".into(), pod: None }, None),
        // Its own are no reason.
        (pod("thief", &[[10, 9, 0, 1]], &[]), None),
        (node(&[[10, 9, 0, 7]]), Some("10.9.0.0/16")),
    ] {
        store.apply([pod]);
        assert_eq!(foreign(&store, "thief").0.as_deref(), expected);
    }
    // Who comes beside the first changes nothing, and costs nobody a push.
    let dirty = store.apply([pod("shop", &[[10, 9, 0, 9]], &[])]);
    assert!(!dirty.objects.iter().any(|key| key.kind == Kind::ServiceEntry), "{dirty:?}");
}

#[test]
fn what_leads_to_every_proxys_own_host_is_foreign_however_it_is_written() {
    for (address, expected) in [
        ("unix:///run/admin.sock", true),
        ("localhost", true),
        ("LocalHost.", true),
        ("a.localhost", true),
        ("127.0.0.2", true),
        ("localhost.example.com", false),
    ] {
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
             metadata: {{name: e, namespace: thief, annotations: {{weir.dev/kept: a}}}}\n\
             spec: {{address: '{address}'}}"
        );
        let store = store([upsert(&yaml)]);
        let key =
            ObjectKey { kind: Kind::WorkloadEntry, namespace: "thief".into(), name: "e".into() };
        assert_eq!(told(&store, &key).is_some(), expected, "{address}");
        assert_eq!(store.find(&key).unwrap().findings.len(), usize::from(expected), "{address}");
    }
}

#[test]
fn the_external_name_of_a_service_may_lead_to_every_proxys_own_host() {
    for (name, expected) in [("localhost", Some("127.0.0.1")), ("example.com", None)] {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\n\
             metadata: {{name: e, namespace: thief, annotations: {{weir.dev/kept: a}}}}\n\
             spec: {{type: ExternalName, externalName: {name}, ports: [{{port: 80}}]}}"
        );
        let key = ObjectKey { kind: Kind::Service, namespace: "thief".into(), name: "e".into() };
        assert_eq!(told(&store([upsert(&yaml)]), &key).as_deref(), expected);
    }
}

/// A slice of `namespace` with one endpoint, which is said to be pod `p`.
fn slice(namespace: &str, service: &str, address: &str) -> Change {
    let yaml = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: s, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}, \
         annotations: {{weir.dev/kept: a, weir.dev/foreignAddresses: 1.1.1.1}}}}\n\
         addressType: IPv4\nports: [{{port: 80}}]\n\
         endpoints: [{{addresses: [{address}], targetRef: {{kind: Pod, name: p, namespace: shop}}}}]"
    );
    let Ok(Value::Object(object)) = serde_yaml::from_str(&yaml) else { panic!("{yaml}") };
    Change::EndpointSlice(object)
}

#[test]
fn an_endpoint_of_a_slice_is_foreign_where_no_pod_of_its_namespace_is_but_another() {
    let key = |namespace: &str| ObjectKey {
        kind: Kind::EndpointSlice,
        namespace: namespace.into(),
        name: "s".into(),
    };
    let changes = || {
        [
            slice("thief", "web", "192.0.2.1"),
            slice("shop", "web", "192.0.2.1"),
            pod("shop", &[[192, 0, 2, 1]], &[[198, 51, 100, 1]]),
        ]
    };
    let mut reversed = changes();
    reversed.reverse();
    for changes in [changes(), reversed] {
        let mut store = store(changes);
        assert_eq!(told(&store, &key("thief")).as_deref(), Some("192.0.2.1"));
        assert_eq!(told(&store, &key("shop")), None);
        // Its pod is gone, and another's has the address.
        let name = Arc::from("p");
        let gone = Change::Pod { namespace: "shop".into(), name, pod: None };
        store.apply([gone, pod("bank", &[[192, 0, 2, 1]], &[])]);
        assert_eq!(told(&store, &key("shop")).as_deref(), Some("192.0.2.1"));
    }
}

#[test]
fn an_endpoint_on_a_node_is_a_pod_in_its_network_or_one_of_kubernetes_own() {
    let on_node = |is_on_node| {
        let Change::Pod { namespace, name, pod: Some(pod) } =
            pod("shop", &[], &[[198, 51, 100, 1]])
        else {
            panic!("a pod")
        };
        Change::Pod { namespace, name, pod: Some(Pod { is_on_node, ..pod }) }
    };
    for (namespace, service, is_on_node, expected) in [
        ("shop", "web", true, None),
        ("shop", "web", false, Some("198.51.100.1")),
        ("default", "kubernetes", false, None),
        ("default", "web", false, Some("198.51.100.1")),
        ("kube-system", "kubelet", false, None),
    ] {
        let slice = slice(namespace, service, "198.51.100.1");
        let store = store([on_node(is_on_node), node(&[[198, 51, 100, 1]]), slice]);
        let key =
            ObjectKey { kind: Kind::EndpointSlice, namespace: namespace.into(), name: "s".into() };
        assert_eq!(told(&store, &key).as_deref(), expected, "{namespace} {service} {is_on_node}");
    }
}
