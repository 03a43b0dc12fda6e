//! Where a proxy's configuration comes from: the proxy, in a pod or not, or a file of what it said.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::Value;

use crate::ctl::{
    Failure,
    args::{Proxy, Target},
    cluster::{Cluster, PodName},
    page,
};

/// An admin page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    ConfigDump,
    Clusters,
    Certificates,
    ServerInfo,
}

/// Those that `proxy-config all` prints.
pub const PAGES: [Page; 4] =
    [Page::ConfigDump, Page::Clusters, Page::Certificates, Page::ServerInfo];

impl Page {
    /// In what `proxy-config all` prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigDump => "configDump",
            Self::Clusters => "clusterStatus",
            Self::Certificates => "certificates",
            Self::ServerInfo => "serverInfo",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::ConfigDump => "/config_dump",
            Self::Clusters => "/clusters?format=json",
            Self::Certificates => "/certs",
            Self::ServerInfo => "/server_info",
        }
    }
}

/// Which proxy.
pub enum Source {
    Pod {
        cluster: Cluster,
        pod: PodName,
        port: u16,
    },
    /// `host:port`.
    Address(String),
    File {
        path: PathBuf,
        pages: Value,
    },
}

impl Source {
    /// Finds out which proxy is meant; it is not asked yet.
    pub async fn open(target: &Target, proxy: &Proxy) -> Result<Self, Failure> {
        let address = proxy.address.as_deref().filter(|address| is_url(address));
        match (&proxy.proxy, &proxy.file, address) {
            (Some(name), None, None) => {
                let cluster = Cluster::connect(target).await?;
                let pod = cluster.pod(name).await?;
                Ok(Self::Pod { cluster, pod, port: proxy.proxy_admin_port })
            }
            (None, Some(path), None) => {
                let what = || format!("read --file {}", path.display());
                let text = fs::read(path).with_context(what)?;
                let pages = serde_json::from_slice(&text).with_context(what)?;
                Ok(Self::File { path: path.clone(), pages })
            }
            (None, None, Some(url)) => Ok(Self::Address(page::authority(url)?)),
            _ => Err(Failure::usage(
                "say which proxy, once: POD[.NAMESPACE], --file FILE or --address http://HOST:PORT",
            )),
        }
    }

    /// What a page says.
    pub async fn page(&self, page: Page) -> anyhow::Result<Value> {
        let Self::File { path, pages } = self else {
            return page::json(&self.ask(Method::GET, page.path()).await?);
        };
        match pages.get(page.name()) {
            Some(content) => Ok(content.clone()),
            // The page itself, saved.
            None if page == Page::ConfigDump && pages.get("listeners").is_some() => {
                Ok(pages.clone())
            }
            None => bail!(
                "{} does not have {}; make the file with `weirctl proxy-config all POD -o json`",
                path.display(),
                page.path()
            ),
        }
    }

    /// The text of a page of a proxy that runs.
    pub async fn ask(&self, method: Method, path: &str) -> anyhow::Result<String> {
        match self {
            Self::Pod { cluster, pod, port } => cluster.page(pod, *port, method, path).await,
            Self::Address(authority) => {
                let stream = page::connect(authority).await?;
                page::ask(stream, method, path)
                    .await
                    .with_context(|| format!("ask http://{authority}{path}"))
            }
            Self::File { path, .. } => {
                bail!("{} is a file; name a proxy that runs", path.display())
            }
        }
    }
}

/// The address that listeners or endpoints are selected by.
pub fn ip_filter(proxy: &Proxy) -> Option<&str> {
    proxy.address.as_deref().filter(|address| !is_url(address))
}

fn is_url(address: &str) -> bool {
    address.contains("://")
}
