//! What the names users write refer to.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{
    api::{Kind, Object, ObjectKey},
    model::ClusterName,
};

/// The reserved gateway name that stands for all sidecars.
pub(super) const MESH_GATEWAY: &str = "mesh";

/// The fully qualified, lower-case form of a host in `namespace`. A short name - no dot, not an
/// address, no wildcard - is a Kubernetes service of that namespace.
pub fn resolve_host(host: &str, namespace: &str, cluster_domain: &str) -> Arc<str> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_short =
        !host.is_empty() && !host.contains(['.', '*']) && host.parse::<IpAddr>().is_err();
    if is_short { service_host(&host, namespace, cluster_domain) } else { host.into() }
}

/// The host of a Kubernetes service.
pub fn service_host(name: &str, namespace: &str, cluster_domain: &str) -> Arc<str> {
    format!("{name}.{namespace}.svc.{cluster_domain}").into()
}

/// The Gateway that `name` means in an object of `namespace`; `None` for `mesh`.
pub fn resolve_gateway(name: &str, namespace: &Arc<str>) -> Option<ObjectKey> {
    let (namespace, name) = match name.split_once('/') {
        Some((".", name)) => (Arc::clone(namespace), name),
        Some((namespace, name)) => (namespace.into(), name),
        None if name == MESH_GATEWAY => return None,
        // The old form, a host: `name.namespace.svc.cluster.local`. Gateway names have no dots.
        None => match name.split_once('.') {
            Some((name, rest)) => (rest.split('.').next().unwrap_or_default().into(), name),
            None => (Arc::clone(namespace), name),
        },
    };
    Some(ObjectKey { kind: Kind::Gateway, namespace, name: name.into() })
}

/// `outbound|9080|v1|reviews.default.svc.cluster.local`.
pub(super) fn cluster_name(host: &str, port: u16, subset: &str) -> ClusterName {
    ClusterName::new(format!("outbound|{port}|{subset}|{host}"))
}

/// `outbound_.9080_.v1_.reviews.default.svc.cluster.local`: what clients of the mesh say in their
/// ClientHello (istio-compat 1.14).
pub(super) fn mesh_server_name(host: &str, port: u16, subset: &str) -> Arc<str> {
    format!("outbound_.{port}_.{subset}_.{host}").into()
}

/// `namespace/name`, as dumps and logs show an object.
pub(super) fn origin(object: &Object) -> Arc<str> {
    format!("{}/{}", object.metadata.namespace, object.metadata.name).into()
}

/// `app=shop,version=v1`, as labels are written on a command line.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "(none)".to_owned();
    }
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// Whether an object of `own` namespace is visible in `to`. An empty list means `default`, and an
/// empty default means everywhere.
pub fn is_exported(export_to: &[String], default: &[String], own: &str, to: &str) -> bool {
    let list = if export_to.is_empty() { default } else { export_to };
    list.is_empty()
        || list.iter().any(|entry| match entry.as_str() {
            "*" => true,
            "." => own == to,
            "~" => false,
            namespace => namespace == to,
        })
}

/// Whether an object is exported to a namespace that is not its own.
#[must_use]
pub fn is_exported_elsewhere(export_to: &[String], default: &[String], own: &str) -> bool {
    let list = if export_to.is_empty() { default } else { export_to };
    list.is_empty() || list.iter().any(|entry| !["~", ".", own].contains(&entry.as_str()))
}

/// Orders objects that claim the same thing: the oldest wins, then the name, then the namespace
/// (istio-compat 1.1). Objects without a timestamp are as old as each other, and the oldest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    created: Option<String>,
    name: Arc<str>,
    namespace: Arc<str>,
}

impl Age {
    #[must_use]
    pub fn of(object: &Object) -> Self {
        Self {
            created: object.metadata.creation_timestamp.clone(),
            name: Arc::clone(&object.metadata.name),
            namespace: Arc::clone(&object.metadata.namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_names_are_completed() {
        for (host, expected) in [
            ("reviews", "reviews.prod.svc.cluster.local"),
            ("Reviews.Example.COM.", "reviews.example.com"),
            ("reviews.prod", "reviews.prod"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("*", "*"),
            ("*.example.com", "*.example.com"),
        ] {
            assert_eq!(&*resolve_host(host, "prod", "cluster.local"), expected);
        }
    }

    #[test]
    fn a_gateway_is_named_in_four_ways_and_mesh_is_none_of_them() {
        let namespace: Arc<str> = "prod".into();
        for (name, expected) in [
            ("gw", "Gateway prod/gw"),
            ("./gw", "Gateway prod/gw"),
            ("infra/gw", "Gateway infra/gw"),
            ("gw.infra.svc.cluster.local", "Gateway infra/gw"),
        ] {
            assert_eq!(resolve_gateway(name, &namespace).unwrap().to_string(), expected);
        }
        assert_eq!(resolve_gateway("mesh", &namespace), None);
    }

    #[test]
    fn export_to_names_namespaces_and_defaults_to_everywhere() {
        let list = |entries: &[&str]| entries.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (export_to, default, expected) in [
            (&[][..], &[][..], true),
            (&[], &["."], false),
            (&["*"], &["."], true),
            (&["."], &[], false),
            (&["~"], &[], false),
            (&["other", "b"], &[], true),
        ] {
            let visible = is_exported(&list(export_to), &list(default), "a", "b");
            assert_eq!(visible, expected, "{export_to:?} {default:?}");
        }
        assert!(is_exported(&list(&["."]), &[], "a", "a"));
    }
}
