//! What a sidecar is started with: as a gateway, and who its workload is.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use clap::Parser;
use weir_config::compile::ProxyKind;

use super::{Bootstrap, ConfigSource, Environment, GatewayArguments};

const ABOUT: &str = "The proxy beside a workload: what is redirected to it goes on as Istio's \
                     configuration says.";

const AFTER_HELP: &str = "\
Connections of the workload are redirected to port 15001 and connections to it to port 15006; \
weir-init programs that.

Signals: TERM and INT end the process after its connections have (see --drain-time); USR1 opens the \
access log file again.

Examples:
  weir-sidecar --config ./config --namespace shop --labels app=reviews --pod-ip 10.1.0.1
  weir-sidecar --discovery weir-controller.weir-system.svc:15012 --state-dir /var/lib/weir";

/// As Istio's proxies: the merged metrics of the pod, and the proxy's own.
const METRICS_PORTS: [u16; 2] = [15020, 15090];
/// The redirect rules send queries there. Not the wildcard: answers would come from an address the
/// kernel does not take for the one that was asked.
const DNS_ADDRESSES: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15053),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 15053),
];
/// In a folder that is given, one file of this name is a certificate.
const CERTIFICATE: &str = "cert-chain.pem";

/// The command line of a sidecar.
#[derive(Debug, Parser)]
#[command(name = "weir-sidecar", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 100)]
pub struct SidecarArguments {
    #[command(flatten)]
    proxy: GatewayArguments,

    /// Addresses of the workload [Istio: INSTANCE_IPS, INSTANCE_IP]
    #[arg(long, value_name = "IP,...", env = "WEIR_POD_IP", value_delimiter = ',')]
    pod_ip: Vec<IpAddr>,

    /// Where the workload's DNS queries are redirected to [default: nowhere; 127.0.0.1:15053 and
    /// [::1]:15053 where Istio's ISTIO_META_DNS_CAPTURE is true]
    #[arg(long, value_name = "ADDR,...", env = "WEIR_DNS", value_delimiter = ',')]
    dns: Vec<SocketAddr>,
}

impl SidecarArguments {
    /// # Errors
    /// No source of configuration is named, or the environment does not make sense.
    pub fn into_bootstrap(self, environment: &Environment) -> Result<Bootstrap, clap::Error> {
        let identity_files = self.proxy.discovery.identity_files.clone();
        let has_labels = !self.proxy.proxy.labels.is_empty();
        let addresses = match self.pod_ip.is_empty() {
            true => addresses(environment),
            false => self.pod_ip,
        };
        let dns = match self.dns.is_empty() && is_dns_captured(environment) {
            true => DNS_ADDRESSES.into(),
            false => self.dns,
        };
        let mut bootstrap = self.proxy.into_bootstrap(environment)?;
        if bootstrap.metrics.is_empty() {
            let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
            bootstrap.metrics = METRICS_PORTS.map(everywhere).into();
        }
        if !has_labels && matches!(bootstrap.source, ConfigSource::Files { .. }) {
            // Those of a gateway are not a workload's.
            bootstrap.labels.clear();
        }
        Ok(Bootstrap {
            kind: ProxyKind::Sidecar { addresses },
            identity_files: Some(identity_files),
            dns,
            ..bootstrap
        })
    }
}

impl Bootstrap {
    /// Whether there is a certificate of the mesh, or will be.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        match (&self.source, &self.identity_files) {
            (ConfigSource::Discovery(_), _) => true,
            (ConfigSource::Files { .. }, None) => false,
            (ConfigSource::Files { .. }, Some(folder)) => has_certificate(folder),
        }
    }
}

fn has_certificate(folder: &Path) -> bool {
    folder.join(CERTIFICATE).exists()
}

fn is_dns_captured(environment: &Environment) -> bool {
    environment.find("ISTIO_META_DNS_CAPTURE") == Some("true")
}

/// As Istio's injector tells them.
fn addresses(environment: &Environment) -> Vec<IpAddr> {
    let text = environment.find("INSTANCE_IPS").or_else(|| environment.find("INSTANCE_IP"));
    text.unwrap_or_default().split(',').filter_map(|ip| ip.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn bootstrap(arguments: &[&str], environment: &Environment) -> Bootstrap {
        let arguments = [&["weir-sidecar", "--config", "conf"], arguments].concat();
        let parsed = SidecarArguments::try_parse_from(arguments).unwrap();
        parsed.into_bootstrap(environment).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        SidecarArguments::command().debug_assert();
    }

    #[test]
    fn the_workload_is_who_it_is_said_to_be() {
        let instance = Environment::from([("INSTANCE_IPS", "10.1.0.1,fd00::1")]);
        let both = vec![[10, 1, 0, 1].into(), "fd00::1".parse().unwrap()];
        let from_environment = bootstrap(&[], &instance);
        assert_eq!(from_environment.kind, ProxyKind::Sidecar { addresses: both });
        assert!(from_environment.labels.is_empty(), "a gateway's labels are not a workload's");

        let said = bootstrap(&["--pod-ip", "10.1.0.2", "--labels", "app=a"], &instance);
        assert_eq!(said.kind, ProxyKind::Sidecar { addresses: vec![[10, 1, 0, 2].into()] });
        assert_eq!(said.labels["app"], "a");
        let ports: Vec<u16> = said.metrics.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [15020, 15090]);
    }

    #[test]
    fn dns_is_answered_where_it_is_redirected() {
        assert!(bootstrap(&[], &Environment::default()).dns.is_empty());
        let captured = Environment::from([("ISTIO_META_DNS_CAPTURE", "true")]);
        assert_eq!(bootstrap(&[], &captured).dns, DNS_ADDRESSES);
        let said = bootstrap(&["--dns", "127.0.0.1:53"], &captured).dns;
        assert_eq!(said, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_folder_with_a_certificate_is_an_identity() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_str().unwrap();
        let environment = Environment::default();
        assert!(!bootstrap(&["--identity-files", folder], &environment).has_identity());
        std::fs::write(dir.path().join(CERTIFICATE), "").unwrap();
        assert!(bootstrap(&["--identity-files", folder], &environment).has_identity());
    }
}
