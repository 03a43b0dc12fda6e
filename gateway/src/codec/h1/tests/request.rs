//! The request parser: what it refuses, what it makes of what it takes.

use bytes::BytesMut;
use http::{Method, header};

use super::{
    super::{
        super::Upgrade,
        body::BodyReader,
        head::HeadScan,
        request::{RequestHead, parse as parse_request},
    },
    damaged, lenient_options, options,
    vectors::{CANARY, rejected_heads},
};
use crate::{codec::Options, head::Headers};

fn parse(bytes: &[u8]) -> RequestHead {
    parse_with(bytes, &options())
}

fn parse_with(bytes: &[u8], options: &Options) -> RequestHead {
    let mut buffer = BytesMut::from(bytes);
    let text = String::from_utf8_lossy(bytes);
    match parse_request(&mut buffer, options) {
        Ok(Some(head)) => head,
        Ok(None) => panic!("incomplete: {text}"),
        Err(refused) => panic!("{}: {text}", refused.rejection.details),
    }
}

/// Status of the refusal; 0: a request, or not yet one.
fn status(pieces: &[&[u8]]) -> u16 {
    let mut buffer = BytesMut::new();
    let mut scan = HeadScan::default();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if !scan.is_due(&buffer) {
            continue;
        }
        match parse_request(&mut buffer, &options()) {
            Ok(Some(_)) => return 0,
            Ok(None) => {}
            Err(refused) => return refused.rejection.status.as_u16(),
        }
    }
    0
}

#[test]
fn every_vector_is_refused_with_its_status() {
    for (id, bytes, expected) in rejected_heads() {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        assert_eq!(status(&[&bytes]), expected, "{id}: {shown:?}");
    }
}

#[test]
fn a_vector_is_refused_whatever_follows_it() {
    for (id, bytes, expected) in rejected_heads() {
        assert_eq!(status(&[&[&bytes, CANARY].concat()]), expected, "{id}");
    }
}

#[test]
fn where_a_vector_is_split_makes_no_difference() {
    for (id, bytes, expected) in rejected_heads() {
        let step = (bytes.len() / 100).max(1);
        for at in (1..bytes.len()).step_by(step) {
            let (front, back) = bytes.split_at(at);
            assert_eq!(status(&[front, back, CANARY]), expected, "{id} split at {at}");
        }
    }
}

#[test]
fn a_vector_that_comes_byte_by_byte_is_refused_all_the_same() {
    for (id, bytes, expected) in rejected_heads() {
        let pieces: Vec<&[u8]> = bytes.chunks(1).chain([CANARY]).collect();
        assert_eq!(status(&pieces), expected, "{id}");
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_parsed_a_bounded_number_of_times() {
    let head = [b"GET / HTTP/1.1\r\nX: ", &b"a".repeat(59_000)[..]].concat();
    let mut scan = HeadScan::default();
    let parses = (1..=head.len()).filter(|length| scan.is_due(&head[..*length])).count();
    assert!(parses < 1024 + 16, "{parses} parses of {} bytes", head.len());
}

#[test]
fn an_ordinary_request_is_understood() {
    let head = parse(
        b"GET /a/../b?c=d HTTP/1.1\r\nHost: Example.com:8080\r\nAccept: */*\r\nX-A: 1\r\nx-a: 2\r\n\r\n",
    );
    assert_eq!(head.header.method, Method::GET);
    assert_eq!(head.header.target(), "/a/../b?c=d", "the path's text is kept as it came");
    assert_eq!(head.header.uri.path(), "/a/../b");
    assert_eq!(head.header.headers[header::HOST], "Example.com:8080");
    let values: Vec<_> = head.header.headers.get_all("x-a").collect();
    assert_eq!(values, ["1", "2"]);
    assert!(head.body.is_done());
    assert!(head.keep_alive);
    assert_eq!(head.upgrade, None);
}

#[test]
fn one_empty_line_in_front_is_tolerated() {
    let head = parse(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.header.target(), "/");
}

#[test]
fn only_the_request_is_taken_from_the_buffer() {
    let mut buffer = BytesMut::from(&b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2"[..]);
    assert!(parse_request(&mut buffer, &options()).unwrap().is_some());
    assert_eq!(&buffer[..], b"GET /2");
}

#[test]
fn unknown_methods_pass_in_any_case() {
    for method in ["PURGE", "get", "M-SEARCH", "X!#$%&'*+.^_`|~9"] {
        let head = parse(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(head.header.method.as_str(), method);
    }
}

#[test]
fn leading_zeros_of_a_length_are_dropped() {
    let head = parse(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\n");
    assert!(matches!(head.body, BodyReader::Exact(5)));
    assert_eq!(head.header.headers[header::CONTENT_LENGTH], "5");
}

#[test]
fn the_largest_length_is_one_below_2_to_63() {
    let head = parse(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n");
    assert!(matches!(head.body, BodyReader::Exact(9_223_372_036_854_775_807)));
}

#[test]
fn chunked_is_understood_in_any_case_and_not_forwarded() {
    let head = parse(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\t CHUNKED \r\n\r\n");
    assert!(matches!(head.body, BodyReader::Chunked(_)));
    assert!(!head.header.headers.contains_key(header::TRANSFER_ENCODING));
}

#[test]
fn a_post_without_length_has_no_body() {
    for version in ["1.0", "1.1"] {
        let head = parse(format!("POST / HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes());
        assert!(head.body.is_done(), "HTTP/{version}");
    }
}

#[test]
fn an_absolute_target_is_taken_apart() {
    for (target, method, path) in [
        ("http://a.example/b?c", "GET", "/b?c"),
        ("HTTP://A.EXAMPLE", "GET", "/"),
        ("http://a.example?q", "GET", "/?q"),
        ("http://a.example", "OPTIONS", "*"),
        ("http://a.example/", "OPTIONS", "/"),
    ] {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let head = parse(request.as_bytes());
        assert_eq!(head.header.target(), path, "{method} {target}");
        assert_eq!(head.header.headers[header::HOST], "a.example");
    }
}

#[test]
fn the_asterisk_is_for_options() {
    let head = parse(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.header.target(), "*");
}

#[test]
fn http_1_0_needs_no_host_and_closes_unless_asked_not_to() {
    assert!(!parse(b"GET / HTTP/1.0\r\n\r\n").keep_alive);
    assert!(parse(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
    let head = parse(b"GET http://a/ HTTP/1.0\r\n\r\n");
    assert_eq!(head.header.headers[header::HOST], "a", "the target's authority is the host");
}

#[test]
fn connection_close_is_found_in_a_list() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo , CLOSE\r\n\r\n";
    assert!(!parse(request).keep_alive);
}

#[test]
fn fields_of_the_connection_are_not_forwarded() {
    let head = parse(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop, te\r\nKeep-Alive: 5\r\n\
          X-Hop: 1\r\nX-End: 2\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\
          TE: trailers, deflate\r\n\r\n",
    );
    let mut names: Vec<_> = head.header.headers.names().map(header::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "te", "x-end"]);
    assert_eq!(head.header.headers[header::TE], "trailers");
    assert_eq!(head.upgrade, None, "h2c is not taken up");
}

#[test]
fn a_websocket_handshake_is_an_upgrade_only_when_complete() {
    let handshake = |method: &str, version: &str, upgrade: &str, key: &str| {
        format!(
            "{method} / HTTP/{version}\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: {upgrade}\r\n{key}Sec-WebSocket-Version: 13\r\n\r\n"
        )
    };
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let complete = parse(handshake("GET", "1.1", "WebSocket", key).as_bytes());
    assert_eq!(complete.upgrade, Some(Upgrade::WebSocket));
    assert_eq!(complete.header.headers[header::UPGRADE], "websocket");
    for incomplete in [
        handshake("POST", "1.1", "websocket", key),
        handshake("GET", "1.0", "websocket", key),
        handshake("GET", "1.1", "websocket, h2c", key),
        handshake("GET", "1.1", "websocket\r\nUpgrade: websocket", key),
        handshake("GET", "1.1", "websocket", ""),
    ] {
        let head = parse(incomplete.as_bytes());
        assert_eq!(head.upgrade, None, "{incomplete}");
        assert!(!head.header.headers.contains_key(header::UPGRADE), "{incomplete}");
    }
}

#[test]
fn expect_is_kept_only_for_a_body_to_wait_for() {
    let with_body =
        parse(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n");
    assert!(with_body.expects_continue);
    assert_eq!(with_body.header.headers[header::EXPECT], "100-continue");
    for request in [
        "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "PUT / HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n",
    ] {
        let head = parse(request.as_bytes());
        assert!(!head.expects_continue, "{request}");
        assert!(!head.header.headers.contains_key(header::EXPECT), "{request}");
    }
}

#[test]
fn ordinary_underscores_pass_and_all_do_when_allowed() {
    let head = parse(b"GET / HTTP/1.1\r\nHost: a\r\nsession_id: 1\r\n\r\n");
    assert_eq!(head.header.headers["session_id"], "1");
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nx_forwarded_for: 1\r\n\r\n";
    let head = parse_with(request, &lenient_options());
    assert_eq!(head.header.headers["x_forwarded_for"], "1");
}

#[test]
fn connect_is_an_upgrade_where_it_is_enabled() {
    let head = parse_with(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", &lenient_options());
    assert_eq!(head.upgrade, Some(Upgrade::Connect));
    assert_eq!(head.header.uri.authority().unwrap(), "a:443");
    let with_body = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 1\r\n\r\n";
    let refused = parse_request(&mut BytesMut::from(&with_body[..]), &lenient_options());
    assert_eq!(refused.unwrap_err().rejection.details, "upgrade_with_body");
}

#[test]
fn a_refused_request_is_recorded_as_far_as_it_was_understood() {
    let refusal = |bytes: &[u8]| {
        let mut buffer = BytesMut::from(&[bytes, CANARY].concat()[..]);
        let refused = parse_request(&mut buffer, &options()).unwrap_err();
        let path = refused.request.target().to_owned();
        (refused.request.method.to_string(), path)
    };
    assert_eq!(
        refusal(b"PUT /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("PUT".to_owned(), "/a".to_owned())
    );
    assert_eq!(refusal(b"\x16\x03\x01\r\n"), ("-".to_owned(), "*".to_owned()));
}

/// Small damage to a good request: whatever is still taken reads the same again after it was written,
/// and reads the same however it was split.
#[test]
fn what_is_taken_survives_being_forwarded() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let request = b"POST /a/b?c=d HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 5\r\n\
        Connection: close, x-y\r\nX-Y: 1\r\nCookie: a=b; c=d\r\nTransfer-Type: chunked\r\n\r\n";
    for _ in 0..5_000 {
        let damaged = damaged(request, &mut random);
        let shown = String::from_utf8_lossy(&damaged).into_owned();
        let Ok(Some(first)) = parse_request(&mut BytesMut::from(&damaged[..]), &options()) else {
            continue;
        };
        if !first.header.headers.contains_key(header::HOST) {
            // Damaged to HTTP/1.0, which may come without; normalisation refuses it.
            continue;
        }
        let length = super::super::body::length_of(&first.body);
        let mut written = BytesMut::new();
        let upgrade = (first.upgrade, None);
        super::super::encode::request(&first.header, length, upgrade, &mut written).unwrap();
        let mut again = parse(&written);
        if !first.header.headers.contains_key(header::CONTENT_LENGTH) {
            // Added for a POST without content.
            again.header.headers.remove(&header::CONTENT_LENGTH);
        }
        assert_eq!(again.header.target(), first.header.target(), "seed {seed}: {shown:?}");
        assert_eq!(again.header.method, first.header.method, "seed {seed}: {shown:?}");
        let sorted = |headers: Headers| {
            let mut fields: Vec<_> = headers.into_iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
            fields
        };
        let fields = (sorted(again.header.headers), sorted(first.header.headers));
        assert_eq!(fields.0, fields.1, "seed {seed}: {shown:?}");
        assert_eq!(super::super::body::length_of(&again.body), length, "seed {seed}: {shown:?}");
        let at = random.usize(1..damaged.len());
        assert_eq!(status(&[&damaged[..at], &damaged[at..]]), 0, "seed {seed}: {shown:?} at {at}");
    }
}
