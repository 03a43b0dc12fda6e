//! The life of self-signed roots: one is introduced while its predecessor still signs, signs while
//! its predecessor is still trusted, and is retired when nothing it signed is valid any more.
//!
//! ```text
//! root 1  |== signs ===========================|-- trusted --|
//! root 2                         |- introduced -|== signs =======================...
//! ```
//!
//! Each step waits for as long as a certificate lives, because proxies learn of roots with their
//! certificates. What was done is in the Secret, so that any replica goes on with it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::root::{Authority, BACKDATED, Data, Signer, text, validity};

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const ROOTS: &str = "root-cert.pem";
const NEXT_CERTIFICATE: &str = "next-cert.pem";
const NEXT_KEY: &str = "next-key.pem";
const RETIRED: &str = "retired.json";

/// The roots there are.
#[derive(Debug, Clone)]
pub(super) struct Roots {
    pub(super) current: Signer,
    /// Trusted already, but not used yet.
    pub(super) next: Option<Signer>,
    /// Trusted still, but not used any more.
    pub(super) retired: Vec<Retired>,
}

/// A root that signs no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Retired {
    /// PEM.
    pub(super) certificate: String,
    /// Seconds since the epoch after which nothing it signed is valid.
    pub(super) until: u64,
}

/// How long everything lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Of a root.
    pub(super) lifetime: Duration,
    /// The longest a certificate may live that a root signed.
    pub(super) certificate: Duration,
}

impl Plan {
    /// A successor is introduced when so much of a root's life is over.
    fn introduction(self) -> Duration {
        self.lifetime / 3 * 2
    }

    /// Until everybody knows a root, or nobody needs it: a certificate's life, and what clocks differ.
    fn overlap(self) -> Duration {
        self.certificate + self.certificate / 24
    }
}

impl Roots {
    pub(super) fn generate(
        organisation: &str,
        plan: Plan,
        now: SystemTime,
    ) -> anyhow::Result<Self> {
        let current = Signer::generate(organisation, plan.lifetime, now)?;
        Ok(Self { current, next: None, retired: Vec::new() })
    }

    /// What is to be done now; `None`: nothing. One step at a time, so that each is stored.
    pub(super) fn step(
        &self,
        organisation: &str,
        plan: Plan,
        now: SystemTime,
    ) -> anyhow::Result<Option<Self>> {
        if let Some(roots) = self.without_expired(now) {
            return Ok(Some(roots));
        }
        let current = self.current.validity()?;
        let Some(next) = &self.next else {
            if now < current.not_before + plan.introduction() {
                return Ok(None);
            }
            let next = Some(Signer::generate(organisation, plan.lifetime, now)?);
            return Ok(Some(Self { next, ..self.clone() }));
        };
        let introduced = next.validity()?.not_before + BACKDATED;
        // A root that is over signs nothing anybody believes: better the one not all know yet.
        if now < introduced + plan.overlap() && now < current.not_after {
            return Ok(None);
        }
        let until = now + plan.overlap();
        let until = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut retired = self.retired.clone();
        retired.push(Retired { certificate: self.current.certificate.clone(), until });
        Ok(Some(Self { current: next.clone(), next: None, retired }))
    }

    fn without_expired(&self, now: SystemTime) -> Option<Self> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut retired = self.retired.clone();
        retired.retain(|root| now < root.until);
        (retired.len() < self.retired.len()).then(|| Self { retired, ..self.clone() })
    }

    /// The one that signs first: proxies of Istio take the first root for the signer's.
    fn bundle(&self) -> String {
        let retired = self.retired.iter().map(|root| root.certificate.as_str());
        let next = self.next.iter().map(|next| next.certificate.as_str());
        std::iter::once(&*self.current.certificate).chain(next).chain(retired).collect()
    }

    pub(super) fn authority(&self) -> Authority {
        Authority {
            signer: self.current.clone(),
            intermediates: String::new(),
            roots: self.bundle(),
        }
    }

    pub(super) fn read(data: &Data) -> anyhow::Result<Self> {
        let text = |name: &'static str| text(data, &[name]);
        let current = Signer { certificate: text(CERTIFICATE)?, key: text(KEY)? };
        current.issuer()?;
        validity(&current.certificate)?;
        let next = match (text(NEXT_CERTIFICATE), text(NEXT_KEY)) {
            (Ok(certificate), Ok(key)) => {
                let next = Signer { certificate, key };
                next.issuer()?;
                Some(next)
            }
            _ => None,
        };
        let retired = match text(RETIRED) {
            Ok(json) => serde_json::from_str(&json).context("read what is retired")?,
            Err(_) => Vec::new(),
        };
        Ok(Self { current, next, retired })
    }

    pub(super) fn write(&self) -> anyhow::Result<Data> {
        let mut data = Data::new();
        let mut put = |name: &str, text: &str| data.insert(name.to_owned(), text.into());
        put(CERTIFICATE, &self.current.certificate);
        put(KEY, &self.current.key);
        put(ROOTS, &self.bundle());
        if let Some(next) = &self.next {
            put(NEXT_CERTIFICATE, &next.certificate);
            put(NEXT_KEY, &next.key);
        }
        put(RETIRED, &serde_json::to_string(&self.retired)?);
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::root::split;

    const DAY: Duration = Duration::from_secs(86_400);
    const PLAN: Plan = Plan { lifetime: Duration::from_secs(30 * 86_400), certificate: DAY };

    fn step(roots: &Roots, now: SystemTime) -> Option<Roots> {
        roots.step("cluster.local", PLAN, now).unwrap()
    }

    #[test]
    fn a_root_is_succeeded_without_a_moment_in_which_a_certificate_is_not_believed() {
        let start = SystemTime::now();
        let mut roots = Roots::generate("cluster.local", PLAN, start).unwrap();
        let first = roots.current.certificate.clone();
        let mut now = start;
        // What lives at a time: the certificate's root, and when it ends.
        let mut signed: Vec<(String, SystemTime)> = Vec::new();
        let mut known: Vec<(SystemTime, String)> = Vec::new();
        let (mut introduced, mut switched) = (None, None);
        for _hour in 0..24 * 45 {
            now += Duration::from_secs(3600);
            while let Some(next) = step(&roots, now) {
                roots = next;
            }
            let bundle = roots.authority().roots;
            signed.push((roots.current.certificate.clone(), now + DAY));
            signed.retain(|(_, end)| *end > now);
            known.push((now, bundle.clone()));
            known.retain(|(then, _)| *then + DAY > now);
            // Whoever got its roots within the last day, believes what lives.
            for (root, _) in &signed {
                assert!(bundle.contains(root.trim()), "a root is gone while it is needed");
            }
            for (_, bundle) in &known {
                assert!(
                    bundle.contains(roots.current.certificate.trim()),
                    "a root comes too early"
                );
            }
            if roots.next.is_some() {
                introduced.get_or_insert(now);
            }
            if roots.current.certificate != first {
                switched.get_or_insert(now);
            }
        }
        let days = |time: Option<SystemTime>| time.unwrap().duration_since(start).unwrap() / 86_400;
        assert_eq!(days(introduced).as_secs(), 20, "two thirds of its life");
        assert_eq!(days(switched).as_secs(), 21, "a certificate's life later");
        assert_eq!(split(&roots.authority().roots).len(), 1, "the first is forgotten");
    }

    #[test]
    fn an_expired_root_is_succeeded_at_once() {
        let start = SystemTime::now();
        let roots = Roots::generate("cluster.local", PLAN, start).unwrap();
        let now = start + PLAN.lifetime + DAY;
        let roots = step(&roots, now).unwrap();
        let roots = step(&roots, now).unwrap();
        assert!(roots.current.validity().unwrap().not_after > now);
        assert_eq!(step(&roots, now).map(|_| ()), None);
    }

    #[test]
    fn every_step_is_read_as_it_was_written() {
        let start = SystemTime::now();
        let mut roots = Roots::generate("cluster.local", PLAN, start).unwrap();
        let mut now = start;
        for _step in 0..3 {
            let read = Roots::read(&roots.write().unwrap()).unwrap();
            assert_eq!(read.authority().roots, roots.authority().roots);
            assert_eq!(read.current.key, roots.current.key);
            assert_eq!(read.retired, roots.retired);
            assert_eq!(read.next.is_some(), roots.next.is_some());
            while step(&roots, now).is_none() {
                now += DAY;
            }
            roots = step(&roots, now).unwrap();
        }
    }
}
