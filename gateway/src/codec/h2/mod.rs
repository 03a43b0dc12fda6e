//! HTTP/2 (RFC 9113) streams as sessions. Frames, flow control windows, HPACK and the defences against
//! floods are the h2 crate's, with Pingora's bounded defaults; this module adds what a proxy has to
//! refuse, and writes that never block.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::field;
use crate::head::{ADDED_FIELDS, Headers};

mod body;
mod client;
mod request;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientSession, PeerSettings};
pub use server::{Malformed, ServerSession, server_options};

/// RFC 9113 section 8.2.2: what belongs to one HTTP/1 connection has no place here.
fn has_place(name: &HeaderName, value: &HeaderValue) -> bool {
    let connection = field::is_connection_specific(name);
    !connection && (*name != header::TE || value == "trailers")
}

/// The fields as h2 takes them.
fn to_map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len() + ADDED_FIELDS);
    for (name, value) in headers {
        if has_place(name, value) {
            let mut value = value.clone();
            if is_another_each_time(name) {
                // A literal that is never indexed (RFC 7541 section 6.2.3): in the tables of both peers
                // it would only push out what comes again.
                value.set_sensitive(true);
            }
            map.append(name.clone(), value);
        }
    }
    map
}

fn is_another_each_time(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "x-request-id"
            | "x-envoy-upstream-service-time"
            | "traceparent"
            | "x-b3-traceid"
            | "x-b3-spanid"
            | "x-b3-parentspanid"
    )
}

/// The length a received message announces, unless it has no body at all.
fn announced_length(headers: &Headers) -> super::BodyLength {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| field::parse_content_length(length.as_bytes()))
        .map_or(super::BodyLength::Unknown, super::BodyLength::Exact)
}
