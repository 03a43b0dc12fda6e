//! The connections to one endpoint: kept between requests, shared where the protocol can, and never
//! more than allowed.
//!
//! Connections are made by tasks of the pool, not by the requests that want them: a request that
//! gives up does not take the connection others wait for with it, and a burst of requests to a cold
//! HTTP/2 endpoint opens one connection. A request takes whatever becomes free first.
//!
//! | file | what |
//! |---|---|
//! | `state.rs`, `lane.rs` | what is there and who waits; data only |
//! | `connect.rs` | making connections, running HTTP/2 ones |
//! | `checkout.rs` | what a request holds |
//! | `watch.rs` | closing what is idle in time |

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    task::Context,
};

use tokio::{sync::oneshot, time::Instant};

use self::{
    checkout::{Asked, Held, Lease, Waiting},
    connect::{Addresses, Connected, Open, connect, drive},
    lane::{Closed, Deadline, Http1, Lane, Shared, Stream, Waiter},
    state::{State, Wanted, Watcher, Whose},
    watch::{Tasks, watch},
};
use weir_config::model::cluster::SourceAddress;

use super::{Caller, ConnectError, Protocol, Slot, Target, count::take, tls::without_port};
use crate::{
    codec::{ClientSession, h1, h2},
    telemetry::clusters::ClusterGauges,
};

mod checkout;
mod connect;
mod lane;
mod state;
mod watch;

pub use checkout::Checkout;

/// Whether a request may go out on a connection that has carried others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    Allowed,
    /// For sending a request again whose connection turned out to be dead: another idle connection
    /// of that age may be dead as well. HTTP/2 connections are watched and shared nevertheless.
    Never,
}

/// The connections to one endpoint over one TLS context.
pub struct Pool {
    target: Target,
    /// What the pools of a cluster count together.
    gauges: Arc<ClusterGauges>,
    /// Held to move a connection in or out, or for one pass over the idle ones; never across I/O.
    state: Mutex<State>,
    tasks: Tasks,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("target", &self.target.address).finish_non_exhaustive()
    }
}

impl Pool {
    #[must_use]
    pub fn new(target: Target, gauges: Arc<ClusterGauges>) -> Arc<Self> {
        Arc::new(Self { target, gauges, state: Mutex::default(), tasks: Tasks::default() })
    }

    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// As [`Self::acquire_for`], in nobody's name.
    ///
    /// # Errors
    /// The same.
    pub async fn acquire(
        self: &Arc<Self>,
        host: Option<&str>,
        reuse: Reuse,
    ) -> Result<Checkout, ConnectError> {
        self.acquire_for(Caller { host, source: None }, reuse).await
    }

    /// A session for one exchange. With a connection at hand this neither waits nor allocates (but for
    /// what a stream of HTTP/2 is).
    ///
    /// # Errors
    /// No byte of a request was sent; overflows are the proxy's own limits.
    pub async fn acquire_for(
        self: &Arc<Self>,
        caller: Caller<'_>,
        reuse: Reuse,
    ) -> Result<Checkout, ConnectError> {
        match self.ask(caller, reuse)? {
            Asked::Granted(checkout) => Ok(checkout),
            Asked::Waiting(waiting) => waiting.granted().await,
        }
    }

    /// Closes what is idle and keeps nothing from now on: the endpoint is gone, or is talked to in
    /// another way. Exchanges in flight, and those that come nevertheless, are served.
    pub fn retire(&self) {
        let mut closed = Closed::default();
        let mut state = self.lock();
        state.retired = true;
        for lane in state.lanes() {
            lane.retire(&mut closed);
        }
        state.forget_empty_lanes();
        drop(state);
        drop(closed);
    }

    fn ask(self: &Arc<Self>, caller: Caller<'_>, reuse: Reuse) -> Result<Asked<'_>, ConnectError> {
        let wanted = self.wanted(caller);
        let mut state = self.lock();
        let whose = match state.find_lane(wanted) {
            Some((whose, lane)) => {
                if let Some(held) = self.take(lane, reuse) {
                    return Ok(Asked::Granted(Checkout::new(self, whose, held)));
                }
                whose
            }
            None => wanted.into(),
        };
        self.wait(state, whose, reuse).map(Asked::Waiting)
    }

    /// What connections have to be made for to be his.
    fn wanted<'a>(&self, caller: Caller<'a>) -> Wanted<'a> {
        let Caller { host, source } = caller;
        let transport = &self.target.transport;
        if let Some(source) = source.filter(|_| transport.source_address == SourceAddress::Inbound)
        {
            return Wanted::Client(source);
        }
        let per_host = transport.tls.as_ref().is_some_and(|tls| tls.is_per_host());
        host.filter(|_| per_host).map_or(Wanted::Anybody, |host| Wanted::Host(without_port(host)))
    }

    /// What is at hand for a request.
    fn take(&self, lane: &mut Lane, reuse: Reuse) -> Option<Held> {
        let (transport, now) = (&self.target.transport, Instant::now());
        match (transport.protocol, reuse) {
            (Protocol::Http2, _) => {
                lane.take_stream(transport, now).map(|stream| self.open_stream(stream))
            }
            (Protocol::Http1 | Protocol::Tcp, Reuse::Never) => None,
            (Protocol::Http1 | Protocol::Tcp, Reuse::Allowed) => {
                let (session, mut connection) = lane.take_idle(transport, now)?;
                connection.requests += 1;
                Some(Held::http1(session, connection))
            }
        }
    }

    fn open_stream(&self, stream: Stream) -> Held {
        let Stream { id, opener, open, reused } = stream;
        let session = h2::ClientSession::new(opener, self.target.transport.codec);
        Held {
            session: ClientSession::H2(Box::new(session)),
            lease: Lease::Http2 { id, open, reused },
        }
    }

    /// Queues a request and begins the connections that needs.
    fn wait(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        whose: Whose,
        reuse: Reuse,
    ) -> Result<Waiting<'_>, ConnectError> {
        let max_pending = self.target.transport.max_pending_requests;
        let Some(pending) = take(&self.gauges.requests_pending, max_pending) else {
            self.gauges.requests_overflow.fetch_add(1, Ordering::Relaxed);
            return Err(ConnectError::PendingOverflow);
        };
        let id = state.next_id();
        let (grant, granted) = oneshot::channel();
        state.lane(&whose).enqueue(Waiter { id, reuse, grant });
        self.follow_up(state, &whose);
        Ok(Waiting::new(self, whose, id, granted, pending))
    }

    /// A place in the queue is given up, or was served.
    fn leave_queue(&self, whose: &Whose, id: u64) {
        let mut state = self.lock();
        if let Some((_, lane)) = state.find_lane(whose.wanted()) {
            lane.leave_queue(id);
            state.forget_if_empty(whose);
        }
    }

    /// Every change may have made room for a connection the queue needs, or a lane superfluous.
    fn follow_up(self: &Arc<Self>, mut state: MutexGuard<'_, State>, whose: &Whose) {
        let slots = state.lane(whose).begin_connects(&self.target.transport, &self.gauges);
        state.forget_if_empty(whose);
        drop(state);
        self.gauges.connects.fetch_add(slots.len() as u64, Ordering::Relaxed);
        for slot in slots {
            let (pool, target, whose) = (Arc::downgrade(self), self.target.clone(), whose.clone());
            self.tasks.spawn(async move {
                let caller = Caller { host: whose.host(), source: whose.client() };
                let connected = connect(&target, caller).await;
                if let Some(pool) = pool.upgrade() {
                    pool.connected(&whose, slot, connected);
                }
            });
        }
    }

    /// A connect has ended: whoever waits is told.
    fn connected(
        self: &Arc<Self>,
        whose: &Whose,
        slot: Slot,
        connected: Result<Connected, ConnectError>,
    ) {
        let mut state = self.lock();
        state.lane(whose).end_connect();
        match connected {
            Ok(Connected::Http1(session, addresses)) => {
                let connection = Http1 { opened: Instant::now(), requests: 0, addresses, slot };
                state.lane(whose).begin_exchange();
                self.pass_on(&mut state, whose, session, connection);
            }
            Ok(Connected::Http2(opener, connection, addresses)) => {
                let id = state.next_id();
                let open = self.run(whose, id, connection, addresses, slot);
                state.lane(whose).add_shared(Shared::new(id, opener, open, Instant::now()));
                self.serve_streams(&mut state, whose);
                self.settle_shared(&mut state, whose, id);
            }
            Err(error) => {
                self.gauges.connect_failures.fetch_add(1, Ordering::Relaxed);
                for waiter in state.lane(whose).fail_waiters() {
                    // Whoever has stopped waiting has no use for the reason either.
                    let _ = waiter.grant.send(Err(error));
                }
            }
        }
        self.follow_up(state, whose);
    }

    /// Starts the task of an HTTP/2 connection.
    fn run(
        self: &Arc<Self>,
        whose: &Whose,
        id: u64,
        connection: connect::Http2,
        addresses: Addresses,
        slot: Slot,
    ) -> Arc<Open> {
        let (open, unused) = Open::new(addresses);
        let (pool, whose) = (Arc::downgrade(self), whose.clone());
        self.tasks.spawn(async move {
            drive(connection, unused, slot).await;
            if let Some(pool) = pool.upgrade() {
                pool.connection_ended(&whose, id);
            }
        });
        Arc::new(open)
    }

    /// Gives an HTTP/1 connection that is counted as busy to the next in the queue, or keeps it.
    fn pass_on(
        self: &Arc<Self>,
        state: &mut State,
        whose: &Whose,
        mut session: Box<h1::ClientSession>,
        mut connection: Http1,
    ) {
        let lane = state.lane(whose);
        let fresh = connection.requests == 0;
        connection.requests += 1;
        while let Some(waiter) = lane.next_waiter(fresh) {
            let checkout = Checkout::ungranted(self, whose, Held::http1(session, connection));
            match waiter.grant.send(Ok(checkout)).map_err(Checkout::returned_http1) {
                Ok(()) | Err(None) => return,
                Err(Some(returned)) => (session, connection) = returned,
            }
        }
        connection.requests -= 1;
        lane.end_exchange();
        if !state.keeps_connections() {
            return;
        }
        let watcher = match &state.watcher {
            Watcher::Waiting { waker, .. } => Some(waker.clone()),
            Watcher::Absent | Watcher::Starting => None,
        };
        let (transport, lane) = (&self.target.transport, state.lane(whose));
        if let Some(over) = lane.put_idle(session, connection, transport, watcher.as_ref()) {
            self.watch_until(state, over);
        }
    }

    /// Opens streams for the queue while connections have room.
    fn serve_streams(self: &Arc<Self>, state: &mut State, whose: &Whose) {
        let (lane, now) = (state.lane(whose), Instant::now());
        while lane.has_waiters()
            && let Some(stream) = lane.take_stream(&self.target.transport, now)
            && let Some(waiter) = lane.next_waiter(true)
        {
            let id = stream.id;
            let checkout = Checkout::ungranted(self, whose, self.open_stream(stream));
            if let Err(returned) = waiter.grant.send(Ok(checkout)) {
                drop(returned.map(Checkout::disarm));
                lane.end_stream(id, now);
            }
        }
    }

    /// After streams of a shared connection came or went: an unused one is watched, if it is kept.
    fn settle_shared(self: &Arc<Self>, state: &mut State, whose: &Whose, id: u64) {
        if !state.keeps_connections() {
            state.lane(whose).remove_shared(id);
        } else if let Some(over) = state.lane(whose).shared_deadline(&self.target.transport, id) {
            self.watch_until(state, over);
        }
    }

    /// An exchange is over; or, `unused`, there was none.
    fn give_back(self: &Arc<Self>, whose: &Whose, held: Held, unused: bool) {
        let Held { session, lease } = held;
        match (session, lease) {
            (ClientSession::H1(session), Lease::Http1(connection)) => {
                self.give_back_http1(whose, session, connection, unused);
            }
            (session, Lease::Http2 { id, open, .. }) => {
                // First, so that the peer sees the stream's end before another one begins.
                drop(session);
                let mut state = self.lock();
                state.lane(whose).end_stream(id, Instant::now());
                self.serve_streams(&mut state, whose);
                self.settle_shared(&mut state, whose, id);
                self.follow_up(state, whose);
                drop(open);
            }
            (ClientSession::H2(_), Lease::Http1(_)) => {
                unreachable!("a lease is made together with its session")
            }
        }
    }

    fn give_back_http1(
        self: &Arc<Self>,
        whose: &Whose,
        mut session: Box<h1::ClientSession>,
        mut connection: Http1,
        unused: bool,
    ) {
        let reusable = if unused {
            connection.requests -= 1;
            true
        } else if session.is_reusable() {
            session.recycle();
            connection.may_continue(&self.target.transport)
        } else {
            false
        };
        if reusable {
            let mut state = self.lock();
            self.pass_on(&mut state, whose, session, connection);
            self.follow_up(state, whose);
        } else {
            // Closed before its place in the limit is given on, and not with the lock held.
            drop((session, connection));
            let mut state = self.lock();
            state.lane(whose).end_exchange();
            self.follow_up(state, whose);
        }
    }

    fn connection_ended(self: &Arc<Self>, whose: &Whose, id: u64) {
        let mut state = self.lock();
        state.lane(whose).remove_shared(id);
        self.follow_up(state, whose);
    }

    /// Something is idle until then.
    fn watch_until(self: &Arc<Self>, state: &mut State, deadline: Deadline) {
        match &state.watcher {
            Watcher::Absent => {
                state.watcher = Watcher::Starting;
                self.tasks.spawn(watch(Arc::downgrade(self)));
            }
            // In the usual case what is idle last is over last, and nobody has to be woken.
            Watcher::Waiting { waker, until } if deadline < *until => waker.wake_by_ref(),
            Watcher::Starting | Watcher::Waiting { .. } => {}
        }
    }

    /// Closes what is over, and has `cx` woken when something else is. The next time to look; `None`:
    /// there is nothing idle.
    fn sweep(&self, cx: &mut Context<'_>) -> Option<Deadline> {
        let mut closed = Closed::default();
        let now = Instant::now();
        let mut state = self.lock();
        let sweep = |lane: &mut Lane| lane.sweep(&self.target.transport, now, cx, &mut closed);
        let next = state.lanes().filter_map(sweep).min();
        state.forget_empty_lanes();
        state.watcher = match next {
            Some(until) => Watcher::Waiting { waker: cx.waker().clone(), until },
            None => Watcher::Absent,
        };
        drop(state);
        drop(closed);
        next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
