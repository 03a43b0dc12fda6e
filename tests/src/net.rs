//! Network namespaces, as pods have them: addresses, rules and sockets of their own. They need root.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    unistd::{Gid, Uid, setfsgid, setfsuid},
};
use socket2::{Domain, SockRef, Socket, Type};

use crate::eventually::DEADLINE;

/// What this host lacks for namespaces, if anything.
#[must_use]
pub fn missing() -> Option<String> {
    if !fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        return Some("not root".into());
    }
    let probe = format!("weir-probe-{}", std::process::id());
    match Command::new("ip").args(["netns", "add", &probe]).output() {
        Err(error) => Some(format!("no program ip: {error}")),
        Ok(added) if !added.status.success() => {
            Some(format!("no network namespaces: {}", text(&added.stderr)))
        }
        Ok(_) => {
            ip(&["netns", "del", &probe]);
            None
        }
    }
}

/// A network namespace. Its name is gone when this is dropped, itself when its last socket is.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// Whose sockets they are, by user and group.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// The user's number.
    pub user: u32,
    /// The group's number.
    pub group: u32,
}

impl Owner {
    /// The superuser.
    pub const ROOT: Self = Self { user: 0, group: 0 };
    /// Somebody's application.
    pub const APP: Self = Self { user: 1000, group: 1000 };
    /// The proxy, as it is injected.
    pub const PROXY: Self = Self { user: 1337, group: 1337 };
}

impl Namespace {
    /// A namespace with nothing but its loopback interface.
    #[must_use]
    pub fn new(label: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-{}-{number}-{label}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Connects an interface here with one there, and gives each its addresses.
    pub fn link(&self, own: (&str, &[&str]), other: &Self, theirs: (&str, &[&str])) {
        let peer = ["peer", "name", theirs.0, "netns", &other.name];
        self.ip(&[&["link", "add", own.0, "type", "veth"], &peer[..]].concat());
        for (namespace, (interface, addresses)) in [(self, own), (other, theirs)] {
            for address in addresses {
                // Asking whether a neighbour has the address takes a second, in which it is not usable.
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                namespace.ip(&[&["address", "add", address, "dev", interface], nodad].concat());
            }
            namespace.ip(&["link", "set", interface, "up"]);
        }
    }

    /// Runs `ip` with these arguments here.
    ///
    /// # Panics
    /// When it fails.
    pub fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// A program that runs here.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a program here to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Output {
        self.command(program).args(arguments).output().expect("start a program in a namespace")
    }

    /// Does something here; sockets made by it stay here.
    pub fn within<T: Send>(&self, owner: Owner, work: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(self.file()).expect("open a namespace");
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&namespace, owner);
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Answers every TCP connection to this port with a line, until the process ends.
    pub fn answer(&self, port: u16, line: impl Fn(&Socket) -> String + Send + 'static) {
        let listener = self.within(Owner::ROOT, || listen(port));
        thread::spawn(move || {
            while let Ok((connection, _)) = listener.accept() {
                let line = line(&connection);
                // A client that went away does not read it.
                let _ = (&connection).write_all(line.as_bytes());
            }
        });
    }

    /// Does something here for as long as it goes on, until the process ends.
    pub fn serve(&self, owner: Owner, work: impl FnOnce() + Send + 'static) {
        let namespace = fs::File::open(self.file()).expect("open a namespace");
        thread::spawn(move || {
            enter(&namespace, owner);
            work();
        });
    }

    /// The file that stands for it.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        Path::new("/var/run/netns").join(&self.name)
    }

    /// Connects and reads what is answered; of a failure its kind.
    #[must_use]
    pub fn ask(&self, owner: Owner, to: &str) -> String {
        self.within(owner, || converse(None, to.parse().expect("an address and a port")))
    }

    /// The same from an address of the caller's choice.
    #[must_use]
    pub fn ask_from(&self, owner: Owner, from: &str, to: &str) -> String {
        let from = from.parse().expect("an address");
        self.within(owner, || converse(Some(from), to.parse().expect("an address and a port")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A test that failed may have it gone already.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn enter(namespace: &fs::File, owner: Owner) {
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter a namespace");
    // These are a thread's, and what a socket's owner is taken from.
    setfsgid(Gid::from_raw(owner.group));
    setfsuid(Uid::from_raw(owner.user));
}

/// Where a connection was to before it was redirected.
///
/// # Panics
/// When connection tracking does not know it.
#[must_use]
pub fn original_destination(connection: &Socket) -> SocketAddr {
    let connection = SockRef::from(connection);
    let v4 = connection.original_dst_v4().ok().and_then(|address| address.as_socket());
    let v6 = || connection.original_dst_v6().ok()?.as_socket();
    v4.or_else(v6).expect("a connection in connection tracking")
}

/// The address a connection is from, as IPv4 if it is.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn peer(connection: &Socket) -> SocketAddr {
    let peer = connection.peer_addr().expect("a connection").as_socket().expect("of TCP");
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// Listens for both families.
///
/// # Panics
/// When the port is taken.
#[must_use]
pub fn listen(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("make a socket");
    socket.set_only_v6(false).expect("serve both families");
    socket.set_reuse_address(true).expect("take the port again");
    socket.bind(&SocketAddr::from(([0u16; 8], port)).into()).expect("bind");
    socket.listen(1024).expect("listen");
    socket
}

fn converse(from: Option<IpAddr>, to: SocketAddr) -> String {
    match try_converse(from, to) {
        Ok(answer) => answer,
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn try_converse(from: Option<IpAddr>, to: SocketAddr) -> io::Result<String> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), DEADLINE)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let mut answer = String::new();
    (&socket).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Sends a datagram from this port, any if 0, and reads the answer of the one it was sent to.
///
/// # Errors
/// When there is no answer in time, or it comes from somebody else.
pub fn query(from: u16, to: &str, text: &str, within: Duration) -> io::Result<(u16, String)> {
    let to: SocketAddr = to.parse().expect("an address and a port");
    let socket = std::net::UdpSocket::bind(match to {
        SocketAddr::V4(_) => SocketAddr::from(([0u8; 4], from)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], from)),
    })?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(within))?;
    socket.send(text.as_bytes())?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok((socket.local_addr()?.port(), String::from_utf8_lossy(&answer[..length]).into_owned()))
}

fn ip(arguments: &[&str]) -> String {
    let done = Command::new("ip").args(arguments).output().expect("run ip");
    assert!(done.status.success(), "ip {}: {}", arguments.join(" "), text(&done.stderr));
    text(&done.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
