//! Stage 7: the one canonical request. Routing, policies, logs and the upstream see the same path,
//! host and fields, so that none of them can be told something else than the others (hardening C5).
//!
//! After this stage the URI is in origin form, there is exactly one `host` field, it is canonical,
//! and no field a client could have forged to steer the proxy is left.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use weir_config::model::{
    Settings,
    route::Scheme,
    settings::{ForwardClientCert, PathNormalization},
};

use super::{
    field::{X_ENVOY_EXTERNAL_ADDRESS, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REQUEST_ID},
    forwarded, hop_by_hop, request_id,
};
use crate::{
    canonical::{authority, path},
    connection::{ConnectionInfo, Direction},
    filter::RequestContext,
    head::{Headers, Repeated, RequestHeader},
    local_reply::LocalReply,
    telemetry::{ResponseFlag, StreamInfo},
};

/// Makes `request` canonical and tells who sent it.
///
/// # Errors
/// 400 for a request that has no canonical form, 405 for `TRACE`.
pub fn request(
    settings: &Settings,
    request: &mut RequestHeader,
    info: &mut StreamInfo,
) -> Result<RequestContext, LocalReply> {
    if request.method == Method::TRACE {
        // It would echo what the proxy added, credentials among it (RFC 9110 section 9.3.8).
        let mut reply = refuse("trace_method_not_allowed");
        reply.status = StatusCode::METHOD_NOT_ALLOWED;
        return Err(reply);
    }
    let fields = look_through(request)?;
    set_host(request)?;
    set_path(request, settings.path_normalization)?;
    let upgrade = fields.hop_by_hop
        && hop_by_hop::remove(request)
            .map_err(|hop_by_hop::ProtectedNomination| refuse("protected_header_nominated"))?;

    let connection = Arc::clone(&info.connection);
    let trusted = match connection.direction {
        Direction::Gateway => settings.num_trusted_proxies,
        // Nobody in the mesh adds itself, so the last who did is one further out.
        Direction::Inbound | Direction::Outbound => settings.num_trusted_proxies + 1,
    };
    // Read before the proxy's own entry is appended.
    if let Some(client) = forwarded::client_ip(&request.headers, trusted) {
        info.client_addr = SocketAddr::new(client, 0);
    }
    let own_scheme = if connection.tls.is_some() { Scheme::Https } else { Scheme::Http };
    let scheme = forwarded::scheme(&request.headers, own_scheme, trusted);

    if connection.direction != Direction::Gateway {
        forward_in_mesh(settings, request, &connection, scheme);
        return Ok(RequestContext { scheme, upgrade, ..RequestContext::default() });
    }
    let headers = &mut request.headers;
    if fields.internal {
        // Every client counts as external: a private address does not make one trustworthy
        // (CVE-2024-45806).
        headers.retain(|name, _| !is_internal(name.as_str()));
    }
    let peer = forwarded::append_forwarded_for(headers, connection.peer_addr.ip());
    let client = match info.client_addr.ip() {
        ip if ip == connection.peer_addr.ip() => peer,
        ip => forwarded::text(ip),
    };
    headers.insert(X_ENVOY_EXTERNAL_ADDRESS, client);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
    let port_sent = trusted > 0 && headers.contains_key(X_FORWARDED_PORT);
    if settings.x_forwarded_port && !port_sent {
        headers.insert(X_FORWARDED_PORT, connection.local_addr.port().into());
    }
    let (peer, local) = (connection.peer_identity(), connection.local_uri());
    forwarded::client_cert(headers, settings.forward_client_cert, peer, local);
    set_request_id(settings, headers);

    Ok(RequestContext {
        scheme,
        upgrade,
        append_forwarded_host: settings.x_forwarded_host,
        ..RequestContext::default()
    })
}

/// What sidecars change of what is told about the client: next to nothing, so that the application is
/// told by its clients what it would be told without them (istio-compat 5.4). Who a client of the mesh is,
/// only the side that verified it says.
fn forward_in_mesh(
    settings: &Settings,
    request: &mut RequestHeader,
    connection: &ConnectionInfo,
    scheme: Scheme,
) {
    let (client_cert, peer) = match connection.direction {
        Direction::Inbound => (settings.forward_client_cert, connection.peer_identity()),
        Direction::Gateway | Direction::Outbound => (ForwardClientCert::Sanitize, None),
    };
    let headers = &mut request.headers;
    let scheme = || HeaderValue::from_static(scheme.as_str());
    headers.insert_if_absent(X_FORWARDED_PROTO, scheme);
    forwarded::client_cert(headers, client_cert, peer, connection.local_uri());
    if settings.request_id && !headers.contains_key(X_REQUEST_ID) {
        set_request_id(settings, headers);
    }
}

fn refuse(details: &'static str) -> LocalReply {
    LocalReply::new(StatusCode::BAD_REQUEST, ResponseFlag::DownstreamProtocolError, details, "")
        .closing()
}

/// What the fields of a request call for: whether there are any ...
#[derive(Default)]
struct Fields {
    /// ... only the proxy itself may write.
    internal: bool,
    /// ... about the connection.
    hop_by_hop: bool,
}

/// Looks at every name once.
fn look_through(request: &RequestHeader) -> Result<Fields, LocalReply> {
    let mut fields = Fields::default();
    for name in request.headers.names() {
        fields.hop_by_hop |= hop_by_hop::is_one(name);
        if is_internal(name.as_str()) {
            fields.internal = true;
        } else if name.as_str().contains('_') {
            check_underscore(name, request)?;
        }
    }
    Ok(fields)
}

fn is_internal(name: &str) -> bool {
    name.starts_with("x-envoy-") || name == "x-istio-attributes"
}

/// Many servers read `x_forwarded_for` as `x-forwarded-for`. Where the two would meet, or where the
/// dashed one is ours to write, the field is an attempt to get past us (hardening H22).
fn check_underscore(name: &HeaderName, request: &RequestHeader) -> Result<(), LocalReply> {
    const RESERVED: [&str; 7] = [
        "authorization",
        "content-length",
        "forwarded",
        "host",
        "transfer-encoding",
        "x-real-ip",
        "x-request-id",
    ];
    let dashed = name.as_str().replace('_', "-");
    let reserved = ["x-forwarded-", "x-envoy-"].iter().any(|prefix| dashed.starts_with(prefix))
        || RESERVED.contains(&&*dashed);
    if reserved || request.headers.contains_key(dashed.as_str()) {
        return Err(refuse("ambiguous_underscore_header"));
    }
    Ok(())
}

/// Leaves one canonical `host` field, from `:authority`, the absolute form or the field itself.
fn set_host(request: &mut RequestHeader) -> Result<(), LocalReply> {
    let malformed = || refuse("invalid_authority");
    let sent = request.headers.only(header::HOST).map_err(|Repeated| malformed())?;
    let sent = sent.map(|value| value.to_str().map_err(|_not_ascii| malformed())).transpose()?;
    let target = target_authority(request).map_err(|()| malformed())?;
    // RFC 9112 section 3.2.2 lets the target win; a difference is only ever an attack (H14, H21).
    let named = target.or(sent).ok_or_else(|| refuse("missing_host_header"))?;
    let canonical = authority::canonical(named).map_err(|authority::Malformed| malformed())?;
    if let (Some(_), Some(sent)) = (target, sent) {
        let sent = authority::canonical(sent).map_err(|authority::Malformed| malformed())?;
        if sent != canonical {
            return Err(malformed());
        }
    }
    if sent != Some(&*canonical) {
        let value = HeaderValue::from_str(&canonical).map_err(|_not_visible| malformed())?;
        request.headers.insert(header::HOST, value);
    }
    Ok(())
}

/// The authority in the request target: HTTP/2's `:authority`, the absolute form, `CONNECT`'s target.
fn target_authority(request: &RequestHeader) -> Result<Option<&str>, ()> {
    let is_http = |scheme: &http::uri::Scheme| matches!(scheme.as_str(), "http" | "https");
    match request.uri.authority() {
        Some(_) if !request.uri.scheme().is_none_or(is_http) => Err(()),
        authority => Ok(authority.map(http::uri::Authority::as_str)),
    }
}

/// Brings the URI to origin form with a canonical path; the query stays as it is.
fn set_path(request: &mut RequestHeader, mode: PathNormalization) -> Result<(), LocalReply> {
    let refused = || refuse("path_normalization_failed");
    if request.method == Method::CONNECT {
        return Ok(());
    }
    let asterisk = request.uri.path() == "*";
    if asterisk && request.method != Method::OPTIONS
        || !asterisk && !request.uri.path().starts_with('/')
    {
        return Err(refused());
    }
    let path = if asterisk {
        None
    } else {
        match path::canonical(request.uri.path(), mode).map_err(|path::Unnormalizable| refused())? {
            Cow::Borrowed(_) => None,
            Cow::Owned(path) => Some(path),
        }
    };
    let is_origin_form = request.uri.authority().is_none() && request.uri.scheme().is_none();
    let uri = match path {
        Some(path) => path::replace(&request.uri, path).ok_or_else(refused)?,
        None if is_origin_form => return Ok(()),
        None => request.uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from),
    };
    request.uri = uri;
    Ok(())
}

fn set_request_id(settings: &Settings, headers: &mut Headers) {
    let mut sent = headers.get_all(X_REQUEST_ID);
    let kept = settings.num_trusted_proxies > 0
        && sent.next().is_some_and(request_id::is_acceptable)
        && sent.next().is_none();
    if settings.request_id && !kept {
        headers.insert(X_REQUEST_ID, request_id::generate());
    }
}

#[cfg(test)]
mod tests {
    use weir_config::model::settings::ForwardClientCert;

    use super::*;
    use crate::filter::test_support::{connection, info_of, tls_connection};

    fn raw(method: &str, target: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, target).unwrap();
        request.version = http::Version::HTTP_11;
        for (name, value) in fields {
            request.headers.try_append(*name, *value).unwrap();
        }
        request
    }

    fn normalized(
        mut request: RequestHeader,
        settings: &Settings,
    ) -> Result<RequestHeader, LocalReply> {
        super::request(settings, &mut request, &mut info_of(connection("192.0.2.7:4711")))?;
        Ok(request)
    }

    fn refused(request: RequestHeader) -> String {
        let reply = normalized(request, &Settings::default()).unwrap_err();
        assert_eq!(reply.flag, Some(ResponseFlag::DownstreamProtocolError));
        assert!(reply.close, "what follows on the connection cannot be trusted either");
        format!("{} {}", reply.status.as_u16(), reply.details)
    }

    /// Hardening H14, H21: HTTP/2's form has the authority in the URI.
    #[test]
    fn every_form_of_a_request_becomes_origin_form_with_one_host() {
        let h2 = |target: &str, fields: &[(&'static str, &str)]| {
            let mut request = raw("GET", "/", fields);
            request.uri = target.parse().unwrap();
            request
        };
        for (request, host, uri) in [
            (
                raw("GET", "/a/../b?x=/../y", &[("host", "A.example.:80")]),
                "a.example:80",
                "/b?x=/../y",
            ),
            (raw("GET", "http://A.example/x?q", &[("host", "a.example")]), "a.example", "/x?q"),
            (
                raw("GET", "HTTP://a.example:8080", &[("host", "a.example:8080")]),
                "a.example:8080",
                "/",
            ),
            (raw("OPTIONS", "*", &[("host", "a.example")]), "a.example", "*"),
            (h2("https://A.example/%61", &[]), "a.example", "/a"),
            (h2("https://a.example/x", &[("host", "A.EXAMPLE")]), "a.example", "/x"),
        ] {
            let request = normalized(request, &Settings::default()).unwrap();
            let hosts: Vec<_> = request.headers.get_all("host").collect();
            assert_eq!(hosts, [host]);
            assert_eq!(request.uri, uri);
            assert_eq!(request.target(), uri);
        }
    }

    #[test]
    fn a_request_without_one_authority_is_refused() {
        let other = "a.example";
        for (request, details) in [
            (raw("GET", "/", &[]), "missing_host_header"),
            (raw("GET", "/", &[("host", "")]), "invalid_authority"),
            (raw("GET", "/", &[("host", other), ("host", other)]), "invalid_authority"),
            (raw("GET", "/", &[("host", "u@a.example")]), "invalid_authority"),
            (raw("GET", "/", &[("host", "a.example/x")]), "invalid_authority"),
            (raw("GET", "http://b.example/", &[("host", other)]), "invalid_authority"),
            (raw("GET", "http://u@a.example/", &[("host", other)]), "invalid_authority"),
            (raw("GET", "ftp://a.example/", &[("host", other)]), "invalid_authority"),
            (raw("GET", "http://a.example:81/", &[("host", other)]), "invalid_authority"),
        ] {
            assert_eq!(refused(request), format!("400 {details}"));
        }
    }

    #[test]
    fn a_path_that_is_none_is_refused() {
        for (method, target) in [
            ("GET", "/%00"),
            ("GET", "/a%2"),
            ("GET", "/%gg"),
            ("GET", "*"),
            ("OPTIONS", "http://a.example/%zz"),
        ] {
            let request = raw(method, target, &[("host", "a.example")]);
            assert_eq!(refused(request), "400 path_normalization_failed", "{method} {target}");
        }
    }

    #[test]
    fn trace_is_not_allowed() {
        assert_eq!(refused(raw("TRACE", "/", &[("host", "a")])), "405 trace_method_not_allowed");
    }

    /// Hardening H20, H22.
    #[test]
    fn fields_that_hide_others_are_refused() {
        let host = ("host", "a.example");
        for name in [
            "x_forwarded_for",
            "content_length",
            "x_envoy_internal",
            "X_Request_Id",
            "accept_language",
        ] {
            let mut request = raw("GET", "/", &[host, ("accept-language", "en")]);
            request.headers.try_append(name.to_owned(), "1").unwrap();
            assert_eq!(refused(request), "400 ambiguous_underscore_header", "{name}");
        }
        let kept = normalized(raw("GET", "/", &[host, ("api_key", "k")]), &Settings::default());
        assert_eq!(kept.unwrap().headers["api_key"], "k", "applications use these");
        let nominating = raw("GET", "/", &[host, ("connection", "x-forwarded-for")]);
        assert_eq!(refused(nominating), "400 protected_header_nominated");
    }

    /// Istio-compat 5.4, hardening X03.
    #[test]
    fn what_only_the_proxy_may_say_is_removed() {
        let mut request = raw("GET", "/", &[("host", "a.example"), ("x-mine", "1")]);
        for name in [
            "decorator-operation",
            "downstream-service-cluster",
            "downstream-service-node",
            "expected-rq-timeout-ms",
            "external-address",
            "force-trace",
            "internal",
            "ip-tags",
            "max-retries",
            "retry-grpc-on",
            "retry-on",
            "upstream-alt-stat-name",
            "upstream-rq-per-try-timeout-ms",
            "upstream-rq-timeout-alt-response",
            "upstream-rq-timeout-ms",
            "original-path",
            "peer-metadata",
            "peer-metadata-id",
            "attempt-count",
        ] {
            request.headers.try_append(format!("X-Envoy-{name}"), "forged").unwrap();
        }
        request.headers.try_append("x-forwarded-client-cert", "forged").unwrap();
        let request = normalized(request, &Settings::default()).unwrap();
        let mut names: Vec<_> = request.headers.names().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "host",
                "x-envoy-external-address",
                "x-forwarded-for",
                "x-forwarded-proto",
                "x-mine",
                "x-request-id"
            ]
        );
        assert_eq!(request.headers["x-envoy-external-address"], "192.0.2.7");
    }

    /// The table and the example of istio-compat 5.4.
    #[test]
    fn the_client_is_found_behind_trusted_proxies() {
        for (trusted, sent, client, proto) in [
            (0, Some("56.5.6.7, 72.9.5.6, 98.1.2.3"), "192.0.2.7", "http"),
            (1, Some("56.5.6.7, 72.9.5.6, 98.1.2.3"), "98.1.2.3", "https"),
            (2, Some("56.5.6.7, 72.9.5.6, 98.1.2.3"), "72.9.5.6", "https"),
            (4, Some("56.5.6.7, 72.9.5.6, 98.1.2.3"), "192.0.2.7", "https"),
            (1, Some("junk"), "192.0.2.7", "https"),
            (1, None, "192.0.2.7", "https"),
        ] {
            let settings = Settings { num_trusted_proxies: trusted, ..Settings::default() };
            let mut request =
                raw("GET", "/", &[("host", "a.example"), ("x-forwarded-proto", "https")]);
            if let Some(sent) = sent {
                request.headers.try_append("x-forwarded-for", sent).unwrap();
            }
            let mut info = info_of(connection("192.0.2.7:4711"));
            let context = super::request(&settings, &mut request, &mut info).unwrap();
            assert_eq!(info.client_addr.ip().to_string(), client, "{trusted} trusted, {sent:?}");
            assert_eq!(request.headers["x-envoy-external-address"], client);
            assert_eq!(request.headers["x-forwarded-proto"], proto);
            assert_eq!(context.scheme.as_str(), proto);
            let appended =
                sent.map_or_else(|| "192.0.2.7".into(), |sent| format!("{sent},192.0.2.7"));
            assert_eq!(request.headers["x-forwarded-for"], appended);
        }
    }

    #[test]
    fn a_request_id_is_replaced_unless_a_proxy_is_trusted() {
        let sent = "7e9f6d1c-1b7a-4b7e-9a53-2f3ad0c9b5d1";
        for (trusted, enabled, id, kept) in [
            (0, true, sent, false),
            (1, true, sent, true),
            (1, true, "not an id", false),
            (0, false, sent, true),
        ] {
            let settings = Settings {
                num_trusted_proxies: trusted,
                request_id: enabled,
                ..Settings::default()
            };
            let request = raw("GET", "/", &[("host", "a"), ("x-request-id", id)]);
            let request = normalized(request, &settings).unwrap();
            assert_eq!(request.headers["x-request-id"] == id, kept, "{trusted} {enabled} {id}");
        }
    }

    #[test]
    fn the_port_is_told_where_it_is_asked_for() {
        let settings = Settings { x_forwarded_port: true, ..Settings::default() };
        let sent = || raw("GET", "/", &[("host", "a"), ("x-forwarded-port", "1")]);
        assert_eq!(normalized(sent(), &settings).unwrap().headers["x-forwarded-port"], "8080");
        let behind = Settings { num_trusted_proxies: 1, ..settings };
        assert_eq!(normalized(sent(), &behind).unwrap().headers["x-forwarded-port"], "1");
    }

    #[test]
    fn a_verified_certificate_is_told_and_a_forged_one_is_not() {
        let settings =
            Settings { forward_client_cert: ForwardClientCert::SanitizeSet, ..Settings::default() };
        let mut request = raw("GET", "/", &[("host", "a"), ("x-forwarded-client-cert", "forged")]);
        let identity = Some("spiffe://td/ns/n/sa/s");
        let mut info = info_of(tls_connection("192.0.2.7:4711", identity));
        let context = super::request(&settings, &mut request, &mut info).unwrap();
        assert_eq!(
            request.headers["x-forwarded-client-cert"],
            "Hash=ab12;Subject=\"CN=client\";URI=spiffe://td/ns/n/sa/s"
        );
        assert_eq!(context.scheme, Scheme::Https);
    }

    #[test]
    fn a_canonical_request_is_left_as_it_is_the_second_time() {
        let settings = Settings { num_trusted_proxies: 1, ..Settings::default() };
        let once =
            normalized(raw("GET", "//a/./%62%2f?x", &[("host", "A.example.")]), &settings).unwrap();
        let twice = normalized(once.clone(), &settings).unwrap();
        assert_eq!((&twice.uri, &twice.headers["host"]), (&once.uri, &once.headers["host"]));
        assert_eq!(twice.headers["x-request-id"], once.headers["x-request-id"]);
    }
}
