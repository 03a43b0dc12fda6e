//! From the untyped tree to an API type: protobuf's JSON leniency, and every finding with its path.
//!
//! serde stops at the first error. Here the offending value is then left out and the rest is tried
//! again, so that one run reports every wrong type of an object.

use std::cell::RefCell;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, Visitor,
};

use super::{
    suggestion::nearest,
    type_error::{Error, Expectation, Place},
    value::Value,
};
use crate::diagnostic::FieldPath;

/// Wrong types reported for one object. More of them would say nothing new, and each costs a pass.
const MAX_ERRORS: usize = 20;

/// What reading a value as `T` came to.
pub(super) struct Typed<T> {
    /// `None` if there are errors.
    pub value: Option<T>,
    pub errors: Vec<Finding>,
    /// Fields that do not exist. They have no effect.
    pub unknown: Vec<Finding>,
}

/// A message about one place.
pub(super) struct Finding {
    pub field: String,
    pub message: String,
}

/// Reads `value`, found at `path`, as a `T`.
pub(super) fn typed<T: DeserializeOwned>(value: &Value, path: FieldPath<'_>) -> Typed<T> {
    let mut context = Context::default();
    let mut errors = Vec::new();
    loop {
        context.unknown.borrow_mut().clear();
        let result = T::deserialize(Node { value, path, context: &context });
        let unknown = context.unknown.take();
        let error = match result {
            Ok(read) => {
                let value = errors.is_empty().then_some(read);
                return Typed { value, errors, unknown };
            }
            Err(error) => error,
        };
        let place = error.place.unwrap_or_else(|| Place::new(value, path));
        errors.push(Finding { field: place.field, message: error.message });
        let at_root = std::ptr::from_ref(value).addr() == place.value;
        if at_root || errors.len() == MAX_ERRORS || context.left_out.contains(&place.value) {
            return Typed { value: None, errors, unknown };
        }
        context.left_out.push(place.value);
    }
}

#[derive(Default)]
struct Context {
    unknown: RefCell<Vec<Finding>>,
    /// Addresses of values that were reported and are treated as absent.
    left_out: Vec<usize>,
}

impl Context {
    fn keeps(&self, value: &Value) -> bool {
        self.left_out.is_empty() || !self.left_out.contains(&std::ptr::from_ref(value).addr())
    }
}

/// A value on its way to becoming typed.
#[derive(Clone, Copy)]
struct Node<'a> {
    value: &'a Value,
    path: FieldPath<'a>,
    context: &'a Context,
}

impl Node<'_> {
    fn invalid_type(self, expected: &dyn Expected) -> Error {
        let hint = match (self.value, expected.to_string().as_str()) {
            (Value::Int(_) | Value::Float(_) | Value::Bool(_), "a string") => "; put it in quotes",
            _ => "",
        };
        Error::new(format!(
            "expected {}, found {}{hint}",
            Expectation(expected),
            self.value.describe()
        ))
    }

    /// An integer, also as protobuf's JSON may write it: `"80"` or `80.0`.
    fn integer(self) -> Option<i64> {
        match self.value {
            Value::Int(number) => Some(*number),
            // Exact up to 2^53, and no field counts further.
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
                Some(*number as i64)
            }
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn deserialize_integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.integer() {
            Some(number) => visitor.visit_i64(number),
            None => Err(self.invalid_type(&visitor)),
        }
    }

    fn unknown_field(self, key: &str, fields: &[&str]) {
        let message = match nearest(key, fields) {
            Some(field) => format!("unknown field, it has no effect; did you mean {field}?"),
            None => "unknown field, it has no effect; remove it or correct its name".to_owned(),
        };
        let field = self.path.field(key).to_string();
        self.context.unknown.borrow_mut().push(Finding { field, message });
    }
}

macro_rules! integers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.deserialize_integer(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Error;

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(text) => visitor.visit_str(text),
            Value::Sequence(items) => visitor.visit_seq(Items { node: self, items, index: 0 }),
            Value::Mapping(entries) => {
                visitor.visit_map(Entries { node: self, entries, fields: None, pending: None })
            }
        }
    }

    /// `yes`, `on` and their opposites are booleans to the YAML 1.1 parser of Kubernetes' tools.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let word = match self.value {
            Value::Bool(value) => return visitor.visit_bool(*value),
            Value::String(text) => text.to_ascii_lowercase(),
            _ => return Err(self.invalid_type(&visitor)),
        };
        match word.as_str() {
            "true" | "yes" | "on" | "y" => visitor.visit_bool(true),
            "false" | "no" | "off" | "n" => visitor.visit_bool(false),
            _ => Err(self.invalid_type(&visitor)),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let number = match self.value {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        match number.filter(|number| number.is_finite()) {
            Some(number) => visitor.visit_f64(number),
            None => Err(self.invalid_type(&visitor)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::String(text) => visitor.visit_str(text),
            _ => Err(self.invalid_type(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Sequence(items) => visitor.visit_seq(Items { node: self, items, index: 0 }),
            _ => Err(self.invalid_type(&visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Mapping(entries) => {
                visitor.visit_map(Entries { node: self, entries, fields: None, pending: None })
            }
            _ => Err(self.invalid_type(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Mapping(entries) => visitor.visit_map(Entries {
                node: self,
                entries,
                fields: Some(fields),
                pending: None,
            }),
            _ => Err(self.invalid_type(&visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(self.invalid_type(&"one of its names as a string")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// The elements of a list.
struct Items<'a> {
    node: Node<'a>,
    items: &'a [Value],
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        while let Some(value) = self.items.get(self.index) {
            let path = self.node.path.index(self.index);
            self.index += 1;
            if self.node.context.keeps(value) {
                return descend(self.node.context, value, path, seed).map(Some);
            }
        }
        Ok(None)
    }

    /// Lists are made as large as they are: most have one item, and would have room for four.
    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.index)
    }
}

/// The entries of a mapping.
struct Entries<'a> {
    node: Node<'a>,
    entries: &'a [(String, Value)],
    /// The fields of a struct; `None` for a map, whose keys are free.
    fields: Option<&'static [&'static str]>,
    pending: Option<&'a (String, Value)>,
}

impl<'a> Entries<'a> {
    fn next(&mut self) -> Option<&'a (String, Value)> {
        loop {
            let (entry, rest) = self.entries.split_first()?;
            self.entries = rest;
            let (key, value) = entry;
            if !self.node.context.keeps(value) {
                continue;
            }
            let Some(fields) = self.fields else { return Some(entry) };
            if !fields.contains(&key.as_str()) {
                self.node.unknown_field(key, fields);
            } else if *value != Value::Null {
                // For a field null means absent. In a map it would hide the entry, and dropping a
                // header condition without a word would widen what a rule matches.
                return Some(entry);
            }
        }
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.pending = self.next();
        self.pending.map(|(key, _)| seed.deserialize(key.as_str().into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.pending.expect("serde asks for a value after a key");
        let path = match self.fields {
            Some(_) => self.node.path.field(key),
            None => self.node.path.key(key),
        };
        descend(self.node.context, value, path, seed)
    }
}

fn descend<'de, T: DeserializeSeed<'de>>(
    context: &Context,
    value: &Value,
    path: FieldPath<'_>,
    seed: T,
) -> Result<T::Value, Error> {
    seed.deserialize(Node { value, path, context }).map_err(|mut error| {
        error.place.get_or_insert_with(|| Place::new(value, path));
        error
    })
}
