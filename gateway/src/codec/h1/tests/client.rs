//! The upstream's end of a connection, over real sockets.

use std::future::poll_fn;

use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{super::ClientSession, options, pair};
use crate::{
    codec::{BodyLength, Frame, StreamError},
    head::{RequestHeader, ResponseHeader},
};

struct Client(ClientSession);

async fn connect() -> (Client, TcpStream) {
    let (io, peer) = pair().await;
    (Client(ClientSession::new(io, options())), peer)
}

fn request(method: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
    let mut head = RequestHeader::build(method, "/a?b").unwrap();
    for (name, value) in fields {
        head.headers.try_append(*name, *value).unwrap();
    }
    head
}

impl Client {
    async fn get(&mut self) {
        self.send("GET").await;
    }

    async fn send(&mut self, method: &str) {
        self.0.write_head(&request(method, &[("host", "a")]), BodyLength::Empty).unwrap();
        self.0.finish().unwrap();
        self.flush().await;
    }

    async fn flush(&mut self) {
        poll_fn(|cx| self.0.poll_flush(cx)).await.unwrap();
    }

    async fn head(&mut self) -> Result<ResponseHeader, StreamError> {
        poll_fn(|cx| self.0.poll_head(cx)).await
    }

    async fn body(&mut self) -> Result<(Vec<u8>, HeaderMap), StreamError> {
        let mut body = Vec::new();
        let mut trailers = HeaderMap::new();
        while let Some(frame) = poll_fn(|cx| self.0.poll_read(cx)).await? {
            match frame {
                Frame::Data(data) => body.extend_from_slice(&data),
                Frame::Trailers(fields) => trailers = fields,
            }
        }
        Ok((body, trailers))
    }

    /// Status and body of the response the peer sends.
    async fn response(&mut self) -> Result<(u16, Vec<u8>), StreamError> {
        let status = self.head().await?.status.as_u16();
        Ok((status, self.body().await?.0))
    }
}

async fn read_some(peer: &mut TcpStream) -> String {
    let mut bytes = vec![0; 64 * 1024];
    let length = peer.read(&mut bytes).await.unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_is_written_with_host_first_and_our_framing() {
    let (mut client, mut peer) = connect().await;
    let fields = [
        ("x-a", "1"),
        ("content-length", "77"),
        ("connection", "x-a"),
        ("te", "trailers"),
        ("host", "a.example"),
        ("x-b", "2"),
    ];
    client.0.write_head(&request("POST", &fields), BodyLength::Unknown).unwrap();
    client.0.write(Frame::Data("hello".into())).unwrap();
    client.0.finish().unwrap();
    client.flush().await;
    assert_eq!(
        read_some(&mut peer).await,
        "POST /a?b HTTP/1.1\r\nhost: a.example\r\nx-a: 1\r\nx-b: 2\r\n\
         transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    );
}

#[tokio::test]
async fn no_content_is_said_where_content_is_expected() {
    for (method, fields, expected) in [
        ("POST", vec![("host", "a")], "content-length: 0\r\n"),
        ("DELETE", vec![("host", "a"), ("content-length", "0")], "content-length: 0\r\n"),
        ("DELETE", vec![("host", "a")], ""),
    ] {
        let (mut client, mut peer) = connect().await;
        client.0.write_head(&request(method, &fields), BodyLength::Empty).unwrap();
        client.0.finish().unwrap();
        client.flush().await;
        let expected = format!("{method} /a?b HTTP/1.1\r\nhost: a\r\n{expected}\r\n");
        assert_eq!(read_some(&mut peer).await, expected);
    }
}

#[tokio::test]
async fn a_connection_carries_one_exchange_after_another() {
    let (mut client, mut peer) = connect().await;
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        assert!(client.0.nothing_sent());
        client.get().await;
        assert!(!client.0.nothing_sent());
        assert!(!client.0.response_started());
        read_some(&mut peer).await;
        peer.write_all(response.as_bytes()).await.unwrap();
        assert_eq!(client.response().await.unwrap(), (200, b"hello".to_vec()));
        assert!(client.0.response_started());
        assert!(client.0.is_reusable());
        client.0.recycle();
        assert_eq!(client.0.buffer_capacity(), 0, "an idle connection holds no buffer");
    }
}

#[tokio::test]
async fn trailers_are_the_end_of_an_exchange() {
    let (mut client, mut peer) = connect().await;
    client.get().await;
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n";
    peer.write_all(response.as_bytes()).await.unwrap();
    client.head().await.unwrap();
    let last = poll_fn(|cx| client.0.poll_read(cx)).await.unwrap();
    assert!(matches!(last, Some(Frame::Trailers(fields)) if fields["x-sum"] == "1"));
    assert!(client.0.is_reusable(), "nobody has to ask for what follows the last frame");
}

#[tokio::test]
async fn h19_a_connection_with_anything_left_to_say_is_not_reused() {
    for (id, method, response) in [
        ("extra bytes", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhixx"),
        (
            "second response",
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n",
        ),
        ("HEAD with a body", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
        ("204 with a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi"),
        ("304 with a body", "GET", "HTTP/1.1 304 Not Modified\r\n\r\nhi"),
        ("close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let (mut client, mut peer) = connect().await;
        client.send(method).await;
        peer.write_all(response.as_bytes()).await.unwrap();
        client.response().await.unwrap();
        assert!(!client.0.is_reusable(), "{id}");
    }
}

#[tokio::test]
async fn a_connection_is_not_reused_before_the_request_is_complete() {
    let (mut client, mut peer) = connect().await;
    client.0.write_head(&request("POST", &[("host", "a")]), BodyLength::Exact(10)).unwrap();
    client.0.write(Frame::Data("hello".into())).unwrap();
    client.flush().await;
    peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    client.response().await.unwrap();
    assert!(!client.0.is_reusable());
}

#[tokio::test]
async fn a_body_ends_with_the_stream_when_nothing_else_ends_it() {
    let (mut client, mut peer) = connect().await;
    client.get().await;
    peer.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await.unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(client.head().await.unwrap().status, 200);
    assert_eq!(client.0.response_body_length(), BodyLength::Unknown);
    assert_eq!(client.body().await.unwrap().0, b"hello");
    assert!(!client.0.is_reusable());
}

#[tokio::test]
async fn a_truncated_body_is_an_error() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\nX: a\r\n",
    ] {
        let (mut client, mut peer) = connect().await;
        client.get().await;
        peer.write_all(response.as_bytes()).await.unwrap();
        peer.shutdown().await.unwrap();
        assert_eq!(client.head().await.unwrap().status, 200);
        let body = client.body().await;
        assert!(matches!(body, Err(StreamError::Closed { started: true })), "{response}: {body:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_closes_says_whether_it_had_begun() {
    for (response, expected) in [("", false), ("HTTP/1.1 200 OK\r\nX:", true)] {
        let (mut client, mut peer) = connect().await;
        client.get().await;
        read_some(&mut peer).await;
        peer.write_all(response.as_bytes()).await.unwrap();
        peer.shutdown().await.unwrap();
        let head = client.head().await;
        assert!(
            matches!(head, Err(StreamError::Closed { started }) if started == expected),
            "{head:?}"
        );
        assert_eq!(client.0.response_started(), expected);
    }
}

#[tokio::test]
async fn informational_heads_come_before_the_final_one_and_are_bounded() {
    let (mut client, mut peer) = connect().await;
    client.get().await;
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let response = format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    peer.write_all(response.as_bytes()).await.unwrap();
    assert_eq!(client.head().await.unwrap().status, 103);
    assert_eq!(client.head().await.unwrap().status, 200);

    let (mut client, mut peer) = connect().await;
    client.get().await;
    peer.write_all(hints.repeat(17).as_bytes()).await.unwrap();
    for _ in 0..16 {
        assert_eq!(client.head().await.unwrap().status, 103);
    }
    let flood = client.head().await;
    assert!(matches!(flood, Err(StreamError::Protocol(_))), "{flood:?}");
}

#[tokio::test]
async fn an_answer_to_a_request_that_was_not_read_is_still_an_answer() {
    let (mut client, mut peer) = connect().await;
    client.0.write_head(&request("PUT", &[("host", "a")]), BodyLength::Exact(1 << 30)).unwrap();
    client.flush().await;
    read_some(&mut peer).await;
    peer.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    peer.shutdown().await.unwrap();
    // The upstream never reads on. Its answer is here before the kernel tells of the reset.
    assert_eq!(client.head().await.unwrap().status, 413);
    drop(peer);
    for _ in 0..1000 {
        client.0.write(Frame::Data(vec![b'a'; 65_536].into())).unwrap();
        poll_fn(|cx| client.0.poll_ready(cx)).await.unwrap();
    }
    assert!(!client.0.is_reusable());
}

#[tokio::test]
async fn a_pooled_connection_tells_when_it_is_of_no_use() {
    let poll = |client: &mut Client| {
        let waker = std::task::Waker::noop();
        client.0.poll_unusable(&mut std::task::Context::from_waker(waker)).is_ready()
    };
    let (mut client, peer) = connect().await;
    assert!(!poll(&mut client));
    drop(peer);
    poll_fn(|cx| client.0.poll_unusable(cx)).await;

    let (mut client, mut peer) = connect().await;
    peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
    poll_fn(|cx| client.0.poll_unusable(cx)).await;
}

#[tokio::test]
async fn nothing_was_sent_on_a_connection_the_upstream_had_reset() {
    let (mut client, peer) = connect().await;
    socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(peer);
    poll_fn(|cx| client.0.poll_unusable(cx)).await;
    client.0.write_head(&request("POST", &[("host", "a")]), BodyLength::Empty).unwrap();
    client.0.finish().unwrap();
    assert!(client.head().await.is_err());
    assert!(client.0.nothing_sent());
}

#[tokio::test]
async fn a_tunnel_begins_behind_the_101() {
    let (mut client, mut peer) = connect().await;
    let fields = [("host", "a"), ("upgrade", "websocket"), ("sec-websocket-key", "k")];
    client.0.write_head(&request("GET", &fields), BodyLength::Empty).unwrap();
    client.0.finish().unwrap();
    client.flush().await;
    let sent = read_some(&mut peer).await;
    assert!(sent.ends_with("\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"), "{sent}");
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nfirst";
    peer.write_all(switching.as_bytes()).await.unwrap();
    assert_eq!(client.head().await.unwrap().status, 101);
    client.0.start_tunnel();
    client.0.write(Frame::Data("up".into())).unwrap();
    client.0.finish().unwrap();
    client.flush().await;
    assert_eq!(read_some(&mut peer).await, "up");
    assert_eq!(read_some(&mut peer).await, "", "our direction has ended");
    peer.shutdown().await.unwrap();
    assert_eq!(client.body().await.unwrap().0, b"first");
    assert!(!client.0.is_reusable());
}

#[tokio::test]
async fn a_path_that_would_break_the_request_line_is_not_written() {
    let (mut client, _peer) = connect().await;
    let mut head = RequestHeader::build("GET", "/").unwrap();
    // The type refuses the rest.
    head.uri = "/caf\u{e9}".parse().unwrap();
    let written = client.0.write_head(&head, BodyLength::Empty);
    assert!(matches!(written, Err(StreamError::Protocol("target_to_write"))), "{written:?}");
}
