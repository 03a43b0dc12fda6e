//! One replica writes: the one that holds the Lease.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::metrics::Metrics;

const NAME: &str = "weir-controller-leader";
/// How long a holder that is not heard of keeps the Lease.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed, or tried for.
const PERIOD: Duration = Duration::from_secs(3);
/// After this without a renewal a holder stops writing: well before another one starts.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is seen of the Lease, and when it last changed. Only our own clock is used: those of other
/// machines may be wrong.
#[derive(Debug)]
struct Observed {
    version: Option<String>,
    at: Instant,
}

/// Whether this replica is the one that writes.
#[derive(Debug, Clone)]
pub struct Leadership {
    leads: watch::Receiver<bool>,
    /// When what was last heard of the Lease is no longer true.
    until: Arc<Mutex<Instant>>,
}

impl Leadership {
    /// Whether the Lease is held at this moment. A process that was paused has not heard yet that
    /// another one took over: it asks the clock as well.
    #[must_use]
    pub fn is_held(&self) -> bool {
        *self.leads.borrow() && Instant::now() < *lock(&self.until)
    }

    /// What was last heard: which changes are worth noting. Before a write ask [`Self::is_held`].
    #[must_use]
    pub fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Waits until the Lease is held.
    pub async fn begins(&mut self) -> Result<(), watch::error::RecvError> {
        self.leads.wait_for(|leads| *leads).await.map(drop)
    }

    /// Waits until the Lease is taken or lost. `Err`: it is not run for any more.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.leads.changed().await
    }
}

fn lock(until: &Mutex<Instant>) -> std::sync::MutexGuard<'_, Instant> {
    // Nothing panics while it holds the lock.
    until.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs for the Lease until `ending`, then lets it go, which ends the task.
pub fn start(
    client: Client,
    namespace: &str,
    identity: Arc<str>,
    metrics: Arc<Metrics>,
    ending: CancellationToken,
) -> (Leadership, JoinHandle<()>) {
    let (sender, leads) = watch::channel(false);
    let until = Arc::new(Mutex::new(Instant::now()));
    let api = Api::namespaced(client, namespace);
    let leadership = Leadership { leads, until: Arc::clone(&until) };
    (leadership, tokio::spawn(run(api, identity, metrics, ending, sender, until)))
}

async fn run(
    api: Api<Lease>,
    identity: Arc<str>,
    metrics: Arc<Metrics>,
    ending: CancellationToken,
    sender: watch::Sender<bool>,
    until: Arc<Mutex<Instant>>,
) {
    let mut observed = Observed { version: None, at: Instant::now() };
    let mut renewed = Instant::now();
    while !ending.is_cancelled() {
        let started = Instant::now();
        let result = timeout(PERIOD, attempt(&api, &identity, &mut observed)).await;
        let is_leader = match result {
            Ok(Ok(is_holder)) => {
                if is_holder {
                    renewed = started;
                    *lock(&until) = started + DEADLINE;
                }
                is_holder
            }
            Ok(Err(error)) => {
                debug!("the Lease cannot be written: {error:#}");
                *sender.borrow() && renewed.elapsed() < DEADLINE
            }
            Err(_) => *sender.borrow() && renewed.elapsed() < DEADLINE,
        };
        let changed =
            sender.send_if_modified(|leads| std::mem::replace(leads, is_leader) != is_leader);
        if changed {
            info!(is_leader, "leadership");
        }
        metrics.is_leader.set(i64::from(is_leader));
        tokio::select! {
            () = sleep(PERIOD.mul_f64(0.8 + 0.4 * fastrand::f64())) => {}
            () = ending.cancelled() => {}
        }
    }
    if !sender.send_replace(false) {
        return;
    }
    match timeout(PERIOD, release(&api, &identity)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!("the Lease is not let go; the next replica has to wait: {error:#}"),
        Err(_) => warn!("the Lease is not let go: the API server does not answer"),
    }
}

/// Takes or renews the Lease if it may. Returns whether it is held.
async fn attempt(api: &Api<Lease>, identity: &str, observed: &mut Observed) -> kube::Result<bool> {
    let Some(mut lease) = api.get_opt(NAME).await? else {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            spec: Some(spec(identity, 0)),
        };
        return won(api.create(&PostParams::default(), &lease).await);
    };
    if lease.metadata.resource_version != observed.version {
        *observed =
            Observed { version: lease.metadata.resource_version.clone(), at: Instant::now() };
    }
    let current = lease.spec.take().unwrap_or_default();
    let holder = current.holder_identity.as_deref().unwrap_or_default();
    let is_own = holder == identity;
    let is_free = holder.is_empty() || observed.at.elapsed() > DURATION;
    if !is_own && !is_free {
        return Ok(false);
    }
    let transitions = current.lease_transitions.unwrap_or_default();
    let mut next = spec(identity, transitions + i32::from(!is_own));
    if is_own {
        next.acquire_time = current.acquire_time;
    }
    lease.spec = Some(next);
    // With the version that was read: of two that try, one wins.
    won(api.replace(NAME, &PostParams::default(), &lease).await)
}

/// Another one was faster, which is no error.
fn won(result: kube::Result<Lease>) -> kube::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

async fn release(api: &Api<Lease>, identity: &str) -> kube::Result<()> {
    let Some(mut lease) = api.get_opt(NAME).await? else { return Ok(()) };
    let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
    if spec.holder_identity.as_deref() == Some(identity) {
        spec.holder_identity = Some(String::new());
        api.replace(NAME, &PostParams::default(), &lease).await?;
    }
    Ok(())
}

fn spec(identity: &str, transitions: i32) -> LeaseSpec {
    let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(DURATION.as_secs() as i32),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests;
