//! AuthorizationPolicy -> Authz (istio-compat 1.9).
//!
//! What cannot be expressed must not widen access: a rule that allows is dropped, a policy that
//! denies makes the whole proxy deny.

use std::sync::Arc;

use super::attribute::{Values, attribute};
use crate::{
    api::{
        Kind, Object, Spec,
        istio::authorization_policy::{
            Action, AuthorizationPolicy, Condition, Operation, Rule, Source,
        },
    },
    compile::{View, finding::Findings},
    model::{
        self,
        filter::{Attribute, Authz, AuthzPolicy, AuthzRule, ValueMatch},
    },
};

const DRY_RUN_ANNOTATION: &str = "istio.io/dry-run";

/// The policies that select the proxy, by action; `None` when there are none.
pub(super) fn compile(view: &View, findings: &mut Findings) -> Option<Authz> {
    let mut sets = Sets::default();
    for object in super::candidates(view, Kind::AuthorizationPolicy) {
        let Spec::AuthorizationPolicy(spec) = &object.spec else { continue };
        let targets = super::targets(spec.target_ref.as_ref(), &spec.target_refs);
        if super::applies(view, object, spec.selector.as_ref(), targets, findings) {
            sets.add(view, object, spec, findings);
        }
    }
    sets.finish()
}

#[derive(Default)]
struct Sets {
    deny: Vec<AuthzPolicy>,
    allow: Vec<AuthzPolicy>,
    audit: Vec<AuthzPolicy>,
    unenforceable: Vec<Arc<str>>,
}

impl Sets {
    fn add(
        &mut self,
        view: &View,
        object: &Object,
        spec: &AuthorizationPolicy,
        findings: &mut Findings,
    ) {
        let name = policy_name(object);
        let dry_run = is_dry_run(object);
        if spec.action == Action::Custom {
            findings.warn(
                object,
                "spec.action",
                "CUSTOM cannot be enforced yet, so every request is denied while this policy \
                 applies; remove it or use ALLOW or DENY",
            );
            self.unenforceable.push(name);
            return;
        }
        let mut rules = Vec::with_capacity(spec.rules.len());
        for (index, rule) in spec.rules.iter().enumerate() {
            let values = Values { view, namespace: &object.metadata.namespace };
            let compiler = Compiler { values };
            match compiler.rule(rule) {
                Ok(rule) => rules.push(rule),
                Err(problem) => {
                    let field = format!("spec.rules[{index}].{}", problem.field);
                    let denies = spec.action == Action::Deny && !dry_run;
                    let consequence = if denies {
                        "every request is denied while this policy applies"
                    } else {
                        "this rule never matches"
                    };
                    findings.warn(object, field, format!("{}; {consequence}", problem.message));
                    if denies {
                        self.unenforceable.push(name);
                        return;
                    }
                }
            }
        }
        let policy = AuthzPolicy { name, dry_run, rules: rules.into() };
        match spec.action {
            Action::Deny => self.deny.push(policy),
            Action::Allow => self.allow.push(policy),
            Action::Audit => self.audit.push(policy),
            Action::Custom => {}
        }
    }

    fn finish(mut self) -> Option<Authz> {
        let Self { deny, allow, audit, unenforceable } = &mut self;
        if deny.is_empty() && allow.is_empty() && audit.is_empty() && unenforceable.is_empty() {
            return None;
        }
        for policies in [&mut *deny, &mut *allow, &mut *audit] {
            policies.sort_by(|a, b| a.name.cmp(&b.name));
        }
        unenforceable.sort();
        Some(Authz {
            deny: self.deny.into(),
            allow: self.allow.into(),
            audit: self.audit.into(),
            unenforceable: self.unenforceable.into(),
        })
    }
}

/// `ns[x]-policy[y]`, as logs and metrics know it.
fn policy_name(object: &Object) -> Arc<str> {
    format!("ns[{}]-policy[{}]", object.metadata.namespace, object.metadata.name).into()
}

/// Read as Go reads booleans.
fn is_dry_run(object: &Object) -> bool {
    let value = object.metadata.annotations.get(DRY_RUN_ANNOTATION);
    value.is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// A part of a rule that cannot be expressed.
struct Problem {
    /// Below the rule.
    field: String,
    message: String,
}

struct Compiler<'a> {
    values: Values<'a>,
}

/// Positive and negative values of one attribute, and what they are called in YAML.
type Entry<'a> = (&'a str, Attribute, &'a Option<Vec<String>>, &'a Option<Vec<String>>);

impl Compiler<'_> {
    fn rule(&self, rule: &Rule) -> Result<AuthzRule, Problem> {
        let mut from = Vec::new();
        for (index, entry) in rule.from.iter().flatten().enumerate() {
            let field = format!("from[{index}].source");
            let source = entry.source.as_ref();
            from.push(source.map_or_else(|| Ok(Arc::default()), |s| self.source(s, &field))?);
        }
        let mut to = Vec::new();
        for (index, entry) in rule.to.iter().flatten().enumerate() {
            let field = format!("to[{index}].operation");
            let operation = entry.operation.as_ref();
            to.push(operation.map_or_else(|| Ok(Arc::default()), |o| self.operation(o, &field))?);
        }
        let mut when = Vec::new();
        for (index, condition) in rule.when.iter().flatten().enumerate() {
            when.push(self.condition(condition, &format!("when[{index}]"))?);
        }
        Ok(AuthzRule { from: from.into(), to: to.into(), when: when.into() })
    }

    fn source(
        &self,
        source: &Source,
        field: &str,
    ) -> Result<Arc<[model::filter::Condition]>, Problem> {
        use Attribute as A;
        self.entries(
            field,
            [
                ("principals", A::SourcePrincipal, &source.principals, &source.not_principals),
                (
                    "requestPrincipals",
                    A::RequestPrincipal,
                    &source.request_principals,
                    &source.not_request_principals,
                ),
                ("namespaces", A::SourceNamespace, &source.namespaces, &source.not_namespaces),
                (
                    "serviceAccounts",
                    A::SourceServiceAccount,
                    &source.service_accounts,
                    &source.not_service_accounts,
                ),
                (
                    "trustDomains",
                    A::SourceTrustDomain,
                    &source.trust_domains,
                    &source.not_trust_domains,
                ),
                ("ipBlocks", A::SourceIp, &source.ip_blocks, &source.not_ip_blocks),
                (
                    "remoteIpBlocks",
                    A::RemoteIp,
                    &source.remote_ip_blocks,
                    &source.not_remote_ip_blocks,
                ),
            ],
        )
    }

    fn operation(
        &self,
        operation: &Operation,
        field: &str,
    ) -> Result<Arc<[model::filter::Condition]>, Problem> {
        self.entries(
            field,
            [
                ("hosts", Attribute::Host, &operation.hosts, &operation.not_hosts),
                ("ports", Attribute::DestinationPort, &operation.ports, &operation.not_ports),
                ("methods", Attribute::Method, &operation.methods, &operation.not_methods),
                ("paths", Attribute::Path, &operation.paths, &operation.not_paths),
            ],
        )
    }

    fn entries<const N: usize>(
        &self,
        field: &str,
        entries: [Entry<'_>; N],
    ) -> Result<Arc<[model::filter::Condition]>, Problem> {
        let mut conditions = Vec::new();
        for (name, attribute, values, not_values) in entries {
            let values = values.as_deref().unwrap_or_default();
            let not_values = not_values.as_deref().unwrap_or_default();
            if values.is_empty() && not_values.is_empty() {
                continue;
            }
            let field = format!("{field}.{name}");
            conditions.push(self.compare(attribute, values, not_values, &field)?);
        }
        Ok(conditions.into())
    }

    fn condition(
        &self,
        condition: &Condition,
        field: &str,
    ) -> Result<model::filter::Condition, Problem> {
        let attribute = attribute(&condition.key).ok_or_else(|| Problem {
            field: format!("{field}.key"),
            message: format!("{} is not supported as a condition", condition.key),
        })?;
        self.compare(attribute, &condition.values, &condition.not_values, field)
    }

    fn compare(
        &self,
        attribute: Attribute,
        values: &[String],
        not_values: &[String],
        field: &str,
    ) -> Result<model::filter::Condition, Problem> {
        let matches = |list: &[String]| -> Result<Arc<[ValueMatch]>, Problem> {
            let mut matches = Vec::with_capacity(list.len());
            for value in list {
                let found = self.values.of(&attribute, value).map_err(|expected| Problem {
                    field: field.to_owned(),
                    message: format!("{value:?} is not {expected}"),
                })?;
                matches.extend(found);
            }
            Ok(matches.into())
        };
        let (values, not_values) = (matches(values)?, matches(not_values)?);
        Ok(model::filter::Condition { attribute, values, not_values })
    }
}
