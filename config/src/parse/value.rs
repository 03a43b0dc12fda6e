//! The untyped tree of one document, built within limits.

use std::{cell::Cell, fmt};

use rustc_hash::FxHashSet;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor},
};

/// Nesting beyond which a document is refused; no real object comes near it.
pub const MAX_DEPTH: usize = 64;

/// How much larger than its text a document may become by its aliases, in bytes of scalars and keys
/// plus one for each value.
pub const MAX_ALIAS_GROWTH: usize = 512 * 1024;

/// A YAML or JSON value, aliases and merge keys resolved, keys unique.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    Sequence(Vec<Self>),
    Mapping(Vec<(String, Self)>),
}

impl Value {
    /// The value of a mapping's key.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Mapping(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// What kind of value this is, for messages. They never quote the value: it may be a secret.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Null => "nothing (null)",
            Self::Bool(_) => "true or false",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }

    /// Bytes of scalars and keys plus one for each value: about what its text would take at least.
    pub fn size(&self) -> usize {
        let content = match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Float(_) => 0,
            Self::String(text) => text.len(),
            Self::Sequence(items) => items.iter().map(Self::size).sum(),
            Self::Mapping(entries) => {
                entries.iter().map(|(key, value)| key.len() + value.size()).sum()
            }
        };
        content + 1
    }
}

/// Parses a YAML document.
pub(super) fn from_yaml(text: &str) -> Result<Value, String> {
    if flow_depth_exceeds(text, MAX_DEPTH * 4) {
        return Err(TOO_DEEP.to_owned());
    }
    let limits = Limits::of(text);
    let deserializer = serde_yaml::Deserializer::from_str(text);
    Builder { limits: &limits, depth: 0 }.deserialize(deserializer).map_err(|error| {
        // The library prefixes the path, which for nesting is as deep as the problem.
        match (limits.failure.take(), error.location()) {
            (Some(failure), Some(at)) => {
                format!("{failure} at line {} column {}", at.line(), at.column())
            }
            (Some(failure), None) => failure,
            (None, _) => match error.to_string() {
                text if text.contains("more than one document") => {
                    "there is more text after the value has ended; check quotes and indentation"
                        .to_owned()
                }
                text => text,
            },
        }
    })
}

/// Parses one JSON value.
pub(super) fn from_json(text: &str) -> Result<Value, String> {
    let limits = Limits::of(text);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Builder { limits: &limits, depth: 0 }.deserialize(&mut deserializer);
    value.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| error.to_string())
}

const TOO_DEEP: &str = "nested more than 64 levels deep; no object needs that";
const _: () = assert!(MAX_DEPTH == 64);

/// Whether brackets are nested deeper than `limit`, as far as can be told without parsing.
///
/// The YAML scanner takes time proportional to the square of that depth, before anything else sees
/// it. Brackets count where a value can begin and within such a value, also if it is quoted text;
/// hence a `limit` well above what would be refused anyway.
fn flow_depth_exceeds(text: &str, limit: usize) -> bool {
    let mut depth: usize = 0;
    let mut before = b'\n';
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' if depth > 0 || matches!(before, b'\n' | b'-' | b':' | b'?') => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b' ' | b'\t' => continue,
            _ => {}
        }
        if depth > limit {
            return true;
        }
        before = byte;
    }
    false
}

/// What a tree may still grow by, and why it may not grow on.
struct Limits {
    budget: Cell<usize>,
    failure: Cell<Option<String>>,
}

impl Limits {
    fn of(text: &str) -> Self {
        let budget = text.len().saturating_add(MAX_ALIAS_GROWTH);
        Self { budget: Cell::new(budget), failure: Cell::new(None) }
    }

    fn fail<E: Error>(&self, message: String) -> E {
        let error = E::custom(&message);
        self.failure.set(Some(message));
        error
    }
}

/// Builds a value and everything in it, each node paid from one budget.
///
/// YAML's aliases can make a few lines stand for gigabytes. The YAML library bounds how often an
/// alias is followed, not how much it yields, so the tree is charged as it grows.
#[derive(Clone, Copy)]
struct Builder<'b> {
    limits: &'b Limits,
    depth: usize,
}

impl Builder<'_> {
    fn charge<E: Error>(self, bytes: usize) -> Result<(), E> {
        match self.limits.budget.get().checked_sub(bytes + 1) {
            Some(left) => {
                self.limits.budget.set(left);
                Ok(())
            }
            None => Err(self.limits.fail(format!(
                "the aliases of this document expand to more than {} KiB beyond its text; \
                 write the values out instead",
                MAX_ALIAS_GROWTH / 1024
            ))),
        }
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.limits.fail(TOO_DEEP.to_owned()));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Builder<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Builder<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.charge(0)?;
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.charge(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.charge(0)?;
        Ok(Value::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.charge(0)?;
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.charge(0)?;
        Ok(Value::Float(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.charge(text.len())?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        self.charge(text.len())?;
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        self.charge(0)?;
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.charge(0)?;
        let inner = self.deeper()?;
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut keys = UniqueKeys::default();
        let mut merged = None;
        while let Some(Key(key)) = map.next_key()? {
            if key == "<<" && merged.is_none() {
                merged = Some(map.next_value_seed(inner)?);
                continue;
            }
            self.charge(key.len())?;
            if !keys.insert(&key, &entries) {
                return Err(self.limits.fail(format!(
                    "the key {key:?} stands twice in the same mapping; remove one"
                )));
            }
            entries.push((key, map.next_value_seed(inner)?));
        }
        if let Some(merged) = merged {
            merge(&mut entries, merged)?;
        }
        Ok(Value::Mapping(entries))
    }

    /// YAML hands a value with a local tag (`!thing`) over as an enum.
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let (tag, _) = data.variant::<String>()?;
        Err(self.limits.fail(format!("the YAML tag !{tag} has no meaning here; remove it")))
    }
}

/// The key of an entry, as text: Kubernetes reads `80: x` as `"80": x`.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    /// The likeliest way to a key that is not text is `{{ .Values.name }}`.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text as a key (a template must be rendered first)")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Key, E> {
        Ok(Key(text.to_owned()))
    }
}

/// Finds repeated keys: by comparing while there are few, by hash afterwards.
#[derive(Default)]
struct UniqueKeys {
    hashes: FxHashSet<u64>,
}

impl UniqueKeys {
    const FEW: usize = 16;

    /// Whether `key` is not yet in `entries`.
    fn insert(&mut self, key: &str, entries: &[(String, Value)]) -> bool {
        if entries.len() < Self::FEW {
            return !contains(entries, key);
        }
        if self.hashes.is_empty() {
            self.hashes = entries.iter().map(|(key, _)| hash(key)).collect();
        }
        self.hashes.insert(hash(key)) || !contains(entries, key)
    }
}

fn contains(entries: &[(String, Value)], key: &str) -> bool {
    entries.iter().any(|(other, _)| other == key)
}

fn hash(key: &str) -> u64 {
    std::hash::BuildHasher::hash_one(&rustc_hash::FxBuildHasher, key)
}

/// `<<: *defaults`: the entries of a mapping, or of a list of mappings, that are not written here.
fn merge<E: Error>(entries: &mut Vec<(String, Value)>, merged: Value) -> Result<(), E> {
    let sources = match merged {
        Value::Sequence(sources) => sources,
        single => vec![single],
    };
    for source in sources {
        let Value::Mapping(source) = source else {
            return Err(E::custom("the merge key << takes a mapping or a list of mappings"));
        };
        for (key, value) in source {
            if !contains(entries, &key) {
                entries.push((key, value));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        from_json(text).unwrap()
    }

    #[test]
    fn yaml_and_json_give_the_same_value() {
        let yaml = "a: [1, -2, 1.5, true, null, x]\n80: {b: '1'}\n";
        assert_eq!(
            from_yaml(yaml).unwrap(),
            json(r#"{"a": [1, -2, 1.5, true, null, "x"], "80": {"b": "1"}}"#)
        );
    }

    #[test]
    fn merge_keys_fill_in_what_is_not_written() {
        let yaml = "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\nx:\n  <<: [*base, *more]\n  a: 9\n";
        let Value::Mapping(entries) = from_yaml(yaml).unwrap() else { panic!("a mapping") };
        assert_eq!(entries[2].1, json(r#"{"a": 9, "b": 2, "c": 4}"#));
    }

    #[test]
    fn a_repeated_key_is_refused_among_few_and_among_many() {
        let few = "a: 1\nb: 2\na: 3\n".to_owned();
        let many: String = (0..100).map(|n| format!("k{n}: 1\n")).collect::<String>() + "k99: 2\n";
        for (text, key) in [(few, "a"), (many, "k99")] {
            let message = from_yaml(&text).unwrap_err();
            assert!(message.contains(&format!("{key:?} stands twice")), "{message}");
        }
    }

    #[test]
    fn an_alias_bomb_is_refused_before_it_grows() {
        let mut bomb = "a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n".to_owned();
        for n in 1..20 {
            let alias = format!("*a{}", n - 1);
            bomb += &format!("a{n}: &a{n} [{}]\n", vec![alias; 9].join(","));
        }
        let message = from_yaml(&bomb).unwrap_err();
        assert!(message.contains("expand to more than 512 KiB"), "{message}");
    }

    #[test]
    fn an_alias_to_its_own_parent_is_refused() {
        let message = from_yaml("a: &a [*a]\n").unwrap_err();
        assert!(message.contains("nested more than 64 levels"), "{message}");
    }

    #[test]
    fn brackets_in_text_are_not_nesting() {
        let text = format!("a: x{}\nb: |\n  f({}\n", "[".repeat(1000), "{".repeat(1000));
        assert!(from_yaml(&text).is_ok());
    }

    #[test]
    fn a_template_that_was_not_rendered_is_explained() {
        let message = from_yaml("a: {{ .Values.a }}\n").unwrap_err();
        assert!(message.contains("a template must be rendered first"), "{message}");
    }

    #[test]
    fn depth_is_bounded_in_both_syntaxes() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(from_yaml(&nested(64)).is_ok() && from_json(&nested(64)).is_ok());
        for levels in [65, 127, 10_000] {
            assert!(from_yaml(&nested(levels)).is_err(), "{levels}");
            assert!(from_json(&nested(levels)).is_err(), "{levels}");
        }
    }

    #[test]
    fn a_document_without_aliases_is_within_its_budget_whatever_its_size() {
        let text = "- a\n".repeat(400_000);
        assert!(from_yaml(&text).is_ok());
    }
}
