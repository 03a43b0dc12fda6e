//! The last good configuration on disk: a journal of pushes.
//!
//! ```text
//! magic, then frames: length (u32), checksum (XXH64), record
//! Owner, then for each push: Put*, Remove*, Commit
//! ```
//!
//! A push costs what it says. When more of the file is outdated than not, the records in force are
//! copied to a new file, which then takes the name of the old one. What follows the last Commit was
//! torn off by a crash and is not used. Nothing waits for the disk: a crash of the process loses
//! nothing, one of the machine maybe the last pushes.
//!
//! A process that ended early, twice in a row, after it took the copy is taken to have ended by it:
//! the next one leaves the last push out, and takes none of it from the controller either.
//!
//! It holds Secrets: nobody but its owner may read it.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use weir_config::wire::{discovery::Resource, resource::Sync};

mod guard;
mod journal;
mod record;

pub use self::guard::Probation;
use self::{
    journal::{Extent, Journal, MAGIC, append_frame, next_record},
    record::{Commit, Kind, Owner, Put, Remove},
};
use super::push::Name;

const FILE: &str = "last-good";
/// Below this much outdated content, a new file is not worth its writing.
const MIN_OUTDATED: u64 = 1024 * 1024;

/// Whose configuration it is: that of another would hold what this proxy may not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub namespace: String,
    pub service_account: String,
}

/// The file, and where in it is what is in force.
#[derive(Debug)]
pub struct Copy {
    dir: PathBuf,
    identity: Identity,
    /// `None`: there is none that could be continued.
    file: Option<File>,
    /// Up to the last Commit.
    size: u64,
    live: BTreeMap<Name, Extent>,
    live_size: u64,
    /// Frames that could not be written, to be written with the next.
    unwritten: Vec<u8>,
    /// Everything in force is in `unwritten`, and the file is to be made anew.
    is_folded: bool,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Saved {
    pub resources: Vec<(Name, Resource)>,
    /// The end of the push it ends with.
    pub sync: Sync,
    /// When that was in force.
    pub as_of: Option<SystemTime>,
    /// What is to be said of the file.
    pub problem: Option<String>,
    /// Versions that were left out, because those who took them ended early.
    pub suspects: BTreeMap<Name, String>,
    /// Of whoever uses `resources`.
    pub probation: Option<Probation>,
}

/// Why there can be no copy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("use {} to keep the last good configuration", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is in use by another process; each gateway needs a folder of its own", path.display())]
    InUse { path: PathBuf },
}

impl Copy {
    /// Reads what there is, and makes the folder if it is not there.
    ///
    /// # Errors
    /// Nothing can be kept in this folder. A file that is not usable is none: it is said in
    /// [`Saved::problem`], and replaced by the first push.
    pub fn open(dir: &Path, identity: Identity) -> Result<(Self, Saved), Error> {
        let path = dir.join(FILE);
        let failed = |source| Error::Io { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let mut copy = Self {
            dir: dir.to_owned(),
            identity,
            file: None,
            size: 0,
            live: BTreeMap::new(),
            live_size: 0,
            unwritten: Vec::new(),
            is_folded: false,
        };
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((copy, Saved::default()));
            }
            Err(error) => return Err(failed(error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { path }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let bytes = fs::read(&path).map_err(failed)?;
        let early_ends = guard::early_ends(dir);
        let mut saved = copy.restore(file, bytes.into(), guard::is_suspect(early_ends));
        saved.probation = match saved.as_of {
            // On a disk that takes nothing, a copy that cannot be watched is better than none.
            Some(_) => Probation::begin(dir, early_ends).ok(),
            None => {
                guard::forget(dir);
                None
            }
        };
        Ok((copy, saved))
    }

    fn restore(&mut self, file: File, mut bytes: Bytes, is_suspect: bool) -> Saved {
        let mut journal = Journal::default();
        let mut read = journal.read(&bytes, &self.identity);
        let mut suspects = BTreeMap::new();
        if is_suspect && journal.size > 0 {
            let all = std::mem::take(&mut journal);
            bytes.truncate(usize::try_from(all.size_before).unwrap_or_default());
            // Its beginning was read before.
            let _ = journal.read(&bytes, &self.identity);
            suspects = all.beyond(&journal);
            // So that the next one goes back further, if it has to.
            let _ = file.set_len(journal.size);
            let (names, version) = (names(&suspects), &all.sync.version);
            read = Err(format!(
                "those who took push {version} from here ended early; it is left out, and refused \
                 where it changed something: {names}"
            ));
        }
        let path = self.dir.join(FILE);
        journal.problem = read.err().map(|problem| format!("{}: {problem}", path.display()));
        if journal.size > 0 {
            self.file = Some(file);
            self.size = journal.size;
            self.live_size = journal.committed.values().map(|(_, extent)| extent.length).sum();
            self.live =
                journal.committed.iter().map(|(name, (_, at))| (name.clone(), *at)).collect();
        }
        let resources = journal.committed.into_iter();
        Saved {
            resources: resources.map(|(name, (resource, _))| (name, resource)).collect(),
            sync: journal.sync,
            as_of: journal.as_of,
            problem: journal.problem,
            suspects,
            probation: None,
        }
    }

    /// Writes down that `put` and no longer `removed` are in force since the push that ended with
    /// `sync`.
    ///
    /// # Errors
    /// It could not be written; it will be, with the next push.
    pub fn write(
        &mut self,
        put: &[(Name, Resource)],
        removed: &[Name],
        sync: &Sync,
    ) -> Result<(), Error> {
        for (name, resource) in put {
            self.push_put(name, resource);
        }
        for name in removed {
            self.push_remove(name);
        }
        self.push(Kind::Commit(Commit::now(sync)));
        let flushed = self.flush();
        if flushed.is_err() {
            self.fold();
        }
        flushed.map_err(|source| Error::Io { path: self.dir.join(FILE), source })
    }

    /// What cannot be written waits in memory: of a disk that stays full no more than what is in
    /// force, whatever was in between.
    fn fold(&mut self) {
        if (self.unwritten.len() as u64) < self.live_size + MIN_OUTDATED {
            return;
        }
        let (mut bytes, mut live) = (Vec::new(), BTreeMap::new());
        for (name, extent) in &self.live {
            let offset = bytes.len() as u64;
            // A disk that cannot be read either: everything stays as it is.
            let Ok(()) = self.append_live(&mut bytes, *extent) else { return };
            live.insert(name.clone(), Extent { offset, length: extent.length });
        }
        let commit = self.last_unwritten_commit().unwrap_or_else(|| Commit::now(&Sync::default()));
        append_frame(&mut bytes, Kind::Commit(commit));
        (self.unwritten, self.live, self.size, self.is_folded) = (bytes, live, 0, true);
    }

    fn push_put(&mut self, name: &Name, resource: &Resource) {
        let (type_url, resource) = (name.type_url.to_owned(), Some(resource.clone()));
        let extent = self.push(Kind::Put(Put { type_url, resource }));
        self.live_size += extent.length;
        if let Some(old) = self.live.insert(name.clone(), extent) {
            self.live_size -= old.length;
        }
    }

    fn push_remove(&mut self, name: &Name) {
        let Some(old) = self.live.remove(name) else { return };
        self.live_size -= old.length;
        let (type_url, name) = (name.type_url.to_owned(), name.name.clone());
        self.push(Kind::Remove(Remove { type_url, name }));
    }

    fn push(&mut self, kind: Kind) -> Extent {
        let at = self.unwritten.len();
        append_frame(&mut self.unwritten, kind);
        let length = (self.unwritten.len() - at) as u64;
        Extent { offset: self.size + at as u64, length }
    }

    fn flush(&mut self) -> io::Result<()> {
        let size = self.size + self.unwritten.len() as u64;
        match &self.file {
            Some(file)
                if !self.is_folded && size - self.live_size < self.live_size + MIN_OUTDATED =>
            {
                file.write_all_at(&self.unwritten, self.size)?;
                // What was torn off before must not be found behind it.
                file.set_len(size)?;
                self.size = size;
                self.unwritten.clear();
                Ok(())
            }
            _ => self.rewrite(),
        }
    }

    /// Makes a new file of what is in force.
    fn rewrite(&mut self) -> io::Result<()> {
        let (path, new_path) = (self.dir.join(FILE), self.dir.join(format!("{FILE}.new")));
        let mut bytes = MAGIC.to_vec();
        append_frame(&mut bytes, Kind::Owner(Owner::of(&self.identity)));
        let mut live = BTreeMap::new();
        for (name, extent) in &self.live {
            let offset = bytes.len() as u64;
            self.append_live(&mut bytes, *extent)?;
            live.insert(name.clone(), Extent { offset, length: extent.length });
        }
        // The last Commit, whatever happened before it.
        let commit = self.last_unwritten_commit().unwrap_or_else(|| Commit::now(&Sync::default()));
        append_frame(&mut bytes, Kind::Commit(commit));

        let file = replace(&path, &new_path, &bytes)?;
        self.file = Some(file);
        self.size = bytes.len() as u64;
        self.live = live;
        self.unwritten.clear();
        self.is_folded = false;
        File::open(&self.dir)?.sync_all()
    }

    /// The frame of a record in force, from the file or from what was not written yet.
    fn append_live(&self, bytes: &mut Vec<u8>, extent: Extent) -> io::Result<()> {
        let length = usize::try_from(extent.length).map_err(io::Error::other)?;
        match (&self.file, extent.offset.checked_sub(self.size)) {
            (_, Some(at)) => {
                let at = usize::try_from(at).map_err(io::Error::other)?;
                bytes.extend_from_slice(&self.unwritten[at..at + length]);
                Ok(())
            }
            (Some(file), None) => {
                let start = bytes.len();
                bytes.resize(start + length, 0);
                file.read_exact_at(&mut bytes[start..], extent.offset)
            }
            (None, None) => Err(io::Error::other("the file is gone")),
        }
    }

    fn last_unwritten_commit(&self) -> Option<Commit> {
        let mut rest = Bytes::copy_from_slice(&self.unwritten);
        let mut last = None;
        while let Some(record) = next_record(&mut rest) {
            if let Some(Kind::Commit(commit)) = record.kind {
                last = Some(commit);
            }
        }
        last
    }
}

/// Writes a file of that content in the place of `path`: all of it or nothing.
fn replace(path: &Path, new_path: &Path, bytes: &[u8]) -> io::Result<File> {
    match fs::remove_file(new_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).clone();
    let file = options.open(new_path)?;
    // Nobody else knows the file, so this waits for nobody.
    file.lock()?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    fs::rename(new_path, path)?;
    Ok(file)
}

/// A few of them, for a line of the log.
fn names(resources: &BTreeMap<Name, String>) -> String {
    const SHOWN: usize = 5;
    let mut shown: Vec<_> = resources.keys().take(SHOWN).map(|it| it.name.as_str()).collect();
    if resources.len() > SHOWN {
        shown.push("...");
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests;
