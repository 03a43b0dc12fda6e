//! Tells the API server whom to ask and whom to believe.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use k8s_openapi::{ByteString, api::admissionregistration::v1::ValidatingWebhookConfiguration};
use kube::{Api, Client, api::PostParams};
use tracing::{debug, info, warn};

use crate::{leader::Leadership, tls::Serving};

/// How often it is looked at: someone may have applied the chart again.
const INTERVAL: Duration = Duration::from_secs(30);

/// Keeps the authorities of our certificate in the ValidatingWebhookConfiguration, and its
/// failurePolicy at `Fail`, while this replica is the leader. A chart installs it with `Ignore` and
/// without authorities, so that nothing is locked before we are there.
pub async fn keep_registered(
    client: Client,
    name: String,
    serving: Arc<Serving>,
    mut leadership: Leadership,
) {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let mut authorities = serving.watch_authorities();
    loop {
        if leadership.is_held() {
            let bundle = authorities.borrow_and_update().clone();
            if let Err(error) = register(&api, &name, bundle.as_bytes()).await {
                warn!(name, "the webhook is not up to date: {error:#}");
            }
        }
        tokio::select! {
            result = leadership.changed() => if result.is_err() { return },
            result = authorities.changed() => if result.is_err() { return },
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn register(
    api: &Api<ValidatingWebhookConfiguration>,
    name: &str,
    bundle: &[u8],
) -> anyhow::Result<()> {
    let Some(mut configuration) = api.get_opt(name).await.context("read it")? else {
        debug!(name, "there is no ValidatingWebhookConfiguration");
        return Ok(());
    };
    if bundle.is_empty() {
        return Ok(());
    }
    let mut is_changed = false;
    for webhook in configuration.webhooks.iter_mut().flatten() {
        let bundle = Some(ByteString(bundle.to_vec()));
        let fail = Some("Fail".to_owned());
        if webhook.client_config.ca_bundle != bundle || webhook.failure_policy != fail {
            webhook.client_config.ca_bundle = bundle;
            webhook.failure_policy = fail;
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
