//! PeerAuthentication -> what each port of a workload takes (istio-compat 1.7).

use std::collections::BTreeMap;

use super::{View, name::Age};
use crate::api::{
    Kind, LabelSet, Object, Spec,
    istio::peer_authentication::{MutualTls, MutualTlsMode, PeerAuthentication},
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

/// The policies for the workloads of one namespace.
#[derive(Debug)]
pub(super) struct PeerPolicies<'a> {
    mesh: Option<&'a PeerAuthentication>,
    namespace: Option<&'a PeerAuthentication>,
    /// With a selector, the oldest first.
    workloads: Vec<&'a PeerAuthentication>,
}

/// What a workload takes.
#[derive(Debug)]
pub(super) struct Modes {
    workload: Mode,
    /// By the number the workload listens on.
    ports: BTreeMap<u16, Mode>,
}

impl<'a> PeerPolicies<'a> {
    pub(super) fn of(view: &'a View, namespace: &'a str) -> Self {
        let (workloads, namespaces): (Vec<_>, Vec<_>) =
            policies(view, namespace).into_iter().partition(|policy| policy.selector.is_some());
        let mut mesh = policies(view, view.root_namespace()).into_iter();
        Self {
            mesh: mesh.find(|policy| policy.selector.is_none()),
            namespace: namespaces.first().copied(),
            workloads,
        }
    }

    /// Of a workload with these labels.
    pub(super) fn modes(&self, labels: &impl LabelSet) -> Modes {
        let workload = self.of_workload(labels);
        let mode = self.mode(workload);
        let ports = workload.map(|policy| &policy.port_level_mtls).into_iter().flatten();
        let ports = ports.map(|(port, mtls)| (*port, Mode::of(*mtls, mode))).collect();
        Modes { workload: mode, ports }
    }

    /// Whether this port of a workload with these labels takes mutual TLS.
    pub(super) fn take_mtls(&self, labels: &impl LabelSet, port: Option<u16>) -> bool {
        let workload = self.of_workload(labels);
        let mode = self.mode(workload);
        let on_port = workload.zip(port).and_then(|(it, port)| it.port_level_mtls.get(&port));
        on_port.map_or(mode, |mtls| Mode::of(*mtls, mode)) != Mode::Disable
    }

    fn of_workload(&self, labels: &impl LabelSet) -> Option<&'a PeerAuthentication> {
        let selects = |policy: &PeerAuthentication| {
            policy.selector.as_ref().is_some_and(|it| it.selects(labels))
        };
        self.workloads.iter().copied().find(|policy| selects(policy))
    }

    /// The policy that selects the workload, else the namespace's, else the mesh's; each leaves what
    /// it does not set to the next.
    fn mode(&self, workload: Option<&PeerAuthentication>) -> Mode {
        let policies = [self.mesh, self.namespace, workload].into_iter().flatten();
        policies.fold(Mode::Permissive, |wider, policy| {
            policy.mtls.map_or(wider, |mtls| Mode::of(mtls, wider))
        })
    }
}

impl Modes {
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

/// The policies of a namespace, the oldest first.
fn policies<'a>(view: &'a View, namespace: &'a str) -> Vec<&'a PeerAuthentication> {
    let mut found: Vec<(&Object, &PeerAuthentication)> = view
        .store
        .in_namespace(Kind::PeerAuthentication, namespace)
        .filter_map(|object| match &object.spec {
            Spec::PeerAuthentication(policy) => Some((&**object, policy)),
            _ => None,
        })
        .collect();
    found.sort_by_cached_key(|(object, _)| Age::of(object));
    found.into_iter().map(|(_, policy)| policy).collect()
}
