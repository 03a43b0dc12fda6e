//! Two results: what moved by more than chance explains.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use crate::{
    measure::{Better, Figure},
    peer::Peer,
    result::{CaseResult, RunResult},
    statistics::Ratio,
    table::ratio_alone,
};

/// Prints the comparison.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub fn run(before: &Path, after: &Path) -> anyhow::Result<ExitCode> {
    let (before, after) = (RunResult::read(before)?, RunResult::read(after)?);
    print!("{}", text(&before, &after));
    Ok(ExitCode::SUCCESS)
}

/// Ratios to a peer are compared, not figures: those belong to their machine and their hour.
fn text(before: &RunResult, after: &RunResult) -> String {
    let mut out = String::new();
    for peer in Peer::ALL {
        let version = |result: &RunResult| {
            let program = result.environment.programs.iter().find(|program| program.peer == peer);
            program.map(|program| program.version.clone())
        };
        if let (Some(a), Some(b)) = (version(before), version(after))
            && a != b
        {
            let _ = writeln!(out, "{peer} was {a}, is {b}");
        }
    }
    let mut compared = 0;
    let mut moved = Vec::new();
    for now in &after.cases {
        let Some(then) = before.cases.iter().find(|case| case.name == now.name) else { continue };
        for (peer, figure, a, b) in pairs(then, now) {
            compared += 1;
            if a.differs_from(b) {
                moved.push(line(&now.name, peer, figure, a, b));
            }
        }
    }
    let _ = writeln!(out, "{} of {compared} ratios moved beyond their intervals", moved.len());
    out.extend(moved);
    for case in before.cases.iter().filter(|case| !after.cases.iter().any(|c| c.name == case.name))
    {
        let _ = writeln!(out, "{} is only in the first", case.name);
    }
    out
}

/// The ratios that are in both.
fn pairs<'c>(
    then: &'c CaseResult,
    now: &'c CaseResult,
) -> impl Iterator<Item = (Peer, Figure, Ratio, Ratio)> + 'c {
    now.ratios.iter().flat_map(move |(peer, ratios)| {
        ratios.iter().filter_map(move |(figure, b)| {
            let a = then.ratios.get(peer)?.get(figure)?;
            (figure.better() != Better::Neither).then_some((*peer, *figure, *a, *b))
        })
    })
}

fn line(case: &str, peer: Peer, figure: Figure, a: Ratio, b: Ratio) -> String {
    let better = match figure.better() {
        Better::Less => b.ratio < a.ratio,
        Better::More | Better::Neither => b.ratio > a.ratio,
    };
    format!(
        "{} {case:<32} {:<26} weir / {peer:<8} {} -> {}\n",
        if better { "better" } else { "WORSE " },
        figure.title(),
        ratio_alone(a),
        ratio_alone(b)
    )
}
