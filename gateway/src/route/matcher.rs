//! Whether a request fits a route: the parts of `RouteMatch`, as Envoy's router compares them.

use std::borrow::Cow;

use http::{HeaderName, header};
use weir_config::model::{
    matcher::StringMatch,
    route::{ClaimMatch, HeaderMatch, PathMatch, QueryParamMatch, RouteMatch},
};

use crate::{filter::RequestContext, head::RequestHeader};

/// A request as routes look at it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Canonical.
    pub request: &'a RequestHeader,
    pub context: &'a RequestContext,
}

impl<'a> Subject<'a> {
    pub(super) fn path(&self) -> &'a str {
        self.request.uri.path()
    }

    pub(super) fn authority(&self) -> &'a str {
        self.request
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default()
    }

    /// All values of a field as one, joined with commas (Envoy's `getAllOfHeaderAsString`).
    pub(super) fn header(&self, name: &HeaderName) -> Option<Cow<'a, str>> {
        let mut values = self.request.headers.get_all(name);
        // Bytes that are no text are replaced: they must not hide the rest of the value.
        let first = String::from_utf8_lossy(values.next()?.as_bytes());
        Some(values.fold(first, |mut joined, value| {
            let text = joined.to_mut();
            text.push(',');
            text.push_str(&String::from_utf8_lossy(value.as_bytes()));
            joined
        }))
    }

    /// The query's pairs as they stand there, not decoded.
    pub(super) fn query_pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let query = self.request.uri.query().unwrap_or_default();
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    pub(super) fn query_param(&self, name: &str) -> Option<&'a str> {
        self.query_pairs().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// Whether all parts of `matcher` match.
#[must_use]
pub fn matches(matcher: &RouteMatch, subject: Subject<'_>) -> bool {
    path_matches(&matcher.path, matcher.ignore_path_case, subject.path())
        && conditions_match(matcher, subject)
}

/// Whether the parts other than the path match.
pub(super) fn conditions_match(matcher: &RouteMatch, subject: Subject<'_>) -> bool {
    let RouteMatch {
        path: _,
        ignore_path_case: _,
        method,
        scheme,
        authority,
        headers,
        query_params,
        claims,
    } = matcher;
    let fits = |expected: &Option<StringMatch>, value: &str| {
        expected.as_ref().is_none_or(|expected| expected.is_match(value))
    };
    fits(method, subject.request.method.as_str())
        && fits(scheme, subject.context.scheme.as_str())
        && fits(authority, subject.authority())
        && headers.iter().all(|header| header_matches(header, subject))
        && query_params.iter().all(|param| query_param_matches(param, subject))
        && claims.iter().all(|claim| claim_matches(claim, subject))
}

/// Whether there are parts other than the path.
pub(super) fn has_conditions(matcher: &RouteMatch) -> bool {
    matcher.method.is_some()
        || matcher.scheme.is_some()
        || matcher.authority.is_some()
        || !matcher.headers.is_empty()
        || !matcher.query_params.is_empty()
        || !matcher.claims.is_empty()
}

fn path_matches(matcher: &PathMatch, ignore_case: bool, path: &str) -> bool {
    let starts_with = |prefix: &str| {
        let start = path.as_bytes().get(..prefix.len());
        start.is_some_and(|start| {
            if ignore_case {
                start.eq_ignore_ascii_case(prefix.as_bytes())
            } else {
                start == prefix.as_bytes()
            }
        })
    };
    match matcher {
        PathMatch::Any => true,
        PathMatch::Exact(exact) => path.len() == exact.len() && starts_with(exact),
        PathMatch::Prefix(prefix) => starts_with(prefix),
        PathMatch::SegmentPrefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            starts_with(prefix) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
        }
        PathMatch::Regex(regex) => regex.is_match(path),
    }
}

fn header_matches(matcher: &HeaderMatch, subject: Subject<'_>) -> bool {
    let matched = subject.header(&matcher.name).is_some_and(|value| matcher.value.is_match(&value));
    matched != matcher.invert
}

fn query_param_matches(matcher: &QueryParamMatch, subject: Subject<'_>) -> bool {
    subject.query_param(&matcher.name).is_some_and(|value| matcher.value.is_match(value))
}

fn claim_matches(matcher: &ClaimMatch, subject: Subject<'_>) -> bool {
    let matched =
        subject.context.claims.as_ref().is_some_and(|claims| {
            claims.texts(&matcher.path).any(|text| matcher.value.is_match(text))
        });
    matched != matcher.invert
}
