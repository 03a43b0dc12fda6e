//! What objects of one namespace do to hosts and clients of others.

use super::{compile, mesh, objects, texts};
use crate::{
    compile::{Proxy, ProxyKind},
    model::{
        FilterChainName, Resources,
        cluster::{Discovery, EndpointAddress},
        route::RouteAction,
    },
};

/// Who calls, whose service it is, and who has no business with either.
const WEB: &str = "web.shop.svc.cluster.local";

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {}}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}], selector: {app: web}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.1]}]
ports: [{name: http, port: 80}]
---
";

/// The sidecar of a workload of that namespace.
fn seen_from(namespace: &str, mesh_config: &str, yaml: &str) -> (Resources, Vec<String>) {
    let proxy = Proxy {
        kind: ProxyKind::Sidecar { addresses: vec![[10, 1, 0, 1].into()] },
        namespace: namespace.into(),
        ..Proxy::default()
    };
    let (resources, diagnostics) = compile(proxy, Some(mesh(mesh_config)), objects(yaml));
    (resources, texts(&diagnostics))
}

/// A VirtualService that sends requests for `host` elsewhere.
fn rules(namespace: &str, host: &str, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: web, namespace: {namespace}}}\n\
         spec: {{hosts: ['{host}'], {more} http: [{{directResponse: {{status: 418}}}}]}}\n---\n"
    )
}

/// Whether requests for the shop go to the shop, and not where a VirtualService sends them.
fn reaches_shop(resources: &Resources) -> bool {
    let mut hosts = resources.virtual_hosts.values();
    let host = hosts.find(|it| it.domain.to_string() == WEB).expect("the shop is known");
    matches!(&host.routes[0].action, RouteAction::Forward(forward)
        if forward.clusters[0].cluster.as_str() == format!("outbound|80||{WEB}"))
}

#[test]
fn a_virtual_service_routes_its_own_hosts_and_its_own_clients_and_no_others() {
    for (of, from, is_refused) in [
        ("shop", "client", false),
        ("istio-system", "client", false),
        ("client", "client", false),
        ("thief", "client", true),
        ("thief", "shop", true),
        ("thief", "thief", false),
    ] {
        for host in [WEB, "*.shop.svc.cluster.local", "*.svc.cluster.local", "*.local"] {
            let (resources, said) =
                seen_from(from, "{}", &(SHOP.to_owned() + &rules(of, host, "")));
            assert_eq!(reaches_shop(&resources), is_refused, "{of} {from} {host}");
            let refusal = said.iter().any(|it| it.contains("it does not count where a host"));
            // Its own hosts are not all there are below such a wildcard.
            let is_too_wide = of == "shop" && !host.contains("shop");
            assert_eq!(refusal, is_refused || is_too_wide, "{of} {from} {host}: {said:?}");
        }
    }
}

#[test]
fn a_refused_virtual_service_leaves_the_host_to_the_next() {
    // The thief's is the more specific, and the older.
    let yaml = [SHOP, &rules("thief", WEB, ""), &rules("shop", "*.shop.svc.cluster.local", "")];
    assert!(!reaches_shop(&seen_from("client", "{}", &yaml.concat()).0));
}

#[test]
fn the_owner_of_a_service_can_grant_its_routes_to_other_namespaces() {
    for (granted, is_refused) in
        [("friend, thief", false), ("'*'", false), ("friend", true), ("thie", true)]
    {
        let annotations = format!("annotations: {{weir.dev/virtualServicesFrom: \"{granted}\"}}")
            .replace("\"'*'\"", "'*'");
        let yaml = SHOP.replace("annotations: {}", &annotations) + &rules("thief", WEB, "");
        assert_eq!(reaches_shop(&seen_from("client", "{}", &yaml).0), is_refused, "{granted}");
    }
}

#[test]
fn the_mesh_configuration_can_have_istios_behaviour_which_is_said() {
    let yaml = SHOP.to_owned() + &rules("thief", WEB, "");
    let (resources, said) = seen_from("client", "hostTakeover: ALLOW", &yaml);
    assert!(!reaches_shop(&resources));
    assert!(said.iter().any(|it| it.contains("hostTakeover: ALLOW")), "{said:?}");
}

#[test]
fn a_virtual_service_counts_where_it_is_exported_to() {
    for (export_to, is_seen) in
        [("'*'", true), ("client", true), ("other, client", true), ("other", false), (".", false)]
    {
        let rules = rules("shop", WEB, &format!("exportTo: [{export_to}],"));
        let (resources, _) = seen_from("client", "{}", &(SHOP.to_owned() + &rules));
        assert_eq!(!reaches_shop(&resources), is_seen, "{export_to}");
    }
}

#[test]
fn a_host_nobody_has_is_routed_by_whoever_does() {
    let (resources, said) = seen_from("client", "{}", &rules("thief", "new.example.com", ""));
    let domains = resources.virtual_hosts.values().map(|it| it.domain.to_string());
    assert!(domains.into_iter().any(|it| it == "new.example.com"));
    assert_eq!(said, Vec::<String>::new());
    // A name of the cluster is somebody's, whether there is such a service or not.
    let (resources, said) = seen_from("client", "{}", &rules("thief", WEB, ""));
    assert!(resources.virtual_hosts.values().all(|it| it.domain.to_string() != WEB));
    assert_eq!(said.len(), 1, "{said:?}");
}

fn entry(namespace: &str, host: &str, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: e, namespace: {namespace}}}\n\
         spec: {{hosts: ['{host}'], {more} ports: [{{number: 80, name: http, protocol: HTTP}}], \
         resolution: STATIC, endpoints: [{{address: 198.51.100.66}}]}}\n---\n"
    )
}

/// Where connections to `host` end.
fn endpoints(resources: &Resources, host: &str) -> Vec<String> {
    let cluster = format!("outbound|80||{host}");
    let mut all = resources.endpoints.values().filter(|it| it.cluster.as_str() == cluster);
    let endpoints = all.next().map(|it| it.endpoints.to_vec()).unwrap_or_default();
    let address = |address: EndpointAddress| match address {
        EndpointAddress::Ip(address) => address.ip().to_string(),
        other => panic!("{other:?}"),
    };
    endpoints.into_iter().map(|endpoint| address(endpoint.address)).collect()
}

#[test]
fn a_service_entry_stands_in_for_no_service_of_the_cluster() {
    for namespace in ["shop", "client", "thief", "istio-system"] {
        for host in [WEB, "*.shop.svc.cluster.local", "*.svc.cluster.local", "*.local"] {
            let yaml = SHOP.to_owned() + &entry(namespace, host, "");
            let (resources, _) = seen_from("client", "{}", &yaml);
            assert_eq!(endpoints(&resources, WEB), ["192.0.2.1"], "{namespace} {host}");
        }
    }
    // As Istio has it, and only for the clients of the namespace.
    let yaml = SHOP.to_owned() + &entry("client", WEB, "");
    let (resources, _) = seen_from("client", "hostTakeover: ALLOW", &yaml);
    assert_eq!(endpoints(&resources, WEB), ["198.51.100.66"]);
}

#[test]
fn a_name_of_the_cluster_is_defined_by_its_namespace_even_where_there_is_no_service() {
    let kubernetes = "kubernetes.default.svc.cluster.local";
    for (namespace, mesh_config, is_known) in [
        ("default", "{}", true),
        ("istio-system", "{}", true),
        ("thief", "{}", false),
        ("thief", "hostTakeover: ALLOW", true),
    ] {
        let yaml = entry(namespace, kubernetes, "");
        let (resources, said) = seen_from("client", mesh_config, &yaml);
        assert_eq!(!endpoints(&resources, kubernetes).is_empty(), is_known, "{namespace}");
        assert_eq!(said.is_empty(), namespace != "thief", "{said:?}");
    }
}

/// An address that the controller found at somebody else's, and one that it did not.
const FOREIGN: &str = "metadata: {name: e, annotations: {weir.dev/foreignAddresses: '192.0.2.1,10.0.0.1,10.8.0.0/13'}, ";

#[test]
fn an_endpoint_at_somebody_elses_address_is_for_clients_of_its_own_namespace() {
    for (of, from, mesh_config, is_used, is_said) in [
        ("thief", "client", "{}", false, true),
        ("thief", "thief", "{}", true, false),
        ("istio-system", "client", "{}", true, false),
        ("thief", "client", "hostTakeover: ALLOW", true, true),
    ] {
        let written = entry(of, "x.example.com", "")
            .replace("address: 198.51.100.66}", "address: 198.51.100.66}, {address: 192.0.2.1}")
            .replace("metadata: {name: e, ", FOREIGN);
        let selected = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: s, namespace: {of}}}\nspec: {{hosts: [y.example.com], \
             resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], \
             workloadSelector: {{labels: {{app: y}}}}}}\n---\n\
             apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n{FOREIGN}namespace: {of}}}\n\
             spec: {{address: 192.0.2.1, labels: {{app: y}}, serviceAccount: y}}\n---\n"
        );
        let (resources, said) = seen_from(from, mesh_config, &(written + &selected));
        let expected: &[&str] =
            if is_used { &["198.51.100.66", "192.0.2.1"] } else { &["198.51.100.66"] };
        assert_eq!(endpoints(&resources, "x.example.com"), expected, "{of} {from} {mesh_config}");
        let expected = &expected[1..];
        assert_eq!(endpoints(&resources, "y.example.com"), expected, "{of} {from} {mesh_config}");
        for field in ["spec.endpoints[1].address", "spec.address"] {
            let found = said.iter().any(|it| it.contains(field));
            assert_eq!(found, is_said, "{of} {from} {mesh_config}: {said:?}");
        }
    }
}

/// The same of a Service's slices, and of its name where that is loopback's.
#[test]
fn a_service_leads_clients_of_others_to_nobody_elses_address() {
    let slice = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: x, namespace: thief}}\n\
         spec: {{clusterIP: 10.0.0.9, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         {FOREIGN}namespace: thief, labels: {{kubernetes.io/service-name: x}}}}\n\
         addressType: IPv4\nports: [{{port: 80}}]\n\
         endpoints: [{{addresses: [192.0.2.1]}}, {{addresses: [192.0.2.9]}}]\n---\n"
    );
    let name = "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: thief, \
                annotations: {weir.dev/foreignAddresses: 127.0.0.1}}\n\
                spec: {type: ExternalName, externalName: localhost, ports: [{port: 80}]}\n---\n";
    for (yaml, field, own, others) in
        [(&*slice, "endpoints[0].addresses", 2, 1), (name, "spec.externalName", 1, 0)]
    {
        for (from, count) in [("client", others), ("thief", own)] {
            let (resources, said) = seen_from(from, "{}", yaml);
            let cluster = "outbound|80||x.thief.svc.cluster.local";
            let mut all = resources.endpoints.values().filter(|it| it.cluster.as_str() == cluster);
            let endpoints = all.next().expect("the cluster is there").endpoints.to_vec();
            assert_eq!(endpoints.len(), count, "{from}: {endpoints:?}");
            assert_eq!(said.iter().any(|it| it.contains(field)), count != own, "{from}: {said:?}");
        }
    }
}

/// Names are resolved by proxies, which have to know whether they may lead to themselves.
#[test]
fn names_that_others_wrote_must_not_lead_to_the_proxy_itself() {
    let dns = entry("thief", "x.example.com", "")
        .replace("STATIC", "DNS")
        .replace("address: 198.51.100.66", "address: a.example");
    let round_robin = dns.replace("DNS", "DNS_ROUND_ROBIN");
    let dynamic = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {name: e, namespace: thief}\nspec: {hosts: ['*.example.com'], resolution: \
         DYNAMIC_DNS, ports: [{number: 443, name: tls, protocol: TLS}]}\n---\n";
    let external = "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: thief}\n\
         spec: {type: ExternalName, externalName: a.example, ports: [{port: 80}]}\n---\n";
    for yaml in [&*dns, &*round_robin, dynamic, external] {
        let refuses = |from: &str, mesh_config: &str, stands_alone: bool| {
            let proxy = Proxy {
                kind: ProxyKind::Sidecar { addresses: vec![[10, 1, 0, 1].into()] },
                namespace: from.into(),
                stands_alone,
                ..Proxy::default()
            };
            let (resources, _) = compile(proxy, Some(mesh(mesh_config)), objects(yaml));
            let found = resources.clusters.values().find_map(|it| match &it.discovery {
                Discovery::StrictDns { refuses_local, .. }
                | Discovery::LogicalDns { refuses_local, .. } => Some(*refuses_local),
                Discovery::DynamicDns(names) => Some(names.refuses_local),
                Discovery::Static | Discovery::OriginalDst { .. } => None,
            });
            found.expect("a cluster with names")
        };
        assert!(refuses("client", "{}", false), "{yaml}");
        assert!(!refuses("thief", "{}", false), "{yaml}");
        assert!(!refuses("client", "hostTakeover: ALLOW", false), "{yaml}");
        assert!(!refuses("client", "{}", true), "{yaml}");
    }
}

#[test]
fn a_service_entry_takes_no_connections_to_somebody_elses_address() {
    for (protocol, of, is_taken, addresses) in [
        ("HTTP", "thief", false, "addresses: [10.0.0.1],"),
        ("TCP", "thief", false, "addresses: [10.0.0.1],"),
        ("TCP", "istio-system", true, "addresses: [10.0.0.1],"),
        ("TCP", "thief", false, "addresses: [10.8.0.0/13],"),
        ("TCP", "thief", true, "addresses: [10.0.0.0/16],"),
    ] {
        let yaml = entry(of, "x.example.com", addresses)
            .replace("metadata: {name: e, ", FOREIGN)
            .replace("protocol: HTTP", &format!("protocol: {protocol}"));
        let (resources, said) = seen_from("client", "{}", &yaml);
        let mut chains = resources.filter_chains.keys();
        let is_own = |name: &FilterChainName| name.as_str().contains("x.example.com");
        assert_eq!(chains.any(is_own), is_taken, "{protocol} {of}");
        assert_eq!(said.iter().any(|it| it.contains("spec.addresses")), !is_taken, "{said:?}");
    }
}

#[test]
fn a_service_entry_is_known_where_it_is_exported_to() {
    for (export_to, is_known) in
        [("'*'", true), ("client", true), ("'~'", false), (".", false), ("other", false)]
    {
        let yaml = entry("shop", "x.example.com", &format!("exportTo: [{export_to}],"));
        let (resources, _) = seen_from("client", "{}", &yaml);
        assert_eq!(!endpoints(&resources, "x.example.com").is_empty(), is_known, "{export_to}");
    }
}

#[test]
fn a_destination_rule_is_the_clients_else_the_services_else_the_roots() {
    let rule = |namespace: &str, size: u32| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: {{name: web, namespace: {namespace}}}\nspec: {{host: {WEB}, \
             trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {size}}}}}}}}}\n---\n"
        )
    };
    let all = [("client", 1), ("shop", 2), ("istio-system", 3), ("thief", 4)];
    for first in 0..=3 {
        let rules: String = all[first..].iter().map(|(of, size)| rule(of, *size)).collect();
        let (resources, _) = seen_from("client", "{}", &(SHOP.to_owned() + &rules));
        let mut clusters = resources.clusters.values();
        let web = clusters.find(|it| it.name.as_str() == format!("outbound|80||{WEB}")).unwrap();
        let limit = web.circuit_breakers.max_connections;
        // Of the thief there is nothing to be seen.
        let expected = all[first..3].first().map(|(_, size)| *size);
        assert_eq!((limit < 10).then_some(limit), expected, "{limit}");
    }
}

#[test]
fn a_sidecar_resource_limits_which_virtual_services_and_services_are_known() {
    let egress = |hosts: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\n\
             metadata: {{name: default, namespace: client}}\nspec: {{egress: [{{hosts: [{hosts}]}}]}}\n"
        )
    };
    let known = |hosts: &str| {
        let (resources, _) = seen_from("client", "{}", &(SHOP.to_owned() + &egress(hosts)));
        resources.virtual_hosts.values().any(|it| it.domain.to_string() == WEB)
    };
    assert!(known("'*/*'"));
    assert!(known("'shop/*'"));
    assert!(known(&format!("'shop/{WEB}'")));
    assert!(!known("'./*'"));
    assert!(!known("'~/*'"));
    assert!(!known("'shop/*', '~shop/*'"));
}

#[test]
fn a_delegate_of_another_namespace_has_to_be_exported_to_who_delegates() {
    for (export_to, status) in [("'*'", Some(418)), ("shop", Some(418)), (".", None)] {
        let yaml = SHOP.to_owned()
            + &format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                 metadata: {{name: web, namespace: shop}}\nspec: {{hosts: [{WEB}], \
                 http: [{{delegate: {{name: d, namespace: team}}}}]}}\n---\n\
                 apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                 metadata: {{name: d, namespace: team}}\nspec: {{exportTo: [{export_to}], \
                 http: [{{directResponse: {{status: 418}}}}]}}\n"
            );
        let (resources, _) = seen_from("client", "{}", &yaml);
        let mut hosts = resources.virtual_hosts.values();
        let host = hosts.find(|it| it.domain.to_string() == WEB).unwrap();
        let answer = host.routes.first().and_then(|route| match &route.action {
            RouteAction::DirectResponse(response) => Some(response.status.as_u16()),
            _ => None,
        });
        assert_eq!(answer, status, "{export_to}");
    }
}
