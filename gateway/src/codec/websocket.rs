//! The handshake of RFC 6455, for where one side speaks it and the other says the same in HTTP/2's words
//! (RFC 8441), which know neither key nor answer.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `sec-websocket-version`: the only one there is.
pub(super) const VERSION: HeaderValue = HeaderValue::from_static("13");

/// `sec-websocket-key` of a handshake of our own.
pub(super) fn new_key() -> HeaderValue {
    text(&STANDARD.encode(fastrand::u128(..).to_ne_bytes()))
}

/// The `sec-websocket-accept` that answers `key`.
pub(super) fn accept(key: &HeaderValue) -> HeaderValue {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(GUID);
    text(&STANDARD.encode(digest.finish()))
}

fn text(base64: &str) -> HeaderValue {
    HeaderValue::from_str(base64).expect("base64 is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_in_the_rfc() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_and_never_the_same() {
        let (one, other) = (new_key(), new_key());
        assert_ne!(one, other);
        assert_eq!(STANDARD.decode(one.as_bytes()).unwrap().len(), 16);
    }
}
