//! Sidecars in a real cluster: a label on a namespace, and what its pods get from it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{OnceCell, RwLock},
};
use weir_tests::{
    client::{http::Request, tools},
    cluster::{
        Cluster, Namespace, app,
        injected::{APP_PORT, manifest},
        shop::{PUBLIC, ask, served, virtual_service},
        weir::SYSTEM,
    },
    eventually::{eventually, eventually_eq},
};

mod cni;
mod egress;
mod injection;
mod ipv6;
mod lifecycle;

use cni::*;
use egress::*;
use injection::*;
use ipv6::*;
use lifecycle::*;

weir_tests::cluster_suite! {
    nodes: 1;
    a_label_on_a_namespace_gives_its_pods_sidecars_that_know_each_other,
    between_two_pods_nothing_passes_but_tls,
    strict_refuses_who_is_in_no_mesh_and_keeps_probes_working,
    who_may_call_is_decided_by_certificate_and_not_by_headers,
    a_job_completes,
    the_example_does_what_its_readme_says,
    no_call_fails_while_the_called_is_rolled_out_and_the_caller_ends,
    what_nobody_knows_is_refused_where_only_the_registry_is_reached,
    a_pod_that_cannot_have_a_sidecar_is_refused_with_the_reason,
    an_injected_pod_stays_as_it_is_and_what_others_add_is_treated_alike,
    pod_security_takes_what_programs_no_rules_and_names_what_does,
    what_has_no_meaning_is_refused_with_its_place,
    a_sidecar_that_cannot_start_keeps_its_pod_back_and_says_why,
    rules_that_cannot_be_programmed_keep_their_pod_back_and_it_is_said_why,
    outside_hosts_are_reached_by_who_may_and_only_over_the_gateway,
    an_application_on_loopback_is_reached_where_a_sidecar_resource_says_so,
    a_pod_of_a_headless_service_that_is_replaced_is_found_again,
    a_sidecar_ends_in_time_when_the_application_does_not,
    what_has_programmed_the_rules_is_started_again_without_harm,
    a_sidecar_restarts_and_another_starts_without_a_controller,
    a_pod_with_a_sidecar_is_ready_soon_after_one_without,
    pods_with_sidecars_call_each_other_over_ipv6,
    rules_of_pods_are_programmed_from_the_node,
}

/// Held alone by who takes the controller away, or changes what all others depend on.
static CONTROLLER: RwLock<()> = RwLock::const_new(());

/// The mesh, with a log that says who asked.
async fn mesh(cluster: &Cluster) {
    static LOGGED: OnceCell<()> = OnceCell::const_new();
    cluster.installed().await;
    LOGGED
        .get_or_init(async || {
            let format = "%REQ(:PATH)% of <%DOWNSTREAM_PEER_URI_SAN%>: %RESPONSE_CODE% \
                          %REQ(:AUTHORITY)% %REQUESTED_SERVER_NAME% %UPSTREAM_CLUSTER% \
                          %DOWNSTREAM_LOCAL_ADDRESS%\\n";
            let mesh = format!(
                "rootNamespace: {SYSTEM}\naccessLogFile: /dev/stdout\naccessLogFormat: \"{format}\"\n\
                 outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }}\n"
            );
            let patch = json!({ "data": { "mesh": mesh } }).to_string();
            let arguments = ["patch", "configmap/weir", "--type=merge", "--patch", &patch];
            cluster.existing(SYSTEM).kubectl(&arguments).await;
        })
        .await;
}

/// The namespace of tests that change nothing: `web`, which calls `pay`.
async fn shop(cluster: &Cluster) -> Namespace<'_> {
    static SHOP: OnceCell<()> = OnceCell::const_new();
    mesh(cluster).await;
    SHOP.get_or_init(async || {
        cluster.injected("shop", &["web", "pay"]).await;
    })
    .await;
    cluster.existing("shop")
}

fn identity(namespace: &str, app: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{app}")
}

fn strict(namespace: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{ name: default, namespace: {namespace} }}\nspec: {{ mtls: {{ mode: STRICT }} }}\n"
    )
}

async fn a_label_on_a_namespace_gives_its_pods_sidecars_that_know_each_other(
    cluster: Arc<Cluster>,
) {
    let _controller = CONTROLLER.read().await;
    let shop = shop(&cluster).await;
    let pod = shop.get(&format!("pod/{}", shop.pod("pay").await)).await;
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().unwrap().iter();
        containers.map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("initContainers"), ["istio-init", "istio-proxy"]);
    assert_eq!(names("containers"), ["app"]);

    let (web, pay) = (identity("shop", "web"), identity("shop", "pay"));
    let answer = shop.served_to("web", &["http://pay/asked"]).await;
    let received: Value = serde_json::from_str(&answer.body).unwrap();
    let vouched = received["headers"]["x-forwarded-client-cert"][0].as_str().unwrap();
    assert!(vouched.ends_with(&format!("URI={web}")), "{vouched}");

    eventually("the called's log names the caller", async || {
        let log = shop.kubectl(&["logs", &shop.pod("pay").await, "--container=istio-proxy"]).await;
        log.contains(&format!("/asked of <{web}>: 200")).then_some(())
    })
    .await;
    let source = format!("source_principal=\"{web}\"");
    let destination = format!("destination_principal=\"{pay}\"");
    let both = [&*source, &destination, "istio_requests_total", "response_code=\"200\""];
    for (app, reporter, policy) in
        [("pay", "destination", "mutual_tls"), ("web", "source", "unknown")]
    {
        let reporter = format!("reporter=\"{reporter}\"");
        let policy = format!("connection_security_policy=\"{policy}\"");
        eventually(&format!("the metrics of {app} name both"), async || {
            let found = shop.metrics(app, &[&both[..], &[&reporter, &policy]].concat()).await;
            (!found.is_empty()).then_some(())
        })
        .await;
    }
    calls_of_itself_are_taken_by_its_name_only(&shop, &web).await;
    ports_of_the_sidecar_are_no_way_in(&cluster, &shop).await;
}

/// By the name of its service a workload meets its own policy; by its address it does not.
async fn calls_of_itself_are_taken_by_its_name_only(shop: &Namespace<'_>, web: &str) {
    let by_name = shop.served_to("web", &["http://web/"]).await;
    assert!(by_name.body.contains(&format!("URI={web}")), "{}", by_name.body);
    let ip = shop.pod_ip("web").await;
    for address in [ip.to_string(), "127.0.0.1".to_owned()] {
        let by_address = shop.ask_from("web", &[&format!("http://{address}:{APP_PORT}/")]).await;
        assert_eq!(by_address.status, 200, "{address}");
        assert!(!by_address.body.contains("x-forwarded"), "{}", by_address.body);
    }
}

/// From outside the pod, a pod or none: nothing that ends it, no way round the redirection, nobody who
/// looks up names for others, no admin pages.
async fn ports_of_the_sidecar_are_no_way_in(cluster: &Cluster, shop: &Namespace<'_>) {
    let drain = Request::get("pay", "/drain").method("POST");
    let refused = shop.ask_plainly("pay", 15020, &drain).await.unwrap();
    assert_eq!(refused.status, 403);
    let ip = shop.pod_ip("pay").await;
    for port in [15001, 15006] {
        let connected = TcpStream::connect(SocketAddr::new(ip, port)).await;
        assert!(connected.is_err(), "{port} is open");
    }
    let other = cluster.namespace("stranger").await;
    other.apply(&app::manifest("stranger", "v1", 1)).await;
    other.rolled_out("stranger-v1").await;
    for (method, port, path, expected) in [
        ("GET", 15021, "/healthz/ready", 200),
        ("POST", 15020, "/drain", 403),
        ("POST", 15020, "/quitquitquit", 403),
        // Without DNS of its own, any other port of the pod.
        ("GET", 15053, "/", 503),
    ] {
        let url = format!("http://{ip}:{port}{path}");
        let answer = other.ask_from("stranger", &["--request", method, &url]).await;
        assert_eq!(answer.status, expected, "{method} {url}: {}", answer.body);
    }
    // Taken in as any other port of the pod, where nothing but the sidecar's loopback has it.
    let dump = Request::get("pay", "/config_dump");
    assert_eq!(shop.ask_plainly("pay", 15000, &dump).await.unwrap().status, 503);
}

async fn between_two_pods_nothing_passes_but_tls(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    let shop = shop(&cluster).await;
    shop.served_to("web", &["http://pay/"]).await;
    let capture = cluster.capture("node1").await;
    let secret = shop.ask_from("web", &["--header", "x-secret: xyzzy-sealed", "http://pay/"]).await;
    assert_eq!(secret.status, 200);
    assert!(secret.body.contains("xyzzy-sealed"), "{}", secret.body);
    let plain = Request::get("pay", "/").header("x-open", "xyzzy-open");
    assert_eq!(shop.ask_plainly("pay", APP_PORT, &plain).await.unwrap().status, 200);
    let passed = capture.end();
    let has = |text: &str| passed.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("xyzzy-open"), "what passes in clear text is seen");
    assert!(!has("xyzzy-sealed"), "what two sidecars say to each other is not");
}

/// A step of `examples/migration`.
fn migration(step: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/migration");
    fs::read_to_string(folder.join(step).join("peer-authentication.yaml")).unwrap()
}

async fn strict_refuses_who_is_in_no_mesh_and_keeps_probes_working(cluster: Arc<Cluster>) {
    let controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let shop = cluster.injected("strict", &["web", "pay"]).await;
    shop.apply(&migration("permissive")).await;
    let to_pay = "[{ route: [{ destination: { host: pay } }] }]";
    shop.apply(&virtual_service("strict.test", PUBLIC, to_pay)).await;
    let plain = Request::get("pay", "/");
    assert_eq!(shop.ask_plainly("pay", APP_PORT, &plain).await.unwrap().status, 200);

    let plainly = ["connection_security_policy=\"none\"", "reporter=\"destination\""];
    eventually("it is known that it has no certificate", async || {
        (!shop.metrics("pay", &plainly).await.is_empty()).then_some(())
    })
    .await;

    shop.apply(&migration("strict")).await;
    eventually("a plain client is refused", async || {
        shop.ask_plainly("pay", APP_PORT, &plain).await.is_none().then_some(())
    })
    .await;
    assert_eq!(shop.ask_from("web", &["http://pay/"]).await.status, 200);
    // The gateway has a certificate of the mesh.
    served(cluster.ingress(80).await, "strict.test").await;

    // New pods become ready only if the kubelet gets at them.
    let probes = json!([
        { "op": "add", "path": "/spec/template/spec/containers/0/livenessProbe",
          "value": { "tcpSocket": { "port": "http" } } },
        { "op": "add", "path": "/spec/template/spec/containers/0/startupProbe",
          "value": { "httpGet": { "path": "/up", "port": APP_PORT }, "periodSeconds": 1 } },
    ]);
    let patch = probes.to_string();
    shop.kubectl(&["patch", "deployment/pay-v1", "--type=json", "--patch", &patch]).await;
    shop.rolled_out("pay-v1").await;
    shop.served_to("web", &["http://pay/"]).await;
    drop(controller);
    the_mesh_is_strict_but_for_who_says_otherwise(&cluster, &shop).await;
}

/// The last step of the migration: everybody else sees it.
async fn the_mesh_is_strict_but_for_who_says_otherwise(cluster: &Cluster, moved: &Namespace<'_>) {
    let shop = shop(cluster).await;
    let _alone = CONTROLLER.write().await;
    let plain = Request::get("pay", "/");
    assert_eq!(shop.ask_plainly("pay", APP_PORT, &plain).await.unwrap().status, 200);
    moved.apply(&migration("permissive")).await;
    let system = cluster.existing(SYSTEM);
    system.apply(&migration("mesh")).await;
    eventually("a plain client is refused where nothing else is said", async || {
        shop.ask_plainly("pay", APP_PORT, &plain).await.is_none().then_some(())
    })
    .await;
    eventually("and taken where it is", async || {
        let reply = moved.ask_plainly("pay", APP_PORT, &plain).await;
        reply.is_some_and(|reply| reply.status == 200).then_some(())
    })
    .await;
    system.kubectl(&["delete", "peerauthentication", "default"]).await;
    eventually("it is as it was", async || {
        shop.ask_plainly("pay", APP_PORT, &plain).await.map(drop)
    })
    .await;
}

async fn who_may_call_is_decided_by_certificate_and_not_by_headers(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let shop = cluster.injected("policy", &["web", "thief", "pay"]).await;
    let to_pay = "[{ route: [{ destination: { host: pay } }] }]";
    shop.apply(&virtual_service("policy.test", PUBLIC, to_pay)).await;
    let policy = |source: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: pay }}\n\
             spec:\n  selector: {{ matchLabels: {{ app: pay }} }}\n  rules: [{{ from: [{{ source: {source} }}] }}]\n"
        )
    };
    served(cluster.ingress(80).await, "policy.test").await;
    shop.apply(&policy("{ principals: [cluster.local/ns/policy/sa/web] }")).await;
    eventually("another account is refused", async || {
        (shop.ask_from("thief", &["http://pay/"]).await.status == 403).then_some(())
    })
    .await;
    assert_eq!(shop.ask_from("web", &["http://pay/"]).await.status, 200);
    let web = identity("policy", "web");
    let forged = [
        format!("x-forwarded-client-cert: By={web};URI={web}"),
        "x-envoy-peer-metadata-id: sidecar~10.0.0.1~web~policy".to_owned(),
        "x-forwarded-for: 127.0.0.1".to_owned(),
    ];
    for header in &forged {
        let answer = shop.ask_from("thief", &["--header", header, "http://pay/"]).await;
        assert_eq!(answer.status, 403, "{header}");
    }
    let plain = Request::get("pay", "/").header("x-forwarded-client-cert", &forged[0]);
    assert_eq!(shop.ask_plainly("pay", APP_PORT, &plain).await.unwrap().status, 403);

    shop.apply(&policy("{ namespaces: [istio-ingress] }")).await;
    served(cluster.ingress(80).await, "policy.test").await;
    eventually("its own namespace is not the one", async || {
        (shop.ask_from("web", &["http://pay/"]).await.status == 403).then_some(())
    })
    .await;
}

/// A container that calls the mesh once.
fn calling(list: &str, name: &str) -> String {
    let image = app::IMAGE;
    format!(
        "{list}:\n      - {{ name: {name}, image: {image}, imagePullPolicy: Never,\n          \
         command: [curl, --fail, --silent, 'http://pay/'] }}\n      "
    )
}

async fn a_job_completes(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    let shop = shop(&cluster).await;
    shop.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: bill }}\nspec:\n  backoffLimit: 0\n  \
         template:\n    spec:\n      restartPolicy: Never\n      {}{}",
        calling("initContainers", "before"),
        calling("containers", "app"),
    ))
    .await;
    shop.wait("job/bill", "condition=Complete").await;
    // The one that runs before the application has the mesh too.
    for container in ["before", "app"] {
        let log = ["logs", "job/bill", &format!("--container={container}")];
        let answer = shop.kubectl(&log).await;
        assert!(answer.contains(&format!("URI={}", identity("shop", "default"))), "{answer}");
    }
}

async fn the_example_does_what_its_readme_says(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let shop = cluster.asking_for_sidecars("example").await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/mesh");
    let file = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let services = file("services.yaml").replace("image: APP", &format!("image: {}", app::IMAGE));
    shop.apply(&services).await;
    for name in ["strict.yaml", "policy.yaml", "canary.yaml"] {
        shop.apply(&file(name)).await;
    }
    for deployment in ["web", "pay-v1", "pay-v2"] {
        shop.rolled_out(deployment).await;
    }
    let answers = async || {
        // A hundred calls, one after the other.
        let body = shop.ask_from("web", &["http://pay/[1-100]"]).await.body;
        ["v1", "v2"].map(|version| body.matches(&format!("\"backend\":\"{version}\"")).count())
    };
    eventually("both versions answer, the first more often", async || {
        let [v1, v2] = answers().await;
        (v1 + v2 == 100 && v1 > v2 && v2 > 0).then_some(())
    })
    .await;
    let plain = Request::get("pay", "/");
    eventually("a plain client is refused", async || {
        shop.ask_plainly("pay", APP_PORT, &plain).await.is_none().then_some(())
    })
    .await;

    let moved = file("canary.yaml").replace("weight: 90", "weight: 0").replace("10}", "100}");
    shop.apply(&moved).await;
    eventually_eq([0, 100], answers).await;
}

/// What the calling application says of one second.
#[derive(Debug, Deserialize)]
struct Round {
    succeeded: u64,
    failures: BTreeMap<String, u64>,
}

/// Everything the application `web` has called so far.
async fn rounds(shop: &Namespace<'_>) -> Vec<Round> {
    read(&shop.kubectl(&["logs", &shop.pod("web").await, "--container=app"]).await)
}

fn read(log: &str) -> Vec<Round> {
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn no_call_fails_while_the_called_is_rolled_out_and_the_caller_ends(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let shop = cluster.asking_for_sidecars("rollout").await;
    shop.apply(&manifest("pay", "v1", 3)).await;
    shop.rolled_out("pay-v1").await;
    let version = "            - { name: VERSION, value: \"v1\" }\n";
    // It goes on calling when it is told to end.
    let calls = "            - { name: CALLS, value: 'pay:80' }\n            \
                 - { name: GRACE_SECONDS, value: '4' }\n";
    let web = manifest("web", "v1", 1).replace(version, &format!("{version}{calls}"));
    shop.apply(&web).await;
    shop.rolled_out("web-v1").await;
    eventually("it calls", async || (rounds(&shop).await.len() > 1).then_some(())).await;

    shop.kubectl(&["rollout", "restart", "deployment/pay-v1"]).await;
    shop.rolled_out("pay-v1").await;
    shop.kubectl(&["scale", "deployment/pay-v1", "--replicas=1"]).await;
    shop.rolled_out("pay-v1").await;
    // Those that go are still there for a while.
    eventually("one pod is left", async || {
        let pods = shop.all_pods().await;
        let left = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "pay");
        (left.count() == 1).then_some(())
    })
    .await;
    let done = rounds(&shop).await.len();
    eventually("it goes on calling", async || (rounds(&shop).await.len() > done).then_some(()))
        .await;
    let caller = shop.pod("web").await;
    let follow = ["logs", "--follow", "--container=app", &caller];
    let delete = ["delete", "pod", "--wait=false", &caller];
    let (log, _) = tokio::join!(shop.kubectl(&follow), shop.kubectl(&delete));
    let rounds = read(&log);
    let failed: Vec<_> = rounds.iter().filter(|round| !round.failures.is_empty()).collect();
    let succeeded: u64 = rounds.iter().map(|round| round.succeeded).sum();
    assert!(failed.is_empty(), "of {succeeded}: {failed:?}");
    assert!(succeeded > 500, "{succeeded}");
}

async fn what_nobody_knows_is_refused_where_only_the_registry_is_reached(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let shop = cluster.injected("registry", &["web", "pay"]).await;
    let other = cluster.namespace("elsewhere").await;
    other.apply(&app::manifest("pay", "v1", 1)).await;
    other.rolled_out("pay-v1").await;
    let elsewhere = ["http://pay.elsewhere/"];
    shop.served_to("web", &elsewhere).await;
    let only_own = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: default }\n\
                    spec: { egress: [{ hosts: ['./*'] }]";
    shop.apply(&format!("{only_own} }}\n")).await;
    eventually("what is not imported is refused", async || {
        (shop.ask_from("web", &elsewhere).await.status == 502).then_some(())
    })
    .await;
    assert_eq!(shop.ask_from("web", &["http://pay/"]).await.status, 200);

    shop.apply(&format!("{only_own}, outboundTrafficPolicy: {{ mode: ALLOW_ANY }} }}\n")).await;
    shop.served_to("web", &elsewhere).await;
    let passed = ["destination_service_name=\"PassthroughCluster\"", "response_code=\"200\""];
    eventually("it is told apart from what is known", async || {
        (!shop.metrics("web", &passed).await.is_empty()).then_some(())
    })
    .await;
}

async fn a_pod_that_cannot_have_a_sidecar_is_refused_with_the_reason(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let test = cluster.asking_for_sidecars("wrong").await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wrong",
        "annotations": {"traffic.sidecar.istio.io/excludeOutboundPorts": "many"}},
        "spec": {"containers": [{"name": "app", "image": app::IMAGE}]}});
    let output = test.try_apply(&pod.to_string()).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("excludeOutboundPorts]: \"many\" is not a port"), "{told}");
    assert_eq!(test.kubectl(&["get", "pods", "--output", "name"]).await, "");
}
