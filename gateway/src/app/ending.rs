//! How a proxy ends.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{bootstrap::Bootstrap, listener::ListenerManager};

/// After the workload of a sidecar has ended, for what is still on its way. The kubelet gives two
/// seconds when all other time is used up.
const LAST: Duration = Duration::from_millis(1500);
/// Between two looks at whether anything is open.
const INTERVAL: Duration = Duration::from_millis(50);

/// The end of a sidecar. Its workload may still be at work: what that calls is served to the last, what
/// calls it is asked to go elsewhere, and not before that can be known there.
#[derive(Debug)]
pub struct Ending {
    listeners: Arc<ListenerManager>,
    /// Whether somebody has asked for it.
    asked: watch::Sender<bool>,
    delay: Duration,
    _retiring: AbortOnDropHandle<()>,
}

impl Ending {
    pub fn new(bootstrap: &Bootstrap, listeners: &Arc<ListenerManager>) -> Self {
        let asked = watch::Sender::new(false);
        let retiring = retire(Arc::clone(listeners), asked.subscribe(), bootstrap.drain_delay);
        Self {
            listeners: Arc::clone(listeners),
            asked,
            delay: bootstrap.drain_delay,
            _retiring: AbortOnDropHandle::new(tokio::spawn(retiring)),
        }
    }

    /// Where it is asked for.
    pub fn asking(&self) -> watch::Sender<bool> {
        self.asked.clone()
    }

    /// Ends, and returns how many connections were cut. Who was asked before has had his time, and his
    /// workload is gone; else that is asked to end only now as well.
    pub async fn end(&self, within: Duration) -> usize {
        if !self.asked.send_replace(true) {
            let deadline = Instant::now() + within;
            sleep(self.delay.min(within)).await;
            // The time is up: what is open is cut below.
            let _ = timeout_at(deadline, self.nothing_open()).await;
        }
        self.listeners.drain(LAST).await
    }

    async fn nothing_open(&self) {
        while self.listeners.open_connections() > 0 {
            sleep(INTERVAL).await;
        }
    }
}

async fn retire(
    listeners: Arc<ListenerManager>,
    mut asked: watch::Receiver<bool>,
    delay: Duration,
) {
    if asked.wait_for(|asked| *asked).await.is_err() {
        return;
    }
    sleep(delay).await;
    tracing::info!("clients of the workload are told to go elsewhere");
    listeners.retire_inbound().await;
}
