//! From changed objects to a running configuration: compile, build what runs, publish.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::runtime::Handle;
use weir_config::{
    api::{MeshConfig, ObjectKey},
    compile::{Change, Compiler, Proxy},
    diagnostic::{Diagnostic, Severity},
    model::{Delta, Resources, Secret, SecretName},
};

use crate::{
    cluster::{Environment, Resolver},
    engine::Engine,
    listener::ListenerManager,
    snapshot::Snapshot,
    telemetry::metrics::Applied,
    tls::{SecretProblem, Secrets},
};

/// How long the first configuration waits for the names in it to resolve. Later ones do not wait:
/// they must not hold up each other.
const WARM_LIMIT: Duration = Duration::from_secs(5);

/// The only writer of the engine's snapshot.
pub struct Applier {
    engine: Arc<Engine>,
    listeners: Arc<ListenerManager>,
    resolver: Resolver,
    state: Arc<Mutex<State>>,
    /// The data plane's: what resolves names and fetches keys runs there.
    runtime: Handle,
    warm: bool,
    /// What was logged already.
    reported: HashSet<Diagnostic>,
    reported_secrets: Vec<SecretProblem>,
}

/// What a source of configuration has to say.
#[derive(Debug, Default)]
pub struct Update {
    pub changes: Vec<Change>,
    /// `None`: as before.
    pub mesh: Option<MeshConfig>,
    /// About documents that could not be read, all there are at the moment.
    pub unread: Vec<Diagnostic>,
    /// When the source noticed the change.
    pub noticed: Option<Instant>,
}

/// What was configured, for those who ask: the admin endpoints.
#[derive(Clone)]
pub struct Configured(Arc<Mutex<State>>);

struct State {
    compiler: Compiler,
    secrets: Secrets,
    /// Of documents that could not be read, which the compiler never saw.
    unread: Vec<Diagnostic>,
}

impl fmt::Debug for Applier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Applier").field("warm", &self.warm).finish_non_exhaustive()
    }
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Configured")
    }
}

impl Applier {
    #[must_use]
    pub fn new(
        engine: Arc<Engine>,
        listeners: Arc<ListenerManager>,
        resolver: Resolver,
        runtime: Handle,
        proxy: Proxy,
    ) -> Self {
        let state = State {
            compiler: Compiler::new(proxy, None),
            secrets: Secrets::default(),
            unread: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        Self {
            engine,
            listeners,
            resolver,
            state,
            runtime,
            warm: false,
            reported: HashSet::new(),
            reported_secrets: Vec::new(),
        }
    }

    #[must_use]
    pub fn configured(&self) -> Configured {
        Configured(Arc::clone(&self.state))
    }

    /// Makes the proxy run what the objects say after `update`. Returns once new connections and
    /// requests see it.
    pub async fn apply(&mut self, update: Update) {
        let started = update.noticed.unwrap_or_else(Instant::now);
        let snapshot = {
            let mut state = lock(&self.state);
            state.unread = update.unread;
            let mut delta = Delta::default();
            if let Some(mesh) = update.mesh {
                delta.merge(state.compiler.set_mesh_config(Some(mesh)));
            }
            delta.merge(state.compiler.apply(update.changes));
            if !self.warm {
                // Defaults included, which are no change to the compiler.
                delta = everything(state.compiler.resources());
            }
            (!delta.is_empty()).then(|| {
                state.secrets = Secrets::next(&state.secrets, &delta);
                self.build(&state, &delta)
            })
        };
        if let Some(snapshot) = snapshot {
            self.publish(snapshot).await;
        }
        self.report(started.elapsed());
    }

    /// The proxy's own certificate is this from now on; `None`: it has none any more.
    pub async fn set_identity(&mut self, secret: Option<Arc<Secret>>) {
        let snapshot = {
            let mut state = lock(&self.state);
            let mut delta = Delta::default();
            delta.secrets.insert(SecretName::workload(), secret);
            state.secrets = Secrets::next(&state.secrets, &delta);
            // Before there is a configuration, nothing uses it.
            self.warm.then(|| self.build(&state, &Delta::default()))
        };
        if let Some(snapshot) = snapshot {
            self.publish(snapshot).await;
        }
    }

    /// Certificates and keys in files may have changed.
    pub async fn refresh_files(&mut self) {
        let snapshot = {
            let mut state = lock(&self.state);
            let Some(secrets) = state.secrets.refresh_files() else { return };
            state.secrets = secrets;
            self.build(&state, &Delta::default())
        };
        self.publish(snapshot).await;
        self.report_secrets();
    }

    fn build(&self, state: &State, delta: &Delta) -> Arc<Snapshot> {
        let _runtime = self.runtime.enter();
        let telemetry = &self.engine.telemetry;
        let environment = Environment {
            secrets: &state.secrets,
            resolver: &self.resolver,
            limits: &self.engine.limits,
            stats: &|destination| telemetry.cluster_stats(destination),
            gauges: &|name| telemetry.metrics.cluster(name),
        };
        let resources = state.compiler.resources();
        Arc::new(Snapshot::next(&self.engine.snapshot(), resources, delta, &environment))
    }

    /// In this order: what routes need is there before they are, and a listener opens last.
    async fn publish(&mut self, snapshot: Arc<Snapshot>) {
        if !self.warm && !snapshot.clusters.warm(WARM_LIMIT).await {
            tracing::warn!(
                "some host names did not resolve yet; their clusters have no endpoints until they do"
            );
        }
        self.warm = true;
        self.engine.telemetry.apply(&snapshot.settings);
        self.engine.publish(Arc::clone(&snapshot));
        self.listeners.apply(&snapshot.listeners).await;
    }

    /// Says what is wrong with the configuration, once, and counts it.
    fn report(&mut self, duration: Duration) {
        let configured = Configured(Arc::clone(&self.state));
        let diagnostics = configured.diagnostics();
        let of = |severity| diagnostics.iter().filter(move |it| it.severity == severity);
        let rejected: BTreeSet<_> = of(Severity::Error)
            .map(|diagnostic| (&diagnostic.object, &diagnostic.source))
            .collect();
        let objects = lock(&self.state).compiler.object_count();
        self.engine.telemetry.metrics.config.applied(&Applied {
            version: self.engine.snapshot().version,
            duration,
            accepted: objects,
            rejected: rejected.len(),
            errors: of(Severity::Error).count(),
            warnings: of(Severity::Warning).count(),
        });
        for diagnostic in diagnostics.iter().filter(|it| !self.reported.contains(*it)) {
            match diagnostic.severity {
                Severity::Error => tracing::error!("{diagnostic}"),
                Severity::Warning => tracing::warn!("{diagnostic}"),
            }
        }
        self.reported = diagnostics.into_iter().collect();
        self.report_secrets();
    }

    /// Says what is wrong with certificates and keys, once: only loading them shows it.
    fn report_secrets(&mut self) {
        let problems = self.configured().secret_problems();
        for problem in problems.iter().filter(|it| !self.reported_secrets.contains(it)) {
            let SecretProblem { secret, severity, message } = problem;
            match severity {
                Severity::Error => tracing::error!("Secret {secret}: {message}"),
                Severity::Warning => tracing::warn!("Secret {secret}: {message}"),
            }
        }
        self.reported_secrets = problems;
    }
}

impl Configured {
    /// Runs `read` on what is configured. Held for as long as that takes; configuration waits.
    pub fn with_resources<T>(&self, read: impl FnOnce(&Resources) -> T) -> T {
        read(lock(&self.0).compiler.resources())
    }

    /// Everything that is wrong, or worth saying, now.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let state = lock(&self.0);
        let mut all = state.unread.clone();
        all.extend(state.compiler.diagnostics());
        all
    }

    /// Why the last version of an object was refused; empty if it is in force.
    #[must_use]
    pub fn refusal(&self, key: &ObjectKey) -> Vec<Diagnostic> {
        lock(&self.0).compiler.refusal(key).into_iter().cloned().collect()
    }

    /// What is wrong with certificates and keys.
    #[must_use]
    pub fn secret_problems(&self) -> Vec<SecretProblem> {
        lock(&self.0).secrets.problems(SystemTime::now())
    }
}

/// The first configuration as a change from nothing, defaults included.
fn everything(resources: &Resources) -> Delta {
    fn all<K: Ord + Clone, V>(
        map: &std::collections::BTreeMap<K, Arc<V>>,
    ) -> std::collections::BTreeMap<K, Option<Arc<V>>> {
        map.iter().map(|(name, value)| (name.clone(), Some(Arc::clone(value)))).collect()
    }
    let Resources {
        settings,
        listeners,
        filter_chains,
        virtual_hosts,
        clusters,
        endpoints,
        secrets,
        dns_records,
        policies,
    } = resources;
    Delta {
        settings: Some(Arc::clone(settings)),
        listeners: all(listeners),
        filter_chains: all(filter_chains),
        virtual_hosts: all(virtual_hosts),
        clusters: all(clusters),
        endpoints: all(endpoints),
        secrets: all(secrets),
        dns_records: all(dns_records),
        policies: Some(Arc::clone(policies)),
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
