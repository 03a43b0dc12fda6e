//! Stage 2, where it is configured: the PROXY protocol, by which a load balancer in front says who the
//! client is (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, versions 1 and 2).
//!
//! Whoever may connect can claim any address with it, so it is read only where the mesh configuration
//! says that every connection begins with it. There, one without it is closed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::bind::canonical;

/// Section 2.2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Of version 2: signature, version and command, family, length.
const FIXED: usize = 16;
/// Of version 1, with its line end (section 2.1).
const MAX_LINE: usize = 107;
/// Of version 2: certificate names and the like, with a lot to spare.
const MAX_HEADER: usize = 4 * 1024;
/// "PROXY UNKNOWN" and a line end: no header is shorter.
const SHORTEST: usize = 15;

/// Both ends of the client's connection to the load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proxied {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the connection ended within its PROXY header")]
    Closed,
    #[error("the connection does not begin with a PROXY header: {0}")]
    Malformed(#[from] Malformed),
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(&'static str);

/// Reads the header and no byte more. `None`: the load balancer speaks for itself, as it does for
/// health checks; the addresses of the socket hold.
///
/// May wait as long as the peer likes: the caller has a deadline.
pub(super) async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<Proxied>, Error> {
    let mut header = vec![0; SHORTEST];
    let mut read = 0;
    loop {
        io.read_exact(&mut header[read..]).await.map_err(|_ended| Error::Closed)?;
        read = header.len();
        match parse(&header)? {
            Parsed::Complete(proxied) => return Ok(proxied),
            Parsed::AtLeast(more) => header.resize(read + more, 0),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parsed {
    Complete(Option<Proxied>),
    /// So many bytes more belong to the header for certain.
    AtLeast(usize),
}

fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if bytes.len() < SHORTEST {
        return Ok(Parsed::AtLeast(SHORTEST - bytes.len()));
    }
    if bytes.starts_with(SIGNATURE) {
        return parse_binary(bytes);
    }
    let Some(rest) = bytes.strip_prefix(b"PROXY ") else {
        return Err(Malformed("neither version's signature"));
    };
    match memchr::memchr(b'\n', bytes) {
        Some(end) if end + 1 < bytes.len() => Err(Malformed("more than a line was read")),
        Some(_) => {
            let line = rest.strip_suffix(b"\r\n").ok_or(Malformed("a bare line feed"))?;
            let line = std::str::from_utf8(line).map_err(|_bytes| Malformed("not ASCII"))?;
            parse_line(line).map(Parsed::Complete)
        }
        None if bytes.len() >= MAX_LINE => Err(Malformed("the line is too long")),
        None => Ok(Parsed::AtLeast(if bytes.ends_with(b"\r") { 1 } else { 2 })),
    }
}

/// `TCP4 source destination port port`, single spaces between.
fn parse_line(line: &str) -> Result<Option<Proxied>, Malformed> {
    let mut words = line.split(' ');
    let family = words.next().unwrap_or_default();
    // What follows it is to be ignored.
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let mut word = || words.next().ok_or(Malformed("too few words"));
    let (source, destination) = (word()?, word()?);
    let (source_port, destination_port) = (word()?, word()?);
    if words.next().is_some() {
        return Err(Malformed("too many words"));
    }
    let address = |text: &str| -> Result<IpAddr, Malformed> {
        let wrong = |_| Malformed("an address of another family, or none");
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(wrong),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(wrong),
            _ => Err(Malformed("an unknown family")),
        }
    };
    Ok(Some(Proxied {
        source: canonical((address(source)?, port(source_port)?).into()),
        destination: canonical((address(destination)?, port(destination_port)?).into()),
    }))
}

/// Decimal without a sign or leading zeros.
fn port(text: &str) -> Result<u16, Malformed> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    match text.parse() {
        Ok(port) if digits && !leading_zero => Ok(port),
        Ok(_) | Err(_) => Err(Malformed("not a port")),
    }
}

fn parse_binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some((fixed, body)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Parsed::AtLeast(FIXED - bytes.len()));
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + length > MAX_HEADER {
        return Err(Malformed("the header is too long"));
    }
    if body.len() < length {
        return Ok(Parsed::AtLeast(length - body.len()));
    }
    if body.len() > length {
        return Err(Malformed("more than the header was read"));
    }
    match command {
        // LOCAL, whatever else is there.
        0x20 => Ok(Parsed::Complete(None)),
        0x21 => parse_addresses(family, body).map(Parsed::Complete),
        _ => Err(Malformed("an unknown version or command")),
    }
}

fn parse_addresses(family: u8, body: &[u8]) -> Result<Option<Proxied>, Malformed> {
    let short = Malformed("too short for its addresses");
    let (proxied, rest) = match family {
        // Unspecified, and Unix sockets: nothing that is an address to us.
        0x00 => return Ok(None),
        0x31 => return body.get(216..).ok_or(short).and_then(check_tlvs).map(|()| None),
        0x11 => {
            let (addresses, rest) = body.split_first_chunk::<12>().ok_or(short)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *addresses;
            (pair([a, b, c, d], [e, f, g, h], ports), rest)
        }
        0x21 => {
            let (addresses, rest) = body.split_first_chunk::<36>().ok_or(short)?;
            let (source, other) = addresses.split_first_chunk::<16>().ok_or(short)?;
            let (destination, ports) = other.split_first_chunk::<16>().ok_or(short)?;
            let ports = ports.try_into().map_err(|_length| short)?;
            (pair(*source, *destination, ports), rest)
        }
        _ => return Err(Malformed("an unknown family or protocol")),
    };
    check_tlvs(rest)?;
    Ok(Some(proxied))
}

/// Generic over the two families of addresses.
fn pair<A: Into<IpAddr>>(source: A, destination: A, [a, b, c, d]: [u8; 4]) -> Proxied {
    Proxied {
        source: canonical((source.into(), u16::from_be_bytes([a, b])).into()),
        destination: canonical((destination.into(), u16::from_be_bytes([c, d])).into()),
    }
}

/// What they say is nothing to us, but they have to end where the header does.
fn check_tlvs(mut bytes: &[u8]) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        let broken = Malformed("a broken TLV");
        let ([_kind, high, low], rest) = bytes.split_first_chunk::<3>().ok_or(broken)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        bytes = rest.get(length..).ok_or(broken)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What is made of `header` when a request follows, and what is left of that.
    async fn read_from(header: &[u8]) -> (Result<Option<Proxied>, String>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(128 * 1024);
        far.write_all(&[header, b"GET / HTTP/1.1\r\n\r\n"].concat()).await.unwrap();
        drop(far);
        let outcome = read(&mut near).await.map_err(|error| error.to_string());
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (outcome, rest)
    }

    fn proxied(source: &str, destination: &str) -> Option<Proxied> {
        Some(Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    const IPV4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];

    fn ipv6() -> Vec<u8> {
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        [&address("2001:db8::7")[..], &address("2001:db8::1"), &[0x12, 0x67, 0x01, 0xbb]].concat()
    }

    fn accepted() -> Vec<(Vec<u8>, Option<Proxied>)> {
        let ipv4_ends = proxied("192.0.2.7:4711", "198.51.100.1:443");
        let ipv6_ends = proxied("[2001:db8::7]:4711", "[2001:db8::1]:443");
        let tlv = [0x04, 0, 3, 1, 2, 3, 0xe0, 0, 0];
        let line = |text: &str| format!("PROXY {text}\r\n").into_bytes();
        vec![
            (line("TCP4 192.0.2.7 198.51.100.1 4711 443"), ipv4_ends),
            (line("TCP6 2001:db8::7 2001:db8::1 4711 443"), ipv6_ends),
            (line("TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 4711 443"), ipv4_ends),
            (line("UNKNOWN"), None),
            (line("UNKNOWN ffff:f...f:ffff whatever 65535"), None),
            (v2(0x21, 0x11, IPV4), ipv4_ends),
            (v2(0x21, 0x11, &[IPV4, &tlv].concat()), ipv4_ends),
            (v2(0x21, 0x21, &ipv6()), ipv6_ends),
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0x11, IPV4), None),
            (v2(0x21, 0x00, b"anything"), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ]
    }

    #[tokio::test]
    async fn headers_are_read_and_nothing_behind_them() {
        for (header, expected) in accepted() {
            let (outcome, rest) = read_from(&header).await;
            assert_eq!(outcome, Ok(expected), "{}", header.escape_ascii());
            assert_eq!(rest, b"GET / HTTP/1.1\r\n\r\n", "{}", header.escape_ascii());
        }
    }

    #[test]
    fn every_prefix_asks_for_bytes_that_belong_to_the_header() {
        for (header, expected) in accepted() {
            for end in 0..header.len() {
                match parse(&header[..end]) {
                    Ok(Parsed::AtLeast(more)) => {
                        assert!(more > 0 && end + more <= header.len(), "{end} + {more}");
                    }
                    other => panic!("{other:?} for {}", header[..end].escape_ascii()),
                }
            }
            assert_eq!(parse(&header), Ok(Parsed::Complete(expected)));
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE));
        let tlv_too_long = [IPV4, &[0x04, 0xff, 0xff, 1]].concat();
        for header in [
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaa".to_vec(),
            b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n".to_vec(),
            b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n".to_vec(),
            b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
            b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n".to_vec(),
            b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
            b"PROXY \xff\xff\xff\xff\xff\xff\xff\r\n".to_vec(),
            long.into_bytes(),
            v2(0x22, 0x11, IPV4),
            v2(0x11, 0x11, IPV4),
            v2(0x21, 0x12, IPV4),
            v2(0x21, 0x41, IPV4),
            v2(0x21, 0x11, &IPV4[..11]),
            v2(0x21, 0x21, IPV4),
            v2(0x21, 0x31, &[0; 215]),
            v2(0x21, 0x11, &tlv_too_long),
            v2(0x21, 0x11, &[IPV4, &[0x04, 0]].concat()),
            v2(0x20, 0x00, &[0; MAX_HEADER]),
        ] {
            let (outcome, _) = read_from(&header).await;
            let refused = outcome.unwrap_err();
            assert!(refused.contains("does not begin"), "{}: {refused}", header.escape_ascii());
        }
    }

    #[tokio::test]
    async fn a_header_that_is_cut_is_no_header() {
        for (header, _) in accepted() {
            let mut cut = &header[..header.len() - 1];
            assert!(matches!(read(&mut cut).await, Err(Error::Closed)));
        }
    }

    /// Any bytes at all: never a panic, and a header has one end only.
    #[test]
    fn no_bytes_panic_or_end_a_header_in_two_places() {
        let mut rng = fastrand::Rng::with_seed(0x5eed);
        let headers = accepted();
        for _ in 0..20_000 {
            let (header, _) = &headers[rng.usize(..headers.len())];
            let mut bytes = header.clone();
            for _ in 0..rng.usize(..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            let parsed: Vec<_> = (0..=bytes.len()).map(|end| parse(&bytes[..end])).collect();
            let is_complete = |it: &Result<_, _>| matches!(it, Ok(Parsed::Complete(_)));
            let Some(end) = parsed.iter().position(is_complete) else { continue };
            assert_eq!(parsed.iter().filter(|it| is_complete(it)).count(), 1);
            for (at, parsed) in parsed[..end].iter().enumerate() {
                assert!(
                    matches!(parsed, Ok(Parsed::AtLeast(more)) if *more > 0 && at + more <= end),
                    "{parsed:?} at {at} of {}",
                    bytes.escape_ascii()
                );
            }
        }
    }
}
