//! Configuration from a folder of YAML, read again as it changes.
//!
//! Only files that changed are read, and only objects that differ are told. Whatever is broken keeps
//! its last good version: a document, a file that cannot be opened, a folder that is not there.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    hash::{DefaultHasher, Hasher},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Instant,
};

use tokio::sync::mpsc;
use weir_config::{
    api::{MeshConfig, Source},
    diagnostic::{Diagnostic, Severity},
    parse::{self, MAX_FILE_SIZE},
    validate::validate_mesh_config,
};

mod looks;
mod objects;
mod pending;
mod tree;
mod watch;

pub use self::objects::ObjectChanges;
use self::{
    looks::Looks,
    objects::Files,
    pending::{Pending, Sign},
    tree::{Fingerprint, Identity, Tree},
    watch::{Directories, Directory, Notice, Watches},
};
use crate::discovery::contain::{FAILED, contained};

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Folders, or files.
    pub paths: Vec<PathBuf>,
    pub mesh_config: Option<PathBuf>,
    /// Namespace of objects that name none.
    pub namespace: String,
}

/// Something there is no last good version of.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the configuration at {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the thread that watches the configuration")]
    Thread(#[source] io::Error),
}

/// What is different since the last time.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    pub objects: ObjectChanges,
    /// `None`: as before.
    pub mesh_config: Option<Arc<MeshConfig>>,
    /// Everything there is to say about the files as they are, not only what is new.
    pub diagnostics: Vec<Diagnostic>,
    /// When the change was taken up. `None`: at the start.
    pub noticed: Option<Instant>,
}

/// The folder, as it was last read.
#[derive(Debug)]
pub struct FileSource {
    options: Options,
    parse_options: parse::Options,
    files: Files,
    mesh: MeshFile,
    read: BTreeMap<PathBuf, Known>,
    pending: Pending,
    unreadable: Vec<Diagnostic>,
    last_diagnostics: Vec<Diagnostic>,
}

#[derive(Debug, Default)]
struct MeshFile {
    config: Arc<MeshConfig>,
    changed: bool,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    fingerprint: Fingerprint,
    digest: u64,
}

impl FileSource {
    /// Reads everything once.
    ///
    /// # Errors
    /// One of the paths cannot be looked at. What is wrong inside of them is a diagnostic.
    pub fn load(options: Options) -> Result<(Self, Changes), Error> {
        let parse_options = parse::Options { default_namespace: options.namespace.clone() };
        let mut source = Self {
            options,
            parse_options,
            files: Files::default(),
            mesh: MeshFile { changed: true, ..MeshFile::default() },
            read: BTreeMap::new(),
            pending: Pending::default(),
            unreadable: Vec::new(),
            last_diagnostics: Vec::new(),
        };
        for path in source.roots() {
            fs::metadata(&path).map_err(|source| Error::Unreadable { path, source })?;
        }
        let tree = Tree::walk(&source.roots());
        source.unreadable = source.unreadable_in(&tree);
        for path in tree.files.keys() {
            source.read(path);
        }
        let changes = source.changes(None).unwrap_or_default();
        Ok((source, changes))
    }

    /// Watches from here on. Nothing that changed since [`Self::load`] is missed. The watching ends
    /// when the receiver is dropped.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn watch(mut self) -> Result<mpsc::Receiver<Changes>, Error> {
        // One: a reader that is slow gets the next changes in one piece.
        let (tx, rx) = mpsc::channel(1);
        let (notices_tx, notices) = std_mpsc::channel();
        let mut watches = Watches::new(self.roots(), notices_tx.clone());
        let mut tree = Tree::walk(&self.roots());
        while self.compare(&tree, &mut watches) {
            tree = Tree::walk(&self.roots());
        }
        thread::Builder::new()
            .name("config-files".to_owned())
            .spawn(move || self.watch_until_closed(watches, &notices_tx, &notices, &tx))
            .map_err(Error::Thread)?;
        Ok(rx)
    }

    fn watch_until_closed(
        mut self,
        mut watches: Watches,
        notices_tx: &std_mpsc::Sender<Notice>,
        notices: &std_mpsc::Receiver<Notice>,
        tx: &mpsc::Sender<Changes>,
    ) {
        let roots = self.roots();
        let mut looks = Looks::new(watches.are_live());
        while !tx.is_closed() {
            let now = Instant::now();
            for (path, sign) in self.pending.take_due(now) {
                self.settle(&path, sign, now);
            }
            if let Some(changes) = self.changes(Some(now))
                && tx.blocking_send(changes).is_err()
            {
                return;
            }
            looks.start_if_due(now, &roots, notices_tx);
            let until = looks.next_due(now);
            let until = self.pending.next_due().map_or(until, |due| due.min(until));
            let first = notices.recv_timeout(until.saturating_duration_since(now));
            for notice in first.into_iter().chain(notices.try_iter()) {
                self.notice(notice, &mut looks, &mut watches);
            }
        }
    }

    fn notice(&mut self, notice: Notice, looks: &mut Looks, watches: &mut Watches) {
        let now = Instant::now();
        match notice {
            Notice::File(path, sign) => self.pending.see(&path, sign, now),
            Notice::Touched(path) => {
                if !self.pending.contains(&path) {
                    self.pending.see(&path, Sign::Complete, now);
                }
            }
            Notice::Rescan => looks.ask(now),
            Notice::Looked => {
                if let Some(tree) = looks.end(now)
                    && self.compare(&tree, watches)
                {
                    looks.ask(now);
                }
            }
        }
    }

    /// Compares what there is with what was read, and follows the folders there are. Whether some of
    /// those are new: what appeared in one before it was watched takes another look.
    ///
    /// What changed since the look is told by the watch, or is read once more for nothing.
    fn compare(&mut self, tree: &Tree, watches: &mut Watches) -> bool {
        let now = Instant::now();
        self.unreadable = self.unreadable_in(tree);
        for (path, fingerprint) in &tree.files {
            let same = self.read.get(path).is_some_and(|it| it.fingerprint == *fingerprint);
            if !same && !self.pending.contains(path) {
                let sign = self.sign_of(path, fingerprint);
                self.pending.see(path, sign, now);
            }
        }
        let known = self.files.paths();
        let gone: Vec<_> = known
            .filter(|path| !tree.files.contains_key(*path) && !tree.hides(path))
            .filter(|path| !self.pending.contains(path))
            .map(Path::to_path_buf)
            .collect();
        for path in gone {
            self.pending.see(&path, Sign::Gone, now);
        }
        watches.follow(self.watched(&tree.directories))
    }

    /// A known file that was changed in its place just now may have more to come; its watch will tell.
    fn sign_of(&self, path: &Path, fingerprint: &Fingerprint) -> Sign {
        match self.read.get(path) {
            Some(known) if known.fingerprint.is_being_written(fingerprint) => Sign::Writing,
            Some(_) | None => Sign::Complete,
        }
    }

    fn unreadable_in(&self, tree: &Tree) -> Vec<Diagnostic> {
        tree.unreadable.iter().map(|(path, error)| self.unreadable_at(path, error)).collect()
    }

    /// How messages call a file: as it is called in the folder, if there is but one.
    fn name(&self, path: &Path) -> String {
        let inside = match self.options.paths.as_slice() {
            [folder] => path.strip_prefix(folder).ok().filter(|it| !it.as_os_str().is_empty()),
            _ => None,
        };
        inside.unwrap_or(path).to_string_lossy().into_owned()
    }

    fn unreadable_at(&self, path: &Path, error: &io::Error) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            object: None,
            source: Source { file: self.name(path).into(), line: 1 },
            field: String::new(),
            message: format!("{error}; what was read of it before stays in force"),
        }
    }

    fn roots(&self) -> Vec<PathBuf> {
        let Options { paths, mesh_config, namespace: _ } = &self.options;
        paths.iter().chain(mesh_config).cloned().collect()
    }

    /// The folders themselves, and those in which a configured path may be replaced by another.
    fn watched(&self, inside: &BTreeMap<PathBuf, Identity>) -> Directories {
        let mut directories: Directories =
            self.roots().iter().filter_map(|root| watch::parent(root)).collect();
        directories.extend(
            inside.iter().map(|(path, &identity)| {
                (path.clone(), Directory { identity, parent_only: false })
            }),
        );
        directories
    }

    /// Takes over what became of a file, unless it is not through with it.
    fn settle(&mut self, path: &Path, sign: Sign, now: Instant) {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) => {
                let emptied = metadata.size() == 0 && self.files.has_objects(path);
                if emptied && sign != Sign::Emptied {
                    self.pending.see(path, Sign::Emptied, now);
                } else {
                    self.read(path);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if sign != Sign::Gone {
                    self.pending.see(path, Sign::Gone, now);
                } else if self.may_remove(path) {
                    self.files.remove(path);
                    self.read.remove(path);
                }
            }
            Err(error) => self.fail(path, &error),
        }
    }

    /// A file goes with its removal. With a configured path that goes as a whole, nothing does: it is
    /// being replaced, or its file system is not mounted.
    fn may_remove(&mut self, path: &Path) -> bool {
        let roots = self.roots();
        let missing: Vec<_> = roots
            .iter()
            .filter(|root| path.starts_with(root))
            .filter_map(|root| Some((root, fs::metadata(root).err()?)))
            .map(|(root, error)| self.unreadable_at(root, &error))
            .collect();
        let may_remove = missing.is_empty();
        if !may_remove {
            self.unreadable = missing;
        }
        may_remove
    }

    fn read(&mut self, path: &Path) {
        match content(path) {
            Ok((fingerprint, bytes)) => {
                let digest = digest(&bytes);
                let known = self.read.insert(path.to_owned(), Known { fingerprint, digest });
                let is_new = known.is_none_or(|known| known.digest != digest);
                if is_new && contained(|| self.parse(path, &bytes)).is_none() {
                    self.fail(path, &io::Error::other(FAILED));
                }
            }
            Err(error) => self.fail(path, &error),
        }
    }

    fn parse(&mut self, path: &Path, bytes: &[u8]) {
        let name = self.name(path);
        if self.options.mesh_config.as_deref() == Some(path) {
            let (config, mut diagnostics) = parse::parse_mesh_config(&name, bytes);
            if let Some(config) = &config {
                let source = Source { file: name.into(), line: 1 };
                diagnostics.extend(validate_mesh_config(config, &source));
            }
            let is_valid = diagnostics.iter().all(|found| found.severity != Severity::Error);
            self.mesh.diagnostics = diagnostics;
            if let Some(config) = config.filter(|_| is_valid) {
                self.mesh.config = Arc::new(config);
                self.mesh.changed = true;
            }
        } else {
            self.files.replace(path, parse::parse(&name, bytes, &self.parse_options));
        }
    }

    fn fail(&mut self, path: &Path, error: &io::Error) {
        // Read again even if it comes back as it was.
        self.read.remove(path);
        let diagnostic = self.unreadable_at(path, error);
        if self.options.mesh_config.as_deref() == Some(path) {
            self.mesh.diagnostics = vec![diagnostic];
        } else {
            self.files.fail(path, diagnostic);
        }
    }

    fn changes(&mut self, noticed: Option<Instant>) -> Option<Changes> {
        let objects = self.files.take_changes();
        let mesh_config =
            std::mem::take(&mut self.mesh.changed).then(|| Arc::clone(&self.mesh.config));
        let mut diagnostics = self.unreadable.clone();
        diagnostics.extend(self.mesh.diagnostics.iter().cloned());
        diagnostics.extend(self.files.diagnostics());
        if objects.is_empty() && mesh_config.is_none() && diagnostics == self.last_diagnostics {
            return None;
        }
        self.last_diagnostics.clone_from(&diagnostics);
        Some(Changes { objects, mesh_config, diagnostics, noticed })
    }
}

/// The file's state and its bytes: one more than are read at most, so that it is seen to be too large.
fn content(path: &Path) -> io::Result<(Fingerprint, Vec<u8>)> {
    if !fs::metadata(path)?.is_file() {
        // Opening a pipe would wait for its writer.
        return Err(io::Error::other("this is not a regular file"));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut bytes = Vec::with_capacity(metadata.len().min(MAX_FILE_SIZE as u64) as usize);
    file.take(MAX_FILE_SIZE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(((&metadata).into(), bytes))
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests;
