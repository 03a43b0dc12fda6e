//! What a request has to be before it is one of ours.

use h2::ext::Protocol;
use http::{HeaderValue, Method, StatusCode, header, uri::PathAndQuery};

use crate::head::{Repeated, RequestHeader};

use super::super::{Options, Rejection, Underscores, Upgrade, field, target, websocket};

/// What the fields of a request say about what follows them.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// The client waits for a 100.
    pub expects_continue: bool,
    pub upgrade: Option<Upgrade>,
}

/// What RFC 9113 section 8.3.1 asks of a request and h2 does not check, plus our limits; makes the
/// target origin-form and `host` the one authority.
pub(super) fn check(
    request: &mut RequestHeader,
    protocol: Option<Protocol>,
    is_empty: bool,
    options: &Options,
) -> Result<Checked, Rejection> {
    let too_large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    if request.headers.len() > options.max_headers {
        return Err(Rejection::new(too_large, "too_many_headers"));
    }
    let upgrade = settle_extended_connect(request, protocol, is_empty)?;
    target::check_method(&request.method, options)?;
    settle_authority(request)?;
    let path = request.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if path.len() > options.max_target_bytes {
        return Err(Rejection::new(StatusCode::URI_TOO_LONG, "target_too_long"));
    }
    target::check_bytes(path.as_bytes())?;
    let is_asterisk = path == "*" && request.method == Method::OPTIONS;
    if request.method != Method::CONNECT && !path.starts_with('/') && !is_asterisk {
        return Err(Rejection::bad_request("target_form"));
    }
    let collides = |name: &http::HeaderName| field::collides(name.as_str());
    if options.underscores == Underscores::RejectCollisions && request.headers.names().any(collides)
    {
        return Err(Rejection::bad_request("header_name_underscore"));
    }
    settle_content_length(request)?;
    field::join_cookies(&mut request.headers);
    if request.method != Method::CONNECT {
        let path = request.uri.path_and_query().cloned();
        request.uri = path.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    }
    let expects_continue = settle_expect(request, is_empty || upgrade.is_some())?;
    Ok(Checked { expects_continue, upgrade })
}

/// RFC 8441: a stream that becomes a WebSocket. From here on it looks like HTTP/1's handshake, so that
/// routes, policies and upstreams need not know two kinds.
fn settle_extended_connect(
    request: &mut RequestHeader,
    protocol: Option<Protocol>,
    is_empty: bool,
) -> Result<Option<Upgrade>, Rejection> {
    let Some(protocol) = protocol else { return Ok(None) };
    if !protocol.as_str().eq_ignore_ascii_case("websocket") {
        return Err(Rejection::new(StatusCode::NOT_IMPLEMENTED, "extended_connect_protocol"));
    }
    if is_empty || request.headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Rejection::bad_request("upgrade_with_body"));
    }
    request.method = Method::GET;
    request.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // Not used in HTTP/2 (section 5). What an HTTP/1 upstream answers must be for a key of our own.
    request.headers.remove(header::SEC_WEBSOCKET_KEY);
    request.headers.insert_if_absent(header::SEC_WEBSOCKET_VERSION, || websocket::VERSION);
    Ok(Some(Upgrade::WebSocket))
}

/// h2 takes equal content lengths twice; we do not (hardening H02).
fn settle_content_length(request: &mut RequestHeader) -> Result<(), Rejection> {
    let length = request.headers.only(header::CONTENT_LENGTH);
    let length = length.map_err(|Repeated| Rejection::bad_request("content_length_twice"))?;
    let Some(length) = length else { return Ok(()) };
    let length = field::parse_content_length(length.as_bytes())
        .ok_or(Rejection::bad_request("content_length_invalid"))?;
    request.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(())
}

/// `:authority` and `host` are one thing; where both are there they have to say the same.
fn settle_authority(request: &mut RequestHeader) -> Result<(), Rejection> {
    let host = request.headers.only(header::HOST);
    let host = host.map_err(|Repeated| Rejection::bad_request("host_twice"))?;
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let settled = match (authority, host) {
        (None, None) => return Err(Rejection::bad_request("host_missing")),
        (Some(authority), Some(host))
            if !authority.as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            return Err(Rejection::bad_request("host_differs_from_target"));
        }
        (Some(authority), _) => authority.as_bytes(),
        (None, Some(host)) => host.as_bytes(),
    };
    if !target::is_authority(settled) {
        return Err(Rejection::bad_request("host_invalid"));
    }
    let value = HeaderValue::from_bytes(settled)
        .map_err(|_invalid| Rejection::bad_request("host_invalid"))?;
    request.headers.insert(header::HOST, value);
    Ok(())
}

fn settle_expect(request: &mut RequestHeader, is_empty: bool) -> Result<bool, Rejection> {
    let count = request.headers.get_all(header::EXPECT).count();
    let Some(expect) = request.headers.remove(header::EXPECT) else { return Ok(false) };
    if count > 1 || !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        return Err(Rejection::new(StatusCode::EXPECTATION_FAILED, "expectation_unknown"));
    }
    if is_empty {
        return Ok(false);
    }
    request.headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    Ok(true)
}
