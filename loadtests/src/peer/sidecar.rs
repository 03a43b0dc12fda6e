//! Two sidecars of one call, each in the namespace of its workload: that of the caller takes what the
//! caller sends, that of the called one what comes to it. What takes it there are the same redirect
//! rules for every proxy.

use std::{
    env,
    path::PathBuf,
    process::{Child, Command},
};

use anyhow::{Context as _, ensure};
use weir_tests::net::{self, Namespace, Owner};

use super::{Program, Settings, process};
use crate::{
    affinity::{self, Cpus},
    lan::Lan,
    origin::Origin,
};

/// Whom the rules leave alone: the proxies run in this group.
const PROXY_GROUP: u32 = 1337;

/// Which of the two it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The caller's.
    Client,
    /// That of the called one.
    Server,
}

/// What a pair has beside its two processes.
#[derive(Debug)]
pub struct Pair {
    pub lan: Lan,
    /// How the sidecar of the called workload is set up.
    pub server: Settings,
    /// The called workload; it ends with the pair.
    pub _origin: Origin,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Client, Self::Server];

    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// The service account of the workload, and the label that says which it is.
    pub fn account(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "bench",
        }
    }

    pub fn namespace(self, lan: &Lan) -> &Namespace {
        match self {
            Self::Client => &lan.client,
            Self::Server => &lan.server,
        }
    }
}

/// What this host lacks for sidecars, if anything.
pub fn missing() -> Option<String> {
    let init = || match weir_init() {
        Some(_) => None,
        None => Some(
            "weir-init is missing; to build it and the sidecar: cargo build --release \
             --bin weir-init --bin weir-sidecar, or WEIR_INIT_BIN names it"
                .to_owned(),
        ),
    };
    init().or_else(net::missing).or_else(|| refused(&Namespace::new("probe")))
}

/// Why the rules cannot be programmed, if that is so.
fn refused(namespace: &Namespace) -> Option<String> {
    redirect(namespace).err().map(|error| format!("no redirect rules: {error:#}"))
}

/// Has everything that goes into and out of a namespace redirected to the proxy in it.
pub fn redirect(namespace: &Namespace) -> anyhow::Result<()> {
    let program = weir_init().context("weir-init is missing")?;
    let output = namespace.run(&program, &[]);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "weir-init: {}", error.trim());
    Ok(())
}

/// The one that is named, else the one beside this program.
fn weir_init() -> Option<PathBuf> {
    let named = env::var_os("WEIR_INIT_BIN").map(PathBuf::from);
    let beside = || Some(env::current_exe().ok()?.with_file_name("weir-init"));
    named.or_else(beside).filter(|path| path.is_file())
}

/// Starts the sidecar of one side.
pub fn start(
    side: Side,
    program: &Program,
    settings: &Settings,
    lan: &Lan,
    cpus: Cpus,
) -> anyhow::Result<Child> {
    let mut command: Command = process::command(program, settings, cpus.workers)?;
    std::os::unix::process::CommandExt::gid(&mut command, PROXY_GROUP);
    let child =
        side.namespace(lan).within(Owner::ROOT, move || affinity::spawn(cpus, &mut command));
    child.with_context(|| format!("start {}", settings.program(program).display()))
}
