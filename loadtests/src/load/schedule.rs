//! When exchanges are due. Open loop: the times are fixed beforehand, whatever the proxy does, and
//! latency is counted from them, so that a stall is seen by all who would have met it. Closed loop:
//! the next one is due when the last is done.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fs::File,
    future::poll_fn,
    io,
    os::fd::AsFd as _,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::net::unix::pipe;

/// How many exchanges are asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as the answers come.
    Closed,
    /// So many per second; with random times in between, or equal ones.
    Open { rate: f64, poisson: bool },
}

/// Hands out the times to the workers of one load.
#[derive(Debug)]
pub struct Schedule {
    pace: Cell<Pace>,
    /// How long a time may wait for a worker before it is given up.
    patience: Duration,
    given_up: Cell<u64>,
    due: RefCell<VecDeque<Instant>>,
    waiting: RefCell<VecDeque<Waker>>,
    stopped: Cell<bool>,
}

impl Schedule {
    pub fn new(pace: Pace, patience: Duration) -> Self {
        Self {
            pace: Cell::new(pace),
            patience,
            given_up: Cell::new(0),
            due: RefCell::default(),
            waiting: RefCell::default(),
            stopped: Cell::new(false),
        }
    }

    /// The time of the next exchange, once it has come. `None`: there are no more.
    pub async fn next(&self) -> Option<Instant> {
        if self.pace.get() == Pace::Closed {
            return (!self.stopped.get()).then(Instant::now);
        }
        poll_fn(|cx| {
            if self.stopped.get() {
                return Poll::Ready(None);
            }
            if let Some(due) = self.take_due() {
                return Poll::Ready(Some(due));
            }
            self.waiting.borrow_mut().push_back(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn take_due(&self) -> Option<Instant> {
        let mut times = self.due.borrow_mut();
        while let Some(due) = times.pop_front() {
            if self.patience == Duration::MAX || due.elapsed() <= self.patience {
                return Some(due);
            }
            self.given_up.set(self.given_up.get() + 1);
        }
        None
    }

    /// Another rate from now on; what waits is given up.
    pub fn set_rate(&self, rate: f64) {
        self.pace.set(Pace::Open { rate, poisson: false });
        self.due.borrow_mut().clear();
    }

    pub fn stop(&self) {
        self.stopped.set(true);
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Lets the times come, until stopped.
    pub async fn run(&self) -> io::Result<()> {
        let timer = Timer::new()?;
        let mut random = fastrand::Rng::with_seed(7);
        let mut next = Instant::now();
        while !self.stopped.get()
            && let Pace::Open { rate, poisson } = self.pace.get()
        {
            timer.until(next).await?;
            let now = Instant::now();
            while next <= now {
                self.due.borrow_mut().push_back(next);
                if let Some(waker) = self.waiting.borrow_mut().pop_front() {
                    waker.wake();
                }
                next += gap(rate, poisson, &mut random);
            }
        }
        Ok(())
    }
}

/// The time between two exchanges.
fn gap(rate: f64, poisson: bool, random: &mut fastrand::Rng) -> Duration {
    let mean = 1.0 / rate;
    let gap = if poisson { mean * -(1.0 - random.f64()).ln() } else { mean };
    Duration::from_secs_f64(gap)
}

/// A kernel timer: the runtime's own counts in milliseconds, which is many requests.
#[derive(Debug)]
struct Timer {
    timer: TimerFd,
    /// The same timer, for the runtime to wait on. It is read like a pipe; the runtime has no type of
    /// its own for it that can be made without `unsafe`.
    expirations: pipe::Receiver,
}

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let file = File::from(timer.as_fd().try_clone_to_owned()?);
        Ok(Self { timer, expirations: pipe::Receiver::from_file_unchecked(file)? })
    }

    async fn until(&self, time: Instant) -> io::Result<()> {
        let left = time.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // What has arrived meanwhile has its turn also when the times have run away.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let after = Expiration::OneShot(TimeSpec::from_duration(left));
        self.timer.set(after, TimerSetTimeFlags::empty())?;
        self.expirations.readable().await?;
        // The count of expirations is of no interest; that there is none yet is found out by the
        // caller, who looks at the time.
        match self.expirations.try_read(&mut [0; 8]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn open_times_are_evenly_apart_however_late_they_are_taken() {
        let schedule = Schedule::new(Pace::Open { rate: 10_000.0, poisson: false }, Duration::MAX);
        let take = async {
            let mut times = Vec::new();
            while times.len() < 50 {
                times.push(schedule.next().await.unwrap());
                tokio::task::yield_now().await;
            }
            schedule.stop();
            times
        };
        let (times, run) = tokio::join!(take, schedule.run());
        run.unwrap();
        for pair in times.windows(2) {
            assert_eq!(pair[1] - pair[0], Duration::from_micros(100));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stopped_schedule_ends_those_who_wait() {
        let schedule = Schedule::new(Pace::Open { rate: 0.001, poisson: false }, Duration::MAX);
        schedule.due.borrow_mut().clear();
        let (first, ()) = tokio::join!(schedule.next(), async { schedule.stop() });
        assert_eq!(first, None);
    }

    #[test]
    fn random_gaps_have_the_mean_of_the_rate() {
        let mut random = fastrand::Rng::with_seed(1);
        let total: Duration = (0..100_000).map(|_| gap(1000.0, true, &mut random)).sum();
        assert!((total.as_secs_f64() - 100.0).abs() < 2.0, "{total:?}");
    }
}
