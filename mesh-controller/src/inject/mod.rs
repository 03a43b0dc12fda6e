//! Injection: what a pod is made to be before it is stored, so that its traffic passes a sidecar.
//!
//! ```text
//! pod --decide--> no, because ...
//!             \-> annotations --template--> merged, user's own container wins
//!                             --> probes --> metrics --> labels --> record --> order --> JSON patch
//! ```
//!
//! A pod is JSON here, not a type: what we do not know of it has to stay. `inject` is pure, and of a
//! pod that was injected already it makes the same again, whoever changed it in between.

mod annotations;
mod config;
mod decide;
mod environment;
mod files;
mod knobs;
mod merge;
mod order;
mod patch;
mod pod;
mod probes;
mod record;
mod scrape;
mod template;
mod workload;

use serde_json::{Value, json};

pub use self::{
    config::{Capture, Config, Resources},
    decide::Because,
    files::{Error, inject_manifests},
};
use self::{
    knobs::Knobs,
    pod::{PROXY, Pod},
    record::Record,
};

/// What becomes of a pod.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// It stays as it is.
    Skip(Because),
    /// It is changed.
    Inject(Injected),
}

/// A changed pod.
#[derive(Debug, PartialEq)]
pub struct Injected {
    /// The pod.
    pub pod: Value,
    /// The change, as a JSON patch.
    pub patch: Value,
    /// What was understood, but maybe not meant.
    pub warnings: Vec<String>,
}

/// Why a pod that is to be injected cannot be: everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pod cannot be injected: {}", .0.join("; "))]
pub struct Rejection(pub Vec<String>);

impl Rejection {
    fn one(problem: impl Into<String>) -> Self {
        Self(vec![problem.into()])
    }
}

/// Injects a pod of this namespace, if it is to be.
///
/// # Errors
/// When it is to be, but cannot be.
pub fn inject(pod: &Value, namespace: &str, config: &Config) -> Result<Decision, Rejection> {
    let mut injected = Pod::new(pod).ok_or_else(|| Rejection::one("it has no spec"))?;
    let warnings = match decide::decide(&injected, namespace, config) {
        Ok(warnings) => warnings,
        Err(because) => return Ok(Decision::Skip(because)),
    };
    let knobs = Knobs::of(&injected, config).map_err(Rejection)?;

    let mut record = Record::take_from(&mut injected).map_err(Rejection::one)?;
    let own = record.own_containers(&mut injected);
    for name in &knobs.templates {
        let overlay = match name.as_str() {
            template::SIDECAR => template::sidecar(&injected, namespace, config, &knobs, &own),
            custom => config.custom_template(custom).map_err(Rejection::one)?,
        };
        record.note(&injected, &overlay);
        merge::merge(&mut injected.0, &overlay);
    }
    own.win(&mut injected);
    if injected.container(PROXY).is_some() {
        probes::rewrite(&mut injected, &knobs, record.probers());
        scrape::merge(&mut injected, &knobs, record.scraped()).map_err(Rejection::one)?;
    }
    workload::name(&mut injected, namespace, config);
    record.write_to(&mut injected, &own, config);
    order::sort(&mut injected, &knobs);

    let patch = patch::between(pod, &injected.0);
    Ok(Decision::Inject(Injected { pod: injected.0, patch: json!(patch), warnings }))
}

#[cfg(test)]
mod tests;
