//! The way out of the cluster: one gateway, installed as `docs/egress.md` says, and the examples of
//! `examples/egress` as they are, with a namespace of the cluster that plays the internet.

use serde_json::json;
use weir_tests::certs::Authority;

use super::*;

const INTERNET: &str = "internet";
const EGRESS: &str = "istio-egress";
const EGRESS_GATEWAY: &str = "istio-egressgateway";
/// Its workloads may leave, or not; in the examples it is called `shop`.
const INSIDE: &str = "inside";

pub async fn outside_hosts_are_reached_by_who_may_and_only_over_the_gateway(cluster: Arc<Cluster>) {
    let _controller = CONTROLLER.read().await;
    mesh(&cluster).await;
    let public = Authority::new("public");
    let internet = internet(&cluster, &public).await;
    let inside = cluster.asking_for_sidecars(INSIDE).await;
    egress_gateway(&cluster, &public).await;
    trust(&inside, &public).await;
    for app in ["client", "other"] {
        inside.apply(&client(app)).await;
    }
    inside.apply(&without_sidecar("outsider")).await;
    for app in ["client", "other"] {
        inside.rolled_out(&format!("{app}-v1")).await;
    }
    inside.rolled_out("outsider-v1").await;
    flows(&cluster, &inside).await;
    nothing_goes_round_the_gateway(&inside, &internet).await;
}

async fn flows(cluster: &Cluster, inside: &Namespace<'_>) {
    let egress = cluster.existing(EGRESS);
    let client = identity(INSIDE, "client");
    let other = identity(INSIDE, "other");

    // The gateway makes TLS of HTTP, for one account and one path.
    egress.apply(&example("tls-origination/egress.yaml")).await;
    let answer = inside.served_to("client", &["http://api.example.com/v1/a"]).await;
    assert!(answer.body.contains("\"backend\":\"internet\""), "{}", answer.body);
    let refused = inside.ask_from("other", &["http://api.example.com/v1/a"]).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    let elsewhere = inside.ask_from("client", &["http://api.example.com/v2/a"]).await;
    assert_eq!(elsewhere.status, 403, "{}", elsewhere.body);
    let to_api = "outbound|443||api.example.com";
    logged(&egress, &["/v1/a", &client, "200", "api.example.com", to_api]).await;
    logged(&egress, &["/v1/a", &other, "403", "api.example.com", to_api]).await;
    egress.kubectl(&["delete", "gateway,virtualservice,authorizationpolicy", "--all"]).await;

    // TLS of the application passes it by server name, within the mesh's own, for the same account.
    egress.apply(&example("passthrough-mtls/egress.yaml")).await;
    let https = ["--cacert", "/public/ca.crt", "https://www.example.com/"];
    let answer = inside.served_to("client", &https).await;
    assert!(answer.body.contains("\"backend\":\"internet\""), "{}", answer.body);
    assert_eq!(inside.ask_from("other", &https).await.status, 0);
    let to_www = "www.example.com outbound|443||www.example.com";
    logged(&egress, &[&client, to_www]).await;
    logged(&egress, &[&other, to_www]).await;
}

/// Whoever has no sidecar, or leaves it out, is stopped by the network.
async fn nothing_goes_round_the_gateway(inside: &Namespace<'_>, internet: &Namespace<'_>) {
    // Where the mesh knows only its registry, the sidecar is what refuses.
    let direct = format!("https://{}:{APP_PORT}/", internet.pod_ip("server").await);
    let direct = ["--insecure", direct.as_str()];
    assert_eq!(inside.ask_from("client", &direct).await.status, 0);
    let sidecar = ["logs", &inside.pod("client").await, "--container=istio-proxy"];
    eventually("the sidecar says what it refused", async || {
        inside.kubectl(&sidecar).await.contains("BlackHoleCluster").then_some(())
    })
    .await;

    assert_eq!(inside.ask_from("outsider", &direct).await.status, 200);
    inside.apply(&example("network-policy.yaml")).await;
    eventually("the network refuses", async || {
        (inside.ask_from("outsider", &direct).await.status == 0).then_some(())
    })
    .await;
    let https = ["--cacert", "/public/ca.crt", "https://www.example.com/"];
    assert_eq!(inside.ask_from("client", &https).await.status, 200);
    // A sidecar that starts now gets at the controller, and at names.
    let client = inside.pod("client").await;
    inside.kubectl(&["delete", "pod", "--now", &client]).await;
    inside.rolled_out("client-v1").await;
    inside.served_to("client", &https).await;
}

/// A server with certificates that the mesh did not make.
async fn internet<'c>(cluster: &'c Cluster, public: &Authority) -> Namespace<'c> {
    let internet = cluster.namespace(INTERNET).await;
    let certificate = public.server(&["api.example.com", "www.example.com"]);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "server"},
        "stringData": {"tls.crt": certificate.certificate, "tls.key": certificate.key}});
    internet.apply(&secret.to_string()).await;
    let server = app::manifest("server", INTERNET, 1)
        .replace(
            "            - { name: VERSION",
            "            - { name: TLS, value: /tls }\n            - { name: VERSION",
        )
        .replace("port: http }, periodSeconds", "port: http, scheme: HTTPS }, periodSeconds")
        .replace("port: 80, targetPort", "port: 443, targetPort");
    internet.apply(&mounting(&server, "secret: { secretName: server }", "/tls")).await;
    internet.rolled_out(&format!("server-{INTERNET}")).await;
    internet
}

/// A file of the examples, of this test's namespace; names of the internet are those of its server.
fn example(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/egress");
    let text = fs::read_to_string(folder.join(file)).unwrap();
    let server = format!("server.{INTERNET}.svc.cluster.local");
    text.replace("shop", INSIDE).replace(
        "  resolution: DNS\n",
        &format!("  resolution: DNS\n  endpoints: [{{address: {server}}}]\n"),
    )
}

/// As `docs/egress.md` says; it trusts who signs for the internet.
async fn egress_gateway(cluster: &Cluster, public: &Authority) {
    trust(&cluster.namespace(EGRESS).await, public).await;
    let values = [
        "service.type=ClusterIP",
        "env.SSL_CERT_FILE=/public/ca.crt",
        "volumes[0].name=public",
        "volumes[0].configMap.name=public",
        "volumeMounts[0].name=public",
        "volumeMounts[0].mountPath=/public",
    ];
    cluster.install_gateway(EGRESS_GATEWAY, EGRESS, &values).await;
}

/// Gives a namespace the root of those who sign for the internet.
async fn trust(namespace: &Namespace<'_>, public: &Authority) {
    let root = format!("--from-literal=ca.crt={}", public.root());
    namespace.kubectl(&["create", "configmap", "public", &root]).await;
}

/// An application that trusts them too; its names are answered by its sidecar.
fn client(app: &str) -> String {
    let capture = "proxy.istio.io/config: 'proxyMetadata: { ISTIO_META_DNS_CAPTURE: \"true\" }'";
    let labels = "metadata: { labels: { app:";
    let annotated = format!("metadata: {{ annotations: {{ {capture} }}, labels: {{ app:");
    let manifest = manifest(app, "v1", 1).replace(labels, &annotated);
    mounting(&manifest, "configMap: { name: public }", "/public")
}

/// An application whose pods do without what the rest of the namespace has.
fn without_sidecar(app: &str) -> String {
    let labels = "metadata: { labels: { ";
    let without = format!("{labels}sidecar.istio.io/inject: \"false\", ");
    manifest(app, "v1", 1).replace(labels, &without)
}

fn mounting(manifest: &str, volume: &str, path: &str) -> String {
    let (containers, pull) = ("      containers:\n", "          imagePullPolicy: Never\n");
    let volumes = format!("      volumes: [{{ name: extra, {volume} }}]\n{containers}");
    let mounts = format!("{pull}          volumeMounts: [{{ name: extra, mountPath: {path} }}]\n");
    manifest.replace(containers, &volumes).replace(pull, &mounts)
}

/// The line of the gateway's log that has all of these parts.
async fn logged(egress: &Namespace<'_>, parts: &[&str]) {
    let gateway = format!("deployment/{EGRESS_GATEWAY}");
    eventually(&format!("the log has a line with {parts:?}"), async || {
        let log = egress.logs(&gateway).await;
        let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
        log.lines().any(has_all).then_some(())
    })
    .await;
}
