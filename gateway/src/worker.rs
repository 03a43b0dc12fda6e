//! The threads that serve traffic. Each has a runtime of its own and what it needs to serve a request, so
//! that no request waits for, or wakes, another thread.

use std::{cell::Cell, sync::Arc};

use tokio::runtime::Handle;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// The number of the calling worker, counted from 0; 0 as well for threads that are none.
#[must_use]
pub fn current() -> usize {
    NUMBER.get()
}

/// The calling worker's, of what there is one of for each; of fewer, one that it shares.
///
/// # Panics
/// There is none.
#[must_use]
pub fn own<T>(each: &[T]) -> &T {
    &each[current() % each.len()]
}

/// Makes the calling thread a worker: the one of that number.
pub fn enlist(number: usize) {
    NUMBER.set(number);
}

/// The runtimes of all workers, by their numbers. There is at least one.
#[derive(Debug, Clone)]
pub struct Workers(Arc<[Handle]>);

impl Workers {
    /// `runtimes`: each of one thread, which was [enlisted](enlist) with its place among them.
    ///
    /// # Panics
    /// Without one.
    #[must_use]
    pub fn new(runtimes: impl IntoIterator<Item = Handle>) -> Self {
        let runtimes: Arc<[Handle]> = runtimes.into_iter().collect();
        assert!(!runtimes.is_empty(), "somebody has to work");
        Self(runtimes)
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// For what the workers have in common, and is there once: listening sockets, name resolution, keys.
    #[must_use]
    pub fn first(&self) -> &Handle {
        &self.0[0]
    }

    /// # Panics
    /// There is no worker of this number.
    #[must_use]
    pub fn runtime(&self, number: usize) -> &Handle {
        &self.0[number]
    }
}
