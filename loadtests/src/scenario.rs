//! Scenarios: what is measured, read from `scenarios/*.toml`. A file is one scenario of one or more
//! cases: its `[[case]]` tables are laid over the rest of the file.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::peer::Peer;

/// One file.
#[derive(Debug)]
pub struct Scenario {
    /// The file's name without extension.
    pub name: String,
    /// All cases run in the same quads, so that they can be compared with the first.
    pub together: bool,
    pub cases: Vec<Case>,
}

/// One thing to measure.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Case {
    /// The scenario's name, and the case's behind a slash if there are several.
    #[serde(skip)]
    pub name: String,
    pub title: String,
    pub sets: Vec<Set>,
    pub measure: Measure,
    /// Peers that are not measured, and why.
    #[serde(default)]
    pub not: BTreeMap<Peer, String>,
    #[serde(default)]
    pub proxy: Proxy,
    #[serde(default)]
    pub load: Load,
    #[serde(default)]
    pub control: Control,
}

/// Which cases run together on one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Set {
    /// A second for each proxy: does it run and answer right.
    Smoke,
    /// Half an hour.
    Short,
    /// Everything.
    Full,
}

/// How a case is measured; one file of `measure/` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Processor time per request, at a fixed rate and at saturation.
    Cost,
    /// Latency that the proxy adds at half of what the slowest can do.
    Latency,
    /// Memory of idle connections.
    Idle,
    /// One change of the configuration.
    Change,
    /// Changes under load.
    Churn,
    /// Twice as many requests as can be answered.
    Overload,
    /// Memory of a proxy that has its configuration and nothing to do.
    Memory,
    /// Objects written one after another, until each is served.
    Acceptance,
    /// Endpoint changes, until many proxies have acknowledged them.
    Swarm,
    /// The start of a controller that finds many objects.
    Start,
    /// The start of a gateway whose controller is down.
    Restart,
    /// A controller that is away, until its proxies have what they need again.
    Absence,
    /// A controller that is killed while requests go on.
    Killed,
}

impl Measure {
    /// Whether it is the control plane that is measured; peers have none that could be compared.
    pub fn is_of_control_plane(self) -> bool {
        match self {
            Self::Acceptance
            | Self::Swarm
            | Self::Start
            | Self::Restart
            | Self::Absence
            | Self::Killed => true,
            Self::Cost
            | Self::Latency
            | Self::Idle
            | Self::Change
            | Self::Churn
            | Self::Overload
            | Self::Memory => false,
        }
    }
}

/// What there is for the controller, before `--scale`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Control {
    /// Objects written, those there are, or Services; as the measure has it.
    pub objects: usize,
    /// Proxies that follow the controller.
    pub proxies: usize,
    pub changes: usize,
}

/// What the proxy is configured to do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Proxy {
    pub listener: Listener,
    pub upstream: Upstream,
    pub certificate: Certificate,
    /// Clients have to show a certificate.
    pub client_certificate: bool,
    /// What is switched off.
    pub without: Vec<Feature>,
    /// Routes by path on one host; 0: one route for everything.
    pub routes: usize,
    /// Hosts with a route each; 0: one for everything.
    pub hosts: usize,
    pub endpoints: usize,
    /// Services of the mesh that a sidecar sees and nobody calls, of five endpoints each. Most speak
    /// HTTP, every tenth only TCP.
    pub services: usize,
    /// Requests need a token signed like this.
    pub jwt: Option<Jwt>,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            listener: Listener::Http,
            upstream: Upstream::Http1,
            certificate: Certificate::Ecdsa,
            client_certificate: false,
            without: Vec::new(),
            routes: 0,
            hosts: 0,
            endpoints: 1,
            services: 0,
            jwt: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listener {
    Http,
    Https,
    Tcp,
    /// TLS that is not terminated, routed by its server name.
    Passthrough,
    /// No port: what the client sends is redirected to its sidecar, which speaks mutual TLS with that of
    /// the origin. A proxy is the pair of both.
    Sidecar,
    /// There is none: the proxy has nothing to do.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upstream {
    Http1,
    H2c,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certificate {
    Ecdsa,
    Rsa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    Metrics,
    Log,
    /// Forwarded headers and the request id.
    Headers,
    /// TLS between sidecars.
    MeshTls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Jwt {
    Rs256,
    Es256,
}

/// What the generator sends.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Load {
    pub protocol: Protocol,
    pub connections: usize,
    /// Exchanges at once on one HTTP/2 connection.
    pub streams: usize,
    /// Exchanges per second; 0: only saturation.
    pub rate: f64,
    /// Measure also as fast as it goes.
    pub saturation: bool,
    /// The times between exchanges are random, as those of many independent clients are.
    pub poisson: bool,
    pub reconnect: Reconnect,
    /// Bytes of each answer's body.
    pub answer_bytes: u64,
    /// Bytes of each request's body.
    pub request_bytes: u64,
    /// Messages of a stream.
    pub messages: u32,
    /// Different tokens among the requests.
    pub tokens: usize,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            protocol: Protocol::Http1,
            connections: 64,
            streams: 1,
            rate: 0.0,
            saturation: false,
            poisson: false,
            reconnect: Reconnect::Never,
            answer_bytes: 60,
            request_bytes: 0,
            messages: 1,
            tokens: 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Http1,
    Http2,
    GrpcUnary,
    /// One request message, `messages` answers.
    GrpcServerStream,
    /// `messages` times: a message, its echo.
    GrpcBidi,
    /// An echoed message on a connection upgraded before.
    Websocket,
    /// Echoed bytes.
    Tcp,
}

/// Whether an exchange has a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reconnect {
    Never,
    Full,
    /// With a ticket of an earlier TLS session.
    Resumed,
}

impl Scenario {
    /// All scenarios of a folder, by name.
    pub fn all(dir: &Path) -> anyhow::Result<Vec<Self>> {
        let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
        let mut paths: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let place = || format!("read {}", path.display());
        let name = path.file_stem().and_then(|name| name.to_str()).with_context(place)?;
        let text = fs::read_to_string(path).with_context(place)?;
        Self::parse(name, &text).with_context(place)
    }

    fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let mut file: Table = text.parse()?;
        let overlays = match file.remove("case") {
            Some(Value::Array(overlays)) => overlays,
            Some(_) => anyhow::bail!("case is not a list of tables"),
            None => Vec::new(),
        };
        let together = file.remove("together").is_some_and(|value| value.as_bool() == Some(true));
        let cases = if overlays.is_empty() {
            vec![Case::parse(name.to_owned(), file)?]
        } else {
            overlays
                .into_iter()
                .map(|overlay| Case::overlaid(name, &file, overlay))
                .collect::<Result<_, _>>()?
        };
        Ok(Self { name: name.to_owned(), together, cases })
    }
}

impl Case {
    fn overlaid(scenario: &str, base: &Table, overlay: Value) -> anyhow::Result<Self> {
        let Value::Table(mut overlay) = overlay else { anyhow::bail!("a case is not a table") };
        let name = overlay.remove("name").context("a case has no name")?;
        let name = name.as_str().context("the name of a case is not a string")?;
        let mut merged = base.clone();
        lay_over(&mut merged, overlay);
        Self::parse(format!("{scenario}/{name}"), merged).with_context(|| format!("case {name}"))
    }

    fn parse(name: String, table: Table) -> anyhow::Result<Self> {
        let mut case: Self = table.try_into()?;
        case.name = name;
        ensure!(case.load.connections > 0 && case.load.streams > 0, "nothing is sent");
        ensure!(case.proxy.endpoints > 0, "no endpoint");
        ensure!(
            case.measure != Measure::Cost || case.load.rate > 0.0 || case.load.saturation,
            "a cost needs a rate or saturation"
        );
        Ok(case)
    }

    pub fn has(&self, feature: Feature) -> bool {
        !self.proxy.without.contains(&feature)
    }

    /// Whether it takes namespaces, in which two sidecars are.
    pub fn is_of_sidecars(&self) -> bool {
        self.proxy.listener == Listener::Sidecar
    }

    pub fn tls(&self) -> bool {
        matches!(self.proxy.listener, Listener::Https | Listener::Passthrough)
    }

    /// What is counted, in the singular.
    pub fn unit(&self) -> &'static str {
        match self.load.protocol {
            _ if self.load.reconnect != Reconnect::Never => "connection",
            Protocol::GrpcServerStream | Protocol::GrpcBidi | Protocol::Websocket => "message",
            _ if self.is_bulk() => "MiB",
            Protocol::Http1 | Protocol::Http2 | Protocol::GrpcUnary => "request",
            Protocol::Tcp => "message",
        }
    }

    /// Bodies so large that bytes are what costs.
    pub fn is_bulk(&self) -> bool {
        self.load.answer_bytes.max(self.load.request_bytes) >= 256 * 1024
    }
}

fn lay_over(base: &mut Table, overlay: Table) {
    for (key, value) in overlay {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(overlay)) => lay_over(base, overlay),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        title = "Routes"
        sets = ["full"]
        measure = "cost"
        together = true
        load = { rate = 100.0, connections = 8 }
        [[case]]
        name = "1"
        proxy.routes = 1
        [[case]]
        name = "10"
        title = "Ten routes"
        proxy.routes = 10
        load.rate = 50.0
    "#;

    #[test]
    fn cases_are_laid_over_the_file() {
        let scenario = Scenario::parse("routes", FILE).unwrap();
        assert!(scenario.together);
        let [one, ten] = &scenario.cases[..] else { panic!("two cases") };
        assert_eq!((one.name.as_str(), one.title.as_str()), ("routes/1", "Routes"));
        assert_eq!((ten.name.as_str(), ten.title.as_str()), ("routes/10", "Ten routes"));
        assert_eq!((one.proxy.routes, ten.proxy.routes), (1, 10));
        assert_eq!((one.load.connections, ten.load.connections), (8, 8));
        assert!((ten.load.rate - 50.0).abs() < 1e-9);
    }

    #[test]
    fn a_word_that_means_nothing_is_refused() {
        let error = Scenario::parse("x", &FILE.replace("connections", "conections")).unwrap_err();
        assert!(format!("{error:#}").contains("conections"), "{error:#}");
    }

    #[test]
    fn every_scenario_of_the_repository_is_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let scenarios = Scenario::all(&dir).unwrap();
        assert!(scenarios.len() > 10);
        for set in [Set::Smoke, Set::Short, Set::Full] {
            assert!(
                scenarios
                    .iter()
                    .flat_map(|scenario| &scenario.cases)
                    .any(|c| c.sets.contains(&set)),
                "{set:?} is not empty"
            );
        }
    }
}
