//! Waiting until everything else that is ready has run: how many small writes become one.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::runtime::{Handle, RuntimeFlavor};

/// The task of an HTTP/2 connection is woken by each stream that has a frame for it. If it ran at
/// once, as the scheduler would have it, every frame would be a write of its own; when it runs after
/// the streams that are ready, one write takes the frames of all of them. The price is a look at the
/// scheduler's queue each time the task is woken.
pub struct LastInLine {
    state: State,
    line: Line,
}

enum Line {
    /// One thread runs its tasks in the order in which they were woken: woken again, this one is the
    /// last, without a look at what sockets have to say.
    OfOneThread,
    /// The scheduler runs first what was woken last, and a task that goes to the end of its queue
    /// makes it wake another thread, to help. What waits for the turn after the next look at sockets
    /// does neither.
    OfSeveral(Arc<NextTurn>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To get in line when woken.
    Away,
    /// Wakes from elsewhere do not count until the line has passed.
    InLine,
    OurTurn,
}

/// Woken by the scheduler when nothing else was ready.
struct NextTurn {
    has_come: AtomicBool,
    /// Held for as long as it takes to clone or replace a waker.
    task: Mutex<Waker>,
}

impl LastInLine {
    /// Ready once the tasks that are ready have run, and from then on until the turn
    /// [`is_over`](Self::is_over).
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match (self.state, &self.line) {
            (State::OurTurn, _) => return Poll::Ready(()),
            (State::Away, Line::OfOneThread) => {
                self.state = State::InLine;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // While it was in line, it was not run, whoever woke it.
            (State::InLine, Line::OfOneThread) => {}
            (State::Away, Line::OfSeveral(turn)) => {
                self.state = State::InLine;
                turn.wait(cx);
                return Poll::Pending;
            }
            (State::InLine, Line::OfSeveral(turn)) => {
                if !turn.has_come.load(Ordering::Acquire) {
                    return Poll::Pending;
                }
            }
        }
        self.state = State::OurTurn;
        Poll::Ready(())
    }

    /// There is nothing more to do: what wakes the task next gathers others again.
    pub fn is_over(&mut self) {
        self.state = State::Away;
    }
}

impl Default for LastInLine {
    /// For a task of the runtime this is called in.
    fn default() -> Self {
        let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
        let line = match flavor {
            Ok(RuntimeFlavor::CurrentThread) => Line::OfOneThread,
            _ => Line::OfSeveral(Arc::new(NextTurn {
                has_come: AtomicBool::new(false),
                task: Mutex::new(Waker::noop().clone()),
            })),
        };
        Self { state: State::Away, line }
    }
}

impl NextTurn {
    fn wait(self: &Arc<Self>, cx: &Context<'_>) {
        self.has_come.store(false, Ordering::Relaxed);
        self.task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(cx.waker());
        let waker = Waker::from(Arc::clone(self));
        // Polled once, it has put the waker in line, which is all that is wanted of it.
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
    }
}

impl Wake for NextTurn {
    fn wake(self: Arc<Self>) {
        self.has_come.store(true, Ordering::Release);
        self.task.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, task::ready};

    use tokio::{sync::Notify, task::JoinSet};

    use super::*;

    #[tokio::test]
    async fn a_task_in_line_of_one_thread_runs_after_all_that_were_ready() {
        a_task_in_line_runs_after_all_that_were_ready().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_task_in_line_of_several_threads_runs_after_all_that_were_ready() {
        // What others are spawned by is a task of the same worker.
        tokio::spawn(a_task_in_line_runs_after_all_that_were_ready()).await.unwrap();
    }

    async fn a_task_in_line_runs_after_all_that_were_ready() {
        const OTHERS: usize = 20;
        let ran = Arc::new(AtomicUsize::new(0));
        let woken = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let seen = Arc::clone(&ran);
        let wakes = Arc::clone(&woken);
        let last = tokio::spawn(async move {
            let mut turn = LastInLine::default();
            let mut wake = pin!(wakes.notified());
            poll_fn(|cx| {
                ready!(turn.poll(cx));
                let woken = wake.as_mut().poll(cx);
                turn.is_over();
                woken
            })
            .await;
            let mut first = true;
            poll_fn(|cx| {
                if std::mem::take(&mut first) {
                    turn.is_over();
                }
                turn.poll(cx)
            })
            .await;
            seen.load(Ordering::Relaxed)
        });
        for _ in 0..OTHERS {
            let (ran, woken) = (Arc::clone(&ran), Arc::clone(&woken));
            tasks.spawn(async move {
                ran.fetch_add(1, Ordering::Relaxed);
                woken.notify_one();
            });
        }
        assert_eq!(last.await.unwrap(), OTHERS);
        while tasks.join_next().await.is_some() {}
    }
}
