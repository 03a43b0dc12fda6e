//! Regular expressions in configuration.

use super::Findings;
use crate::{
    diagnostic::FieldPath,
    model::matcher::{FullRegex, RegexRewrite},
};

/// Checks an expression that has to match a whole value.
pub(super) fn validate(pattern: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if pattern.is_empty() {
        findings.error(at, "an empty expression only matches an empty value; write one");
    } else if let Err(message) = FullRegex::new(pattern) {
        findings.error(at, one_line(&message));
    }
}

/// Checks an expression whose matches are replaced.
pub(super) fn validate_rewrite(
    pattern: &str,
    replacement: &str,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if let Err(message) = RegexRewrite::new(pattern, replacement) {
        findings.error(at, one_line(&message));
    }
}

/// The parser draws the expression with a caret below the mistake; the first words and the last line
/// say what it is.
fn one_line(message: &str) -> String {
    let introduction = message.split_once(':').map_or(message, |(introduction, _)| introduction);
    match message.rsplit_once('\n') {
        Some((_, mistake)) => {
            format!("{introduction}: {}", mistake.strip_prefix("error: ").unwrap_or(mistake))
        }
        None => message.to_owned(),
    }
}
