//! Rules for retry policies.

use super::super::{Findings, time};
use crate::{api::istio::http_route::HttpRetry, diagnostic::FieldPath};

/// Conditions of `retryOn`, HTTP and gRPC.
const CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(in crate::validate) fn validate(
    retry: &HttpRetry,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    time::validate(retry.per_try_timeout, at.field("perTryTimeout"), findings);
    time::validate(retry.backoff, at.field("backoff"), findings);
    let pointless = [
        ("perTryTimeout", retry.per_try_timeout.is_some()),
        ("retryOn", !retry.retry_on.is_empty()),
        ("retryRemoteLocalities", retry.retry_remote_localities.is_some()),
    ];
    if retry.attempts == 0 {
        for (field, _) in pointless.into_iter().filter(|(_, set)| *set) {
            findings.error(
                at.field(field),
                "attempts is 0, which turns retries off; set attempts or remove the field",
            );
        }
    }
    if retry.retry_on.is_empty() {
        return;
    }
    for condition in retry.retry_on.split(',') {
        if !CONDITIONS.contains(&condition) && !is_status(condition) {
            findings.error(
                at.field("retryOn"),
                format!(
                    "{condition:?} is not a condition (spaces count); use status codes or {}",
                    CONDITIONS.join(", ")
                ),
            );
        }
    }
}

/// A status code that means something: one with a registered phrase.
fn is_status(text: &str) -> bool {
    let code = text.parse::<u16>().ok().and_then(|code| http::StatusCode::from_u16(code).ok());
    code.is_some_and(|code| code.canonical_reason().is_some())
}
