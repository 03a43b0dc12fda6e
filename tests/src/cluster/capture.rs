//! What passes the network of a machine of the cluster, as who listens there sees it.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use super::Cluster;

/// `ETH_P_ALL`
const EVERY_PROTOCOL: u16 = 3;
const MAX_FRAME: usize = 64 * 1024;
/// Between two looks at whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    ends: Arc<AtomicBool>,
    listening: JoinHandle<Vec<u8>>,
}

impl Cluster {
    /// Listens on every interface of a machine, such as `node1`.
    ///
    /// # Panics
    /// The machine does not run.
    pub async fn capture(&self, machine: &str) -> Capture {
        let status = self.status().await;
        let start = format!("{machine}, process ");
        let process = status.lines().find_map(|line| line.trim().strip_prefix(&start));
        let process = process.unwrap_or_else(|| panic!("{machine} does not run: {status}"));
        let namespace = File::open(format!("/proc/{process}/ns/net")).expect("open a namespace");
        let ends = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ends);
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        // The namespace is the thread's.
        let listening = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter a namespace");
            let socket = listen();
            // Whoever waited is gone if it fails.
            let _ = ready.send(());
            read(socket, &end)
        });
        is_ready.await.expect("a capture begins");
        Capture { ends, listening }
    }
}

impl Capture {
    /// Everything that passed until now, one frame after the other.
    ///
    /// # Panics
    /// Listening failed.
    #[must_use]
    pub fn end(self) -> Vec<u8> {
        self.ends.store(true, Ordering::Relaxed);
        self.listening.join().expect("a capture does not panic")
    }
}

/// What programs of one machine say to each other, such as a kubelet to its containers' shells.
fn is_of_this_machine(frame: &[u8]) -> bool {
    const IPV4: [u8; 2] = [8, 0];
    const LOOPBACK: u8 = 127;
    // The type is behind two hardware addresses, the source in the fourth word behind that.
    frame.get(12..14) == Some(&IPV4) && frame.get(26) == Some(&LOOPBACK)
}

fn listen() -> Socket {
    let every = Protocol::from(i32::from(EVERY_PROTOCOL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every)).expect("make a socket");
    socket.set_read_timeout(Some(LOOK)).expect("set a timeout");
    socket
}

fn read(mut socket: Socket, ends: &AtomicBool) -> Vec<u8> {
    let (mut passed, mut frame) = (Vec::new(), vec![0; MAX_FRAME]);
    loop {
        match socket.read(&mut frame) {
            Ok(length) if is_of_this_machine(&frame[..length]) => {}
            Ok(length) => passed.extend_from_slice(&frame[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Nothing is left of what passed before it was to end.
            Err(_) if ends.load(Ordering::Relaxed) => return passed,
            Err(_) => {}
        }
    }
}
