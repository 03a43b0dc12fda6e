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
    let work = Work::new(&case, credentials, origin.place.clone())?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::{runtime, task::LocalSet};

    use super::*;
    use crate::{
        load::{Client, Failure},
        scenario::Scenario,
    };

    /// One exchange of the load of `sent` with the origin of `served`.
    fn exchange(credentials: &Credentials, served: &Case, sent: &Case) -> Result<(), Failure> {
        let origin = Origin::start(served, credentials, 0, None).unwrap();
        let work = Work::new(sent, credentials, origin.addresses[0]).unwrap();
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let mut random = fastrand::Rng::with_seed(0);
            let mut client = Client::open(&work).await?;
            client.exchange(&work, &mut random).await.map(drop)
        })
    }

    fn credentials() -> (tempfile::TempDir, Credentials) {
        let folder = tempfile::tempdir().unwrap();
        let credentials = Credentials::create(folder.path()).unwrap();
        (folder, credentials)
    }

    fn cases() -> Vec<Case> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let cases = Scenario::all(&dir).unwrap().into_iter().flat_map(|scenario| scenario.cases);
        cases
            .map(|mut case| {
                case.proxy.endpoints = 1;
                case.load.answer_bytes = case.load.answer_bytes.min(1 << 20);
                case.load.request_bytes = case.load.request_bytes.min(1 << 20);
                case
            })
            .collect()
    }

    fn case(name: &str) -> Case {
        cases().into_iter().find(|case| case.name == name).unwrap()
    }

    #[test]
    fn generator_and_origin_agree_on_every_case() {
        let (_folder, credentials) = credentials();
        for case in cases() {
            let sent = without_proxy(&case);
            assert_eq!(exchange(&credentials, &case, &sent), Ok(()), "{}", case.name);
        }
    }

    #[test]
    fn an_answer_that_is_not_the_right_one_is_noticed() {
        let (_folder, credentials) = credentials();
        for name in ["h1-keepalive/60B", "h2/end-to-end", "grpc/server-stream"] {
            let case = case(name);
            let mut other = case.clone();
            other.load.answer_bytes += 1;
            other.load.messages += 1;
            let answer = exchange(&credentials, &other, &without_proxy(&case));
            assert!(matches!(answer, Err(Failure::Wrong(_))), "{name}: {answer:?}");
        }
    }

    #[test]
    fn an_answer_without_the_route_is_noticed() {
        let (_folder, credentials) = credentials();
        let case = case("routes/100");
        let answer = exchange(&credentials, &case, &case);
        // No proxy wrote it into the request, so that the origin has nothing to give back.
        assert!(matches!(answer, Err(Failure::Wrong(_))), "{answer:?}");
    }
}
