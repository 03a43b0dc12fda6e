//! The client's end of a connection, over real sockets.

use std::future::poll_fn;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    super::{AfterExchange, Arrival, ServerSession},
    no_drain, options, pair,
};
use crate::{
    codec::{BodyLength, Frame, Options, StreamError, Upgrade},
    drain::DrainTrigger,
    head::ResponseHeader,
};

struct Server {
    session: ServerSession,
    trigger: DrainTrigger,
}

async fn connect() -> (Server, TcpStream) {
    let (io, peer) = pair().await;
    let (trigger, drain) = no_drain();
    (Server { session: ServerSession::new(io, options(), drain), trigger }, peer)
}

/// A connection on which the client has sent `bytes` and the first request has arrived.
async fn arrived(bytes: &str) -> (Server, TcpStream) {
    let (mut server, mut peer) = connect().await;
    peer.write_all(bytes.as_bytes()).await.unwrap();
    server.expect_request().await;
    (server, peer)
}

impl Server {
    async fn next(&mut self) -> Arrival {
        poll_fn(|cx| self.session.poll_request(cx)).await
    }

    async fn expect_request(&mut self) {
        let arrival = self.next().await;
        assert!(matches!(arrival, Arrival::Request), "{arrival:?}");
    }

    fn head(&mut self, status: u16, body: BodyLength) {
        let head = ResponseHeader::new(status.try_into().unwrap());
        self.session.write_head(&head, body).unwrap();
    }

    fn write(&mut self, data: &'static str) -> Result<(), StreamError> {
        self.session.write(Frame::Data(data.into()))
    }

    async fn flush(&mut self) {
        poll_fn(|cx| self.session.poll_flush(cx)).await.unwrap();
    }

    async fn respond(&mut self, status: u16, body: &'static str) {
        self.head(status, BodyLength::Exact(body.len() as u64));
        self.write(body).unwrap();
        self.session.finish().unwrap();
        self.flush().await;
    }

    async fn read_frame(&mut self) -> Result<Option<Frame>, StreamError> {
        poll_fn(|cx| self.session.poll_read(cx)).await
    }

    /// The whole request body, and its trailers.
    async fn read_body(&mut self) -> Result<(Vec<u8>, HeaderMap), StreamError> {
        let mut body = Vec::new();
        let mut trailers = HeaderMap::new();
        while let Some(frame) = self.read_frame().await? {
            match frame {
                Frame::Data(data) => body.extend_from_slice(&data),
                Frame::Trailers(fields) => trailers = fields,
            }
        }
        Ok((body, trailers))
    }

    async fn after(&mut self) -> AfterExchange {
        poll_fn(|cx| self.session.poll_after_exchange(1024, cx)).await
    }
}

/// What the client reads: one response's head, and what came with it.
async fn read_some(peer: &mut TcpStream) -> String {
    let mut bytes = vec![0; 64 * 1024];
    let length = peer.read(&mut bytes).await.unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// The response without its date, which nobody can predict.
fn undated(response: &str) -> String {
    response.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_response_is_written_with_its_length_and_a_date() {
    let (mut server, mut peer) = arrived(GET).await;
    server.respond(200, "hello").await;
    let response = read_some(&mut peer).await;
    assert!(response.contains("\r\ndate: "), "{response}");
    assert_eq!(undated(&response), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(server.after().await, AfterExchange::Reuse);
}

#[tokio::test]
async fn framing_fields_of_the_head_are_replaced() {
    let (mut server, mut peer) = arrived(GET).await;
    let mut head = ResponseHeader::new(StatusCode::NOT_FOUND);
    for (name, value) in [
        ("content-length", "77"),
        ("transfer-encoding", "gzip"),
        ("connection", "x"),
        ("keep-alive", "5"),
        ("date", "today"),
        ("x-a", "1"),
    ] {
        head.headers.try_insert(name, value).unwrap();
    }
    server.session.write_head(&head, BodyLength::Unknown).unwrap();
    server.write("hello").unwrap();
    server.session.finish().unwrap();
    server.flush().await;
    assert_eq!(
        read_some(&mut peer).await,
        "HTTP/1.1 404 Not Found\r\ndate: today\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\n"
    );
}

#[tokio::test]
async fn pipelined_requests_are_served_one_after_another() {
    let (mut server, mut peer) = arrived(&GET.repeat(3)).await;
    for number in 0..3 {
        if number > 0 {
            server.expect_request().await;
        }
        server.respond(204, "").await;
        assert_eq!(undated(&read_some(&mut peer).await), "HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(server.after().await, AfterExchange::Reuse);
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut server, mut peer) = arrived(GET).await;
    server.respond(200, "hello").await;
    read_some(&mut peer).await;
    assert_eq!(server.after().await, AfterExchange::Reuse);
    assert!(
        poll_fn(|cx| std::task::Poll::Ready(server.session.poll_request(cx))).await.is_pending()
    );
    assert_eq!(server.session.buffer_capacity(), 0);
    assert!(size_of::<ServerSession>() <= 1024, "{} bytes", size_of::<ServerSession>());
}

#[tokio::test]
async fn bodies_are_not_sent_where_there_are_none() {
    for (request, status, expected) in [
        ("HEAD", 200, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        ("GET", 304, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
        ("GET", 204, "HTTP/1.1 204 No Content\r\n\r\n"),
    ] {
        let (mut server, mut peer) =
            arrived(&format!("{request} / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        server.respond(status, "hello").await;
        assert_eq!(undated(&read_some(&mut peer).await), expected);
        assert_eq!(server.after().await, AfterExchange::Reuse);
    }
}

#[tokio::test]
async fn a_head_response_keeps_the_length_the_upstream_gave() {
    let (mut server, mut peer) = arrived("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut head = ResponseHeader::new(StatusCode::OK);
    head.headers.try_insert("content-length", "1234").unwrap();
    server.session.write_head(&head, BodyLength::Empty).unwrap();
    server.session.finish().unwrap();
    server.flush().await;
    let expected = "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n";
    assert_eq!(undated(&read_some(&mut peer).await), expected);
}

#[tokio::test]
async fn http_1_0_is_kept_alive_when_asked_and_the_length_is_known() {
    let (mut server, mut peer) = arrived("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    server.respond(200, "hello").await;
    assert_eq!(
        undated(&read_some(&mut peer).await),
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhello"
    );
    assert_eq!(server.after().await, AfterExchange::Reuse);
}

#[tokio::test]
async fn http_1_0_reads_a_body_of_unknown_length_to_the_end() {
    let (mut server, mut peer) = arrived("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    server.head(200, BodyLength::Unknown);
    server.write("hello").unwrap();
    server.session.finish().unwrap();
    server.flush().await;
    let expected = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello";
    assert_eq!(undated(&read_some(&mut peer).await), expected);
    assert_eq!(server.after().await, AfterExchange::Close);
}

#[tokio::test]
async fn an_aborted_body_never_ends_cleanly() {
    let unknown = BodyLength::Unknown;
    for (version, length, expected) in [
        ("1.1", unknown, AfterExchange::Abort),
        ("1.1", BodyLength::Exact(9), AfterExchange::Abort),
        ("1.0", unknown, AfterExchange::Reset),
    ] {
        let (mut server, _peer) =
            arrived(&format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n")).await;
        server.head(200, length);
        server.write("hello").unwrap();
        server.flush().await;
        server.session.abort();
        assert!(matches!(server.session.finish(), Err(StreamError::Aborted)));
        assert_eq!(server.after().await, expected);
    }
}

#[tokio::test]
async fn a_body_that_is_not_finished_is_an_aborted_one() {
    let (mut server, _peer) = arrived("GET / HTTP/1.0\r\n\r\n").await;
    server.head(200, BodyLength::Unknown);
    server.flush().await;
    assert_eq!(server.after().await, AfterExchange::Reset);
}

#[tokio::test]
async fn a_body_shorter_than_announced_aborts() {
    let (mut server, _peer) = arrived(GET).await;
    server.head(200, BodyLength::Exact(9));
    server.write("hello").unwrap();
    assert!(matches!(server.session.finish(), Err(StreamError::Length)));
    assert_eq!(server.after().await, AfterExchange::Abort);
}

#[tokio::test]
async fn request_bodies_are_read_to_their_end_and_no_further() {
    for (request, expected) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", BodyLength::Exact(5)),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            BodyLength::Unknown,
        ),
    ] {
        let (mut server, _peer) = arrived(&format!("{request}{GET}")).await;
        assert_eq!(server.session.request_body_length(), expected);
        assert_eq!(server.read_body().await.unwrap().0, b"hello");
        assert!(server.read_frame().await.unwrap().is_none(), "the end stays the end");
        server.respond(200, "").await;
        assert_eq!(server.after().await, AfterExchange::Reuse);
        server.expect_request().await;
        assert_eq!(server.session.request().method, "GET");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (mut server, mut peer) = arrived(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nhi\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n",
    )
    .await;
    let (body, trailers) = server.read_body().await.unwrap();
    assert_eq!(body, b"hi");
    assert_eq!(trailers.get_all("x-sum").iter().collect::<Vec<_>>(), ["1", "2"]);
    server.head(200, BodyLength::Unknown);
    server.session.write(Frame::Trailers(trailers)).unwrap();
    server.session.finish().unwrap();
    server.flush().await;
    let response = read_some(&mut peer).await;
    assert!(response.ends_with("\r\n\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n"), "{response}");
    assert_eq!(server.after().await, AfterExchange::Reuse);
}

#[tokio::test]
async fn a_client_that_ends_its_stream_in_the_body_is_noticed() {
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\n",
    ] {
        let (mut server, mut peer) = arrived(request).await;
        peer.shutdown().await.unwrap();
        let read = server.read_body().await;
        assert!(matches!(read, Err(StreamError::Closed { started: true })), "{request}: {read:?}");
    }
}

#[tokio::test]
async fn a_malformed_body_is_an_error_and_the_canary_is_not_served() {
    let (mut server, _peer) = arrived(&format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n{GET}"
    ))
    .await;
    let read = server.read_body().await;
    assert!(matches!(read, Err(StreamError::Protocol("chunk_extension"))), "{read:?}");
    server.respond(400, "").await;
    assert_eq!(server.after().await, AfterExchange::Linger);
}

#[tokio::test]
async fn a_100_is_sent_once_and_only_to_who_waits() {
    let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let (mut server, mut peer) = arrived(put).await;
    assert!(server.session.expects_continue());
    server.head(100, BodyLength::Empty);
    server.head(100, BodyLength::Empty);
    server.flush().await;
    assert_eq!(read_some(&mut peer).await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(!server.session.expects_continue());
    peer.write_all(b"hi").await.unwrap();
    assert_eq!(server.read_body().await.unwrap().0, b"hi");
    server.respond(200, "").await;
    read_some(&mut peer).await;
    assert_eq!(server.after().await, AfterExchange::Reuse);

    peer.write_all(GET.as_bytes()).await.unwrap();
    server.expect_request().await;
    server.head(100, BodyLength::Empty);
    server.head(103, BodyLength::Empty);
    server.respond(200, "").await;
    let response = read_some(&mut peer).await;
    assert!(
        response.starts_with("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{response}"
    );
}

#[tokio::test]
async fn an_answer_instead_of_100_closes_because_the_body_may_come_or_not() {
    let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nExpect: 100-continue\r\n\r\n";
    let (mut server, mut peer) = arrived(&format!("{put}{GET}")).await;
    server.respond(417, "").await;
    let response = read_some(&mut peer).await;
    assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
    assert_eq!(server.after().await, AfterExchange::Linger);
}

#[tokio::test]
async fn an_unread_body_is_drained_within_the_limit() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n";
    let (mut server, mut peer) = arrived(post).await;
    server.respond(404, "").await;
    peer.write_all(&[b'a'; 1024]).await.unwrap();
    peer.write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(server.after().await, AfterExchange::Reuse);
    server.expect_request().await;
}

#[tokio::test]
async fn an_unread_body_beyond_the_limit_ends_the_connection() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n";
    let (mut server, mut peer) = arrived(post).await;
    server.respond(404, "").await;
    peer.write_all(&[b'a'; 1025]).await.unwrap();
    assert_eq!(server.after().await, AfterExchange::Linger);
}

#[tokio::test]
async fn connection_close_is_answered_in_kind() {
    let (mut server, mut peer) =
        arrived("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    server.respond(200, "").await;
    let response = read_some(&mut peer).await;
    assert!(response.ends_with("\r\nconnection: close\r\n\r\n"), "{response}");
    assert_eq!(server.after().await, AfterExchange::Close);
}

#[tokio::test]
async fn a_draining_connection_says_so() {
    let (mut server, mut peer) = arrived(GET).await;
    server.trigger.drain();
    server.respond(200, "").await;
    let response = read_some(&mut peer).await;
    assert!(response.ends_with("\r\nconnection: close\r\n\r\n"), "{response}");
    assert_eq!(server.after().await, AfterExchange::Close);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_its_side_and_is_not_written_to_is_gone() {
    let (mut server, mut peer) = arrived(GET).await;
    peer.shutdown().await.unwrap();
    poll_fn(|cx| server.session.poll_closed(cx)).await;
    assert_eq!(server.after().await, AfterExchange::Abort);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_its_side_gets_its_response() {
    let (mut server, mut peer) = arrived(GET).await;
    peer.shutdown().await.unwrap();
    let upstream = tokio::time::sleep(std::time::Duration::from_secs(4));
    tokio::select! {
        () = upstream => {}
        () = poll_fn(|cx| server.session.poll_closed(cx)) => panic!("given up"),
    }
    server.respond(200, "late").await;
    assert_eq!(server.after().await, AfterExchange::Reuse);
    drop(server);
    let mut response = String::new();
    peer.read_to_string(&mut response).await.unwrap();
    assert!(response.ends_with("\r\n\r\nlate"), "{response}");
}

#[tokio::test]
async fn a_client_that_resets_is_gone() {
    let (mut server, peer) = arrived(GET).await;
    socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(peer);
    poll_fn(|cx| server.session.poll_closed(cx)).await;
    assert_eq!(server.after().await, AfterExchange::Abort);
}

#[tokio::test]
async fn watching_for_the_client_loses_nothing_it_sends() {
    let (mut server, mut peer) = arrived(GET).await;
    peer.write_all(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    peer.shutdown().await.unwrap();
    let watch = tokio::time::timeout(
        std::time::Duration::from_millis(50),
        poll_fn(|cx| server.session.poll_closed(cx)),
    );
    assert!(watch.await.is_err());
    server.respond(200, "").await;
    assert_eq!(server.after().await, AfterExchange::Reuse);
    server.expect_request().await;
    assert_eq!(server.session.request().target(), "/second");
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test]
async fn h18_bytes_behind_an_upgrade_are_read_only_after_the_101() {
    let (mut server, mut peer) = arrived(&format!("{UPGRADE}early")).await;
    assert_eq!(server.session.wants_upgrade(), Some(Upgrade::WebSocket));
    assert!(server.read_frame().await.unwrap().is_none(), "the request has no body");
    server.head(101, BodyLength::Empty);
    server.session.start_tunnel();
    server.write("frame").unwrap();
    server.flush().await;
    assert_eq!(
        read_some(&mut peer).await,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nframe"
    );
    let Some(Frame::Data(early)) = server.read_frame().await.unwrap() else { panic!("no data") };
    assert_eq!(early, "early");
    server.session.finish().unwrap();
    server.flush().await;
    assert_eq!(read_some(&mut peer).await, "", "our direction has ended");
    peer.write_all(b"late").await.unwrap();
    let Some(Frame::Data(late)) = server.read_frame().await.unwrap() else { panic!("no data") };
    assert_eq!(late, "late", "theirs has not");
    assert_eq!(server.after().await, AfterExchange::Close);
}

#[tokio::test]
async fn h18_after_a_refused_upgrade_nothing_more_is_served() {
    let (mut server, mut peer) = arrived(&format!("{UPGRADE}{GET}")).await;
    server.respond(200, "").await;
    let response = read_some(&mut peer).await;
    assert!(response.ends_with("\r\nconnection: close\r\n\r\n"), "{response}");
    assert_eq!(server.after().await, AfterExchange::Linger);
}

#[tokio::test]
async fn a_101_nobody_asked_for_is_not_written() {
    let (mut server, _peer) = arrived(GET).await;
    let head = ResponseHeader::new(StatusCode::SWITCHING_PROTOCOLS);
    let written = server.session.write_head(&head, BodyLength::Empty);
    assert!(matches!(written, Err(StreamError::Protocol("unasked_101"))), "{written:?}");
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_writer_at_the_watermark() {
    let (io, mut peer) = pair().await;
    let (_trigger, drain) = no_drain();
    let small = Options { write_high_watermark: 10_000, ..options() };
    let mut session = ServerSession::new(io, small, drain);
    peer.write_all(GET.as_bytes()).await.unwrap();
    poll_fn(|cx| session.poll_request(cx)).await;
    let head = ResponseHeader::new(StatusCode::OK);
    session.write_head(&head, BodyLength::Unknown).unwrap();
    let mut written = 0;
    // The kernel's buffers take some megabytes before it says no.
    while poll_fn(|cx| std::task::Poll::Ready(session.poll_ready(cx))).await.is_ready() {
        session.write(Frame::Data(Bytes::from(vec![b'a'; 8192]))).unwrap();
        written += 8192;
        assert!(written < 100_000_000, "nothing stops the writer");
    }
    assert!(session.buffer_capacity() < 64 * 1024, "{} bytes kept", session.buffer_capacity());
    let reader = tokio::spawn(async move {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).await.map(|_| bytes.len())
    });
    poll_fn(|cx| session.poll_ready(cx)).await.unwrap();
    session.finish().unwrap();
    poll_fn(|cx| session.poll_flush(cx)).await.unwrap();
    drop(session);
    assert!(reader.await.unwrap().unwrap() > written);
}
