//! The request target and the authority: which request is this, of which host.
//!
//! RFC 9112 section 3.2 and 3.3, RFC 9113 section 8.3.1, read strictly. The path's text is kept as it
//! came; normalising it is a later stage.

use bytes::Bytes;
use http::{
    Method, StatusCode, Uri,
    uri::{Authority, PathAndQuery},
};

use super::{Options, Rejection};

/// A request target in the shape every later stage sees.
#[derive(Debug)]
pub(super) struct Target {
    /// Path and query; for CONNECT the authority.
    pub uri: Uri,
    /// What an absolute-form or authority-form target names. The `host` field has to agree.
    pub authority: Option<Bytes>,
}

/// Parses the target of an HTTP/1 request line.
pub(super) fn parse(
    target: &Bytes,
    method: &Method,
    options: &Options,
) -> Result<Target, Rejection> {
    if target.len() > options.max_target_bytes {
        return Err(Rejection::new(StatusCode::URI_TOO_LONG, "target_too_long"));
    }
    check_bytes(target)?;
    check_method(method, options)?;
    if *method == Method::CONNECT {
        return authority_form(target);
    }
    match target.first() {
        Some(b'/') => Ok(Target { uri: origin_form(target.clone())?, authority: None }),
        Some(b'*') if target.len() == 1 => {
            if *method != Method::OPTIONS {
                return Err(Rejection::bad_request("asterisk_form_without_options"));
            }
            Ok(Target { uri: origin_form(target.clone())?, authority: None })
        }
        _ => absolute_form(target, method, options),
    }
}

/// What may not stand in a target whatever its form: fragments, and bytes that are not visible ASCII.
pub(super) fn check_bytes(target: &[u8]) -> Result<(), Rejection> {
    if target.iter().any(|byte| !matches!(byte, 0x21..=0x7e)) {
        return Err(Rejection::bad_request("target_invalid_byte"));
    }
    if target.contains(&b'#') {
        return Err(Rejection::bad_request("target_fragment"));
    }
    Ok(())
}

/// Methods that are not forwarded. TRACE would show the client what others added on the way.
pub(super) fn check_method(method: &Method, options: &Options) -> Result<(), Rejection> {
    if *method == Method::TRACE {
        return Err(Rejection::new(StatusCode::METHOD_NOT_ALLOWED, "trace_not_allowed"));
    }
    if *method == Method::CONNECT && !options.connect {
        return Err(Rejection::new(StatusCode::METHOD_NOT_ALLOWED, "connect_not_allowed"));
    }
    Ok(())
}

fn origin_form(target: Bytes) -> Result<Uri, Rejection> {
    PathAndQuery::from_maybe_shared(target)
        .map(Uri::from)
        .map_err(|_invalid| Rejection::bad_request("target_invalid"))
}

fn authority_form(target: &Bytes) -> Result<Target, Rejection> {
    let invalid = Rejection::bad_request("connect_target_invalid");
    let has_port = target.iter().rev().take_while(|byte| byte.is_ascii_digit()).count() > 0
        && target.contains(&b':');
    if !has_port || !is_authority(target) {
        return Err(invalid);
    }
    let authority = Authority::from_maybe_shared(target.clone()).map_err(|_invalid| invalid)?;
    Ok(Target { uri: Uri::from(authority), authority: Some(target.clone()) })
}

/// `http://host/path`: what a client sends to a proxy. Taken apart here so that no later stage can
/// read a host the checks have not seen.
fn absolute_form(target: &Bytes, method: &Method, options: &Options) -> Result<Target, Rejection> {
    let scheme = options.scheme.len();
    let matches = target.len() > scheme + 3
        && target[..scheme].eq_ignore_ascii_case(options.scheme.as_bytes())
        && &target[scheme..scheme + 3] == b"://";
    if !matches {
        return Err(Rejection::bad_request("target_form_or_scheme"));
    }
    let rest = target.slice(scheme + 3..);
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let authority = rest.slice(..end);
    let path = rest.slice(end..);
    let uri = match path.first() {
        Some(b'/') => origin_form(path)?,
        Some(_) => origin_form(Bytes::from([b"/", &path[..]].concat()))?,
        // RFC 9112 section 3.2.4: the last proxy of a chain turns this into the asterisk form.
        None if *method == Method::OPTIONS => Uri::from(PathAndQuery::from_static("*")),
        None => Uri::from(PathAndQuery::from_static("/")),
    };
    Ok(Target { uri, authority: Some(authority) })
}

/// `uri-host [ ":" port ]` without userinfo. Stricter than the grammar: sub-delimiters and percent
/// encoding name no host that exists, and a comma joins two.
pub(super) fn is_authority(authority: &[u8]) -> bool {
    let (host_is_valid, port) = match authority {
        [b'[', rest @ ..] => {
            let Some(end) = memchr::memchr(b']', rest) else { return false };
            let address = std::str::from_utf8(&rest[..end]).unwrap_or("");
            (address.parse::<std::net::Ipv6Addr>().is_ok(), &rest[end + 1..])
        }
        _ => {
            let end = memchr::memchr(b':', authority).unwrap_or(authority.len());
            let valid = end > 0 && authority[..end].iter().all(|byte| is_host_byte(*byte));
            (valid, &authority[end..])
        }
    };
    host_is_valid && is_port(port)
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

/// Nothing, or a colon and a number that is a port.
fn is_port(port: &[u8]) -> bool {
    match port {
        [] => true,
        [b':', digits @ ..] => {
            matches!(digits.len(), 1..=5)
                && digits.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(digits).is_ok_and(|port| port.parse::<u16>().is_ok())
        }
        _ => false,
    }
}
