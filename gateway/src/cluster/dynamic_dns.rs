//! Endpoints by the name a client asked for: looked up when it first comes, by us, and from then on off
//! the request path. A name in use is asked for again before its answer ends; where that comes late, the
//! last answer serves on for a while.
//!
//! What a client may choose is a name the configuration covers, nothing else: not the port, not the
//! address. A name that leads to a network of our own - whoever answers for it may be anybody - leads
//! nowhere, unless the configuration allows that network (hardening C9).

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use http::StatusCode;
use rustc_hash::FxHashMap;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use weir_config::model::{
    cluster::{DynamicNames, Workload, is_local},
    matcher::HostPattern,
};

use super::{
    Cluster, MAX_STALE, Resolver,
    dns::{MIN_REFRESH, usable},
    endpoint::{Endpoint, EndpointId, Member},
};
use crate::{
    canonical::{authority, ip},
    local_reply::LocalReply,
    telemetry::ResponseFlag,
};

/// Names of one cluster known at a time.
const MAX_NAMES: usize = 1000;
/// A name nobody asked for this long may be forgotten for another.
const UNUSED: Duration = Duration::from_secs(60);
/// This part of the time an answer holds is left when it is asked for again.
const AHEAD: u32 = 10;

/// The names clients of one cluster asked for lately.
#[derive(Debug)]
pub(super) struct DynamicDns {
    config: Arc<DynamicNames>,
    resolver: Resolver,
    /// Held for a look-up, and for a pass over all when it is full.
    names: Mutex<FxHashMap<Arc<str>, Arc<Name>>>,
    /// What metrics call all of them: one, so that they have one series.
    nobody: Arc<Workload>,
}

#[derive(Debug)]
struct Name {
    host: Arc<str>,
    used: Mutex<Instant>,
    /// Held for a look.
    answer: Mutex<Answer>,
    /// Told when the name server has answered, or has not in time.
    answered: watch::Sender<()>,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Answer {
    endpoints: Vec<(SocketAddr, Arc<Endpoint>)>,
    /// Until when it holds; `None`: nothing is known.
    holds: Option<Instant>,
    /// When to ask again: a little before that.
    due: Option<Instant>,
    /// Why there are no endpoints.
    refused: Option<&'static str>,
    /// The name server is being asked: once, whoever else comes.
    is_asking: bool,
    /// What it said, until somebody needs it.
    found: Option<Found>,
}

/// An answer of the name server: the addresses and how long they hold; `None`: it has none, or did not
/// answer.
#[derive(Debug)]
struct Found {
    addresses: Option<(Vec<IpAddr>, Duration)>,
    at: Instant,
}

/// A question that is out. However it ends, that is told.
struct Asking {
    name: Arc<Name>,
    addresses: Option<(Vec<IpAddr>, Duration)>,
}

impl DynamicDns {
    pub(super) fn new(config: Arc<DynamicNames>, resolver: Resolver) -> Self {
        Self { config, resolver, names: Mutex::default(), nobody: Arc::default() }
    }

    /// An endpoint of `host`, one not in `tried` if there is one.
    pub(super) async fn pick(
        &self,
        cluster: &Cluster,
        host: Option<&str>,
        tried: &[EndpointId],
    ) -> Result<Arc<Endpoint>, LocalReply> {
        let host = self.covered(host).ok_or_else(|| refused("dynamic_dns_name_refused"))?;
        let name = self.name(&host)?;
        // Before the look, so that an answer after it is not missed.
        let mut answered = name.answered.subscribe();
        if !self.look(cluster, &name).is_usable() {
            // A slow name server costs no more than a slow server would.
            let limit = cluster.config.connect_timeout;
            // It is looked at again, whatever came of it.
            let _ = timeout(limit, answered.changed()).await;
        }
        let answer = self.look(cluster, &name);
        let endpoints = &answer.endpoints;
        let untried: Vec<_> =
            endpoints.iter().filter(|(_, endpoint)| !tried.contains(&endpoint.id())).collect();
        let chosen = match untried.as_slice() {
            [] => endpoints.first(),
            several => several.get(Rng::new().usize(..several.len())).copied(),
        };
        let chosen = chosen.map(|(_, endpoint)| Arc::clone(endpoint));
        chosen.ok_or_else(|| refused(answer.refused.unwrap_or("dns_resolution_failed")))
    }

    /// What is known of a name now. Asks for it if that is due, and waits for nothing.
    fn look<'a>(&self, cluster: &Cluster, name: &'a Arc<Name>) -> MutexGuard<'a, Answer> {
        let mut answer = name.answer();
        if let Some(found) = answer.found.take() {
            self.take_in(cluster, &name.host, &mut answer, found);
        }
        if !answer.is_asking && answer.due.is_none_or(|due| due <= Instant::now()) {
            answer.is_asking = true;
            // Who asks tells when it ends, which may be at once where everything ends.
            drop(answer);
            self.ask(cluster, name);
            answer = name.answer();
        }
        answer
    }

    fn ask(&self, cluster: &Cluster, name: &Arc<Name>) {
        let (resolver, limit) = (self.resolver.clone(), cluster.config.connect_timeout);
        let asking = Asking { name: Arc::clone(name), addresses: None };
        tokio::spawn(async move {
            let host = Arc::clone(&asking.name.host);
            let found = timeout(limit, resolver.resolve(&host)).await;
            asking.ends(found.ok().and_then(Result::ok));
        });
    }

    /// Closes what is pooled; who has an endpoint goes on with it.
    pub(super) fn retire(&self) {
        for name in self.names().values() {
            name.retire();
        }
    }

    /// The name without port and final dot, if it is one that may be asked for.
    fn covered(&self, host: Option<&str>) -> Option<Arc<str>> {
        let host = authority::without_port(host?);
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let is_covered = self.config.pattern.covers(&HostPattern::Exact(host.as_str().into()));
        (is_covered && is_host_name(&host)).then(|| host.into())
    }

    fn name(&self, host: &Arc<str>) -> Result<Arc<Name>, LocalReply> {
        let now = Instant::now();
        let mut names = self.names();
        if let Some(name) = names.get(host) {
            *name.used() = now;
            return Ok(Arc::clone(name));
        }
        if names.len() >= MAX_NAMES {
            names.retain(|_, name| {
                let stays = now.duration_since(*name.used()) < UNUSED;
                if !stays {
                    name.retire();
                }
                stays
            });
        }
        if names.len() >= MAX_NAMES {
            let flag = ResponseFlag::UpstreamOverflow;
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(LocalReply::new(status, flag, "dynamic_dns_names_overflow", ""));
        }
        let name = Name {
            host: Arc::clone(host),
            used: Mutex::new(now),
            answer: Mutex::default(),
            answered: watch::Sender::new(()),
        };
        let name = Arc::new(name);
        names.insert(Arc::clone(host), Arc::clone(&name));
        Ok(name)
    }

    /// Takes over what the name server said. Where that is nothing, what was known stays for a while.
    fn take_in(&self, cluster: &Cluster, host: &str, answer: &mut Answer, found: Found) {
        let Found { addresses, at } = found;
        let Some((addresses, ttl)) = addresses else {
            answer.due = Some(at + MIN_REFRESH);
            if !answer.is_usable() || answer.endpoints.is_empty() {
                tracing::debug!(host, "does not resolve");
                answer.replace(Vec::new());
                answer.refused = None;
                answer.holds = Some(at + MIN_REFRESH);
            }
            return;
        };
        let count = addresses.len();
        let mut addresses = addresses;
        addresses.retain(|address| self.may_lead_to(*address));
        answer.refused =
            (addresses.is_empty() && count > 0).then_some("dynamic_dns_address_refused");
        if answer.refused.is_some() {
            tracing::warn!(
                host,
                cluster = %cluster.config.name,
                "the name leads to a network that is not public; allow it with weir.dev/allowedIPRanges \
                 if that is meant"
            );
        }
        let endpoints = usable(addresses).into_iter().map(|address| {
            let address = SocketAddr::new(address, self.config.port);
            let known = answer.endpoints.iter().find(|(known, _)| *known == address);
            let endpoint = known.map(|(_, endpoint)| Arc::clone(endpoint));
            (address, endpoint.unwrap_or_else(|| self.endpoint(cluster, address)))
        });
        let endpoints = endpoints.collect();
        answer.replace(endpoints);
        let holds = ttl.clamp(MIN_REFRESH, self.config.refresh.max(MIN_REFRESH));
        answer.holds = Some(at + holds);
        answer.due = Some(at + holds - holds / AHEAD);
    }

    fn may_lead_to(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.config.refuses_local && is_local(address) {
            return false;
        }
        ip::is_public(address) || self.config.allowed.iter().any(|net| net.contains(&address))
    }

    fn endpoint(&self, cluster: &Cluster, address: SocketAddr) -> Arc<Endpoint> {
        let member = Member::at(address, &self.nobody);
        Endpoint::next(None, member, &cluster.transports, cluster.gauges())
    }

    fn names(&self) -> MutexGuard<'_, FxHashMap<Arc<str>, Arc<Name>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    fn used(&self) -> MutexGuard<'_, Instant> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retire(&self) {
        let mut answer = self.answer();
        answer.replace(Vec::new());
        (answer.holds, answer.due) = (None, None);
    }
}

impl Asking {
    fn ends(mut self, addresses: Option<(Vec<IpAddr>, Duration)>) {
        self.addresses = addresses;
        // Tells it.
        drop(self);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut answer = self.name.answer();
        answer.is_asking = false;
        answer.found = Some(Found { addresses: self.addresses.take(), at: Instant::now() });
        drop(answer);
        self.name.answered.send_replace(());
    }
}

impl Answer {
    /// Whether it may be used: it holds, or has ended only lately and there is no other yet. That there
    /// is nothing does not live on.
    fn is_usable(&self) -> bool {
        let stale = if self.endpoints.is_empty() { Duration::ZERO } else { MAX_STALE };
        self.holds.is_some_and(|holds| Instant::now() < holds + stale)
    }

    fn replace(&mut self, endpoints: Vec<(SocketAddr, Arc<Endpoint>)>) {
        for (address, endpoint) in &self.endpoints {
            if !endpoints.iter().any(|(kept, _)| kept == address) {
                endpoint.retire(None);
            }
        }
        self.endpoints = endpoints;
    }
}

/// Letters, digits, hyphens and underscores in labels of at most 63: what a name server is asked for is
/// not for the client to make up.
fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

fn refused(details: &'static str) -> LocalReply {
    LocalReply::new(StatusCode::BAD_GATEWAY, ResponseFlag::DnsFailure, details, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pattern: &str, allowed: &[&str]) -> DynamicDns {
        let config = DynamicNames {
            pattern: HostPattern::parse(pattern),
            port: 443,
            refresh: Duration::from_secs(60),
            allowed: allowed.iter().map(|net| net.parse().unwrap()).collect(),
            refuses_local: false,
        };
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        DynamicDns::new(Arc::new(config), Resolver::with_name_server(nowhere).unwrap())
    }

    #[test]
    fn only_names_below_the_suffix_are_asked_for() {
        let names = names("*.example.com", &[]);
        let long = format!("{}.example.com", "a".repeat(64));
        for (host, expected) in [
            ("a.example.com", Some("a.example.com")),
            ("A.Example.COM:8443", Some("a.example.com")),
            ("a.b.example.com.", Some("a.b.example.com")),
            ("xn--bcher-kva.example.com", Some("xn--bcher-kva.example.com")),
            ("example.com", None),
            (".example.com", None),
            ("a..example.com", None),
            ("example.com.evil", None),
            ("evilexample.com", None),
            ("a.example.com.evil", None),
            ("10.0.0.1", None),
            ("[::1]:443", None),
            ("a b.example.com", None),
            ("a/b.example.com", None),
            (&long, None),
        ] {
            assert_eq!(names.covered(Some(host)).as_deref(), expected, "{host}");
        }
        assert_eq!(names.covered(None), None);
    }

    #[test]
    fn a_network_that_is_not_public_has_to_be_allowed() {
        let names = names("*.example.com", &["10.1.0.0/16", "fd00::/8"]);
        for (address, expected) in [
            ("93.184.216.34", true),
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("fd00::1", true),
            ("10.2.0.1", false),
            ("127.0.0.1", false),
            ("::ffff:127.0.0.1", false),
        ] {
            assert_eq!(names.may_lead_to(address.parse().unwrap()), expected, "{address}");
        }
    }

    /// Hardening N07.
    #[test]
    fn no_annotation_of_another_tenant_lets_a_name_lead_to_this_host() {
        let mut names = names("*.example.com", &["0.0.0.0/0", "::/0"]);
        for refuses_local in [true, false] {
            let config = Arc::make_mut(&mut names.config);
            config.refuses_local = refuses_local;
            for address in ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "::1", "fe80::1"] {
                let address = address.parse().unwrap();
                assert_eq!(names.may_lead_to(address), !refuses_local, "{address}");
            }
            assert!(names.may_lead_to("10.2.0.1".parse().unwrap()));
        }
    }

    #[test]
    fn names_are_bounded_and_the_unused_go_first() {
        let names = names("*.example.com", &[]);
        for number in 0..MAX_NAMES {
            names.name(&format!("{number}.example.com").into()).unwrap();
        }
        let reply = names.name(&"one-more.example.com".into()).unwrap_err();
        assert_eq!(reply.flag, Some(ResponseFlag::UpstreamOverflow));
        let old = names.name(&"7.example.com".into()).unwrap();
        *old.used() = Instant::now().checked_sub(UNUSED).unwrap();
        names.name(&"one-more.example.com".into()).unwrap();
        assert!(!names.names().contains_key("7.example.com"));
    }
}
