//! HBONE inbound: connections to the workload inside CONNECT streams of HTTP/2 in the mesh's mutual TLS
//! (the wire is ztunnel's). Each goes on as if it had been redirected here, and is known to come from
//! whom the certificate of the tunnel names.

use std::{future::poll_fn, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{Method, StatusCode};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use weir_config::model::listener::NetworkFilter;

use super::{
    bind::canonical,
    overload::OpenConnection,
    redirected::{self, Inner},
    serve::{Binding, Established, to_its_end},
};
use crate::{
    connection::ConnectionInfo,
    http2::{Accepted, Config, Connection, HeadBlock, Reason, RequestHead, Stream},
    io::Io,
    limits::Limits,
    tunnel::Tunnel,
    worker,
};

/// Requests a connection may send that are refused; more are no mistake.
const MAX_REFUSED: u32 = 32;
/// Time for a client to take note of GOAWAY when nothing is open any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a CONNECT is refused: its status, and what the metric calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal(StatusCode, &'static str);

const NOT_CONNECT: Refusal = Refusal(StatusCode::BAD_REQUEST, "hbone: not a CONNECT");
const NO_ADDRESS: Refusal = Refusal(StatusCode::BAD_REQUEST, "hbone: no address");
/// Nobody is let through to somebody else.
const NOT_HERE: Refusal = Refusal(StatusCode::BAD_REQUEST, "hbone: another destination");
const NO_IDENTITY: Refusal = Refusal(StatusCode::UNAUTHORIZED, "hbone: no identity");
const OVERLOAD: Refusal = Refusal(StatusCode::SERVICE_UNAVAILABLE, "connection limit");

/// Serves the streams of a connection to its end.
pub(super) async fn serve(binding: Arc<Binding>, established: Established) {
    let Established { io, info, chain, .. } = established;
    let config = config(&binding.shared.engine.limits);
    let mut connection = Connection::server(io, BytesMut::new(), config);
    let drain = chain.drain_signal();
    let network = chain.config.network.clone();
    // A long connection must not keep the certificates of its beginning in memory.
    drop(chain);
    let tunnel = Outer { binding, info, network };
    let mut streams = JoinSet::new();
    {
        let serving = pin!(tunnel.serve_streams(&mut connection, &mut streams, drain.clone()));
        drain.until_cut(serving).await;
    }
    // Without its connection a stream fails, and what is inside ends and is recorded.
    drop(connection);
    while streams.join_next().await.is_some() {}
}

/// Bytes wait in the stream that is not read; others of its connection must not.
fn config(limits: &Limits) -> Config {
    let windows = limits.h2_stream_window.saturating_mul(limits.max_concurrent_streams);
    Config {
        max_concurrent_streams: limits.max_concurrent_streams,
        max_header_bytes: limits.max_header_bytes,
        stream_window: limits.h2_stream_window,
        connection_window: windows.min(i32::MAX as u32),
        connect_protocol: false,
    }
}

/// The connection that the tunnels of one client go through.
struct Outer {
    binding: Arc<Binding>,
    info: Arc<ConnectionInfo>,
    network: NetworkFilter,
}

impl Outer {
    async fn serve_streams(
        &self,
        connection: &mut Connection<Io>,
        streams: &mut JoinSet<()>,
        mut drain: crate::drain::DrainSignal,
    ) {
        let limits = &self.binding.shared.engine.limits;
        let idle_timeout = limits.idle_timeout;
        // A preface is not enough to be let sit idle; the first frame is.
        let mut introduced = false;
        let mut idle = pin!(sleep(limits.header_timeout.min(idle_timeout)));
        let mut draining = pin!(drain.draining());
        let mut closing = false;
        let mut refused = 0;
        loop {
            tokio::select! {
                // Accepting is also what moves the frames of all streams.
                accepted = poll_fn(|cx| connection.poll_accept(cx)) => match accepted {
                    Some(Accepted { head, mut stream }) => match self.destination(&head) {
                        Ok(destination) => self.open(destination, stream, streams),
                        Err(refusal) => {
                            self.refuse(refusal, &mut stream);
                            refused += 1;
                        }
                    },
                    None => return,
                },
                Some(_) = streams.join_next() => {
                    if streams.is_empty() {
                        let timeout = if closing { CLOSE_TIMEOUT } else { idle_timeout };
                        idle.as_mut().reset(Instant::now() + timeout);
                    }
                }
                () = &mut idle, if streams.is_empty() => {
                    if closing {
                        return;
                    }
                    if !introduced && connection.has_heard() {
                        introduced = true;
                        idle.as_mut().reset(Instant::now() + idle_timeout);
                        continue;
                    }
                    closing = true;
                    connection.shut_down();
                    idle.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
                }
                () = &mut draining, if !closing => {
                    closing = true;
                    connection.shut_down();
                    idle.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
                }
            }
            if refused >= MAX_REFUSED {
                connection.abort(Reason::ENHANCE_YOUR_CALM);
            }
        }
    }

    /// Where a CONNECT goes, if it may.
    fn destination(&self, request: &RequestHead) -> Result<SocketAddr, Refusal> {
        if request.method != Method::CONNECT || request.too_large {
            return Err(NOT_CONNECT);
        }
        let authority = request.authority.as_ref().and_then(|text| std::str::from_utf8(text).ok());
        let address = authority.and_then(|text| text.parse().ok()).map(canonical);
        let address: SocketAddr = address.ok_or(NO_ADDRESS)?;
        let NetworkFilter::Connect { addresses, closed_ports, .. } = &self.network else {
            return Err(NOT_HERE);
        };
        let ip = address.ip();
        // The proxy's own pages would take it for somebody of this pod.
        let is_closed = closed_ports.contains(&address.port()) || self.is_our_own(address.port());
        let is_here =
            ip == self.info.local_addr.ip() || addresses.iter().any(|own| own.to_canonical() == ip);
        if !is_here || is_closed {
            return Err(NOT_HERE);
        }
        let identity = self.info.peer_identity().and_then(|peer| peer.principal());
        identity.map(|_| address).ok_or(NO_IDENTITY)
    }

    /// A port of ours would be a connection to ourselves.
    fn is_our_own(&self, port: u16) -> bool {
        let snapshot = self.binding.shared.engine.snapshot();
        snapshot.listeners.iter().any(|listener| listener.config.port == port)
    }

    /// Answers, and serves what is inside in a task of its own.
    fn open(&self, destination: SocketAddr, mut stream: Stream, streams: &mut JoinSet<()>) {
        let NetworkFilter::Connect { listener, .. } = &self.network else { return };
        let snapshot = self.binding.shared.engine.snapshot();
        let state = snapshot.listeners.find(listener).cloned();
        let open = self.binding.shared.overload.admit(worker::current());
        let (Some(state), Some(open), Some(tls)) = (state, open, self.info.tls.as_deref().cloned())
        else {
            return self.refuse(OVERLOAD, &mut stream);
        };
        if stream.send_head(&HeadBlock::response(StatusCode::OK), false).is_err() {
            return;
        }
        let io = Io::Tunnel(Box::new(Tunnel::new(stream, None)));
        let inner = Inner { io, peer_addr: self.info.peer_addr, destination, tls };
        let binding = Arc::clone(&self.binding);
        streams.spawn(serve_inner(binding, state, inner, open));
    }

    fn refuse(&self, refusal: Refusal, stream: &mut Stream) {
        let Refusal(status, reason) = refusal;
        self.binding.refused(1, reason);
        // Nobody is left to be told if this fails.
        let _ = stream.send_head(&HeadBlock::response(status), true);
    }
}

/// As a connection that is accepted.
fn serve_inner(
    binding: Arc<Binding>,
    state: Arc<super::ListenerState>,
    inner: Inner,
    open: OpenConnection,
) -> impl Future<Output = ()> + Send {
    let beginning = async move {
        let established = redirected::establish_inner(&binding, state, inner).await?;
        established.begin(&binding.shared.engine).await
    };
    to_its_end(beginning, open)
}
