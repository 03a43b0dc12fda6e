//! Configuration from the controller: Envoy's delta discovery (`weir_config::wire`), over which it
//! sends the users' objects this proxy may see.
//!
//! A push is put in force as a whole, and what is refused of it is told. While there is no stream,
//! what was pushed last stays; it is also kept on disk ([`copy`]), so that a restart does not need
//! the controller.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use weir_config::wire::{discovery::Node, resource::Rejection};

mod copy;
mod held;
mod node;
mod objects;
mod push;
mod stream;

pub use self::node::{Proxy, Role};
use self::{
    copy::{Copy, Identity, Probation, Saved},
    held::Held,
    objects::{Objects, Subject, Translated},
    push::Name,
};
use super::apply::{Configured, Update};
use crate::{control_plane::ControlPlane, telemetry::discovery::DiscoveryStatus};

/// Who lives as long with the copy does not end by it.
const PROBATION: Duration = Duration::from_secs(10);

/// Where the configuration comes from, and for whom.
#[derive(Debug)]
pub struct Options {
    pub control_plane: ControlPlane,
    pub proxy: Proxy,
    /// Folder of the copy on disk; `None`: there is none.
    pub state_dir: Option<PathBuf>,
    pub status: Arc<DiscoveryStatus>,
}

/// The stream, before it is followed.
#[derive(Debug)]
pub struct AdsSource {
    control_plane: ControlPlane,
    node: Node,
    status: Arc<DiscoveryStatus>,
    objects: Objects,
    held: Held,
    /// Taken while it is written.
    copy: Option<Copy>,
    /// Why it could not be written last time.
    unwritten: Option<String>,
    /// Versions that are refused: those who took them from their copy ended early.
    suspects: BTreeMap<Name, String>,
    probation: Option<Arc<Probation>>,
}

/// The pushes, in order. The stream ends with this.
#[derive(Debug)]
pub struct Pushes {
    received: mpsc::Receiver<Push>,
    _task: AbortOnDropHandle<()>,
    _probation: AbortOnDropHandle<()>,
}

/// A whole push, to be put in force and then answered.
#[derive(Debug)]
pub struct Push {
    pub update: Update,
    pub answer: Answer,
}

/// What has to be said once a push is in force. Unsaid, the push counts as not received.
#[derive(Debug)]
pub struct Answer {
    subjects: Vec<(Name, Subject)>,
    rejections: oneshot::Sender<Vec<Rejection>>,
}

impl AdsSource {
    /// Reads the copy on disk, if there is one: the configuration to begin with.
    #[must_use]
    pub fn open(options: Options) -> (Self, Option<Update>) {
        let Options { control_plane, proxy, state_dir, status } = options;
        let (copy, saved) = state_dir.map_or_else(Default::default, |dir| open_copy(&dir, &proxy));
        let mut source = Self {
            control_plane,
            node: proxy.node(),
            status,
            objects: Objects::default(),
            held: Held::default(),
            copy,
            unwritten: None,
            suspects: BTreeMap::new(),
            probation: None,
        };
        let update = source.restore(saved);
        (source, update)
    }

    /// Connects, and connects again, for as long as anybody listens.
    #[must_use]
    pub fn follow(self) -> Pushes {
        // One: a push is answered before the next is read.
        let (sender, received) = mpsc::channel(1);
        let probation = self.probation.clone();
        let probation = tokio::spawn(async move {
            tokio::time::sleep(PROBATION).await;
            probation.inspect(|probation| probation.passed());
        });
        let task = tokio::spawn(stream::follow(self, sender));
        let (task, probation) = (AbortOnDropHandle::new(task), AbortOnDropHandle::new(probation));
        Pushes { received, _task: task, _probation: probation }
    }

    fn restore(&mut self, saved: Saved) -> Option<Update> {
        self.suspects = saved.suspects;
        self.probation = saved.probation.map(Arc::new);
        let as_of = saved.as_of?;
        let resources = saved.resources.iter().map(|(name, resource)| (name, Some(resource)));
        let Translated { update, rejections, subjects: _ } = self.objects.translate(resources);
        // A version that could read it wrote it, but it may have been a later one.
        for rejection in rejections {
            let Rejection { resource_name, message } = rejection;
            tracing::error!(resource_name, message, "not usable in the copy on disk");
        }
        for (name, resource) in saved.resources {
            self.held.put(name, resource.version);
        }
        self.held.set_position(saved.sync.position);
        tracing::info!(
            version = saved.sync.version,
            resources = self.held.len(),
            "starting with the copy on disk; the controller is asked for what changed since"
        );
        self.status.restored(as_of, &saved.sync.version);
        Some(update)
    }
}

impl Pushes {
    /// The next push. To be dropped at any time.
    pub async fn next(&mut self) -> Option<Push> {
        self.received.recv().await
    }
}

impl Answer {
    pub fn send(self, configured: &Configured) {
        let refused = self.subjects.into_iter().filter_map(|(name, subject)| {
            let findings = match subject {
                Subject::Mesh => configured.mesh_refusal(),
                Subject::Object(key) => configured.refusal(&key),
            };
            let texts: Vec<_> = findings.iter().map(objects::text).collect();
            let message = texts.join("; ");
            (!findings.is_empty()).then_some(Rejection { resource_name: name.name, message })
        });
        // The stream broke meanwhile, and begins anew with what is held.
        let _ = self.rejections.send(refused.collect());
    }
}

/// What cannot be used is said, and nothing more: serving does not depend on it.
fn open_copy(dir: &std::path::Path, proxy: &Proxy) -> (Option<Copy>, Saved) {
    let identity = Identity {
        namespace: proxy.namespace.clone(),
        service_account: proxy.service_account.clone(),
    };
    match Copy::open(dir, identity) {
        Ok((copy, saved)) => {
            if let Some(problem) = &saved.problem {
                tracing::warn!("{problem}");
            }
            (Some(copy), saved)
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::error!("{error:#}; without a copy on disk, a restart needs the controller");
            (None, Saved::default())
        }
    }
}
