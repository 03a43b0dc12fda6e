//! The path an upstream or a redirected client gets (istio-compat 1.1 "rewrite").

use std::borrow::Cow;

use weir_config::model::route::{PathMatch, PathRewrite};

/// `path` (without query) rewritten by a route that matched it by `matcher`.
pub(super) fn path<'a>(rewrite: &PathRewrite, matcher: &PathMatch, path: &'a str) -> Cow<'a, str> {
    let rewritten = match rewrite {
        PathRewrite::Prefix(replacement) => Cow::Owned(prefix(replacement, matcher, path)),
        PathRewrite::Full(replacement) => Cow::Owned(replacement.to_string()),
        PathRewrite::Regex(regex) => regex.apply(path),
    };
    // What a regular expression makes may lack it, and no server takes a path without.
    if rewritten.starts_with('/') { rewritten } else { Cow::Owned(format!("/{rewritten}")) }
}

/// `path` with the part `matcher` matched replaced.
pub(super) fn prefix(replacement: &str, matcher: &PathMatch, path: &str) -> String {
    match matcher {
        // Bytes, as Istio: prefix `/a` and `/` make `//b` of `/a/b`.
        PathMatch::Prefix(prefix) => {
            format!("{replacement}{}", &path[prefix.len().min(path.len())..])
        }
        PathMatch::Any => format!("{replacement}{}", path.strip_prefix('/').unwrap_or(path)),
        PathMatch::SegmentPrefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            let rest = path.get(prefix.len()..).unwrap_or_default();
            let joined = format!("{}{rest}", replacement.trim_end_matches('/'));
            if joined.is_empty() { "/".to_owned() } else { joined }
        }
        PathMatch::Exact(_) | PathMatch::Regex(_) => replacement.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use weir_config::model::matcher::{FullRegex, RegexRewrite};

    use super::*;

    #[test]
    fn what_matched_is_replaced() {
        let prefix = |text: &str| PathMatch::Prefix(text.into());
        let segments = |text: &str| PathMatch::SegmentPrefix(text.into());
        for (matcher, replacement, path, expected) in [
            (prefix("/ratings"), "/v1/bookRatings", "/ratings/1", "/v1/bookRatings/1"),
            (prefix("/a/"), "/", "/a/b", "/b"),
            (prefix("/a"), "/", "/a/b", "//b"),
            (prefix("/a"), "/b", "/ax", "/bx"),
            (prefix("/"), "/v2/", "/x", "/v2/x"),
            (PathMatch::Any, "/v2/", "/x", "/v2/x"),
            (PathMatch::Any, "/v2", "/x", "/v2x"),
            (PathMatch::Exact("/a".into()), "/b", "/a", "/b"),
            (PathMatch::Regex(FullRegex::new("/a.*").unwrap()), "/b", "/abc", "/b"),
            (segments("/a"), "/", "/a/b", "/b"),
            (segments("/a"), "/", "/a", "/"),
            (segments("/a"), "/b/", "/a/c", "/b/c"),
            (segments("/a"), "/b", "/a", "/b"),
            (segments("/"), "/b", "/c", "/b/c"),
            (prefix("/a"), "b", "/a/c", "/b/c"),
        ] {
            let rewrite = PathRewrite::Prefix(replacement.into());
            let rewritten = self::path(&rewrite, &matcher, path);
            assert_eq!(rewritten, expected, "{matcher:?} {replacement} {path}");
        }
    }

    #[test]
    fn a_regex_rewrites_every_match() {
        let regex = |pattern, by| PathRewrite::Regex(RegexRewrite::new(pattern, by).unwrap());
        for (rewrite, input, expected) in [
            (
                regex("/service/([^/]+)(/.*)?", r"/customprefix\2/instance/\1"),
                "/service/foo/v1/api",
                "/customprefix/v1/api/instance/foo",
            ),
            (regex("one", "two"), "/one/one", "/two/two"),
            (regex("^/", ""), "/a", "/a"),
            (regex("nothing", "x"), "/a", "/a"),
        ] {
            assert_eq!(path(&rewrite, &PathMatch::Any, input), expected);
        }
        assert_eq!(path(&PathRewrite::Full("/x".into()), &PathMatch::Any, "/a/b"), "/x");
    }
}
