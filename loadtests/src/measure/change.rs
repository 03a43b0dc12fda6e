//! One route changed among many: how long until it is live, and what it costs.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::{Figure, Sample, Timing, cost::micros};
use crate::{
    load::{Http1Connection, generation},
    peer::Running,
    statistics::quantile,
};

/// A change that is not live by then was lost.
const LOST: Duration = Duration::from_secs(30);

/// Between changes whose cost is taken: long enough that each is over.
const APART: Duration = Duration::from_millis(300);

/// One sample: some changes watched, as many left alone for their cost.
pub async fn take(running: &mut Running, timing: Timing) -> anyhow::Result<Sample> {
    let count = if timing.brief { 3 } else { 10 };
    let mut random = fastrand::Rng::new();
    let routes = running.work.requests.len();
    ensure!(routes > 1, "there is nothing to change");
    let mut times = Vec::new();
    let mut slowest = Duration::ZERO;
    for _ in 0..count {
        let time = watched(running, random.usize(..routes)).await?;
        slowest = slowest.max(time);
        times.push(micros(time) / 1e3);
        // What a change leaves to be done afterwards is not part of the next.
        tokio::time::sleep(APART).await;
    }
    let mut sample = Sample::default();
    sample.set(Figure::ChangeLive, quantile(&times, 0.5).unwrap_or_default());
    sample.set(Figure::ChangeLiveMax, quantile(&times, 1.0).unwrap_or_default());
    let apart = APART.max(slowest * 2);
    let quiet = cost(running, count, apart, |_| Ok(())).await?;
    let busy =
        cost(running, count, apart, |running| running.change(random.usize(..routes)).map(drop))
            .await?;
    let each = busy.saturating_sub(quiet) / count;
    sample.set(Figure::ChangeCpu, (micros(each) / 1e3).max(0.001));
    Ok(sample)
}

/// Changes a route and asks for it until the answer is of the new one.
async fn watched(running: &mut Running, route: usize) -> anyhow::Result<Duration> {
    let work = std::rc::Rc::clone(&running.work);
    let head = work.requests[route].head.clone();
    let mut connection = Http1Connection::new(work.target.connect().await?);
    let before = ask(&mut connection, &head, route).await?;
    let at = running.change(route)?;
    let deadline = Instant::now() + LOST;
    loop {
        match ask(&mut connection, &head, route).await {
            Ok(now) if now > before => return Ok(at.elapsed()),
            Ok(_) => {}
            // nginx closes the connections of the worker that knows the old configuration only.
            Err(_) => connection = Http1Connection::new(work.target.connect().await?),
        }
        if Instant::now() > deadline {
            bail!("{}: a change was not live after {LOST:?}", running.peer);
        }
    }
}

/// The version of a route that is in force.
pub async fn ask(
    connection: &mut Http1Connection,
    head: &[u8],
    route: usize,
) -> anyhow::Result<u64> {
    let answer = connection.get(head).await;
    let (status, _, taken) = answer.map_err(|failure| anyhow::anyhow!("{failure}"))?;
    ensure!(status == 200, "status {status} for route {route}");
    match taken.as_deref().and_then(|taken| generation(route, taken)) {
        Some(generation) => Ok(generation),
        None => bail!("another route than {route}: {taken:?}"),
    }
}

/// Processor time of a stretch in which something is done again and again.
async fn cost(
    running: &mut Running,
    count: u32,
    apart: Duration,
    mut step: impl FnMut(&mut Running) -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let before = running.account.cpu_time()?;
    for _ in 0..count {
        step(running)?;
        tokio::time::sleep(apart).await;
    }
    Ok(running.account.cpu_time()?.saturating_sub(before))
}
