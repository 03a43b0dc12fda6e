//! Where a panic of compilation ends: at the object that brought it out.
//!
//! Changes are applied together. If that panics, which is a bug, everything is compiled again as it
//! was before, and they are applied in halves, down to those that panic. Those are refused as if they
//! were not valid; all others get in force, and at once.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use weir_config::{
    api::{MeshConfig, Source},
    compile::{Before, Change, Compiler},
    diagnostic::{Diagnostic, Severity},
    model::{Delta, Resources, secret::Secret},
};

use crate::{snapshot::Snapshot, tls::Secrets};

/// Where the mesh configuration is said to stand.
pub(super) const MESH_FILE: &str = "mesh.json";

/// What is said of an object that brings out a panic.
pub(super) const FAILED: &str = "Weir failed over this version, which is a bug: its log says where. \
                                 Please report it; the last good version stays";

/// What is configured.
#[derive(Debug)]
pub(super) struct State {
    pub(super) compiler: Compiler,
    pub(super) secrets: Secrets,
    /// The proxy's own certificate, which no configuration names.
    pub(super) identity: Option<Arc<Secret>>,
    /// Of documents that could not be read, which the compiler never saw.
    pub(super) unread: Vec<Diagnostic>,
    /// Why the mesh configuration in force is not the last one.
    pub(super) mesh_refusal: Option<Diagnostic>,
    /// What was in force when a panic was followed by another on the way back to it. Until there is a
    /// way, the compiler is not to be gone on with.
    lost: Option<Before>,
}

/// One thing that changes.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Boxed: it is large, and one of thousands.
    Mesh(Box<MeshConfig>),
    Object(Change),
}

/// Makes a snapshot of resources: what changed, and the snapshot it changed from.
pub(super) type Build<'a> = dyn Fn(&Resources, &Secrets, &Delta, &Snapshot) -> Snapshot + 'a;

/// On the way from one snapshot to the next.
pub(super) struct Transition<'a> {
    pub(super) state: &'a mut State,
    pub(super) snapshot: Arc<Snapshot>,
    /// Nothing was in force before: defaults, which are no change to the compiler, are one now.
    pub(super) is_first: bool,
    pub(super) build: &'a Build<'a>,
}

impl State {
    pub(super) fn new(compiler: Compiler) -> Self {
        Self {
            compiler,
            secrets: Secrets::default(),
            identity: None,
            unread: Vec::new(),
            mesh_refusal: None,
            lost: None,
        }
    }

    /// Compiles everything as it was `before`.
    fn go_back(&mut self, before: Before) {
        match contained(|| self.compiler.restarted(&before)) {
            Some(compiler) => self.compiler = compiler,
            None => self.lost = Some(before),
        }
    }

    fn refuse(&mut self, step: &Step) {
        match step {
            Step::Mesh(_) => {
                let source = Source { file: MESH_FILE.into(), line: 1 };
                let (severity, message) = (Severity::Error, FAILED.to_owned());
                let field = String::new();
                let diagnostic = Diagnostic { severity, object: None, source, field, message };
                self.mesh_refusal = Some(diagnostic);
            }
            Step::Object(change) => {
                let diagnostic = self.compiler.failure(change, FAILED);
                self.compiler.refuse(change.key(), [diagnostic]);
            }
        }
    }
}

impl Transition<'_> {
    /// The snapshot after `steps`, as far as they can be applied.
    pub(super) fn run(mut self, steps: &[Step]) -> Arc<Snapshot> {
        if let Some(before) = self.state.lost.take() {
            self.state.go_back(before);
        }
        self.apply(steps);
        if self.is_first {
            // All that was new is refused; the defaults are not.
            self.apply(&[]);
        }
        self.snapshot
    }

    fn apply(&mut self, steps: &[Step]) {
        if self.state.lost.is_some() {
            return steps.iter().for_each(|step| self.state.refuse(step));
        }
        let changes = steps.iter().filter_map(Step::change);
        let before = self.state.compiler.before(changes);
        if contained(|| self.advance(steps)).is_some() {
            return;
        }
        self.state.go_back(before);
        match steps {
            [] => {}
            [step] => self.state.refuse(step),
            _ => {
                let (first, second) = steps.split_at(steps.len() / 2);
                self.apply(first);
                self.apply(second);
            }
        }
    }

    /// All or nothing, but for the compiler.
    fn advance(&mut self, steps: &[Step]) {
        let compiler = &mut self.state.compiler;
        let mut delta = Delta::default();
        let mut mesh_refusal = self.state.mesh_refusal.clone();
        for step in steps {
            if let Step::Mesh(mesh) = step {
                delta.merge(compiler.set_mesh_config(Some(MeshConfig::clone(mesh))));
                mesh_refusal = None;
            }
        }
        delta.merge(compiler.apply(steps.iter().filter_map(Step::change).cloned()));
        on_purpose::panic_over(steps);
        if self.is_first {
            delta = everything(compiler.resources());
        }
        if !delta.is_empty() {
            let secrets = Secrets::next(&self.state.secrets, &delta);
            let resources = compiler.resources();
            self.snapshot = Arc::new((self.build)(resources, &secrets, &delta, &self.snapshot));
            self.state.secrets = secrets;
            self.is_first = false;
        }
        self.state.mesh_refusal = mesh_refusal;
    }
}

impl Step {
    fn change(&self) -> Option<&Change> {
        match self {
            Self::Mesh(_) => None,
            Self::Object(change) => Some(change),
        }
    }
}

/// What `run` returns; `None`: it panicked, which the process' hook counts and reports with its place.
/// What it was changing is as the panic left it.
pub(super) fn contained<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

/// The first configuration as a change from nothing, defaults included.
fn everything(resources: &Resources) -> Delta {
    fn all<K: Ord + Clone, V>(map: &BTreeMap<K, Arc<V>>) -> BTreeMap<K, Option<Arc<V>>> {
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

/// No configuration is known that panics, or it would not any more. So that tests can see what becomes
/// of one from the outside, debug builds panic over objects that contain the text `WEIR_PANIC_OVER`,
/// when everything but their publication has happened.
mod on_purpose {
    use super::Step;

    #[cfg(debug_assertions)]
    pub(super) fn panic_over(steps: &[Step]) {
        use std::{env, sync::LazyLock};

        static TEXT: LazyLock<Option<String>> = LazyLock::new(|| env::var("WEIR_PANIC_OVER").ok());
        let Some(text) = &*TEXT else { return };
        for step in steps {
            assert!(!format!("{step:?}").contains(text), "asked to panic over {text}");
        }
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn panic_over(_steps: &[Step]) {}
}
