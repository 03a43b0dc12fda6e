//! What a policy applies to: label selectors and target references.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::LabelSet;

/// Selects workloads that carry all of `matchLabels`; empty selects every workload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    pub match_labels: BTreeMap<String, String>,
}

impl Selector {
    /// Whether a workload with `labels` is selected.
    pub fn selects(&self, labels: &impl LabelSet) -> bool {
        labels.has_all(&self.match_labels)
    }
}

/// Attaches a policy to one object of the same namespace instead of to selected workloads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyTargetReference {
    /// API group; empty or `core` for Service.
    pub group: String,
    pub kind: String,
    pub name: String,
    /// Must be empty: a policy cannot reach into another namespace.
    pub namespace: String,
}

/// Kubernetes' label selector: all of `matchLabels` and all of `matchExpressions`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    pub match_labels: BTreeMap<String, String>,
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

impl LabelSelector {
    /// Whether it says nothing: then it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether it selects what has these labels; `label` is the value of one.
    #[must_use]
    pub fn selects<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let equal = |(key, value): (&String, &String)| label(key) == Some(value);
        self.match_labels.iter().all(equal)
            && self.match_expressions.iter().all(|it| it.is_met_by(label(&it.key)))
    }
}

impl LabelSelectorRequirement {
    fn is_met_by(&self, value: Option<&str>) -> bool {
        let is_listed = value.is_some_and(|value| self.values.iter().any(|one| one == value));
        match self.operator {
            LabelOperator::In => is_listed,
            LabelOperator::NotIn => !is_listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelectorRequirement {
    pub key: String,
    pub operator: LabelOperator,
    pub values: Vec<String>,
}

/// How a label is compared with `values`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum LabelOperator {
    #[default]
    In,
    NotIn,
    Exists,
    DoesNotExist,
}
