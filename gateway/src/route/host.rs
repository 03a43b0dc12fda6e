//! Virtual hosts by domain: one lookup for an exact name, one for each label a wildcard could stand
//! before.

use std::sync::Arc;

use weir_config::model::matcher::HostPattern;

use super::VirtualHost;
use crate::sharded_map::ShardedMap;

#[derive(Debug, Clone, Default)]
pub(super) struct HostMap {
    exact: ShardedMap<Arc<str>, Arc<VirtualHost>>,
    /// `.example.com` for `*.example.com`.
    suffixes: ShardedMap<Arc<str>, Arc<VirtualHost>>,
    /// Wildcards that stand for part of a label (`*-dev.example.com`): longest first.
    partial: Arc<[(Arc<str>, Arc<VirtualHost>)]>,
    any: Option<Arc<VirtualHost>>,
}

impl HostMap {
    /// The most specific domain that `host` (canonical, without port) belongs to.
    pub(super) fn find(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        if let Some(found) = self.exact.get(host) {
            return Some(found);
        }
        let by_label = self.longest_suffix(host);
        let partial = self
            .partial
            .iter()
            .find(|(suffix, _)| host.len() > suffix.len() && host.ends_with(&**suffix));
        match (by_label, partial) {
            (Some((length, _)), Some((suffix, found))) if suffix.len() > length => Some(found),
            (Some((_, found)), _) | (None, Some((_, found))) => Some(found),
            (None, None) => self.any.as_ref(),
        }
    }

    fn longest_suffix(&self, host: &str) -> Option<(usize, &Arc<VirtualHost>)> {
        if self.suffixes.is_empty() {
            return None;
        }
        // From the left: the first found is the longest. The wildcard needs something to stand for.
        let dots = host.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'.');
        dots.map(|(dot, _)| &host[dot..])
            .find_map(|suffix| self.suffixes.get(suffix).map(|found| (suffix.len(), found)))
    }

    /// Returns the virtual host that had the domain before.
    pub(super) fn insert(
        &mut self,
        domain: &HostPattern,
        virtual_host: Arc<VirtualHost>,
    ) -> Option<Arc<VirtualHost>> {
        match domain.clone() {
            HostPattern::Exact(host) => self.exact.insert(host, virtual_host),
            HostPattern::Suffix(suffix) if suffix.starts_with('.') => {
                self.suffixes.insert(suffix, virtual_host)
            }
            HostPattern::Suffix(suffix) => {
                let replaced = self.remove_partial(&suffix);
                let mut partial = self.partial.to_vec();
                let place = partial.partition_point(|(other, _)| other.len() >= suffix.len());
                partial.insert(place, (suffix, virtual_host));
                self.partial = partial.into();
                replaced
            }
            HostPattern::Any => self.any.replace(virtual_host),
        }
    }

    /// Takes a domain from a virtual host, unless it is another's now.
    pub(super) fn remove(
        &mut self,
        domain: &HostPattern,
        virtual_host: &VirtualHost,
    ) -> Option<Arc<VirtualHost>> {
        let name = &virtual_host.config.name;
        let present = match domain {
            HostPattern::Exact(host) => self.exact.get(host),
            HostPattern::Suffix(suffix) if suffix.starts_with('.') => self.suffixes.get(suffix),
            HostPattern::Suffix(suffix) => {
                self.partial.iter().find(|(other, _)| other == suffix).map(|(_, found)| found)
            }
            HostPattern::Any => self.any.as_ref(),
        };
        present.filter(|present| present.config.name == *name)?;
        match domain {
            HostPattern::Exact(host) => self.exact.remove(host),
            HostPattern::Suffix(suffix) if suffix.starts_with('.') => self.suffixes.remove(suffix),
            HostPattern::Suffix(suffix) => self.remove_partial(suffix),
            HostPattern::Any => self.any.take(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { exact, suffixes, partial, any } = self;
        exact.is_empty() && suffixes.is_empty() && partial.is_empty() && any.is_none()
    }

    fn remove_partial(&mut self, suffix: &str) -> Option<Arc<VirtualHost>> {
        let place = self.partial.iter().position(|(other, _)| **other == *suffix)?;
        let mut partial = self.partial.to_vec();
        let (_, removed) = partial.remove(place);
        self.partial = partial.into();
        Some(removed)
    }
}
