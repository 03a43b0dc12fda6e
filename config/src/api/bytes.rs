//! Bytes written in base64, and secrets, which never show themselves.

use std::{fmt, ops::Deref, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Bytes written in base64.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Base64Bytes(pub Arc<[u8]>);

/// Secret bytes written in base64: keys, certificates, passwords. `Debug` shows only the length.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct SecretBytes(pub Arc<[u8]>);

/// Secret text written as it is. `Debug` shows only the length.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct SecretText(pub Arc<str>);

impl Deref for Base64Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} secret bytes>", self.0.len())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} secret bytes>", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Base64Visitor).map(Self)
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Base64Visitor).map(Self)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

struct Base64Visitor;

impl Visitor<'_> for Base64Visitor {
    type Value = Arc<[u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64 text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Arc<[u8]>, E> {
        // Block scalars fold base64 over several lines; Kubernetes ignores the line breaks as well.
        let compact: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        // The decoder's own message would quote a byte of what may be a secret.
        STANDARD.decode(compact).ok().map(Into::into).ok_or_else(|| {
            E::custom("not base64; encode the value, for a Secret or use stringData for plain text")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_secret() {
        let bytes = SecretBytes(Arc::from(*b"hunter2"));
        let text = SecretText("hunter2".into());
        assert_eq!(format!("{bytes:?} {text:?}"), "<7 secret bytes> <7 secret bytes>");
    }
}
