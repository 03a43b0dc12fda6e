//! The controller as the certificate authority: what it publishes is what its gateways need.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    ffi::OsString,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use weir_tests::{
    client::discovery::channel,
    config::Config,
    controller::{Controller, NAME, Options},
    eventually::{eventually, eventually_eq, eventually_within},
    gateway::{Gateway, Launch},
    kube::ApiServer,
};

mod clocks;

const ROOT: &str = "istio-ca-root-cert";

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// Namespace `edge` with a Gateway on this port, and a route that answers `served`.
fn objects(port: u16) -> Vec<Value> {
    let istio = |kind: &str, name: &str, spec: Value| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "edge"}, "spec": spec})
    };
    let server =
        json!({"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]});
    let gateway = json!({"selector": {"istio": "ingressgateway"}, "servers": [server]});
    let rule = json!({"directResponse": {"status": 200, "body": {"string": "served"}}});
    let route = json!({"hosts": ["a.test"], "gateways": ["gw"], "http": [rule]});
    vec![
        namespace("edge"),
        namespace("weir-system"),
        istio("Gateway", "gw", gateway),
        istio("VirtualService", "a", route),
    ]
}

/// The roots that pods of this namespace mount.
async fn roots(server: &ApiServer, namespace: &str) -> String {
    eventually(&format!("the roots are in namespace {namespace}"), async || {
        let map = server.find("ConfigMap", namespace, ROOT)?;
        Some(map["data"]["root-cert.pem"].as_str()?.to_owned())
    })
    .await
}

/// What kubelet gives a pod of this service account in `edge`.
struct Pod {
    dir: TempDir,
    account: String,
}

impl Pod {
    async fn new(server: &ApiServer, account: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("root-cert.pem"), roots(server, "edge").await).unwrap();
        let token = server.token("istio-ca", "edge", account, None);
        fs::write(dir.path().join("istio-token"), token).unwrap();
        Self { dir, account: account.to_owned() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn gateway(&self, controller: &Controller, config: Config) -> Launch {
        let address = format!("127.0.0.1:{}", controller.discovery_port());
        let arguments: [(&str, OsString); 6] = [
            ("--discovery", address.into()),
            ("--discovery-name", NAME.into()),
            ("--discovery-root", self.file("root-cert.pem").into()),
            ("--discovery-token", self.file("istio-token").into()),
            ("--namespace", "edge".into()),
            ("--service-account", (&*self.account).into()),
        ];
        let source = arguments.into_iter().flat_map(|(name, value)| [name.into(), value]);
        Launch::from_source(config, source.collect())
    }
}

async fn start() -> (ApiServer, Controller, Config) {
    let mut config = Config::new();
    let server = ApiServer::start().await;
    server.apply(objects(config.port("http")));
    let controller = Controller::start_with_own_authority(&server).await;
    (server, controller, config)
}

async fn serves(gateway: &mut Gateway) {
    eventually_eq((200, "served".to_owned()), async || {
        let reply = gateway.get("a.test", "/").await;
        (reply.status, reply.text().to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_trusts_the_controller_by_the_published_root_and_is_given_a_certificate() {
    let (server, controller, config) = start().await;
    let pod = Pod::new(&server, "gateway").await;
    let mut gateway = pod.gateway(&controller, config).start().await;
    serves(&mut gateway).await;
    let line = gateway.log_line("the workload has a new certificate").await;
    assert!(line.contains("spiffe://cluster.local/ns/edge/sa/gateway"), "{line}");
    let page = controller.page("/metrics").await;
    let issued = "citadel_server_success_cert_issuance_count 1";
    assert!(page.text().lines().any(|line| line == issued), "{}", page.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_given_a_certificate_of_another() {
    let (server, controller, config) = start().await;
    let mut pod = Pod::new(&server, "gateway").await;
    pod.account = "admin".to_owned();
    let mut gateway = pod.gateway(&controller, config).start().await;
    let line = gateway.log_line("the authority does not sign for").await;
    assert!(line.contains("spiffe://cluster.local/ns/edge/sa/admin (PermissionDenied)"), "{line}");
    serves(&mut gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_is_kept_and_found_again_by_every_replica() {
    let (server, controller, _config) = start().await;
    let first = roots(&server, "edge").await;
    let secret = server.find("Secret", "weir-system", "istio-ca-secret").unwrap();
    let certificate = STANDARD.decode(secret["data"]["ca-cert.pem"].as_str().unwrap()).unwrap();
    assert_eq!(String::from_utf8(certificate).unwrap(), first);
    assert_eq!(secret["type"], "istio.io/ca-root");

    drop(controller);
    server.delete("ConfigMap", "edge", ROOT);
    let _other = Controller::start_with_own_authority(&server).await;
    assert_eq!(roots(&server, "edge").await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_replicas_that_start_at_the_same_moment_one_makes_the_root_of_all() {
    let server = ApiServer::start().await;
    let mut config = Config::new();
    server.apply(objects(config.port("http")));
    // Each of them finds that there is none.
    server.gather("/api/v1/namespaces/weir-system/secrets/istio-ca-secret", 3);
    let replica = || Controller::start_with_own_authority(&server);
    let (a, b, c) = tokio::join!(replica(), replica(), replica());
    let root = roots(&server, "edge").await;
    let secret = server.find("Secret", "weir-system", "istio-ca-secret").unwrap();
    let certificate = STANDARD.decode(secret["data"]["ca-cert.pem"].as_str().unwrap()).unwrap();
    assert_eq!(String::from_utf8(certificate).unwrap(), root);

    let mut tls = client_trusting(&root);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    for replica in [&a, &b, &c] {
        eventually("the replica shows a certificate of that root", async || {
            channel(replica.discovery_port(), &tls).await.ok()
        })
        .await;
    }
    let asked = server.requests();
    let made = asked
        .iter()
        .filter(|request| request.starts_with("POST /api/v1/namespaces/weir-system/secrets"));
    assert_eq!(made.count(), 3, "all of them tried");
}

fn client_trusting(root: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_mesh_is_all_a_gateway_needs() {
    let mut config = Config::new();
    let server = ApiServer::start().await;
    server.apply(objects(config.port("http")));
    let controller = Controller::start(&server).await;
    let mesh = controller.authority();
    let identity = mesh.client(&["spiffe://cluster.local/ns/edge/sa/gateway"]);
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str| files.path().join(name);
    fs::write(file("cert-chain.pem"), &identity.certificate).unwrap();
    fs::write(file("key.pem"), &identity.key).unwrap();
    fs::write(file("root-cert.pem"), mesh.root()).unwrap();
    let address = format!("127.0.0.1:{}", controller.discovery_port());
    let arguments: [(&str, OsString); 7] = [
        ("--discovery", address.into()),
        ("--discovery-name", NAME.into()),
        ("--discovery-root", file("root-cert.pem").into()),
        ("--discovery-token", file("no-token").into()),
        ("--identity-files", files.path().into()),
        ("--namespace", "edge".into()),
        ("--service-account", "gateway".into()),
    ];
    let source = arguments.into_iter().flat_map(|(name, value)| [name.into(), value]);
    let mut gateway = Launch::from_source(config, source.collect()).start().await;
    serves(&mut gateway).await;
    let reviews = server.requests().into_iter().filter(|asked| asked.contains("tokenreviews"));
    assert_eq!(reviews.count(), 0, "nobody showed a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_namespace_has_the_roots_and_those_of_kubernetes_do_not() {
    let (server, _controller, _config) = start().await;
    let root = roots(&server, "edge").await;
    server.apply([namespace("kube-system"), namespace("later")]);
    assert_eq!(roots(&server, "later").await, root);
    assert_eq!(server.find("ConfigMap", "kube-system", ROOT), None);
}

/// A root that has been one for so many days of the 365 it lives, PEM, and its key.
fn root(age: u32) -> (String, KeyPair) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "company");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (SystemTime::now() - age * DAY).into();
    params.not_after = (SystemTime::now() + (365 - age) * DAY).into();
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key)
}

/// A Secret of the controller's namespace.
fn secret(name: &str, data: &[(&str, &str)]) -> Value {
    let data = data.iter().map(|(name, text)| ((*name).to_owned(), json!(STANDARD.encode(text))));
    let data: serde_json::Map<String, Value> = data.collect();
    json!({"apiVersion": "v1", "kind": "Secret", "data": data,
        "metadata": {"name": name, "namespace": "weir-system"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugged_in_authority_goes_before_our_own() {
    let (root, key) = root(0);
    let data = [
        ("ca-cert.pem", &*root),
        ("ca-key.pem", &key.serialize_pem()),
        ("root-cert.pem", &root),
        ("cert-chain.pem", &root),
    ];
    let mut config = Config::new();
    let server = ApiServer::start().await;
    server.apply(objects(config.port("http")));
    server.apply([secret("cacerts", &data)]);
    let controller = Controller::start_with_own_authority(&server).await;
    assert_eq!(roots(&server, "edge").await, root);
    assert_eq!(server.find("Secret", "weir-system", "istio-ca-secret"), None);
    let pod = Pod::new(&server, "gateway").await;
    let mut gateway = pod.gateway(&controller, config).start().await;
    serves(&mut gateway).await;
}

/// Every way in which the secret part of a key may be written: the scalar of the curve, 32 bytes of its
/// encoding (RFC 5208). What comes after it in there is the public key, which is in certificates too.
fn spellings(key: &KeyPair) -> Vec<String> {
    const AT: usize = 36;
    let der = key.serialize_der();
    let scalar = &der[AT..AT + 32];
    assert_eq!(der[AT - 2..AT], [4, 32], "an octet string of 32 bytes");
    let hex = |separator: &str| {
        let digits: Vec<String> = scalar[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        digits.join(separator)
    };
    let listed: Vec<String> = scalar[..8].iter().map(ToString::to_string).collect();
    let mut spellings = vec![hex(""), hex(":"), hex(" "), hex("\\x"), listed.join(", ")];
    spellings.extend(key.serialize_pem().lines().nth(1).map(str::to_owned));
    // Base64 of the key as it is, and of its PEM as a Secret has it, wherever three bytes begin.
    for text in [der.clone(), key.serialize_pem().into_bytes(), scalar.to_vec()] {
        let secret = if text == der { AT..AT + 32 } else { 0..text.len() };
        for from in 0..3 {
            let part = &text[secret.start + from..secret.end];
            let encoded = STANDARD.encode(&part[..part.len() / 3 * 3]);
            let window = encoded.len().min(4 * 8);
            spellings.push(encoded[encoded.len() - window..].to_owned());
        }
    }
    spellings
}

/// What the controller has logged has nothing of the key, in any spelling.
fn keeps(controller: &Controller, key: &KeyPair) {
    let log = controller.log();
    let lower = log.to_ascii_lowercase();
    for spelling in spellings(key) {
        assert!(!log.contains(&spelling), "{spelling}");
        assert!(!lower.contains(&spelling.to_ascii_lowercase()), "{spelling}");
    }
}

/// The key under that name in our own root's Secret.
fn stored(server: &ApiServer, name: &str) -> Option<KeyPair> {
    let secret = server.find("Secret", "weir-system", "istio-ca-secret")?;
    let pem = STANDARD.decode(secret["data"][name].as_str()?).ok()?;
    KeyPair::from_pem(&String::from_utf8(pem).ok()?).ok()
}

/// Everything it says, and everything its libraries say, also those that quote answers they cannot read.
const TALKATIVE: &[&str] = &["--log-level", "trace,kube_client=trace,kube_client::client=warn"];

fn talkative<'a>(arguments: &'a [&'a str]) -> Options<'a> {
    Options { is_own_authority: true, arguments, ..Options::default() }
}

/// Hardening C07.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_our_own_root_is_never_logged_while_it_signs_and_is_succeeded() {
    let mut config = Config::new();
    let server = ApiServer::start().await;
    server.apply(objects(config.port("http")));
    // It has signed for more than two thirds of its life.
    let (certificate, first) = root(300);
    let data = [("ca-cert.pem", &*certificate), ("ca-key.pem", &first.serialize_pem())];
    server.apply([secret("istio-ca-secret", &data)]);
    let lifetimes = ["--workload-cert-ttl", "60s", "--max-workload-cert-ttl", "60s"];
    let arguments = [TALKATIVE, &lifetimes].concat();
    let controller = Controller::start_with(&server, &talkative(&arguments)).await;
    let pod = Pod::new(&server, "gateway").await;
    let mut gateway = pod.gateway(&controller, config).start().await;
    serves(&mut gateway).await;
    // On a machine that is busy it may sign already.
    let is_another = |key: &KeyPair| key.serialize_pem() != first.serialize_pem();
    let second = eventually("a successor", async || {
        let current = stored(&server, "ca-key.pem").filter(is_another);
        stored(&server, "next-key.pem").or(current)
    })
    .await;
    let signs = async || stored(&server, "ca-key.pem").map(|key| key.serialize_pem());
    eventually_within(Duration::from_secs(120), "the successor signs", async || {
        (signs().await == Some(second.serialize_pem())).then_some(())
    })
    .await;
    controller.log_line("certificates are signed by another authority").await;
    assert!(controller.log().contains("issued a certificate"), "the log is one of everything");
    for key in [&first, &second] {
        keeps(&controller, key);
    }
}

/// Hardening C07.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugged_in_key_is_never_logged_whether_it_can_be_used_or_not() {
    let mut config = Config::new();
    let server = ApiServer::start().await;
    server.apply(objects(config.port("http")));
    let (root, key) = root(0);
    let (_, another) = self::root(0);
    let pem = key.serialize_pem();
    let plug_in = |pem: &str| {
        let chain = [("tls.crt", &*root), ("tls.key", pem), ("ca.crt", &root)];
        server.apply([secret("cacerts", &chain)]);
    };
    // One that belongs to another certificate, one with its end cut off, and one that is no PEM.
    plug_in(&another.serialize_pem());
    let controller = Controller::start_with(&server, &talkative(TALKATIVE)).await;
    controller.log_line("the key does not belong to the certificate").await;
    let cut: String = pem.chars().take(pem.len() * 3 / 4).collect();
    for wrong in [&*cut, &pem.replace("-----", "")] {
        let said = controller.log().matches("the authority stays as it is").count();
        plug_in(wrong);
        eventually("another problem", async || {
            let now = controller.log().matches("the authority stays as it is").count();
            (now > said || controller.log().contains("read the authority's key")).then_some(())
        })
        .await;
    }
    // What no API server sends: a text where entries are. Readers of JSON quote what they did not expect.
    let mut text = secret("cacerts", &[]);
    text["data"] = json!(pem);
    server.apply([text]);
    controller.log_line("what is sent as Secret cacerts is none").await;
    plug_in(&pem);
    let pod = Pod::new(&server, "gateway").await;
    let mut gateway = pod.gateway(&controller, config).start().await;
    serves(&mut gateway).await;
    controller.log_line("issued a certificate").await;
    for key in [&key, &another] {
        keeps(&controller, key);
    }
}
