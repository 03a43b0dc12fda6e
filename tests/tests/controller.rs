//! The controller, between a scripted API server and a proxy that does one step at a time.

use http::StatusCode;
use serde_json::{Value, json};
use tonic::{Code, Status};
use weir_tests::{
    backend::echo::Echo,
    certs::Authority,
    client::discovery::{Hello, Proxy, Push},
    config::Config,
    controller::Controller,
    eventually::{eventually, eventually_eq},
    gateway::Launch,
    kube::ApiServer,
};

const GATEWAY: &str = "networking.istio.io/Gateway/ingress/public";
const SHOP: &str = "networking.istio.io/VirtualService/shop/shop";
const RULE: &str = "networking.istio.io/DestinationRule/shop/web";
const SERVICE: &str = "/Service/shop/web";
const SLICE: &str = "discovery.k8s.io/EndpointSlice/shop/web-1";
const SECRET: &str = "/Secret/ingress/web-tls";

/// A Gateway with a route of another namespace, and all behind it.
fn shop() -> Vec<Value> {
    vec![
        json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": "public", "namespace": "ingress"},
            "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
                {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"],
                 "tls": {"mode": "SIMPLE", "credentialName": "web-tls"}}]}}),
        virtual_service("shop", "shop.example.com"),
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "web", "namespace": "shop"}, "spec": {"host": "web"}}),
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80, "name": "http"}]}}),
        slice("10.0.0.1"),
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "web-tls", "namespace": "ingress"},
            "data": {"tls.crt": "Y2VydA==", "tls.key": "a2V5"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": "database", "namespace": "ingress"},
            "data": {"password": "c2VjcmV0"}}),
    ]
}

fn virtual_service(name: &str, host: &str) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"hosts": [host], "gateways": ["ingress/public"],
            "http": [{"route": [{"destination": {"host": "web"}}]}]}})
}

fn slice(address: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": "web-a"}}]})
}

/// An API server with the shop, and a controller on it.
async fn cluster() -> (ApiServer, Controller) {
    let server = ApiServer::start().await;
    server.apply(shop());
    let controller = Controller::start(&server).await;
    (server, controller)
}

/// What the gateway's service account presents.
fn hello(server: &ApiServer) -> Hello {
    Hello {
        token: Some(server.token("istio-ca", "ingress", "gateway", None)),
        labels: vec![("istio", "ingressgateway")],
        ..Hello::default()
    }
}

async fn connect(controller: &Controller, hello: Hello) -> Result<Proxy, Status> {
    let tls = controller.authority().client_config(None, &["h2"]);
    Proxy::connect(controller.discovery_port(), &tls, hello).await
}

/// A gateway that may read Secrets, with its first push applied.
async fn gateway(server: &ApiServer, controller: &Controller) -> Proxy {
    server.let_read_secrets("ingress", "gateway");
    let mut proxy = connect(controller, hello(server)).await.expect("connect");
    proxy.push().await;
    proxy
}

fn sorted(names: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn changes(push: &Push) -> (Vec<&str>, Vec<&str>) {
    (sorted(&push.changed), sorted(&push.removed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_gets_what_its_routes_lead_to_and_then_what_changes() {
    let (server, controller) = cluster().await;
    server.let_read_secrets("ingress", "gateway");
    let first_of_its_kind = Hello { in_parts: true, ..hello(&server) };
    let mut proxy = connect(&controller, first_of_its_kind).await.expect("connect");
    let first = proxy.push().await;
    let all = [SECRET, SERVICE, SLICE, "mesh", RULE, GATEWAY, SHOP];
    assert_eq!(changes(&first), (all.to_vec(), vec![]));
    // The mesh, then Secrets, then the rest; the end last.
    assert_eq!(first.changed[..2], ["mesh", SECRET]);
    let types: Vec<&str> = first.responses.iter().map(|(url, _)| url.as_str()).collect();
    assert!(types.last().is_some_and(|last| last.ends_with(".Sync")), "{types:?}");
    assert_eq!(proxy.documents[SLICE]["endpoints"][0]["addresses"], json!(["10.0.0.1"]));
    assert_eq!(proxy.documents["mesh"]["rootNamespace"], "weir-system");

    server.apply([slice("10.0.0.2")]);
    assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]));
    assert_eq!(proxy.documents[SLICE]["endpoints"][0]["addresses"], json!(["10.0.0.2"]));
    server.delete("VirtualService", "shop", "shop");
    assert_eq!(changes(&proxy.push().await), (vec![], vec![SERVICE, SLICE, RULE, SHOP]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_one_response_with_one_answer_to_who_understands_that() {
    let (server, controller) = cluster().await;
    server.let_read_secrets("ingress", "gateway");
    let mut proxy = connect(&controller, hello(&server)).await.expect("connect");
    let sync = "type.googleapis.com/weir.config.v1.Sync";
    let types = |push: &Push| push.responses.iter().map(|(url, _)| url.clone()).collect::<Vec<_>>();
    let first = proxy.push().await;
    assert_eq!(changes(&first).0, [SECRET, SERVICE, SLICE, "mesh", RULE, GATEWAY, SHOP]);
    assert_eq!(types(&first), [sync]);
    server.delete("DestinationRule", "shop", "web");
    let second = proxy.push().await;
    assert_eq!((changes(&second), types(&second)), ((vec![], vec![RULE]), vec![sync.to_owned()]));
    // The one answer is all that is waited for.
    server.apply([slice("10.0.0.2")]);
    let third = proxy.push().await;
    assert_eq!(changes(&third), (vec![SLICE], vec![]));
    assert_ne!(second.version, third.version);
    let sent = controller.metrics().await;
    assert_eq!(sent.sum("pilot_xds_pushes", &[("type", "Object")]), 3.0);
    assert_eq!(sent.sum("pilot_xds_pushes", &[("type", "Secret")]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_service_is_withdrawn_when_it_is_exported_elsewhere() {
    let (server, controller) = cluster().await;
    let mut proxy = gateway(&server, &controller).await;
    let mut object = virtual_service("shop", "shop.example.com");
    object["spec"]["exportTo"] = json!(["."]);
    server.apply([object.clone()]);
    assert_eq!(changes(&proxy.push().await), (vec![], vec![SERVICE, SLICE, RULE, SHOP]));
    object["spec"]["exportTo"] = json!(["ingress"]);
    server.apply([object]);
    assert_eq!(changes(&proxy.push().await), (vec![SERVICE, SLICE, RULE, SHOP], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_go_only_to_service_accounts_that_may_read_them() {
    let (server, controller) = cluster().await;
    let mut refused = connect(&controller, hello(&server)).await.expect("connect");
    assert!(!refused.push().await.changed.contains(&SECRET.to_owned()));

    let other = Hello {
        token: Some(server.token("istio-ca", "ingress", "allowed", None)),
        ..hello(&server)
    };
    server.let_read_secrets("ingress", "allowed");
    let mut allowed = connect(&controller, other).await.expect("connect");
    assert!(allowed.push().await.changed.contains(&SECRET.to_owned()));
    assert_eq!(allowed.documents[SECRET]["data"]["tls.crt"], "Y2VydA==");
    assert!(!allowed.versions.contains_key("/Secret/ingress/database"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_calls_itself_the_gateway_does_not_get_its_secrets() {
    let (server, controller) = cluster().await;
    server.let_read_secrets("tenant", "gateway");
    let tenant = Hello {
        token: Some(server.token("istio-ca", "tenant", "gateway", None)),
        ..hello(&server)
    };
    let mut proxy = connect(&controller, tenant).await.expect("connect");
    let push = proxy.push().await;
    assert!(push.changed.contains(&GATEWAY.to_owned()), "{push:?}");
    assert!(!push.changed.contains(&SECRET.to_owned()), "{push:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_labels_of_the_pod_a_token_is_bound_to_are_the_ones_that_count() {
    let (server, controller) = cluster().await;
    server.apply([json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "batch-1", "namespace": "ingress", "labels": {"app": "batch"}}})]);
    let mut witness = gateway(&server, &controller).await;
    server.apply([slice("10.0.0.9")]);
    witness.push().await;

    let claims = Hello {
        token: Some(server.token("istio-ca", "ingress", "gateway", Some("batch-1"))),
        ..hello(&server)
    };
    let known = async || {
        let mut proxy = connect(&controller, claims.clone()).await.expect("connect");
        sorted(&proxy.push().await.changed).len()
    };
    // Pods are watched by themselves: this one may come a moment later than the slice.
    eventually_eq(1, known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_say_who_he_is_gets_nothing() {
    let (server, controller) = cluster().await;
    let other_audience = server.token("https://kubernetes.default.svc", "ingress", "gateway", None);
    for token in [None, Some("made up".to_owned()), Some(other_audience)] {
        let refused = connect(&controller, Hello { token, ..hello(&server) }).await;
        assert_eq!(refused.err().map(|status| status.code()), Some(Code::Unauthenticated));
    }
    assert_eq!(controller.metrics().await.sum("pilot_xds_unauthenticated_total", &[]), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_mesh_is_an_identity() {
    let (server, controller) = cluster().await;
    server.let_read_secrets("ingress", "gateway");
    let connect = async |name: &str| {
        let identity = controller.authority().client(&[name]);
        let tls = controller.authority().client_config(Some(&identity), &["h2"]);
        let hello = Hello { token: None, ..hello(&server) };
        Proxy::connect(controller.discovery_port(), &tls, hello).await
    };
    let mut proxy = connect("spiffe://cluster.local/ns/ingress/sa/gateway").await.expect("connect");
    assert!(proxy.push().await.changed.contains(&SECRET.to_owned()));
    let foreign = connect("spiffe://other.domain/ns/ingress/sa/gateway").await;
    assert_eq!(foreign.err().map(|status| status.code()), Some(Code::Unauthenticated));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_refuses_is_known_until_it_takes_a_later_version() {
    let (server, controller) = cluster().await;
    let mut proxy = gateway(&server, &controller).await;
    server.apply([virtual_service("shop", "new.example.com")]);
    let push = proxy.next().await.expect("a push");
    proxy.reject(&push, SHOP, "no such thing");
    let rejected = async || {
        let page = controller.page("/debug/syncz").await;
        let proxies: Value = serde_json::from_str(page.text()).expect("JSON");
        proxies[0]["rejected"].clone()
    };
    eventually_eq(json!({SHOP: "no such thing"}), rejected).await;
    let metrics = controller.metrics().await;
    assert_eq!(metrics.sum("pilot_total_xds_rejects", &[("type", "Object")]), 1.0);

    server.apply([slice("10.0.0.3")]);
    proxy.push().await;
    assert_eq!(rejected().await, json!({SHOP: "no such thing"}));
    server.apply([virtual_service("shop", "newer.example.com")]);
    proxy.push().await;
    eventually_eq(json!({}), rejected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_comes_back_gets_only_what_changed_meanwhile() {
    let (server, controller) = cluster().await;
    let proxy = gateway(&server, &controller).await;
    let known = proxy.versions.clone();
    drop(proxy);
    let again = Hello { known: known.clone(), ..hello(&server) };
    let mut same = connect(&controller, again.clone()).await.expect("connect");
    assert_eq!(changes(&same.push().await), (vec![], vec![]));

    server.apply([slice("10.0.0.4"), virtual_service("second", "second.example.com")]);
    server.delete("DestinationRule", "shop", "web");
    // Once a connected proxy has all of it, it is what there is.
    while same.versions.contains_key(RULE)
        || !same.documents.contains_key(SLICE)
        || !same.versions.contains_key("networking.istio.io/VirtualService/shop/second")
    {
        same.push().await;
    }
    let mut changed = connect(&controller, again).await.expect("connect");
    let expected = vec![SLICE, "networking.istio.io/VirtualService/shop/second"];
    assert_eq!(changes(&changed.push().await), (expected, vec![RULE]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_controller_sends_nothing_to_a_proxy_that_has_everything() {
    let (server, controller) = cluster().await;
    let known = gateway(&server, &controller).await.versions;
    drop(controller);
    let controller = Controller::start(&server).await;
    let mut proxy = connect(&controller, Hello { known, ..hello(&server) }).await.expect("connect");
    assert_eq!(changes(&proxy.push().await), (vec![], vec![]));
}

/// A proxy that was sent `10.0.0.9` by one controller, and a second controller that has not seen it.
async fn split_brain() -> (ApiServer, [Controller; 2], Hello) {
    let (server, ahead) = cluster().await;
    let mut proxy = gateway(&server, &ahead).await;
    server.lag();
    server.apply([slice("10.0.0.9")]);
    proxy.push().await;
    assert_eq!(proxy.documents[SLICE]["endpoints"][0]["addresses"], json!(["10.0.0.9"]));
    let behind = Controller::start(&server).await;
    let (known, position) = (proxy.versions.clone(), proxy.position.clone());
    let hello = Hello { known, position, ..hello(&server) };
    (server, [ahead, behind], hello)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_knows_less_than_a_proxy_waits_until_it_knows_as_much() {
    let (server, [ahead, behind], hello) = split_brain().await;
    let mut fresh = connect(&behind, Hello { position: String::new(), ..hello.clone() })
        .await
        .expect("connect");
    assert_eq!(changes(&fresh.push().await), (vec![SLICE], vec![]), "that is what would be sent");

    let connecting = connect(&behind, hello.clone());
    let waits = eventually("the proxy waits", async || {
        let waiting = behind.metrics().await.sum("weir_controller_waiting_proxies", &[]);
        (waiting > 0.0).then(|| server.catch_up())
    });
    let (proxy, ()) = tokio::join!(connecting, waits);
    let mut proxy = proxy.expect("connect");
    assert_eq!(changes(&proxy.push().await), (vec![], vec![]));
    // Back and forth nothing is sent any more.
    for controller in [&ahead, &behind] {
        let hello = Hello { position: proxy.position.clone(), ..hello.clone() };
        proxy = connect(controller, hello).await.expect("connect");
        assert_eq!(changes(&proxy.push().await), (vec![], vec![]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stays_behind_sends_the_proxy_to_another() {
    let (_server, [_ahead, behind], hello) = split_brain().await;
    let mut proxy = connect(&behind, hello).await.expect("connect");
    let end = proxy.next().await.expect_err("nothing older is sent");
    assert_eq!(end.code(), Code::FailedPrecondition, "{end:?}");
    let metrics = behind.metrics().await;
    assert_eq!(metrics.sum("weir_controller_behind_total", &[]), 1.0);
}

/// How many sets of objects are kept for proxies.
async fn scopes(controller: &Controller) -> f64 {
    controller.metrics().await.sum("weir_controller_scopes", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_that_no_selector_tells_apart_share_a_scope_whatever_their_labels() {
    let (server, controller) = cluster().await;
    let labels = |number: usize| {
        let hash = ["a", "b", "c", "d", "e", "f"][number];
        let team = ["red", "blue"][number % 2];
        vec![("istio", "ingressgateway"), ("pod-template-hash", hash), ("team", team)]
    };
    let mut proxies = Vec::new();
    for number in 0..6 {
        let hello = Hello { labels: labels(number), ..hello(&server) };
        let mut proxy = connect(&controller, hello).await.expect("connect");
        proxy.push().await;
        proxies.push(proxy);
    }
    assert_eq!(scopes(&controller).await, 1.0);

    // A selector comes: only whom it selects hears of it, and they are by themselves from then on.
    let policy = "security.istio.io/AuthorizationPolicy/ingress/red";
    server.apply([json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "red", "namespace": "ingress"},
        "spec": {"selector": {"matchLabels": {"team": "red"}}}})]);
    for proxy in proxies.iter_mut().step_by(2) {
        assert_eq!(changes(&proxy.push().await), (vec![policy], vec![]));
    }
    assert_eq!(scopes(&controller).await, 2.0);
    server.apply([slice("10.0.0.9")]);
    for proxy in &mut proxies {
        assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]));
    }

    // It goes, and nothing tells them apart any more.
    server.delete("AuthorizationPolicy", "ingress", "red");
    for proxy in proxies.iter_mut().step_by(2) {
        assert_eq!(changes(&proxy.push().await), (vec![], vec![policy]));
    }
    assert_eq!(scopes(&controller).await, 1.0);
    server.apply([slice("10.0.0.10")]);
    for proxy in &mut proxies {
        assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_answer_keeps_nobody_waiting_and_gets_the_latest() {
    let (server, controller) = cluster().await;
    let mut quick = gateway(&server, &controller).await;
    let mut slow = gateway(&server, &controller).await;
    server.apply([slice("10.0.1.0")]);
    quick.push().await;
    let unanswered = slow.next().await.expect("a push");
    for number in 1..=20 {
        let address = format!("10.0.1.{number}");
        server.apply([slice(&address)]);
        while quick.documents[SLICE]["endpoints"][0]["addresses"] != json!([address]) {
            quick.push().await;
        }
    }
    slow.accept(&unanswered);
    assert_eq!(changes(&slow.push().await), (vec![SLICE], vec![]));
    assert_eq!(slow.documents[SLICE]["endpoints"][0]["addresses"], json!(["10.0.1.20"]));
    server.delete("DestinationRule", "shop", "web");
    assert_eq!(changes(&slow.push().await), (vec![], vec![RULE]));
}

/// Hardening C02.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_claims_to_have_everything_is_bounded_and_costs_nobody_else_anything() {
    let (server, controller) = cluster().await;
    let mut other = gateway(&server, &controller).await;
    let having = |count: usize| {
        let names =
            (0..count).map(|index| (format!("/Service/shop/made-up-{index}"), "1".to_owned()));
        Hello { known: names.collect(), ..hello(&server) }
    };
    // What it has and nobody knows of is taken from it.
    let mut proxy = connect(&controller, having(50_000)).await.expect("connect");
    assert_eq!(proxy.push().await.removed.len(), 50_000);
    let refused = match connect(&controller, having(1_000_000)).await {
        Ok(mut proxy) => proxy.next().await.map(|_push| ()),
        Err(status) => Err(status),
    };
    assert_eq!(refused.map_err(|status| status.code()), Err(Code::ResourceExhausted));
    server.apply([slice("10.0.0.2")]);
    assert_eq!(changes(&other.push().await), (vec![SLICE], vec![]));
    assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]));
}

/// Hardening C02.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_keep_no_proxy_out() {
    let (server, controller) = cluster().await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent
            .push(weir_tests::client::connect(controller.discovery_port()).await.expect("connect"));
    }
    let mut proxy = gateway(&server, &controller).await;
    server.apply([slice("10.0.0.2")]);
    assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]));
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_after_an_expired_watch_is_a_difference() {
    let (server, controller) = cluster().await;
    server.apply([virtual_service("second", "second.example.com")]);
    let mut proxy = gateway(&server, &controller).await;
    // Away from the API server, one is deleted, one is new, and the rest stays.
    server.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    server.delete("VirtualService", "shop", "second");
    server.apply([
        virtual_service("third", "third.example.com"),
        virtual_service("fourth", "4.example.com"),
    ]);
    server.apply((5..20).map(|n| virtual_service(&format!("v{n}"), &format!("{n}.example.com"))));
    server.expire();
    server.fail(None);
    let (mut changed, mut removed) = (Vec::new(), Vec::new());
    while changed.len() < 17 || removed.is_empty() {
        let push = proxy.push().await;
        changed.extend(push.changed);
        removed.extend(push.removed);
    }
    assert!(!changed.contains(&SHOP.to_owned()), "{changed:?}");
    assert_eq!(removed, ["networking.istio.io/VirtualService/shop/second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_after_a_failure_deletes_nothing() {
    let (server, controller) = cluster().await;
    let mut proxy = gateway(&server, &controller).await;
    server.hide("VirtualService", true);
    server.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
    controller.log_line("cannot be watched").await;
    server.expire();
    server.fail(None);
    controller.log_line("the list lacks much of what is known").await;
    server.apply([virtual_service("second", "second.example.com")]);
    let second = vec!["networking.istio.io/VirtualService/shop/second"];
    assert_eq!(changes(&proxy.push().await), (second, vec![]));
    assert!(proxy.versions.contains_key(SHOP));
    let metrics = controller.metrics().await;
    let kind = [("type", "VirtualService")];
    assert_eq!(metrics.sum("weir_controller_doubted_lists_total", &kind), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_api_server_answers_instead_nothing_is_taken_from_anybody() {
    let (server, controller) = cluster().await;
    let mut proxy = gateway(&server, &controller).await;
    let failures = async || {
        let kind = [("type", "EndpointSlice")];
        controller.metrics().await.sum("weir_controller_watch_failures_total", &kind)
    };
    for (number, failure) in [401, 403, 429, 500, 503, 504].into_iter().enumerate() {
        let before = failures().await;
        server.fail(Some(StatusCode::from_u16(failure).unwrap()));
        eventually(&format!("{failure} is met"), async || {
            (failures().await > before).then_some(())
        })
        .await;
        assert_eq!(controller.page("/ready").await.status, 200, "{failure}");
        server.apply([slice(&format!("10.0.1.{number}"))]);
        server.fail(None);
        assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]), "{failure}");
    }
    // An event that comes twice is none.
    server.repeat("EndpointSlice");
    server.apply([virtual_service("second", "second.example.com")]);
    let second = vec!["networking.istio.io/VirtualService/shop/second"];
    assert_eq!(changes(&proxy.push().await), (second, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_servers_authority_can_be_replaced_while_the_controller_runs() {
    let [first, second] = ["first", "second"].map(Authority::new);
    let server = ApiServer::start_tls(&first).await;
    server.apply(shop());
    let controller = Controller::start(&server).await;
    let mut proxy = gateway(&server, &controller).await;
    server.rotate(&second);
    server.apply([slice("10.0.0.2")]);
    eventually("the controller notices", async || {
        (controller.metrics().await.sum("weir_controller_watch_failures_total", &[]) >= 1.0)
            .then_some(())
    })
    .await;
    server.publish(&second);
    assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_older_than_what_was_seen_is_not_believed() {
    let (server, controller) = cluster().await;
    let mut proxy = gateway(&server, &controller).await;
    server.lag();
    server.apply([slice("10.0.0.9")]);
    server.delete("DestinationRule", "shop", "web");
    let mut seen = 0;
    while seen < 2 {
        let push = proxy.push().await;
        seen += push.changed.len() + push.removed.len();
    }
    let endpoint = |proxy: &Proxy| proxy.documents[SLICE]["endpoints"][0]["addresses"][0].clone();
    assert_eq!(endpoint(&proxy), "10.0.0.9");
    server.expire();
    controller.log_line("was seen already").await;
    server.apply([virtual_service("second", "second.example.com")]);
    server.catch_up();
    // The old list would bring back the rule and the old endpoint before this.
    let second = vec!["networking.istio.io/VirtualService/shop/second"];
    assert_eq!(changes(&proxy.push().await), (second, vec![]));
    assert_eq!(endpoint(&proxy), "10.0.0.9");
    assert!(!proxy.versions.contains_key(RULE));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_brings_out_a_panic_costs_nobody_else_anything() {
    const BUG: &str = "brings-out-a-bug";
    let server = ApiServer::start().await;
    server.apply(shop());
    let controller = Controller::start_panicking_over(&server, BUG).await;
    let mut proxy = gateway(&server, &controller).await;
    server.apply([virtual_service("shop", &format!("{BUG}.example.com"))]);
    let accepted = eventually("its status says so", async || {
        let found = server.find("VirtualService", "shop", "shop")?;
        let condition = found["status"]["conditions"].get(0)?.clone();
        (condition["status"] == "False").then_some(condition)
    })
    .await;
    assert!(accepted["message"].as_str().unwrap_or_default().contains("a bug"), "{accepted}");
    assert!(controller.metrics().await.sum("weir_controller_panics_total", &[]) >= 1.0);
    assert_eq!(controller.page("/ready").await.status, 200);

    server.apply([slice("10.0.0.8")]);
    assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]), "the last good version stays");
    server.apply([virtual_service("shop", "right.example.com")]);
    assert_eq!(changes(&proxy.push().await), (vec![SHOP], vec![]));
    // Who connects now gets all the same.
    let mut other = connect(&controller, hello(&server)).await.expect("connect");
    assert_eq!(other.push().await.changed.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_proxies_keep_what_they_have() {
    let (server, controller) = cluster().await;
    let mut proxy = gateway(&server, &controller).await;
    server.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
    controller.log_line("cannot be watched").await;
    assert_eq!(controller.page("/ready").await.status, 200);
    // Tokens and permissions that were looked up before are still good.
    let mut second = connect(&controller, hello(&server)).await.expect("connect");
    assert_eq!(second.push().await.changed.len(), 7);
    server.apply([slice("10.0.0.5")]);
    server.fail(None);
    assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_lists_are_complete_nobody_is_served() {
    let server = ApiServer::start().await;
    server.apply(shop());
    server.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
    let mut controller = Controller::spawn(&server);
    controller.log_line("cannot be watched").await;
    let page = controller.page("/ready").await;
    assert_eq!(page.status, 503);
    assert!(page.text().contains("VirtualService"), "{}", page.text());
    server.let_read_secrets("ingress", "gateway");
    let early = tokio::spawn({
        let tls = controller.authority().client_config(None, &["h2"]);
        let (port, hello) = (controller.discovery_port(), hello(&server));
        async move {
            let mut proxy = Proxy::connect(port, &tls, hello).await.expect("connect");
            proxy.push().await
        }
    });
    server.fail(None);
    controller.ready().await;
    assert_eq!(early.await.expect("a push").changed.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_that_are_not_installed_are_waited_for_in_silence() {
    let server = ApiServer::start().await;
    server.apply(shop());
    server.uninstall("DestinationRule");
    let controller = Controller::start(&server).await;
    let mut proxy = gateway(&server, &controller).await;
    assert!(!proxy.versions.contains_key(RULE));
    assert!(!controller.log().contains("WARN"), "{}", controller.log());
    server.install("DestinationRule");
    assert_eq!(changes(&proxy.push().await), (vec![RULE], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_come_in_pages() {
    let server = ApiServer::start().await;
    server.apply(shop());
    server.apply((0..1200).map(|n| virtual_service(&format!("v{n}"), &format!("{n}.example.com"))));
    let controller = Controller::start(&server).await;
    let proxy = gateway(&server, &controller).await;
    let routes = proxy.versions.keys().filter(|name| name.contains("/VirtualService/"));
    assert_eq!(routes.count(), 1201);
    let requests = server.requests();
    let pages = requests
        .iter()
        .filter(|request| request.contains("virtualservices?") && request.contains("limit=500"));
    assert_eq!(pages.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mesh_configuration_is_the_config_maps() {
    let (server, controller) = cluster().await;
    let mut proxy = gateway(&server, &controller).await;
    let config_map = |mesh: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"mesh": mesh},
            "metadata": {"name": "istio", "namespace": "weir-system"}})
    };
    server.apply([config_map("accessLogFile: /dev/stdout")]);
    assert_eq!(changes(&proxy.push().await), (vec!["mesh"], vec![]));
    let expected = json!({"accessLogFile": "/dev/stdout", "rootNamespace": "weir-system"});
    assert_eq!(proxy.documents["mesh"], expected);
    server.apply([config_map("accessLogFile: [")]);
    controller.log_line("the last good one stays").await;
    server.apply([slice("10.0.0.6")]);
    assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_namespaces_that_the_mesh_configuration_selects_count() {
    let server = ApiServer::start().await;
    let namespace = |name: &str, labels: Value| {
        json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": labels}})
    };
    server.apply(shop());
    let selects = "discoverySelectors: [{matchLabels: {mesh: yes-please}}, \
                   {matchExpressions: [{key: kind, operator: In, values: [edge]}]}]";
    server.apply([
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"mesh": selects},
            "metadata": {"name": "istio", "namespace": "weir-system"}}),
        namespace("ingress", json!({"kind": "edge"})),
        namespace("shop", json!({"mesh": "no"})),
    ]);
    let controller = Controller::start(&server).await;
    server.let_read_secrets("ingress", "gateway");
    let mut proxy = connect(&controller, hello(&server)).await.expect("connect");
    assert_eq!(sorted(&proxy.push().await.changed), [SECRET, "mesh", GATEWAY]);

    server.apply([namespace("shop", json!({"mesh": "yes-please"}))]);
    let all = vec![SERVICE, SLICE, RULE, SHOP];
    assert_eq!(changes(&proxy.push().await), (all.clone(), vec![]));
    server.apply([namespace("shop", json!({}))]);
    assert_eq!(changes(&proxy.push().await), (vec![], all));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_read_keeps_its_last_good_version_everywhere() {
    let (server, controller) = cluster().await;
    let mut proxy = gateway(&server, &controller).await;
    let mut wrong = virtual_service("shop", "shop.example.com");
    wrong["spec"]["hosts"] = json!(7);
    server.apply([wrong]);
    controller.log_line("cannot be read; its last good version stays").await;
    server.apply([slice("10.0.0.7")]);
    assert_eq!(changes(&proxy.push().await), (vec![SLICE], vec![]));
    // A controller that never saw the good version does not take it from who has it.
    let known = proxy.versions.clone();
    drop(controller);
    let controller = Controller::start(&server).await;
    let mut again = connect(&controller, Hello { known, ..hello(&server) }).await.expect("connect");
    assert!(!again.push().await.removed.contains(&SHOP.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_ended_when_the_controller_is_told_to_end() {
    let (server, mut controller) = cluster().await;
    let mut proxy = gateway(&server, &controller).await;
    controller.ask_to_end().await;
    let end = proxy.next().await.expect_err("the end of the stream");
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    assert!(controller.exited().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn connected_proxies_are_counted_and_shown() {
    let (server, controller) = cluster().await;
    let proxy = gateway(&server, &controller).await;
    let count = async || controller.metrics().await.sum("pilot_xds", &[]);
    assert_eq!(count().await, 1.0);
    let shown = eventually("the push is acknowledged", async || {
        let page = controller.page("/debug/syncz").await;
        let proxies: Value = serde_json::from_str(page.text()).expect("JSON");
        (proxies[0]["sent"] == proxies[0]["acknowledged"]).then(|| proxies[0].clone())
    })
    .await;
    assert_eq!(shown["identity"], "ns/ingress/sa/gateway");
    let objects = controller.page("/debug/configz").await;
    assert!(objects.text().contains(SHOP));
    assert!(!objects.text().contains("a2V5"), "a key is shown");
    drop(proxy);
    eventually_eq(0.0, count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_serves_what_is_in_kubernetes_and_finds_versions_by_the_labels_of_pods() {
    let server = ApiServer::start().await;
    let backends = [Echo::start("v1").await, Echo::start("v2").await];
    for (index, (backend, version)) in backends.iter().zip(["v1", "v2"]).enumerate() {
        let pod = format!("web-{version}");
        server.apply([
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod, "namespace": "shop", "labels": {"version": version}}}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": format!("web-{index}"), "namespace": "shop",
                    "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": backend.port()}],
                "endpoints": [{"addresses": ["127.0.0.1"], "targetRef": {"kind": "Pod", "name": pod}}]}),
        ]);
    }
    let mut config = Config::new();
    let port = config.port("http");
    let subset = |version: &str| json!({"name": version, "labels": {"version": version}});
    let route = |version: &str| json!([{"destination": {"host": "web", "subset": version}}]);
    server.apply([
        json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": "public", "namespace": "default"},
            "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
                {"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}}),
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "shop", "namespace": "shop"},
            "spec": {"hosts": ["shop.example.com"], "gateways": ["default/public"], "http": [
                {"match": [{"uri": {"prefix": "/new"}}], "route": route("v2")},
                {"route": route("v1")}]}}),
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"host": "web", "subsets": [subset("v1"), subset("v2")]}}),
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80, "name": "http"}]}}),
    ]);
    let controller = Controller::start(&server).await;
    let token = server.token("istio-ca", "default", "gateway", None);
    let mut gateway = Launch::follows(config, &controller, &token).start().await;
    for _ in 0..4 {
        assert_eq!(gateway.get("shop.example.com", "/").await.backend(), "v1");
        assert_eq!(gateway.get("shop.example.com", "/new").await.backend(), "v2");
    }
    // The pod becomes another version: its traffic follows.
    server.apply([json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-v1", "namespace": "shop", "labels": {"version": "v2"}}})]);
    eventually_eq(503, async || gateway.get("shop.example.com", "/").await.status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_entry_has_the_pods_that_it_selects_while_they_are_ready() {
    let server = ApiServer::start().await;
    let echoes = [Echo::start("a").await, Echo::start("b").await];
    let pod = |name: &str, namespace: &str, echo: &Echo, is_ready: bool| {
        let ready = if is_ready { "True" } else { "False" };
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": "ledger"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "ledger", "containers": [
                {"name": "app", "ports": [{"name": "http", "containerPort": echo.port()}]}]},
            "status": {"phase": "Running", "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": ready}]}})
    };
    let mut config = Config::new();
    let port = config.port("http");
    let entry = |app: &str| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "ledger", "namespace": "shop"},
            "spec": {"hosts": ["ledger.test"], "location": "MESH_INTERNAL", "resolution": "STATIC",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "workloadSelector": {"labels": {"app": app}}}})
    };
    server.apply([
        json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": "public", "namespace": "default"},
            "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
                {"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}}),
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "shop", "namespace": "shop"},
            "spec": {"hosts": ["shop.example.com"], "gateways": ["default/public"],
                "http": [{"route": [{"destination": {"host": "ledger.test"}}]}]}}),
        entry("ledger"),
        pod("ledger-1", "shop", &echoes[0], true),
        pod("ledger-1", "elsewhere", &echoes[1], true),
    ]);
    let controller = Controller::start(&server).await;
    let token = server.token("istio-ca", "default", "gateway", None);
    let mut gateway = Launch::follows(config, &controller, &token).start().await;
    for _ in 0..10 {
        assert_eq!(gateway.get("shop.example.com", "/").await.backend(), "a");
    }
    server.apply([pod("ledger-2", "shop", &echoes[1], true)]);
    let answers = |name: &'static str| {
        move |reply: weir_tests::client::http::Reply| (reply.backend() == name).then_some(())
    };
    let second = answers("b");
    eventually("the second pod answers", async || {
        second(gateway.get("shop.example.com", "/").await)
    })
    .await;
    server.apply([pod("ledger-1", "shop", &echoes[0], false)]);
    server.delete("Pod", "shop", "ledger-2");
    let status = async |gateway: &mut weir_tests::gateway::Gateway| {
        gateway.get("shop.example.com", "/").await.status
    };
    eventually_eq(503, async || status(&mut gateway).await).await;
    server.apply([pod("ledger-1", "shop", &echoes[0], true)]);
    eventually_eq(200, async || status(&mut gateway).await).await;
    server.apply([entry("other")]);
    eventually_eq(503, async || status(&mut gateway).await).await;
}
