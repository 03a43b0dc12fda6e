//! Attempts: sending a request upstream, and again where that is safe and asked for.
//!
//! What is retried is Istio's policy (`x-envoy-retry-on` words, istio-compat 1.1). One thing is
//! retried without being asked: a pooled connection that turns out to be dead before anything of the
//! response arrived, when the request may be repeated (RFC 9110 section 9.2.2).

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use http::{Method, StatusCode, header};
use smallvec::SmallVec;
use weir_config::model::route::{RetryOn, RetryPolicy, is_idempotent};

use super::{
    deadline::{Deadlines, Expired},
    error::{Stop, classify},
    field::{self, GRPC_STATUS, X_ENVOY_ATTEMPT_COUNT, X_ENVOY_RATELIMITED},
    peer,
    stream::{Failure, RequestBody, grpc_status},
};
use crate::{
    cluster::{Cluster, EndpointId, InFlight, Outcome, RetryPermit},
    codec::{BodyLength, ServerSession, StreamError},
    head::{RequestHeader, ResponseHeader},
    local_reply::LocalReply,
    telemetry::{ResponseFlag, StreamInfo, peer_metadata::OwnMetadata},
    upstream::{Caller, Checkout, ConnectError, Reuse},
};

/// What all attempts of one exchange share.
pub struct Attempts<'a> {
    pub cluster: &'a Arc<Cluster>,
    /// Of the key the cluster hashes.
    pub hash: Option<u64>,
    pub policy: &'a RetryPolicy,
    pub request: &'a mut RequestHeader,
    pub request_body: BodyLength,
    /// Nothing of the body is sent before the upstream agreed to another protocol.
    pub upgrade: bool,
    pub attempt_count: bool,
    /// What we say of ourselves in the mesh.
    pub own: &'a OwnMetadata,
}

/// An upstream that answered.
pub struct Answered {
    pub upstream: Checkout,
    pub head: ResponseHeader,
    pub endpoint: InFlight,
}

/// Why an attempt did not bring a response.
#[derive(Debug)]
enum Failed {
    /// There is no endpoint to send to.
    NoEndpoint(LocalReply),
    Connect(ConnectError),
    /// `died_idle`: the connection was a pooled one and nothing of a response had arrived.
    Upstream {
        error: StreamError,
        died_idle: bool,
    },
    Downstream(StreamError),
    Expired(Expired),
}

/// What the tries before leave for the next one.
#[derive(Default)]
struct Earlier {
    /// Those it avoids.
    endpoints: SmallVec<[EndpointId; 4]>,
    /// The last one met a pooled connection that was dead; this one takes none from the pool.
    died_idle: bool,
}

/// Sends the request until a response is there that is not to be retried.
///
/// # Errors
/// The reply that stands for the last failure, or the client being gone.
pub async fn send(
    mut attempts: Attempts<'_>,
    session: &mut ServerSession,
    body: &mut RequestBody,
    deadlines: &mut Deadlines<'_>,
    info: &mut StreamInfo,
) -> Result<Answered, Stop> {
    let mut earlier = Earlier::default();
    let mut retries = 0;
    // Counted against the cluster's limit of retries in flight while one is.
    let mut _permit: Option<RetryPermit<'_>> = None;
    loop {
        let outcome = attempt(&mut attempts, session, body, deadlines, info, &mut earlier).await;
        let reason = match &outcome {
            Ok(answered) => response_reason(attempts.policy, &answered.head),
            Err(Failed::Upstream { died_idle: true, .. })
                if !earlier.died_idle
                    && body.is_replayable()
                    && is_idempotent(&attempts.request.method) =>
            {
                // Not an attempt that counts: the connection was dead before the request was made.
                earlier.died_idle = true;
                earlier.endpoints.pop();
                body.rewind();
                continue;
            }
            Err(failed) => failure_reason(attempts.policy, failed, &attempts.request.method),
        };
        earlier.died_idle = false;
        let again = reason && retries < attempts.policy.attempts && body.is_replayable();
        if !again {
            if reason && retries > 0 {
                info.flags.set(ResponseFlag::RetryLimit);
            }
            return outcome.map_err(|failed| stop(failed, body, info));
        }
        _permit = attempts.cluster.admit_retry();
        if _permit.is_none() {
            info.flags.set(ResponseFlag::UpstreamOverflow);
            return outcome.map_err(|failed| stop(failed, body, info));
        }
        retries += 1;
        // What belongs to an endpoint stays with it, unless that cannot even be reached.
        if attempts.hash.is_some() && !matches!(outcome, Err(Failed::Connect(_))) {
            earlier.endpoints.pop();
        }
        // A connection that was refused says nothing about the others: the next is tried at once.
        if !matches!(outcome, Err(Failed::Connect(_))) || retries > 1 {
            let waited = back_off(attempts.policy.backoff, retries, deadlines).await;
            waited.map_err(|expired| stop(Failed::Expired(expired), body, info))?;
        }
        drop(outcome);
        body.rewind();
    }
}

/// One try: choose an endpoint, get a connection, send, wait for the head of the response.
async fn attempt(
    attempts: &mut Attempts<'_>,
    session: &mut ServerSession,
    body: &mut RequestBody,
    deadlines: &mut Deadlines<'_>,
    info: &mut StreamInfo,
    earlier: &mut Earlier,
) -> Result<Answered, Failed> {
    let ignore = attempts.policy.ignore_previous_hosts;
    let avoid: &[EndpointId] = if ignore { &earlier.endpoints } else { &[] };
    let original_dst = info.connection.original_dst();
    let host = attempts.request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let selecting = attempts.cluster.select(attempts.hash, avoid, original_dst, host);
    let selected = within(deadlines, selecting).await.map_err(Failed::Expired)?;
    let endpoint = selected.map_err(Failed::NoEndpoint)?;
    let in_flight = endpoint.begin();
    earlier.endpoints.push(endpoint.id());
    info.upstream.attempts += 1;
    info.upstream.remote_addr = endpoint.address().socket_addr();
    info.upstream.workload = Some(Arc::clone(endpoint.workload()));
    let transport = &endpoint.target().transport;
    info.upstream.tls = transport.is_secure();
    info.upstream.is_mesh = transport.is_mesh();
    peer::introduce(attempts.own, attempts.request, transport.is_mesh(), info.upstream.attempts);
    deadlines.limit_attempt(attempts.policy.per_try_timeout);
    if attempts.attempt_count {
        let count = field::number(info.upstream.attempts.into());
        attempts.request.headers.insert(X_ENVOY_ATTEMPT_COUNT, count);
    }

    let host = attempts.request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let reuse = if earlier.died_idle { Reuse::Never } else { Reuse::Allowed };
    let caller = Caller { host, source: info.connection.transparent_source };
    let acquiring = endpoint.pool(info.protocol).acquire_for(caller, reuse);
    let acquired = within(deadlines, acquiring).await;
    let report = |outcome| attempts.cluster.report(&endpoint, outcome);
    let mut upstream = match acquired {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(error)) => {
            if !error.is_overflow() {
                report(Outcome::ConnectFailure);
            }
            return Err(Failed::Connect(error));
        }
        Err(expired) => return Err(Failed::Expired(expired)),
    };
    info.upstream.local_addr = upstream.local_addr();
    if let Some(address) = upstream.remote_addr() {
        info.upstream.remote_addr = Some(address);
    }

    let sent = std::time::Instant::now();
    let reused = upstream.is_reused();
    let outcome = exchange_heads(attempts, session, body, deadlines, &mut upstream).await;
    match outcome {
        Ok(head) => {
            let now = std::time::Instant::now();
            info.upstream.service_time = Some(now - sent);
            info.upstream.responded_after = Some(now - info.started);
            report(Outcome::Response(head.status.as_u16()));
            Ok(Answered { upstream, head, endpoint: in_flight })
        }
        Err(Failure::Upstream(error)) => {
            let died_idle = reused && !upstream.response_started() && is_disconnect(&error);
            upstream.abort();
            if !died_idle {
                report(Outcome::ConnectFailure);
            }
            Err(Failed::Upstream { error, died_idle })
        }
        Err(Failure::Downstream(error)) => {
            upstream.abort();
            Err(Failed::Downstream(error))
        }
        Err(Failure::Expired(expired)) => {
            upstream.abort();
            // Running out of our own time says nothing about the endpoint.
            if expired != Expired::Drain {
                report(Outcome::Timeout);
            }
            Err(Failed::Expired(expired))
        }
    }
}

/// Sends the head, and the body as far as it comes, until the final head of the response is there.
/// Informational responses are passed on as they arrive.
async fn exchange_heads(
    attempts: &Attempts<'_>,
    session: &mut ServerSession,
    body: &mut RequestBody,
    deadlines: &mut Deadlines<'_>,
    upstream: &mut Checkout,
) -> Result<ResponseHeader, Failure> {
    upstream.write_head(attempts.request, attempts.request_body).map_err(Failure::Upstream)?;
    let mut write_failure = None;
    poll_fn(|cx| {
        let mut moved = false;
        if !attempts.upgrade && write_failure.is_none() && !body.is_finished() {
            match body.poll_forward(cx, session, upstream, &mut moved) {
                // An upstream may answer and close without reading all of the request. What it
                // answered counts, so reading goes on.
                Poll::Ready(Err(Failure::Upstream(error))) => write_failure = Some(error),
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        loop {
            match upstream.poll_head(cx) {
                Poll::Ready(Ok(head))
                    if head.status.is_informational()
                        && head.status != StatusCode::SWITCHING_PROTOCOLS =>
                {
                    moved = true;
                    session.write_head(&head, BodyLength::Empty).map_err(Failure::Downstream)?;
                    if let Poll::Ready(result) = session.poll_flush(cx) {
                        result.map_err(Failure::Downstream)?;
                    }
                }
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
                Poll::Ready(Err(error)) => {
                    let error = write_failure.take().unwrap_or(error);
                    return Poll::Ready(Err(Failure::Upstream(error)));
                }
                Poll::Pending => break,
            }
        }
        if body.is_finished() && session.poll_closed(cx).is_ready() {
            return Poll::Ready(Err(Failure::Downstream(StreamError::Closed { started: true })));
        }
        if moved {
            deadlines.moved();
        }
        deadlines.poll_expired(cx).map(|expired| Err(Failure::Expired(expired)))
    })
    .await
}

/// `future`, unless a deadline passes first.
async fn within<T>(
    deadlines: &mut Deadlines<'_>,
    future: impl Future<Output = T>,
) -> Result<T, Expired> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => deadlines.poll_expired(cx).map(Err),
    })
    .await
}

/// Waits between two tries: a random part of `base` x (2^n - 1), at most ten times `base`
/// (Envoy's jittered exponential back-off).
async fn back_off(
    base: Duration,
    retry: u32,
    deadlines: &mut Deadlines<'_>,
) -> Result<(), Expired> {
    let span = base.saturating_mul((1u32 << retry.min(10)) - 1).min(base.saturating_mul(10));
    let wait = span.mul_f64(fastrand::f64());
    deadlines.limit_attempt(None);
    within(deadlines, tokio::time::sleep(wait)).await
}

/// Whether the policy asks for another try after this response.
fn response_reason(policy: &RetryPolicy, head: &ResponseHeader) -> bool {
    let status = head.status.as_u16();
    let RetryOn {
        server_error,
        gateway_error,
        retriable_4xx,
        retriable_status_codes,
        envoy_ratelimited,
        grpc_cancelled,
        grpc_deadline_exceeded,
        grpc_internal,
        grpc_resource_exhausted,
        grpc_unavailable,
        // These are about connections and streams, not about responses.
        reset: _,
        reset_before_request: _,
        connect_failure: _,
        refused_stream: _,
    } = policy.on;
    // A rate-limited answer is repeated only where that is asked for, whatever its status says.
    if head.headers.contains_key(X_ENVOY_RATELIMITED) {
        return envoy_ratelimited;
    }
    if server_error && (500..600).contains(&status)
        || gateway_error && (502..=504).contains(&status)
        || retriable_4xx && status == 409
        || retriable_status_codes && policy.retriable_status_codes.contains(&status)
    {
        return true;
    }
    match head.headers.get(GRPC_STATUS).and_then(grpc_status) {
        Some(1) => grpc_cancelled,
        Some(4) => grpc_deadline_exceeded,
        Some(8) => grpc_resource_exhausted,
        Some(13) => grpc_internal,
        Some(14) => grpc_unavailable,
        _ => false,
    }
}

/// Whether the policy asks for another try after this failure.
fn failure_reason(policy: &RetryPolicy, failed: &Failed, method: &Method) -> bool {
    let on = policy.on;
    match failed {
        Failed::NoEndpoint(_) | Failed::Downstream(_) => false,
        Failed::Connect(_) => on.connect_failure || on.server_error || on.gateway_error || on.reset,
        Failed::Upstream { error, died_idle } => {
            on.refused_stream && error.is_unprocessed()
                || on.reset
                || on.server_error
                || on.gateway_error && is_disconnect(error)
                || *died_idle && on.connect_failure && is_idempotent(method)
        }
        Failed::Expired(Expired::Try) => on.server_error || on.gateway_error,
        Failed::Expired(Expired::Route | Expired::Idle | Expired::Drain) => false,
    }
}

/// The connection is gone, rather than the upstream having said something that cannot be.
fn is_disconnect(error: &StreamError) -> bool {
    match error {
        StreamError::Io(_) | StreamError::Closed { .. } | StreamError::GoAway => true,
        StreamError::Protocol(_)
        | StreamError::Reset(_)
        | StreamError::TooLarge(_)
        | StreamError::Length
        | StreamError::Aborted
        | StreamError::Timeout(_) => false,
    }
}

/// How an exchange ends that no attempt could answer.
fn stop(failed: Failed, body: &RequestBody, info: &mut StreamInfo) -> Stop {
    match failed {
        Failed::NoEndpoint(reply) => Stop::Reply(reply),
        Failed::Connect(error) => {
            info.upstream.failure = Some(error.reason());
            Stop::Reply(classify::connect(error))
        }
        Failed::Upstream { error, .. } => Stop::Reply(classify::upstream(&error)),
        Failed::Downstream(error) => classify::downstream(&error),
        // Nothing moved because the client sent nothing.
        Failed::Expired(Expired::Idle) if !body.is_read() => {
            Stop::Reply(classify::request_timeout())
        }
        Failed::Expired(expired) => Stop::Reply(classify::expired(expired)),
    }
}
