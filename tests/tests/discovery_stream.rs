//! A gateway that a controller configures: what it serves, what it answers, and what it serves when
//! the controller is not there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use serde_json::{Value, json};
use weir_config::wire::discovery::Resource;
use weir_tests::{
    backend::echo::Echo,
    certs::Authority,
    client::{http::Request, websocket::WebSocket},
    config::Config,
    control::{Control, SERVER_NAME},
    eventually::{eventually, eventually_eq, eventually_within},
    gateway::{Gateway, Launch},
    objects::{HTTP_GATEWAY, forward, respond, service_entry, tls_secret},
};

const A: &str = "networking.istio.io/VirtualService/default/a";

/// A controller with Gateway `gw` and route `a`, which answers `before`.
async fn control(config: &mut Config) -> Control {
    let control = Control::start().await;
    control.apply(&config.fill(HTTP_GATEWAY));
    control.apply(&respond("a", "a.test", "before"));
    control
}

async fn gateway() -> (Control, Gateway) {
    let mut config = Config::new();
    let control = control(&mut config).await;
    let gateway = Launch::controlled(config, &control).start().await;
    (control, gateway)
}

/// The same with a copy on disk.
fn with_copy(config: Config, control: &Control) -> Launch {
    let state_dir = control.state_dir();
    Launch::controlled(config, control).args(["--state-dir", state_dir.to_str().unwrap()])
}

/// Waits until that host is answered so: a 200's body, or the status.
async fn answers(gateway: &mut Gateway, host: &str, expected: &str) {
    eventually_eq(expected.to_owned(), async || {
        let reply = gateway.get(host, "/").await;
        if reply.status == 200 { reply.text().to_owned() } else { reply.status.to_string() }
    })
    .await;
}

/// Waits until so many pushes of the stream that is open now are answered.
async fn acknowledged(control: &Control, pushes: usize) {
    eventually_eq(pushes, async || control.streams().last().map_or(0, |it| it.acknowledged)).await;
}

/// A metric without labels.
async fn metric(gateway: &Gateway, name: &str) -> f64 {
    let text = gateway.admin("/stats/prometheus").await;
    let line = text.text().lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_the_controller_sends_is_served_and_acknowledged() {
    let (control, mut gateway) = gateway().await;
    answers(&mut gateway, "a.test", "before").await;
    acknowledged(&control, 1).await;
    let streams = control.streams();
    assert_eq!(streams.len(), 1);
    assert!(streams[0].initial.is_empty());
    assert!(streams[0].rejections.is_empty());
    let metadata = streams[0].node.metadata.clone().unwrap();
    assert_eq!(metadata.text("NAMESPACE"), Some("default"));
    assert_eq!(metric(&gateway, "weir_discovery_connected").await, 1.0);
    assert_eq!(metric(&gateway, "weir_discovery_stale_seconds").await, 0.0);
    assert_eq!(gateway.admin("/ready").await.text(), "LIVE\n");
    let dump: Value = serde_json::from_str(gateway.admin("/config_dump").await.text()).unwrap();
    assert_eq!(dump["push"], "2", "as the controller calls it");
}

#[tokio::test]
async fn objects_are_changed_added_and_removed_while_running() {
    let (control, mut gateway) = gateway().await;
    control.apply(&respond("a", "a.test", "after"));
    answers(&mut gateway, "a.test", "after").await;
    control.apply(&respond("b", "b.test", "new"));
    answers(&mut gateway, "b.test", "new").await;
    control.remove(A);
    answers(&mut gateway, "a.test", "404").await;
    answers(&mut gateway, "b.test", "new").await;
}

#[tokio::test]
async fn the_mesh_configuration_is_the_controllers() {
    let (control, mut gateway) = gateway().await;
    assert_eq!(gateway.get("a.test", "/silent").await.status, 200);
    control.mesh_config("accessLogFile: /dev/stdout\naccessLogFormat: \"line of %REQ(:PATH)%\\n\"");
    acknowledged(&control, 2).await;
    assert_eq!(gateway.get("a.test", "/told").await.status, 200);
    gateway.access_log_line("line of /told").await;
}

#[tokio::test]
async fn a_secret_of_the_controller_is_served_and_rotates() {
    let mut config = Config::new();
    let control = Control::start().await;
    let first = Authority::new("first");
    let https = config.fill(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: ${PORT_https}, name: https, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: SIMPLE, credentialName: cert}
",
    );
    control.apply(&https);
    control.apply(&respond("a", "a.test", "secret"));
    let identity = first.server(&["a.test"]);
    control.apply(&tls_secret("cert", &identity.certificate, &identity.key));
    let mut gateway = Launch::controlled(config, &control).start().await;
    let reply = gateway.get_tls(&first.client_config(None, &[]), "a.test", "/").await.unwrap();
    assert_eq!(reply.text(), "secret");

    let second = Authority::new("second");
    let identity = second.server(&["a.test"]);
    control.apply(&tls_secret("cert", &identity.certificate, &identity.key));
    let tls = second.client_config(None, &[]);
    eventually("the new certificate is served", async || {
        gateway.get_tls(&tls, "a.test", "/").await.ok()
    })
    .await;
    assert!(gateway.get_tls(&first.client_config(None, &[]), "a.test", "/").await.is_err());
}

#[tokio::test]
async fn a_refused_object_keeps_its_last_good_version_and_the_others_of_the_push_are_in_force() {
    let (control, mut gateway) = gateway().await;
    let wrong = respond("a", "a.test", "wrong").replace("status: 200", "status: 1000");
    control.apply(&format!("{wrong}\n---\n{}", respond("b", "b.test", "new")));
    answers(&mut gateway, "b.test", "new").await;
    answers(&mut gateway, "a.test", "before").await;
    let rejections = eventually("the refusal is told", async || {
        let rejections = control.streams()[0].rejections.clone();
        (!rejections.is_empty()).then_some(rejections)
    })
    .await;
    assert_eq!(rejections[0].resource_name, A);
    assert!(rejections[0].message.contains("directResponse.status"), "{}", rejections[0].message);
    assert_eq!(metric(&gateway, "weir_discovery_rejections_total").await, 1.0);

    control.apply(&respond("a", "a.test", "right"));
    answers(&mut gateway, "a.test", "right").await;
}

#[tokio::test]
async fn what_cannot_be_read_at_all_is_refused_by_name() {
    let (control, mut gateway) = gateway().await;
    control.apply(&respond("a", "a.test", "x").replace("hosts: [\"a.test\"]", "hosts: {a: b}"));
    let message = eventually("the refusal is told", async || {
        let rejection = control.streams()[0].rejections.first().cloned()?;
        (rejection.resource_name == A).then_some(rejection.message)
    })
    .await;
    assert!(message.starts_with("spec.hosts: "), "{message}");
    answers(&mut gateway, "a.test", "before").await;
}

/// That text in an object has the gateway panic.
const BUG: &str = "brings-out-a-bug";

#[tokio::test]
async fn an_object_that_brings_out_a_panic_is_refused_and_all_others_of_the_push_are_in_force() {
    let mut config = Config::new();
    let control = control(&mut config).await;
    let mut gateway = Launch::controlled(config, &control).panic_over(BUG).start().await;
    acknowledged(&control, 1).await;
    let others = ["b", "c", "d"].map(|name| respond(name, &format!("{name}.test"), "new"));
    control.apply(&format!("{}\n---\n{}", respond("a", "a.test", BUG), others.join("\n---\n")));
    for host in ["b.test", "c.test", "d.test"] {
        answers(&mut gateway, host, "new").await;
    }
    answers(&mut gateway, "a.test", "before").await;
    let message = eventually("the refusal is told", async || {
        let rejection = control.streams()[0].rejections.first().cloned()?;
        (rejection.resource_name == A).then_some(rejection.message)
    })
    .await;
    assert!(message.contains("which is a bug"), "{message}");
    assert!(metric(&gateway, "weir_panics_total").await >= 1.0);
    assert_eq!(control.streams()[0].rejections.len(), 1, "the others are not refused");

    control.apply(&respond("a", "a.test", "right"));
    answers(&mut gateway, "a.test", "right").await;
    assert_eq!(control.streams().len(), 1, "it is the same stream all the time");
}

#[tokio::test]
async fn a_first_configuration_that_brings_out_a_panic_is_served_without_what_did() {
    let mut config = Config::new();
    let control = control(&mut config).await;
    control.apply(&respond("b", "b.test", BUG));
    let mut gateway = Launch::controlled(config, &control).panic_over(BUG).start().await;
    answers(&mut gateway, "a.test", "before").await;
    answers(&mut gateway, "b.test", "404").await;
}

#[tokio::test]
async fn kinds_and_fields_of_a_later_version_are_ignored_with_a_warning() {
    let (control, mut gateway) = gateway().await;
    let later = json!({
        "apiVersion": "networking.istio.io/v9",
        "kind": "LaterKind",
        "metadata": {"name": "a", "namespace": "default"},
    });
    let Value::Object(later) = later else { panic!("an object") };
    control.put(Resource::of_object(later).unwrap());
    // And an object of ours with something in it that came later.
    let later = "status: 200, laterField: {deep: [1]}";
    control.apply(&respond("b", "b.test", "new").replace("status: 200", later));
    answers(&mut gateway, "b.test", "new").await;
    gateway.log_line("kind LaterKind (networking.istio.io/v9) is not used by Weir").await;
    gateway.log_line("laterField").await;
    assert!(control.streams()[0].rejections.is_empty());
}

#[tokio::test]
async fn a_reconnect_transfers_nothing_that_is_unchanged() {
    let (mut control, mut gateway) = gateway().await;
    acknowledged(&control, 1).await;
    control.stop().await;
    control.apply(&respond("b", "b.test", "new"));
    control.remove(A);
    control.restart().await;
    answers(&mut gateway, "b.test", "new").await;
    answers(&mut gateway, "a.test", "404").await;
    let streams = control.streams();
    let stream = streams.last().unwrap();
    assert_eq!(stream.initial.len(), 2, "{:?}", stream.initial);
    assert_eq!(stream.sent, ["networking.istio.io/VirtualService/default/b"]);
    assert_eq!(stream.removed, [A]);

    acknowledged(&control, 1).await;
    control.stop().await;
    control.restart().await;
    eventually_eq(streams.len() + 1, async || control.streams().len()).await;
    acknowledged(&control, 1).await;
    let streams = control.streams();
    let stream = streams.last().unwrap();
    assert_eq!((stream.sent.len(), stream.removed.len()), (0, 0), "{stream:?}");
}

#[tokio::test]
async fn a_refused_version_is_not_claimed_at_a_reconnect() {
    let (mut control, mut gateway) = gateway().await;
    acknowledged(&control, 1).await;
    control.apply(&respond("a", "a.test", "x").replace("status: 200", "status: 1000"));
    acknowledged(&control, 2).await;
    control.stop().await;
    control.restart().await;
    let sent = eventually("a new stream", async || {
        let streams = control.streams();
        streams.get(1).filter(|it| it.acknowledged > 0).map(|it| it.sent.clone())
    })
    .await;
    assert_eq!(sent, [A]);
    answers(&mut gateway, "a.test", "before").await;
}

#[tokio::test]
async fn what_is_in_force_is_kept_from_a_controller_that_knows_less() {
    let mut config = Config::new();
    let mut control = control(&mut config).await;
    let port = config.port("http");
    control.set_position("here");
    let mut gateway = with_copy(config, &control).start().await;
    acknowledged(&control, 1).await;
    assert_eq!(control.streams()[0].position, None, "it had nothing");

    // Another replica, whose state is older.
    control.stop().await;
    control.set_behind(true);
    control.apply(&respond("a", "a.test", "older"));
    control.restart().await;
    eventually("it is sent away again and again", async || {
        let older = metric(&gateway, "weir_discovery_older_controllers_total").await;
        (older >= 2.0).then_some(())
    })
    .await;
    assert_eq!(control.streams().last().unwrap().position.as_deref(), Some("here"));
    assert_eq!(gateway.get("a.test", "/").await.text(), "before");
    assert!(gateway.admin("/ready").await.text().contains("knows less"));

    // A new process has it from the copy.
    assert!(gateway.terminate().await.success());
    let seen = control.streams().len();
    let config = Config::new().set("PORT_http", port);
    let mut gateway = with_copy(config, &control).start().await;
    answers(&mut gateway, "a.test", "before").await;
    eventually("it asks", async || (control.streams().len() > seen).then_some(())).await;
    assert_eq!(control.streams().last().unwrap().position.as_deref(), Some("here"));

    // One that knows as much may say what it likes.
    control.set_behind(false);
    answers(&mut gateway, "a.test", "older").await;
}

#[tokio::test]
async fn what_is_in_force_outlives_the_controller_and_is_said_to_be_stale() {
    let (mut control, mut gateway) = gateway().await;
    control.stop().await;
    eventually("the metric says it is stale", async || {
        (metric(&gateway, "weir_discovery_stale_seconds").await > 0.0).then_some(())
    })
    .await;
    assert_eq!(metric(&gateway, "weir_discovery_connected").await, 0.0);
    answers(&mut gateway, "a.test", "before").await;
    let ready = gateway.admin("/ready").await;
    assert_eq!(ready.status, 200);
    assert!(ready.text().starts_with("LIVE\nstale for "), "{}", ready.text());

    control.restart().await;
    eventually_eq("LIVE\n".to_owned(), async || gateway.admin("/ready").await.text().to_owned())
        .await;
    assert_eq!(metric(&gateway, "weir_discovery_connected").await, 1.0);
}

#[tokio::test]
async fn a_gateway_starts_with_its_copy_while_the_controller_is_down() {
    let mut config = Config::new();
    let mut control = control(&mut config).await;
    let port = config.port("http");
    let gateway = with_copy(config, &control).start().await;
    control.apply(&respond("a", "a.test", "written down"));
    acknowledged(&control, 2).await;
    assert!(gateway.terminate().await.success());
    let file = control.state_dir().join("last-good");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    control.stop().await;
    let config = Config::new().set("PORT_http", port);
    let mut gateway = with_copy(config, &control).start().await;
    answers(&mut gateway, "a.test", "written down").await;
    let ready = gateway.admin("/ready").await;
    assert!(ready.text().starts_with("LIVE\nstale for "), "{}", ready.text());

    control.apply(&respond("a", "a.test", "after"));
    control.restart().await;
    answers(&mut gateway, "a.test", "after").await;
    let streams = control.streams();
    assert_eq!(streams.last().unwrap().sent, [A], "only what changed since the copy");
    eventually_eq("LIVE\n".to_owned(), async || gateway.admin("/ready").await.text().to_owned())
        .await;
}

#[tokio::test]
async fn a_gateway_that_ended_early_with_its_copy_goes_back_to_the_push_before() {
    let mut config = Config::new();
    let mut control = control(&mut config).await;
    let port = config.port("http");
    let gateway = with_copy(config, &control).start().await;
    acknowledged(&control, 1).await;
    let file = control.state_dir().join("last-good");
    let size = || fs::metadata(&file).map(|it| it.len()).unwrap_or_default();
    let first =
        eventually("the first push is written", async || Some(size()).filter(|it| *it > 0)).await;
    control.apply(&respond("a", "a.test", "deadly"));
    eventually("the second push is written", async || (size() > first).then_some(())).await;
    assert!(gateway.terminate().await.success());
    control.stop().await;

    let start = async || {
        let config = Config::new().set("PORT_http", port);
        with_copy(config, &control).start().await
    };
    for _ in 0..2 {
        let mut gateway = start().await;
        answers(&mut gateway, "a.test", "deadly").await;
        gateway.signal("KILL").await;
        gateway.exited().await;
    }
    let mut gateway = start().await;
    let line = gateway.log_line("ended early").await;
    assert!(line.contains(A), "{line}");
    answers(&mut gateway, "a.test", "before").await;

    control.restart().await;
    let rejection = eventually("the version is refused", async || {
        control.streams().last().and_then(|stream| stream.rejections.first().cloned())
    })
    .await;
    assert_eq!(rejection.resource_name, A);
    answers(&mut gateway, "a.test", "before").await;
    control.apply(&respond("a", "a.test", "harmless"));
    answers(&mut gateway, "a.test", "harmless").await;
}

#[tokio::test]
async fn a_torn_copy_is_said_and_what_was_whole_of_it_is_served() {
    let mut config = Config::new();
    let mut control = control(&mut config).await;
    let port = config.port("http");
    let gateway = with_copy(config, &control).start().await;
    control.apply(&respond("a", "a.test", "torn off"));
    acknowledged(&control, 2).await;
    assert!(gateway.terminate().await.success());
    control.stop().await;
    let file = control.state_dir().join("last-good");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();

    let config = Config::new().set("PORT_http", port);
    let mut gateway = with_copy(config, &control).start().await;
    gateway.log_line("is torn at byte").await;
    answers(&mut gateway, "a.test", "before").await;
}

#[tokio::test]
async fn a_copy_that_cannot_be_kept_is_said_once_and_everything_is_served() {
    let mut config = Config::new();
    let control = control(&mut config).await;
    // Nobody can make a folder there.
    let launch = Launch::controlled(config, &control).args(["--state-dir", "/proc/weir"]);
    let mut gateway = launch.start().await;
    answers(&mut gateway, "a.test", "before").await;
    for edition in ["second", "third"] {
        control.apply(&respond("a", "a.test", edition));
        answers(&mut gateway, "a.test", edition).await;
    }
    let log = gateway.log();
    assert_eq!(log.matches("without a copy on disk").count(), 1, "{log}");
}

#[tokio::test]
async fn with_a_certificate_that_has_ended_nobody_is_reached_until_there_is_another() {
    let mut control = Control::start().await;
    control.certificate_seconds(6);
    let web = control.authority().server(&["spiffe://cluster.local/ns/shop/sa/web"]);
    let server = control.authority().server_config(&web, &["istio-http/1.1"], true);
    let upstream = Echo::start_tls("workload", server).await;
    let mut config = Config::new();
    control.apply(&config.fill(HTTP_GATEWAY));
    control.apply(&service_entry("up.test", "HTTP", &[upstream.port()]));
    // Each request has a handshake of its own.
    control.apply(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: up}\nspec:\n  \
         host: up.test\n  trafficPolicy:\n    tls: {mode: ISTIO_MUTUAL}\n    \
         connectionPool: {http: {maxRequestsPerConnection: 1}}\n",
    );
    control.apply(&forward("up", "*", "up.test"));
    let mut gateway = Launch::controlled(config, &control).start().await;
    eventually_eq(200, async || gateway.get("up.test", "/").await.status).await;
    let mut socket = WebSocket::connect(gateway.port("http"), "up.test", "/").await.unwrap();
    control.stop().await;
    eventually_within(Duration::from_secs(60), "the certificate ends", async || {
        (gateway.get("up.test", "/").await.status == 503).then_some(())
    })
    .await;
    gateway.log_line("the workload's certificate has ended").await;
    // What was established with it lives on.
    assert_eq!(socket.exchange("still here").await.unwrap(), "still here");
    control.restart().await;
    // The pauses between tries have grown.
    eventually_within(Duration::from_secs(60), "there is another certificate", async || {
        (gateway.get("up.test", "/").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_foreign_copy_is_said_and_not_served() {
    let mut config = Config::new();
    let control = control(&mut config).await;
    fs::create_dir_all(control.state_dir()).unwrap();
    fs::write(control.state_dir().join("last-good"), "something else").unwrap();
    let mut gateway = with_copy(config, &control).start().await;
    gateway.log_line("is no copy of a configuration").await;
    answers(&mut gateway, "a.test", "before").await;
    assert!(control.streams()[0].initial.is_empty());
}

#[tokio::test]
async fn a_controller_of_another_root_is_refused_with_the_reason() {
    let mut config = Config::new();
    let control = control(&mut config).await;
    fs::write(control.root_file(), Authority::new("another").root()).unwrap();
    let mut gateway = Launch::controlled(config, &control).spawn().await;
    let line = gateway.log_line("TLS with the controller at 127.0.0.1:").await;
    assert!(line.contains(SERVER_NAME), "{line}");
    assert!(line.contains("root-cert.pem: invalid peer certificate: "), "{line}");
    assert!(control.streams().is_empty());

    fs::write(control.root_file(), control.authority().root()).unwrap();
    gateway.ready().await;
    answers(&mut gateway, "a.test", "before").await;
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_said_with_its_file() {
    let mut config = Config::new();
    let control = control(&mut config).await;
    control.accept_token("another");
    let mut gateway = Launch::controlled(config, &control).spawn().await;
    let line = gateway.log_line("does not accept the token at").await;
    assert!(line.contains("istio-token"), "{line}");
    assert!(line.contains("the token was not issued for this controller"), "{line}");

    fs::write(control.token_file(), "another\n").unwrap();
    gateway.ready().await;
    answers(&mut gateway, "a.test", "before").await;
}

#[tokio::test]
async fn a_missing_token_is_said_with_its_file() {
    let mut config = Config::new();
    let control = control(&mut config).await;
    fs::remove_file(control.token_file()).unwrap();
    let gateway = Launch::controlled(config, &control).spawn().await;
    let line = gateway.log_line("there is neither a token at").await;
    assert!(line.contains("istio-token"), "{line}");
}

#[tokio::test]
async fn the_same_problem_is_said_once() {
    let mut config = Config::new();
    let mut control = control(&mut config).await;
    control.stop().await;
    let gateway = Launch::controlled(config, &control).spawn().await;
    gateway.log_line("what is in force stays").await;
    let tries = metric(&gateway, "weir_discovery_failures_total").await;
    eventually("two more tries", async || {
        let now = metric(&gateway, "weir_discovery_failures_total").await;
        (now >= tries + 2.0).then_some(())
    })
    .await;
    control.restart().await;
    acknowledged(&control, 1).await;
    let log = gateway.log();
    assert_eq!(log.matches("what is in force stays").count(), 1, "{log}");
}

const IDENTITY: &str = "spiffe://cluster.local/ns/default/sa/default";

#[tokio::test]
async fn the_gateway_has_a_certificate_of_the_mesh_and_renews_it_in_time() {
    let mut config = Config::new();
    let control = control(&mut config).await;
    control.certificate_seconds(4);
    let gateway = Launch::controlled(config, &control).start().await;
    eventually("it is renewed", async || (control.signed().len() >= 2).then_some(())).await;
    let signed = control.signed();
    assert!(signed[0].authorization.starts_with("Bearer token-of-the-gateway"));
    assert_eq!(signed[0].names, [IDENTITY]);
    assert_eq!(signed[1].names, [IDENTITY]);
    gateway.log_line("the workload has a new certificate").await;
}

/// A workload of the mesh with this identity behind route `up`, and what a request to it gets in the
/// end.
async fn through_the_mesh(
    control: &Control,
    workload: &Authority,
    (identity, tls): (&str, &str),
    expected: u16,
) {
    let identity = workload.server(&[identity]);
    let server = control.authority().server_config(&identity, &["istio-http/1.1"], true);
    let upstream = Echo::start_tls("workload", server).await;
    let mut config = Config::new();
    control.apply(&config.fill(HTTP_GATEWAY));
    control.apply(&service_entry("up.test", "HTTP", &[upstream.port()]));
    control.apply(&format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: up}}\nspec:\n  \
         host: up.test\n  trafficPolicy:\n    tls: {tls}\n"
    ));
    control.apply(&forward("up", "*", "up.test"));
    let mut gateway = Launch::controlled(config, control).start().await;
    gateway.log_line("the workload has a new certificate").await;
    let reply = eventually("an answer that is no accident of the start", async || {
        // What it says of itself to proxies is not for clients.
        let request =
            Request::get("up.test", "/").header("x-echo-header", "x-envoy-peer-metadata=said");
        let reply = gateway.send(&request).await;
        assert_eq!(reply.header("x-envoy-peer-metadata"), None);
        // Before the certificate is in force a connection may be begun, and no request gets through.
        let is_early = reply.status == 503 && (expected == 200 || upstream.connections() == 0);
        (!is_early).then_some(reply)
    })
    .await;
    assert_eq!(reply.status, expected);
    assert_eq!(upstream.requests().len(), usize::from(expected == 200));
}

#[tokio::test]
async fn workloads_are_reached_with_the_gateways_certificate() {
    let control = Control::start().await;
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let tls = "{mode: ISTIO_MUTUAL}";
    through_the_mesh(&control, control.authority(), (web, tls), 200).await;
}

#[tokio::test]
async fn a_workload_with_another_identity_than_the_rules_is_refused() {
    let control = Control::start().await;
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let tls = "{mode: ISTIO_MUTUAL, subjectAltNames: [spiffe://cluster.local/ns/shop/sa/other]}";
    through_the_mesh(&control, control.authority(), (web, tls), 503).await;
}

#[tokio::test]
async fn a_workload_that_another_root_vouches_for_is_refused() {
    let control = Control::start().await;
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let other = Authority::new("another mesh");
    through_the_mesh(&control, &other, (web, "{mode: ISTIO_MUTUAL}"), 503).await;
}

#[tokio::test]
async fn a_server_without_an_identity_of_the_mesh_is_refused() {
    let control = Control::start().await;
    let of_no_mesh = ("up.test", "{mode: ISTIO_MUTUAL}");
    through_the_mesh(&control, control.authority(), of_no_mesh, 503).await;
}
