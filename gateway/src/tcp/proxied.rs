//! A connection that has both its sides, until its end: what is told of it in the end, and what moves its
//! bytes meanwhile. Ten thousand idle connections are ten thousand of these.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Sleep;

use super::{
    DRAIN_TIMEOUT,
    copy::{BothWays, End, Moved},
    reset,
};
use crate::{
    cluster::InFlight,
    drain::DrainSignal,
    engine::Engine,
    io::Io,
    telemetry::{Begun, ResponseFlag},
    upstream::Slot,
};

pub(super) struct Proxied {
    pub(super) engine: Arc<Engine>,
    pub(super) downstream: Io,
    pub(super) upstream: Io,
    pub(super) copying: BothWays,
    /// The limit on its age. Boxed, because few have it.
    pub(super) age: Option<Pin<Box<Sleep>>>,
    pub(super) begun: Begun,
    pub(super) _admitted: Slot,
    pub(super) _in_flight: InFlight,
}

/// Why no more bytes are moved.
enum Over {
    Copied(End),
    TooOld,
}

impl Proxied {
    /// Moves bytes until there are no more, or no more may be moved, and records the connection. No
    /// `async fn`, which would have room for the connection twice.
    pub(super) fn serve(self, drain: DrainSignal) -> impl Future<Output = ()> + Send {
        let mut connection = self;
        async move {
            let over = drain.until_cut(pin!(poll_fn(|cx| connection.poll(cx)))).await;
            connection.end(over);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        let Self { downstream, upstream, copying, age, .. } = self;
        if let Poll::Ready(end) = copying.poll(cx, downstream, upstream) {
            return Poll::Ready(Over::Copied(end));
        }
        match age {
            Some(age) => age.as_mut().poll(cx).map(|()| Over::TooOld),
            None => Poll::Pending,
        }
    }

    /// `None`: the time to drain was up.
    fn end(self, over: Option<Over>) {
        let mut info = self.begun.ended();
        let Moved { to_upstream, to_downstream } = self.copying.moved();
        (info.bytes_received, info.bytes_sent) = (to_upstream, to_downstream);
        match over {
            Some(Over::Copied(End::Complete)) => {}
            Some(Over::Copied(End::Idle)) => {
                info.termination_details = Cow::Borrowed("tcp_session_idle_timeout");
            }
            Some(Over::Copied(End::Downstream(error))) => {
                tracing::debug!(%error, "the client broke off");
                info.flags.set(ResponseFlag::DownstreamTermination);
                reset(&self.upstream);
            }
            Some(Over::Copied(End::Upstream(error))) => {
                tracing::debug!(%error, "the upstream broke off");
                info.flags.set(ResponseFlag::UpstreamConnectionTermination);
                reset(&self.downstream);
            }
            Some(Over::TooOld) => info.flags.set(ResponseFlag::DurationTimeout),
            None => info.termination_details = Cow::Borrowed(DRAIN_TIMEOUT),
        }
        self.engine.telemetry.record_tcp(&info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F: Future>(_made_by: impl FnOnce(Proxied, DrainSignal) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_serves_a_connection_is_small() {
        let size = size_of_future(Proxied::serve);
        assert!(size <= 768, "{size} bytes");
    }
}
