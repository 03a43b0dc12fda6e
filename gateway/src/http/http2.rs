//! HTTP/2 connections: one task that moves frames and one for each stream, budgets against clients
//! that make work for nothing, GOAWAY at the end.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{Downstream, exchange};
use crate::{
    codec::{
        ServerSession,
        h2::{Malformed, ServerSession as H2Session, server_config},
    },
    http2::{Accepted, Connection, Reason},
    io::Io,
    last_in_line::LastInLine,
    telemetry::Protocol,
};

/// Malformed requests a connection may send (hardening G14).
const MAX_MALFORMED: u32 = 32;
/// A connection whose client resets more than half of so many streams before they are answered is
/// an attack (rapid reset, hardening T01); Envoy's number.
const RESET_SAMPLE: u32 = 500;
/// A stream given up within this time was not worth waiting for.
const PREMATURE: Duration = Duration::from_secs(1);
/// Timers a connection keeps for its next streams.
const SPARE_TIMERS: usize = 32;
/// Time for a client to take note of GOAWAY when nothing else is going on.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves streams until the connection, of which `read` was read already, ends, and waits for the last
/// of them.
pub(super) async fn serve(downstream: Arc<Downstream>, io: Io, read: BytesMut) {
    let config = server_config(&downstream.engine.limits);
    let mut connection = Connection::server(io, read, config);
    let mut streams = Streams::default();
    serve_streams(&downstream, &mut connection, &mut streams).await;
    // Without its connection a stream fails, and its exchange ends and is recorded.
    drop(connection);
    while streams.tasks.join_next().await.is_some() {}
}

/// The streams of a connection that are served.
#[derive(Default)]
struct Streams {
    tasks: JoinSet<(Ended, Option<Timer>)>,
    /// Left by those that have ended: to put a timer off costs less than to make one.
    timers: Vec<Timer>,
}

type Timer = Pin<Box<Sleep>>;

impl Streams {
    fn serve(&mut self, downstream: &Arc<Downstream>, session: H2Session) {
        let downstream = Arc::clone(downstream);
        let timer = self.timers.pop().unwrap_or_else(|| Box::pin(sleep(Duration::ZERO)));
        // Boxed, because a task is copied whole when it is made and when it ends; room first, so that it
        // is made there.
        let room = Box::new_uninit();
        let stream = Box::into_pin(Box::write(room, serve_stream(downstream, session, timer)));
        self.tasks.spawn(stream);
    }

    fn refuse(&mut self, downstream: &Arc<Downstream>, malformed: Box<Malformed>) {
        let refused = refuse_stream(Arc::clone(downstream), malformed);
        self.tasks.spawn(async move { (refused.await, None) });
    }

    /// The next that has ended; `None`: none is left.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ended>> {
        let Some(ended) = ready!(self.tasks.poll_join_next(cx)) else { return Poll::Ready(None) };
        let (ended, timer) = ended.unwrap_or((Ended::Served, None));
        if self.tasks.is_empty() {
            // Who may be idle for long keeps no more than one.
            self.timers.clear();
        }
        if self.timers.len() < SPARE_TIMERS {
            self.timers.extend(timer);
        }
        Poll::Ready(Some(ended))
    }
}

async fn serve_streams(
    downstream: &Arc<Downstream>,
    connection: &mut Connection<Io>,
    streams: &mut Streams,
) {
    let idle_timeout = downstream.engine.limits.idle_timeout;
    // A preface is not enough to be let sit idle; the first frame is.
    let mut idle = pin!(sleep(downstream.engine.limits.header_timeout.min(idle_timeout)));
    let mut introduced = false;
    let mut drain = downstream.drain.clone();
    let mut draining: Pin<&mut (dyn Future<Output = ()> + Send)> = pin!(drain.draining());
    // Polled once: its waker is the task's and stays good.
    poll_fn(|cx| Poll::Ready(draining.as_mut().poll(cx).is_ready())).await;
    let mut budget = Budget::default();
    let mut closing = false;
    let mut turn = LastInLine::default();
    loop {
        let drain_now = || !closing && downstream.drain.is_draining();
        let event = poll_fn(|cx| {
            // With one stream there is nothing to gather.
            if streams.tasks.len() > 1 {
                ready!(turn.poll(cx));
            }
            let event = poll_event(connection, streams, idle.as_mut(), drain_now, cx);
            if event.is_pending() {
                turn.is_over();
            }
            match event {
                // What the last streams wrote went out before this was found pending.
                Poll::Pending if streams.tasks.is_empty() && downstream.cut.has_passed() => {
                    Poll::Ready(Event::Closed)
                }
                event => event,
            }
        });
        match event.await {
            Event::Request(accepted) => match H2Session::accept(*accepted, &downstream.options()) {
                Ok(session) => streams.serve(downstream, session),
                Err(malformed) => {
                    budget.malformed += 1;
                    streams.refuse(downstream, malformed);
                }
            },
            Event::StreamEnded(ended) => {
                budget.count(ended);
                introduced = true;
                if streams.tasks.is_empty() {
                    let timeout = if closing { CLOSE_TIMEOUT } else { idle_timeout };
                    idle.as_mut().reset(Instant::now() + timeout);
                }
            }
            Event::Idle if closing => return,
            Event::Idle if !introduced && connection.has_heard() => {
                introduced = true;
                idle.as_mut().reset(Instant::now() + idle_timeout);
            }
            Event::Idle if !introduced => return,
            Event::Idle | Event::Drain => {
                connection.shut_down();
                closing = true;
                idle.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
            }
            Event::Closed => return,
        }
        if budget.is_exceeded() {
            connection.abort(Reason::ENHANCE_YOUR_CALM);
        }
    }
}

enum Event {
    Request(Box<Accepted>),
    StreamEnded(Ended),
    /// No stream for as long as the deadline allows.
    Idle,
    Drain,
    /// By the client, or by an error that ends everything.
    Closed,
}

fn poll_event(
    connection: &mut Connection<Io>,
    streams: &mut Streams,
    idle: Pin<&mut Sleep>,
    drain_now: impl Fn() -> bool,
    cx: &mut Context<'_>,
) -> Poll<Event> {
    if drain_now() {
        return Poll::Ready(Event::Drain);
    }
    // Accepting is also what moves the frames of all streams, so it is polled whatever happens.
    match connection.poll_accept(cx) {
        Poll::Ready(Some(accepted)) => return Poll::Ready(Event::Request(Box::new(accepted))),
        Poll::Ready(None) => return Poll::Ready(Event::Closed),
        Poll::Pending => {}
    }
    match streams.poll_ended(cx) {
        Poll::Ready(Some(ended)) => Poll::Ready(Event::StreamEnded(ended)),
        Poll::Ready(None) => idle.poll(cx).map(|()| Event::Idle),
        Poll::Pending => Poll::Pending,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Served,
    /// The client gave it up as soon as it had asked.
    Premature,
}

async fn serve_stream(
    downstream: Arc<Downstream>,
    session: H2Session,
    mut timer: Timer,
) -> (Ended, Option<Timer>) {
    let started = Instant::now();
    let mut session = ServerSession::H2(Box::new(session));
    {
        let serving = pin!(exchange::serve(&downstream, &mut session, timer.as_mut()));
        downstream.cut.waking(serving).await;
    }
    let given_up = match &mut session {
        ServerSession::H2(session) => poll_fn(|cx| Poll::Ready(session.is_given_up(cx))).await,
        ServerSession::H1(_) => false,
    };
    let is_premature = given_up && started.elapsed() < PREMATURE;
    (if is_premature { Ended::Premature } else { Ended::Served }, Some(timer))
}

async fn refuse_stream(downstream: Arc<Downstream>, malformed: Box<Malformed>) -> Ended {
    let Malformed { rejection, request, session } = *malformed;
    let reply = rejection.reply();
    downstream.record_rejection(Protocol::Http2, rejection, &reply, &request);
    let mut session = ServerSession::H2(Box::new(session));
    // Nobody is left to be told if this fails.
    if session.write_reply(&reply, false).is_ok() {
        let flush = poll_fn(|cx| session.poll_flush(cx));
        let _ = timeout(downstream.engine.limits.header_timeout, flush).await;
    }
    Ended::Served
}

/// What a client may do that costs us and brings it nothing.
#[derive(Debug, Default)]
struct Budget {
    malformed: u32,
    ended: u32,
    premature: u32,
}

impl Budget {
    fn count(&mut self, ended: Ended) {
        self.ended = self.ended.saturating_add(1);
        if ended == Ended::Premature {
            self.premature = self.premature.saturating_add(1);
        }
    }

    fn is_exceeded(&self) -> bool {
        self.malformed >= MAX_MALFORMED || self.premature > self.ended.max(RESET_SAMPLE) / 2
    }
}
