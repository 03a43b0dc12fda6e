//! The roots in every namespace, where pods mount them: ConfigMap `istio-ca-root-cert`.
//!
//! Only the leader writes. What differs is found by listing; a namespace that is new is seen by a
//! watch, because its first pods wait for the ConfigMap.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{ListParams, PartialObjectMeta, Patch, PatchParams, WatchEvent, WatchParams},
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::leader::Leadership;

const NAME: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// Marks what is not user configuration, as Istio does.
const LABEL: (&str, &str) = ("istio.io/config", "true");
const MANAGER: &str = "weir-controller";
/// No workloads of a mesh are there, and their owners count what is in them.
const IGNORED: [&str; 3] = ["kube-node-lease", "kube-public", "kube-system"];
/// Of one watch; after it everything is compared again, so that what somebody removed comes back.
const WATCH_SECONDS: u32 = 290;
const PAUSE: Duration = Duration::from_secs(2);
const PAGE: u32 = 500;

/// Keeps the ConfigMaps as `roots` says, while this replica leads.
pub(super) async fn distribute(
    client: Client,
    mut roots: watch::Receiver<String>,
    mut leadership: Leadership,
) {
    let mut problem = String::new();
    loop {
        // Their senders live as long as the process.
        let (Ok(_), Ok(_)) = (
            leadership.begins().await,
            roots.wait_for(|roots| !roots.is_empty()).await.map(|_| ()),
        ) else {
            return;
        };
        let bundle = roots.borrow_and_update().clone();
        let result = tokio::select! {
            result = keep(&client, &bundle) => result,
            _ = roots.changed() => Ok(()),
            _ = leadership.changed() => Ok(()),
        };
        match result {
            Ok(()) => problem.clear(),
            Err(error) => {
                let text = format!("{error:#}");
                if text != problem {
                    warn!("the roots are not in every namespace: {text}");
                }
                problem = text;
                tokio::time::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            }
        }
    }
}

/// Writes where it is needed, then follows new namespaces until the watch ends.
async fn keep(client: &Client, bundle: &str) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let (names, version) = list(&namespaces).await?;
    let mut current = current(client, bundle).await?;
    for name in names.iter().filter(|name| !current.remove(*name)) {
        write(client, name, bundle).await;
    }
    let parameters = WatchParams::default().timeout(WATCH_SECONDS);
    let events = namespaces.watch_metadata(&parameters, &version).await;
    let events = events.context("watch namespaces")?;
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event.context("watch namespaces")? {
            WatchEvent::Added(namespace) => {
                if let Some(name) = name_of(&namespace) {
                    write(client, &name, bundle).await;
                }
            }
            WatchEvent::Error(status) => anyhow::bail!("watch namespaces: {}", status.message),
            WatchEvent::Modified(_) | WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
        }
    }
    Ok(())
}

/// The namespaces, and the version to watch from.
async fn list(namespaces: &Api<Namespace>) -> anyhow::Result<(Vec<String>, String)> {
    let mut parameters = ListParams::default().limit(PAGE);
    let mut names = Vec::new();
    loop {
        let page = namespaces.list_metadata(&parameters).await.context("list namespaces")?;
        names.extend(page.items.iter().filter_map(name_of));
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => parameters = parameters.continue_token(&next),
            None => return Ok((names, page.metadata.resource_version.unwrap_or_default())),
        }
    }
}

/// Where the roots are already.
async fn current(
    client: &Client,
    bundle: &str,
) -> anyhow::Result<std::collections::BTreeSet<String>> {
    let maps: Api<ConfigMap> = Api::all(client.clone());
    let by_name = format!("metadata.name={NAME}");
    let mut parameters = ListParams::default().fields(&by_name).limit(PAGE);
    let mut found = std::collections::BTreeSet::new();
    loop {
        let page = maps.list(&parameters).await.context("list the ConfigMaps of the roots")?;
        for map in page.items {
            let data = map.data.unwrap_or_default();
            if data.get(KEY).is_some_and(|text| text == bundle) {
                found.extend(map.metadata.namespace);
            }
        }
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => parameters = parameters.continue_token(&next),
            None => return Ok(found),
        }
    }
}

fn name_of(namespace: &PartialObjectMeta<Namespace>) -> Option<String> {
    let ObjectMeta { name, deletion_timestamp, .. } = &namespace.metadata;
    let name = name.as_ref().filter(|name| !IGNORED.contains(&name.as_str()))?;
    // One that ends takes no more objects.
    deletion_timestamp.is_none().then(|| name.clone())
}

/// One namespace that cannot be written to must not keep the roots from the others.
async fn write(client: &Client, namespace: &str, bundle: &str) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some(BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), bundle.to_owned())])),
        ..ConfigMap::default()
    };
    // Taken over from whoever wrote it: an Istio that was here before.
    let parameters = PatchParams::apply(MANAGER).force();
    match maps.patch(NAME, &parameters, &Patch::Apply(&map)).await {
        Ok(_) => debug!(namespace, "the roots were written"),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            debug!(namespace, "the namespace is gone");
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            info!(namespace, "the roots could not be written; tried again later: {error:#}");
        }
    }
}
