//! Whether a cluster can run here, and the program that does it.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Command, ExitStatus},
    sync::OnceLock,
};

use anyhow::{Context as _, bail};

use crate::binaries;

/// What `tests/cluster/build` exits with when it cannot be built here, rather than not at all.
const CANNOT: i32 = 77;

/// Why tests in a cluster are left out.
#[derive(Debug, Clone)]
pub struct Missing(pub String);

/// The folder of `weir-cluster` and its companions, built if its sources are newer.
///
/// # Errors
/// When they do not build. Where they could not run anyway, ask [`missing`] first.
pub fn program() -> anyhow::Result<PathBuf> {
    match build()? {
        Ok(folder) => Ok(folder),
        Err(Missing(why)) => bail!("no cluster here: {why}"),
    }
}

/// What this host lacks to run a cluster, if anything.
///
/// # Errors
/// When the host could, but the program does not build.
pub fn missing() -> anyhow::Result<Option<Missing>> {
    // The build takes minutes the first time: what is quickly known is asked before.
    if fs::metadata("/proc/self").context("read /proc")?.uid() != 0 {
        return Ok(Some(Missing("not root".into())));
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&paths).any(|folder| folder.join("containerd").exists()) {
        return Ok(Some(Missing("no containerd".into())));
    }
    let folder = match build()? {
        Ok(folder) => folder,
        Err(missing) => return Ok(Some(missing)),
    };
    let (status, told) = run(Command::new(folder.join("weir-cluster")).arg("possible"))?;
    Ok((!status.success()).then_some(Missing(told)))
}

fn build() -> anyhow::Result<Result<PathBuf, Missing>> {
    static BUILT: OnceLock<Result<PathBuf, Missing>> = OnceLock::new();
    if let Some(built) = BUILT.get() {
        return Ok(built.clone());
    }
    let folder = binaries::target()?.join("cluster");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/build");
    let (status, told) = run(Command::new(script).arg(&folder))?;
    let built = match status.code() {
        Some(0) => Ok(folder),
        Some(CANNOT) => Err(Missing(told)),
        _ => bail!("{script}: {status}\n{told}"),
    };
    Ok(BUILT.get_or_init(|| built).clone())
}

fn run(command: &mut Command) -> anyhow::Result<(ExitStatus, String)> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    Ok((output.status, String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
