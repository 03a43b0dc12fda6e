//! How long an exchange may take: the route's timeout, the try's, the time nothing moves, and the time
//! its connection has left.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use crate::drain::Cut;

/// Which deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// The route's timeout: the whole exchange, retries included.
    Route,
    /// The time for one try.
    Try,
    /// Nothing moved in either direction.
    Idle,
    /// The connection was asked to end, and its time for that is up.
    Drain,
}

/// The deadlines of one exchange over a single timer, which is armed the first time the exchange
/// has to wait and again only when it fires: movement costs one store.
#[derive(Debug)]
pub struct Deadlines<'a> {
    timer: Pin<&'a mut Sleep>,
    armed: bool,
    cut: &'a Cut,
    route: Option<Instant>,
    attempt: Option<Instant>,
    idle: Duration,
    /// Whether something moved since the timer was armed.
    moved: bool,
}

impl<'a> Deadlines<'a> {
    /// `timer`: one that outlives the exchange is cheapest, because to put a timer off costs next to
    /// nothing. `idle`: the longest time without movement, precise to a factor of two. `cut`: the
    /// connection's, which wakes the task of the exchange.
    #[must_use]
    pub fn new(timer: Pin<&'a mut Sleep>, idle: Duration, cut: &'a Cut) -> Self {
        Self { timer, armed: false, cut, route: None, attempt: None, idle, moved: false }
    }

    /// Starts the clock of the whole exchange; `None`: no limit.
    pub fn limit_exchange(&mut self, timeout: Option<Duration>) {
        self.route = timeout.map(|timeout| Instant::now() + timeout);
        self.rearm();
    }

    /// Starts the clock of one try; `None`: no limit.
    pub fn limit_attempt(&mut self, timeout: Option<Duration>) {
        self.attempt = timeout.map(|timeout| Instant::now() + timeout);
        self.rearm();
    }

    /// The rest has no end of its own: a tunnel, a stream.
    pub fn lift(&mut self) {
        self.route = None;
        self.attempt = None;
        self.rearm();
    }

    pub fn moved(&mut self) {
        self.moved = true;
    }

    /// When the whole exchange has to be over.
    #[must_use]
    pub fn route(&self) -> Option<Instant> {
        self.route
    }

    /// Ready when a deadline passed. The task is woken for the next one otherwise.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        if self.cut.has_passed() {
            return Poll::Ready(Expired::Drain);
        }
        if !self.armed {
            self.armed = true;
            self.arm(Instant::now());
        }
        loop {
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if self.route.is_some_and(|at| at <= now) {
                return Poll::Ready(Expired::Route);
            }
            if self.attempt.is_some_and(|at| at <= now) {
                return Poll::Ready(Expired::Try);
            }
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(Expired::Idle);
            }
            self.arm(now);
        }
    }

    fn rearm(&mut self) {
        // An armed timer stands for a wait that is over; what was set now begins a new one.
        if self.armed {
            self.moved = true;
            self.arm(Instant::now());
        }
    }

    fn arm(&mut self, now: Instant) {
        let limits = [self.route, self.attempt];
        let next = limits.into_iter().flatten().fold(now + self.idle, Instant::min);
        self.timer.as_mut().reset(next);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_exchange_that_does_not_move_expires_idle() {
        let cut = Cut::default();
        let timer = pin!(sleep(Duration::ZERO));
        let mut deadlines = Deadlines::new(timer, Duration::from_secs(5), &cut);
        assert_eq!(poll_fn(|cx| deadlines.poll_expired(cx)).await, Expired::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn movement_puts_the_idle_end_off() {
        let start = Instant::now();
        let cut = Cut::default();
        let timer = pin!(sleep(Duration::ZERO));
        let mut deadlines = Deadlines::new(timer, Duration::from_secs(5), &cut);
        deadlines.moved();
        assert_eq!(poll_fn(|cx| deadlines.poll_expired(cx)).await, Expired::Idle);
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_outlasts_the_cut() {
        let cut = Cut::default();
        let timer = pin!(sleep(Duration::ZERO));
        let mut deadlines = Deadlines::new(timer, Duration::from_secs(5), &cut);
        deadlines.moved();
        cut.pass();
        assert_eq!(poll_fn(|cx| deadlines.poll_expired(cx)).await, Expired::Drain);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_try_and_route_is_reported() {
        let cut = Cut::default();
        let timer = pin!(sleep(Duration::ZERO));
        let mut deadlines = Deadlines::new(timer, Duration::from_secs(60), &cut);
        deadlines.limit_exchange(Some(Duration::from_secs(3)));
        deadlines.limit_attempt(Some(Duration::from_secs(1)));
        assert_eq!(poll_fn(|cx| deadlines.poll_expired(cx)).await, Expired::Try);
        deadlines.limit_attempt(Some(Duration::from_secs(9)));
        assert_eq!(poll_fn(|cx| deadlines.poll_expired(cx)).await, Expired::Route);
    }
}
