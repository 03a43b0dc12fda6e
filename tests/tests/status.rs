//! What the controller writes into the status of objects, and which replica does.

use std::time::Duration;

use serde_json::{Value, json};
use weir_tests::{
    client::discovery::{Hello, Proxy},
    controller::Controller,
    eventually::{eventually, eventually_eq, eventually_within},
    kube::ApiServer,
};

fn gateway() -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "public", "namespace": "ingress", "generation": 1},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
            {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}})
}

fn virtual_service(generation: u64, spec: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "shop", "namespace": "shop", "generation": generation},
        "spec": spec, "status": {"addresses": "someone else's"}})
}

fn good() -> Value {
    json!({"hosts": ["a.com"], "gateways": ["ingress/public"],
        "http": [{"route": [{"destination": {"host": "web"}}]}]})
}

/// The conditions of the VirtualService for this generation: type, status, reason.
async fn conditions(server: &ApiServer, generation: u64) -> Vec<(String, String, String)> {
    eventually(&format!("a status of generation {generation}"), async || {
        let status = server.find("VirtualService", "shop", "shop")?["status"].clone();
        assert_eq!(status["addresses"], "someone else's");
        (status["observedGeneration"] == json!(generation)).then(|| shown(&status))
    })
    .await
}

fn shown(status: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().map(|c| (text(&c["type"]), text(&c["status"]), text(&c["reason"]))).collect()
}

fn condition(r#type: &str, status: &str, reason: &str) -> (String, String, String) {
    (r#type.to_owned(), status.to_owned(), reason.to_owned())
}

fn writes(server: &ApiServer) -> usize {
    server
        .requests()
        .iter()
        .filter(|request| request.starts_with("PATCH ") && request.contains("/status"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_says_whether_it_is_accepted_and_what_is_wrong() {
    let server = ApiServer::start().await;
    server.apply([virtual_service(1, good())]);
    let _controller = Controller::start(&server).await;
    assert_eq!(conditions(&server, 1).await, [condition("Accepted", "True", "Accepted")]);

    let mut wrong = good();
    wrong["http"][0]["timeout"] = json!("1");
    server.apply([virtual_service(2, wrong)]);
    assert_eq!(conditions(&server, 2).await, [condition("Accepted", "False", "Invalid")]);
    let found = server.find("VirtualService", "shop", "shop").expect("the object");
    let message = found["status"]["conditions"][0]["message"].as_str().expect("a message");
    assert!(message.contains("spec.http[0].timeout"), "{message}");

    server.apply([virtual_service(3, json!({"hosts": 7}))]);
    assert_eq!(conditions(&server, 3).await, [condition("Accepted", "False", "Invalid")]);
    server.apply([virtual_service(4, good())]);
    assert_eq!(conditions(&server, 4).await, [condition("Accepted", "True", "Accepted")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_refuses_is_in_the_status_until_it_takes_it() {
    let server = ApiServer::start().await;
    server.apply([gateway(), virtual_service(1, good())]);
    let controller = Controller::start(&server).await;
    conditions(&server, 1).await;
    let hello = Hello {
        token: Some(server.token("istio-ca", "ingress", "gateway", None)),
        labels: vec![("istio", "ingressgateway")],
        ..Hello::default()
    };
    let tls = controller.authority().client_config(None, &["h2"]);
    let mut proxy =
        Proxy::connect(controller.discovery_port(), &tls, hello).await.expect("connect");
    let push = proxy.next().await.expect("a push");
    let name = "networking.istio.io/VirtualService/shop/shop";
    assert!(push.changed.contains(&name.to_owned()), "{push:?}");
    proxy.reject(&push, name, "no such thing");
    let status =
        async || server.find("VirtualService", "shop", "shop").map(|found| shown(&found["status"]));
    let accepted = condition("Accepted", "True", "Accepted");
    let refused = condition("Programmed", "False", "Rejected");
    eventually_eq(Some(vec![accepted.clone(), refused]), status).await;
    drop(proxy);
    eventually_eq(Some(vec![accepted]), status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_starts_writes_nothing_that_is_there() {
    let server = ApiServer::start().await;
    server.apply([gateway(), virtual_service(1, good())]);
    let mut first = Controller::start(&server).await;
    conditions(&server, 1).await;
    eventually_eq(2, async || writes(&server)).await;
    first.ask_to_end().await;
    first.exited().await;
    let second = Controller::start(&server).await;
    second.log_line("is_leader=true").await;
    // Whatever it would write of the old objects, it would write before this.
    server.apply([virtual_service(2, good())]);
    conditions(&server, 2).await;
    assert_eq!(writes(&server), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_writes_nothing_after_another_took_over() {
    let server = ApiServer::start().await;
    let first = Controller::start(&server).await;
    first.log_line("is_leader=true").await;
    let second = Controller::start(&server).await;
    server.apply([virtual_service(1, good())]);
    conditions(&server, 1).await;
    let wrote = async |controller: &Controller| {
        controller.metrics().await.sum("weir_controller_status_writes_total", &[])
    };
    eventually_eq(1.0, async || wrote(&first).await).await;

    first.pause().await;
    // The Lease has to run out.
    eventually_within(Duration::from_secs(90), "the other leads", async || {
        second.log().contains("is_leader=true").then_some(())
    })
    .await;
    // Nobody is there to write this but the second, until the first is back.
    server.apply([virtual_service(2, good())]);
    first.go_on().await;
    conditions(&server, 2).await;
    first.log_line("is_leader=false").await;
    eventually_eq(1.0, async || wrote(&second).await).await;
    assert_eq!(wrote(&first).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_not_applied_says_so() {
    let server = ApiServer::start().await;
    server.apply([json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"name": "patch", "namespace": "shop", "generation": 1},
        "spec": {"configPatches": []}})]);
    let _controller = Controller::start(&server).await;
    let refused = vec![condition("Accepted", "False", "NotApplied")];
    eventually_eq(Some(refused), async || {
        let found = server.find("EnvoyFilter", "shop", "patch")?;
        Some(shown(&found["status"]))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_writes_and_the_other_takes_over() {
    let server = ApiServer::start().await;
    let mut first = Controller::start(&server).await;
    first.log_line("is_leader=true").await;
    let second = Controller::start(&server).await;
    server.apply([virtual_service(1, good())]);
    conditions(&server, 1).await;
    let wrote = async |controller: &Controller| {
        controller.metrics().await.sum("weir_controller_status_writes_total", &[])
    };
    eventually_eq(1.0, async || wrote(&first).await).await;
    assert_eq!(wrote(&second).await, 0.0);

    first.ask_to_end().await;
    first.exited().await;
    second.log_line("is_leader=true").await;
    server.apply([virtual_service(2, good())]);
    conditions(&server, 2).await;
    eventually_eq(1.0, async || wrote(&second).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_service_for_hosts_of_another_namespace_says_that_it_does_not_count() {
    let server = ApiServer::start().await;
    let service = |grants: &str| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "vault", "namespace": "bank",
                "annotations": {"weir.dev/virtualServicesFrom": grants}},
            "spec": {"ports": [{"port": 80, "name": "http"}]}})
    };
    let entry = |namespace: &str| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "partner", "namespace": namespace},
            "spec": {"hosts": ["partner.test"], "resolution": "DNS",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}})
    };
    let mesh_config = |text: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "weir-system"}, "data": {"mesh": text}})
    };
    let rules = |host: &str| {
        let spec = json!({"hosts": [host], "http": [{"directResponse": {"status": 418}}]});
        virtual_service(1, spec)
    };
    let _controller = Controller::start(&server).await;
    let (refused, tolerated) = ("warning: spec.hosts: for clients of other namespaces", "ALLOW");
    let says = async |part: &'static str| {
        let wanted = format!("a status with {part:?}");
        eventually(&wanted, async || {
            let all = messages(&server, "VirtualService", "shop", "shop").await?;
            let is_so = if part.is_empty() { all.is_empty() } else { all.contains(part) };
            is_so.then_some(())
        })
        .await;
    };
    // A name of the cluster is its namespace's, with a Service or without; that one can grant it.
    server.apply([rules("vault.bank.svc.cluster.local")]);
    says(refused).await;
    server.apply([service("shop")]);
    says("").await;
    server.apply([service("another")]);
    says(refused).await;
    server.apply([mesh_config("hostTakeover: ALLOW")]);
    says(tolerated).await;
    server.apply([mesh_config("")]);
    says(refused).await;

    // A name of nobody is everybody's until somebody defines it.
    server.apply([rules("partner.test")]);
    says("").await;
    server.apply([entry("bank")]);
    says(refused).await;
    server.delete("ServiceEntry", "bank", "partner");
    says("").await;
    server.apply([rules("*.test"), entry("bank")]);
    says(refused).await;
    let conditions = conditions(&server, 1).await;
    assert_eq!(conditions, [condition("Accepted", "True", "Accepted")], "it is a warning");
}

/// The messages of an object's conditions.
async fn messages(server: &ApiServer, kind: &str, namespace: &str, name: &str) -> Option<String> {
    let status = server.find(kind, namespace, name)?["status"].clone();
    let conditions = status["conditions"].as_array()?.iter();
    Some(conditions.filter_map(|it| it["message"].as_str()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_at_the_address_of_another_namespaces_pod_is_a_warning_and_proxies_are_told() {
    let server = ApiServer::start().await;
    let entry = |address: &str| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "e", "namespace": "shop", "generation": 1,
                "annotations": {"weir.dev/foreignAddresses": "1.1.1.1"}},
            "spec": {"hosts": ["web.shop.svc.cluster.local"], "resolution": "STATIC",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "endpoints": [{"address": address, "serviceAccount": "web"}]}})
    };
    let pod = |namespace: &str, name: &str, status: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
            "spec": {}, "status": status})
    };
    let bank = json!({"podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}, {"ip": "fd00::7"}],
        "hostIPs": [{"ip": "172.16.0.1"}], "phase": "Running"});
    server.apply([gateway(), virtual_service(1, good()), entry("fd00::7"), pod("bank", "p", bank)]);
    let controller = Controller::start(&server).await;
    let hello = Hello {
        token: Some(server.token("istio-ca", "ingress", "gateway", None)),
        labels: vec![("istio", "ingressgateway")],
        ..Hello::default()
    };
    let tls = controller.authority().client_config(None, &["h2"]);
    let mut proxy =
        Proxy::connect(controller.discovery_port(), &tls, hello).await.expect("connect");
    let name = "networking.istio.io/ServiceEntry/shop/e";
    let told = |proxy: &Proxy| proxy.documents[name]["metadata"]["annotations"].clone();
    proxy.push().await;
    assert_eq!(told(&proxy), json!({"weir.dev/foreignAddresses": "fd00::7"}));
    let warns = async |part: &str| {
        let all = messages(&server, "ServiceEntry", "shop", "e").await.unwrap_or_default();
        part.is_empty() && all.is_empty() || !part.is_empty() && all.contains(part)
    };
    let place = "warning: spec.endpoints[0].address: this endpoint is not used";
    eventually_eq(true, async || warns(place).await).await;

    // A node is nobody's; a pod that is over leaves its address to others.
    server.apply([entry("172.16.0.1")]);
    proxy.push().await;
    assert_eq!(told(&proxy), json!({"weir.dev/foreignAddresses": "172.16.0.1"}));
    server.apply([pod("bank", "p", json!({"podIP": "10.1.0.7", "phase": "Succeeded"}))]);
    proxy.push().await;
    assert_eq!(told(&proxy), Value::Null);
    eventually_eq(true, async || warns("").await).await;

    // So is every address of a node that Kubernetes knows, and a network with somebody's pod in it.
    let addresses = json!([{"type": "Hostname", "address": "n"},
        {"type": "ExternalIP", "address": "203.0.113.7"}]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "status": {"addresses": addresses}});
    server.apply([node, pod("bank", "q", json!({"podIP": "10.2.0.7", "phase": "Running"}))]);
    let mut network = entry("203.0.113.7");
    network["spec"]["addresses"] = json!(["10.2.0.0/16", "10.3.0.0/16"]);
    server.apply([network]);
    eventually_eq(json!({"weir.dev/foreignAddresses": "10.2.0.0/16,203.0.113.7"}), async || {
        proxy.push().await;
        told(&proxy)
    })
    .await;
    eventually_eq(true, async || warns("warning: spec.addresses[0]: clients of other").await).await;

    // Its own pods are a namespace's to name, and those in a node's network have no address to name.
    let on_node = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n", "namespace": "bank"},
        "spec": {"hostNetwork": true}, "status": {"podIP": "10.1.0.9", "phase": "Running"}});
    server.apply([pod("shop", "p", json!({"podIP": "10.1.0.8", "phase": "Running"})), on_node]);
    server.apply([entry("10.1.0.8")]);
    proxy.push().await;
    assert_eq!(told(&proxy), Value::Null);
    assert!(warns("").await);
}
