//! What clients notice while pods, nodes, certificates and the controller of a mesh come and go: nothing.
//! Each of them asks an ingress gateway, that a service with a sidecar, and that another one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Version;
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};
use weir_tests::{
    client::{http::Request, load::Load},
    cluster::{
        Cluster, Namespace,
        injected::manifest,
        shop::{PUBLIC, TO_WEB, served, virtual_service},
        weir::{INGRESS, INGRESS_GATEWAY, SYSTEM},
    },
    eventually::{eventually_eq, eventually_within},
};

weir_tests::cluster_suite! {
    nodes: 2;
    no_request_fails_while_both_services_are_rolled_out,
    no_request_fails_while_they_are_scaled,
    no_request_fails_while_a_node_is_drained,
    no_request_fails_while_the_controller_is_replaced_and_away,
    no_request_fails_while_certificates_are_renewed,
}

/// One test at a time: each takes something away that the others use.
static CLUSTER: Mutex<()> = Mutex::const_new(());

const NAME: &str = "path";
const HOST: &str = "path.test";

/// Requests a second, over that many connections.
const RATE: u32 = 500;
const CONNECTIONS: usize = 25;

/// Of a certificate. The controller is not away for longer than half of it.
const LIFETIME: &str = "60s";
const AWAY: Duration = Duration::from_secs(8);

/// For what waits for the second half of a certificate's life, on a machine that runs everything.
const RENEWAL: Duration = Duration::from_secs(90);

/// Two services on two nodes, each pod with a sidecar: `web`, which asks `pay` before it answers.
async fn path(cluster: &Cluster) -> Namespace<'_> {
    static PATH: OnceCell<()> = OnceCell::const_new();
    PATH.get_or_init(async || {
        let short =
            [&*format!("extraArgs[0]=--max-workload-cert-ttl={LIFETIME}"), "replicaCount=1"];
        cluster.installed_with(&short).await;
        cluster.helm_upgrade("gateway", INGRESS_GATEWAY, INGRESS, &["replicaCount=2"]).await;
        let path = cluster.asking_for_sidecars(NAME).await;
        path.apply(&manifest("pay", "v1", 3)).await;
        let version = "            - { name: VERSION";
        let next = format!("            - {{ name: NEXT, value: 'pay:80' }}\n{version}");
        path.apply(&manifest("web", "v1", 2).replace(version, &next)).await;
        for app in ["web", "pay"] {
            path.apply(&budget(app)).await;
            path.rolled_out(&format!("{app}-v1")).await;
        }
        path.apply(&virtual_service(HOST, PUBLIC, TO_WEB)).await;
        // Each of the gateways has to know it.
        let gateway = cluster.ingress(80).await;
        for _ in 0..20 {
            served(gateway, HOST).await;
        }
    })
    .await;
    cluster.existing(NAME)
}

/// One pod may be away at a time.
fn budget(app: &str) -> String {
    format!(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{ name: {app} }}\n\
         spec: {{ maxUnavailable: 1, selector: {{ matchLabels: {{ app: {app} }} }} }}\n"
    )
}

/// Does something under load, of which nothing may fail.
async fn under_load(cluster: &Cluster, work: impl AsyncFnOnce(&Namespace<'_>)) {
    let _alone = CLUSTER.lock().await;
    let path = path(cluster).await;
    let gateway = cluster.ingress(80).await;
    let request = Request::get(HOST, "/");
    let load = Load::start_at_rate(gateway, Version::HTTP_11, CONNECTIONS, &request, RATE);
    work(&path).await;
    let tally = load.stop().await;
    assert_eq!(tally.failures, BTreeMap::new(), "of {}", tally.succeeded);
    assert!(tally.succeeded > 100, "{tally:?}");
}

async fn no_request_fails_while_both_services_are_rolled_out(cluster: Arc<Cluster>) {
    under_load(&cluster, async |path| {
        for app in ["web", "pay"] {
            path.kubectl(&["rollout", "restart", &format!("deployment/{app}-v1")]).await;
        }
        for app in ["web", "pay"] {
            path.rolled_out(&format!("{app}-v1")).await;
            all_are_there(path, app).await;
        }
    })
    .await;
}

async fn no_request_fails_while_they_are_scaled(cluster: Arc<Cluster>) {
    under_load(&cluster, async |path| {
        for (web, pay) in [(3, 5), (2, 1), (2, 3)] {
            scale(path, "web", web).await;
            scale(path, "pay", pay).await;
            for app in ["web", "pay"] {
                path.rolled_out(&format!("{app}-v1")).await;
                all_are_there(path, app).await;
            }
        }
    })
    .await;
}

async fn scale(path: &Namespace<'_>, app: &str, replicas: usize) {
    let deployment = format!("deployment/{app}-v1");
    path.kubectl(&["scale", &deployment, &format!("--replicas={replicas}")]).await;
}

/// Those that go are still there for a while.
async fn all_are_there(path: &Namespace<'_>, app: &str) {
    let deployment = path.get(&format!("deployment/{app}-v1")).await;
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap();
    eventually_eq(wanted, async || {
        let pods = path.all_pods().await;
        pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == app).count() as u64
    })
    .await;
}

async fn no_request_fails_while_a_node_is_drained(cluster: Arc<Cluster>) {
    under_load(&cluster, async |path| {
        // The one name server of this cluster is nothing that a mesh can stand in for.
        let node = node_without_dns(&cluster).await;
        let drain = ["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--force"];
        cluster.kubectl(&[&drain[..], &["--timeout=180s"]].concat()).await;
        for app in ["web", "pay"] {
            path.rolled_out(&format!("{app}-v1")).await;
            all_are_there(path, app).await;
        }
        cluster.kubectl(&["uncordon", &node]).await;
    })
    .await;
}

async fn node_without_dns(cluster: &Cluster) -> String {
    let pods = cluster.existing("kube-system").all_pods().await;
    let busy = pods[0]["spec"]["nodeName"].as_str().unwrap().to_owned();
    let nodes = cluster.kubectl(&["get", "nodes", "--output", "json"]).await;
    let nodes: Value = serde_json::from_str(&nodes).unwrap();
    let mut names = nodes["items"].as_array().unwrap().iter();
    let name = names.find_map(|node| node["metadata"]["name"].as_str().filter(|it| *it != busy));
    name.unwrap().to_owned()
}

async fn no_request_fails_while_the_controller_is_replaced_and_away(cluster: Arc<Cluster>) {
    under_load(&cluster, async |_| {
        let system = cluster.existing(SYSTEM);
        system.kubectl(&["rollout", "restart", "deployment/weir-controller"]).await;
        system.rolled_out("weir-controller").await;
        cluster.scale_controller(0).await;
        eventually_eq(0, async || system.all_pods().await.len()).await;
        // It is the time itself that is tested, not something that happens in it.
        tokio::time::sleep(AWAY).await;
        cluster.scale_controller(1).await;
    })
    .await;
}

async fn no_request_fails_while_certificates_are_renewed(cluster: Arc<Cluster>) {
    under_load(&cluster, async |path| {
        let mut before = BTreeMap::new();
        for app in ["web", "pay"] {
            before.insert(app, serials(path, app).await);
        }
        for (app, before) in before {
            eventually_within(RENEWAL, "every pod has another certificate", async || {
                let now = serials(path, app).await;
                now.iter().all(|(pod, serial)| before.get(pod) != Some(serial)).then_some(())
            })
            .await;
        }
    })
    .await;
}

/// The serial numbers of the certificates that each pod of an application shows.
async fn serials(path: &Namespace<'_>, app: &str) -> BTreeMap<String, String> {
    let mut serials = BTreeMap::new();
    for pod in path.pods(app).await {
        let page = ["curl", "--silent", "--show-error", "http://127.0.0.1:15000/certs"];
        let command = [&["exec", &*pod, "--container=app", "--"], &page[..]].concat();
        let certs: Value = serde_json::from_str(&path.kubectl(&command).await).unwrap();
        let secrets = certs["secrets"].as_array().unwrap().iter();
        let chains = secrets.filter_map(|secret| secret["certificateChain"].as_array());
        let own: Vec<_> = chains.flatten().map(|it| it["serialNumber"].to_string()).collect();
        assert!(!own.is_empty(), "{pod} shows none: {certs}");
        serials.insert(pod, own.join(" "));
    }
    serials
}
