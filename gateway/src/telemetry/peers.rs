//! Who clients of the mesh are to metrics: by their certificates, and by what they say of themselves.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use weir_config::model::cluster::Workload;

use super::peer_metadata::Described;
use crate::connection::{DescribedPeer, Peer, PeerIdentity};

/// Different workloads remembered. A mesh that vouches for more has its later ones without a name.
const MAX_PEERS: usize = 10_000;
/// Different descriptions an identity may give of itself: an account can be of several workloads, each
/// in several versions. Later ones are known by the identity only.
const MAX_DESCRIPTIONS: usize = 256;

/// One value for all connections of a workload, so that they share their series.
#[derive(Debug, Default)]
pub struct Peers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    identities: FxHashMap<Arc<str>, Identity>,
    /// Workloads in all of them.
    count: usize,
}

#[derive(Debug)]
struct Identity {
    /// What the certificate says.
    workload: Arc<Workload>,
    described: Vec<Arc<Workload>>,
}

impl Peers {
    /// What a certificate says about the workload; `None` where it is not one of the mesh. Once per
    /// handshake: the lock is held for a look-up.
    #[must_use]
    pub fn workload(&self, peer: &PeerIdentity) -> Option<Arc<Workload>> {
        let principal = peer.principal()?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = known.identities.get(principal) {
            return Some(Arc::clone(&identity.workload));
        }
        let mut parts = principal.split('/').skip_while(|part| *part != "ns").skip(1);
        let workload = match known.count < MAX_PEERS {
            true => Workload {
                namespace: parts.next().unwrap_or_default().into(),
                principal: principal.into(),
                ..Workload::default()
            },
            false => Workload::default(),
        };
        let key = match workload.principal.is_empty() {
            true => Arc::default(),
            false => Arc::clone(&workload.principal),
        };
        let new = || Identity { workload: Arc::new(workload), described: Vec::new() };
        let workload = Arc::clone(&known.identities.entry(key).or_insert_with(new).workload);
        known.count += 1;
        Some(workload)
    }

    /// Keeps what a client says of itself, if its certificate was verified and it has not said it before.
    pub fn describe(&self, peer: &Peer, said: &Described) {
        let Some(identified) = &peer.identified else { return };
        peer.described.get_or_init(|| DescribedPeer {
            workload: self.described(identified, said),
            wants_answer: said.wants_answer,
        });
    }

    /// The workload that a verified client, `identified` by its certificate, says it is. Who it is and
    /// in which namespace stays what the certificate says. Once per connection.
    fn described(&self, identified: &Arc<Workload>, said: &Described) -> Arc<Workload> {
        let Described { name, app, version, canonical_service, canonical_revision, .. } = said;
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *guard;
        // Too many identities already.
        let Some(identity) = known.identities.get_mut(&identified.principal) else {
            return Arc::clone(identified);
        };
        let is_said = |it: &&Arc<Workload>| {
            *it.name == **name
                && *it.app == **app
                && *it.version == **version
                && *it.canonical_service == **canonical_service
                && *it.canonical_revision == **canonical_revision
        };
        if let Some(workload) = identity.described.iter().find(is_said) {
            return Arc::clone(workload);
        }
        if identity.described.len() >= MAX_DESCRIPTIONS || known.count >= MAX_PEERS {
            return Arc::clone(identified);
        }
        let workload = Arc::new(Workload {
            name: name.as_str().into(),
            app: app.as_str().into(),
            version: version.as_str().into(),
            canonical_service: canonical_service.as_str().into(),
            canonical_revision: canonical_revision.as_str().into(),
            namespace: Arc::clone(&identified.namespace),
            principal: Arc::clone(&identified.principal),
        });
        identity.described.push(Arc::clone(&workload));
        known.count += 1;
        workload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(uri: &str) -> PeerIdentity {
        PeerIdentity {
            subject: "".into(),
            uri_sans: Arc::from([uri.into()]),
            dns_sans: Arc::default(),
            fingerprint: "".into(),
            chain: Arc::default(),
        }
    }

    fn version(version: &str) -> Described {
        Described { name: "web".to_owned(), version: version.to_owned(), ..Described::default() }
    }

    #[test]
    fn a_description_adds_to_what_the_certificate_says_and_takes_nothing_from_it() {
        let peers = Peers::default();
        let certain = peers.workload(&identity("spiffe://td/ns/shop/sa/web")).unwrap();
        let workload = peers.described(&certain, &version("v1"));
        assert_eq!((&*workload.name, &*workload.version), ("web", "v1"));
        assert_eq!((&*workload.namespace, &*workload.principal), ("shop", "td/ns/shop/sa/web"));
        assert!(Arc::ptr_eq(&workload, &peers.described(&certain, &version("v1"))));
        assert!(!Arc::ptr_eq(&workload, &peers.described(&certain, &version("v2"))));
    }

    #[test]
    fn who_says_something_else_each_time_is_known_by_its_certificate() {
        let peers = Peers::default();
        let certain = peers.workload(&identity("spiffe://td/ns/shop/sa/web")).unwrap();
        for number in 0..MAX_DESCRIPTIONS {
            let workload = peers.described(&certain, &version(&number.to_string()));
            assert_eq!(&*workload.name, "web");
        }
        let one_more = peers.described(&certain, &version("one more"));
        assert!(Arc::ptr_eq(&one_more, &certain));
        let other = peers.workload(&identity("spiffe://td/ns/shop/sa/other")).unwrap();
        assert_eq!(&*peers.described(&other, &version("v1")).name, "web");
    }
}
