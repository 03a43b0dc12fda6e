//! The one spelling of a path. Routing, authorization, logs and the upstream all see this one
//! (RFC 3986 section 6.2.2; hardening C5).

use std::borrow::Cow;

use http::{Uri, uri::PathAndQuery};
use weir_config::model::settings::PathNormalization;

/// No single spelling: a broken or NUL escape, or a byte that has no place in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unnormalizable;

/// The canonical spelling of `path` (without query). Borrowed when it already is.
///
/// # Errors
/// `%` not followed by two hexadecimal digits, `%00`, control characters, spaces and `#`, in every
/// mode: servers disagree on their meaning.
pub fn canonical(path: &str, mode: PathNormalization) -> Result<Cow<'_, str>, Unnormalizable> {
    let found = scan(path.as_bytes())?;
    let (decode_slashes, merge_slashes) = match mode {
        PathNormalization::None => return Ok(Cow::Borrowed(path)),
        PathNormalization::Base => (false, false),
        PathNormalization::MergeSlashes => (false, true),
        PathNormalization::DecodeAndMergeSlashes => (true, true),
    };
    if !(found.rewritable || found.dots || found.double_slash && merge_slashes) {
        return Ok(Cow::Borrowed(path));
    }
    let spelled = spell(path.as_bytes(), decode_slashes);
    let resolved = remove_dot_segments(&spelled);
    let merged = if merge_slashes { merge(&resolved) } else { resolved };
    Ok(if merged == path { Cow::Borrowed(path) } else { Cow::Owned(merged) })
}

/// Whether a segment of `path` is `.` or `..`, in any spelling servers take for one.
#[must_use]
pub fn has_dot_segment(path: &str) -> bool {
    path.split(['/', '\\']).any(|segment| {
        let mut rest = segment;
        let mut dots = 0;
        while !rest.is_empty() {
            let Some(after) = rest
                .strip_prefix('.')
                .or_else(|| rest.strip_prefix("%2e"))
                .or_else(|| rest.strip_prefix("%2E"))
            else {
                return false;
            };
            rest = after;
            dots += 1;
        }
        dots == 1 || dots == 2
    })
}

/// The URI in origin form with another path and the same query.
#[must_use]
pub fn replace(uri: &Uri, mut path: String) -> Option<Uri> {
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    parse(path)
}

/// A URI in origin form; `None` where a byte has no place in one.
#[must_use]
pub fn parse(path_and_query: String) -> Option<Uri> {
    PathAndQuery::from_maybe_shared(bytes::Bytes::from(path_and_query)).ok().map(Uri::from)
}

/// What a path has in it that may need another spelling.
#[derive(Default)]
struct Found {
    /// An escape, a backslash or a byte that has to be escaped.
    rewritable: bool,
    /// A segment beginning with a dot.
    dots: bool,
    double_slash: bool,
}

fn scan(path: &[u8]) -> Result<Found, Unnormalizable> {
    let mut found = Found::default();
    let mut previous = 0;
    for (i, &byte) in path.iter().enumerate() {
        match byte {
            b'/' => found.double_slash |= previous == b'/',
            b'.' => found.dots |= previous == b'/',
            b'\\' | 0x80.. => found.rewritable = true,
            b'%' => {
                if escape(&path[i..]).is_none_or(|decoded| decoded == 0) {
                    return Err(Unnormalizable);
                }
                found.rewritable = true;
            }
            0..=b' ' | 0x7f | b'#' => return Err(Unnormalizable),
            _ => {}
        }
        previous = byte;
    }
    Ok(found)
}

/// The byte an escape at the start of `bytes` stands for.
fn escape(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *bytes else { return None };
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    Some(digit(high)? << 4 | digit(low)?)
}

/// Escapes of unreserved characters are decoded, the others have upper-case digits, what has to be
/// escaped is, and `\` is `/`. One pass: an escape is never the product of decoding another.
fn spell(path: &[u8], decode_slashes: bool) -> String {
    let mut spelled = String::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        match *byte {
            b'%' => {
                let decoded = escape(&path[path.len() - rest.len() - 1..]).unwrap_or(b'%');
                rest = &rest[2..];
                match decoded {
                    b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                        spelled.push(decoded as char);
                    }
                    b'/' | b'\\' if decode_slashes => spelled.push('/'),
                    other => push_escape(&mut spelled, other),
                }
            }
            b'\\' => spelled.push('/'),
            other @ 0x80.. => push_escape(&mut spelled, other),
            other => spelled.push(other as char),
        }
    }
    spelled
}

fn push_escape(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(DIGITS[usize::from(byte >> 4)] as char);
    text.push(DIGITS[usize::from(byte & 15)] as char);
}

/// RFC 3986 section 5.2.4; above the root is the root.
fn remove_dot_segments(path: &str) -> String {
    let mut resolved = String::with_capacity(path.len());
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => resolved.truncate(resolved.rfind('/').unwrap_or(0)),
            kept => {
                resolved.push('/');
                resolved.push_str(kept);
                continue;
            }
        }
        if is_last {
            resolved.push('/');
        }
    }
    if resolved.is_empty() {
        resolved.push('/');
    }
    resolved
}

fn merge(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !merged.ends_with('/') {
            merged.push(c);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None as Off};

    #[test]
    fn every_mode_spells_a_path_as_documented() {
        // path, NONE, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES
        let rows = [
            ("/", "/", "/", "/", "/"),
            ("/a/b", "/a/b", "/a/b", "/a/b", "/a/b"),
            ("/a/./b", "/a/./b", "/a/b", "/a/b", "/a/b"),
            ("/a/../b", "/a/../b", "/b", "/b", "/b"),
            ("/a/..", "/a/..", "/", "/", "/"),
            ("/a/b/.", "/a/b/.", "/a/b/", "/a/b/", "/a/b/"),
            ("/a/b/..", "/a/b/..", "/a/", "/a/", "/a/"),
            ("/../../a", "/../../a", "/a", "/a", "/a"),
            ("/a%2e%2E/b", "/a%2e%2E/b", "/a../b", "/a../b", "/a../b"),
            ("/a/%2e%2e/b", "/a/%2e%2e/b", "/b", "/b", "/b"),
            ("/%61%2d%7e", "/%61%2d%7e", "/a-~", "/a-~", "/a-~"),
            ("\\a\\b", "\\a\\b", "/a/b", "/a/b", "/a/b"),
            ("/a\\..\\b", "/a\\..\\b", "/b", "/b", "/b"),
            ("/a//b", "/a//b", "/a//b", "/a/b", "/a/b"),
            ("//a///b//", "//a///b//", "//a///b//", "/a/b/", "/a/b/"),
            ("/a//../b", "/a//../b", "/a/b", "/a/b", "/a/b"),
            ("/a%2fb", "/a%2fb", "/a%2Fb", "/a%2Fb", "/a/b"),
            ("/a%5cb", "/a%5cb", "/a%5Cb", "/a%5Cb", "/a/b"),
            ("/a%2f..%2fb", "/a%2f..%2fb", "/a%2F..%2Fb", "/a%2F..%2Fb", "/b"),
            ("/a%2f%2fb", "/a%2f%2fb", "/a%2F%2Fb", "/a%2F%2Fb", "/a/b"),
            ("/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb"),
            ("/%c3%a9", "/%c3%a9", "/%C3%A9", "/%C3%A9", "/%C3%A9"),
            ("/é", "/é", "/%C3%A9", "/%C3%A9", "/%C3%A9"),
            ("/a;v=1/b", "/a;v=1/b", "/a;v=1/b", "/a;v=1/b", "/a;v=1/b"),
            (
                "/.well-known/x",
                "/.well-known/x",
                "/.well-known/x",
                "/.well-known/x",
                "/.well-known/x",
            ),
            ("/...", "/...", "/...", "/...", "/..."),
        ];
        for (path, off, base, merged, decoded) in rows {
            for (mode, expected) in
                [(Off, off), (Base, base), (MergeSlashes, merged), (DecodeAndMergeSlashes, decoded)]
            {
                let spelled = canonical(path, mode).unwrap();
                assert_eq!(spelled, expected, "{path} in {mode:?}");
            }
        }
    }

    #[test]
    fn a_path_without_one_spelling_is_refused_in_every_mode() {
        for path in [
            "/%", "/%0", "/%zz", "/%2", "/a%00b", "/a%", "/%%41", "/a b", "/a\tb", "/a#b",
            "/\u{7f}",
        ] {
            for mode in [Off, Base, MergeSlashes, DecodeAndMergeSlashes] {
                assert_eq!(canonical(path, mode), Err(Unnormalizable), "{path} in {mode:?}");
            }
        }
    }

    #[test]
    fn a_canonical_path_is_not_copied() {
        for path in ["/", "/a/b.c", "/reviews/1?x", "/a~b_c-d;e=f"] {
            assert!(matches!(canonical(path, Base), Ok(Cow::Borrowed(_))), "{path}");
        }
        assert!(matches!(canonical("/a%20b", Base), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn normalising_twice_changes_nothing_more() {
        const PIECES: [&str; 16] = [
            "/", "//", ".", "..", "%2e", "%2E", "%2f", "%5C", "\\", "a", "%61", "%25", "%2525",
            "é", ";", "%c3",
        ];
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut path = String::from("/");
            for _ in 0..rng.usize(0..10) {
                path.push_str(PIECES[rng.usize(0..PIECES.len())]);
            }
            for mode in [Off, Base, MergeSlashes, DecodeAndMergeSlashes] {
                let once = canonical(&path, mode).unwrap().into_owned();
                assert_eq!(canonical(&once, mode).unwrap(), once, "{path} in {mode:?}");
                if mode != Off {
                    assert!(!has_dot_segment(&once), "{path} became {once} in {mode:?}");
                    assert!(once.starts_with('/'), "{path} became {once}");
                }
            }
        }
    }

    #[test]
    fn dot_segments_are_recognised_however_they_are_escaped() {
        for path in ["/..", "/a/../b", "/a/.", "/%2e%2e/b", "/.%2E", "/a\\..\\b"] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["/", "/a", "/...", "/a..b", "/.a", "/..a/"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }
}
