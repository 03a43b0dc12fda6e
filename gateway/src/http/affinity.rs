//! What requests that belong together have in common, for clusters that send them to one endpoint
//! (`consistentHash`, istio-compat 1.3). Hashes are Envoy's.

use std::fmt::Write;

use http::{HeaderName, HeaderValue, header};
use weir_config::{
    model::cluster::{HashCookie, HashKey},
    xxh64::xxh64,
};

use crate::{
    head::{Headers, RequestHeader, ResponseHeader},
    telemetry::StreamInfo,
};

/// The key of one request.
#[derive(Debug, Default)]
pub struct Affinity {
    /// `None`: the request has no key, or the cluster asks for none.
    pub hash: Option<u64>,
    /// For a client that was given a key.
    set_cookie: Option<HeaderValue>,
}

impl Affinity {
    /// Reads `key` from `request`, as it goes upstream.
    #[must_use]
    pub fn of(key: Option<&HashKey>, request: &RequestHeader, info: &StreamInfo) -> Self {
        let hash = match key {
            None => None,
            Some(HashKey::Cookie(cookie)) => return Self::of_cookie(cookie, &request.headers),
            Some(HashKey::Header(name)) => header_hash(name, &request.headers),
            Some(HashKey::SourceIp) => Some(xxh64(info.client_addr.ip().to_string().as_bytes(), 0)),
            Some(HashKey::QueryParam(name)) => {
                let pairs = request.uri.query().unwrap_or_default().split('&');
                let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                pairs.find(|(key, _)| *key == &**name).map(|(_, value)| xxh64(value.as_bytes(), 0))
            }
        };
        Self { hash, set_cookie: None }
    }

    fn of_cookie(cookie: &HashCookie, headers: &Headers) -> Self {
        if let Some(value) = cookie_value(&cookie.name, headers) {
            return Self { hash: Some(xxh64(value, 0)), set_cookie: None };
        }
        if cookie.ttl.is_none() {
            return Self::default();
        }
        let value = format!("{:016x}", fastrand::u64(..));
        let mut text = String::with_capacity(64);
        // Writing to a string cannot fail.
        let _ = write!(text, "{}=\"{value}\"{}", cookie.name, cookie.attributes);
        Self {
            hash: Some(xxh64(value.as_bytes(), 0)),
            // A name that is no text a header can carry is refused when it is configured.
            set_cookie: HeaderValue::try_from(text).ok(),
        }
    }

    /// Tells the client its new key.
    pub fn tell(self, head: &mut ResponseHeader) {
        if let Some(cookie) = self.set_cookie {
            // The name is a valid one.
            head.headers.append(header::SET_COOKIE, cookie);
        }
    }
}

/// Of all values, in an order that is not the client's.
fn header_hash(name: &HeaderName, headers: &Headers) -> Option<u64> {
    let mut values = headers.get_all(name);
    let first = values.next()?;
    let mut more: Vec<&[u8]> = values.map(HeaderValue::as_bytes).collect();
    if more.is_empty() {
        return Some(xxh64(first.as_bytes(), 0));
    }
    more.push(first.as_bytes());
    more.sort_unstable();
    Some(more.iter().fold(0, |seed, value| xxh64(value, seed)))
}

/// The value of the first cookie of that name, without quotes.
fn cookie_value<'a>(name: &str, headers: &'a Headers) -> Option<&'a [u8]> {
    let cookies = headers.get_all(header::COOKIE);
    let pairs = cookies.flat_map(|cookies| cookies.as_bytes().split(|byte| *byte == b';'));
    let mut values = pairs.filter_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some(unquoted.unwrap_or(value))
    });
    values.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
        let value = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(value).collect()
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        for (sent, expected) in [
            (&[("cookie", "user=a")][..], Some("a")),
            (&[("cookie", "x=1; user=\"b c\"; user=d")], Some("b c")),
            (&[("cookie", "x=user=1;superuser=2")], None),
            (&[("cookie", "x=1"), ("cookie", "user=e")], Some("e")),
            (&[("cookie", "user")], None),
        ] {
            let headers = headers(sent);
            assert_eq!(cookie_value("user", &headers), expected.map(str::as_bytes), "{sent:?}");
        }
    }

    #[test]
    fn a_cookie_is_given_out_only_where_that_is_asked_for() {
        let cookie = |ttl| HashCookie { name: "user".into(), ttl, attributes: "; HttpOnly".into() };
        let with = Affinity::of_cookie(&cookie(Some(std::time::Duration::ZERO)), &headers(&[]));
        let text = with.set_cookie.clone().unwrap();
        let value = text.to_str().unwrap().strip_prefix("user=\"").unwrap();
        let value = value.strip_suffix("\"; HttpOnly").unwrap();
        assert_eq!(with.hash, Some(xxh64(value.as_bytes(), 0)), "the same as when it comes back");
        let without = Affinity::of_cookie(&cookie(None), &headers(&[]));
        assert_eq!((without.hash, without.set_cookie), (None, None));
    }

    #[test]
    fn the_order_of_a_headers_values_does_not_count() {
        let name = HeaderName::from_static("x-user");
        let hash = |sent: &[(&'static str, &'static str)]| header_hash(&name, &headers(sent));
        assert_eq!(hash(&[("x-user", "a")]), Some(xxh64(b"a", 0)));
        let (ab, ba) = ([("x-user", "a"), ("x-user", "b")], [("x-user", "b"), ("x-user", "a")]);
        assert_eq!(hash(&ab), hash(&ba));
        assert_ne!(hash(&ab), hash(&ab[..1]));
        assert_eq!(hash(&[]), None);
    }
}
