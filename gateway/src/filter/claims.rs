//! What a validated token says.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Claims whose strings are lists of words (OAuth 2.0, RFC 6749 section 3.3; Istio adds the second).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// The payload of a token whose signature, time and audience were checked. There is no value of this
/// type for one that was not.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// `issuer/subject`; `None` without one of them.
    pub principal: Option<Arc<str>>,
    /// With lists of words as arrays.
    payload: Map<String, Value>,
    /// As it was sent: base64url without padding.
    pub encoded: Arc<str>,
}

impl Claims {
    pub(super) fn new(mut payload: Map<String, Value>, encoded: &str, lists: &[Arc<str>]) -> Self {
        for name in SPACE_DELIMITED.into_iter().chain(lists.iter().map(|name| &**name)) {
            if let Some(Value::String(words)) = payload.get(name) {
                let words = words.split(' ').filter(|word| !word.is_empty());
                let words = words.map(|word| Value::String(word.to_owned())).collect();
                payload.insert(name.to_owned(), Value::Array(words));
            }
        }
        let text = |name| payload.get(name).and_then(Value::as_str);
        let principal =
            text("iss").zip(text("sub")).map(|(iss, sub)| format!("{iss}/{sub}").into());
        Self { principal, payload, encoded: encoded.into() }
    }

    /// The claim under `path`, names from the outermost object inwards.
    #[must_use]
    pub fn find(&self, path: &[Arc<str>]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.payload.get(&**first)?, |value, name| value.get(&**name))
    }

    /// The texts a claim stands for: a string itself, the strings of a list.
    pub fn texts(&self, path: &[Arc<str>]) -> impl Iterator<Item = &str> {
        let value = self.find(path);
        let list = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        value.and_then(Value::as_str).into_iter().chain(list.iter().filter_map(Value::as_str))
    }

    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let value = self.payload.get("aud");
        let list = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        value.and_then(Value::as_str).into_iter().chain(list.iter().filter_map(Value::as_str))
    }

    /// `azp`.
    #[must_use]
    pub fn presenter(&self) -> Option<&str> {
        self.payload.get("azp").and_then(Value::as_str)
    }
}

#[cfg(test)]
pub(crate) fn claims(payload: Value) -> Arc<Claims> {
    let Value::Object(payload) = payload else { panic!("not an object") };
    Arc::new(Claims::new(payload, "", &[]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(claims: &Claims, path: &[&str]) -> Vec<String> {
        let path: Vec<Arc<str>> = path.iter().map(|name| (*name).into()).collect();
        claims.texts(&path).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn a_claim_is_a_text_or_a_list_of_texts() {
        let claims = claims(json!({
            "iss": "https://issuer", "sub": "alice", "groups": ["a", "b", 3], "admin": true,
            "nested": {"role": "editor", "dotted.name": "x"}, "scope": "read  write",
        }));
        assert_eq!(claims.principal.as_deref(), Some("https://issuer/alice"));
        assert_eq!(texts(&claims, &["groups"]), ["a", "b"]);
        assert_eq!(texts(&claims, &["nested", "role"]), ["editor"]);
        assert_eq!(texts(&claims, &["nested", "dotted.name"]), ["x"]);
        assert_eq!(texts(&claims, &["scope"]), ["read", "write"]);
        for absent in [&["admin"][..], &["nested"], &["none"], &["groups", "a"], &[]] {
            assert_eq!(texts(&claims, absent), Vec::<String>::new(), "{absent:?}");
        }
    }

    #[test]
    fn further_claims_can_be_lists_of_words() {
        let Value::Object(payload) = json!({"roles": "a b"}) else { unreachable!() };
        let claims = Claims::new(payload, "", &["roles".into()]);
        assert_eq!(texts(&claims, &["roles"]), ["a", "b"]);
        assert_eq!(claims.principal, None);
    }
}
