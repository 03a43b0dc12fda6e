//! Findings that are known and not reported.

use super::{config::Config, message::Message};

/// Istio's, on an object: codes that are not reported of it, or `*`.
const ANNOTATION: &str = "galley.istio.io/analyze-suppress";

/// Of the command line.
pub struct Suppressed(Vec<Pattern>);

struct Pattern {
    code: String,
    /// `KIND NAME.NAMESPACE`, in which `*` stands for anything.
    object: String,
}

impl Suppressed {
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        let parse = |text: &String| match text.split_once('=') {
            Some((code, object)) if !code.is_empty() && !object.is_empty() => {
                Ok(Pattern { code: code.to_owned(), object: object.to_owned() })
            }
            _ => Err(format!(
                "--suppress {text:?}: write CODE=KIND NAME.NAMESPACE, as in \
                 \"IST0101=VirtualService reviews.default\"; * stands for anything"
            )),
        };
        texts.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    pub fn covers(&self, message: &Message, config: &Config) -> bool {
        let Some(key) = &message.object else { return false };
        let code = message.code.number();
        let name = if key.namespace.is_empty() {
            format!("{} {}", key.kind, key.name)
        } else {
            format!("{} {}.{}", key.kind, key.name, key.namespace)
        };
        let is_meant = |it: &Pattern| it.code == code && is_match(&it.object, &name);
        let annotation = || config.objects.get(key)?.metadata.annotations.get(ANNOTATION);
        let is_annotated =
            |list: &str| list.split(',').map(str::trim).any(|it| it == "*" || it == code);
        self.0.iter().any(is_meant) || annotation().is_some_and(is_annotated)
    }
}

/// Whether `text` has the parts of `pattern` between its stars, in order.
fn is_match(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, expected) in [
            ("Pod a.b", true),
            ("*", true),
            ("Pod *", true),
            ("Pod *.b", true),
            ("P*a*b", true),
            ("Pod a", false),
            ("Pod *.c", false),
            ("*x*", false),
        ] {
            assert_eq!(is_match(pattern, "Pod a.b"), expected, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_needs_a_code_and_an_object() {
        assert!(Suppressed::parse(&["IST0101=*".to_owned()]).is_ok());
        for wrong in ["IST0101", "=x", "IST0101="] {
            assert!(Suppressed::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
