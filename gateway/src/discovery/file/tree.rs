//! The files of a configuration: which there are, and whether one differs from what was read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Directories within directories, at most.
const MAX_DEPTH: usize = 32;

/// Tells two states of a file apart without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    identity: Identity,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Device and inode.
pub type Identity = (u64, u64);

#[must_use]
pub fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

impl Fingerprint {
    /// Whether the file of this state was last seen being written to, a moment ago.
    #[must_use]
    pub fn is_being_written(&self, now: &Self) -> bool {
        const MOMENT: Duration = Duration::from_millis(100);
        let (seconds, nanos) = now.modified;
        let modified = u64::try_from(seconds)
            .ok()
            .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::new(seconds, nanos as u32)));
        let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        self.identity == now.identity && age.is_none_or(|age| age < MOMENT)
    }
}

impl From<&Metadata> for Fingerprint {
    fn from(metadata: &Metadata) -> Self {
        Self {
            identity: identity(metadata),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What a walk over the configured paths found.
#[derive(Debug, Default)]
pub struct Tree {
    pub files: BTreeMap<PathBuf, Fingerprint>,
    pub directories: BTreeMap<PathBuf, Identity>,
    /// What could not be looked at. Nothing is known of what is below.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

impl Tree {
    /// Walks directories to their depth; symbolic links are followed, as Kubernetes mounts
    /// ConfigMaps by them. A path that is a file is taken whatever its name.
    #[must_use]
    pub fn walk(roots: &[PathBuf]) -> Self {
        let mut tree = Self::default();
        for root in roots {
            match fs::metadata(root) {
                Ok(metadata) if metadata.is_dir() => {
                    tree.directory(root, &metadata, &mut BTreeSet::new());
                }
                Ok(metadata) => {
                    tree.files.insert(root.clone(), (&metadata).into());
                }
                Err(error) => tree.unreadable.push((root.clone(), error)),
            }
        }
        tree
    }

    /// Whether nothing can be said of `path` because something above it could not be looked at.
    #[must_use]
    pub fn hides(&self, path: &Path) -> bool {
        self.unreadable.iter().any(|(above, _)| path.starts_with(above))
    }

    /// `above`: the directories on the way here, so that a link to one of them ends.
    fn directory(&mut self, path: &Path, metadata: &Metadata, above: &mut BTreeSet<Identity>) {
        let identity = identity(metadata);
        if above.len() >= MAX_DEPTH || !above.insert(identity) {
            return;
        }
        self.directories.insert(path.to_owned(), identity);
        match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    self.entry(&entry.path(), above);
                }
            }
            Err(error) => self.unreadable.push((path.to_owned(), error)),
        }
        above.remove(&identity);
    }

    fn entry(&mut self, path: &Path, above: &mut BTreeSet<Identity>) {
        if is_hidden(path) {
            return;
        }
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => {
                // Without the link the file went away meanwhile.
                if is_config(path) && fs::symlink_metadata(path).is_ok() {
                    self.unreadable.push((path.to_owned(), error));
                }
                return;
            }
        };
        if metadata.is_dir() {
            self.directory(path, &metadata, above);
        } else if metadata.is_file() && is_config(path) {
            self.files.insert(path.to_owned(), (&metadata).into());
        }
    }
}

/// `.git`, `..data`, and what editors keep beside a file.
#[must_use]
pub fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") || name.starts_with(b"#") || name.ends_with(b"~")
}

/// Whether a file of a directory is configuration.
#[must_use]
pub fn is_config(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    !is_hidden(path)
        && ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(tree: &Tree, root: &Path) -> Vec<String> {
        let relative = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
        tree.files.keys().map(relative).collect()
    }

    #[test]
    fn configuration_is_found_by_its_name_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("teams/shop")).unwrap();
        fs::create_dir_all(dir.path().join(".git")).unwrap();
        for name in [
            "b.yml",
            "a.yaml",
            "c.JSON",
            "teams/shop/d.yaml",
            ".git/e.yaml",
            ".f.yaml",
            "g.yaml~",
            "#h.yaml#",
            "i.yaml.swp",
            "README.md",
            "4913",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let tree = Tree::walk(&[dir.path().to_owned()]);
        assert_eq!(names(&tree, dir.path()), ["a.yaml", "b.yml", "c.JSON", "teams/shop/d.yaml"]);
        assert_eq!(tree.directories.len(), 3);
    }

    #[test]
    fn a_mounted_config_map_is_read_through_its_links_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..2026_01")).unwrap();
        fs::write(dir.path().join("..2026_01/a.yaml"), "").unwrap();
        symlink("..2026_01", dir.path().join("..data")).unwrap();
        symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
        let tree = Tree::walk(&[dir.path().to_owned()]);
        assert_eq!(names(&tree, dir.path()), ["a.yaml"]);
    }

    #[test]
    fn a_link_to_a_directory_above_ends() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "").unwrap();
        symlink(".", dir.path().join("loop")).unwrap();
        let tree = Tree::walk(&[dir.path().to_owned()]);
        assert_eq!(names(&tree, dir.path()), ["a.yaml"]);
    }

    #[test]
    fn a_link_to_nowhere_is_said_where_a_file_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "README", ".#b.yaml"] {
            symlink("nowhere", dir.path().join(name)).unwrap();
        }
        symlink("c.yaml", dir.path().join("c.yaml")).unwrap();
        let tree = Tree::walk(&[dir.path().to_owned()]);
        let mut said: Vec<_> = tree.unreadable.iter().map(|(path, _)| path.clone()).collect();
        said.sort();
        assert_eq!(said, ["a.yaml", "c.yaml"].map(|name| dir.path().join(name)));
    }

    #[test]
    fn what_is_missing_hides_what_is_below() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let tree = Tree::walk(std::slice::from_ref(&missing));
        assert!(tree.hides(&missing.join("a.yaml")));
        assert!(!tree.hides(&dir.path().join("a.yaml")));
    }

    #[test]
    fn a_file_given_by_its_path_needs_no_extension() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gateway.conf");
        fs::write(&file, "").unwrap();
        assert_eq!(Tree::walk(std::slice::from_ref(&file)).files.len(), 1);
    }
}
