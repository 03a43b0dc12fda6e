//! The plugin's entry in the list of plugins, as a runtime hands it over.

use std::{io::Read, path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use super::{VERSIONS, error::Error};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    cni_version: String,
    /// The agent's socket.
    pub agent: PathBuf,
    /// Namespaces of pods that nobody is asked about, so that they start without an agent.
    #[serde(default)]
    pub exclude_namespaces: Vec<String>,
    /// For an answer.
    #[serde(default)]
    patience_seconds: Option<u64>,
    #[serde(default)]
    prev_result: Option<Value>,
}

impl Config {
    /// # Errors
    /// There is none, or it is of another version.
    pub fn read(mut input: impl Read) -> Result<Self, Error> {
        let mut text = Vec::new();
        let read = input.read_to_end(&mut text);
        read.map_err(|error| Error::unreadable(format!("standard input: {error}")))?;
        let config: Self = serde_json::from_slice(&text)
            .map_err(|error| Error::unreadable(format!("the configuration: {error}")))?;
        if VERSIONS.contains(&config.cni_version.as_str()) {
            Ok(config)
        } else {
            Err(Error::version(format!(
                "version {:?} of CNI is not spoken; {} are",
                config.cni_version,
                VERSIONS.join(", ")
            )))
        }
    }

    /// What the plugins before had to say.
    ///
    /// # Errors
    /// There are none: somebody has to make the pod's network.
    pub fn previous(&self) -> Result<&Value, Error> {
        let missing =
            || Error::config("prevResult is missing: this plugin comes after another".into());
        self.prev_result.as_ref().ok_or_else(missing)
    }

    pub fn patience(&self) -> Duration {
        self.patience_seconds.map_or(Duration::MAX, Duration::from_secs)
    }
}
