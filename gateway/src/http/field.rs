//! Names of header fields the `http` crate has no constant for, and changes to the fields of a head.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request, response};
use pingora_http::{RequestHeader, ResponseHeader};

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
pub const X_ENVOY_EXTERNAL_ADDRESS: HeaderName =
    HeaderName::from_static("x-envoy-external-address");
pub const X_ENVOY_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
pub const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName =
    HeaderName::from_static("x-envoy-upstream-service-time");
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// `number` as a value, in one allocation; `HeaderValue::from` needs two.
pub fn number(number: u64) -> HeaderValue {
    HeaderValue::from_str(itoa::Buffer::new().format(number))
        .unwrap_or_else(|_not_digits| HeaderValue::from(number))
}

/// Changes the fields of `request`. Its own methods read and check a name anew at every call; this
/// costs two moves, however many fields are set. What is no part of `http`'s head is lost: names are
/// in lower case and the target is the URI, as the codec makes them.
pub fn change_request(request: &mut RequestHeader, change: impl FnOnce(&mut HeaderMap)) {
    let (empty, ()) = Request::new(()).into_parts();
    let mut parts = request::Parts::from(std::mem::replace(request, empty.into()));
    change(&mut parts.headers);
    *request = parts.into();
}

/// As [`change_request`], of a response.
pub fn change_response(response: &mut ResponseHeader, change: impl FnOnce(&mut HeaderMap)) {
    let (empty, ()) = Response::new(()).into_parts();
    let mut parts = response::Parts::from(std::mem::replace(response, empty.into()));
    change(&mut parts.headers);
    *response = parts.into();
}
