//! HTTPRetry -> RetryPolicy (istio-compat 1.1 "retries", traps 6 and 7).

use std::{sync::Arc, time::Duration};

use super::Context;
use crate::{
    api::istio::http_route::HttpRetry,
    model::route::{RetryOn, RetryPolicy},
};

const DEFAULT_ATTEMPTS: u32 = 2;
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);
/// Conditions when none are written. `retriable-status-codes` has no codes then and does nothing.
const DEFAULT_ON: RetryOn = RetryOn {
    connect_failure: true,
    refused_stream: true,
    grpc_unavailable: true,
    grpc_cancelled: true,
    retriable_status_codes: true,
    server_error: false,
    gateway_error: false,
    reset: false,
    reset_before_request: false,
    envoy_ratelimited: false,
    retriable_4xx: false,
    grpc_deadline_exceeded: false,
    grpc_internal: false,
    grpc_resource_exhausted: false,
};

/// The rule's policy, else the mesh's, else Istio's: two retries where nothing can have happened.
pub(super) fn compile(
    context: &mut Context<'_>,
    retries: Option<&HttpRetry>,
    field: &str,
) -> RetryPolicy {
    let mesh = context.lookup.view.mesh.default_http_retry_policy.as_ref();
    let Some(policy) = retries.or(mesh) else {
        return RetryPolicy {
            attempts: DEFAULT_ATTEMPTS,
            per_try_timeout: None,
            on: DEFAULT_ON,
            retriable_status_codes: Arc::default(),
            backoff: DEFAULT_BACKOFF,
            ignore_previous_hosts: true,
        };
    };
    let (on, codes) = if policy.retry_on.is_empty() {
        (DEFAULT_ON, Vec::new())
    } else {
        let (on, codes, unknown) = conditions(&policy.retry_on);
        // What the mesh configuration says wrong is not the rule's fault.
        for word in unknown.into_iter().filter(|_| retries.is_some()) {
            context.warn(format!("{field}.retryOn"), format!("{word:?} has no effect in retryOn"));
        }
        (on, codes)
    };
    if retries.is_some() && policy.retry_remote_localities.is_some() {
        context.warn(
            format!("{field}.retryRemoteLocalities"),
            "retryRemoteLocalities is not applied yet: localities do not count",
        );
    }
    RetryPolicy {
        attempts: policy.attempts,
        per_try_timeout: policy.per_try_timeout.map(|time| time.0).filter(|time| !time.is_zero()),
        on,
        retriable_status_codes: codes.into(),
        backoff: policy
            .backoff
            .map(|base| base.0)
            .filter(|base| !base.is_zero())
            .unwrap_or(DEFAULT_BACKOFF),
        ignore_previous_hosts: policy.retry_ignore_previous_hosts.unwrap_or(true),
    }
}

/// Words, status codes and what is neither, between commas. Spaces belong to the words, and make
/// them unknown.
fn conditions(text: &str) -> (RetryOn, Vec<u16>, Vec<&str>) {
    let mut on = RetryOn::default();
    let mut codes = Vec::new();
    let mut unknown = Vec::new();
    for word in text.split(',') {
        let condition = match word {
            "5xx" => &mut on.server_error,
            "gateway-error" => &mut on.gateway_error,
            "reset" => &mut on.reset,
            "reset-before-request" => &mut on.reset_before_request,
            "connect-failure" => &mut on.connect_failure,
            "envoy-ratelimited" => &mut on.envoy_ratelimited,
            "retriable-4xx" => &mut on.retriable_4xx,
            "refused-stream" => &mut on.refused_stream,
            "retriable-status-codes" => &mut on.retriable_status_codes,
            "cancelled" => &mut on.grpc_cancelled,
            "deadline-exceeded" => &mut on.grpc_deadline_exceeded,
            "internal" => &mut on.grpc_internal,
            "resource-exhausted" => &mut on.grpc_resource_exhausted,
            "unavailable" => &mut on.grpc_unavailable,
            code => {
                match code.parse::<u16>() {
                    Ok(code) => {
                        codes.push(code);
                        on.retriable_status_codes = true;
                    }
                    Err(_) => unknown.push(code),
                }
                continue;
            }
        };
        *condition = true;
    }
    codes.sort_unstable();
    codes.dedup();
    (on, codes, unknown)
}
