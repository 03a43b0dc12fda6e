//! Rules that decide compatibility, one test each (istio-compat Appendix A).

use std::{sync::Arc, time::Duration};

use super::{Change, Compiler, Proxy, compile, findings, objects, proxy, resources, texts};
use crate::model::{
    ClusterName, Resources, Route, SecretName, VirtualHost,
    cluster::{EndpointAddress, HashCookie, HashKey, LbPolicy, UpstreamTrust, Warmup},
    listener::{BindAddress, ListenerKind},
    matcher::HostPattern,
    route::{Forward, PathMatch, RouteAction},
    secret::SecretMaterial,
};

/// A Gateway `gw` on port 80 for every host.
const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
";

/// Services `a` and `b`.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {ports: [{name: http, port: 80}]}
";

/// A VirtualService at `gw` for `a.example.com` with these http rules.
fn virtual_service(name: &str, http: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [a.example.com]
  gateways: [gw]
  http: {http}
"
    )
}

fn join(documents: &[&str]) -> String {
    documents.join("\n---\n")
}

/// The only virtual host of a VirtualService with these http rules.
fn routed(http: &str) -> VirtualHost {
    let resources = resources(&join(&[GATEWAY, SERVICES, &virtual_service("vs", http)]));
    only_virtual_host(&resources)
}

fn only_virtual_host(resources: &Resources) -> VirtualHost {
    assert_eq!(resources.virtual_hosts.len(), 1);
    resources.virtual_hosts.values().next().map(|host| (**host).clone()).unwrap()
}

fn forward(route: &Route) -> &Forward {
    match &route.action {
        RouteAction::Forward(forward) => forward,
        other => panic!("not forwarded: {other:?}"),
    }
}

fn names(host: &VirtualHost) -> Vec<&str> {
    host.routes.iter().map(|route| route.name.as_str()).collect()
}

/// Trap 1.
#[test]
fn a_uri_prefix_is_one_of_bytes() {
    let host = routed("[{match: [{uri: {prefix: /foo}}], directResponse: {status: 200}}]");
    assert_eq!(host.routes[0].matcher.path, PathMatch::Prefix("/foo".into()));
}

/// Trap 3.
#[test]
fn a_rule_that_matches_everything_ends_the_list_of_its_virtual_service() {
    for catch_all in ["match: [{uri: {prefix: /}}]", "match: [{uri: {regex: '.*'}}]", "timeout: 1s"]
    {
        let (resources, _) = super::compiled(&join(&[
            GATEWAY,
            SERVICES,
            &virtual_service(
                "vs",
                &format!(
                    "[{{name: first, {catch_all}, route: [{{destination: {{host: a}}}}]}}, \
                     {{name: second, match: [{{uri: {{prefix: /b}}}}], directResponse: {{status: \
                     200}}}}]"
                ),
            ),
        ]));
        assert_eq!(names(&only_virtual_host(&resources)), ["first"], "{catch_all}");
    }
}

/// Trap 3: across VirtualServices it only goes last.
#[test]
fn what_matches_everything_goes_behind_the_rules_of_other_virtual_services() {
    let host = only_virtual_host(&resources(&join(&[
        GATEWAY,
        &virtual_service("a", "[{name: all, directResponse: {status: 200}}]"),
        &virtual_service(
            "b",
            "[{name: b, match: [{uri: {prefix: /b}}], directResponse: {status: 200}}]",
        ),
    ])));
    assert_eq!(names(&host), ["b", "all"]);
}

/// Trap 5.
#[test]
fn match_port_is_compared_with_the_number_in_the_gateway() {
    let host = routed(
        "[{name: r, match: [{name: other, port: 81}, {name: own, port: 80}], directResponse: \
         {status: 200}}]",
    );
    assert_eq!(names(&host), ["r.own"]);
}

/// Trap 5.
#[test]
fn source_labels_do_not_count_next_to_gateways() {
    let host = routed(
        "[{name: r, match: [{name: both, gateways: [gw], sourceLabels: {app: x}}, {name: source, \
         sourceLabels: {app: x}, uri: {prefix: /x}}], directResponse: {status: 200}}]",
    );
    assert_eq!(names(&host), ["r.both"]);
}

/// Traps 6 and 7.
#[test]
fn without_a_word_there_are_two_retries_and_no_timeout() {
    let host = routed("[{route: [{destination: {host: a}}]}]");
    let forward = forward(&host.routes[0]);
    assert_eq!(forward.timeout, None);
    assert_eq!(forward.retry.attempts, 2);
    assert!(forward.retry.on.connect_failure && forward.retry.on.refused_stream);
    assert!(!forward.retry.on.server_error);
}

#[test]
fn a_timeout_of_zero_is_none() {
    let host = routed("[{timeout: 0s, route: [{destination: {host: a}}]}]");
    assert_eq!(forward(&host.routes[0]).timeout, None);
}

/// Trap 8.
#[test]
fn destinations_without_weight_vanish_and_a_single_one_needs_none() {
    let host = routed(
        "[{match: [{uri: {prefix: /1}}], route: [{destination: {host: a}, weight: 0}]}, {route: \
         [{destination: {host: a}, weight: 3}, {destination: {host: b}, weight: 0}]}]",
    );
    let weights = |route: &Route| -> Vec<(String, u32)> {
        let clusters = forward(route).clusters.iter();
        clusters.map(|entry| (entry.cluster.to_string(), entry.weight)).collect()
    };
    let a = "outbound|80||a.default.svc.cluster.local".to_owned();
    assert_eq!(weights(&host.routes[0]), [(a.clone(), 1)]);
    assert_eq!(weights(&host.routes[1]), [(a, 1)]);
}

/// Trap 9 is in the golden case `destination_rules`; trap 10.
#[test]
fn the_proxys_namespace_decides_on_destination_rules_before_the_services() {
    let rule = |namespace: &str, seconds: u32| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: dr, namespace: {namespace}}}
spec:
  host: svc.backend.svc.cluster.local
  trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}}}
"
        )
    };
    let service = "
apiVersion: v1
kind: Service
metadata: {name: svc, namespace: backend}
spec: {ports: [{name: http, port: 80}]}
";
    let timeout = |rules: &[&str]| {
        let resources = resources(&join(&[&[service], rules].concat()));
        let name = ClusterName::new("outbound|80||svc.backend.svc.cluster.local");
        resources.clusters[&name].connect_timeout
    };
    let (own, services, root) = (rule("default", 1), rule("backend", 2), rule("istio-system", 3));
    assert_eq!(timeout(&[&own, &services, &root]), Duration::from_secs(1));
    assert_eq!(timeout(&[&services, &root]), Duration::from_secs(2));
    assert_eq!(timeout(&[&root]), Duration::from_secs(3));
    assert_eq!(timeout(&[&rule("elsewhere", 4)]), Duration::from_secs(10));
}

/// Trap 14.
#[test]
fn an_empty_policy_allows_nothing_and_an_empty_rule_everything() {
    let policy = |spec: &str| {
        let yaml = format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p}}
spec: {spec}
"
        );
        let authz = resources(&yaml).policies.authz.clone().unwrap();
        let [policy] = &authz.allow[..] else { panic!("one ALLOW policy") };
        policy.rules.to_vec()
    };
    assert_eq!(policy("{}"), []);
    assert_eq!(policy("{rules: [{}]}"), [Default::default()]);
}

/// Trap 18.
#[test]
fn a_gateways_port_is_translated_by_the_service_of_the_proxy() {
    let service = |labels: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: ingress, labels: {{{labels}}}}}
spec:
  selector: {{istio: ingressgateway}}
  ports: [{{name: http2, port: 80, targetPort: 8080}}]
"
        )
    };
    let listener = |yaml: &str| {
        let resources = resources(yaml);
        let listener = resources.listeners.values().next().unwrap();
        let BindAddress::Ip(address) = &listener.address else { panic!("not an address") };
        (address.port(), listener.port)
    };
    assert_eq!(listener(GATEWAY), (80, 80));
    assert_eq!(listener(&join(&[GATEWAY, &service("")])), (8080, 80));
    let direct = service("experimental.istio.io/disable-gateway-port-translation: 'true'");
    assert_eq!(listener(&join(&[GATEWAY, &direct])), (80, 80));
}

/// Trap 19.
#[test]
fn a_gateway_of_any_namespace_is_served_if_its_selector_fits() {
    let gateway = |selector: &str| {
        let yaml = GATEWAY.replace("{name: gw}", "{name: gw, namespace: far}");
        let yaml = yaml.replace("{istio: ingressgateway}", selector);
        resources(&yaml).listeners.len()
    };
    assert_eq!(gateway("{istio: ingressgateway}"), 1);
    assert_eq!(gateway("{}"), 1);
    assert_eq!(gateway("{istio: ingressgateway, app: other}"), 0);
}

/// Trap 21.
#[test]
fn https_redirect_holds_for_every_host_also_without_virtual_service() {
    let gateway = GATEWAY.replace("hosts: ['*']", "hosts: ['*'], tls: {httpsRedirect: true}");
    let host = only_virtual_host(&resources(&gateway));
    assert!(host.require_tls);
    assert_eq!(host.domain, HostPattern::Any);
    assert_eq!(host.routes.len(), 0);
}

/// Trap 22.
#[test]
fn an_unknown_destination_keeps_its_route_and_has_no_cluster() {
    let yaml = join(&[GATEWAY, &virtual_service("vs", "[{route: [{destination: {host: x}}]}]")]);
    let (resources, _) = super::compiled(&yaml);
    let host = only_virtual_host(&resources);
    let cluster = &forward(&host.routes[0]).clusters[0].cluster;
    assert_eq!(cluster.as_str(), "outbound|80||x.default.svc.cluster.local");
    assert!(!resources.clusters.contains_key(cluster));
    assert_eq!(findings(&yaml).len(), 1);
}

/// Trap 24.
#[test]
fn a_fault_without_percentage_never_happens() {
    let host = routed(
        "[{fault: {delay: {fixedDelay: 1s}}, route: [{destination: {host: a}}], match: [{uri: \
         {prefix: /1}}]}, {fault: {delay: {fixedDelay: 1s, percentage: {value: 50}}}, route: \
         [{destination: {host: a}}]}]",
    );
    assert_eq!(host.routes[0].fault, None);
    let delay = host.routes[1].fault.as_ref().and_then(|fault| fault.delay.clone()).unwrap();
    assert_eq!(delay.per_million, 500_000);
}

/// Trap 25.
#[test]
fn host_among_the_headers_is_a_rewrite() {
    let host = routed(
        "[{headers: {request: {set: {Host: x.example.com, z: '1', a: '2'}}}, route: \
         [{destination: {host: a}}]}]",
    );
    let route = &host.routes[0];
    assert_eq!(forward(route).host_rewrite.as_deref(), Some("x.example.com"));
    let set: Vec<&str> = route.request_headers.set.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(set, ["a", "z"]);
}

/// Trap 26.
#[test]
fn a_private_destination_rule_is_not_seen_from_other_namespaces() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dr, namespace: backend}
spec:
  host: svc
  exportTo: ['.']
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: v1
kind: Service
metadata: {name: svc, namespace: backend}
spec: {ports: [{name: http, port: 80}]}
";
    assert_eq!(resources(yaml).clusters.len(), 1);
    let inside = Proxy { namespace: "backend".into(), ..proxy() };
    assert_eq!(compile(inside, None, objects(yaml)).0.clusters.len(), 2);
}

#[test]
fn an_unprivileged_proxy_leaves_low_ports_and_says_so() {
    let unprivileged = Proxy { unprivileged: true, ..proxy() };
    let (resources, diagnostics) = compile(unprivileged, None, objects(GATEWAY));
    assert_eq!(resources.listeners.len(), 0);
    assert_eq!(diagnostics.len(), 1);
    assert_eq!(diagnostics[0].field, "spec.servers[0].port.number");
}

#[test]
fn a_proxy_with_an_identity_uses_it_where_a_rule_says_istio_mutual() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: up}
spec:
  hosts: [up.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.1}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: up}
spec:
  host: up.example.com
  trafficPolicy:
    tls: {mode: ISTIO_MUTUAL, subjectAltNames: [spiffe://cluster.local/ns/shop/sa/web]}
  subsets: [{name: v1, labels: {version: v1}}]
";
    let member = Proxy { has_identity: true, ..proxy() };
    let (resources, diagnostics) = compile(member, None, objects(yaml));
    assert_eq!(diagnostics, []);
    let tls = |name: &str| resources.clusters[name].tls.clone().unwrap();
    let of_subset = tls("outbound|80|v1|up.example.com");
    assert_eq!(of_subset.sni.as_deref(), Some("outbound_.80_.v1_.up.example.com"));
    let tls = tls("outbound|80||up.example.com");
    assert_eq!(tls.sni.as_deref(), Some("outbound_.80_._.up.example.com"));
    assert_eq!(tls.certificate, Some(SecretName::workload()));
    let identities: Arc<[Arc<str>]> = ["spiffe://cluster.local/ns/shop/sa/web".into()].into();
    let trust_bundle = SecretName::workload();
    assert_eq!(tls.trust, UpstreamTrust::Mesh { trust_bundle, identities });

    let (_, diagnostics) = compile(proxy(), None, objects(yaml));
    assert_eq!(diagnostics[0].field, "spec.trafficPolicy.tls.mode", "who has none is told");
}

#[test]
fn servers_of_one_port_and_different_kinds_do_not_mix() {
    let tcp = GATEWAY.replace("name: gw", "name: later").replace("protocol: HTTP", "protocol: TCP");
    let (resources, diagnostics) = super::compiled(&join(&[GATEWAY, &tcp]));
    assert_eq!(resources.listeners.values().next().unwrap().kind, ListenerKind::Http);
    let text = diagnostics[0].to_string();
    assert!(
        text.contains("Gateway default/later") && text.contains("Gateway default/gw"),
        "{text}"
    );
}

#[test]
fn only_ready_endpoints_are_used_unless_the_service_publishes_all() {
    let yaml = |publish: bool| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: a}}
spec: {{publishNotReadyAddresses: {publish}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: a-1, labels: {{kubernetes.io/service-name: a}}}}
addressType: IPv4
endpoints:
- {{addresses: [10.0.0.1]}}
- {{addresses: [10.0.0.2], conditions: {{ready: false, serving: true}}}}
ports: [{{name: http, port: 8080}}]
"
        )
    };
    let addresses = |yaml: &str| -> Vec<String> {
        let resources = resources(yaml);
        let endpoints = resources.endpoints.values().next().unwrap().endpoints.clone();
        let text = |address: &EndpointAddress| match address {
            EndpointAddress::Ip(address) => address.to_string(),
            other => panic!("not an address: {other:?}"),
        };
        endpoints.iter().map(|endpoint| text(&endpoint.address)).collect()
    };
    assert_eq!(addresses(&yaml(false)), ["10.0.0.1:8080"]);
    assert_eq!(addresses(&yaml(true)), ["10.0.0.1:8080", "10.0.0.2:8080"]);
}

#[test]
fn endpoints_of_one_workload_and_place_share_what_is_known_of_both() {
    let resources = resources(
        "
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{name: http, port: 80}, {name: http-b, port: 81}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
endpoints:
- {addresses: [10.0.0.1], zone: z, serviceAccount: a}
- {addresses: [10.0.0.2], zone: z, serviceAccount: a}
- {addresses: [10.0.0.3], zone: z, serviceAccount: b}
ports: [{name: http, port: 8080}, {name: http-b, port: 8081}]
",
    );
    let of = |port: u16| {
        let name = ClusterName::new(format!("outbound|{port}||a.default.svc.cluster.local"));
        Arc::clone(&resources.endpoints[&name].endpoints)
    };
    let (http, other) = (of(80), of(81));
    assert!(Arc::ptr_eq(&http[0].workload, &http[1].workload));
    assert!(!Arc::ptr_eq(&http[1].workload, &http[2].workload), "it is another");
    for endpoint in http.iter().chain(&*other) {
        assert!(Arc::ptr_eq(&http[0].locality, &endpoint.locality));
    }
}

#[test]
fn subsets_are_chosen_by_the_labels_of_endpoints_and_without_them_by_the_slices() {
    let endpoints = |labels: &str, subset: &str| -> Vec<(String, String)> {
        let resources = resources(&format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: a}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: a}}
spec:
  host: a
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: a-1, labels: {{kubernetes.io/service-name: a, version: v2}}}}
addressType: IPv4
endpoints: [{{addresses: [10.0.0.1], zone: z, region: r, {labels}}}]
ports: [{{name: http, port: 8080}}]
"
        ));
        let cluster = ClusterName::new(format!("outbound|80|{subset}|a.default.svc.cluster.local"));
        let endpoints = &resources.endpoints[&cluster].endpoints;
        let shown = |endpoint: &crate::model::cluster::Endpoint| {
            let locality = &endpoint.locality;
            (
                endpoint.workload.version.to_string(),
                format!("{}/{}", locality.region, locality.zone),
            )
        };
        endpoints.iter().map(shown).collect()
    };
    let found = |version: &str| vec![(version.to_owned(), "r/z".to_owned())];
    assert_eq!(endpoints("labels: {version: v1}", "v1"), found("v1"));
    assert_eq!(endpoints("labels: {version: v1}", "v2"), []);
    assert_eq!(endpoints("", "v2"), found("v2"));
}

#[test]
fn the_cacert_companion_comes_before_the_authority_in_the_same_secret() {
    let gateway = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: MUTUAL, credentialName: c}
";
    let secret = |name: &str, data: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{data}}}\n"
        )
    };
    let own = secret("c", "tls.crt: C, tls.key: K, ca.crt: OWN");
    let companion = secret("c-cacert", "ca.crt: COMPANION");
    let mut compiler = Compiler::new(proxy(), None);
    compiler.apply(objects(&join(&[gateway, &own])).into_iter().map(Change::Upsert));
    let bundle = |compiler: &Compiler| {
        let secret = compiler.resources().secrets["kubernetes://default/c-cacert"].clone();
        match &secret.material {
            SecretMaterial::Inline { trust_bundle, private_key, .. } => {
                assert_eq!(*private_key, None, "a trust bundle carries no key");
                String::from_utf8(trust_bundle.as_deref().unwrap().to_vec()).unwrap()
            }
            SecretMaterial::Files { .. } => panic!("not a file"),
        }
    };
    assert_eq!(bundle(&compiler), "OWN");
    let delta = compiler.apply(objects(&companion).into_iter().map(Change::Upsert));
    assert_eq!(bundle(&compiler), "COMPANION");
    assert_eq!(delta.secrets.len(), 1);
    assert!(delta.filter_chains.is_empty());
}

#[test]
fn a_proxy_that_stands_alone_says_what_is_not_for_it() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: other}
spec:
  selector: {app: my-gateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: labelled}
spec: {selector: {matchLabels: {app: httpbin}}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: elsewhere, namespace: foo}
spec: {}
";
    assert_eq!(findings(yaml), [""; 0], "another proxy may be meant");
    let alone = Proxy { stands_alone: true, ..proxy() };
    let (resources, diagnostics) = compile(alone, None, objects(yaml));
    assert_eq!(resources.listeners.len(), 0);
    assert_eq!(resources.policies.authz, None);
    let labels = "this gateway has the labels istio=ingressgateway; give it others with --labels or \
                  change the selector";
    assert_eq!(
        texts(&diagnostics),
        [
            format!(
                "warning: test.yaml:2: Gateway default/other: spec.selector: this Gateway is not \
                 served: it is for app=my-gateway, and {labels}"
            ),
            "warning: test.yaml:14: RequestAuthentication foo/elsewhere: metadata.namespace: this \
             policy does not apply: this gateway is in namespace default (--namespace), and only \
             policies of that namespace and of istio-system are for it"
                .to_owned(),
            format!(
                "warning: test.yaml:9: AuthorizationPolicy default/labelled: spec.selector: this \
                 policy does not apply: it is for app=httpbin, and {labels}"
            ),
        ]
    );
}

#[test]
fn every_request_is_copied_unless_a_share_is_written() {
    for (mirror, expected) in [
        ("mirror: {host: b}", &[1_000_000][..]),
        ("mirror: {host: b}, mirrorPercentage: {value: 12.5}", &[125_000]),
        ("mirror: {host: b}, mirrorPercentage: {value: 0}", &[]),
        ("mirror: {host: b}, mirrorPercent: 30", &[300_000]),
        (
            "mirrors: [{destination: {host: b}}, {destination: {host: b}, percentage: {value: 1}}]",
            &[1_000_000, 10_000],
        ),
        ("timeout: 1s", &[]),
    ] {
        let host = routed(&format!("[{{route: [{{destination: {{host: a}}}}], {mirror}}}]"));
        let mirrors = &forward(&host.routes[0]).mirrors;
        let shares: Vec<u32> = mirrors.iter().map(|mirror| mirror.per_million).collect();
        assert_eq!(shares, expected, "{mirror}");
        assert!(
            mirrors
                .iter()
                .all(|m| m.cluster.as_str() == "outbound|80||b.default.svc.cluster.local")
        );
    }
}

#[test]
fn a_mirror_to_nowhere_is_said_and_follows_its_service() {
    let rule = "[{route: [{destination: {host: a}}], mirror: {host: copy}}]";
    let yaml = join(&[GATEWAY, SERVICES, &virtual_service("vs", rule)]);
    assert_eq!(
        findings(&yaml)[0].split_once("mirror.host: ").unwrap().1,
        "no Service or ServiceEntry defines host copy.default.svc.cluster.local; copies are \
         dropped until it exists"
    );
    let copy = SERVICES.replace("name: a", "name: copy").replacen("port: 80", "port: 81", 1);
    let mut compiler = Compiler::new(proxy(), None);
    compiler.apply(objects(&yaml).into_iter().map(Change::Upsert));
    compiler.apply(objects(&copy).into_iter().map(Change::Upsert));
    let mirrors = forward(&only_virtual_host(compiler.resources()).routes[0]).mirrors.clone();
    assert_eq!(mirrors[0].cluster.as_str(), "outbound|81||copy.default.svc.cluster.local");
}

#[test]
fn consistent_hash_says_key_and_table() {
    let cookie = HashCookie {
        name: "user".into(),
        ttl: Some(Duration::from_secs(60)),
        attributes: "; Max-Age=60; Path=/; Secure; HttpOnly".into(),
    };
    for (hash, policy, key) in [
        (
            "{httpHeaderName: X-User}",
            LbPolicy::RingHash { minimum_size: 1024 },
            Some(HashKey::Header(http::HeaderName::from_static("x-user"))),
        ),
        (
            "{useSourceIp: true, ringHash: {minimumRingSize: 99999999}}",
            LbPolicy::RingHash { minimum_size: 1 << 20 },
            Some(HashKey::SourceIp),
        ),
        (
            "{httpQueryParameterName: q, maglev: {tableSize: 1021}}",
            LbPolicy::Maglev { table_size: 1021 },
            Some(HashKey::QueryParam("q".into())),
        ),
        (
            "{httpCookie: {name: user, ttl: 60s, path: /, attributes: [{name: Secure}]}, \
             minimumRingSize: 10}",
            LbPolicy::RingHash { minimum_size: 10 },
            Some(HashKey::Cookie(cookie)),
        ),
        ("{}", LbPolicy::RingHash { minimum_size: 1024 }, None),
    ] {
        let rule = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a}}\nspec:\n  \
             host: a\n  trafficPolicy: {{loadBalancer: {{consistentHash: {hash}}}}}\n"
        );
        let (resources, _) = super::compiled(&join(&[SERVICES, &rule]));
        let name = "outbound|80||a.default.svc.cluster.local";
        let cluster = &resources.clusters[&ClusterName::new(name)];
        assert_eq!((cluster.lb_policy, &cluster.hash_key), (policy, &key), "{hash}");
    }
}

#[test]
fn warmup_is_for_policies_that_weigh() {
    let cluster = |load_balancer: &str| {
        let rule = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a}}\nspec:\n  \
             host: a\n  trafficPolicy: {{loadBalancer: {load_balancer}}}\n"
        );
        let (resources, diagnostics) = super::compiled(&join(&[SERVICES, &rule]));
        let name = ClusterName::new("outbound|80||a.default.svc.cluster.local");
        let fields: Vec<String> = diagnostics.into_iter().map(|found| found.field).collect();
        (resources.clusters[&name].warmup, fields)
    };
    let minute = Duration::from_secs(60);
    let field = "spec.trafficPolicy.loadBalancer";
    assert_eq!(
        cluster("{warmup: {duration: 60s}}"),
        (Some(Warmup { duration: minute, minimum: 0.1, aggression: 1.0 }), vec![])
    );
    assert_eq!(
        cluster(
            "{simple: ROUND_ROBIN, warmup: {duration: 60s, minimumPercent: 50, aggression: 2}}"
        ),
        (Some(Warmup { duration: minute, minimum: 0.5, aggression: 2.0 }), vec![])
    );
    assert_eq!(
        cluster("{warmupDurationSecs: 60s}"),
        (
            Some(Warmup { duration: minute, minimum: 0.1, aggression: 1.0 }),
            vec![format!("{field}.warmupDurationSecs")]
        )
    );
    assert_eq!(
        cluster("{simple: RANDOM, warmup: {duration: 60s}}"),
        (None, vec![format!("{field}.warmup")])
    );
}

/// Hardening C5, CVE-2021-31921.
#[test]
fn mesh_tls_passes_to_exported_services_of_the_servers_hosts_and_to_nothing_else() {
    let gateway = GATEWAY.replace(
        "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}",
        "{port: {number: 15443, name: tls, protocol: TLS}, tls: {mode: AUTO_PASSTHROUGH}, hosts: \
         [shop/*.local]}",
    );
    let service = |namespace: &str, name: &str, export: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}, annotations: {{networking.istio.io/exportTo: '{export}'}}}}
spec: {{ports: [{{name: http, port: 80}}]}}
"
        )
    };
    let web = service("shop", "web", "*");
    let behind = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.8], labels: {security.istio.io/tlsMode: istio, version: v1}}
- {addresses: [10.1.0.9], labels: {version: v1}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}]}
";
    let hidden = service("shop", "hidden", ".");
    let other = service("other", "web", "*");
    let all = objects(&join(&[&gateway, &web, behind, &hidden, &other]));
    let mut compiler = Compiler::new(proxy(), None);
    compiler.apply(all.iter().cloned().map(Change::Upsert));
    let names = |compiler: &Compiler| -> Vec<String> {
        let chains = compiler.resources().filter_chains.values();
        chains.filter(|chain| chain.mesh_only).map(|it| it.server_names[0].to_string()).collect()
    };
    let name = "outbound_.80_._.web.shop.svc.cluster.local";
    let of_subset = "outbound_.80_.v1_.web.shop.svc.cluster.local";
    assert_eq!(names(&compiler), [name, of_subset]);
    for name in [name, of_subset] {
        assert_eq!(compiler.resources().clusters[name].tls, None);
        let endpoints = &compiler.resources().endpoints[name].endpoints;
        let addresses: Vec<_> = endpoints.iter().map(|it| it.address.clone()).collect();
        assert_eq!(addresses, [EndpointAddress::Ip(([10, 1, 0, 8], 8080).into())]);
    }
    // What is gone leads nowhere, and so does all when the server is gone.
    compiler.apply([Change::Remove(objects(&web)[0].key())]);
    assert_eq!(names(&compiler), Vec::<String>::new());
    compiler.apply([Change::Upsert(Arc::clone(&objects(&web)[0]))]);
    assert_eq!(names(&compiler), [name, of_subset]);
    compiler.apply([Change::Remove(objects(&gateway)[0].key())]);
    assert_eq!(names(&compiler), Vec::<String>::new());
    assert!(!compiler.resources().clusters.contains_key(name));
}
