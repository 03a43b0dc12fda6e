//! Heads of messages, as all stages see them: canonical after `http/normalize.rs`, whatever protocol
//! they came in.

use http::{Method, StatusCode, Uri, Version, request, response};

mod headers;

pub use headers::{Headers, Name, Repeated, Values};

/// Room for the fields later stages add, so that the list is allocated once.
pub const ADDED_FIELDS: usize = 8;

/// A request without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    pub method: Method,
    /// In origin form; with an authority where HTTP/2 says one, or `CONNECT` has nothing else.
    pub uri: Uri,
    pub version: Version,
    pub headers: Headers,
}

impl RequestHeader {
    /// HTTP/1.1, without a field.
    #[must_use]
    pub fn new(method: Method, uri: Uri) -> Self {
        Self { method, uri, version: Version::HTTP_11, headers: Headers::new() }
    }

    /// Of text.
    ///
    /// # Errors
    /// Not a method, or not a target.
    pub fn build(method: &str, target: &str) -> Result<Self, http::Error> {
        Ok(Self::new(Method::from_bytes(method.as_bytes())?, target.try_into()?))
    }

    /// The request target as an HTTP/1 request line has it: path and query, `*`, or for `CONNECT` the
    /// authority.
    #[must_use]
    pub fn target(&self) -> &str {
        let path = self.uri.path_and_query().map(http::uri::PathAndQuery::as_str);
        let authority = || self.uri.authority().map(http::uri::Authority::as_str);
        path.or_else(authority).unwrap_or_default()
    }
}

impl From<request::Parts> for RequestHeader {
    fn from(parts: request::Parts) -> Self {
        let request::Parts { method, uri, version, headers, .. } = parts;
        Self { method, uri, version, headers: headers.into() }
    }
}

/// A response without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHeader {
    pub status: StatusCode,
    pub version: Version,
    pub headers: Headers,
}

impl ResponseHeader {
    /// HTTP/1.1, without a field.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        Self { status, version: Version::HTTP_11, headers: Headers::new() }
    }
}

impl From<response::Parts> for ResponseHeader {
    fn from(parts: response::Parts) -> Self {
        let response::Parts { status, version, headers, .. } = parts;
        Self { status, version, headers: headers.into() }
    }
}
