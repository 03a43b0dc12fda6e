use std::collections::BTreeMap;

use serde::Deserialize;

use crate::api::{SecretBytes, SecretText};

/// `v1` Secret: certificates, keys, trust bundles.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// For example `kubernetes.io/tls`; informative, the keys decide.
    pub r#type: String,
    /// Values in base64.
    pub data: BTreeMap<String, SecretBytes>,
    /// Values as plain text; wins over `data` for the same key.
    pub string_data: BTreeMap<String, SecretText>,
    pub immutable: bool,
}

impl Secret {
    /// The value of `key`, from `stringData` or else `data`.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        let text = self.string_data.get(key).map(|text| text.0.as_bytes());
        text.or_else(|| self.data.get(key).map(|bytes| &**bytes))
    }
}
