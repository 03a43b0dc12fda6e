//! What is counted, logged and shown: exactly once for every exchange.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weir_tests::{
    backend::{
        echo::Echo,
        grpc::{GrpcServer, ServingStatus as Serving},
        tcp,
    },
    certs::Authority,
    client::{
        connect, connect_tls,
        grpc::Health,
        http::{Connection, Request},
    },
    config::Config,
    eventually::{eventually, eventually_eq},
    gateway::{Gateway, Launch},
    metrics::Metrics,
    objects::{HTTP_GATEWAY, forward, respond, service_entry, tcp_forward, virtual_service},
    ports,
};

/// `shop.test` goes to `up.test` by a route with a name; `answer.test` is answered here.
fn config(echo: &Echo) -> Config {
    Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[echo.port()]))
        .with(virtual_service(
            "shop",
            "shop.test",
            "- name: all\n  route: [{destination: {host: up.test}}]\n",
        ))
        .with(respond("answer", "answer.test", "here"))
}

/// Waits for a value of a metric and returns the scrape that had it.
async fn scrape_with(
    gateway: &Gateway,
    value: f64,
    name: &str,
    labels: &[(&str, &str)],
) -> Metrics {
    eventually(&format!("{name}{labels:?} is {value}"), async || {
        let metrics = gateway.metrics().await;
        (metrics.sum(name, labels) == value).then_some(metrics)
    })
    .await
}

#[tokio::test]
async fn metrics_are_served_on_ports_of_their_own_when_asked_for() {
    let [first, second] = [(); 2].map(|()| ports::free());
    let addresses = format!("127.0.0.1:{first},127.0.0.1:{second}");
    let mut gateway = Launch::new(Config::new().with(HTTP_GATEWAY).with(respond("a", "*", "a")))
        .args(["--metrics", &addresses])
        .start()
        .await;
    gateway.get("a.test", "/").await;
    for port in [first, second] {
        eventually("the request is counted", async || {
            let request = Request::get("10.0.0.7", "/stats/prometheus");
            let reply = Connection::http1(port).await.unwrap().send(&request).await.unwrap();
            assert_eq!(reply.status, 200);
            let counted = Metrics::parse(reply.text()).sum("istio_requests_total", &[]);
            (counted == 1.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn requests_are_counted_with_istios_names_and_labels() {
    let echo = Echo::start("v1").await;
    let mut gateway = Gateway::start(config(&echo)).await;
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    for _ in 0..3 {
        connection.send(&Request::post("shop.test", "/", "hello")).await.unwrap();
    }
    let failing = Request::get("shop.test", "/").header("x-echo-status", "500");
    connection.send(&failing).await.unwrap();

    let ok = [
        ("reporter", "source"),
        ("source_app", "istio-ingressgateway"),
        ("source_workload_namespace", "default"),
        ("destination_service", "up.test"),
        ("destination_service_name", "up.test"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("response_flags", "-"),
        ("connection_security_policy", "unknown"),
    ];
    // The last of them, so the others were counted before.
    let failed = [("response_code", "500")];
    let metrics = scrape_with(&gateway, 1.0, "istio_requests_total", &failed).await;
    assert_eq!(metrics.sum("istio_requests_total", &ok), 3.0);
    let sample = metrics.matching("istio_requests_total", &ok).next().unwrap();
    for label in [
        "source_workload",
        "source_principal",
        "source_version",
        "source_canonical_service",
        "source_canonical_revision",
        "source_cluster",
        "destination_workload",
        "destination_workload_namespace",
        "destination_principal",
        "destination_app",
        "destination_version",
        "destination_service_namespace",
        "destination_canonical_service",
        "destination_canonical_revision",
        "destination_cluster",
    ] {
        assert!(sample.labels.contains_key(label), "{label} is missing: {sample:?}");
    }
    for name in
        ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"]
    {
        assert_eq!(metrics.sum(&format!("{name}_count"), &ok), 3.0, "{name}");
        let all = [ok.as_slice(), &[("le", "+Inf")]].concat();
        assert_eq!(metrics.sum(&format!("{name}_bucket"), &all), 3.0, "{name}");
    }
}

#[tokio::test]
async fn local_answers_are_counted_with_their_flag_and_by_no_client_chosen_label() {
    let echo = Echo::start("v1").await;
    let mut gateway = Gateway::start(config(&echo)).await;
    for i in 0..20 {
        assert_eq!(gateway.get(&format!("unknown-{i}.test"), "/").await.status, 404);
    }
    let labels = [("response_code", "404"), ("response_flags", "NR")];
    let metrics = scrape_with(&gateway, 20.0, "istio_requests_total", &labels).await;
    assert_eq!(metrics.matching("istio_requests_total", &labels).count(), 1, "D12");
}

#[tokio::test]
async fn grpc_is_told_apart_by_its_own_status() {
    let server = GrpcServer::start().await;
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "GRPC", &[server.port()]))
        .with(forward("all", "*", "up.test"));
    let mut gateway = Gateway::start(config).await;
    let mut client = Health::connect(gateway.port("http"), "a.test").await;
    client.check("unknown").await.unwrap_err();
    let labels =
        [("request_protocol", "grpc"), ("response_code", "200"), ("grpc_response_status", "5")];
    scrape_with(&gateway, 1.0, "istio_requests_total", &labels).await;
}

#[tokio::test]
async fn grpc_messages_are_counted_both_ways() {
    let server = GrpcServer::start().await;
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("grpc.test", "GRPC", &[server.port()]))
        .with(forward("grpc", "grpc.test", "grpc.test"));
    let mut gateway = Gateway::start(config).await;
    let mut health = Health::connect(gateway.port("http"), "grpc.test").await;
    health.check("").await.unwrap();
    let mut watch = health.watch("").await.unwrap();
    for status in [Serving::NotServing, Serving::Serving] {
        watch.next().await.unwrap();
        server.set("", status).await;
    }
    watch.next().await.unwrap();
    drop(watch);
    let labels = [("request_protocol", "grpc"), ("destination_service", "grpc.test")];
    // One for the check, and the first status and its two changes for the watch.
    let metrics = scrape_with(&gateway, 4.0, "istio_response_messages_total", &labels).await;
    assert_eq!(metrics.sum("istio_request_messages_total", &labels), 2.0);
}

#[tokio::test]
async fn a_tcp_connection_nobody_listens_for_is_counted_whole() {
    let config = Config::new().with(
        r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: tls}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: ${PORT_tls}, name: tls, protocol: TLS}, hosts: [a.test], tls: {mode: PASSTHROUGH}}
"#,
    );
    let mut gateway = Gateway::start(config).await;
    let tls = Authority::new("any").client_config(None, &[]);
    connect_tls(gateway.port("tls"), &tls, "b.test").await.unwrap_err();
    let labels = [("request_protocol", "tcp"), ("response_flags", "NR")];
    scrape_with(&gateway, 1.0, "istio_tcp_connections_closed_total", &labels).await;
    let metrics = gateway.metrics().await;
    let tcp = [("request_protocol", "tcp")];
    assert_eq!(metrics.sum("istio_tcp_connections_opened_total", &tcp), 1.0);
}

#[tokio::test]
async fn tcp_connections_and_bytes_are_counted() {
    let server = tcp::echo().await;
    let config = Config::new().with(tcp_forward("tcp.test")).with(service_entry(
        "tcp.test",
        "TCP",
        &[server.port()],
    ));
    let mut gateway = Gateway::start(config).await;
    let mut stream = connect(gateway.port("tcp")).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    let labels = [("request_protocol", "tcp"), ("destination_service", "tcp.test")];
    scrape_with(&gateway, 1.0, "istio_tcp_connections_opened_total", &labels).await;
    drop(stream);
    let metrics = scrape_with(&gateway, 1.0, "istio_tcp_connections_closed_total", &labels).await;
    assert_eq!(metrics.sum("istio_tcp_received_bytes_total", &labels), 5.0);
    assert_eq!(metrics.sum("istio_tcp_sent_bytes_total", &labels), 5.0);
}

#[tokio::test]
async fn the_access_log_has_istios_default_line() {
    let echo = Echo::start("v1").await;
    let mut gateway = Gateway::start(config(&echo)).await;
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    let request = Request::post("shop.test", "/a?b=c", "hello")
        .header("user-agent", "test agent/1.0")
        .header("x-forwarded-for", "203.0.113.9");
    let reply = connection.send(&request).await.unwrap();
    let request_id = reply.echo().header("x-request-id").unwrap().to_owned();
    let service_time = reply.header("x-envoy-upstream-service-time").unwrap().to_owned();

    let line = gateway.access_log_line("/a?b=c").await;
    let (start, rest) = line.split_once("] ").unwrap();
    // [2026-01-02T03:04:05.678Z]
    assert_eq!((start.len(), start.starts_with("[20"), start.ends_with('Z')), (25, true, true));
    let before_duration =
        format!("\"POST /a?b=c HTTP/1.1\" 200 - via_upstream - \"-\" 5 {} ", reply.body.len());
    let rest = rest.strip_prefix(&before_duration).unwrap_or_else(|| panic!("{line}"));
    let (duration, rest) = rest.split_once(' ').unwrap();
    duration.parse::<u64>().unwrap();
    let (listener, client) = (gateway.port("http"), connection.local_addr);
    let before_local = format!(
        "{service_time} \"203.0.113.9,127.0.0.1\" \"test agent/1.0\" \"{request_id}\" \"shop.test\" \"{}\" outbound|80||up.test 127.0.0.1:",
        echo.address()
    );
    let rest = rest.strip_prefix(&before_local).unwrap_or_else(|| panic!("{line}"));
    let (local_port, rest) = rest.split_once(' ').unwrap();
    local_port.parse::<u16>().unwrap();
    assert_eq!(rest, format!("127.0.0.1:{listener} {client} - all"));
}

#[tokio::test]
async fn the_access_log_may_be_json() {
    let echo = Echo::start("v1").await;
    let mut gateway = Launch::new(config(&echo))
        .mesh_config("accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n")
        .start()
        .await;
    let request = Request::get("shop.test", "/j?a=b").header("user-agent", "a \"b\"\\");
    gateway.send(&request).await;
    let line: Value = serde_json::from_str(&gateway.access_log_line("/j").await).unwrap();
    for (key, value) in [
        ("method", "GET".into()),
        ("path", "/j?a=b".into()),
        ("protocol", "HTTP/1.1".into()),
        ("response_code", 200.into()),
        ("response_flags", "-".into()),
        ("response_code_details", "via_upstream".into()),
        ("bytes_received", 0.into()),
        ("user_agent", "a \"b\"\\".into()),
        ("authority", "shop.test".into()),
        ("upstream_host", echo.address().to_string().into()),
        ("upstream_cluster", "outbound|80||up.test".into()),
        ("requested_server_name", Value::Null),
        ("route_name", "all".into()),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    for key in [
        "start_time",
        "bytes_sent",
        "duration",
        "upstream_service_time",
        "x_forwarded_for",
        "request_id",
        "upstream_local_address",
        "downstream_local_address",
        "downstream_remote_address",
        "connection_termination_details",
        "upstream_transport_failure_reason",
    ] {
        assert!(line.get(key).is_some(), "{key} is missing in {line}");
    }
}

#[tokio::test]
async fn the_access_log_format_is_configurable_and_off_by_default() {
    let echo = Echo::start("v1").await;
    let mut gateway = Launch::new(config(&echo))
        .mesh_config(
            "accessLogFile: /dev/stdout\naccessLogFormat: \"%REQ(:METHOD)% %REQ(X-NONE?USER-AGENT):4% %RESPONSE_CODE% %RESP(X-BACKEND)%\\n\"\n",
        )
        .start()
        .await;
    gateway.send(&Request::get("shop.test", "/").header("user-agent", "abcdefgh")).await;
    eventually_eq(vec!["GET abcd 200 v1".to_owned()], async || gateway.access_log()).await;

    let mut gateway = Launch::new(config(&echo)).mesh_config("{}\n").start().await;
    gateway.get("shop.test", "/").await;
    scrape_with(&gateway, 1.0, "istio_requests_total", &[("response_code", "200")]).await;
    gateway.signal("TERM").await;
    gateway.exited().await;
    assert_eq!(gateway.access_log(), Vec::<String>::new());
}

#[tokio::test]
async fn local_answers_are_logged_with_what_they_were() {
    let echo = Echo::start("v1").await;
    let mut gateway = Gateway::start(config(&echo)).await;
    gateway.get("answer.test", "/").await;
    let line = gateway.access_log_line("answer.test").await;
    assert!(line.contains(" 200 - direct_response "), "{line}");
    gateway.get("unknown.test", "/").await;
    let line = gateway.access_log_line("unknown.test").await;
    assert!(line.contains(" 404 NR route_not_found "), "{line}");
}

#[tokio::test]
async fn nothing_is_lost_from_the_access_log_at_the_end() {
    let echo = Echo::start("v1").await;
    let mut gateway = Gateway::start(config(&echo)).await;
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    for i in 0..500 {
        connection.send(&Request::get("answer.test", &format!("/n{i}"))).await.unwrap();
    }
    drop(connection);
    gateway.signal("TERM").await;
    assert!(gateway.exited().await.success());
    eventually_eq(500, async || gateway.access_log().len()).await;
}

#[tokio::test]
async fn the_admin_port_shows_listeners_clusters_and_configuration() {
    let echo = Echo::start("v1").await;
    let mut gateway = Gateway::start(config(&echo)).await;
    gateway.get("shop.test", "/").await;
    let port = gateway.port("http").to_string();
    let listeners = gateway.admin("/listeners").await;
    assert!(listeners.text().contains(&port), "{}", listeners.text());
    let clusters = gateway.admin("/clusters").await;
    assert!(clusters.text().contains("outbound|80||up.test"), "{}", clusters.text());
    assert!(clusters.text().contains(&echo.address().to_string()), "{}", clusters.text());
    let dump: Value = serde_json::from_slice(&gateway.admin("/config_dump").await.body).unwrap();
    assert!(dump.to_string().contains("shop.test"));
    assert_eq!(gateway.admin("/ready").await.status, 200);
    assert_eq!(gateway.admin("/no-such-page").await.status, 404);
}

#[tokio::test]
async fn private_keys_are_in_no_dump() {
    let ca = Authority::new("ca");
    let identity = ca.server(&["a.test"]);
    let echo = Echo::start("v1").await;
    let gateway_yaml = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: tls}\nspec:\n  selector: {istio: ingressgateway}\n  servers:\n  - port: {number: ${PORT_https}, name: https, protocol: HTTPS}\n    tls: {mode: SIMPLE, credentialName: site}\n    hosts: ['*']\n";
    let config = config(&echo).with(gateway_yaml).with(weir_tests::objects::tls_secret(
        "site",
        &identity.certificate,
        &identity.key,
    ));
    let gateway = Gateway::start(config).await;
    let secret = identity.key.lines().nth(1).unwrap();
    for page in ["/config_dump", "/listeners", "/clusters", "/stats/prometheus"] {
        let reply = gateway.admin(page).await;
        assert!(!reply.text().contains("PRIVATE KEY"), "{page}");
        assert!(!reply.text().contains(secret), "I09 {page}");
    }
    assert!(!gateway.log().contains(secret));
}

#[tokio::test]
async fn the_log_level_changes_while_running() {
    let echo = Echo::start("v1").await;
    let mut gateway = Gateway::start(config(&echo)).await;
    let set = async |gateway: &Gateway, level: &str| {
        let request = Request::post("localhost", &format!("/logging?level={level}"), "");
        gateway.admin_send(&request).await.status
    };
    assert_eq!(set(&gateway, "error").await, 200);
    gateway.config().write("quiet.yaml", "kind: Nonsense\n");
    eventually("the first finding is known", async || {
        gateway.admin("/config_dump").await.text().contains("quiet.yaml").then_some(())
    })
    .await;
    assert_eq!(set(&gateway, "info").await, 200);
    gateway.config().write("loud.yaml", "kind: Nonsense\n");
    gateway.log_line("loud.yaml").await;
    assert!(!gateway.log().contains("WARN weir_gateway::discovery::apply: warning: quiet.yaml"));
    assert_eq!(set(&gateway, "shouting").await, 400);
}

#[tokio::test]
async fn readiness_is_on_the_status_port_and_only_after_the_configuration() {
    let echo = Echo::start("v1").await;
    let mut gateway = Launch::new(config(&echo)).spawn().await;
    let status = gateway.status_port();
    eventually("the status port says ready", async || {
        let mut connection = Connection::http1(status).await.ok()?;
        let reply = connection.send(&Request::get("localhost", "/healthz/ready")).await.ok()?;
        (reply.status == 200).then_some(())
    })
    .await;
    // Ready means listening and configured: the very next request is served.
    assert_eq!(gateway.get("shop.test", "/").await.status, 200);
}
