//! The straight line: every stage of an exchange, in order.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
};

use http::{StatusCode, header};
use tokio::time::{Sleep, timeout};
use weir_config::model::Settings;

use super::{
    Downstream,
    affinity::Affinity,
    caught::{Panicked, caught},
    deadline::{Deadlines, Expired},
    error::{Stop, classify},
    field::{self, GRPC_STATUS, X_ENVOY_UPSTREAM_SERVICE_TIME},
    mirror::{self, Original},
    normalize, peer,
    retry::{self, Answered, Attempts},
    stream::{self, Failure, RequestBody, ResponseBody},
};
use crate::{
    cluster::{Cluster, Outcome},
    codec::{BodyLength, ServerSession, StreamError, get_cached_date},
    filter::RequestContext,
    head::{RequestHeader, ResponseHeader},
    local_reply::LocalReply,
    route::{Destination, Route},
    snapshot::Snapshot,
    telemetry::{ResponseFlag, StreamInfo},
};

/// One exchange: a request, its response, and the record of both.
///
/// `timer`: for the deadlines, armed as they are; what it was armed for before is over.
pub(super) async fn serve(
    downstream: &Downstream,
    session: &mut ServerSession,
    timer: Pin<&mut Sleep>,
) {
    let snapshot = downstream.engine.snapshot();
    let mut info = StreamInfo::start(Arc::clone(&downstream.conn), session.protocol());
    let mut request = session.take_request();
    info.grpc = is_grpc(&request);
    let mut response = None;
    let mut line = Line {
        downstream,
        snapshot: &snapshot,
        request: &mut request,
        response: &mut response,
        context: RequestContext::default(),
        route: None,
    };
    let outcome = {
        let running = pin!(line.run(session, &mut info, timer));
        caught(running).await
    };
    let answered = line.response.is_some();
    match outcome.unwrap_or_else(|Panicked| Err(classify::panicked(answered))) {
        Ok(()) => {}
        Err(Stop::Reply(reply)) => line.reply(session, reply, &mut info).await,
        Err(Stop::Abort { flag, details }) => {
            session.abort();
            info.flags.set(flag);
            info.details = details;
        }
    }
    downstream.engine.telemetry.record_http(&info, Some(&request), response.as_ref());
}

/// What the stages of one exchange share.
struct Line<'a> {
    downstream: &'a Downstream,
    snapshot: &'a Snapshot,
    request: &'a mut RequestHeader,
    /// The head sent to the client, once there is one.
    response: &'a mut Option<ResponseHeader>,
    context: RequestContext,
    /// The route taken, once there is one.
    route: Option<&'a Route>,
}

/// Where the request goes.
struct Chosen<'a> {
    route: &'a Route,
    destination: Destination<'a>,
    cluster: &'a Arc<Cluster>,
}

impl<'a> Line<'a> {
    async fn run(
        &mut self,
        session: &mut ServerSession,
        info: &mut StreamInfo,
        timer: Pin<&mut Sleep>,
    ) -> Result<(), Stop> {
        let snapshot = self.snapshot;
        self.context = normalize::request(&snapshot.settings, self.request, info)?;
        peer::learn(&self.downstream.engine.telemetry, self.request, info);

        let table = snapshot.route_tables.find(&self.downstream.route_table)?;
        let mut route = table.select(self.request, &self.context)?;
        self.take(route, info);
        let filters = snapshot.filters_for(self.downstream.conn.direction);
        filters.authenticate(&route.filters, self.request, &mut self.context, info)?;
        if table.has_claim_matches() {
            // The claims are known only now, and they take part in the choice.
            route = table.select(self.request, &self.context)?;
            self.take(route, info);
        }
        let filtering = filters.on_request(&route.filters, self.request, &mut self.context, info);
        let filtered = self.downstream.cut.unless_passed(filtering).await;
        filtered.unwrap_or_else(|| Err(classify::expired(Expired::Drain)))?;

        let destination =
            route.forward(self.request, &self.context, info, &mut fastrand::Rng::new())?;
        let name = &destination.cluster.cluster;
        let cluster = snapshot.clusters.find(name).ok_or_else(no_cluster)?;
        info.upstream.stats = Some(Arc::clone(cluster.stats()));
        let _permit = cluster.admit()?;

        self.proxy(session, info, timer, Chosen { route, destination, cluster }).await
    }

    fn take(&mut self, route: &'a Route, info: &mut StreamInfo) {
        self.route = Some(route);
        info.route_name = Some(route.config.name.shared());
    }

    /// The stages that talk to the upstream: attempts, the response's head, both bodies.
    async fn proxy(
        &mut self,
        session: &mut ServerSession,
        info: &mut StreamInfo,
        timer: Pin<&mut Sleep>,
        chosen: Chosen<'_>,
    ) -> Result<(), Stop> {
        let Chosen { route, destination, cluster } = chosen;
        let Destination { forward, cluster: target } = destination;
        let limits = &self.downstream.engine.limits;
        let settings = &*self.snapshot.settings;
        let upgrade = session.wants_upgrade().is_some();
        let length = session.request_body_length();
        let keep = if forward.retry.attempts == 0 { 0 } else { limits.max_replay_bytes };
        let mut body = RequestBody::new(length == BodyLength::Empty && !upgrade, keep);
        // A tunnel is not a request that could be made twice.
        if !forward.mirrors.is_empty() && !upgrade {
            let original = Original {
                request: self.request,
                body: length,
                attempt_count: settings.attempt_count,
                limits,
            };
            let clusters = &self.snapshot.clusters;
            let rng = &mut fastrand::Rng::new();
            body = body.copied_to(mirror::start(clusters, forward, original, info, rng));
        }
        let mut answer = ResponseBody::default();
        if info.grpc {
            body.count_messages();
            answer.count_messages();
        }
        let mut deadlines = Deadlines::new(timer, limits.stream_idle_timeout, &self.downstream.cut);
        deadlines.limit_exchange(forward.timeout);
        let affinity = Affinity::of(cluster.config().hash_key.as_ref(), self.request, info);
        let attempts = Attempts {
            cluster,
            hash: affinity.hash,
            policy: &forward.retry,
            request: self.request,
            request_body: length,
            upgrade,
            attempt_count: settings.attempt_count,
            own: &self.downstream.engine.telemetry.own,
        };
        let answered = retry::send(attempts, session, &mut body, &mut deadlines, info).await;
        info.bytes_received = body.received;
        info.request_messages = body.messages();
        let Answered { mut upstream, head, endpoint } = answered?;

        let head = self.response.insert(head);
        let tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if !tunnel && head.status.is_success() && session.upgrades_with_success() {
            // The client would take the body for what it asked to talk to.
            *self.response = None;
            return Err(classify::upstream(&StreamError::Protocol("upgrade_not_switched")).into());
        }
        let length = if tunnel { BodyLength::Empty } else { upstream.response_body_length() };
        info.status = head.status.as_u16();
        info.grpc_status = head.headers.get(GRPC_STATUS).and_then(stream::grpc_status);
        respond(settings, head, info);
        peer::answer(&self.downstream.engine.telemetry.own, head, info);
        affinity.tell(head);
        let mutations = &target.response_headers;
        route.filters.on_response(mutations, self.request, head, &self.context, info);
        session.write_head(head, length).map_err(|error| classify::downstream(&error))?;
        if tunnel {
            session.start_tunnel();
            upstream.start_tunnel();
            // The route's time is for an answer; what follows may last.
            deadlines.lift();
        }

        body.stop_keeping();
        let bodies = (&mut body, &mut answer);
        let moved = stream::bodies(session, &mut upstream, bodies, tunnel, &mut deadlines).await;
        info.bytes_received = body.received;
        info.request_messages = body.messages();
        info.bytes_sent = answer.sent;
        info.response_messages = answer.messages();
        info.grpc_status = answer.grpc_status.or(info.grpc_status);
        info.details = "via_upstream".into();
        moved.map_err(|failure| {
            upstream.abort();
            if matches!(failure, Failure::Upstream(_)) {
                cluster.report(endpoint.endpoint(), Outcome::ConnectFailure);
            }
            classify::cut(&failure)
        })
    }

    /// What is refused before a cluster was chosen is told under the one that was asked for.
    fn name_cluster(&self, route: &Route, info: &mut StreamInfo) {
        if info.upstream.stats.is_some() {
            return;
        }
        let Some(name) = route.only_cluster() else { return };
        info.upstream.cluster_name.get_or_insert_with(|| name.shared());
        let cluster = self.snapshot.clusters.find(name);
        info.upstream.stats = cluster.map(|cluster| Arc::clone(cluster.stats()));
    }

    /// Answers the client ourselves.
    async fn reply(
        &mut self,
        session: &mut ServerSession,
        mut reply: LocalReply,
        info: &mut StreamInfo,
    ) {
        if let Some(route) = self.route {
            self.name_cluster(route, info);
            route.filters.on_local_reply(&self.context, &mut reply);
        }
        local_headers(&self.snapshot.settings, &mut reply);
        info.status = reply.status.as_u16();
        info.details = reply.details.clone();
        if let Some(flag) = reply.flag {
            info.flags.set(flag);
        }
        let written = session.write_reply(&reply, info.grpc);
        let flushed = match written {
            Ok(head) => {
                *self.response = Some(head);
                info.bytes_sent = reply.body.len() as u64;
                let limit = self.downstream.engine.limits.stream_idle_timeout;
                let flush = poll_fn(|cx| session.poll_flush(cx));
                let flush = timeout(limit, self.downstream.cut.unless_passed(flush));
                matches!(flush.await, Ok(Some(Ok(()))))
            }
            Err(_) => false,
        };
        if !flushed {
            session.abort();
            info.flags.set(ResponseFlag::DownstreamTermination);
        }
    }
}

/// What every reply of our own carries beside its own headers.
fn local_headers(settings: &Settings, reply: &mut LocalReply) {
    if let Some(server) = &settings.server_name {
        reply.headers.push((header::SERVER, server.clone()));
    }
    reply.headers.push((header::DATE, get_cached_date()));
}

/// What a gateway changes in every response it passes on (istio-compat 5.4).
fn respond(settings: &Settings, head: &mut ResponseHeader, info: &StreamInfo) {
    let headers = &mut head.headers;
    if let Some(elapsed) = info.upstream.service_time {
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, field::number(millis));
    }
    if let Some(server) = &settings.server_name {
        headers.insert(header::SERVER, server.clone());
    }
    headers.insert_if_absent(header::DATE, get_cached_date);
}

/// gRPC over HTTP/2 and over HTTP/1: `application/grpc`, with or without a subtype.
fn is_grpc(request: &RequestHeader) -> bool {
    request.headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// The route names a cluster that is not configured: an unknown host, port or subset.
fn no_cluster() -> LocalReply {
    LocalReply::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ResponseFlag::NoCluster,
        "cluster_not_found",
        "",
    )
}
