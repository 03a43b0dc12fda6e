//! Where a token stands in a request, and taking it away from there.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, header};
use smallvec::SmallVec;
use weir_config::model::filter::JwtLocation;

use crate::{canonical::path, head::RequestHeader};

pub type Tokens<'a> = SmallVec<[Cow<'a, str>; 1]>;

/// The tokens in one place. A field without the prefix, or empty, holds none.
#[must_use]
pub fn find<'a>(location: &JwtLocation, request: &'a RequestHeader) -> Tokens<'a> {
    match location {
        JwtLocation::Header { name, prefix } => request
            .headers
            .get_all(name)
            .filter_map(|value| in_field(value, name, prefix))
            .map(Cow::Borrowed)
            .collect(),
        JwtLocation::QueryParam(name) => query_pairs(request)
            .filter(|(key, _)| *key == &**name)
            .map(|(_, value)| percent_encoding::percent_decode_str(value).decode_utf8_lossy())
            .filter(|token| !token.is_empty())
            .collect(),
        JwtLocation::Cookie(name) => cookies(request)
            .filter_map(|cookie| cookie.split_once('='))
            .filter(|(key, value)| *key == &**name && !value.is_empty())
            .map(|(_, value)| Cow::Borrowed(value.trim_matches('"')))
            .collect(),
    }
}

/// Takes the tokens of one place out of the request.
pub fn remove(location: &JwtLocation, request: &mut RequestHeader) {
    match location {
        JwtLocation::Header { name, prefix } => {
            let others: SmallVec<[HeaderValue; 2]> = request
                .headers
                .get_all(name)
                .filter(|value| in_field(value, name, prefix).is_none())
                .cloned()
                .collect();
            request.headers.remove(name);
            for value in others {
                // Was valid before.
                request.headers.append(name.clone(), value);
            }
        }
        JwtLocation::QueryParam(name) => {
            let others: Vec<_> = request
                .uri
                .query()
                .unwrap_or_default()
                .split('&')
                .filter(|pair| pair.split('=').next() != Some(&**name))
                .collect();
            let query =
                if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
            if let Some(uri) = path::parse(format!("{}{query}", request.uri.path())) {
                request.uri = uri;
            }
        }
        JwtLocation::Cookie(name) => {
            let others: Vec<_> = cookies(request)
                .filter(|cookie| cookie.split('=').next() != Some(&**name))
                .collect();
            let others = others.join("; ");
            request.headers.remove(&header::COOKIE);
            if let (false, Ok(value)) = (others.is_empty(), HeaderValue::try_from(others)) {
                request.headers.insert(header::COOKIE, value);
            }
        }
    }
}

fn in_field<'a>(value: &'a HeaderValue, name: &HeaderName, prefix: &str) -> Option<&'a str> {
    let (start, rest) = value.as_bytes().split_at_checked(prefix.len())?;
    // Schemes of `authorization` have no case (RFC 9110 section 11.1): a server would take such a token.
    let fits = start == prefix.as_bytes()
        || *name == header::AUTHORIZATION && start.eq_ignore_ascii_case(prefix.as_bytes());
    // What is no text is a malformed token, not a missing one.
    let token = std::str::from_utf8(rest.trim_ascii()).unwrap_or("?");
    (fits && !token.is_empty()).then_some(token)
}

fn query_pairs(request: &RequestHeader) -> impl Iterator<Item = (&str, &str)> {
    let query = request.uri.query().unwrap_or_default();
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn cookies(request: &RequestHeader) -> impl Iterator<Item = &str> {
    request
        .headers
        .get_all(header::COOKIE)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .map(str::trim)
        .filter(|cookie| !cookie.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::test_support::request;

    fn authorization() -> JwtLocation {
        JwtLocation::Header { name: header::AUTHORIZATION, prefix: "Bearer ".into() }
    }

    #[test]
    fn a_token_is_found_in_its_place_and_nowhere_else() {
        let custom =
            JwtLocation::Header { name: HeaderName::from_static("x-jwt"), prefix: "".into() };
        let mut request = request("GET", "a", "/p?a=1&access_token=q%2Eq.q&b=2&access_token=");
        for (name, value) in [
            ("authorization", "Bearer h.h.h"),
            ("authorization", "Basic dXNlcg=="),
            ("authorization", "bearer  l.l.l "),
            ("authorization", "Bearer "),
            ("x-jwt", "x.x.x"),
            ("cookie", "a=b; session=c.c.c"),
            ("cookie", "session=; session=\"d.d.d\""),
        ] {
            request.headers.try_append(name, value).unwrap();
        }
        for (location, expected) in [
            (authorization(), vec!["h.h.h", "l.l.l"]),
            (custom, vec!["x.x.x"]),
            (JwtLocation::QueryParam("access_token".into()), vec!["q.q.q"]),
            (JwtLocation::Cookie("session".into()), vec!["c.c.c", "d.d.d"]),
            (JwtLocation::Cookie("sess".into()), vec![]),
        ] {
            assert_eq!(find(&location, &request).to_vec(), expected, "{location:?}");
        }
    }

    #[test]
    fn a_token_is_removed_and_its_neighbours_stay() {
        let mut request = request("GET", "a", "/p?a=1&access_token=q.q.q&b=2");
        for (name, value) in [
            ("authorization", "Basic dXNlcg=="),
            ("authorization", "Bearer h.h.h"),
            ("cookie", "a=b; session=c.c.c"),
            ("cookie", "c=d"),
        ] {
            request.headers.try_append(name, value).unwrap();
        }
        for location in [
            authorization(),
            JwtLocation::QueryParam("access_token".into()),
            JwtLocation::Cookie("session".into()),
        ] {
            remove(&location, &mut request);
            assert!(find(&location, &request).is_empty(), "{location:?}");
        }
        assert_eq!(request.uri, "/p?a=1&b=2");
        assert_eq!(
            request.headers.get_all("authorization").collect::<Vec<_>>(),
            ["Basic dXNlcg=="]
        );
        assert_eq!(request.headers["cookie"], "a=b; c=d");
    }

    #[test]
    fn the_last_thing_in_its_place_leaves_nothing_behind() {
        let mut request = request("GET", "a", "/p?access_token=q.q.q");
        request.headers.try_insert("cookie", "session=c.c.c").unwrap();
        remove(&JwtLocation::QueryParam("access_token".into()), &mut request);
        remove(&JwtLocation::Cookie("session".into()), &mut request);
        assert_eq!(request.uri, "/p");
        assert!(!request.headers.contains_key("cookie"));
    }
}
