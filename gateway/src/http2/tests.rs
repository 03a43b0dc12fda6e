//! Connections against a peer that says exactly what a test has it say.

use std::{future::poll_fn, task::Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
};

use super::{
    Accepted, Config, Connection, Error, HeadBlock, Opener, PREFACE, Reason, Received, Request,
    Stream,
    frame::{FrameHeader, HEADER_BYTES, flag, kind},
};

const CONFIG: Config = Config {
    max_concurrent_streams: 3,
    max_header_bytes: 60_000,
    stream_window: 100_000,
    connection_window: 200_000,
    connect_protocol: false,
};
/// What the pipe between both holds.
const PIPE: usize = 4 << 20;

/// The other end of a connection.
struct Peer {
    io: DuplexStream,
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Peer {
    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) {
        let payload = payload.as_ref();
        let header = FrameHeader { length: payload.len(), kind, flags, stream };
        self.io.write_all(&header.encode()).await.unwrap();
        self.io.write_all(payload).await.unwrap();
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut header = [0; HEADER_BYTES];
        self.io.read_exact(&mut header).await.ok()?;
        let FrameHeader { length, kind, flags, stream } = FrameHeader::parse(&header).unwrap();
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.unwrap();
        Some(Frame { kind, flags, stream, payload })
    }

    /// The next frame that is neither SETTINGS nor the opening of the connection's window.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.read().await?;
            let is_opening = frame.kind == kind::WINDOW_UPDATE && frame.stream == 0;
            if frame.kind != kind::SETTINGS && !is_opening {
                return Some(frame);
            }
        }
    }

    /// As `next`: its kind, stream and the code in it.
    async fn next_code(&mut self) -> (u8, u32, Reason) {
        let Frame { kind, stream, payload, .. } = self.next().await.expect("a frame");
        let code = payload.last_chunk::<4>().expect("a code");
        (kind, stream, u32::from_be_bytes(*code).into())
    }

    async fn get(&mut self, stream: u32, end: u8) {
        self.send(
            kind::HEADERS,
            flag::END_HEADERS | end,
            stream,
            [0x82, 0x86, 0x84, 0x41, 1, b'a'],
        )
        .await;
    }
}

/// A server's end, with the requests it was sent.
struct Server {
    peer: Peer,
    accepted: mpsc::UnboundedReceiver<Accepted>,
    shut_down: Option<tokio::sync::oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

async fn server(settings: &[u8]) -> Server {
    let (io, peer) = duplex(PIPE);
    let (tx, accepted) = mpsc::unbounded_channel();
    let (shut_down, mut asked) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut connection = Connection::server(io, BytesMut::new(), CONFIG);
        let mut is_asked = false;
        loop {
            tokio::select! {
                accepted = poll_fn(|cx| connection.poll_accept(cx)) => match accepted {
                    Some(accepted) => drop(tx.send(accepted)),
                    None => return,
                },
                Ok(()) = &mut asked, if !is_asked => {
                    is_asked = true;
                    connection.shut_down();
                }
            }
        }
    });
    let mut peer = Peer { io: peer };
    peer.io.write_all(PREFACE).await.unwrap();
    peer.send(kind::SETTINGS, 0, 0, settings).await;
    Server { peer, accepted, shut_down: Some(shut_down), task }
}

impl Server {
    async fn stream(&mut self) -> Stream {
        self.accepted.recv().await.expect("a request").stream
    }
}

struct Client {
    peer: Peer,
    opener: Opener,
    task: JoinHandle<()>,
}

async fn client(settings: &[u8]) -> Client {
    let (io, peer) = duplex(PIPE);
    let (mut connection, opener) = Connection::client(io, CONFIG);
    let task = tokio::spawn(async move { poll_fn(|cx| connection.poll_closed(cx)).await });
    let mut peer = Peer { io: peer };
    peer.io.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    peer.send(kind::SETTINGS, 0, 0, settings).await;
    // Its SETTINGS, the opening of the window, and that it has ours.
    loop {
        let frame = peer.read().await.unwrap();
        if frame.kind == kind::SETTINGS && frame.flags == flag::ACK {
            return Client { peer, opener, task };
        }
    }
}

impl Client {
    async fn open(&self, end: bool) -> Result<Stream, Error> {
        let block = block(&Method::GET);
        let request = Request { block: &block, end, is_head: false };
        poll_fn(|cx| self.opener.poll_send(&request, cx)).await
    }
}

fn block(method: &Method) -> HeadBlock {
    let mut block = HeadBlock::request(method);
    block.scheme(false);
    block.path("/");
    block.authority(b"a");
    block
}

fn setting(id: u8, value: u32) -> Vec<u8> {
    [&[0, id][..], &value.to_be_bytes()].concat()
}

async fn send_all(stream: &mut Stream, mut data: Bytes) -> Result<(), Error> {
    while !data.is_empty() {
        let room = poll_fn(|cx| stream.poll_room(data.len(), cx)).await?;
        stream.send_data(data.split_to(room), false)?;
    }
    Ok(())
}

#[tokio::test]
async fn faults_are_of_a_stream_or_of_the_connection() {
    use kind::{DATA, HEADERS, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE};
    const HALF_OPEN: u32 = 1;
    const IDLE: u32 = 9;
    let stream = RST_STREAM;
    let whole = kind::GOAWAY;
    for (what, (frame, id, payload), (on, code)) in [
        ("DATA after the end", (DATA, HALF_OPEN, &[0; 1][..]), (stream, Reason::STREAM_CLOSED)),
        ("HEADERS after the end", (HEADERS, HALF_OPEN, &[0x82]), (stream, Reason::STREAM_CLOSED)),
        ("no increment", (WINDOW_UPDATE, HALF_OPEN, &[0; 4]), (stream, Reason::PROTOCOL_ERROR)),
        (
            "large increment",
            (WINDOW_UPDATE, HALF_OPEN, &[0x7f, 0xff, 0xff, 0xff]),
            (stream, Reason::FLOW_CONTROL_ERROR),
        ),
        (
            "large increment of all",
            (WINDOW_UPDATE, 0, &[0x7f, 0xff, 0xff, 0xff]),
            (whole, Reason::FLOW_CONTROL_ERROR),
        ),
        ("short PRIORITY", (PRIORITY, HALF_OPEN, &[0; 4]), (stream, Reason::FRAME_SIZE_ERROR)),
        ("DATA before", (DATA, IDLE, &[0; 1]), (whole, Reason::PROTOCOL_ERROR)),
        ("reset before", (RST_STREAM, IDLE, &[0; 4]), (whole, Reason::PROTOCOL_ERROR)),
        ("increment before", (WINDOW_UPDATE, IDLE, &[0, 0, 0, 1]), (whole, Reason::PROTOCOL_ERROR)),
        ("even stream", (HEADERS, 2, &[0x82, 0x86, 0x84]), (whole, Reason::PROTOCOL_ERROR)),
        ("push", (PUSH_PROMISE, HALF_OPEN, &[0; 4]), (whole, Reason::PROTOCOL_ERROR)),
        ("broken block", (HEADERS, IDLE, &[0x80]), (whole, Reason::COMPRESSION_ERROR)),
        ("no fields", (HEADERS, IDLE, &[]), (stream, Reason::PROTOCOL_ERROR)),
        ("short SETTINGS", (SETTINGS, 0, &[0; 5]), (whole, Reason::FRAME_SIZE_ERROR)),
        ("SETTINGS of a stream", (SETTINGS, 1, &[]), (whole, Reason::PROTOCOL_ERROR)),
        ("long PING", (kind::PING, 0, &[0; 9]), (whole, Reason::FRAME_SIZE_ERROR)),
        ("continues nothing", (kind::CONTINUATION, 1, &[]), (whole, Reason::PROTOCOL_ERROR)),
    ] {
        let mut server = server(&[]).await;
        server.peer.get(HALF_OPEN, flag::END_STREAM).await;
        let _open = server.stream().await;
        server
            .peer
            .send(frame, flag::END_HEADERS & if frame == HEADERS { 0xff } else { 0 }, id, payload)
            .await;
        let found = server.peer.next_code().await;
        assert_eq!((found.0, found.2), (on, code), "{what}");
        if on == whole {
            assert_eq!(server.peer.next().await, None, "{what}");
            server.task.await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_follows_the_preface_is_settings_and_frames_have_a_length() {
    for (what, bytes, code) in [
        ("another preface", &b"PRI * HTTP/2.0\r\n\r\nsm\r\n\r\n"[..], Reason::PROTOCOL_ERROR),
        (
            "a PING",
            &[&PREFACE[..], &[0, 0, 8, 6, 0, 0, 0, 0, 0], &[0; 8]].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a long frame",
            &[&PREFACE[..], &[0, 0x40, 1, 4, 0, 0, 0, 0, 0]].concat(),
            Reason::FRAME_SIZE_ERROR,
        ),
    ] {
        let (io, peer) = duplex(PIPE);
        let mut peer = Peer { io: peer };
        peer.io.write_all(bytes).await.unwrap();
        let mut connection = Connection::server(io, BytesMut::new(), CONFIG);
        assert!(poll_fn(|cx| connection.poll_accept(cx)).await.is_none());
        assert_eq!(peer.next_code().await, (kind::GOAWAY, 0, code), "{what}");
    }
}

#[tokio::test]
async fn streams_share_what_all_may_send() {
    let mut server = server(&setting(4, 1 << 20)).await;
    let mut senders = Vec::new();
    for id in [1, 3, 5] {
        server.peer.get(id, flag::END_STREAM).await;
        let mut stream = server.stream().await;
        stream.send_head(&HeadBlock::response(StatusCode::OK), false).unwrap();
        senders.push(tokio::spawn(async move {
            send_all(&mut stream, vec![0; 300_000].into()).await.unwrap();
            stream.send_data(Bytes::new(), true).unwrap();
            stream
        }));
    }
    let mut received = [0; 3];
    let mut window = 65_535;
    for _ in 0..12 {
        while window > 0 {
            let frame = server.peer.next().await.unwrap();
            if frame.kind == kind::DATA {
                window -= frame.payload.len();
                received[(frame.stream / 2) as usize] += frame.payload.len();
            }
        }
        server.peer.send(kind::WINDOW_UPDATE, 0, 0, 60_000_u32.to_be_bytes()).await;
        window = 60_000;
    }
    // The first that came had the first window; of the others each has its share.
    let least = received.iter().min().unwrap();
    assert!(*least > 150_000, "{received:?}");
    server.peer.send(kind::WINDOW_UPDATE, 0, 0, 1_000_000_u32.to_be_bytes()).await;
    let mut ended = 0;
    while ended < 3 {
        ended += usize::from(server.peer.next().await.unwrap().flags == flag::END_STREAM);
    }
    for sender in senders {
        drop(sender.await.unwrap());
    }
}

#[tokio::test]
async fn a_window_that_shrinks_below_nothing_has_to_be_opened_again() {
    let mut server = server(&setting(4, 10)).await;
    server.peer.get(1, flag::END_STREAM).await;
    let mut stream = server.stream().await;
    stream.send_head(&HeadBlock::response(StatusCode::OK), false).unwrap();
    assert_eq!(poll_fn(|cx| stream.poll_room(100, cx)).await, Ok(10));
    stream.send_data(vec![0; 10].into(), false).unwrap();
    server.peer.send(kind::SETTINGS, 0, 0, setting(4, 4)).await;
    server.peer.send(kind::WINDOW_UPDATE, 0, 1, 6_u32.to_be_bytes()).await;
    server.peer.send(kind::PING, 0, 0, [7; 8]).await;
    while server.peer.next().await.unwrap().kind != kind::PING {}
    let room = poll_fn(|cx| Poll::Ready(stream.poll_room(100, cx))).await;
    assert!(room.is_pending(), "10 sent, 4 - 10 + 6 = 0 left: {room:?}");
    server.peer.send(kind::SETTINGS, 0, 0, setting(4, 5)).await;
    assert_eq!(poll_fn(|cx| stream.poll_room(100, cx)).await, Ok(1));
}

#[tokio::test]
async fn windows_of_the_peer_are_enforced() {
    // 100,000 of a stream, which SETTINGS have said and the peer has confirmed.
    let mut server = server(&[]).await;
    server.peer.send(kind::SETTINGS, flag::ACK, 0, []).await;
    server.peer.get(1, 0).await;
    let _stream = server.stream().await;
    for _ in 0..10 {
        server.peer.send(kind::DATA, 0, 1, vec![0; 10_000]).await;
    }
    server.peer.send(kind::DATA, 0, 1, [0]).await;
    let expected = (kind::RST_STREAM, 1, Reason::FLOW_CONTROL_ERROR);
    assert_eq!(server.peer.next_code().await, expected);
    // And 200,000 of all.
    server.peer.get(3, 0).await;
    let _stream = server.stream().await;
    for _ in 0..10 {
        server.peer.send(kind::DATA, 0, 3, vec![0; 10_000]).await;
    }
    let expected = (kind::GOAWAY, 0, Reason::FLOW_CONTROL_ERROR);
    assert_eq!(server.peer.next_code().await, expected);
}

#[tokio::test]
async fn what_nobody_reads_is_given_back_with_its_stream() {
    let mut server = server(&[]).await;
    for id in (1..40).step_by(2) {
        server.peer.get(id, 0).await;
        let mut stream = server.stream().await;
        // Twenty times the connection's window in all: it has to be told again and again.
        for _ in 0..9 {
            server.peer.send(kind::DATA, flag::PADDED, id, [&[9][..], &[0; 10_000]].concat()).await;
        }
        let read = poll_fn(|cx| stream.poll_receive(cx)).await;
        assert!(matches!(read, Ok(Some(Received::Data(data))) if data.len() == 9_991));
        // Neither what was read and not released, nor what was not read.
        drop(stream);
        while server.peer.next_code().await != (kind::RST_STREAM, id, Reason::CANCEL) {}
    }
}

#[tokio::test]
async fn a_body_in_octets_takes_no_more_room_than_one_in_long_pieces() {
    const OCTETS: usize = 20_000;
    let mut server = server(&[]).await;
    server.peer.get(1, 0).await;
    let mut stream = server.stream().await;
    let frame = FrameHeader { length: 1, kind: kind::DATA, flags: 0, stream: 1 }.encode();
    for n in 0..OCTETS {
        server.peer.io.write_all(&frame).await.unwrap();
        server.peer.io.write_all(&[n.to_le_bytes()[0]]).await.unwrap();
    }
    server.peer.send(kind::PING, 0, 0, [7; 8]).await;
    while server.peer.next().await.unwrap().kind != kind::PING {}
    let pieces = stream.shared.lock().streams[&1].data.len();
    assert!(pieces < 16 + 2 * OCTETS / 4096, "{pieces} pieces");
    let mut body = Vec::new();
    while body.len() < OCTETS {
        let Ok(Some(Received::Data(data))) = poll_fn(|cx| stream.poll_receive(cx)).await else {
            panic!("no data")
        };
        body.extend_from_slice(&data);
    }
    assert!(body.iter().enumerate().all(|(n, octet)| n.to_le_bytes()[0] == *octet));
}

#[tokio::test]
async fn a_server_that_has_answered_resets_without_an_error() {
    let mut server = server(&[]).await;
    server.peer.get(1, 0).await;
    let mut stream = server.stream().await;
    stream.send_head(&HeadBlock::response(StatusCode::OK), true).unwrap();
    drop(stream);
    assert_eq!(server.peer.next().await.unwrap().kind, kind::HEADERS);
    assert_eq!(server.peer.next_code().await, (kind::RST_STREAM, 1, Reason::NO_ERROR));
    // What was on its way is no fault.
    server.peer.send(kind::DATA, flag::END_STREAM, 1, [0; 100]).await;
    server.peer.send(kind::PING, 0, 0, [7; 8]).await;
    assert_eq!(server.peer.next().await.unwrap().kind, kind::PING);
}

#[tokio::test]
async fn goodbye_is_said_before_anything_is_refused() {
    let mut server = server(&[]).await;
    server.peer.get(1, flag::END_STREAM).await;
    let mut first = server.stream().await;
    server.shut_down.take().unwrap().send(()).unwrap();
    let goaway = server.peer.next().await.unwrap();
    assert_eq!(goaway.payload[..4], [0x7f, 0xff, 0xff, 0xff], "nothing is excluded yet");
    let ping = server.peer.next().await.unwrap();
    assert_eq!(ping.kind, kind::PING);
    // It was on its way.
    server.peer.get(3, flag::END_STREAM).await;
    let mut second = server.stream().await;
    server.peer.send(kind::PING, flag::ACK, 0, &ping.payload).await;
    let goaway = server.peer.next().await.unwrap();
    assert_eq!((goaway.kind, &goaway.payload[..4]), (kind::GOAWAY, &[0, 0, 0, 3][..]));
    server.peer.get(5, flag::END_STREAM).await;
    for stream in [&mut first, &mut second] {
        assert!(!server.task.is_finished());
        stream.send_head(&HeadBlock::response(StatusCode::OK), true).unwrap();
        let answer = server.peer.next().await.unwrap();
        assert_eq!((answer.kind, answer.stream), (kind::HEADERS, stream.id));
    }
    assert_eq!(server.peer.next().await, None);
    server.task.await.unwrap();
    assert!(server.accepted.recv().await.is_none(), "the fifth was not looked at");
}

#[tokio::test]
async fn a_client_that_is_told_goodbye_knows_what_was_not_looked_at() {
    let mut client = client(&[]).await;
    let (mut first, mut second) =
        (client.open(true).await.unwrap(), client.open(true).await.unwrap());
    client.peer.send(kind::GOAWAY, 0, 0, [0, 0, 0, 1, 0, 0, 0, 0]).await;
    assert_eq!(poll_fn(|cx| second.poll_head(cx)).await.unwrap_err(), Error::GoAway);
    assert_eq!(client.open(true).await.unwrap_err(), Error::GoAway);
    assert!(client.opener.is_closed());
    client.peer.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, [0x88]).await;
    assert_eq!(poll_fn(|cx| first.poll_head(cx)).await.unwrap().status, 200);
    client.task.await.unwrap();
}

#[tokio::test]
async fn a_client_waits_for_a_stream_the_peer_allows() {
    let mut client = client(&setting(3, 1)).await;
    assert_eq!(client.opener.max_streams(), 1);
    let first = client.open(true).await.unwrap();
    let opener = client.opener.clone();
    let second = tokio::spawn(async move {
        let block = block(&Method::HEAD);
        let request = Request { block: &block, end: true, is_head: true };
        poll_fn(|cx| opener.poll_send(&request, cx)).await
    });
    assert_eq!(client.peer.next().await.unwrap().stream, 1);
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(client.peer.next_code().await, (kind::RST_STREAM, 1, Reason::CANCEL));
    assert_eq!(client.peer.next().await.unwrap().stream, 3);
    let mut second = second.await.unwrap().unwrap();
    // Of HEAD: a length, and nothing of that length.
    client
        .peer
        .send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 3, b"\x88\x0f\x0d\x015")
        .await;
    let head = poll_fn(|cx| second.poll_head(cx)).await.unwrap();
    assert_eq!(head.headers["content-length"], "5");
    assert!(second.is_end_stream());
}

#[tokio::test]
async fn responses_that_are_none_are_faults_of_their_stream() {
    for (what, frames) in [
        ("data first", &[(kind::DATA, 0, &b"a"[..])][..]),
        ("no status", &[(kind::HEADERS, flag::END_HEADERS, &[0x84])]),
        ("101", &[(kind::HEADERS, flag::END_HEADERS, b"\x08\x03101")]),
        ("1xx that ends", &[(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, b"\x08\x03103")]),
        (
            "too short",
            &[
                (kind::HEADERS, flag::END_HEADERS, b"\x88\x0f\x0d\x015"),
                (kind::DATA, flag::END_STREAM, b"1234"),
            ],
        ),
        (
            "too long",
            &[(kind::HEADERS, flag::END_HEADERS, b"\x88\x0f\x0d\x015"), (kind::DATA, 0, b"123456")],
        ),
        (
            "trailers in the middle",
            &[
                (kind::HEADERS, flag::END_HEADERS, b"\x88"),
                (kind::HEADERS, flag::END_HEADERS, b"\0\x01a\0"),
            ],
        ),
    ] {
        let mut client = client(&[]).await;
        let mut stream = client.open(true).await.unwrap();
        assert_eq!(client.peer.next().await.unwrap().kind, kind::HEADERS);
        for (kind, flags, payload) in frames {
            client.peer.send(*kind, *flags, 1, payload).await;
        }
        let expected = (kind::RST_STREAM, 1, Reason::PROTOCOL_ERROR);
        assert_eq!(client.peer.next_code().await, expected, "{what}");
        let error = poll_fn(|cx| stream.poll_error(cx)).await;
        assert_eq!(error, Error::Protocol(Reason::PROTOCOL_ERROR), "{what}");
        assert!(client.open(true).await.is_ok(), "{what}: the connection goes on");
    }
}

#[tokio::test]
async fn a_head_longer_than_a_frame_is_continued_both_ways() {
    let mut server = server(&[]).await;
    server.peer.get(1, flag::END_STREAM).await;
    let mut stream = server.stream().await;
    let value = HeaderValue::from_str(&"v".repeat(20_000)).unwrap();
    let mut long = HeadBlock::response(StatusCode::OK);
    for name in ["x-a", "x-b"] {
        long.field(&HeaderName::from_static(name), &value);
    }
    stream.send_head(&long, true).unwrap();
    let mut frames = Vec::new();
    let mut sent = Vec::new();
    while frames.last() != Some(&(kind::CONTINUATION, flag::END_HEADERS)) {
        let frame = server.peer.next().await.unwrap();
        frames.push((frame.kind, frame.flags));
        sent.extend(frame.payload);
    }
    let expected =
        [(kind::HEADERS, flag::END_STREAM), (kind::CONTINUATION, 0), (kind::CONTINUATION, 4)];
    assert_eq!(frames, expected);

    let mut client = client(&[]).await;
    let mut stream = client.open(true).await.unwrap();
    let (first, rest) = sent.split_at(3);
    client.peer.send(kind::HEADERS, flag::END_STREAM, 1, first).await;
    for piece in rest.chunks(16_000) {
        client.peer.send(kind::CONTINUATION, 0, 1, piece).await;
    }
    client.peer.send(kind::CONTINUATION, flag::END_HEADERS, 1, []).await;
    let head = poll_fn(|cx| stream.poll_head(cx)).await.unwrap();
    assert_eq!((head.headers.len(), &head.headers["x-b"]), (2, &value));
}

#[tokio::test]
async fn a_connection_that_breaks_tells_its_streams() {
    let mut client = client(&[]).await;
    let mut stream = client.open(false).await.unwrap();
    client.peer.send(kind::HEADERS, flag::END_HEADERS, 1, [0x88]).await;
    client.peer.send(kind::DATA, 0, 1, b"a").await;
    drop(client.peer);
    client.task.await.unwrap();
    assert_eq!(poll_fn(|cx| stream.poll_head(cx)).await.unwrap().status, 200);
    let data = poll_fn(|cx| stream.poll_receive(cx)).await;
    assert!(matches!(data, Ok(Some(Received::Data(data))) if data == "a"), "what came first");
    let end = poll_fn(|cx| stream.poll_receive(cx)).await;
    assert!(matches!(end, Err(Error::Io(_))), "{end:?}");
    assert!(stream.send_data("b".into(), true).is_err());
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_not_read_from() {
    const PINGS: usize = 100_000;
    let (io, peer) = duplex(16 * 1024);
    let mut connection = Connection::server(io, BytesMut::new(), CONFIG);
    let (mut from, mut to) = tokio::io::split(peer);
    let sending = tokio::spawn(async move {
        to.write_all(PREFACE).await.unwrap();
        to.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let head = FrameHeader { length: 6, kind: kind::HEADERS, flags: 5, stream: 0 };
        for n in 0..PINGS {
            // Each pays for a hundred frames.
            let stream = u32::try_from(n * 2 + 1).unwrap();
            to.write_all(&FrameHeader { stream, ..head }.encode()).await.unwrap();
            to.write_all(&[0x82, 0x86, 0x84, 0x41, 1, b'a']).await.unwrap();
        }
    });
    let serving = tokio::spawn(async move {
        let mut accepted = 0;
        while let Some(Accepted { mut stream, .. }) = poll_fn(|cx| connection.poll_accept(cx)).await
        {
            accepted += 1;
            let mut block = HeadBlock::response(StatusCode::OK);
            let value = HeaderValue::from_str(&"v".repeat(1_000)).unwrap();
            block.field(&HeaderName::from_static("x-a"), &value);
            let _ = stream.send_head(&block, true);
            let waiting = {
                let state = stream.shared.lock();
                state.out.len() + state.in_flight
            };
            assert!(waiting < 600_000, "{waiting} bytes wait");
        }
        accepted
    });
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!sending.is_finished(), "nothing stops the peer");
    let reading =
        tokio::spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
    sending.await.unwrap();
    drop(reading);
    serving.abort();
}
