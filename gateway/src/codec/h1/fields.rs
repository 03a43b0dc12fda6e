//! The header fields of a message: collected, and those about framing and connection taken out.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use smallvec::SmallVec;

use crate::head::Headers;

use super::{
    super::{Options, Rejection, Underscores, Upgrade, field},
    body::BodyReader,
    name::{self, Name},
};

/// Name and value of each field, as ranges of the head.
pub(super) type Lines = SmallVec<[(Range<usize>, Range<usize>); 32]>;

/// What the fields say about framing and connection. These fields are not in the header map, except
/// `content-length`, which is there in its normal form.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub content_length: Option<u64>,
    pub chunked: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    /// The value of the one `upgrade` field.
    upgrade: Option<Bytes>,
    transfer_encodings: u8,
    expects: u8,
}

/// Reads the fields into `headers`. Fields that `connection` names are removed, unless they are ours
/// to protect: then the message is refused.
pub(super) fn read(
    head: &Bytes,
    lines: &Lines,
    headers: &mut Headers,
    options: &Options,
) -> Result<Fields, Rejection> {
    let mut fields = Fields::default();
    let mut nominated: SmallVec<[Range<usize>; 2]> = SmallVec::new();
    let mut te_trailers = false;
    for (range, value) in lines {
        let name = name::parse(&head[range.clone()])
            .map_err(|_invalid| Rejection::bad_request("header_name_invalid"))?;
        let name = match name {
            Name::Common(name) => name,
            Name::Other(name) if field::is_connection_extension(name.as_str()) => continue,
            Name::Other(name) => {
                check_underscores(&name, options)?;
                name
            }
        };
        let text = &head[value.clone()];
        match name {
            header::CONNECTION => {
                fields.read_connection(text);
                nominated.push(value.clone());
                continue;
            }
            header::TRANSFER_ENCODING => {
                fields.read_transfer_encoding(text)?;
                continue;
            }
            header::UPGRADE => {
                // Two of them are no handshake anybody has to understand.
                let first = fields.upgrade.is_none();
                fields.upgrade = Some(if first { head.slice(value.clone()) } else { Bytes::new() });
                continue;
            }
            header::TE => {
                te_trailers |= field::list(text).any(|te| te.eq_ignore_ascii_case(b"trailers"));
                continue;
            }
            header::CONTENT_LENGTH => {
                headers.insert(name, fields.read_content_length(head, value)?);
                continue;
            }
            header::EXPECT => fields.expects = fields.expects.saturating_add(1),
            _ => {}
        }
        let value = HeaderValue::from_maybe_shared(head.slice(value.clone()))
            .map_err(|_invalid| Rejection::bad_request("header_value_invalid"))?;
        headers.append(name, value);
    }
    if te_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    for value in nominated {
        remove_nominated(&head[value], headers)?;
    }
    Ok(fields)
}

fn check_underscores(name: &HeaderName, options: &Options) -> Result<(), Rejection> {
    match options.underscores {
        Underscores::RejectCollisions if field::collides(name.as_str()) => {
            Err(Rejection::bad_request("header_name_underscore"))
        }
        Underscores::RejectCollisions | Underscores::Allow => Ok(()),
    }
}

/// RFC 9110 section 7.6.1: what `connection` names belongs to the connection.
fn remove_nominated(options: &[u8], headers: &mut Headers) -> Result<(), Rejection> {
    for name in field::list(options) {
        if !field::may_be_nominated(name) {
            return Err(Rejection::bad_request("connection_names_protected_header"));
        }
        // The options that are no field names are in nobody's map, `te` was reduced already.
        if let Ok(name) = HeaderName::from_bytes(name)
            && name != header::TE
        {
            headers.remove(name);
        }
    }
    Ok(())
}

impl Fields {
    fn read_connection(&mut self, value: &[u8]) {
        for option in field::list(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    /// One field, one coding: anything else is a way to make two servers disagree.
    fn read_transfer_encoding(&mut self, value: &[u8]) -> Result<(), Rejection> {
        self.transfer_encodings = self.transfer_encodings.saturating_add(1);
        if self.transfer_encodings > 1 {
            return Err(Rejection::bad_request("transfer_encoding_twice"));
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
            return Ok(());
        }
        let well_formed = !value.is_empty()
            && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_, ;=.\"".contains(byte));
        Err(match well_formed {
            true => {
                Rejection::new(StatusCode::NOT_IMPLEMENTED, "transfer_encoding_not_implemented")
            }
            false => Rejection::bad_request("transfer_encoding_invalid"),
        })
    }

    fn read_content_length(
        &mut self,
        head: &Bytes,
        value: &Range<usize>,
    ) -> Result<HeaderValue, Rejection> {
        let text = &head[value.clone()];
        let length = field::parse_content_length(text)
            .ok_or(Rejection::bad_request("content_length_invalid"))?;
        if self.content_length.replace(length).is_some() {
            return Err(Rejection::bad_request("content_length_twice"));
        }
        if text.len() > 1 && text[0] == b'0' {
            return Ok(HeaderValue::from(length));
        }
        HeaderValue::from_maybe_shared(head.slice(value.clone()))
            .map_err(|_invalid| Rejection::bad_request("content_length_invalid"))
    }

    /// RFC 9112 section 9.3.
    pub fn keep_alive(&self, minor: u8) -> bool {
        !self.close && (minor > 0 || self.keep_alive)
    }

    pub fn upgrades_to_websocket(&self) -> bool {
        self.connection_upgrade
            && self.upgrade.as_ref().is_some_and(|to| to.eq_ignore_ascii_case(b"websocket"))
    }

    /// A complete WebSocket handshake (RFC 6455 section 4.1). Anything less is no upgrade and the
    /// request is served as it is, which RFC 9110 section 7.8 allows; h2c is never taken up.
    pub fn websocket_request(
        &self,
        method: &Method,
        minor: u8,
        headers: &Headers,
    ) -> Option<Upgrade> {
        let complete = self.upgrades_to_websocket()
            && *method == Method::GET
            && minor > 0
            && headers.contains_key(header::SEC_WEBSOCKET_KEY)
            && headers.contains_key(header::SEC_WEBSOCKET_VERSION);
        complete.then_some(Upgrade::WebSocket)
    }

    /// `expect` stays in the map only while somebody still has to act on it (RFC 9110 section 10.1.1).
    pub fn settle_expect(
        &self,
        headers: &mut Headers,
        minor: u8,
        body: &BodyReader,
    ) -> Result<bool, Rejection> {
        if self.expects == 0 {
            return Ok(false);
        }
        let value = headers.remove(header::EXPECT);
        if minor == 0 {
            return Ok(false);
        }
        let known = value.as_ref().is_some_and(|value| {
            self.expects == 1 && value.as_bytes().eq_ignore_ascii_case(b"100-continue")
        });
        if !known {
            return Err(Rejection::new(StatusCode::EXPECTATION_FAILED, "expectation_unknown"));
        }
        if body.is_done() {
            return Ok(false);
        }
        headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        Ok(true)
    }
}
