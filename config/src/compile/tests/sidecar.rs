//! What a sidecar does with connections, as its chains and tables say it.

use std::sync::Arc;

use super::{compile, mesh, objects, texts};
use crate::{
    compile::{Proxy, ProxyKind},
    model::{
        Resources, Route,
        cluster::{Discovery, SourceAddress, UpstreamTrust},
        listener::{FilterChain, NetworkFilter},
        route::RouteAction,
    },
};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80, targetPort: 8080}], selector: {app: reviews}}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: data}
spec: {clusterIP: 10.0.0.3, ports: [{name: tcp, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: misc, namespace: data}
spec: {clusterIP: 10.0.0.4, ports: [{name: x, port: 9000}]}
";

/// The sidecar of a pod of `reviews`, version 1.
fn sidecar() -> Proxy {
    let labels = [("app", "reviews"), ("version", "v1")];
    Proxy {
        kind: ProxyKind::Sidecar { addresses: vec![[10, 1, 0, 1].into()] },
        namespace: "shop".into(),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        has_identity: true,
        ..Proxy::default()
    }
}

fn with_mesh(yaml: &str, mesh_config: &str) -> Resources {
    let (resources, diagnostics) = compile(sidecar(), Some(mesh(mesh_config)), objects(yaml));
    assert_eq!(texts(&diagnostics), Vec::<String>::new());
    resources
}

fn resources(yaml: &str) -> Resources {
    with_mesh(yaml, "{}")
}

fn and(yaml: &str) -> String {
    format!("{SERVICES}\n---\n{yaml}")
}

/// `10.0.0.1/32:80 Any -> http 80` for each chain of a listener, but for what nothing else is for.
fn chains(resources: &Resources, listener: &str) -> Vec<String> {
    let own = resources.filter_chains.values().filter(|it| it.listener.as_str() == listener);
    let mut texts: Vec<String> = own.map(text).collect();
    texts.sort();
    texts
}

fn text(chain: &Arc<FilterChain>) -> String {
    let redirected = chain.redirected.unwrap();
    let address = redirected.address.map_or_else(|| "*".to_owned(), |net| net.to_string());
    let port = redirected.port.map_or_else(|| "*".to_owned(), |port| port.to_string());
    let names: Vec<String> = chain.server_names.iter().map(ToString::to_string).collect();
    let tls = if chain.tls.is_some() { " mtls" } else { "" };
    let network = match &chain.network {
        NetworkFilter::Http { route_table } => format!("http {route_table}"),
        NetworkFilter::TcpProxy { clusters, .. } => {
            let names: Vec<&str> = clusters.iter().map(|it| it.cluster.as_str()).collect();
            format!("tcp {}", names.join(","))
        }
        NetworkFilter::Connect { listener, .. } => format!("connect {listener}"),
    };
    format!("{address}:{port} {:?}{}{tls} -> {network}", redirected.begins, names.join(","))
}

/// `domain -> where its routes go` of a table.
fn hosts(resources: &Resources, table: &str) -> Vec<String> {
    let own = resources.virtual_hosts.values().filter(|it| it.route_table.as_str() == table);
    let mut texts: Vec<String> = own
        .flat_map(|host| {
            let routes: Vec<String> = host.routes.iter().map(|route| target(route)).collect();
            let routes = routes.join(" | ");
            host.domains().map(move |domain| format!("{domain} -> {routes}"))
        })
        .collect();
    texts.sort();
    texts
}

fn target(route: &Route) -> String {
    match &route.action {
        RouteAction::Forward(forward) => {
            let names: Vec<&str> = forward.clusters.iter().map(|it| it.cluster.as_str()).collect();
            names.join(",")
        }
        RouteAction::DirectResponse(response) => response.status.as_u16().to_string(),
        RouteAction::Redirect(_) => "redirect".to_owned(),
    }
}

#[test]
fn services_are_told_by_address_and_port_and_what_is_left_is_passed_on() {
    let resources = resources(SERVICES);
    assert_eq!(
        chains(&resources, "virtualOutbound"),
        [
            "*:* Any -> tcp PassthroughCluster",
            "*:80 Any -> tcp PassthroughCluster",
            "*:80 Http -> http 80",
            "10.0.0.1/32:80 Any -> http 80",
            "10.0.0.2/32:80 Any -> http 80",
            "10.0.0.3/32:5432 Any -> tcp outbound|5432||db.data.svc.cluster.local",
            "10.0.0.4/32:9000 Any -> tcp outbound|9000||misc.data.svc.cluster.local",
            "10.0.0.4/32:9000 Http -> http misc.data.svc.cluster.local:9000",
            "2001:2::/48:* Any -> tcp ",
            "240.240.0.0/16:* Any -> tcp ",
        ]
    );
}

#[test]
fn http_of_one_port_has_one_table_where_the_host_decides() {
    let resources = resources(SERVICES);
    let reviews = "outbound|80||reviews.shop.svc.cluster.local";
    let ratings = "outbound|80||ratings.shop.svc.cluster.local";
    let expected = [
        "* -> PassthroughCluster".to_owned(),
        format!("10.0.0.1 -> {reviews}"),
        format!("10.0.0.2 -> {ratings}"),
        format!("ratings -> {ratings}"),
        format!("ratings.shop -> {ratings}"),
        format!("ratings.shop.svc -> {ratings}"),
        format!("ratings.shop.svc.cluster.local -> {ratings}"),
        format!("reviews -> {reviews}"),
        format!("reviews.shop -> {reviews}"),
        format!("reviews.shop.svc -> {reviews}"),
        format!("reviews.shop.svc.cluster.local -> {reviews}"),
    ];
    assert_eq!(hosts(&resources, "80"), expected);
}

#[test]
fn registry_only_answers_502_to_unknown_hosts_and_closes_the_rest() {
    let resources = with_mesh(SERVICES, "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}");
    assert_eq!(hosts(&resources, "80")[0], "* -> 502");
    let chains = chains(&resources, "virtualOutbound");
    assert_eq!(
        chains[..2],
        ["*:* Any -> tcp BlackHoleCluster", "*:80 Any -> tcp BlackHoleCluster"]
    );
}

/// A VirtualService for `reviews` that sends requests to `to`.
fn route(name: &str, head: &str, condition: &str, to: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: [reviews]
  {head}
  http: [{{match: [{condition}], route: [{{destination: {{host: {to}}}}}]}}]
"
    )
}

/// Where requests for `reviews` go.
fn reviews(resources: &Resources) -> String {
    let all = hosts(resources, "80");
    let own = all.iter().find(|text| text.starts_with("reviews ->")).unwrap();
    own.trim_start_matches("reviews -> ").to_owned()
}

#[test]
fn virtual_services_for_the_mesh_are_narrowed_by_who_the_client_is() {
    let ratings = "outbound|80||ratings.shop.svc.cluster.local";
    for (head, condition, expected) in [
        ("", "{uri: {prefix: /}}", ratings),
        ("gateways: [mesh]", "{uri: {prefix: /}}", ratings),
        ("", "{sourceLabels: {version: v1}}", ratings),
        ("", "{sourceNamespace: shop}", ratings),
        ("", "{gateways: [mesh]}", ratings),
        ("", "{port: 80}", ratings),
        ("", "{sourceLabels: {version: v2}}", ""),
        ("", "{sourceNamespace: data}", ""),
        ("", "{port: 81}", ""),
    ] {
        let yaml = and(&route("vs", head, condition, "ratings"));
        let (resources, _) = compile(sidecar(), Some(mesh("{}")), objects(&yaml));
        assert_eq!(reviews(&resources), expected, "{head} {condition}");
    }
}

#[test]
fn a_virtual_service_of_a_gateway_says_nothing_about_the_mesh() {
    let resources =
        resources(&and(&route("vs", "gateways: [gw]", "{uri: {prefix: /}}", "ratings")));
    assert_eq!(reviews(&resources), "outbound|80||reviews.shop.svc.cluster.local");
}

/// Trap 4.
#[test]
fn of_two_virtual_services_for_a_host_the_first_has_it_all() {
    let yaml = and(&[
        route("a", "", "{uri: {prefix: /a}}", "ratings"),
        "---".to_owned(),
        route("b", "", "{uri: {prefix: /b}}", "ratings"),
    ]
    .join("\n"));
    let (resources, diagnostics) = compile(sidecar(), Some(mesh("{}")), objects(&yaml));
    assert_eq!(reviews(&resources), "outbound|80||ratings.shop.svc.cluster.local");
    let text = texts(&diagnostics).join("\n");
    assert!(text.contains("routed by VirtualService shop/a already"), "{text}");
}

#[test]
fn a_sidecar_resource_limits_what_is_known() {
    let yaml = and("
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  egress: [{hosts: ['./*', '~*/ratings.shop.svc.cluster.local']}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
");
    let resources = resources(&yaml);
    let chains = chains(&resources, "virtualOutbound");
    assert!(chains.contains(&"10.0.0.1/32:80 Any -> http 80".to_owned()), "{chains:?}");
    assert!(!chains.iter().any(|text| text.contains("10.0.0.2")), "{chains:?}");
    assert!(!chains.iter().any(|text| text.contains("5432")), "{chains:?}");
    assert_eq!(chains[0], "*:* Any -> tcp BlackHoleCluster");
    let known: Vec<&str> = resources.clusters.keys().map(|name| name.as_str()).collect();
    assert!(!known.iter().any(|name| name.contains("db.data")), "{known:?}");
}

/// The inbound chains under these PeerAuthentications.
fn inbound(policies: &str) -> Vec<String> {
    chains(&resources(&and(policies)), "virtualInbound")
}

fn peer_authentication(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"
    )
}

const PERMISSIVE_REST: [&str; 4] = [
    "*:* Any -> tcp InboundPassthroughCluster",
    "*:* Http -> http virtualInbound|virtualInbound",
    "*:* MeshHttp mtls -> http virtualInbound|virtualInbound",
    "*:* MeshTls mtls -> tcp InboundPassthroughCluster",
];
const STRICT_REST: [&str; 2] = [
    "*:* MeshHttp mtls -> http virtualInbound|virtualInbound",
    "*:* Tls mtls -> tcp InboundPassthroughCluster",
];

#[test]
fn without_a_policy_clear_text_and_mutual_tls_are_taken_on_the_workloads_port() {
    let own = [
        "*:8080 Any -> http virtualInbound|0.0.0.0_8080",
        "*:8080 MeshTls mtls -> http virtualInbound|0.0.0.0_8080",
    ];
    assert_eq!(inbound(""), [&PERMISSIVE_REST[..], &own].concat());
}

#[test]
fn a_target_port_is_the_number_that_the_workload_has_for_its_name() {
    let services = SERVICES.replace("targetPort: 8080", "targetPort: web");
    let named_ports = [("web".to_owned(), 8088)].into();
    let proxy = Proxy { named_ports, ..sidecar() };
    let (resources, diagnostics) = compile(proxy, Some(mesh("{}")), objects(&services));
    assert_eq!(texts(&diagnostics), Vec::<String>::new());
    assert!(resources.clusters.keys().any(|name| name.as_str() == "inbound|8088||"));
}

#[test]
fn the_narrower_policy_decides_and_leaves_the_rest_to_the_wider() {
    let mesh_strict = peer_authentication("istio-system", "mesh", "{mtls: {mode: STRICT}}");
    let strict = "*:8080 Tls mtls -> http virtualInbound|0.0.0.0_8080";
    let clear = "*:8080 Any -> http virtualInbound|0.0.0.0_8080";
    assert_eq!(inbound(&mesh_strict), [&STRICT_REST[..], &[strict]].concat());

    let namespace = peer_authentication("shop", "ns", "{mtls: {mode: DISABLE}}");
    let both = format!("{mesh_strict}\n---\n{namespace}");
    assert!(inbound(&both).contains(&clear.to_owned()), "{:?}", inbound(&both));

    let own = "{selector: {matchLabels: {app: reviews}}, mtls: {mode: UNSET}, portLevelMtls: {8080: \
               {mode: DISABLE}, 9999: {mode: PERMISSIVE}}}";
    let all = format!("{mesh_strict}\n---\n{}", peer_authentication("shop", "own", own));
    let chains = inbound(&all);
    assert_eq!(chains[..2], STRICT_REST);
    let on = |port: &str| chains.iter().filter(|text| text.starts_with(port)).count();
    assert_eq!(chains.iter().filter(|text| text.contains(":8080")).collect::<Vec<_>>(), [clear]);
    assert_eq!(on("*:9999"), 4, "{chains:?}");

    let foreign = "{selector: {matchLabels: {app: other}}, mtls: {mode: STRICT}}";
    let other = peer_authentication("shop", "other", foreign);
    assert!(inbound(&other).contains(&clear.to_owned()));
}

#[test]
fn connections_taken_in_go_on_from_an_address_that_is_not_redirected() {
    let resources = resources(SERVICES);
    let cluster = &resources.clusters["inbound|8080||"];
    assert_eq!(cluster.discovery, Discovery::OriginalDst { members_only: false });
    assert_eq!(cluster.source_address, SourceAddress::Inbound);
    assert_eq!(&*cluster.destination.service, "reviews.shop.svc.cluster.local");

    let local = with_mesh(SERVICES, "{inboundTrafficPolicy: {mode: LOCALHOST}}");
    assert_eq!(local.clusters["inbound|8080||"].discovery, Discovery::Static);
    assert_eq!(local.endpoints["inbound|8080||"].endpoints.len(), 1);
}

#[test]
fn a_sidecar_resource_says_where_the_application_listens() {
    let yaml = and("
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  ingress: [{port: {number: 9080, protocol: HTTP, name: http}, defaultEndpoint: '127.0.0.1:8080'}]
");
    let resources = resources(&yaml);
    let address = &resources.endpoints["inbound|9080||"].endpoints[0].address;
    let json = serde_json::to_string(address).unwrap();
    assert_eq!(json, r#"{"ip":"127.0.0.1:8080"}"#);
    assert!(!resources.clusters.contains_key("inbound|8080||"));
}

#[test]
fn endpoints_that_carry_a_sidecar_are_talked_to_in_the_meshs_tls() {
    let yaml = and("
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: data, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: tcp, port: 5432}]
endpoints:
- {addresses: [10.1.0.8], serviceAccount: db, labels: {security.istio.io/tlsMode: istio}}
- {addresses: [10.1.0.9], labels: {app: db}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db, namespace: data}
spec: {host: db, subsets: [{name: v1, labels: {version: v1}}]}
");
    let resources = resources(&yaml);
    let name = "outbound|5432||db.data.svc.cluster.local";
    let cluster = &resources.clusters[name];
    assert!(cluster.auto_mtls);
    let tls = cluster.tls.as_ref().unwrap();
    assert_eq!(tls.sni.as_deref(), Some("outbound_.5432_._.db.data.svc.cluster.local"));
    assert!(matches!(tls.trust, UpstreamTrust::Mesh { .. }));
    let of_subset = &resources.clusters["outbound|5432|v1|db.data.svc.cluster.local"];
    let of_subset = of_subset.tls.as_ref().unwrap().sni.as_deref();
    assert_eq!(of_subset, Some("outbound_.5432_.v1_.db.data.svc.cluster.local"));
    let endpoints = &resources.endpoints[name].endpoints;
    assert_eq!(endpoints.iter().map(|it| it.mesh_tls).collect::<Vec<_>>(), [true, false]);
    assert_eq!(&*endpoints[0].workload.principal, "cluster.local/ns/data/sa/db");

    let off = with_mesh(&yaml, "{enableAutoMtls: false}");
    assert_eq!(off.clusters[name].tls, None);
}

#[test]
fn endpoints_whose_policy_is_disable_are_talked_to_in_clear_text_by_port() {
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: data, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: tcp, port: 5432}]
endpoints:
- {addresses: [10.1.0.8], labels: {security.istio.io/tlsMode: istio, app: db}}
- {addresses: [10.1.0.9], labels: {security.istio.io/tlsMode: istio, app: other}}
";
    let mesh_tls = |policies: &[String]| {
        let resources =
            resources(&and(&[slice.to_owned(), policies.join("\n---\n")].join("\n---")));
        let endpoints = &resources.endpoints["outbound|5432||db.data.svc.cluster.local"].endpoints;
        [endpoints[0].mesh_tls, endpoints[1].mesh_tls]
    };
    let disable = "{mtls: {mode: DISABLE}}";
    let of_db = |rest: &str| format!("{{selector: {{matchLabels: {{app: db}}}}, {rest}}}");
    let mesh = peer_authentication("istio-system", "mesh", disable);
    let namespace = peer_authentication("data", "ns", disable);
    let strict = peer_authentication("data", "ns", "{mtls: {mode: STRICT}}");
    let workload = peer_authentication("data", "db", &of_db("mtls: {mode: DISABLE}"));
    let port = peer_authentication("data", "db", &of_db("portLevelMtls: {5432: {mode: DISABLE}}"));
    let other_port =
        peer_authentication("data", "db", &of_db("portLevelMtls: {80: {mode: DISABLE}}"));
    let but_port = peer_authentication(
        "data",
        "db",
        &of_db("mtls: {mode: DISABLE}, portLevelMtls: {5432: {mode: STRICT}}"),
    );
    // The client's own namespace says what its workload takes, not what others do.
    let own = peer_authentication("shop", "ns", disable);
    for (policies, expected) in [
        (vec![], [true, true]),
        (vec![mesh.clone()], [false, false]),
        (vec![mesh, strict.clone()], [true, true]),
        (vec![namespace], [false, false]),
        (vec![workload], [false, true]),
        (vec![strict, port], [false, true]),
        (vec![other_port], [true, true]),
        (vec![but_port], [true, true]),
        (vec![own], [true, true]),
    ] {
        assert_eq!(mesh_tls(&policies), expected, "{policies:?}");
    }
}

#[test]
fn a_headless_service_is_its_endpoints() {
    let yaml = "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: data}
spec: {clusterIP: None, ports: [{name: tcp, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: data, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: tcp, port: 5432}]
endpoints: [{addresses: [10.1.0.8]}, {addresses: [10.1.0.1]}]
";
    let resources = resources(yaml);
    let chains = chains(&resources, "virtualOutbound");
    let own: Vec<&String> = chains.iter().filter(|text| text.contains("5432")).collect();
    let cluster = "outbound|5432||db.data.svc.cluster.local";
    assert_eq!(own, [&format!("10.1.0.8/32:5432 Any -> tcp {cluster}")]);
    let discovery = &resources.clusters[cluster].discovery;
    assert_eq!(*discovery, Discovery::OriginalDst { members_only: true });
}

#[test]
fn hosts_without_address_are_told_by_what_the_client_says() {
    let resources = resources(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: shop}
spec:
  hosts: [api.example.com]
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}]
",
    );
    let chains = chains(&resources, "virtualOutbound");
    let tls = "*:443 Tlsapi.example.com -> tcp outbound|443||api.example.com";
    assert!(chains.contains(&tls.to_owned()), "{chains:?}");
    let hosts = hosts(&resources, "80");
    assert!(hosts.contains(&"api.example.com -> outbound|80||api.example.com".to_owned()));
}
