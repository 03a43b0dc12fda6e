//! From the API server's acceptance of a VirtualService until the first right answer of its host,
//! one after another.

use std::time::{Duration, Instant};

use anyhow::bail;
use weir_tests::{
    backend::echo::Echo,
    client::http::{Connection, Request},
    ports,
};

use super::{
    Found, Stage, latencies, mean, millis, objects,
    process::{Controller, Follower},
};
use crate::{
    measure::{Figure, mebibytes},
    statistics::quantile,
};

/// Between two questions for what is not there yet.
const ASK_AGAIN: Duration = Duration::from_millis(1);
/// A write that is not in force by then was lost.
const LOST: Duration = Duration::from_secs(30);

pub async fn take(stage: &Stage<'_>) -> anyhow::Result<Found> {
    let (port, origin) = (ports::free(), Echo::start("origin").await);
    let namespace = &stage.bed.namespace;
    stage.bed.write(&objects::gateway(namespace, port)).await?;
    stage.bed.write(&objects::origin(namespace, origin.port())).await?;
    let first = host(0);
    stage.bed.write(&objects::virtual_service(namespace, &first, objects::ORIGIN)).await?;
    let controller = Controller::start(stage).await?;
    let (root, tokens) = (stage.bed.root().await?, stage.bed.tokens(1).await?);
    let follower = Follower::new(stage, &controller, &root, &tokens[0])?;
    let _gateway = follower.start().await?;

    let mut client = Client { port, connection: None, wrong: 0 };
    client.live(&first).await?;
    // What came before the first of them was served is not part of it.
    client.wrong = 0;
    let mut times = Vec::new();
    for number in 1..=stage.objects() {
        let host = host(number);
        let object = objects::virtual_service(namespace, &host, objects::ORIGIN);
        let accepted = stage.bed.write(&object).await?;
        client.live(&host).await?;
        times.push(millis(accepted.elapsed()));
        client.still_live(&self::host(fastrand::usize(..=number))).await;
    }
    let mut found = figures(&times, client.wrong);
    found.set(Figure::ControllerResident, mebibytes(controller.resident().await?));
    Ok(found)
}

fn host(number: usize) -> String {
    format!("host-{number}.test")
}

fn figures(times: &[f64], wrong: u64) -> Found {
    let mut found = Found { latencies: latencies(times), ..Found::default() };
    let tenth = times.len().div_ceil(10);
    found.set(Figure::AcceptanceMean, mean(times));
    for (figure, q) in
        [(Figure::AcceptanceP50, 0.5), (Figure::AcceptanceP99, 0.99), (Figure::AcceptanceMax, 1.0)]
    {
        found.set(figure, quantile(times, q).unwrap_or_default());
    }
    found.set(Figure::AcceptanceFirst, mean(&times[..tenth]));
    found.set(Figure::AcceptanceLast, mean(&times[times.len() - tenth..]));
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    found.set(Figure::Wrong, wrong as f64);
    found
}

/// Asks the gateway.
struct Client {
    port: u16,
    connection: Option<Connection>,
    /// Answers that are neither of before nor of after the write.
    wrong: u64,
}

/// What an answer is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Before,
    After,
    Wrong,
}

impl Client {
    /// Asks until the host is served.
    async fn live(&mut self, host: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + LOST;
        loop {
            match self.ask(host).await {
                Answer::After => return Ok(()),
                Answer::Before => {}
                Answer::Wrong => self.wrong += 1,
            }
            if Instant::now() > deadline {
                bail!("{host} is not served {LOST:?} after it was written");
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Asks once for a host that is served.
    async fn still_live(&mut self, host: &str) {
        if self.ask(host).await != Answer::After {
            self.wrong += 1;
        }
    }

    async fn ask(&mut self, host: &str) -> Answer {
        let connection = match self.connection.take().filter(|kept| !kept.is_closed()) {
            Some(connection) => Ok(connection),
            None => Connection::http1(self.port).await,
        };
        // Before the Gateway is served nobody listens.
        let Ok(mut connection) = connection else { return Answer::Wrong };
        let Ok(reply) = connection.send(&Request::get(host, "/")).await else {
            return Answer::Wrong;
        };
        self.connection = Some(connection);
        match (reply.status, reply.header("x-route")) {
            (200, Some(route)) if route == host => Answer::After,
            (404, None) => Answer::Before,
            _ => Answer::Wrong,
        }
    }
}
