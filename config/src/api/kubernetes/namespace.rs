use serde::Deserialize;

/// `v1` Namespace: only its labels, in the metadata, matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {}
