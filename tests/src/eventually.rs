//! Waiting for what will be true, with a deadline instead of a sleep.

use std::{fmt::Debug, time::Duration};

use tokio::time::Instant;

/// Long enough for a debug build on a busy machine; nothing waits this long unless it fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

const INTERVAL: Duration = Duration::from_millis(5);

/// Asks until the answer is `Some`, and returns it.
///
/// # Panics
/// After [`DEADLINE`], naming what was waited for.
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, ask).await
}

/// The same with a deadline of its own, for what takes its time on purpose.
///
/// # Panics
/// After `patience`, naming what was waited for.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Asks until the answer is `expected`.
///
/// # Panics
/// After [`DEADLINE`], with the last answer.
pub async fn eventually_eq<T: PartialEq + Debug>(expected: T, mut ask: impl AsyncFnMut() -> T) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = ask().await;
        if answer == expected {
            return;
        }
        assert!(Instant::now() < deadline, "expected {expected:?}, last answer was {answer:?}");
        tokio::time::sleep(INTERVAL).await;
    }
}
