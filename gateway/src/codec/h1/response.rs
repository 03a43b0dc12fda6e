//! Response heads, parsed as strictly as requests: an upstream may be somebody else's, and what it
//! sends behind a response must not become another one (hardening H19).

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::{HeaderValue, StatusCode, Version, header};

use crate::head::{ADDED_FIELDS, Headers, ResponseHeader};

use super::{
    super::{Options, StreamError, Underscores, Upgrade},
    body::BodyReader,
    chunked::ChunkedDecoder,
    fields::{self, Fields},
    head::{MAX_HEADERS, complete_ends_lines_with_crlf, find_lines},
};

/// A response's head and what it says about the connection.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub header: ResponseHeader,
    pub body: BodyReader,
    pub keep_alive: bool,
    /// 101 to a request that asked for it, or 2xx to CONNECT.
    pub tunnel: bool,
}

/// What a response's framing depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub head: bool,
    pub upgrade: Option<Upgrade>,
}

/// The response at the front of `bytes`, taken out of it; `None`: not all of it is there yet.
pub(super) fn parse(
    bytes: &mut BytesMut,
    asked: Asked,
    options: &Options,
) -> Result<Option<ResponseHead>, StreamError> {
    let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let slots = &mut slots[..options.max_headers.min(MAX_HEADERS)];
    let mut parsed = httparse::Response::new(&mut []);
    // httparse would skip empty lines in front of a status line; there are none in HTTP.
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(StreamError::Protocol("status_line"));
    }
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, bytes, slots) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() > options.max_header_bytes => {
            return Err(StreamError::TooLarge("response head"));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(StreamError::TooLarge("response header count"));
        }
        Err(_) => return Err(StreamError::Protocol("response_head")),
    };
    if length > options.max_header_bytes {
        return Err(StreamError::TooLarge("response head"));
    }
    if !complete_ends_lines_with_crlf(&bytes[..length]) {
        return Err(StreamError::Protocol("response_bare_lf"));
    }
    let minor = parsed.version.unwrap_or(0);
    let status = StatusCode::from_u16(parsed.code.unwrap_or(0))
        .map_err(|_invalid| StreamError::Protocol("status_line"))?;
    let mut lines = fields::Lines::new();
    find_lines(bytes.as_ptr() as usize, parsed.headers, &mut lines);

    let head = bytes.split_to(length).freeze();
    let mut headers = Headers::with_capacity(lines.len() + ADDED_FIELDS);
    // What a server calls its fields is no danger to it.
    let options = &Options { underscores: Underscores::Allow, ..*options };
    let fields = fields::read(&head, &lines, &mut headers, options)
        .map_err(|rejection| StreamError::Protocol(rejection.details))?;
    let (body, tunnel) = response_body(&fields, status, minor, asked, options)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        if !fields.upgrades_to_websocket() {
            return Err(StreamError::Protocol("switching_to_unasked_protocol"));
        }
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    // A 204 that claims a body may be followed by one: nothing more is read from there.
    let suspicious = status == StatusCode::NO_CONTENT
        && (fields.chunked || fields.content_length.is_some_and(|length| length > 0));
    let keep_alive =
        fields.keep_alive(minor) && !suspicious && !matches!(body, BodyReader::UntilClose);

    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let header = ResponseHeader { status, version, headers };
    Ok(Some(ResponseHead { header, body, keep_alive, tunnel }))
}

/// RFC 9112 section 6.3. The flag: the connection becomes a tunnel.
fn response_body(
    fields: &Fields,
    status: StatusCode,
    minor: u8,
    asked: Asked,
    options: &Options,
) -> Result<(BodyReader, bool), StreamError> {
    if fields.chunked && fields.content_length.is_some() {
        return Err(StreamError::Protocol("content_length_and_transfer_encoding"));
    }
    if fields.chunked && minor == 0 {
        return Err(StreamError::Protocol("transfer_encoding_in_http10"));
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return match asked.upgrade {
            Some(Upgrade::WebSocket) => Ok((BodyReader::Done, true)),
            Some(Upgrade::Connect) | None => Err(StreamError::Protocol("unasked_101")),
        };
    }
    if asked.upgrade == Some(Upgrade::Connect) && status.is_success() {
        return Ok((BodyReader::Done, true));
    }
    let bodyless = asked.head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = match (bodyless, fields.chunked, fields.content_length) {
        (true, _, _) | (false, false, Some(0)) => BodyReader::Done,
        (false, true, _) => BodyReader::Chunked(ChunkedDecoder::new(options.max_header_bytes)),
        (false, false, Some(length)) => BodyReader::Exact(length),
        (false, false, None) => BodyReader::UntilClose,
    };
    Ok((body, false))
}
