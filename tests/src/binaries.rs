//! The programs of the workspace, of the profile the tests were built with.

use std::{env, path::PathBuf, process::Command, sync::OnceLock};

use anyhow::Context as _;

/// The path of a program, brought up to date first: cargo builds only the binaries of the package
/// whose tests it runs.
///
/// # Panics
/// When the workspace does not build.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    // Several tests start at the same time; one of them builds.
    FOLDER
        .get_or_init(|| build(&["--workspace", "--bins"]).expect("build the workspace"))
        .join(name)
}

/// The path of `weir-init`, brought up to date first, or of the one that `WEIR_INIT_BIN` names. Without
/// the rest of the workspace, which its tests do not need.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn init() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let folder = build(&["--package", "weir-sidecar", "--bin", "weir-init"]);
        folder.expect("build weir-init").join("weir-init")
    };
    let named = || env::var_os("WEIR_INIT_BIN").map(PathBuf::from);
    PROGRAM.get_or_init(|| named().unwrap_or_else(build)).clone()
}

/// The path of a program of this package, which cargo builds before its tests.
///
/// # Panics
/// When the test is not where cargo puts tests.
#[must_use]
pub fn own(name: &str) -> PathBuf {
    profile_folder().expect("find the programs").join(name)
}

/// The folder of everything that is built.
///
/// # Errors
/// When the test is not where cargo puts tests.
pub fn target() -> anyhow::Result<PathBuf> {
    let profile = profile_folder()?;
    Ok(profile.parent().context("find the target folder")?.to_owned())
}

fn profile_folder() -> anyhow::Result<PathBuf> {
    let program = env::current_exe().context("find this program")?;
    let folder = program.parent().context("find the target folder")?;
    // Tests are in a folder below that of the programs.
    let is_test = folder.ends_with("deps");
    let folder = if is_test { folder.parent() } else { Some(folder) };
    Ok(folder.context("find the target folder")?.to_owned())
}

fn build(what: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = profile_folder()?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo tells a test about its package. Build scripts ask for it (ring's does), so that with
    // it half of the dependencies would be built again, and once more for each package with tests.
    for (name, _) in env::vars_os() {
        let of_package = |prefix| name.to_str().is_some_and(|name| name.starts_with(prefix));
        if of_package("CARGO_PKG_") || of_package("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    let status = cargo
        .args(["build", "--quiet", "--profile", profile])
        .args(what)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("run cargo")?;
    anyhow::ensure!(status.success(), "cargo build: {status}");
    Ok(folder)
}
