//! HTTP/2 streams as sessions. Frames, windows and compression are `http2`'s; this module adds what a
//! proxy has to refuse, and writes that never block.

use http::{HeaderName, HeaderValue, header};

use super::field;
use crate::{
    head::Headers,
    http2::{Config, HeadBlock},
    limits::Limits,
};

mod body;
mod client;
mod request;
mod server;
#[cfg(test)]
mod tests;

pub use client::ClientSession;
pub use server::{Malformed, ServerSession};

/// What a downstream connection is allowed.
#[must_use]
pub fn server_config(limits: &Limits) -> Config {
    Config {
        max_concurrent_streams: limits.max_concurrent_streams,
        max_header_bytes: limits.max_header_bytes,
        stream_window: limits.h2_stream_window,
        connection_window: limits.h2_connection_window,
        // WebSockets (RFC 8441).
        connect_protocol: true,
    }
}

/// RFC 9113 section 8.2.2: what belongs to one HTTP/1 connection has no place here.
fn has_place(name: &HeaderName, value: &HeaderValue) -> bool {
    let connection = field::is_connection_specific(name);
    !connection && (*name != header::TE || value == "trailers")
}

/// Encodes the fields of a head, but for those in `but` and those that have no place.
fn encode_fields(block: &mut HeadBlock, headers: &Headers, but: &[HeaderName]) {
    for (name, value) in headers {
        if has_place(name, value) && !but.contains(name) {
            block.field(name, value);
        }
    }
}

/// The length a received message announces, unless it has no body at all.
fn announced_length(headers: &Headers) -> super::BodyLength {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| field::parse_content_length(length.as_bytes()))
        .map_or(super::BodyLength::Unknown, super::BodyLength::Exact)
}
