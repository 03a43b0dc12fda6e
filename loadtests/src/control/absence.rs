//! The controller away for less and for longer than certificates live: how soon every proxy is
//! connected and has a certificate again, and how many ask for one at the same time.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tokio::{
    runtime,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::LocalSet,
    time::{sleep, sleep_until, timeout_at},
};

use super::{
    Found, PATIENCE, Stage, bed, millis,
    process::{Controller, Ports},
    proxy::{Access, Proxy},
    swarm,
};
use crate::measure::Figure;

/// The shortest that the controller signs for.
const LIFETIME: Duration = Duration::from_secs(60);
/// Less than half of it, and more than all.
const ABSENCES: [(Duration, Figure); 2] = [
    (Duration::from_secs(15), Figure::BackAfterShort),
    (Duration::from_secs(75), Figure::BackAfterLong),
];

pub async fn take(stage: &Stage<'_>) -> anyhow::Result<Found> {
    stage.bed.write_all(swarm::shop(&stage.bed.namespace, stage.objects())).await?;
    let ports = Ports::free();
    let lifetime = format!("{}s", LIFETIME.as_secs());
    let arguments = ["--max-workload-cert-ttl", &lifetime];
    let mut controller = Controller::start_at(stage, &ports, &arguments).await?;
    let access = Access::new(&controller, &stage.bed.root().await?)?;
    let tokens = stage.bed.tokens(stage.proxies()).await?;
    let mut proxies = Proxies::start(&access, &stage.bed.namespace, tokens)?;
    proxies.all_are_well(Instant::now()).await.with_context(|| controller.last_words())?;

    let mut found = Found::default();
    proxies.signed.clear();
    proxies.watch(2 * LIFETIME).await?;
    let renewals = proxies.signed.len() as f64;
    found.set(Figure::SignedEach, renewals / proxies.states.len() as f64);
    found.set(Figure::SignedPeak, proxies.most_signed_in_a_second());
    for (absence, figure) in ABSENCES {
        drop(controller);
        proxies.watch(absence).await?;
        proxies.signed.clear();
        controller = Controller::start_at(stage, &ports, &arguments).await?;
        let back = Instant::now();
        let time = proxies.all_are_well(back).await.with_context(|| controller.last_words())?;
        found.set(figure, millis(time));
        if absence > LIFETIME {
            found.set(Figure::SignedPeakBack, proxies.most_signed_in_a_second());
        }
        let (asked, signed) = controller.signed().await?;
        ensure!(asked == signed, "of {asked} requests to sign {signed} were granted");
    }
    Ok(found)
}

/// What has become of a proxy.
enum Event {
    Connected,
    Lost,
    /// Its certificate ends then.
    Signed(Instant),
    /// The controller was reached, and did not do it.
    Refused(anyhow::Error),
}

#[derive(Clone, Copy, Default)]
struct State {
    is_connected: bool,
    certificate: Option<Instant>,
}

impl State {
    fn is_well(self, now: Instant) -> bool {
        self.is_connected && self.certificate.is_some_and(|end| now < end)
    }
}

/// Proxies that live on a thread of their own, until this is dropped.
struct Proxies {
    states: Vec<State>,
    /// When certificates were signed.
    signed: Vec<Instant>,
    events: UnboundedReceiver<(usize, Instant, Event)>,
}

impl Proxies {
    fn start(access: &Access, namespace: &str, tokens: Vec<String>) -> anyhow::Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let states = vec![State::default(); tokens.len()];
        let (access, request) = (access.clone(), Arc::<str>::from(request(namespace)?));
        thread::Builder::new()
            .name("proxies".into())
            .spawn(move || live(&access, &request, tokens, &sender))
            .context("start the thread of the proxies")?;
        Ok(Self { states, signed: Vec::new(), events })
    }

    /// Waits until all are connected and have a certificate; how long after `since` that was.
    async fn all_are_well(&mut self, since: Instant) -> anyhow::Result<Duration> {
        let deadline = since + PATIENCE;
        loop {
            let now = Instant::now();
            let ill = self.states.iter().filter(|state| !state.is_well(now)).count();
            if ill == 0 {
                return Ok(now.saturating_duration_since(since));
            }
            ensure!(now < deadline, "{ill} proxies are not back");
            self.note(deadline).await?;
        }
    }

    /// Notes what happens for so long.
    async fn watch(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.note(until).await?;
        }
        Ok(())
    }

    /// Notes what happens next, if it does before then.
    async fn note(&mut self, until: Instant) -> anyhow::Result<()> {
        let Ok(event) = timeout_at(until.into(), self.events.recv()).await else { return Ok(()) };
        let (number, at, event) = event.context("the proxies ended")?;
        let state = &mut self.states[number];
        match event {
            Event::Connected => state.is_connected = true,
            Event::Lost => state.is_connected = false,
            Event::Signed(end) => {
                state.certificate = Some(end);
                self.signed.push(at);
            }
            Event::Refused(error) => bail!("a proxy was refused: {error:#}"),
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of proxies")]
    fn most_signed_in_a_second(&self) -> f64 {
        let mut signed = self.signed.clone();
        signed.sort_unstable();
        let within = |(index, first): (usize, &Instant)| {
            let last = signed.partition_point(|at| *at < *first + Duration::from_secs(1));
            last - index
        };
        signed.iter().enumerate().map(within).max().unwrap_or_default() as f64
    }
}

/// All ask with the same key: who asks is known by his token.
fn request(namespace: &str) -> anyhow::Result<String> {
    let identity = format!("spiffe://cluster.local/ns/{namespace}/sa/{}", bed::SERVICE_ACCOUNT);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
    Ok(params.serialize_request(&KeyPair::generate()?)?.pem()?)
}

type Events = UnboundedSender<(usize, Instant, Event)>;

fn live(access: &Access, request: &Arc<str>, tokens: Vec<String>, events: &Events) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = events.send((0, Instant::now(), Event::Refused(error.into())));
            return;
        }
    };
    LocalSet::new().block_on(&runtime, async {
        for (number, token) in tokens.into_iter().enumerate() {
            let tell = {
                let events = events.clone();
                move |event| events.send((number, Instant::now(), event)).is_ok()
            };
            let following = follow(access.clone(), token.clone(), tell.clone());
            tokio::task::spawn_local(following);
            tokio::task::spawn_local(renew(access.clone(), token, Arc::clone(request), tell));
        }
        events.closed().await;
    });
}

/// Stays connected, as the gateway does.
async fn follow(access: Access, token: String, tell: impl Fn(Event) -> bool) {
    let mut backoff = Backoff::default();
    loop {
        if let Ok(mut proxy) = Proxy::connect(&access, &token).await
            && proxy.push().await.is_ok()
        {
            backoff = Backoff::default();
            if !tell(Event::Connected) {
                return;
            }
            while proxy.push().await.is_ok() {}
            if !tell(Event::Lost) {
                return;
            }
        }
        sleep(backoff.wait()).await;
    }
}

/// Has its certificate renewed about the middle of its life, as the gateway does.
async fn renew(access: Access, token: String, request: Arc<str>, tell: impl Fn(Event) -> bool) {
    let mut backoff = Backoff::default();
    loop {
        let now = tokio::time::Instant::now();
        match access.certificate(&token, &request, LIFETIME).await {
            Ok(true) => {
                backoff = Backoff::default();
                if !tell(Event::Signed((now + LIFETIME).into())) {
                    return;
                }
                sleep_until(now + LIFETIME.mul_f64(0.45 + 0.1 * fastrand::f64())).await;
            }
            Ok(false) => sleep(backoff.wait()).await,
            Err(error) => {
                tell(Event::Refused(error));
                return;
            }
        }
    }
}

/// As the gateway's.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(100))
    }
}

impl Backoff {
    fn wait(&mut self) -> Duration {
        let due = self.0;
        self.0 = (due * 2).min(Duration::from_secs(4));
        due.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}
