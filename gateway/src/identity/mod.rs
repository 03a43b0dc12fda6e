//! Who this workload is to others: a certificate with its SPIFFE identity, renewed in time.
//!
//! It comes from an agent behind a socket (SPIRE's), else from files that something else looks after,
//! else from the controller: the key is made here and never leaves the process, unless it is given a folder for that,
//! and the pod's token says whose it is. What is in use stays until its successor is valid; so nothing is refused because the authority is
//! away, until the certificate ends.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;
use weir_config::model::{Secret, SecretName, secret::SecretMaterial};

mod client;
mod kept;
mod schedule;
mod sds;

pub use self::sds::{is_provided, provide};

use self::schedule::Due;
use crate::{
    control_plane::{Backoff, ControlPlane},
    tls::{self, LoadedSecret, Workload},
};

/// How far our clock may be behind the authority's. What it signed a moment ago, and dated back, is
/// good for others; without it a slow clock would keep a workload from its certificate.
const SLOW_CLOCK: i64 = 300;

/// Between two looks at them.
const FILES_INTERVAL: Duration = Duration::from_secs(5);

/// Whose certificate, and who signs it.
#[derive(Debug)]
pub struct Options {
    pub authority: ControlPlane,
    /// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    pub identity: String,
    /// Socket of an agent that gives out certificates; it goes before everything else.
    pub agent: Option<PathBuf>,
    /// Folder of `cert-chain.pem`, `key.pem` and `root-cert.pem` that somebody else looks after; if
    /// they are there at the start, nobody is asked to sign.
    pub files: PathBuf,
    /// Folder to keep the certificate in, for the next start; `None`: the key never leaves the process.
    pub kept_in: Option<PathBuf>,
}

/// Keeps `current` current. Never ends by itself.
pub async fn keep(options: Options, current: watch::Sender<Option<Arc<Workload>>>) {
    if let Some(socket) = &options.agent {
        sds::follow(socket, &current).await;
    } else if options.files.join(CERTIFICATE).exists() {
        follow_files(&options.files, &current).await;
    } else {
        renew(&options, &current).await;
    }
}

/// Keeps `current` what an agent says, or else the files in a folder, which somebody else looks after.
/// Never ends by itself.
pub async fn follow(
    agent: Option<PathBuf>,
    folder: PathBuf,
    current: watch::Sender<Option<Arc<Workload>>>,
) {
    match agent {
        Some(socket) => sds::follow(&socket, &current).await,
        None => follow_files(&folder, &current).await,
    }
}

/// Asks for a certificate, and for the next when half of its life is over.
async fn renew(options: &Options, current: &watch::Sender<Option<Arc<Workload>>>) {
    let mut backoff = Backoff::default();
    let mut said = BTreeSet::new();
    if let Some(workload) =
        options.kept_in.as_deref().and_then(|it| kept::read(it, &options.identity))
    {
        let due = Due::of(workload.validity, now(), fastrand::f64());
        tracing::info!(
            identity = options.identity,
            renewed_in_seconds = due.seconds(),
            "the workload goes on with the certificate it had"
        );
        current.send_replace(Some(Arc::new(workload)));
        due.wait(now).await;
    }
    loop {
        match client::request(options).await {
            Ok(workload) => {
                keep_for_next_start(options, &workload);
                let now_valid = schedule::from_now(workload.validity, now());
                let due = Due::of(now_valid, now(), fastrand::f64());
                tracing::info!(
                    identity = options.identity,
                    renewed_in_seconds = due.seconds(),
                    "the workload has a new certificate"
                );
                current.send_replace(Some(Arc::new(workload)));
                (backoff, said) = (Backoff::default(), BTreeSet::new());
                due.wait(now).await;
            }
            Err(error) => {
                let left = current.borrow().as_ref().map(|it| it.validity.not_after - now());
                let problem = format!("{:#}", anyhow::Error::from(error));
                if said.insert(problem.clone()) {
                    say(&problem, left);
                }
                withdraw_ended(current);
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}

fn keep_for_next_start(options: &Options, workload: &Workload) {
    let Some(folder) = &options.kept_in else { return };
    if let Err(error) = kept::write(folder, workload) {
        let folder = folder.display();
        tracing::warn!(%folder, "the workload's certificate is not kept: {error}");
    }
}

/// A certificate that has ended is nobody's identity. Most would refuse it; but whoever resumes a TLS
/// session looks at no certificate.
fn withdraw_ended(current: &watch::Sender<Option<Arc<Workload>>>) {
    current.send_if_modified(|workload| {
        let is_over = workload.as_ref().is_some_and(|it| now() > it.validity.not_after);
        if is_over {
            *workload = None;
            tracing::error!("the workload's certificate has ended; nothing is reached with it");
        }
        is_over
    });
}

fn say(problem: &str, seconds_left: Option<i64>) {
    match seconds_left {
        Some(left) => tracing::warn!(
            seconds_left = left,
            "the workload's certificate is not renewed yet: {problem}"
        ),
        None => tracing::warn!("the workload has no certificate yet: {problem}"),
    }
}

const CERTIFICATE: &str = "cert-chain.pem";
const KEY: &str = "key.pem";
const ROOTS: &str = "root-cert.pem";

async fn follow_files(folder: &Path, current: &watch::Sender<Option<Arc<Workload>>>) {
    let mut known = None;
    let mut said = String::new();
    loop {
        match read(folder) {
            Ok(material) if known.as_ref() == Some(&material) => {}
            // All three are replaced one after the other: what does not fit together is not used.
            read => match read.and_then(|material| Ok((material.clone(), usable(material)?))) {
                Ok((material, workload)) => {
                    tracing::info!(folder = %folder.display(), "the workload has a new certificate");
                    current.send_replace(Some(Arc::new(workload)));
                    (known, said) = (Some(material), String::new());
                }
                Err(problem) => {
                    if problem != said {
                        tracing::warn!("the certificate in {}: {problem}", folder.display());
                    }
                    said = problem;
                }
            },
        }
        withdraw_ended(current);
        tokio::time::sleep(FILES_INTERVAL).await;
    }
}

fn read(folder: &Path) -> Result<SecretMaterial, String> {
    let file = |name: &str| {
        let read = std::fs::read(folder.join(name));
        read.map(|bytes| Some(bytes.into())).map_err(|error| format!("read {name}: {error}"))
    };
    Ok(material(file(CERTIFICATE)?, file(KEY)?, file(ROOTS)?))
}

fn material(
    certificate_chain: Option<Arc<[u8]>>,
    private_key: Option<Arc<[u8]>>,
    trust_bundle: Option<Arc<[u8]>>,
) -> SecretMaterial {
    SecretMaterial::Inline {
        certificate_chain,
        private_key,
        trust_bundle,
        revocation_list: None,
        ocsp_staple: None,
    }
}

/// What others can believe from now on, or what is wrong with it.
fn usable(material: SecretMaterial) -> Result<Workload, String> {
    let secret = Secret { name: SecretName::workload(), material };
    let LoadedSecret { key, roots, validity, problem, .. } = tls::load(&secret);
    if let Some(problem) = problem {
        return Err(problem);
    }
    let (Some(key), Some(validity), Some(_)) = (key, validity, roots) else {
        return Err("it has no certificate, key or root".to_owned());
    };
    let now = now();
    if now > validity.not_after {
        return Err("it has expired".to_owned());
    }
    // Others look at it with their own clocks.
    if now.saturating_add(SLOW_CLOCK) < validity.not_before {
        return Err(format!("it is valid only in {} s", validity.not_before - now));
    }
    Ok(Workload { secret: Arc::new(secret), key, validity })
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
