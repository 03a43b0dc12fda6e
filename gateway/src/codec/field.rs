//! What the codec knows of single header fields: which belong to one connection only, which nobody
//! may remove or imitate, which may stand in a trailer section.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::head::Headers;

/// Fields that speak of this connection only and are never forwarded as they came (RFC 9110 section
/// 7.6.1, RFC 9113 section 8.2.2). `te` is treated apart.
pub(super) fn is_connection_specific(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE)
        || is_connection_extension(name.as_str())
}

/// The part of `is_connection_specific` that has no standard constant.
pub(super) fn is_connection_extension(name: &str) -> bool {
    // Called for every field of every message, hence the length first.
    match name.len() {
        10 => name == "keep-alive",
        14 => name == "http2-settings",
        16 => name == "proxy-connection",
        _ => false,
    }
}

/// Fields that route, frame or identify: a client may not have them removed by naming them in
/// `Connection` (hardening H20), nor send them under another spelling (H22), nor after the body (H10).
fn is_protected(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 17] = [
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"content-encoding",
        b"authorization",
        b"proxy-authorization",
        b"cookie",
        b"set-cookie",
        b"forwarded",
        b"via",
        b"expect",
        b"x-real-ip",
        b"x-request-id",
        b"x-client-trace-id",
        b"true-client-ip",
        b"traceparent",
    ];
    const PREFIXES: [&[u8]; 4] = [b":", b"x-forwarded-", b"x-envoy-", b"x-jwt-"];
    NAMES.iter().any(|protected| same(name, protected))
        || PREFIXES
            .iter()
            .any(|prefix| name.get(..prefix.len()).is_some_and(|start| same(start, prefix)))
}

/// Equal but for case and for `_` where the protected name has `-`.
fn same(name: &[u8], protected: &[u8]) -> bool {
    name.len() == protected.len()
        && name.iter().zip(protected).all(|(a, b)| {
            let a = if *a == b'_' { b'-' } else { a.to_ascii_lowercase() };
            a == *b
        })
}

/// May `Connection: name` remove this field?
pub(super) fn may_be_nominated(name: &[u8]) -> bool {
    !is_protected(name)
}

/// Does the name, read with `-` for `_`, speak for a field the proxy acts on?
pub(super) fn collides(name: &str) -> bool {
    const CONNECTION: [&[u8]; 5] =
        [b"connection", b"upgrade", b"trailer", b"keep-alive", b"proxy-connection"];
    let name = name.as_bytes();
    name.contains(&b'_')
        && (is_protected(name) || CONNECTION.iter().any(|protected| same(name, protected)))
}

/// RFC 9110 section 6.5.1: fields that must be known before the content, and those of one connection,
/// mean nothing after it; a server that merges them into its headers would be deceived.
pub(super) fn may_be_trailer(name: &HeaderName) -> bool {
    !(is_connection_specific(name)
        || is_protected(name.as_str().as_bytes())
        || matches!(
            *name,
            header::TE
                | header::TRAILER
                | header::CONTENT_RANGE
                | header::CACHE_CONTROL
                | header::MAX_FORWARDS
                | header::RANGE
                | header::IF_MATCH
                | header::IF_NONE_MATCH
                | header::IF_MODIFIED_SINCE
                | header::IF_UNMODIFIED_SINCE
                | header::IF_RANGE
                | header::WWW_AUTHENTICATE
                | header::PROXY_AUTHENTICATE
                | header::LOCATION
                | header::VARY
                | header::AGE
                | header::EXPIRES
                | header::DATE
                | header::RETRY_AFTER
        ))
}

/// Removes what may not stand in a trailer section.
pub(super) fn clean_trailers(trailers: HeaderMap) -> HeaderMap {
    if trailers.keys().all(may_be_trailer) {
        return trailers;
    }
    let mut clean = HeaderMap::with_capacity(trailers.len());
    let mut current = None;
    for (name, value) in trailers {
        // The iterator names a field once and then gives its further values without the name.
        current = name.or(current);
        if let Some(name) = current.as_ref().filter(|name| may_be_trailer(name)) {
            clean.append(name.clone(), value);
        }
    }
    clean
}

/// HTTP/2 clients send a cookie in crumbs; everyone else expects one field (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(headers: &mut Headers) {
    let mut crumbs = headers.get_all(header::COOKIE);
    let Some(first) = crumbs.next() else { return };
    let mut joined = match crumbs.next() {
        None => return,
        Some(second) => [first.as_bytes(), second.as_bytes()].join(&b"; "[..]),
    };
    for crumb in crumbs {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    // Made of valid values, so valid.
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(header::COOKIE, value);
    }
}

/// A decimal `content-length` as strict as hardening H03 asks: digits only, below 2^63.
pub(super) fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |length, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        length.checked_mul(10)?.checked_add(digit).filter(|length| i64::try_from(*length).is_ok())
    })
}

/// The members of a comma-separated list, without the white space around them.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}
