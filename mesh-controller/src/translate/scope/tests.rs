use serde_json::{Map, Value};

use super::*;
use crate::store::{Change, Pod, Refused, Written};

const DOMAIN: &str = "cluster.local";

/// A Gateway of `istio-ingress` with one VirtualService of `shop`, and all behind it.
const SHOP: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: istio-ingress}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: SIMPLE, credentialName: web-tls}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: shop}
spec:
  hosts: [shop.example.com]
  gateways: [istio-ingress/public]
  http: [{route: [{destination: {host: web}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{port: 80, name: http}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-a}}]
ports: [{port: 8080, name: http}]
---
apiVersion: v1
kind: Secret
metadata: {name: web-tls, namespace: istio-ingress}
type: kubernetes.io/tls
data: {tls.crt: YQ==, tls.key: YQ==}
";

struct Cluster {
    store: Store,
    scope: Scope,
}

fn documents(yaml: &str) -> Vec<Map<String, Value>> {
    yaml.split("\n---\n").map(|text| serde_yaml::from_str(text).unwrap()).collect()
}

fn changes(yaml: &str) -> Vec<Change> {
    let change = |object: Map<String, Value>| {
        if object["kind"] == "EndpointSlice" {
            return Change::EndpointSlice(object);
        }
        Change::Upsert(Entry::read(object, DOMAIN).unwrap())
    };
    documents(yaml).into_iter().map(change).collect()
}

fn audience(namespace: &str) -> Audience {
    Audience {
        namespace: namespace.into(),
        labels: Arc::new(Labels::from([("istio".to_owned(), "ingressgateway".to_owned())])),
        reads_secrets: true,
        own_gateways_only: false,
        proxy_type: ProxyType::Gateway,
    }
}

impl Cluster {
    fn new(yaml: &str) -> Self {
        Self::seen_by(audience("istio-ingress"), yaml)
    }

    fn seen_by(audience: Audience, yaml: &str) -> Self {
        let mut store = Store::new("istio-system", DOMAIN);
        store.apply(changes(yaml));
        let scope = Scope::new(audience, &store);
        Self { store, scope }
    }

    fn names(&self) -> Vec<String> {
        self.scope.resources().map(|resource| short(&resource.name)).collect()
    }

    /// Applies objects; what it means for the proxy, `-` before what is gone. Afterwards the scope is
    /// what a new one would be.
    fn apply(&mut self, yaml: &str) -> Vec<String> {
        self.change(changes(yaml))
    }

    fn remove(&mut self, kind: Kind, namespace: &str, name: &str) -> Vec<String> {
        let key = ObjectKey { kind, namespace: namespace.into(), name: name.into() };
        self.change(vec![Change::Remove(key)])
    }

    fn change(&mut self, changes: Vec<Change>) -> Vec<String> {
        let dirty = self.store.apply(changes);
        let delta = self.scope.update(&self.store, &dirty.objects);
        let fresh = Scope::new(self.scope.audience().clone(), &self.store);
        assert_eq!(self.scope.wants, fresh.wants);
        let keys = |scope: &Scope| scope.members.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&self.scope), keys(&fresh));
        let sign = |change: &Option<Arc<Encoded>>| if change.is_some() { "" } else { "-" };
        delta.iter().map(|(name, change)| format!("{}{}", sign(change), short(name))).collect()
    }
}

/// `Kind/namespace/name`.
fn short(name: &str) -> String {
    name.split_once('/').unwrap().1.to_owned()
}

const WHOLE_SHOP: [&str; 6] = [
    "Gateway/istio-ingress/public",
    "VirtualService/shop/shop",
    "DestinationRule/shop/web",
    "Service/shop/web",
    "EndpointSlice/shop/web-1",
    "Secret/istio-ingress/web-tls",
];

#[test]
fn a_gateway_gets_what_its_routes_lead_to() {
    assert_eq!(Cluster::new(SHOP).names(), WHOLE_SHOP);
}

#[test]
fn objects_that_nothing_leads_to_are_not_sent() {
    let mut cluster = Cluster::new(SHOP);
    let other = SHOP
        .replace("istio: ingressgateway", "istio: other")
        .replace("name: public", "name: hidden")
        .replace("istio-ingress/public", "istio-ingress/hidden")
        .replace("shop", "attic")
        .replace("web-tls", "hidden-tls");
    assert_eq!(cluster.apply(&other), [""; 0]);
}

#[test]
fn a_virtual_service_that_is_removed_takes_along_what_only_it_led_to() {
    let mut cluster = Cluster::new(SHOP);
    let gone = cluster.remove(Kind::VirtualService, "shop", "shop");
    assert_eq!(
        gone,
        [
            "-Service/shop/web",
            "-EndpointSlice/shop/web-1",
            "-DestinationRule/shop/web",
            "-VirtualService/shop/shop",
        ]
    );
    assert_eq!(cluster.names(), ["Gateway/istio-ingress/public", "Secret/istio-ingress/web-tls"]);
}

#[test]
fn what_two_routes_lead_to_stays_with_the_second() {
    let mut cluster = Cluster::new(SHOP);
    let second = documents(SHOP).remove(1);
    let second = serde_yaml::to_string(&second).unwrap().replace("name: shop", "name: second");
    assert_eq!(cluster.apply(&second), ["VirtualService/shop/second"]);
    let gone = cluster.remove(Kind::VirtualService, "shop", "shop");
    assert_eq!(gone, ["-VirtualService/shop/shop"]);
}

#[test]
fn an_object_that_was_written_again_without_a_change_is_not_sent() {
    let mut cluster = Cluster::new(SHOP);
    assert_eq!(cluster.apply(SHOP), [""; 0]);
}

#[test]
fn objects_arrive_in_any_order() {
    let mut cluster = Cluster::new(SHOP.split("\n---\n").last().unwrap());
    let mut parts: Vec<&str> = SHOP.split("\n---\n").collect();
    parts.reverse();
    for part in parts {
        cluster.apply(part);
    }
    assert_eq!(cluster.names(), WHOLE_SHOP);
}

#[test]
fn a_virtual_service_is_seen_where_it_is_exported_to() {
    for (export_to, is_seen) in
        [("'.'", false), ("other", false), ("istio-ingress", true), ("'*'", true)]
    {
        let mut cluster = Cluster::new(SHOP);
        let object = format!(
            "{}\n  exportTo: [{export_to}]",
            SHOP.split("\n---\n").nth(1).unwrap().trim_end()
        );
        cluster.apply(&object);
        let found = cluster.names().contains(&"VirtualService/shop/shop".to_owned());
        assert_eq!(found, is_seen, "{export_to}");
    }
}

#[test]
fn services_and_rules_of_another_namespace_are_seen_if_they_are_exported() {
    let mut cluster = Cluster::new(SHOP);
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
                metadata: {name: web, namespace: shop}\nspec: {host: web, exportTo: ['.']}";
    assert_eq!(cluster.apply(rule), ["-DestinationRule/shop/web"]);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, \
                   annotations: {networking.istio.io/exportTo: '.'}}\nspec: {ports: [{port: 80}]}";
    assert_eq!(cluster.apply(service), ["-Service/shop/web", "-EndpointSlice/shop/web-1"]);
}

#[test]
fn rules_come_from_the_proxys_the_services_and_the_root_namespace() {
    let mut cluster = Cluster::new(SHOP);
    let rule = |namespace: &str, host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: {{name: r, namespace: {namespace}}}\nspec: {{host: '{host}'}}"
        )
    };
    let full = "web.shop.svc.cluster.local";
    for namespace in ["istio-ingress", "istio-system", "shop"] {
        for host in [full, "*.shop.svc.cluster.local", "*.local", "*"] {
            let name = format!("DestinationRule/{namespace}/r");
            let added = cluster.apply(&rule(namespace, host));
            assert_eq!(added.concat(), name, "{host}");
            let gone = cluster.remove(Kind::DestinationRule, namespace, "r");
            assert_eq!(gone, [format!("-{name}")]);
        }
    }
    assert_eq!(cluster.apply(&rule("elsewhere", full)), [""; 0]);
    assert_eq!(cluster.apply(&rule("istio-ingress", "*.other.svc.cluster.local")), [""; 0]);
}

#[test]
fn a_gateway_only_takes_virtual_services_of_the_namespaces_before_its_hosts() {
    let mut cluster = Cluster::new(SHOP);
    let gateway = |hosts: &str| SHOP.split("\n---\n").next().unwrap().replace("['*']", hosts);
    cluster.apply(&gateway("['other/*']"));
    assert!(!cluster.names().contains(&"VirtualService/shop/shop".to_owned()));
    cluster.apply(&gateway("['shop/*.example.com']"));
    assert_eq!(cluster.names(), WHOLE_SHOP);
}

#[test]
fn delegates_are_seen_if_they_are_exported_to_who_delegates() {
    let mut cluster = Cluster::new(SHOP);
    cluster.apply(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {name: shop, namespace: shop}\nspec: {hosts: [shop.example.com], gateways: \
         [istio-ingress/public], http: [{delegate: {name: cart, namespace: cart}}]}",
    );
    let delegate = |export_to: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, \
             namespace: cart}}\nspec: {{exportTo: [{export_to}], http: [{{route: [{{destination: \
             {{host: cart}}}}]}}]}}"
        )
    };
    assert_eq!(cluster.apply(&delegate("'.'")), [""; 0]);
    assert_eq!(cluster.apply(&delegate("shop")), ["VirtualService/cart/cart"]);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: cart}\n\
                   spec: {ports: [{port: 80}]}";
    assert_eq!(cluster.apply(service), ["Service/cart/cart"]);
    let gone = cluster.remove(Kind::VirtualService, "shop", "shop");
    let expected = ["-Service/cart/cart", "-VirtualService/cart/cart", "-VirtualService/shop/shop"];
    assert_eq!(gone, expected);
}

#[test]
fn secrets_are_for_who_may_read_them_and_of_the_proxys_own_namespace() {
    let secret = "Secret/istio-ingress/web-tls".to_owned();
    assert!(Cluster::new(SHOP).names().contains(&secret));
    let not_allowed = Audience { reads_secrets: false, ..audience("istio-ingress") };
    assert!(!Cluster::seen_by(not_allowed, SHOP).names().contains(&secret));
    // The same Gateway, served by a proxy of a tenant.
    let foreign = Cluster::seen_by(audience("tenant"), SHOP);
    assert_eq!(foreign.names(), WHOLE_SHOP[..5]);
    let named = SHOP.replace("credentialName: web-tls", "credentialName: istio-ingress/web-tls");
    assert_eq!(Cluster::seen_by(audience("tenant"), &named).names(), WHOLE_SHOP[..5]);
}

#[test]
fn a_secret_that_no_gateway_names_is_not_sent() {
    let mut cluster = Cluster::new(SHOP);
    let other = SHOP.split("\n---\n").last().unwrap().replace("web-tls", "other-tls");
    assert_eq!(cluster.apply(&other), [""; 0]);
    let companion = other.replace("other-tls", "web-tls-cacert").replace("tls.crt", "ca.crt");
    assert_eq!(cluster.apply(&companion), ["Secret/istio-ingress/web-tls-cacert"]);
}

#[test]
fn policies_are_of_the_proxys_or_the_root_namespace_and_select_it() {
    let mut cluster = Cluster::new(SHOP);
    let policy = |namespace: &str, selector: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, \
             namespace: {namespace}}}\nspec: {{action: DENY, {selector} rules: [{{}}]}}"
        )
    };
    for namespace in ["istio-ingress", "istio-system"] {
        let name = format!("AuthorizationPolicy/{namespace}/p");
        assert_eq!(cluster.apply(&policy(namespace, "")).concat(), name);
        let other = policy(namespace, "selector: {matchLabels: {app: other}},");
        assert_eq!(cluster.apply(&other), [format!("-{name}")]);
        let same = policy(namespace, "selector: {matchLabels: {istio: ingressgateway}},");
        assert_eq!(cluster.apply(&same), [name]);
    }
    assert_eq!(cluster.apply(&policy("shop", "")), [""; 0]);
}

#[test]
fn the_service_in_front_of_the_proxy_is_sent() {
    let mut cluster = Cluster::new(SHOP);
    let front = "apiVersion: v1\nkind: Service\nmetadata: {name: gw, namespace: istio-ingress}\n\
                 spec: {selector: {istio: ingressgateway}, ports: [{port: 443, targetPort: 8443}]}";
    assert_eq!(cluster.apply(front), ["Service/istio-ingress/gw"]);
    assert_eq!(cluster.apply(&front.replace("istio-ingress", "shop")), [""; 0]);
}

#[test]
fn workload_entries_follow_the_service_that_selects_them() {
    let mut cluster = Cluster::new(SHOP);
    let workload = |labels: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: vm, \
             namespace: shop}}\nspec: {{address: 10.1.1.1, labels: {{{labels}}}}}"
        )
    };
    assert_eq!(cluster.apply(&workload("app: web")), ["WorkloadEntry/shop/vm"]);
    assert_eq!(cluster.apply(&workload("app: other")), ["-WorkloadEntry/shop/vm"]);
}

#[test]
fn endpoints_carry_the_labels_and_identities_of_their_pods() {
    let mut cluster = Cluster::new(SHOP);
    let pod = |version: &str| Change::Pod {
        namespace: "shop".into(),
        name: "web-a".into(),
        pod: Some(Pod {
            labels: Arc::new(Labels::from([("version".to_owned(), version.to_owned())])),
            service_account: "web".into(),
            ..Pod::default()
        }),
    };
    assert_eq!(cluster.change(vec![pod("v1")]), ["EndpointSlice/shop/web-1"]);
    let key =
        ObjectKey { kind: Kind::EndpointSlice, namespace: "shop".into(), name: "web-1".into() };
    let slice = Value::Object(cluster.store.find(&key).unwrap().object());
    assert_eq!(slice["endpoints"][0]["labels"]["version"], "v1");
    assert_eq!(slice["endpoints"][0]["serviceAccount"], "web");
    assert_eq!(cluster.change(vec![pod("v1")]), [""; 0]);
    assert_eq!(cluster.change(vec![pod("v2")]), ["EndpointSlice/shop/web-1"]);
}

#[test]
fn a_gateway_of_another_namespace_can_be_kept_out() {
    let own = Audience { own_gateways_only: true, ..audience("tenant") };
    assert_eq!(Cluster::seen_by(own, SHOP).names(), [""; 0]);
}

#[test]
fn the_mesh_configuration_decides_what_is_exported_by_default() {
    let mut cluster = Cluster::new(SHOP);
    let key =
        ObjectKey { kind: Kind::ConfigMap, namespace: "istio-system".into(), name: "istio".into() };
    let text = "defaultVirtualServiceExportTo: ['.']".to_owned();
    let dirty = cluster.store.apply([Change::MeshConfig { key, text }]);
    assert!(dirty.mesh && dirty.visibility);
    let delta = cluster.scope.rebuild(&cluster.store);
    assert_eq!(delta.len(), 4);
    assert!(delta.values().all(Option::is_none));
}

#[test]
fn an_object_that_can_no_longer_be_read_keeps_its_last_good_version() {
    let mut cluster = Cluster::new(SHOP);
    let wrong = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                 metadata: {name: shop, namespace: shop}\nspec: {hosts: 7}";
    let object = documents(wrong).remove(0);
    let reason = Entry::read(object, DOMAIN).unwrap_err();
    let refused = Refused { reason, generation: Some(2), written: Written::default() };
    let key =
        ObjectKey { kind: Kind::VirtualService, namespace: "shop".into(), name: "shop".into() };
    assert_eq!(cluster.change(vec![Change::Unreadable(key.clone(), refused)]), [""; 0]);
    assert_eq!(cluster.names(), WHOLE_SHOP);
    assert!(cluster.store.find_unreadable(&key).is_some());
}

/// Two namespaces, and rules of each of the three that are asked for them.
const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, name: http}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-a}}]
ports: [{port: 8080, name: http}]
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: bank}
spec: {selector: {app: pay}, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: bank, annotations: {networking.istio.io/exportTo: .}}
spec: {selector: {app: vault}, ports: [{port: 80, name: http}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pay, namespace: bank}
spec: {host: pay}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pay, namespace: bank}
spec: {hosts: [pay], http: [{route: [{destination: {host: pay}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: bank}
spec: {hosts: [bank.example.com], gateways: [edge], http: [{route: [{destination: {host: pay}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: bank}
spec: {mtls: {mode: STRICT}}
";

const WEB_ONLY: &str = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec: {egress: [{hosts: ['./*']}]}
";

fn workload(namespace: &str) -> Audience {
    Audience {
        labels: Arc::new(Labels::from([("app".to_owned(), "web".to_owned())])),
        reads_secrets: false,
        proxy_type: ProxyType::Sidecar,
        ..audience(namespace)
    }
}

#[test]
fn a_sidecar_gets_whatever_is_exported_to_its_namespace_and_no_gateways() {
    let cluster = Cluster::seen_by(workload("shop"), MESH);
    assert_eq!(
        cluster.names(),
        [
            "VirtualService/bank/pay",
            "DestinationRule/bank/pay",
            "PeerAuthentication/bank/default",
            "PeerAuthentication/istio-system/default",
            "Service/bank/pay",
            "Service/shop/web",
            "EndpointSlice/shop/web-1",
        ]
    );
    let seen_by_gateway = Cluster::new(MESH).names();
    assert_eq!(seen_by_gateway, [""; 0], "it has no Gateway, and calls nobody");
}

#[test]
fn a_server_that_passes_tls_on_brings_the_exported_services_of_its_hosts() {
    let gateway = SHOP.split("---").next().unwrap();
    let auto = gateway
        .replace("mode: SIMPLE, credentialName: web-tls", "mode: AUTO_PASSTHROUGH")
        .replace("hosts: ['*']", "hosts: ['bank/*.local', './*.local']");
    let mut cluster = Cluster::new(MESH);
    let given = cluster.apply(&auto);
    for name in ["Service/bank/pay", "DestinationRule/bank/pay", "PeerAuthentication/bank/default"]
    {
        assert!(given.iter().any(|it| it == name), "{given:?}");
    }
    assert!(!given.iter().any(|it| it == "Service/shop/web"), "{given:?}");
    let all = cluster.apply(&auto.replace("bank/*.local", "*.local"));
    assert!(all.contains(&"EndpointSlice/shop/web-1".to_owned()), "{all:?}");
    let hidden = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {networking.istio.io/exportTo: .}}
spec: {selector: {app: web}, ports: [{port: 80, name: http}]}
";
    assert!(cluster.apply(hidden).contains(&"-Service/shop/web".to_owned()));
}

#[test]
fn whoever_calls_a_workload_knows_what_it_takes() {
    let policies = MESH.split("---").filter(|object| object.contains("PeerAuthentication"));
    let policies: Vec<&str> = policies.collect();
    let mut gateway = Cluster::new(SHOP);
    assert_eq!(gateway.apply(&policies.join("---")), ["PeerAuthentication/istio-system/default"]);
    let of_shop = policies[1].replace("bank", "shop");
    assert_eq!(gateway.apply(&of_shop), ["PeerAuthentication/shop/default"]);
    let gone = gateway.remove(Kind::Service, "shop", "web");
    for name in ["-PeerAuthentication/shop/default", "-PeerAuthentication/istio-system/default"] {
        assert!(gone.iter().any(|it| it == name), "{gone:?}");
    }
}

#[test]
fn a_sidecar_resource_takes_away_what_it_does_not_import_and_gives_it_back() {
    let mut cluster = Cluster::seen_by(workload("shop"), MESH);
    assert_eq!(
        cluster.apply(WEB_ONLY),
        [
            "-Service/bank/pay",
            "-DestinationRule/bank/pay",
            "Sidecar/shop/default",
            "-VirtualService/bank/pay",
            "-PeerAuthentication/bank/default",
        ]
    );
    // Not even new ones.
    let host = "spec: {hosts: [pay], http: [{route: [{destination: {host: pay}}]}]}";
    let other = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: b, \
                 namespace: bank}\n";
    assert_eq!(cluster.apply(&format!("{other}{host}")), [""; 0]);

    let given =
        cluster.apply(&WEB_ONLY.replace("'./*'", "'./*', 'bank/pay.bank.svc.cluster.local'"));
    assert!(given.contains(&"Service/bank/pay".to_owned()), "{given:?}");
    let given = cluster.remove(Kind::Sidecar, "shop", "default");
    assert_eq!(given, ["-Sidecar/shop/default"]);
}

#[test]
fn a_destination_of_an_imported_virtual_service_comes_with_it() {
    let imported = WEB_ONLY.replace("'./*'", "'./*', 'shop/*'");
    let routes = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: out, \
                  namespace: shop}\nspec: {hosts: [out.example.com], http: [{route: [{destination: \
                  {host: pay.bank.svc.cluster.local}}]}]}";
    let mut cluster = Cluster::seen_by(workload("shop"), &format!("{MESH}---{imported}"));
    assert_eq!(
        cluster.apply(routes),
        [
            "Service/bank/pay",
            "DestinationRule/bank/pay",
            "VirtualService/shop/out",
            "PeerAuthentication/bank/default",
        ]
    );
}

/// The labels of a workload that count among `app: web`, `team: red` and `pod-template-hash: x`.
fn distinctive(audience: &Audience, yaml: &str) -> Vec<String> {
    let mut store = Store::new("istio-system", DOMAIN);
    store.apply(changes(yaml));
    let labels = [("app", "web"), ("team", "red"), ("pod-template-hash", "x")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let among = Distinctive::of(&audience.into(), &store).among(&labels);
    among.into_keys().collect()
}

#[test]
fn labels_that_no_selector_asks_for_tell_nobody_apart() {
    let policy = |kind: &str, namespace: &str, team: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: \
             {namespace}}}\nspec: {{selector: {{matchLabels: {{team: {team}}}}}}}"
        )
    };
    let (workload, gateway) = (workload("shop"), audience("shop"));
    for (kind, namespace, team, for_workload, for_gateway) in [
        ("AuthorizationPolicy", "shop", "red", true, true),
        ("AuthorizationPolicy", "istio-system", "red", true, true),
        ("RequestAuthentication", "shop", "red", true, true),
        ("PeerAuthentication", "shop", "red", true, false),
        ("AuthorizationPolicy", "bank", "red", false, false),
        ("AuthorizationPolicy", "shop", "blue", false, false),
    ] {
        let policy = policy(kind, namespace, team);
        let counts = |audience| distinctive(audience, &policy) == ["team"];
        let found = (counts(&workload), counts(&gateway));
        assert_eq!(found, (for_workload, for_gateway), "{policy}");
    }
    let gateway_of_others = SHOP.replace("istio: ingressgateway", "team: red");
    assert_eq!(distinctive(&gateway, &gateway_of_others), ["app", "team"]);
    assert_eq!(distinctive(&workload, &gateway_of_others), [""; 0]);
    let own_only = Audience { own_gateways_only: true, ..gateway };
    assert_eq!(distinctive(&own_only, &gateway_of_others), ["app"], "the Service in front of it");
}

#[test]
fn which_service_a_workload_is_of_counts_where_a_sidecar_hides_it_from_others() {
    let workload = workload("shop");
    assert_eq!(distinctive(&workload, MESH), [""; 0]);
    assert_eq!(distinctive(&workload, &format!("{MESH}---{WEB_ONLY}")), [""; 0]);
    let other = WEB_ONLY.replace("'./*'", "'bank/*'");
    assert_eq!(distinctive(&workload, &format!("{MESH}---{other}")), ["app"]);
    let selecting = WEB_ONLY.replace("spec: {", "spec: {workloadSelector: {labels: {team: red}}, ");
    assert_eq!(distinctive(&workload, &format!("{MESH}---{selecting}")), ["team"]);
}
