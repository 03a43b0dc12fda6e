//! The controller as the certificate authority: what it publishes is what its gateways need.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{ffi::OsString, fs, path::PathBuf, sync::Arc};

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
    controller::{Controller, NAME},
    eventually::{eventually, eventually_eq},
    gateway::{Gateway, Launch},
    kube::ApiServer,
};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_plugged_in_authority_goes_before_our_own() {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "company");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    let data = json!({
        "ca-cert.pem": STANDARD.encode(&root),
        "ca-key.pem": STANDARD.encode(key.serialize_pem()),
        "root-cert.pem": STANDARD.encode(&root),
        "cert-chain.pem": STANDARD.encode(&root),
    });
    let mut config = Config::new();
    let server = ApiServer::start().await;
    server.apply(objects(config.port("http")));
    let metadata = json!({"name": "cacerts", "namespace": "weir-system"});
    server
        .apply([json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})]);
    let controller = Controller::start_with_own_authority(&server).await;
    assert_eq!(roots(&server, "edge").await, root);
    assert_eq!(server.find("Secret", "weir-system", "istio-ca-secret"), None);
    let pod = Pod::new(&server, "gateway").await;
    let mut gateway = pod.gateway(&controller, config).start().await;
    serves(&mut gateway).await;
}
