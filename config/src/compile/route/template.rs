//! Header values with Envoy's `%OPERATOR%`s in them -> HeaderTemplate.

use std::sync::Arc;

use http::HeaderValue;

use crate::model::route::{HeaderTemplate, Operator, TemplatePart};

/// Reads `value`; `%%` is a percent sign. What cannot be read is left out and told in `problems`;
/// `None` when nothing can be sent at all.
pub(super) fn parse(value: &str, problems: &mut Vec<String>) -> Option<HeaderTemplate> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = value;
    while let Some(percent) = rest.find('%') {
        literal.push_str(&rest[..percent]);
        rest = &rest[percent + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let Some((text, after)) = split_operator(rest) else {
            problems.push("a percent sign that starts no %OPERATOR% is written %%".into());
            literal.push('%');
            continue;
        };
        rest = after;
        match operator(text) {
            Some(operator) => {
                push_literal(&mut parts, &mut literal);
                parts.push(TemplatePart::Operator(operator));
            }
            None => problems.push(format!("%{text}% is not supported and left out")),
        }
    }
    literal.push_str(rest);
    push_literal(&mut parts, &mut literal);
    finish(parts, problems)
}

fn push_literal(parts: &mut Vec<TemplatePart>, literal: &mut String) {
    if !literal.is_empty() {
        parts.push(TemplatePart::Literal(std::mem::take(literal).into()));
    }
}

fn finish(parts: Vec<TemplatePart>, problems: &mut Vec<String>) -> Option<HeaderTemplate> {
    for part in &parts {
        if let TemplatePart::Literal(text) = part
            && HeaderValue::from_str(text).is_err()
        {
            problems.push("the value has characters a header cannot carry; it is not sent".into());
            return None;
        }
    }
    match parts.as_slice() {
        [] => Some(HeaderTemplate::Literal(HeaderValue::from_static(""))),
        [TemplatePart::Literal(text)] => {
            HeaderValue::from_str(text).ok().map(HeaderTemplate::Literal)
        }
        _ => Some(HeaderTemplate::Format(parts.into())),
    }
}

/// `NAME(arguments):length%rest` -> what is before the closing percent sign, and `rest`. Arguments
/// may hold percent signs.
fn split_operator(text: &str) -> Option<(&str, &str)> {
    let name_end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    let name_end = name_end.filter(|&end| end > 0)?;
    let after_arguments = match text[name_end..].strip_prefix('(') {
        Some(arguments) => name_end + 1 + arguments.find(')')? + 1,
        None => name_end,
    };
    let end = after_arguments + text[after_arguments..].find('%')?;
    let length = &text[after_arguments..end];
    let is_length = length.is_empty() || length.starts_with(':');
    is_length.then(|| (&text[..end], &text[end + 1..]))
}

fn operator(text: &str) -> Option<Operator> {
    if let Some(arguments) = text.strip_prefix("REQ(") {
        let (name, alternative, max) = header_arguments(arguments)?;
        return Some(Operator::Request { name, alternative, max });
    }
    if let Some(arguments) = text.strip_prefix("RESP(") {
        let (name, alternative, max) = header_arguments(arguments)?;
        return Some(Operator::Response { name, alternative, max });
    }
    Some(match text {
        "DOWNSTREAM_REMOTE_ADDRESS" => Operator::DownstreamRemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::DownstreamRemoteAddressWithoutPort,
        "DOWNSTREAM_LOCAL_ADDRESS" => Operator::DownstreamLocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::DownstreamLocalAddressWithoutPort,
        "DOWNSTREAM_LOCAL_PORT" => Operator::DownstreamLocalPort,
        "PROTOCOL" => Operator::Protocol,
        "HOSTNAME" => Operator::Hostname,
        "REQUESTED_SERVER_NAME" => Operator::RequestedServerName,
        "UPSTREAM_HOST" => Operator::UpstreamHost,
        "UPSTREAM_CLUSTER" => Operator::UpstreamCluster,
        "ROUTE_NAME" => Operator::RouteName,
        "RESPONSE_CODE" => Operator::ResponseCode,
        "START_TIME" => Operator::StartTime,
        "DOWNSTREAM_PEER_URI_SAN" => Operator::DownstreamPeerUriSan,
        "DOWNSTREAM_PEER_SUBJECT" => Operator::DownstreamPeerSubject,
        _ => return None,
    })
}

/// Name, alternative name, and the bytes shown at most.
type HeaderArguments = (Arc<str>, Option<Arc<str>>, Option<usize>);

/// Reads `name?alternative):max`.
fn header_arguments(text: &str) -> Option<HeaderArguments> {
    let (names, length) = text.split_once(')')?;
    let max = match length.strip_prefix(':') {
        Some(digits) => Some(digits.parse().ok()?),
        None => None,
    };
    let (name, alternative) = match names.split_once('?') {
        Some((name, alternative)) => (name, Some(alternative)),
        None => (names, None),
    };
    let lower = |name: &str| Arc::from(name.to_ascii_lowercase());
    (!name.is_empty()).then(|| (lower(name), alternative.map(lower), max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(value: &str) -> (Vec<TemplatePart>, usize) {
        let mut problems = Vec::new();
        let parts = match parse(value, &mut problems).unwrap() {
            HeaderTemplate::Literal(value) => {
                vec![TemplatePart::Literal(value.to_str().unwrap().into())]
            }
            HeaderTemplate::Format(parts) => parts.to_vec(),
        };
        (parts, problems.len())
    }

    fn literal(text: &str) -> TemplatePart {
        TemplatePart::Literal(text.into())
    }

    #[test]
    fn a_doubled_percent_sign_is_one() {
        assert_eq!(parts("100%%"), (vec![literal("100%")], 0));
        assert_eq!(parts("%%PROTOCOL%%"), (vec![literal("%PROTOCOL%")], 0));
    }

    #[test]
    fn operators_stand_between_literals() {
        let (found, problems) = parts("a %PROTOCOL% b%REQ(X-Id?:path):12%");
        assert_eq!(problems, 0);
        assert_eq!(
            found,
            [
                literal("a "),
                TemplatePart::Operator(Operator::Protocol),
                literal(" b"),
                TemplatePart::Operator(Operator::Request {
                    name: "x-id".into(),
                    alternative: Some(":path".into()),
                    max: Some(12),
                }),
            ]
        );
    }

    #[test]
    fn an_operator_prints_as_it_is_written() {
        for value in ["%REQ(x-id?:path):12%", "%RESP(a)%", "%UPSTREAM_HOST%", "%START_TIME%"] {
            let (found, _) = parts(&format!("{value}!"));
            let [TemplatePart::Operator(operator), _] = &found[..] else { panic!("{found:?}") };
            assert_eq!(operator.to_string(), value);
        }
    }

    #[test]
    fn what_is_not_understood_is_left_out_and_said() {
        assert_eq!(parts("a%FILTER_STATE(x)%b"), (vec![literal("ab")], 1));
        assert_eq!(parts("%START_TIME(%Y)%!"), (vec![literal("!")], 1));
        assert_eq!(parts("50% off"), (vec![literal("50% off")], 1));
    }

    #[test]
    fn a_value_no_header_can_carry_is_not_sent() {
        let mut problems = Vec::new();
        assert_eq!(parse("a\nb", &mut problems), None);
        assert_eq!(problems.len(), 1);
    }
}
