//! The words of a format string: what is written between two `%`.

use http::HeaderName;

use crate::telemetry::access_log::{
    operator::{AddressPart, Field, GrpcStatusForm, Operator},
    time::TimeFormat,
};

/// `NAME`, `NAME(argument)` or `NAME(argument):limit`, up to the `%` that ends it.
pub(super) struct Command<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    pub(super) limit: Option<usize>,
    /// What follows it.
    pub(super) rest: &'a str,
}

impl<'a> Command<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let end = text.find(|c| !is_name(c)).filter(|end| *end > 0)?;
        let (name, after) = text.split_at(end);
        if let Some(rest) = after.strip_prefix('%') {
            return Some(Self { name, argument: None, limit: None, rest });
        }
        let after = after.strip_prefix('(')?;
        // An argument may hold `%` and `)` (START_TIME's does): the one that counts ends it all.
        after.match_indices(')').find_map(|(end, _)| {
            let tail = &after[end + 1..];
            let (limit, rest) = match tail.strip_prefix(':') {
                Some(tail) => {
                    let (digits, rest) = tail.split_once('%')?;
                    (Some(digits.parse().ok()?), rest)
                }
                None => (None, tail.strip_prefix('%')?),
            };
            Some(Self { name, argument: Some(&after[..end]), limit, rest })
        })
    }

    /// # Errors
    /// Why the operator cannot print anything.
    pub(super) fn operator(&self) -> Result<Operator, String> {
        use AddressPart::{All, Port, WithoutPort};
        Ok(match self.name {
            "START_TIME" => Operator::StartTime(
                self.argument.filter(|format| !format.is_empty()).map(TimeFormat::compile),
            ),
            "REQ" => {
                let (field, alternative) = self.fields()?;
                Operator::Request(field, alternative)
            }
            "REQ_WITHOUT_QUERY" => {
                let (field, alternative) = self.fields()?;
                Operator::RequestWithoutQuery(field, alternative)
            }
            "RESP" => {
                let (name, alternative) = self.names()?;
                let header = |name| self.header(name);
                Operator::Response(header(name)?, alternative.map(header).transpose()?)
            }
            "PROTOCOL" => Operator::Protocol,
            "RESPONSE_CODE" => Operator::ResponseCode,
            "RESPONSE_FLAGS" => Operator::ResponseFlags,
            "RESPONSE_CODE_DETAILS" => Operator::ResponseCodeDetails,
            "CONNECTION_TERMINATION_DETAILS" => Operator::ConnectionTerminationDetails,
            "BYTES_RECEIVED" => Operator::BytesReceived,
            "BYTES_SENT" => Operator::BytesSent,
            "DURATION" => Operator::Duration,
            "RESPONSE_DURATION" => Operator::ResponseDuration,
            "RESPONSE_TX_DURATION" => Operator::ResponseTxDuration,
            "GRPC_STATUS" => Operator::GrpcStatus(match self.argument {
                None | Some("" | "CAMEL_STRING") => GrpcStatusForm::CamelCase,
                Some("SNAKE_STRING") => GrpcStatusForm::SnakeCase,
                Some("NUMBER") => GrpcStatusForm::Number,
                Some(other) => return Err(format!("GRPC_STATUS has no form `{other}`")),
            }),
            "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(GrpcStatusForm::Number),
            "ROUTE_NAME" => Operator::RouteName,
            "REQUESTED_SERVER_NAME" => Operator::RequestedServerName,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::UpstreamFailure,
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::UpstreamCluster,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::UpstreamAttempts,
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Operator::UpstreamRemote(All),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::UpstreamRemote(WithoutPort),
            "UPSTREAM_REMOTE_PORT" => Operator::UpstreamRemote(Port),
            "UPSTREAM_LOCAL_ADDRESS" => Operator::UpstreamLocal(All),
            "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::UpstreamLocal(WithoutPort),
            "UPSTREAM_LOCAL_PORT" => Operator::UpstreamLocal(Port),
            "DOWNSTREAM_REMOTE_ADDRESS" => Operator::DownstreamRemote(All),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::DownstreamRemote(WithoutPort),
            "DOWNSTREAM_REMOTE_PORT" => Operator::DownstreamRemote(Port),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Operator::DownstreamDirectRemote(All),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                Operator::DownstreamDirectRemote(WithoutPort)
            }
            "DOWNSTREAM_DIRECT_REMOTE_PORT" => Operator::DownstreamDirectRemote(Port),
            "DOWNSTREAM_LOCAL_ADDRESS" => Operator::DownstreamLocal(All),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::DownstreamLocal(WithoutPort),
            "DOWNSTREAM_LOCAL_PORT" => Operator::DownstreamLocal(Port),
            "DOWNSTREAM_TLS_VERSION" => Operator::TlsVersion,
            "DOWNSTREAM_TLS_CIPHER" => Operator::TlsCipher,
            "DOWNSTREAM_PEER_URI_SAN" => Operator::PeerUriSans,
            "DOWNSTREAM_PEER_DNS_SAN" => Operator::PeerDnsSans,
            "DOWNSTREAM_PEER_SUBJECT" => Operator::PeerSubject,
            "DOWNSTREAM_PEER_FINGERPRINT_256" => Operator::PeerFingerprint,
            "HOSTNAME" => Operator::Constant(hostname().map(Into::into)),
            "ENVIRONMENT" => {
                let name = self.argument.ok_or("ENVIRONMENT needs a variable's name")?;
                Operator::Constant(std::env::var(name).ok().map(Into::into))
            }
            other => return Err(format!("operator `{other}` is not supported and prints nothing")),
        })
    }

    fn names(&self) -> Result<(&'a str, Option<&'a str>), String> {
        let argument = self.argument.ok_or_else(|| format!("{} needs a header", self.name))?;
        Ok(match argument.split_once('?') {
            Some((name, alternative)) => (name, Some(alternative)),
            None => (argument, None),
        })
    }

    fn fields(&self) -> Result<(Field, Option<Field>), String> {
        let (name, alternative) = self.names()?;
        Ok((self.field(name)?, alternative.map(|name| self.field(name)).transpose()?))
    }

    fn field(&self, name: &str) -> Result<Field, String> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":method" => Field::Method,
            ":path" => Field::Path,
            ":authority" | "host" => Field::Authority,
            ":scheme" => Field::Scheme,
            name => Field::Header(self.header(name)?),
        })
    }

    fn header(&self, name: &str) -> Result<HeaderName, String> {
        name.parse().map_err(|error| format!("{}({name}): {error}", self.name))
    }
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}
