//! Asking the name server.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    Resolver as Hickory, TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
};

/// Resolves names with the system's configuration and hosts file. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<TokioResolver>);

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The name server knows that there are none.
    #[error("the name does not exist")]
    NotFound,
    /// No answer, or one that says nothing about the name.
    #[error("the name server does not answer")]
    Unavailable,
}

impl Resolver {
    /// As `/etc/resolv.conf` says. Without a name server there the hosts file, `localhost` and
    /// addresses resolve, and nothing else does: a proxy may need no more.
    ///
    /// # Errors
    /// The resolver cannot be set up.
    pub fn system() -> Result<Self, NetError> {
        let (config, options) =
            hickory_resolver::system_conf::read_system_conf().unwrap_or_else(|error| {
                tracing::warn!(%error, "host names will not resolve: there is no name server");
                (ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default())
            });
        Self::build(config, options)
    }

    /// With one name server and nothing of the system's configuration but the hosts file.
    ///
    /// # Errors
    /// The resolver cannot be set up.
    pub fn with_name_server(address: SocketAddr) -> Result<Self, NetError> {
        let connections =
            [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
        let server = NameServerConfig::new(address.ip(), true, connections.into());
        Self::build(ResolverConfig::from_name_servers(vec![server]), ResolverOpts::default())
    }

    fn build(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, NetError> {
        // The clusters keep what they were told for as long as it holds; nothing is asked for twice.
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let mut builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self(Arc::new(builder.build()?)))
    }

    /// The addresses of `host` and how long they hold.
    pub(super) async fn resolve(&self, host: &str) -> Result<(Vec<IpAddr>, Duration), Failure> {
        if let Ok(address) = host.parse() {
            return Ok((vec![address], Duration::MAX));
        }
        if !host.contains('.') {
            return self.lookup(host).await;
        }
        // Names with a dot are meant as they are. Search domains come second, and only if the name
        // surely does not exist: their "no such name" must not hide a failure of the real one.
        let absolute = if host.ends_with('.') { host.to_owned() } else { format!("{host}.") };
        match self.lookup(&absolute).await {
            Err(Failure::NotFound) if !host.ends_with('.') => self.lookup(host).await,
            answer => answer,
        }
    }

    async fn lookup(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), Failure> {
        let lookup = self.0.lookup_ip(name).await.map_err(|error| {
            if error.is_no_records_found() { Failure::NotFound } else { Failure::Unavailable }
        })?;
        let addresses: Vec<IpAddr> = lookup.iter().collect();
        if addresses.is_empty() {
            return Err(Failure::NotFound);
        }
        Ok((addresses, lookup.valid_until().saturating_duration_since(Instant::now())))
    }
}

/// Those of `/etc/resolv.conf`, in their order.
#[must_use]
pub fn system_name_servers() -> Vec<SocketAddr> {
    const PORT: u16 = 53;
    let read = hickory_resolver::system_conf::read_system_conf();
    let servers = read.map(|(config, _)| {
        config.name_servers().iter().map(|server| SocketAddr::new(server.ip, PORT)).collect()
    });
    servers.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_name_server_names_are_unavailable_and_localhost_is_not() {
        let config = ResolverConfig::from_name_servers(Vec::new());
        let resolver = Resolver::build(config, ResolverOpts::default()).expect("a resolver");
        assert_eq!(resolver.resolve("a.example").await, Err(Failure::Unavailable));
        let (addresses, _) = resolver.resolve("localhost").await.expect("it needs no server");
        assert!(addresses.iter().all(IpAddr::is_loopback));
    }
}
