//! When a proxy is ready: never again for the worse, but at its end.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use weir_config::compile::ProxyKind;

use crate::bootstrap::Bootstrap;

/// What is still missing.
#[derive(Debug, Clone)]
pub struct Readiness {
    ready: watch::Sender<bool>,
    configured: watch::Sender<bool>,
    /// A sidecar without a certificate can be reached by nobody of the mesh. A gateway serves clients
    /// that know nothing of it.
    identified: Arc<AtomicBool>,
    /// Where somebody else redirects connections, an application that starts before that goes round the
    /// proxy.
    reached: Arc<AtomicBool>,
}

impl Readiness {
    pub fn new(bootstrap: &Bootstrap, ready: watch::Sender<bool>) -> Self {
        let needs_identity = matches!(bootstrap.kind, ProxyKind::Sidecar { .. });
        Self {
            ready,
            configured: watch::Sender::new(false),
            identified: Arc::new(AtomicBool::new(!needs_identity)),
            reached: Arc::new(AtomicBool::new(!bootstrap.awaits_redirection)),
        }
    }

    /// Whether nobody is served before there is a certificate.
    pub fn needs_identity(&self) -> bool {
        !self.identified.load(Relaxed)
    }

    /// The first configuration is in force. It has what it needs when `warmed` is over; nothing waits
    /// for that here. Not concluded any more once the handle is dropped.
    pub fn is_configured_after(
        &self,
        warmed: impl Future<Output = ()> + Send + 'static,
    ) -> AbortOnDropHandle<()> {
        let readiness = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            warmed.await;
            readiness.is_configured();
        }))
    }

    fn is_configured(&self) {
        self.configured.send_replace(true);
        self.conclude();
    }

    /// There is a certificate, or none to come.
    pub fn is_somebody(&self) {
        self.identified.store(true, Relaxed);
        self.conclude();
    }

    /// Returns once there is a configuration in force.
    pub async fn configuration(&self) {
        // An error: nobody is left who could say so. We are.
        let _ = self.configured.subscribe().wait_for(|it| *it).await;
    }

    /// Connections are redirected.
    pub fn is_reached(&self) {
        self.reached.store(true, Relaxed);
        self.conclude();
    }

    pub fn end(&self) {
        self.ready.send_replace(false);
    }

    fn conclude(&self) {
        let all = [&self.identified, &self.reached];
        let is_ready = *self.configured.borrow() && all.iter().all(|it| it.load(Relaxed));
        if is_ready && !self.ready.send_replace(true) {
            tracing::info!("ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is needed but a configuration.
    fn readiness() -> (Readiness, watch::Receiver<bool>) {
        let (ready, is_ready) = watch::channel(false);
        let met = || Arc::new(AtomicBool::new(true));
        let configured = watch::Sender::new(false);
        (Readiness { ready, configured, identified: met(), reached: met() }, is_ready)
    }

    #[test]
    fn a_sidecar_needs_a_configuration_and_a_certificate() {
        let (readiness, is_ready) = readiness();
        readiness.identified.store(false, Relaxed);
        readiness.is_configured();
        assert!(!*is_ready.borrow());
        readiness.is_somebody();
        assert!(*is_ready.borrow());
        readiness.end();
        assert!(!*is_ready.borrow());
    }

    #[test]
    fn a_gateway_needs_a_configuration() {
        let (readiness, is_ready) = readiness();
        readiness.is_configured();
        assert!(*is_ready.borrow());
    }

    #[test]
    fn a_sidecar_that_awaits_redirection_needs_that_too() {
        let (readiness, is_ready) = readiness();
        readiness.reached.store(false, Relaxed);
        readiness.is_configured();
        assert!(!*is_ready.borrow());
        readiness.is_reached();
        assert!(*is_ready.borrow());
    }
}
