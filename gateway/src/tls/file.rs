//! Files of secrets: reading them, and noticing that they changed.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{self, SHA256};

/// More than any bundle of certificates has; keeps a wrong path from being read into memory.
const MAX_BYTES: u64 = 4 << 20;
/// A file changed this recently may change again without its times showing it.
const RACY: Duration = Duration::from_secs(2);

/// Several files of one secret.
#[derive(Debug, Clone, Default)]
pub(super) struct FileStamps(Vec<FileStamp>);

/// What is compared to notice that a file has changed. Symbolic links are followed, so that a
/// Kubernetes volume's swapped `..data` shows as another inode.
#[derive(Debug, Clone)]
struct FileStamp {
    path: PathBuf,
    /// `None`: the file was not there or could not be looked at.
    status: Option<Status>,
    read_at: SystemTime,
    /// SHA-256 of the content; `None`: it could not be read.
    content: Option<[u8; 32]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Status {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Status {
    fn of(path: &PathBuf) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    fn is_racy(&self, read_at: SystemTime) -> bool {
        let Ok(seconds) = u64::try_from(self.changed.0) else { return false };
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        read_at.duration_since(changed).is_ok_and(|age| age < RACY)
    }
}

impl FileStamps {
    /// Reads a file and remembers what it looked like before, so that a change during the reading
    /// is a change.
    pub(super) fn read(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let path = PathBuf::from(path);
        let status = Status::of(&path);
        let read_at = SystemTime::now();
        let bytes = read_bounded(&path);
        let content = bytes.as_ref().ok().map(|bytes| sha256(bytes));
        self.0.push(FileStamp { path, status, read_at, content });
        bytes
    }

    /// Whether reading again could give something else.
    pub(super) fn may_have_changed(&self) -> bool {
        self.0.iter().any(|stamp| {
            Status::of(&stamp.path) != stamp.status
                || stamp.status.as_ref().is_some_and(|status| status.is_racy(stamp.read_at))
        })
    }

    pub(super) fn same_content(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(a, b)| a.path == b.path && a.content.is_some() && a.content == b.content)
    }
}

fn read_bounded(path: &PathBuf) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut value = [0; 32];
    value.copy_from_slice(digest::digest(&SHA256, bytes).as_ref());
    value
}
