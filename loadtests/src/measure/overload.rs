//! Twice as many requests as can be answered: how much is still answered in time, what it takes in
//! memory, how fast it is over.

use std::time::{Duration, Instant};

use super::{
    Figure, Sample, Timing,
    cost::{all_right, mebibytes, peak, rate},
};
use crate::{
    load::{Load, Pace},
    peer::Running,
};

/// A client without a free connection gives up after this.
const PATIENCE: Duration = Duration::from_millis(100);

/// An answer after this is of no use.
const DEADLINE: Duration = Duration::from_secs(1);

/// Recovery is looked for in slices of this.
const SLICE: Duration = Duration::from_millis(50);

/// Latency is as before within this factor.
const AS_BEFORE: f64 = 2.0;

const NOT_RECOVERED: Duration = Duration::from_secs(20);

/// One sample.
pub async fn take(running: &Running, timing: Timing) -> anyhow::Result<Sample> {
    let peak = peak(running, timing).await?;
    let pace = Pace::Open { rate: peak / 2.0, poisson: false };
    let load = Load::impatient(&running.work, pace, PATIENCE, DEADLINE).await;
    tokio::time::sleep(timing.warm_up).await;
    load.take();
    tokio::time::sleep(timing.seconds).await;
    let quiet = load.take().latency_us(0.99);
    let before = running.account.resident_bytes()?;

    load.set_rate(peak * 2.0);
    tokio::time::sleep(timing.warm_up).await;
    load.take();
    let start = Instant::now();
    let mut most = before;
    while start.elapsed() < timing.seconds * 3 {
        tokio::time::sleep(SLICE * 4).await;
        most = most.max(running.account.resident_bytes()?);
    }
    let overloaded = load.take();
    let goodput = rate(overloaded.good(), start.elapsed());
    all_right(running, &overloaded)?;

    load.set_rate(peak / 2.0);
    let recovery = recovery(&load, quiet).await;
    all_right(running, &load.stop().await)?;
    let mut sample = Sample::default();
    sample.set(Figure::Throughput, peak);
    sample.set(Figure::Goodput, goodput / peak);
    sample.set(Figure::OverloadGrowth, mebibytes(most) / mebibytes(before));
    sample.set(Figure::Recovery, recovery.as_secs_f64() * 1e3);
    Ok(sample)
}

/// Waits for two slices in a row with the latency there was.
async fn recovery(load: &Load, quiet: f64) -> Duration {
    let start = Instant::now();
    let mut good = 0;
    load.take();
    while good < 2 && start.elapsed() < NOT_RECOVERED {
        tokio::time::sleep(SLICE).await;
        let slice = load.take();
        let as_before = slice.exchanges > 0 && slice.latency_us(0.99) <= quiet * AS_BEFORE;
        good = if as_before { good + 1 } else { 0 };
    }
    // The slices that showed it are not part of it.
    start.elapsed().saturating_sub(SLICE * good)
}
