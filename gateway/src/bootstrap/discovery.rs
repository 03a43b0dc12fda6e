//! What a gateway is told that is configured by a controller: on its command line, or by the
//! environment that Istio's charts and injector give a proxy.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use clap::Args;
use rustls::pki_types::ServerName;

use crate::{
    control_plane::{Address, ControlPlane},
    discovery::ads,
};

/// Where the downward API mounts the pod's labels, as Istio's charts have it.
const POD_LABELS: &str = "/etc/istio/pod/labels";

/// Which controller, and what to show it.
#[derive(Debug, Args)]
pub(super) struct DiscoveryArguments {
    /// Controller to be configured by, instead of a folder [Istio: discoveryAddress in PROXY_CONFIG]
    #[arg(long, value_name = "HOST:PORT", env = "WEIR_DISCOVERY", conflicts_with = "config")]
    discovery: Option<Address>,

    /// Name the controller's certificate has to be for [default: the host of --discovery]
    #[arg(long, value_name = "NAME", env = "WEIR_DISCOVERY_NAME", value_parser = server_name)]
    discovery_name: Option<ServerName<'static>>,

    /// Roots to verify the controller with.
    #[arg(
        long,
        value_name = "FILE",
        env = "WEIR_DISCOVERY_ROOT",
        default_value = "/var/run/secrets/istio/root-cert.pem"
    )]
    discovery_root: PathBuf,

    /// Service account token that says who this is.
    #[arg(
        long,
        value_name = "FILE",
        env = "WEIR_DISCOVERY_TOKEN",
        default_value = "/var/run/secrets/tokens/istio-token"
    )]
    discovery_token: PathBuf,

    /// Who signs this gateway's certificate [default: --discovery; Istio: CA_ADDR]
    #[arg(long, value_name = "HOST:PORT", env = "WEIR_CA")]
    ca: Option<Address>,

    /// Folder to keep the last good configuration in, to start without the controller.
    #[arg(long, value_name = "DIR", env = "WEIR_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// Service account of this gateway [default: default; Istio: SERVICE_ACCOUNT]
    #[arg(long, value_name = "NAME", env = "WEIR_SERVICE_ACCOUNT")]
    service_account: Option<String>,

    /// Folder with a certificate for this gateway (cert-chain.pem, key.pem, root-cert.pem) that
    /// somebody else renews; without one, the controller signs.
    #[arg(
        long,
        value_name = "DIR",
        env = "WEIR_IDENTITY_FILES",
        default_value = "/var/run/secrets/workload-spiffe-credentials"
    )]
    pub(super) identity_files: PathBuf,

    /// Socket of an agent that gives out certificates (SPIRE's), which goes before --identity-files and
    /// the controller. Where nobody listens there, and its folder exists, other programs of the pod are
    /// given this proxy's certificate there.
    #[arg(
        long,
        value_name = "PATH",
        env = "WEIR_IDENTITY_SOCKET",
        default_value = "/var/run/secrets/workload-spiffe-uds/socket"
    )]
    pub(super) identity_socket: PathBuf,

    /// Folder to keep the certificate that the controller signs in, with its key, to start without the
    /// controller; in a pod an emptyDir in memory. Without it the key never leaves the process.
    #[arg(long, value_name = "DIR", env = "WEIR_IDENTITY_DIR")]
    identity_dir: Option<PathBuf>,

    /// What its identity begins with [default: cluster.local; Istio: TRUST_DOMAIN]
    #[arg(long, value_name = "DOMAIN", env = "WEIR_TRUST_DOMAIN")]
    trust_domain: Option<String>,
}

/// What a gateway that follows a controller is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    pub address: Address,
    pub server_name: ServerName<'static>,
    pub root: PathBuf,
    pub token: PathBuf,
    pub ca: Address,
    pub state_dir: Option<PathBuf>,
    pub proxy: ads::Proxy,
    pub trust_domain: String,
    pub identity_files: PathBuf,
    pub identity_dir: Option<PathBuf>,
}

impl Discovery {
    /// Who this gateway is in the mesh.
    #[must_use]
    pub fn identity(&self) -> String {
        let ads::Proxy { namespace, service_account, .. } = &self.proxy;
        format!("spiffe://{}/ns/{namespace}/sa/{service_account}", self.trust_domain)
    }

    /// Who signs for it: the controller, unless another was named.
    #[must_use]
    pub fn authority(&self, controller: &ControlPlane) -> ControlPlane {
        if self.ca == self.address {
            return controller.clone();
        }
        let server_name = server_name(&self.ca.host).unwrap_or_else(|_| self.server_name.clone());
        ControlPlane { address: self.ca.clone(), server_name, ..controller.clone() }
    }
}

/// The process's environment, or a test's.
#[derive(Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Variables that are not text are none.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(env::vars_os().filter_map(text).collect())
    }

    /// The mesh's and the pod's ProxyConfig, as Istio's injector gives it.
    pub(super) fn proxy_config(&self) -> Result<Option<serde_json::Value>, String> {
        let text = self.find("PROXY_CONFIG");
        let config = text.map(serde_json::from_str).transpose();
        config.map_err(|error| format!("PROXY_CONFIG cannot be read as JSON: {error}"))
    }

    /// An empty variable is none, as charts write it.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `discoveryAddress` of Istio's `PROXY_CONFIG`.
    fn discovery_address(&self) -> Result<Option<Address>, String> {
        let Some(config) = self.proxy_config()? else { return Ok(None) };
        let address = config.get("discoveryAddress").and_then(serde_json::Value::as_str);
        let parse = |text: &str| {
            text.parse().map_err(|error| format!("PROXY_CONFIG: discoveryAddress: {error}"))
        };
        address.map(parse).transpose()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }
}

impl DiscoveryArguments {
    /// The controller's address; `None`: there is no controller.
    pub(super) fn address(&self, environment: &Environment) -> Result<Option<Address>, String> {
        match &self.discovery {
            Some(address) => Ok(Some(address.clone())),
            None => environment.discovery_address(),
        }
    }

    pub(super) fn into_discovery(
        self,
        address: Address,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        environment: &Environment,
    ) -> Result<Discovery, String> {
        let text = |name: &str| environment.find(name).map(str::to_owned);
        let ca = match (self.ca, environment.find("CA_ADDR")) {
            (Some(ca), _) => ca,
            (None, Some(ca)) => ca.parse().map_err(|error| format!("CA_ADDR: {error}"))?,
            (None, None) => address.clone(),
        };
        let server_name = match self.discovery_name {
            Some(name) => name,
            None => server_name(&address.host)?,
        };
        let or_default = |given: Option<String>, name: &str, default: &str| {
            given.or_else(|| text(name)).unwrap_or_else(|| default.to_owned())
        };
        let proxy = ads::Proxy {
            role: ads::Role::Router,
            name: or_default(None, "POD_NAME", "weir-gateway"),
            namespace: namespace.to_owned(),
            service_account: or_default(self.service_account, "SERVICE_ACCOUNT", "default"),
            address: text("INSTANCE_IP").unwrap_or_default(),
            labels: labels.clone(),
            cluster_id: or_default(None, "ISTIO_META_CLUSTER_ID", "Kubernetes"),
        };
        Ok(Discovery {
            server_name,
            address,
            root: self.discovery_root,
            token: self.discovery_token,
            ca,
            state_dir: self.state_dir,
            proxy,
            identity_files: self.identity_files,
            identity_dir: self.identity_dir,
            trust_domain: or_default(self.trust_domain, "TRUST_DOMAIN", "cluster.local"),
        })
    }
}

fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    let name = ServerName::try_from(text.to_owned());
    name.map_err(|_invalid| "a server name is a DNS name or an address".to_owned())
}

/// The labels of the pod this runs in, if they are mounted.
pub(super) fn pod_labels() -> Option<BTreeMap<String, String>> {
    read_labels(Path::new(POD_LABELS))
}

/// Lines of `key="value"`, the value with the escapes of Go.
fn read_labels(path: &Path) -> Option<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).ok()?;
    let label = |line: &str| {
        let (key, value) = line.split_once('=')?;
        // Labels have no characters that Go escapes otherwise than JSON.
        Some((key.to_owned(), serde_json::from_str(value).ok()?))
    };
    Some(text.lines().filter_map(label).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_the_pod_are_read_as_kubernetes_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        fs::write(&path, "app=\"edge\"\npod-template-hash=\"7d\"\nempty=\"\"\n").unwrap();
        let labels = read_labels(&path).unwrap();
        let expected = [("app", "edge"), ("empty", ""), ("pod-template-hash", "7d")];
        assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(read_labels(&dir.path().join("other")), None);
    }
}
