//! HTTP/2: exchanges as streams of shared connections; gRPC calls among them.

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Method, Version};
use tokio::sync::Mutex;

use super::{
    http1::check_route,
    tally::{Done, Failure},
    work::{Request, Work},
};
use crate::{grpc, origin::send_all, pattern, scenario::Protocol};

/// The connections of a load. A broken one is made anew by whoever needs it first.
#[derive(Debug)]
pub struct Connections {
    lanes: Vec<Mutex<Option<SendRequest<Bytes>>>>,
}

impl Connections {
    pub fn new(count: usize) -> Self {
        Self { lanes: (0..count).map(|_| Mutex::default()).collect() }
    }

    /// A handle on one of the connections.
    pub async fn sender(&self, lane: usize, work: &Work) -> Result<SendRequest<Bytes>, Failure> {
        let mut lane = self.lanes[lane % self.lanes.len()].lock().await;
        if let Some(sender) = &*lane {
            return Ok(sender.clone());
        }
        let sender = connect(work).await?;
        Ok(lane.insert(sender).clone())
    }

    /// Forgets a connection after a failure.
    pub async fn forget(&self, lane: usize) {
        self.lanes[lane % self.lanes.len()].lock().await.take();
    }
}

/// Connects and starts HTTP/2.
pub async fn connect(work: &Work) -> Result<SendRequest<Bytes>, Failure> {
    let stream = work.target.connect().await.map_err(|e| Failure::broken("connect", e))?;
    if work.target.tls.is_some() && stream.alpn() != Some(b"h2") {
        return Err(Failure::Wrong(format!("ALPN chose {:?}", stream.alpn())));
    }
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .enable_push(false)
        .handshake(stream)
        .await
        .map_err(|error| Failure::broken("start HTTP/2", error))?;
    // Ends with the connection; whoever uses it sees the error.
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// One exchange of the load.
pub async fn exchange(
    sender: &SendRequest<Bytes>,
    work: &Work,
    request: &Request,
) -> Result<Done, Failure> {
    let broken = |error| Failure::broken("stream", error);
    let mut sender = sender.clone().ready().await.map_err(broken)?;
    let grpc = !matches!(work.load.protocol, Protocol::Http1 | Protocol::Http2);
    let head = head(work, request, grpc)?;
    let ends = !grpc && work.load.request_bytes == 0;
    let (response, mut send) = sender.send_request(head, ends).map_err(broken)?;
    if work.load.protocol == Protocol::GrpcBidi {
        return ping_pong(work, response, &mut send).await;
    }
    let sent = if ends { Ok(()) } else { send_body(work, grpc, &mut send).await };
    let response = response.await.map_err(broken)?;
    // An answer that came instead of the rest of the request says more than the broken request.
    check(&response, request)?;
    sent.map_err(broken)?;
    let length = response.headers().get(http::header::CONTENT_LENGTH).cloned();
    if grpc {
        messages(work, response.into_body()).await
    } else {
        body(work, response.into_body(), length.as_ref()).await
    }
}

async fn send_body(work: &Work, grpc: bool, send: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    if grpc {
        return send.send_data(work.body.clone(), true);
    }
    let (mut offset, total) = (0, work.load.request_bytes);
    while offset < total {
        let piece = pattern::at(offset, total - offset);
        send_all(send, Bytes::from_static(piece)).await?;
        offset += piece.len() as u64;
    }
    send.send_data(Bytes::new(), true)
}

fn head(work: &Work, request: &Request, grpc: bool) -> Result<http::Request<()>, Failure> {
    let scheme = if work.target.tls.is_some() { "https" } else { "http" };
    let path = if grpc { "/loadtests.Echo/Call" } else { &request.path };
    let upload = grpc || work.load.request_bytes > 0;
    let mut head = http::Request::builder()
        .version(Version::HTTP_2)
        .method(if upload { Method::POST } else { Method::GET })
        .uri(format!("{scheme}://{}{path}", request.host))
        .header("user-agent", "weir-loadtests");
    head = if grpc {
        head.header("content-type", "application/grpc").header("te", "trailers")
    } else if upload {
        head.header("content-length", work.load.request_bytes)
    } else {
        head.header("accept", "*/*")
    };
    if let Some(token) = &request.token {
        head = head.header("authorization", format!("Bearer {token}"));
    }
    head.body(()).map_err(|error| Failure::broken("build a request", error))
}

fn check(response: &http::Response<RecvStream>, request: &Request) -> Result<(), Failure> {
    if response.status() != 200 {
        return Err(Failure::Wrong(format!("status {}", response.status())));
    }
    check_route(request.route, response.headers().get("x-route").map(http::HeaderValue::as_bytes))
}

async fn body(
    work: &Work,
    mut body: RecvStream,
    length: Option<&http::HeaderValue>,
) -> Result<Done, Failure> {
    let uploaded = work.load.request_bytes;
    let answer = format!("received {uploaded}\n");
    let mut offset = 0;
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| Failure::broken("body", error))?;
        let right = match uploaded {
            0 => pattern::matches(offset, &data),
            _ => answer
                .as_bytes()
                .get(usize::try_from(offset).unwrap_or(usize::MAX)..)
                .is_some_and(|rest| rest.starts_with(&data)),
        };
        if !right {
            return Err(Failure::Wrong(format!("other bytes than sent, from {offset} on")));
        }
        offset += data.len() as u64;
        // A connection that has just ended has no window to give back to.
        let _ = body.flow_control().release_capacity(data.len());
    }
    let expected = if uploaded > 0 { answer.len() as u64 } else { work.load.answer_bytes };
    if offset != expected {
        return Err(Failure::Wrong(format!(
            "{offset} instead of {expected} bytes (content-length {length:?})"
        )));
    }
    Ok(Done { units: 1, bytes: work.load.answer_bytes.max(uploaded) })
}

/// The messages and the status of a call.
async fn messages(work: &Work, mut body: RecvStream) -> Result<Done, Failure> {
    let (mut received, mut count, mut bytes) = (grpc::Reader::default(), 0, 0);
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| Failure::broken("messages", error))?;
        count += received.push(&data);
        bytes += data.len() as u64;
        // A connection that has just ended has no window to give back to.
        let _ = body.flow_control().release_capacity(data.len());
    }
    grpc_status(body.trailers().await)?;
    if !received.is_right() || count != u64::from(work.load.messages) {
        return Err(Failure::Wrong(format!("{count} of {} messages", work.load.messages)));
    }
    Ok(Done { units: count, bytes })
}

/// A message, its echo, the next message.
async fn ping_pong(
    work: &Work,
    response: h2::client::ResponseFuture,
    send: &mut SendStream<Bytes>,
) -> Result<Done, Failure> {
    let broken = |error| Failure::broken("stream", error);
    send.send_data(work.body.clone(), false).map_err(broken)?;
    let response = response.await.map_err(broken)?;
    if response.status() != 200 {
        return Err(Failure::Wrong(format!("status {}", response.status())));
    }
    let mut body = response.into_body();
    let (mut received, mut count, mut bytes) = (grpc::Reader::default(), 0, 0);
    while let Some(data) = body.data().await {
        let data = data.map_err(broken)?;
        bytes += data.len() as u64;
        let complete = received.push(&data);
        // A connection that has just ended has no window to give back to.
        let _ = body.flow_control().release_capacity(data.len());
        for _ in 0..complete {
            count += 1;
            let last = count == u64::from(work.load.messages);
            let next = if last { Bytes::new() } else { work.body.clone() };
            send.send_data(next, last).map_err(broken)?;
        }
    }
    grpc_status(body.trailers().await)?;
    if !received.is_right() || count != u64::from(work.load.messages) {
        return Err(Failure::Wrong(format!("{count} of {} echoes", work.load.messages)));
    }
    Ok(Done { units: count, bytes })
}

fn grpc_status(trailers: Result<Option<HeaderMap>, h2::Error>) -> Result<(), Failure> {
    let trailers = trailers.map_err(|error| Failure::broken("trailers", error))?;
    let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    match status.map(http::HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        other => {
            let other = other.map(String::from_utf8_lossy);
            Err(Failure::Wrong(format!("grpc-status {other:?} in the trailers")))
        }
    }
}
