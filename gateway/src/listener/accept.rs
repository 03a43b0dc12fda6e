//! The accept loop: every connection is taken in or turned away at once, whatever the machine is
//! short of.

use std::{
    fs::File,
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    bind::ListeningSocket,
    serve::{Accepted, Binding},
};

/// Between attempts while nothing can be accepted; doubled each time.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// Short enough that service is back right after the shortage.
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// Connections turned away between two pauses.
const SHED: usize = 256;

/// Accepts until dropped.
pub(super) async fn run(socket: ListeningSocket, binding: Arc<Binding>) {
    let mut spare = Spare::new();
    let mut pause = MIN_PAUSE;
    loop {
        match poll_fn(|cx| poll_accept(&socket, &binding, cx)).await {
            Ok((worker, accepted)) => {
                pause = MIN_PAUSE;
                Binding::take_in(&binding, worker, accepted);
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                if pause == MIN_PAUSE {
                    tracing::warn!(listener = %binding.name(), %error, "cannot accept connections");
                }
                let shed = spare.shed(&socket).await;
                binding.refused(shed, "no file descriptor");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}

/// The next connection, and the number of the worker that is to serve it.
fn poll_accept(
    socket: &ListeningSocket,
    binding: &Binding,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(usize, Accepted)>> {
    let worker = binding.shared.overload.idlest_worker();
    // A socket belongs to the reactor of the runtime it is made in.
    let _runtime = binding.shared.workers.runtime(worker).enter();
    socket.poll_accept(cx).map_ok(|accepted| (worker, accepted))
}

/// The client gave up between its SYN and our accept.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// A file descriptor kept in hand. When there are no more, it lets connections be accepted just to
/// be closed: clients learn at once, instead of waiting in a queue nobody reads.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Closes what waits to be accepted; returns how many.
    async fn shed(&mut self, socket: &ListeningSocket) -> usize {
        let mut shed = 0;
        if self.0.take().is_some() {
            while shed < SHED && accept_waiting(socket).await {
                shed += 1;
            }
        }
        self.0 = File::open("/dev/null").ok();
        shed
    }
}

/// Accepts and closes one connection if one is there.
async fn accept_waiting(socket: &ListeningSocket) -> bool {
    poll_fn(|cx| Poll::Ready(matches!(socket.poll_accept(cx), Poll::Ready(Ok(_))))).await
}
