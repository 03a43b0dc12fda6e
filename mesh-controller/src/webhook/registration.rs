//! Tells the API server whom to ask and whom to believe.

use std::{fmt::Debug, sync::Arc, time::Duration};

use anyhow::Context;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
};
use kube::{Api, Client, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use tracing::{debug, info, warn};

use crate::{leader::Leadership, tls::Serving};

/// How often it is looked at: someone may have applied the chart again.
const INTERVAL: Duration = Duration::from_secs(30);

/// Keeps the authorities of our certificate in the webhook configurations of this name (the one of
/// injection only if pods are injected), and the failurePolicy at `Fail`, while this replica leads. A chart installs the validating one with
/// `Ignore` and without authorities, so that nothing is locked before we are there.
pub async fn keep_registered(
    client: Client,
    name: String,
    injects: bool,
    serving: Arc<Serving>,
    mut leadership: Leadership,
) {
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client);
    let mut authorities = serving.watch_authorities();
    loop {
        if leadership.is_held() {
            let bundle = authorities.borrow_and_update().clone();
            if let Err(error) = register(&validating, &name, bundle.as_bytes()).await {
                warn!(name, "the webhook of validation is not up to date: {error:#}");
            }
            if injects && let Err(error) = register(&mutating, &name, bundle.as_bytes()).await {
                warn!(name, "the webhook of injection is not up to date: {error:#}");
            }
        }
        tokio::select! {
            result = leadership.changed() => if result.is_err() { return },
            result = authorities.changed() => if result.is_err() { return },
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// The two kinds of webhook configurations: those that judge and those that change.
trait Registration: Clone + DeserializeOwned + Serialize + Debug {
    /// What we keep of each webhook.
    fn webhooks(&mut self) -> Vec<(&mut WebhookClientConfig, &mut Option<String>)>;
}

impl Registration for ValidatingWebhookConfiguration {
    fn webhooks(&mut self) -> Vec<(&mut WebhookClientConfig, &mut Option<String>)> {
        let webhooks = self.webhooks.iter_mut().flatten();
        webhooks.map(|webhook| (&mut webhook.client_config, &mut webhook.failure_policy)).collect()
    }
}

impl Registration for MutatingWebhookConfiguration {
    fn webhooks(&mut self) -> Vec<(&mut WebhookClientConfig, &mut Option<String>)> {
        let webhooks = self.webhooks.iter_mut().flatten();
        webhooks.map(|webhook| (&mut webhook.client_config, &mut webhook.failure_policy)).collect()
    }
}

async fn register<K: Registration>(api: &Api<K>, name: &str, bundle: &[u8]) -> anyhow::Result<()> {
    let Some(mut configuration) = api.get_opt(name).await.context("read it")? else {
        debug!(name, "there is no such webhook configuration");
        return Ok(());
    };
    if bundle.is_empty() {
        return Ok(());
    }
    let mut is_changed = false;
    for (client_config, failure_policy) in configuration.webhooks() {
        let bundle = Some(ByteString(bundle.to_vec()));
        let fail = Some("Fail".to_owned());
        if client_config.ca_bundle != bundle || *failure_policy != fail {
            client_config.ca_bundle = bundle;
            *failure_policy = fail;
            is_changed = true;
        }
    }
    if is_changed {
        // With the version that was read: someone else's change is not undone.
        api.replace(name, &PostParams::default(), &configuration).await.context("write it")?;
        info!(name, "the API server asks this controller from now on");
    }
    Ok(())
}
