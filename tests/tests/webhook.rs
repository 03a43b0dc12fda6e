//! Admission, as the API server asks for it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use weir_tests::{
    client::http::{Connection, Reply, Request},
    controller::{Controller, NAME},
    eventually::eventually,
    kube::ApiServer,
};

/// As a chart installs it.
fn registration() -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "weir-controller-weir-system"},
        "webhooks": [{"name": "validation.weir.dev", "failurePolicy": "Ignore", "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "weir-controller", "namespace": "weir-system",
                "path": "/validate"}},
            "rules": [{"apiGroups": ["networking.istio.io"], "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE"], "resources": ["*"]}]}]})
}

/// The same of injection.
fn injection() -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "weir-controller-weir-system"},
        "webhooks": [{"name": "object.injection.weir.io", "failurePolicy": "Fail",
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "reinvocationPolicy": "IfNeeded",
            "clientConfig": {"service": {"name": "weir-controller", "namespace": "weir-system",
                "path": "/inject"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["pods"]}]}]})
}

fn node(name: &str, kubelet: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"nodeInfo": {"kubeletVersion": kubelet}}})
}

/// A controller that has registered itself, and how the API server trusts it from then on.
async fn registered() -> (ApiServer, Controller, ClientConfig) {
    let server = ApiServer::start().await;
    server.apply([registration()]);
    let controller = Controller::start(&server).await;
    let webhook = webhook(&server, "ValidatingWebhookConfiguration").await;
    assert_eq!(webhook["failurePolicy"], "Fail");
    assert_eq!(webhook["rules"], registration()["webhooks"][0]["rules"]);
    let tls = trust(&webhook);
    (server, controller, tls)
}

/// The same of one that injects with these settings, in a cluster of these nodes.
async fn injecting(settings: &str, nodes: &[&str]) -> (ApiServer, Controller, ClientConfig) {
    let server = ApiServer::start().await;
    let nodes = nodes.iter().enumerate();
    server.apply(nodes.map(|(number, version)| node(&format!("node-{number}"), version)));
    server.apply([registration(), injection()]);
    let controller = Controller::start_injecting(&server, settings).await;
    let webhook = webhook(&server, "MutatingWebhookConfiguration").await;
    assert_eq!(webhook["reinvocationPolicy"], "IfNeeded");
    let tls = trust(&webhook);
    (server, controller, tls)
}

/// A webhook, once it is registered.
async fn webhook(server: &ApiServer, kind: &str) -> Value {
    eventually("the webhook is registered", async || {
        let found = server.find(kind, "", "weir-controller-weir-system")?;
        found["webhooks"][0]["clientConfig"]["caBundle"]
            .is_string()
            .then(|| found["webhooks"][0].clone())
    })
    .await
}

/// How the API server trusts a webhook.
fn trust(webhook: &Value) -> ClientConfig {
    let bundle = webhook["clientConfig"]["caBundle"].as_str().expect("a bundle");
    let bundle = STANDARD.decode(bundle).expect("base64");
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&bundle) {
        roots.add(root.expect("PEM")).expect("a certificate");
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

async fn send(controller: &Controller, tls: &ClientConfig, request: &Request) -> Reply {
    let mut connection =
        Connection::tls(controller.webhook_port(), tls, NAME).await.expect("connect");
    connection.send(request).await.expect("an answer")
}

async fn review(controller: &Controller, tls: &ClientConfig, review: &Value) -> Value {
    post(controller, tls, "/validate?timeout=10s", review).await
}

async fn post(controller: &Controller, tls: &ClientConfig, path: &str, review: &Value) -> Value {
    let request = Request::post(NAME, path, review.to_string()).https();
    let reply = send(controller, tls, &request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_str(reply.text()).expect("JSON")
}

fn wrong_virtual_service(dry_run: bool) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5", "operation": "CREATE", "namespace": "shop", "dryRun": dry_run,
        "kind": {"group": "networking.istio.io", "version": "v1", "kind": "VirtualService"},
        "object": {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "v", "namespace": "shop"},
            "spec": {"hosts": ["a.com"], "gatways": [], "http": [
                {"timeout": "1", "route": [{"destination": {"host": "web"}}]},
                {"match": [{"uri": {"regex": "("}}], "route": [{"destination": {"host": "web"}}]}]}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_object_is_refused_with_every_error_and_warned_about() {
    let (_server, controller, tls) = registered().await;
    let answer = review(&controller, &tls, &wrong_virtual_service(false)).await;
    let response = &answer["response"];
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(response["uid"], "705ab4f5");
    assert_eq!(response["allowed"], false);
    let message = response["status"]["message"].as_str().expect("a message");
    for field in ["spec.http[0].timeout: ", "spec.gatways"] {
        let all = format!("{message} {}", response["warnings"]);
        assert!(all.contains(field), "{field} is not in {all}");
    }
    let kind = [("kind", "VirtualService")];
    assert_eq!(controller.metrics().await.sum("galley_validation_failed", &kind), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_judged_and_not_counted() {
    let (_server, controller, tls) = registered().await;
    let answer = review(&controller, &tls, &wrong_virtual_service(true)).await;
    assert_eq!(answer["response"]["allowed"], false);
    assert_eq!(controller.metrics().await.sum("galley_validation_failed", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_review_is_turned_away() {
    let (_server, controller, tls) = registered().await;
    let post = |path: &str, body: Vec<u8>| Request::post(NAME, path, body).https();
    let get = Request::get(NAME, "/validate").https();
    assert_eq!(send(&controller, &tls, &get).await.status, 405);
    assert_eq!(send(&controller, &tls, &post("/mutate", vec![])).await.status, 404);
    assert_eq!(send(&controller, &tls, &post("/validate", b"[".to_vec())).await.status, 400);
    let large = post("/validate", vec![b' '; 9 * 1024 * 1024]);
    assert_eq!(send(&controller, &tls, &large).await.status, 413);
}

fn review_of(spec: Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "operation": "CREATE", "namespace": "shop",
        "kind": {"group": "networking.istio.io", "version": "v1", "kind": "VirtualService"},
        "object": {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "v", "namespace": "shop"}, "spec": spec}}})
}

/// C11 C03: what a tenant can write to keep the webhook busy, or to bring it down.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_objects_are_refused_many_at_a_time_and_the_next_is_judged() {
    let (_server, controller, tls) = registered().await;
    let rule = json!({"route": [{"destination": {"host": "web"}}]});
    let with = |r#match: Value| {
        let mut rule = rule.clone();
        rule["match"] = json!([r#match]);
        json!({"hosts": ["a.com"], "http": [rule]})
    };
    let hostile = [
        ("a bomb of a regex", with(json!({"uri": {"regex": "((a{1000}){1000}){1000}"}}))),
        ("a regex of a megabyte", with(json!({"uri": {"regex": "a|".repeat(500_000)}}))),
        ("a host that is none", json!({"hosts": ["\u{202e}\0\n%s${x}"], "http": [rule]})),
    ];
    for (what, spec) in hostile {
        let answer = review(&controller, &tls, &review_of(spec)).await;
        assert_eq!(answer["response"]["allowed"], false, "{what}");
    }
    // As large as an object can be.
    let rules = vec![rule.clone(); 30_000];
    let large = review_of(json!({"hosts": ["a.com"], "http": rules}));
    assert_eq!(review(&controller, &tls, &large).await["response"]["allowed"], true);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = Request::post(NAME, "/validate", deep).https();
    assert_eq!(send(&controller, &tls, &nested).await.status, 400);

    let good = review_of(json!({"hosts": ["a.com"], "http": [rule]}));
    let bomb = review_of(with(json!({"uri": {"regex": "((a{1000}){1000}){1000}"}})));
    let all = (0..100).map(|number| {
        let (good, bomb, controller, tls) = (&good, &bomb, &controller, &tls);
        async move {
            let is_good = number % 2 == 0;
            let answer = review(controller, tls, if is_good { good } else { bomb }).await;
            assert_eq!(answer["response"]["allowed"], is_good);
        }
    });
    futures_util::future::join_all(all).await;
    assert_eq!(controller.metrics().await.sum("weir_controller_panics_total", &[]), 0.0);
}

/// Has a pod with these annotations injected.
async fn inject(controller: &Controller, tls: &ClientConfig, annotations: Value) -> Value {
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5", "operation": "CREATE", "namespace": "shop",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "object": {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"generateName": "web-", "annotations": annotations},
            "spec": {"containers": [{"name": "web", "image": "web"}]}}}});
    post(controller, tls, "/inject?timeout=10s", &review).await["response"].clone()
}

/// The names of the containers that a patch leaves in these lists.
fn containers(response: &Value, list: &str) -> Vec<String> {
    assert_eq!(response["patchType"], "JSONPatch", "{response}");
    let patch = STANDARD.decode(response["patch"].as_str().expect("a patch")).expect("base64");
    let patch: Value = serde_json::from_slice(&patch).expect("JSON");
    let path = format!("/spec/{list}");
    let operations = patch.as_array().expect("operations").iter();
    let lists = operations.filter(|operation| operation["path"] == path.as_str());
    let containers =
        lists.flat_map(|operation| operation["value"].as_array().cloned().expect("a list"));
    containers.map(|container| container["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_answered_with_a_patch_that_injects_it() {
    let (_server, controller, tls) = injecting("nativeSidecars: true", &[]).await;
    let response = inject(&controller, &tls, json!({})).await;
    assert_eq!(response["uid"], "705ab4f5");
    assert_eq!(response["allowed"], true);
    assert_eq!(containers(&response, "initContainers"), ["istio-init", "istio-proxy"]);
    let metrics = controller.metrics().await;
    assert_eq!(metrics.sum("sidecar_injection_requests_total", &[]), 1.0);
    assert_eq!(metrics.sum("sidecar_injection_success_total", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_not_to_be_injected_stays_as_it_is() {
    let (_server, controller, tls) = injecting("{}", &[]).await;
    let response = inject(&controller, &tls, json!({"sidecar.istio.io/inject": "false"})).await;
    assert_eq!(response, json!({"uid": "705ab4f5", "allowed": true}));
    let metrics = controller.metrics().await;
    assert_eq!(metrics.sum("sidecar_injection_skip_total", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_be_injected_is_refused_with_the_reason() {
    let (_server, controller, tls) = injecting("{}", &[]).await;
    let ports = json!({"traffic.sidecar.istio.io/excludeInboundPorts": "http"});
    let response = inject(&controller, &tls, ports).await;
    assert_eq!(response["allowed"], false);
    assert_eq!(
        response["status"]["message"],
        "the pod cannot be injected: metadata.annotations[traffic.sidecar.istio.io/\
         excludeInboundPorts]: \"http\" is not a port from 1 to 65535"
    );
    let metrics = controller.metrics().await;
    assert_eq!(metrics.sum("sidecar_injection_failure_total", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_are_native_where_every_node_can_run_them() {
    let (_server, controller, tls) = injecting("{}", &["v1.36.3", "v1.33.0+k3s1"]).await;
    eventually("sidecars are native", async || {
        let response = inject(&controller, &tls, json!({})).await;
        (containers(&response, "initContainers") == ["istio-init", "istio-proxy"]).then_some(())
    })
    .await;
    let (_server, controller, tls) = injecting("{}", &["v1.36.3", "v1.32.9"]).await;
    let response = inject(&controller, &tls, json!({})).await;
    assert_eq!(containers(&response, "initContainers"), ["istio-init"]);
    assert_eq!(containers(&response, "containers"), ["web", "istio-proxy"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_injection_are_taken_over_unless_they_have_no_meaning() {
    let (_server, controller, tls) = injecting("autoInject: true", &[]).await;
    let is_injected = async || inject(&controller, &tls, json!({})).await["patch"].is_string();
    assert!(is_injected().await);
    controller.write_injection("autoInjct: false");
    assert!(is_injected().await, "the last settings that have a meaning stay");
    controller.write_injection("autoInject: false");
    assert!(!is_injected().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_settings_nothing_is_injected() {
    let (_server, controller, tls) = registered().await;
    let request = Request::post(NAME, "/inject", vec![]).https();
    assert_eq!(send(&controller, &tls, &request).await.status, 404);
}

/// Hardening C03.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_no_object_fits_is_refused_before_it_is_read() {
    let (_server, controller, mut tls) = registered().await;
    for protocol in ["http/1.1", "h2"] {
        tls.alpn_protocols = vec![protocol.into()];
        for is_sized in [true, false] {
            let large = Request::post_pattern(NAME, "/validate", 9 * 1024 * 1024, is_sized).https();
            let reply = send(&controller, &tls, &large).await;
            assert_eq!(reply.status, 413, "{protocol} {is_sized}: {}", reply.text());
        }
    }
    // The largest object the API server takes is judged.
    let mut largest = wrong_virtual_service(false);
    largest["request"]["object"]["spec"]["large"] = json!("x".repeat(3 * 1024 * 1024));
    let started = std::time::Instant::now();
    let answer = review(&controller, &tls, &largest).await;
    assert_eq!(answer["response"]["allowed"], false);
    println!("an object of 3 MiB was judged in {:?}", started.elapsed());
}

/// Hardening C03.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_brings_out_a_panic_costs_its_own_request_only() {
    let server = ApiServer::start().await;
    server.apply([registration()]);
    let controller = Controller::start_panicking_over(&server, "bring-it-out").await;
    let mut tls = trust(&webhook(&server, "ValidatingWebhookConfiguration").await);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let rule = json!({"route": [{"destination": {"host": "web"}}]});
    let hostile = review_of(json!({"hosts": ["bring-it-out.test"], "http": [rule]}));
    let request = |review: &Value| Request::post(NAME, "/validate", review.to_string()).https();
    // Others are judged on the same connection at the same time, and after it.
    let mut connection =
        Connection::tls(controller.webhook_port(), &tls, NAME).await.expect("connect");
    let (hostile, other) = (request(&hostile), request(&wrong_virtual_service(false)));
    for _ in 0..20 {
        let mut shared = connection.share();
        let (failed, judged) = tokio::join!(connection.send(&hostile), shared.send(&other));
        assert_eq!(failed.expect("an answer").status, 500);
        let judged: Value = serde_json::from_str(judged.expect("an answer").text()).expect("JSON");
        assert_eq!(judged["response"]["status"]["code"], 422);
    }
    let metrics = controller.metrics().await;
    assert_eq!(metrics.sum("weir_controller_panics_total", &[]), 20.0);
    assert_eq!(metrics.sum("galley_validation_failed", &[]), 20.0);
    controller.log_line("a review failed; this is a bug").await;
}
