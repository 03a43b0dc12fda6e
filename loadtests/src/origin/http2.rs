//! HTTP/2 without TLS, and gRPC on it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::poll_fn;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;

use crate::{
    grpc, pattern,
    scenario::{Load, Protocol},
};

/// What is answered to everything.
pub struct Answer {
    protocol: Protocol,
    body: Bytes,
    messages: u32,
}

impl Answer {
    pub fn new(load: &Load) -> Self {
        let body = match load.protocol {
            Protocol::Http2 | Protocol::Http1 => pattern::at(0, load.answer_bytes).into(),
            _ => grpc::message(load.answer_bytes),
        };
        Self { protocol: load.protocol, body: Bytes::from(body), messages: load.messages }
    }
}

/// Serves one connection until the other side closes it.
pub async fn serve(stream: TcpStream, answer: Arc<Answer>) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .max_concurrent_streams(4096)
        .handshake(stream)
        .await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        let answer = Arc::clone(&answer);
        tokio::task::spawn_local(async move {
            // A broken stream is seen by the client, who judges it.
            let _ = respond_to(request, respond, &answer).await;
        });
    }
    Ok(())
}

async fn respond_to(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    answer: &Answer,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let mut response = Response::new(());
    if let Some(route) = head.headers.get("x-route") {
        response.headers_mut().insert("x-route", route.clone());
    }
    if head.headers.contains_key("x-probe") {
        let mut send = respond.send_response(response, false)?;
        return send.send_data(Bytes::from(format!("{:?}", head.headers)), true);
    }
    if matches!(answer.protocol, Protocol::Http1 | Protocol::Http2) {
        response.headers_mut().insert("content-length", answer.body.len().into());
        let mut send = respond.send_response(response, false)?;
        return send.send_data(answer.body.clone(), true);
    }
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut send = respond.send_response(response, false)?;
    let right = match answer.protocol {
        Protocol::GrpcBidi => echo(&mut body, &mut send).await?,
        _ => stream(&mut body, &mut send, answer).await?,
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(if right { "0" } else { "3" }));
    send.send_trailers(trailers)
}

/// Reads the request message, sends the answers; whether the request was as expected.
async fn stream(
    body: &mut RecvStream,
    send: &mut SendStream<Bytes>,
    answer: &Answer,
) -> Result<bool, h2::Error> {
    let mut received = grpc::Reader::default();
    let mut messages = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        messages += received.push(&data);
    }
    for _ in 0..answer.messages {
        send_all(send, answer.body.clone()).await?;
    }
    Ok(messages == 1 && received.is_right())
}

/// Sends back what comes as it comes.
async fn echo(body: &mut RecvStream, send: &mut SendStream<Bytes>) -> Result<bool, h2::Error> {
    let mut received = grpc::Reader::default();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        received.push(&data);
        send_all(send, data).await?;
    }
    Ok(received.is_right())
}

/// Sends within the other side's window.
pub async fn send_all(send: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        while send.capacity() == 0 {
            match poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(granted) => granted?,
                None => return Err(h2::Reason::CANCEL.into()),
            };
        }
        let piece = data.split_to(data.len().min(send.capacity()));
        send.send_data(piece, false)?;
    }
    Ok(())
}
