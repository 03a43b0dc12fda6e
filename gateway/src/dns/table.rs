//! The names of a configuration. A change costs what changed.

use std::{net::IpAddr, sync::Arc};

use weir_config::model::{Delta, DnsRecord, matcher::HostPattern};

use crate::sharded_map::ShardedMap;

/// Records by their names. Cloning shares everything.
#[derive(Debug, Default, Clone)]
pub struct DnsTable {
    hosts: ShardedMap<Arc<str>, Arc<DnsRecord>>,
    exact: Names,
    /// By what follows the star: `.example.com`.
    suffixes: Names,
}

type Names = ShardedMap<Arc<str>, Owner>;

/// A name belongs to the host that has it for its own, else to the first.
#[derive(Debug, Clone)]
struct Owner {
    host: Arc<str>,
    record: Arc<DnsRecord>,
}

impl DnsTable {
    #[must_use]
    pub fn next(prev: &Self, delta: &Delta) -> Self {
        let mut table = prev.clone();
        for (host, change) in &delta.dns_records {
            if let Some(old) = table.hosts.remove(host) {
                table.remove(host, &old);
            }
            if let Some(record) = change {
                table.hosts.insert(Arc::clone(host), Arc::clone(record));
                table.insert(host, record);
            }
        }
        table
    }

    /// The addresses of a name, which is lower case and without a trailing dot.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&[IpAddr]> {
        let longest = || {
            let dots = name.match_indices('.').filter(|(dot, _)| *dot > 0);
            dots.map(|(dot, _)| &name[dot..]).find_map(|suffix| self.suffixes.get(suffix))
        };
        let owner = match self.exact.get(name) {
            Some(owner) => Some(owner),
            None if self.suffixes.is_empty() => None,
            None => longest(),
        };
        owner.map(|owner| &*owner.record.addresses)
    }

    fn insert(&mut self, host: &Arc<str>, record: &Arc<DnsRecord>) {
        for pattern in &*record.names {
            let Some((names, name)) = self.place(pattern) else { continue };
            // Of several services with one short name each has its own long one.
            let is_taken = names.get(name).is_some_and(|owner| {
                *owner.host != **host && (*owner.host == **name || owner.host < *host)
            });
            if !is_taken || **host == **name {
                let owner = Owner { host: Arc::clone(host), record: Arc::clone(record) };
                names.insert(Arc::clone(name), owner);
            }
        }
    }

    fn remove(&mut self, host: &Arc<str>, record: &Arc<DnsRecord>) {
        for pattern in &*record.names {
            let Some((names, name)) = self.place(pattern) else { continue };
            if names.get(name).is_some_and(|owner| owner.host == *host) {
                names.remove(name);
            }
        }
    }

    fn place<'a>(&mut self, pattern: &'a HostPattern) -> Option<(&mut Names, &'a Arc<str>)> {
        match pattern {
            HostPattern::Exact(name) => Some((&mut self.exact, name)),
            HostPattern::Suffix(suffix) => Some((&mut self.suffixes, suffix)),
            HostPattern::Any => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host, and its names with an address.
    type Change = (&'static str, Option<(&'static [&'static str], &'static str)>);

    fn table(prev: &DnsTable, changes: &[Change]) -> DnsTable {
        let mut delta = Delta::default();
        for (host, change) in changes {
            let record = change.map(|(names, address)| {
                let names = names.iter().map(|name| HostPattern::parse(name)).collect();
                let addresses = [address.parse().unwrap()].into();
                Arc::new(DnsRecord { names, addresses })
            });
            delta.dns_records.insert((*host).into(), record);
        }
        DnsTable::next(prev, &delta)
    }

    fn found(table: &DnsTable, name: &str) -> Option<String> {
        table.find(name).map(|addresses| addresses[0].to_string())
    }

    #[test]
    fn exact_names_come_before_the_longest_suffix() {
        let none = DnsTable::default();
        let table = table(
            &none,
            &[
                ("*.example.com", Some((&["*.example.com"], "10.0.0.1"))),
                ("*.a.example.com", Some((&["*.a.example.com"], "10.0.0.2"))),
                ("b.example.com", Some((&["b.example.com"], "10.0.0.3"))),
            ],
        );
        for (name, expected) in [
            ("b.example.com", Some("10.0.0.3")),
            ("c.example.com", Some("10.0.0.1")),
            ("b.a.example.com", Some("10.0.0.2")),
            ("a.example.com", Some("10.0.0.1")),
            ("example.com", None),
            (".example.com", None),
            ("example.org", None),
        ] {
            assert_eq!(found(&table, name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn names_change_and_go_with_their_host() {
        let first =
            table(&DnsTable::default(), &[("a.shop", Some((&["a.shop", "a"], "10.0.0.1")))]);
        let second = table(&first, &[("a.shop", Some((&["a.shop"], "10.0.0.2")))]);
        assert_eq!(found(&first, "a").as_deref(), Some("10.0.0.1"));
        assert_eq!(
            (found(&second, "a"), found(&second, "a.shop")),
            (None, Some("10.0.0.2".into()))
        );
        let third = table(&second, &[("a.shop", None)]);
        assert_eq!(found(&third, "a.shop"), None);
    }

    #[test]
    fn a_host_has_its_own_name_whoever_else_is_called_so() {
        let both: [Change; 2] = [
            ("a.shop.svc", Some((&["a.shop.svc", "a.shop"], "10.0.0.1"))),
            ("a.shop", Some((&["a.shop"], "10.0.0.2"))),
        ];
        let none = DnsTable::default();
        let one = table(&table(&none, &both[..1]), &both[1..]);
        let other = table(&table(&none, &both[1..]), &both[..1]);
        assert_eq!(found(&one, "a.shop").as_deref(), Some("10.0.0.2"));
        assert_eq!(found(&other, "a.shop").as_deref(), Some("10.0.0.2"));
    }
}
