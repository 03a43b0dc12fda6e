//! Programs the redirect rules of a network namespace: an init container's work.

mod stay;
#[cfg(test)]
mod tests;
mod wait;

use std::{
    collections::BTreeSet,
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use stay::End;
use weir_sidecar::{
    arguments::{Action, Arguments, Environment},
    redirect::{self, Dns, Settings, StandIn},
    with_causes,
};

/// `EX_USAGE` of sysexits.h.
const USAGE_ERROR: u8 = 64;
/// Says to the node's agent that it has to program this pod; `istio-validation` exits with it too.
const NOT_CAPTURED: u8 = 126;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            // Nobody is left to be told that it could not be printed.
            let _ = message.print();
            // Help and version are no errors.
            return if message.use_stderr() { USAGE_ERROR.into() } else { ExitCode::SUCCESS };
        }
    };
    let done = if arguments.action() == Action::Wait {
        in_namespace(&arguments, || wait::for_rules().map_err(failed))
    } else {
        run(&arguments)
    };
    done.map_or_else(|code| code, |()| ExitCode::SUCCESS)
}

fn run(arguments: &Arguments) -> Result<(), ExitCode> {
    let settings = arguments.settings(&Environment::of_process()).map_err(failed)?;
    if settings.dns == Dns::Servers(BTreeSet::new()) {
        say("no DNS query is captured: /etc/resolv.conf names no server");
    }
    // Before the rules: being told to end while they are programmed is not missed.
    let end = (arguments.action() == Action::Stay).then(End::expect).transpose().map_err(failed)?;
    in_namespace(arguments, || perform(arguments, &settings))?;
    if let Some(end) = end {
        stay::give_up_privileges().map_err(failed)?;
        end.wait().map_err(failed)?;
    }
    Ok(())
}

/// Does something in the network namespace that the arguments name, or in the own one.
fn in_namespace(
    arguments: &Arguments,
    work: impl FnOnce() -> Result<(), ExitCode> + Send,
) -> Result<(), ExitCode> {
    match &arguments.network_namespace {
        None => work(),
        Some(path) => redirect::in_namespace(path, work).map_err(failed)?,
    }
}

fn perform(arguments: &Arguments, settings: &Settings) -> Result<(), ExitCode> {
    // First: what could not be validated afterwards is not programmed.
    let stand_in = arguments.run_validation.then(|| StandIn::start(settings)).transpose();
    let stand_in = stand_in.map_err(not_captured)?;
    let done = match arguments.action() {
        Action::Apply | Action::Stay => redirect::apply(settings),
        Action::Remove => redirect::remove(settings),
        Action::Print | Action::Nothing | Action::Wait => Ok(()),
    };
    done.map_err(failed)?;
    let is_applied = matches!(arguments.action(), Action::Apply | Action::Stay);
    if is_applied || arguments.action() == Action::Print {
        print(settings);
    }
    let Some(stand_in) = stand_in else { return Ok(()) };
    let (port, within) = (arguments.iptables_probe_port, arguments.probe_timeout);
    stand_in.validate(port, within).map_err(|error| {
        if is_applied {
            take_back(settings);
        }
        not_captured(error)
    })
}

/// Rules that do not do what they should are worse than none: connections would end nowhere.
fn take_back(settings: &Settings) {
    if let Err(error) = redirect::remove(settings) {
        say(&with_causes(&error));
    }
}

/// The rules, for whoever reads the container's log.
fn print(settings: &Settings) {
    // Programmed or not does not depend on a reader.
    let _ = write!(io::stdout(), "{}", redirect::table(settings));
}

fn failed(error: impl Error) -> ExitCode {
    say(&with_causes(&error));
    ExitCode::FAILURE
}

fn not_captured(error: impl Error) -> ExitCode {
    say(&with_causes(&error));
    NOT_CAPTURED.into()
}

fn say(text: &str) {
    // There is no other place to say it.
    let _ = writeln!(io::stderr(), "weir-init: {text}");
}
