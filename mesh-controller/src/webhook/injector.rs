//! Pods of an AdmissionReview, with the settings of injection as they are now.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    inject::{Config, Decision, Injected, Rejection, inject},
    metrics::Metrics,
};

/// Injects with the settings of a file, which may change.
#[derive(Debug)]
pub struct Injector {
    file: PathBuf,
    /// The settings in force. Held while a file of kilobytes is compared.
    last: Mutex<Read>,
    /// Whether all nodes can run native sidecars.
    native: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
}

/// What was read last, and what of it is in force.
#[derive(Debug)]
struct Read {
    text: String,
    config: Config,
}

impl Injector {
    /// Reads the settings.
    ///
    /// # Errors
    /// They cannot be read, or say what has no meaning.
    pub fn new(
        file: PathBuf,
        native: watch::Receiver<bool>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let of = || format!("settings of injection {}", file.display());
        let text = fs::read_to_string(&file).with_context(of)?;
        let config = Config::parse(&text).with_context(of)?;
        Ok(Self { file, last: Mutex::new(Read { text, config }), native, metrics })
    }

    /// The answer to a review; `None` if it is none.
    pub(super) fn review(&self, body: &[u8]) -> Option<Value> {
        let review: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let request = review.get("request")?;
        let mut response = json!({ "uid": request.get("uid")?, "allowed": true });
        let is_dry_run = request.get("dryRun") == Some(&Value::Bool(true));
        let namespace = request.get("namespace").and_then(Value::as_str).unwrap_or_default();
        let decision = inject(request.get("object")?, namespace, &self.config());
        if !is_dry_run {
            self.count(&decision);
        }
        match decision {
            Ok(Decision::Skip(_)) => {}
            Ok(Decision::Inject(Injected { patch, warnings, .. })) => {
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(STANDARD.encode(patch.to_string()));
                if !warnings.is_empty() {
                    response["warnings"] = json!(warnings);
                }
            }
            Err(rejection) => {
                response["allowed"] = json!(false);
                response["status"] = json!({
                    "code": 422, "reason": "Invalid", "status": "Failure",
                    "message": rejection.to_string(),
                });
            }
        }
        let version = review.get("apiVersion")?;
        Some(json!({ "apiVersion": version, "kind": "AdmissionReview", "response": response }))
    }

    /// The settings in force: those of the file, unless they have no meaning.
    fn config(&self) -> Config {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::read_to_string(&self.file) {
            Ok(text) if text == last.text => {}
            Ok(text) => {
                match Config::parse(&text) {
                    Ok(config) => {
                        last.config = config;
                        info!("settings of injection have changed");
                    }
                    Err(error) => warn!("settings of injection stay as they were: {error:#}"),
                }
                last.text = text;
            }
            Err(error) => warn!("settings of injection cannot be read: {error}"),
        }
        let mut config = last.config.clone();
        config.native_sidecars = config.native_sidecars.or_else(|| Some(*self.native.borrow()));
        config
    }

    fn count(&self, decision: &Result<Decision, Rejection>) {
        self.metrics.injection_requests.inc();
        match decision {
            Ok(Decision::Inject(_)) => self.metrics.injection_success.inc(),
            Ok(Decision::Skip(_)) => self.metrics.injection_skip.inc(),
            Err(_) => self.metrics.injection_failure.inc(),
        }
    }
}
