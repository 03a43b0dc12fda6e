//! Which scenarios a run is of.

use std::path::Path;

use anyhow::bail;

use crate::{args::RunArguments, scenario::Scenario};

/// Where the scenarios are.
pub fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"))
}

/// Those named, whatever set they are in; without names, those of the set.
pub fn scenarios(args: &RunArguments) -> anyhow::Result<Vec<Scenario>> {
    choose(Scenario::all(folder())?, args)
}

fn choose(all: Vec<Scenario>, args: &RunArguments) -> anyhow::Result<Vec<Scenario>> {
    for name in &args.scenarios {
        let known = |s: &Scenario| s.name == *name || s.cases.iter().any(|c| c.name == *name);
        if !all.iter().any(known) {
            let names: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
            bail!("no scenario {name}; there are: {}", names.join(", "));
        }
    }
    let chosen = all.into_iter().filter_map(|mut scenario| {
        let whole = args.scenarios.contains(&scenario.name);
        scenario.cases.retain(|case| match args.scenarios.is_empty() {
            true => case.sets.contains(&args.set),
            false => whole || args.scenarios.contains(&case.name),
        });
        (!scenario.cases.is_empty()).then_some(scenario)
    });
    Ok(chosen.collect())
}
