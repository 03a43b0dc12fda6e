//! The fields every connection knows (RFC 7541 appendix A).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};

use super::{Field, Pseudo};

/// Fields in the table; the dynamic ones come after.
pub(super) const LENGTH: usize = 61;

enum Name {
    Pseudo(Pseudo),
    Regular(HeaderName),
}

use Name::{Pseudo as P, Regular as R};

static TABLE: [(Name, &str); LENGTH] = [
    (P(Pseudo::Authority), ""),
    (P(Pseudo::Method), "GET"),
    (P(Pseudo::Method), "POST"),
    (P(Pseudo::Path), "/"),
    (P(Pseudo::Path), "/index.html"),
    (P(Pseudo::Scheme), "http"),
    (P(Pseudo::Scheme), "https"),
    (P(Pseudo::Status), "200"),
    (P(Pseudo::Status), "204"),
    (P(Pseudo::Status), "206"),
    (P(Pseudo::Status), "304"),
    (P(Pseudo::Status), "400"),
    (P(Pseudo::Status), "404"),
    (P(Pseudo::Status), "500"),
    (R(header::ACCEPT_CHARSET), ""),
    (R(header::ACCEPT_ENCODING), "gzip, deflate"),
    (R(header::ACCEPT_LANGUAGE), ""),
    (R(header::ACCEPT_RANGES), ""),
    (R(header::ACCEPT), ""),
    (R(header::ACCESS_CONTROL_ALLOW_ORIGIN), ""),
    (R(header::AGE), ""),
    (R(header::ALLOW), ""),
    (R(header::AUTHORIZATION), ""),
    (R(header::CACHE_CONTROL), ""),
    (R(header::CONTENT_DISPOSITION), ""),
    (R(header::CONTENT_ENCODING), ""),
    (R(header::CONTENT_LANGUAGE), ""),
    (R(header::CONTENT_LENGTH), ""),
    (R(header::CONTENT_LOCATION), ""),
    (R(header::CONTENT_RANGE), ""),
    (R(header::CONTENT_TYPE), ""),
    (R(header::COOKIE), ""),
    (R(header::DATE), ""),
    (R(header::ETAG), ""),
    (R(header::EXPECT), ""),
    (R(header::EXPIRES), ""),
    (R(header::FROM), ""),
    (R(header::HOST), ""),
    (R(header::IF_MATCH), ""),
    (R(header::IF_MODIFIED_SINCE), ""),
    (R(header::IF_NONE_MATCH), ""),
    (R(header::IF_RANGE), ""),
    (R(header::IF_UNMODIFIED_SINCE), ""),
    (R(header::LAST_MODIFIED), ""),
    (R(header::LINK), ""),
    (R(header::LOCATION), ""),
    (R(header::MAX_FORWARDS), ""),
    (R(header::PROXY_AUTHENTICATE), ""),
    (R(header::PROXY_AUTHORIZATION), ""),
    (R(header::RANGE), ""),
    (R(header::REFERER), ""),
    (R(header::REFRESH), ""),
    (R(header::RETRY_AFTER), ""),
    (R(header::SERVER), ""),
    (R(header::SET_COOKIE), ""),
    (R(header::STRICT_TRANSPORT_SECURITY), ""),
    (R(header::TRANSFER_ENCODING), ""),
    (R(header::USER_AGENT), ""),
    (R(header::VARY), ""),
    (R(header::VIA), ""),
    (R(header::WWW_AUTHENTICATE), ""),
];

/// The field at `index`, which counts from 1.
pub(super) fn field(index: usize) -> Option<Field> {
    let (name, value) = TABLE.get(index.checked_sub(1)?)?;
    Some(match name {
        Name::Pseudo(pseudo) => Field::Pseudo(*pseudo, Bytes::from_static(value.as_bytes())),
        Name::Regular(name) => Field::Regular(name.clone(), HeaderValue::from_static(value)),
    })
}

/// Where a name stands, if it does. The first place, where it stands at several.
pub(super) fn index_of(name: &str) -> Option<u8> {
    Some(match name {
        "accept-charset" => 15,
        "accept-encoding" => 16,
        "accept-language" => 17,
        "accept-ranges" => 18,
        "accept" => 19,
        "access-control-allow-origin" => 20,
        "age" => 21,
        "allow" => 22,
        "authorization" => 23,
        "cache-control" => 24,
        "content-disposition" => 25,
        "content-encoding" => 26,
        "content-language" => 27,
        "content-length" => 28,
        "content-location" => 29,
        "content-range" => 30,
        "content-type" => 31,
        "cookie" => 32,
        "date" => 33,
        "etag" => 34,
        "expect" => 35,
        "expires" => 36,
        "from" => 37,
        "host" => 38,
        "if-match" => 39,
        "if-modified-since" => 40,
        "if-none-match" => 41,
        "if-range" => 42,
        "if-unmodified-since" => 43,
        "last-modified" => 44,
        "link" => 45,
        "location" => 46,
        "max-forwards" => 47,
        "proxy-authenticate" => 48,
        "proxy-authorization" => 49,
        "range" => 50,
        "referer" => 51,
        "refresh" => 52,
        "retry-after" => 53,
        "server" => 54,
        "set-cookie" => 55,
        "strict-transport-security" => 56,
        "transfer-encoding" => 57,
        "user-agent" => 58,
        "vary" => 59,
        "via" => 60,
        "www-authenticate" => 61,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_where_they_stand() {
        let mut regular = 0;
        for index in 1..=LENGTH {
            if let Field::Regular(name, _) = field(index).unwrap() {
                assert_eq!(index_of(name.as_str()).map(usize::from), Some(index), "{name}");
                regular += 1;
            }
        }
        assert_eq!(regular, 47);
        assert!(field(0).is_none() && field(LENGTH + 1).is_none());
        assert_eq!(index_of("x-request-id"), None);
    }
}
