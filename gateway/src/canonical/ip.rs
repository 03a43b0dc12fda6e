//! The text of an address, without the formatting machinery: a request needs several.

use std::{io::Write, net::IpAddr};

/// Longest text of an address.
pub const MAX_LENGTH: usize = 45;

/// Appends the text of `ip` to memory, which has to have room for it.
pub fn write(ip: IpAddr, out: &mut impl Write) {
    // Writing to memory cannot fail.
    let _ = match ip {
        IpAddr::V4(ip) => {
            let mut text = [0; 16];
            let mut length = 0;
            for octet in ip.octets() {
                for digit in digits(&octet) {
                    text[length] = digit;
                    length += 1;
                }
                text[length] = b'.';
                length += 1;
            }
            out.write_all(&text[..length - 1])
        }
        IpAddr::V6(ip) => write!(out, "{ip}"),
    };
}

fn digits(octet: &u8) -> impl Iterator<Item = u8> {
    let digits = [octet / 100, octet / 10 % 10, octet % 10];
    let leading_zeros = usize::from(*octet < 100) + usize::from(*octet < 10);
    digits.into_iter().skip(leading_zeros).map(|digit| b'0' + digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ip: IpAddr) -> String {
        let mut out = Vec::new();
        write(ip, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_text_is_the_standard_librarys() {
        for octet in 0..=u8::MAX {
            let ip = IpAddr::from([octet, 0, 255, octet]);
            assert_eq!(text(ip), ip.to_string());
        }
        for ip in ["::", "::1", "2001:db8::1", "::ffff:1.2.3.4"] {
            assert_eq!(text(ip.parse().unwrap()), ip);
        }
        assert!(text(IpAddr::from([u8::MAX; 16])).len() <= MAX_LENGTH);
    }
}
