//! HTTP/2 (RFC 9113) streams as sessions. Frames, flow control windows, HPACK and the defences against
//! floods are the h2 crate's, with Pingora's bounded defaults; this module adds what a proxy has to
//! refuse, and writes that never block.

use http::{HeaderMap, header};

use super::field;

mod body;
mod client;
mod request;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientSession, PeerSettings};
pub use server::{Malformed, ServerSession, server_options};

/// RFC 9113 section 8.2.2: what belongs to one HTTP/1 connection has no place here.
fn remove_connection_specific(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

/// The length a received message announces, unless it has no body at all.
fn announced_length(headers: &HeaderMap) -> super::BodyLength {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| field::parse_content_length(length.as_bytes()))
        .map_or(super::BodyLength::Unknown, super::BodyLength::Exact)
}
