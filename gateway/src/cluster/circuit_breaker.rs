//! How much of a cluster one proxy may use at once (`connectionPool`; istio-compat 1.3).
//!
//! The counts belong to the cluster's name and outlive its configurations; the limits come from the
//! configuration in force.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use http::{HeaderName, HeaderValue, StatusCode};
use weir_config::model::cluster::CircuitBreakers;

use crate::{
    local_reply::LocalReply,
    telemetry::{ResponseFlag, clusters::ClusterGauges},
    upstream::{
        Slot,
        count::{Taken, take},
    },
};

#[derive(Debug)]
pub(super) struct CircuitBreaker {
    gauges: Arc<ClusterGauges>,
    retries_active: AtomicI64,
}

/// A request admitted to a cluster, until dropped.
#[derive(Debug)]
pub struct Permit<'a>(#[expect(dead_code, reason = "held, not read")] Taken<'a>);

/// A retry admitted to a cluster, until dropped.
#[derive(Debug)]
pub struct RetryPermit<'a>(#[expect(dead_code, reason = "held, not read")] Taken<'a>);

impl CircuitBreaker {
    pub(super) fn new(gauges: Arc<ClusterGauges>) -> Self {
        Self { gauges, retries_active: AtomicI64::new(0) }
    }

    pub(super) fn gauges(&self) -> &Arc<ClusterGauges> {
        &self.gauges
    }

    pub(super) fn admit(&self, limits: &CircuitBreakers) -> Result<Permit<'_>, LocalReply> {
        let permit = take(&self.gauges.requests_active, limits.max_requests).map(Permit);
        permit.ok_or_else(|| {
            self.gauges.requests_overflow.fetch_add(1, Ordering::Relaxed);
            overflow()
        })
    }

    pub(super) fn admit_retry(&self, limits: &CircuitBreakers) -> Option<RetryPermit<'_>> {
        let permit = take(&self.retries_active, limits.max_retries).map(RetryPermit)?;
        self.gauges.retries.fetch_add(1, Ordering::Relaxed);
        Some(permit)
    }

    pub(super) fn admit_connection(&self, limits: &CircuitBreakers) -> Option<Slot> {
        Slot::take(&self.gauges, limits.max_connections)
    }
}

/// The answer to a request beyond a limit.
#[must_use]
pub fn overflow() -> LocalReply {
    LocalReply::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ResponseFlag::UpstreamOverflow,
        "upstream_reset_before_response_started{overflow}",
        "upstream connect error or disconnect/reset before headers. reset reason: overflow",
    )
    .with_header(HeaderName::from_static("x-envoy-overloaded"), HeaderValue::from_static("true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> CircuitBreaker {
        CircuitBreaker::new(Arc::default())
    }

    #[test]
    fn a_request_beyond_the_limit_is_answered_503_overloaded() {
        let breaker = breaker();
        let limits = CircuitBreakers { max_requests: 1, ..CircuitBreakers::default() };
        let first = breaker.admit(&limits).expect("the first request is within the limit");
        let reply = breaker.admit(&limits).expect_err("the second is not");
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.flag, Some(ResponseFlag::UpstreamOverflow));
        assert_eq!(reply.headers[0].0.as_str(), "x-envoy-overloaded");
        assert_eq!(breaker.gauges.requests_overflow.load(Ordering::Relaxed), 1);
        drop(first);
        assert!(breaker.admit(&limits).is_ok());
    }

    #[test]
    fn retries_have_a_limit_of_their_own() {
        let breaker = breaker();
        let limits = CircuitBreakers { max_retries: 1, ..CircuitBreakers::default() };
        let _first = breaker.admit_retry(&limits).expect("the first retry is within the limit");
        assert!(breaker.admit_retry(&limits).is_none());
        assert!(breaker.admit(&limits).is_ok());
    }

    #[test]
    fn connections_have_a_limit_of_their_own() {
        let breaker = breaker();
        let limits = CircuitBreakers { max_connections: 1, ..CircuitBreakers::default() };
        let first = breaker.admit_connection(&limits).expect("the first is within the limit");
        assert!(breaker.admit_connection(&limits).is_none());
        drop(first);
        assert!(breaker.admit_connection(&limits).is_some());
    }
}
