use std::collections::BTreeMap;

use serde::Deserialize;

use crate::api::Base64Bytes;

/// `v1` ConfigMap: text and bytes by key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    pub data: BTreeMap<String, String>,
    /// Values in base64.
    pub binary_data: BTreeMap<String, Base64Bytes>,
    pub immutable: bool,
}
