//! Programs the redirect rules of a network namespace: an init container's work.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
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
    match arguments.settings(&Environment::of_process()) {
        Ok(settings) => {
            if settings.dns == Dns::Servers(BTreeSet::new()) {
                say("no DNS query is captured: /etc/resolv.conf names no server");
            }
            act(&arguments, &settings)
        }
        Err(error) => failed(&error, ExitCode::FAILURE),
    }
}

fn act(arguments: &Arguments, settings: &Settings) -> ExitCode {
    let in_place = || perform(arguments, settings);
    match &arguments.network_namespace {
        None => in_place(),
        Some(path) => redirect::in_namespace(path, in_place)
            .unwrap_or_else(|error| failed(&error, ExitCode::FAILURE)),
    }
}

fn perform(arguments: &Arguments, settings: &Settings) -> ExitCode {
    // First: what could not be validated afterwards is not programmed.
    let stand_in = match arguments.run_validation.then(|| StandIn::start(settings)).transpose() {
        Ok(stand_in) => stand_in,
        Err(error) => return failed(&error, NOT_CAPTURED.into()),
    };
    let done = match arguments.action() {
        Action::Apply => redirect::apply(settings),
        Action::Remove => redirect::remove(settings),
        Action::Print | Action::Nothing => Ok(()),
    };
    if let Err(error) = done {
        return failed(&error, ExitCode::FAILURE);
    }
    match arguments.action() {
        Action::Apply | Action::Print => print(settings),
        Action::Remove | Action::Nothing => {}
    }
    let Some(stand_in) = stand_in else { return ExitCode::SUCCESS };
    let (port, within) = (arguments.iptables_probe_port, arguments.probe_timeout);
    match stand_in.validate(port, within) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if matches!(arguments.action(), Action::Apply) {
                take_back(settings);
            }
            failed(&error, NOT_CAPTURED.into())
        }
    }
}

/// Rules that do not do what they should are worse than none: connections would end nowhere.
fn take_back(settings: &Settings) {
    if let Err(error) = redirect::remove(settings) {
        failed(&error, NOT_CAPTURED.into());
    }
}

/// The rules, for whoever reads the container's log.
fn print(settings: &Settings) {
    // Programmed or not does not depend on a reader.
    let _ = write!(io::stdout(), "{}", redirect::table(settings));
}

fn failed(error: &dyn Error, code: ExitCode) -> ExitCode {
    say(&with_causes(error));
    code
}

fn say(text: &str) {
    // There is no other place to say it.
    let _ = writeln!(io::stderr(), "weir-init: {text}");
}
