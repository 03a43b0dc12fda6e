//! Making sockets follow the configuration: bind, update in place, drain, unbind.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    error::Error as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use weir_config::model::{
    ListenerName,
    listener::{BindAddress, ListenerKind},
};

use super::{
    ListenerState, Listeners, accept,
    bind::{BindError, BindOptions, BoundAddress, ListeningSocket},
    overload::Overload,
    serve::{Binding, Shared},
};
use crate::{engine::Engine, worker::Workers};

/// Between attempts to bind an address; doubled each time.
const MIN_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(5);
/// After the cut, until the tasks of the connections have noticed.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// Owns the sockets of a proxy.
#[derive(Debug)]
pub struct ListenerManager {
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// Told when there may be something to bind again.
    applied: Arc<Notify>,
    _retry: AbortOnDropHandle<()>,
}

/// A listener and whether it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    pub name: ListenerName,
    pub configured: BindAddress,
    /// Where it listens, or why it does not and what to do about it.
    pub bound: Result<BoundAddress, String>,
}

#[derive(Debug, Default)]
struct State {
    current: Listeners,
    bindings: BTreeMap<Key, BoundListener>,
    /// Listeners whose address another one has.
    duplicates: Vec<ListenerStatus>,
    /// What comes in is to come to its end.
    is_retiring: bool,
    /// Nothing is bound any more.
    ended: bool,
}

/// What makes a socket the same socket: its address, whatever the listener is called, so that a
/// renamed listener keeps it. Every port 0 is another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    address: String,
    any_port_of: Option<ListenerName>,
}

impl Key {
    fn of(state: &ListenerState) -> Self {
        let address = &state.config.address;
        let is_any_port = matches!(address, BindAddress::Ip(address) if address.port() == 0);
        let any_port_of = is_any_port.then(|| state.config.name.clone());
        Self { address: text(address), any_port_of }
    }
}

/// The address as people write it.
fn text(address: &BindAddress) -> String {
    match address {
        BindAddress::Ip(address) => address.to_string(),
        BindAddress::Unix(path) => format!("unix://{}", path.display()),
    }
}

#[derive(Debug)]
struct BoundListener {
    binding: Arc<Binding>,
    socket: SocketState,
}

#[derive(Debug)]
enum SocketState {
    Accepting { address: BoundAddress, accept: AbortOnDropHandle<()> },
    Failed { error: BindError, pause: Duration, retry_at: Instant },
}

impl ListenerManager {
    /// Nothing is bound before `apply`. `workers` serve the connections; the first accepts them.
    #[must_use]
    pub fn new(engine: Arc<Engine>, workers: Workers) -> Arc<Self> {
        let runtime = workers.first().clone();
        let shared = Arc::new(Shared {
            overload: Overload::new(&engine.limits, workers.count(), &engine.telemetry.metrics),
            workers,
            connections: TaskTracker::new(),
            engine,
        });
        let applied = Arc::<Notify>::default();
        Arc::new_cyclic(|this| Self {
            shared,
            state: Mutex::default(),
            applied: Arc::clone(&applied),
            _retry: AbortOnDropHandle::new(runtime.spawn(retry(Weak::clone(this), applied))),
        })
    }

    /// Makes the sockets follow `listeners`, which were published before: a new chain finds the
    /// clusters it names. Connections whose filter chain stays are not touched;
    /// those of a chain that is gone are drained. An address that cannot be bound keeps nothing else
    /// from being served, and is tried again.
    pub async fn apply(&self, listeners: &Listeners) {
        let mut state = self.state.lock().await;
        if state.ended {
            return;
        }
        let drain = self.shared.engine.snapshot().settings.drain_duration;
        for (old, next) in state.current.changed(listeners) {
            let next = next.map(|next| &next.chains);
            contained(|| {
                old.chains.drained_by(next).for_each(|chain| chain.drain_within(drain));
            });
        }
        for (next, old) in listeners.changed(&state.current) {
            contained(|| next.chains.tell_unavailable(old.map(|old| &old.chains)));
        }
        let (wanted, duplicates) = by_address(listeners);
        // First, so that a listener that moves finds its new address free.
        let gone: Vec<_> =
            state.bindings.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            if let Some(listener) = state.bindings.remove(&key) {
                listener.unbind().await;
            }
        }
        for (key, listener) in wanted {
            match state.bindings.get(&key) {
                Some(bound) => bound.binding.state.store(listener),
                None => {
                    let bound = self.bind(listener);
                    state.bindings.insert(key, bound);
                }
            }
        }
        state.current = listeners.clone();
        if state.is_retiring {
            retire_inbound(listeners);
        }
        state.duplicates = duplicates;
        drop(state);
        self.applied.notify_one();
    }

    fn bind(&self, listener: Arc<ListenerState>) -> BoundListener {
        let metrics = self.shared.engine.telemetry.metrics.listener(&listener.config.name);
        let binding = Arc::new(Binding {
            state: ArcSwap::new(listener),
            shared: Arc::clone(&self.shared),
            metrics,
        });
        let socket = self.listen(&binding).unwrap_or_else(|error| {
            tracing::error!(listener = %binding.name(), error = sentence(&error), "not listening");
            SocketState::Failed { error, pause: MIN_RETRY, retry_at: Instant::now() + MIN_RETRY }
        });
        BoundListener { binding, socket }
    }

    /// A panic, which is a bug, costs this listener and no other, and is said as what is wrong with it.
    fn listen(&self, binding: &Arc<Binding>) -> Result<SocketState, BindError> {
        contained(|| self.open(binding)).unwrap_or_else(|| {
            let config = Arc::clone(&binding.state.load().config);
            Err(BindError::Bug { address: text(&config.address) })
        })
    }

    fn open(&self, binding: &Arc<Binding>) -> Result<SocketState, BindError> {
        // The socket belongs to the reactor of the runtime it is made in.
        let runtime = self.shared.workers.first();
        let _entered = runtime.enter();
        let config = Arc::clone(&binding.state.load().config);
        on_purpose::panic_opening(&text(&config.address));
        let options = BindOptions {
            both_families: config.kind.is_redirected() || config.kind == ListenerKind::Tunnel,
            is_transparent: config.is_transparent,
        };
        let socket = ListeningSocket::bind(&config.address, options)?;
        let address = socket.address();
        tracing::info!(listener = %binding.name(), %address, "listening");
        let accept = runtime.spawn(accept::run(socket, Arc::clone(binding)));
        Ok(SocketState::Accepting { address, accept: AbortOnDropHandle::new(accept) })
    }

    /// Tries again to bind what is due; returns when the next one will be.
    async fn bind_due(&self) -> Option<Instant> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        for bound in state.bindings.values_mut() {
            let SocketState::Failed { pause, retry_at, .. } = &bound.socket else { continue };
            if *retry_at > now {
                continue;
            }
            let pause = (*pause * 2).min(MAX_RETRY);
            bound.socket = self.listen(&bound.binding).unwrap_or_else(|error| {
                SocketState::Failed { error, pause, retry_at: now + pause }
            });
        }
        state.bindings.values().filter_map(BoundListener::retry_at).min()
    }

    /// Every listener, by name.
    pub async fn status(&self) -> Vec<ListenerStatus> {
        let state = self.state.lock().await;
        let mut status: Vec<_> = state
            .bindings
            .values()
            .map(BoundListener::status)
            .chain(state.duplicates.iter().cloned())
            .collect();
        status.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.overload.open_connections()
    }

    /// The beginning of the end of a workload: its sidecar asks clients to go elsewhere, by the answers
    /// to their requests. It goes on accepting, for those who have not heard of it. What the workload
    /// itself connects to goes on.
    pub async fn retire_inbound(&self) {
        let mut state = self.state.lock().await;
        state.is_retiring = true;
        retire_inbound(&state.current);
    }

    /// The end of a proxy: stops accepting, asks every connection to finish, waits, and cuts those
    /// that are still open after `within`. Returns how many those were.
    pub async fn drain(&self, within: Duration) -> usize {
        let mut state = self.state.lock().await;
        state.ended = true;
        for bound in std::mem::take(&mut state.bindings).into_values() {
            bound.unbind().await;
        }
        let chains = std::mem::take(&mut state.current);
        drop(state);
        let triggers = || chains.iter().flat_map(|listener| listener.chains.drained_by(None));
        let connections = &self.shared.connections;
        connections.close();
        triggers().for_each(|chain| chain.drain());
        if timeout(within, connections.wait()).await.is_ok() {
            return 0;
        }
        let late = connections.len();
        triggers().for_each(|chain| chain.drain_within(Duration::ZERO));
        // Not waiting for those either is what a deadline means.
        let _ = timeout(CUT_GRACE, connections.wait()).await;
        late
    }
}

impl BoundListener {
    /// Closes the socket before it returns, so that its address can be bound again.
    async fn unbind(self) {
        if let SocketState::Accepting { address, accept } = self.socket {
            tracing::info!(listener = %self.binding.name(), %address, "no longer listening");
            accept.abort();
            // The error is the abort.
            let _ = accept.await;
        }
    }

    fn retry_at(&self) -> Option<Instant> {
        match &self.socket {
            SocketState::Accepting { .. } => None,
            SocketState::Failed { retry_at, .. } => Some(*retry_at),
        }
    }

    fn status(&self) -> ListenerStatus {
        let config = Arc::clone(&self.binding.state.load().config);
        let bound = match &self.socket {
            SocketState::Accepting { address, .. } => Ok(address.clone()),
            SocketState::Failed { error, .. } => Err(sentence(error)),
        };
        ListenerStatus { name: config.name.clone(), configured: config.address.clone(), bound }
    }
}

fn retire_inbound(listeners: &Listeners) {
    let inbound = listeners.iter().filter(|it| it.config.kind == ListenerKind::Inbound);
    inbound.flat_map(|it| it.chains.drained_by(None)).for_each(|chain| chain.drain());
}

/// The listener of each address; of several the first by name, the others with that as their error.
fn by_address(listeners: &Listeners) -> (BTreeMap<Key, Arc<ListenerState>>, Vec<ListenerStatus>) {
    let mut wanted: BTreeMap<Key, Arc<ListenerState>> = BTreeMap::new();
    let mut duplicates = Vec::new();
    for listener in listeners.iter() {
        let key = Key::of(listener);
        let address = key.address.clone();
        match wanted.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(listener));
            }
            Entry::Occupied(entry) => {
                let listener_there = entry.get().config.name.to_string();
                let error = BindError::Duplicate { address, listener: listener_there };
                duplicates.push(ListenerStatus {
                    name: listener.config.name.clone(),
                    configured: listener.config.address.clone(),
                    bound: Err(sentence(&error)),
                });
            }
        }
    }
    (wanted, duplicates)
}

/// What `run` returns; `None`: it panicked, which the process' hook counts and reports with its place.
/// What is done for one listener is left undone then, and that of all others goes on.
fn contained<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

/// The error and its causes in one line.
fn sentence(error: &BindError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Binds again what could not be bound, for as long as there is a manager.
async fn retry(manager: Weak<ListenerManager>, applied: Arc<Notify>) {
    // The task may run before the manager that starts it is complete, when there is none to be had
    // yet; and nothing is bound before the first `apply`.
    applied.notified().await;
    loop {
        let next = match manager.upgrade() {
            Some(manager) => manager.bind_due().await,
            None => return,
        };
        match next {
            None => applied.notified().await,
            Some(at) => tokio::select! {
                () = sleep_until(at) => {}
                () = applied.notified() => {}
            },
        }
    }
}

/// No listener is known that panics when it is opened. So that tests can see what becomes of one from the
/// outside, debug builds panic where `WEIR_PANIC_OVER` is `opening ADDRESS`.
mod on_purpose {
    #[cfg(debug_assertions)]
    pub(super) fn panic_opening(address: &str) {
        use std::{env, sync::LazyLock};

        static TEXT: LazyLock<Option<String>> = LazyLock::new(|| env::var("WEIR_PANIC_OVER").ok());
        let Some(text) = &*TEXT else { return };
        assert!(*text != format!("opening {address}"), "asked to panic {text}");
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn panic_opening(_address: &str) {}
}
