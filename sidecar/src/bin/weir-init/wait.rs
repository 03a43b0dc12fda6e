//! A container's hook: it ends when another process has programmed the rules.

use std::{
    thread,
    time::{Duration, Instant},
};

use weir_sidecar::redirect;

/// What the kernel is given to program them, and the node to start who does.
const LIMIT: Duration = Duration::from_secs(30);
/// A question takes a fraction of a millisecond.
const PAUSE: Duration = Duration::from_millis(2);

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ask for the rules")]
    Unknown(#[from] redirect::Error),
    #[error(
        "nobody has programmed the rules within {} s; the container's log says why",
        LIMIT.as_secs()
    )]
    TimedOut,
}

/// Waits until there are rules in the network namespace of the calling thread.
pub fn for_rules() -> Result<(), Error> {
    let until = Instant::now() + LIMIT;
    while !redirect::is_applied()? {
        if Instant::now() >= until {
            return Err(Error::TimedOut);
        }
        thread::park_timeout(PAUSE);
    }
    Ok(())
}
