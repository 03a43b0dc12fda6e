//! Heads as bytes. Framing and connection fields are written from what the session knows; those in
//! the head handed over are ignored.

use bytes::{BufMut, BytesMut};
use http::{HeaderValue, Method, StatusCode, header};

use crate::head::{Headers, RequestHeader, ResponseHeader};

use super::super::{BodyLength, StreamError, Upgrade, field as fields, get_cached_date};

/// What is said about the connection in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// HTTP/1.1's default.
    Silent,
    /// HTTP/1.0 has to be told.
    KeepAlive,
    Close,
}

/// How the end of a body is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// No field at all.
    Silent,
    /// `content-length` as the head has it: the length a GET would have had.
    AsHead,
    Length(u64),
    Chunked,
}

pub(super) fn request(
    head: &RequestHeader,
    body: BodyLength,
    (upgrade, own_key): (Option<Upgrade>, Option<&HeaderValue>),
    out: &mut BytesMut,
) -> Result<(), StreamError> {
    let target = head.target().as_bytes();
    // The parser let none through; this is for what later stages made of the path.
    if target.is_empty() || !target.iter().all(|byte| matches!(byte, 0x21..=0x7e)) {
        return Err(StreamError::Protocol("target_to_write"));
    }
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\n");
    if let Some(host) = head.headers.get(header::HOST) {
        field(out, b"host", host.as_bytes());
    }
    for (name, value) in &head.headers {
        if *name != header::HOST && *name != header::TE && is_end_to_end(name) {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    if upgrade == Some(Upgrade::WebSocket) {
        out.put_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    }
    if let Some(key) = own_key {
        field(out, b"sec-websocket-key", key.as_bytes());
    }
    match body {
        BodyLength::Exact(length) => content_length(out, length),
        BodyLength::Unknown => out.put_slice(b"transfer-encoding: chunked\r\n"),
        BodyLength::Empty if says_empty(head) => out.put_slice(b"content-length: 0\r\n"),
        BodyLength::Empty => {}
    }
    out.put_slice(b"\r\n");
    Ok(())
}

/// Methods that expect content say when there is none (RFC 9110 section 8.6), others when the client
/// did.
fn says_empty(head: &RequestHeader) -> bool {
    matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
        || head.headers.contains_key(header::CONTENT_LENGTH)
}

pub(super) fn response(
    head: &ResponseHeader,
    framing: Framing,
    persistence: Persistence,
    out: &mut BytesMut,
) {
    status_line(head.status, out);
    for (name, value) in &head.headers {
        if is_end_to_end(name) {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    match framing {
        Framing::Silent => {}
        Framing::AsHead => as_head(&head.headers, out),
        Framing::Length(length) => content_length(out, length),
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        out.put_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    } else if !head.status.is_informational() {
        // RFC 9110 section 6.6.1: whoever forwards a response without a date adds one.
        if !head.headers.contains_key(header::DATE) {
            field(out, b"date", get_cached_date().as_bytes());
        }
        match persistence {
            Persistence::Silent => {}
            Persistence::KeepAlive => out.put_slice(b"connection: keep-alive\r\n"),
            Persistence::Close => out.put_slice(b"connection: close\r\n"),
        }
    }
    out.put_slice(b"\r\n");
}

/// Not a field the session writes itself.
fn is_end_to_end(name: &http::HeaderName) -> bool {
    *name != header::CONTENT_LENGTH && !fields::is_connection_specific(name)
}

fn as_head(headers: &Headers, out: &mut BytesMut) {
    let length = headers.get(header::CONTENT_LENGTH);
    if let Some(length) = length.and_then(|length| fields::parse_content_length(length.as_bytes()))
    {
        content_length(out, length);
    }
}

fn status_line(status: StatusCode, out: &mut BytesMut) {
    if status == StatusCode::OK {
        out.put_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.put_slice(b"\r\n");
}

fn content_length(out: &mut BytesMut, length: u64) {
    let mut digits = itoa::Buffer::new();
    field(out, b"content-length", digits.format(length).as_bytes());
}

/// One line. Names and values were checked when they became a `HeaderName` and a `HeaderValue`.
pub(super) fn field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    // One reservation instead of four.
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}
