//! Endpoint changes, each acknowledged by a thousand proxies; and what each of these costs in memory.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    runtime,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::LocalSet,
    time::{sleep, timeout},
};

use super::{
    Found, Stage, latencies, millis, objects,
    process::Controller,
    proxy::{Access, Proxy, Push},
};
use crate::{
    measure::{Figure, mebibytes},
    statistics::quantile,
};

/// Proxies that connect at once.
const CONNECTING: usize = 16;
/// A change that some proxy has not acknowledged by then was lost.
const LOST: Duration = Duration::from_secs(60);
/// Between two changes: each is over before the next.
const APART: Duration = Duration::from_millis(50);

pub async fn take(stage: &Stage<'_>) -> anyhow::Result<Found> {
    let services = stage.objects();
    stage.bed.write_all(shop(&stage.bed.namespace, services)).await?;
    let controller = Controller::start(stage).await?;
    let access = Access::new(&controller, &stage.bed.root().await?)?;
    let proxies = stage.proxies();
    let mut tokens = stage.bed.tokens(proxies + 1).await?;
    // What the first of them has, the others share.
    let first = Swarm::connect(&access, tokens.split_off(proxies)).await?;
    let before = controller.resident().await?;
    let mut swarm = Swarm::connect(&access, tokens).await?;
    let connected = controller.resident().await?;
    drop(first);
    let route = objects::virtual_service(&stage.bed.namespace, "", "");
    stage.bed.has_all_status(&route).await?;

    let cpu = controller.cpu_time()?;
    let (mut each, mut all) = (Vec::new(), Vec::new());
    for edition in 1..=stage.changes() {
        let service = service(fastrand::usize(..services));
        let times = swarm.follow(stage, &service, u32::try_from(edition)?).await;
        let times = times.with_context(|| controller.last_words())?;
        all.push(times.iter().copied().fold(0.0, f64::max));
        each.extend(times);
        sleep(APART).await;
    }
    let cpu = controller.cpu_time()?.saturating_sub(cpu);

    let mut found = Found { latencies: latencies(&all), ..Found::default() };
    for (figure, values, q) in [
        (Figure::AckP50, &each, 0.5),
        (Figure::AckP99, &each, 0.99),
        (Figure::AllAckP50, &all, 0.5),
        (Figure::AllAckP99, &all, 0.99),
    ] {
        found.set(figure, quantile(values, q).unwrap_or_default());
    }
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    let (proxies, changes) = (proxies as f64, all.len() as f64);
    let grown = mebibytes(connected) - mebibytes(before);
    found.set(Figure::ChangeCpu, millis(cpu) / changes);
    found.set(Figure::ConnectedProxy, grown * 1024.0 / proxies);
    found.set(Figure::ControllerResident, mebibytes(controller.resident().await?));
    Ok(found)
}

/// Services that all proxies see.
pub fn shop(namespace: &str, services: usize) -> impl Iterator<Item = serde_json::Value> {
    let of_service = move |number: usize| {
        let (service, host) = (service(number), format!("host-{number}.test"));
        [
            objects::service(namespace, &service),
            objects::slice(namespace, &service, 0),
            objects::virtual_service(namespace, &host, &service),
        ]
    };
    // It opens no port: nobody here forwards anything.
    let gateway = std::iter::once(objects::gateway(namespace, 8080));
    gateway.chain((0..services).flat_map(of_service))
}

fn service(number: usize) -> String {
    format!("service-{number}")
}

/// Connected proxies, on a thread of their own. They leave when it is dropped.
struct Swarm {
    size: usize,
    taken: UnboundedReceiver<anyhow::Result<Vec<Taken>>>,
}

/// That a proxy has taken a push and answered.
struct Taken {
    push: Push,
    at: Instant,
}

impl Swarm {
    /// Connects one proxy for each token; returns when all have acknowledged everything there is.
    async fn connect(access: &Access, tokens: Vec<String>) -> anyhow::Result<Self> {
        let (access, size) = (access.clone(), tokens.len());
        let (sender, taken) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("swarm".into())
            .spawn(move || live(&access, tokens, &sender))
            .context("start the thread of the swarm")?;
        let mut swarm = Self { size, taken };
        let first = swarm.round().await.context("the first snapshots")?;
        let same = first.windows(2).all(|pair| pair[0].push.objects == pair[1].push.objects);
        ensure!(same, "not all have the same");
        Ok(swarm)
    }

    /// A push of each of them.
    async fn round(&mut self) -> anyhow::Result<Vec<Taken>> {
        let taken = timeout(LOST, self.taken.recv()).await;
        let taken = taken.with_context(|| format!("not acknowledged by all {}", self.size))?;
        taken.context("the swarm ended")?
    }

    /// Changes the endpoints of a service; how many milliseconds after that each proxy had
    /// acknowledged it.
    async fn follow(
        &mut self,
        stage: &Stage<'_>,
        service: &str,
        edition: u32,
    ) -> anyhow::Result<Vec<f64>> {
        let namespace = &stage.bed.namespace;
        let slice = objects::slice(namespace, service, 0);
        let patch = serde_json::json!({"endpoints": objects::endpoints(edition)});
        let accepted = stage.bed.patch(&slice, &patch).await?;
        let name = format!("discovery.k8s.io/EndpointSlice/{namespace}/{service}-1");
        let (mut times, mut version) = (Vec::new(), None);
        for Taken { push, at } in self.round().await? {
            let Some((changed, now)) = push.last.filter(|_| push.objects == 1) else {
                bail!("a push of {} objects after a change of one", push.objects);
            };
            ensure!(changed == name, "{changed} was pushed, not {name}");
            let version = version.get_or_insert_with(|| now.clone());
            ensure!(*version == now, "two versions of {name} were pushed");
            times.push(millis(at.saturating_duration_since(accepted)));
        }
        Ok(times)
    }
}

type Rounds = UnboundedSender<anyhow::Result<Vec<Taken>>>;

/// Lets proxies live until nobody hears of them.
fn live(access: &Access, tokens: Vec<String>, rounds: &Rounds) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Nobody may be listening any more.
            let _ = rounds.send(Err(error.into()));
            return;
        }
    };
    LocalSet::new().block_on(&runtime, async {
        let (sender, taken) = mpsc::unbounded_channel();
        tokio::task::spawn_local(gather(tokens.len(), taken, rounds.clone()));
        let connecting = stream::iter(tokens).map(async |token| {
            let mut proxy = Proxy::connect(access, &token).await?;
            // Its first push is large: one after another, not all at once.
            take_push(&mut proxy, &sender).await?;
            tokio::task::spawn_local(follow(proxy, sender.clone()));
            anyhow::Ok(())
        });
        match connecting.buffer_unordered(CONNECTING).try_collect::<()>().await {
            Ok(()) => rounds.closed().await,
            Err(error) => {
                let _ = rounds.send(Err(error));
            }
        }
    });
}

/// Tells of the pushes when each proxy has had one: who measures is woken once for all, not a thousand
/// times while it is measured.
async fn gather(size: usize, mut taken: Takings, rounds: Rounds) {
    loop {
        let mut round = Vec::with_capacity(size);
        while round.len() < size {
            match taken.recv().await {
                Some(Ok(taken)) => round.push(taken),
                Some(Err(error)) => {
                    let _ = rounds.send(Err(error));
                    return;
                }
                None => return,
            }
        }
        if rounds.send(Ok(round)).is_err() {
            return;
        }
    }
}

type Takings = UnboundedReceiver<anyhow::Result<Taken>>;

async fn follow(mut proxy: Proxy, taken: UnboundedSender<anyhow::Result<Taken>>) {
    let error = loop {
        if let Err(error) = take_push(&mut proxy, &taken).await {
            break error;
        }
    };
    let _ = taken.send(Err(error));
}

async fn take_push(
    proxy: &mut Proxy,
    taken: &UnboundedSender<anyhow::Result<Taken>>,
) -> anyhow::Result<()> {
    let push = proxy.push().await?;
    taken.send(Ok(Taken { push, at: Instant::now() })).context("nobody listens")
}
