//! Keys, certificates and trust bundles, ready for rustls in both directions.
//!
//! Invariant: a broken version of a secret never replaces a working one, and nothing here prints key
//! material.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustc_hash::FxHashMap;
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::CertificateRevocationListDer,
    sign::CertifiedKey,
};
use weir_config::{
    diagnostic::Severity,
    model::{Delta, Secret, SecretName},
};

use self::file::FileStamps;

mod cipher;
mod client_verifier;
mod file;
mod peer;
mod secret;
pub mod server_config;

pub use cipher::{cipher_suite_name, version_name};
#[cfg(test)]
pub(crate) use file::sha256;

/// The secrets of a configuration by name. Cloning shares everything.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    by_name: Arc<FxHashMap<SecretName, Entry>>,
}

#[derive(Debug, Clone)]
struct Entry {
    config: Arc<Secret>,
    loaded: Arc<LoadedSecret>,
    /// What the files looked like when they were read; `None` for inline material.
    files: Option<FileStamps>,
}

/// What a secret holds. Parts it does not hold, or never held in working order, are `None`.
///
/// A new version is a new `Arc`, so that users find out by identity whether theirs changed.
#[derive(Clone, Default)]
pub struct LoadedSecret {
    pub key: Option<Arc<CertifiedKey>>,
    pub roots: Option<Arc<RootCertStore>>,
    /// Belong to `roots`; leaf certificates are checked against them.
    pub crls: Arc<[CertificateRevocationListDer<'static>]>,
    /// Of the leaf certificate, in seconds since the epoch.
    pub validity: Option<Validity>,
    /// Why this version could not be used, and what to do. The parts are the last good ones.
    pub problem: Option<String>,
}

/// When a certificate may be used, in seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

/// The certificate this process has in the mesh, its key, and whom to believe there.
#[derive(Debug, Clone)]
pub struct Workload {
    /// For the configuration, under [`SecretName::workload`].
    pub secret: Arc<Secret>,
    pub key: Arc<CertifiedKey>,
    pub validity: Validity,
}

impl Workload {
    /// Who it is: `spiffe://...`.
    #[must_use]
    pub fn uri(&self) -> Option<Arc<str>> {
        self.key.cert.first().and_then(peer::only_uri)
    }
}

/// Something an operator should know about a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretProblem {
    pub secret: SecretName,
    /// `Warning`: in use nevertheless.
    pub severity: Severity,
    pub message: String,
}

impl fmt::Debug for LoadedSecret {
    /// Never the material.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedSecret")
            .field("key", &self.key.is_some())
            .field("roots", &self.roots.as_ref().map(|roots| roots.len()))
            .field("crls", &self.crls.len())
            .field("validity", &self.validity)
            .field("problem", &self.problem)
            .finish()
    }
}

impl Secrets {
    /// The secrets after `delta`. Unchanged ones keep their identity. Reads files: not to be called
    /// on a data plane worker.
    #[must_use]
    pub fn next(prev: &Self, delta: &Delta) -> Self {
        if delta.secrets.is_empty() {
            return prev.clone();
        }
        let mut by_name = FxHashMap::clone(&prev.by_name);
        for (name, change) in &delta.secrets {
            match change {
                Some(config) => {
                    let entry = Entry::next(by_name.get(name), config);
                    by_name.insert(name.clone(), entry);
                }
                None => {
                    by_name.remove(name);
                }
            }
        }
        Self { by_name: Arc::new(by_name) }
    }

    /// Reads the files again that changed since they were read; `None` when nothing came of it.
    /// Like [`Secrets::next`] not for a data plane worker.
    #[must_use]
    pub fn refresh_files(&self) -> Option<Self> {
        let changed: Vec<_> = self
            .by_name
            .iter()
            .filter(|(_, entry)| entry.files.as_ref().is_some_and(FileStamps::may_have_changed))
            .map(|(name, entry)| (name.clone(), entry.reloaded()))
            .collect();
        if changed.is_empty() {
            return None;
        }
        let news = changed.iter().any(|(name, entry)| {
            self.by_name.get(name).is_none_or(|old| !Arc::ptr_eq(&old.loaded, &entry.loaded))
        });
        let mut by_name = FxHashMap::clone(&self.by_name);
        by_name.extend(changed);
        news.then(|| Self { by_name: Arc::new(by_name) })
    }

    #[must_use]
    pub fn find(&self, name: &SecretName) -> Option<&Arc<LoadedSecret>> {
        self.by_name.get(name).map(|entry| &entry.loaded)
    }

    /// Whether both are the very same set, secret by secret.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.by_name, &other.by_name)
    }

    /// The files secrets are read from, for whoever watches them.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.by_name.values().flat_map(|entry| secret::paths(&entry.config.material))
    }

    /// What is wrong with secrets at `now`, by name.
    #[must_use]
    pub fn problems(&self, now: SystemTime) -> Vec<SecretProblem> {
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        let mut problems: Vec<_> = self
            .by_name
            .iter()
            .flat_map(|(name, entry)| {
                entry.loaded.problems(now).map(move |(severity, message)| SecretProblem {
                    secret: name.clone(),
                    severity,
                    message,
                })
            })
            .collect();
        problems.sort_by(|a, b| a.secret.cmp(&b.secret));
        problems
    }
}

impl Entry {
    fn next(prev: Option<&Self>, config: &Arc<Secret>) -> Self {
        if let Some(prev) = prev
            && prev.config.material == config.material
        {
            let same = Self { config: Arc::clone(config), ..prev.clone() };
            return if same.files.as_ref().is_some_and(FileStamps::may_have_changed) {
                same.reloaded()
            } else {
                same
            };
        }
        let (loaded, files) = secret::load(config, prev.map(|prev| &*prev.loaded));
        Self { config: Arc::clone(config), loaded: Arc::new(loaded), files }
    }

    /// The same secret from its files as they are now; the old value where their content is as
    /// before.
    fn reloaded(&self) -> Self {
        let (loaded, files) = secret::load(&self.config, Some(&self.loaded));
        let unchanged = match (&self.files, &files) {
            (Some(old), Some(new)) => old.same_content(new),
            _ => false,
        };
        let loaded = if unchanged { Arc::clone(&self.loaded) } else { Arc::new(loaded) };
        Self { config: Arc::clone(&self.config), loaded, files }
    }
}

impl LoadedSecret {
    fn problems(&self, now: i64) -> impl Iterator<Item = (Severity, String)> {
        let broken = self.problem.clone().map(|message| (Severity::Error, message));
        let expiry = self.validity.and_then(|validity| {
            if now > validity.not_after {
                Some("the certificate has expired; clients will refuse it until it is renewed")
            } else if now < validity.not_before {
                Some("the certificate is not valid yet; check its dates and this machine's clock")
            } else {
                None
            }
        });
        broken.into_iter().chain(expiry.map(|message| (Severity::Warning, message.to_owned())))
    }
}

/// Parses a secret that is not part of a configuration. What is wrong is in
/// [`LoadedSecret::problem`].
#[must_use]
pub fn load(secret: &Secret) -> LoadedSecret {
    secret::load(secret, None).0
}

/// The one source of cryptography, shared by everything that speaks TLS.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

#[cfg(test)]
pub(crate) mod test_ca;
#[cfg(test)]
mod tests;
