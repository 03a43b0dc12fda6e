//! The run: scenario by scenario, quad by quad.

mod lane;
mod progress;
mod quads;
mod select;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, ensure};

use crate::{
    affinity::{self, Cpus},
    args::RunArguments,
    certs::Credentials,
    control,
    environment::Environment,
    html,
    peer::{Paths, Peer, Program},
    result::{CaseResult, RunResult},
    scenario::{Case, Scenario},
    table,
};
use progress::Progress;

/// Measures what was asked for. Whether every proxy answered right.
pub async fn run(args: RunArguments) -> anyhow::Result<bool> {
    let chosen = select::scenarios(&args)?;
    let cpus = match args.cpus {
        Some(cpus) => cpus,
        None => Cpus::allowed().context("ask which processors may be used")?,
    };
    let cpus = Cpus { workers: args.workers.get(), ..cpus };
    let (proxied, controlled): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|scenario| !scenario.cases.iter().all(is_of_control_plane));
    let (programs, missing) = if proxied.is_empty() { Default::default() } else { find(&args)? };
    let plan = quads::Plan::new(&args, cpus, programs.clone());
    let cases = controlled.iter().map(|scenario| scenario.cases.len()).sum::<usize>();
    let mut progress = Progress::start(plan.steps(&proxied) + cases);
    if !cpus.apart() {
        progress.note("the generator has no processor for itself: the figures say little");
    }
    for line in &missing {
        progress.note(line);
    }
    let folder = tempfile::tempdir()?;
    let credentials = Credentials::create(folder.path()).context("make certificates")?;
    let environment = Environment::look(cpus, programs, missing);
    let seconds = plan.timing.seconds.as_secs_f64();
    let mut result = RunResult::new(args.set, plan.quads, seconds, environment);
    fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    // First, on all processors: what the generator starts later is bound to its own.
    for scenario in &controlled {
        let cases = control_plane(scenario, &args, &mut progress).await?;
        take_note(&mut result, cases, &args.out, &progress)?;
    }
    affinity::pin(cpus.generator).context("bind to a processor")?;
    for scenario in &proxied {
        let cases = plan.measure(scenario, &credentials, &mut progress).await?;
        take_note(&mut result, cases, &args.out, &progress)?;
    }
    fs::write(args.out.join("report.html"), html::page(&result))?;
    progress.print(&table::summary(&result, &args.out));
    Ok(result.cases.iter().all(|case| case.failed.is_none()))
}

/// Shows the results of a scenario and writes all there are so far: a run may be ended early.
fn take_note(
    result: &mut RunResult,
    cases: Vec<CaseResult>,
    out: &Path,
    progress: &Progress,
) -> anyhow::Result<()> {
    for case in &cases {
        progress.print(&table::case(case));
    }
    result.cases.extend(cases);
    result.write(&out.join("result.json"))
}

async fn control_plane(
    scenario: &Scenario,
    args: &RunArguments,
    progress: &mut Progress,
) -> anyhow::Result<Vec<CaseResult>> {
    let programs = control::Programs::find(args)?;
    let mut results = Vec::new();
    for case in &scenario.cases {
        progress.step(&case.name);
        results.push(control::measure(scenario, case, &programs).await);
    }
    Ok(results)
}

fn is_of_control_plane(case: &Case) -> bool {
    case.measure.is_of_control_plane()
}

/// Names and titles of all scenarios.
pub fn list() -> anyhow::Result<ExitCode> {
    let progress = Progress::start(0);
    for case in Scenario::all(select::folder())?.iter().flat_map(|scenario| &scenario.cases) {
        progress.print(&format!("{:<32} {}", case.name, case.title));
    }
    Ok(ExitCode::SUCCESS)
}

/// The programs that are there, and a line for each that is not.
fn find(args: &RunArguments) -> anyhow::Result<(Vec<Program>, Vec<String>)> {
    let beside = std::env::current_exe()?.with_file_name("weir-gateway");
    let gateway = args.gateway.clone().or_else(|| beside.is_file().then_some(beside));
    let given = [
        (Peer::Weir, &gateway),
        (Peer::Nginx, &args.nginx),
        (Peer::Haproxy, &args.haproxy),
        (Peer::Envoy, &args.envoy),
    ];
    let given = given.into_iter().filter_map(|(peer, path)| Some((peer, path.clone()?)));
    let paths = Paths(given.collect());
    let (mut programs, mut missing) = (Vec::new(), Vec::new());
    for peer in Peer::ALL.into_iter().filter(|peer| args.peers.contains(peer)) {
        match peer.find(&paths) {
            Some(program) => programs.push(program),
            None => missing.push(format!("{peer} is missing; to install it: {}", peer.install())),
        }
    }
    ensure!(!programs.is_empty(), "nothing to measure: {}", missing.join("; "));
    Ok((programs, missing))
}
