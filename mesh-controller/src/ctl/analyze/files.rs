//! Objects of files, folders and standard input.

use std::{
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
        let found = expand(path, arguments.recursive, true);
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

/// The files a path stands for, in order of their names.
fn expand(path: &Path, recursive: bool, is_named: bool) -> anyhow::Result<Vec<PathBuf>> {
    if path.as_os_str() == STDIN {
        return Ok(vec![path.to_owned()]);
    }
    let what = || format!("read {}", path.display());
    if !fs::metadata(path).with_context(what)?.is_dir() {
        let is_yaml =
            path.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json");
        return Ok(if is_named || is_yaml { vec![path.to_owned()] } else { Vec::new() });
    }
    if !is_named && !recursive {
        return Ok(Vec::new());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).with_context(what)? {
        entries.push(entry.with_context(what)?.path());
    }
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        files.extend(expand(&entry, recursive, false)?);
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
