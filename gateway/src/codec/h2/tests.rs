//! Streams between our sessions and the h2 crate's ends, over real sockets (H21 and flow control).

use std::{future::poll_fn, task::Poll};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::task::JoinHandle;

use super::{ClientSession, Malformed, ServerSession, server_config};
use crate::{
    codec::{
        BodyLength, Frame, Options, StreamError, Upgrade,
        h1::tests::{options, pair},
    },
    head::{RequestHeader, ResponseHeader},
    http2::{self, Config, Connection, Opener},
    limits::Limits,
};

type Sender = h2::client::SendRequest<Bytes>;

/// A client whose requests are given to `accepted`, one session after another.
struct Downstream {
    sender: Sender,
    accepted: tokio::sync::mpsc::UnboundedReceiver<Result<ServerSession, Box<Malformed>>>,
    _tasks: [JoinHandle<()>; 2],
}

async fn downstream() -> Downstream {
    let (io, client) = pair().await;
    let (tx, accepted) = tokio::sync::mpsc::unbounded_channel();
    let server = tokio::spawn(async move {
        let config = server_config(&Limits::default());
        let mut connection = Connection::server(io, BytesMut::new(), config);
        while let Some(accepted) = poll_fn(|cx| connection.poll_accept(cx)).await {
            let _ = tx.send(ServerSession::accept(accepted, &options()));
        }
    });
    let (sender, driver) = h2::client::handshake(client).await.unwrap();
    let client = tokio::spawn(async move {
        let _ = driver.await;
    });
    Downstream { sender, accepted, _tasks: [server, client] }
}

impl Downstream {
    async fn session(&mut self) -> ServerSession {
        match self.accepted.recv().await.unwrap() {
            Ok(session) => session,
            Err(malformed) => panic!("{}", malformed.rejection.details),
        }
    }

    /// Sends a request without a body and returns what our side made of it.
    async fn accept(&mut self, request: Request<()>) -> Result<RequestHeader, (u16, &'static str)> {
        let (_response, _) = self.sender.send_request(request, true).unwrap();
        match self.accepted.recv().await.unwrap() {
            Ok(mut session) => Ok(session.take_request()),
            Err(malformed) => {
                Err((malformed.rejection.status.as_u16(), malformed.rejection.details))
            }
        }
    }
}

/// An upstream that hands its streams over.
struct Upstream {
    opener: Opener,
    streams: tokio::sync::mpsc::UnboundedReceiver<(
        Request<RecvStream>,
        h2::server::SendResponse<Bytes>,
    )>,
    _tasks: [JoinHandle<()>; 2],
}

async fn upstream() -> Upstream {
    upstream_that(|_default| {}).await
}

async fn upstream_that(configure: impl FnOnce(&mut h2::server::Builder)) -> Upstream {
    let (io, peer) = pair().await;
    let (tx, streams) = tokio::sync::mpsc::unbounded_channel();
    let mut builder = h2::server::Builder::new();
    configure(&mut builder);
    let server = tokio::spawn(async move {
        let mut connection = builder.handshake(peer).await.unwrap();
        while let Some(Ok(stream)) = connection.accept().await {
            let _ = tx.send(stream);
        }
    });
    let config = Config {
        max_concurrent_streams: 0,
        max_header_bytes: Limits::default().max_header_bytes,
        stream_window: 256 * 1024,
        connection_window: 1 << 30,
        connect_protocol: false,
    };
    let (mut connection, opener) = Connection::client(io, config);
    let client = tokio::spawn(async move {
        poll_fn(|cx| connection.poll_closed(cx)).await;
    });
    Upstream { opener, streams, _tasks: [server, client] }
}

impl Upstream {
    fn session(&self) -> ClientSession {
        ClientSession::new(self.opener.clone(), Options { scheme: "https", ..options() })
    }
}

fn get(fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::get("http://a.example/b?c").body(()).unwrap();
    for (name, value) in fields {
        request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

fn response(status: u16) -> ResponseHeader {
    ResponseHeader::new(status.try_into().unwrap())
}

#[tokio::test]
async fn a_request_has_the_shape_of_an_http_1_one() {
    let mut downstream = downstream().await;
    let request =
        get(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3"), ("te", "trailers")]);
    let head = downstream.accept(request).await.unwrap();
    assert_eq!(head.target(), "/b?c");
    assert!(head.uri.authority().is_none());
    assert_eq!(head.headers["host"], "a.example");
    assert_eq!(head.headers.get_all("cookie").collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    assert_eq!(head.headers["te"], "trailers");
}

#[tokio::test]
async fn h21_requests_that_would_be_read_differently_are_refused() {
    let many: Vec<(&'static str, &str)> = vec![("x-a", "1"); 101];
    for (id, request, expected) in [
        ("host differs", get(&[("host", "b.example")]), (400, "host_differs_from_target")),
        ("two hosts", get(&[("host", "a.example"), ("host", "a.example")]), (400, "host_twice")),
        ("underscore", get(&[("content_length", "5")]), (400, "header_name_underscore")),
        ("101 fields", get(&many), (431, "too_many_headers")),
        ("expect", get(&[("expect", "x")]), (417, "expectation_unknown")),
        (
            "TRACE",
            Request::builder().method("TRACE").uri("http://a/").body(()).unwrap(),
            (405, "trace_not_allowed"),
        ),
        (
            "CONNECT",
            Request::builder().method("CONNECT").uri("a:443").body(()).unwrap(),
            (405, "connect_not_allowed"),
        ),
        ("userinfo", Request::get("http://u@a.example/").body(()).unwrap(), (400, "host_invalid")),
        (
            "target of 17 KiB",
            Request::get(format!("http://a/{}", "a".repeat(17 * 1024))).body(()).unwrap(),
            (414, "target_too_long"),
        ),
        (
            "non-ASCII path",
            Request::get("http://a/\u{e9}").body(()).unwrap(),
            (400, "target_invalid_byte"),
        ),
    ] {
        let mut downstream = downstream().await;
        assert_eq!(downstream.accept(request).await.unwrap_err(), expected, "{id}");
    }
}

#[tokio::test]
async fn a_host_that_agrees_with_the_authority_is_no_harm() {
    let mut downstream = downstream().await;
    let head = downstream.accept(get(&[("host", "A.example")])).await.unwrap();
    assert_eq!(head.headers["host"], "a.example", "the authority wins");
}

#[tokio::test]
async fn h21_content_length_has_to_match_the_data() {
    let mut downstream = downstream().await;
    let request = Request::post("http://a/").header("content-length", "3").body(()).unwrap();
    let (_response, mut body) = downstream.sender.send_request(request, false).unwrap();
    let mut session = downstream.session().await;
    assert_eq!(session.request_body_length(), BodyLength::Exact(3));
    body.send_data(Bytes::from_static(b"hello"), true).unwrap();
    let read = poll_fn(|cx| session.poll_read(cx)).await;
    assert!(matches!(read, Err(StreamError::Protocol(_))), "{read:?}");
}

async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = match stream.capacity() {
            0 => poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap(),
            room => room,
        };
        stream.send_data(data.split_to(room.min(data.len())), false).unwrap();
    }
}

async fn receive_all(mut stream: RecvStream) -> (usize, Option<HeaderMap>) {
    let mut length = 0;
    while let Some(data) = stream.data().await {
        let data = data.unwrap();
        length += data.len();
        stream.flow_control().release_capacity(data.len()).unwrap();
    }
    (length, stream.trailers().await.unwrap())
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

#[tokio::test]
async fn an_echo_larger_than_every_window_passes_with_its_trailers() {
    const LENGTH: usize = 4 << 20;
    let mut downstream = downstream().await;
    let request = Request::post("http://a/").body(()).unwrap();
    let (response_future, mut body) = downstream.sender.send_request(request, false).unwrap();
    let upload = tokio::spawn(async move {
        send_all(&mut body, Bytes::from(vec![b'a'; LENGTH])).await;
        body.send_trailers(trailers()).unwrap();
    });
    let mut session = downstream.session().await;
    let echo = tokio::spawn(async move {
        session.write_head(&response(200), BodyLength::Unknown).unwrap();
        loop {
            poll_fn(|cx| session.poll_ready(cx)).await.unwrap();
            let read = poll_fn(|cx| {
                // Both directions at once, as a proxy does it.
                let _ = session.poll_flush(cx);
                session.poll_read(cx)
            });
            match read.await.unwrap() {
                Some(frame) => session.write(frame).unwrap(),
                None => break,
            }
        }
        session.finish().unwrap();
        poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    });
    let (length, received) = receive_all(response_future.await.unwrap().into_body()).await;
    assert_eq!(length, LENGTH);
    assert_eq!(received, Some(trailers()));
    upload.await.unwrap();
    echo.await.unwrap();
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_client() {
    let mut downstream = downstream().await;
    let request = Request::post("http://a/").body(()).unwrap();
    let (_response, mut body) = downstream.sender.send_request(request, false).unwrap();
    let mut session = downstream.session().await;
    let window = Limits::default().h2_stream_window as usize;
    send_all(&mut body, Bytes::from(vec![b'a'; window])).await;
    body.reserve_capacity(1);
    // What was read is not taken before the reader comes back for more.
    let first = poll_fn(|cx| session.poll_read(cx)).await.unwrap();
    assert!(matches!(first, Some(Frame::Data(_))));
    assert_eq!(body.capacity(), 0);
    while body.capacity() == 0 {
        poll_fn(|cx| session.poll_read(cx)).await.unwrap();
        let grown = poll_fn(|cx| body.poll_capacity(cx));
        let _ = tokio::time::timeout(std::time::Duration::from_millis(10), grown).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_writer_at_the_watermark() {
    let mut downstream = downstream().await;
    let (response_future, _) = downstream.sender.send_request(get(&[]), true).unwrap();
    let mut session = downstream.session().await;
    session.write_head(&response(200), BodyLength::Unknown).unwrap();
    let mut written = 0;
    while poll_fn(|cx| Poll::Ready(session.poll_ready(cx))).await.is_ready() {
        session.write(Frame::Data(Bytes::from(vec![b'a'; 16_384]))).unwrap();
        written += 16_384;
        assert!(written < 10_000_000, "nothing stops the writer");
    }
    session.finish().unwrap();
    let flush = tokio::spawn(async move { poll_fn(|cx| session.poll_flush(cx)).await });
    let (length, _) = receive_all(response_future.await.unwrap().into_body()).await;
    assert_eq!(length, written);
    flush.await.unwrap().unwrap();
}

#[tokio::test]
async fn short_pieces_that_wait_together_become_one_frame() {
    let mut downstream = downstream().await;
    let (response_future, _) = downstream.sender.send_request(get(&[]), true).unwrap();
    let mut session = downstream.session().await;
    session.write_head(&response(200), BodyLength::Unknown).unwrap();
    let large = Bytes::from(vec![b'l'; 8 * 1024]);
    for piece in ["alone".into(), "a".into(), "b".into(), large.clone(), "c".into(), "d".into()] {
        session.write(Frame::Data(piece)).unwrap();
    }
    session.finish().unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    let mut body = response_future.await.unwrap().into_body();
    let mut frames = Vec::new();
    while let Some(frame) = body.data().await {
        frames.push(frame.unwrap());
    }
    assert_eq!(frames, [Bytes::from("alone"), "ab".into(), large, "cd".into()]);
}

#[tokio::test]
async fn an_aborted_response_is_reset() {
    let mut downstream = downstream().await;
    let (response_future, _) = downstream.sender.send_request(get(&[]), true).unwrap();
    let mut session = downstream.session().await;
    session.write_head(&response(200), BodyLength::Unknown).unwrap();
    session.write(Frame::Data("hello".into())).unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    let mut body = response_future.await.unwrap().into_body();
    session.abort();
    let mut last = body.data().await.unwrap();
    while last.is_ok() {
        last = body.data().await.unwrap();
    }
    assert_eq!(last.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn a_body_shorter_than_announced_is_reset() {
    let mut downstream = downstream().await;
    let (response_future, _) = downstream.sender.send_request(get(&[]), true).unwrap();
    let mut session = downstream.session().await;
    session.write_head(&response(200), BodyLength::Exact(9)).unwrap();
    session.write(Frame::Data("hello".into())).unwrap();
    assert!(matches!(session.finish(), Err(StreamError::Length)));
    assert_eq!(response_future.await.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn response_heads_lose_what_http_2_has_not() {
    let mut downstream = downstream().await;
    let (response_future, _) = downstream.sender.send_request(get(&[]), true).unwrap();
    let mut session = downstream.session().await;
    let mut head = response(200);
    for name in ["connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"] {
        head.headers.try_insert(name, "x").unwrap();
    }
    session.write_head(&head, BodyLength::Exact(2)).unwrap();
    session.write(Frame::Data("hi".into())).unwrap();
    session.finish().unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    let (parts, body) = response_future.await.unwrap().into_parts();
    let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "date"]);
    assert_eq!(receive_all(body).await, (2, None));
}

#[tokio::test]
async fn a_head_alone_ends_the_stream() {
    let mut downstream = downstream().await;
    let request = Request::head("http://a/").body(()).unwrap();
    let (response_future, _) = downstream.sender.send_request(request, true).unwrap();
    let mut session = downstream.session().await;
    session.write_head(&response(200), BodyLength::Exact(5)).unwrap();
    session.write(Frame::Data("hello".into())).unwrap();
    session.finish().unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    let head = response_future.await.unwrap();
    assert_eq!(head.headers()["content-length"], "5");
    assert!(head.body().is_end_stream());
}

#[tokio::test]
async fn informational_heads_are_relayed() {
    let mut downstream = downstream().await;
    let request = Request::put("http://a/").header("expect", "100-continue").body(()).unwrap();
    let (mut response_future, mut body) = downstream.sender.send_request(request, false).unwrap();
    let mut session = downstream.session().await;
    assert!(session.expects_continue());
    session.write_head(&response(100), BodyLength::Empty).unwrap();
    let hint = poll_fn(|cx| response_future.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!(hint.status(), StatusCode::CONTINUE);
    body.send_data("hi".into(), true).unwrap();
    let Some(Frame::Data(data)) = poll_fn(|cx| session.poll_read(cx)).await.unwrap() else {
        panic!("no data")
    };
    assert_eq!(data, "hi");
    assert!(!session.expects_continue());
}

#[tokio::test]
async fn a_client_that_resets_is_gone() {
    let mut downstream = downstream().await;
    let (response_future, mut body) = downstream.sender.send_request(get(&[]), false).unwrap();
    let mut session = downstream.session().await;
    body.send_reset(Reason::CANCEL);
    poll_fn(|cx| session.poll_closed(cx)).await;
    assert!(poll_fn(|cx| Poll::Ready(session.is_given_up(cx))).await);
    drop(response_future);
}

#[tokio::test]
async fn an_upstream_gets_a_proper_request() {
    let mut upstream = upstream().await;
    let mut session = upstream.session();
    assert!(session.nothing_sent());
    let mut head = RequestHeader::build("POST", "/b?c").unwrap();
    for (name, value) in [
        ("host", "a.example:8443"),
        ("connection", "x-y"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers, deflate"),
        ("x-a", "1"),
    ] {
        head.headers.try_insert(name, value).unwrap();
    }
    session.write_head(&head, BodyLength::Exact(5)).unwrap();
    session.write(Frame::Data("hello".into())).unwrap();
    session.finish().unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    assert!(!session.nothing_sent());
    let (request, mut respond) = upstream.streams.recv().await.unwrap();
    assert_eq!(request.uri(), "https://a.example:8443/b?c");
    let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "x-a"]);
    assert_eq!(receive_all(request.into_body()).await, (5, None));

    respond.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
    let head = poll_fn(|cx| session.poll_head(cx)).await.unwrap();
    assert_eq!(head.status, 103);
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data("hi".into(), false).unwrap();
    stream.send_trailers(trailers()).unwrap();
    let head = poll_fn(|cx| session.poll_head(cx)).await.unwrap();
    assert_eq!(head.status, 200);
    assert!(session.response_started());
    let Some(Frame::Data(data)) = poll_fn(|cx| session.poll_read(cx)).await.unwrap() else {
        panic!("no data")
    };
    assert_eq!(data, "hi");
    let Some(Frame::Trailers(received)) = poll_fn(|cx| session.poll_read(cx)).await.unwrap() else {
        panic!("no trailers")
    };
    assert_eq!(received, trailers());
    assert!(poll_fn(|cx| session.poll_read(cx)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_refused_stream_may_be_sent_again() {
    for (reason, expected) in [(Reason::REFUSED_STREAM, true), (Reason::CANCEL, false)] {
        let mut upstream = upstream().await;
        let mut session = upstream.session();
        let mut head = RequestHeader::build("GET", "/").unwrap();
        head.headers.try_insert("host", "a").unwrap();
        session.write_head(&head, BodyLength::Empty).unwrap();
        session.finish().unwrap();
        poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
        let (_request, mut respond) = upstream.streams.recv().await.unwrap();
        respond.send_reset(reason);
        let error = poll_fn(|cx| session.poll_head(cx)).await.unwrap_err();
        assert!(
            matches!(error, StreamError::Reset(found) if found == http2::Reason::from(u32::from(reason))),
            "{error:?}"
        );
        assert_eq!(error.is_unprocessed(), expected);
        assert!(!session.response_started());
    }
}

#[tokio::test]
async fn an_answer_without_reading_the_request_is_an_answer() {
    let mut upstream = upstream().await;
    let mut session = upstream.session();
    let mut head = RequestHeader::build("PUT", "/").unwrap();
    head.headers.try_insert("host", "a").unwrap();
    session.write_head(&head, BodyLength::Unknown).unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    let (request, mut respond) = upstream.streams.recv().await.unwrap();
    let response = Response::builder().status(413).body(()).unwrap();
    respond.send_response(response, true).unwrap();
    // Dropped unread: h2 resets with NO_ERROR (RFC 9113 section 8.1).
    drop((request, respond));
    assert_eq!(poll_fn(|cx| session.poll_head(cx)).await.unwrap().status, 413);
    for _ in 0..100 {
        session.write(Frame::Data(vec![b'a'; 65_536].into())).unwrap();
        poll_fn(|cx| session.poll_ready(cx)).await.unwrap();
    }
    assert!(poll_fn(|cx| session.poll_read(cx)).await.unwrap().is_none());
}

#[tokio::test]
async fn what_the_window_holds_is_handed_over_with_its_head() {
    for (length, expected) in [(65_535, true), (65_536, false)] {
        let upstream = upstream().await;
        let mut session = upstream.session();
        let mut head = RequestHeader::build("PUT", "/").unwrap();
        head.headers.try_insert("host", "a").unwrap();
        session.write_head(&head, BodyLength::Unknown).unwrap();
        session.write(Frame::Data(vec![b'a'; length].into())).unwrap();
        session.finish().unwrap();
        // Polled once, before the connection could run.
        let flushed = poll_fn(|cx| Poll::Ready(session.poll_flush(cx))).await;
        assert_eq!(flushed.is_ready(), expected, "{length} bytes");
    }
}

#[tokio::test]
async fn a_short_body_arrives_through_a_window_that_is_shorter() {
    let mut upstream = upstream_that(|server| {
        server.initial_window_size(5);
    })
    .await;
    let mut session = upstream.session();
    let mut head = RequestHeader::build("PUT", "/").unwrap();
    head.headers.try_insert("host", "a").unwrap();
    session.write_head(&head, BodyLength::Unknown).unwrap();
    session.write(Frame::Data("a short body".into())).unwrap();
    session.write(Frame::Trailers(trailers())).unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    let (request, mut respond) = upstream.streams.recv().await.unwrap();
    assert_eq!(receive_all(request.into_body()).await, (12, Some(trailers())));
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(poll_fn(|cx| session.poll_head(cx)).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_aborted_request_is_cancelled() {
    let mut upstream = upstream().await;
    let mut session = upstream.session();
    let mut head = RequestHeader::build("PUT", "/").unwrap();
    head.headers.try_insert("host", "a").unwrap();
    session.write_head(&head, BodyLength::Unknown).unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    let (_request, mut respond) = upstream.streams.recv().await.unwrap();
    session.abort();
    let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
    assert_eq!(reason, Reason::CANCEL);
}

fn extended_connect(protocol: &'static str) -> Request<()> {
    let mut request = Request::connect("http://a.example/chat").body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
    request
}

#[tokio::test]
async fn an_extended_connect_looks_like_a_websocket_handshake() {
    let mut downstream = downstream().await;
    while !downstream.sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let mut request = extended_connect("websocket");
    request.headers_mut().insert("sec-websocket-key", HeaderValue::from_static("of a client"));
    let (response_future, mut body) = downstream.sender.send_request(request, false).unwrap();
    let mut session = downstream.session().await;
    let head = session.take_request();
    assert_eq!((head.method.as_str(), head.uri.path()), ("GET", "/chat"));
    assert_eq!(head.headers["upgrade"], "websocket");
    assert_eq!(head.headers["sec-websocket-version"], "13");
    assert!(!head.headers.contains_key("sec-websocket-key"), "HTTP/2 has no use for it");
    assert_eq!(session.wants_upgrade(), Some(Upgrade::WebSocket));
    assert_eq!(session.request_body_length(), BodyLength::Empty);

    let mut switch = response(101);
    switch.headers.try_insert("sec-websocket-accept", "x").unwrap();
    switch.headers.try_insert("upgrade", "websocket").unwrap();
    session.write_head(&switch, BodyLength::Empty).unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    let accepted = response_future.await.unwrap();
    assert_eq!(accepted.status(), 200);
    assert!(!accepted.headers().contains_key("sec-websocket-accept"));
    body.send_data("ping".into(), false).unwrap();
    let Some(Frame::Data(data)) = poll_fn(|cx| session.poll_read(cx)).await.unwrap() else {
        panic!("no data")
    };
    assert_eq!(data, "ping");
    session.write(Frame::Data("pong".into())).unwrap();
    session.finish().unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    assert_eq!(receive_all(accepted.into_body()).await, (4, None));
}

#[tokio::test]
async fn a_declined_extended_connect_has_an_answer_and_no_body_to_read() {
    let mut downstream = downstream().await;
    while !downstream.sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let request = extended_connect("websocket");
    let (response_future, mut body) = downstream.sender.send_request(request, false).unwrap();
    body.send_data("too early".into(), false).unwrap();
    let mut session = downstream.session().await;
    session.write_head(&response(403), BodyLength::Empty).unwrap();
    assert!(poll_fn(|cx| session.poll_read(cx)).await.unwrap().is_none());
    session.finish().unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    assert_eq!(response_future.await.unwrap().status(), 403);
}

#[tokio::test]
async fn an_extended_connect_to_anything_else_is_not_implemented() {
    let mut downstream = downstream().await;
    while !downstream.sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let request = extended_connect("connect-udp");
    let (_response, _body) = downstream.sender.send_request(request, false).unwrap();
    let refused = downstream.accepted.recv().await.unwrap().unwrap_err();
    assert_eq!(refused.rejection.status, StatusCode::NOT_IMPLEMENTED);
}

fn websocket_handshake() -> RequestHeader {
    let mut head = RequestHeader::build("GET", "/chat").unwrap();
    for (name, value) in [
        ("host", "a.example"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ] {
        head.headers.try_insert(name, value).unwrap();
    }
    head
}

#[tokio::test]
async fn a_websocket_handshake_becomes_an_extended_connect() {
    let mut upstream = upstream_that(|server| {
        server.enable_connect_protocol();
    })
    .await;
    let mut session = upstream.session();
    session.write_head(&websocket_handshake(), BodyLength::Empty).unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    let (request, mut respond) = upstream.streams.recv().await.unwrap();
    assert_eq!(request.method(), "CONNECT");
    assert_eq!(request.uri(), "https://a.example/chat");
    assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
    let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["sec-websocket-version"]);

    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    let head = poll_fn(|cx| session.poll_head(cx)).await.unwrap();
    assert_eq!(head.status, 101);
    assert_eq!(head.headers["upgrade"], "websocket");
    assert_eq!(head.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    session.write(Frame::Data("ping".into())).unwrap();
    session.finish().unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    assert_eq!(receive_all(request.into_body()).await, (4, None));
    stream.send_data("pong".into(), true).unwrap();
    let Some(Frame::Data(data)) = poll_fn(|cx| session.poll_read(cx)).await.unwrap() else {
        panic!("no data")
    };
    assert_eq!(data, "pong");
}

#[tokio::test]
async fn an_upstream_that_has_not_offered_it_gets_no_extended_connect() {
    let upstream = upstream().await;
    let mut session = upstream.session();
    session.write_head(&websocket_handshake(), BodyLength::Empty).unwrap();
    let error = poll_fn(|cx| session.poll_head(cx)).await.unwrap_err();
    assert!(matches!(error, StreamError::Protocol("extended_connect_not_enabled")), "{error:?}");
    assert!(session.nothing_sent());
}

#[tokio::test]
async fn an_extended_connect_waits_for_what_the_upstream_offers() {
    let upstream = upstream().await;
    let mut session = upstream.session();
    session.write_head(&websocket_handshake(), BodyLength::Empty).unwrap();
    // The connection has not run yet.
    assert!(poll_fn(|cx| Poll::Ready(session.poll_head(cx))).await.is_pending());
    let error = poll_fn(|cx| session.poll_head(cx)).await.unwrap_err();
    assert!(matches!(error, StreamError::Protocol("extended_connect_not_enabled")), "{error:?}");
}
