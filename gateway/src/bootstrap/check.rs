//! `weir-gateway check`: what a gateway would say about a configuration.

#![expect(clippy::print_stderr, reason = "a command that prints its result")]

use std::{io::Write, process::ExitCode, sync::Arc};

use weir_config::{
    compile::{self, Proxy},
    diagnostic::{Diagnostic, Severity},
};

use super::CheckArguments;
use crate::discovery::file::{Error, FileSource, Options};

/// `EX_DATAERR` of sysexits.h.
const DATA_ERROR: u8 = 65;
/// `EX_NOINPUT`.
const NO_INPUT: u8 = 66;

pub(super) fn run(arguments: &CheckArguments) -> ExitCode {
    match findings(arguments) {
        Ok((objects, findings)) => report(objects, &findings),
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            ExitCode::from(NO_INPUT)
        }
    }
}

/// The number of objects, and everything there is to say about them, by file.
fn findings(arguments: &CheckArguments) -> Result<(usize, Vec<Diagnostic>), Error> {
    let CheckArguments { config, proxy } = arguments;
    let (_, changes) = FileSource::load(Options {
        paths: config.clone(),
        mesh_config: proxy.mesh_config.clone(),
        namespace: proxy.namespace(),
    })?;
    let objects: Vec<_> = changes.objects.into_values().flatten().collect();
    let count = objects.len();
    let identity = Proxy {
        namespace: proxy.namespace().into(),
        labels: proxy.labels(),
        stands_alone: true,
        ..Proxy::default()
    };
    let has_mesh = proxy.mesh_config.is_some();
    let mesh = changes.mesh_config.filter(|_| has_mesh).map(Arc::unwrap_or_clone);
    let (_, compiled) = compile::compile(identity, mesh, objects);
    let mut findings = changes.diagnostics;
    findings.extend(compiled);
    findings.sort_by(|a, b| (&a.source, &a.field).cmp(&(&b.source, &b.field)));
    Ok((count, findings))
}

fn report(objects: usize, findings: &[Diagnostic]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    for finding in findings {
        // A reader that has seen enough, like `head`, is no reason to fail.
        let _ = writeln!(out, "{finding}");
    }
    let count = |severity| findings.iter().filter(|it| it.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let _ = writeln!(out, "{objects} objects; errors: {errors}, warnings: {warnings}");
    if errors > 0 { ExitCode::from(DATA_ERROR) } else { ExitCode::SUCCESS }
}
