//! From bytes to objects.
//!
//! ```text
//! bytes --split--> documents --value--> tree --object--> Object
//! ```
//!
//! Every document stands alone: what is wrong with one is a diagnostic, the others are used. Nothing
//! is dropped without a word: an unknown field or a kind that is not used is a warning, a wrong type
//! an error. Any input ends in bounded time and memory.

use std::sync::Arc;

use serde::de::IgnoredAny;

use crate::{
    api::{MeshConfig, Object, Source, mesh_config::ProxyConfig},
    diagnostic::{Diagnostic, FieldPath, Severity},
};

mod deserialize;
mod document;
mod kind;
mod object;
mod suggestion;
mod type_error;
mod value;

use deserialize::{Finding, Typed, typed};
use document::Document;
use value::Value;
pub use value::{MAX_ALIAS_GROWTH, MAX_DEPTH};

/// Bytes of a file that are read.
pub const MAX_FILE_SIZE: usize = 16 * 1024 * 1024;

/// Bytes of one object: what etcd stores, and therefore Kubernetes accepts.
pub const MAX_OBJECT_SIZE: usize = 3 * 512 * 1024;

/// What the text itself does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Namespace of objects that name none.
    pub default_namespace: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { default_namespace: "default".to_owned() }
    }
}

/// The objects that could be read, in order, and what there is to say about the rest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    pub objects: Vec<Object>,
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads the objects of a file of YAML or JSON documents. `file` is only used to name the source.
pub fn parse(file: &str, bytes: &[u8], options: &Options) -> Parsed {
    let name: Arc<str> = file.into();
    let mut parsed = Parsed::default();
    for_each_document(file, bytes, |line, document| {
        let source = Source { file: name.clone(), line };
        match document {
            Ok(document) => object::read(document, &source, options, &mut parsed),
            Err(message) => parsed.diagnostics.push(error(source, message)),
        }
    });
    parsed
}

/// Reads a mesh configuration: its one document is the MeshConfig itself, or the `istio` ConfigMap
/// with the MeshConfig under `mesh`. An empty file is a MeshConfig with nothing set.
pub fn parse_mesh_config(file: &str, bytes: &[u8]) -> (Option<MeshConfig>, Vec<Diagnostic>) {
    let name: Arc<str> = file.into();
    let mut diagnostics = Vec::new();
    let mut documents = Vec::new();
    for_each_document(file, bytes, |line, document| {
        let source = Source { file: name.clone(), line };
        match document {
            Ok(document) => documents.push((source, document)),
            Err(message) => diagnostics.push(error(source, message)),
        }
    });
    if let Some((source, _)) = documents.get(1) {
        let message = "a mesh configuration is a single document; remove this one".to_owned();
        diagnostics.push(error(source.clone(), message));
    }
    if !diagnostics.is_empty() {
        return (None, diagnostics);
    }
    let Some((source, document)) = documents.pop() else {
        return (Some(MeshConfig::default()), diagnostics);
    };
    match mesh_config_of(document) {
        Ok(document) => {
            let config = read_mesh_config(&document, &source, &mut diagnostics);
            (config, diagnostics)
        }
        Err(message) => (None, vec![error(source, message)]),
    }
}

/// Reads a proxy's settings as a pod has them in the annotation `proxy.istio.io/config`.
///
/// # Errors
/// Everything that is wrong, each with the path of its field.
pub fn parse_proxy_config(text: &str) -> Result<ProxyConfig, Vec<String>> {
    let document = value::from_yaml(text).map_err(|error| vec![format!("no YAML: {error}")])?;
    let Typed { value, errors, unknown: _ } = typed(&document, FieldPath::ROOT);
    let wrong = errors.into_iter().map(|Finding { field, message }| match field.as_str() {
        "" => message,
        field => format!("{field}: {message}"),
    });
    let wrong: Vec<String> = wrong.collect();
    value.filter(|_| wrong.is_empty()).ok_or(wrong)
}

/// Unwraps the ConfigMap that Istio keeps its mesh configuration in.
fn mesh_config_of(document: Value) -> Result<Value, String> {
    let is_config_map = document.get("kind") == Some(&Value::String("ConfigMap".to_owned()));
    if !is_config_map {
        return Ok(document);
    }
    match document.get("data").and_then(|data| data.get("mesh")) {
        Some(Value::String(mesh)) => {
            value::from_yaml(mesh).map_err(|error| format!("data.mesh: {error}"))
        }
        _ => Err("this ConfigMap has no text under data.mesh".to_owned()),
    }
}

fn read_mesh_config(
    document: &Value,
    source: &Source,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<MeshConfig> {
    let Typed { value, errors, unknown } = typed(document, FieldPath::ROOT);
    let errors = errors.into_iter().map(|finding| (Severity::Error, finding));
    let unknown = unknown.into_iter().map(|finding| (Severity::Warning, finding));
    for (severity, Finding { field, message }) in errors.chain(unknown) {
        let source = source.clone();
        diagnostics.push(Diagnostic { severity, object: None, source, field, message });
    }
    value
}

fn error(source: Source, message: String) -> Diagnostic {
    let severity = Severity::Error;
    Diagnostic { severity, object: None, source, field: String::new(), message }
}

/// Hands each document, parsed or with what prevents it, to `found` along with its line.
fn for_each_document(file: &str, bytes: &[u8], mut found: impl FnMut(u32, Result<Value, String>)) {
    let text = match text(bytes) {
        Ok(text) => text,
        Err((line, message)) => return found(line, Err(message)),
    };
    for document in document::split(text) {
        match json_values(file, &document) {
            Some(values) => values.into_iter().for_each(|(line, value)| found(line, value)),
            None => match yaml_value(&document) {
                Ok(value) => found(document.line, Ok(value)),
                Err(message) => {
                    let line = place(&message, &document);
                    found(line, Err(message));
                }
            },
        }
    }
}

/// The file's text, or the line and the reason why it is not text.
fn text(bytes: &[u8]) -> Result<&str, (u32, String)> {
    if bytes.len() > MAX_FILE_SIZE {
        let message = format!(
            "the file has {}; files up to {} are read, so split it",
            mebibytes(bytes.len()),
            mebibytes(MAX_FILE_SIZE)
        );
        return Err((1, message));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count() as u32;
        let byte = rest.first().copied().unwrap_or_default();
        let message = format!(
            "not UTF-8 text: byte 0x{byte:02x} at offset {}; is this a binary file, or UTF-16?",
            valid.len()
        );
        (line, message)
    })
}

/// A document that JSON describes completely is read as JSON: faster, and YAML knows no surrogate
/// pairs. `None` for everything else, to be read as YAML.
fn json_values(file: &str, document: &Document<'_>) -> Option<Vec<(u32, Result<Value, String>)>> {
    let text = document.text.strip_prefix("---").unwrap_or(document.text);
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut values = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut from = 0;
    while let Some(value) = stream.next() {
        match value {
            Ok(_) => {
                let slice = &text[from..stream.byte_offset()];
                let skipped = slice.len() - slice.trim_start().len();
                let line = document.start + newlines(&text[..from + skipped]);
                let value = value::from_json(slice.trim_start())
                    .map_err(|error| shift_lines(&error, line - 1));
                values.push((line, value));
            }
            Err(error) if file.ends_with(".json") => {
                let message = shift_lines(&error.to_string(), document.start - 1);
                let line = place(&message, document);
                values.push((line, Err(format!("cannot be read as JSON: {message}"))));
                break;
            }
            Err(_) => return None,
        }
        from = stream.byte_offset();
    }
    Some(values)
}

fn yaml_value(document: &Document<'_>) -> Result<Value, String> {
    // Parsing costs many times the text's memory, so what will be refused is not parsed first.
    if document.text.len() > MAX_OBJECT_SIZE && !says_it_is_a_list(document.text) {
        return Err(too_large(document.text.len()));
    }
    value::from_yaml(document.text).map_err(|error| {
        let message = shift_lines(&error, document.start - 1);
        format!("cannot be read as YAML: {message}")
    })
}

/// Whether a line of the document is `kind: List` or `kind: <Kind>List`. Only the objects in a list
/// are limited in size.
fn says_it_is_a_list(text: &str) -> bool {
    text.lines()
        .filter_map(|line| line.strip_prefix("kind:"))
        .any(|kind| kind.trim().trim_matches(['"', '\'']).ends_with("List"))
}

fn too_large(size: usize) -> String {
    format!(
        "the object has {}; objects up to {} are accepted, the limit of Kubernetes (etcd), so split it",
        mebibytes(size),
        mebibytes(MAX_OBJECT_SIZE)
    )
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1024 * 1024))
}

fn newlines(text: &str) -> u32 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u32
}

/// Parsers count lines from the beginning of their document; people from that of the file. Adds
/// `lines` to every `line N column M` of a message.
fn shift_lines(message: &str, lines: u32) -> String {
    let mut shifted = String::with_capacity(message.len() + 8);
    let mut rest = message;
    while let Some((before, after)) = rest.split_once("line ") {
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (number, after) = after.split_at(digits);
        shifted.push_str(before);
        shifted.push_str("line ");
        match number.parse::<u32>() {
            Ok(line) if after.starts_with(" column ") => {
                shifted.push_str(&line.saturating_add(lines).to_string());
            }
            _ => shifted.push_str(number),
        }
        rest = after;
    }
    shifted.push_str(rest);
    shifted
}

/// The line of the file a parser's message is about: the first it names. What is missing at the end of
/// a document is said to be missing at the beginning of the next.
fn place(message: &str, document: &Document<'_>) -> u32 {
    let named = message.split_once(" column ").and_then(|(before, _)| {
        let (_, line) = before.rsplit_once("line ")?;
        line.parse().ok()
    });
    let last = document.start + (document.text.lines().count() as u32).saturating_sub(1);
    named.map_or(document.line, |line: u32| line.clamp(document.line, last))
}

#[cfg(test)]
mod tests;
