//! Rules for header operations and the variables in their values.

use std::collections::BTreeMap;

use super::super::{Findings, name};
use crate::{
    api::istio::http_route::{HeaderOperations, Headers},
    diagnostic::FieldPath,
};

pub(super) fn validate(headers: Option<&Headers>, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let Some(Headers { request, response }) = headers else { return };
    if let Some(operations) = request {
        self::operations(operations, true, at.field("request"), findings);
    }
    if let Some(operations) = response {
        self::operations(operations, false, at.field("response"), findings);
    }
    let twice = request.as_ref().is_some_and(|operations| {
        operations.set.keys().chain(operations.add.keys()).filter(|key| is_authority(key)).count()
            > 1
    });
    if twice {
        findings.error(at.field("request"), "the Host header is changed more than once; keep one");
    }
}

/// Whether the operations change the Host header sent upstream.
pub(super) fn sets_authority(headers: &Headers) -> bool {
    headers.request.as_ref().is_some_and(|operations| {
        operations.set.keys().chain(operations.add.keys()).any(|key| is_authority(key))
    })
}

fn is_authority(header: &str) -> bool {
    header.eq_ignore_ascii_case("host") || header == ":authority"
}

fn operations(
    operations: &HeaderOperations,
    request: bool,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let HeaderOperations { set, add, remove } = operations;
    values(set, request, at.field("set"), findings);
    values(add, request, at.field("add"), findings);
    let at = at.field("remove");
    for (index, header) in remove.iter().enumerate() {
        if is_authority(header) || header.starts_with(':') {
            findings
                .error(at.index(index), "every message needs this header; it cannot be removed");
        } else if !name::is_header_name(header) {
            findings.error(at.index(index), format!("{header:?} is not a header name"));
        }
    }
}

fn values(
    headers: &BTreeMap<String, String>,
    request: bool,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    for (header, value) in headers {
        let at = at.key(header);
        let authority = is_authority(header);
        if authority && !request {
            findings.error(at, "a response has no Host header; remove the entry");
        } else if !authority && header.starts_with(':') {
            findings.error(at, "pseudo headers cannot be changed here, only Host and :authority");
        } else if !authority && !name::is_header_name(header) {
            findings.error(at, "not a header name; use letters, digits, - and _");
        }
        if let Err(message) = header_value(value) {
            findings.error(at, message);
        }
    }
}

/// Checks the characters of a value and the grammar of its variables: `%NAME%`, `%NAME(argument)%`,
/// `%NAME(argument):length%`, and `%%` for a percent sign.
fn header_value(value: &str) -> Result<(), String> {
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err("a header value has no line breaks or control characters".to_owned());
    }
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('%') {
        rest = match after.strip_prefix('%') {
            Some(literal) => literal,
            None => variable(after)?,
        };
    }
    Ok(())
}

/// Reads a variable after its `%`; returns what follows its closing `%`.
fn variable(text: &str) -> Result<&str, String> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let (name, mut rest) = text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len()));
    if name.is_empty() {
        return Err(
            "a single % starts a variable such as %REQ(name)%; write %% for a percent sign"
                .to_owned(),
        );
    }
    if let Some(argument) = rest.strip_prefix('(') {
        let (_, after) = argument
            .split_once(')')
            .ok_or_else(|| format!("the argument of %{name}( has no closing parenthesis"))?;
        rest = after;
    }
    if let Some(length) = rest.strip_prefix(':') {
        rest = length.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    rest.strip_prefix('%').ok_or_else(|| {
        format!("the variable %{name} has no closing %; write %% for a percent sign")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_escaped_percent_signs_are_values() {
        for value in [
            "",
            "plain",
            "100%%",
            "%REQ(x-user)%",
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
            "a %REQ(x?y):10% b %PROTOCOL%",
            "%DYNAMIC_METADATA([\"a\", \"b\"])%",
            "tab\there",
        ] {
            assert_eq!(header_value(value), Ok(()), "{value}");
        }
    }

    #[test]
    fn broken_variables_are_refused() {
        for value in
            ["100%", "%", "%REQ", "%REQ(x", "%REQ(x)", "50% off", "%req(x)%", "a\nb", "a\0"]
        {
            assert!(header_value(value).is_err(), "{value:?}");
        }
    }
}
