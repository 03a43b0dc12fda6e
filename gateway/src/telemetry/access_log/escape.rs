//! Values of a line that clients and upstreams choose. None of them can end a line, close a quoted
//! field or move a terminal's cursor (reference `hardening` D11, CVE-2024-45808).

/// For a text line: what is not printable ASCII, `"` and `\` become `\xHH`, as nginx writes them.
pub fn text(value: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if all_plain(value) {
        return out.extend_from_slice(value);
    }
    for &byte in value {
        if is_plain(byte) {
            out.push(byte);
        } else {
            let [high, low] = [byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]);
            out.extend_from_slice(&[b'\\', b'x', high, low]);
        }
    }
}

/// The inside of a JSON string (RFC 8259, section 7). Bytes that are no UTF-8 become U+FFFD.
pub fn json(value: &[u8], out: &mut Vec<u8>) {
    if all_plain(value) {
        return out.extend_from_slice(value);
    }
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                // The second range are terminal controls too, and U+2028 ends a line for some readers.
                '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                    out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes());
                }
                _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Printable ASCII that means the same in both forms: nearly every value there is. Eight bytes at
/// once, the last eight whatever the length.
fn all_plain(value: &[u8]) -> bool {
    let Some(last) = value.last_chunk::<8>() else {
        return value.iter().all(|byte| is_plain(*byte));
    };
    let (words, _) = value.as_chunks::<8>();
    words.iter().chain([last]).all(|word| are_plain(u64::from_le_bytes(*word)))
}

/// As [`is_plain`], of every byte of a word.
fn are_plain(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES << 7;
    // The top bit of a byte of the difference is set where the byte was smaller, and sometimes in
    // bytes above such a one: whether there is any is exact.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let special = word | below(word, b' ') | equal(b'"') | equal(b'\\') | equal(0x7f);
    special & TOPS == 0
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_plain_when_each_of_its_bytes_is() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                for other in [b' ', b'a', b'~', b'!', b'#'] {
                    let mut bytes = [other; 8];
                    bytes[place] = byte;
                    let plain = is_plain(byte);
                    assert_eq!(are_plain(u64::from_le_bytes(bytes)), plain, "{bytes:?}");
                    assert_eq!(all_plain(&bytes[..=place]), plain, "{bytes:?}");
                    assert_eq!(all_plain(&[&bytes[..], b"abc"].concat()), plain, "{bytes:?}");
                }
            }
        }
    }

    fn escaped(escape: fn(&[u8], &mut Vec<u8>), value: &[u8]) -> String {
        let mut out = Vec::new();
        escape(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_value_in_a_text_line_stays_in_its_field() {
        assert_eq!(escaped(text, b"curl/8.1 (x; y)"), "curl/8.1 (x; y)");
        assert_eq!(escaped(text, b"a\r\nb"), "a\\x0D\\x0Ab");
        assert_eq!(escaped(text, b"\" 200 \\"), "\\x22 200 \\x5C");
        assert_eq!(escaped(text, b"\x1b[2J\x7f\xc2\x9b"), "\\x1B[2J\\x7F\\xC2\\x9B");
    }

    #[test]
    fn a_value_in_json_survives_a_parser_unchanged() {
        let value = "a\r\n\"b\"\\ \x1b \u{9b} \u{2028} ü";
        let escaped = escaped(json, value.as_bytes());
        assert!(escaped.chars().all(|c| !c.is_control()), "{escaped}");
        let parsed: String = serde_json::from_str(&format!("\"{escaped}\"")).unwrap();
        assert_eq!(parsed, value);
    }

    #[test]
    fn bytes_that_are_no_text_do_not_break_json() {
        assert_eq!(escaped(json, b"a\xffb"), "a\u{fffd}b");
    }
}
