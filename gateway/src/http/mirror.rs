//! Copies of a request for the clusters a route mirrors to (istio-compat 1.1 "mirror"). What becomes of a
//! copy counts for nothing: the exchange neither waits for one nor hears of its end.
//!
//! Each copy is a task of its own. Its body comes through a queue of bounded size: where that overflows, because the mirror is slower than the client, the copy is given up and not the client
//! slowed down.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, ready},
};

use http::{HeaderValue, header};
use smallvec::SmallVec;
use tokio::{sync::mpsc, time::timeout};
use weir_config::model::route::{Forward, Mirror};

use super::{affinity::Affinity, field::X_ENVOY_ATTEMPT_COUNT};
use crate::{
    cluster::{Cluster, Clusters, Endpoint, Outcome},
    codec::{BodyLength, Frame, StreamError},
    head::RequestHeader,
    limits::Limits,
    telemetry::{Protocol, StreamInfo},
    upstream::{Checkout, Reuse},
};

/// Copies under way: a mirror that hangs must not take the memory of those who do not.
static COPIES: AtomicUsize = AtomicUsize::new(0);

/// A request as it is sent upstream.
#[derive(Clone, Copy)]
pub struct Original<'a> {
    pub request: &'a RequestHeader,
    pub body: BodyLength,
    pub attempt_count: bool,
    pub limits: &'a Limits,
}

/// The bodies of the copies of one request. What is dropped before [`Self::finish`] is cut: a copy never
/// looks complete when the request was not.
#[derive(Debug, Default)]
pub struct Copies(SmallVec<[Queue; 1]>);

#[derive(Debug)]
struct Queue {
    /// `None` is the end of the body.
    frames: mpsc::UnboundedSender<Option<Frame>>,
    waiting: Arc<AtomicUsize>,
    limit: usize,
}

/// Begins the copies of `original` that `forward` asks for.
pub fn start(
    clusters: &Clusters,
    forward: &Forward,
    original: Original<'_>,
    info: &StreamInfo,
    rng: &mut fastrand::Rng,
) -> Copies {
    let mut copies = Copies::default();
    let limits = original.limits;
    for Mirror { cluster, per_million } in &*forward.mirrors {
        if *per_million < 1_000_000 && rng.u32(..1_000_000) >= *per_million {
            continue;
        }
        let (Some(cluster), Some(place)) =
            (clusters.find(cluster), Place::take(limits.max_mirrored))
        else {
            continue;
        };
        let (frames, queued) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut request = original.request.clone();
        if original.attempt_count {
            request.headers.insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from_static("1"));
        }
        let copy = Copy {
            hash: Affinity::of(cluster.config().hash_key.as_ref(), &request, info).hash,
            cluster: Arc::clone(cluster),
            request,
            length: original.body,
            protocol: info.protocol,
            body: Body { queued, waiting: Arc::clone(&waiting), taken: false, ended: false },
        };
        let limit = forward.timeout.unwrap_or(limits.stream_idle_timeout);
        // Nobody waits for it; `place` and `limit` bound how many there are.
        tokio::spawn(async move {
            let _place = place;
            let _ = timeout(limit, copy.send()).await;
        });
        copies.0.push(Queue { frames, waiting, limit: limits.max_mirror_bytes });
    }
    copies
}

impl Copies {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next part of the body; its data is shared.
    pub fn push(&mut self, frame: impl Fn() -> Frame) {
        self.0.retain(|queue| queue.push(frame()));
    }

    /// The body has ended as it should.
    pub fn finish(&mut self) {
        for queue in self.0.drain(..) {
            // The copy may have failed, which is nobody's concern.
            let _ = queue.frames.send(None);
        }
    }
}

impl Queue {
    /// Whether the copy goes on.
    fn push(&self, frame: Frame) -> bool {
        let size = frame_size(&frame);
        let waiting = self.waiting.fetch_add(size, Ordering::Relaxed);
        waiting.saturating_add(size) <= self.limit && self.frames.send(Some(frame)).is_ok()
    }
}

fn frame_size(frame: &Frame) -> usize {
    match frame {
        Frame::Data(data) => data.len(),
        Frame::Trailers(_) => 0,
    }
}

/// One of the copies the proxy may have under way.
struct Place;

impl Place {
    fn take(limit: usize) -> Option<Self> {
        let taken = COPIES.fetch_add(1, Ordering::Relaxed);
        let place = Self;
        // Dropped, it is given back.
        (taken < limit).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        COPIES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One copy of a request.
struct Copy {
    cluster: Arc<Cluster>,
    request: RequestHeader,
    hash: Option<u64>,
    length: BodyLength,
    protocol: Protocol,
    body: Body,
}

struct Body {
    queued: mpsc::UnboundedReceiver<Option<Frame>>,
    waiting: Arc<AtomicUsize>,
    /// Something was taken from the queue, so that the request cannot be sent again.
    taken: bool,
    ended: bool,
}

impl Copy {
    /// Sends the request and reads the response to its end, so that the connection can be used again.
    async fn send(mut self) {
        let cluster = Arc::clone(&self.cluster);
        let Ok(_permit) = cluster.admit() else { return };
        let hash = self.hash;
        for reuse in [Reuse::Allowed, Reuse::Never] {
            let host = self.request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
            let Ok(endpoint) = cluster.select(hash, &[], None, host).await else { return };
            let _in_flight = endpoint.begin();
            let pool = endpoint.pool(self.protocol);
            let Ok(mut upstream) = pool.acquire(host, reuse).await else {
                return cluster.report(&endpoint, Outcome::ConnectFailure);
            };
            let sent = self.exchange(&cluster, &endpoint, &mut upstream).await;
            if sent.is_ok() {
                return;
            }
            let died_idle = upstream.is_reused() && !upstream.response_started();
            upstream.abort();
            if !died_idle || self.body.taken {
                return;
            }
        }
    }

    async fn exchange(
        &mut self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        upstream: &mut Checkout,
    ) -> Result<(), StreamError> {
        upstream.write_head(&self.request, self.length)?;
        let body = &mut self.body;
        let mut sent = false;
        let mut answered = false;
        poll_fn(|cx| {
            if !sent {
                // An answer counts also when not all of the body was wanted.
                let done = body.poll_forward(cx, upstream)?.is_ready();
                sent = upstream.poll_flush(cx)?.is_ready() && done;
            }
            while !answered {
                let head = ready!(upstream.poll_head(cx))?;
                answered = !head.status.is_informational();
                if answered {
                    cluster.report(endpoint, Outcome::Response(head.status.as_u16()));
                }
            }
            while ready!(upstream.poll_read(cx))?.is_some_and(|frame| !is_last(&frame)) {}
            Poll::Ready(Ok(()))
        })
        .await
    }
}

fn is_last(frame: &Frame) -> bool {
    matches!(frame, Frame::Trailers(_))
}

impl Body {
    /// Moves what can be moved; ready once the end was written.
    fn poll_forward(
        &mut self,
        cx: &mut std::task::Context<'_>,
        upstream: &mut Checkout,
    ) -> Poll<Result<(), StreamError>> {
        while !self.ended {
            ready!(upstream.poll_ready(cx))?;
            match ready!(self.queued.poll_recv(cx)) {
                // The request was cut, or this copy is too slow for it.
                None => return Poll::Ready(Err(StreamError::Aborted)),
                Some(None) => {
                    upstream.finish()?;
                    self.ended = true;
                }
                Some(Some(frame)) => {
                    self.taken = true;
                    self.waiting.fetch_sub(frame_size(&frame), Ordering::Relaxed);
                    self.ended = is_last(&frame);
                    upstream.write(frame)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const LIMIT: usize = 1000;

    fn copy() -> (Copies, mpsc::UnboundedReceiver<Option<Frame>>, Arc<AtomicUsize>) {
        let (frames, queued) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let queue = Queue { frames, waiting: Arc::clone(&waiting), limit: LIMIT };
        (Copies([queue].into_iter().collect()), queued, waiting)
    }

    #[test]
    fn a_copy_that_is_too_slow_is_given_up() {
        let chunk = Bytes::from(vec![0; LIMIT / 2]);
        let (mut copies, mut queued, waiting) = copy();
        for _ in 0..2 {
            copies.push(|| Frame::Data(chunk.clone()));
        }
        assert!(!copies.is_empty());
        // Taken by the task that sends it.
        assert!(queued.try_recv().is_ok());
        waiting.fetch_sub(chunk.len(), Ordering::Relaxed);
        copies.push(|| Frame::Data(chunk.clone()));
        assert!(!copies.is_empty());
        copies.push(|| Frame::Data(chunk.clone()));
        assert!(copies.is_empty());
    }

    #[test]
    fn only_a_finished_body_ends_in_the_copy() {
        let (mut copies, mut queued, _) = copy();
        copies.finish();
        assert!(matches!(queued.try_recv(), Ok(None)));
        let (copies, mut queued, _) = copy();
        drop(copies);
        assert!(matches!(queued.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }
}
