//! How many connections the limit of open files allows.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that are not connections.
const OTHERS: u64 = 1_000;

/// Takes all files this process, and those it starts, may open.
pub fn raise() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Without, there are fewer connections; `connections` knows.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Connections at once: a proxied one takes two files.
pub fn connections() -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(files.min(1 << 16).saturating_sub(OTHERS) / 2).unwrap_or(16).max(16)
}
