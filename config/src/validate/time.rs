//! Durations in configuration.

use super::Findings;
use crate::{api::Duration, diagnostic::FieldPath};

/// At least a millisecond, and whole milliseconds.
pub(super) fn validate(duration: Option<Duration>, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let Some(Duration(duration)) = duration else { return };
    if duration.as_millis() == 0 {
        findings.error(at, "must be at least 1ms");
    } else if duration.subsec_nanos() % 1_000_000 != 0 {
        findings.error(at, "must be a whole number of milliseconds");
    }
}

/// As [`validate`], or zero, which turns the limit off.
pub(super) fn validate_or_zero(
    duration: Option<Duration>,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if duration.is_some_and(|duration| !duration.0.is_zero()) {
        validate(duration, at, findings);
    }
}
