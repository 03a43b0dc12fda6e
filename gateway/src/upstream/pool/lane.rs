//! The connections of a pool that may stand in for each other, and the requests that wait for one.
//! Data only: who dials and who is told is the pool's business.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Waker},
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Checkout, Reuse,
    connect::{Addresses, Open},
};
use crate::{
    codec::h1,
    http2::{ASSUMED_STREAMS, Opener},
    telemetry::clusters::ClusterGauges,
    upstream::{ConnectError, Protocol, Slot, Transport},
};

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// HTTP/1, the last used at the end: what is not needed ages at the front.
    idle: Vec<Idle>,
    /// HTTP/2, oldest first.
    shared: Vec<Shared>,
    waiters: VecDeque<Waiter>,
    connecting: usize,
    /// HTTP/1 connections that carry an exchange.
    busy: usize,
}

/// An HTTP/1 connection and its history.
#[derive(Debug)]
pub(super) struct Http1 {
    pub opened: Instant,
    /// Exchanges begun on it.
    pub requests: u32,
    pub addresses: Addresses,
    /// Its place in the cluster's limit.
    pub slot: Slot,
}

#[derive(Debug)]
struct Idle {
    session: Box<h1::ClientSession>,
    connection: Http1,
    since: Instant,
}

/// An HTTP/2 connection that takes streams.
#[derive(Debug)]
pub(super) struct Shared {
    id: u64,
    opener: Opener,
    open: Arc<Open>,
    opened: Instant,
    requests: u32,
    active: u32,
    /// When its last stream ended.
    idle_since: Instant,
}

/// A stream on a shared connection, not opened yet.
pub(super) struct Stream {
    pub id: u64,
    pub opener: Opener,
    pub open: Arc<Open>,
    pub reused: bool,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub id: u64,
    pub reuse: Reuse,
    pub grant: oneshot::Sender<Result<Checkout, ConnectError>>,
}

impl Lane {
    pub(super) fn is_empty(&self) -> bool {
        self.is_unconnected() && self.waiters.is_empty()
    }

    fn is_unconnected(&self) -> bool {
        self.connecting == 0 && self.busy == 0 && self.idle.is_empty() && self.shared.is_empty()
    }

    /// The idle connection used last, if it is still good.
    pub(super) fn take_idle(
        &mut self,
        transport: &Transport,
        now: Instant,
    ) -> Option<(Box<h1::ClientSession>, Http1)> {
        // The watcher removes what is over, but it may not have run yet.
        let mut cx = Context::from_waker(Waker::noop());
        while let Some(mut idle) = self.idle.pop() {
            idle.connection.slot.set_idle(false);
            if !idle.is_over(transport, now) && idle.session.poll_unusable(&mut cx).is_pending() {
                self.busy += 1;
                return Some((idle.session, idle.connection));
            }
        }
        None
    }

    /// Keeps a connection for the next request. Returns until when; `None` if the peer spoke or
    /// closed meanwhile. `watcher` is woken when it does so later.
    pub(super) fn put_idle(
        &mut self,
        mut session: Box<h1::ClientSession>,
        mut connection: Http1,
        transport: &Transport,
        watcher: Option<&Waker>,
    ) -> Option<Deadline> {
        let waker = watcher.unwrap_or(Waker::noop());
        if session.poll_unusable(&mut Context::from_waker(waker)).is_ready() {
            return None;
        }
        connection.slot.set_idle(true);
        let idle = Idle { session, connection, since: Instant::now() };
        let deadline = idle.deadline(transport);
        self.idle.push(idle);
        Some(deadline)
    }

    pub(super) fn begin_exchange(&mut self) {
        self.busy += 1;
    }

    pub(super) fn end_exchange(&mut self) {
        self.busy -= 1;
    }

    /// A stream on a connection that has room for one. Connections that have come to their end, by
    /// the peer's word or by ours, are dropped here.
    pub(super) fn take_stream(&mut self, transport: &Transport, now: Instant) -> Option<Stream> {
        let mut position = 0;
        while let Some(shared) = self.shared.get_mut(position) {
            if shared.opener.is_closed() || shared.is_too_old(transport, now) {
                self.shared.remove(position);
                continue;
            }
            if !shared.has_room(transport) {
                position += 1;
                continue;
            }
            let stream = shared.open_stream();
            let max_requests = transport.max_requests_per_connection;
            if max_requests != 0 && shared.requests >= max_requests {
                self.shared.remove(position);
            }
            return Some(stream);
        }
        None
    }

    /// Takes a new connection in.
    pub(super) fn add_shared(&mut self, shared: Shared) {
        self.shared.push(shared);
    }

    pub(super) fn end_stream(&mut self, id: u64, now: Instant) {
        if let Some(shared) = self.shared.iter_mut().find(|shared| shared.id == id) {
            shared.active -= 1;
            shared.idle_since = now;
        }
    }

    /// Until when a shared connection is kept; `None` if it has streams or is gone.
    pub(super) fn shared_deadline(&self, transport: &Transport, id: u64) -> Option<Deadline> {
        let shared = self.shared.iter().find(|shared| shared.id == id)?;
        (shared.active == 0).then(|| shared.deadline(transport))
    }

    pub(super) fn remove_shared(&mut self, id: u64) {
        self.shared.retain(|shared| shared.id != id);
    }

    pub(super) fn enqueue(&mut self, waiter: Waiter) {
        self.waiters.push_back(waiter);
    }

    pub(super) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    pub(super) fn leave_queue(&mut self, id: u64) {
        self.waiters.retain(|waiter| waiter.id != id);
    }

    /// The first in the queue that takes a connection of this kind.
    pub(super) fn next_waiter(&mut self, fresh: bool) -> Option<Waiter> {
        let takes = |waiter: &Waiter| fresh || waiter.reuse == Reuse::Allowed;
        let position = self.waiters.iter().position(takes)?;
        self.waiters.remove(position)
    }

    /// How many connections have to be begun for everyone in the queue to get one, as far as the
    /// limit allows, with what holds their places in it.
    pub(super) fn begin_connects(
        &mut self,
        transport: &Transport,
        gauges: &Arc<ClusterGauges>,
    ) -> Vec<Slot> {
        let each = match transport.protocol {
            Protocol::Http1 | Protocol::Tcp => 1,
            Protocol::Http2 => transport.max_concurrent_streams.clamp(1, ASSUMED_STREAMS) as usize,
        };
        let mut slots = Vec::new();
        while self.connecting * each < self.waiters.len() {
            let Some(slot) = self.take_slot(transport, gauges) else { break };
            self.connecting += 1;
            slots.push(slot);
        }
        slots
    }

    fn take_slot(&mut self, transport: &Transport, gauges: &Arc<ClusterGauges>) -> Option<Slot> {
        let slot = Slot::take(gauges, transport.max_connections);
        if slot.is_some() {
            return slot;
        }
        // An idle connection while others wait is one they must not use: it makes room.
        if !self.idle.is_empty() {
            self.idle.remove(0);
        }
        // Whatever other endpoints use of the limit: without a connection of its own this lane could
        // never serve its queue.
        if self.is_unconnected() {
            return Some(Slot::force(gauges));
        }
        Slot::take(gauges, transport.max_connections)
    }

    pub(super) fn end_connect(&mut self) {
        self.connecting -= 1;
    }

    /// The requests that a failed connect was for: its share of the queue.
    pub(super) fn fail_waiters(&mut self) -> Vec<Waiter> {
        let share = self.waiters.len().div_ceil(self.connecting + 1);
        self.waiters.drain(..share).collect()
    }

    /// Removes idle connections that are over into `closed` and has `cx` woken for the others. The
    /// next time there is one to remove; `None` without an idle connection.
    pub(super) fn sweep(
        &mut self,
        transport: &Transport,
        now: Instant,
        cx: &mut Context<'_>,
        closed: &mut Closed,
    ) -> Option<Deadline> {
        closed.idle.extend(self.idle.extract_if(.., |idle| {
            idle.is_over(transport, now) || idle.session.poll_unusable(cx).is_ready()
        }));
        closed.shared.extend(self.shared.extract_if(.., |shared| shared.is_over(transport, now)));
        let idle = self.idle.iter().map(|idle| idle.deadline(transport));
        let unused = self.shared.iter().filter(|shared| shared.active == 0);
        idle.chain(unused.map(|shared| shared.deadline(transport))).min()
    }

    /// Gives up everything that carries no exchange, and shared connections to their streams.
    pub(super) fn retire(&mut self, closed: &mut Closed) {
        closed.idle.append(&mut self.idle);
        closed.shared.append(&mut self.shared);
    }
}

/// Connections on their way out, to be dropped where no lock is held: closing is a system call.
#[derive(Debug, Default)]
pub(super) struct Closed {
    idle: Vec<Idle>,
    shared: Vec<Shared>,
}

/// When an idle connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    At(Instant),
    /// Later than any other.
    Never,
}

impl Deadline {
    fn of(transport: &Transport, opened: Instant, idle_since: Instant) -> Self {
        let idle = transport.idle_timeout.map(|timeout| idle_since + timeout);
        let age = transport.max_connection_duration.map(|max| opened + max);
        match (idle, age) {
            (Some(idle), Some(age)) => Self::At(idle.min(age)),
            (Some(at), None) | (None, Some(at)) => Self::At(at),
            (None, None) => Self::Never,
        }
    }

    fn has_passed(self, now: Instant) -> bool {
        match self {
            Self::At(at) => at <= now,
            Self::Never => false,
        }
    }
}

impl Http1 {
    /// Whether another exchange may follow on it.
    pub(super) fn may_continue(&self, transport: &Transport) -> bool {
        let max_requests = transport.max_requests_per_connection;
        let max_age = transport.max_connection_duration;
        let young = max_age.is_none_or(|max| self.opened.elapsed() < max);
        young && (max_requests == 0 || self.requests < max_requests)
    }
}

impl Idle {
    fn deadline(&self, transport: &Transport) -> Deadline {
        Deadline::of(transport, self.connection.opened, self.since)
    }

    fn is_over(&self, transport: &Transport, now: Instant) -> bool {
        self.deadline(transport).has_passed(now)
    }
}

impl Shared {
    pub(super) fn new(id: u64, opener: Opener, open: Arc<Open>, now: Instant) -> Self {
        Self { id, opener, open, opened: now, requests: 0, active: 0, idle_since: now }
    }

    fn has_room(&self, transport: &Transport) -> bool {
        let peer = self.opener.max_streams();
        // A peer that allows none would have us open connection after connection.
        self.active < transport.max_concurrent_streams.min(peer).max(1)
    }

    fn open_stream(&mut self) -> Stream {
        self.active += 1;
        self.requests += 1;
        Stream {
            id: self.id,
            opener: self.opener.clone(),
            open: Arc::clone(&self.open),
            reused: self.requests > 1,
        }
    }

    fn is_too_old(&self, transport: &Transport, now: Instant) -> bool {
        transport.max_connection_duration.is_some_and(|max| self.opened + max <= now)
    }

    fn deadline(&self, transport: &Transport) -> Deadline {
        Deadline::of(transport, self.opened, self.idle_since)
    }

    fn is_over(&self, transport: &Transport, now: Instant) -> bool {
        self.active == 0 && self.deadline(transport).has_passed(now)
    }
}
