//! What we said about an object before, as its status has it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The types of condition that are ours.
pub const ACCEPTED: &str = "Accepted";
pub const PROGRAMMED: &str = "Programmed";

/// `status.conditions[]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    pub r#type: Box<str>,
    pub status: Box<str>,
    pub reason: Box<str>,
    pub message: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// RFC 3339.
    pub last_transition_time: Box<str>,
}

/// Our part of a status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    pub observed_generation: Option<i64>,
    pub conditions: Box<[Condition]>,
}

impl Written {
    /// Of an object as it comes from the API server. What cannot be read was not written by us.
    #[must_use]
    pub fn of(object: &Map<String, Value>) -> Self {
        let Some(status) = object.get("status") else { return Self::default() };
        let conditions = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
        let conditions = conditions
            .filter_map(|condition| Condition::deserialize(condition).ok())
            .filter(|condition| [ACCEPTED, PROGRAMMED].contains(&&*condition.r#type));
        // Istio writes the number as a text.
        let observed_generation = status.get("observedGeneration").and_then(|generation| {
            generation.as_i64().or_else(|| generation.as_str()?.parse().ok())
        });
        Self { observed_generation, conditions: conditions.collect() }
    }
}
