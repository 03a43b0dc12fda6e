//! HTTPMatchRequest -> RouteMatch.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderName;

use super::{Context, Unusable};
use crate::{
    api::{self, istio::http_route::HttpMatchRequest},
    model::{
        matcher::{FullRegex, StringMatch},
        route::{ClaimMatch, HeaderMatch, PathMatch, QueryParamMatch, RouteMatch},
    },
};

/// A header key that means a claim of the validated token; compared without case.
const CLAIM_PREFIX: &str = "@request.auth.claims";

/// The match, or `Unusable` where a part cannot be expressed: dropping only that part would match
/// more than was asked for.
pub(super) fn compile(
    context: &mut Context<'_>,
    condition: &HttpMatchRequest,
    field: &str,
) -> Result<RouteMatch, Unusable> {
    let mut headers = Headers::default();
    headers.add(context, &condition.headers, false, &format!("{field}.headers"))?;
    headers.add(context, &condition.without_headers, true, &format!("{field}.withoutHeaders"))?;
    let mut optional = |value: &Option<api::StringMatch>, name: &str| match value {
        Some(value) => string_match(context, value, &format!("{field}.{name}")).map(Some),
        None => Ok(None),
    };
    let scheme = optional(&condition.scheme, "scheme")?.or(headers.scheme);
    let method = optional(&condition.method, "method")?.or(headers.method);
    let authority = optional(&condition.authority, "authority")?.or(headers.authority);
    let path = match &condition.uri {
        Some(uri) => path_match(context, uri, &format!("{field}.uri"))?,
        None => PathMatch::Any,
    };
    if !condition.stat_prefix.is_empty() {
        context.warn(format!("{field}.statPrefix"), "statPrefix has no effect: it is not a label");
    }
    let mut query_params = Vec::with_capacity(condition.query_params.len());
    for (name, value) in &condition.query_params {
        let value = presence_match(context, value, &format!("{field}.queryParams[{name}]"))?;
        query_params.push(QueryParamMatch { name: name.as_str().into(), value });
    }
    Ok(RouteMatch {
        path,
        ignore_path_case: condition.ignore_uri_case,
        method,
        scheme,
        authority,
        headers: headers.headers.into(),
        query_params: query_params.into(),
        claims: headers.claims.into(),
    })
}

/// What the header keys of a match come to.
#[derive(Default)]
struct Headers {
    headers: Vec<HeaderMatch>,
    claims: Vec<ClaimMatch>,
    method: Option<StringMatch>,
    scheme: Option<StringMatch>,
    authority: Option<StringMatch>,
}

impl Headers {
    fn add(
        &mut self,
        context: &mut Context<'_>,
        conditions: &BTreeMap<String, api::StringMatch>,
        invert: bool,
        field: &str,
    ) -> Result<(), Unusable> {
        for (key, value) in conditions {
            let field = format!("{field}[{key}]");
            let value = presence_match(context, value, &field)?;
            let name = key.to_ascii_lowercase();
            if name.starts_with(CLAIM_PREFIX) {
                let path = claim_path(&key[CLAIM_PREFIX.len()..]);
                let path = path.ok_or_else(|| {
                    context.warn(&field, "this match never holds: no claim is named");
                    Unusable
                })?;
                self.claims.push(ClaimMatch { path, value, invert });
                continue;
            }
            // What HTTP/2 sends as pseudo headers is not among the headers of an HTTP/1 request.
            let pseudo = match name.as_str() {
                ":method" => Some(&mut self.method),
                ":scheme" => Some(&mut self.scheme),
                ":authority" | "host" => Some(&mut self.authority),
                _ => None,
            };
            match (pseudo, HeaderName::from_bytes(name.as_bytes())) {
                (Some(slot), _) if !invert && slot.is_none() => *slot = Some(value),
                (None, Ok(name)) => self.headers.push(HeaderMatch { name, value, invert }),
                (Some(_), _) | (None, Err(_)) => {
                    context.warn(
                        &field,
                        format!("this match never holds: {key} cannot be matched as a header here"),
                    );
                    return Err(Unusable);
                }
            }
        }
        Ok(())
    }
}

/// `.a.b` or `[a][b]` -> `a`, `b`.
fn claim_path(text: &str) -> Option<Arc<[Arc<str>]>> {
    let names: Vec<&str> = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.split("][").collect(),
        None => text.strip_prefix('.')?.split('.').collect(),
    };
    if names.iter().any(|name| name.is_empty()) {
        return None;
    }
    Some(names.into_iter().map(Into::into).collect())
}

fn path_match(
    context: &mut Context<'_>,
    uri: &api::StringMatch,
    field: &str,
) -> Result<PathMatch, Unusable> {
    Ok(match uri {
        api::StringMatch::Exact(path) => PathMatch::Exact(path.as_str().into()),
        // Every path starts with a slash, so `/` is what matches all of them.
        api::StringMatch::Prefix(prefix) if prefix.is_empty() => PathMatch::Any,
        api::StringMatch::Prefix(prefix) => PathMatch::Prefix(prefix.as_str().into()),
        api::StringMatch::Regex(pattern) => PathMatch::Regex(regex(context, pattern, field)?),
        api::StringMatch::Present => PathMatch::Any,
    })
}

/// A match on something that may be absent, where the regex `*` means that it is there.
fn presence_match(
    context: &mut Context<'_>,
    value: &api::StringMatch,
    field: &str,
) -> Result<StringMatch, Unusable> {
    match value {
        api::StringMatch::Regex(pattern) if pattern == "*" => Ok(StringMatch::Present),
        value => string_match(context, value, field),
    }
}

pub(super) fn string_match(
    context: &mut Context<'_>,
    value: &api::StringMatch,
    field: &str,
) -> Result<StringMatch, Unusable> {
    Ok(match value {
        api::StringMatch::Exact(value) => StringMatch::Exact(value.as_str().into()),
        api::StringMatch::Prefix(value) => StringMatch::Prefix(value.as_str().into()),
        api::StringMatch::Regex(pattern) => StringMatch::Regex(regex(context, pattern, field)?),
        api::StringMatch::Present => StringMatch::Present,
    })
}

fn regex(context: &mut Context<'_>, pattern: &str, field: &str) -> Result<FullRegex, Unusable> {
    FullRegex::new(pattern).map_err(|problem| {
        context.warn(field, format!("this match never holds: {problem}"));
        Unusable
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_named_with_dots_or_brackets() {
        let path = |text| claim_path(text).map(|path| path.join("|"));
        assert_eq!(path(".a.b").as_deref(), Some("a|b"));
        assert_eq!(path("[a.b][c]").as_deref(), Some("a.b|c"));
        assert_eq!(path(""), None);
        assert_eq!(path("."), None);
        assert_eq!(path("[]"), None);
        assert_eq!(path("[a"), None);
    }
}
