use std::fmt::Write;

use super::*;
use crate::{
    api::Kind,
    parse::{Options, Parsed, parse},
};

/// Compares what is said about the objects of `testdata/validate/<kind>.yaml` with its `.snap`.
macro_rules! golden {
    ($($test:ident: $kind:literal)*) => {
        $(#[test]
        fn $test() {
            let text = include_str!(concat!("../../testdata/validate/", $kind, ".yaml"));
            insta::with_settings!({
                snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/validate"),
                prepend_module_to_snapshot => false,
                omit_expression => true,
            }, {
                insta::assert_snapshot!($kind, findings(text));
            });
        })*
    };
}

golden! {
    rules_for_gateways: "gateway"
    rules_for_virtual_services: "virtual_service"
    rules_for_destination_rules: "destination_rule"
    rules_for_service_entries: "service_entry"
    rules_for_workload_entries: "workload_entry"
    rules_for_request_authentications: "request_authentication"
    rules_for_authorization_policies: "authorization_policy"
    rules_for_kubernetes_kinds_and_names: "kubernetes"
}

const SAMPLES: &str = include_str!("../../testdata/parse/istio_samples.yaml");

const CASES: [&str; 8] = [
    include_str!("../../testdata/validate/gateway.yaml"),
    include_str!("../../testdata/validate/virtual_service.yaml"),
    include_str!("../../testdata/validate/destination_rule.yaml"),
    include_str!("../../testdata/validate/service_entry.yaml"),
    include_str!("../../testdata/validate/request_authentication.yaml"),
    include_str!("../../testdata/validate/authorization_policy.yaml"),
    include_str!("../../testdata/validate/kubernetes.yaml"),
    SAMPLES,
];

fn read(text: &[u8]) -> Parsed {
    parse("file", text, &Options::default())
}

/// Every object, and indented what validation says about it.
fn findings(text: &str) -> String {
    let parsed = read(text.as_bytes());
    let unread: Vec<String> = parsed.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(unread, [""; 0], "the cases are about validation and parse without a finding");
    let mut text = String::new();
    for object in &parsed.objects {
        writeln!(text, "{}", object.key()).unwrap();
        for Diagnostic { severity, field, message, .. } in validate(object) {
            writeln!(text, "  {severity:?} {field}\n    {message}").unwrap();
        }
    }
    text
}

#[test]
fn the_samples_of_istios_documentation_load_without_a_finding() {
    let parsed = read(SAMPLES.as_bytes());
    let said = parsed.diagnostics.into_iter().chain(parsed.objects.iter().flat_map(validate));
    assert_eq!(said.map(|finding| finding.to_string()).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(parsed.objects.len(), 20);
}

#[test]
fn a_finding_names_the_object_and_where_it_was_read() {
    let text = format!(
        "# first\n{}",
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\n"
    );
    let parsed = read(text.as_bytes());
    let found: Vec<String> = validate(&parsed.objects[0]).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        ["error: file:2: Gateway default/a: spec.servers: a Gateway needs at least one server"]
    );
}

#[test]
fn a_rule_among_ten_thousand_is_found_unreachable_in_linear_time() {
    let mut text =
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\n\
                    spec:\n  hosts: [a]\n  http:\n"
            .to_owned();
    for n in 0..10_000 {
        let path = if n == 9_999 { "/5/x".to_owned() } else { format!("/{n}/") };
        writeln!(
            text,
            "  - {{match: [{{uri: {{prefix: {path}}}}}], route: [{{destination: {{host: a}}}}]}}"
        )
        .unwrap();
    }
    let found = validate(&read(text.as_bytes()).objects[0]);
    let messages: Vec<&str> = found.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "never used: http[5].match[0] already matches the same",
            "never used: all of its matches are taken by rules before it",
        ]
    );
}

#[test]
fn mutated_documents_never_panic() {
    let documents: Vec<&str> = CASES.iter().flat_map(|file| file.split("\n---\n")).collect();
    let mut random = Random(0x5eed_c0de);
    let mut kinds = std::collections::BTreeSet::new();
    for round in 0..4_000 {
        let mut text = documents[random.below(documents.len())].as_bytes().to_vec();
        for _ in 0..random.below(6) {
            random.mutate(&mut text);
        }
        let parsed = read(&text);
        kinds.extend(parsed.objects.iter().map(Object::kind));
        for finding in parsed.objects.iter().flat_map(validate).chain(parsed.diagnostics) {
            assert!(!finding.message.is_empty(), "round {round}");
        }
    }
    // The mutations are mild enough for validation to see objects of every kind.
    assert!(kinds.len() >= 10 && kinds.contains(&Kind::VirtualService), "{kinds:?}");
}

/// A linear congruential generator: the same bytes on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }

    fn mutate(&mut self, text: &mut Vec<u8>) {
        const BYTES: &[u8] = b"{}[]:,-&*!|>'\"%@`#? \n\t\r\0~0159aZ/.<\xc3\xff";
        let at = self.below(text.len());
        match self.below(5) {
            0 if !text.is_empty() => text[at] = BYTES[self.below(BYTES.len())],
            1 => text.insert(at, BYTES[self.below(BYTES.len())]),
            2 if !text.is_empty() => drop(text.remove(at)),
            3 => text.truncate(at),
            _ => {
                let end = (at + self.below(40)).min(text.len());
                let piece = text[at..end].to_vec();
                let to = self.below(text.len());
                text.splice(to..to, piece);
            }
        }
    }
}
