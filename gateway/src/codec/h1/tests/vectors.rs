//! Requests that are none, and what they are answered. Each is complete: nothing more is needed to
//! refuse it.

/// Name, bytes, status.
pub(crate) type Vector = (&'static str, Vec<u8>, u16);

/// Must never be served behind a vector.
pub(crate) const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: a\r\n\r\n";

/// A head with one field more than it needs.
fn with(id: &'static str, fields: &[u8], status: u16) -> Vector {
    (id, [b"POST / HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n\r\n"].concat(), status)
}

/// A request line of its own.
fn line(id: &'static str, line: &[u8], status: u16) -> Vector {
    (id, [line, b"\r\nHost: a\r\n\r\n"].concat(), status)
}

fn raw(id: &'static str, bytes: &[u8], status: u16) -> Vector {
    (id, bytes.to_vec(), status)
}

pub(crate) fn rejected_heads() -> Vec<Vector> {
    [
        framing(),
        transfer_encoding_matrix(),
        line_endings(),
        request_lines(),
        hosts(),
        connection_options(),
        limits(),
    ]
    .concat()
}

fn framing() -> Vec<Vector> {
    vec![
        with("H01 CL.TE", b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        with("H01 TE.CL", b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        with("H01 case", b"transfer-ENCODING: Chunked\r\ncONTENT-length: 5", 400),
        with("H01 CL 0", b"Content-Length: 0\r\nTransfer-Encoding: chunked", 400),
        with("H02 two different", b"Content-Length: 5\r\nContent-Length: 6", 400),
        with("H02 two equal", b"Content-Length: 5\r\nContent-Length: 5", 400),
        with("H02 list of equal", b"Content-Length: 5, 5", 400),
        with("H02 list of different", b"Content-Length: 5,6", 400),
        with("H03 plus", b"Content-Length: +5", 400),
        with("H03 minus zero", b"Content-Length: -0", 400),
        with("H03 minus one", b"Content-Length: -1", 400),
        with("H03 inner space", b"Content-Length: 5 6", 400),
        with("H03 hexadecimal", b"Content-Length: 0x5", 400),
        with("H03 underscore", b"Content-Length: 5_0", 400),
        with("H03 exponent", b"Content-Length: 1e1", 400),
        with("H03 devanagari five", "Content-Length: \u{096b}".as_bytes(), 400),
        with("H03 empty", b"Content-Length:", 400),
        with("H03 blank", b"Content-Length:   ", 400),
        with("H03 2^63", b"Content-Length: 9223372036854775808", 400),
        with("H03 2^64", b"Content-Length: 18446744073709551616", 400),
        with("H03 10^30", b"Content-Length: 1000000000000000000000000000000", 400),
        with("H04 identity", b"Transfer-Encoding: identity", 501),
        with("H04 gzip", b"Transfer-Encoding: gzip", 501),
        with("H04 gzip, chunked", b"Transfer-Encoding: gzip, chunked", 501),
        with("H04 chunked, chunked", b"Transfer-Encoding: chunked, chunked", 501),
        with("H04 leading comma", b"Transfer-Encoding: ,chunked", 501),
        with("H04 trailing comma", b"Transfer-Encoding: chunked,", 501),
        with("H04 xchunked", b"Transfer-Encoding: xchunked", 501),
        with("H04 quoted", b"Transfer-Encoding: \"chunked\"", 501),
        with("H04 parameter", b"Transfer-Encoding: chunked;q=1", 501),
        with("H04 two", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        with("H04 two, one other", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", 400),
        with("H04 empty", b"Transfer-Encoding:", 400),
        raw(
            "H06 TE in 1.0",
            b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        with("H17 two", b"Content-Length: 1\r\nExpect: 100-continue\r\nExpect: 100-continue", 417),
        with("H17 prefix", b"Content-Length: 1\r\nExpect: y 100-continue", 417),
        with("H17 other", b"Content-Length: 1\r\nExpect: 200-ok", 417),
    ]
}

/// H05: a byte that does not belong there before, after and inside the name and the value. A space
/// or tab around the value is plain optional white space and not part of the matrix.
fn transfer_encoding_matrix() -> Vec<Vector> {
    let bytes = (0x01..=0x20_u8).chain(0x7f..=0xff).filter(|byte| !matches!(byte, b'\r' | b'\n'));
    let mut vectors = Vec::new();
    for byte in bytes {
        let b = &[byte][..];
        let field = |parts: [&[u8]; 4]| parts.concat();
        vectors.push(with("H05 before name", &field([b, b"Transfer-Encoding", b": ", b"x"]), 400));
        vectors.push(with("H05 in name", &field([b"Transfer", b, b"Encoding: ", b"chunked"]), 400));
        vectors.push(with("H05 after name", &field([b"Transfer-Encoding", b, b": ", b"x"]), 400));
        let blank = matches!(byte, b' ' | b'\t');
        if !blank {
            let before = field([b"Transfer-Encoding: ", b, b"chunked", b""]);
            let after = field([b"Transfer-Encoding: ", b"chunked", b, b""]);
            vectors.push(with("H05 before value", &before, 400));
            vectors.push(with("H05 after value", &after, 400));
        }
        let status = if byte == b' ' { 501 } else { 400 };
        let inside = field([b"Transfer-Encoding: ", b"chun", b, b"ked"]);
        vectors.push(with("H05 in value", &inside, status));
    }
    vectors.push(with("H05 underscore", b"Transfer_Encoding: chunked", 400));
    vectors.push(with("H05 obs-fold", b"Transfer-Encoding:\r\n chunked", 400));
    vectors.push(with("H05 obs-fold behind", b"Transfer-Encoding: chunked\r\n x", 400));
    vectors
}

fn line_endings() -> Vec<Vector> {
    let mut vectors = vec![
        raw("H11 LF in request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        raw("H11 LF behind field", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
        raw("H11 LF as last line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
        raw("H11 only LF", b"GET / HTTP/1.1\nHost: a\n\n", 400),
        raw("H11 bare CR in line", b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
        raw("H11 bare CR in value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
        raw("H11 CR CR LF", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
        raw("H11 CR CR LF behind field", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
        with("H11 space before colon", b"X : a", 400),
        with("H11 tab before colon", b"X\t: a", 400),
        with("H11 empty name", b": a", 400),
        with("H11 no colon", b"Xa", 400),
        with("H11 obs-fold", b"X: a\r\n b", 400),
        with("H11 obs-fold tab", b"X: a\r\n\tb", 400),
        raw("H11 obs-fold first", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        raw("H12 two empty lines", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw("H12 bare LF in front", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw("H12 bare CR in front", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw("H12 TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        raw("H12 PROXY v1", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\n\r\n", 400),
        raw("H12 PROXY v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x01", 400),
        raw("H12 empty line then garbage", b"\r\n\0\0\0\r\n\r\n", 400),
    ];
    for byte in (0x00..=0x1f).chain([0x7f]).filter(|byte| !b"\r\n\t".contains(byte)) {
        vectors.push(with("H11 control in value", &[b"X: a", &[byte][..], b"b"].concat(), 400));
    }
    vectors
}

fn request_lines() -> Vec<Vector> {
    vec![
        line("H13 two spaces", b"GET  / HTTP/1.1", 400),
        line("H13 two spaces behind target", b"GET /  HTTP/1.1", 400),
        line("H13 tab", b"GET\t/ HTTP/1.1", 400),
        line("H13 tab behind target", b"GET /\tHTTP/1.1", 400),
        line("H13 space in target", b"GET /a b HTTP/1.1", 400),
        line("H13 space at the end", b"GET / HTTP/1.1 ", 400),
        line("H13 space in front", b" GET / HTTP/1.1", 400),
        line("H13 method with colon", b"GE:T / HTTP/1.1", 400),
        line("H13 HTTP/1.2", b"GET / HTTP/1.2", 505),
        line("H13 HTTP/2.0", b"GET / HTTP/2.0", 505),
        line("H13 HTTP/0.9", b"GET / HTTP/0.9", 505),
        line("H13 HTTP/01.1", b"GET / HTTP/01.1", 400),
        line("H13 HTTP/1.", b"GET / HTTP/1.", 400),
        line("H13 HTTP/1.10", b"GET / HTTP/1.10", 400),
        line("H13 lower-case version", b"GET / http/1.1", 400),
        line("H13 no version", b"GET /", 400),
        line("H13 fragment", b"GET /a#b HTTP/1.1", 400),
        line("H13 non-ASCII", "GET /\u{e9} HTTP/1.1".as_bytes(), 400),
        line("H13 not UTF-8", b"GET /\xff HTTP/1.1", 400),
        line("H13 NUL", b"GET /\0 HTTP/1.1", 400),
        line("H13 DEL", b"GET /\x7f HTTP/1.1", 400),
        line("H13 relative", b"GET a HTTP/1.1", 400),
        line("H13 backslash first", b"GET \\a HTTP/1.1", 400),
        line("H15 TRACE", b"TRACE / HTTP/1.1", 405),
        line("H15 CONNECT", b"CONNECT a:443 HTTP/1.1", 405),
        line("H15 asterisk", b"GET * HTTP/1.1", 400),
        line("H15 https on clear", b"GET https://a/ HTTP/1.1", 400),
        line("H15 ftp", b"GET ftp://a/ HTTP/1.1", 400),
        line("H15 scheme only", b"GET http:// HTTP/1.1", 400),
        line("H15 one slash", b"GET http:/a/ HTTP/1.1", 400),
    ]
}

fn hosts() -> Vec<Vector> {
    let host = |id, host: &[u8]| -> Vector {
        raw(id, &[b"GET / HTTP/1.1\r\nHost: ", host, b"\r\n\r\n"].concat(), 400)
    };
    vec![
        raw("H14 missing", b"GET / HTTP/1.1\r\nX: a\r\n\r\n", 400),
        raw("H14 two", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        raw("H14 two equal", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        host("H14 empty", b""),
        host("H14 list", b"a, b"),
        host("H14 list without space", b"a,b"),
        host("H14 userinfo", b"user@a"),
        host("H14 port junk", b"a:8o"),
        host("H14 port empty", b"a:"),
        host("H14 port too large", b"a:65536"),
        host("H14 port twice", b"a:80:80"),
        host("H14 path", b"a/b"),
        host("H14 query", b"a?b"),
        host("H14 space", b"a b"),
        host("H14 IDN", "b\u{fc}cher.example".as_bytes()),
        host("H14 percent", b"a%2eb"),
        host("H14 IPv6 without brackets", b"::1"),
        host("H14 IPv6 junk", b"[::1]a"),
        host("H14 IPv6 open", b"[::1"),
        raw("H14 differs from target", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw("H14 port differs", b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw("H14 userinfo in target", b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        raw("H14 userinfo in both", b"GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    ]
}

fn connection_options() -> Vec<Vector> {
    vec![
        with("H20 x-forwarded-for", b"Connection: close, X-Forwarded-For", 400),
        with("H20 host", b"Connection: host", 400),
        with("H20 authorization", b"Connection: keep-alive, authorization", 400),
        with("H20 client certificate", b"Connection: x-forwarded-client-cert", 400),
        with("H20 pseudo", b"Connection: :path", 400),
        with("H20 content-length", b"Content-Length: 0\r\nConnection: content-length", 400),
        with("H20 x-envoy", b"Connection: x-envoy-external-address", 400),
        with("H22 content_length", b"content_length: 5", 400),
        with("H22 mixed", b"Content-Length_: 5\r\ncontent_length: 5", 400),
        with("H22 x_forwarded_for", b"X_Forwarded_For: 1.2.3.4", 400),
        with("H22 half", b"X-Forwarded_For: 1.2.3.4", 400),
        with("H22 x_real_ip", b"x_real_ip: 1.2.3.4", 400),
        (
            "H18 upgrade with body",
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13\r\nContent-Length: 3\r\n\r\n"
                .to_vec(),
            400,
        ),
    ]
}

fn limits() -> Vec<Vector> {
    let fields = |count: usize| b"X: a\r\n".repeat(count);
    let head = |fields: Vec<u8>| [b"GET / HTTP/1.1\r\nHost: a\r\n", &fields[..], b"\r\n"].concat();
    let target = |length: usize| {
        [b"GET /", &b"a".repeat(length)[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat()
    };
    let cookie = [b"Cookie: ", &b"a".repeat(60 * 1024)[..], b"\r\n"].concat();
    vec![
        ("D04 101 headers", head(fields(100)), 431),
        ("D04 one large cookie", head(cookie), 431),
        (
            "D04 61 KiB of headers",
            head([b"X: ", &b"a".repeat(619)[..], b"\r\n"].concat().repeat(99)),
            431,
        ),
        ("D04 target of 16 KiB and one", target(16 * 1024), 414),
        ("D04 target of 64 KiB", target(64 * 1024), 414),
        (
            "D04 target of 60 KiB never ends",
            b"GET /".iter().copied().chain([b'a'; 60_000]).collect(),
            414,
        ),
    ]
}
