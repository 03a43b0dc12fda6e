//! Clocks that differ, and one that is set: certificates are taken within five minutes, and refused with
//! the reason where a clock is further off (hardening O07).

use weir_tests::clock::Clock;

use super::*;

/// Seconds that a clock may be off.
const OFF: i64 = 300;

async fn controller(server: &ApiServer, clock: &Clock) -> Controller {
    let options = Options { is_own_authority: true, clock: Some(clock), ..Options::default() };
    Controller::start_with(server, &options).await
}

/// By its token first, then by the certificate it was given for that.
async fn is_served_by_token_and_by_certificate(controller_off: i64, gateway_off: i64) {
    let mut config = Config::new();
    let server = ApiServer::start().await;
    server.apply(objects(config.port("http")));
    let theirs = Clock::off_by(controller_off);
    let controller = controller(&server, &theirs).await;
    let pod = Pod::new(&server, "gateway").await;
    let clock = Clock::off_by(gateway_off);
    let kept = tempfile::tempdir().unwrap();
    let launch = |pod: &Pod, config| {
        let identity = ["--identity-dir".into(), kept.path().as_os_str().to_owned()];
        pod.gateway(&controller, config).args(identity).clock(&clock)
    };
    let mut gateway = launch(&pod, config).start().await;
    serves(&mut gateway).await;
    gateway.log_line("the workload has a new certificate").await;
    drop(gateway);

    fs::remove_file(pod.file("istio-token")).unwrap();
    let mut config = Config::new();
    server.apply(objects(config.port("http")));
    let mut gateway = launch(&pod, config).start().await;
    gateway.log_line("the workload goes on with the certificate it had").await;
    serves(&mut gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_clock_is_five_minutes_off_is_served() {
    is_served_by_token_and_by_certificate(0, -OFF).await;
    is_served_by_token_and_by_certificate(0, OFF).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_whose_clock_is_five_minutes_off_serves() {
    is_served_by_token_and_by_certificate(-OFF, 0).await;
    is_served_by_token_and_by_certificate(OFF, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_further_off_is_named_as_the_reason() {
    let (server, controller, _) = start().await;
    let pod = Pod::new(&server, "gateway").await;
    const DAY: i64 = 86_400;
    for (seconds, reason) in
        [(-3600, "certificate not valid yet"), (2 * DAY, "certificate expired")]
    {
        let clock = Clock::off_by(seconds);
        let gateway = pod.gateway(&controller, Config::new()).clock(&clock).spawn().await;
        gateway.log_line(reason).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_while_it_runs_changes_nothing() {
    let mut config = Config::new();
    let port = config.port("http");
    let server = ApiServer::start().await;
    server.apply(objects(port));
    let clock = Clock::off_by(0);
    let controller = controller(&server, &clock).await;
    let pod = Pod::new(&server, "gateway").await;
    let mut gateway = pod.gateway(&controller, config).clock(&clock).start().await;
    serves(&mut gateway).await;
    gateway.log_line("the workload has a new certificate").await;
    for (seconds, host) in [(OFF, "later.test"), (-OFF, "earlier.test"), (0, "again.test")] {
        clock.set(seconds);
        let mut changed = objects(port).pop().unwrap();
        changed["spec"]["hosts"] = json!(["a.test", host]);
        server.apply([changed]);
        eventually_eq(200, async || gateway.get(host, "/").await.status).await;
    }
    let metrics = controller.metrics().await;
    assert_eq!(metrics.sum("citadel_server_success_cert_issuance_count", &[]), 1.0);
    let log = gateway.log();
    assert!(!log.contains("is tried again"), "{log}");
}
