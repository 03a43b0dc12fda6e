//! Authorization of TCP connections. Fields of HTTP are not defined there: a rule that allows by one is
//! never met, and a rule that denies by one denies by the rest (istio-compat 1.9, trap 14).

use std::sync::Arc;

use weir_config::model::filter::{self, Attribute, AuthzPolicy, AuthzRule, Condition};

use super::authz::{Subject, decide};
use crate::connection::ConnectionInfo;

/// The policies of this proxy as far as they can be decided without HTTP.
#[derive(Debug)]
pub struct NetworkAuthz {
    config: filter::Authz,
}

impl NetworkAuthz {
    #[must_use]
    pub fn new(config: &filter::Authz) -> Self {
        let filter::Authz { deny, allow, audit, unenforceable } = config;
        Self {
            config: filter::Authz {
                deny: deny.iter().map(|policy| with_rules(policy, without_http)).collect(),
                allow: allow.iter().map(|policy| with_rules(policy, unless_http)).collect(),
                audit: audit.iter().map(|policy| with_rules(policy, without_http)).collect(),
                unenforceable: Arc::clone(unenforceable),
            },
        }
    }

    /// Lets the connection pass, or not.
    ///
    /// # Errors
    /// The details of the denial; the connection is to be closed.
    pub fn on_connection(&self, connection: &ConnectionInfo) -> Result<(), String> {
        let subject = Subject { connection, client_ip: connection.peer_addr.ip(), http: None };
        decide(&self.config, &subject).map_err(|denied| denied.details())
    }
}

/// A rule that is left out keeps its place, with nothing that meets it, so that the others keep the
/// numbers they are reported by.
fn with_rules(policy: &AuthzPolicy, rule: fn(&AuthzRule) -> AuthzRule) -> AuthzPolicy {
    AuthzPolicy { rules: policy.rules.iter().map(rule).collect(), ..policy.clone() }
}

fn without_http(rule: &AuthzRule) -> AuthzRule {
    let keep = |conditions: &[Condition]| -> Arc<[Condition]> {
        conditions.iter().filter(|condition| !is_http(&condition.attribute)).cloned().collect()
    };
    AuthzRule {
        from: rule.from.iter().map(|source| keep(source)).collect(),
        to: rule.to.iter().map(|operation| keep(operation)).collect(),
        when: keep(&rule.when),
    }
}

fn unless_http(rule: &AuthzRule) -> AuthzRule {
    let uses_http = rule
        .from
        .iter()
        .chain(&*rule.to)
        .chain([&rule.when])
        .flat_map(|conditions| &**conditions)
        .any(|condition| is_http(&condition.attribute));
    if uses_http {
        // Nothing listens on port 0.
        let never = Condition {
            attribute: Attribute::DestinationPort,
            values: [filter::ValueMatch::Port(0)].into(),
            not_values: Arc::default(),
        };
        AuthzRule { from: Arc::default(), to: Arc::default(), when: [never].into() }
    } else {
        rule.clone()
    }
}

fn is_http(attribute: &Attribute) -> bool {
    match attribute {
        Attribute::Host
        | Attribute::Method
        | Attribute::Path
        | Attribute::Header(_)
        | Attribute::RequestPrincipal
        | Attribute::RequestAudiences
        | Attribute::RequestPresenter
        | Attribute::RequestClaim(_) => true,
        Attribute::SourcePrincipal
        | Attribute::SourceNamespace
        | Attribute::SourceServiceAccount
        | Attribute::SourceTrustDomain
        | Attribute::SourceIp
        | Attribute::RemoteIp
        | Attribute::DestinationIp
        | Attribute::DestinationPort
        | Attribute::ConnectionSni => false,
    }
}

#[cfg(test)]
mod tests {
    use weir_config::model::{filter::ValueMatch, matcher::StringMatch};

    use super::*;
    use crate::filter::test_support::{connection, tls_connection};

    fn path() -> Condition {
        let value = ValueMatch::String(StringMatch::Exact("/a".into()));
        Condition { attribute: Attribute::Path, values: [value].into(), not_values: Arc::default() }
    }

    fn source(net: &str) -> Condition {
        let value = ValueMatch::Cidr(net.parse().unwrap());
        Condition {
            attribute: Attribute::SourceIp,
            values: [value].into(),
            not_values: Arc::default(),
        }
    }

    fn rule(to: &[Condition], when: &[Condition]) -> AuthzRule {
        let to = if to.is_empty() { Arc::default() } else { Arc::from([Arc::from(to)]) };
        AuthzRule { from: Arc::default(), to, when: when.into() }
    }

    fn policy(rules: &[AuthzRule]) -> Arc<[AuthzPolicy]> {
        [AuthzPolicy { name: "p".into(), dry_run: false, rules: rules.into() }].into()
    }

    fn decide(deny: Option<&[AuthzRule]>, allow: Option<&[AuthzRule]>) -> String {
        let config = filter::Authz {
            deny: deny.map(policy).unwrap_or_default(),
            allow: allow.map(policy).unwrap_or_default(),
            audit: Arc::default(),
            unenforceable: Arc::default(),
        };
        let outcome = NetworkAuthz::new(&config).on_connection(&connection("192.0.2.7:4711"));
        outcome.map_or_else(|details| details, |()| "passed".to_owned())
    }

    #[test]
    fn a_rule_that_allows_by_http_never_allows_bytes() {
        let none = "rbac_access_denied_matched_policy[none]";
        let here = source("192.0.2.0/24");
        for (rules, expected) in [
            (vec![rule(&[path()], &[])], none),
            (vec![rule(&[path(), here.clone()], &[])], none),
            (vec![rule(std::slice::from_ref(&here), &[path()])], none),
            (vec![rule(&[path()], &[]), rule(std::slice::from_ref(&here), &[])], "passed"),
            (vec![rule(&[], &[])], "passed"),
            (vec![rule(&[source("10.0.0.0/8")], &[])], none),
        ] {
            assert_eq!(decide(None, Some(&rules)), expected, "{rules:?}");
        }
    }

    #[test]
    fn a_rule_that_denies_by_http_denies_by_the_rest() {
        let denied = |rule: usize| format!("rbac_access_denied_matched_policy[p-rule[{rule}]]");
        let elsewhere = source("10.0.0.0/8");
        let here = source("192.0.2.0/24");
        for (rules, expected) in [
            (vec![rule(&[path()], &[])], denied(0)),
            (vec![rule(&[path(), here], &[])], denied(0)),
            (vec![rule(&[path(), elsewhere.clone()], &[])], "passed".to_owned()),
            (vec![rule(&[path()], std::slice::from_ref(&elsewhere))], "passed".to_owned()),
            (vec![rule(&[elsewhere], &[]), rule(&[], &[path()])], denied(1)),
        ] {
            assert_eq!(decide(Some(&rules), None), expected, "{rules:?}");
        }
    }

    #[test]
    fn an_unenforceable_policy_closes_every_connection() {
        let config = filter::Authz {
            deny: Arc::default(),
            allow: Arc::default(),
            audit: Arc::default(),
            unenforceable: ["custom".into()].into(),
        };
        let peer = tls_connection("192.0.2.7:1", Some("spiffe://td/ns/n/sa/s"));
        let details = NetworkAuthz::new(&config).on_connection(&peer).unwrap_err();
        assert_eq!(details, "rbac_access_denied_matched_policy[custom]");
    }
}
