//! The tasks of a pool.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Mutex, PoisonError, Weak},
    task::Poll,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Pool, lane::Deadline};

/// Waits until something idle is over: by its age, or by the peer's doing.
pub(super) async fn watch(pool: Weak<Pool>) {
    let mut timer = pin!(sleep_until(Instant::now()));
    poll_fn(|cx| {
        loop {
            let Some(next) = pool.upgrade().and_then(|pool| pool.sweep(cx)) else {
                return Poll::Ready(());
            };
            let Deadline::At(deadline) = next else { return Poll::Pending };
            timer.as_mut().reset(deadline);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// The pool's tasks; they end with it.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}
