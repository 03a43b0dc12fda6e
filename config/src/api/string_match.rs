//! `StringMatch`: how a route, a CORS origin or a header condition compares a string.

use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// Compares a value: `exact`, `prefix` or `regex`. Case-sensitive unless the field says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// The whole value is equal. `exact: ""` matches an empty value.
    Exact(String),
    /// The value starts with this.
    Prefix(String),
    /// RE2 expression that matches the *whole* value.
    Regex(String),
    /// `{}`: none of the three. For headers and query parameters: present, with any value.
    Present,
}

impl StringMatch {
    /// The field the value was written in and the value itself; `None` for [`Self::Present`].
    pub fn written(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Exact(value) => Some(("exact", value)),
            Self::Prefix(value) => Some(("prefix", value)),
            Self::Regex(value) => Some(("regex", value)),
            Self::Present => None,
        }
    }
}

impl<'de> serde::Deserialize<'de> for StringMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(
            "StringMatch",
            &["exact", "prefix", "regex"],
            StringMatchVisitor,
        )
    }
}

struct StringMatchVisitor;

impl<'de> Visitor<'de> for StringMatchVisitor {
    type Value = StringMatch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping with one of exact, prefix, regex")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMatch, A::Error> {
        let mut found = StringMatch::Present;
        while let Some(key) = map.next_key::<String>()? {
            let variant = match key.as_str() {
                "exact" => StringMatch::Exact,
                "prefix" => StringMatch::Prefix,
                "regex" => StringMatch::Regex,
                _ => {
                    // Reported as an unknown field by the parser.
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if found != StringMatch::Present {
                return Err(A::Error::custom("only one of exact, prefix, regex may be set"));
            }
            found = variant(map.next_value()?);
        }
        Ok(found)
    }
}
