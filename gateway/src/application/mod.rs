//! The application beside a sidecar: what the kubelet and Prometheus ask of it, which have no
//! certificate of the mesh, and so ask the sidecar.

use std::net::IpAddr;

mod probe;
mod scrape;
mod settings;

pub use self::{
    probe::probe,
    scrape::{ScrapeError, Scraped, scrape},
    settings::{
        Grpc, Header, HttpGet, Prober, Probers, ScrapeTarget, Settings, SettingsError, TcpSocket,
    },
};

/// The application, as far as it is told to the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Application {
    /// The pod's; the host's own where nobody says one.
    pub address: Option<IpAddr>,
    pub settings: Settings,
}

#[cfg(test)]
mod tests;
