//! What clients notice when a part of the installation is replaced or away: nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use http::Version;
use serde_json::Value;
use tokio::sync::Mutex;
use weir_tests::{
    client::{http::Request, load::Load},
    cluster::{
        Cluster, Namespace,
        pods::kill_program_of_pods,
        shop::{PUBLIC, TO_WEB, ask, served, virtual_service},
        weir::{INGRESS, INGRESS_GATEWAY, SYSTEM},
    },
    eventually::{eventually, eventually_eq, eventually_within},
};

weir_tests::cluster_suite! {
    nodes: 1;
    no_request_fails_while_everything_is_replaced,
    an_upgrade_of_the_charts_keeps_the_webhook_in_force,
    no_request_fails_while_the_api_server_is_away,
    no_request_fails_while_the_controller_is_away,
    no_request_fails_while_routes_are_edited,
    a_gateway_restarts_without_a_controller,
}

/// One test at a time: each takes something away that the others use.
static CLUSTER: Mutex<()> = Mutex::const_new(());

/// How long the API server is away: the clients in between try again several times.
const OUTAGE: Duration = Duration::from_secs(12);

/// Until all is as before, on a machine that runs everything.
const RECOVERY: Duration = Duration::from_secs(120);

/// Between two requests of a connection, on a machine that runs everything.
const PAUSE: Duration = Duration::from_millis(10);

/// Everything to the application, which edition of that it is being told.
const EDITED: &str = "[{ headers: { response: { set: { x-edition: 'EDITION' } } }, \
                      route: [{ destination: { host: web } }] }]";

/// Clients of every protocol.
struct Clients {
    loads: Vec<(&'static str, Load)>,
}

impl Clients {
    /// Of the shop of that name.
    fn start(gateway: SocketAddr, name: &str) -> Self {
        Self::start_many(gateway, name, 1)
    }

    /// So many times as many: each five send about 400 requests a second, if they are answered at once.
    fn start_many(gateway: SocketAddr, name: &str, times: usize) -> Self {
        let (host, grpc_host) = hosts(name);
        let get = Request::get(&host, "/");
        let call = Request::post(&grpc_host, "/any.Service/Method", b"\0\0\0\0\x05hello".to_vec())
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let load = |version, connections, request| {
            Load::start_paced(gateway, version, times * connections, request, PAUSE)
        };
        let loads = vec![
            ("HTTP/1.1", load(Version::HTTP_11, 3, &get)),
            ("HTTP/2", load(Version::HTTP_2, 1, &get)),
            ("gRPC", load(Version::HTTP_2, 1, &call)),
        ];
        Self { loads }
    }

    /// Ends them; none may have failed.
    async fn served(self) {
        for (protocol, load) in self.loads {
            let tally = load.stop().await;
            assert_eq!(tally.failures, BTreeMap::new(), "{protocol}, of {}", tally.succeeded);
            assert!(tally.succeeded > 20, "{protocol}: {tally:?}");
        }
    }
}

/// Where a shop answers HTTP, and where gRPC.
fn hosts(name: &str) -> (String, String) {
    (format!("{name}.test"), format!("calls.{name}.test"))
}

/// The shop of a test, known to each of the gateways.
async fn shop<'c>(cluster: &'c Cluster, name: &str) -> (Namespace<'c>, SocketAddr) {
    let shop = cluster.shop(name, &["v1"]).await;
    shop.apply(
        "apiVersion: v1\nkind: Service\nmetadata: { name: calls }\nspec:\n  selector: { app: web }\n  \
         ports: [{ name: grpc, port: 80, targetPort: http }]\n",
    )
    .await;
    let (host, grpc_host) = hosts(name);
    let calls = virtual_service(&grpc_host, PUBLIC, &TO_WEB.replace("web", "calls"));
    shop.apply(&virtual_service(&host, PUBLIC, TO_WEB)).await;
    shop.apply(&calls.replace("name: web", "name: calls")).await;
    let gateway = cluster.ingress(80).await;
    // Each of the gateways has to know them.
    for _ in 0..10 * gateways(cluster).await {
        served(gateway, &host).await;
        served(gateway, &grpc_host).await;
    }
    (shop, gateway)
}

async fn gateways(cluster: &Cluster) -> usize {
    cluster.existing(INGRESS).all_pods().await.len()
}

async fn no_request_fails_while_everything_is_replaced(cluster: Arc<Cluster>) {
    let _alone = CLUSTER.lock().await;
    cluster.installed().await;
    scale_gateways(&cluster, 3).await;
    let (shop, gateway) = shop(&cluster, "replaced").await;
    let editions = async |namespace: &str| -> Vec<String> {
        let pods = cluster.existing(namespace).all_pods().await;
        let edition =
            |pod: &Value| pod["metadata"]["annotations"]["edition"].as_str().map(Into::into);
        pods.iter().filter(|pod| is_staying(pod)).filter_map(edition).collect()
    };
    let clients = Clients::start(gateway, "replaced");
    // The application and the controller at the same time; each chart is upgraded to another state.
    shop.kubectl(&["rollout", "restart", "deployment/web-v1"]).await;
    let next = "podAnnotations.edition=next";
    cluster.helm_upgrade("base", "base", SYSTEM, &[]).await;
    cluster.helm_upgrade("controller", "weir-controller", SYSTEM, &[next]).await;
    shop.rolled_out("web-v1").await;
    cluster.helm_upgrade("gateway", INGRESS_GATEWAY, INGRESS, &[next]).await;
    assert_eq!(editions(SYSTEM).await, ["next"]);
    assert_eq!(editions(INGRESS).await, ["next"; 3]);
    // What is in force afterwards is what the new ones were told.
    shop.apply(&virtual_service("replaced.test", PUBLIC, &EDITED.replace("EDITION", "next"))).await;
    eventually_eq(Some("next".to_owned()), async || edition(gateway, "replaced.test").await).await;
    clients.served().await;
    scale_gateways(&cluster, 1).await;
}

/// Whether a pod is not about to end.
fn is_staying(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
}

async fn scale_gateways(cluster: &Cluster, replicas: usize) {
    let values = format!("replicaCount={replicas}");
    cluster.helm_upgrade("gateway", INGRESS_GATEWAY, INGRESS, &[&values]).await;
    // Those that are going would be taken for gateways by whoever looks for one.
    eventually_eq(replicas, async || gateways(cluster).await).await;
}

async fn an_upgrade_of_the_charts_keeps_the_webhook_in_force(cluster: Arc<Cluster>) {
    let _alone = CLUSTER.lock().await;
    cluster.installed().await;
    cluster.asked_first().await;
    let before = cluster.webhook().await;
    cluster.helm_upgrade("controller", "weir-controller", SYSTEM, &[]).await;
    assert_eq!(cluster.webhook().await, before);
}

async fn no_request_fails_while_the_api_server_is_away(cluster: Arc<Cluster>) {
    let _alone = CLUSTER.lock().await;
    let (shop, gateway) = shop(&cluster, "away").await;
    let clients = Clients::start(gateway, "away");
    let before = (restarts(&cluster, SYSTEM).await, restarts(&cluster, INGRESS).await);
    cluster.stop("control", "kube-apiserver").await;
    // It is the time itself that is tested, not something that happens in it.
    tokio::time::sleep(OUTAGE).await;
    cluster.resume("control", "kube-apiserver").await;
    let after = virtual_service("away.test", PUBLIC, &EDITED.replace("EDITION", "after"));
    eventually_within(RECOVERY, "a change is taken again", async || {
        shop.try_apply(&after).await.status.success().then_some(())
    })
    .await;
    // The watches are tried again with growing pauses.
    eventually_within(RECOVERY, "the change is in force", async || {
        edition(gateway, "away.test").await.filter(|edition| edition == "after")
    })
    .await;
    clients.served().await;
    let now = (restarts(&cluster, SYSTEM).await, restarts(&cluster, INGRESS).await);
    assert_eq!(now, before, "nobody was restarted for it");
}

async fn no_request_fails_while_the_controller_is_away(cluster: Arc<Cluster>) {
    let _alone = CLUSTER.lock().await;
    let (shop, gateway) = shop(&cluster, "alone").await;
    let clients = Clients::start(gateway, "alone");
    cluster.asked_first().await;
    kill_program_of_pods("weir-controller", &cluster.existing(SYSTEM).all_pods().await).await;
    without_controller(&cluster).await;
    // Nobody checks them now, so our kinds cannot be written; everything else can.
    let late = virtual_service("late.test", PUBLIC, TO_WEB).replace("name: web", "name: late");
    let output = shop.try_apply(&late).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("failed calling webhook"), "{told}");
    shop.kubectl(&["create", "configmap", "anything"]).await;

    cluster.scale_controller(1).await;
    eventually("our kinds can be written again", async || {
        shop.try_apply(&late).await.status.success().then_some(())
    })
    .await;
    served(gateway, "late.test").await;
    clients.served().await;
}

async fn no_request_fails_while_routes_are_edited(cluster: Arc<Cluster>) {
    const ROUTES: usize = 100;
    const EDITIONS: usize = 10;
    let _alone = CLUSTER.lock().await;
    let (shop, gateway) = shop(&cluster, "edited").await;
    let clients = Clients::start_many(gateway, "edited", 2);
    for edition in 1..=EDITIONS {
        let mut objects = String::new();
        let http = EDITED.replace("EDITION", &edition.to_string());
        for route in 1..ROUTES {
            let object = virtual_service(&format!("{route}.edited.test"), PUBLIC, &http);
            let object = object.replace("name: web }\nspec", &format!("name: r{route} }}\nspec"));
            write!(objects, "---\n{object}").unwrap();
        }
        // The one that is asked for all the time is one of them.
        write!(objects, "---\n{}", virtual_service("edited.test", PUBLIC, &http)).unwrap();
        // One request for each; a plain apply would ask what is there before.
        let apply = ["--namespace", shop.name(), "apply", "--server-side", "--force-conflicts"];
        let applied = cluster.try_kubectl(&[&apply[..], &["-f", "-"]].concat(), &objects).await;
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    }
    let last = Some(EDITIONS.to_string());
    for host in ["edited.test".to_owned(), format!("{}.edited.test", ROUTES - 1)] {
        eventually_eq(last.clone(), async || edition(gateway, &host).await).await;
    }
    clients.served().await;
}

async fn a_gateway_restarts_without_a_controller(cluster: Arc<Cluster>) {
    let _alone = CLUSTER.lock().await;
    let (_shop, gateway) = shop(&cluster, "restarted").await;
    without_controller(&cluster).await;
    let ingress = cluster.existing(INGRESS);
    let before = restarts(&cluster, INGRESS).await;
    kill_program_of_pods("weir-gateway", &ingress.all_pods().await).await;
    eventually("the container is another one", async || {
        (restarts(&cluster, INGRESS).await > before).then_some(())
    })
    .await;
    served(gateway, "restarted.test").await;
    cluster.scale_controller(1).await;
}

/// Takes the controller away, completely.
async fn without_controller(cluster: &Cluster) {
    cluster.scale_controller(0).await;
    let system = cluster.existing(SYSTEM);
    eventually_eq(0, async || system.all_pods().await.len()).await;
}

/// Which edition of a route answers.
async fn edition(gateway: SocketAddr, host: &str) -> Option<String> {
    let reply = ask(gateway, &Request::get(host, "/")).await.ok()?;
    reply.header("x-edition").map(str::to_owned)
}

/// How often containers of a namespace were started again, in all its pods.
async fn restarts(cluster: &Cluster, namespace: &str) -> u64 {
    let pods = cluster.existing(namespace).all_pods().await;
    let statuses = pods.iter().filter_map(|pod| pod["status"]["containerStatuses"].as_array());
    statuses.flatten().filter_map(|status| status["restartCount"].as_u64()).sum()
}
