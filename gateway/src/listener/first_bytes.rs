//! What a client speaks, by its first bytes (sidecar reference 5). Nothing is lost: what was read is
//! what the protocol begins with.

/// The beginning of HTTP/2 by prior knowledge (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line that is longer is none.
const MAX_REQUEST_LINE: usize = 8 * 1024;
/// No method is longer.
const MAX_METHOD: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstBytes {
    /// A record of a TLS handshake.
    Tls,
    /// A request line, or the preface of HTTP/2.
    Http,
    Other,
}

/// What begins with `bytes`; `None`: that depends on what follows.
pub(super) fn classify(bytes: &[u8]) -> Option<FirstBytes> {
    match classify_bytes(bytes) {
        Some(FirstBytes::Other) => {}
        known => return known,
    }
    if bytes.starts_with(PREFACE) {
        return Some(FirstBytes::Http);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    request_line(bytes)
}

/// The same where a request is bytes as any others.
pub(super) fn classify_bytes(bytes: &[u8]) -> Option<FirstBytes> {
    match bytes {
        [] | [0x16] => None,
        [0x16, 0x03, ..] => Some(FirstBytes::Tls),
        _ => Some(FirstBytes::Other),
    }
}

/// Whether HTTP/2 begins so.
pub(super) fn is_h2(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFACE)
}

/// `token SP target SP HTTP/1.x CRLF`, as far as it is there.
fn request_line(bytes: &[u8]) -> Option<FirstBytes> {
    let method = bytes.iter().position(|byte| !is_token(*byte)).unwrap_or(bytes.len());
    if method > MAX_METHOD || (method == 0 && !bytes.is_empty()) {
        return Some(FirstBytes::Other);
    }
    let rest = &bytes[method..];
    match rest.first() {
        None => return None,
        Some(b' ') => {}
        Some(_) => return Some(FirstBytes::Other),
    }
    match memchr::memchr(b'\n', rest) {
        Some(end) => {
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            let is_request = matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
            Some(if is_request { FirstBytes::Http } else { FirstBytes::Other })
        }
        None if bytes.len() >= MAX_REQUEST_LINE => Some(FirstBytes::Other),
        // No byte of a target is a control character.
        None if rest.iter().any(|byte| *byte < b' ' && *byte != b'\r') => Some(FirstBytes::Other),
        None => None,
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nhost: a\r\n"[..], FirstBytes::Http),
            (b"POST /a?b HTTP/1.0\n", FirstBytes::Http),
            (PREFACE, FirstBytes::Http),
            (b"PURGE * HTTP/1.1\r\n", FirstBytes::Http),
            (b"\x16\x03\x01\x02\x00\x01", FirstBytes::Tls),
            (b"\x16\x16", FirstBytes::Other),
            (b"SSH-2.0-OpenSSH\r\n", FirstBytes::Other),
            (b"EHLO example.com\r\n", FirstBytes::Other),
            (b"*1\r\n$4\r\nPING\r\n", FirstBytes::Other),
            (b"\x00\x00\x00\x08\x04", FirstBytes::Other),
            (b"GET /\x00", FirstBytes::Other),
            (b" GET / HTTP/1.1\r\n", FirstBytes::Other),
        ] {
            assert_eq!(classify(bytes), Some(expected), "{bytes:?}");
        }
    }

    #[test]
    fn what_may_become_a_request_is_waited_for_byte_by_byte() {
        for whole in [&b"GET / HTTP/1.1\r\n"[..], PREFACE, b"\x16\x03"] {
            for length in 0..whole.len() {
                assert_eq!(classify(&whole[..length]), None, "{:?}", &whole[..length]);
            }
            assert!(classify(whole).is_some());
        }
    }

    #[test]
    fn nothing_is_waited_for_where_requests_are_bytes_as_any_others() {
        assert_eq!(classify_bytes(b"G"), Some(FirstBytes::Other));
        assert_eq!(classify_bytes(b"GET / HTTP/1.1\r\n"), Some(FirstBytes::Other));
        assert_eq!(classify_bytes(b"\x16"), None);
        assert_eq!(classify_bytes(b"\x16\x03"), Some(FirstBytes::Tls));
    }

    #[test]
    fn a_request_line_without_an_end_is_none() {
        let mut bytes = b"GET /".to_vec();
        bytes.resize(MAX_REQUEST_LINE, b'a');
        assert_eq!(classify(&bytes), Some(FirstBytes::Other));
    }
}
