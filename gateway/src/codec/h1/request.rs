//! Request heads, parsed strictly (RFC 9112 sections 2, 3 and 6; hardening C1 and C2).
//!
//! httparse finds the fields; this file refuses what httparse lets pass: bare line feeds, empty lines
//! in front, more than one way to frame the body, more than one idea of the host.

use std::{mem::MaybeUninit, ops::Range};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, Version, header};

use crate::head::{ADDED_FIELDS, Headers, Repeated, RequestHeader};

use super::{
    super::{Options, Rejection, Upgrade, target},
    body::BodyReader,
    chunked::ChunkedDecoder,
    fields::{self, Fields},
    head::{MAX_HEADERS, complete_ends_lines_with_crlf, ends_lines_with_crlf, find_lines, range},
};

/// The longest method and version around a target.
const REQUEST_LINE_EXTRA: usize = 128;

/// A request's head and what it says about the connection.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub header: RequestHeader,
    pub body: BodyReader,
    pub keep_alive: bool,
    pub expects_continue: bool,
    pub upgrade: Option<Upgrade>,
}

/// A request that is none, and what can be said of it for the record.
#[derive(Debug)]
pub(super) struct Refused {
    pub rejection: Rejection,
    pub request: RequestHeader,
}

/// The request at the front of `bytes`, taken out of it; `None`: not all of it is there yet.
pub(super) fn parse(
    bytes: &mut BytesMut,
    options: &Options,
) -> Result<Option<RequestHead>, Box<Refused>> {
    let refused = |rejection, head: &[u8]| Box::new(Refused { rejection, request: salvage(head) });
    if !skip_empty_line(bytes).map_err(|rejection| refused(rejection, bytes))? {
        return Ok(None);
    }
    let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let slots = &mut slots[..options.max_headers.min(MAX_HEADERS)];
    let mut lines = fields::Lines::new();
    let found = find_request(bytes, slots, &mut lines, options);
    let Some(found) = found.map_err(|rejection| refused(rejection, bytes))? else {
        return Ok(None);
    };
    let head = bytes.split_to(found.length).freeze();
    interpret_request(&head, found, &lines, options)
        .map(Some)
        .map_err(|rejection| refused(rejection, &head))
}

/// Where the parts of a request's head are.
struct Found {
    length: usize,
    minor: u8,
    method: Method,
    target: Range<usize>,
}

fn find_request<'b>(
    bytes: &'b [u8],
    slots: &mut [MaybeUninit<httparse::Header<'b>>],
    lines: &mut fields::Lines,
    options: &Options,
) -> Result<Option<Found>, Rejection> {
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, slots) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return check_partial(bytes, options).map(|()| None),
        Err(httparse::Error::Version) if version_is_cut(bytes) => {
            return check_partial(bytes, options).map(|()| None);
        }
        Err(error) => return Err(request_error(error, bytes, options)),
    };
    check_complete(&bytes[..length], options)?;
    let (Some(minor), Some(method), Some(path)) = (parsed.version, parsed.method, parsed.path)
    else {
        return Err(Rejection::bad_request("request_line"));
    };
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_invalid| Rejection::bad_request("method_invalid"))?;
    let base = bytes.as_ptr() as usize;
    let target = range(base, path.as_bytes());
    find_lines(base, parsed.headers, lines);
    Ok(Some(Found { length, minor, method, target }))
}

fn interpret_request(
    head: &Bytes,
    found: Found,
    lines: &fields::Lines,
    options: &Options,
) -> Result<RequestHead, Rejection> {
    let Found { minor, method, .. } = found;
    let target = target::parse(&head.slice(found.target), &method, options)?;
    let mut headers = Headers::with_capacity(lines.len() + ADDED_FIELDS);
    let fields = fields::read(head, lines, &mut headers, options)?;
    settle_host(&mut headers, target.authority, minor)?;
    let upgrade = match method {
        Method::CONNECT => Some(Upgrade::Connect),
        _ => fields.websocket_request(&method, minor, &headers),
    };
    if upgrade == Some(Upgrade::WebSocket) {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    let body = request_body(&fields, minor, options)?;
    if upgrade.is_some() && !body.is_done() {
        return Err(Rejection::bad_request("upgrade_with_body"));
    }
    let expects_continue = fields.settle_expect(&mut headers, minor, &body)?;
    let keep_alive = fields.keep_alive(minor);

    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let header = RequestHeader { method, uri: target.uri, version, headers };
    Ok(RequestHead { header, body, keep_alive, expects_continue, upgrade })
}

/// What can be said of a request that was refused, for the record. Never fails: `- *` says nothing.
pub(super) fn salvage(bytes: &[u8]) -> RequestHeader {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).find(|line| !line.is_empty());
    let mut words = line.unwrap_or(b"").split(|byte| *byte == b' ');
    let method = words.next().and_then(|word| Method::from_bytes(word).ok());
    let uri = words
        .next()
        .filter(|word| target::check_bytes(word).is_ok())
        .and_then(|word| http::uri::PathAndQuery::try_from(word).ok());
    let uri = uri.unwrap_or_else(|| http::uri::PathAndQuery::from_static("*"));
    RequestHeader::new(method.unwrap_or_else(unknown_method), uri.into())
}

fn unknown_method() -> Method {
    Method::from_bytes(b"-").expect("a dash is a token")
}

/// One empty line in front of a request is tolerated (RFC 9112 section 2.2), a second is not, nor is
/// half of one. False: too early to tell.
fn skip_empty_line(bytes: &mut BytesMut) -> Result<bool, Rejection> {
    match bytes[..] {
        [] | [b'\r'] | [b'\r', b'\n'] => Ok(false),
        [b'\r', b'\n', b'\r' | b'\n', ..] | [b'\n', ..] => {
            Err(Rejection::bad_request("empty_lines"))
        }
        [b'\r', b'\n', ..] => {
            bytes.advance(2);
            Ok(true)
        }
        [b'\r', ..] => Err(Rejection::bad_request("bare_cr")),
        _ => Ok(true),
    }
}

/// The limits hold for heads that never end, too.
fn check_partial(bytes: &[u8], options: &Options) -> Result<(), Rejection> {
    check_line(bytes, options)?;
    if bytes.len() > options.max_header_bytes {
        return Err(too_large("head_too_large"));
    }
    // A bare line feed does not become better by what follows.
    if !ends_lines_with_crlf(bytes) {
        return Err(Rejection::bad_request("bare_lf"));
    }
    Ok(())
}

fn check_line(bytes: &[u8], options: &Options) -> Result<(), Rejection> {
    let line = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    if line > options.max_target_bytes + REQUEST_LINE_EXTRA {
        return Err(Rejection::new(StatusCode::URI_TOO_LONG, "target_too_long"));
    }
    Ok(())
}

fn check_complete(head: &[u8], options: &Options) -> Result<(), Rejection> {
    if head.len() > options.max_header_bytes {
        // The line alone may be the reason, and then the answer is a better one.
        check_line(head, options)?;
        return Err(too_large("head_too_large"));
    }
    if !complete_ends_lines_with_crlf(head) {
        return Err(Rejection::bad_request("bare_lf"));
    }
    Ok(())
}

fn too_large(details: &'static str) -> Rejection {
    Rejection::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, details)
}

fn request_error(error: httparse::Error, bytes: &[u8], options: &Options) -> Rejection {
    if let Err(too_long) = check_line(bytes, options) {
        return too_long;
    }
    match error {
        httparse::Error::TooManyHeaders => too_large("too_many_headers"),
        httparse::Error::Version if names_other_version(bytes) => {
            Rejection::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "version_not_supported")
        }
        httparse::Error::Version => Rejection::bad_request("version_invalid"),
        httparse::Error::HeaderName => Rejection::bad_request("header_name_invalid"),
        httparse::Error::HeaderValue => Rejection::bad_request("header_value_invalid"),
        httparse::Error::NewLine => Rejection::bad_request("line_end_invalid"),
        httparse::Error::Token | httparse::Error::Status => Rejection::bad_request("request_line"),
    }
}

/// The third word of the first line is `HTTP/digit.digit`: well formed, and not ours.
fn names_other_version(bytes: &[u8]) -> bool {
    matches!(version_word(bytes), [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

/// Empty if the first line is not three words, so far.
fn version_word(bytes: &[u8]) -> &[u8] {
    let line = &bytes[..memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len())];
    let mut words = line.split(|byte| *byte == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(_), Some(_), Some(version), None) => version,
        _ => b"",
    }
}

/// httparse gives up at the first digit that is not 1; whether the rest is a version decides between
/// two answers, and it may still be on its way.
fn version_is_cut(bytes: &[u8]) -> bool {
    let version = version_word(bytes);
    let cut_at_digit = matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9'])
        || matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.']);
    cut_at_digit && memchr::memchr2(b'\r', b'\n', bytes).is_none()
}

/// Exactly one valid `host`, equal to what the target names (RFC 9112 section 3.2). HTTP/1.0 clients
/// need not know the field.
fn settle_host(
    headers: &mut Headers,
    authority: Option<Bytes>,
    minor: u8,
) -> Result<(), Rejection> {
    let host = headers.only(header::HOST);
    let host = host.map_err(|Repeated| Rejection::bad_request("host_twice"))?;
    match (host, authority) {
        (None, _) if minor > 0 => Err(Rejection::bad_request("host_missing")),
        (Some(host), _) if !target::is_authority(host.as_bytes()) => {
            Err(Rejection::bad_request("host_invalid"))
        }
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(&authority) => {
            Err(Rejection::bad_request("host_differs_from_target"))
        }
        (None, Some(authority)) => {
            let invalid = Rejection::bad_request("authority_invalid");
            if !target::is_authority(&authority) {
                return Err(invalid);
            }
            let host = HeaderValue::from_maybe_shared(authority).map_err(|_bad| invalid)?;
            headers.insert(header::HOST, host);
            Ok(())
        }
        (_, None) | (Some(_), Some(_)) => Ok(()),
    }
}

fn request_body(fields: &Fields, minor: u8, options: &Options) -> Result<BodyReader, Rejection> {
    match (fields.chunked, fields.content_length) {
        (true, Some(_)) => Err(Rejection::bad_request("content_length_and_transfer_encoding")),
        (true, None) if minor == 0 => Err(Rejection::bad_request("transfer_encoding_in_http10")),
        (true, None) => Ok(BodyReader::Chunked(ChunkedDecoder::new(options.max_header_bytes))),
        (false, None | Some(0)) => Ok(BodyReader::Done),
        (false, Some(length)) => Ok(BodyReader::Exact(length)),
    }
}
