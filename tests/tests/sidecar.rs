//! A sidecar between real sockets in namespaces of their own: what it does with what is redirected to it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    time::Duration,
};

use weir_tests::{
    certs::Authority,
    eventually::eventually,
    mesh::{Lan, Pod, SidecarOptions},
};

const REVIEWS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const RATINGS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 2);
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
    let identity = authority.workload(uri);
    let labels = format!("app={app}");
    pod.start_sidecar(SidecarOptions {
        labels: &labels,
        config,
        identity: Some((&identity, authority)),
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
