//! `Host` and `:authority`: what is a valid one, and its one spelling.

use std::{borrow::Cow, net::Ipv6Addr};

/// Longest DNS name, brackets or a port added.
const MAX_LENGTH: usize = 253 + ":65535".len();

/// Not `host` or `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The canonical spelling of an authority: lower case, no trailing dot, IPv6 in its short form, the
/// port as sent. Borrowed when it already is. What this accepts can be compared as bytes.
///
/// # Errors
/// User information, anything that is not a DNS name, an IP address or a port number (RFC 9110
/// section 7.2; hardening H14).
pub fn canonical(authority: &str) -> Result<Cow<'_, str>, Malformed> {
    if authority.len() > MAX_LENGTH {
        return Err(Malformed);
    }
    if authority.starts_with('[') {
        return canonical_ipv6(authority);
    }
    let (name, port) = match colon(authority) {
        Some(at) => (&authority[..at], Some(checked_port(&authority[at + 1..])?)),
        None => (authority, None),
    };
    if is_plain(name) {
        return Ok(Cow::Borrowed(authority));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut is_lower = true;
    for label in name.split('.') {
        if label.is_empty() {
            return Err(Malformed);
        }
        for byte in label.bytes() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
                b'A'..=b'Z' => is_lower = false,
                _ => return Err(Malformed),
            }
        }
    }
    if is_lower && name.len() + port.map_or(0, |port| port.len() + 1) == authority.len() {
        return Ok(Cow::Borrowed(authority));
    }
    let mut spelled = name.to_ascii_lowercase();
    if let Some(port) = port {
        spelled.push(':');
        spelled.push_str(port);
    }
    Ok(Cow::Owned(spelled))
}

/// Where the first colon is. For a few bytes a loop is faster than `find`.
fn colon(authority: &str) -> Option<usize> {
    authority.bytes().position(|byte| byte == b':')
}

/// Nearly every name there is: in lower case, without a dot at its end. One look at each byte.
fn is_plain(name: &str) -> bool {
    let mut before = b'.';
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'.' if before != b'.' => {}
            _ => return false,
        }
        before = byte;
    }
    before != b'.'
}

/// The host of a canonical authority, without its port and without an IPv6 address's brackets.
#[must_use]
pub fn host(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or(literal),
        None => &authority[..colon(authority).unwrap_or(authority.len())],
    }
}

/// The authority without its port; brackets stay.
#[must_use]
pub fn without_port(authority: &str) -> &str {
    let after_host = authority.rfind(']').unwrap_or(0);
    match authority[after_host..].find(':') {
        Some(colon) => &authority[..after_host + colon],
        None => authority,
    }
}

/// The port written in a canonical authority.
#[must_use]
pub fn port(authority: &str) -> Option<u16> {
    authority[without_port(authority).len()..].strip_prefix(':').and_then(|port| port.parse().ok())
}

fn canonical_ipv6(authority: &str) -> Result<Cow<'_, str>, Malformed> {
    let (literal, after) = authority[1..].split_once(']').ok_or(Malformed)?;
    let address: Ipv6Addr = literal.parse().map_err(|_not_an_address| Malformed)?;
    if let Some(port) = after.strip_prefix(':') {
        checked_port(port)?;
    } else if !after.is_empty() {
        return Err(Malformed);
    }
    let spelled = address.to_string();
    Ok(if spelled == literal {
        Cow::Borrowed(authority)
    } else {
        Cow::Owned(format!("[{spelled}]{after}"))
    })
}

/// 1 to 65535 without leading zeros: a number has one spelling.
fn checked_port(port: &str) -> Result<&str, Malformed> {
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    if is_number && port.parse::<u16>().is_ok() { Ok(port) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_has_one_spelling() {
        for (authority, expected) in [
            ("example.com", "example.com"),
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("EXAMPLE.com.:8080", "example.com:8080"),
            ("example.com:443", "example.com:443"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("my_service:80", "my_service:80"),
            ("127.0.0.1:15000", "127.0.0.1:15000"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
        ] {
            let spelled = canonical(authority).unwrap();
            assert_eq!(spelled, expected, "{authority}");
            assert_eq!(canonical(&spelled).unwrap(), expected, "{authority} twice");
        }
    }

    #[test]
    fn a_canonical_authority_is_not_copied() {
        for authority in ["example.com", "a.b:80", "[::1]:443"] {
            assert!(matches!(canonical(authority), Ok(Cow::Borrowed(_))), "{authority}");
        }
    }

    #[test]
    fn what_is_not_host_and_port_is_malformed() {
        let too_long = "a.".repeat(130);
        for authority in [
            "",
            ".",
            "..",
            ".example.com",
            "a..b",
            "example.com..",
            "user@example.com",
            "user:pass@example.com",
            "example.com/",
            "example.com/path",
            "a b",
            "a,b",
            "a, b",
            "example.com:",
            "example.com:http",
            "example.com:0",
            "example.com:080",
            "example.com:65536",
            "example.com:-1",
            "example.com:80:80",
            "bücher.example",
            "a%2eb",
            "a\tb",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25eth0]",
            "[1.2.3.4]",
            "a?b",
            "a#b",
            "a\\b",
            "*",
            "*.example.com",
            &too_long,
        ] {
            assert_eq!(canonical(authority), Err(Malformed), "{authority}");
        }
    }

    #[test]
    fn host_and_port_are_taken_apart() {
        for (authority, name, bracketed, number) in [
            ("example.com", "example.com", "example.com", None),
            ("example.com:8080", "example.com", "example.com", Some(8080)),
            ("[::1]", "::1", "[::1]", None),
            ("[::1]:443", "::1", "[::1]", Some(443)),
        ] {
            assert_eq!(host(authority), name);
            assert_eq!(without_port(authority), bracketed);
            assert_eq!(port(authority), number);
        }
    }

    #[test]
    fn no_text_panics_or_has_two_canonical_spellings() {
        const PIECES: [&str; 18] = [
            "a", "A", "b.c", ".", "..", ":", ":80", ":080", "[", "]", "[::1]", "[0:0::1]", "@",
            "%2e", "é", " ", "_", "-",
        ];
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let text: String =
                (0..random.usize(..6)).map(|_| PIECES[random.usize(..PIECES.len())]).collect();
            let Ok(once) = canonical(&text) else { continue };
            assert_eq!(canonical(&once).unwrap(), once, "seed {seed}: {text}");
            assert!(!host(&once).is_empty() && once.starts_with(without_port(&once)), "{text}");
        }
    }
}
