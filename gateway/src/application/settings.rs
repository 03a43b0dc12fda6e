//! What the injector says of the application, in the words of Istio's.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};

/// Probes and hooks by the path they are asked at here.
pub type Probers = BTreeMap<String, Prober>;

/// What is asked of an application on behalf of others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `ISTIO_KUBE_APP_PROBERS`
    pub probers: Probers,
    /// `ISTIO_META_POD_PORTS`: those of the containers, by name.
    pub ports: BTreeMap<String, u16>,
    /// `ISTIO_PROMETHEUS_ANNOTATIONS`; `None`: it has no metrics, or they are asked for elsewhere.
    pub scraped: Option<ScrapeTarget>,
}

/// A variable that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{variable} cannot be read: {source}")]
pub struct SettingsError {
    variable: &'static str,
    #[source]
    source: serde_json::Error,
}

/// One probe or hook of a container, as its manifest had it, with the number of its port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Prober {
    pub http_get: Option<HttpGet>,
    pub tcp_socket: Option<TcpSocket>,
    pub grpc: Option<Grpc>,
    /// 0: not said.
    pub timeout_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpGet {
    pub path: String,
    pub port: u16,
    pub host: String,
    pub scheme: String,
    pub http_headers: Vec<Header>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Header {
    pub name: String,
    #[serde(default)]
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct TcpSocket {
    pub port: u16,
    pub host: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Grpc {
    pub port: u16,
    /// `null` in what Kubernetes writes.
    pub service: Option<String>,
}

/// Where the application's metrics are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeTarget {
    pub port: u16,
    pub path: String,
}

/// Of a container's manifest.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: String,
    container_port: u16,
}

/// Annotations of the pod: all of them text.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    scrape: String,
    path: String,
    port: String,
}

impl Settings {
    /// Reads the variables, as far as there are any.
    ///
    /// # Errors
    /// They are not what an injector writes.
    pub fn read<'a>(find: impl Fn(&str) -> Option<&'a str>) -> Result<Self, SettingsError> {
        let ports: Vec<ContainerPort> = parse(&find, "ISTIO_META_POD_PORTS")?.unwrap_or_default();
        let named = ports.into_iter().filter(|port| !port.name.is_empty());
        let annotations: Option<Annotations> = parse(&find, "ISTIO_PROMETHEUS_ANNOTATIONS")?;
        Ok(Self {
            probers: parse(&find, "ISTIO_KUBE_APP_PROBERS")?.unwrap_or_default(),
            ports: named.map(|port| (port.name, port.container_port)).collect(),
            scraped: annotations.and_then(Annotations::target),
        })
    }
}

/// Generic over what a variable holds.
fn parse<'a, T: DeserializeOwned>(
    find: impl Fn(&str) -> Option<&'a str>,
    variable: &'static str,
) -> Result<Option<T>, SettingsError> {
    let value = find(variable).map(serde_json::from_str).transpose();
    value.map_err(|source| SettingsError { variable, source })
}

impl Annotations {
    fn target(self) -> Option<ScrapeTarget> {
        let Self { scrape, path, port } = self;
        // A port that is none was never scraped.
        let port = if port.is_empty() { 80 } else { port.parse().ok()? };
        let path = if path.is_empty() { "/metrics".to_owned() } else { path };
        (scrape != "false").then_some(ScrapeTarget { port, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variable: &str, text: &str) -> Result<Settings, SettingsError> {
        Settings::read(|asked| (asked == variable).then_some(text))
    }

    #[test]
    fn the_containers_ports_are_known_by_name() {
        let text = r#"[{"name":"http","containerPort":8080,"protocol":"TCP"},{"containerPort":1}]"#;
        let ports = read("ISTIO_META_POD_PORTS", text).unwrap().ports;
        assert_eq!(ports, [("http".to_owned(), 8080)].into());
    }

    #[test]
    fn probers_are_read_as_injectors_write_them() {
        let text = r#"{"/app-health/web/livez":
            {"httpGet":{"path":"/live","port":8443,"scheme":"HTTPS","httpHeaders":[{"name":"x-a","value":"b"}]},
             "timeoutSeconds":3},
            "/app-health/web/readyz": {"grpc":{"port":9000,"service":null}},
            "/app-lifecycle/web/prestopz": {"tcpSocket":{"port":1}}}"#;
        let settings = read("ISTIO_KUBE_APP_PROBERS", text).unwrap();
        let live = &settings.probers["/app-health/web/livez"];
        let get = live.http_get.as_ref().unwrap();
        assert_eq!((get.port, get.scheme.as_str(), live.timeout_seconds), (8443, "HTTPS", 3));
        assert_eq!(get.http_headers[0].name, "x-a");
        let ready = settings.probers["/app-health/web/readyz"].grpc.as_ref().unwrap();
        assert_eq!((ready.port, ready.service.as_deref()), (9000, None));
        let error = read("ISTIO_KUBE_APP_PROBERS", "[]").unwrap_err().to_string();
        assert!(error.starts_with("ISTIO_KUBE_APP_PROBERS cannot be read"), "{error}");
    }

    #[test]
    fn metrics_are_where_prometheus_would_look_for_them() {
        let target = |text| read("ISTIO_PROMETHEUS_ANNOTATIONS", text).unwrap().scraped;
        let at = |port, path: &str| Some(ScrapeTarget { port, path: path.to_owned() });
        assert_eq!(target(r#"{"scrape":"true","path":"","port":""}"#), at(80, "/metrics"));
        assert_eq!(target(r#"{"scrape":"","path":"/m","port":"9102"}"#), at(9102, "/m"));
        assert_eq!(target(r#"{"scrape":"false","path":"/m","port":"9102"}"#), None);
        assert_eq!(Settings::read(|_| None).unwrap(), Settings::default());
    }
}
