//! Addresses for hosts that have none: where a sidecar answers DNS, a ServiceEntry without `addresses`
//! gets one, so that its connections can be told from others by where they go (istio-compat 1.4).
//!
//! An address is where the hash of the host falls, or next to it. Who was there first keeps it: a host
//! that is added moves none that is older, and every start and every replica gives the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    api::{Object, Spec, istio::service_entry::Resolution},
    compile::{
        Proxy, ProxyKind,
        name::{Age, resolve_host},
    },
    xxh64::xxh64,
};

/// On a ServiceEntry: `false` for none.
const ENABLE_LABEL: &str = "networking.istio.io/enable-autoallocate-ip";
/// Networks that are nowhere: what is not known of them any more is refused (`catch_all`).
pub(super) const NETWORKS: [&str; 2] = ["240.240.0.0/16", "2001:2::/48"];
/// Of the lower half of an address; neither all zeros nor all ones.
const NUMBERS: u16 = u16::MAX - 1;

/// Who has which address.
#[derive(Debug, Default)]
pub(in crate::compile) struct AutoAddresses {
    /// The ServiceEntries that want one for a host.
    claims: BTreeMap<Arc<str>, BTreeSet<Age>>,
    numbers: BTreeMap<Arc<str>, u16>,
    is_current: bool,
}

impl AutoAddresses {
    /// Notes what changes with an object that was `old` and is `new`.
    pub(in crate::compile) fn mark(
        &mut self,
        proxy: &Proxy,
        old: Option<&Object>,
        new: Option<&Object>,
    ) {
        for (object, is_there) in [(old, false), (new, true)] {
            let Some(object) = object else { continue };
            for host in hosts(proxy, object) {
                let claims = self.claims.entry(Arc::clone(&host)).or_default();
                self.is_current &= match is_there {
                    true => !claims.insert(Age::of(object)),
                    false => !claims.remove(&Age::of(object)),
                };
                if claims.is_empty() {
                    self.claims.remove(&host);
                }
            }
        }
    }

    /// Gives every host its address; returns those that have another one now.
    pub(in crate::compile) fn assign(&mut self) -> Vec<Arc<str>> {
        if std::mem::replace(&mut self.is_current, true) {
            return Vec::new();
        }
        let mut oldest_first: Vec<(Option<&Age>, &Arc<str>)> =
            self.claims.iter().map(|(host, claims)| (claims.first(), host)).collect();
        oldest_first.sort_unstable();
        let mut taken = vec![false; usize::from(NUMBERS)];
        let mut numbers = BTreeMap::new();
        for (_, host) in oldest_first {
            // Below `NUMBERS`, which fits.
            let first = (xxh64(host.as_bytes(), 0) % u64::from(NUMBERS)) as u16;
            let free = (first..NUMBERS).chain(0..first).find(|place| !taken[usize::from(*place)]);
            // With more hosts than addresses the youngest have none.
            let Some(place) = free else { break };
            taken[usize::from(place)] = true;
            numbers.insert(Arc::clone(host), place + 1);
        }
        let hosts: BTreeSet<&Arc<str>> = self.numbers.keys().chain(numbers.keys()).collect();
        let changed =
            hosts.into_iter().filter(|host| self.numbers.get(*host) != numbers.get(*host));
        let changed = changed.cloned().collect();
        self.numbers = numbers;
        changed
    }

    /// The addresses of a host, of the families the workload has.
    pub(in crate::compile) fn find(&self, proxy: &Proxy, host: &str) -> Vec<IpNet> {
        let Some(number) = self.numbers.get(host) else { return Vec::new() };
        let own: &[IpAddr] = match &proxy.kind {
            ProxyKind::Sidecar { addresses } => addresses,
            ProxyKind::Gateway => &[],
        };
        let [high, low] = number.to_be_bytes();
        let v4 = Ipv4Addr::new(240, 240, high, low);
        let v6 = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, *number);
        // A workload that does not say has the one everybody has.
        let has_v4 = own.is_empty() || own.iter().any(IpAddr::is_ipv4);
        let has_v6 = own.iter().any(IpAddr::is_ipv6);
        let v4 = has_v4.then_some(IpAddr::V4(v4));
        let v6 = has_v6.then_some(IpAddr::V6(v6));
        v4.into_iter().chain(v6).map(IpNet::from).collect()
    }
}

/// The hosts of an object that are to have an address.
fn hosts(proxy: &Proxy, object: &Object) -> Vec<Arc<str>> {
    let Spec::ServiceEntry(entry) = &object.spec else { return Vec::new() };
    let is_refused = object.metadata.labels.get(ENABLE_LABEL).is_some_and(|value| value == "false");
    let is_wanted = proxy.captures_dns
        && entry.addresses.is_empty()
        && entry.resolution != Resolution::None
        && !is_refused;
    let hosts = entry.hosts.iter().filter(|host| is_wanted && !host.starts_with('*'));
    let namespace = &object.metadata.namespace;
    hosts.map(|host| resolve_host(host, namespace, &proxy.cluster_domain)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(addresses: &[&str]) -> Proxy {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Proxy { kind: ProxyKind::Sidecar { addresses }, captures_dns: true, ..Proxy::default() }
    }

    fn entry(host: &str, created: &str) -> Object {
        let yaml = format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop, creationTimestamp: \"{created}\"}}
spec: {{hosts: [\"{host}\"], ports: [{{number: 80, name: tcp, protocol: TCP}}], resolution: DNS}}
",
            name = host.replace('.', "-"),
        );
        Arc::unwrap_or_clone(crate::compile::tests::objects(&yaml).remove(0))
    }

    /// Two hosts that fall on one place.
    fn colliding() -> (String, String) {
        let mut seen = BTreeMap::new();
        for number in 0.. {
            let host = format!("host-{number}.example.com");
            if let Some(other) =
                seen.insert(xxh64(host.as_bytes(), 0) % u64::from(NUMBERS), host.clone())
            {
                return (other, host);
            }
        }
        unreachable!("there are more hosts than places");
    }

    fn assigned(hosts: &[(&str, &str)]) -> BTreeMap<Arc<str>, u16> {
        let mut addresses = AutoAddresses::default();
        for (host, created) in hosts {
            addresses.mark(&proxy(&[]), None, Some(&entry(host, created)));
        }
        addresses.assign();
        addresses.numbers
    }

    #[test]
    fn of_two_hosts_for_one_address_the_older_has_it_in_whatever_order_they_came() {
        let (a, b) = colliding();
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let one = assigned(&[(&a, old), (&b, new)]);
        assert_ne!(one[&*a], one[&*b]);
        assert_eq!(one, assigned(&[(&b, new), (&a, old)]));
        assert_eq!(one[&*a], assigned(&[(&a, old)])[&*a], "a younger host moves no older one");
        assert_eq!(one[&*a], assigned(&[(&a, new), (&b, old)])[&*b]);
    }

    #[test]
    fn what_is_gone_is_said_and_its_address_free() {
        let (a, b) = colliding();
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let proxy = proxy(&[]);
        let mut addresses = AutoAddresses::default();
        addresses.mark(&proxy, None, Some(&entry(&a, old)));
        addresses.mark(&proxy, None, Some(&entry(&b, new)));
        assert_eq!(addresses.assign().len(), 2);
        assert!(addresses.assign().is_empty());
        let number = addresses.numbers[&*a];
        addresses.mark(&proxy, Some(&entry(&a, old)), None);
        assert_eq!(addresses.assign().len(), 2);
        assert_eq!(addresses.numbers[&*b], number);
        assert!(addresses.find(&proxy, &a).is_empty());
    }

    #[test]
    fn addresses_are_of_the_families_the_workload_has() {
        let mut addresses = AutoAddresses::default();
        addresses.mark(&proxy(&[]), None, Some(&entry("a.example.com", "")));
        addresses.assign();
        let families = |own: &[&str]| -> Vec<bool> {
            let found = addresses.find(&proxy(own), "a.example.com");
            let networks = NETWORKS.map(|net| net.parse::<IpNet>().unwrap());
            assert!(found.iter().all(|net| networks.iter().any(|all| all.contains(net))));
            found.iter().map(|net| net.addr().is_ipv6()).collect()
        };
        assert_eq!(families(&[]), [false]);
        assert_eq!(families(&["10.1.0.1"]), [false]);
        assert_eq!(families(&["fd00::1"]), [true]);
        assert_eq!(families(&["10.1.0.1", "fd00::1"]), [false, true]);
    }
}
