//! Names of fields, told quickly.

use http::{
    HeaderName,
    header::{self, InvalidHeaderName},
};

/// A field's name.
#[derive(Debug)]
pub(super) enum Name {
    /// One of those below: with a dash at most, and of one connection only if there is a constant that
    /// says so.
    Common(HeaderName),
    Other(HeaderName),
}

/// The name in `bytes`. Those that most messages carry are compared with what their length and first
/// letter leave; `http` would look up every byte of them, twice.
///
/// # Errors
/// No token (RFC 9110 section 5.6.2).
pub(super) fn parse(bytes: &[u8]) -> Result<Name, InvalidHeaderName> {
    let first = bytes.first().map(u8::to_ascii_lowercase);
    let likely = match (bytes.len(), first) {
        (4, Some(b'd')) => header::DATE,
        (4, Some(b'e')) => header::ETAG,
        (4, Some(b'h')) => header::HOST,
        (4, Some(b'v')) => header::VARY,
        (6, Some(b'a')) => header::ACCEPT,
        (6, Some(b'c')) => header::COOKIE,
        (6, Some(b'o')) => header::ORIGIN,
        (6, Some(b's')) => header::SERVER,
        (7, Some(b'r')) => header::REFERER,
        (10, Some(b'c')) => header::CONNECTION,
        (10, Some(b'u')) => header::USER_AGENT,
        (12, Some(b'c')) => header::CONTENT_TYPE,
        (13, Some(b'a')) => header::ACCEPT_RANGES,
        (13, Some(b'c')) => header::CACHE_CONTROL,
        (13, Some(b'l')) => header::LAST_MODIFIED,
        (14, Some(b'c')) => header::CONTENT_LENGTH,
        (15, Some(b'a')) => header::ACCEPT_ENCODING,
        (16, Some(b'c')) => header::CONTENT_ENCODING,
        (17, Some(b't')) => header::TRANSFER_ENCODING,
        _ => return HeaderName::from_bytes(bytes).map(Name::Other),
    };
    if bytes.eq_ignore_ascii_case(likely.as_str().as_bytes()) {
        return Ok(Name::Common(likely));
    }
    HeaderName::from_bytes(bytes).map(Name::Other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::field;

    #[test]
    fn a_name_is_what_http_makes_of_it() {
        let names = [
            "",
            "date",
            "DATE",
            "dat\0",
            "h@st",
            "Host",
            "hos t",
            "vary",
            "Accept",
            "cookie",
            "Origin",
            "sErVer",
            "referer",
            "connection",
            "convection",
            "User-Agent",
            "content-type",
            "content_type",
            "accept-ranges",
            "authorization",
            "Cache-Control",
            "last-modified",
            "Content-Length",
            "accept-encoding",
            "accept-language",
            "content-encoding",
            "transfer-encoding",
            "x-anything",
            "d\u{e4}te",
        ];
        for name in names {
            let theirs = HeaderName::from_bytes(name.as_bytes()).ok();
            let ours = parse(name.as_bytes()).ok().map(|name| match name {
                Name::Common(name) => {
                    assert!(!name.as_str().contains('_'));
                    assert!(!field::is_connection_extension(name.as_str()));
                    name
                }
                Name::Other(name) => name,
            });
            assert_eq!(ours, theirs, "{name:?}");
        }
    }
}
