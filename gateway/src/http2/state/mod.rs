//! What a connection and its streams share: windows, and frames that wait to be written. Frames are
//! encoded where they are made, into one queue, so that their order there is the order of the calls.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use rustc_hash::FxHashMap;

use super::{
    Error, Reason,
    flood::Flood,
    frame::{DEFAULT_WINDOW, MAX_STREAM_ID, MAX_WINDOW, flag, kind},
    outgoing::Outgoing,
    settings::{Config, PeerSettings},
    stream::{Receiving, Sending, StreamState},
    window::ReceiveWindow,
};

mod frames;
mod room;

/// Streams this side has reset, of which the peer may not have heard.
const REMEMBERED_RESETS: usize = 128;
/// Streams a peer may have us reset for breaking the protocol (CVE-2025-8671, hardening T02).
const MAX_FAULTS: u32 = 200;

/// The payload of the PING that tells whether a GOAWAY has arrived.
pub(super) const SHUTDOWN_PING: [u8; 8] = *b"goodbye?";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shutdown {
    No,
    /// A GOAWAY that excludes nothing was sent; requests may be on their way.
    Announced,
    /// Nothing new is begun.
    Final,
}

#[derive(Debug)]
pub(super) struct Shared(Mutex<State>);

impl Shared {
    pub fn new(state: State) -> Self {
        Self(Mutex::new(state))
    }

    /// Held for as long as it takes to encode or take in frames.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub role: Role,
    pub config: Config,
    pub streams: FxHashMap<u32, StreamState>,
    /// The highest stream the peer has begun.
    pub last_peer: u32,
    next_local: u32,
    /// Streams that count against the limit of whoever begins them.
    pub active: u32,
    pub send_window: i64,
    pub receive_window: ReceiveWindow,
    pub peer: PeerSettings,
    /// The peer's SETTINGS have come.
    pub peer_has_spoken: bool,
    /// The peer knows our SETTINGS.
    pub is_known: bool,
    pub out: Outgoing,
    /// Taken out of `out`, and not written yet.
    pub in_flight: usize,
    has_sent_block: bool,
    /// Streams that wait for room that all share, in no order.
    waiting: Vec<u32>,
    /// How often room was shared out.
    turn: u32,
    /// Who waits for a stream to end, to begin one, or for the peer's SETTINGS.
    openers: Vec<Waker>,
    task: Option<Waker>,
    /// The connection's task will look at the state without being woken.
    will_look: bool,
    pub shutdown: Shutdown,
    pub ended: Option<Error>,
    resets: VecDeque<u32>,
    faults: u32,
    pub flood: Flood,
}

impl State {
    pub fn new(role: Role, config: Config) -> Self {
        Self {
            role,
            config,
            streams: FxHashMap::default(),
            last_peer: 0,
            next_local: 1,
            active: 0,
            send_window: i64::from(DEFAULT_WINDOW),
            receive_window: ReceiveWindow::new(config.connection_window.max(DEFAULT_WINDOW), true),
            peer: PeerSettings::default(),
            peer_has_spoken: false,
            is_known: false,
            out: Outgoing::default(),
            in_flight: 0,
            has_sent_block: false,
            waiting: Vec::new(),
            turn: 0,
            openers: Vec::new(),
            task: None,
            will_look: false,
            shutdown: Shutdown::No,
            ended: None,
            resets: VecDeque::new(),
            faults: 0,
            flood: Flood::new(),
        }
    }

    /// The connection's task runs now.
    pub fn begin_turn(&mut self, cx: &Context<'_>) {
        self.will_look = true;
        match &mut self.task {
            Some(task) => task.clone_from(cx.waker()),
            None => self.task = Some(cx.waker().clone()),
        }
    }

    /// It found nothing left to do.
    pub fn end_turn(&mut self) {
        self.will_look = false;
    }

    pub fn wake_connection(&mut self) {
        if !std::mem::replace(&mut self.will_look, true)
            && let Some(task) = &self.task
        {
            task.wake_by_ref();
        }
    }

    fn new_stream(&self, sending: Sending) -> StreamState {
        let window = ReceiveWindow::new(self.config.stream_window, self.is_known);
        StreamState::new(sending, self.peer.initial_window, window)
    }

    /// A stream of the peer's. `None`: there are as many as it may have, and this one is refused.
    ///
    /// # Errors
    /// It has reset too many that are still being worked on (CVE-2023-44487, hardening T01).
    pub fn accept_stream(&mut self, id: u32) -> Result<Option<&mut StreamState>, Reason> {
        let max = self.config.max_concurrent_streams;
        let kept = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        if self.active >= max {
            self.reset_unseen(id, Reason::REFUSED_STREAM);
            return Ok(None);
        }
        if kept >= max.saturating_mul(2) {
            self.fault(id, Reason::REFUSED_STREAM)?;
            return Ok(None);
        }
        self.active += 1;
        let stream = self.new_stream(Sending::Head);
        Ok(Some(self.streams.entry(id).or_insert(stream)))
    }

    /// The number of a new stream of ours, once the peer allows one.
    pub fn poll_open(&mut self, cx: &Context<'_>) -> Poll<Result<u32, Error>> {
        self.may_open()?;
        if self.peer.max_concurrent_streams.is_some_and(|max| self.active >= max) {
            self.openers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let id = self.next_local;
        self.next_local += 2;
        self.active += 1;
        let stream = self.new_stream(Sending::Body);
        self.streams.insert(id, stream);
        Poll::Ready(Ok(id))
    }

    /// Whether streams can be begun at all.
    pub fn may_open(&self) -> Result<(), Error> {
        match self.ended {
            Some(error) => Err(error),
            None if self.shutdown != Shutdown::No || self.next_local > MAX_STREAM_ID => {
                Err(Error::GoAway)
            }
            None => Ok(()),
        }
    }

    pub fn is_begun_by_us(&self, id: u32) -> bool {
        self.role == Role::Client && id % 2 == 1 && id < self.next_local
    }

    /// Waits until the peer's SETTINGS have come: whether it takes extended CONNECT.
    pub fn poll_connect_protocol(&mut self, cx: &Context<'_>) -> Poll<Result<bool, Error>> {
        if let Some(error) = self.ended {
            return Poll::Ready(Err(error));
        }
        if !self.peer_has_spoken {
            self.openers.push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(self.peer.connect_protocol))
    }

    pub fn wake_openers(&mut self) {
        self.openers.drain(..).for_each(Waker::wake);
    }

    /// After both sides have said all, or one has reset it.
    fn close(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if std::mem::take(&mut stream.is_counted) {
            self.active -= 1;
            self.wake_openers();
            if self.active == 0 {
                // It may have been the last thing to wait for.
                self.wake_connection();
            }
        }
    }

    fn end_sending(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.sending = Sending::Ended;
            if stream.receiving == Receiving::Ended {
                self.close(id);
            }
        }
    }

    pub fn end_receiving(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.receiving = Receiving::Ended;
            stream.reader.wake();
            if stream.sending == Sending::Ended {
                self.close(id);
            }
        }
    }

    /// The stream is over, whatever was still to come.
    pub fn break_off(&mut self, id: u32, error: Error) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.fail(error);
            self.waiting.retain(|other| *other != id);
            self.close(id);
        }
    }

    /// Resets a stream in its owner's name. One that is complete, or was reset, is left alone.
    pub fn reset(&mut self, id: u32, reason: Reason) {
        let is_over = self.streams.get(&id).is_none_or(StreamState::is_over);
        if !is_over {
            self.reset_unseen(id, reason);
            self.break_off(id, Error::Aborted);
        }
    }

    /// RST_STREAM, and what still comes is expected.
    pub fn reset_unseen(&mut self, id: u32, reason: Reason) {
        if self.ended.is_none() {
            self.rst_stream(id, reason);
        }
        if self.resets.len() == REMEMBERED_RESETS {
            self.resets.pop_front();
        }
        self.resets.push_back(id);
    }

    pub fn was_reset_here(&self, id: u32) -> bool {
        self.resets.contains(&id)
    }

    /// The peer broke the protocol on a stream.
    ///
    /// # Errors
    /// It has done so too often for its connection to go on.
    pub fn fault(&mut self, id: u32, reason: Reason) -> Result<(), Reason> {
        self.reset_unseen(id, reason);
        self.break_off(id, Error::Protocol(reason));
        self.faults += 1;
        if self.faults > MAX_FAULTS { Err(Reason::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    /// The owner of a stream is gone.
    pub fn forget(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else { return };
        let answered = stream.sending == Sending::Ended && self.role == Role::Server;
        let reason = if answered { Reason::NO_ERROR } else { Reason::CANCEL };
        self.reset(id, reason);
        self.waiting.retain(|other| *other != id);
        if let Some(stream) = self.streams.remove(&id) {
            self.release_connection(stream.unreleased);
        }
    }

    /// Bytes that count against the connection's window only are taken.
    pub fn release_connection(&mut self, bytes: u32) {
        if let Some(increment) = self.receive_window.release(bytes) {
            self.window_update(0, increment);
        }
    }

    /// Bytes of a stream were taken by its reader.
    pub fn release(&mut self, id: u32, bytes: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let bytes = bytes.min(stream.unreleased);
        stream.unreleased -= bytes;
        let may_send = stream.receiving != Receiving::Ended && stream.error.is_none();
        let increment = stream.receive_window.release(bytes).filter(|_| may_send);
        if let Some(increment) = increment {
            self.window_update(id, increment);
        }
        self.release_connection(bytes);
    }

    /// The peer's SETTINGS.
    pub fn set_peer(&mut self, payload: &[u8]) -> Result<(), Reason> {
        if !self.peer_has_spoken {
            self.peer.max_concurrent_streams = None;
        }
        let before = self.peer.initial_window;
        self.peer.update(payload)?;
        let grown = self.peer.initial_window - before;
        if grown != 0 {
            for stream in self.streams.values_mut() {
                stream.send_window += grown;
                if stream.send_window > MAX_WINDOW {
                    return Err(Reason::FLOW_CONTROL_ERROR);
                }
                stream.writer.wake();
            }
        }
        self.peer_has_spoken = true;
        self.control(kind::SETTINGS, flag::ACK, 0, &[]);
        self.wake_openers();
        Ok(())
    }

    /// The connection is over. Each stream is told why, where it has not heard all.
    pub fn end(&mut self, error: Error) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(error);
        self.shutdown = Shutdown::Final;
        for stream in self.streams.values_mut() {
            stream.fail(error);
            stream.is_counted = false;
        }
        self.active = 0;
        self.waiting.clear();
        self.wake_openers();
        self.wake_connection();
    }

    /// Ends the connection, by this side's decision or the peer's fault.
    pub fn fail(&mut self, reason: Reason, error: Error) {
        if self.ended.is_none() {
            self.goaway(self.last_peer, reason);
            self.end(error);
        }
    }
}
