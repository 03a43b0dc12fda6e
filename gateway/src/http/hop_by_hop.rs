//! Fields that are about this connection and not about the message (RFC 9110 section 7.6.1).

use http::{HeaderName, HeaderValue, Method, Version, header};
use smallvec::SmallVec;

use crate::head::{Headers, RequestHeader};

const OTHERS: [&str; 4] = ["keep-alive", "proxy-connection", "transfer-encoding", "http2-settings"];

/// Whether a field is about the connection, so that [`remove`] has something to do.
#[must_use]
pub fn is_one(name: &HeaderName) -> bool {
    [header::CONNECTION, header::TE, header::UPGRADE].contains(name)
        || OTHERS.contains(&name.as_str())
}

/// `Connection` names a field that is not the client's to take away (hardening H20).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtectedNomination;

/// Removes the hop-by-hop fields and those `Connection` nominates. `te: trailers` stays, because gRPC
/// servers ask for it, and so do the two fields of a WebSocket upgrade.
///
/// Returns whether the request is such an upgrade.
///
/// # Errors
/// A nominated field would be missed by routing, authorization or the upstream.
pub fn remove(request: &mut RequestHeader) -> Result<bool, ProtectedNomination> {
    let mut nominated: SmallVec<[HeaderName; 4]> = SmallVec::new();
    let mut connection_upgrade = false;
    for token in tokens(&request.headers, &header::CONNECTION) {
        if token.eq_ignore_ascii_case("upgrade") {
            connection_upgrade = true;
        } else if !token.is_empty() {
            let name =
                HeaderName::from_bytes(token.as_bytes()).map_err(|_invalid| ProtectedNomination)?;
            if is_protected(&name) {
                return Err(ProtectedNomination);
            }
            nominated.push(name);
        }
    }
    for name in &nominated {
        request.headers.remove(name);
    }
    // The HTTP/1 codec takes `connection` away and leaves `upgrade` only where the handshake was
    // complete.
    let asked = connection_upgrade || !request.headers.contains_key(&header::CONNECTION);
    let upgrade = asked && is_websocket(request);
    if !upgrade {
        request.headers.remove(&header::CONNECTION);
        request.headers.remove(&header::UPGRADE);
    } else if !nominated.is_empty() {
        request.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if request.headers.contains_key(&header::TE) {
        let trailers = tokens(&request.headers, &header::TE)
            .any(|token| token.eq_ignore_ascii_case("trailers"));
        request.headers.remove(&header::TE);
        if trailers {
            request.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    for name in OTHERS {
        request.headers.remove(name);
    }
    Ok(upgrade)
}

fn is_websocket(request: &RequestHeader) -> bool {
    let mut protocols = tokens(&request.headers, &header::UPGRADE);
    // In HTTP/2 the field stands for an extended CONNECT: no client could have sent it as a field.
    matches!(request.version, Version::HTTP_11 | Version::HTTP_2)
        && request.method == Method::GET
        && protocols.next().is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
        && protocols.next().is_none()
}

/// Fields that decide where a request goes, how long it is or who sent it.
fn is_protected(name: &HeaderName) -> bool {
    const NAMES: [&str; 13] = [
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "authorization",
        "cookie",
        "forwarded",
        "x-real-ip",
        "x-request-id",
        "traceparent",
        "tracestate",
        "origin",
        "expect",
    ];
    let name = name.as_str();
    NAMES.contains(&name) || name.starts_with("x-forwarded-") || name.starts_with("x-envoy-")
}

fn tokens<'a>(headers: &'a Headers, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        // Bytes that are no text are no token: they become one that is no field name.
        .flat_map(|value| value.to_str().unwrap_or("\u{0}").split(',').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", "/").unwrap();
        request.version = Version::HTTP_11;
        for (name, value) in fields {
            request.headers.try_append(*name, *value).unwrap();
        }
        request
    }

    fn names(request: &RequestHeader) -> Vec<String> {
        let mut names: Vec<_> = request.headers.names().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn hop_by_hop_fields_and_nominated_ones_are_removed() {
        let mut request = request(&[
            ("accept", "*/*"),
            ("connection", "keep-alive, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
        ]);
        assert_eq!(remove(&mut request), Ok(false));
        assert_eq!(names(&request), ["accept"]);
    }

    #[test]
    fn a_protected_field_cannot_be_nominated() {
        for name in [
            "host",
            "Authorization",
            "x-forwarded-for",
            "X-Forwarded-Client-Cert",
            "x-envoy-internal",
            "content-length",
            "Transfer-Encoding",
            "cookie",
            "x-request-id",
            ":path",
            "é",
            "a b",
        ] {
            let mut request = request(&[("connection", &format!("close, {name}"))]);
            assert_eq!(remove(&mut request), Err(ProtectedNomination), "{name}");
        }
    }

    #[test]
    fn te_trailers_stays() {
        let mut request = request(&[("te", "trailers, deflate;q=0.5"), ("connection", "te")]);
        assert_eq!(remove(&mut request), Ok(false));
        assert_eq!(names(&request), Vec::<String>::new(), "nominated: it is about this connection");

        let mut request = self::request(&[("te", "gzip, trailers")]);
        assert_eq!(remove(&mut request), Ok(false));
        assert_eq!(request.headers["te"], "trailers");
    }

    #[test]
    fn only_a_websocket_upgrade_survives() {
        let mut websocket =
            request(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert_eq!(remove(&mut websocket), Ok(true));
        assert_eq!(names(&websocket), ["connection", "upgrade"]);
        assert_eq!(websocket.headers["connection"], "upgrade");

        let mut without_token = request(&[("connection", "close"), ("upgrade", "websocket")]);
        assert_eq!(remove(&mut without_token), Ok(false));
        assert_eq!(names(&without_token), Vec::<String>::new());

        for (method, version, protocol) in [
            ("POST", Version::HTTP_11, "websocket"),
            ("GET", Version::HTTP_10, "websocket"),
            ("GET", Version::HTTP_11, "h2c"),
            ("GET", Version::HTTP_11, "websocket, h2c"),
        ] {
            let mut request = request(&[("connection", "upgrade"), ("upgrade", protocol)]);
            request.method = method.try_into().unwrap();
            request.version = version;
            assert_eq!(remove(&mut request), Ok(false), "{method} {version:?} {protocol}");
            assert_eq!(names(&request), Vec::<String>::new());
        }
    }
}
