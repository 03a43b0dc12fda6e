//! Paths with `{*}` (one segment) and `{**}` (any number of segments, last).

/// What is wrong with a path of an operation; `None` when it is a plain path or a good template.
pub(super) fn problem(path: &str) -> Option<String> {
    if !path.contains("{*}") && !path.contains("{**}") {
        return None;
    }
    if path.replace("{*}", "").replace("{**}", "").contains(['*', '{', '}']) {
        return Some(
            "a path with {*} or {**} has no other * or braces; write {*} for one segment"
                .to_owned(),
        );
    }
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let whole = |segment: &&str| !segment.contains('{') || matches!(*segment, "{*}" | "{**}");
    if let Some(segment) = segments.iter().find(|segment| !whole(segment)) {
        return Some(format!(
            "{segment:?} mixes text and a template; {{*}} stands for a whole segment"
        ));
    }
    let rest = segments.iter().position(|segment| *segment == "{**}");
    if rest.is_some_and(|at| at + 1 < segments.len()) {
        return Some("{**} stands for the rest of the path and comes last".to_owned());
    }
    let literal =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=/{}*".contains(&byte);
    (!path.bytes().all(literal)).then(|| {
        "a path template is written as in a URL; percent-encode other characters".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_and_templates_are_accepted() {
        for path in ["/a", "/a*", "*/b", "*", "/a/{*}/b", "/{**}", "/a/{*}/{**}", "/{odd}"] {
            assert_eq!(problem(path), None, "{path}");
        }
    }

    #[test]
    fn broken_templates_are_refused() {
        for path in ["/a/{**}/b", "/a{*}", "/{*}/b*", "/{*}/{x}", "/{*}/ä", "/{*}/{**}/{*}"] {
            assert!(problem(path).is_some(), "{path}");
        }
    }
}
