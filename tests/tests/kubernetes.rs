//! Weir in a real cluster: installed by its charts, configured by `kubectl apply`, asked through the
//! address of its load balancer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{collections::BTreeMap, fs, net::SocketAddr, sync::Arc, time::Duration};

use http::Version;
use serde_json::json;
use tokio::{sync::OnceCell, task::JoinSet, time::sleep};
use weir_tests::{
    certs::Authority,
    client::http::{Connection, Reply, Request},
    cluster::{
        Cluster, Namespace, app,
        weir::{INGRESS, INGRESS_GATEWAY, SYSTEM},
    },
    eventually::{eventually, eventually_eq},
    jwt::Issuer,
};

weir_tests::cluster_suite! {
    nodes: 1;
    a_canary_moves_while_it_is_served,
    requests_are_routed_by_header,
    tls_comes_from_a_secret_and_follows_its_rotation,
    a_secret_of_another_namespace_is_not_served,
    a_token_is_required_where_the_policy_says_so,
    a_gateway_serves_what_selects_it_and_no_other,
    a_virtual_service_of_another_namespace_needs_permission,
    a_wrong_object_is_refused_with_every_field,
    what_became_of_an_object_is_in_its_status,
    a_gateway_starts_from_its_copy_while_the_controller_is_away,
    nothing_fails_while_everything_is_replaced,
}

/// The installation all tests share, and the Gateway most of them use: port 80, every host.
async fn installed(cluster: &Cluster) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED
        .get_or_init(async || {
            cluster.load_app().await;
            cluster.install_weir().await;
            let gateway = gateway("public", "ingressgateway", "*");
            eventually("the webhook lets a Gateway pass", async || {
                let output = cluster.existing(INGRESS).try_apply(&gateway).await;
                output.status.success().then_some(())
            })
            .await;
        })
        .await;
}

/// A Gateway for plain HTTP.
fn gateway(name: &str, selected: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: {name} }}\nspec:\n  \
         selector: {{ istio: {selected} }}\n  servers:\n  \
         - {{ port: {{ number: 80, name: http, protocol: HTTP }}, hosts: ['{host}'] }}\n"
    )
}

/// A VirtualService of the shared Gateway.
fn virtual_service(host: &str, gateway: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: web }}\nspec:\n  \
         hosts: [{host}]\n  gateways: [{gateway}]\n  http: {http}\n"
    )
}

fn shared() -> String {
    format!("{INGRESS}/public")
}

fn to_web() -> &'static str {
    "[{ route: [{ destination: { host: web } }] }]"
}

/// A namespace with the application `web` in these versions.
async fn shop<'c>(cluster: &'c Cluster, name: &str, versions: &[&str]) -> Namespace<'c> {
    installed(cluster).await;
    let namespace = cluster.namespace(name).await;
    for version in versions {
        namespace.apply(&app::manifest("web", version, 1)).await;
    }
    for version in versions {
        namespace.rolled_out(&format!("web-{version}")).await;
    }
    namespace
}

/// A `web` that is divided into the subsets v1 and v2.
async fn divided<'c>(cluster: &'c Cluster, name: &str) -> Namespace<'c> {
    let shop = shop(cluster, name, &["v1", "v2"]).await;
    shop.apply(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: { name: web }\n\
         spec: { host: web, subsets: [{ name: v1, labels: { version: v1 } }, \
         { name: v2, labels: { version: v2 } }] }\n",
    )
    .await;
    shop
}

async fn ask(address: SocketAddr, request: &Request) -> anyhow::Result<Reply> {
    Connection::http1_to(address).await?.send(request).await
}

async fn status(address: SocketAddr, host: &str) -> Option<u16> {
    ask(address, &Request::get(host, "/")).await.ok().map(|reply| reply.status)
}

async fn served(address: SocketAddr, host: &str) {
    eventually(&format!("{host} is served"), async || {
        (status(address, host).await == Some(200)).then_some(())
    })
    .await;
}

fn weighted(first: u8) -> String {
    format!(
        "[{{ route: [{{ destination: {{ host: web, subset: v1 }}, weight: {first} }}, \
         {{ destination: {{ host: web, subset: v2 }}, weight: {} }}] }}]",
        100 - first
    )
}

/// How many of 400 requests v1 answers.
async fn answered_by_v1(address: SocketAddr, host: &str) -> usize {
    let mut connection = Connection::http1_to(address).await.unwrap();
    let mut count = 0;
    for _ in 0..400 {
        let reply = connection.send(&Request::get(host, "/")).await.unwrap();
        assert_eq!(reply.status, 200);
        count += usize::from(reply.backend() == "v1");
    }
    count
}

async fn a_canary_moves_while_it_is_served(cluster: Arc<Cluster>) {
    let shop = divided(&cluster, "canary").await;
    let apply = async |first| {
        shop.apply(&virtual_service("canary.test", &shared(), &weighted(first))).await;
    };
    let address = cluster.ingress(80).await;
    apply(90).await;
    served(address, "canary.test").await;
    // Six standard deviations to either side.
    let count = answered_by_v1(address, "canary.test").await;
    assert!((324..=396).contains(&count), "{count} of 400 at 90 percent");
    apply(50).await;
    eventually("half of the requests go to each", async || {
        let count = answered_by_v1(address, "canary.test").await;
        (140..=260).contains(&count).then_some(())
    })
    .await;
}

async fn requests_are_routed_by_header(cluster: Arc<Cluster>) {
    let shop = divided(&cluster, "header").await;
    let http = "[{ match: [{ headers: { x-group: { exact: beta } } }], \
                route: [{ destination: { host: web, subset: v2 } }] }, \
                { route: [{ destination: { host: web, subset: v1 } }] }]";
    shop.apply(&virtual_service("header.test", &shared(), http)).await;
    let address = cluster.ingress(80).await;
    served(address, "header.test").await;
    for _ in 0..10 {
        let plain = ask(address, &Request::get("header.test", "/")).await.unwrap();
        assert_eq!(plain.backend(), "v1");
        let beta = Request::get("header.test", "/").header("x-group", "beta");
        assert_eq!(ask(address, &beta).await.unwrap().backend(), "v2");
    }
    let mut http2 = Connection::http2_to(address).await.unwrap();
    let message = b"\0\0\0\0\x05hello".to_vec();
    let call = Request::post("header.test", "/any.Service/Method", message.clone())
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let reply = http2.send(&call).await.unwrap();
    assert_eq!((reply.version, &reply.body[..]), (Version::HTTP_2, &message[..]));
    assert_eq!(reply.trailers.unwrap()["grpc-status"], "0");
}

fn tls_gateway(name: &str, host: &str, credential: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: {name} }}\nspec:\n  \
         selector: {{ istio: ingressgateway }}\n  servers:\n  \
         - port: {{ number: 443, name: https-{name}, protocol: HTTPS }}\n    hosts: [{host}]\n    \
         tls: {{ mode: SIMPLE, credentialName: {credential} }}\n"
    )
}

fn secret(name: &str, authority: &Authority, host: &str) -> String {
    let identity = authority.server(&[host]);
    let data = json!({"tls.crt": identity.certificate, "tls.key": identity.key});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": name}, "stringData": data});
    secret.to_string()
}

async fn tls_comes_from_a_secret_and_follows_its_rotation(cluster: Arc<Cluster>) {
    let shop = shop(&cluster, "tls", &["v1"]).await;
    let ingress = cluster.existing(INGRESS);
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    ingress.apply(&secret("tls-test", &first, "tls.test")).await;
    ingress.apply(&tls_gateway("tls", "tls.test", "tls-test")).await;
    shop.apply(&virtual_service("tls.test", &format!("{INGRESS}/tls"), to_web())).await;
    let address = cluster.ingress(443).await;
    let answer = async |authority: &Authority| {
        let tls = authority.client_config(None, &["h2", "http/1.1"]);
        let mut connection = Connection::tls_to(address, &tls, "tls.test").await.ok()?;
        let reply = connection.send(&Request::get("tls.test", "/").https()).await.ok()?;
        Some((reply.status, reply.version))
    };
    let good = Some((200, Version::HTTP_2));
    eventually_eq(good, async || answer(&first).await).await;
    assert_eq!(answer(&second).await, None);
    ingress.apply(&secret("tls-test", &second, "tls.test")).await;
    eventually_eq(good, async || answer(&second).await).await;
    assert_eq!(answer(&first).await, None);
}

async fn a_secret_of_another_namespace_is_not_served(cluster: Arc<Cluster>) {
    let tenant = shop(&cluster, "tenant", &["v1"]).await;
    let ingress = cluster.existing(INGRESS);
    let (own, others) = (Authority::new("own"), Authority::new("others"));
    // The tenant asks the shared gateway for a certificate by a name that the ingress namespace has not.
    tenant.apply(&secret("stolen", &others, "stolen.test")).await;
    tenant.apply(&tls_gateway("stolen", "stolen.test", "stolen")).await;
    ingress.apply(&secret("own", &own, "own.test")).await;
    ingress.apply(&tls_gateway("own", "own.test", "own")).await;
    tenant.apply(&virtual_service("own.test", &format!("{INGRESS}/own"), to_web())).await;
    let address = cluster.ingress(443).await;
    let connect = async |authority: &Authority, name: &str| {
        let tls = authority.client_config(None, &["http/1.1"]);
        Connection::tls_to(address, &tls, name).await.is_ok()
    };
    eventually_eq(true, async || connect(&own, "own.test").await).await;
    assert!(!connect(&others, "stolen.test").await);
}

async fn a_token_is_required_where_the_policy_says_so(cluster: Arc<Cluster>) {
    let shop = shop(&cluster, "token", &["v1"]).await;
    let issuer = Issuer::new("https://issuer.test", "k1");
    let selector = json!({"matchLabels": {"istio": "ingressgateway"}});
    let authentication = json!({"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "token"}, "spec": {"selector": selector,
            "jwtRules": [{"issuer": "https://issuer.test", "jwks": issuer.jwks()}]}});
    let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "token"}, "spec": {"selector": selector, "action": "DENY",
            "rules": [{"from": [{"source": {"notRequestPrincipals": ["*"]}}],
                "to": [{"operation": {"hosts": ["token.test"]}}]}]}});
    let ingress = cluster.existing(INGRESS);
    ingress.apply(&authentication.to_string()).await;
    ingress.apply(&policy.to_string()).await;
    shop.apply(&virtual_service("token.test", &shared(), to_web())).await;
    let address = cluster.ingress(80).await;
    eventually_eq(Some(403), async || status(address, "token.test").await).await;
    let with = async |token: &str| {
        let bearer = format!("Bearer {token}");
        let request = Request::get("token.test", "/").header("authorization", &bearer);
        ask(address, &request).await.unwrap().status
    };
    assert_eq!(with(&issuer.token("alice", json!({}))).await, 200);
    assert_eq!(with(&issuer.token("alice", json!({"exp": 1}))).await, 401);
    let other = Issuer::new("https://issuer.test", "k1");
    assert_eq!(with(&other.token("alice", json!({}))).await, 401);
}

async fn a_gateway_serves_what_selects_it_and_no_other(cluster: Arc<Cluster>) {
    let shop = shop(&cluster, "second", &["v1"]).await;
    cluster.install_gateway("istio-second", "second-ingress", &[]).await;
    let second = cluster.existing("second-ingress");
    second.apply(&gateway("second", "second", "*")).await;
    shop.apply(&virtual_service("second.test", "second-ingress/second", to_web())).await;
    let address = second.balanced("istio-second", 80).await;
    served(address, "second.test").await;
    let first = cluster.ingress(80).await;
    assert_eq!(status(first, "second.test").await, Some(404));
}

async fn a_virtual_service_of_another_namespace_needs_permission(cluster: Arc<Cluster>) {
    let (allowed, denied) =
        tokio::join!(shop(&cluster, "allowed", &["v1"]), shop(&cluster, "denied", &["v1"]));
    let ingress = cluster.existing(INGRESS);
    let only = gateway("only", "ingressgateway", "allowed/*.only.test");
    ingress.apply(&only.replace("number: 80, name: http", "number: 80, name: http-only")).await;
    let only = format!("{INGRESS}/only");
    denied.apply(&virtual_service("denied.only.test", &only, to_web())).await;
    allowed.apply(&virtual_service("allowed.only.test", &only, to_web())).await;
    let address = cluster.ingress(80).await;
    served(address, "allowed.only.test").await;
    assert_eq!(status(address, "denied.only.test").await, Some(404));
    // Nor may it be sent to what is exported to its own namespace alone.
    let borrowed = "[{ route: [{ destination: { host: web.denied.svc.cluster.local } }] }]";
    denied.kubectl(&["annotate", "service", "web", "networking.istio.io/exportTo=."]).await;
    allowed.apply(&virtual_service("allowed.only.test", &only, borrowed)).await;
    eventually_eq(Some(503), async || status(address, "allowed.only.test").await).await;
}

async fn a_wrong_object_is_refused_with_every_field(cluster: Arc<Cluster>) {
    installed(&cluster).await;
    let test = cluster.namespace("wrong").await;
    let http = "[{ timeout: '1', route: [{ destination: { host: web } }] }, \
                { match: [{ uri: { regex: '(' } }], route: [{ destination: { host: web } }] }]";
    let refused = test.try_apply(&virtual_service("wrong.test", &shared(), http)).await;
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{told}");
    for field in ["spec.http[0].timeout", "spec.http[1].match[0].uri.regex"] {
        assert!(told.contains(field), "{field} is not in {told}");
    }
    assert_eq!(test.kubectl(&["get", "virtualservices", "--output", "name"]).await, "");
}

async fn what_became_of_an_object_is_in_its_status(cluster: Arc<Cluster>) {
    installed(&cluster).await;
    let test = cluster.namespace("status").await;
    test.apply(&virtual_service("status.test", &shared(), to_web())).await;
    let written = eventually("there is a status", async || {
        let object = test.get("virtualservice/web").await;
        object["status"]["conditions"][0].is_object().then_some(object)
    })
    .await;
    let condition = &written["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("Accepted"), &json!("True")));
    assert_eq!(written["status"]["observedGeneration"], written["metadata"]["generation"]);
}

/// The process of a container, as the host sees it.
fn process_of(program: &str, pod: &str) -> u32 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let environment = fs::read(process.path().join("environ")).ok()?;
        let name = format!("POD_NAME={pod}");
        let is_program = line.split(|byte| *byte == 0).next()?.ends_with(program.as_bytes());
        let is_pod = environment.split(|byte| *byte == 0).any(|it| it == name.as_bytes());
        (is_program && is_pod).then_some(pid)
    });
    let pid = found.next().unwrap_or_else(|| panic!("no {program} in pod {pod}"));
    assert_eq!(found.next(), None);
    pid
}

async fn a_gateway_starts_from_its_copy_while_the_controller_is_away(_: Arc<Cluster>) {
    // Other tests need their controller.
    let name = format!("copy-{}", std::process::id());
    let up = tokio::task::spawn_blocking(move || Cluster::up(&name, 1));
    let cluster = up.await.unwrap().unwrap();
    cluster.load_app().await;
    cluster.install_weir().await;
    let ingress = cluster.existing(INGRESS);
    let shop = cluster.namespace("shop").await;
    shop.apply(&app::manifest("web", "v1", 1)).await;
    shop.rolled_out("web-v1").await;
    ingress.apply(&gateway("public", "ingressgateway", "*")).await;
    shop.apply(&virtual_service("copy.test", &shared(), to_web())).await;
    let address = cluster.ingress(80).await;
    served(address, "copy.test").await;

    let system = cluster.existing(SYSTEM);
    system.kubectl(&["scale", "deployment/weir-controller", "--replicas=0"]).await;
    eventually("the controller is gone", async || {
        system.kubectl(&["get", "pods", "--output", "name"]).await.is_empty().then_some(())
    })
    .await;
    assert_eq!(status(address, "copy.test").await, Some(200));
    let [pod] = &ingress.pods(INGRESS_GATEWAY).await[..] else { panic!("one gateway") };
    let pid = process_of("weir-gateway", pod);
    let killed = tokio::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.await.unwrap().success());
    eventually("the container was restarted", async || {
        let pod = ingress.get(&format!("pod/{pod}")).await;
        let status = &pod["status"]["containerStatuses"][0];
        (status["restartCount"] == 1 && status["ready"] == true).then_some(())
    })
    .await;
    served(address, "copy.test").await;
    cluster.down().unwrap();
}

/// What came of the requests of a minute or so.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    failures: BTreeMap<String, usize>,
}

/// Asks about `rate` times a second on connections of each kind, until told to end.
async fn load(address: SocketAddr, host: &str, rate: u32, ended: Arc<OnceCell<()>>) -> Tally {
    let mut tally = Tally::default();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut http2: Option<Connection> = None;
    let mut requests = JoinSet::new();
    let mut turn = 0_usize;
    while !ended.initialized() {
        tick.tick().await;
        turn += 1;
        let mut request = Request::get(host, "/");
        if turn.is_multiple_of(3) {
            request = Request::post(host, "/any.Service/Method", b"\0\0\0\0\x05hello".to_vec())
                .header("content-type", "application/grpc")
                .header("te", "trailers");
        }
        // Every third request is one of its own, the others share an HTTP/2 connection for as long as
        // the gateway keeps it.
        let connection = if turn % 3 == 1 {
            None
        } else {
            if http2.as_ref().is_none_or(Connection::is_closed) {
                http2 = Connection::http2_to(address).await.ok();
            }
            http2.as_ref().map(Connection::share)
        };
        requests.spawn(async move {
            let reply = match connection {
                Some(mut connection) => connection.send(&request).await,
                None => ask(address, &request).await,
            };
            match reply {
                Ok(reply) if reply.status == 200 => Ok(()),
                Ok(reply) => Err(format!("{} {}", reply.status, reply.text())),
                Err(error) => Err(format!("{error:#}")),
            }
        });
        while let Some(done) = requests.try_join_next() {
            count(&mut tally, done.unwrap());
        }
    }
    while let Some(done) = requests.join_next().await {
        count(&mut tally, done.unwrap());
    }
    tally
}

fn count(tally: &mut Tally, outcome: Result<(), String>) {
    match outcome {
        Ok(()) => tally.answered += 1,
        Err(failure) => *tally.failures.entry(failure).or_default() += 1,
    }
}

async fn nothing_fails_while_everything_is_replaced(_: Arc<Cluster>) {
    let name = format!("replaced-{}", std::process::id());
    let up = tokio::task::spawn_blocking(move || Cluster::up(&name, 1));
    let cluster = Arc::new(up.await.unwrap().unwrap());
    cluster.load_app().await;
    cluster.install_weir().await;
    cluster.install_gateway(INGRESS_GATEWAY, INGRESS, &["replicaCount=3"]).await;
    let (ingress, system) = (cluster.existing(INGRESS), cluster.existing(SYSTEM));
    let shop = cluster.namespace("shop").await;
    shop.apply(&app::manifest("web", "v1", 2)).await;
    shop.rolled_out("web-v1").await;
    ingress.apply(&gateway("public", "ingressgateway", "*")).await;
    shop.apply(&virtual_service("steady.test", &shared(), to_web())).await;
    let address = cluster.ingress(80).await;
    served(address, "steady.test").await;
    ingress.rolled_out(INGRESS_GATEWAY).await;
    // Every gateway has it.
    sleep(Duration::from_secs(2)).await;

    let ended = Arc::new(OnceCell::new());
    let running = tokio::spawn(load(address, "steady.test", 100, Arc::clone(&ended)));
    for (namespace, deployment) in
        [(&shop, "web-v1"), (&system, "weir-controller"), (&ingress, INGRESS_GATEWAY)]
    {
        let deployment_name = format!("deployment/{deployment}");
        namespace.kubectl(&["rollout", "restart", &deployment_name]).await;
        namespace.rolled_out(deployment).await;
    }
    for i in 0..50 {
        let http = format!(
            "[{{ headers: {{ response: {{ set: {{ x-edit: '{i}' }} }} }}, {}",
            &to_web()[2..]
        );
        shop.apply(&virtual_service("steady.test", &shared(), &http)).await;
    }
    let edited = Request::get("steady.test", "/");
    eventually("the last edit is live", async || {
        let reply = ask(address, &edited).await.ok()?;
        (reply.header("x-edit") == Some("49")).then_some(())
    })
    .await;
    system.kubectl(&["scale", "deployment/weir-controller", "--replicas=0"]).await;
    cluster.stop("control", "kube-apiserver").await;
    sleep(Duration::from_secs(10)).await;
    cluster.resume("control", "kube-apiserver").await;
    eventually("the API server answers", async || {
        cluster.try_kubectl(&["get", "namespaces"], "").await.status.success().then_some(())
    })
    .await;
    system.kubectl(&["scale", "deployment/weir-controller", "--replicas=1"]).await;
    system.rolled_out("weir-controller").await;
    ended.set(()).unwrap();
    let tally = running.await.unwrap();
    assert_eq!(tally.failures, BTreeMap::new(), "beside {} answers", tally.answered);
    assert!(tally.answered > 1000, "{} answers", tally.answered);
    cluster.down().unwrap();
}
