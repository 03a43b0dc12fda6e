//! `weirctl` in a real cluster: what it says of configuration, the controller and a gateway there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{path::Path, sync::Arc};

use tokio::sync::{OnceCell, RwLock};
use weir_tests::{
    cluster::{
        Cluster, Namespace, app,
        weir::{INGRESS, INGRESS_GATEWAY, SYSTEM},
    },
    eventually::{eventually, eventually_eq},
    weirctl::{Outcome, weirctl},
};

weir_tests::cluster_suite! {
    nodes: 1;
    a_gateway_that_has_everything_is_synced,
    the_versions_of_all_parts_are_told,
    a_route_is_seen_in_the_gateway_that_serves_it,
    a_proxy_is_named_with_or_without_its_namespace,
    the_log_level_of_a_gateway_is_changed,
    what_is_missing_in_the_cluster_is_found,
    a_pod_that_is_not_there_is_told,
    no_controller_is_told_with_where_it_was_looked_for,
    a_controller_that_cannot_be_asked_is_named_and_the_proxies_of_the_others_are_shown,
}

/// Held by the test that adds a controller, and by those that count them.
static CONTROLLERS: RwLock<()> = RwLock::const_new(());

const DEPLOYMENT: &str = "deployment/istio-ingressgateway.istio-ingress";

/// The installation all tests share.
async fn installed(cluster: &Cluster) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED
        .get_or_init(async || {
            cluster.load_app().await;
            cluster.install_weir().await;
        })
        .await;
}

/// `weirctl` as the administrator.
async fn run(cluster: &Cluster, args: &[&str]) -> Outcome {
    let kubeconfig = cluster.kubeconfig().to_str().unwrap();
    weirctl(Path::new("/"), &[args, &["--kubeconfig", kubeconfig]].concat(), "").await
}

/// The same; it has to succeed.
async fn told(cluster: &Cluster, args: &[&str]) -> Outcome {
    let outcome = run(cluster, args).await;
    assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.transcript());
    outcome
}

/// The gateway's pod.
async fn pod(cluster: &Cluster) -> String {
    let pods = cluster.existing(INGRESS).pods(INGRESS_GATEWAY).await;
    let [pod] = &pods[..] else { panic!("one gateway runs: {pods:?}") };
    pod.clone()
}

/// A namespace with the application, and a Gateway and a route to it.
async fn shop<'c>(cluster: &'c Cluster, name: &str) -> Namespace<'c> {
    installed(cluster).await;
    let shop = cluster.namespace(name).await;
    shop.apply(&app::manifest("web", "v1", 1)).await;
    let yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: edge }}\nspec:\n  \
         selector: {{ istio: ingressgateway }}\n  servers:\n  \
         - {{ port: {{ number: 80, name: http, protocol: HTTP }}, hosts: ['{name}.test'] }}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: web }}\nspec:\n  \
         hosts: ['{name}.test']\n  gateways: [edge]\n  http:\n  \
         - match: [{{ uri: {{ prefix: /api }} }}]\n    route: [{{ destination: {{ host: web }} }}]\n"
    );
    eventually("the webhook lets a Gateway and a route pass", async || {
        shop.try_apply(&yaml).await.status.success().then_some(())
    })
    .await;
    shop
}

async fn a_gateway_that_has_everything_is_synced(cluster: Arc<Cluster>) {
    let _controllers = CONTROLLERS.read().await;
    installed(&cluster).await;
    let name = format!("{}.{INGRESS}", pod(&cluster).await);
    let controllers = cluster.existing(SYSTEM).pods("weir-controller").await;
    let expected = owned(vec![vec![&name, "Kubernetes", "SYNCED", &controllers[0], "0.0.0"]]);
    eventually_eq(expected, async || {
        let table = run(&cluster, &["proxy-status"]).await;
        owned(table.rows())
    })
    .await;
    let one = told(&cluster, &["ps", &name, "-o", "json"]).await.json();
    assert_eq!(one[0]["proxy"], name);
    assert_eq!(one[0]["rejected"], serde_json::json!({}));
}

fn owned(rows: Vec<Vec<&str>>) -> Vec<Vec<String>> {
    rows.into_iter().map(|row| row.into_iter().map(String::from).collect()).collect()
}

async fn the_versions_of_all_parts_are_told(cluster: Arc<Cluster>) {
    let _controllers = CONTROLLERS.read().await;
    installed(&cluster).await;
    let controllers = cluster.existing(SYSTEM).pods("weir-controller").await;
    let expected = format!(
        "client version: 0.0.0\ncontrol plane version: 0.0.0 ({}.{SYSTEM})\n\
         data plane version: 0.0.0 (1 proxy)\n",
        controllers[0]
    );
    eventually_eq(expected, async || run(&cluster, &["version"]).await.stdout).await;
}

async fn a_route_is_seen_in_the_gateway_that_serves_it(cluster: Arc<Cluster>) {
    let shop = shop(&cluster, "seen").await;
    let name = shop.name();
    let upstream = format!("outbound|80||web.{name}.svc.cluster.local");
    let rows = async |args: &[&str], of: &str| {
        let mut rows = owned(told(&cluster, args).await.rows());
        rows.retain(|row| row.iter().any(|cell| cell.contains(of)));
        rows
    };
    let host = format!("{name}.test");
    let (virtual_host, origin) = (format!("http.80|{host}"), format!("web.{name}"));
    let expected = owned(vec![vec!["http.80", &virtual_host, &host, "/api*", &origin, &upstream]]);
    let routes = ["proxy-config", "route", DEPLOYMENT, "--name", "http.80"];
    eventually_eq(expected, async || rows(&routes, &host).await).await;
    shop.rolled_out("web-v1").await;
    eventually("the endpoint is in the gateway", async || {
        let endpoints = ["pc", "endpoint", DEPLOYMENT, "--cluster", &upstream];
        let rows = rows(&endpoints, &upstream).await;
        (rows.len() == 1 && rows[0][1] == "HEALTHY").then_some(())
    })
    .await;
    let fqdn = format!("web.{name}.svc.cluster.local");
    let clusters = rows(&["pc", "cluster", DEPLOYMENT, "--fqdn", &fqdn], &fqdn).await;
    assert_eq!(clusters[0][..4], [&fqdn, "80", "-", "outbound"]);
    let listeners = rows(&["pc", "listener", DEPLOYMENT, "--port", "80"], "http.80").await;
    assert_eq!(listeners[0], ["0.0.0.0", "80", "ALL", "Route: http.80"]);
}

async fn a_proxy_is_named_with_or_without_its_namespace(cluster: Arc<Cluster>) {
    installed(&cluster).await;
    let pod = pod(&cluster).await;
    let with = format!("{pod}.{INGRESS}");
    let in_namespace = ["pc", "bootstrap", &pod, "-n", INGRESS];
    for args in [&["pc", "bootstrap", &with][..], &in_namespace] {
        let bootstrap = told(&cluster, args).await.json();
        let labels = &bootstrap["commandLineOptions"]["labels"];
        assert_eq!(labels["istio"], "ingressgateway", "{args:?}: {bootstrap}");
    }
}

async fn the_log_level_of_a_gateway_is_changed(cluster: Arc<Cluster>) {
    installed(&cluster).await;
    let log = ["pc", "log", DEPLOYMENT];
    let first = told(&cluster, &log).await.stdout;
    let changed = told(&cluster, &[&log[..], &["--level", "error"]].concat()).await;
    assert_eq!(changed.stdout, "error\n");
    assert_eq!(told(&cluster, &log).await.stdout, "error\n");
    let reset = told(&cluster, &[&log[..], &["--reset"]].concat()).await;
    assert_eq!(reset.stdout, first);
}

async fn what_is_missing_in_the_cluster_is_found(cluster: Arc<Cluster>) {
    let shop = shop(&cluster, "missing").await;
    let analyze = ["analyze", "-n", "missing"];
    let good = told(&cluster, &analyze).await;
    assert_eq!(good.stdout, "✔ No validation issues found when analyzing namespace: missing.\n");
    shop.apply(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: lost}\nspec:\n  \
         hosts: [missing.test]\n  gateways: [nowhere]\n  http:\n  \
         - route: [{destination: {host: web}}]\n",
    )
    .await;
    let bad = run(&cluster, &analyze).await;
    let expected = "Error [IST0101] (VirtualService missing/lost) spec.gateways[0]: Referenced \
                    gateway not found: \"nowhere\"\n";
    assert_eq!((bad.code, bad.stdout.as_str()), (79, expected));
    let elsewhere = told(&cluster, &["analyze", "-n", SYSTEM]).await;
    assert!(!elsewhere.stdout.contains("lost"), "{}", elsewhere.stdout);
}

async fn a_pod_that_is_not_there_is_told(cluster: Arc<Cluster>) {
    installed(&cluster).await;
    let outcome = run(&cluster, &["pc", "route", "nobody.istio-ingress"]).await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("pod istio-ingress/nobody"), "{}", outcome.stderr);
    let outcome = run(&cluster, &["pc", "route", "deployment/nobody.istio-ingress"]).await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("istio-ingress/nobody"), "{}", outcome.stderr);
}

async fn no_controller_is_told_with_where_it_was_looked_for(cluster: Arc<Cluster>) {
    let outcome = run(&cluster, &["proxy-status", "--istioNamespace", "default"]).await;
    assert_eq!(outcome.code, 1);
    let told = "no controller runs in namespace default";
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
}

async fn a_controller_that_cannot_be_asked_is_named_and_the_proxies_of_the_others_are_shown(
    cluster: Arc<Cluster>,
) {
    let _controllers = CONTROLLERS.write().await;
    installed(&cluster).await;
    let system = cluster.existing(SYSTEM);
    // It runs and is never ready, so that nobody is sent to it; and nothing listens on its 15014.
    let dead = app::manifest("dead", "v1", 1)
        .replace("app: dead, version: v1", "app: weir-controller, version: dead")
        .replace("path: /, port: http", "path: /, port: 15014");
    system.apply(&dead).await;
    let name = format!("{}.{INGRESS}", pod(&cluster).await);
    let outcome = eventually("both are asked", async || {
        let outcome = run(&cluster, &["proxy-status"]).await;
        (outcome.stderr.contains("dead-v1-") && outcome.stdout.contains("SYNCED"))
            .then_some(outcome)
    })
    .await;
    assert_eq!(outcome.code, 1, "{}", outcome.transcript());
    assert_eq!(outcome.rows()[0][0], name);
    let one = told(&cluster, &["ps", &name]).await;
    assert!(one.stdout.contains("SYNCED"), "{}", one.transcript());
    system.kubectl(&["delete", "deployment/dead-v1", "service/dead", "--wait"]).await;
    eventually_eq(0, async || run(&cluster, &["proxy-status"]).await.code).await;
}
