//! The certificate authority of the mesh.
//!
//! ```text
//! Secret cacerts, or istio-ca-secret --> Authority --> certificates of workloads (server.rs)
//!                                            |-------> those of our own servers
//!                                            \-------> ConfigMap istio-ca-root-cert everywhere (bundle.rs)
//! ```
//!
//! An authority that somebody plugged in (`cacerts`, as with Istio) goes before our own, which signs
//! itself and is rotated (`rotate.rs`). Whatever cannot be read leaves in force what is.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use arc_swap::ArcSwapOption;
use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use prometheus::{Gauge, IntCounter};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

mod bundle;
mod issue;
mod root;
mod rotate;
mod server;

pub use self::issue::Limits;
use self::{
    issue::Signing,
    root::{Authority, Data, validity},
    rotate::{Plan, Roots},
};
use crate::{
    leader::Leadership,
    metrics::Metrics,
    tls::{Credentials, Serving},
};

const PLUGGED_IN: &str = "cacerts";
const SELF_SIGNED: &str = "istio-ca-secret";
const SELF_SIGNED_TYPE: &str = "istio.io/ca-root";
/// Between two looks at the Secrets. What they change to is used by nobody in a hurry.
const INTERVAL: Duration = Duration::from_secs(30);

/// What the authority is for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its Secret is.
    pub namespace: String,
    /// What host names of the cluster end with.
    pub domain: String,
    /// Of our own certificate, and the organisation of a root we sign ourselves.
    pub trust_domain: String,
    /// More names that the servers of this process are called by.
    pub hosts: Vec<String>,
    pub limits: Limits,
    /// How long a root lives that we sign ourselves.
    pub root_lifetime: Duration,
}

/// The authority that is in force, for whoever needs something signed.
pub struct Authorities {
    signing: ArcSwapOption<Signing>,
    /// The roots to be trusted, PEM; empty while there is no authority.
    bundle: watch::Sender<String>,
    metrics: CaMetrics,
}

/// Under the names of Istio's.
struct CaMetrics {
    requests: IntCounter,
    issued: IntCounter,
    refused: IntCounter,
    root_expiry: Gauge,
}

/// The running authority. It ends with its handle.
pub struct Ca {
    pub authorities: Arc<Authorities>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// Who looks after the Secrets.
struct Keeper {
    secrets: Api<Secret>,
    options: Options,
    authorities: Arc<Authorities>,
    /// `None`: our servers have a certificate from elsewhere.
    serving: Option<Arc<Serving>>,
    /// When the certificate of our servers is to be replaced.
    renewal: SystemTime,
    leadership: Leadership,
    /// What was wrong last time.
    problem: String,
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").finish_non_exhaustive()
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

/// Starts to keep an authority. `serving` is given a certificate of it.
///
/// # Errors
/// Metrics of these names exist.
pub fn start(
    client: &Client,
    options: Options,
    serving: Option<Arc<Serving>>,
    metrics: &Metrics,
    leadership: Leadership,
) -> anyhow::Result<Ca> {
    let authorities = Arc::new(Authorities {
        signing: ArcSwapOption::empty(),
        bundle: watch::Sender::new(String::new()),
        metrics: CaMetrics::new(metrics)?,
    });
    let keeper = Keeper {
        secrets: Api::namespaced(client.clone(), &options.namespace),
        options,
        authorities: Arc::clone(&authorities),
        serving,
        renewal: UNIX_EPOCH,
        leadership: leadership.clone(),
        problem: String::new(),
    };
    let bundles = bundle::distribute(client.clone(), authorities.bundle.subscribe(), leadership);
    let tasks = [tokio::spawn(keeper.run()), tokio::spawn(bundles)];
    Ok(Ca { authorities, _tasks: tasks.map(AbortOnDropHandle::new) })
}

impl CaMetrics {
    fn new(metrics: &Metrics) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| metrics.register(IntCounter::new(name, help)?);
        Ok(Self {
            requests: counter("citadel_server_csr_count", "Certificates that were asked for.")?,
            issued: counter(
                "citadel_server_success_cert_issuance_count",
                "Certificates that were issued.",
            )?,
            refused: counter(
                "citadel_server_csr_sign_err_count",
                "Certificates that were asked for and not issued.",
            )?,
            root_expiry: metrics.register(Gauge::new(
                "citadel_server_root_cert_expiry_timestamp",
                "When the authority's certificate ends, in seconds since the epoch.",
            )?)?,
        })
    }
}

impl Authorities {
    fn signing(&self) -> Option<Arc<Signing>> {
        self.signing.load_full()
    }

    /// The roots to be trusted, PEM; empty while there is no authority.
    #[must_use]
    pub fn watch_roots(&self) -> watch::Receiver<String> {
        self.bundle.subscribe()
    }
}

impl Keeper {
    async fn run(mut self) {
        loop {
            match self.look(SystemTime::now()).await {
                Ok(()) => self.problem.clear(),
                Err(error) => {
                    let problem = format!("{error:#}");
                    if problem != self.problem {
                        warn!("the authority stays as it is: {problem}");
                    }
                    self.problem = problem;
                }
            }
            let pause = if self.authorities.signing().is_some() { INTERVAL } else { INTERVAL / 15 };
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())) => {}
                // A new leader goes on with what the last one began.
                Ok(()) = self.leadership.changed() => {}
            }
        }
    }

    /// One look at the Secrets, and what follows from it.
    async fn look(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let plugged_in = read(PLUGGED_IN, self.secrets.get_opt(PLUGGED_IN).await)?;
        let authority = match plugged_in {
            Some(secret) => Authority::plugged_in(&data_of(secret))
                .with_context(|| format!("use Secret {PLUGGED_IN}"))?,
            None => self.self_signed(now).await?.authority(),
        };
        self.adopt(authority)?;
        self.serve(now)
    }

    async fn self_signed(&self, now: SystemTime) -> anyhow::Result<Roots> {
        let plan = self.plan();
        let organisation = &self.options.trust_domain;
        let found = read(SELF_SIGNED, self.secrets.get_opt(SELF_SIGNED).await)?;
        let Some(mut secret) = found else {
            let roots = Roots::generate(organisation, plan, now)?;
            let secret = new_secret(roots.write()?);
            // Of several replicas one is the first; the others come back and find its Secret.
            let created = self.secrets.create(&PostParams::default(), &secret).await;
            read(SELF_SIGNED, created).context("create it")?;
            info!("a root was made and put into Secret {SELF_SIGNED}");
            return Ok(roots);
        };
        let data = data_of(secret.clone());
        let roots = Roots::read(&data).with_context(|| format!("use Secret {SELF_SIGNED}"))?;
        if !self.leadership.is_held() {
            return Ok(roots);
        }
        let Some(next) = roots.step(organisation, plan, now)? else { return Ok(roots) };
        secret.data = Some(bytes(next.write()?));
        // With the version that was read: what another replica did meanwhile is not undone.
        let replaced = self.secrets.replace(SELF_SIGNED, &PostParams::default(), &secret).await;
        read(SELF_SIGNED, replaced).context("write it")?;
        info!(
            introduced = next.next.is_some(),
            retired = next.retired.len(),
            "the rotation of the root went on by a step"
        );
        Ok(next)
    }

    fn plan(&self) -> Plan {
        Plan { lifetime: self.options.root_lifetime, certificate: self.options.limits.max }
    }

    /// Signs with `authority` from now on, if it is another than before.
    fn adopt(&mut self, authority: Authority) -> anyhow::Result<()> {
        let current = self.authorities.signing();
        if current.is_some_and(|signing| signing.authority() == &authority) {
            return Ok(());
        }
        let ends = validity(&authority.signer.certificate)?.not_after;
        let bundle = authority.roots.clone();
        let signing = Signing::new(authority, self.options.limits)?;
        self.authorities.signing.store(Some(Arc::new(signing)));
        self.authorities.bundle.send_replace(bundle);
        let ends = ends.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.authorities.metrics.root_expiry.set(ends.as_secs_f64());
        self.renewal = UNIX_EPOCH;
        info!("certificates are signed by another authority from now on");
        Ok(())
    }

    /// Renews the certificate of our own servers when half of its life is over.
    fn serve(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let (Some(serving), Some(signing)) = (&self.serving, self.authorities.signing()) else {
            return Ok(());
        };
        if now < self.renewal {
            return Ok(());
        }
        let Options { namespace, trust_domain, limits, .. } = &self.options;
        let identity = format!("spiffe://{trust_domain}/ns/{namespace}/sa/weir-controller");
        let served = signing.server(&self.options.server_names(), &identity, now)?;
        serving.publish(&Credentials {
            chain: served.chain,
            key: served.key,
            client_roots: signing.authority().root_certificates()?,
        })?;
        self.renewal = now + limits.default / 2;
        Ok(())
    }
}

impl Options {
    /// What our servers are called, also by proxies that were told of Istio's.
    fn server_names(&self) -> Vec<String> {
        let Self { namespace, domain, hosts, .. } = self;
        let mut names = hosts.clone();
        for service in ["weir-controller", "istiod"] {
            names.push(format!("{service}.{namespace}.svc"));
            names.push(format!("{service}.{namespace}.svc.{domain}"));
            names.push(format!("{service}.{namespace}"));
        }
        names.push("istiod.istio-system.svc".to_owned());
        names.sort();
        names.dedup();
        names
    }
}

/// What the API server answered about a Secret. Why an answer is no Secret is not told: the reason quotes
/// what cannot be read, which may be the key.
fn read<T>(name: &str, answer: kube::Result<T>) -> anyhow::Result<T> {
    match answer {
        Err(kube::Error::SerdeError(_)) => bail!("what is sent as Secret {name} is none"),
        answer => answer.with_context(|| format!("Secret {name}")),
    }
}

fn data_of(secret: Secret) -> Data {
    let data = secret.data.unwrap_or_default();
    data.into_iter().map(|(name, ByteString(bytes))| (name, bytes)).collect()
}

fn bytes(data: Data) -> std::collections::BTreeMap<String, ByteString> {
    data.into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect()
}

fn new_secret(data: Data) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(SELF_SIGNED.to_owned()), ..ObjectMeta::default() },
        type_: Some(SELF_SIGNED_TYPE.to_owned()),
        data: Some(bytes(data)),
        ..Secret::default()
    }
}
