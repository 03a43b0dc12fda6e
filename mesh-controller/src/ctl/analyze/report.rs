//! Messages as text.

use std::{
    env,
    io::{IsTerminal as _, stdout},
};

use serde_json::{Value, json};

use super::message::Message;
use crate::ctl::{
    args::{AnalyzeArguments, AnalyzeOutput, Level, Output},
    structured,
};

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

pub fn print(
    messages: &[Message],
    unreadable: &[String],
    arguments: &AnalyzeArguments,
    scope: Option<&str>,
) -> anyhow::Result<String> {
    match arguments.output {
        AnalyzeOutput::Json => structured(&document(messages), Output::Json),
        AnalyzeOutput::Yaml => structured(&document(messages), Output::Yaml),
        AnalyzeOutput::Log => {
            let has_colour = arguments.color.unwrap_or_else(wants_colour);
            let mut out: String =
                unreadable.iter().map(|it| format!("Error reading {it}\n")).collect();
            out.extend(messages.iter().map(|message| line(message, has_colour)));
            if messages.is_empty() && unreadable.is_empty() {
                let what = analyzed(arguments, scope);
                out = format!("✔ No validation issues found when analyzing {what}.\n");
            }
            Ok(out)
        }
    }
}

/// What was looked at, for a sentence.
pub fn analyzed(arguments: &AnalyzeArguments, scope: Option<&str>) -> String {
    let files: Vec<String> =
        arguments.paths.iter().map(|path| path.display().to_string()).collect();
    let files = files.join(", ");
    let cluster = match scope {
        _ if !arguments.use_kube => return files,
        None => "all namespaces".to_owned(),
        Some(namespace) => format!("namespace: {namespace}"),
    };
    if files.is_empty() { cluster } else { format!("{files} and {cluster}") }
}

/// `Error [IST0101] (VirtualService default/reviews routes.yaml:12) spec.http[0]: what is wrong`
fn line(message: &Message, has_colour: bool) -> String {
    let Message { code, level, field, text, .. } = message;
    let (start, end) = match level {
        _ if !has_colour => ("", ""),
        Level::Error => (RED, PLAIN),
        Level::Warning => (YELLOW, PLAIN),
        Level::Info => ("", ""),
    };
    let origin = [origin(message), message.reference()];
    let origin: Vec<String> = origin.into_iter().filter(|part| !part.is_empty()).collect();
    let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
    format!("{start}{level}{end} [{}] ({}) {field}{text}\n", code.number(), origin.join(" "))
}

fn origin(message: &Message) -> String {
    message.object.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn document(messages: &[Message]) -> Value {
    let one = |message: &Message| {
        let mut one = json!({
            "code": message.code.number(),
            "documentationUrl": message.documentation(),
            "level": message.level.to_string(),
            "message": message.text,
        });
        for (name, value) in [
            ("origin", origin(message)),
            ("reference", message.reference()),
            ("field", message.field.clone()),
        ] {
            if !value.is_empty() {
                one[name] = value.into();
            }
        }
        one
    };
    messages.iter().map(one).collect()
}

/// A terminal has colours, unless its user wants none (no-color.org).
fn wants_colour() -> bool {
    stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
