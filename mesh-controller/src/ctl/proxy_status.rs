//! `weirctl proxy-status`: whether proxies have what the controllers sent.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Failure, Report,
    args::{StatusArguments, Target},
    cluster::{Cluster, PodName},
    structured,
    table::Table,
};

/// A proxy and the controller it is connected to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connected {
    /// The pod, `name.namespace`.
    pub proxy: String,
    pub cluster: String,
    pub status: Status,
    pub sent: String,
    pub acknowledged: String,
    /// Why it does not have the last version, by resource.
    pub rejected: BTreeMap<String, String>,
    pub controller: String,
    pub version: String,
}

/// How a proxy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    NotSent,
    Synced,
    Stale,
    Nacked,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent => "NOT SENT",
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::Nacked => "NACKED",
        })
    }
}

/// A line of `/debug/syncz`.
#[derive(Debug, Deserialize)]
struct Synced {
    node: String,
    #[serde(default)]
    cluster: String,
    version: String,
    sent: String,
    acknowledged: String,
    rejected: BTreeMap<String, String>,
}

impl Synced {
    fn status(&self) -> Status {
        match () {
            () if self.sent.is_empty() => Status::NotSent,
            () if self.sent != self.acknowledged => Status::Stale,
            () if !self.rejected.is_empty() => Status::Nacked,
            () => Status::Synced,
        }
    }

    fn connected_to(self, controller: &str) -> Connected {
        Connected {
            status: self.status(),
            // `router~10.0.0.7~gateway-7d.edge~edge.svc.cluster.local`
            proxy: self.node.split('~').nth(2).unwrap_or(&self.node).to_owned(),
            cluster: self.cluster,
            sent: self.sent,
            acknowledged: self.acknowledged,
            rejected: self.rejected,
            controller: controller.to_owned(),
            version: self.version,
        }
    }
}

/// What the controllers that could be asked said, and what went wrong with the others.
pub struct Answers {
    /// By name.
    pub connected: Vec<Connected>,
    pub unasked: Vec<anyhow::Error>,
}

/// Fails when a controller could not be asked, but prints what the others said before that.
pub async fn run(target: &Target, arguments: &StatusArguments) -> anyhow::Result<Report> {
    let cluster = Cluster::connect(target).await?;
    let Answers { mut connected, unasked } = all(&cluster).await?;
    if let Some(proxy) = &arguments.proxy {
        let pod = cluster.pod(proxy).await?.to_string();
        connected.retain(|it| it.proxy == pod);
        if connected.is_empty() {
            let Some(error) = summary(&unasked) else {
                bail!("{pod} is not connected to a controller; its log says why");
            };
            return Err(error.context(format!("find out which controller {pod} is connected to")));
        }
    }
    let text = match arguments.output {
        Some(output) => structured(&json!(connected), output)?,
        None if arguments.proxy.is_some() => overview(&connected) + &rejections(&connected),
        None => overview(&connected),
    };
    // Whoever asks for one proxy that was found has the whole answer.
    let failure = summary(&unasked).filter(|_| arguments.proxy.is_none()).map(Failure::from);
    Ok(Report { text, failure })
}

/// The proxies of all controllers.
///
/// # Errors
/// No controller can be asked.
pub async fn all(cluster: &Cluster) -> anyhow::Result<Answers> {
    let mut answers = Answers { connected: Vec::new(), unasked: Vec::new() };
    let mut is_answered = false;
    for controller in cluster.controllers().await? {
        match synced(cluster, &controller).await {
            Ok(synced) => {
                is_answered = true;
                let connected = synced.into_iter().map(|it| it.connected_to(&controller.name));
                answers.connected.extend(connected);
            }
            Err(error) => answers.unasked.push(error),
        }
    }
    if !is_answered && let Some(error) = summary(&answers.unasked) {
        return Err(error);
    }
    answers.connected.sort_by(|a, b| a.proxy.cmp(&b.proxy));
    Ok(answers)
}

async fn synced(cluster: &Cluster, controller: &PodName) -> anyhow::Result<Vec<Synced>> {
    let page = cluster.controller_page(controller, "/debug/syncz").await?;
    serde_json::from_str(&page).with_context(|| format!("read /debug/syncz of {controller}"))
}

/// One line for all of them.
fn summary(errors: &[anyhow::Error]) -> Option<anyhow::Error> {
    let texts: Vec<_> = errors.iter().map(|error| format!("{error:#}")).collect();
    (!texts.is_empty()).then(|| anyhow::Error::msg(texts.join("; ")))
}

fn overview(connected: &[Connected]) -> String {
    let mut table = Table::new(["NAME", "CLUSTER", "CONFIG", "CONTROLLER", "VERSION"]);
    for it in connected {
        let status = match it.rejected.len() {
            0 => it.status.to_string(),
            rejected => format!("{} ({rejected} rejected)", it.status),
        };
        table.push([
            it.proxy.clone(),
            it.cluster.clone(),
            status,
            it.controller.clone(),
            it.version.clone(),
        ]);
    }
    table.print()
}

/// Why a proxy does not have the last version of something.
fn rejections(connected: &[Connected]) -> String {
    let mut out = String::new();
    for it in connected {
        let pushes = format!("\nsent {}, answered {}\n", it.sent, it.acknowledged);
        out.push_str(&pushes);
        for (resource, why) in &it.rejected {
            out.push_str(&format!("{resource}: {}\n", why.trim_end()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(sent: &str, acknowledged: &str, rejected: &[&str]) -> Connected {
        let synced = Synced {
            node: "router~10.0.0.7~gw-1.edge~edge.svc.cluster.local".to_owned(),
            cluster: "Kubernetes".to_owned(),
            version: "0.0.0".to_owned(),
            sent: sent.to_owned(),
            acknowledged: acknowledged.to_owned(),
            rejected: rejected.iter().map(|it| ((*it).to_owned(), "no".to_owned())).collect(),
        };
        synced.connected_to("weir-controller-0")
    }

    #[test]
    fn a_proxy_is_stale_until_it_answers_and_nacked_when_it_refuses() {
        for (sent, acknowledged, rejected, expected) in [
            ("", "", &[][..], Status::NotSent),
            ("a/1", "", &[], Status::Stale),
            ("a/2", "a/1", &["Gateway/x/y"], Status::Stale),
            ("a/2", "a/2", &["Gateway/x/y"], Status::Nacked),
            ("a/2", "a/2", &[], Status::Synced),
        ] {
            assert_eq!(connected(sent, acknowledged, rejected).status, expected);
        }
    }

    #[test]
    fn the_table_names_the_pod_and_counts_what_it_refuses() {
        let table = overview(&[connected("a/1", "a/1", &["x", "y"])]);
        let cells: Vec<_> = table.lines().nth(1).unwrap().split("     ").collect();
        let expected =
            ["gw-1.edge", "Kubernetes", "NACKED (2 rejected)", "weir-controller-0", "0.0.0"];
        assert_eq!(cells.iter().map(|cell| cell.trim()).collect::<Vec<_>>(), expected);
    }
}
