//! From the start of a gateway whose controller is down until its first right answer, of its copy on
//! disk.

use std::time::Duration;

use anyhow::Context as _;
use weir_tests::{backend::echo::Echo, ports};

use super::{
    Found, Stage, is_served, latencies, millis, objects,
    process::{Controller, Follower},
    until,
};
use crate::{measure::Figure, statistics::quantile};

/// How often it is started.
const STARTS: usize = 20;
/// Between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(1);

pub async fn take(stage: &Stage<'_>) -> anyhow::Result<Found> {
    let (port, origin) = (ports::free(), Echo::start("origin").await);
    let namespace = &stage.bed.namespace;
    stage.bed.write(&objects::gateway(namespace, port)).await?;
    stage.bed.write(&objects::origin(namespace, origin.port())).await?;
    let hosts = 0..stage.objects();
    let routes =
        hosts.map(|number| objects::virtual_service(namespace, &host(number), objects::ORIGIN));
    stage.bed.write_all(routes).await?;
    let follower = with_copy(stage).await?;

    let mut times = Vec::new();
    for number in 0..STARTS {
        let host = host(number * (stage.objects() - 1) / (STARTS - 1));
        let gateway = follower.spawn_with_copy()?;
        until("the gateway serves its copy", async || {
            // Asked more often than it is waited for here.
            tokio::time::sleep(ASK_AGAIN).await;
            Ok(is_served(port, &host).await.then_some(()))
        })
        .await
        .with_context(|| gateway.last_words())?;
        times.push(millis(gateway.started.elapsed()));
        gateway.end().await?;
    }
    let mut found = Found { latencies: latencies(&times), ..Found::default() };
    found.set(Figure::RestartP50, quantile(&times, 0.5).unwrap_or_default());
    found.set(Figure::RestartMax, quantile(&times, 1.0).unwrap_or_default());
    Ok(found)
}

/// Has a gateway write its copy, and takes the controller away.
async fn with_copy<'a>(stage: &Stage<'a>) -> anyhow::Result<Follower<'a>> {
    let controller = Controller::start(stage).await?;
    let (root, tokens) = (stage.bed.root().await?, stage.bed.tokens(1).await?);
    let follower = Follower::new(stage, &controller, &root, &tokens[0])?;
    let gateway = follower.spawn_with_copy()?;
    let copy = follower.copy();
    // The first push is written as one file, which then gets this name.
    until("the copy is written", async || Ok(copy.exists().then_some(())))
        .await
        .with_context(|| gateway.last_words())?;
    gateway.end().await?;
    Ok(follower)
}

fn host(number: usize) -> String {
    format!("host-{number}.test")
}
