//! A copy that ends the process which takes it must not do so forever.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

const FILE: &str = "starts";
/// So many starts in a row that ended early are no accident. One may be: machines fail, too.
const ACCIDENTS: u32 = 2;

/// That this process has taken the copy and did not yet live long with it. Stands on disk, and goes
/// with [`Self::passed`] or, in an orderly end, with this.
#[derive(Debug)]
pub struct Probation {
    path: PathBuf,
    is_over: AtomicBool,
}

/// How many starts before this one ended early.
pub(super) fn early_ends(dir: &Path) -> u32 {
    let count = fs::read_to_string(dir.join(FILE)).ok();
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

/// Whether what the copy ends with has to be left out.
pub(super) fn is_suspect(early_ends: u32) -> bool {
    early_ends >= ACCIDENTS
}

/// There is nothing (any more) that could end anybody.
pub(super) fn forget(dir: &Path) {
    let _ = fs::remove_file(dir.join(FILE));
}

impl Probation {
    /// Begins after so many others that did not pass.
    pub(super) fn begin(dir: &Path, early_ends: u32) -> io::Result<Self> {
        let path = dir.join(FILE);
        fs::write(&path, early_ends.saturating_add(1).to_string())?;
        Ok(Self { path, is_over: AtomicBool::new(false) })
    }

    /// The copy is not what ends this process, should it end now.
    pub fn passed(&self) {
        if !self.is_over.swap(true, Relaxed) {
            // One that stays makes the next start more careful than it had to be.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Probation {
    fn drop(&mut self) {
        self.passed();
    }
}
