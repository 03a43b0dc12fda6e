//! Access log formats, compiled once into segments
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>).

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use weir_config::model::settings::AccessLogFormat;

mod command;

use self::command::Command;
use super::{
    escape,
    operator::{Entry, Operator, Value},
    time::TimeCache,
};
use crate::canonical::ip;

/// Istio's default line.
const DEFAULT_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% \
%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's default fields.
const DEFAULT_JSON: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
];

/// A format, ready to print lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format(Shape);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    Text(Box<[Segment]>),
    Json(Box<[JsonField]>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct JsonField {
    /// With its quotes and colon, already escaped.
    key: Box<[u8]>,
    value: Box<[Segment]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<[u8]>),
    /// At most so many bytes of the value.
    Operator(Operator, Option<usize>),
}

impl Format {
    /// The format and what of it is not understood. That prints `-` (`null` alone in a JSON field).
    #[must_use]
    pub fn compile(format: &AccessLogFormat) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let shape = match format {
            AccessLogFormat::Text(custom) => {
                let mut line = custom.as_deref().unwrap_or(DEFAULT_TEXT).to_owned();
                // Lines of two exchanges would run together; Istio adds it too.
                if !line.ends_with('\n') {
                    line.push('\n');
                }
                Shape::Text(segments(&line, &mut problems).into())
            }
            AccessLogFormat::Json(None) => json(DEFAULT_JSON.into_iter(), &mut problems),
            AccessLogFormat::Json(Some(fields)) => {
                json(fields.iter().map(|(key, value)| (&**key, &**value)), &mut problems)
            }
        };
        (Self(shape), problems)
    }

    /// Appends one line.
    pub fn write(&self, entry: &Entry<'_>, cache: &mut TimeCache, out: &mut Vec<u8>) {
        let started_at = entry.info.started_at;
        let mut writer = ValueWriter { started_at, cache, out };
        match &self.0 {
            Shape::Text(segments) => {
                for segment in segments {
                    writer.segment(segment, entry, escape::text);
                }
            }
            Shape::Json(fields) => {
                let mut before = b'{';
                for JsonField { key, value } in fields {
                    writer.out.push(before);
                    writer.out.extend_from_slice(key);
                    writer.json_value(value, entry);
                    before = b',';
                }
                let end: &[u8] = if fields.is_empty() { b"{}\n" } else { b"}\n" };
                writer.out.extend_from_slice(end);
            }
        }
    }
}

struct ValueWriter<'a> {
    started_at: SystemTime,
    cache: &'a mut TimeCache,
    out: &'a mut Vec<u8>,
}

type Escape = fn(&[u8], &mut Vec<u8>);

impl ValueWriter<'_> {
    fn segment(&mut self, segment: &Segment, entry: &Entry<'_>, escape: Escape) {
        match segment {
            Segment::Literal(literal) => self.out.extend_from_slice(literal),
            Segment::Operator(operator, limit) => {
                self.value(operator.value(entry), *limit, escape);
            }
        }
    }

    /// A field of one operator keeps the operator's type; anything else is a string.
    fn json_value(&mut self, segments: &[Segment], entry: &Entry<'_>) {
        if let [Segment::Operator(operator, limit)] = segments {
            match operator.value(entry) {
                Value::Absent => return self.out.extend_from_slice(b"null"),
                Value::Number(number) => return write_number(number, self.out),
                value => {
                    self.out.push(b'"');
                    self.value(value, *limit, escape::json);
                }
            }
        } else {
            self.out.push(b'"');
            for segment in segments {
                self.segment(segment, entry, escape::json);
            }
        }
        self.out.push(b'"');
    }

    fn value(&mut self, value: Value<'_>, limit: Option<usize>, escape: Escape) {
        match value {
            Value::Absent => self.out.push(b'-'),
            Value::Number(number) => write_number(number, self.out),
            Value::Text(text) => {
                let end = limit.map_or(text.len(), |limit| limit.min(text.len()));
                escape(&text[..end], self.out);
            }
            Value::Address(addr) => write_address(addr, self.out),
            Value::Ip(ip) => ip::write(ip, self.out),
            Value::Flags(flags) => {
                if flags.is_empty() {
                    self.out.push(b'-');
                }
                for (i, flag) in flags.iter().enumerate() {
                    if i > 0 {
                        self.out.push(b',');
                    }
                    self.out.extend_from_slice(flag.code().as_bytes());
                }
            }
            Value::StartTime(None) => self.cache.write_iso(self.started_at, self.out),
            Value::StartTime(Some(format)) => {
                let mut text = Vec::new();
                format.write(self.started_at, &mut text);
                escape(&text, self.out);
            }
        }
    }
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn write_address(addr: SocketAddr, out: &mut Vec<u8>) {
    match addr {
        SocketAddr::V4(addr) => {
            ip::write(IpAddr::V4(*addr.ip()), out);
            out.push(b':');
            write_number(addr.port().into(), out);
        }
        // Writing to a Vec cannot fail.
        SocketAddr::V6(addr) => drop(write!(out, "{addr}")),
    }
}

fn json<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>, problems: &mut Vec<String>) -> Shape {
    let compile = |(key, format): (&str, &str)| {
        let mut escaped = vec![b'"'];
        escape::json(key.as_bytes(), &mut escaped);
        escaped.extend_from_slice(b"\":");
        let mut segments = segments(format, problems);
        for segment in &mut segments {
            if let Segment::Literal(literal) = segment {
                let mut escaped = Vec::new();
                escape::json(literal, &mut escaped);
                *literal = escaped.into();
            }
        }
        JsonField { key: escaped.into(), value: segments.into() }
    };
    Shape::Json(fields.map(compile).collect())
}

fn segments(format: &str, problems: &mut Vec<String>) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        literal.push_str(&rest[..start]);
        let after = &rest[start + 1..];
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let Some(command) = Command::parse(after) else {
            problems.push(format!("a `%` begins no operator at `{}`; write `%%`", excerpt(after)));
            literal.push('%');
            rest = after;
            continue;
        };
        if !literal.is_empty() {
            segments.push(Segment::Literal(std::mem::take(&mut literal).into_bytes().into()));
        }
        let operator = command.operator().unwrap_or_else(|problem| {
            problems.push(problem);
            Operator::Constant(None)
        });
        segments.push(Segment::Operator(operator, command.limit));
        rest = command.rest;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        segments.push(Segment::Literal(literal.into_bytes().into()));
    }
    segments
}

fn excerpt(text: &str) -> String {
    text.chars().take(20).collect()
}

#[cfg(test)]
mod tests;
