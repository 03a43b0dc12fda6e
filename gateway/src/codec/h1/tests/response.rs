//! The response parser, and H19: responses that could be read as two.

use bytes::BytesMut;
use http::header;

use super::{
    super::{
        super::{Options, StreamError, Upgrade},
        body::BodyReader,
        response::{Asked, ResponseHead, parse as parse_response},
    },
    damaged, options,
};

const GET: Asked = Asked { head: false, upgrade: None };
const HEAD: Asked = Asked { head: true, upgrade: None };
const WEBSOCKET: Asked = Asked { head: false, upgrade: Some(Upgrade::WebSocket) };

fn parse(bytes: &str, asked: Asked) -> Result<ResponseHead, StreamError> {
    let options = Options { max_headers: 100, ..options() };
    parse_response(&mut BytesMut::from(bytes), asked, &options)
        .map(|head| head.unwrap_or_else(|| panic!("incomplete: {bytes:?}")))
}

#[test]
fn ambiguous_responses_are_protocol_errors() {
    for (id, response) in [
        ("CL+TE", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("two CL", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
        ("CL list", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n"),
        ("CL junk", "HTTP/1.1 200 OK\r\nContent-Length: 5a\r\n\r\n"),
        ("TE gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        ("TE in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("bare LF", "HTTP/1.1 200 OK\nX: a\r\n\r\n"),
        ("only LF", "HTTP/1.1 200 OK\n\n"),
        ("LF in fields", "HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n"),
        ("empty line in front", "\r\nHTTP/1.1 200 OK\r\n\r\n"),
        ("obs-fold", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"),
        ("space before colon", "HTTP/1.1 200 OK\r\nX : a\r\n\r\n"),
        ("control in value", "HTTP/1.1 200 OK\r\nX: \u{1}\r\n\r\n"),
        ("no status", "HTTP/1.1 OK\r\n\r\n"),
        ("four digits", "HTTP/1.1 2000 OK\r\n\r\n"),
        ("status 000", "HTTP/1.1 000 OK\r\n\r\n"),
        ("HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n"),
        ("no HTTP", "SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        (
            "101 unasked",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
    ] {
        let parsed = parse(response, GET);
        assert!(matches!(parsed, Err(StreamError::Protocol(_))), "{id}: {parsed:?}");
    }
}

#[test]
fn limits_hold_for_responses() {
    let fields = "X: a\r\n".repeat(101);
    let many = parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), GET);
    assert!(matches!(many, Err(StreamError::TooLarge(_))), "{many:?}");
    let large = "a".repeat(61 * 1024);
    let large = parse(&format!("HTTP/1.1 200 OK\r\nX: {large}\r\n\r\n"), GET);
    assert!(matches!(large, Err(StreamError::TooLarge(_))), "{large:?}");
}

#[test]
fn the_body_ends_where_rfc_9112_says() {
    let body = |response: &str, asked| parse(response, asked).unwrap().body;
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(matches!(body(sized, GET), BodyReader::Exact(5)));
    assert!(matches!(body(chunked, GET), BodyReader::Chunked(_)));
    assert!(matches!(body("HTTP/1.1 200 OK\r\n\r\n", GET), BodyReader::UntilClose));
    assert!(matches!(body(sized, HEAD), BodyReader::Done));
    assert!(matches!(body(chunked, HEAD), BodyReader::Done));
    for status in ["100 Continue", "103 Early Hints", "204 No Content", "304 Not Modified"] {
        let response = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
        assert!(matches!(body(&response, GET), BodyReader::Done), "{status}");
    }
}

#[test]
fn the_length_a_head_response_describes_is_kept() {
    let head = parse("HTTP/1.1 200 OK\r\nContent-Length: 0123\r\n\r\n", HEAD).unwrap();
    assert_eq!(head.header.headers[header::CONTENT_LENGTH], "123");
}

#[test]
fn a_connection_is_kept_only_when_nothing_speaks_against_it() {
    let keeps = |response: &str| parse(response, GET).unwrap().keep_alive;
    assert!(keeps("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    assert!(keeps("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"));
    assert!(keeps("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"));
    assert!(!keeps("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
    assert!(!keeps("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
    assert!(!keeps("HTTP/1.1 200 OK\r\n\r\n"), "a body until the end of the stream");
    assert!(!keeps("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"), "a 204 with a body");
}

#[test]
fn a_101_is_taken_only_by_whom_it_answers() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
        Upgrade: WebSocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
    let head = parse(switching, WEBSOCKET).unwrap();
    assert!(head.tunnel);
    assert_eq!(head.header.headers[header::UPGRADE], "websocket");
    let other = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    assert!(matches!(parse(other, WEBSOCKET), Err(StreamError::Protocol(_))));
    let refused = parse("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", WEBSOCKET).unwrap();
    assert!(!refused.tunnel);
}

#[test]
fn fields_of_the_connection_are_not_forwarded() {
    let head = parse(
        "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Transfer-Encoding: chunked\r\nUpgrade: h2c\r\nX-End: 1\r\n\r\n",
        GET,
    )
    .unwrap();
    let names: Vec<_> = head.header.headers.names().map(header::HeaderName::as_str).collect();
    assert_eq!(names, ["x-end"]);
}

/// Damage to good responses: no prefix of what is taken is refused, and nothing that is refused
/// becomes better by what follows.
#[test]
fn where_a_response_is_cut_makes_no_difference() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let options = Options { max_headers: 100, ..options() };
    let parse = |bytes: &[u8], asked| parse_response(&mut BytesMut::from(bytes), asked, &options);
    let responses: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close, x-y\r\nX-Y: 1\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.0 304 Not Modified\r\nContent-Length: 5\r\nKeep-Alive: timeout=5\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ];
    for round in 0..4_000 {
        let asked = [GET, HEAD, WEBSOCKET][round % 3];
        let damaged = damaged(responses[random.usize(..4)], &mut random);
        let shown = damaged.escape_ascii();
        let mut refused = false;
        let mut taken = None;
        for end in 0..=damaged.len() {
            match parse(&damaged[..end], asked) {
                Ok(None) => assert!(!refused && taken.is_none(), "seed {seed}: {shown} at {end}"),
                Err(_) => {
                    assert!(taken.is_none(), "seed {seed}: {shown} at {end}");
                    refused = true;
                }
                Ok(Some(head)) => {
                    assert!(!refused, "seed {seed}: {shown} at {end}");
                    let head = format!("{:?} {:?}", head.header, head.body);
                    let first = taken.get_or_insert_with(|| head.clone());
                    assert_eq!(*first, head, "seed {seed}: {shown} at {end}");
                }
            }
        }
    }
}
