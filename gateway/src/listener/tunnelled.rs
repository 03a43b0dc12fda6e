//! HBONE inbound: connections to the workload inside CONNECT streams of HTTP/2 in the mesh's mutual TLS
//! (the wire is ztunnel's). Each goes on as if it had been redirected here, and is known to come from
//! whom the certificate of the tunnel names.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Connection, SendResponse},
};
use http::{Method, Request, Response, StatusCode, uri::Authority};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use weir_config::model::listener::NetworkFilter;

use super::{
    bind::canonical,
    overload::OpenConnection,
    redirected::{self, Inner},
    serve::{Binding, Established},
};
use crate::{connection::ConnectionInfo, io::Io, limits::Limits, tunnel::Tunnel};

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
pub(super) async fn serve(binding: &Arc<Binding>, established: Established) {
    let Established { io, info, chain, .. } = established;
    let limits = &binding.shared.engine.limits;
    let handshake = options(limits).handshake::<_, Bytes>(io);
    let Ok(Ok(mut connection)) = timeout(limits.header_timeout, handshake).await else { return };
    let drain = chain.drain_signal();
    let network = chain.config.network.clone();
    // A long connection must not keep the certificates of its beginning in memory.
    drop(chain);
    let tunnel = Outer { binding: Arc::clone(binding), info, network };
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
fn options(limits: &Limits) -> h2::server::Builder {
    let mut options = h2::server::Builder::new();
    let header_bytes = u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX);
    let windows = limits.h2_stream_window.saturating_mul(limits.max_concurrent_streams);
    options
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(header_bytes)
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(windows.min(i32::MAX as u32))
        .max_send_buffer_size(limits.write_high_watermark);
    options
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
        connection: &mut Connection<Io, Bytes>,
        streams: &mut JoinSet<()>,
        mut drain: crate::drain::DrainSignal,
    ) {
        let idle_timeout = self.binding.shared.engine.limits.idle_timeout;
        let mut idle = pin!(sleep(idle_timeout));
        let mut draining = pin!(drain.draining());
        let mut closing = false;
        let mut refused = 0;
        loop {
            tokio::select! {
                // Accepting is also what moves the frames of all streams.
                request = connection.accept() => match request {
                    Some(Ok((request, mut respond))) => match self.destination(&request) {
                        Ok(destination) => self.open(destination, request, respond, streams),
                        Err(refusal) => {
                            self.refuse(refusal, &mut respond);
                            refused += 1;
                        }
                    },
                    Some(Err(_)) | None => return,
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
                    closing = true;
                    connection.graceful_shutdown();
                    idle.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
                }
                () = &mut draining, if !closing => {
                    closing = true;
                    connection.graceful_shutdown();
                    idle.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
                }
            }
            if refused >= MAX_REFUSED {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
        }
    }

    /// Where a CONNECT goes, if it may.
    fn destination<T>(&self, request: &Request<T>) -> Result<SocketAddr, Refusal> {
        let is_extended = request.extensions().get::<h2::ext::Protocol>().is_some();
        if *request.method() != Method::CONNECT || is_extended {
            return Err(NOT_CONNECT);
        }
        let authority = request.uri().authority().map(Authority::as_str);
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
    fn open(
        &self,
        destination: SocketAddr,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        streams: &mut JoinSet<()>,
    ) {
        let NetworkFilter::Connect { listener, .. } = &self.network else { return };
        let snapshot = self.binding.shared.engine.snapshot();
        let state = snapshot.listeners.find(listener).cloned();
        let open = self.binding.shared.overload.admit();
        let (Some(state), Some(open), Some(tls)) = (state, open, self.info.tls.clone()) else {
            return self.refuse(OVERLOAD, &mut respond);
        };
        let Ok(send) = respond.send_response(Response::new(()), false) else { return };
        let io = Io::Tunnel(Box::new(Tunnel::new(send, request.into_body(), None)));
        let inner = Inner { io, peer_addr: self.info.peer_addr, destination, tls };
        let binding = Arc::clone(&self.binding);
        streams.spawn(serve_inner(binding, state, inner, open));
    }

    fn refuse(&self, refusal: Refusal, respond: &mut SendResponse<Bytes>) {
        let Refusal(status, reason) = refusal;
        self.binding.refused(1, reason);
        let mut response = Response::new(());
        *response.status_mut() = status;
        // Nobody is left to be told if this fails.
        let _ = respond.send_response(response, true);
    }
}

async fn serve_inner(
    binding: Arc<Binding>,
    state: Arc<super::ListenerState>,
    inner: Inner,
    _open: OpenConnection,
) {
    // Boxed, because its state is large and gone before the connection's long life begins.
    let established = Box::pin(redirected::establish_inner(&binding, state, inner)).await;
    if let Some(established) = established {
        established.serve(&binding.shared.engine).await;
    }
}
