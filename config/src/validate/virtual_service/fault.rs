//! Rules for fault injection.

use super::super::{Findings, percent, time};
use crate::{
    api::istio::http_route::{FaultAbort, FaultDelay, HttpFaultInjection},
    diagnostic::FieldPath,
};

const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
];

pub(super) fn validate(fault: &HttpFaultInjection, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if fault.delay.is_none() && fault.abort.is_none() {
        findings.error(at, "a fault needs a delay or an abort");
    }
    if let Some(delay) = &fault.delay {
        self::delay(delay, at.field("delay"), findings);
    }
    if let Some(abort) = &fault.abort {
        self::abort(abort, at.field("abort"), findings);
    }
}

fn delay(delay: &FaultDelay, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if delay.exponential_delay.is_some() {
        findings.error(at.field("exponentialDelay"), "not supported; use fixedDelay");
    } else if delay.fixed_delay.is_none() {
        findings.error(at.field("fixedDelay"), "the length of the delay is needed");
    }
    time::validate(delay.fixed_delay, at.field("fixedDelay"), findings);
    if delay.percent.is_some_and(|percent| percent > 100) {
        findings.error(at.field("percent"), "a percentage is at most 100");
    }
    percent::validate(delay.percentage, at.field("percentage"), findings);
}

fn abort(abort: &FaultAbort, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let FaultAbort { http_status, grpc_status, http2_error, percentage } = abort;
    if !http2_error.is_empty() {
        findings.error(at.field("http2Error"), "not supported; use httpStatus or grpcStatus");
    } else if http_status.is_none() && grpc_status.is_empty() {
        findings.warning(at, "nothing to abort with; set httpStatus or grpcStatus");
    }
    if http_status.is_some() && !grpc_status.is_empty() {
        findings.error(at, "only one of httpStatus and grpcStatus may be set");
    }
    if http_status.is_some_and(|status| !(200..=600).contains(&status)) {
        findings.error(at.field("httpStatus"), "a status from 200 to 600 is needed");
    }
    if !grpc_status.is_empty() && !GRPC_STATUSES.contains(&grpc_status.as_str()) {
        findings.error(
            at.field("grpcStatus"),
            format!(
                "{grpc_status:?} is not a gRPC status; use one of {}",
                GRPC_STATUSES.join(", ")
            ),
        );
    }
    percent::validate(*percentage, at.field("percentage"), findings);
}
