//! Matchers compiled once. After construction, matching cannot fail and does not allocate.

use std::sync::Arc;

use regex::{Regex, RegexBuilder, bytes};

use super::re2;

/// The longest pattern accepted, in bytes (Istio's limit).
pub const MAX_REGEX_LENGTH: usize = 1024;
/// Upper bound of a compiled program, in bytes: what keeps a tenant's pattern from taking the memory.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// A pattern that has to match the whole value, with RE2's meaning (ASCII classes, linear time).
#[derive(Debug, Clone)]
pub struct FullRegex {
    pattern: Arc<str>,
    // Of bytes, because only there the classes can be RE2's ASCII ones next to `.` and negations.
    regex: bytes::Regex,
}

impl FullRegex {
    /// Compiles `pattern`, anchored at both ends.
    ///
    /// # Errors
    /// A message for the user: too long, too large once compiled, or not RE2 syntax.
    pub fn new(pattern: &str) -> Result<Self, String> {
        check_length(pattern)?;
        let translated = re2::translate(pattern).map_err(|problem| invalid(&problem))?;
        let regex = bytes::RegexBuilder::new(&format!(r"\A(?:{translated})\z"))
            .unicode(false)
            .size_limit(REGEX_SIZE_LIMIT)
            .dfa_size_limit(REGEX_SIZE_LIMIT)
            .build()
            .map_err(|error| explain(&error))?;
        Ok(Self { pattern: pattern.into(), regex })
    }

    #[must_use]
    pub fn is_match(&self, value: &str) -> bool {
        self.regex.is_match(value.as_bytes())
    }

    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }
}

impl PartialEq for FullRegex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl serde::Serialize for FullRegex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.pattern)
    }
}

/// A pattern replaced wherever it occurs (Istio's `uriRegexRewrite`).
#[derive(Debug, Clone)]
pub struct RegexRewrite {
    pattern: Arc<str>,
    /// In the syntax of the `regex` crate: `\1` became `${1}` and `$` became `$$`.
    replacement: Arc<str>,
    regex: Regex,
}

impl RegexRewrite {
    /// Compiles `pattern`; `replacement` is in RE2's syntax (`\0` whole match, `\1`..`\9` groups,
    /// `\\` a backslash).
    ///
    /// # Errors
    /// A message for the user about either part.
    pub fn new(pattern: &str, replacement: &str) -> Result<Self, String> {
        check_length(pattern)?;
        let translated = re2::translate(pattern).map_err(|problem| invalid(&problem))?;
        let regex = RegexBuilder::new(&translated)
            .size_limit(REGEX_SIZE_LIMIT)
            .dfa_size_limit(REGEX_SIZE_LIMIT)
            .build()
            .map_err(|error| explain(&error))?;
        let mut translated = String::with_capacity(replacement.len() + 8);
        let mut chars = replacement.chars();
        while let Some(c) = chars.next() {
            match c {
                '$' => translated.push_str("$$"),
                '\\' => match chars.next() {
                    Some(d) if d.is_ascii_digit() => {
                        let group = usize::from(d as u8 - b'0');
                        if group >= regex.captures_len() {
                            return Err(format!(
                                "the replacement uses group \\{group}, but the pattern has {} groups",
                                regex.captures_len() - 1
                            ));
                        }
                        translated.push_str("${");
                        translated.push(d);
                        translated.push('}');
                    }
                    Some('\\') => translated.push('\\'),
                    _ => {
                        return Err(
                            r"in the replacement, \ must be followed by a digit or \".into()
                        );
                    }
                },
                other => translated.push(other),
            }
        }
        Ok(Self { pattern: pattern.into(), replacement: translated.into(), regex })
    }

    /// `value` with every match replaced.
    #[must_use]
    pub fn apply<'a>(&self, value: &'a str) -> std::borrow::Cow<'a, str> {
        self.regex.replace_all(value, &*self.replacement)
    }
}

impl PartialEq for RegexRewrite {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.replacement == other.replacement
    }
}

impl serde::Serialize for RegexRewrite {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.pattern, &self.replacement).serialize(serializer)
    }
}

fn check_length(pattern: &str) -> Result<(), String> {
    if pattern.len() > MAX_REGEX_LENGTH {
        return Err(format!(
            "the regex has {} bytes; at most {MAX_REGEX_LENGTH} are allowed",
            pattern.len()
        ));
    }
    Ok(())
}

fn explain(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(limit) => {
            format!("the regex takes more than {limit} bytes once compiled; simplify it")
        }
        other => invalid(other),
    }
}

fn invalid(problem: &dyn std::fmt::Display) -> String {
    format!("not a valid RE2 regex: {problem}")
}

/// A match on one string.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    Regex(FullRegex),
    /// Any value, also the empty one: the thing only has to be there.
    Present,
}

impl StringMatch {
    #[must_use]
    pub fn is_match(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => value == &**exact,
            Self::Prefix(prefix) => value.starts_with(&**prefix),
            Self::Suffix(suffix) => value.ends_with(&**suffix),
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
        }
    }
}

/// A host name as written in `hosts`: exact, `*.suffix` or `*`. Always lower case, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HostPattern {
    Exact(Arc<str>),
    /// `.example.com` for `*.example.com`; matches one or more labels in front.
    Suffix(Arc<str>),
    Any,
}

impl HostPattern {
    /// Reads `*`, `*.example.com` or a name; case and a trailing dot do not matter.
    #[must_use]
    pub fn parse(host: &str) -> Self {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match host.strip_prefix('*') {
            Some("") => Self::Any,
            Some(suffix) => Self::Suffix(suffix.into()),
            None => Self::Exact(host.into()),
        }
    }

    /// Whether `host` (lower case, without port and trailing dot) is meant.
    #[must_use]
    pub fn is_match(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host == &**exact,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Any => true,
        }
    }

    /// The narrower of two patterns where one covers the other; `None` where they have no host in
    /// common (istio-compat 1.2: "the narrower survives").
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            Some(other.clone())
        } else if other.covers(self) {
            Some(self.clone())
        } else {
            None
        }
    }

    /// Whether every host `other` means is also meant by `self`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Suffix(a), Self::Suffix(b)) => b.ends_with(&**a),
            (Self::Suffix(a), Self::Exact(b)) => b.len() > a.len() && b.ends_with(&**a),
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Suffix(_) | Self::Exact(_), Self::Any) | (Self::Exact(_), Self::Suffix(_)) => {
                false
            }
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}
