//! Authorization: a denying policy that matches wins, then, if there are allowing policies, one of them
//! has to match (istio-compat 1.9).
//!
//! Attributes are compared as the types they have; nothing is put together to strings on the way. Where
//! a field has several values, the doubt is decided against the client (hardening C5): to deny, one
//! value is enough, and one value outside a list of exceptions is, too.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use http::{HeaderValue, Method, StatusCode};
use smallvec::SmallVec;
use tracing::debug;
use weir_config::model::{
    filter::{self, Attribute, AuthzPolicy, AuthzRule, Condition, ValueMatch},
    matcher::StringMatch,
};

use super::{Claims, RequestContext};
use crate::{
    canonical::authority, connection::ConnectionInfo, head::RequestHeader, local_reply::LocalReply,
    telemetry::StreamInfo,
};

#[cfg(test)]
mod tests;

/// The policies of this proxy, evaluated for requests.
#[derive(Debug)]
pub struct Authz {
    config: Arc<filter::Authz>,
}

impl Authz {
    #[must_use]
    pub fn new(config: Arc<filter::Authz>) -> Self {
        Self { config }
    }

    /// Lets the request pass, or not.
    ///
    /// # Errors
    /// 403 `RBAC: access denied`; the details name the policy and rule that denied, or `none`.
    pub fn on_request(
        &self,
        request: &RequestHeader,
        context: &RequestContext,
        info: &StreamInfo,
    ) -> Result<(), LocalReply> {
        let subject = Subject {
            connection: &info.connection,
            client_ip: info.client_addr.ip(),
            http: Some(HttpSubject { request, claims: context.claims.as_deref() }),
        };
        decide(&self.config, &subject).map_err(|denied| LocalReply {
            status: StatusCode::FORBIDDEN,
            headers: SmallVec::new(),
            body: bytes::Bytes::from_static(b"RBAC: access denied"),
            flag: None,
            details: Cow::Owned(denied.details()),
            close: false,
        })
    }
}

/// Who and what is decided about.
pub(in crate::filter) struct Subject<'a> {
    pub connection: &'a ConnectionInfo,
    pub client_ip: IpAddr,
    /// `None` for bytes.
    pub http: Option<HttpSubject<'a>>,
}

pub(in crate::filter) struct HttpSubject<'a> {
    /// Canonical.
    pub request: &'a RequestHeader,
    pub claims: Option<&'a Claims>,
}

/// What denied.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::filter) struct Denied {
    /// `ns[x]-policy[y]-rule[0]`; `none`: no policy allowed it.
    policy: String,
}

impl Denied {
    pub(in crate::filter) fn details(&self) -> String {
        format!("rbac_access_denied_matched_policy[{}]", self.policy)
    }
}

pub(in crate::filter) fn decide(
    config: &filter::Authz,
    subject: &Subject<'_>,
) -> Result<(), Denied> {
    let filter::Authz { deny, allow, audit, unenforceable } = config;
    // A policy nobody can enforce might be the one that denies.
    if let Some(name) = unenforceable.first() {
        return Err(Denied { policy: name.to_string() });
    }
    for policy in &**audit {
        if let Some(rule) = matching_rule(policy, subject, Stance::Against) {
            debug!(policy = %policy.name, rule, "audited");
        }
    }
    for policy in &**deny {
        let Some(rule) = matching_rule(policy, subject, Stance::Against) else { continue };
        if policy.dry_run {
            debug!(policy = %policy.name, rule, "would be denied");
        } else {
            return Err(Denied { policy: format!("{}-rule[{rule}]", policy.name) });
        }
    }
    let mut allowing = allow.iter().filter(|policy| !policy.dry_run).peekable();
    for policy in allow.iter().filter(|policy| policy.dry_run) {
        if matching_rule(policy, subject, Stance::For).is_none() {
            debug!(policy = %policy.name, "would not be allowed");
        }
    }
    if allowing.peek().is_none()
        || allowing.any(|policy| matching_rule(policy, subject, Stance::For).is_some())
    {
        return Ok(());
    }
    Err(Denied { policy: "none".to_owned() })
}

/// What a match means for the client. It decides what holds where values disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::filter) enum Stance {
    For,
    Against,
}

fn matching_rule(policy: &AuthzPolicy, subject: &Subject<'_>, stance: Stance) -> Option<usize> {
    policy.rules.iter().position(|rule| rule_matches(rule, subject, stance))
}

fn rule_matches(rule: &AuthzRule, subject: &Subject<'_>, stance: Stance) -> bool {
    let AuthzRule { from, to, when } = rule;
    let all = |conditions: &[Condition]| {
        conditions.iter().all(|condition| condition_matches(condition, subject, stance))
    };
    let any_of =
        |parts: &[Arc<[Condition]>]| parts.is_empty() || parts.iter().any(|part| all(part));
    any_of(from) && any_of(to) && all(when)
}

fn condition_matches(condition: &Condition, subject: &Subject<'_>, stance: Stance) -> bool {
    let Condition { attribute, values, not_values } = condition;
    let found = values_of(attribute, subject);
    let ignore_case = matches!(attribute, Attribute::Host);
    let among = |list: &[ValueMatch], value: &Value<'_>| {
        list.iter().any(|matcher| value_matches(matcher, value, ignore_case))
    };
    let positive = values.is_empty() || found.iter().any(|value| among(values, value));
    let negative = match (attribute, stance) {
        // Else one more field with the value of the exception would switch the policy off.
        (Attribute::Header(_), Stance::Against) if found.len() > 1 => {
            found.iter().any(|value| !among(not_values, value))
        }
        _ => !found.iter().any(|value| among(not_values, value)),
    };
    positive && negative
}

/// A value of an attribute, with its type.
#[derive(Debug)]
enum Value<'a> {
    Text(Cow<'a, str>),
    Ip(IpAddr),
    Port(u16),
    Method(&'a Method),
}

impl<'a> Value<'a> {
    fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

type Values<'a> = SmallVec<[Value<'a>; 2]>;

/// None: the attribute is not there.
fn values_of<'a>(attribute: &Attribute, subject: &Subject<'a>) -> Values<'a> {
    let connection = subject.connection;
    let principal = || connection.peer_identity().and_then(|peer| peer.principal());
    let one = match attribute {
        Attribute::SourcePrincipal => principal().map(Value::text),
        Attribute::SourceNamespace => principal().and_then(namespace_of).map(Value::text),
        Attribute::SourceServiceAccount => {
            principal().and_then(service_account_of).map(Value::Text)
        }
        Attribute::SourceTrustDomain => {
            principal().and_then(|principal| principal.split('/').next()).map(Value::text)
        }
        Attribute::SourceIp => Some(Value::Ip(connection.peer_addr.ip())),
        Attribute::RemoteIp => Some(Value::Ip(subject.client_ip)),
        Attribute::DestinationIp => Some(Value::Ip(connection.local_addr.ip())),
        Attribute::DestinationPort => Some(Value::Port(connection.port)),
        Attribute::ConnectionSni => connection.server_name().map(Value::text),
        Attribute::Host
        | Attribute::Method
        | Attribute::Path
        | Attribute::Header(_)
        | Attribute::RequestPrincipal
        | Attribute::RequestAudiences
        | Attribute::RequestPresenter
        | Attribute::RequestClaim(_) => {
            return subject
                .http
                .as_ref()
                .map(|http| http_values(attribute, http))
                .unwrap_or_default();
        }
    };
    one.into_iter().collect()
}

fn http_values<'a>(attribute: &Attribute, http: &HttpSubject<'a>) -> Values<'a> {
    let HttpSubject { request, claims } = *http;
    let claims = claims.into_iter();
    match attribute {
        Attribute::Host => {
            // As sent, and without the port (advisory ISTIO-SECURITY-2021-008).
            let sent = request.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
            let mut hosts = Values::new();
            if let Some(host) = sent {
                let name = authority::without_port(host);
                hosts.push(Value::text(host));
                if name.len() != host.len() {
                    hosts.push(Value::text(name));
                }
            }
            hosts
        }
        Attribute::Method => Values::from_iter([Value::Method(&request.method)]),
        Attribute::Path => Values::from_iter([Value::text(request.uri.path())]),
        Attribute::Header(name) => {
            request.headers.get_all(name).map(|value| Value::Text(text_of(value))).collect()
        }
        Attribute::RequestPrincipal => {
            claims.filter_map(|claims| claims.principal.as_deref()).map(Value::text).collect()
        }
        Attribute::RequestAudiences => {
            claims.flat_map(Claims::audiences).map(Value::text).collect()
        }
        Attribute::RequestPresenter => {
            claims.filter_map(Claims::presenter).map(Value::text).collect()
        }
        Attribute::RequestClaim(path) => {
            claims.flat_map(|claims| claims.texts(path)).map(Value::text).collect()
        }
        _ => Values::new(),
    }
}

/// A field's bytes as text. Bytes that are none are replaced, so that they do not hide the rest of
/// the value from a policy.
fn text_of(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// `n` of `td/ns/n/sa/s`.
fn namespace_of(principal: &str) -> Option<&str> {
    let mut parts = principal.split('/').skip(1);
    (parts.next()? == "ns").then(|| parts.next())?
}

/// `n/s` of `td/ns/n/sa/s`.
fn service_account_of(principal: &str) -> Option<Cow<'_, str>> {
    let mut parts = principal.split('/').skip(1);
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        ("ns", namespace, "sa", account, None) => {
            Some(Cow::Owned(format!("{namespace}/{account}")))
        }
        _ => None,
    }
}

fn value_matches(matcher: &ValueMatch, value: &Value<'_>, ignore_case: bool) -> bool {
    match (matcher, value) {
        (ValueMatch::String(matcher), Value::Text(text)) => {
            text_matches(matcher, text, ignore_case)
        }
        (ValueMatch::String(matcher), Value::Method(method)) => {
            text_matches(matcher, method.as_str(), ignore_case)
        }
        (ValueMatch::PathTemplate(template), Value::Text(text)) => template.is_match(text),
        (ValueMatch::Cidr(net), Value::Ip(ip)) => net.contains(&ip.to_canonical()),
        (ValueMatch::Port(expected), Value::Port(port)) => expected == port,
        (ValueMatch::Method(expected), Value::Method(method)) => expected == *method,
        // The compiler of policies gives every attribute matchers of its own type.
        _ => false,
    }
}

fn text_matches(matcher: &StringMatch, text: &str, ignore_case: bool) -> bool {
    let same = |a: &[u8], b: &[u8]| a.eq_ignore_ascii_case(b);
    let (pattern, bytes) = match matcher {
        StringMatch::Present => return !text.is_empty(),
        StringMatch::Exact(pattern)
        | StringMatch::Prefix(pattern)
        | StringMatch::Suffix(pattern)
            if ignore_case =>
        {
            (pattern.as_bytes(), text.as_bytes())
        }
        matcher => return matcher.is_match(text),
    };
    match matcher {
        StringMatch::Prefix(_) => {
            bytes.get(..pattern.len()).is_some_and(|start| same(start, pattern))
        }
        StringMatch::Suffix(_) => {
            bytes.len().checked_sub(pattern.len()).is_some_and(|at| same(&bytes[at..], pattern))
        }
        _ => same(bytes, pattern),
    }
}
