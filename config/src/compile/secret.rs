//! Which Secrets, ConfigMaps and files are referred to, and what is in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Unit, View, finding::Findings};
use crate::{
    api::{Kind, Object, ObjectKey, Spec, kubernetes},
    model::{Secret, SecretName, secret::SecretMaterial},
};

/// What a secret with the authorities of `<name>` is called, when it is kept apart.
const AUTHORITY_SUFFIX: &str = "-cacert";

/// One use of a secret.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reference {
    pub(super) name: SecretName,
    source: SecretSource,
    needs: Needs,
    /// Who refers to it, and where.
    object: ObjectKey,
    field: String,
}

#[derive(Debug, Clone, PartialEq)]
enum SecretSource {
    /// A Secret or ConfigMap.
    Object(ObjectKey),
    /// The authorities in the first of these Secrets that exists.
    Companion {
        own: ObjectKey,
        shared: ObjectKey,
    },
    CertificateFiles {
        certificate: Arc<str>,
        key: Arc<str>,
    },
    AuthorityFiles {
        authorities: Arc<str>,
        revocation_list: Option<Arc<str>>,
    },
}

/// What the one who refers to a secret wants from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Certificate,
    Authority,
}

/// Turns the ways to name certificates into references, all for one field of one object.
pub(super) struct Credentials<'a> {
    pub(super) view: &'a View,
    pub(super) object: &'a Object,
    pub(super) field: String,
    pub(super) findings: &'a mut Findings,
    pub(super) references: &'a mut Vec<Reference>,
}

impl Credentials<'_> {
    /// A certificate and its key.
    pub(super) fn certificate(&mut self, credential: &str) -> SecretName {
        self.object_reference(credential, Needs::Certificate)
    }

    /// Authorities under exactly this name.
    pub(super) fn authority(&mut self, credential: &str) -> SecretName {
        self.object_reference(credential, Needs::Authority)
    }

    /// The authorities that belong to the certificate `credential`: those of the secret named
    /// `<credential>-cacert` if there is one, else those in the same secret (istio-compat 1.2).
    pub(super) fn companion_authority(&mut self, credential: &str) -> SecretName {
        match self.locate(credential) {
            Ok(shared) if shared.kind == Kind::Secret => {
                let own = ObjectKey {
                    name: format!("{}{AUTHORITY_SUFFIX}", shared.name).into(),
                    ..shared.clone()
                };
                let name = object_secret_name(&own);
                self.refer(name, SecretSource::Companion { own, shared }, Needs::Authority)
            }
            Ok(key) => {
                let name = object_secret_name(&key);
                self.refer(name, SecretSource::Object(key), Needs::Authority)
            }
            Err(name) => name,
        }
    }

    pub(super) fn certificate_files(&mut self, certificate: &str, key: &str) -> SecretName {
        let name = SecretName::new(format!("file-cert:{certificate}~{key}"));
        let source =
            SecretSource::CertificateFiles { certificate: certificate.into(), key: key.into() };
        self.refer(name, source, Needs::Certificate)
    }

    /// `revocation_list` may be empty.
    pub(super) fn authority_files(&mut self, path: &str, revocation_list: &str) -> SecretName {
        let revocation_list = Some(revocation_list).filter(|path| !path.is_empty());
        let name = SecretName::new(match revocation_list {
            Some(list) => format!("file-root:{path}~{list}"),
            None => format!("file-root:{path}"),
        });
        let source = SecretSource::AuthorityFiles {
            authorities: path.into(),
            revocation_list: revocation_list.map(Into::into),
        };
        self.refer(name, source, Needs::Authority)
    }

    fn object_reference(&mut self, credential: &str, needs: Needs) -> SecretName {
        match self.locate(credential) {
            Ok(key) => {
                let name = object_secret_name(&key);
                self.refer(name, SecretSource::Object(key), needs)
            }
            Err(name) => name,
        }
    }

    fn refer(&mut self, name: SecretName, source: SecretSource, needs: Needs) -> SecretName {
        self.references.push(Reference {
            name: name.clone(),
            source,
            needs,
            object: self.object.key(),
            field: self.field.clone(),
        });
        name
    }

    /// The object a credential name means; `Err` is the name of a secret that never exists.
    fn locate(&mut self, credential: &str) -> Result<ObjectKey, SecretName> {
        let own = &self.view.proxy.namespace;
        let (kind, path) = if let Some(path) = credential.strip_prefix("configmap://") {
            (Kind::ConfigMap, path)
        } else if let Some(path) = credential.strip_prefix("kubernetes://") {
            (Kind::Secret, path)
        } else if credential.contains("://") {
            let message = format!(
                "{credential:?} is not supported; name a Secret, kubernetes://NAMESPACE/NAME or \
                 configmap://NAMESPACE/NAME"
            );
            self.findings.warn(self.object, self.field.clone(), message);
            return Err(SecretName::new(credential));
        } else {
            (Kind::Secret, credential)
        };
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (Arc::from(namespace), name),
            None => (Arc::clone(own), path),
        };
        let key = ObjectKey { kind, namespace, name: name.into() };
        // Whoever may write a Gateway must not get at the keys of every namespace.
        if key.namespace != *own {
            let message = format!(
                "{key} is not used: the proxy is in namespace {own} and may only use certificates \
                 of that namespace; copy it there"
            );
            self.findings.warn(self.object, self.field.clone(), message);
            return Err(object_secret_name(&key));
        }
        Ok(key)
    }
}

fn object_secret_name(key: &ObjectKey) -> SecretName {
    let scheme = if key.kind == Kind::ConfigMap { "configmap" } else { "kubernetes" };
    SecretName::new(format!("{scheme}://{}/{}", key.namespace, key.name))
}

/// The names under which a changed Secret or ConfigMap may be in use.
pub(super) fn names_of(key: &ObjectKey) -> [SecretName; 2] {
    let companion =
        ObjectKey { name: format!("{}{AUTHORITY_SUFFIX}", key.name).into(), ..key.clone() };
    [object_secret_name(key), object_secret_name(&companion)]
}

/// Who refers to which secret.
#[derive(Debug, Default)]
pub(super) struct References {
    by_unit: BTreeMap<Unit, Vec<Reference>>,
    users: BTreeMap<SecretName, BTreeSet<Unit>>,
}

impl References {
    /// Replaces the references of `unit`; returns the secrets that are affected.
    pub(super) fn set(&mut self, unit: &Unit, references: Vec<Reference>) -> BTreeSet<SecretName> {
        let old = self.by_unit.remove(unit).unwrap_or_default();
        if old == references {
            if !old.is_empty() {
                self.by_unit.insert(unit.clone(), old);
            }
            return BTreeSet::new();
        }
        for reference in &old {
            if let Some(users) = self.users.get_mut(&reference.name) {
                users.remove(unit);
                if users.is_empty() {
                    self.users.remove(&reference.name);
                }
            }
        }
        for reference in &references {
            self.users.entry(reference.name.clone()).or_default().insert(unit.clone());
        }
        let affected = old.iter().chain(&references).map(|reference| reference.name.clone());
        let affected = affected.collect();
        if !references.is_empty() {
            self.by_unit.insert(unit.clone(), references);
        }
        affected
    }

    pub(super) fn is_used(&self, name: &SecretName) -> bool {
        self.users.contains_key(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &SecretName> {
        self.users.keys()
    }

    fn of<'a>(&'a self, name: &'a SecretName) -> impl Iterator<Item = &'a Reference> {
        let units = self.users.get(name).into_iter().flatten();
        units
            .filter_map(|unit| self.by_unit.get(unit))
            .flatten()
            .filter(move |reference| reference.name == *name)
    }
}

/// The secret called `name`, if someone refers to it and it exists.
pub(super) fn compile(
    view: &View,
    references: &References,
    name: &SecretName,
    findings: &mut Findings,
) -> Option<Secret> {
    let source = &references.of(name).next()?.source;
    let material = match source {
        SecretSource::Object(key) => view.store.find(key).map(|object| inline(object)),
        SecretSource::Companion { own, shared } => {
            let secret = view.store.find(own).or_else(|| view.store.find(shared));
            secret.map(|object| authority_of(inline(object)))
        }
        SecretSource::CertificateFiles { certificate, key } => Some(SecretMaterial::Files {
            certificate_chain: Some(Arc::clone(certificate)),
            private_key: Some(Arc::clone(key)),
            trust_bundle: None,
            revocation_list: None,
        }),
        SecretSource::AuthorityFiles { authorities, revocation_list } => {
            Some(SecretMaterial::Files {
                certificate_chain: None,
                private_key: None,
                trust_bundle: Some(Arc::clone(authorities)),
                revocation_list: revocation_list.clone(),
            })
        }
    };
    for reference in references.of(name) {
        let Some(problem) = reference.problem(material.as_ref()) else { continue };
        if let Some(object) = view.store.find(&reference.object) {
            let own = &view.proxy.namespace;
            let problem = if material.is_none() && object.metadata.namespace != *own {
                format!(
                    "{problem}; the gateway is in namespace {own}, where its Secrets are looked up"
                )
            } else {
                problem
            };
            findings.warn(object, reference.field.clone(), problem);
        }
    }
    Some(Secret { name: name.clone(), material: material? })
}

impl Reference {
    /// Why `material` is not enough for this use.
    fn problem(&self, material: Option<&SecretMaterial>) -> Option<String> {
        let what = match &self.source {
            SecretSource::Object(key) => key.to_string(),
            SecretSource::Companion { own, shared } => format!("{own} or {shared}"),
            SecretSource::CertificateFiles { .. } | SecretSource::AuthorityFiles { .. } => {
                return None;
            }
        };
        let consequence = "until it has, TLS handshakes that need it fail";
        match (material, self.needs) {
            (None, _) => Some(format!("{what} does not exist; until it does, TLS handshakes fail")),
            (
                Some(SecretMaterial::Inline { certificate_chain, private_key, .. }),
                Needs::Certificate,
            ) => (certificate_chain.is_none() || private_key.is_none()).then(|| {
                format!(
                    "{what} has no certificate and key under tls.crt and tls.key, or cert and key; \
                     {consequence}"
                )
            }),
            (Some(SecretMaterial::Inline { trust_bundle: None, .. }), Needs::Authority) => {
                Some(format!("{what} has no authorities under ca.crt or cacert; {consequence}"))
            }
            (Some(_), _) => None,
        }
    }
}

/// The PEM texts of a Secret, or of a ConfigMap with authorities. Generic keys are looked up before
/// those of `kubernetes.io/tls`.
fn inline(object: &Object) -> SecretMaterial {
    let value = |key: &str| -> Option<Arc<[u8]>> {
        match &object.spec {
            Spec::Secret(secret) => secret_value(secret, key),
            Spec::ConfigMap(map) => {
                let text = map.data.get(key).map(|text| text.as_bytes().into());
                text.or_else(|| map.binary_data.get(key).map(|bytes| Arc::clone(&bytes.0)))
            }
            _ => None,
        }
    };
    let either = |generic: &str, standard: &str| value(generic).or_else(|| value(standard));
    let is_generic = value("cert").is_some();
    SecretMaterial::Inline {
        certificate_chain: either("cert", "tls.crt"),
        private_key: value(if is_generic { "key" } else { "tls.key" }),
        trust_bundle: either("cacert", "ca.crt"),
        revocation_list: either("crl", "ca.crl"),
        ocsp_staple: if is_generic { None } else { value("tls.ocsp-staple") },
    }
}

/// Only what verifies others; the key stays where it is needed.
fn authority_of(material: SecretMaterial) -> SecretMaterial {
    match material {
        SecretMaterial::Inline { trust_bundle, revocation_list, .. } => SecretMaterial::Inline {
            certificate_chain: None,
            private_key: None,
            trust_bundle,
            revocation_list,
            ocsp_staple: None,
        },
        files @ SecretMaterial::Files { .. } => files,
    }
}

fn secret_value(secret: &kubernetes::Secret, key: &str) -> Option<Arc<[u8]>> {
    secret.value(key).filter(|value| !value.is_empty()).map(Into::into)
}
