//! Who may ask. The port itself is the protection: it is on loopback. A browser on the same machine
//! gets there too, sent by any web page; these checks keep such pages out (reference `hardening` C5).

use std::net::SocketAddr;

use http::{
    HeaderMap, Method,
    header::{HOST, ORIGIN},
    uri::Authority,
};

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A name that was made to resolve to this machine (DNS rebinding).
    Host,
    /// A page of another site asks, from the user's browser.
    Origin,
}

impl Refusal {
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Host => "this host name is not served here; use localhost or 127.0.0.1\n",
            Self::Origin => "requests of other sites are not served\n",
        }
    }
}

/// `addr`: where the port is bound.
pub(super) fn check(method: &Method, headers: &HeaderMap, addr: SocketAddr) -> Result<(), Refusal> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if addr.ip().is_loopback() && !is_this_machine(host) {
        return Err(Refusal::Host);
    }
    // Browsers send it with whatever one site asks of another, and always with a POST.
    if let Some(origin) = headers.get(ORIGIN) {
        let same = origin.to_str().is_ok_and(|origin| origin == format!("http://{host}"));
        if !same {
            return Err(Refusal::Origin);
        }
    }
    let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    if *method == Method::POST && matches!(site, Some(b"cross-site" | b"same-site")) {
        return Err(Refusal::Origin);
    }
    Ok(())
}

/// HTTP/1.0 clients send no name, and no browser does.
fn is_this_machine(host: &str) -> bool {
    let name = host.parse::<Authority>().map(|authority| authority.host().to_ascii_lowercase());
    host.is_empty() || name.is_ok_and(|name| ["localhost", "127.0.0.1", "[::1]"].contains(&&*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(
        method: &Method,
        headers: &[(&'static str, &str)],
        addr: &str,
    ) -> Result<(), Refusal> {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        check(method, &headers.collect(), addr.parse().unwrap())
    }

    const LOOPBACK: &str = "127.0.0.1:15000";

    #[test]
    fn names_of_this_machine_are_served() {
        for host in ["localhost", "LOCALHOST:15000", "127.0.0.1:15000", "[::1]:15000", ""] {
            assert_eq!(checked(&Method::GET, &[("host", host)], LOOPBACK), Ok(()), "{host}");
        }
        assert_eq!(checked(&Method::GET, &[], LOOPBACK), Ok(()));
    }

    #[test]
    fn a_name_that_was_rebound_to_this_machine_is_not() {
        for host in ["evil.example", "localhost.evil.example:15000", "127.0.0.1.nip.io", "a b"] {
            let refused = Err(Refusal::Host);
            assert_eq!(checked(&Method::GET, &[("host", host)], LOOPBACK), refused, "{host}");
        }
    }

    #[test]
    fn any_name_is_served_where_the_port_is_not_on_loopback() {
        let addr = "10.0.0.5:15000";
        assert_eq!(checked(&Method::GET, &[("host", "gateway.infra")], addr), Ok(()));
    }

    #[test]
    fn a_page_of_another_site_turns_no_knob() {
        let host = ("host", "localhost:15000");
        let refused = Err(Refusal::Origin);
        for addr in [LOOPBACK, "10.0.0.5:15000"] {
            let other = [host, ("origin", "https://evil.example")];
            assert_eq!(checked(&Method::POST, &other, addr), refused);
            assert_eq!(checked(&Method::POST, &[host, ("origin", "null")], addr), refused);
            assert_eq!(
                checked(&Method::POST, &[host, ("sec-fetch-site", "cross-site")], addr),
                refused
            );
            let own = [host, ("origin", "http://localhost:15000")];
            assert_eq!(checked(&Method::POST, &own, addr), Ok(()));
        }
    }
}
