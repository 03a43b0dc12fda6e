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
    model::{Delta, Resources, SecretName, secret::Secret},
};

use super::contain::{State, Step, Transition, contained};
use crate::{
    cluster::{Environment, Resolver},
    engine::Engine,
    listener::ListenerManager,
    snapshot::Snapshot,
    telemetry::metrics::Applied,
    tls::{SecretProblem, Secrets, Workload},
};

/// How long a proxy is not said to be ready because names in its first configuration are still being
/// asked for. It serves all the same: a name that nobody answers for must not hold up the others.
const WARM_LIMIT: Duration = Duration::from_secs(5);

/// The only writer of the engine's snapshot.
pub struct Applier {
    engine: Arc<Engine>,
    listeners: Arc<ListenerManager>,
    resolver: Resolver,
    state: Arc<Mutex<State>>,
    /// The data plane's: what resolves names and fetches keys runs there.
    runtime: Handle,
    /// Nothing was put in force yet.
    is_first: bool,
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

impl fmt::Debug for Applier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Applier").field("is_first", &self.is_first).finish_non_exhaustive()
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
        let state = Arc::new(Mutex::new(State::new(Compiler::new(proxy, None))));
        Self {
            engine,
            listeners,
            resolver,
            state,
            runtime,
            is_first: true,
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
        let Update { changes, mesh, unread, noticed } = update;
        let started = noticed.unwrap_or_else(Instant::now);
        let mesh = mesh.into_iter().map(|mesh| Step::Mesh(Box::new(mesh)));
        let steps: Vec<_> = mesh.chain(changes.into_iter().map(Step::Object)).collect();
        let current = self.engine.snapshot();
        let next = {
            let mut state = lock(&self.state);
            state.unread = unread;
            let transition = Transition {
                state: &mut state,
                snapshot: Arc::clone(&current),
                is_first: self.is_first,
                build: &|resources, secrets, delta, prev| {
                    self.build(resources, secrets, delta, prev)
                },
            };
            transition.run(&steps)
        };
        if !Arc::ptr_eq(&current, &next) {
            self.publish(next).await;
        }
        self.report(started.elapsed());
    }

    /// The proxy's own certificate is this from now on; `None`: it has none any more.
    pub async fn set_identity(&mut self, workload: Option<&Workload>) {
        if let Some(uri) = workload.and_then(Workload::uri) {
            self.engine.telemetry.is_known_as(uri);
        }
        let secret = workload.map(|workload| Arc::clone(&workload.secret));
        let snapshot = {
            let mut state = lock(&self.state);
            let mut delta = Delta::default();
            state.identity.clone_from(&secret);
            delta.secrets.insert(SecretName::workload(), secret);
            let secrets = contained(|| Secrets::next(&state.secrets, &delta));
            secrets.and_then(|secrets| self.with_secrets(&mut state, secrets))
        };
        if let Some(snapshot) = snapshot {
            self.publish(snapshot).await;
        }
    }

    /// Ends once the names in the configuration in force were asked for, or after a while.
    pub fn warmed(&self) -> impl Future<Output = ()> + use<> {
        let snapshot = self.engine.snapshot();
        async move {
            if !snapshot.clusters.warm(WARM_LIMIT).await {
                tracing::warn!(
                    "some host names did not resolve yet; their clusters have no endpoints until \
                     they do"
                );
            }
        }
    }

    /// Certificates and keys in files may have changed.
    pub async fn refresh_files(&mut self) {
        let snapshot = {
            let mut state = lock(&self.state);
            let refreshed = contained(|| state.secrets.refresh_files()).flatten();
            refreshed.and_then(|secrets| self.with_secrets(&mut state, secrets))
        };
        if let Some(snapshot) = snapshot {
            self.publish(snapshot).await;
            self.report_secrets();
        }
    }

    /// `None`: nothing uses them yet, or they cannot be used, and the ones before stay.
    fn with_secrets(&self, state: &mut State, secrets: Secrets) -> Option<Arc<Snapshot>> {
        if self.is_first {
            state.secrets = secrets;
            return None;
        }
        let (resources, nothing) = (state.compiler.resources(), Delta::default());
        let prev = self.engine.snapshot();
        let snapshot = contained(|| self.build(resources, &secrets, &nothing, &prev))?;
        state.secrets = secrets;
        Some(Arc::new(snapshot))
    }

    fn build(
        &self,
        resources: &Resources,
        secrets: &Secrets,
        delta: &Delta,
        prev: &Snapshot,
    ) -> Snapshot {
        let _runtime = self.runtime.enter();
        let environment = Arc::new(Environment {
            secrets: secrets.clone(),
            resolver: self.resolver.clone(),
            limits: self.engine.limits.clone(),
            telemetry: Arc::clone(&self.engine.telemetry),
        });
        Snapshot::next(prev, resources, delta, &environment)
    }

    /// In this order: what routes need is there before they are, and a listener opens last.
    async fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.is_first = false;
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
        all.extend(state.mesh_refusal.clone());
        all.extend(state.compiler.diagnostics());
        all
    }

    /// Why the last version of an object was refused; empty if it is in force.
    #[must_use]
    pub fn refusal(&self, key: &ObjectKey) -> Vec<Diagnostic> {
        lock(&self.0).compiler.refusal(key).into_iter().cloned().collect()
    }

    /// Why the last mesh configuration was refused; empty if it is in force.
    #[must_use]
    pub fn mesh_refusal(&self) -> Vec<Diagnostic> {
        lock(&self.0).mesh_refusal.clone().into_iter().collect()
    }

    /// The proxy's own certificate.
    #[must_use]
    pub fn identity(&self) -> Option<Arc<Secret>> {
        lock(&self.0).identity.clone()
    }

    /// What is wrong with certificates and keys.
    #[must_use]
    pub fn secret_problems(&self) -> Vec<SecretProblem> {
        lock(&self.0).secrets.problems(SystemTime::now())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
