//! Something wrong, or worth saying, about one configuration object, and the place in it.

use std::fmt;

use crate::api::{ObjectKey, Source};

/// How much of the object is affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is applied; the feature named by the field may fail closed.
    Warning,
    /// The object is not applied. Its last good version, if there was one, stays in force.
    Error,
}

/// One finding. Collected, never thrown: a run reports all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The object, as far as it could be identified; `None` for a document that could not be read.
    pub object: Option<ObjectKey>,
    /// File and line of the document the object came from.
    pub source: Source,
    /// Path inside the object, `spec.servers[0].port.number`; empty when the whole object is meant.
    pub field: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    /// `error: routes.yaml:12: VirtualService default/reviews: spec.http[0]: message`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}: ", self.source)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// A place inside an object, built on the way down and printed only when something is found there:
/// `spec.http[0].match[1].headers[x-user]`.
#[derive(Debug, Clone, Copy)]
pub struct FieldPath<'a> {
    parent: Option<&'a Self>,
    segment: Segment<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Segment<'a> {
    Root,
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> FieldPath<'a> {
    /// The object itself; prints as nothing.
    pub const ROOT: Self = Self { parent: None, segment: Segment::Root };

    /// A named field of this place.
    pub fn field(&'a self, name: &'a str) -> Self {
        self.child(Segment::Field(name))
    }

    /// An entry of this map.
    pub fn key(&'a self, key: &'a str) -> Self {
        self.child(Segment::Key(key))
    }

    /// An element of this list, from 0.
    pub fn index(&'a self, index: usize) -> Self {
        self.child(Segment::Index(index))
    }

    fn child(&'a self, segment: Segment<'a>) -> Self {
        Self { parent: Some(self), segment }
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else { return Ok(()) };
        parent.fmt(f)?;
        match self.segment {
            Segment::Root => Ok(()),
            Segment::Field(name) if parent.parent.is_none() => f.write_str(name),
            Segment::Field(name) => write!(f, ".{name}"),
            Segment::Key(key) => write!(f, "[{key}]"),
            Segment::Index(index) => write!(f, "[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_prints_fields_keys_and_indexes() {
        let spec = FieldPath::ROOT.field("spec");
        let http = spec.field("http");
        let route = http.index(2);
        let headers = route.field("headers");
        assert_eq!(headers.key("x-user").to_string(), "spec.http[2].headers[x-user]");
        assert_eq!(FieldPath::ROOT.to_string(), "");
    }
}
