//! Admission, as the API server asks for it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{ClientConfig, RootCertStore, pki_types::{CertificateDer, pem::PemObject as _}};
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

/// A controller that has registered itself, and how the API server trusts it from then on.
async fn registered() -> (ApiServer, Controller, ClientConfig) {
    let server = ApiServer::start().await;
    server.apply([registration()]);
    let controller = Controller::start(&server).await;
    let webhook = eventually("the webhook is registered", async || {
        let kind = "ValidatingWebhookConfiguration";
        let found = server.find(kind, "", "weir-controller-weir-system")?;
        found["webhooks"][0]["clientConfig"]["caBundle"].is_string().then(|| found["webhooks"][0].clone())
    })
    .await;
    assert_eq!(webhook["failurePolicy"], "Fail");
    assert_eq!(webhook["rules"], registration()["webhooks"][0]["rules"]);
    let bundle = webhook["clientConfig"]["caBundle"].as_str().expect("a bundle");
    let bundle = STANDARD.decode(bundle).expect("base64");
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&bundle) {
        roots.add(root.expect("PEM")).expect("a certificate");
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let tls = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, controller, tls)
}

async fn send(controller: &Controller, tls: &ClientConfig, request: &Request) -> Reply {
    let mut connection =
        Connection::tls(controller.webhook_port(), tls, NAME).await.expect("connect");
    connection.send(request).await.expect("an answer")
}

async fn review(controller: &Controller, tls: &ClientConfig, review: &Value) -> Value {
    let request = Request::post(NAME, "/validate?timeout=10s", review.to_string()).https();
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
