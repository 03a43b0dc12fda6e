//! Certificates over a unix socket, as programs of one machine or pod give them to each other: taken from
//! an agent that is there (SPIRE's), or given to others where none is.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::watch;

mod client;
mod server;

pub(super) use self::client::follow;
use crate::tls::Workload;

/// Whether somebody gives out certificates at this socket.
///
/// A socket file that nobody listens on is one that was left by a process that ended; unless it cannot be
/// taken away, in which case it is somebody else's, who will be back.
#[must_use]
pub fn is_provided(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(socket).is_err()
        }
        Err(_) => false,
    }
}

/// Gives `current` to whoever asks at `socket`; nothing where its folder is not there. Never ends by
/// itself.
pub async fn provide(socket: PathBuf, current: watch::Receiver<Option<Arc<Workload>>>) {
    if !socket.parent().is_some_and(Path::is_dir) {
        return;
    }
    let Err(error) = server::serve(&socket, current).await;
    let socket = socket.display();
    tracing::warn!(%socket, "other programs are not given the workload's certificate: {error}");
}
