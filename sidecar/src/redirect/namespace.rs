//! Work in another network namespace.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// A network namespace that could not be entered.
#[derive(Debug, thiserror::Error)]
#[error("enter the network namespace {}", path.display())]
pub struct NamespaceError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Does something in the network namespace of this file, for example `/var/run/netns/name` or
/// `/proc/1/ns/net`. The caller stays where he is: a thread has its own namespace.
///
/// # Errors
/// When there is no such namespace, or it may not be entered.
pub fn in_namespace<T: Send>(
    path: &Path,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NamespaceError> {
    let failed = |source| NamespaceError { path: path.to_owned(), source };
    let namespace = File::open(path).map_err(failed)?;
    let entered = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    entered.map_err(|errno: nix::Error| failed(errno.into()))
}
