//! The run: scenario by scenario, quad by quad.

mod lane;
mod progress;
mod quads;
mod select;

use std::{fs, process::ExitCode};

use anyhow::{Context as _, ensure};

use crate::{
    affinity::{self, Cpus},
    args::RunArguments,
    certs::Credentials,
    environment::Environment,
    html,
    peer::{Paths, Peer, Program},
    result::RunResult,
    scenario::Scenario,
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
    let (programs, missing) = find(&args)?;
    let plan = quads::Plan::new(&args, cpus, programs.clone());
    let mut progress = Progress::start(plan.steps(&chosen));
    if !cpus.apart() {
        progress.note("there is one processor only: the figures say little");
    }
    for line in &missing {
        progress.note(line);
    }
    affinity::pin(cpus.generator).context("bind to a processor")?;
    let folder = tempfile::tempdir()?;
    let credentials = Credentials::create(folder.path()).context("make certificates")?;
    let environment = Environment::look(cpus, programs, missing);
    let seconds = plan.timing.seconds.as_secs_f64();
    let mut result = RunResult::new(args.set, plan.quads, seconds, environment);
    fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    for scenario in &chosen {
        let cases = plan.measure(scenario, &credentials, &mut progress).await?;
        for case in &cases {
            progress.print(&table::case(case));
        }
        result.cases.extend(cases);
        // After each scenario: a run that is ended early has its results so far.
        result.write(&args.out.join("result.json"))?;
    }
    fs::write(args.out.join("report.html"), html::page(&result))?;
    progress.print(&table::summary(&result, &args.out));
    Ok(result.cases.iter().all(|case| case.failed.is_none()))
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
