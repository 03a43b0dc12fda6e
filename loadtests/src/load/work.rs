//! What a load sends and what has to come back, made ready before the clock runs.

use std::{rc::Rc, sync::Arc};

use anyhow::Context as _;
use bytes::Bytes;
use rustls_pki_types::ServerName;

use super::target::{Place, Target};
use crate::{
    certs::{Credentials, SERVER_NAME},
    grpc,
    lan::SERVICE,
    pattern,
    scenario::{Case, Listener, Load, Protocol},
};

/// Everything a worker needs to know.
#[derive(Debug)]
pub struct Work {
    pub load: Load,
    pub target: Target,
    pub requests: Vec<Request>,
    /// The body of each request.
    pub body: Bytes,
}

/// One request that may be sent.
#[derive(Debug, Clone)]
pub struct Request {
    pub host: String,
    pub path: String,
    pub token: Option<String>,
    /// The route that has to be taken.
    pub route: Option<usize>,
    /// The head as it stands on the wire in HTTP/1.1.
    pub head: Bytes,
}

impl Work {
    /// For a case, to where a proxy (or the origin) listens.
    pub fn new(
        case: &Case,
        credentials: &Credentials,
        to: impl Into<Place>,
    ) -> anyhow::Result<Rc<Self>> {
        let tls = case.tls().then(|| tls(case, credentials)).transpose()?;
        let body = match case.load.protocol {
            Protocol::GrpcUnary | Protocol::GrpcServerStream | Protocol::GrpcBidi => {
                grpc::message(case.load.request_bytes).into()
            }
            Protocol::Websocket | Protocol::Tcp => {
                Bytes::from_static(pattern::at(0, case.load.request_bytes))
            }
            // Too large to keep; sent piece by piece.
            Protocol::Http1 | Protocol::Http2 => Bytes::new(),
        };
        Ok(Rc::new(Self {
            load: case.load.clone(),
            target: Target::new(to.into(), tls),
            requests: requests(case, credentials)?,
            body,
        }))
    }

    /// Any of the requests.
    pub fn pick(&self, random: &mut fastrand::Rng) -> &Request {
        match &self.requests[..] {
            [only] => only,
            requests => &requests[random.usize(..requests.len())],
        }
    }
}

/// For single questions to a port without TLS.
pub fn plain(to: impl Into<Place>) -> Work {
    Work {
        load: Load::default(),
        target: Target::new(to.into(), None),
        requests: Vec::new(),
        body: Bytes::new(),
    }
}

type Tls = (Arc<rustls::ClientConfig>, ServerName<'static>);

fn tls(case: &Case, credentials: &Credentials) -> anyhow::Result<Tls> {
    let http2 = !matches!(case.load.protocol, Protocol::Http1 | Protocol::Websocket);
    let alpn = match case.load.protocol {
        Protocol::Tcp => &[][..],
        _ if http2 && case.proxy.listener == Listener::Https => &["h2"],
        _ => &["http/1.1"],
    };
    let config = credentials.client_config(case, alpn)?;
    Ok((Arc::new(config), ServerName::try_from(SERVER_NAME).context("a server name")?))
}

fn requests(case: &Case, credentials: &Credentials) -> anyhow::Result<Vec<Request>> {
    let tokens = case.proxy.jwt.map(|jwt| credentials.tokens(jwt, case.load.tokens)).transpose()?;
    let tokens = tokens.unwrap_or_default();
    let count = case.proxy.routes.max(case.proxy.hosts).max(tokens.len()).max(1);
    let routed = case.proxy.routes > 0 || case.proxy.hosts > 0;
    Ok((0..count)
        .map(|n| {
            let host = match case.proxy.hosts {
                0 if case.proxy.listener == Listener::Sidecar => SERVICE.to_owned(),
                0 => SERVER_NAME.to_owned(),
                _ => format!("h{n}.example.test"),
            };
            let path = match case.proxy.routes {
                0 => "/service/resource?id=42".to_owned(),
                _ => format!("/r/{n}"),
            };
            let token = tokens.get(n).cloned();
            let head = head(&case.load, &host, &path, token.as_deref());
            Request { host, path, token, route: routed.then_some(n), head }
        })
        .collect())
}

/// About what a program sends: host, agent, what it accepts.
fn head(load: &Load, host: &str, path: &str, token: Option<&str>) -> Bytes {
    let method = if load.request_bytes > 0 { "POST" } else { "GET" };
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: weir-loadtests\r\naccept: */*\r\n"
    );
    if let Some(token) = token {
        head.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    match load.protocol {
        Protocol::Websocket => head.push_str(
            "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
        _ if load.request_bytes > 0 => {
            head.push_str(&format!("content-length: {}\r\n", load.request_bytes));
        }
        _ => {}
    }
    head.push_str("\r\n");
    // A WebSocket connection starts with a GET, whatever is sent on it.
    match load.protocol {
        Protocol::Websocket => head.replacen("POST", "GET", 1).into(),
        _ => head.into(),
    }
}

/// The values the proxies write into `x-route`: which route, and in which version of it.
pub fn route_value(route: usize, generation: u64) -> String {
    format!("v{route}-{generation}")
}

/// The generation in a value, if it is the route's.
pub fn generation(route: usize, value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?.strip_prefix('v')?;
    let (number, generation) = value.split_once('-')?;
    (number.parse() == Ok(route)).then(|| generation.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_value_tells_the_route_and_its_generation() {
        assert_eq!(generation(12, route_value(12, 3).as_bytes()), Some(3));
        assert_eq!(generation(1, route_value(12, 3).as_bytes()), None);
        assert_eq!(generation(1, b"v1"), None);
    }
}
