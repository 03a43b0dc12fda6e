//! PeerAuthentication -> what each port of the workload takes (istio-compat 1.7).

use std::collections::BTreeMap;

use crate::{
    api::{
        Kind, Object, Spec,
        istio::peer_authentication::{MutualTls, MutualTlsMode, PeerAuthentication},
    },
    compile::{View, name::Age},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Clear text; TLS is the application's.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS.
    Strict,
}

/// What the workload takes.
#[derive(Debug)]
pub(super) struct Modes {
    workload: Mode,
    /// By the number the workload listens on.
    ports: BTreeMap<u16, Mode>,
}

impl Modes {
    /// The policy that selects the workload, else the namespace's, else the mesh's; each leaves what
    /// it does not set to the next.
    pub(super) fn of(view: &View) -> Self {
        let own = &*view.proxy.namespace;
        let mesh = policy(view, view.root_namespace(), |policy| policy.selector.is_none());
        let namespace = policy(view, own, |policy| policy.selector.is_none());
        let workload = policy(view, own, |policy| {
            policy.selector.as_ref().is_some_and(|it| it.selects(&view.proxy.labels))
        });
        let policies = [mesh, namespace, workload];
        let mut mode = Mode::Permissive;
        for policy in policies.into_iter().flatten() {
            mode = policy.mtls.map_or(mode, |mtls| Mode::of(mtls, mode));
        }
        let ports = workload.map(|policy| &policy.port_level_mtls).into_iter().flatten();
        let ports = ports.map(|(port, mtls)| (*port, Mode::of(*mtls, mode))).collect();
        Self { workload: mode, ports }
    }

    pub(super) fn on(&self, port: u16) -> Mode {
        self.ports.get(&port).copied().unwrap_or(self.workload)
    }

    /// Of ports that are not listed.
    pub(super) fn elsewhere(&self) -> Mode {
        self.workload
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }
}

impl Mode {
    fn of(mtls: MutualTls, wider: Self) -> Self {
        match mtls.mode {
            MutualTlsMode::Unset => wider,
            MutualTlsMode::Disable => Self::Disable,
            MutualTlsMode::Permissive => Self::Permissive,
            MutualTlsMode::Strict => Self::Strict,
        }
    }
}

/// The oldest policy of a namespace that `is_meant`.
fn policy<'a>(
    view: &'a View,
    namespace: &'a str,
    is_meant: impl Fn(&PeerAuthentication) -> bool,
) -> Option<&'a PeerAuthentication> {
    let mut found: Vec<(&Object, &PeerAuthentication)> = view
        .store
        .in_namespace(Kind::PeerAuthentication, namespace)
        .filter_map(|object| match &object.spec {
            Spec::PeerAuthentication(policy) => Some((&**object, policy)),
            _ => None,
        })
        .filter(|(_, policy)| is_meant(policy))
        .collect();
    found.sort_by_cached_key(|(object, _)| Age::of(object));
    found.first().map(|(_, policy)| *policy)
}
