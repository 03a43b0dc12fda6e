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
    configured: Arc<AtomicBool>,
    /// A sidecar without a certificate can be reached by nobody of the mesh. A gateway serves clients
    /// that know nothing of it.
    identified: Arc<AtomicBool>,
}

impl Readiness {
    pub fn new(bootstrap: &Bootstrap, ready: watch::Sender<bool>) -> Self {
        let needs_identity = matches!(bootstrap.kind, ProxyKind::Sidecar { .. });
        Self {
            ready,
            configured: Arc::default(),
            identified: Arc::new(AtomicBool::new(!needs_identity)),
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
        self.configured.store(true, Relaxed);
        self.conclude();
    }

    /// There is a certificate, or none to come.
    pub fn is_somebody(&self) {
        self.identified.store(true, Relaxed);
        self.conclude();
    }

    pub fn end(&self) {
        self.ready.send_replace(false);
    }

    fn conclude(&self) {
        let is_ready = self.configured.load(Relaxed) && self.identified.load(Relaxed);
        if is_ready && !self.ready.send_replace(true) {
            tracing::info!("ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readiness(needs_identity: bool) -> (Readiness, watch::Receiver<bool>) {
        let (ready, is_ready) = watch::channel(false);
        let identified = Arc::new(AtomicBool::new(!needs_identity));
        (Readiness { ready, configured: Arc::default(), identified }, is_ready)
    }

    #[test]
    fn a_sidecar_needs_a_configuration_and_a_certificate() {
        let (readiness, is_ready) = readiness(true);
        readiness.is_configured();
        assert!(!*is_ready.borrow());
        readiness.is_somebody();
        assert!(*is_ready.borrow());
        readiness.end();
        assert!(!*is_ready.borrow());
    }

    #[test]
    fn a_gateway_needs_a_configuration() {
        let (readiness, is_ready) = readiness(false);
        readiness.is_configured();
        assert!(*is_ready.borrow());
    }
}
