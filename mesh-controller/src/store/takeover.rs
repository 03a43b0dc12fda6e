//! Which objects speak about hosts of other namespaces, for their status to say what of that counts.
//!
//! Proxies decide for themselves (`weir_config::compile`, by the same rules); nobody but an operator
//! reads what they log.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use weir_config::{
    api::{Kind, ObjectKey, Source},
    compile::reference::{
        Claim, Definition, Rules, is_exported_elsewhere, namespace_of, patterns, routes_elsewhere,
        said_of_definition, said_of_rules,
    },
    diagnostic::{Diagnostic, Severity},
    model::matcher::HostPattern,
    parse::{Options, parse},
};

use super::{Entry, Facts, Link, Store};

/// The VirtualServices for sidecars by their hosts.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeSet<(HostPattern, ObjectKey)>);

impl Claims {
    /// Follows an object. Returns the VirtualServices whose hosts others define than before.
    pub(super) fn follow(&mut self, old: Option<&Entry>, new: Option<&Entry>) -> Vec<ObjectKey> {
        for claim in old.into_iter().flat_map(claimed) {
            self.0.remove(&claim);
        }
        self.0.extend(new.into_iter().flat_map(claimed));
        let defined: BTreeSet<&Arc<str>> =
            [old, new].into_iter().flatten().flat_map(hosts).collect();
        let patterns = defined.into_iter().flat_map(|host| patterns(host));
        patterns.flat_map(|pattern| self.of(&pattern)).collect()
    }

    fn of(&self, pattern: &HostPattern) -> Vec<ObjectKey> {
        let first =
            ObjectKey { kind: Kind::Gateway, namespace: Arc::default(), name: Arc::default() };
        self.0
            .range((Bound::Included((pattern.clone(), first)), Bound::Unbounded))
            .take_while(|(other, _)| other == pattern)
            .map(|(_, key)| key.clone())
            .collect()
    }
}

fn claimed(entry: &Entry) -> impl Iterator<Item = (HostPattern, ObjectKey)> {
    let hosts = match &entry.facts {
        Facts::VirtualService { mesh_hosts, .. } => &mesh_hosts[..],
        _ => &[],
    };
    hosts.iter().map(|host| (host.clone(), entry.key.clone()))
}

/// The hosts an object defines.
fn hosts(entry: &Entry) -> &[Arc<str>] {
    match &entry.facts {
        Facts::Service { host, .. } => std::slice::from_ref(host),
        Facts::ServiceEntry { hosts, .. } => hosts,
        _ => &[],
    }
}

impl Store {
    /// What there is to say about an object that speaks about hosts of other namespaces.
    #[must_use]
    pub fn takeover(&self, entry: &Entry) -> Option<Diagnostic> {
        let from = &*entry.key.namespace;
        let mesh = self.mesh();
        let rules = Rules { root_namespace: &mesh.root_namespace, takeover: mesh.host_takeover };
        let said = match &entry.facts {
            Facts::VirtualService { mesh_hosts, export_to, .. }
                if is_exported_elsewhere(export_to, &mesh.virtual_service_export_to, from) =>
            {
                let claim = |host: &HostPattern| {
                    routes_elsewhere(&rules, from, host, &self.domain, &self.definitions(host))
                };
                said_of_rules(mesh_hosts.iter().map(claim).max()?)
            }
            Facts::ServiceEntry { hosts, export_to, .. }
                if is_exported_elsewhere(export_to, &mesh.service_export_to, from) =>
            {
                let claim = |host: &Arc<str>| -> Claim {
                    rules.claim(from, namespace_of(host, &self.domain))
                };
                said_of_definition(hosts.iter().map(claim).max()?)
            }
            _ => None,
        };
        said.map(|message| Diagnostic {
            severity: Severity::Warning,
            object: Some(entry.key.clone()),
            source: Source::default(),
            field: "spec.hosts".to_owned(),
            message: message.to_owned(),
        })
    }

    /// The objects that define what `pattern` covers.
    fn definitions(&self, pattern: &HostPattern) -> Vec<Definition> {
        let entries: Vec<&Arc<Entry>> = if let HostPattern::Exact(host) = pattern {
            let keys = self.candidates(&Link::Host(Arc::clone(host)));
            keys.iter().filter_map(|key| self.find(key)).collect()
        } else {
            let all = self.of_kind(Kind::Service).chain(self.of_kind(Kind::ServiceEntry));
            let is_covered = |host: &Arc<str>| pattern.covers(&HostPattern::parse(host));
            all.filter(|entry| hosts(entry).iter().any(is_covered)).collect()
        };
        entries.into_iter().filter_map(|entry| definition(entry)).collect()
    }
}

fn definition(entry: &Entry) -> Option<Definition> {
    let json = serde_json::to_vec(&entry.object()).ok()?;
    let object = parse("", &json, &Options::default()).objects.pop()?;
    Some(Definition::of(&object))
}
