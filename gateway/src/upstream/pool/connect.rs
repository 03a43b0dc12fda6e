//! Making a connection, and keeping an HTTP/2 one going.

use std::{
    future::{Future, pending, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    task::ready,
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, client::SendRequest};
use tokio::{sync::oneshot, time::timeout};

use super::lane::EXPECTED_STREAMS;
use crate::{
    codec::{h1, h2::PeerSettings},
    io::Io,
    last_in_line::LastInLine,
    upstream::{Caller, ConnectError, Protocol, Slot, Target, dial, dial::socket_addresses},
};

/// What one exchange may have in flight towards us.
const STREAM_WINDOW: u32 = 256 * 1024;
/// As large as it gets: a response that is read slowly must not stop the others of its connection.
/// Memory is bounded by the streams' windows.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
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
pub(super) type Http2 = Box<h2::client::Connection<Io>>;

pub(super) enum Connected {
    Http1(Box<h1::ClientSession>, Addresses),
    Http2(SendRequest<Bytes>, Http2, Addresses),
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
            let max_headers = u32::try_from(options.max_header_bytes).unwrap_or(u32::MAX);
            let (send, connection) = h2::client::Builder::new()
                .enable_push(false)
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .initial_max_send_streams(EXPECTED_STREAMS as usize)
                .max_header_list_size(max_headers)
                .handshake(io)
                .await
                .map_err(|_ended| ConnectError::Http2)?;
            Ok(Connected::Http2(send, Box::new(connection), addresses))
        }
    }
}

/// Held by the pool and by each stream of an HTTP/2 connection: when the last of them is gone, so
/// is the need for the connection.
#[derive(Debug)]
pub(super) struct Open {
    pub addresses: Addresses,
    pub settings: PeerSettings,
    _closing: oneshot::Sender<()>,
}

impl Open {
    pub(super) fn new(addresses: Addresses) -> (Self, oneshot::Receiver<()>) {
        let (closing, closed) = oneshot::channel();
        (Self { addresses, settings: PeerSettings::default(), _closing: closing }, closed)
    }
}

/// Runs an HTTP/2 connection to its end. Once `unused`, what is left to do is saying goodbye.
///
/// `settings` is told when the peer has spoken: it says SETTINGS before it can answer a PING.
pub(super) async fn drive(
    mut connection: Http2,
    unused: oneshot::Receiver<()>,
    settings: PeerSettings,
    slot: Slot,
) {
    let ping = connection.ping_pong();
    let mut introduced = pin!(async {
        if let Some(mut ping) = ping {
            // An error is one of the connection, of which everybody will hear.
            let _ = ping.ping(Ping::opaque()).await;
        }
        settings.have_come();
        pending::<()>().await;
    });
    let mut turn = LastInLine::default();
    let moving = poll_fn(|cx| {
        ready!(turn.poll(cx));
        turn.is_over();
        Pin::new(&mut connection).poll(cx)
    });
    tokio::select! {
        // An error of the connection is seen by each of its streams.
        _ = moving => {}
        () = &mut introduced => {}
        _ = unused => {
            let _ = timeout(CLOSE_TIMEOUT, connection).await;
        }
    }
    drop(slot);
}
