//! Processor time per request: at a fixed rate, where generator and origin are not the limit, and at
//! saturation.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::{Figure, Sample, Timing};
use crate::{
    load::{Load, Pace, Tally},
    peer::Running,
    scenario::{Case, Reconnect},
};

/// A stretch without any answer is made longer up to this: large bodies, or very many connections.
const NOTHING: Duration = Duration::from_secs(30);

/// What a proxy used and gave in a stretch of time.
#[derive(Debug)]
pub struct Window {
    pub tally: Tally,
    pub cpu: Duration,
    pub wall: Duration,
    pub context_switches: u64,
}

/// One sample.
pub async fn take(running: &Running, timing: Timing) -> anyhow::Result<Sample> {
    let mut sample = Sample::default();
    let load = &running.case.load;
    if load.rate > 0.0 {
        let pace = Pace::Open { rate: load.rate, poisson: load.poisson };
        let window = window(running, pace, timing).await?;
        at_rate(running, &window, &mut sample);
    }
    if load.saturation {
        let window = window(running, Pace::Closed, timing).await?;
        saturated(running, &window, &mut sample);
    }
    let resident = running.account.resident_bytes()?;
    sample.set(Figure::Resident, mebibytes(resident));
    Ok(sample)
}

/// Runs a load, and looks at a stretch of it after it has warmed up. Wrong answers are errors.
pub async fn window(running: &Running, pace: Pace, timing: Timing) -> anyhow::Result<Window> {
    let load = Load::start(&running.work, pace).await;
    tokio::time::sleep(timing.warm_up).await;
    let warm_up = load.take();
    let (cpu, switches) = (running.account.cpu_time()?, running.account.context_switches());
    let start = Instant::now();
    tokio::time::sleep(timing.seconds).await;
    while load.answered() == 0 && start.elapsed() < NOTHING {
        tokio::time::sleep(timing.warm_up).await;
    }
    let tally = load.take();
    let window = Window {
        tally,
        cpu: running.account.cpu_time()?.saturating_sub(cpu),
        wall: start.elapsed(),
        context_switches: running.account.context_switches().saturating_sub(switches),
    };
    let rest = load.stop().await;
    for tally in [&warm_up, &window.tally, &rest] {
        all_right(running, tally)?;
    }
    if window.tally.units == 0 {
        bail!("{}: nothing was answered in {:?}", running.peer, window.wall);
    }
    Ok(window)
}

/// The most this proxy answers per second.
pub async fn peak(running: &Running, timing: Timing) -> anyhow::Result<f64> {
    let window = window(running, Pace::Closed, timing).await?;
    Ok(rate(window.tally.exchanges, window.wall))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
pub fn rate(count: u64, wall: Duration) -> f64 {
    count as f64 / wall.as_secs_f64()
}

/// No failure of any kind.
pub fn all_right(running: &Running, tally: &Tally) -> anyhow::Result<()> {
    if tally.failed > 0 {
        let failures = tally.failures.iter().map(|(what, count)| format!("{count} x {what}"));
        let failures = failures.collect::<Vec<_>>().join("; ");
        bail!("{}: {} failed: {failures}\n{}", running.peer, tally.failed, running.errors());
    }
    if running.case.load.reconnect == Reconnect::Resumed && tally.resumed * 10 < tally.exchanges * 9
    {
        let (resumed, all) = (tally.resumed, tally.exchanges);
        bail!("{}: only {resumed} of {all} sessions were resumed", running.peer);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
fn at_rate(running: &Running, window: &Window, sample: &mut Sample) {
    let units = units(&running.case, &window.tally);
    sample.set(Figure::Cpu, micros(window.cpu) / units);
    sample.set(Figure::ContextSwitches, window.context_switches as f64 / units);
    let answered = rate(window.tally.exchanges, window.wall);
    sample.set(Figure::RateHeld, answered / running.case.load.rate);
    for (figure, quantile) in Figure::LATENCIES {
        sample.set(figure, window.tally.latency_us(quantile));
    }
    sample.latencies = window.tally.curve();
}

fn saturated(running: &Running, window: &Window, sample: &mut Sample) {
    let units = units(&running.case, &window.tally);
    let wall = window.wall.as_secs_f64();
    sample.set(Figure::CpuAtSaturation, micros(window.cpu) / units);
    sample.set(Figure::Throughput, units / wall);
    sample.set(Figure::Busy, window.cpu.as_secs_f64() / wall);
}

/// In what the case is counted in.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
pub fn units(case: &Case, tally: &Tally) -> f64 {
    match case.is_bulk() {
        true => tally.bytes as f64 / f64::from(1 << 20),
        false => tally.units as f64,
    }
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
