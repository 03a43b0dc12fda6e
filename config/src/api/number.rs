//! Numbers that come wrapped: percentages, port selectors, and Kubernetes' number-or-name.

use std::fmt;

use serde::{
    Deserialize,
    de::{Deserializer, Error, Visitor},
};

/// A share of requests, `value` in percent from 0 to 100; fractions down to 0.0001 count.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Percent {
    pub value: f64,
}

/// A port of the destination service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortSelector {
    pub number: u16,
}

/// A port number, or the name of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntOrString {
    Int(u16),
    String(String),
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntOrStringVisitor)
    }
}

struct IntOrStringVisitor;

impl Visitor<'_> for IntOrStringVisitor {
    type Value = IntOrString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port number or a port name")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<IntOrString, E> {
        let port = u16::try_from(number).ok().filter(|port| *port > 0).map(IntOrString::Int);
        port.ok_or_else(|| E::custom("a port number is from 1 to 65535"))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<IntOrString, E> {
        // Negative numbers are as wrong as those too large.
        self.visit_u64(u64::try_from(number).unwrap_or(u64::MAX))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<IntOrString, E> {
        Ok(text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int))
    }
}
