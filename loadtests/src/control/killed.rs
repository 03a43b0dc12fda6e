//! Requests go on through a gateway while its controller is killed again and again: none may fail, and
//! what changed meanwhile is served once the controller is back.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::time::sleep;
use weir_tests::ports;

use super::{
    Found, Stage, is_served, latencies, millis, objects,
    process::{Controller, Follower, Ports},
    until,
};
use crate::{
    certs::{Credentials, SERVER_NAME},
    load::{Load, Pace, Work},
    measure::Figure,
    origin::Origin,
    statistics::quantile,
};

/// How long the controller is away each time, and then there.
const PHASE: Duration = Duration::from_secs(30);
/// The processor of the origin.
const CPU: usize = 0;

pub async fn take(stage: &Stage<'_>) -> anyhow::Result<Found> {
    let credentials = Credentials::create(stage.folder)?;
    let origin = Origin::start(stage.case, &credentials, CPU, None)?;
    let (port, namespace) = (ports::free(), &stage.bed.namespace);
    stage.bed.write(&objects::gateway(namespace, port)).await?;
    stage.bed.write(&objects::origin(namespace, origin.addresses[0].port())).await?;
    let route = |host: &str| objects::virtual_service(namespace, host, objects::ORIGIN);
    stage.bed.write(&route(SERVER_NAME)).await?;
    stage.bed.write_all((0..stage.objects()).map(|n| route(&format!("host-{n}.test")))).await?;
    let ports = Ports::free();
    let mut controller = Controller::start_at(stage, &ports, &[]).await?;
    let (root, tokens) = (stage.bed.root().await?, stage.bed.tokens(1).await?);
    let gateway = Follower::new(stage, &controller, &root, &tokens[0])?.start().await?;

    let rate = stage.case.load.rate;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let work = Work::new(stage.case, &credentials, address)?;
    let load = Load::start(&work, Pace::Open { rate, poisson: false }).await;
    let mut back = Vec::new();
    for kill in 0..stage.changes() {
        // Dropped is killed, without a word.
        drop(controller);
        let host = format!("meanwhile-{kill}.test");
        stage.bed.write(&route(&host)).await?;
        sleep(PHASE).await;
        ensure!(!is_served(port, &host).await, "served without a controller");
        controller = Controller::start_at(stage, &ports, &[]).await?;
        let ready = Instant::now();
        until("what changed meanwhile is served", async || {
            Ok(is_served(port, &host).await.then_some(()))
        })
        .await
        .with_context(|| gateway.last_words())?;
        back.push(millis(ready.elapsed()));
        sleep(PHASE).await;
    }
    let tally = load.stop().await;
    ensure!(tally.exchanges > 0, "nothing was answered");
    let mut found = Found { latencies: latencies(&back), ..Found::default() };
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    let (failed, answered) = (tally.failed as f64, tally.exchanges as f64);
    found.set(Figure::Failed, failed);
    found.set(Figure::Answered, answered);
    found.set(Figure::LatencyP99, tally.latency_us(0.99));
    found.set(Figure::LatencyP999, tally.latency_us(0.999));
    found.set(Figure::ResyncMax, quantile(&back, 1.0).unwrap_or_default());
    ensure!(tally.failed == 0, "requests failed: {:?}", tally.failures);
    Ok(found)
}
