//! Which API versions and kinds are read.

use crate::api::Kind;

/// What an `apiVersion` and `kind` mean to Weir.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Known(Kind),
    /// What runs and keeps applications, which manifests of services are full of: nobody expects it to
    /// be read.
    Application,
    /// Not read; why, and what to write instead if that is known.
    NotUsed(String),
}

/// Every kind, with the versions of it that are read. All versions of a kind have
/// the same schema.
const SERVED: [(Kind, &[&str]); 17] = [
    (Kind::Gateway, NETWORKING),
    (Kind::VirtualService, NETWORKING),
    (Kind::DestinationRule, NETWORKING),
    (Kind::ServiceEntry, NETWORKING),
    (Kind::WorkloadEntry, NETWORKING),
    (Kind::Sidecar, NETWORKING),
    (Kind::EnvoyFilter, &["v1alpha3"]),
    (Kind::PeerAuthentication, SECURITY),
    (Kind::RequestAuthentication, SECURITY),
    (Kind::AuthorizationPolicy, SECURITY),
    (Kind::Service, &["v1"]),
    (Kind::Endpoints, &["v1"]),
    (Kind::Secret, &["v1"]),
    (Kind::ConfigMap, &["v1"]),
    (Kind::Namespace, &["v1"]),
    (Kind::Pod, &["v1"]),
    (Kind::EndpointSlice, &["v1"]),
];

const NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &[&str] = &["v1", "v1beta1"];

/// Groups of Kubernetes whose kinds do not have to do with traffic.
const APPLICATION_GROUPS: [&str; 5] =
    ["apps", "autoscaling", "batch", "policy", "rbac.authorization.k8s.io"];
/// Such kinds of groups that have others too.
const APPLICATION_KINDS: [(&str, &str); 4] = [
    ("", "LimitRange"),
    ("", "PersistentVolumeClaim"),
    ("", "ServiceAccount"),
    ("networking.k8s.io", "NetworkPolicy"),
];

/// Finds the kind an object says it is.
pub(super) fn lookup(api_version: &str, kind: &str) -> Lookup {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let named = SERVED.iter().find(|(known, _)| known.name() == kind);
    let Some((known, versions)) = named else {
        if APPLICATION_GROUPS.contains(&group) || APPLICATION_KINDS.contains(&(group, kind)) {
            return Lookup::Application;
        }
        return Lookup::NotUsed(format!(
            "kind {kind} ({api_version}) is not used by Weir; the object has no effect"
        ));
    };
    let served_group = known.group();
    if group == served_group && versions.contains(&version) {
        return Lookup::Known(*known);
    }
    let served: Vec<String> = versions.iter().map(|version| join(served_group, version)).collect();
    Lookup::NotUsed(format!(
        "{kind} of {api_version} is not used by Weir; the object has no effect; {kind} is read as {}",
        served.join(", ")
    ))
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_version_of_every_kind_is_known() {
        for (kind, versions) in SERVED {
            for version in versions {
                assert_eq!(lookup(&join(kind.group(), version), kind.name()), Lookup::Known(kind));
            }
        }
    }

    #[test]
    fn a_version_that_is_not_served_names_those_that_are() {
        assert_eq!(
            lookup("security.istio.io/v1alpha1", "AuthorizationPolicy"),
            Lookup::NotUsed(
                "AuthorizationPolicy of security.istio.io/v1alpha1 is not used by Weir; the object \
                 has no effect; AuthorizationPolicy is read as security.istio.io/v1, \
                 security.istio.io/v1beta1"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_kind_of_the_same_name_in_another_group_is_another_kind() {
        let lookup = lookup("gateway.networking.k8s.io/v1", "Gateway");
        assert!(matches!(lookup, Lookup::NotUsed(_)), "{lookup:?}");
    }

    #[test]
    fn a_foreign_kind_is_not_used() {
        assert_eq!(
            lookup("cert-manager.io/v1", "Issuer"),
            Lookup::NotUsed(
                "kind Issuer (cert-manager.io/v1) is not used by Weir; the object has no effect"
                    .to_owned()
            )
        );
    }

    #[test]
    fn what_runs_applications_is_nothing_to_speak_of() {
        for (version, kind) in [
            ("apps/v1", "Deployment"),
            ("autoscaling/v2", "HorizontalPodAutoscaler"),
            ("v1", "ServiceAccount"),
            ("networking.k8s.io/v1", "NetworkPolicy"),
        ] {
            assert_eq!(lookup(version, kind), Lookup::Application, "{kind}");
        }
        assert!(matches!(lookup("v1", "Servcie"), Lookup::NotUsed(_)), "a misspelt one is");
    }

    /// What a definition in the chart is compared by.
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Installed {
        group: String,
        kind: String,
        versions: Vec<String>,
    }

    impl Installed {
        fn read(definition: &serde_yaml::Value) -> Self {
            let spec = &definition["spec"];
            let text = |value: &serde_yaml::Value| value.as_str().unwrap().to_owned();
            let versions = spec["versions"].as_sequence().unwrap();
            Self {
                group: text(&spec["group"]),
                kind: text(&spec["names"]["kind"]),
                versions: versions.iter().map(|version| text(&version["name"])).collect(),
            }
        }
    }

    #[test]
    fn the_base_chart_installs_the_kinds_that_are_read_and_no_others() {
        let files = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/base/files");
        let mut installed: Vec<Installed> = std::fs::read_dir(files)
            .unwrap()
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
            .map(|text| Installed::read(&serde_yaml::from_str(&text).unwrap()))
            .collect();
        let mut read: Vec<Installed> = SERVED
            .into_iter()
            // The others are Kubernetes' own.
            .filter(|(kind, _)| kind.group().ends_with(".istio.io"))
            .map(|(kind, versions)| Installed {
                group: kind.group().to_owned(),
                kind: kind.name().to_owned(),
                versions: versions.iter().map(ToString::to_string).collect(),
            })
            .collect();
        installed.sort();
        read.sort();
        assert_eq!(installed, read);
    }
}
