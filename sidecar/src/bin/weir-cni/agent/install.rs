//! The plugin on the node: its program, and its entry in the list of those that the runtime runs.
//!
//! Other programs write that list too, some at every start of theirs: it is looked at all the time, and
//! every change of a file is one of its name, so that nobody ever reads half of one.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{
    Options, conflist,
    health::{Health, Part},
};
use crate::question::SOCKET;

/// Between two looks at the folders.
const LOOK: Duration = Duration::from_millis(500);
/// A runtime reads the list again when it has changed, and runs what it read before until then.
const REREAD: Duration = Duration::from_secs(1);
/// While it is written; runtimes read no file that is called so.
const TEMPORARY: &str = ".weir-cni.tmp";
const OWN_PROGRAM: &str = "/proc/self/exe";
const EXTENSIONS: [&str; 3] = ["conflist", "conf", "json"];

/// Whose the program is that may be there.
#[derive(Debug, Clone, Copy)]
enum Program {
    /// Maybe an older agent's.
    OfAnother,
    Ours,
}

/// Where the plugin is installed, and what its entry says.
pub struct Place {
    bin_dir: PathBuf,
    conf_dir: PathBuf,
    conf_file: Option<String>,
    entry: Value,
}

impl Place {
    pub fn new(options: &Options) -> Self {
        let entry = json!({
            "type": conflist::TYPE,
            "agent": options.run_dir.join(SOCKET),
            "excludeNamespaces": options.exclude_namespaces,
        });
        Self {
            bin_dir: options.bin_dir.clone(),
            conf_dir: options.conf_dir.clone(),
            conf_file: options.conf_file.clone(),
            entry,
        }
    }

    fn program(&self) -> PathBuf {
        self.bin_dir.join(conflist::TYPE)
    }

    /// Puts there what is not.
    fn install(&self, program: Program) -> anyhow::Result<()> {
        let path = self.program();
        if matches!(program, Program::OfAnother) || !path.exists() {
            let failed = || format!("install {}", path.display());
            let write = |temporary: &Path| fs::copy(OWN_PROGRAM, temporary).map(drop);
            replace(&path, write, Permissions::from_mode(0o755)).with_context(failed)?;
            info!(path = %path.display(), "the plugin is installed");
        }
        let list = self.list()?;
        let failed = || format!("add the plugin to {}", list.display());
        let text = fs::read_to_string(&list).with_context(failed)?;
        if let Some(changed) = conflist::with(&text, &self.entry).with_context(failed)? {
            let permissions = fs::metadata(&list).with_context(failed)?.permissions();
            replace(&list, |temporary| fs::write(temporary, &changed), permissions)
                .with_context(failed)?;
            info!(list = %list.display(), "the plugin is in the list");
        }
        Ok(())
    }

    /// The file that runtimes take: the first by name.
    fn list(&self) -> anyhow::Result<PathBuf> {
        if let Some(name) = &self.conf_file {
            return Ok(self.conf_dir.join(name));
        }
        let first = self.lists()?.into_iter().next();
        first.with_context(|| {
            format!("no plugins are configured in {} yet", self.conf_dir.display())
        })
    }

    fn lists(&self) -> anyhow::Result<Vec<PathBuf>> {
        let failed = || format!("look into {}", self.conf_dir.display());
        let entries = fs::read_dir(&self.conf_dir).with_context(failed)?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<_> = paths.collect::<io::Result<_>>().with_context(failed)?;
        let is_list = |path: &PathBuf| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
        };
        paths.retain(is_list);
        paths.sort();
        Ok(paths)
    }

    /// Takes the entry out of every list that has it.
    fn unchain(&self) -> anyhow::Result<()> {
        for list in self.lists()? {
            let failed = || format!("take the plugin out of {}", list.display());
            let text = fs::read_to_string(&list).with_context(failed)?;
            // What cannot be read was not written by us.
            let Ok(Some(changed)) = conflist::without(&text) else { continue };
            let permissions = fs::metadata(&list).with_context(failed)?.permissions();
            replace(&list, |temporary| fs::write(temporary, &changed), permissions)
                .with_context(failed)?;
        }
        Ok(())
    }
}

/// Keeps the plugin installed.
pub async fn keep(place: Arc<Place>, health: Arc<Health>) {
    let mut program = Program::OfAnother;
    loop {
        let placed = Arc::clone(&place);
        let round = spawn_blocking(move || placed.install(program)).await;
        if matches!(round, Ok(Ok(()))) {
            program = Program::Ours;
        }
        health.set(Part::Installation, &round.unwrap_or_else(|error| Err(error.into())));
        sleep(LOOK).await;
    }
}

/// Takes it away: first from the list, so that nobody looks for a program that is gone.
#[allow(clippy::disallowed_methods, reason = "the process ends, and does nothing beside it")]
pub fn remove(place: &Place) {
    if let Err(error) = place.unchain() {
        warn!("{error:#}");
        // A runtime that does not find a plugin of its list starts no pod.
        return;
    }
    std::thread::sleep(REREAD);
    if let Err(error) = fs::remove_file(place.program()) {
        warn!("remove {}: {error}", place.program().display());
    }
}

/// Writes a file that is there as a whole or not at all.
fn replace(
    path: &Path,
    write: impl FnOnce(&Path) -> io::Result<()>,
    permissions: Permissions,
) -> io::Result<()> {
    let temporary = path.with_file_name(TEMPORARY);
    write(&temporary)?;
    fs::set_permissions(&temporary, permissions)?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path)
}
