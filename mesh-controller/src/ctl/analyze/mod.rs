//! `weirctl analyze`: what is wrong with configuration, before or after it is applied.
//!
//! ```text
//! files, cluster --read--> Config --parse, validate, analyzers, compile--> messages --> report
//! ```
//!
//! What can be said of an object alone comes from the rules that admission and the gateway use. What
//! takes several is found by analyzers, with istioctl's codes, and by compiling the configuration for
//! each kind of gateway there is.

mod analyzers;
mod cluster;
mod compiled;
mod config;
mod files;
mod message;
mod report;
mod suppress;

use std::collections::BTreeSet;

use anyhow::{Context as _, anyhow};
use weir_config::parse::parse_mesh_config;

use self::{config::Config, message::Message, suppress::Suppressed};
use super::{
    Exit, Failure, Report,
    args::{AnalyzeArguments, Target},
};

pub async fn run(target: &Target, arguments: &AnalyzeArguments) -> Result<Report, Failure> {
    if arguments.list_analyzers {
        return Ok(Report { text: message::list(), failure: None });
    }
    let suppressed = Suppressed::parse(&arguments.suppress).map_err(Failure::usage)?;
    if arguments.paths.is_empty() && !arguments.use_kube {
        return Err(Failure::usage("name files to analyze, or leave out --use-kube=false"));
    }
    let mut config = Config::default();
    let scope = if arguments.use_kube {
        Some(cluster::read(target, &mut config).await.map_err(without_cluster)?)
    } else {
        None
    };
    let default_namespace = target.namespace.clone().or_else(|| scope.clone());
    let default_namespace = default_namespace.unwrap_or_else(|| "default".to_owned());
    let unreadable = files::read(arguments, &default_namespace, &mut config)?;
    mesh_config(arguments, &mut config)?;

    let scope = scope.filter(|_| !arguments.all_namespaces);
    let mut messages = analyze(&mut config);
    messages.retain(|message| {
        !suppressed.covers(message, &config) && message.is_about(scope.as_deref())
    });
    let failure = failure(arguments, &messages, &unreadable, scope.as_deref());
    messages.retain(|message| message.level >= arguments.output_threshold);
    let text = report::print(&messages, &unreadable, arguments, scope.as_deref())?;
    Ok(Report { text, failure })
}

/// Everything there is to say, in order of the objects.
fn analyze(config: &mut Config) -> Vec<Message> {
    let mut messages = std::mem::take(&mut config.found);
    for analyzer in analyzers::ALL {
        analyzer(config, &mut messages);
    }
    let compiled = compiled::messages(config);
    // An analyzer has said it better.
    let said: BTreeSet<_> = messages.iter().map(Message::place).collect();
    let further: Vec<_> =
        compiled.into_iter().filter(|message| !said.contains(&message.place())).collect();
    messages.extend(further);
    messages.sort();
    messages.dedup();
    messages
}

fn mesh_config(arguments: &AnalyzeArguments, config: &mut Config) -> Result<(), Failure> {
    let Some(path) = &arguments.mesh_config else { return Ok(()) };
    let what = || format!("read --meshConfigFile {}", path.display());
    let text = std::fs::read(path).with_context(what)?;
    let (mesh, diagnostics) = parse_mesh_config(&path.display().to_string(), &text);
    config.found.extend(diagnostics.iter().map(Message::schema));
    config.mesh = mesh;
    Ok(())
}

fn without_cluster(error: anyhow::Error) -> Failure {
    let next = "the cluster cannot be analyzed; files alone are with --use-kube=false";
    Failure::from(error.context(next))
}

/// Findings come before files that cannot be read, as istioctl has it.
fn failure(
    arguments: &AnalyzeArguments,
    messages: &[Message],
    unreadable: &[String],
    scope: Option<&str>,
) -> Option<Failure> {
    if messages.iter().any(|message| message.level >= arguments.failure_threshold) {
        let what = report::analyzed(arguments, scope);
        let error = anyhow!("analyzers found issues when analyzing {what}");
        return Some(Failure { exit: Exit::Findings, error });
    }
    let fails = !unreadable.is_empty() && !arguments.ignore_unknown;
    fails.then(|| Failure { exit: Exit::Data, error: anyhow!("some files could not be read") })
}
