//! HBONE: connections to workloads of the mesh inside CONNECT streams, which share HTTP/2 connections in
//! mutual TLS. The wire is ztunnel's.

use std::{
    fmt,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex as BlockingMutex, PoisonError, Weak},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use rustc_hash::FxHashMap;
use tokio::{
    sync::Mutex,
    time::{MissedTickBehavior, interval},
};

use super::{ConnectError, TlsContext, Transport, dial::connect_tcp, http2::config, verify};
use crate::{
    http2::{self, Connection, HeadBlock, Opener, Request, ResponseHead},
    io::Io,
    tunnel::{OpenStream, Tunnel},
    worker,
};

/// Where workloads listen for it.
const PORT: u16 = 15008;
/// Streams on one connection, whatever the peer allows: as ztunnel.
const MAX_STREAMS: u32 = 100;
/// A connection without a stream for between this and twice as long is closed.
const UNUSED: Duration = Duration::from_secs(60);
/// Of an answer to CONNECT: there is little to say.
const MAX_HEADER_BYTES: usize = 16 * 1024;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The connections that the tunnels of a cluster go through, by workload.
pub struct Tunnels {
    tls: Arc<TlsContext>,
    /// What the other side is told of this workload.
    baggage: Option<HeaderValue>,
    /// Held for a look-up.
    lanes: BlockingMutex<FxHashMap<Workload, Arc<Lane>>>,
}

/// An address, and whose certificate is expected there; of each worker of ours its own, so that what comes
/// through a tunnel wakes the worker it is for.
type Workload = (IpAddr, Option<Arc<str>>, usize);

/// The connections to one workload. Held while one more is made: who wants a stream meanwhile wants it
/// on that one, and gives up by his own deadline.
#[derive(Default)]
struct Lane(Mutex<Connections>);

#[derive(Default)]
struct Connections(Vec<Shared>);

struct Shared {
    opener: Opener,
    /// One reference for each stream besides this.
    streams: OpenStream,
}

/// A stream that is not opened yet.
type Stream = (Opener, OpenStream);

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Tunnels {
    /// `baggage` that is no header value is left out.
    #[must_use]
    pub fn new(tls: Arc<TlsContext>, baggage: &str) -> Self {
        let baggage = HeaderValue::from_str(baggage).ok().filter(|value| !value.is_empty());
        Self { tls, baggage, lanes: BlockingMutex::default() }
    }

    #[must_use]
    pub fn tls(&self) -> &Arc<TlsContext> {
        &self.tls
    }

    /// A connection to `address` through the workload there, which has to be `identity`.
    pub(super) async fn open(
        &self,
        address: SocketAddr,
        identity: Option<&Arc<str>>,
        transport: &Transport,
    ) -> Result<Tunnel, ConnectError> {
        let lane = self.lane((address.ip(), identity.cloned(), worker::current()));
        let at_hand = lane.0.lock().await.take_stream();
        if let Some(stream) = at_hand {
            match self.connect(stream, address).await {
                // The peer has ended the connection meanwhile: nothing was sent to the other end.
                Err(ConnectError::Http2) => {}
                opened => return opened,
            }
        }
        let stream = {
            let mut shared = lane.0.lock().await;
            match shared.take_stream() {
                Some(stream) => stream,
                None => {
                    let connection = self.dial(address.ip(), identity, transport, &lane).await?;
                    shared.0.push(connection);
                    shared.take_stream().ok_or(ConnectError::Http2)?
                }
            }
        };
        self.connect(stream, address).await
    }

    fn lane(&self, workload: Workload) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&workload) {
            return Arc::clone(lane);
        }
        // Workloads come and go; those nobody is connected to are not kept.
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || !lane.is_unused());
        Arc::clone(lanes.entry(workload).or_default())
    }

    /// The CONNECT of one stream.
    async fn connect(&self, stream: Stream, to: SocketAddr) -> Result<Tunnel, ConnectError> {
        let (opener, open) = stream;
        let mut block = HeadBlock::request(&Method::CONNECT);
        block.authority(to.to_string().as_bytes());
        if let Some(baggage) = &self.baggage {
            block.field(&BAGGAGE, baggage);
        }
        block.field(&TRACEPARENT, &trace_parent());
        let request = Request { block: &block, end: false, is_head: false };
        let ended = |_ended: http2::Error| ConnectError::Http2;
        let mut stream = poll_fn(|cx| opener.poll_send(&request, cx)).await.map_err(ended)?;
        let head = loop {
            let head: ResponseHead = poll_fn(|cx| stream.poll_head(cx)).await.map_err(ended)?;
            if !head.status.is_informational() {
                break head;
            }
        };
        match head.status {
            StatusCode::OK => Ok(Tunnel::new(stream, Some(open))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ConnectError::TunnelDenied),
            _ => Err(ConnectError::TunnelRefused),
        }
    }

    /// One more connection to a workload.
    async fn dial(
        &self,
        ip: IpAddr,
        identity: Option<&Arc<str>>,
        transport: &Transport,
        lane: &Arc<Lane>,
    ) -> Result<Shared, ConnectError> {
        let Transport { keepalive, source_address, .. } = *transport;
        let address = SocketAddr::new(ip, PORT);
        let io = connect_tcp(address, keepalive, source_address, None)
            .await
            .map_err(|error| ConnectError::from_connect(&error))?;
        let io = self.tls.connect(io, None, Some(ip)).await.map_err(ConnectError::Tls)?;
        if let Some(identity) = identity {
            let chain = io.get_ref().1.peer_certificates().unwrap_or_default();
            verify::is_workload(chain, identity).map_err(ConnectError::Tls)?;
        }
        let config = config(MAX_HEADER_BYTES);
        let (connection, opener) = Connection::client(Io::ClientTls(Box::new(io)), config);
        let streams = OpenStream::default();
        // It ends by itself: with its peer, or when nobody can open a stream on it and none is left.
        tokio::spawn(drive(connection, Arc::downgrade(lane), Arc::downgrade(&streams)));
        Ok(Shared { opener, streams })
    }
}

/// Of nothing that is traced: the other side wants to tell its connections apart.
fn trace_parent() -> HeaderValue {
    let ids = format!("00-{:032x}-{:016x}-00", fastrand::u128(1..), fastrand::u64(1..));
    HeaderValue::try_from(ids).unwrap_or_else(|_not_text| HeaderValue::from_static(""))
}

async fn drive(mut connection: Connection<Io>, lane: Weak<Lane>, streams: Weak<()>) {
    let mut looks = interval(UNUSED);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_unused = false;
    let has_ended = loop {
        tokio::select! {
            // An error of the connection is seen by each of its streams.
            () = poll_fn(|cx| connection.poll_closed(cx)) => break true,
            _ = looks.tick() => {
                let is_unused = streams.strong_count() <= 1;
                if is_unused && was_unused {
                    break false;
                }
                was_unused = is_unused;
            }
        }
    };
    if let Some(lane) = lane.upgrade() {
        // A stream that was begun meanwhile keeps a handle of its own.
        lane.0.lock().await.0.retain(|shared| Arc::as_ptr(&shared.streams) != streams.as_ptr());
    }
    if !has_ended {
        // What was begun is served, and the peer is told when nothing is left.
        connection.shut_down();
        poll_fn(|cx| connection.poll_closed(cx)).await;
    }
}

impl Lane {
    fn is_unused(&self) -> bool {
        self.0.try_lock().is_ok_and(|connections| connections.0.is_empty())
    }
}

impl Connections {
    /// A stream on a connection that has room for one; those that have ended are forgotten.
    fn take_stream(&mut self) -> Option<Stream> {
        self.0.retain(|shared| !shared.opener.is_closed());
        let shared = self.0.iter().find(|shared| shared.has_room())?;
        Some((shared.opener.clone(), Arc::clone(&shared.streams)))
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        let active = u32::try_from(Arc::strong_count(&self.streams) - 1).unwrap_or(u32::MAX);
        // A peer that allows none would have us open connection after connection.
        active < MAX_STREAMS.min(self.opener.max_streams()).max(1)
    }
}
