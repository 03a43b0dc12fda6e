//! A thousand changes while requests go on: none may fail, none may be lost.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{
    Figure, Sample, Timing, change,
    cost::{micros, units},
};
use crate::{
    load::{Http1Connection, Load, Pace},
    peer::Running,
};

const CHANGES: u32 = 1_000;
const INTERVAL: Duration = Duration::from_millis(10);

/// After the last change, until it has to be in force.
const LIVE: Duration = Duration::from_secs(10);

/// One sample.
pub async fn take(running: &mut Running, timing: Timing) -> anyhow::Result<Sample> {
    let changes = if timing.brief { CHANGES / 10 } else { CHANGES };
    let mut random = fastrand::Rng::new();
    let rate = running.case.load.rate;
    let load = Load::start(&running.work, Pace::Open { rate, poisson: false }).await;
    tokio::time::sleep(timing.warm_up).await;
    load.take();
    let (cpu, mut last) = (running.account.cpu_time()?, 0);
    let mut ticks = tokio::time::interval(INTERVAL);
    for _ in 0..changes {
        ticks.tick().await;
        last = random.usize(..running.work.requests.len());
        running.change(last)?;
    }
    let cpu = running.account.cpu_time()?.saturating_sub(cpu);
    in_force(running, last).await?;
    let tally = load.stop().await;
    ensure!(tally.exchanges > 0, "{}: nothing was answered", running.peer);
    ensure!(
        tally.failures.keys().all(|failure| !failure.contains("route")),
        "{}: {:?}",
        running.peer,
        tally.failures
    );
    let mut sample = Sample::default();
    sample.set(Figure::Failed, count(tally.failed));
    sample.set(Figure::Cpu, micros(cpu) / units(&running.case, &tally));
    Ok(sample)
}

/// Waits until the last change of a route is what is answered.
async fn in_force(running: &Running, route: usize) -> anyhow::Result<()> {
    let wanted = running.settings.generation(route);
    let deadline = Instant::now() + LIVE;
    let mut connection = Http1Connection::new(running.work.target.connect().await?);
    let head = &running.work.requests[route].head;
    loop {
        let now = change::ask(&mut connection, head, route).await?;
        if now == wanted {
            return Ok(());
        }
        let late = Instant::now() > deadline;
        ensure!(!late, "{}: version {now} of {wanted} after {LIVE:?}", running.peer);
        tokio::time::sleep(INTERVAL).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
fn count(count: u64) -> f64 {
    count as f64
}
