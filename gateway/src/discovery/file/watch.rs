//! What the operating system says about the files.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{self, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode},
};
use tracing::{debug, warn};

use super::{
    pending::Sign,
    tree::{Identity, identity, is_config, is_hidden},
};

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    File(PathBuf, Sign),
    /// Its mode or times; its content is what it was, or about to change.
    Touched(PathBuf),
    /// Directories or links changed, or events were lost.
    Rescan,
    /// A look at everything has ended.
    Looked,
}

/// A directory that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    pub identity: Identity,
    /// Only for a configured path that may be replaced in it.
    pub parent_only: bool,
}

pub type Directories = BTreeMap<PathBuf, Directory>;

/// Watches every directory of the configuration by itself, so that hidden ones (a `.git` of 100,000
/// files) cost nothing.
#[derive(Debug)]
pub struct Watches {
    watcher: Option<RecommendedWatcher>,
    watched: Arc<Mutex<Watched>>,
}

/// What the watcher's thread needs to understand an event.
#[derive(Debug, Default)]
struct Watched {
    roots: Vec<PathBuf>,
    directories: Directories,
    /// The watcher speaks of absolute paths, people of those they wrote.
    as_written: HashMap<PathBuf, PathBuf>,
}

impl Watches {
    /// `roots`: the configured paths. They are told about by the directories they are in.
    #[must_use]
    pub fn new(roots: Vec<PathBuf>, notices: mpsc::Sender<Notice>) -> Self {
        let watched = Arc::new(Mutex::new(Watched { roots, ..Watched::default() }));
        let for_events = Arc::clone(&watched);
        let tell = move |event: notify::Result<Event>| {
            let found = match event {
                Ok(event) => lock(&for_events).notices(&event),
                Err(error) => {
                    debug!(%error, "file watch");
                    vec![Notice::Rescan]
                }
            };
            for notice in found {
                // An error is the source being gone; so will this watcher be.
                let _ = notices.send(notice);
            }
        };
        let watcher = notify::recommended_watcher(tell)
            .inspect_err(|error| {
                warn!(%error, "files cannot be watched and are looked at every second instead");
            })
            .ok();
        Self { watcher, watched }
    }

    /// Whether changes are told as they happen.
    #[must_use]
    pub fn are_live(&self) -> bool {
        self.watcher.is_some()
    }

    /// Watches these directories and no others. Whether some are new: what happened in those before
    /// now was not told.
    pub fn follow(&mut self, wanted: Directories) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        // Not locked while the watcher is asked: its thread may be waiting for the lock.
        let before = lock(&self.watched).replace(wanted.clone());
        // A directory that is gone has taken its watch with it.
        let mut new = false;
        for (path, directory) in &wanted {
            if before.get(path).is_some_and(|it| it.identity == directory.identity) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => new = true,
                Err(error) => {
                    let path = path.display();
                    warn!(%path, %error, "directory cannot be watched and is looked at every 5 s");
                }
            }
        }
        new
    }
}

fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The directory a configured path is in, if it is there to watch.
#[must_use]
pub fn parent(root: &Path) -> Option<(PathBuf, Directory)> {
    root.file_name()?;
    let parent = match root.parent()? {
        parent if parent.as_os_str().is_empty() => Path::new("."),
        parent => parent,
    };
    let identity = identity(&fs::metadata(parent).ok()?);
    Some((parent.to_owned(), Directory { identity, parent_only: true }))
}

impl Watched {
    fn replace(&mut self, directories: Directories) -> Directories {
        let absolute = |path: &PathBuf| Some((path::absolute(path).ok()?, path.clone()));
        self.as_written = directories.keys().filter_map(absolute).collect();
        std::mem::replace(&mut self.directories, directories)
    }

    fn notices(&self, event: &Event) -> Vec<Notice> {
        if event.need_rescan() {
            return vec![Notice::Rescan];
        }
        event.paths.iter().filter_map(|path| self.notice(event.kind, path)).collect()
    }

    fn notice(&self, kind: EventKind, path: &Path) -> Option<Notice> {
        let change = Change::of(kind, path)?;
        let name = path.file_name()?;
        let Some(directory) = path.parent().and_then(|parent| self.as_written.get(parent)) else {
            // About a watched directory itself, which some other one may take the place of.
            return matches!(change, Change::Name(_)).then_some(Notice::Rescan);
        };
        let path = match directory.as_path() {
            here if here == Path::new(".") && self.roots.contains(&name.into()) => name.into(),
            directory => directory.join(name),
        };
        let inside = self.directories.get(directory).is_some_and(|it| !it.parent_only);
        let is_root = self.roots.contains(&path);
        match change {
            // It may be another directory from now on, or a link to one.
            Change::Name(_) if is_root => Some(Notice::Rescan),
            // The link by which Kubernetes replaces all files of a mount at once.
            Change::Name(_) if inside && name.as_encoded_bytes().starts_with(b"..") => {
                Some(Notice::Rescan)
            }
            Change::Content(sign) | Change::Name(Some(sign))
                if is_root || inside && is_config(&path) =>
            {
                Some(Notice::File(path, sign))
            }
            Change::Attributes if is_root || inside && is_config(&path) => {
                Some(Notice::Touched(path))
            }
            Change::Name(_) if inside && !is_hidden(&path) => Some(Notice::Rescan),
            Change::Content(_) | Change::Name(_) | Change::Attributes => None,
        }
    }
}

/// What an event says about the path it names.
enum Change {
    Content(Sign),
    /// The name appeared or went away; `None`: of a directory.
    Name(Option<Sign>),
    Attributes,
}

impl Change {
    fn of(kind: EventKind, path: &Path) -> Option<Self> {
        Some(match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                Self::Content(Sign::Complete)
            }
            EventKind::Modify(ModifyKind::Data(_)) => Self::Content(Sign::Writing),
            EventKind::Modify(ModifyKind::Metadata(_)) => Self::Attributes,
            EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder) => {
                Self::Name(None)
            }
            // A link is complete when it is made; a file is made empty.
            EventKind::Create(_) if path.is_symlink() => Self::Name(Some(Sign::Complete)),
            EventKind::Create(_) => Self::Name(Some(Sign::Writing)),
            EventKind::Remove(_) => Self::Name(Some(Sign::Gone)),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                let sign = if path.is_dir() { None } else { Some(Sign::Complete) };
                Self::Name(sign)
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Self::Name(Some(Sign::Gone)),
            // Our own reading; `Both` repeats what `From` and `To` said.
            EventKind::Any
            | EventKind::Other
            | EventKind::Access(_)
            | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Any | ModifyKind::Other) => {
                return None;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use notify::event::DataChange;

    use super::*;

    const RENAMED_TO: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));

    fn seen(kind: EventKind, path: &str) -> Option<Notice> {
        let directory = |parent_only| Directory { identity: (0, 0), parent_only };
        let roots = vec!["conf".into(), "mesh.txt".into()];
        let mut watched = Watched { roots, ..Watched::default() };
        let directories = [(".", true), ("conf", false)];
        let directories = directories.map(|(path, parent)| (path.into(), directory(parent)));
        watched.replace(directories.into());
        watched.notice(kind, &path::absolute(path).unwrap())
    }

    #[test]
    fn a_file_is_complete_when_its_writer_closes_it() {
        let file = |sign| Some(Notice::File("conf/a.yaml".into(), sign));
        assert_eq!(seen(WRITTEN, "conf/a.yaml"), file(Sign::Writing));
        assert_eq!(seen(CLOSED, "conf/a.yaml"), file(Sign::Complete));
        assert_eq!(seen(RENAMED_TO, "conf/a.yaml"), file(Sign::Complete));
    }

    #[test]
    fn what_editors_do_beside_the_file_is_nothing() {
        assert_eq!(seen(CLOSED, "conf/.a.yaml.swp"), None);
        assert_eq!(seen(RENAMED_TO, "conf/a.yaml~"), None);
        assert_eq!(seen(CLOSED, "conf/4913"), None);
        assert_eq!(seen(EventKind::Access(AccessKind::Open(AccessMode::Any)), "conf/a.yaml"), None);
    }

    #[test]
    fn links_and_directories_mean_another_look_at_everything() {
        assert_eq!(seen(RENAMED_TO, "conf/..data"), Some(Notice::Rescan));
        assert_eq!(seen(EventKind::Create(CreateKind::Folder), "conf/team"), Some(Notice::Rescan));
        assert_eq!(seen(RENAMED_TO, "conf"), Some(Notice::Rescan), "a root is replaced");
        assert_eq!(seen(EventKind::Remove(RemoveKind::Folder), "conf"), Some(Notice::Rescan));
    }

    #[test]
    fn a_file_given_by_its_path_is_known_by_it() {
        let expected = Some(Notice::File("mesh.txt".into(), Sign::Complete));
        assert_eq!(seen(CLOSED, "mesh.txt"), expected);
    }

    #[test]
    fn what_else_is_in_the_directory_of_a_configured_path_is_nothing() {
        assert_eq!(seen(CLOSED, "other.yaml"), None);
        assert_eq!(seen(RENAMED_TO, "other"), None);
        assert_eq!(seen(EventKind::Create(CreateKind::Folder), "other"), None);
    }
}
