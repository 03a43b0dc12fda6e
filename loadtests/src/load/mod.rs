//! The load generator: workers that exchange when the schedule says so, and count.

mod echo;
mod http1;
mod http2;
mod schedule;
mod tally;
mod target;
mod work;

use std::{cell::RefCell, io, rc::Rc, time::Duration};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{sync::Barrier, task::JoinSet};
use tokio_tungstenite::WebSocketStream;

pub use http1::Connection as Http1Connection;
pub use schedule::Pace;
pub use tally::{Failure, Tally};
pub use target::Place;
pub use work::{Work, generation, plain, route_value};

use crate::scenario::{Protocol, Reconnect};
use schedule::Schedule;
use tally::Done;
use target::Stream;

/// How long a worker waits after a failure to connect, so that a dead proxy is not asked a million
/// times.
const BACK_OFF: Duration = Duration::from_millis(10);

/// How long opening all connections may take.
const CONNECT: Duration = Duration::from_secs(60);

/// How long requests under way may take to end once a load is stopped.
const END: Duration = Duration::from_secs(5);

/// A running load. Its workers end when it is dropped.
#[derive(Debug)]
pub struct Load {
    shared: Rc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    work: Rc<Work>,
    schedule: Schedule,
    tally: RefCell<Tally>,
    http2: http2::Connections,
    deadline: Duration,
    /// Nobody starts before all are connected: opening connections is not what is measured.
    connected: Barrier,
}

/// One worker's connection.
#[derive(Debug)]
pub enum Client {
    Http1(http1::Connection),
    Http2(SendRequest<Bytes>),
    Websocket(Box<WebSocketStream<Stream>>),
    Tcp(Stream, Vec<u8>),
}

impl Load {
    /// Opens the connections, then starts.
    pub async fn start(work: &Rc<Work>, pace: Pace) -> Self {
        Self::impatient(work, pace, Duration::MAX, Duration::MAX).await
    }

    /// The same with clients that give up when no connection is free within `patience`, and to whom an
    /// answer after `deadline` is of no use.
    pub async fn impatient(
        work: &Rc<Work>,
        pace: Pace,
        patience: Duration,
        deadline: Duration,
    ) -> Self {
        let workers = work.load.connections * work.load.streams;
        let shared = Rc::new(Shared {
            work: Rc::clone(work),
            schedule: Schedule::new(pace, patience),
            tally: RefCell::new(Tally::new(deadline)),
            http2: http2::Connections::new(work.load.connections),
            deadline,
            connected: Barrier::new(workers + 1),
        });
        let mut tasks = JoinSet::new();
        for number in 0..workers {
            tasks.spawn_local(worker(Rc::clone(&shared), number));
        }
        // Otherwise nobody starts, and the run ends with nothing answered.
        let _ = tokio::time::timeout(CONNECT, shared.connected.wait()).await;
        let clock = Rc::clone(&shared);
        tasks.spawn_local(async move {
            if let Err(error) = clock.schedule.run().await {
                clock.tally.borrow_mut().failed(&Failure::broken("timer", error));
            }
        });
        Self { shared, tasks }
    }

    /// What was counted since the last call (or the start), from now on counting anew.
    pub fn take(&self) -> Tally {
        self.shared.tally.replace(Tally::new(self.shared.deadline))
    }

    /// How much was answered since the last take.
    pub fn answered(&self) -> u64 {
        self.shared.tally.borrow().units
    }

    /// Another rate from now on.
    pub fn set_rate(&self, rate: f64) {
        self.shared.schedule.set_rate(rate);
    }

    /// Asks for no more exchanges and waits for those under way.
    pub async fn stop(mut self) -> Tally {
        self.shared.schedule.stop();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(END, all).await.is_err() {
            let failure = Failure::Broken(format!("not answered within {END:?}"));
            self.shared.tally.borrow_mut().failed(&failure);
        }
        self.take()
    }
}

async fn worker(shared: Rc<Shared>, number: usize) {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut client = None;
    let work = &*shared.work;
    if work.load.reconnect == Reconnect::Never {
        client = shared.connect(number).await;
    }
    shared.connected.wait().await;
    while let Some(due) = shared.schedule.next().await {
        let exchange = async {
            let client = match &mut client {
                Some(client) => client,
                none => none.insert(Client::connect(&shared, number).await?),
            };
            client.exchange(work, &mut random).await
        };
        match exchange.await {
            Ok(done) => {
                shared.tally.borrow_mut().done(due, done);
                if work.load.reconnect != Reconnect::Never
                    && let Some(client) = client.take()
                {
                    shared.tally.borrow_mut().resumed += u64::from(client.resumed());
                    client.close().await;
                }
            }
            Err(failure) => {
                client = None;
                shared.http2.forget(number).await;
                shared.tally.borrow_mut().failed(&failure);
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

impl Shared {
    /// The connection a worker starts with; the failure is counted here.
    async fn connect(&self, number: usize) -> Option<Client> {
        match Client::connect(self, number).await {
            Ok(client) => Some(client),
            Err(failure) => {
                self.tally.borrow_mut().failed(&failure);
                None
            }
        }
    }
}

impl Client {
    async fn connect(shared: &Shared, number: usize) -> Result<Self, Failure> {
        let work = &shared.work;
        match work.load.protocol {
            Protocol::Http2
            | Protocol::GrpcUnary
            | Protocol::GrpcServerStream
            | Protocol::GrpcBidi
                if work.load.reconnect == Reconnect::Never =>
            {
                Ok(Self::Http2(shared.http2.sender(number, work).await?))
            }
            _ => Self::open(work).await,
        }
    }

    /// A connection of its own.
    pub async fn open(work: &Work) -> Result<Self, Failure> {
        let broken = |error: io::Error| Failure::broken("connect", error);
        match work.load.protocol {
            Protocol::Http1 => Ok(Self::Http1(http1::Connection::new(
                work.target.connect().await.map_err(broken)?,
            ))),
            Protocol::Websocket => {
                let stream = work.target.connect().await.map_err(broken)?;
                Ok(Self::Websocket(echo::upgrade(stream, &work.requests[0]).await?))
            }
            Protocol::Tcp => {
                Ok(Self::Tcp(work.target.connect().await.map_err(broken)?, Vec::new()))
            }
            Protocol::Http2
            | Protocol::GrpcUnary
            | Protocol::GrpcServerStream
            | Protocol::GrpcBidi => Ok(Self::Http2(http2::connect(work).await?)),
        }
    }

    /// One exchange of the load.
    pub async fn exchange(
        &mut self,
        work: &Work,
        random: &mut fastrand::Rng,
    ) -> Result<Done, Failure> {
        match self {
            Self::Http1(connection) => connection.exchange(work, work.pick(random)).await,
            Self::Http2(sender) => http2::exchange(sender, work, work.pick(random)).await,
            Self::Websocket(socket) => echo::websocket(socket, work).await,
            Self::Tcp(stream, buffer) => echo::tcp(stream, work, buffer).await,
        }
    }

    /// Whether its TLS session continued an earlier one.
    fn resumed(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.resumed(),
            Self::Tcp(stream, _) => stream.resumed(),
            Self::Http2(_) | Self::Websocket(_) => false,
        }
    }

    async fn close(self) {
        match self {
            Self::Http1(connection) => connection.close().await,
            Self::Tcp(mut stream, _) => {
                // The other side may have closed already.
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
            }
            Self::Http2(_) | Self::Websocket(_) => {}
        }
    }
}
