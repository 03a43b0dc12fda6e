//! AdmissionReview in, AdmissionReview out.

use serde_json::{Map, Value, json};
use weir_config::{
    api::Kind,
    diagnostic::{Diagnostic, Severity},
    parse::{Options, parse},
    validate::validate,
};

use crate::on_purpose;

/// What the API server passes on to the user, per warning; longer ones are cut there.
const MAX_WARNING: usize = 256;

/// The answer to a review.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) review: Value,
    pub(super) kind: String,
    pub(super) is_allowed: bool,
    /// Nothing came of it, whatever the answer: it is not counted.
    pub(super) is_dry_run: bool,
}

/// Judges the object of an AdmissionReview; `None` if it is none.
pub(super) fn review(body: &[u8]) -> Option<Verdict> {
    let review: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let request = review.get("request")?;
    let text = |pointer: &str| request.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let judged = match text("/operation") {
        "CREATE" | "UPDATE" if text("/subResource").is_empty() => request.get("object"),
        // What goes away, and what only a status is about, cannot be wrong.
        _ => None,
    };
    let findings = judged.map_or_else(Vec::new, |object| judge(object, text("/namespace")));
    let of = |severity| findings.iter().filter(move |finding| finding.severity == severity);
    let errors: Vec<String> = of(Severity::Error).map(shown).collect();
    let warnings: Vec<String> = of(Severity::Warning).map(shown).map(cut).collect();
    let is_allowed = errors.is_empty();
    let mut response = json!({ "uid": request.get("uid")?, "allowed": is_allowed });
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    if !is_allowed {
        let message = errors.join("; ");
        response["status"] =
            json!({ "code": 422, "reason": "Invalid", "status": "Failure", "message": message });
    }
    let version = review.get("apiVersion")?;
    Some(Verdict {
        review: json!({ "apiVersion": version, "kind": "AdmissionReview", "response": response }),
        kind: text("/kind/kind").to_owned(),
        is_allowed,
        is_dry_run: request.get("dryRun") == Some(&Value::Bool(true)),
    })
}

fn judge(object: &Value, namespace: &str) -> Vec<Diagnostic> {
    let options = Options { default_namespace: namespace.to_owned() };
    let parsed = parse("object", object.to_string().as_bytes(), &options);
    let mut findings = parsed.diagnostics;
    for object in &parsed.objects {
        on_purpose::panic_over(object);
        findings.extend(validate(object));
        if object.kind() == Kind::EnvoyFilter {
            findings.push(Diagnostic {
                severity: Severity::Warning,
                object: Some(object.key()),
                source: object.source.clone(),
                field: String::new(),
                message: "EnvoyFilter is not applied by Weir; the object has no effect".to_owned(),
            });
        }
    }
    findings.sort_by(|a, b| a.field.cmp(&b.field).then_with(|| a.message.cmp(&b.message)));
    findings.dedup_by(|a, b| a.field == b.field && a.message == b.message);
    findings
}

/// The field and what is wrong with it. The object is the one that was sent.
fn shown(finding: &Diagnostic) -> String {
    let Diagnostic { field, message, .. } = finding;
    if field.is_empty() { message.clone() } else { format!("{field}: {message}") }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_WARNING {
        let end = (0..=MAX_WARNING - 3).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(operation: &str, spec: Value) -> Value {
        let request = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u1", "operation": operation, "namespace": "shop",
                "kind": {"group": "networking.istio.io", "kind": "VirtualService"},
                "object": {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                    "metadata": {"name": "v"}, "spec": spec},
            },
        });
        let verdict = review(request.to_string().as_bytes()).unwrap();
        verdict.review["response"].clone()
    }

    fn good() -> Value {
        json!({"hosts": ["a.com"], "http": [{"route": [{"destination": {"host": "web"}}]}]})
    }

    #[test]
    fn a_good_object_is_allowed_without_a_word() {
        assert_eq!(answer("CREATE", good()), json!({"uid": "u1", "allowed": true}));
    }

    #[test]
    fn every_error_is_named_with_its_field() {
        let spec = json!({"hosts": [], "gateways": ["a/b/c"], "http": [
            {"timeout": "1", "route": [{"destination": {"host": "web"}}]}, {"rewrite": {}}]});
        let answer = answer("UPDATE", spec);
        assert_eq!(answer["allowed"], false);
        let message = answer["status"]["message"].as_str().unwrap();
        assert!(message.contains("spec.http[0].timeout: "), "{message}");
    }

    #[test]
    fn an_unknown_field_is_a_warning() {
        let mut spec = good();
        spec["htpp"] = json!([]);
        let answer = answer("CREATE", spec);
        assert_eq!(answer["allowed"], true);
        let warning = answer["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with("spec.htpp: "), "{warning}");
    }

    #[test]
    fn what_is_deleted_is_not_judged() {
        assert_eq!(answer("DELETE", json!({"hosts": 7})), json!({"uid": "u1", "allowed": true}));
    }

    #[test]
    fn long_warnings_are_cut_between_characters() {
        let cut = cut("ä".repeat(300));
        assert!(cut.len() <= MAX_WARNING && cut.ends_with("ä..."), "{cut}");
    }

    #[test]
    fn what_is_no_review_has_no_answer() {
        assert!(review(b"{}").is_none());
        assert!(review(b"[").is_none());
    }
}
