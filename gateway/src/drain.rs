//! Telling connections to come to their end: `Connection: close`, GOAWAY, then the deadline's cut.
//!
//! A trigger belongs to a filter chain; every connection the chain serves holds a signal of it.

use std::{
    future::{self, poll_fn},
    pin::{Pin, pin},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

/// The side that decides. Dropping it drains as well. Ten thousand chains have one, and few of them
/// connections: there is a channel from the first signal on.
#[derive(Debug, Default)]
pub struct DrainTrigger(OnceLock<watch::Sender<Phase>>);

/// The side a connection holds.
#[derive(Debug, Clone)]
pub struct DrainSignal {
    phase: watch::Receiver<Phase>,
    /// Draining had begun before this signal was taken, or was noticed since.
    begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// `None`: connections may take as long as they need.
    Draining {
        cut: Option<Instant>,
    },
}

#[must_use]
pub fn channel() -> (DrainTrigger, DrainSignal) {
    let trigger = DrainTrigger::new();
    let signal = trigger.signal();
    (trigger, signal)
}

impl DrainTrigger {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks connections to end after what they are doing.
    pub fn drain(&self) {
        self.begin(None);
    }

    /// The same, and whoever is still there after `within` is cut.
    pub fn drain_within(&self, within: Duration) {
        self.begin(Some(Instant::now() + within));
    }

    #[must_use]
    pub fn signal(&self) -> DrainSignal {
        let phase = self.sender().subscribe();
        let begun = *phase.borrow() != Phase::Serving;
        DrainSignal { phase, begun }
    }

    /// A deadline once given can only come closer.
    fn begin(&self, cut: Option<Instant>) {
        self.sender().send_modify(|phase| {
            let earlier = match *phase {
                Phase::Serving => None,
                Phase::Draining { cut } => cut,
            };
            *phase = Phase::Draining { cut: [earlier, cut].into_iter().flatten().min() };
        });
    }

    fn sender(&self) -> &watch::Sender<Phase> {
        self.0.get_or_init(|| watch::Sender::new(Phase::Serving))
    }
}

impl DrainSignal {
    /// One relaxed load and no lock: it is asked once per request.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.begun || self.phase.has_changed().unwrap_or(true)
    }

    /// Returns once draining has begun.
    pub async fn draining(&mut self) {
        if !self.begun {
            // No change leads back to serving. An error is the trigger being gone, which means the same.
            let _ = self.phase.changed().await;
            self.begun = true;
        }
    }

    /// Returns when time is up for connections that are still open. A trigger that was dropped
    /// without a deadline never cuts.
    pub async fn cut(&mut self) {
        self.draining().await;
        // Boxed: every connection waits above, and few ever come here.
        Box::pin(self.deadline()).await;
    }

    /// Runs `serving` to its end, or to the cut: `None`. What is left of it is the caller's to end.
    ///
    /// What belongs to one task has to stay in one task: the wait for the cut is registered once.
    /// Asking the channel at every wake would make all connections meet at one lock.
    pub fn until_cut<F: Future>(
        self,
        mut serving: Pin<&mut F>,
    ) -> impl Future<Output = Option<F::Output>> {
        // An `async fn` would have room for its arguments twice, in every connection.
        let mut waiting = self.clone();
        async move {
            let mut cut = pin!(waiting.cut());
            let mut registered = false;
            poll_fn(|cx| {
                if (!registered || self.is_draining()) && cut.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                registered = true;
                serving.as_mut().poll(cx).map(Some)
            })
            .await
        }
    }

    async fn deadline(&mut self) {
        loop {
            let at = match *self.phase.borrow_and_update() {
                Phase::Draining { cut } => cut,
                Phase::Serving => None,
            };
            tokio::select! {
                () = sleep_until_some(at) => return,
                changed = self.phase.changed() => if changed.is_err() {
                    return sleep_until_some(at).await;
                },
            }
        }
    }
}

/// Tells the exchanges of one connection that its time is up, so that each of them can end in an
/// orderly way and be recorded. Asking costs a load; only tasks of their own register to be woken.
#[derive(Debug, Default)]
pub struct Cut {
    passed: AtomicBool,
    waiting: Notify,
}

impl Cut {
    pub fn pass(&self) {
        self.passed.store(true, Ordering::Relaxed);
        self.waiting.notify_waiters();
    }

    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.passed.load(Ordering::Relaxed)
    }

    /// Runs `serving` to its end, with its task woken when the time is up: whatever it waits for has
    /// to ask `has_passed`.
    pub async fn waking<F: Future>(&self, mut serving: Pin<&mut F>) -> F::Output {
        let mut waiting = pin!(self.waiting.notified());
        let mut registered = false;
        poll_fn(|cx| {
            if !registered {
                // Once: the waker is the task's and stays good.
                let _ = waiting.as_mut().poll(cx);
                registered = true;
            }
            serving.as_mut().poll(cx)
        })
        .await
    }

    /// `future`, unless the time is up while it waits: `None`.
    pub async fn unless_passed<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.has_passed() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_signal_taken_after_draining_began_knows_it() {
        let (trigger, early) = channel();
        assert!(!early.is_draining());
        trigger.drain();
        assert!(early.is_draining());
        assert!(trigger.signal().is_draining());
    }

    #[test]
    fn a_trigger_nobody_has_a_signal_of_has_no_channel() {
        let trigger = DrainTrigger::new();
        assert!(trigger.0.get().is_none());
        let signal = trigger.signal();
        assert!(trigger.0.get().is_some());
        assert!(!signal.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_trigger_drains_and_never_cuts() {
        let (trigger, mut signal) = channel();
        drop(trigger);
        assert!(signal.is_draining());
        signal.draining().await;
        let cut = tokio::time::timeout(Duration::from_secs(3600), signal.cut()).await;
        assert!(cut.is_err(), "there was no deadline to cut at");
    }

    #[tokio::test(start_paused = true)]
    async fn the_cut_comes_at_the_deadline_and_a_later_one_cannot_push_it_out() {
        let (trigger, mut signal) = channel();
        let start = Instant::now();
        trigger.drain_within(Duration::from_secs(5));
        trigger.drain_within(Duration::from_secs(50));
        signal.cut().await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_served_runs_on_while_draining_and_ends_at_the_cut() {
        let (trigger, signal) = channel();
        let (start, mut ticks) = (Instant::now(), 0);
        let serving = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                ticks += 1;
                if ticks == 3 {
                    trigger.drain_within(Duration::from_millis(2500));
                }
            }
        };
        let outcome: Option<()> = signal.until_cut(pin!(serving)).await;
        assert_eq!((outcome, ticks), (None, 5));
        assert_eq!(start.elapsed().as_millis(), 5500);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_by_itself_is_not_cut() {
        let (_trigger, signal) = channel();
        let serving = tokio::time::sleep(Duration::from_secs(1));
        assert_eq!(signal.until_cut(pin!(serving)).await, Some(()));
    }

    #[tokio::test]
    async fn the_passing_of_the_cut_wakes_what_runs_in_another_task() {
        let cut = std::sync::Arc::new(Cut::default());
        let other = std::sync::Arc::clone(&cut);
        let waiting = tokio::spawn(async move {
            let serving = pin!(other.unless_passed(future::pending::<()>()));
            other.waking(serving).await
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        cut.pass();
        assert_eq!(waiting.await.unwrap(), None);
        assert_eq!(cut.unless_passed(async { 7 }).await, Some(7), "what need not wait is done");
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_reaches_connections_already_waiting_for_the_cut() {
        let (trigger, signal) = channel();
        let start = Instant::now();
        trigger.drain_within(Duration::from_secs(50));
        let mut waiting = signal.clone();
        let waiter = tokio::spawn(async move {
            waiting.cut().await;
            Instant::now()
        });
        tokio::task::yield_now().await;
        trigger.drain_within(Duration::from_secs(2));
        let at = waiter.await.unwrap();
        assert_eq!((at - start).as_secs(), 2);
    }
}
