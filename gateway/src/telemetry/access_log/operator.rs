//! Envoy's access log operators: what of an exchange a `%NAME%` stands for.

use std::{borrow::Cow, net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, header};

use super::time::TimeFormat;
use crate::{
    connection::{PeerIdentity, TlsInfo},
    head::{Headers, RequestHeader, ResponseHeader},
    telemetry::{ResponseFlags, StreamInfo},
};

/// One finished exchange, as the operators see it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub info: &'a StreamInfo,
    pub duration: Duration,
    /// As it was sent upstream. `None`: a TCP connection, or a request that could not be read.
    pub request: Option<&'a RequestHeader>,
    /// As it was sent downstream.
    pub response: Option<&'a ResponseHeader>,
}

/// What an operator yields. Text is escaped where it is printed, whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    Absent,
    Number(u64),
    Text(Cow<'a, [u8]>),
    Address(SocketAddr),
    Ip(IpAddr),
    Flags(ResponseFlags),
    /// When the exchange began.
    StartTime(&'a Option<TimeFormat>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// `None`: ISO 8601 with milliseconds.
    StartTime(Option<TimeFormat>),
    Request(Field, Option<Field>),
    /// The field without what follows its `?`.
    RequestWithoutQuery(Field, Option<Field>),
    Response(HeaderName, Option<HeaderName>),
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    BytesReceived,
    BytesSent,
    Duration,
    /// Until the upstream's response began, and from there to its end.
    ResponseDuration,
    ResponseTxDuration,
    GrpcStatus(GrpcStatusForm),
    RouteName,
    RequestedServerName,
    UpstreamFailure,
    UpstreamCluster,
    UpstreamAttempts,
    UpstreamRemote(AddressPart),
    UpstreamLocal(AddressPart),
    DownstreamRemote(AddressPart),
    DownstreamDirectRemote(AddressPart),
    DownstreamLocal(AddressPart),
    TlsVersion,
    TlsCipher,
    PeerUriSans,
    PeerDnsSans,
    PeerSubject,
    PeerFingerprint,
    /// Known when the format is compiled: the host's name, an environment variable.
    Constant(Option<Arc<str>>),
}

/// A field of the request, pseudo-headers included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    Method,
    Path,
    Authority,
    Scheme,
    Header(HeaderName),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPart {
    All,
    WithoutPort,
    Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcStatusForm {
    CamelCase,
    SnakeCase,
    Number,
}

impl Operator {
    #[must_use]
    pub fn value<'a>(&'a self, entry: &Entry<'a>) -> Value<'a> {
        let Entry { info, duration, request, response } = *entry;
        let connection = &info.connection;
        let upstream = &info.upstream;
        match self {
            Self::StartTime(format) => Value::StartTime(format),
            Self::Request(field, alternative) => field_or(request, info, field, alternative),
            Self::RequestWithoutQuery(field, alternative) => {
                match field_or(request, info, field, alternative) {
                    Value::Text(text) => Value::Text(without_query(text)),
                    other => other,
                }
            }
            Self::Response(name, alternative) => match response {
                Some(response) => header_or(&response.headers, name, alternative.as_ref()),
                None => Value::Absent,
            },
            Self::Protocol => text(info.protocol.as_str()),
            Self::ResponseCode => Value::Number(info.status.into()),
            Self::ResponseFlags => Value::Flags(info.flags),
            Self::ResponseCodeDetails => text(&info.details),
            Self::ConnectionTerminationDetails => text(&info.termination_details),
            Self::BytesReceived => Value::Number(info.bytes_received),
            Self::BytesSent => Value::Number(info.bytes_sent),
            Self::Duration => milliseconds(duration),
            Self::ResponseDuration => upstream.responded_after.map_or(Value::Absent, milliseconds),
            Self::ResponseTxDuration => upstream
                .responded_after
                .map_or(Value::Absent, |after| milliseconds(duration.saturating_sub(after))),
            Self::GrpcStatus(form) => info.grpc_status.map_or(Value::Absent, |it| form.of(it)),
            Self::RouteName => optional(info.route_name.as_deref()),
            Self::RequestedServerName => optional(connection.server_name()),
            Self::UpstreamFailure => optional(upstream.failure.as_deref()),
            Self::UpstreamCluster => optional(upstream.cluster_name.as_deref()),
            Self::UpstreamAttempts => Value::Number(upstream.attempts.into()),
            Self::UpstreamRemote(part) => part.of(upstream.remote_addr),
            Self::UpstreamLocal(part) => part.of(upstream.local_addr),
            Self::DownstreamRemote(part) => part.of(Some(info.client_addr)),
            Self::DownstreamDirectRemote(part) => part.of(Some(connection.peer_addr)),
            Self::DownstreamLocal(part) => part.of(Some(connection.local_addr)),
            Self::TlsVersion => optional(tls(info).map(|tls| tls.version)),
            Self::TlsCipher => optional(tls(info).map(|tls| tls.cipher_suite)),
            Self::PeerUriSans => joined(peer(info).map(|peer| &*peer.uri_sans)),
            Self::PeerDnsSans => joined(peer(info).map(|peer| &*peer.dns_sans)),
            Self::PeerSubject => optional(peer(info).map(|peer| &*peer.subject)),
            Self::PeerFingerprint => optional(peer(info).map(|peer| &*peer.fingerprint)),
            Self::Constant(value) => optional(value.as_deref()),
        }
    }
}

impl AddressPart {
    fn of(self, addr: Option<SocketAddr>) -> Value<'static> {
        let Some(addr) = addr else { return Value::Absent };
        match self {
            Self::All => Value::Address(addr),
            Self::WithoutPort => Value::Ip(addr.ip()),
            Self::Port => Value::Number(addr.port().into()),
        }
    }
}

impl GrpcStatusForm {
    fn of(self, status: u8) -> Value<'static> {
        /// <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>
        const NAMES: [(&str, &str); 17] = [
            ("OK", "OK"),
            ("Canceled", "CANCELLED"),
            ("Unknown", "UNKNOWN"),
            ("InvalidArgument", "INVALID_ARGUMENT"),
            ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
            ("NotFound", "NOT_FOUND"),
            ("AlreadyExists", "ALREADY_EXISTS"),
            ("PermissionDenied", "PERMISSION_DENIED"),
            ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
            ("FailedPrecondition", "FAILED_PRECONDITION"),
            ("Aborted", "ABORTED"),
            ("OutOfRange", "OUT_OF_RANGE"),
            ("Unimplemented", "UNIMPLEMENTED"),
            ("Internal", "INTERNAL"),
            ("Unavailable", "UNAVAILABLE"),
            ("DataLoss", "DATA_LOSS"),
            ("Unauthenticated", "UNAUTHENTICATED"),
        ];
        match (self, NAMES.get(usize::from(status))) {
            (Self::CamelCase, Some((camel, _))) => text(camel),
            (Self::SnakeCase, Some((_, snake))) => text(snake),
            // A status no name was given to is printed as the number it is.
            (Self::Number, _) | (_, None) => Value::Number(status.into()),
        }
    }
}

fn field_or<'a>(
    request: Option<&'a RequestHeader>,
    info: &StreamInfo,
    field: &Field,
    alternative: &Option<Field>,
) -> Value<'a> {
    let Some(request) = request else { return Value::Absent };
    match (field_value(request, info, field), alternative) {
        (Value::Absent, Some(alternative)) => field_value(request, info, alternative),
        (value, _) => value,
    }
}

fn field_value<'a>(request: &'a RequestHeader, info: &StreamInfo, field: &Field) -> Value<'a> {
    match field {
        Field::Method => text(request.method.as_str()),
        Field::Path => text(request.target()),
        Field::Authority => match header_or(&request.headers, &header::HOST, None) {
            Value::Absent => optional(request.uri.authority().map(|authority| authority.as_str())),
            host => host,
        },
        Field::Scheme => text(info.connection.scheme()),
        Field::Header(name) => header_or(&request.headers, name, None),
    }
}

/// The values of a header, with commas between (RFC 9110, section 5.3).
fn header_or<'a>(
    headers: &'a Headers,
    name: &HeaderName,
    alternative: Option<&HeaderName>,
) -> Value<'a> {
    let mut values = headers.get_all(name);
    let Some(first) = values.next() else {
        return alternative.map_or(Value::Absent, |name| header_or(headers, name, None));
    };
    let mut all = Cow::Borrowed(first.as_bytes());
    for value in values {
        all.to_mut().push(b',');
        all.to_mut().extend_from_slice(value.as_bytes());
    }
    bytes_or_absent(all)
}

fn without_query(value: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match (value.iter().position(|byte| *byte == b'?'), value) {
        (Some(end), Cow::Borrowed(value)) => Cow::Borrowed(&value[..end]),
        (Some(end), Cow::Owned(mut value)) => {
            value.truncate(end);
            Cow::Owned(value)
        }
        (None, value) => value,
    }
}

fn tls(info: &StreamInfo) -> Option<&TlsInfo> {
    info.connection.tls.as_deref()
}

fn peer(info: &StreamInfo) -> Option<&PeerIdentity> {
    info.connection.peer_identity()
}

fn joined(names: Option<&[Arc<str>]>) -> Value<'_> {
    match names {
        None | Some([]) => Value::Absent,
        Some([name]) => text(name),
        Some(names) => Value::Text(Cow::Owned(names.join(",").into_bytes())),
    }
}

fn milliseconds(duration: Duration) -> Value<'static> {
    Value::Number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn optional(value: Option<&str>) -> Value<'_> {
    value.map_or(Value::Absent, text)
}

fn text(value: &str) -> Value<'_> {
    bytes(value.as_bytes())
}

fn bytes(value: &[u8]) -> Value<'_> {
    bytes_or_absent(Cow::Borrowed(value))
}

fn bytes_or_absent(value: Cow<'_, [u8]>) -> Value<'_> {
    if value.is_empty() { Value::Absent } else { Value::Text(value) }
}
