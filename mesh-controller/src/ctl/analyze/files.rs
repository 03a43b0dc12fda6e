//! Objects of files, folders and standard input.

use std::{
    ffi::OsStr,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use weir_config::{
    diagnostic::Severity,
    parse::{Options, Parsed, parse},
};

use super::config::Config;
use crate::ctl::{Exit, Failure, args::AnalyzeArguments};

const STDIN: &str = "-";

/// Reads what the command line names. Returned is what cannot be read as objects.
pub fn read(
    arguments: &AnalyzeArguments,
    default_namespace: &str,
    config: &mut Config,
) -> Result<Vec<String>, Failure> {
    let options = Options { default_namespace: default_namespace.to_owned() };
    let mut files = Vec::new();
    for path in &arguments.paths {
        let found = named(path, arguments.recursive);
        files.extend(found.map_err(|error| Failure { exit: Exit::Data, error })?);
    }
    let mut unreadable = Vec::new();
    for file in files {
        let text = content(&file).map_err(|error| Failure { exit: Exit::Data, error })?;
        let mut parsed = parse(&file.display().to_string(), &text, &options);
        unreadable.extend(take_unreadable(&mut parsed));
        config.add(parsed);
    }
    Ok(unreadable)
}

/// The files that a path of the command line stands for.
fn named(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let is_folder = path.as_os_str() != STDIN
        && fs::metadata(path).with_context(|| format!("read {}", path.display()))?.is_dir();
    if is_folder { below(path, recursive) } else { Ok(vec![path.to_owned()]) }
}

/// The files of a folder, in order of their names.
fn below(folder: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let what = || format!("read {}", folder.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).with_context(what)? {
        entries.push(entry.with_context(what)?.path());
    }
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        let extension = entry.extension().and_then(OsStr::to_str);
        if entry.is_dir() {
            if recursive {
                files.extend(below(&entry, recursive)?);
            }
        } else if matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(entry);
        }
    }
    Ok(files)
}

fn content(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file.as_os_str() == STDIN {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).context("read standard input")?;
        return Ok(text);
    }
    fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// Documents of which not even the object is known.
fn take_unreadable(parsed: &mut Parsed) -> Vec<String> {
    let is_unreadable = |severity, is_known: bool| severity == Severity::Error && !is_known;
    let (unreadable, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut parsed.diagnostics)
        .into_iter()
        .partition(|it| is_unreadable(it.severity, it.object.is_some()));
    parsed.diagnostics = rest;
    let shown = unreadable.iter().map(|it| match it.field.as_str() {
        "" => format!("{}: {}", it.source, it.message),
        field => format!("{}: {field}: {}", it.source, it.message),
    });
    shown.collect()
}
