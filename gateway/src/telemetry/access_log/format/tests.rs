use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use weir_config::model::ListenerName;

use super::*;
use crate::{
    connection::{ConnectionInfo, TlsInfo},
    head::{RequestHeader, ResponseHeader},
    telemetry::{Protocol, ResponseFlag, StreamInfo},
};

fn info() -> StreamInfo {
    let tls = TlsInfo {
        version: "TLSv1.3",
        cipher_suite: "TLS_AES_256_GCM_SHA384",
        alpn: None,
        peer: None,
        local_uri: None,
    };
    let connection = ConnectionInfo {
        server_name: Some("shop.example.com".into()),
        peer_addr: ([10, 0, 0, 9], 5000).into(),
        local_addr: ([10, 0, 0, 1], 8443).into(),
        direction: crate::connection::Direction::Gateway,
        transparent_source: None,
        peer: crate::connection::Peer::default(),
        listener: ListenerName::new("0.0.0.0_8443"),
        port: 443,
        tls: Some(Box::new(tls)),
    };
    let mut info = StreamInfo::start(Arc::new(connection), Protocol::Http11);
    info.started_at = UNIX_EPOCH + Duration::from_millis(1_767_323_045_678);
    info.client_addr = ([203, 0, 113, 7], 0).into();
    info.status = 503;
    info.flags.set(ResponseFlag::UpstreamConnectionFailure);
    info.flags.set(ResponseFlag::RetryLimit);
    info.details = Cow::Borrowed("upstream_reset_before_response_started{connection_failure}");
    info.bytes_received = 12;
    info.bytes_sent = 91;
    info.route_name = Some("canary".into());
    info.upstream.cluster_name = Some("outbound|9080|v2|reviews.shop.svc.cluster.local".into());
    info.upstream.remote_addr = Some(([10, 0, 1, 5], 9080).into());
    info.upstream.failure = Some(Cow::Borrowed("connection refused"));
    info.upstream.attempts = 2;
    info.upstream.responded_after = Some(Duration::from_millis(4));
    info
}

fn request() -> RequestHeader {
    let mut request = RequestHeader::build("GET", "/reviews/1?full=yes").unwrap();
    for (name, value) in [
        ("host", "shop.example.com"),
        ("user-agent", "curl/8.14"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-request-id", "7f3c"),
    ] {
        request.headers.try_insert(name, value).unwrap();
    }
    request
}

fn line(format: &AccessLogFormat, request: &RequestHeader) -> String {
    let mut response = ResponseHeader::new(http::StatusCode::SERVICE_UNAVAILABLE);
    response.headers.try_insert("x-envoy-upstream-service-time", "4").unwrap();
    let info = info();
    let entry = Entry {
        info: &info,
        duration: Duration::from_micros(5_999),
        request: Some(request),
        response: Some(&response),
    };
    let (format, problems) = Format::compile(format);
    assert_eq!(problems, [""; 0]);
    let mut out = Vec::new();
    format.write(&entry, &mut TimeCache::default(), &mut out);
    String::from_utf8(out).unwrap()
}

fn text(format: &str) -> String {
    line(&AccessLogFormat::Text(Some(format.into())), &request())
}

fn json(fields: &[(&str, &str)]) -> serde_json::Value {
    let fields = fields.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    serde_json::from_str(&line(&AccessLogFormat::Json(Some(fields)), &request())).unwrap()
}

#[test]
fn the_default_line_is_istios() {
    let expected = "[2026-01-02T03:04:05.678Z] \"GET /reviews/1?full=yes HTTP/1.1\" 503 UF,URX \
        upstream_reset_before_response_started{connection_failure} - \"connection refused\" \
        12 91 5 4 \"203.0.113.7\" \"curl/8.14\" \"7f3c\" \"shop.example.com\" \"10.0.1.5:9080\" \
        outbound|9080|v2|reviews.shop.svc.cluster.local - 10.0.0.1:8443 203.0.113.7:0 \
        shop.example.com canary\n";
    assert_eq!(line(&AccessLogFormat::Text(None), &request()), expected);
}

#[test]
fn the_default_json_has_istios_keys_and_typed_values() {
    let line = line(&AccessLogFormat::Json(None), &request());
    assert!(line.ends_with("}\n"));
    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        parsed,
        serde_json::json!({
            "start_time": "2026-01-02T03:04:05.678Z",
            "method": "GET",
            "path": "/reviews/1?full=yes",
            "protocol": "HTTP/1.1",
            "response_code": 503,
            "response_flags": "UF,URX",
            "response_code_details": "upstream_reset_before_response_started{connection_failure}",
            "connection_termination_details": null,
            "upstream_transport_failure_reason": "connection refused",
            "bytes_received": 12,
            "bytes_sent": 91,
            "duration": 5,
            "upstream_service_time": "4",
            "x_forwarded_for": "203.0.113.7",
            "user_agent": "curl/8.14",
            "request_id": "7f3c",
            "authority": "shop.example.com",
            "upstream_host": "10.0.1.5:9080",
            "upstream_cluster": "outbound|9080|v2|reviews.shop.svc.cluster.local",
            "upstream_local_address": null,
            "downstream_local_address": "10.0.0.1:8443",
            "downstream_remote_address": "203.0.113.7:0",
            "requested_server_name": "shop.example.com",
            "route_name": "canary",
        })
    );
}

#[test]
fn operators_print_what_they_are_named_after() {
    let rows = [
        ("%START_TIME(%Y/%m/%d %H)%", "2026/01/02 03"),
        ("%START_TIME(%s.%3f)%", "1767323045.678"),
        ("%REQ(user-agent):4%", "curl"),
        ("%REQ(X-MISSING?USER-AGENT)%", "curl/8.14"),
        ("%REQ(X-MISSING)%", "-"),
        ("%REQ_WITHOUT_QUERY(:PATH)%", "/reviews/1"),
        ("%REQ(:SCHEME)%", "https"),
        ("%RESP(x-envoy-upstream-service-time)%", "4"),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.1.5"),
        ("%UPSTREAM_REMOTE_PORT%", "9080"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "2"),
        ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "10.0.0.9:5000"),
        ("%DOWNSTREAM_LOCAL_PORT%", "8443"),
        ("%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER%", "TLSv1.3 TLS_AES_256_GCM_SHA384"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "-"),
        ("%GRPC_STATUS%", "-"),
        ("100%% %PROTOCOL%", "100% HTTP/1.1"),
    ];
    for (format, expected) in rows {
        assert_eq!(text(format), format!("{expected}\n"), "{format}");
    }
}

#[test]
fn a_header_cannot_leave_its_field_of_the_line() {
    let mut request = request();
    let forged = "x\" 200 -\\";
    request.headers.try_insert("user-agent", forged).unwrap();
    let expected = "\"x\\x22 200 -\\x5C\"\n";
    let format = AccessLogFormat::Text(Some("\"%REQ(USER-AGENT)%\"".into()));
    assert_eq!(line(&format, &request), expected);

    let default: serde_json::Value =
        serde_json::from_str(&line(&AccessLogFormat::Json(None), &request)).unwrap();
    assert_eq!(default["user_agent"], forged);
}

#[test]
fn a_repeated_header_is_printed_whole() {
    let mut request = request();
    request.headers.try_append("x-forwarded-for", "10.0.0.9").unwrap();
    let format = AccessLogFormat::Text(Some("%REQ(X-FORWARDED-FOR)%".into()));
    assert_eq!(line(&format, &request), "203.0.113.7,10.0.0.9\n");
}

#[test]
fn json_fields_of_several_parts_are_strings() {
    let fields = [
        ("code", "%RESPONSE_CODE%"),
        ("request", "%REQ(:METHOD)% %RESPONSE_CODE% %REQ(X-MISSING)%"),
        ("constant \"1\"", "a \"b\""),
    ];
    let expected = serde_json::json!({
        "code": 503,
        "request": "GET 503 -",
        "constant \"1\"": "a \"b\"",
    });
    assert_eq!(json(&fields), expected);
    assert_eq!(json(&[]), serde_json::json!({}));
}

#[test]
fn what_is_not_understood_is_said_and_prints_nothing() {
    let format = "%REQ(bad header)% %NO_SUCH_OPERATOR% 5% %GRPC_STATUS(LOUD)% %METADATA(x)%";
    let (format, problems) = Format::compile(&AccessLogFormat::Text(Some(format.into())));
    assert_eq!(problems.len(), 5, "{problems:?}");
    let info = info();
    let entry = Entry { info: &info, duration: Duration::ZERO, request: None, response: None };
    let mut out = Vec::new();
    format.write(&entry, &mut TimeCache::default(), &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "- - 5% - -\n");
}

#[test]
fn a_grpc_status_has_a_name() {
    let mut info = info();
    info.grpc_status = Some(5);
    let (format, _) = Format::compile(&AccessLogFormat::Text(Some(
        "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%".into(),
    )));
    let entry = Entry { info: &info, duration: Duration::ZERO, request: None, response: None };
    let mut out = Vec::new();
    format.write(&entry, &mut TimeCache::default(), &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "NotFound NOT_FOUND 5\n");
}

#[test]
fn the_duration_has_a_part_before_the_response_and_one_of_it() {
    let format = "%DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%\n";
    let format = AccessLogFormat::Text(Some(format.into()));
    assert_eq!(line(&format, &request()), "5 4 1\n");
}
