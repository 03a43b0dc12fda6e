//! HTTP/1 connections: requests one after another, deadlines, and an end that loses nothing.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use http::StatusCode;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, Sleep, sleep},
};

use super::{Downstream, exchange};
use crate::{
    codec::{
        Rejection, ServerSession,
        h1::{self, AfterExchange, Arrival},
    },
    http2::PREFACE,
    io::Io,
    telemetry::Protocol,
};

/// While draining, a request that is already on its way is still served, with `connection: close`.
/// Closing an idle connection at once would lose it.
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// After a response that leaves part of a request unread: time for the client to read it before the
/// socket is closed.
const LINGER: Duration = Duration::from_secs(5);

/// Serves requests until the connection ends, unless the client speaks HTTP/2: then gives back what
/// is needed to serve that.
pub(super) async fn serve(downstream: &Downstream, io: Io) -> Option<(BytesMut, Io)> {
    let session = h1::ServerSession::new(io, downstream.options(), downstream.drain.clone());
    let mut session = Box::new(session);
    // The one timer of the connection. It is moved, never made anew.
    let mut deadline = pin!(sleep(downstream.engine.limits.header_timeout));
    if downstream.conn.tls.is_none() {
        let wait =
            |cx: &mut Context<'_>| poll_protocol(downstream, &mut session, deadline.as_mut(), cx);
        match poll_fn(wait).await {
            FirstBytes::Http1 => {}
            FirstBytes::Http2 => {
                return Some(session.into_parts());
            }
            FirstBytes::Nothing => return None,
        }
    }
    serve_requests(downstream, ServerSession::H1(session), deadline).await;
    None
}

enum FirstBytes {
    Http1,
    Http2,
    /// The client closed, or said nothing for too long.
    Nothing,
}

/// Tells HTTP/2 by its preface. As long as what came could become one, more is awaited.
fn poll_protocol(
    downstream: &Downstream,
    session: &mut h1::ServerSession,
    deadline: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<FirstBytes> {
    let mut more = false;
    loop {
        match session.poll_first_bytes(cx, more) {
            Poll::Ready(None) => return Poll::Ready(FirstBytes::Nothing),
            Poll::Ready(Some(bytes)) if bytes.starts_with(PREFACE) => {
                return Poll::Ready(FirstBytes::Http2);
            }
            Poll::Ready(Some(bytes)) if !PREFACE.starts_with(bytes) => {
                return Poll::Ready(FirstBytes::Http1);
            }
            Poll::Ready(Some(_)) => more = true,
            Poll::Pending if downstream.cut.has_passed() => {
                return Poll::Ready(FirstBytes::Nothing);
            }
            Poll::Pending => return deadline.poll(cx).map(|()| FirstBytes::Nothing),
        }
    }
}

async fn serve_requests(
    downstream: &Downstream,
    mut session: ServerSession,
    mut deadline: Pin<&mut Sleep>,
) {
    let mut drain = downstream.drain.clone();
    let mut draining: Pin<&mut (dyn Future<Output = ()> + Send)> = pin!(drain.draining());
    // Polled once for the whole connection: its waker is the task's and stays good, and asking the
    // channel anew for every request would make all connections meet at one lock.
    poll_fn(|cx| Poll::Ready(draining.as_mut().poll(cx).is_ready())).await;
    let mut armed = Armed::Accept;
    loop {
        let Some(h1) = session.as_h1() else { return };
        let wait = |cx: &mut Context<'_>| {
            let timer = deadline.as_mut();
            poll_request(downstream, h1, timer, &mut armed, cx)
        };
        match poll_fn(wait).await {
            Wait::Arrived(Arrival::Request) => {}
            Wait::Arrived(Arrival::Closed) => return,
            Wait::Arrived(Arrival::Rejected(rejection, request)) => {
                let reply = rejection.reply();
                downstream.record_rejection(Protocol::Http11, rejection, &reply, &request);
                // Nobody is left to be told if this fails.
                let _ = session.write_reply(&reply, false);
                return end(&mut session, End::Linger, deadline).await;
            }
            Wait::TimedOut => return end(&mut session, End::Close, deadline).await,
        }

        serve_exchange(downstream, &mut session, deadline.as_mut()).await;

        match after_exchange(downstream, &mut session, deadline.as_mut()).await {
            AfterExchange::Reuse => armed = Armed::Not,
            AfterExchange::Close => return end(&mut session, End::Close, deadline).await,
            AfterExchange::Linger => return end(&mut session, End::Linger, deadline).await,
            AfterExchange::Abort => return,
            AfterExchange::Reset => return reset(&mut session),
        }
    }
}

/// Boxed, so that an idle connection does not hold the room an exchange needs.
async fn serve_exchange(
    downstream: &Downstream,
    session: &mut ServerSession,
    timer: Pin<&mut Sleep>,
) {
    // Room first: a finished future would be copied there, most of it memory nobody has written yet.
    let room = Box::new_uninit();
    Box::into_pin(Box::write(room, exchange::serve(downstream, session, timer))).await;
}

/// What the deadline stands for (hardening D01).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Armed {
    Not,
    /// From the accept to the end of the first head.
    Accept,
    /// Between two requests.
    Idle,
    /// From the first byte of a head to its end.
    Head,
    /// For a request that was on its way when draining began.
    Drain,
}

enum Wait {
    Arrived(Arrival),
    /// Nothing of a request came in time.
    TimedOut,
}

/// The wait for a request. The timer is touched only when there is something to wait for, so a
/// connection that is busy never pays for it.
fn poll_request(
    downstream: &Downstream,
    session: &mut h1::ServerSession,
    mut deadline: Pin<&mut Sleep>,
    armed: &mut Armed,
    cx: &mut Context<'_>,
) -> Poll<Wait> {
    if let Poll::Ready(arrival) = session.poll_request(cx) {
        return Poll::Ready(Wait::Arrived(arrival));
    }
    if downstream.cut.has_passed() {
        return Poll::Ready(Wait::TimedOut);
    }
    let limits = &downstream.engine.limits;
    let (want, after) = match (session.head_started(), *armed) {
        (true, Armed::Not | Armed::Idle | Armed::Drain) => (Armed::Head, limits.header_timeout),
        (false, Armed::Not | Armed::Accept | Armed::Idle) if downstream.drain.is_draining() => {
            (Armed::Drain, DRAIN_GRACE)
        }
        (false, Armed::Not) => (Armed::Idle, limits.idle_timeout),
        (_, as_it_is) => (as_it_is, Duration::ZERO),
    };
    if want != *armed {
        *armed = want;
        deadline.as_mut().reset(Instant::now() + after);
    }
    deadline.poll(cx).map(|()| match session.head_started() {
        true => {
            let rejection = Rejection::new(StatusCode::REQUEST_TIMEOUT, "request_header_timeout");
            Wait::Arrived(Arrival::Rejected(rejection, Box::new(session.salvage())))
        }
        false => Wait::TimedOut,
    })
}

/// Until the response is out and the request read. Bounded: neither a client that does not read nor
/// one that does not finish its body keeps us.
async fn after_exchange(
    downstream: &Downstream,
    session: &mut ServerSession,
    mut deadline: Pin<&mut Sleep>,
) -> AfterExchange {
    let limits = &downstream.engine.limits;
    let Some(h1) = session.as_h1() else { return AfterExchange::Abort };
    let mut armed = false;
    poll_fn(|cx| {
        let after = h1.poll_after_exchange(limits.max_drain_bytes, cx);
        if after.is_ready() {
            return after;
        }
        if !std::mem::replace(&mut armed, true) {
            deadline.as_mut().reset(Instant::now() + limits.header_timeout);
        }
        deadline.as_mut().poll(cx).map(|()| AfterExchange::Linger)
    })
    .await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    /// Reads on until the client has seen our end, lest a reset overtake the response.
    Linger,
}

/// Writes what is left, says that it is all, and closes.
async fn end(session: &mut ServerSession, how: End, mut deadline: Pin<&mut Sleep>) {
    let Some(h1) = session.as_h1() else { return };
    deadline.as_mut().reset(Instant::now() + LINGER);
    let ending = async {
        if poll_fn(|cx| h1.poll_flush(cx)).await.is_err() || h1.io().shutdown().await.is_err() {
            return;
        }
        if how == End::Linger {
            poll_fn(|cx| h1.poll_linger(cx)).await;
        }
    };
    tokio::select! {
        () = ending => {}
        () = deadline => {}
    }
}

/// Closes so that the client cannot mistake it for the end of the body.
fn reset(session: &mut ServerSession) {
    if let Some(h1) = session.as_h1() {
        // If it fails the connection is gone already.
        let _ = h1.io().socket().map(|socket| socket.set_linger(Some(Duration::ZERO)));
    }
}
