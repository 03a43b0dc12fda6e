//! Heads from their fields, and which lists of fields are one (RFC 9113 sections 8.1 to 8.3).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::hpack::{Field, Pseudo};
use crate::head::{ADDED_FIELDS, Headers};

/// A head that is larger than allowed is refused; one that is so many times larger is an attack.
const BOMB_FACTOR: usize = 8;
/// Fields of a usual head.
const USUAL_FIELDS: usize = 16;

/// A request's head as it was received. What RFC 9113 calls malformed does not become one; texts are as
/// they came.
#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    /// `:protocol` of an extended CONNECT (RFC 8441).
    pub protocol: Option<Bytes>,
    pub authority: Option<Bytes>,
    /// `None` for a CONNECT that is not extended.
    pub path: Option<Bytes>,
    pub headers: Headers,
    /// There were more fields than are allowed; the rest is not here.
    pub too_large: bool,
}

/// A response's head as it was received.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub headers: Headers,
}

/// A message that has to be answered with PROTOCOL_ERROR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Takes the fields of a head one after another.
#[derive(Debug)]
pub(super) struct Collector {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
    status: Option<Bytes>,
    headers: Headers,
    max_bytes: usize,
    /// Bytes of all fields, as [`super::Config::max_header_bytes`] counts them.
    size: usize,
    too_large: bool,
    malformed: bool,
}

impl Collector {
    /// `max_bytes` as [`super::Config::max_header_bytes`] says.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            method: None,
            scheme: None,
            authority: None,
            path: None,
            protocol: None,
            status: None,
            headers: Headers::default(),
            max_bytes,
            size: 0,
            too_large: false,
            malformed: false,
        }
    }

    pub fn take(&mut self, field: Field) {
        self.size = self.size.saturating_add(field.size());
        if self.size > self.max_bytes {
            // The rest is decoded for the table's sake only.
            self.too_large = true;
            return;
        }
        match field {
            Field::Pseudo(pseudo, value) => {
                let place = match pseudo {
                    Pseudo::Authority => &mut self.authority,
                    Pseudo::Method => &mut self.method,
                    Pseudo::Path => &mut self.path,
                    Pseudo::Protocol => &mut self.protocol,
                    Pseudo::Scheme => &mut self.scheme,
                    Pseudo::Status => &mut self.status,
                };
                self.malformed |= place.replace(value).is_some() || !self.headers.is_empty();
            }
            Field::Regular(name, value) => {
                self.malformed |= belongs_to_http1(&name, &value);
                if self.headers.is_empty() {
                    self.headers = Headers::with_capacity(USUAL_FIELDS + ADDED_FIELDS);
                }
                self.headers.append(name, value);
            }
            Field::Malformed(_) => self.malformed = true,
        }
    }

    /// So much more than is allowed that it is no mistake: references to what is in the table cost their
    /// sender an octet each (hardening T05).
    pub fn is_bomb(&self) -> bool {
        self.size > self.max_bytes.saturating_mul(BOMB_FACTOR)
    }

    /// `connect_protocol`: whether extended CONNECT was allowed.
    pub fn into_request(self, connect_protocol: bool) -> Result<RequestHead, Malformed> {
        let Self { method, scheme, authority, path, protocol, status, headers, .. } = self;
        if self.malformed || status.is_some() {
            return Err(Malformed);
        }
        let method = method.ok_or(Malformed)?;
        let method = Method::from_bytes(&method).map_err(|_invalid| Malformed)?;
        let is_connect = method == Method::CONNECT;
        let is_whole = if is_connect && protocol.is_none() {
            scheme.is_none() && path.is_none() && authority.is_some()
        } else {
            let has_target = scheme.is_some() && path.as_ref().is_some_and(|path| !path.is_empty());
            has_target && (protocol.is_none() || is_connect && connect_protocol)
        };
        // Of one that is too large, what is missing may have been in the rest.
        if !is_whole && !self.too_large {
            return Err(Malformed);
        }
        Ok(RequestHead { method, protocol, authority, path, headers, too_large: self.too_large })
    }

    /// It has a field that only requests have.
    fn is_of_request(&self) -> bool {
        let fields = [&self.method, &self.scheme, &self.authority, &self.path, &self.protocol];
        fields.into_iter().any(Option::is_some)
    }

    pub fn into_response(self) -> Result<ResponseHead, Malformed> {
        if self.malformed || self.too_large || self.is_of_request() {
            return Err(Malformed);
        }
        let status = self.status.ok_or(Malformed)?;
        let status = StatusCode::from_bytes(&status).map_err(|_invalid| Malformed)?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            // Section 8.6.
            return Err(Malformed);
        }
        Ok(ResponseHead { status, headers: self.headers })
    }

    pub fn into_trailers(self) -> Result<HeaderMap, Malformed> {
        let is_head = self.status.is_some() || self.is_of_request();
        if self.malformed || self.too_large || is_head {
            return Err(Malformed);
        }
        let mut trailers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in self.headers {
            trailers.append(name, value);
        }
        Ok(trailers)
    }
}

/// Section 8.2.2.
fn belongs_to_http1(name: &HeaderName, value: &HeaderValue) -> bool {
    match *name {
        header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE => true,
        header::TE => value != "trailers",
        _ => matches!(name.as_str(), "keep-alive" | "proxy-connection"),
    }
}

/// The length of the body a head announces. `Ok(None)`: none, or several that agree, which is for
/// others to judge.
pub(super) fn content_length(headers: &Headers) -> Result<Option<u64>, Malformed> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH);
    let Some(first) = lengths.next() else { return Ok(None) };
    let digits = first.as_bytes();
    let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    let is_number = digits.iter().all(u8::is_ascii_digit);
    match (length.filter(|_| is_number), lengths.next()) {
        (None, _) => Err(Malformed),
        (Some(length), None) => Ok(Some(length)),
        (Some(_), Some(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(fields: &[(&'static str, &'static str)]) -> Collector {
        let mut collector = Collector::new(1000);
        for (name, value) in fields {
            let value = Bytes::from_static(value.as_bytes());
            collector.take(match *name {
                ":authority" => Field::Pseudo(Pseudo::Authority, value),
                ":method" => Field::Pseudo(Pseudo::Method, value),
                ":path" => Field::Pseudo(Pseudo::Path, value),
                ":protocol" => Field::Pseudo(Pseudo::Protocol, value),
                ":scheme" => Field::Pseudo(Pseudo::Scheme, value),
                ":status" => Field::Pseudo(Pseudo::Status, value),
                name => Field::Regular(
                    HeaderName::from_static(name),
                    HeaderValue::from_maybe_shared(value).unwrap(),
                ),
            });
        }
        collector
    }

    const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    const EXTENDED: [(&str, &str); 5] = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
    ];

    #[test]
    fn requests_have_what_their_method_needs() {
        assert!(collected(&GET).into_request(false).is_ok());
        let connect = [(":method", "CONNECT"), (":authority", "a:1")];
        assert!(collected(&connect).into_request(false).is_ok());
        assert!(collected(&EXTENDED).into_request(true).is_ok());
        assert!(collected(&EXTENDED).into_request(false).is_err(), "not offered");
        for missing in GET {
            let fields: Vec<_> = GET.into_iter().filter(|field| *field != missing).collect();
            assert!(collected(&fields).into_request(true).is_err(), "without {missing:?}");
        }
        for (what, added) in [
            ("twice", (":path", "/")),
            ("of a response", (":status", "200")),
            ("of CONNECT", (":protocol", "websocket")),
        ] {
            let fields = [&GET[..], &[added]].concat();
            assert!(collected(&fields).into_request(true).is_err(), "{what}");
        }
        let late = [&GET[..2], &[("x-a", "1")], &GET[2..]].concat();
        assert!(collected(&late).into_request(true).is_err(), "after another field");
        let empty = [GET[0], GET[1], (":path", "")];
        assert!(collected(&empty).into_request(true).is_err(), "empty path");
    }

    #[test]
    fn what_is_http_1_s_is_malformed() {
        for (name, value) in [
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
        ] {
            let fields = [&GET[..], &[(name, value)]].concat();
            assert!(collected(&fields).into_request(true).is_err(), "{name}");
        }
        let fields = [&GET[..], &[("te", "trailers")]].concat();
        assert!(collected(&fields).into_request(true).is_ok());
    }

    #[test]
    fn responses_have_a_status_and_nothing_of_a_request() {
        assert_eq!(collected(&[(":status", "404")]).into_response().unwrap().status, 404);
        for fields in [
            &[][..],
            &[(":status", "abc")],
            &[(":status", "101")],
            &[(":status", "200"), (":path", "/")],
            &[(":status", "200"), (":status", "200")],
        ] {
            assert!(collected(fields).into_response().is_err(), "{fields:?}");
        }
        assert!(collected(&[("x-a", "1")]).into_trailers().is_ok());
        assert!(collected(&[(":status", "200")]).into_trailers().is_err());
    }

    #[test]
    fn what_is_too_large_is_known_and_not_kept() {
        let long: &'static str = "v".repeat(900).leak();
        let fields = [&GET[..], &[("x-a", long), ("x-b", "1")]].concat();
        let head = collected(&fields).into_request(true).unwrap();
        assert!(head.too_large && head.headers.is_empty());
        assert!(
            collected(&[(":status", "200"), ("x-a", long), ("x-b", long)]).into_response().is_err()
        );
    }

    #[test]
    fn lengths_are_plain_numbers() {
        let length = |values: &[&'static str]| {
            let name = header::CONTENT_LENGTH;
            content_length(
                &values.iter().map(|v| (name.clone(), HeaderValue::from_static(v))).collect(),
            )
        };
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&["12"]), Ok(Some(12)));
        assert_eq!(length(&["12", "12"]), Ok(None));
        for wrong in ["", "+1", "-1", "1 ", "0x1", "99999999999999999999"] {
            assert_eq!(length(&[wrong]), Err(Malformed), "{wrong:?}");
        }
    }
}
