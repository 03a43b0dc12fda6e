//! Pods that were started without the plugin: before it was there, or while somebody had taken it out of
//! the list. Their sidecars are not ready until they are programmed, in place.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{
    api::{Pods, Redirected},
    processes,
};
use crate::rules;

/// Between two looks, while some pods are not known to be programmed.
const LOOK: Duration = Duration::from_secs(1);
/// After this they are looked at again: a pod's network is made anew when the node restarts.
const AGAIN: Duration = Duration::from_secs(60);

/// Which pods were seen to be programmed.
pub struct Repair {
    proc: PathBuf,
    exclude_namespaces: Vec<String>,
    seen: BTreeMap<String, Instant>,
}

impl Repair {
    pub fn new(proc: PathBuf, exclude_namespaces: Vec<String>) -> Self {
        Self { proc, exclude_namespaces, seen: BTreeMap::new() }
    }

    /// Looks after the pods of this node for as long as the process runs.
    pub async fn keep(mut self, pods: watch::Receiver<Pods>) {
        loop {
            let due = self.due(&pods.borrow());
            if !due.is_empty() {
                let proc = self.proc.clone();
                let looked = spawn_blocking(move || round(&proc, &due)).await;
                let now = Instant::now();
                self.seen.extend(looked.into_iter().flatten().map(|uid| (uid, now)));
            }
            sleep(LOOK).await;
        }
    }

    fn due(&mut self, pods: &Pods) -> Pods {
        self.seen.retain(|uid, at| pods.contains_key(uid) && at.elapsed() < AGAIN);
        let is_due = |(uid, pod): &(&String, &Redirected)| {
            !self.seen.contains_key(*uid) && !self.exclude_namespaces.contains(&pod.namespace)
        };
        let due = pods.iter().filter(is_due);
        due.map(|(uid, pod)| (uid.clone(), pod.clone())).collect()
    }
}

/// Programs who is not. Returns who is by now.
fn round(proc: &Path, pods: &Pods) -> Vec<String> {
    let namespaces = processes::namespaces(proc, pods.keys()).unwrap_or_else(|error| {
        warn!("look for the processes of pods: {error}");
        BTreeMap::new()
    });
    let mut programmed = Vec::new();
    for (uid, path) in namespaces {
        let Some(Redirected { namespace, name, arguments }) = pods.get(&uid) else { continue };
        let repaired = rules::are_programmed(&path).and_then(|is_programmed| {
            if !is_programmed {
                rules::program(arguments, &path)?;
                info!(%namespace, %name, "a pod that ran without rules has them now");
            }
            Ok(())
        });
        match repaired {
            Ok(()) => programmed.push(uid),
            Err(error) => warn!(%namespace, %name, "a pod runs without rules: {error}"),
        }
    }
    programmed
}
