//! From what is known about an object to its conditions.

use weir_config::diagnostic::{Diagnostic, Severity};

use crate::store::{ACCEPTED, Condition, PROGRAMMED, Unusable, Written};

/// Bytes of a message. What is longer is read in the controller's log.
const MAX_MESSAGE: usize = 4096;

/// What is known about an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) generation: Option<i64>,
    pub(super) judgement: Judgement<'a>,
    /// What proxies said that did not apply it.
    pub(super) rejections: &'a [String],
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Judgement<'a> {
    Read(&'a [Diagnostic]),
    Unreadable(&'a Unusable),
    /// A kind that Weir knows and does not apply.
    NotApplied,
}

/// The status there should be. Where a condition is what it was, so is its time.
pub(super) fn desired(known: Known<'_>, written: &Written, now: &str) -> Written {
    let mut conditions = vec![accepted(known.judgement)];
    conditions.extend(programmed(known.rejections));
    for condition in &mut conditions {
        condition.observed_generation = known.generation;
        let before = written.conditions.iter().find(|before| {
            before.r#type == condition.r#type && before.status == condition.status
        });
        condition.last_transition_time =
            before.map_or_else(|| now.into(), |before| before.last_transition_time.clone());
    }
    Written { observed_generation: known.generation, conditions: conditions.into() }
}

fn accepted(judgement: Judgement<'_>) -> Condition {
    let (status, reason, message) = match judgement {
        Judgement::NotApplied => {
            let message = "this kind is not applied by Weir; the object has no effect".to_owned();
            ("False", "NotApplied", message)
        }
        Judgement::Unreadable(reason) => ("False", "Invalid", reason.to_string()),
        Judgement::Read(findings) => {
            let has_error = findings.iter().any(|finding| finding.severity == Severity::Error);
            let (status, reason) = if has_error { ("False", "Invalid") } else { ("True", "Accepted") };
            let messages: Vec<String> = findings.iter().map(shown).collect();
            (status, reason, messages.join("; "))
        }
    };
    condition(ACCEPTED, status, reason, message)
}

/// Said only when it is not so: not every object is for a proxy that is connected.
fn programmed(rejections: &[String]) -> Option<Condition> {
    let message = rejections.join("; ");
    (!rejections.is_empty()).then(|| condition(PROGRAMMED, "False", "Rejected", message))
}

fn shown(finding: &Diagnostic) -> String {
    let Diagnostic { severity, field, message, .. } = finding;
    let severity = if *severity == Severity::Error { "error" } else { "warning" };
    if field.is_empty() {
        format!("{severity}: {message}")
    } else {
        format!("{severity}: {field}: {message}")
    }
}

fn condition(r#type: &str, status: &str, reason: &str, mut message: String) -> Condition {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or_default());
    }
    Condition {
        r#type: r#type.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: None,
        last_transition_time: Box::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known<'a>(judgement: Judgement<'a>, rejections: &'a [String]) -> Known<'a> {
        Known { generation: Some(2), judgement, rejections }
    }

    fn of(written: &Written) -> Vec<(&str, &str, &str, &str)> {
        let conditions = written.conditions.iter();
        conditions
            .map(|c| (&*c.r#type, &*c.status, &*c.reason, &*c.last_transition_time))
            .collect()
    }

    #[test]
    fn the_time_of_a_condition_changes_with_its_status_only() {
        let rejections = ["a proxy says no".to_owned()];
        let first = desired(known(Judgement::Read(&[]), &[]), &Written::default(), "t1");
        assert_eq!(of(&first), [("Accepted", "True", "Accepted", "t1")]);
        assert_eq!(first.observed_generation, Some(2));
        let second = desired(known(Judgement::Read(&[]), &rejections), &first, "t2");
        let expected =
            [("Accepted", "True", "Accepted", "t1"), ("Programmed", "False", "Rejected", "t2")];
        assert_eq!(of(&second), expected);
        let third = desired(known(Judgement::NotApplied, &[]), &second, "t3");
        assert_eq!(of(&third), [("Accepted", "False", "NotApplied", "t3")]);
    }

    #[test]
    fn nothing_new_is_what_was_written() {
        let first = desired(known(Judgement::Read(&[]), &[]), &Written::default(), "t1");
        assert_eq!(desired(known(Judgement::Read(&[]), &[]), &first, "t2"), first);
    }
}
