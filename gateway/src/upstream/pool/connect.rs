//! Making a connection, and keeping an HTTP/2 one going.

use std::{future::poll_fn, net::SocketAddr, task::ready, time::Duration};

use tokio::{sync::oneshot, time::timeout};

use crate::{
    codec::h1,
    http2::{Connection, Opener},
    io::Io,
    last_in_line::LastInLine,
    upstream::{Caller, ConnectError, Protocol, Slot, Target, dial, dial::socket_addresses, http2},
};

/// For the last frames of a connection nobody uses any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Both ends; `None` for Unix sockets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
}

impl Addresses {
    fn of(io: &Io) -> Self {
        let (local, remote) = socket_addresses(io);
        Self { local, remote }
    }
}

/// An HTTP/2 connection, to be driven. Boxed: the rare one need not be carried around as large as it
/// is.
pub(super) type Http2 = Box<Connection<Io>>;

pub(super) enum Connected {
    Http1(Box<h1::ClientSession>, Addresses),
    Http2(Opener, Http2, Addresses),
}

pub(super) async fn connect(
    target: &Target,
    caller: Caller<'_>,
) -> Result<Connected, ConnectError> {
    let io = dial(target, caller).await?;
    let addresses = Addresses::of(&io);
    let options = target.transport.codec;
    match target.transport.protocol {
        Protocol::Http1 | Protocol::Tcp => {
            let session = h1::ClientSession::new(io, options);
            Ok(Connected::Http1(Box::new(session), addresses))
        }
        Protocol::Http2 => {
            let (connection, opener) =
                Connection::client(io, http2::config(options.max_header_bytes));
            Ok(Connected::Http2(opener, Box::new(connection), addresses))
        }
    }
}

/// Held by the pool and by each stream of an HTTP/2 connection: when the last of them is gone, so
/// is the need for the connection.
#[derive(Debug)]
pub(super) struct Open {
    pub addresses: Addresses,
    _closing: oneshot::Sender<()>,
}

impl Open {
    pub(super) fn new(addresses: Addresses) -> (Self, oneshot::Receiver<()>) {
        let (closing, closed) = oneshot::channel();
        (Self { addresses, _closing: closing }, closed)
    }
}

/// Runs an HTTP/2 connection to its end. Once `unused`, what is left to do is saying goodbye.
pub(super) async fn drive(mut connection: Http2, unused: oneshot::Receiver<()>, slot: Slot) {
    let mut turn = LastInLine::default();
    let moving = poll_fn(|cx| {
        ready!(turn.poll(cx));
        turn.is_over();
        connection.poll_closed(cx)
    });
    tokio::select! {
        () = moving => {}
        _ = unused => {
            connection.shut_down();
            let _ = timeout(CLOSE_TIMEOUT, poll_fn(|cx| connection.poll_closed(cx))).await;
        }
    }
    drop(slot);
}
