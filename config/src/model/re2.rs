//! RE2's syntax -> that of the `regex` crate, where the two mean different things by the same text
//! (<https://github.com/google/re2/wiki/Syntax>).

/// Flags of `(?flags)` that only the `regex` crate knows.
const FOREIGN_FLAGS: [char; 3] = ['x', 'u', 'R'];

/// `pattern` in the syntax of the `regex` crate. What neither takes is left for it to refuse.
///
/// # Errors
/// The pattern says something only the `regex` crate understands, or closes a group it has not opened:
/// put between anchors, `a)|(b` would be another pattern than by itself.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    let mut groups = 0_u32;
    while let Some(c) = rest.chars().next() {
        rest = match c {
            '\\' => escape(rest, &mut out)?,
            '[' => class(rest, &mut out),
            _ => {
                match c {
                    '(' => {
                        groups += 1;
                        flags(rest)?;
                    }
                    ')' => groups = groups.checked_sub(1).ok_or("unexpected )")?,
                    _ => {}
                }
                out.push(c);
                &rest[c.len_utf8()..]
            }
        };
    }
    Ok(out)
}

/// Refuses flags RE2 does not know in a `(?flags)` or `(?flags:...)`.
fn flags(group: &str) -> Result<(), String> {
    let Some(flags) = group.strip_prefix("(?") else { return Ok(()) };
    let named = flags.chars().take_while(|c| c.is_ascii_alphabetic() || *c == '-');
    match named.into_iter().find(|flag| FOREIGN_FLAGS.contains(flag)) {
        Some(flag) => Err(format!("unknown flag {flag} in (?{flag})")),
        None => Ok(()),
    }
}

/// Copies one escape outside of a class; returns what follows it.
fn escape<'a>(text: &'a str, out: &mut String) -> Result<&'a str, String> {
    let after = &text[1..];
    let Some(c) = after.chars().next() else {
        out.push('\\');
        return Ok(after);
    };
    let rest = &after[c.len_utf8()..];
    match c {
        'Q' => {
            let (literal, rest) = rest.split_once("\\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(literal));
            return Ok(rest);
        }
        // Any byte.
        'C' => out.push_str("(?s-u:.)"),
        'p' | 'P' => {
            let end = match rest.strip_prefix('{') {
                Some(name) => name.find('}').map_or(rest.len(), |end| end + 2),
                None => rest.chars().next().map_or(0, char::len_utf8),
            };
            let (name, rest) = rest.split_at(end);
            out.push_str(&format!("(?u:\\{c}{name})"));
            return Ok(rest);
        }
        'u' | 'U' => return Err(format!("unknown escape \\{c}")),
        // Beginning and end of a word there, the characters themselves here.
        '<' | '>' => out.push(c),
        c => out.extend(['\\', c]),
    }
    Ok(rest)
}

/// Copies one class, in which RE2 has neither classes within classes nor set operations; returns what
/// follows it.
fn class<'a>(text: &'a str, out: &mut String) -> &'a str {
    let negated = if text.starts_with("[^") { "[^" } else { "[" };
    out.push_str(negated);
    let mut rest = &text[negated.len()..];
    // First, it is a character like any other.
    if let Some(after) = rest.strip_prefix(']') {
        out.push_str("\\]");
        rest = after;
    }
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            ']' => {
                out.push(c);
                return after;
            }
            '[' => match named_class(rest) {
                Some(name) => {
                    out.push_str(name);
                    &rest[name.len()..]
                }
                None => {
                    out.push_str("\\[");
                    after
                }
            },
            '\\' => {
                out.push(c);
                let escaped = after.chars().next();
                out.extend(escaped);
                &after[escaped.map_or(0, char::len_utf8)..]
            }
            '&' | '~' => {
                out.extend(['\\', c]);
                after
            }
            '-' if after.starts_with('-') => {
                out.push_str("-\\-");
                &after[1..]
            }
            c => {
                out.push(c);
                after
            }
        };
    }
    rest
}

/// The `[:alpha:]` that `text` starts with.
fn named_class(text: &str) -> Option<&str> {
    let name = text.strip_prefix("[:")?;
    let length = name.find(|c: char| !(c.is_ascii_alphabetic() || c == '^'))?;
    name[length..].starts_with(":]").then(|| &text[..length + 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::matcher::FullRegex;

    #[test]
    fn what_means_something_else_in_re2_is_said_otherwise() {
        for (pattern, value, expected) in [
            ("[a&&b]+", "a&b", true),
            ("[[a]+", "[a", true),
            ("[a~~z]+", "~az", true),
            ("[^[]", "[", false),
            ("[+--]+", "+,-", true),
            ("[]a]+", "]a", true),
            ("[^]a]", "]", false),
            (r"[\]&]+", "]&", true),
            ("[[:alpha:]_]+", "ab_", true),
            ("[[:alpha:]_]+", "[:", false),
            (r"\Qa.b\E.", "a.bc", true),
            (r"\Qa.b\E", "axb", false),
            (r"\Q.*", ".*", true),
            (r"\<a\>", "<a>", true),
            (r"\p{Greek}+x", "αβx", true),
            (r"\pL", "é", true),
            (r"\PL", "é", false),
            (r"a\C", "a\n", true),
            (r"\(\)", "()", true),
            ("(?i)ab", "AB", true),
            ("(?P<n>a)(b)", "ab", true),
            ("[)]", ")", true),
        ] {
            let regex = FullRegex::new(pattern).unwrap();
            assert_eq!(regex.is_match(value), expected, "{pattern} on {value}: {regex:?}");
        }
    }

    #[test]
    fn what_re2_does_not_know_is_refused() {
        for pattern in
            ["a)|(b", ")", r"(?x) a ", "(?u:a)", r"\u{61}", "(a", "a(?=b)", r"(a)\1", "["]
        {
            assert!(FullRegex::new(pattern).is_err(), "{pattern}");
        }
        assert_eq!(translate("a)").unwrap_err(), "unexpected )");
    }
}
