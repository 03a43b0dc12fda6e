//! Heads as they are sent.

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::static_table;

/// Room for what a usual head needs, so that it is allocated once.
const USUAL_BYTES: usize = 384;

const INDEXED: u8 = 0x80;
const LITERAL: u8 = 0x00;
const NEVER_INDEXED: u8 = 0x10;

/// A head, encoded: one field after another. Independent of the connection it is sent on.
#[derive(Debug, Clone)]
pub struct HeadBlock(BytesMut);

impl HeadBlock {
    /// Of a response.
    #[must_use]
    pub fn response(status: StatusCode) -> Self {
        let mut block = Self::empty();
        let indexed = match status.as_u16() {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                block.literal(8, status.as_str().as_bytes());
                return block;
            }
        };
        block.0.put_u8(INDEXED | indexed);
        block
    }

    /// Of a request, without a scheme and a path yet.
    #[must_use]
    pub fn request(method: &Method) -> Self {
        let mut block = Self::empty();
        match *method {
            Method::GET => block.0.put_u8(INDEXED | 2),
            Method::POST => block.0.put_u8(INDEXED | 3),
            _ => block.literal(2, method.as_str().as_bytes()),
        }
        block
    }

    /// Of trailers.
    #[must_use]
    pub fn trailers() -> Self {
        Self::empty()
    }

    fn empty() -> Self {
        Self(BytesMut::with_capacity(USUAL_BYTES))
    }

    /// `:scheme`: `https`, else `http`.
    pub fn scheme(&mut self, is_https: bool) {
        self.0.put_u8(INDEXED | if is_https { 7 } else { 6 });
    }

    /// `:path`, or for the extended CONNECT of RFC 8441.
    pub fn path(&mut self, path: &str) {
        match path {
            "/" => self.0.put_u8(INDEXED | 4),
            _ => self.literal(4, path.as_bytes()),
        }
    }

    /// `:authority`.
    pub fn authority(&mut self, authority: &[u8]) {
        self.literal(1, authority);
    }

    /// `:protocol` (RFC 8441).
    pub fn protocol(&mut self, protocol: &str) {
        self.0.put_u8(LITERAL);
        self.string(b":protocol");
        self.string(protocol.as_bytes());
    }

    /// `content-length`.
    pub fn content_length(&mut self, length: u64) {
        self.literal(28, itoa::Buffer::new().format(length).as_bytes());
    }

    /// Another field. One whose value is marked as sensitive is sent as such (RFC 7541 section 6.2.3).
    pub fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        let kind = if value.is_sensitive() { NEVER_INDEXED } else { LITERAL };
        match static_table::index_of(name.as_str()) {
            Some(index) => self.integer(kind, 4, usize::from(index)),
            None => {
                self.0.put_u8(kind);
                self.string(name.as_str().as_bytes());
            }
        }
        self.string(value.as_bytes());
    }

    /// As sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn literal(&mut self, name: u8, value: &[u8]) {
        self.integer(LITERAL, 4, usize::from(name));
        self.string(value);
    }

    fn string(&mut self, text: &[u8]) {
        self.integer(0, 7, text.len());
        self.0.extend_from_slice(text);
    }

    /// RFC 7541 section 5.1: `bits` of the first octet, and more octets where it does not fit.
    fn integer(&mut self, first: u8, bits: u32, value: usize) {
        let most = (1_usize << bits) - 1;
        #[expect(clippy::cast_possible_truncation, reason = "cut to the bits that are put")]
        let octet = |value: usize| value as u8;
        if value < most {
            self.0.put_u8(first | octet(value));
            return;
        }
        self.0.put_u8(first | octet(most));
        let mut rest = value - most;
        while rest >= 0x80 {
            self.0.put_u8(octet(rest) | 0x80);
            rest >>= 7;
        }
        self.0.put_u8(octet(rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_the_specification() {
        let integer = |bits, value| {
            let mut block = HeadBlock::empty();
            block.integer(0, bits, value);
            block.0.to_vec()
        };
        assert_eq!(integer(5, 10), [10]);
        assert_eq!(integer(5, 31), [31, 0]);
        assert_eq!(integer(5, 1337), [31, 154, 10]);
        assert_eq!(integer(8, 42), [42]);
    }

    #[test]
    fn a_head_is_as_short_as_the_static_table_makes_it() {
        let mut block = HeadBlock::request(&Method::GET);
        block.scheme(false);
        block.path("/");
        block.authority(b"www.example.com");
        let expected = [&[0x82, 0x86, 0x84, 0x01, 0x0f][..], b"www.example.com"].concat();
        assert_eq!(block.as_bytes(), expected);
        assert_eq!(HeadBlock::response(StatusCode::OK).as_bytes(), [0x88]);
        assert_eq!(HeadBlock::response(StatusCode::IM_A_TEAPOT).as_bytes(), b"\x08\x03418");
    }

    #[test]
    fn what_is_sensitive_is_marked_so() {
        let mut value = HeaderValue::from_static("secret");
        value.set_sensitive(true);
        let mut block = HeadBlock::trailers();
        block.field(&http::header::AUTHORIZATION, &value);
        assert_eq!(block.as_bytes(), b"\x1f\x08\x06secret");
    }
}
