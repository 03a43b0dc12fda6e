//! Why a value does not have the type its field needs, in the words of the people who wrote it.
//!
//! Messages never quote a value that is only of the wrong type: it may be a secret.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::value::Value;
use crate::diagnostic::FieldPath;

/// Why a value is not what its field needs, and where that is.
#[derive(Debug)]
pub(super) struct Error {
    pub message: String,
    /// Filled in by the innermost mapping or list on the way out.
    pub place: Option<Place>,
}

#[derive(Debug)]
pub(super) struct Place {
    pub field: String,
    /// Address of the value, its identity while the tree is borrowed.
    pub value: usize,
}

impl Place {
    pub fn new(value: &Value, path: FieldPath<'_>) -> Self {
        Self { field: path.to_string(), value: std::ptr::from_ref(value).addr() }
    }
}

impl Error {
    pub fn new(message: String) -> Self {
        Self { message, place: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Bool(_) => "true or false",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            Unexpected::Str(_) => "a string",
            Unexpected::Unit | Unexpected::Option => "nothing (null)",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a mapping",
            _ => "something else",
        };
        Self::new(format!("expected {}, found {found}", Expectation(expected)))
    }

    /// A number out of range; nothing else can be of the right type and wrong.
    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Signed(number) => number.to_string(),
            Unexpected::Unsigned(number) => number.to_string(),
            other => return Self::invalid_type(other, expected),
        };
        Self::new(format!("expected {}, found {found}", Expectation(expected)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let known = expected.join(", ");
        Self::new(format!("{variant:?} is not one of its values; use one of {known}"))
    }
}

/// What serde expected, in words for people who do not know Rust.
pub(super) struct Expectation<'a>(pub &'a dyn Expected);

impl fmt::Display for Expectation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected = self.0.to_string();
        f.write_str(match expected.as_str() {
            "a map" => "a mapping",
            "a sequence" => "a list",
            "a boolean" => "true or false",
            "u16" => "a whole number from 0 to 65535",
            "u32" => "a whole number from 0 to 4294967295",
            "u64" => "a whole number",
            "f64" => "a number",
            name if name.starts_with("struct ") => "a mapping",
            other => other,
        })
    }
}
