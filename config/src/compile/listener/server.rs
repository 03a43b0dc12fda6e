//! One server of a Gateway: what it is, and which hosts it serves for whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    api::{
        Protocol,
        istio::gateway::{Server, ServerTlsMode},
    },
    model::{listener::ListenerKind, matcher::HostPattern},
};

/// What happens to the bytes of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerKind {
    Http,
    TerminatedHttp,
    /// TLS is ended here and what is inside is copied.
    TerminatedTcp,
    Passthrough,
    /// Its server name says where it goes.
    AutoPassthrough,
    Tcp,
}

impl ServerKind {
    pub(super) fn listener(self) -> ListenerKind {
        match self {
            Self::Http => ListenerKind::Http,
            Self::TerminatedHttp
            | Self::TerminatedTcp
            | Self::Passthrough
            | Self::AutoPassthrough => ListenerKind::Tls,
            Self::Tcp => ListenerKind::Tcp,
        }
    }
}

/// What `server` is, or why it cannot be served by a proxy that is, or is not, of the mesh.
pub(super) fn classify(server: &Server, has_identity: bool) -> Result<ServerKind, &'static str> {
    let protocol = server.port.as_ref().and_then(|port| port.protocol);
    let mode = server.tls.as_ref().map(|tls| tls.mode);
    if mode == Some(ServerTlsMode::IstioMutual) && !has_identity {
        return Err("tls.mode ISTIO_MUTUAL is not available without a mesh certificate");
    }
    match protocol.ok_or("port.protocol is missing")? {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => {
            Ok(ServerKind::Http)
        }
        Protocol::Https => classify_tls(mode, ServerKind::TerminatedHttp),
        Protocol::Tls => classify_tls(mode, ServerKind::TerminatedTcp),
        Protocol::Tcp | Protocol::Mongo | Protocol::Redis | Protocol::Mysql => Ok(ServerKind::Tcp),
        Protocol::Udp => Err("Gateways do not serve UDP"),
    }
}

fn classify_tls(
    mode: Option<ServerTlsMode>,
    terminated: ServerKind,
) -> Result<ServerKind, &'static str> {
    match mode.ok_or("an HTTPS or TLS server needs tls")? {
        ServerTlsMode::Simple
        | ServerTlsMode::Mutual
        | ServerTlsMode::OptionalMutual
        | ServerTlsMode::IstioMutual => Ok(terminated),
        ServerTlsMode::Passthrough => Ok(ServerKind::Passthrough),
        ServerTlsMode::AutoPassthrough => Ok(ServerKind::AutoPassthrough),
    }
}

/// The hosts of a server and the namespaces whose VirtualServices may have them.
#[derive(Debug, PartialEq)]
pub(in crate::compile) struct ServerHosts(BTreeMap<HostPattern, Namespaces>);

#[derive(Debug, PartialEq)]
enum Namespaces {
    All,
    Of(BTreeSet<Arc<str>>),
}

impl ServerHosts {
    /// Reads `[namespace/]host` entries of a Gateway in namespace `own`.
    pub(super) fn new(hosts: &[String], own: &Arc<str>) -> Self {
        let mut map: BTreeMap<HostPattern, Namespaces> = BTreeMap::new();
        for entry in hosts {
            let (namespace, host) = entry.split_once('/').unwrap_or(("*", entry));
            let allowed = map
                .entry(HostPattern::parse(host))
                .or_insert_with(|| Namespaces::Of(BTreeSet::new()));
            match (allowed, namespace) {
                (Namespaces::All, _) => {}
                (allowed, "*") => *allowed = Namespaces::All,
                (Namespaces::Of(set), ".") => {
                    set.insert(Arc::clone(own));
                }
                (Namespaces::Of(set), name) => {
                    set.insert(name.into());
                }
            }
        }
        Self(map)
    }

    pub(in crate::compile) fn patterns(&self) -> impl Iterator<Item = &HostPattern> {
        self.0.keys()
    }

    /// The hosts meant by both `host` of a VirtualService in `namespace` and this server: the
    /// narrower of each pair. Costs the labels of a name, not the hosts of the server.
    pub(in crate::compile) fn intersect(
        &self,
        host: &HostPattern,
        namespace: &str,
    ) -> BTreeSet<HostPattern> {
        let mut found = BTreeSet::new();
        if self.covers(host, namespace) {
            found.insert(host.clone());
        }
        if !matches!(host, HostPattern::Exact(_)) {
            let narrower = self.0.iter().filter(|(own, allowed)| {
                *own != host && host.covers(own) && allowed.include(namespace)
            });
            found.extend(narrower.map(|(own, _)| own.clone()));
        }
        found
    }

    /// Whether one of the hosts is `host` or a wildcard that includes it.
    fn covers(&self, host: &HostPattern, namespace: &str) -> bool {
        let allows = |pattern: &HostPattern| {
            self.0.get(pattern).is_some_and(|allowed| allowed.include(namespace))
        };
        let name = match host {
            HostPattern::Exact(name) | HostPattern::Suffix(name) => &**name,
            HostPattern::Any => "",
        };
        allows(host)
            || allows(&HostPattern::Any)
            || name
                .match_indices('.')
                .map(|(dot, _)| HostPattern::Suffix(name[dot..].into()))
                .any(|suffix| suffix.covers(host) && allows(&suffix))
    }
}

impl Namespaces {
    fn include(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(set) => set.contains(namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intersect(server: &[&str], host: &str, namespace: &str) -> Vec<String> {
        let hosts: Vec<String> = server.iter().map(ToString::to_string).collect();
        ServerHosts::new(&hosts, &"gw".into())
            .intersect(&HostPattern::parse(host), namespace)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_narrower_of_two_hosts_survives() {
        for (server, host, expected) in [
            (&["a.com"][..], "*", &["a.com"][..]),
            (&["*"], "a.com", &["a.com"]),
            (&["*.com"], "*.a.com", &["*.a.com"]),
            (&["*.a.com"], "*.com", &["*.a.com"]),
            (&["*.a.com", "b.com"], "*.com", &["b.com", "*.a.com"]),
            (&["a.com"], "b.com", &[]),
            (&["*.a.com"], "a.com", &[]),
            (&["*.a.com", "x.a.com"], "x.a.com", &["x.a.com"]),
        ] {
            assert_eq!(intersect(server, host, "ns"), expected, "{server:?} {host}");
        }
    }

    #[test]
    fn a_namespace_before_the_host_limits_whose_hosts_are_taken() {
        assert_eq!(intersect(&["prod/a.com"], "a.com", "prod"), ["a.com"]);
        assert_eq!(intersect(&["prod/a.com"], "a.com", "dev"), Vec::<String>::new());
        assert_eq!(intersect(&["./a.com"], "a.com", "gw"), ["a.com"]);
        assert_eq!(intersect(&["./a.com", "dev/a.com"], "a.com", "dev"), ["a.com"]);
        assert_eq!(intersect(&["./a.com", "*/a.com"], "a.com", "dev"), ["a.com"]);
    }
}
