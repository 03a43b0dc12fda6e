//! The proxies that are connected, and what they have.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use tokio::sync::watch;

/// One of them, as `/debug/syncz` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ProxyStatus {
    /// What it calls itself; for people.
    pub node: Arc<str>,
    /// The cluster it says it is in.
    pub cluster: Arc<str>,
    pub identity: Arc<str>,
    pub version: Arc<str>,
    /// The last push that was sent.
    pub sent: Arc<str>,
    /// The last push that was answered.
    pub acknowledged: Arc<str>,
    /// Resources of which it has an older version, or none, and why.
    pub rejected: BTreeMap<String, String>,
}

/// What a proxy did not apply.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rejected {
    pub resource: String,
    pub message: String,
}

/// All of them.
#[derive(Debug)]
pub struct Proxies {
    next: AtomicU64,
    connected: Mutex<BTreeMap<u64, Arc<Mutex<ProxyStatus>>>>,
    /// Changes when what is rejected does.
    rejections: watch::Sender<u64>,
}

impl Default for Proxies {
    fn default() -> Self {
        Self {
            next: AtomicU64::default(),
            connected: Mutex::default(),
            rejections: watch::Sender::new(0),
        }
    }
}

impl Proxies {
    #[must_use]
    pub fn snapshot(&self) -> Vec<ProxyStatus> {
        self.all().iter().map(|status| lock(status).clone()).collect()
    }

    /// What any proxy did not apply, without repetition.
    #[must_use]
    pub fn rejected(&self) -> Vec<Rejected> {
        let mut all: Vec<Rejected> = Vec::new();
        for proxy in self.all() {
            all.extend(lock(&proxy).rejected.iter().map(|(resource, message)| Rejected {
                resource: resource.clone(),
                message: message.clone(),
            }));
        }
        all.sort();
        all.dedup();
        all
    }

    /// Tells whenever [`Self::rejected`] may be different.
    #[must_use]
    pub fn watch_rejections(&self) -> watch::Receiver<u64> {
        self.rejections.subscribe()
    }

    pub(super) fn connect(self: &Arc<Self>, status: ProxyStatus) -> Connected {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let status = Arc::new(Mutex::new(status));
        lock(&self.connected).insert(id, Arc::clone(&status));
        Connected { proxies: Arc::clone(self), id, status }
    }

    fn all(&self) -> Vec<Arc<Mutex<ProxyStatus>>> {
        lock(&self.connected).values().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics while it holds a lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A proxy that is connected, as long as this exists.
#[derive(Debug)]
pub(super) struct Connected {
    proxies: Arc<Proxies>,
    id: u64,
    status: Arc<Mutex<ProxyStatus>>,
}

impl Connected {
    pub(super) fn update(&self, change: impl FnOnce(&mut ProxyStatus)) {
        let mut status = lock(&self.status);
        let before = status.rejected.clone();
        change(&mut status);
        let is_different = status.rejected != before;
        drop(status);
        if is_different {
            self.proxies.rejections.send_modify(|changes| *changes += 1);
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        lock(&self.proxies.connected).remove(&self.id);
        if !lock(&self.status).rejected.is_empty() {
            self.proxies.rejections.send_modify(|changes| *changes += 1);
        }
    }
}
