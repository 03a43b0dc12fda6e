//! HTTP connections: from a stream of bytes to exchanges, one after another or side by side, and to
//! the end of the connection. What happens in an exchange is `exchange`'s.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::time::timeout;
use weir_config::model::RouteTableName;

use crate::{
    codec::{Options, Rejection},
    connection::ConnectionInfo,
    drain::{Cut, DrainSignal},
    engine::Engine,
    head::RequestHeader,
    io::Io,
    local_reply::LocalReply,
    telemetry::{Protocol, StreamInfo},
};

pub mod exchange;

pub mod affinity;
pub mod deadline;
pub mod error;
pub mod mirror;
pub mod normalize;
pub mod retry;
pub mod stream;

mod caught;
mod field;
mod forwarded;
mod grpc;
mod hop_by_hop;
mod http1;
mod http2;
mod peer;
mod request_id;
#[cfg(test)]
mod tests;

/// For what is being exchanged when a connection is cut: to be answered, or broken off, and recorded.
/// Shorter than what the process waits for its connections then.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// One downstream connection and what its exchanges share.
struct Downstream {
    engine: Arc<Engine>,
    conn: Arc<ConnectionInfo>,
    route_table: RouteTableName,
    drain: DrainSignal,
    cut: Cut,
}

/// Serves a connection to its end, or to the end of the time it has to drain. Returns when it is
/// closed; every exchange is recorded by then.
///
/// The protocol is the one ALPN settled. Without TLS a client may speak HTTP/2 by prior knowledge,
/// which its first bytes tell.
pub async fn serve_connection(
    engine: Arc<Engine>,
    io: Io,
    conn: Arc<ConnectionInfo>,
    route_table: RouteTableName,
    drain: DrainSignal,
) {
    let speaks_h2 =
        conn.tls.as_ref().is_some_and(|tls| tls.alpn.as_deref().is_some_and(|alpn| alpn == b"h2"));
    let signal = drain.clone();
    let downstream = Downstream { engine, conn, route_table, drain, cut: Cut::default() };
    let downstream = Arc::new(downstream);
    let mut serving = pin!(serve_protocol(Arc::clone(&downstream), speaks_h2, io));
    if signal.until_cut(serving.as_mut()).await.is_none() {
        downstream.cut.pass();
        // Beyond it there is nobody to wait for: what could be told was told.
        let _ = timeout(CUT_GRACE, serving).await;
    }
}

async fn serve_protocol(downstream: Arc<Downstream>, speaks_h2: bool, io: Io) {
    // Boxed: most connections are HTTP/1 and idle, and shall not be as large as an HTTP/2 one.
    if speaks_h2 {
        Box::pin(http2::serve(downstream, io, BytesMut::new())).await;
        return;
    }
    if let Some((read, io)) = http1::serve(&downstream, io).await {
        Box::pin(http2::serve(downstream, io, read)).await;
    }
}

impl Downstream {
    fn options(&self) -> Options {
        Options::new(&self.engine.limits, self.conn.scheme())
    }

    /// Records a request that ended before there was an exchange.
    fn record_rejection(
        &self,
        protocol: Protocol,
        rejection: Rejection,
        reply: &LocalReply,
        request: &RequestHeader,
    ) {
        let mut info = StreamInfo::start(Arc::clone(&self.conn), protocol);
        info.status = rejection.status.as_u16();
        info.details = reply.details.clone();
        info.bytes_sent = reply.body.len() as u64;
        if let Some(flag) = reply.flag {
            info.flags.set(flag);
        }
        let (head, _body) = reply.encode(false);
        self.engine.telemetry.record_http(&info, Some(request), Some(&head));
    }
}
