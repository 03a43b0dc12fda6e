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
                let (digits, count) = OCTETS[usize::from(octet)];
                // With what follows them, which the next octet overwrites.
                text[length..length + 4].copy_from_slice(&digits);
                length += count + 1;
            }
            out.write_all(&text[..length - 1])
        }
        IpAddr::V6(ip) => write!(out, "{ip}"),
    };
}

/// The digits of an octet and a dot, and how many digits.
const OCTETS: [([u8; 4], usize); 256] = {
    let mut octets = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let (hundreds, tens, ones) = (octet / 100, octet / 10 % 10, octet % 10);
        let digits = [b'0' + hundreds as u8, b'0' + tens as u8, b'0' + ones as u8];
        octets[octet] = match octet {
            0..10 => ([digits[2], b'.', b'.', b'.'], 1),
            10..100 => ([digits[1], digits[2], b'.', b'.'], 2),
            _ => ([digits[0], digits[1], digits[2], b'.'], 3),
        };
        octet += 1;
    }
    octets
};

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
