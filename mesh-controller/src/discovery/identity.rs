//! Who is connected.

use std::{fmt, sync::Arc};

use crate::review::ServiceAccount;

/// Whom authentication says a proxy is; all that decides what it may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub account: ServiceAccount,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceAccount { namespace, name, .. } = &self.account;
        write!(f, "ns/{namespace}/sa/{name}")
    }
}

/// The service account of `spiffe://<trust domain>/ns/<namespace>/sa/<name>`.
pub(super) fn parse_spiffe(uri: &str, trust_domain: &str) -> Option<Identity> {
    let path = uri.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?;
    let (namespace, name) = path.strip_prefix("/ns/")?.split_once("/sa/")?;
    let is_name = |text: &str| !text.is_empty() && !text.contains('/');
    if !is_name(namespace) || !is_name(name) {
        return None;
    }
    let account = ServiceAccount {
        namespace: Arc::from(namespace),
        name: Arc::from(name),
        // A certificate outlives pods.
        pod: None,
    };
    Some(Identity { account })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_of_the_trust_domain_and_has_two_names() {
        let parse = |uri| parse_spiffe(uri, "cluster.local").map(|identity| identity.to_string());
        assert_eq!(parse("spiffe://cluster.local/ns/a/sa/gw"), Some("ns/a/sa/gw".to_owned()));
        for wrong in [
            "spiffe://cluster.local.evil/ns/a/sa/gw",
            "spiffe://other/ns/a/sa/gw",
            "spiffe://cluster.local/ns/a/sa/gw/x",
            "spiffe://cluster.local/ns//sa/gw",
            "spiffe://cluster.local/sa/gw",
            "https://cluster.local/ns/a/sa/gw",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
