//! Where a panic ends: at the exchange it happened in, not at the connection with its other exchanges.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Poll,
};

/// The future panicked. The panic itself was reported, with its place, by the process' hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panicked;

/// Runs `future` to its end, also where that is a panic.
///
/// What the future borrows is left as the panic found it: it has to be something that refuses to be
/// used wrongly, as a session does that was in the middle of a message.
///
/// Pinned by the caller: a future handed over by value would take its room twice.
pub async fn caught<F: Future>(mut future: Pin<&mut F>) -> Result<F::Output, Panicked> {
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(_payload) => Poll::Ready(Err(Panicked)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_value_before_and_after_a_wait() {
        assert_eq!(caught(pin!(async { 7 })).await, Ok(7));
        let at_once = pin!(async { panic!("expected by the test") });
        assert_eq!(caught(at_once).await, Err::<(), _>(Panicked));
        let later = pin!(async {
            tokio::task::yield_now().await;
            panic!("expected by the test")
        });
        assert_eq!(caught(later).await, Err::<(), _>(Panicked));
    }
}
