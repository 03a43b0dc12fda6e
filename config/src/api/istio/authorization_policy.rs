use serde::Deserialize;

use crate::api::{PolicyTargetReference, Selector};

/// `security.istio.io` AuthorizationPolicy: which requests are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicy {
    /// Workloads of the namespace the policy is for; all when absent.
    pub selector: Option<Selector>,
    /// Older, single form of `targetRefs`.
    pub target_ref: Option<PolicyTargetReference>,
    /// Objects the policy is for, instead of a selector.
    pub target_refs: Vec<PolicyTargetReference>,
    /// The policy matches when any rule does. Without rules it never matches; `rules: [{}]` matches
    /// everything.
    pub rules: Vec<Rule>,
    pub action: Action,
    /// Who decides, for `CUSTOM`.
    pub provider: Option<ExtensionProviderRef>,
}

/// What happens to a request that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Allowed; once an ALLOW policy exists, what matches none is denied.
    #[default]
    Allow,
    Deny,
    /// Only recorded.
    Audit,
    /// The provider decides.
    Custom,
}

impl Action {
    /// The value as written in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }
}

/// Names one of the mesh configuration's `extensionProviders`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtensionProviderRef {
    pub name: String,
}

/// Matches when one of `from`, one of `to` and all of `when` do; an absent list matches anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub from: Option<Vec<From>>,
    pub to: Option<Vec<To>>,
    pub when: Option<Vec<Condition>>,
}

/// Wraps a source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct From {
    pub source: Option<Source>,
}

/// Wraps an operation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct To {
    pub operation: Option<Operation>,
}

/// Who sends the request. All fields that are given must match, each with any of its values; `not`
/// fields must match none of theirs.
///
/// A list that is written but empty is different from one that is absent: it is an error, because
/// a template that rendered no names would otherwise match everyone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Source {
    /// Peer identities without `spiffe://`: `cluster.local/ns/default/sa/reviews`.
    pub principals: Option<Vec<String>>,
    pub not_principals: Option<Vec<String>>,
    /// `<iss>/<sub>` of the validated JWT; `*` requires any valid token.
    pub request_principals: Option<Vec<String>>,
    pub not_request_principals: Option<Vec<String>>,
    /// Namespaces of peer identities.
    pub namespaces: Option<Vec<String>>,
    pub not_namespaces: Option<Vec<String>>,
    /// `[namespace/]name` of peer identities, exactly.
    pub service_accounts: Option<Vec<String>>,
    pub not_service_accounts: Option<Vec<String>>,
    /// Trust domains of peer identities.
    pub trust_domains: Option<Vec<String>>,
    pub not_trust_domains: Option<Vec<String>>,
    /// Addresses or CIDRs of the connection's peer.
    pub ip_blocks: Option<Vec<String>>,
    pub not_ip_blocks: Option<Vec<String>>,
    /// Addresses or CIDRs of the original client, behind trusted proxies.
    pub remote_ip_blocks: Option<Vec<String>>,
    pub not_remote_ip_blocks: Option<Vec<String>>,
}

/// What the request asks for. All fields that are given must match, each with any of its values;
/// `not` fields must match none of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Host headers, ignoring case.
    pub hosts: Option<Vec<String>>,
    pub not_hosts: Option<Vec<String>>,
    /// Ports of the workload.
    pub ports: Option<Vec<String>>,
    pub not_ports: Option<Vec<String>>,
    pub methods: Option<Vec<String>>,
    pub not_methods: Option<Vec<String>>,
    /// Paths without the query; `{*}` stands for one segment, `{**}` for any number at the end.
    pub paths: Option<Vec<String>>,
    pub not_paths: Option<Vec<String>>,
}

/// A further attribute and its accepted or refused values.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    pub key: String,
    pub values: Vec<String>,
    pub not_values: Vec<String>,
}
