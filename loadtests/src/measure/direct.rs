//! The same load straight at the origin: the floor of every latency, and how fast the machine is.

use std::time::Instant;

use super::{
    Figure, Sample, Timing,
    cost::{micros, units},
};
use crate::{
    account::Account,
    certs::Credentials,
    load::{Load, Pace, Work},
    origin::Origin,
    scenario::{Case, Listener, Protocol, Reconnect, Upstream},
};

/// One sample, without a proxy. Its processor time is that of the generator and the origin.
pub async fn direct(
    case: &Case,
    origin: &Origin,
    credentials: &Credentials,
    timing: Timing,
) -> anyhow::Result<Sample> {
    let case = without_proxy(case);
    let work = Work::new(&case, credentials, origin.addresses[0])?;
    let pace = match case.load.rate {
        0.0 => Pace::Closed,
        rate => Pace::Open { rate, poisson: case.load.poisson },
    };
    let load = Load::start(&work, pace).await;
    tokio::time::sleep(timing.warm_up).await;
    load.take();
    let (cpu, start) = (Account::own().cpu_time()?, Instant::now());
    tokio::time::sleep(timing.seconds / 2).await;
    let cpu = Account::own().cpu_time()?.saturating_sub(cpu);
    let tally = load.take();
    let wall = start.elapsed();
    load.stop().await;
    anyhow::ensure!(tally.failed == 0, "without a proxy: {:?}", tally.failures);
    let mut sample = Sample::default();
    let units = units(&case, &tally);
    sample.set(Figure::Cpu, micros(cpu) / units);
    sample.set(Figure::Throughput, units / wall.as_secs_f64());
    for (figure, quantile) in Figure::LATENCIES {
        sample.set(figure, tally.latency_us(quantile));
    }
    sample.latencies = tally.curve();
    Ok(sample)
}

/// What of a case the origin does by itself: no TLS but its own, no routes, no tokens.
pub fn without_proxy(case: &Case) -> Case {
    let mut case = case.clone();
    if case.proxy.listener == Listener::Https {
        case.proxy.listener = Listener::Http;
    }
    if case.proxy.upstream == Upstream::Http1 && case.load.protocol == Protocol::Http2 {
        case.load.protocol = Protocol::Http1;
        case.load.connections *= case.load.streams;
        case.load.streams = 1;
    }
    if case.load.reconnect == Reconnect::Resumed {
        case.load.reconnect = Reconnect::Full;
    }
    case.proxy.routes = 0;
    case.proxy.hosts = 0;
    case.proxy.jwt = None;
    case
}
