//! What a request has to be before it is one of ours.

use bytes::Bytes;
use http::{
    HeaderValue, Method, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery},
};

use crate::{
    head::{Repeated, RequestHeader},
    http2::RequestHead,
};

use super::super::{Options, Rejection, Underscores, Upgrade, field, target, websocket};

/// What the fields of a request say about what follows them.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// The client waits for a 100.
    pub expects_continue: bool,
    pub upgrade: Option<Upgrade>,
}

/// What `:authority`, `:path` and `:protocol` say.
struct Target {
    authority: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
}

/// What RFC 9113 section 8.3.1 asks of a request and `http2` does not check, plus our limits; makes the
/// target origin-form and `host` the one authority. The request comes back also where it is refused, as
/// far as it was understood.
pub(super) fn check(
    head: RequestHead,
    is_empty: bool,
    options: &Options,
) -> (RequestHeader, Result<Checked, Rejection>) {
    let RequestHead { method, protocol, authority, path, headers, too_large } = head;
    // Shares the bytes. A path that is no path is refused below.
    let parsed = path.clone().and_then(|path| PathAndQuery::from_maybe_shared(path).ok());
    let uri = parsed.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    let mut request = RequestHeader { method, uri, version: Version::HTTP_2, headers };
    let target = Target { authority, path, protocol };
    let checked = match too_large {
        true => Err(Rejection::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large")),
        false => check_parts(&mut request, &target, is_empty, options),
    };
    (request, checked)
}

fn check_parts(
    request: &mut RequestHeader,
    target: &Target,
    is_empty: bool,
    options: &Options,
) -> Result<Checked, Rejection> {
    let too_large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    if request.headers.len() > options.max_headers {
        return Err(Rejection::new(too_large, "too_many_headers"));
    }
    let upgrade = settle_extended_connect(request, target.protocol.as_deref(), is_empty)?;
    target::check_method(&request.method, options)?;
    settle_authority(request, target.authority.as_ref())?;
    check_path(request, target.path.as_deref().unwrap_or_default(), options)?;
    let collides = |name: &http::HeaderName| field::collides(name.as_str());
    if options.underscores == Underscores::RejectCollisions && request.headers.names().any(collides)
    {
        return Err(Rejection::bad_request("header_name_underscore"));
    }
    settle_content_length(request)?;
    field::join_cookies(&mut request.headers);
    if request.method == Method::CONNECT {
        request.uri = connect_target(target)?;
    }
    let expects_continue = settle_expect(request, is_empty || upgrade.is_some())?;
    Ok(Checked { expects_continue, upgrade })
}

/// What is no path of an origin-form target.
fn check_path(request: &RequestHeader, path: &[u8], options: &Options) -> Result<(), Rejection> {
    if path.len() > options.max_target_bytes {
        return Err(Rejection::new(StatusCode::URI_TOO_LONG, "target_too_long"));
    }
    target::check_bytes(path)?;
    let is_asterisk = path == b"*" && request.method == Method::OPTIONS;
    if request.method != Method::CONNECT && !path.starts_with(b"/") && !is_asterisk {
        return Err(Rejection::bad_request("target_form"));
    }
    if request.method != Method::CONNECT && request.target().as_bytes() != path {
        return Err(Rejection::bad_request("target_invalid"));
    }
    Ok(())
}

fn connect_target(target: &Target) -> Result<Uri, Rejection> {
    let authority = target.authority.clone().unwrap_or_default();
    let authority = Authority::from_maybe_shared(authority);
    authority.map(Uri::from).map_err(|_invalid| Rejection::bad_request("connect_target_invalid"))
}

/// RFC 8441: a stream that becomes a WebSocket. From here on it looks like HTTP/1's handshake, so that
/// routes, policies and upstreams need not know two kinds.
fn settle_extended_connect(
    request: &mut RequestHeader,
    protocol: Option<&[u8]>,
    is_empty: bool,
) -> Result<Option<Upgrade>, Rejection> {
    let Some(protocol) = protocol else { return Ok(None) };
    if !protocol.eq_ignore_ascii_case(b"websocket") {
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

/// The same length twice is one too many (hardening H02).
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
fn settle_authority(
    request: &mut RequestHeader,
    authority: Option<&Bytes>,
) -> Result<(), Rejection> {
    let host = request.headers.only(header::HOST);
    let host = host.map_err(|Repeated| Rejection::bad_request("host_twice"))?;
    let settled = match (authority, host) {
        (None, None) => return Err(Rejection::bad_request("host_missing")),
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host.as_bytes()) => {
            return Err(Rejection::bad_request("host_differs_from_target"));
        }
        (Some(authority), _) => HeaderValue::from_maybe_shared(authority.clone())
            .map_err(|_invalid| Rejection::bad_request("host_invalid"))?,
        (None, Some(host)) => host.clone(),
    };
    if !target::is_authority(settled.as_bytes()) {
        return Err(Rejection::bad_request("host_invalid"));
    }
    request.headers.insert(header::HOST, settled);
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
