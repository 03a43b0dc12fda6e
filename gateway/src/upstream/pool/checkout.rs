//! What a request gets from a pool: a session now, or a place in the queue for one.

use std::{
    fmt,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{
    Pool,
    connect::{Addresses, Open},
    lane::Http1,
    state::Whose,
};
use crate::{
    codec::{ClientSession, h1},
    upstream::{ConnectError, count::Taken},
};

/// A session of a pool. When it is dropped after a complete exchange, its connection serves the
/// next; otherwise an HTTP/1 connection is closed and an HTTP/2 stream reset.
pub struct Checkout {
    /// `None` once given back.
    held: Option<Held>,
    pool: Arc<Pool>,
    whose: Whose,
    /// Somebody has it who may have used it.
    granted: bool,
}

pub(super) struct Held {
    pub session: ClientSession,
    pub lease: Lease,
}

pub(super) enum Lease {
    Http1(Http1),
    Http2 { id: u64, open: Arc<Open>, reused: bool },
}

impl Held {
    pub(super) fn http1(session: Box<h1::ClientSession>, connection: Http1) -> Self {
        Self { session: ClientSession::H1(session), lease: Lease::Http1(connection) }
    }
}

impl Checkout {
    /// Whether the connection has carried exchanges before. If it dies before the first byte of the
    /// response, that is likely because the peer had closed it already.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        match &self.held().lease {
            Lease::Http1(connection) => connection.requests > 1,
            Lease::Http2 { reused, .. } => *reused,
        }
    }

    /// `None` for Unix sockets.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses().local
    }

    /// `None` for Unix sockets.
    #[must_use]
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.addresses().remote
    }

    pub(super) fn new(pool: &Arc<Pool>, whose: Whose, held: Held) -> Self {
        Self { held: Some(held), pool: Arc::clone(pool), whose, granted: true }
    }

    /// On its way to somebody who waits, and who may have stopped waiting.
    pub(super) fn ungranted(pool: &Arc<Pool>, whose: &Whose, held: Held) -> Self {
        Self { held: Some(held), pool: Arc::clone(pool), whose: whose.clone(), granted: false }
    }

    /// Takes it apart without giving it back; for callers that hold the pool's lock.
    pub(super) fn disarm(mut self) -> Option<Held> {
        self.held.take()
    }

    /// What could not be delivered.
    pub(super) fn returned_http1(
        returned: Result<Self, ConnectError>,
    ) -> Option<(Box<h1::ClientSession>, Http1)> {
        match returned.ok()?.disarm()? {
            Held { session: ClientSession::H1(session), lease: Lease::Http1(connection) } => {
                Some((session, connection))
            }
            Held { .. } => None,
        }
    }

    fn addresses(&self) -> Addresses {
        match &self.held().lease {
            Lease::Http1(connection) => connection.addresses,
            Lease::Http2 { open, .. } => open.addresses,
        }
    }

    fn held(&self) -> &Held {
        self.held.as_ref().expect("a checkout holds its session until it is dropped")
    }
}

impl Deref for Checkout {
    type Target = ClientSession;

    fn deref(&self) -> &ClientSession {
        &self.held().session
    }
}

impl DerefMut for Checkout {
    fn deref_mut(&mut self) -> &mut ClientSession {
        let held = self.held.as_mut();
        &mut held.expect("a checkout holds its session until it is dropped").session
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.pool.give_back(&self.whose, held, !self.granted);
        }
    }
}

impl fmt::Debug for Checkout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkout").field("pool", &self.pool).finish_non_exhaustive()
    }
}

pub(super) enum Asked<'a> {
    Granted(Checkout),
    Waiting(Waiting<'a>),
}

/// A place in the queue; given up when dropped.
pub(super) struct Waiting<'a> {
    pool: &'a Arc<Pool>,
    whose: Whose,
    id: u64,
    granted: oneshot::Receiver<Result<Checkout, ConnectError>>,
    _pending: Taken<'a>,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(
        pool: &'a Arc<Pool>,
        whose: Whose,
        id: u64,
        granted: oneshot::Receiver<Result<Checkout, ConnectError>>,
        pending: Taken<'a>,
    ) -> Self {
        Self { pool, whose, id, granted, _pending: pending }
    }

    pub(super) async fn granted(mut self) -> Result<Checkout, ConnectError> {
        // The sender is in the queue or with the connect that answers it; neither forgets it.
        let mut checkout = (&mut self.granted).await.unwrap_or(Err(ConnectError::Timeout))?;
        checkout.granted = true;
        Ok(checkout)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.leave_queue(&self.whose, self.id);
    }
}
