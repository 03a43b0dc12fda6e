//! Header values with Envoy's `%OPERATOR%`s, filled in from one exchange.

use std::{fmt::Write, net::SocketAddr, sync::LazyLock, time::SystemTime};

use http::HeaderValue;
use weir_config::model::route::{HeaderTemplate, Operator, TemplatePart};

use crate::{
    head::{Headers, RequestHeader, ResponseHeader},
    telemetry::StreamInfo,
};

/// What operators read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub request: &'a RequestHeader,
    /// `None` while the request is on its way.
    pub response: Option<&'a Headers>,
    pub info: &'a StreamInfo,
}

impl<'a> Source<'a> {
    #[must_use]
    pub fn of_request(request: &'a RequestHeader, info: &'a StreamInfo) -> Self {
        Self { request, response: None, info }
    }

    #[must_use]
    pub fn of_response(
        request: &'a RequestHeader,
        response: &'a ResponseHeader,
        info: &'a StreamInfo,
    ) -> Self {
        Self { request, response: Some(&response.headers), info }
    }
}

/// The value, or `None` where it comes out empty: an empty field is not sent. What an operator does
/// not know is empty too.
#[must_use]
pub fn evaluate(template: &HeaderTemplate, source: Source<'_>) -> Option<HeaderValue> {
    match template {
        HeaderTemplate::Literal(value) => (!value.is_empty()).then(|| value.clone()),
        HeaderTemplate::Format(parts) => {
            let mut text = Vec::new();
            for part in &**parts {
                match part {
                    TemplatePart::Literal(literal) => text.extend_from_slice(literal.as_bytes()),
                    TemplatePart::Operator(operator) => append(&mut text, operator, source),
                }
            }
            // Operators read header values and our own facts: nothing a value may not hold.
            HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok().filter(|v| !v.is_empty())
        }
    }
}

fn append(text: &mut Vec<u8>, operator: &Operator, source: Source<'_>) {
    let Source { request, response, info } = source;
    let connection = &*info.connection;
    match operator {
        Operator::DownstreamRemoteAddress => push_address(text, info.client_addr),
        Operator::DownstreamRemoteAddressWithoutPort => {
            push(text, info.client_addr.ip().to_canonical())
        }
        Operator::DownstreamLocalAddress => push_address(text, connection.local_addr),
        Operator::DownstreamLocalAddressWithoutPort => push(text, connection.local_addr.ip()),
        Operator::DownstreamLocalPort => push(text, connection.local_addr.port()),
        Operator::Protocol => push(text, info.protocol.as_str()),
        Operator::Hostname => push(text, &*HOSTNAME),
        Operator::RequestedServerName => push(text, connection.server_name().unwrap_or_default()),
        Operator::UpstreamHost => {
            if let Some(addr) = info.upstream.remote_addr {
                push_address(text, addr);
            }
        }
        Operator::UpstreamCluster => {
            push(text, info.upstream.cluster_name.as_deref().unwrap_or_default())
        }
        Operator::RouteName => push(text, info.route_name.as_deref().unwrap_or_default()),
        Operator::ResponseCode => push(text, info.status),
        Operator::StartTime => push(text, Timestamp(info.started_at)),
        Operator::DownstreamPeerUriSan => {
            if let Some(peer) = connection.peer_identity() {
                push(text, peer.uri_sans.join(","));
            }
        }
        Operator::DownstreamPeerSubject => {
            push(text, connection.peer_identity().map_or("", |peer| &*peer.subject));
        }
        Operator::Request { name, alternative, max } => {
            let value = request_field(request, name)
                .or_else(|| request_field(request, alternative.as_deref()?));
            push_cut(text, value.unwrap_or_default(), *max);
        }
        Operator::Response { name, alternative, max } => {
            let field = |name: &str| response.and_then(|h| h.get(name)).map(HeaderValue::as_bytes);
            let value = field(name).or_else(|| field(alternative.as_deref()?));
            push_cut(text, value.unwrap_or_default(), *max);
        }
    }
}

/// A field or a pseudo-header of the request.
fn request_field<'a>(request: &'a RequestHeader, name: &str) -> Option<&'a [u8]> {
    match name {
        ":method" => Some(request.method.as_str().as_bytes()),
        ":path" => request.uri.path_and_query().map(|path| path.as_str().as_bytes()),
        ":authority" => request.headers.get(http::header::HOST).map(HeaderValue::as_bytes),
        ":scheme" => request.headers.get("x-forwarded-proto").map(HeaderValue::as_bytes),
        name => request.headers.get(name).map(HeaderValue::as_bytes),
    }
}

fn push(text: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing to memory cannot fail.
    let _ = std::io::Write::write_fmt(text, format_args!("{value}"));
}

fn push_address(text: &mut Vec<u8>, addr: SocketAddr) {
    push(text, SocketAddr::new(addr.ip().to_canonical(), addr.port()));
}

fn push_cut(text: &mut Vec<u8>, value: &[u8], max: Option<usize>) {
    text.extend_from_slice(&value[..value.len().min(max.unwrap_or(usize::MAX))]);
}

static HOSTNAME: LazyLock<String> = LazyLock::new(|| {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
});

/// `2026-01-31T23:59:59.999Z`, as the access log prints `%START_TIME%`.
struct Timestamp(SystemTime);

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since_epoch = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
        // Days to a date, with years that begin in March (Howard Hinnant, "chrono-compatible
        // low-level date algorithms").
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}T")?;
        write!(f, "{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)?;
        f.write_char('.')?;
        write!(f, "{:03}Z", since_epoch.subsec_millis())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::filter::test_support::{info_of, request, tls_connection};

    fn one(operator: Operator) -> HeaderTemplate {
        HeaderTemplate::Format(Arc::from([
            TemplatePart::Literal("<".into()),
            TemplatePart::Operator(operator),
            TemplatePart::Literal(">".into()),
        ]))
    }

    #[test]
    fn every_operator_reads_its_fact() {
        let mut info =
            info_of(tls_connection("[::ffff:192.0.2.7]:4711", Some("spiffe://td/ns/n/sa/s")));
        info.started_at = SystemTime::UNIX_EPOCH + Duration::from_millis(951_782_400_007);
        info.status = 203;
        info.route_name = Some("canary".into());
        info.upstream.cluster_name = Some("outbound|80||web".into());
        info.upstream.remote_addr = Some("10.1.1.1:80".parse().unwrap());
        let mut request = request("POST", "www.example.com", "/a?b=c");
        request.headers.try_insert("user-agent", "curl/8").unwrap();
        let mut response = ResponseHeader::new(http::StatusCode::NON_AUTHORITATIVE_INFORMATION);
        response.headers.try_insert("x-backend", "b1").unwrap();
        let source = Source::of_response(&request, &response, &info);
        let read = |name: &str, alternative: Option<&str>, max| Operator::Request {
            name: name.into(),
            alternative: alternative.map(Into::into),
            max,
        };
        for (operator, expected) in [
            (Operator::DownstreamRemoteAddress, "<192.0.2.7:4711>"),
            (Operator::DownstreamRemoteAddressWithoutPort, "<192.0.2.7>"),
            (Operator::DownstreamLocalAddress, "<10.0.0.1:8080>"),
            (Operator::DownstreamLocalAddressWithoutPort, "<10.0.0.1>"),
            (Operator::DownstreamLocalPort, "<8080>"),
            (Operator::Protocol, "<HTTP/1.1>"),
            (Operator::RequestedServerName, "<www.example.com>"),
            (Operator::UpstreamHost, "<10.1.1.1:80>"),
            (Operator::UpstreamCluster, "<outbound|80||web>"),
            (Operator::RouteName, "<canary>"),
            (Operator::ResponseCode, "<203>"),
            (Operator::StartTime, "<2000-02-29T00:00:00.007Z>"),
            (Operator::DownstreamPeerUriSan, "<spiffe://td/ns/n/sa/s>"),
            (Operator::DownstreamPeerSubject, "<CN=client>"),
            (read("user-agent", None, None), "<curl/8>"),
            (read("user-agent", None, Some(4)), "<curl>"),
            (read("x-none", Some(":path"), None), "</a?b=c>"),
            (read(":method", None, None), "<POST>"),
            (read(":authority", None, None), "<www.example.com>"),
            (read("x-none", None, None), "<>"),
            (
                Operator::Response {
                    name: "x-none".into(),
                    alternative: Some("x-backend".into()),
                    max: None,
                },
                "<b1>",
            ),
        ] {
            let value = evaluate(&one(operator.clone()), source).unwrap();
            assert_eq!(value, expected, "{operator:?}");
        }
    }

    #[test]
    fn what_comes_out_empty_is_no_value() {
        let (info, request) = (crate::filter::test_support::info(), request("GET", "a", "/"));
        let source = Source::of_request(&request, &info);
        let unknown =
            HeaderTemplate::Format(Arc::from([TemplatePart::Operator(Operator::UpstreamHost)]));
        assert_eq!(evaluate(&unknown, source), None);
        assert_eq!(evaluate(&HeaderTemplate::Literal(HeaderValue::from_static("")), source), None);
    }
}
