//! How foreign types appear in dumps.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::{Serialize, Serializer};

use super::route::{HeaderTemplate, TemplatePart};

pub(super) mod header_name {
    use super::{HeaderName, Serializer};

    pub(in crate::model) fn serialize<S: Serializer>(
        name: &HeaderName,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_str(name.as_str())
    }
}

pub(super) mod option_header_name {
    use super::{HeaderName, Serialize, Serializer};

    pub(in crate::model) fn serialize<S: Serializer>(
        name: &Option<HeaderName>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        name.as_ref().map(HeaderName::as_str).serialize(s)
    }
}

pub(super) mod option_header_value {
    use super::{HeaderValue, Serialize, Serializer};

    pub(in crate::model) fn serialize<S: Serializer>(
        value: &Option<HeaderValue>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes())).serialize(s)
    }
}

pub(super) mod header_names {
    use super::{Arc, HeaderName, Serializer};

    pub(in crate::model) fn serialize<S: Serializer>(
        names: &Arc<[HeaderName]>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_seq(names.iter().map(HeaderName::as_str))
    }
}

pub(super) mod header_templates {
    use super::{Arc, HeaderName, HeaderTemplate, Serializer, TemplatePart};

    pub(in crate::model) fn serialize<S: Serializer>(
        headers: &Arc<[(HeaderName, HeaderTemplate)]>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_seq(headers.iter().map(|(name, template)| match template {
            HeaderTemplate::Literal(value) => {
                format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
            }
            HeaderTemplate::Format(parts) => {
                parts.iter().fold(format!("{name}: "), |text, part| {
                    text + &match part {
                        TemplatePart::Literal(literal) => literal.to_string(),
                        TemplatePart::Operator(operator) => operator.to_string(),
                    }
                })
            }
        }))
    }
}

pub(super) mod status_code {
    use super::{Serializer, StatusCode};

    pub(in crate::model) fn serialize<S: Serializer>(
        code: &StatusCode,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_u16(code.as_u16())
    }
}

pub(super) mod method {
    use super::{Method, Serializer};

    pub(in crate::model) fn serialize<S: Serializer>(
        method: &Method,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_str(method.as_str())
    }
}

pub(super) mod body {
    use super::{Bytes, Serializer};

    pub(in crate::model) fn serialize<S: Serializer>(
        body: &Bytes,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_str(&String::from_utf8_lossy(body))
    }
}
