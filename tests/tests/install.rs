//! The charts installed into a real cluster, and used as a user does: through `kubectl apply` and the
//! address of the gateway's load balancer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, sync::Arc};

use http::Version;
use tokio::sync::{OnceCell, RwLock};
use weir_tests::{
    binaries,
    certs::Authority,
    client::{
        curl::curl,
        http::{Connection, Reply, Request},
        load::Load,
        tools,
    },
    cluster::{Cluster, Namespace, app},
    eventually::{eventually, eventually_eq},
};

weir_tests::cluster_suite! {
    nodes: 1;
    the_charts_install_under_pod_securitys_restricted_level,
    a_virtual_service_is_served_through_the_load_balancer,
    traffic_moves_to_another_version_without_a_failure,
    a_certificate_is_served_from_a_secret_and_its_successor_after_it,
    a_wrong_object_is_refused_when_it_is_written,
    what_became_of_an_object_is_in_its_status,
    no_request_fails_while_everything_is_replaced,
    an_upgrade_of_the_charts_keeps_the_webhook_in_force,
    a_gateway_restarts_without_a_controller,
}

const SYSTEM: &str = "weir-system";
const INGRESS: &str = "weir-ingress";
const GATEWAY: &str = "istio-ingressgateway";

/// Of the charts: images of this host.
const IMAGES: &str = "hub=weir.test,tag=dev";

/// Held to write by a test that takes something away that others use.
static DISTURBANCE: RwLock<()> = RwLock::const_new(());

async fn the_charts_install_under_pod_securitys_restricted_level(cluster: Arc<Cluster>) {
    let _undisturbed = DISTURBANCE.read().await;
    installed(&cluster).await;
    for (namespace, deployment) in [(SYSTEM, "weir-controller"), (INGRESS, GATEWAY)] {
        let path = "jsonpath={.status.readyReplicas}";
        let ready = ["get", "deployment", deployment, "--namespace", namespace, "--output", path];
        assert_eq!(cluster.kubectl(&ready).await, "1");
    }
}

async fn a_virtual_service_is_served_through_the_load_balancer(cluster: Arc<Cluster>) {
    let _undisturbed = DISTURBANCE.read().await;
    let gateway = installed(&cluster).await;
    let shop = shop(&cluster, "shop", &["v1"]).await;
    let routes = "  - match: [{uri: {prefix: /shop}}]\n    route: [{destination: {host: echo}}]\n";
    shop.apply(&virtual_service("shop.test", routes)).await;
    let reply = served(gateway, "shop.test", "/shop/1").await;
    let received = reply.echo();
    assert_eq!((received.backend.as_str(), received.target.as_str()), ("v1", "/shop/1"));
    assert!(received.header("x-forwarded-for").is_some());
    assert_eq!(ask(gateway, "shop.test", "/other").await.status, 404);
    assert_eq!(ask(gateway, "other.test", "/shop/1").await.status, 404);
}

async fn traffic_moves_to_another_version_without_a_failure(cluster: Arc<Cluster>) {
    let _undisturbed = DISTURBANCE.read().await;
    let gateway = installed(&cluster).await;
    let shop = shop(&cluster, "canary", &["v1", "v2"]).await;
    shop.apply(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: echo}\n\
         spec:\n  host: echo\n  subsets:\n  - {name: v1, labels: {version: v1}}\n  \
         - {name: v2, labels: {version: v2}}\n",
    )
    .await;
    shop.apply(&virtual_service("canary.test", &split(100))).await;
    assert_eq!(served(gateway, "canary.test", "/").await.backend(), "v1");
    shop.apply(&virtual_service("canary.test", &split(0))).await;
    eventually("version 2 answers", async || {
        let reply = ask(gateway, "canary.test", "/").await;
        assert_eq!(reply.status, 200);
        (reply.backend() == "v2").then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(ask(gateway, "canary.test", "/").await.backend(), "v2");
    }
}

async fn a_certificate_is_served_from_a_secret_and_its_successor_after_it(cluster: Arc<Cluster>) {
    let _undisturbed = DISTURBANCE.read().await;
    let gateway = installed(&cluster).await;
    let shop = shop(&cluster, "tls", &["v1"]).await;
    shop.apply(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: secure}\n\
         spec:\n  selector: {istio: ingressgateway}\n  servers:\n  \
         - port: {number: 443, name: https, protocol: HTTPS}\n    \
           hosts: [secure.test]\n    tls: {mode: SIMPLE, credentialName: secure}\n",
    )
    .await;
    let routes = "  - route: [{destination: {host: echo}}]\n";
    let bound = virtual_service("secure.test", routes).replace("[edge]", "[secure]");
    shop.apply(&bound).await;
    for common_name in ["first", "second"] {
        let authority = Authority::new(common_name);
        write_secret(&cluster, &authority).await;
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
    let _undisturbed = DISTURBANCE.read().await;
    installed(&cluster).await;
    let test = cluster.namespace("wrong").await;
    asked_first(&cluster).await;
    let wrong = virtual_service("wrong.test", "  - timeout: soon\n    redirect: {uri: /}\n");
    let output = test.try_apply(&wrong).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("spec.http[0].timeout"), "{told}");
    let none = test.kubectl(&["get", "virtualservices", "--output", "name"]).await;
    assert_eq!(none, "");
}

async fn what_became_of_an_object_is_in_its_status(cluster: Arc<Cluster>) {
    let _undisturbed = DISTURBANCE.read().await;
    installed(&cluster).await;
    let shop = shop(&cluster, "status", &["v1"]).await;
    let routes = "  - route: [{destination: {host: echo}}]\n";
    shop.apply(&virtual_service("status.test", routes)).await;
    eventually("the object is accepted", async || {
        let object = shop.get("virtualservice/shop").await;
        let conditions = object["status"]["conditions"].as_array()?;
        let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted")?;
        assert_eq!(accepted["status"], "True", "{accepted}");
        Some(())
    })
    .await;
}

async fn no_request_fails_while_everything_is_replaced(cluster: Arc<Cluster>) {
    let _undisturbed = DISTURBANCE.write().await;
    let gateway = installed(&cluster).await;
    scale_gateways(&cluster, 3).await;
    let shop = shop(&cluster, "replaced", &["v1"]).await;
    let routes = "  - route: [{destination: {host: echo}}]\n";
    shop.apply(&virtual_service("replaced.test", routes)).await;
    served(gateway, "replaced.test", "/").await;
    // Each of the gateways has to know it.
    for _ in 0..30 {
        served(gateway, "replaced.test", "/").await;
    }

    let request = Request::get("replaced.test", "/");
    let loads = [(Version::HTTP_11, 3), (Version::HTTP_2, 1)]
        .map(|(version, connections)| Load::start_to(gateway, version, connections, &request));
    for (namespace, deployment) in
        [(shop.name(), "echo-v1"), (INGRESS, GATEWAY), (SYSTEM, "weir-controller")]
    {
        let deployment = format!("deployment/{deployment}");
        for verb in ["restart", "status"] {
            cluster.kubectl(&["rollout", verb, &deployment, "--namespace", namespace]).await;
        }
    }
    let upgrade = ["upgrade", GATEWAY, &chart("gateway"), "--reuse-values"];
    helm(&cluster, &[&upgrade[..], &["--set", "podAnnotations.edition=next"]].concat(), INGRESS)
        .await;
    for load in loads {
        let tally = load.stop().await;
        assert_eq!(tally.failures, BTreeMap::new(), "of {}", tally.succeeded);
        assert!(tally.succeeded > 100, "{tally:?}");
    }
    scale_gateways(&cluster, 1).await;
}

async fn scale_gateways(cluster: &Cluster, replicas: u32) {
    let values = format!("autoscaling.enabled=false,replicaCount={replicas}");
    let upgrade = ["upgrade", GATEWAY, &chart("gateway"), "--reuse-values", "--set", &values];
    helm(cluster, &upgrade, INGRESS).await;
    // Those that are going would be taken for gateways by whoever looks for one.
    eventually_eq(replicas as usize, async || ingress_pods(cluster).await.len()).await;
}

async fn an_upgrade_of_the_charts_keeps_the_webhook_in_force(cluster: Arc<Cluster>) {
    let _undisturbed = DISTURBANCE.write().await;
    installed(&cluster).await;
    asked_first(&cluster).await;
    let before = webhook(&cluster).await;
    helm(&cluster, &["upgrade", "controller", &chart("controller"), "--reuse-values"], SYSTEM)
        .await;
    assert_eq!(webhook(&cluster).await, before);
}

async fn a_gateway_restarts_without_a_controller(cluster: Arc<Cluster>) {
    let _undisturbed = DISTURBANCE.write().await;
    let gateway = installed(&cluster).await;
    let shop = shop(&cluster, "alone", &["v1"]).await;
    let routes = "  - route: [{destination: {host: echo}}]\n";
    shop.apply(&virtual_service("alone.test", routes)).await;
    served(gateway, "alone.test", "/").await;
    let controller = ["deployment/weir-controller", "--namespace", SYSTEM];
    cluster.kubectl(&[&["scale", "--replicas=0"], &controller[..]].concat()).await;
    eventually_eq(String::new(), async || {
        let pods = ["get", "pods", "--namespace", SYSTEM, "--output", "name"];
        cluster.kubectl(&pods).await
    })
    .await;

    let pod = &ingress_pods(&cluster).await[0];
    let (uid, restarts) = uid_and_restarts(pod);
    kill_program_of_pod("weir-gateway", &uid).await;
    eventually("the container is another one", async || {
        let pod = &ingress_pods(&cluster).await[0];
        (uid_and_restarts(pod) == (uid.clone(), restarts + 1)).then_some(())
    })
    .await;
    served(gateway, "alone.test", "/again").await;

    cluster.kubectl(&[&["scale", "--replicas=1"], &controller[..]].concat()).await;
    let rollout = ["rollout", "status", "--timeout=120s"];
    cluster.kubectl(&[&rollout, &controller[..]].concat()).await;
}

/// The charts as a user installs them, once for all tests; returns where the gateway answers.
async fn installed(cluster: &Cluster) -> SocketAddr {
    static INSTALLED: OnceCell<SocketAddr> = OnceCell::const_new();
    *INSTALLED.get_or_init(|| install(cluster)).await
}

async fn install(cluster: &Cluster) -> SocketAddr {
    for name in ["weir-controller", "weir-gateway"] {
        let program = tokio::task::spawn_blocking(|| binaries::built(name)).await.unwrap();
        cluster.load_image(&format!("weir.test/{name}:dev"), &[&program]).await;
    }
    for namespace in [SYSTEM, INGRESS] {
        let label = "pod-security.kubernetes.io/enforce=restricted";
        cluster.kubectl(&["create", "namespace", namespace]).await;
        cluster.kubectl(&["label", "namespace", namespace, label]).await;
    }
    helm(cluster, &["install", "base", &chart("base")], SYSTEM).await;
    let images = "global.hub=weir.test,global.tag=dev,global.imagePullPolicy=Never";
    helm(cluster, &["install", "controller", &chart("controller"), "--set", images], SYSTEM).await;
    let images = format!("{IMAGES},imagePullPolicy=Never");
    helm(cluster, &["install", GATEWAY, &chart("gateway"), "--set", &images], INGRESS).await;
    let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    let service = ["get", "service", GATEWAY, "--namespace", INGRESS, "--output", path];
    let address = cluster.kubectl(&service).await;
    SocketAddr::new(address.parse().expect("a load balancer has an address"), 80)
}

async fn helm(cluster: &Cluster, arguments: &[&str], namespace: &str) {
    let fixed = ["--namespace", namespace, "--wait", "--timeout", "120s"];
    let output = cluster.try_helm(&[arguments, &fixed].concat()).await;
    if output.status.success() {
        return;
    }
    let pods = ["--namespace", namespace, "describe", "pods"];
    let logs = ["--namespace", namespace, "logs", "--all-containers", "--selector", "app"];
    panic!(
        "helm {arguments:?}: {}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        cluster.kubectl(&pods).await,
        cluster.kubectl(&logs).await
    );
}

fn chart(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("charts").join(name).to_str().unwrap().to_owned()
}

/// A namespace with versions of the application and a Gateway `edge` for every host on port 80.
async fn shop<'c>(cluster: &'c Cluster, name: &str, versions: &[&str]) -> Namespace<'c> {
    cluster.load_app().await;
    let shop = cluster.namespace(name).await;
    for version in versions {
        shop.apply(&app::manifest("echo", version, 1)).await;
    }
    shop.apply(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\n\
         spec:\n  selector: {istio: ingressgateway}\n  servers:\n  \
         - {port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}\n",
    )
    .await;
    for version in versions {
        shop.rolled_out(&format!("echo-{version}")).await;
    }
    shop
}

/// A VirtualService `shop`; `routes` are the entries of `http`.
fn virtual_service(host: &str, routes: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: shop}}\n\
         spec:\n  hosts: [{host}]\n  gateways: [edge]\n  http:\n{routes}"
    )
}

/// So much of a hundred to version 1, the rest to version 2.
fn split(to_v1: u32) -> String {
    let to = |subset: &str, weight: u32| {
        format!("    - {{destination: {{host: echo, subset: {subset}}}, weight: {weight}}}\n")
    };
    format!("  - route:\n{}{}", to("v1", to_v1), to("v2", 100 - to_v1))
}

async fn ask(gateway: SocketAddr, host: &str, path: &str) -> Reply {
    let mut connection = Connection::http1_to(gateway).await.unwrap();
    connection.send(&Request::get(host, path)).await.unwrap()
}

/// The first answer of a host that is being configured.
async fn served(gateway: SocketAddr, host: &str, path: &str) -> Reply {
    eventually(&format!("{host} is served"), async || {
        // A gateway that has just started does not listen yet.
        let mut connection = Connection::http1_to(gateway).await.ok()?;
        let reply = connection.send(&Request::get(host, path)).await.ok()?;
        (reply.status == 200).then_some(reply)
    })
    .await
}

async fn write_secret(cluster: &Cluster, authority: &Authority) {
    let server = authority.server(&["secure.test"]);
    let indent = |pem: &str| pem.replace('\n', "\n    ");
    let secret = format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: secure}}\n\
         stringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indent(&server.certificate),
        indent(&server.key)
    );
    let apply = ["--namespace", INGRESS, "apply", "--filename", "-"];
    let output = cluster.try_kubectl(&apply, &secret).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The webhook's failure policy and authorities.
async fn webhook(cluster: &Cluster) -> String {
    let path = "jsonpath={.webhooks[0].failurePolicy} {.webhooks[0].clientConfig.caBundle}";
    let name = "validatingwebhookconfiguration/weir-controller-weir-system";
    cluster.kubectl(&["get", name, "--output", path]).await
}

/// Waits until the API server asks the controller before it takes an object.
async fn asked_first(cluster: &Cluster) {
    eventually("the webhook is registered", async || {
        webhook(cluster).await.starts_with("Fail LS0t").then_some(())
    })
    .await;
}

async fn ingress_pods(cluster: &Cluster) -> Vec<serde_json::Value> {
    let pods = ["get", "pods", "--namespace", INGRESS, "--output", "json"];
    let list: serde_json::Value = serde_json::from_str(&cluster.kubectl(&pods).await).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn uid_and_restarts(pod: &serde_json::Value) -> (String, u64) {
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    (uid, pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap())
}

/// Kills a program that runs in a container of the pod, from the host.
async fn kill_program_of_pod(program: &str, pod_uid: &str) {
    let is_it = |process: &fs::DirEntry| {
        let read = |file| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        read("comm").trim() == program && read("cgroup").contains(pod_uid)
    };
    let mut processes = fs::read_dir("/proc").unwrap().flatten().filter(is_it);
    let pid = processes.next().unwrap().file_name().into_string().unwrap();
    tools::stdout("kill", ["-KILL", &pid]).await;
}
