//! Http rules and conditions that can never be reached, because earlier ones match the same.

use rustc_hash::FxHashMap;

use super::super::Findings;
use crate::{
    api::{
        StringMatch,
        istio::http_route::{HttpMatchRequest, HttpRoute},
    },
    diagnostic::FieldPath,
};

/// Warns about what is shadowed, in time proportional to the rules.
pub(super) fn validate(rules: &[HttpRoute], http: FieldPath<'_>, findings: &mut Findings<'_>) {
    let mut earlier = Earlier::default();
    let mut catch_all: Option<usize> = None;
    for (index, rule) in rules.iter().enumerate() {
        let at = http.index(index);
        if let Some(first) = catch_all {
            findings.warning(
                at,
                format!("never used: http[{first}] before it matches every request; move it up"),
            );
            continue;
        }
        let mut shadowed = 0;
        for (position, condition) in rule.matches.iter().enumerate() {
            if let Some((rule, condition)) = earlier.covering(condition) {
                shadowed += 1;
                findings.warning(
                    at.field("match").index(position),
                    format!("never used: http[{rule}].match[{condition}] already matches the same"),
                );
            }
        }
        if shadowed > 0 && shadowed == rule.matches.len() {
            findings.warning(at, "never used: all of its matches are taken by rules before it");
        }
        // What a delegate does not match falls through to the next rule.
        if rule.delegate.is_none() {
            if is_catch_all(rule) {
                catch_all = Some(index);
            }
            for (position, condition) in rule.matches.iter().enumerate() {
                earlier.insert(condition, (index, position));
            }
        }
    }
}

/// No conditions at all, or one that only says `prefix: /` or `regex: .*`.
fn is_catch_all(rule: &HttpRoute) -> bool {
    let unconditional = |condition: &HttpMatchRequest| {
        let any_path = match &condition.uri {
            None | Some(StringMatch::Present) => true,
            Some(StringMatch::Prefix(prefix)) => prefix.is_empty() || prefix == "/",
            Some(StringMatch::Regex(pattern)) => pattern == ".*",
            Some(StringMatch::Exact(_)) => false,
        };
        any_path && apart_from_uri(condition) == HttpMatchRequest::default()
    };
    rule.matches.is_empty() || rule.matches.iter().any(unconditional)
}

/// The condition without its path and without what does not decide: names and path case.
fn apart_from_uri(condition: &HttpMatchRequest) -> HttpMatchRequest {
    HttpMatchRequest {
        uri: None,
        name: String::new(),
        stat_prefix: String::new(),
        ignore_uri_case: false,
        ..condition.clone()
    }
}

/// Index of a rule and of a condition in it.
type Position = (usize, usize);

/// The conditions of earlier rules.
#[derive(Default)]
struct Earlier<'a> {
    same: FxHashMap<&'a HttpMatchRequest, Position>,
    /// Case-sensitive path prefixes, by what else the condition says.
    prefixes: FxHashMap<HttpMatchRequest, FxHashMap<&'a str, Position>>,
}

impl<'a> Earlier<'a> {
    fn insert(&mut self, condition: &'a HttpMatchRequest, position: Position) {
        self.same.entry(condition).or_insert(position);
        if let Some(prefix) = plain_prefix(condition) {
            let prefixes = self.prefixes.entry(apart_from_uri(condition)).or_default();
            prefixes.entry(prefix).or_insert(position);
        }
    }

    /// An earlier condition that matches everything `condition` does.
    fn covering(&self, condition: &HttpMatchRequest) -> Option<Position> {
        if let Some(position) = self.same.get(condition) {
            return Some(*position);
        }
        let prefix = plain_prefix(condition)?;
        let prefixes = self.prefixes.get(&apart_from_uri(condition))?;
        (0..=prefix.len())
            .filter_map(|end| prefix.get(..end))
            .find_map(|shorter| prefixes.get(shorter))
            .copied()
    }
}

fn plain_prefix(condition: &HttpMatchRequest) -> Option<&str> {
    match &condition.uri {
        Some(StringMatch::Prefix(prefix)) if !condition.ignore_uri_case => Some(prefix),
        _ => None,
    }
}
