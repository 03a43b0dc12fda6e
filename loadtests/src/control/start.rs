//! From the start of a controller on an API server full of objects until a proxy has acknowledged its
//! first snapshot; and what an object costs in memory.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    Found, PATIENCE, Stage, millis, objects,
    process::Controller,
    proxy::{Access, Proxy},
    until,
};
use crate::measure::{Figure, mebibytes};

/// Of each service, so that there are no more Services than a cluster of the tests has addresses for.
const HOSTS: usize = 9;

/// Objects of each service: itself, its endpoints, a rule and its hosts.
const EACH: usize = 3 + HOSTS;

/// How often it is started.
const STARTS: usize = 3;

pub async fn take(stage: &Stage<'_>) -> anyhow::Result<Found> {
    let (root, empty) = prepare(stage).await?;
    let namespace = &stage.bed.namespace;
    let services = stage.objects().div_ceil(EACH);
    let all = (0..services).flat_map(|number| of_service(namespace, number));
    stage.bed.write_all(all).await?;
    stage.bed.write(&objects::gateway(namespace, 8080)).await?;

    let mut found = Found::default();
    for _ in 0..STARTS {
        let tokens = stage.bed.tokens(1).await?;
        let controller = Controller::spawn(stage)?;
        let access = Access::new(&controller, &root)?;
        let (_proxy, objects) = timeout(PATIENCE, first_snapshot(&access, &tokens[0])).await??;
        let time = controller.started.elapsed();
        // Everything, and the Gateway.
        ensure!(objects == services * EACH + 1, "{objects} objects in the first snapshot");
        let mut add = |figure, value| found.figures.entry(figure).or_default().push(value);
        add(Figure::FirstSnapshot, millis(time));
        add(Figure::FirstSnapshotCpu, millis(controller.cpu_time()?));
        let resident = controller.resident().await?;
        add(Figure::ControllerResident, mebibytes(resident));
        #[expect(clippy::cast_precision_loss, reason = "counts and bytes of a process")]
        let each = resident.saturating_sub(empty) as f64 / 1024.0 / objects as f64;
        add(Figure::HeldObject, each);
    }
    Ok(found)
}

/// A controller that finds nothing makes its root, so that proxies know it beforehand; returns it, and
/// what such a controller takes.
async fn prepare(stage: &Stage<'_>) -> anyhow::Result<(String, u64)> {
    let controller = Controller::start(stage).await?;
    let root = stage.bed.root().await?;
    let empty = controller.resident().await?;
    Ok((root, empty))
}

fn of_service(namespace: &str, number: usize) -> impl Iterator<Item = Value> {
    let service = format!("service-{number}");
    let itself = [
        objects::service(namespace, &service),
        objects::slice(namespace, &service, 0),
        objects::destination_rule(namespace, &service),
    ];
    let hosts = (0..HOSTS).map(move |host| {
        objects::virtual_service(namespace, &format!("host-{host}-{number}.test"), &service)
    });
    itself.into_iter().chain(hosts)
}

/// Connects as soon as that is possible.
async fn first_snapshot(access: &Access, token: &str) -> anyhow::Result<(Proxy, usize)> {
    let mut proxy = until("the controller takes connections", async || {
        Ok(Proxy::connect(access, token).await.ok())
    })
    .await?;
    let push = proxy.push().await.context("the first snapshot")?;
    Ok((proxy, push.objects))
}
