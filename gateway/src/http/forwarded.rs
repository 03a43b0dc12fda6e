//! What is told about the client: `X-Forwarded-*`, `x-envoy-external-address`, the client's
//! certificate (istio-compat 5.4, hardening C8).

use std::{fmt::Write, net::IpAddr};

use http::HeaderValue;
use weir_config::model::{route::Scheme, settings::ForwardClientCert};

use super::field::{X_FORWARDED_CLIENT_CERT, X_FORWARDED_FOR, X_FORWARDED_PROTO};
use crate::{canonical::ip, connection::PeerIdentity, head::Headers};

/// The client as the outermost of `trusted_proxies` proxies saw it: that many entries from the right
/// of `X-Forwarded-For` as it arrived. `None` where there is no address in that place; the socket's
/// peer is the client then, because what is further left may be anybody's word.
#[must_use]
pub fn client_ip(headers: &Headers, trusted_proxies: u32) -> Option<IpAddr> {
    let place = usize::try_from(trusted_proxies.checked_sub(1)?).ok()?;
    let entry = headers
        .get_all(X_FORWARDED_FOR)
        .rev()
        .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
        .nth(place)?;
    std::str::from_utf8(entry).ok()?.trim().parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Appends the socket's peer; several fields become one. Returns the peer's text.
pub fn append_forwarded_for(headers: &mut Headers, peer: IpAddr) -> HeaderValue {
    let peer = text(peer);
    let mut received = headers.get_all(X_FORWARDED_FOR).peekable();
    let value = if received.peek().is_none() {
        peer.clone()
    } else {
        let mut joined = Vec::with_capacity(64);
        for value in received {
            joined.extend_from_slice(value.as_bytes());
            joined.push(b',');
        }
        joined.extend_from_slice(peer.as_bytes());
        // Bytes of valid values and commas are a valid value.
        HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).unwrap_or_else(|_| peer.clone())
    };
    headers.insert(X_FORWARDED_FOR, value);
    peer
}

/// An address as header value.
#[must_use]
pub fn text(ip: IpAddr) -> HeaderValue {
    let mut text = [0; ip::MAX_LENGTH];
    let mut room = &mut text[..];
    ip::write(ip.to_canonical(), &mut room);
    let length = ip::MAX_LENGTH - room.len();
    HeaderValue::from_bytes(&text[..length]).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// The scheme the client used: the connection's, unless a trusted proxy in front says otherwise.
#[must_use]
pub fn scheme(headers: &Headers, connection: Scheme, trusted_proxies: u32) -> Scheme {
    if trusted_proxies == 0 {
        return connection;
    }
    let mut sent = headers.get_all(X_FORWARDED_PROTO);
    match (sent.next(), sent.next()) {
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"https") => Scheme::Https,
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"http") => Scheme::Http,
        _ => connection,
    }
}

/// Replaces, extends or removes `x-forwarded-client-cert`. `local`: the URI of our own certificate.
pub fn client_cert(
    headers: &mut Headers,
    mode: ForwardClientCert,
    peer: Option<&PeerIdentity>,
    local: Option<&str>,
) {
    let received = headers.get(X_FORWARDED_CLIENT_CERT);
    let kept = match (mode, peer) {
        (ForwardClientCert::AlwaysForwardOnly, _) | (ForwardClientCert::ForwardOnly, Some(_)) => {
            return;
        }
        (ForwardClientCert::Sanitize, _) | (_, None) => None,
        (ForwardClientCert::SanitizeSet, Some(peer)) => Some(certificate_element(peer, local)),
        (ForwardClientCert::AppendForward, Some(peer)) => Some(match received {
            Some(received) => {
                let received = String::from_utf8_lossy(received.as_bytes());
                format!("{received},{}", certificate_element(peer, local))
            }
            None => certificate_element(peer, local),
        }),
    };
    match kept.and_then(|element| HeaderValue::try_from(element).ok()) {
        Some(value) => {
            headers.insert(X_FORWARDED_CLIENT_CERT, value);
        }
        None if received.is_some() => {
            headers.remove(X_FORWARDED_CLIENT_CERT);
        }
        None => {}
    }
}

/// `By=…;Hash=…;Subject="…";URI=…`. There is no `By` where our certificate has no SPIFFE ID.
fn certificate_element(peer: &PeerIdentity, local: Option<&str>) -> String {
    let mut element = String::new();
    if let Some(local) = local {
        write_uri(&mut element, "By", local);
        element.push(';');
    }
    // Writing to a string cannot fail.
    let _ = write!(element, "Hash={};Subject=\"{}\"", peer.fingerprint, escaped(&peer.subject));
    for uri in &*peer.uri_sans {
        element.push(';');
        write_uri(&mut element, "URI", uri);
    }
    if peer.uri_sans.is_empty() {
        element.push_str(";URI=");
    }
    element
}

fn write_uri(element: &mut String, key: &str, uri: &str) {
    let quoted = uri.contains([',', ';', '=', '"', '\\', ' ']);
    // Writing to a string cannot fail.
    let _ = if quoted {
        write!(element, "{key}=\"{}\"", escaped(uri))
    } else {
        write!(element, "{key}={uri}")
    };
}

/// A quotation mark in a certificate must not end the value it stands in; what no header can carry
/// becomes `?`.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderName;

    use super::*;

    fn headers(fields: &[(HeaderName, &str)]) -> Headers {
        let value = |value: &str| HeaderValue::from_bytes(value.as_bytes()).unwrap();
        let mut headers = Headers::new();
        for (name, text) in fields {
            headers.append(name.clone(), value(text));
        }
        headers
    }

    #[test]
    fn the_client_is_that_many_hops_from_the_right() {
        let chain = "56.5.6.7, 72.9.5.6, 98.1.2.3";
        for (hops, expected) in [
            (0, None),
            (1, Some("98.1.2.3")),
            (2, Some("72.9.5.6")),
            (3, Some("56.5.6.7")),
            (4, None),
            (u32::MAX, None),
        ] {
            let headers = headers(&[(X_FORWARDED_FOR, chain)]);
            let expected = expected.map(|ip: &str| ip.parse().unwrap());
            assert_eq!(client_ip(&headers, hops), expected, "{hops} hops");
        }
    }

    #[test]
    fn several_fields_are_one_chain() {
        let headers =
            headers(&[(X_FORWARDED_FOR, "1.1.1.1"), (X_FORWARDED_FOR, "2.2.2.2,3.3.3.3")]);
        assert_eq!(client_ip(&headers, 3), Some("1.1.1.1".parse().unwrap()));
    }

    #[test]
    fn junk_in_the_trusted_place_is_nobody() {
        for entry in [
            "",
            "unknown",
            "1.2.3.4:80",
            "1.2.3",
            "999.1.1.1",
            "fe80::1%eth0",
            "[::1]",
            "0x7f.1",
            "1.2.3.4 evil",
            "é",
        ] {
            let headers = headers(&[(X_FORWARDED_FOR, &format!("10.0.0.1,{entry}"))]);
            assert_eq!(client_ip(&headers, 1), None, "{entry:?}");
        }
    }

    #[test]
    fn the_peer_is_appended_to_what_arrived() {
        let peer = "192.0.2.7".parse().unwrap();
        for (received, expected) in [
            (vec![], "192.0.2.7"),
            (vec!["1.1.1.1"], "1.1.1.1,192.0.2.7"),
            (vec!["1.1.1.1, 2.2.2.2", "3.3.3.3"], "1.1.1.1, 2.2.2.2,3.3.3.3,192.0.2.7"),
        ] {
            let mut headers = Headers::new();
            for value in received {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(value));
            }
            append_forwarded_for(&mut headers, peer);
            let values: Vec<_> = headers.get_all(X_FORWARDED_FOR).collect();
            assert_eq!(values, [expected]);
        }
    }

    #[test]
    fn a_mapped_address_is_written_as_ipv4() {
        assert_eq!(text("::ffff:192.0.2.7".parse().unwrap()), "192.0.2.7");
    }

    #[test]
    fn the_scheme_is_the_connections_unless_a_proxy_is_trusted() {
        use Scheme::{Http, Https};
        for (sent, connection, trusted, expected) in [
            (vec![], Http, 0, Http),
            (vec!["https"], Http, 0, Http),
            (vec!["https"], Http, 1, Https),
            (vec!["HTTPS"], Http, 1, Https),
            (vec!["http"], Https, 1, Http),
            (vec!["wss"], Https, 1, Https),
            (vec!["https,http"], Http, 1, Http),
            (vec!["https", "https"], Http, 1, Http),
            (vec![], Https, 1, Https),
        ] {
            let mut headers = Headers::new();
            for value in &sent {
                headers.append(X_FORWARDED_PROTO, HeaderValue::from_static(value));
            }
            assert_eq!(scheme(&headers, connection, trusted), expected, "{sent:?} {trusted}");
        }
    }

    fn peer() -> PeerIdentity {
        PeerIdentity {
            subject: "CN=a \"quoted\" client".into(),
            uri_sans: Arc::from(["spiffe://td/ns/n/sa/s".into()]),
            dns_sans: Arc::default(),
            fingerprint: "ab12".into(),
            chain: Arc::default(),
        }
    }

    #[test]
    fn every_mode_treats_the_clients_certificate_as_documented() {
        use ForwardClientCert::{
            AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet,
        };
        let element = r#"Hash=ab12;Subject="CN=a \"quoted\" client";URI=spiffe://td/ns/n/sa/s"#;
        let appended = format!("forged,{element}");
        let peer = peer();
        for (mode, peer, expected) in [
            (Sanitize, None, None),
            (Sanitize, Some(&peer), None),
            (SanitizeSet, None, None),
            (SanitizeSet, Some(&peer), Some(element)),
            (AppendForward, None, None),
            (AppendForward, Some(&peer), Some(&*appended)),
            (ForwardOnly, None, None),
            (ForwardOnly, Some(&peer), Some("forged")),
            (AlwaysForwardOnly, None, Some("forged")),
            (AlwaysForwardOnly, Some(&peer), Some("forged")),
        ] {
            let mut headers = headers(&[(X_FORWARDED_CLIENT_CERT, "forged")]);
            client_cert(&mut headers, mode, peer, None);
            let sent = headers.get(X_FORWARDED_CLIENT_CERT).map(|v| v.to_str().unwrap());
            assert_eq!(sent, expected, "{mode:?}");
        }
    }

    #[test]
    fn whom_the_client_found_comes_first() {
        let element = certificate_element(&peer(), Some("spiffe://td/ns/n/sa/own"));
        assert!(element.starts_with("By=spiffe://td/ns/n/sa/own;Hash=ab12;"), "{element}");
    }

    #[test]
    fn a_certificates_uri_cannot_add_elements() {
        let mut peer = peer();
        peer.uri_sans = Arc::from(["spiffe://td/x;By=\"y\",Hash=z".into()]);
        assert!(
            certificate_element(&peer, None).ends_with(r#";URI="spiffe://td/x;By=\"y\",Hash=z""#)
        );
    }

    /// Whatever a client writes there: an address or none, never a panic, and one field afterwards.
    #[test]
    fn no_chain_of_hops_is_too_strange() {
        const PIECES: [&[u8]; 14] = [
            b"1.2.3.4",
            b"::1",
            b"[::1]:80",
            b"1.2.3.4:5",
            b"fe80::1%eth0",
            b"unknown",
            b",",
            b", ",
            b" ",
            b"\t",
            b"\"",
            b"\xff",
            b"999.9.9.9",
            b"for=1.2.3.4",
        ];
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..5_000 {
            let mut headers = Headers::new();
            for _ in 0..random.usize(..3) {
                let value: Vec<u8> = (0..random.usize(..6))
                    .flat_map(|_| PIECES[random.usize(..PIECES.len())].iter().copied())
                    .collect();
                let value = HeaderValue::from_bytes(&value).unwrap();
                headers.append(X_FORWARDED_FOR, value);
            }
            let trusted = random.u32(..4);
            let client = client_ip(&headers, trusted);
            assert!(trusted > 0 || client.is_none(), "seed {seed}: nobody is trusted");
            append_forwarded_for(&mut headers, [192, 0, 2, 1].into());
            let fields: Vec<_> = headers.get_all(X_FORWARDED_FOR).collect();
            assert_eq!(fields.len(), 1, "seed {seed}");
            assert!(fields[0].as_bytes().ends_with(b"192.0.2.1"), "seed {seed}: {fields:?}");
            assert_eq!(
                client_ip(&headers, 1),
                Some([192, 0, 2, 1].into()),
                "seed {seed}: who is behind us trusts our entry"
            );
        }
    }
}
