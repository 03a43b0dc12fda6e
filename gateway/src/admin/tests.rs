//! Both ports, asked over real sockets.

use std::{net::Ipv4Addr, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
};
use weir_config::{
    compile::{Change, Proxy},
    parse,
};

use super::*;
use crate::{
    bootstrap::{ConfigSource, LogFormat},
    cluster::Resolver,
    discovery::apply::{Applier, Update},
    limits::Limits,
    telemetry::{Telemetry, labels::Reporter},
    worker::Workers,
};

const CONFIG: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  servers: [{port: {number: PORT, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.test]
  gateways: [gw]
  http: [{route: [{destination: {host: up.test}}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: up}
spec:
  hosts: [up.test]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.7, labels: {app: up}}]
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: site}
stringData: {tls.crt: none, tls.key: SECRETKEY}
"#;

/// The admin thread of a proxy that is not running otherwise.
struct Fixture {
    admin: Admin,
    ready: watch::Sender<bool>,
    quit: mpsc::Receiver<()>,
    engine: Arc<Engine>,
    applier: Applier,
    _dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let reporter = Reporter::new("default", &Default::default());
        let telemetry = Arc::new(Telemetry::new(&reporter, 1));
        let engine = Arc::new(Engine::new(Limits::default(), telemetry));
        let listeners =
            ListenerManager::new(Arc::clone(&engine), Workers::new([Handle::current()]));
        let resolver = Resolver::with_name_server((Ipv4Addr::LOCALHOST, 53).into()).unwrap();
        let applier = Applier::new(
            Arc::clone(&engine),
            Arc::clone(&listeners),
            resolver,
            Handle::current(),
            Proxy::default(),
        );
        let (ready, is_ready) = watch::channel(false);
        let (quit_tx, quit) = mpsc::channel(1);
        let bootstrap = Bootstrap {
            source: ConfigSource::Files { paths: Vec::new(), mesh_config: None },
            labels: Default::default(),
            namespace: "default".to_owned(),
            admin: (Ipv4Addr::LOCALHOST, 0).into(),
            status: (Ipv4Addr::LOCALHOST, 0).into(),
            metrics: vec![(Ipv4Addr::LOCALHOST, 0).into(); 2],
            workers: 1,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            drain_time: Duration::ZERO,
            name_server: None,
            kind: weir_config::compile::ProxyKind::Gateway,
            workload: None,
            instance: String::new(),
            identity_files: None,
            identity_socket: None,
            agent: None,
            application: crate::application::Application::default(),
            drain_delay: Duration::ZERO,
            dns: Vec::new(),
            interception: crate::bootstrap::Interception::default(),
            awaits_redirection: false,
            hbone: None,
        };
        let state = AdminState {
            engine: Arc::clone(&engine),
            listeners,
            configured: applier.configured(),
            ready: is_ready,
            discovery: None,
            drain: watch::Sender::new(false),
            quit: quit_tx,
        };
        let admin = start(&bootstrap, state).unwrap();
        Self { admin, ready, quit, engine, applier, _dir: tempfile::tempdir().unwrap() }
    }

    async fn configured() -> Self {
        let mut fixture = Self::new();
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr();
        let config = CONFIG.replace("PORT", &free.unwrap().port().to_string());
        let parsed = parse::parse("all.yaml", config.as_bytes(), &parse::Options::default());
        let changes = parsed.objects.into_iter().map(Arc::new).map(Change::Upsert).collect();
        Box::pin(fixture.applier.apply(Update { changes, ..Update::default() })).await;
        fixture.ready.send_replace(true);
        fixture
    }

    async fn ask(&self, method: &str, target: &str) -> (u16, String) {
        exchange(self.admin.admin.unwrap(), method, target, "localhost").await
    }

    async fn look(&self, target: &str) -> String {
        let (status, body) = self.ask("GET", target).await;
        assert_eq!(status, 200, "{target}: {body}");
        body
    }

    async fn look_json(&self, target: &str) -> Value {
        serde_json::from_str(&self.look(target).await).unwrap()
    }
}

async fn exchange(addr: SocketAddr, method: &str, target: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request =
        format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn readiness_follows_the_configuration_on_both_ports() {
    let fixture = Fixture::new();
    let status = fixture.admin.status.unwrap();
    assert_eq!(fixture.ask("GET", "/ready").await, (503, "INITIALIZING\n".to_owned()));
    assert_eq!(exchange(status, "GET", "/healthz/ready", "any.example").await.0, 503);

    let fixture = Fixture::configured().await;
    let status = fixture.admin.status.unwrap();
    assert_eq!(fixture.ask("GET", "/ready").await, (200, "LIVE\n".to_owned()));
    assert_eq!(exchange(status, "GET", "/healthz/ready", "any.example").await.0, 200);

    fixture.ready.send_replace(false);
    assert_eq!(fixture.ask("GET", "/ready").await, (503, "DRAINING\n".to_owned()));
    assert_eq!(exchange(status, "GET", "/ready", "any.example").await.0, 503);
}

#[tokio::test]
async fn the_status_port_has_nothing_but_readiness() {
    let fixture = Fixture::configured().await;
    let status = fixture.admin.status.unwrap();
    for page in ["/", "/config_dump", "/stats/prometheus", "/quitquitquit"] {
        assert_eq!(exchange(status, "GET", page, "any.example").await.0, 404, "{page}");
    }
    assert_eq!(exchange(status, "POST", "/healthz/ready", "any.example").await.0, 405);
}

#[tokio::test]
async fn each_metrics_port_has_metrics_and_nothing_else() {
    let fixture = Fixture::configured().await;
    assert_eq!(fixture.admin.metrics.len(), 2);
    for port in &fixture.admin.metrics {
        // By whatever name the pod is reached.
        let (status, body) = exchange(*port, "GET", "/stats/prometheus", "10.0.0.7").await;
        assert_eq!(status, 200);
        assert!(body.contains("# TYPE "), "{body}");
        for page in ["/", "/config_dump", "/ready", "/quitquitquit"] {
            assert_eq!(exchange(*port, "GET", page, "10.0.0.7").await.0, 404, "{page}");
        }
        assert_eq!(exchange(*port, "POST", "/metrics", "10.0.0.7").await.0, 405);
    }
}

#[tokio::test]
async fn the_dump_has_everything_but_keys() {
    let fixture = Fixture::configured().await;
    let dump = fixture.look_json("/config_dump").await;
    assert!(dump["virtualHosts"].to_string().contains("shop.test"), "{dump:#}");
    assert!(dump["clusters"]["outbound|80||up.test"].is_object(), "{dump:#}");
    assert_eq!(dump["version"], fixture.engine.snapshot().version);
    assert!(!dump.to_string().contains("SECRETKEY"));
}

#[tokio::test]
async fn the_dump_says_what_is_wrong() {
    let mut fixture = Fixture::configured().await;
    let unread = parse::parse("broken.yaml", b"kind: [", &parse::Options::default()).diagnostics;
    Box::pin(fixture.applier.apply(Update { unread, ..Update::default() })).await;
    let dump = fixture.look_json("/config_dump").await;
    let said = dump["diagnostics"][0]["text"].as_str().unwrap();
    assert!(said.starts_with("error: broken.yaml:1: "), "{said}");
    let metrics = fixture.look("/metrics").await;
    assert!(metrics.contains("\nweir_config_errors 1\n"), "{metrics}");
}

#[tokio::test]
async fn clusters_and_listeners_are_shown_to_people_and_to_programs() {
    let fixture = Fixture::configured().await;
    let clusters = fixture.look("/clusters").await;
    let line = "outbound|80||up.test::192.0.2.7:80::health_flags::healthy\n";
    assert!(clusters.contains(line), "{clusters}");
    let clusters = fixture.look_json("/clusters?format=json").await;
    let cluster = clusters["clusters"].as_array().unwrap();
    let cluster = cluster.iter().find(|it| it["name"] == "outbound|80||up.test").unwrap();
    assert_eq!(cluster["endpoints"][0]["address"], "192.0.2.7:80");

    let listeners = fixture.look_json("/listeners?format=json").await;
    let listeners = listeners["listeners"].as_array().unwrap();
    assert_eq!(listeners.len(), 1);
    for listener in listeners {
        let name = listener["name"].as_str().unwrap();
        let address = listener["address"].as_str().unwrap();
        assert!(fixture.look("/listeners").await.contains(&format!("{name}::{address}\n")));
    }
}

#[tokio::test]
async fn metrics_are_in_prometheus_form_and_one_per_line() {
    let fixture = Fixture::configured().await;
    for page in ["/stats/prometheus", "/metrics", "/stats?format=prometheus"] {
        let text = fixture.look(page).await;
        assert!(text.contains("# TYPE weir_config_snapshot_version gauge\n"), "{page}: {text}");
    }
    let stats = fixture.look("/stats").await;
    let version = fixture.engine.snapshot().version;
    assert!(stats.contains(&format!("\nweir_config_snapshot_version: {version}\n")), "{stats}");
}

#[tokio::test]
async fn every_page_of_the_index_is_there() {
    let fixture = Fixture::configured().await;
    let index = fixture.look("/").await;
    for page in [
        "/ready",
        "/healthz",
        "/config_dump",
        "/listeners",
        "/clusters",
        "/certs",
        "/stats",
        "/stats/prometheus",
        "/server_info",
        "/logging",
    ] {
        assert!(index.contains(&format!("href=\"{page}\"")), "{page} is not in {index}");
        fixture.look(page).await;
    }
    assert_eq!(fixture.ask("GET", "/nothing").await.0, 404);
}

#[tokio::test]
async fn looking_changes_nothing() {
    let mut fixture = Fixture::configured().await;
    for page in ["/quitquitquit", "/drain_listeners"] {
        assert_eq!(fixture.ask("GET", page).await.0, 405, "{page}");
    }
    assert_eq!(fixture.ask("GET", "/logging?level=trace").await.0, 200);
    assert_eq!(fixture.ask("POST", "/config_dump").await.0, 405);
    assert_eq!(fixture.ask("DELETE", "/ready").await.0, 405);
    assert!(fixture.quit.try_recv().is_err());
    assert_eq!(fixture.ask("GET", "/ready").await.0, 200);
}

#[tokio::test]
async fn the_end_is_requested_by_a_post() {
    let mut fixture = Fixture::configured().await;
    assert_eq!(fixture.ask("POST", "/quitquitquit").await.0, 200);
    assert_eq!(fixture.quit.try_recv(), Ok(()));
}

#[tokio::test]
async fn drained_listeners_are_not_ready() {
    let fixture = Fixture::configured().await;
    assert_eq!(fixture.ask("POST", "/drain_listeners").await.0, 200);
    assert_eq!(fixture.ask("GET", "/ready").await, (503, "DRAINING\n".to_owned()));
}

#[tokio::test]
async fn a_log_level_that_is_none_is_refused() {
    let fixture = Fixture::new();
    assert_eq!(fixture.ask("POST", "/logging?level=loud").await.0, 400);
    assert_eq!(fixture.ask("POST", "/logging").await.0, 400);
}

#[tokio::test]
async fn a_name_rebound_to_this_machine_is_not_served() {
    let fixture = Fixture::configured().await;
    let addr = fixture.admin.admin.unwrap();
    for page in ["/config_dump", "/ready"] {
        let (status, body) = exchange(addr, "GET", page, "evil.example").await;
        assert_eq!(status, 403, "{page}");
        assert!(!body.contains("shop.test"));
    }
    let (status, _) = exchange(addr, "POST", "/quitquitquit", "evil.example").await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn a_port_that_is_taken_is_done_without() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = taken.local_addr().unwrap();
    let error = Server::bind(Kind::Status, addr).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn clients_that_say_nothing_keep_nobody_out() {
    let fixture = Fixture::configured().await;
    let addr = fixture.admin.admin.unwrap();
    let mut silent = Vec::new();
    for _ in 0..2 * server::MAX_CONNECTIONS {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    assert_eq!(fixture.ask("GET", "/ready").await.0, 200);
}
