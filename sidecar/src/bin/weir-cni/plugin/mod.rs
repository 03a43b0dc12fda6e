//! The plugin: one process for each pod that comes or goes. What it says is the specification's
//! (<https://www.cni.dev/docs/spec/>): a result or an error, in JSON on standard output.

mod config;
mod error;
#[cfg(test)]
mod tests;

use std::{
    env,
    io::{Read, Write},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use self::{config::Config, error::Error};
use crate::{
    question::{self, Answer, Question},
    rules,
};

/// Versions of the specification whose results are handed on as they came.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// While the agent, or whom it asks, is away for a moment. The kubelet comes back later only after
/// several seconds, and waits for an answer for minutes.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// What the runtime says beside the configuration.
#[derive(Debug, Default)]
pub struct Environment {
    command: String,
    namespace: String,
    arguments: String,
}

impl Environment {
    /// `None`: it is no runtime that runs this program.
    pub fn of_process() -> Option<Self> {
        let read = |name| env::var(name).unwrap_or_default();
        Some(Self {
            command: env::var("CNI_COMMAND").ok()?,
            namespace: read("CNI_NETNS"),
            arguments: read("CNI_ARGS"),
        })
    }

    /// The pod, if it is one of Kubernetes.
    fn pod(&self) -> Option<Question> {
        let find = |name: &str| {
            let mut words = self.arguments.split(';').filter_map(|word| word.split_once('='));
            words.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        Some(Question {
            namespace: find("K8S_POD_NAMESPACE")?,
            name: find("K8S_POD_NAME")?,
            uid: find("K8S_POD_UID").unwrap_or_default(),
        })
    }
}

/// Does what is asked, and says what came of it.
pub fn run(environment: &Environment, input: impl Read, output: &mut impl Write) -> ExitCode {
    let (text, code) = match perform(environment, input) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result.to_string(), ExitCode::SUCCESS),
        Err(error) => (error.to_json().to_string(), ExitCode::FAILURE),
    };
    match writeln!(output, "{text}") {
        Ok(()) => code,
        // Whoever does not read the result cannot use it.
        Err(_) => ExitCode::FAILURE,
    }
}

fn perform(environment: &Environment, input: impl Read) -> Result<Option<Value>, Error> {
    let config = || Config::read(input);
    match environment.command.as_str() {
        "VERSION" => {
            let newest = VERSIONS[VERSIONS.len() - 1];
            Ok(Some(json!({ "cniVersion": newest, "supportedVersions": VERSIONS })))
        }
        "ADD" => {
            let config = config()?;
            let result = config.previous()?.clone();
            add(environment, &config)?;
            Ok(Some(result))
        }
        "CHECK" => check(environment, &config()?).map(|()| None),
        // The rules are gone with the namespace; and nothing of ours is to keep a pod from going.
        "DEL" | "GC" | "STATUS" => Ok(None),
        other => Err(Error::environment(format!("CNI_COMMAND: {other:?} is no command"))),
    }
}

fn add(environment: &Environment, config: &Config) -> Result<(), Error> {
    let Some(arguments) = what_to_program(environment, config)? else { return Ok(()) };
    let namespace = environment.namespace()?;
    rules::program(&arguments, namespace).map_err(|error| Error::rules(error.to_string()))
}

fn check(environment: &Environment, config: &Config) -> Result<(), Error> {
    if what_to_program(environment, config)?.is_none() {
        return Ok(());
    }
    match rules::are_programmed(environment.namespace()?) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::rules("the redirect rules are not there".into())),
        Err(error) => Err(Error::rules(error.to_string())),
    }
}

impl Environment {
    fn namespace(&self) -> Result<&Path, Error> {
        match self.namespace.is_empty() {
            true => Err(Error::environment("CNI_NETNS is missing".into())),
            false => Ok(Path::new(&self.namespace)),
        }
    }
}

/// Arguments of `weir-init`, if rules are to be programmed at all.
fn what_to_program(
    environment: &Environment,
    config: &Config,
) -> Result<Option<Vec<String>>, Error> {
    let Some(pod) = environment.pod() else { return Ok(None) };
    if config.exclude_namespaces.contains(&pod.namespace) {
        return Ok(None);
    }
    match ask(config, &pod) {
        Answer::Skip(_) => Ok(None),
        Answer::Program(arguments) => Ok(Some(arguments)),
        Answer::Unknown(why) => {
            Err(Error::later(format!("whether this pod has a sidecar is not known: {why}")))
        }
        Answer::Refuse(why) => Err(Error::rules(why)),
    }
}

/// Until somebody knows, or nobody is waited for any longer.
#[allow(clippy::disallowed_methods, reason = "a plugin has nothing else to do in between")]
fn ask(config: &Config, pod: &Question) -> Answer {
    let deadline = Instant::now() + PATIENCE.min(config.patience());
    loop {
        let answer = question::ask(&config.agent, pod).unwrap_or_else(|error| {
            Answer::Unknown(format!("ask the agent at {}: {error}", config.agent.display()))
        });
        let is_known = !matches!(answer, Answer::Unknown(_));
        if is_known || Instant::now() + PAUSE >= deadline {
            return answer;
        }
        thread::sleep(PAUSE);
    }
}
