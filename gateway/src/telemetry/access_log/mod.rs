//! The access log: one line per exchange, in the format and to the file the configuration names, both
//! of which may change while the proxy runs.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tracing::warn;
use weir_config::model;

mod escape;
mod format;
mod operator;
mod sink;
mod time;

use self::{format::Format, sink::Sink};
pub use self::{operator::Entry, sink::Counters};

/// The log in force, if there is one.
#[derive(Debug)]
pub struct AccessLog {
    active: ArcSwapOption<Active>,
    counters: Counters,
    workers: usize,
}

#[derive(Debug)]
struct Active {
    config: model::settings::AccessLog,
    format: Format,
    sink: Arc<Sink>,
}

impl AccessLog {
    /// Off until [`Self::apply`].
    #[must_use]
    pub fn new(workers: usize, counters: Counters) -> Self {
        Self { active: ArcSwapOption::empty(), counters, workers }
    }

    /// Puts another configuration in force. Lines of the one before are written out.
    pub fn apply(&self, config: Option<&model::settings::AccessLog>) {
        let current = self.active.load_full();
        if current.as_ref().map(|active| &active.config) == config {
            return;
        }
        let Some(config) = config else { return self.active.store(None) };
        let sink = match current.filter(|active| active.config.path == config.path) {
            Some(active) => Ok(Arc::clone(&active.sink)),
            None => Sink::open(&config.path, self.workers, self.counters.clone()).map(Arc::new),
        };
        let sink = match sink {
            Ok(sink) => sink,
            Err(error) => return warn!(%error, "the access log could not be started"),
        };
        let (format, problems) = Format::compile(&config.format);
        for problem in problems {
            warn!(problem, "access log format");
        }
        self.active.store(Some(Arc::new(Active { config: config.clone(), format, sink })));
    }

    /// Writes the line of an exchange; never waits.
    pub fn write(&self, entry: &Entry<'_>) {
        if let Some(active) = &*self.active.load() {
            active
                .sink
                .write(|buffer| active.format.write(entry, &mut buffer.time, &mut buffer.bytes));
        }
    }

    /// Opens the file again, after it was moved away (`SIGUSR1`).
    pub fn reopen(&self) {
        if let Some(active) = &*self.active.load() {
            active.sink.reopen();
        }
    }

    /// Waits, at most `timeout`, until every line so far is written. For the end of the process.
    pub fn flush(&self, timeout: Duration) {
        if let Some(active) = self.active.load_full()
            && !active.sink.flush(timeout)
        {
            warn!("the access log did not take its last lines in time");
        }
    }
}
