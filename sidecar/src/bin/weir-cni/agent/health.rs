//! What keeps the agent from doing its work.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tracing::{info, warn};

/// A part of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The plugin and its entry.
    Installation,
    /// Pods of this node are known.
    ApiServer,
}

/// What is wrong, by part. A part that has said nothing yet is not ready either.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<Part, Option<String>>>);

impl Health {
    /// What came of the last try. News are logged.
    pub fn set(&self, part: Part, outcome: &anyhow::Result<()>) {
        let problem = outcome.as_ref().err().map(|error| format!("{error:#}"));
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = parts.insert(part, problem.clone());
        if before.as_ref() == Some(&problem) {
            return;
        }
        match problem {
            Some(problem) => warn!(?part, "{problem}"),
            None => info!(?part, "in order"),
        }
    }

    /// Why it is not ready.
    pub fn problems(&self) -> Vec<String> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = [Part::Installation, Part::ApiServer];
        let problem = |part: &Part| match parts.get(part) {
            None => Some(format!("{part:?}: not yet")),
            Some(problem) => problem.as_ref().map(|problem| format!("{part:?}: {problem}")),
        };
        all.iter().filter_map(problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_who_has_no_problem() {
        let health = Health::default();
        assert_eq!(health.problems(), ["Installation: not yet", "ApiServer: not yet"]);
        health.set(Part::Installation, &Ok(()));
        health.set(Part::ApiServer, &Err(anyhow::anyhow!("away")));
        assert_eq!(health.problems(), ["ApiServer: away"]);
        health.set(Part::ApiServer, &Ok(()));
        assert!(health.problems().is_empty());
    }
}
