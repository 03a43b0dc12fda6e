//! The charts installed into a real cluster, and used as a user does: through `kubectl apply` and the
//! address of the gateway's load balancer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{fs, sync::Arc};

use serde_json::json;
use weir_tests::{
    certs::Authority,
    client::{curl::curl, http::Request},
    cluster::{
        Cluster,
        shop::{PUBLIC, TO_WEB, ask, served, status, tls_gateway, virtual_service},
        weir::{INGRESS, INGRESS_GATEWAY, SYSTEM},
    },
    eventually::eventually,
};

weir_tests::cluster_suite! {
    nodes: 1;
    the_charts_install_under_pod_securitys_restricted_level,
    a_virtual_service_is_served_through_the_load_balancer,
    traffic_moves_to_another_version_without_a_failure,
    a_certificate_is_served_from_a_secret_and_its_successor_after_it,
    a_wrong_object_is_refused_when_it_is_written,
    what_became_of_an_object_is_in_its_status,
    what_others_write_into_a_status_stays,
}

async fn the_charts_install_under_pod_securitys_restricted_level(cluster: Arc<Cluster>) {
    cluster.installed().await;
    for (namespace, deployment) in [(SYSTEM, "weir-controller"), (INGRESS, INGRESS_GATEWAY)] {
        let path = "jsonpath={.status.readyReplicas}";
        let ready = ["get", "deployment", deployment, "--output", path];
        assert_eq!(cluster.existing(namespace).kubectl(&ready).await, "1");
    }
}

async fn a_virtual_service_is_served_through_the_load_balancer(cluster: Arc<Cluster>) {
    let shop = cluster.shop("shop", &["v1"]).await;
    let http = "[{ match: [{ uri: { prefix: /shop } }], route: [{ destination: { host: web } }] }]";
    shop.apply(&virtual_service("shop.test", PUBLIC, http)).await;
    let gateway = cluster.ingress(80).await;
    let request = Request::get("shop.test", "/shop/1");
    let reply = eventually("shop.test is served", async || {
        ask(gateway, &request).await.ok().filter(|reply| reply.status == 200)
    })
    .await;
    let received = reply.echo();
    assert_eq!((received.backend.as_str(), received.target.as_str()), ("v1", "/shop/1"));
    assert!(received.header("x-forwarded-for").is_some());
    assert_eq!(status(gateway, "shop.test").await, Some(404));
    assert_eq!(ask(gateway, &Request::get("other.test", "/shop/1")).await.unwrap().status, 404);
}

async fn traffic_moves_to_another_version_without_a_failure(cluster: Arc<Cluster>) {
    let shop = cluster.divided_shop("canary").await;
    shop.apply(&virtual_service("canary.test", PUBLIC, &split(100))).await;
    let gateway = cluster.ingress(80).await;
    assert_eq!(served(gateway, "canary.test").await.backend(), "v1");
    shop.apply(&virtual_service("canary.test", PUBLIC, &split(0))).await;
    let request = Request::get("canary.test", "/");
    eventually("version 2 answers", async || {
        let reply = ask(gateway, &request).await.unwrap();
        assert_eq!(reply.status, 200);
        (reply.backend() == "v2").then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(ask(gateway, &request).await.unwrap().backend(), "v2");
    }
}

/// So much of a hundred to version 1, the rest to version 2.
fn split(to_v1: u32) -> String {
    let to = |subset: &str, weight: u32| {
        format!("{{ destination: {{ host: web, subset: {subset} }}, weight: {weight} }}")
    };
    format!("[{{ route: [{}, {}] }}]", to("v1", to_v1), to("v2", 100 - to_v1))
}

async fn a_certificate_is_served_from_a_secret_and_its_successor_after_it(cluster: Arc<Cluster>) {
    let shop = cluster.shop("tls", &["v1"]).await;
    let ingress = cluster.existing(INGRESS);
    ingress.apply(&tls_gateway("secure", "secure.test", "secure")).await;
    shop.apply(&virtual_service("secure.test", &format!("{INGRESS}/secure"), TO_WEB)).await;
    let gateway = cluster.ingress(443).await;
    for common_name in ["first", "second"] {
        let authority = Authority::new(common_name);
        let server = authority.server(&["secure.test"]);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "secure"},
            "stringData": {"tls.crt": server.certificate, "tls.key": server.key}});
        ingress.apply(&secret.to_string()).await;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root.pem");
        fs::write(&root, authority.root()).unwrap();
        let root = root.to_str().unwrap();
        let resolve = format!("secure.test:443:{}", gateway.ip());
        let arguments = ["--cacert", root, "--resolve", &resolve, "https://secure.test/asked"];
        eventually(&format!("the certificate of {common_name}"), async || {
            let answer = curl(&arguments).await;
            (answer.exit.success() && answer.status == 200).then_some(())
        })
        .await;
    }
}

async fn a_wrong_object_is_refused_when_it_is_written(cluster: Arc<Cluster>) {
    cluster.installed().await;
    cluster.asked_first().await;
    let test = cluster.namespace("wrong").await;
    let wrong = "[{ timeout: soon, redirect: { uri: / } }]";
    let output = test.try_apply(&virtual_service("wrong.test", PUBLIC, wrong)).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("spec.http[0].timeout"), "{told}");
    let none = test.kubectl(&["get", "virtualservices", "--output", "name"]).await;
    assert_eq!(none, "");
}

async fn what_became_of_an_object_is_in_its_status(cluster: Arc<Cluster>) {
    let shop = cluster.shop("status", &["v1"]).await;
    shop.apply(&virtual_service("status.test", PUBLIC, TO_WEB)).await;
    eventually("the object is accepted", async || {
        let object = shop.get("virtualservice/web").await;
        let conditions = object["status"]["conditions"].as_array()?;
        let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted")?;
        assert_eq!(accepted["status"], "True", "{accepted}");
        Some(())
    })
    .await;
}

async fn what_others_write_into_a_status_stays(cluster: Arc<Cluster>) {
    cluster.installed().await;
    let test = cluster.namespace("foreign").await;
    test.apply(&virtual_service("foreign.test", PUBLIC, TO_WEB)).await;
    let status = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "web"}, "status": {"theirs": 1, "conditions": [
            {"type": "Watched", "status": "True", "reason": "Theirs", "message": "",
             "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let apply = ["--namespace", test.name(), "apply", "--server-side", "--force-conflicts"];
    let theirs = ["--subresource=status", "--field-manager=others", "--filename=-"];
    let output = cluster.try_kubectl(&[&apply[..], &theirs].concat(), &status.to_string()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Whatever was written before, this is written after.
    let second = "[{ directResponse: { status: 204 } }]";
    test.apply(&virtual_service("foreign.test", PUBLIC, second)).await;
    let object = eventually("the second generation is accepted", async || {
        let object = test.get("virtualservice/web").await;
        (object["status"]["observedGeneration"] == 2).then_some(object)
    })
    .await;
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let types: Vec<_> = conditions.iter().filter_map(|it| it["type"].as_str()).collect();
    assert!(types.contains(&"Accepted") && types.contains(&"Watched"), "{types:?}");
    assert_eq!(object["status"]["theirs"], 1);
}
