//! Waiting until everything else that is ready has run: how many small writes become one.

use std::task::{Context, Poll};

/// The task of an HTTP/2 connection is woken by each stream that has a frame for it. If it ran at
/// once, every frame would be a write of its own; when it runs after the streams that are ready, one write
/// takes the frames of all of them. A worker runs its tasks in the order in which they were woken: woken
/// again, this one is the last, without a look at what sockets have to say.
#[derive(Debug, Default)]
pub struct LastInLine(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// To get in line when woken.
    #[default]
    Away,
    /// It is not run before the line has passed, whoever wakes it.
    InLine,
    OurTurn,
}

impl LastInLine {
    /// Ready once the tasks that are ready have run, and from then on until the turn
    /// [`is_over`](Self::is_over).
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 == State::Away {
            self.0 = State::InLine;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.0 = State::OurTurn;
        Poll::Ready(())
    }

    /// There is nothing more to do: what wakes the task next gathers others again.
    pub fn is_over(&mut self) {
        self.0 = State::Away;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::ready,
    };

    use tokio::{sync::Notify, task::JoinSet};

    use super::*;

    #[tokio::test]
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
