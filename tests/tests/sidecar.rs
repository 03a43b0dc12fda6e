//! A sidecar between real sockets in namespaces of their own: what it does with what is redirected to it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use weir_tests::{
    certs::Authority,
    client::hbone::Hbone,
    eventually::eventually,
    mesh::{Agent, Lan, Pod, Program, SidecarOptions, Zone},
};

const REVIEWS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const RATINGS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 9);
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/reviews";

/// A Service of namespace shop with one port, and its only endpoint.
fn service(
    name: &str,
    vip: Ipv4Addr,
    port: &str,
    endpoint: (Ipv4Addr, u16),
    labels: &str,
) -> String {
    let (ip, target) = endpoint;
    let port_name = port.split_once(' ').map_or("http", |(name, _)| name);
    let number = port.split_once(' ').map_or(port, |(_, number)| number);
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  clusterIP: {vip}
  selector: {{app: {name}}}
  ports: [{{name: {port_name}, port: {number}, targetPort: {target}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: {port_name}, port: {target}}}]
endpoints: [{{addresses: [{ip}], {labels}}}]
---
"
    )
}

/// What an endpoint says that carries a sidecar.
const MESHED: &str = "serviceAccount: reviews, labels: {security.istio.io/tlsMode: istio}";

fn peer_authentication(mode: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: shop}}
spec: {{mtls: {{mode: {mode}}}}}
---
"
    )
}

/// A pod with a sidecar and the certificate of a service account.
async fn meshed(pod: &mut Pod, app: &str, config: &str, authority: &Authority, uri: &str) {
    meshed_with(&[], pod, app, config, (authority, uri)).await;
}

/// The same with more in the environment of the sidecar.
async fn meshed_with(
    environment: &[(&str, &str)],
    pod: &mut Pod,
    app: &str,
    config: &str,
    (authority, uri): (&Authority, &str),
) {
    let identity = authority.workload(uri);
    let labels = format!("app={app}");
    pod.start_sidecar(SidecarOptions {
        labels: &labels,
        config,
        identity: Some((&identity, authority)),
        environment,
        ..SidecarOptions::default()
    })
    .await;
}

#[tokio::test]
async fn of_two_services_on_one_port_the_host_decides_whatever_address_was_dialled() {
    let lan = Lan::new();
    let (mut client, server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    server.serve_http(8081, "ratings");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), "")
        + &service("ratings", RATINGS, "80", (server.ip, 8081), "");
    let options = SidecarOptions { labels: "app=client", config: &config, ..Default::default() };
    client.start_sidecar(options).await;

    for vip in [REVIEWS, RATINGS] {
        for name in ["reviews", "ratings"] {
            for host in [name.to_owned(), format!("{name}.shop.svc.cluster.local:80")] {
                let answer = client.http((vip, 80), "GET /", &host);
                assert!(answer.contains(&format!("name={name}\n")), "{vip} {host}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_of_the_mesh_passes_also_on_a_port_of_the_mesh() {
    let lan = Lan::new();
    let (mut client, outside) = (lan.pod("client"), lan.pod("outside"));
    outside.serve_echo(80, "");
    outside.serve_http(9999, "outside");
    let config = service("reviews", REVIEWS, "80", (outside.ip, 8080), "");
    let options = SidecarOptions { labels: "app=client", config: &config, ..Default::default() };
    client.start_sidecar(options).await;

    let mut stream = client.connect((outside.ip, 80)).unwrap();
    stream.write_all(b"\x00\x01bytes").unwrap();
    let mut echoed = [0; 7];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"\x00\x01bytes");

    let answer = client.http((outside.ip, 9999), "GET /", "whatever");
    assert!(answer.contains("name=outside\n"), "{answer}");
    eventually("the log names the cluster", async || {
        client.log().contains("PassthroughCluster").then_some(())
    })
    .await;
}

#[tokio::test]
async fn registry_only_refuses_what_nobody_knows() {
    let lan = Lan::new();
    let (mut client, outside) = (lan.pod("client"), lan.pod("outside"));
    outside.serve_http(80, "outside");
    outside.serve_http(9999, "outside");
    let config = service("reviews", REVIEWS, "80", (outside.ip, 8080), "");
    let mesh = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}";
    let options =
        SidecarOptions { labels: "app=client", config: &config, mesh, ..Default::default() };
    client.start_sidecar(options).await;

    let answer = client.http((outside.ip, 80), "GET /", "outside.test");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(client.try_http((outside.ip, 9999), "GET /", "outside.test"), None);
    eventually("the log names the cluster", async || {
        client.log().contains("BlackHoleCluster").then_some(())
    })
    .await;
}

/// Hardening N03.
#[tokio::test]
async fn another_namespace_takes_over_no_host_unless_the_mesh_lets_it() {
    let lan = Lan::new();
    let (mut client, mut lenient, server) =
        (lan.pod("client"), lan.pod("lenient"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    let rules = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: thief}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  http: [{directResponse: {status: 418}}]
---
";
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), "") + rules;
    let options = |mesh| SidecarOptions {
        labels: "app=client",
        config: &config,
        mesh,
        ..SidecarOptions::default()
    };
    client.start_sidecar(options("{}")).await;
    lenient.start_sidecar(options("hostTakeover: ALLOW")).await;

    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.contains("name=reviews\n"), "{answer}");
    let answer = lenient.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.starts_with("HTTP/1.1 418 "), "{answer}");
    let said = "VirtualService thief/reviews: spec.hosts: ";
    for (pod, why) in [(&client, "weir.dev/virtualServicesFrom"), (&lenient, "hostTakeover: ALLOW")]
    {
        eventually("the log says so", async || {
            let log = pod.log();
            log.lines().any(|line| line.contains(said) && line.contains(why)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_to_the_sidecars_own_port_is_closed() {
    let lan = Lan::new();
    let mut client = lan.pod("client");
    let options = SidecarOptions { labels: "app=client", ..Default::default() };
    client.start_sidecar(options).await;

    for port in [15001, 15006] {
        let mut stream = client.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let mut bytes = Vec::new();
        // Broken off or ended, but not served.
        let _ = stream.read_to_end(&mut bytes);
        assert_eq!(bytes, b"");
    }
    let ready = client.http((Ipv4Addr::LOCALHOST, 15021), "GET /healthz/ready", "a");
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
}

#[tokio::test]
async fn two_sidecars_speak_mutual_tls_and_each_knows_who_the_other_is() {
    let lan = Lan::new();
    let (mut client, mut server, plain) = (lan.pod("client"), lan.pod("server"), lan.pod("plain"));
    server.serve_http(8080, "reviews");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), MESHED)
        + &peer_authentication("STRICT");
    let authority = Authority::new("mesh");
    meshed(&mut server, "reviews", &config, &authority, SERVER).await;
    meshed(&mut client, "client", &config, &authority, CLIENT).await;

    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.contains("name=reviews\n"), "{answer}");
    assert!(answer.contains("peer=127.0.0.6\n"), "{answer}");
    assert!(answer.contains(&format!("URI={CLIENT}")), "{answer}");

    // STRICT: who does not speak TLS is told so, in TLS, and nothing else.
    let refused = plain.try_http((server.ip, 8080), "GET /", "reviews").unwrap_or_default();
    assert!(!refused.contains("HTTP/1.1"), "{refused}");

    let shown = server.http((Ipv4Addr::LOCALHOST, 15000), "GET /certs", "localhost");
    assert!(shown.contains(SERVER) && !shown.contains("PRIVATE"), "{shown}");

    let labels = [
        "reporter=\"destination\"".to_owned(),
        format!("source_principal=\"{CLIENT}\""),
        "destination_service_name=\"reviews\"".to_owned(),
        "connection_security_policy=\"mutual_tls\"".to_owned(),
        "response_code=\"200\"".to_owned(),
    ];
    eventually("the server counts the client's request", async || {
        let metrics = plain.try_http((server.ip, 15090), "GET /stats/prometheus", "a")?;
        let mut lines = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
        lines.find(|line| labels.iter().all(|label| line.contains(label))).map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_who_it_is_said_to_be_gets_nothing() {
    let lan = Lan::new();
    let (mut client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), MESHED);
    let authority = Authority::new("mesh");
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    meshed(&mut server, "reviews", &config, &authority, other).await;
    meshed(&mut client, "client", &config, &authority, CLIENT).await;

    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let lan = Lan::new();
    let (mut client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), MESHED);
    let (authority, foreign) = (Authority::new("mesh"), Authority::new("foreign"));
    meshed(&mut server, "reviews", &config, &authority, SERVER).await;
    meshed(&mut client, "client", &config, &foreign, CLIENT).await;

    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn permissive_takes_clear_text_beside_mutual_tls_and_policies_tell_them_apart() {
    let lan = Lan::new();
    let (mut client, mut server, plain) = (lan.pod("client"), lan.pod("server"), lan.pod("plain"));
    server.serve_http(8080, "reviews");
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: writes, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
  - to: [{operation: {paths: [/read]}}]
  - from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]
";
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), MESHED) + policy;
    let authority = Authority::new("mesh");
    meshed(&mut server, "reviews", &config, &authority, SERVER).await;
    meshed(&mut client, "client", &config, &authority, CLIENT).await;

    let answer = plain.http((server.ip, 8080), "GET /read", "reviews");
    assert!(answer.contains("name=reviews\n"), "{answer}");
    let forged = format!("GET /write HTTP/1.1\r\nx-forwarded-client-cert: URI={CLIENT}\r\nx-a: b");
    let answer = plain.exchange(
        (server.ip, 8080),
        format!("{forged}\r\nhost: reviews\r\nconnection: close\r\n\r\n").as_bytes(),
    );
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let answer = client.http((REVIEWS, 80), "GET /write", "reviews");
    assert!(answer.contains("name=reviews\n"), "{answer}");
}

/// As Istio's: what a port called `http` speaks is HTTP/1.1.
#[tokio::test]
async fn an_application_that_speaks_http1_has_clients_that_speak_http2() {
    let lan = Lan::new();
    let (mut server, plain) = (lan.pod("server"), lan.pod("plain"));
    server.serve_http(8080, "reviews");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), "");
    meshed(&mut server, "reviews", &config, &Authority::new("mesh"), SERVER).await;
    let url = format!("http://{}:8080/", server.ip);
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"]);
    curl.args([
        "--http2-prior-knowledge",
        "--write-out",
        "HTTP/%{http_version} %{http_code}",
        &url,
    ]);
    let output = plain.enter(|| curl.output()).unwrap();
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(answer.contains("name=reviews\n"), "{output:?}");
    assert!(answer.ends_with("HTTP/2 200"), "{output:?}");
}

/// A pod whose port 9000 has no protocol, with this behind it, and one that connects.
async fn undeclared(serve: impl FnOnce(&Pod)) -> (Lan, Pod, Pod) {
    let lan = Lan::new();
    let (mut server, plain) = (lan.pod("server"), lan.pod("plain"));
    serve(&server);
    let config = service("misc", REVIEWS, "x 9000", (server.ip, 9000), "");
    let options = SidecarOptions { labels: "app=misc", config: &config, ..Default::default() };
    server.start_sidecar(options).await;
    (lan, server, plain)
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_on_a_port_without_a_protocol() {
    let (_lan, server, plain) = undeclared(|pod| pod.serve_echo(9000, "welcome\n")).await;
    let mut stream = plain.connect((server.ip, 9000)).unwrap();
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"welcome\n");
    stream.write_all(b"hello").unwrap();
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello");
}

#[tokio::test]
async fn a_request_is_one_however_slowly_it_comes() {
    let (_lan, server, plain) = undeclared(|pod| pod.serve_http(9000, "misc")).await;
    let mut stream = plain.connect((server.ip, 9000)).unwrap();
    // Longer than the silence after which the server is asked whether it speaks first.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for byte in b"GET / HTTP/1.1\r\nhost: misc\r\nconnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("name=misc\n"), "{answer}");
    // Only what reads requests adds this.
    assert!(answer.contains("x-request-id: "), "{answer}");
}

#[tokio::test]
async fn bytes_that_are_no_request_reach_a_port_without_a_protocol() {
    let (_lan, server, plain) = undeclared(|pod| pod.serve_echo(9000, "")).await;
    for bytes in [&b"\x00\x00\x00\x01"[..], b"SSH-2.0-x\r\n"] {
        let mut stream = plain.connect((server.ip, 9000)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut echoed = vec![0; bytes.len()];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(echoed, bytes);
    }
}

/// What an injector tells the sidecar of an application on 8080.
const PROBERS: &str = r#"{
    "/app-health/app/livez": {"httpGet": {"path": "/live", "port": 8080, "httpHeaders": [{"name": "x-probe", "value": "yes"}]}},
    "/app-health/app/readyz": {"tcpSocket": {"port": 8080}},
    "/app-health/app/startupz": {"httpGet": {"path": "/", "port": 8099}},
    "/app-lifecycle/app/prestopz": {"httpGet": {"path": "/stop", "port": 8080}}
}"#;

#[tokio::test]
async fn the_kubelets_probes_reach_the_application_through_the_sidecar_under_strict() {
    let lan = Lan::new();
    let (kubelet, mut server) = (lan.pod("kubelet"), lan.pod("server"));
    server.serve_http(8080, "app");
    let authority = Authority::new("mesh");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), MESHED)
        + &peer_authentication("STRICT");
    let identity = authority.workload(SERVER);
    server
        .start_sidecar(SidecarOptions {
            labels: "app=reviews",
            config: &config,
            identity: Some((&identity, &authority)),
            environment: &[("ISTIO_KUBE_APP_PROBERS", PROBERS)],
            ..SidecarOptions::default()
        })
        .await;

    let plain = kubelet.try_http((server.ip, 8080), "GET /live", "app").unwrap_or_default();
    assert!(!plain.contains("HTTP/1.1"), "it is STRICT: {plain}");
    let asked = |path: &str| {
        let answer = kubelet.http((server.ip, 15020), &format!("GET {path}"), "app");
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(asked("/app-health/app/livez"), "200");
    assert_eq!(asked("/app-health/app/readyz"), "200");
    assert_eq!(asked("/app-health/app/startupz"), "500", "nothing listens there");
    assert_eq!(asked("/app-lifecycle/app/prestopz"), "200");
    assert_eq!(asked("/app-health/other/livez"), "400");
    assert_eq!(asked("/healthz/ready"), "200");
}

#[tokio::test]
async fn metrics_of_the_application_come_with_those_of_the_sidecar() {
    let lan = Lan::new();
    let (prometheus, mut server) = (lan.pod("prometheus"), lan.pod("server"));
    server.serve(9102, |mut stream| {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).unwrap_or_default();
        assert!(buffer[..length].starts_with(b"GET /own HTTP/1.1\r\n"));
        let body = "# TYPE orders_total counter\norders_total 7\nprocess_open_fds 3\n";
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\n\
                    connection: close\r\ncontent-length: ";
        let _ = write!(stream, "{head}{}\r\n\r\n{body}", body.len());
    });
    let annotations = r#"{"scrape":"true","path":"/own","port":"9102"}"#;
    let options = SidecarOptions {
        labels: "app=server",
        environment: &[("ISTIO_PROMETHEUS_ANNOTATIONS", annotations)],
        ..SidecarOptions::default()
    };
    server.start_sidecar(options).await;

    let merged = prometheus.http((server.ip, 15020), "GET /stats/prometheus", "server");
    assert!(merged.contains("\norders_total 7\n"), "{merged}");
    assert!(merged.contains("\nistio_build{"), "{merged}");
    assert_eq!(merged.matches("\nprocess_open_fds ").count(), 1, "{merged}");
    let own = prometheus.http((server.ip, 15090), "GET /stats/prometheus", "server");
    assert!(own.contains("\nistio_build{") && !own.contains("orders_total"), "{own}");
}

/// A response on a connection that may stay open: the echo ends as its request did.
fn keep_alive(pod: &Pod, to: (Ipv4Addr, u16)) -> String {
    let mut stream = pod.connect(to).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").unwrap();
    let (mut answer, mut buffer) = (String::new(), [0; 4096]);
    while answer.matches("\r\n\r\n").count() < 2 {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "{answer}");
        answer += std::str::from_utf8(&buffer[..length]).unwrap();
    }
    answer
}

#[tokio::test]
async fn a_draining_sidecar_sends_clients_away_and_serves_its_workload_to_the_last() {
    let lan = Lan::new();
    let (client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "app");
    client.serve_http(8081, "ratings");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), "")
        + &service("ratings", RATINGS, "80", (client.ip, 8081), "");
    let options = SidecarOptions {
        labels: "app=reviews",
        config: &config,
        environment: &[("WEIR_DRAIN_DELAY", "0ms")],
        ..SidecarOptions::default()
    };
    server.start_sidecar(options).await;
    let is_ending = |answer: &str| {
        // After the head comes the request as it was received.
        let head = answer.split_once("\r\n\r\n").unwrap().0.to_ascii_lowercase();
        head.split("\r\n").any(|line| line == "connection: close")
    };
    let first = keep_alive(&client, (server.ip, 8080));
    assert!(!is_ending(&first), "{first}");

    let refused = client.http((server.ip, 15020), "POST /drain", "server");
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert!(!is_ending(&keep_alive(&client, (server.ip, 8080))));

    assert!(server.hook(&["wait", "--timeout", "10s"]).status.success());
    let drained = server.hook(&["drain"]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    eventually("clients are told to go elsewhere", async || {
        let answer = keep_alive(&client, (server.ip, 8080));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        is_ending(&answer).then_some(())
    })
    .await;
    let outbound = keep_alive(&server, (RATINGS, 80));
    assert!(!is_ending(&outbound), "{outbound}");
    let ready = client.http((server.ip, 15021), "GET /healthz/ready", "server");
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
}

/// A ServiceEntry for TCP that has no address but those given.
fn entry(name: &str, host: &str, ports: &str, endpoint: Ipv4Addr, more: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: [{host}]
  ports: [{ports}]
  resolution: STATIC
  endpoints: [{{address: {endpoint}}}]
  {more}
---
"
    )
}

/// Whom the application asks: nobody is there, its sidecar answers.
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(93, 184, 0, 53);
const NAME_SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x2800, 0x220, 1, 0, 0, 0, 0x53);

async fn with_dns(pod: &mut Pod, config: &str, name_server: Ipv4Addr) {
    pod.start_sidecar(SidecarOptions {
        labels: "app=client",
        config,
        name_server: Some(name_server),
        init: &["--redirect-dns", "--capture-all-dns"],
        arguments: &["--dns", "127.0.0.1:15053,[::1]:15053"],
        ..SidecarOptions::default()
    })
    .await;
}

#[tokio::test]
async fn names_of_the_mesh_are_answered_and_others_asked_for() {
    let lan = Lan::new();
    let (mut client, outside) = (lan.pod("client"), lan.pod("outside"));
    let zone = Zone::default();
    zone.set("outside.test", &[outside.ip.into()]);
    outside.serve_dns(&zone);
    let config = service("reviews", REVIEWS, "80", (outside.ip, 8080), "");
    with_dns(&mut client, &config, outside.ip).await;

    let found = |address: Ipv4Addr| Some(("NoError".to_owned(), vec![IpAddr::from(address)]));
    let nothing = |code: &str| Some((code.to_owned(), Vec::new()));
    for name in
        ["reviews.shop.svc.cluster.local.", "Reviews.shop.", "reviews.shop.svc.", "reviews."]
    {
        assert_eq!(client.ask(NAME_SERVER, name, "A"), found(REVIEWS), "{name}");
        // It exists, so that the client does not take the name for wrong.
        assert_eq!(client.ask(NAME_SERVER, name, "AAAA"), nothing("NoError"), "{name}");
    }
    assert_eq!(client.ask_tcp(NAME_SERVER, "reviews.shop.", "A"), found(REVIEWS));
    assert_eq!(client.ask(NAME_SERVER_V6, "reviews.shop.", "A"), found(REVIEWS));
    assert_eq!(zone.asked(), Vec::<String>::new());

    assert_eq!(client.ask(NAME_SERVER, "outside.test.", "A"), found(outside.ip));
    assert_eq!(client.ask_tcp(NAME_SERVER, "outside.test.", "A"), found(outside.ip));
    assert_eq!(client.ask(NAME_SERVER, "nowhere.test.", "A"), nothing("NXDomain"));
    assert_eq!(zone.asked(), ["outside.test", "outside.test", "nowhere.test"]);

    // It answers nobody outside.
    let asked = outside.connect((client.ip, 15053)).map_err(|error| error.kind());
    assert_eq!(asked.map(|_| ()), Err(ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn hosts_without_an_address_are_told_apart_by_one_of_ours() {
    let lan = Lan::new();
    let (mut client, one, two) = (lan.pod("client"), lan.pod("one"), lan.pod("two"));
    let zone = Zone::default();
    one.serve_dns(&zone);
    one.serve_echo(5432, "one\n");
    two.serve_echo(5432, "two\n");
    let port = "{number: 5432, name: tcp, protocol: TCP}";
    let first = entry("one", "one.test", port, one.ip, "");
    let config = first.clone() + &entry("two", "two.test", port, two.ip, "");
    with_dns(&mut client, &config, one.ip).await;

    let address = |name: &str, kind: &str| client.ask(NAME_SERVER, name, kind).unwrap().1[0];
    let greeting = |address: IpAddr| {
        let mut stream = client.connect((address, 5432)).unwrap();
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).unwrap();
        String::from_utf8(greeting.into()).unwrap()
    };
    for kind in ["A", "AAAA"] {
        assert_eq!(greeting(address("one.test.", kind)), "one\n");
        assert_eq!(greeting(address("two.test.", kind)), "two\n");
    }
    let (stays, goes) = (address("one.test.", "A"), address("two.test.", "A"));
    client.configure(&first);
    eventually("the name is nobody's any more", async || {
        (client.ask(NAME_SERVER, "two.test.", "A")?.0 == "NXDomain").then_some(())
    })
    .await;
    assert_eq!(address("one.test.", "A"), stays);
    // Who still has the address is told that nobody is there.
    eventually("the address is refused", async || {
        let mut stream = client.connect((goes, 5432)).ok()?;
        (stream.read(&mut [0; 4]).unwrap_or(0) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_headless_service_is_its_endpoints_and_one_that_is_gone_is_refused() {
    let lan = Lan::new();
    let (mut client, one, two) = (lan.pod("client"), lan.pod("one"), lan.pod("two"));
    one.serve_http(80, "one");
    two.serve_http(80, "two");
    one.serve_dns(&Zone::default());
    let headless = |ips: &[Ipv4Addr]| {
        let ips: Vec<String> = ips.iter().map(|ip| format!("{{addresses: [{ip}]}}")).collect();
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: shop}}
spec: {{clusterIP: None, selector: {{app: db}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: db-1, namespace: shop, labels: {{kubernetes.io/service-name: db}}}}
addressType: IPv4
ports: [{{name: http, port: 80}}]
endpoints: [{}]
",
            ips.join(", ")
        )
    };
    with_dns(&mut client, &headless(&[one.ip, two.ip]), one.ip).await;

    let (code, mut addresses) = client.ask(NAME_SERVER, "db.shop.", "A").unwrap();
    addresses.sort_unstable();
    assert_eq!((code.as_str(), addresses), ("NoError", vec![one.ip.into(), two.ip.into()]));
    for (pod, name) in [(&one, "one"), (&two, "two")] {
        let answer = client.http((pod.ip, 80), "GET /", "db");
        assert!(answer.contains(&format!("name={name}\n")), "{answer}");
    }
    client.configure(&headless(&[one.ip]));
    eventually("the endpoint that is gone is nobody any more", async || {
        let answer = client.try_http((two.ip, 80), "GET /", "db")?;
        answer.starts_with("HTTP/1.1 503 ").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_workload_serves_what_its_sidecar_resource_does_not_let_it_know() {
    let lan = Lan::new();
    let (mut server, plain) = (lan.pod("server"), lan.pod("plain"));
    server.serve_http(8080, "reviews");
    let sidecar = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: nothing, namespace: shop}
spec: {egress: [{hosts: [\"~/*\"]}]}
";
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), "") + sidecar;
    let options = SidecarOptions { labels: "app=reviews", config: &config, ..Default::default() };
    server.start_sidecar(options).await;
    let answer = plain.http((server.ip, 8080), "GET /", "reviews");
    assert!(answer.contains("name=reviews\n"), "{answer}");
    counted(&plain, &server, &["destination_service_name=\"reviews\"", "response_code=\"200\""])
        .await;
}

/// Whether a pod's sidecar has a series of `metric` with these labels.
fn has_series(from: &Pod, pod: &Pod, metric: &str, labels: &[String]) -> Option<()> {
    let metrics = from.try_http((pod.ip, 15090), "GET /stats/prometheus", "a")?;
    let name = format!("{metric}{{");
    let mut lines = metrics.lines().filter(|line| line.starts_with(&name));
    lines.any(|line| labels.iter().all(|label| line.contains(label.as_str()))).then_some(())
}

#[tokio::test]
async fn metrics_of_both_sides_name_both_workloads() {
    let lan = Lan::new();
    let (mut client, mut server, plain) = (lan.pod("client"), lan.pod("server"), lan.pod("plain"));
    server.serve_http(8080, "reviews");
    server.serve_echo(5432, "hello\n");
    let endpoint = "serviceAccount: reviews, \
                    targetRef: {kind: Pod, namespace: shop, name: reviews-v2-6d4b-x7}, \
                    labels: {security.istio.io/tlsMode: istio, app: reviews, version: v2, \
                    pod-template-hash: 6d4b}";
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), endpoint)
        + &service("db", RATINGS, "tcp 5432", (server.ip, 5432), endpoint)
            .replace("selector: {app: db}", "selector: {app: reviews}");
    let authority = Authority::new("mesh");
    for (pod, uri, labels, workload) in [
        (&mut server, SERVER, "app=reviews,version=v2", "reviews-v2"),
        (&mut client, CLIENT, "app=client,version=v1", "client-v1"),
    ] {
        let identity = authority.workload(uri);
        pod.start_sidecar(SidecarOptions {
            labels,
            config: &config,
            identity: Some((&identity, &authority)),
            environment: &[("ISTIO_META_WORKLOAD_NAME", workload)],
            ..SidecarOptions::default()
        })
        .await;
    }

    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.contains("name=reviews\n"), "{answer}");
    assert!(!answer.contains("peer-metadata"), "neither side's application is told: {answer}");
    let mut stream = client.connect((RATINGS, 5432)).unwrap();
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello\n");
    stream.write_all(b"select").unwrap();
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"select");
    drop(stream);

    let of = |side: &str, values: [&str; 7]| {
        let names = [
            "workload",
            "workload_namespace",
            "principal",
            "app",
            "version",
            "canonical_service",
            "canonical_revision",
        ];
        let labels = names.into_iter().zip(values);
        labels.map(|(name, value)| format!("{side}_{name}=\"{value}\"")).collect::<Vec<_>>()
    };
    let source = ["client-v1", "shop", CLIENT, "client", "v1", "client", "v1"];
    let destination = ["reviews-v2", "shop", SERVER, "reviews", "v2", "reviews", "v2"];
    let both = [of("source", source), of("destination", destination)].concat();
    for (pod, reporter) in [(&client, "source"), (&server, "destination")] {
        for (metric, service) in [
            ("istio_requests_total", "reviews"),
            ("istio_tcp_connections_opened_total", "db"),
            ("istio_tcp_connections_closed_total", "db"),
        ] {
            let mut labels = both.clone();
            labels.push(format!("reporter=\"{reporter}\""));
            labels.push(format!("destination_service_name=\"{service}\""));
            eventually(&format!("{metric} of the {reporter} has {labels:?}"), async || {
                has_series(&plain, pod, metric, &labels)
            })
            .await;
        }
    }
}

#[tokio::test]
async fn nobody_is_believed_to_be_a_workload_without_its_certificate() {
    let lan = Lan::new();
    let (mut server, plain) = (lan.pod("server"), lan.pod("plain"));
    server.serve_http(8080, "reviews");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), MESHED);
    meshed(&mut server, "reviews", &config, &Authority::new("mesh"), SERVER).await;
    // {"WORKLOAD_NAME": "liar"}
    let head = "GET / HTTP/1.1\r\nx-envoy-peer-metadata: ChcKDVdPUktMT0FEX05BTUUSBhoEbGlhcg==\r\n\
                x-envoy-peer-metadata-id: sidecar~a~liar.shop~shop\r\nhost: reviews\r\n\
                connection: close\r\n\r\n";
    let answer = plain.exchange((server.ip, 8080), head.as_bytes()).unwrap();
    assert!(answer.contains("name=reviews\n"), "{answer}");
    assert!(!answer.contains("peer-metadata"), "the application is not told: {answer}");
    let unknown = ["source_workload=\"unknown\"".to_owned(), "response_code=\"200\"".to_owned()];
    eventually("it is counted as of nobody", async || {
        has_series(&plain, &server, "istio_requests_total", &unknown)
    })
    .await;
    let metrics = plain.http((server.ip, 15090), "GET /stats/prometheus", "a");
    assert!(!metrics.contains("liar"), "{metrics}");
}

/// Waits for requests with these labels in the metrics of a pod's sidecar.
async fn counted(from: &Pod, pod: &Pod, labels: &[&str]) {
    eventually(&format!("requests are counted under {labels:?}"), async || {
        let metrics = from.try_http((pod.ip, 15090), "GET /stats/prometheus", "a")?;
        let mut lines = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
        lines.any(|line| labels.iter().all(|label| line.contains(label))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_denied_is_counted_for_the_service_that_was_asked() {
    let lan = Lan::new();
    let (mut server, plain) = (lan.pod("server"), lan.pod("plain"));
    server.serve_http(8080, "reviews");
    let policies = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: shop}
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: of-others, namespace: shop}
spec: {selector: {matchLabels: {app: ratings}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: elsewhere, namespace: other}
spec: {}
";
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), "") + policies;
    meshed(&mut server, "reviews", &config, &Authority::new("mesh"), SERVER).await;
    let answer = plain.http((server.ip, 8080), "GET /", "reviews");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    counted(&plain, &server, &["destination_service_name=\"reviews\"", "response_code=\"403\""])
        .await;
    // The folder is everybody's: policies of others are nothing to wonder about.
    let log = server.log();
    assert!(!log.contains(" WARN "), "{log}");
}

#[tokio::test]
async fn the_application_is_told_whom_the_client_found() {
    let lan = Lan::new();
    let (mut client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), MESHED);
    let authority = Authority::new("mesh");
    meshed(&mut server, "reviews", &config, &authority, SERVER).await;
    meshed(&mut client, "client", &config, &authority, CLIENT).await;
    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.contains(&format!("By={SERVER};Hash=")), "{answer}");
}

#[tokio::test]
async fn clients_know_what_a_server_takes_and_hear_when_that_changes() {
    let lan = Lan::new();
    let (mut client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    server.serve_echo(5432, "hello\n");
    let meshed_as = MESHED.replace("istio}", "istio, app: reviews}");
    let services = service("reviews", REVIEWS, "80", (server.ip, 8080), &meshed_as)
        + &service("db", RATINGS, "tcp 5432", (server.ip, 5432), &meshed_as);
    let port_level = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: reviews, namespace: shop}
spec: {selector: {matchLabels: {app: reviews}}, portLevelMtls: {8080: {mode: DISABLE}}}
---
";
    let strict = services + &peer_authentication("STRICT");
    let but_one_port = format!("{strict}{port_level}");
    let authority = Authority::new("mesh");
    meshed(&mut server, "reviews", &but_one_port, &authority, SERVER).await;
    meshed(&mut client, "client", &but_one_port, &authority, CLIENT).await;

    // TLS would come through to the application, which speaks none.
    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.contains("name=reviews\n"), "{answer}");
    assert!(!answer.contains("URI="), "{answer}");
    let mut greeting = [0; 6];
    client.connect((RATINGS, 5432)).unwrap().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello\n");

    client.configure(&strict);
    server.configure(&strict);
    eventually("the client speaks TLS again", async || {
        let answer = client.try_http((REVIEWS, 80), "GET /", "reviews")?;
        answer.contains(&format!("URI={CLIENT}")).then_some(())
    })
    .await;

    // What a rule says goes before what is known.
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, connectionPool: {tcp: {connectTimeout: 1s}}}
---
";
    let in_spite = format!("{but_one_port}{rule}");
    client.configure(&in_spite);
    eventually("the client's rule is in force and the server speaks TLS", async || {
        let answer = client.try_http((REVIEWS, 80), "GET /", "reviews")?;
        answer.contains(&format!("URI={CLIENT}")).then_some(())
    })
    .await;
    server.configure(&but_one_port);
    eventually("the server does not", async || {
        let answer = client.try_http((REVIEWS, 80), "GET /", "reviews")?;
        answer.starts_with("HTTP/1.1 503 ").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agents_certificate_goes_before_files_and_its_renewal_is_used_at_once() {
    let lan = Lan::new();
    let (mut client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), MESHED);
    let authority = Authority::new("mesh");
    meshed(&mut server, "reviews", &config, &authority, SERVER).await;

    let socket = client.shared_folder().join("socket");
    let agent = Agent::start(socket.clone(), &authority.workload(CLIENT), &authority);
    let in_files = authority.workload("spiffe://cluster.local/ns/shop/sa/files");
    client
        .start_sidecar(SidecarOptions {
            labels: "app=client",
            config: &config,
            identity: Some((&in_files, &authority)),
            arguments: &["--identity-socket", socket.to_str().unwrap()],
            ..SidecarOptions::default()
        })
        .await;
    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.contains(&format!("URI={CLIENT}")), "{answer}");

    // A certificate with the key of another: said, and not used.
    let (mut mixed, other) = (authority.workload(CLIENT), authority.workload(CLIENT));
    mixed.key = other.key;
    agent.rotate(&mixed, &authority);
    eventually("the agent hears of it", async || {
        let refusals = agent.refusals();
        refusals.iter().any(|it| it.contains("the private key does not belong")).then_some(())
    })
    .await;
    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.contains(&format!("URI={CLIENT}")), "{answer}");

    let renamed = "spiffe://cluster.local/ns/shop/sa/renamed";
    agent.rotate(&authority.workload(renamed), &authority);
    eventually("the new certificate is used", async || {
        let answer = client.try_http((REVIEWS, 80), "GET /", "reviews")?;
        answer.contains(&format!("URI={renamed}")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn other_programs_of_the_pod_are_given_its_certificate_and_every_new_one() {
    let lan = Lan::new();
    let mut pod = lan.pod("pod");
    let authority = Authority::new("mesh");
    let identity = authority.workload(CLIENT);
    let socket = pod.shared_folder().join("socket");
    // Left by a sidecar that was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    pod.start_sidecar(SidecarOptions {
        labels: "app=client",
        identity: Some((&identity, &authority)),
        arguments: &["--identity-socket", socket.to_str().unwrap()],
        ..SidecarOptions::default()
    })
    .await;
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&socket).unwrap());
    assert_eq!(mode & 0o777, 0o660, "its user's and group's, nobody else's");

    let mut program = Program::connect(&socket).await;
    let (given, roots) = program.next().await;
    assert_eq!((given.certificate, given.key), (identity.certificate, identity.key));
    assert_eq!(roots, authority.root());

    let renewed = authority.workload(CLIENT);
    pod.write_identity(&renewed, &authority);
    let (given, _) = program.next().await;
    assert_eq!((given.certificate, given.key), (renewed.certificate, renewed.key));
}

#[tokio::test]
async fn tls_of_the_mesh_passes_a_gateway_to_the_service_that_its_server_name_says() {
    let lan = Lan::new();
    let (mut client, mut gateway) = (lan.pod("client"), lan.pod("gateway"));
    let (mut server, plain) = (lan.pod("server"), lan.pod("plain"));
    server.serve_http(8080, "reviews");
    plain.serve_http(8080, "plain");
    let east_west = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: east-west, namespace: istio-egress}
spec:
  selector: {istio: eastwestgateway}
  servers:
  - port: {number: 15443, name: tls, protocol: TLS}
    tls: {mode: AUTO_PASSTHROUGH}
    hosts: [\"shop/*.local\"]
---
";
    let behind = service("reviews", REVIEWS, "80", (server.ip, 8080), MESHED)
        // Whoever has no sidecar cannot end the TLS.
        + &service("ratings", RATINGS, "80", (plain.ip, 8080), "")
        + &service("hidden", NAME_SERVER, "80", (server.ip, 8080), MESHED)
            .replacen("{name: hidden, namespace: shop}", "{name: hidden, namespace: shop, annotations: {networking.istio.io/exportTo: .}}", 1)
        + &service("other", GATEWAY, "80", (server.ip, 8080), MESHED)
            .replace("namespace: shop", "namespace: elsewhere");
    let authority = Authority::new("mesh");
    let identity = authority.workload("spiffe://cluster.local/ns/istio-egress/sa/gateway");
    gateway
        .start_gateway(SidecarOptions {
            labels: "istio=eastwestgateway",
            config: &(behind.clone() + east_west),
            mesh: "accessLogFormat: \"<%REQUESTED_SERVER_NAME% %UPSTREAM_CLUSTER% %RESPONSE_FLAGS%>\\n\"",
            identity: Some((&identity, &authority)),
            ..SidecarOptions::default()
        })
        .await;
    meshed(&mut server, "reviews", &behind, &authority, SERVER).await;

    // Of another network: the gateway is where the service is.
    let there = "labels: {security.istio.io/tlsMode: istio}";
    let far = service("reviews", REVIEWS, "80", (gateway.ip, 15443), there);
    meshed(&mut client, "client", &far, &authority, CLIENT).await;
    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.contains("name=reviews\n"), "{answer}");
    assert!(answer.contains(&format!("URI={CLIENT}")), "to the end: {answer}");

    let ask_for = |sni: &str| {
        format!(
            "{far}
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews, namespace: shop}}
spec: {{host: reviews, trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, sni: {sni}}}}}}}
"
        )
    };
    for (sni, outcome) in [
        ("outbound_.80_._.hidden.shop.svc.cluster.local", "- NR"),
        ("outbound_.80_._.other.elsewhere.svc.cluster.local", "- NR"),
        ("outbound_.81_._.reviews.shop.svc.cluster.local", "- NR"),
        ("outbound_.80_.v9_.reviews.shop.svc.cluster.local", "- NR"),
        ("reviews.shop.svc.cluster.local", "- NR"),
        (
            "outbound_.80_._.ratings.shop.svc.cluster.local",
            "outbound_.80_._.ratings.shop.svc.cluster.local UH",
        ),
    ] {
        client.configure(&ask_for(sni));
        eventually(&format!("{sni} leads nowhere"), async || {
            let answer = client.try_http((REVIEWS, 80), "GET /", "reviews")?;
            let line = format!("<{sni} {outcome}>");
            (answer.starts_with("HTTP/1.1 503 ") && gateway.log().contains(&line)).then_some(())
        })
        .await;
    }

    // TLS that is not the mesh's, for a name that is.
    let name = "outbound_.80_._.reviews.shop.svc.cluster.local";
    let config = authority.client_config(Some(&identity), &["http/1.1"]);
    assert_eq!(plain.try_https((gateway.ip, 15443), config, name), None);
    eventually("the gateway has refused it", async || {
        gateway.log().contains(&format!("<{name} - NR>")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_under_load_without_a_failure() {
    let lan = Lan::new();
    let (mut client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), MESHED)
        + &peer_authentication("STRICT");
    let authority = Authority::new("mesh");
    meshed(&mut server, "reviews", &config, &authority, SERVER).await;
    meshed(&mut client, "client", &config, &authority, CLIENT).await;
    let renewals = |pod: &Pod| pod.log().matches("the workload has a new certificate").count();
    let before = [renewals(&client), renewals(&server)];
    client.write_identity(&authority.workload(CLIENT), &authority);
    server.write_identity(&authority.workload(SERVER), &authority);
    let mut after_renewal = 0;
    while after_renewal < 100 {
        let answer = client.http((REVIEWS, 80), "GET /", "reviews");
        assert!(answer.contains("name=reviews\n"), "{answer}");
        let renewed = renewals(&client) > before[0] && renewals(&server) > before[1];
        after_renewal += usize::from(renewed);
    }
}

#[tokio::test]
async fn thousands_of_idle_connections_cost_little() {
    /// Each is two descriptors of ours and two of the proxy, and 20,000 are a usual limit.
    const CONNECTIONS: usize = 9_000;
    /// Of what is not optimised, too.
    const MAX_KIB_EACH: u64 = 2;
    let lan = Lan::new();
    let (mut client, server) = (lan.pod("client"), lan.pod("server"));
    if !can_open(2 * CONNECTIONS as u64 + 1000) {
        eprintln!("skipped: too few open files are allowed");
        return;
    }
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&accepted);
    server.serve_inline(5432, move |stream| kept.lock().unwrap().push(stream));
    let config = service("db", REVIEWS, "tcp 5432", (server.ip, 5432), "");
    let options = SidecarOptions { labels: "app=client", config: &config, ..Default::default() };
    client.start_sidecar(options).await;
    let before = client.proxy_memory();
    let connections = client.connect_many((REVIEWS, 5432), CONNECTIONS);
    eventually("all are there", async || {
        (accepted.lock().unwrap().len() == CONNECTIONS).then_some(())
    })
    .await;
    let each = (client.proxy_memory() - before) / CONNECTIONS as u64;
    assert!(each <= MAX_KIB_EACH, "{each} KiB for each connection");
    drop(connections);
}

/// Raises the limit of open files as far as it goes.
fn can_open(files: u64) -> bool {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() && hard >= files
}

#[tokio::test]
async fn what_is_not_known_goes_to_the_egress_proxy_that_is_named() {
    let lan = Lan::new();
    let (mut client, proxy) = (lan.pod("client"), lan.pod("proxy"));
    proxy.serve_http(8080, "proxy");
    let sidecar = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: out, namespace: shop}
spec:
  egress: [{hosts: [\"*/*\"]}]
  outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: reviews, port: {number: 80}}}
";
    let config = service("reviews", REVIEWS, "80", (proxy.ip, 8080), "") + sidecar;
    let options = SidecarOptions { labels: "app=client", config: &config, ..Default::default() };
    client.start_sidecar(options).await;
    for port in [80, 9999] {
        let answer = client.http((NAME_SERVER, port), "GET /", "outside.test");
        assert!(answer.contains("name=proxy\n"), "{port}: {answer}");
    }
}

#[tokio::test]
async fn the_sidecar_resource_says_where_the_application_listens() {
    let lan = Lan::new();
    let (mut server, plain) = (lan.pod("server"), lan.pod("plain"));
    // Not reachable from outside by itself.
    server.serve_http_at((Ipv4Addr::LOCALHOST, 8081), "local");
    server.serve_http(9090, "other");
    let sidecar = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: in, namespace: shop}
spec:
  workloadSelector: {labels: {app: reviews}}
  ingress:
  - port: {number: 9080, protocol: HTTP, name: http}
    defaultEndpoint: 127.0.0.1:8081
";
    let options = SidecarOptions { labels: "app=reviews", config: sidecar, ..Default::default() };
    server.start_sidecar(options).await;
    let answer = plain.http((server.ip, 9080), "GET /", "reviews");
    assert!(answer.contains("name=local\n"), "{answer}");
    let answer = plain.http((server.ip, 8081), "GET /", "reviews");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let answer = plain.http((server.ip, 9090), "GET /", "reviews");
    assert!(answer.contains("name=other\n"), "{answer}");
}

#[tokio::test]
async fn inbound_may_go_to_the_loopback_interface() {
    let lan = Lan::new();
    let (mut server, plain) = (lan.pod("server"), lan.pod("plain"));
    server.serve_http_at((Ipv4Addr::LOCALHOST, 8080), "local");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), "");
    let mesh = "inboundTrafficPolicy: {mode: LOCALHOST}";
    let labels = "app=reviews";
    let options = SidecarOptions { labels, config: &config, mesh, ..Default::default() };
    server.start_sidecar(options).await;
    let answer = plain.http((server.ip, 8080), "GET /", "reviews");
    assert!(answer.contains("name=local\n"), "{answer}");
}

#[tokio::test]
async fn both_families_are_captured_in_both_directions() {
    let lan = Lan::new();
    let (mut client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), "");
    let labels = "app=reviews";
    let options = SidecarOptions { labels, config: &config, ..Default::default() };
    server.start_sidecar(options).await;
    let mesh = "accessLogFormat: \"<%UPSTREAM_CLUSTER% %DOWNSTREAM_LOCAL_ADDRESS%>\\n\"";
    let options = SidecarOptions { labels: "app=client", mesh, ..Default::default() };
    client.start_sidecar(options).await;
    let answer = client.http((server.ipv6, 8080), "GET /", "reviews");
    // Both sidecars took it: one adds what only what reads requests adds, the other dials from there.
    assert!(answer.contains("name=reviews\npeer=::6\n"), "{answer}");
    eventually("the client's sidecar has it in its log", async || {
        let line = format!("<PassthroughCluster [{}]:8080>", server.ipv6);
        client.log().contains(&line).then_some(())
    })
    .await;
}

/// More connections than there are ports to come from, one after another.
#[tokio::test]
async fn short_inbound_connections_use_no_port_up_that_others_need() {
    const PORTS: (u16, u16) = (40_000, 43_999);
    const CONNECTIONS: usize = 9_000;
    const CLIENTS: usize = 4;
    let lan = Lan::new();
    let (mut server, client) = (lan.pod("server"), lan.pod("client"));
    let range = format!("{} {}", PORTS.0, PORTS.1);
    server.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range)).unwrap();
    server.serve_echo(9000, "");
    client.serve_echo(9001, "");
    let config = service("db", RATINGS, "tcp 9000", (server.ip, 9000), "");
    let options = SidecarOptions { labels: "app=db", config: &config, ..Default::default() };
    server.start_sidecar(options).await;

    let echoed = |pod: &Pod, to: (Ipv4Addr, u16), count: usize| {
        pod.enter(move || {
            let errors = (0..count).map(|_| echo_once(to)).filter_map(Result::err);
            errors.map(|error| error.to_string()).collect::<Vec<_>>()
        })
    };
    let errors: Vec<String> = std::thread::scope(|scope| {
        let each = || echoed(&client, (server.ip, 9000), CONNECTIONS / CLIENTS);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(each)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(errors, Vec::<String>::new());
    // The application's own.
    assert_eq!(echoed(&server, (client.ip, 9001), 200), Vec::<String>::new());
}

/// A connection that says a byte, hears it, and ends.
fn echo_once(to: (Ipv4Addr, u16)) -> std::io::Result<()> {
    let mut stream = std::net::TcpStream::connect(to)?;
    stream.set_read_timeout(Some(weir_tests::eventually::DEADLINE))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

#[tokio::test]
async fn with_tproxy_the_application_sees_its_clients_addresses() {
    let lan = Lan::new();
    let (mut server, one, two) = (lan.pod("server"), lan.pod("one"), lan.pod("two"));
    server.serve_http(8080, "reviews");
    server.serve(9000, |mut stream| {
        let peer = stream.peer_addr().unwrap().ip().to_canonical();
        let _ = stream.write_all(peer.to_string().as_bytes());
    });
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), "")
        + &service("db", RATINGS, "tcp 9000", (server.ip, 9000), "");
    let options = SidecarOptions {
        labels: "app=reviews",
        config: &config,
        is_transparent: true,
        ..SidecarOptions::default()
    };
    server.start_sidecar(options).await;

    // Twice: connections that are kept are those of one client.
    for client in [&one, &two, &one] {
        for (to, peer) in [
            (IpAddr::from(server.ip), IpAddr::from(client.ip)),
            (server.ipv6.into(), client.ipv6.into()),
        ] {
            let answer = client.http((to, 8080), "GET /", "reviews");
            assert!(answer.contains(&format!("name=reviews\npeer={peer}\n")), "{answer}");
            // Only what reads requests adds this.
            assert!(answer.contains("x-request-id: "), "{answer}");
            let seen = client.exchange((to, 9000), b"").unwrap();
            assert_eq!(seen, peer.to_string());
        }
    }
    // A call of its own service went out through the sidecar, and comes in through it.
    let answer = server.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.contains("name=reviews\npeer=127.0.0.6\n"), "{answer}");
}

#[tokio::test]
async fn with_tproxy_many_connections_of_one_client_do_not_meet() {
    const CONNECTIONS: usize = 300;
    let lan = Lan::new();
    let (mut server, client) = (lan.pod("server"), lan.pod("client"));
    server.serve_echo(9000, "");
    let config = service("db", RATINGS, "tcp 9000", (server.ip, 9000), "");
    let options = SidecarOptions {
        labels: "app=db",
        config: &config,
        is_transparent: true,
        ..SidecarOptions::default()
    };
    server.start_sidecar(options).await;
    let mut connections = client.connect_many((server.ip, 9000), CONNECTIONS);
    for (number, stream) in connections.iter_mut().enumerate() {
        stream.write_all(&number.to_be_bytes()).unwrap();
    }
    for (number, stream) in connections.iter_mut().enumerate() {
        let mut echoed = number.to_be_bytes();
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(usize::from_be_bytes(echoed), number);
    }
}

#[test]
fn tproxy_without_the_right_is_refused_at_the_start() {
    let lan = Lan::new();
    let pod = lan.pod("server");
    let ended = pod.run_sidecar(&["--interception-mode", "TPROXY"]);
    let error = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{error}");
    assert!(error.contains("it needs the capability NET_ADMIN"), "{error}");
}

/// What an endpoint says that takes HBONE.
const TUNNELLED: &str = "serviceAccount: reviews, labels: {security.istio.io/tlsMode: istio, \
                         networking.istio.io/tunnel: http}";

/// A policy that lets only the client in, to a service by its label.
fn only_the_client(app: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {app}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  rules: [{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/client]}}}}]}}]
---
"
    )
}

/// In the environment of a sidecar that speaks HBONE.
const HBONE: &[(&str, &str)] = &[("ISTIO_META_ENABLE_HBONE", "true")];

/// A tunnel of a client with this identity.
async fn hbone(from: &Pod, to: &Pod, authority: &Authority, uri: &str) -> Hbone {
    let stream = from.connect((to.ip, 15008)).unwrap();
    let identity = authority.workload(uri);
    Hbone::new(stream, authority, Some(&identity)).await.unwrap()
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn hbone_takes_workloads_of_the_mesh_to_this_pod_and_to_no_other() {
    let lan = Lan::new();
    let (mut server, client) = (lan.pod("server"), lan.pod("client"));
    server.serve_http(8080, "reviews");
    server.serve_echo(9000, "welcome\n");
    client.serve_http(8080, "client");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), TUNNELLED)
        + &service("db", RATINGS, "tcp 9000", (server.ip, 9000), TUNNELLED)
        + &peer_authentication("STRICT")
        + &only_the_client("reviews");
    let authority = Authority::new("mesh");
    meshed_with(HBONE, &mut server, "reviews", &config, (&authority, SERVER)).await;

    let tunnels = hbone(&client, &server, &authority, CLIENT).await;
    let here = |port: u16| format!("{}:{port}", server.ip);
    for to in [here(8080), format!("[{}]:8080", server.ipv6)] {
        let tunnel = tunnels.open(&to).await.unwrap();
        assert_eq!(tunnel.status, 200);
        let answer = tunnel.exchange(GET).await.unwrap();
        assert!(answer.contains("name=reviews\n"), "{answer}");
        assert!(answer.contains(&format!("By={SERVER};Hash=")), "{answer}");
        assert!(answer.contains(&format!("URI={CLIENT}")), "{answer}");
    }
    // Bytes, and what is nobody's port.
    let tunnel = tunnels.open(&here(9000)).await.unwrap();
    assert_eq!(tunnel.exchange(b"hello").await.as_deref(), Some("welcome\nhello"));
    for (to, status) in [
        (format!("{}:8080", client.ip), 400),
        ("127.0.0.1:8080".to_owned(), 400),
        ("reviews.shop.svc.cluster.local:80".to_owned(), 400),
        (here(15006), 400),
        (here(15008), 400),
        // The sidecar's pages, which do what containers of the pod ask for.
        (here(15020), 400),
        (here(15000), 400),
    ] {
        assert_eq!(tunnels.open(&to).await.unwrap().status, status, "{to}");
    }
    let uri = format!("https://{}/", here(8080));
    assert_eq!(tunnels.ask(http::Method::GET, &uri).await.unwrap().status, 400);

    // Whom the policy does not know.
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    let tunnels = hbone(&client, &server, &authority, other).await;
    let answer = tunnels.open(&here(8080)).await.unwrap().exchange(GET).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(tunnels.open(&here(9000)).await.unwrap().exchange(b"hello").await, None);

    // Whom nobody vouches for.
    let foreign = Authority::new("foreign");
    let identity = foreign.workload(CLIENT);
    for identity in [Some(&identity), None] {
        let stream = client.connect((server.ip, 15008)).unwrap();
        let is_in = match Hbone::new(stream, &foreign, identity).await {
            Ok(tunnels) => tunnels.open(&here(8080)).await.is_ok(),
            Err(_) => false,
        };
        assert!(!is_in);
    }
    counted(
        &client,
        &server,
        &[
            "reporter=\"destination\"",
            "source_principal=\"spiffe://cluster.local/ns/shop/sa/client\"",
            "connection_security_policy=\"mutual_tls\"",
            "response_code=\"200\"",
        ],
    )
    .await;
}

#[tokio::test]
async fn two_sidecars_speak_hbone_and_share_connections_for_requests_and_for_bytes() {
    let lan = Lan::new();
    let (mut client, mut server) = (lan.pod("client"), lan.pod("server"));
    server.serve_http(8080, "reviews");
    server.serve_echo(9000, "welcome\n");
    let db = service("db", RATINGS, "tcp 9000", (server.ip, 9000), TUNNELLED);
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), TUNNELLED)
        + &db
        + &peer_authentication("STRICT")
        + &only_the_client("reviews");
    let authority = Authority::new("mesh");
    meshed_with(HBONE, &mut server, "reviews", &config, (&authority, SERVER)).await;
    meshed_with(HBONE, &mut client, "client", &config, (&authority, CLIENT)).await;

    for _ in 0..3 {
        let answer = client.http((REVIEWS, 80), "GET /", "reviews");
        assert!(answer.contains("name=reviews\npeer=127.0.0.6\n"), "{answer}");
        assert!(answer.contains(&format!("URI={CLIENT}")), "{answer}");
    }
    // Side by side, each to its own end.
    let mut streams: Vec<_> = (0..20).map(|_| client.connect((RATINGS, 9000)).unwrap()).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&[b'a'; 100_000]).unwrap();
        stream.write_all(number.to_string().as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    for (number, mut stream) in streams.into_iter().enumerate() {
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        assert!(all.starts_with("welcome\naaa"), "{number}");
        assert!(all.ends_with(&format!("a{number}")), "{number}");
        assert_eq!(all.len(), 8 + 100_000 + number.to_string().len());
    }
    let metrics = client.http((server.ip, 15090), "GET /stats/prometheus", "a");
    let accepted = |listener: &str| {
        let line = format!("weir_listener_connections_total{{listener=\"{listener}\"}} ");
        let mut lines = metrics.lines().filter_map(|metric| metric.strip_prefix(&*line));
        lines.next().unwrap_or("0").to_owned()
    };
    // One for the requests' cluster and one for the other.
    assert_eq!(accepted("connect_terminate"), "2", "{metrics}");
    assert_eq!(accepted("virtualInbound"), "0");
}

#[tokio::test]
async fn a_sidecar_that_was_not_told_to_does_not_speak_hbone() {
    let lan = Lan::new();
    let (mut client, mut server, plain) = (lan.pod("client"), lan.pod("server"), lan.pod("plain"));
    server.serve_http(8080, "reviews");
    let config = service("reviews", REVIEWS, "80", (server.ip, 8080), TUNNELLED);
    let authority = Authority::new("mesh");
    meshed(&mut server, "reviews", &config, &authority, SERVER).await;
    meshed(&mut client, "client", &config, &authority, CLIENT).await;
    assert!(plain.connect((server.ip, 15008)).is_err());
    let answer = client.http((REVIEWS, 80), "GET /", "reviews");
    assert!(answer.contains("name=reviews\n"), "{answer}");
    assert!(answer.contains(&format!("URI={CLIENT}")), "{answer}");
}
