//! Requests one after another over kept connections, until told to stop.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::ensure;
use http::Version;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, Interval, MissedTickBehavior},
};

use super::http::{Connection, Reply, Request, was_not_sent};

/// Running load.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    workers: JoinSet<Tally>,
}

/// What came of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub succeeded: u64,
    /// How often each failure happened.
    pub failures: BTreeMap<String, u64>,
    /// Connections opened.
    pub connections: u64,
}

impl Load {
    /// `connections` at once, each sending `request` again and again and expecting 200.
    ///
    /// A connection the server closes between two requests is opened again: that is how HTTP/1.1
    /// servers drain. Anything that fails a request is a failure.
    #[must_use]
    pub fn start(port: u16, version: Version, connections: usize, request: &Request) -> Self {
        Self::start_to((Ipv4Addr::LOCALHOST, port).into(), version, connections, request)
    }

    /// The same to that address.
    #[must_use]
    pub fn start_to(
        address: SocketAddr,
        version: Version,
        connections: usize,
        request: &Request,
    ) -> Self {
        Self::start_paced(address, version, connections, request, Duration::ZERO)
    }

    /// The same with a pause after each answer, for machines that have something else to do.
    #[must_use]
    pub fn start_paced(
        address: SocketAddr,
        version: Version,
        connections: usize,
        request: &Request,
        pause: Duration,
    ) -> Self {
        Self::start_each(address, version, connections, request, |_| Pace::Pause(pause))
    }

    /// `rate` requests a second, whatever answers take, as long as there is a connection without one under
    /// way; what was late for that is sent as soon as there is.
    #[must_use]
    pub fn start_at_rate(
        address: SocketAddr,
        version: Version,
        connections: usize,
        request: &Request,
        rate: u32,
    ) -> Self {
        let each = Duration::from_secs(1) * u32::try_from(connections).expect("few") / rate;
        let began = Instant::now();
        Self::start_each(address, version, connections, request, |number| {
            // One after the other, and not all of them at once.
            let first = began + Duration::from_secs(1) * u32::try_from(number).expect("few") / rate;
            let mut turns = tokio::time::interval_at(first, each);
            turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
            Pace::Turns(turns)
        })
    }

    fn start_each(
        address: SocketAddr,
        version: Version,
        connections: usize,
        request: &Request,
        pace: impl Fn(usize) -> Pace,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        for number in 0..connections {
            let (pace, stopped) = (pace(number), stopped.clone());
            workers.spawn(work(address, version, request.clone(), pace, stopped));
        }
        Self { stop, workers }
    }

    /// Lets the requests in flight end, and adds everything up.
    pub async fn stop(self) -> Tally {
        self.stop.send_replace(true);
        let mut sum = Tally::default();
        for tally in self.workers.join_all().await {
            sum.succeeded += tally.succeeded;
            sum.connections += tally.connections;
            for (failure, count) in tally.failures {
                *sum.failures.entry(failure).or_default() += count;
            }
        }
        sum
    }
}

/// When the next request of a connection is sent.
enum Pace {
    /// So long after the answer to the last.
    Pause(Duration),
    /// At times of its own.
    Turns(Interval),
}

impl Pace {
    async fn next(&mut self) {
        match self {
            // Lets the others of this thread, backends among them, have their turn.
            Self::Pause(Duration::ZERO) => tokio::task::yield_now().await,
            Self::Pause(pause) => tokio::time::sleep(*pause).await,
            Self::Turns(turns) => {
                turns.tick().await;
            }
        }
    }
}

async fn work(
    address: SocketAddr,
    version: Version,
    request: Request,
    mut pace: Pace,
    stopped: watch::Receiver<bool>,
) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    while !*stopped.borrow() {
        let outcome = exchange(address, version, &request, &mut connection, &mut tally).await;
        match outcome {
            Ok(()) => tally.succeeded += 1,
            Err(error) => {
                connection = None;
                *tally.failures.entry(format!("{error:#}")).or_default() += 1;
            }
        }
        pace.next().await;
    }
    tally
}

async fn exchange(
    address: SocketAddr,
    version: Version,
    request: &Request,
    connection: &mut Option<Connection>,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    loop {
        if connection.as_ref().is_none_or(Connection::is_closed) {
            tally.connections += 1;
            *connection = Some(match version {
                Version::HTTP_2 => Connection::http2_to(address).await?,
                _ => Connection::http1_to(address).await?,
            });
        }
        match connection.as_mut().expect("just connected").send(request).await {
            Ok(reply) => return succeeded(&reply),
            // The server closed it at the same moment.
            Err(error) if was_not_sent(&error) => *connection = None,
            Err(error) => return Err(error),
        }
    }
}

/// A good answer; to a call of gRPC one that says so itself.
fn succeeded(reply: &Reply) -> anyhow::Result<()> {
    ensure!(reply.status == 200, "status {}", reply.status);
    let is_grpc = reply.header("content-type").is_some_and(|it| it.starts_with("application/grpc"));
    if is_grpc {
        let trailers = reply.trailers.as_ref().unwrap_or(&reply.headers);
        let status = trailers.get("grpc-status").and_then(|status| status.to_str().ok());
        ensure!(status == Some("0"), "gRPC status {status:?}");
    }
    Ok(())
}
