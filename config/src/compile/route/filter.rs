//! CORS and fault injection of a rule.

use std::sync::Arc;

use http::StatusCode;

use super::{Context, matcher::string_match};
use crate::{
    api::{
        self, Percent,
        istio::http_route::{CorsPolicy, FaultAbort, HttpFaultInjection, UnmatchedPreflights},
    },
    model::{
        filter::{self, AbortStatus, Cors, Fault},
        matcher::StringMatch,
    },
};

/// gRPC status names in the order of their codes.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

pub(super) fn cors(context: &mut Context<'_>, policy: &CorsPolicy, field: &str) -> Cors {
    let deprecated = policy.allow_origin.iter().map(|origin| exact_origin(origin));
    let mut allow_origins: Vec<StringMatch> = deprecated.collect();
    for (index, origin) in policy.allow_origins.iter().enumerate() {
        let field = format!("{field}.allowOrigins[{index}]");
        match origin {
            api::StringMatch::Exact(origin) => allow_origins.push(exact_origin(origin)),
            // An origin that cannot be read allows nobody.
            origin => allow_origins.extend(string_match(context, origin, &field).ok()),
        }
    }
    let joined = |list: &[String]| (!list.is_empty()).then(|| Arc::from(list.join(",")));
    Cors {
        allow_origins: allow_origins.into(),
        allow_methods: joined(&policy.allow_methods),
        allow_headers: joined(&policy.allow_headers),
        expose_headers: joined(&policy.expose_headers),
        max_age: policy.max_age.map(|age| age.0),
        allow_credentials: policy.allow_credentials,
        forward_unmatched_preflights: policy.unmatched_preflights != UnmatchedPreflights::Ignore,
    }
}

/// `*` is every origin.
fn exact_origin(origin: &str) -> StringMatch {
    if origin == "*" { StringMatch::Present } else { StringMatch::Exact(origin.into()) }
}

/// The fault, or `None` when it never happens: a share that is not written is none (trap 24).
pub(super) fn fault(
    context: &mut Context<'_>,
    fault: &HttpFaultInjection,
    field: &str,
) -> Option<Fault> {
    let delay = fault.delay.as_ref().and_then(|delay| {
        let whole_percent = delay.percent.map(|percent| Percent { value: percent.into() });
        let per_million = per_million(delay.percentage.or(whole_percent));
        let duration = delay.fixed_delay?.0;
        (per_million > 0 && !duration.is_zero())
            .then_some(filter::FaultDelay { duration, per_million })
    });
    let abort = fault.abort.as_ref().and_then(|abort| {
        let per_million = per_million(abort.percentage);
        if per_million == 0 {
            return None;
        }
        let status = abort_status(abort);
        if status.is_none() {
            let message = "this abort has no effect: give httpStatus or a known grpcStatus";
            context.warn(format!("{field}.abort"), message);
        }
        status.map(|status| filter::FaultAbort { status, per_million })
    });
    (delay.is_some() || abort.is_some()).then_some(Fault { delay, abort })
}

fn abort_status(abort: &FaultAbort) -> Option<AbortStatus> {
    if let Some(status) = abort.http_status {
        return StatusCode::from_u16(status).ok().map(AbortStatus::Http);
    }
    let code = GRPC_STATUSES.iter().position(|name| *name == abort.grpc_status)?;
    u8::try_from(code).ok().map(AbortStatus::Grpc)
}

/// Percent with fractions to millionths.
pub(super) fn per_million(percent: Option<Percent>) -> u32 {
    let millionths = percent.map_or(0.0, |percent| percent.value * 10_000.0);
    // Saturates, so that what validation would have refused stays a share.
    millionths.round().clamp(0.0, 1_000_000.0) as u32
}
