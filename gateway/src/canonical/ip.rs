//! Addresses: their text, without the formatting machinery (a request needs several), and which are of
//! the public internet.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

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

/// Whether an address is globally reachable unicast by the registries of special-purpose addresses
/// (RFC 6890). Forms of IPv6 that lead to an IPv4 address are what that is.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    match a {
        // This network, private use, loopback.
        0 | 10 | 127 => false,
        // Shared by providers and their customers.
        100 => !(64..128).contains(&b),
        // Link-local: where clouds answer for credentials.
        169 => b != 254,
        172 => !(16..32).contains(&b),
        // Protocol assignments and documentation, 6to4 relays, private use.
        192 => !matches!((b, c), (0, 0 | 2) | (88, 99) | (168, _)),
        // Benchmarks, documentation.
        198 => !matches!((b, c), (18 | 19, _) | (51, 100)),
        203 => (b, c) != (0, 113),
        // Multicast, and what is reserved.
        224.. => false,
        _ => true,
    }
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        // NAT64 and 6to4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments (among them Teredo and benchmarks), documentation.
        [0x2001, second, ..] => second >= 0x200 && second != 0xdb8,
        [0x3fff, second, ..] => second >= 0x1000,
        // Nothing else has been given out.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unicast_of_the_internet_is_public() {
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "64:ff9b::101:101",
            "2002:101:101::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.240.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::1.2.3.4",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "3fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }

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
