//! Percentages in configuration.

use super::Findings;
use crate::{api::Percent, diagnostic::FieldPath};

/// 0, or from 0.0001 to 100: what can be told apart when it is applied.
pub(super) fn validate(
    percentage: Option<Percent>,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let Some(Percent { value }) = percentage else { return };
    if value != 0.0 && !(0.0001..=100.0).contains(&value) {
        findings.error(at.field("value"), "a percentage is 0, or from 0.0001 to 100");
    }
}
