//! Stage 10: what a route does with a request: forward it, rewritten, to one of its clusters, or answer.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode, header};
use smallvec::SmallVec;
use weir_config::model::{
    self, ClusterName,
    route::{
        DirectResponse, Forward, PathMatch, Redirect, RedirectPath, RedirectPort, RouteAction,
        Scheme, WeightedCluster,
    },
};

use super::{Route, matcher::Subject, rewrite};
use crate::{
    canonical::{authority, path},
    filter::{RequestContext, RouteFilters, header_mutation},
    head::RequestHeader,
    local_reply::LocalReply,
    telemetry::{ResponseFlag, StreamInfo},
};

const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Where a request goes, and under which conditions. Retries go to the same cluster.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    pub forward: &'a Forward,
    pub cluster: &'a WeightedCluster,
}

impl Route {
    pub(super) fn new(config: std::sync::Arc<model::Route>) -> Self {
        let total_weight = match &config.action {
            RouteAction::Forward(forward) => {
                forward.clusters.iter().map(|cluster| u64::from(cluster.weight)).sum()
            }
            RouteAction::Redirect(_) | RouteAction::DirectResponse(_) => 0,
        };
        Self { filters: RouteFilters::new(&config), config, total_weight }
    }

    /// Makes `request` what the upstream gets, and chooses its cluster.
    ///
    /// # Errors
    /// The redirect or direct response the route consists in.
    pub fn forward(
        &self,
        request: &mut RequestHeader,
        context: &RequestContext,
        info: &mut StreamInfo,
        rng: &mut fastrand::Rng,
    ) -> Result<Destination<'_>, LocalReply> {
        let forward = match &self.config.action {
            RouteAction::Forward(forward) => forward,
            RouteAction::Redirect(redirect) => {
                let subject = Subject { request, context };
                let path = &self.config.matcher.path;
                let reply = redirect_reply(redirect, path, subject, info.connection.port);
                return Err(self.answer(reply, request, info));
            }
            RouteAction::DirectResponse(DirectResponse { status, body, stands_for: _ }) => {
                let reply = own_reply(*status, body.clone());
                return Err(self.answer(reply, request, info));
            }
        };
        let cluster = self.choose(forward, rng);
        info.upstream.cluster_name = Some(cluster.cluster.shared());
        // The mutations see the request as it came; then it is rewritten (Envoy's order).
        for mutation in [&self.config.request_headers, &cluster.request_headers] {
            header_mutation::apply_to_request(mutation, request, info);
        }
        if let Some(host) = forward.host_rewrite.as_ref().or(cluster.host_rewrite.as_ref()) {
            rewrite_host(host, request, context);
        }
        self.rewrite_path(forward, request)?;
        Ok(Destination { forward, cluster })
    }

    /// The cluster that was asked for, whoever answers in its place: where only one can have been.
    #[must_use]
    pub fn only_cluster(&self) -> Option<&ClusterName> {
        match &self.config.action {
            RouteAction::Forward(forward) => match &*forward.clusters {
                [only] => Some(&only.cluster),
                _ => None,
            },
            RouteAction::DirectResponse(response) => response.stands_for.as_ref(),
            RouteAction::Redirect(_) => None,
        }
    }

    fn choose<'a>(&self, forward: &'a Forward, rng: &mut fastrand::Rng) -> &'a WeightedCluster {
        let (last, others) = forward.clusters.split_last().expect("a forward has a cluster");
        if others.is_empty() || self.total_weight == 0 {
            return last;
        }
        let mut left = rng.u64(0..self.total_weight);
        for cluster in others {
            match left.checked_sub(u64::from(cluster.weight)) {
                Some(rest) => left = rest,
                None => return cluster,
            }
        }
        last
    }

    fn rewrite_path(
        &self,
        forward: &Forward,
        request: &mut RequestHeader,
    ) -> Result<(), LocalReply> {
        let Some(rewrite) = &forward.path_rewrite else { return Ok(()) };
        let before = request.uri.path();
        let rewritten = rewrite::path(rewrite, &self.config.matcher.path, before);
        if rewritten == before {
            return Ok(());
        }
        // Prefix `/a` and rewrite `/` make `/../b` of `/a../b`: not a path the client could have sent.
        let uri = match rewritten {
            rewritten if path::has_dot_segment(&rewritten) => None,
            rewritten => path::replace(&request.uri, rewritten.into_owned()),
        };
        let Some(uri) = uri else {
            let flag = ResponseFlag::DownstreamProtocolError;
            return Err(LocalReply::new(
                StatusCode::BAD_REQUEST,
                flag,
                "rewritten_path_invalid",
                "",
            ));
        };
        let original = request.uri.path_and_query().map(http::uri::PathAndQuery::as_str);
        // A URI is a valid value.
        if let Ok(original) = HeaderValue::from_str(original.unwrap_or_default()) {
            request.headers.insert(X_ENVOY_ORIGINAL_PATH, original);
        }
        request.uri = uri;
        Ok(())
    }

    /// The route's own answer, with the mutations of its responses.
    fn answer(
        &self,
        mut reply: LocalReply,
        request: &RequestHeader,
        info: &StreamInfo,
    ) -> LocalReply {
        header_mutation::apply_to_reply(&self.config.response_headers, request, &mut reply, info);
        reply
    }
}

/// 301 to the same place with https (`httpsRedirect`).
pub(super) fn redirect_to_https(subject: Subject<'_>) -> LocalReply {
    let sent = subject.authority();
    // The port belonged to the other scheme, or is this one's default.
    let host = match authority::port(sent) {
        Some(80 | 443) => authority::without_port(sent),
        _ => sent,
    };
    let path = subject.request.uri.path_and_query().map_or("/", |path| path.as_str());
    location_reply(StatusCode::MOVED_PERMANENTLY, format!("https://{host}{path}"))
}

/// As Envoy's `newUri`, and without a port that is the scheme's default.
fn redirect_reply(
    redirect: &Redirect,
    matcher: &PathMatch,
    subject: Subject<'_>,
    port: u16,
) -> LocalReply {
    let Redirect { path, authority, scheme: to_scheme, port: to_port, code } = redirect;
    let from = subject.context.scheme;
    let scheme = to_scheme.unwrap_or(from);
    let port = match to_port {
        None => None,
        Some(RedirectPort::Number(number)) => Some(*number),
        Some(RedirectPort::FromProtocolDefault) => Some(default_port(scheme)),
        Some(RedirectPort::FromRequestPort) => Some(port),
    };
    let host = match authority {
        Some(authority) => authority,
        None => request_host(subject.authority(), from, scheme, port.is_some()),
    };
    let uri = &subject.request.uri;
    let to_path = match path {
        None => Cow::Borrowed(uri.path()),
        Some(RedirectPath::Full(full)) => Cow::Borrowed(&**full),
        Some(RedirectPath::Prefix(replacement)) => {
            Cow::Owned(rewrite::prefix(replacement, matcher, uri.path()))
        }
    };
    let mut location = format!("{}://{host}", scheme.as_str());
    if let Some(port) = port.filter(|port| *port != default_port(scheme)) {
        location.push(':');
        location.push_str(itoa::Buffer::new().format(port));
    }
    if !to_path.starts_with('/') {
        location.push('/');
    }
    location.push_str(&to_path);
    // A query the configuration wrote takes the place of the request's.
    if let Some(query) = uri.query().filter(|_| !to_path.contains('?')) {
        location.push('?');
        location.push_str(query);
    }
    location_reply(*code, location)
}

/// The host of the request. Its port goes when another is given, or when it was the default of the
/// scheme that is left.
fn request_host(sent: &str, from: Scheme, to: Scheme, replaced: bool) -> &str {
    let was_default = from != to && authority::port(sent) == Some(default_port(from));
    if replaced || was_default { authority::without_port(sent) } else { sent }
}

fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

fn location_reply(status: StatusCode, location: String) -> LocalReply {
    let reply = own_reply(status, bytes::Bytes::new());
    match HeaderValue::try_from(location) {
        Ok(location) => reply.with_header(header::LOCATION, location),
        // Only a configured part can be no header value; then there is nowhere to go.
        Err(_) => LocalReply { status: StatusCode::INTERNAL_SERVER_ERROR, ..reply },
    }
}

fn own_reply(status: StatusCode, body: bytes::Bytes) -> LocalReply {
    LocalReply {
        status,
        headers: SmallVec::new(),
        body,
        flag: None,
        details: "direct_response".into(),
        close: false,
    }
}

fn rewrite_host(host: &str, request: &mut RequestHeader, context: &RequestContext) {
    let Ok(host) = HeaderValue::from_str(host) else { return };
    let before = request.headers.get(header::HOST).cloned();
    if let (true, Some(before)) = (context.append_forwarded_host, before) {
        request.headers.append(X_FORWARDED_HOST, before);
    }
    request.headers.insert(header::HOST, host);
}
