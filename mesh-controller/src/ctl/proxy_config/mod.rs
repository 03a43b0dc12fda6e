//! `weirctl proxy-config`: what a proxy runs, from its admin pages.

use anyhow::Context as _;
use http::Method;
use serde_json::{Map, Value, json};

mod cluster;
mod endpoint;
mod listener;
mod route;
mod secret;
mod source;

use self::source::{PAGES, Page, Source};
use super::{
    Failure,
    args::{ConfigArguments, ConfigOutput, LogChange, Output, Proxy, Target, What},
    structured,
};

pub async fn run(target: &Target, arguments: &ConfigArguments) -> Result<String, Failure> {
    match &arguments.what {
        What::All(proxy) => all(target, proxy).await,
        What::Bootstrap(proxy) => {
            unfiltered(proxy)?;
            let info = Source::open(target, proxy).await?.page(Page::ServerInfo).await?;
            // There is no table of it.
            let output =
                if proxy.output == ConfigOutput::Yaml { Output::Yaml } else { Output::Json };
            Ok(structured(&info, output)?)
        }
        What::Cluster(filter) => {
            unfiltered(&filter.proxy)?;
            let dump = Source::open(target, &filter.proxy).await?.page(Page::ConfigDump).await?;
            shown(&cluster::select(&dump, filter), cluster::table, &filter.proxy)
        }
        What::Endpoint(filter) => {
            let clusters = Source::open(target, &filter.proxy).await?.page(Page::Clusters).await?;
            shown(&endpoint::select(&clusters, filter), endpoint::table, &filter.proxy)
        }
        What::Listener(filter) => {
            let dump = Source::open(target, &filter.proxy).await?.page(Page::ConfigDump).await?;
            shown(&listener::select(&dump, filter), listener::table, &filter.proxy)
        }
        What::Log(change) => log(target, change).await,
        What::Route(filter) => {
            unfiltered(&filter.proxy)?;
            let dump = Source::open(target, &filter.proxy).await?.page(Page::ConfigDump).await?;
            shown(&route::select(&dump, filter), route::table, &filter.proxy)
        }
        What::Secret(proxy) => {
            unfiltered(proxy)?;
            let certificates = Source::open(target, proxy).await?.page(Page::Certificates).await?;
            shown(&secret::select(&certificates), secret::table, proxy)
        }
    }
}

/// The selected resources, for people or for programs.
fn shown(
    selected: &[Value],
    table: impl FnOnce(&[Value]) -> String,
    proxy: &Proxy,
) -> Result<String, Failure> {
    Ok(match proxy.output {
        ConfigOutput::Short => table(selected),
        ConfigOutput::Json => structured(&json!(selected), Output::Json)?,
        ConfigOutput::Yaml => structured(&json!(selected), Output::Yaml)?,
    })
}

/// An IP address selects listeners and endpoints, and nothing else has one.
fn unfiltered(proxy: &Proxy) -> Result<(), Failure> {
    match source::ip_filter(proxy) {
        None => Ok(()),
        Some(ip) => Err(Failure::usage(format!(
            "--address {ip} selects listeners and endpoints only; the admin address of a proxy is \
             written http://{ip}:15000"
        ))),
    }
}

async fn all(target: &Target, proxy: &Proxy) -> Result<String, Failure> {
    unfiltered(proxy)?;
    let source = Source::open(target, proxy).await?;
    let mut pages = Map::new();
    for page in PAGES {
        pages.insert(page.name().to_owned(), source.page(page).await?);
    }
    let of = |page: Page| &pages[page.name()];
    Ok(match proxy.output {
        ConfigOutput::Json => structured(&Value::Object(pages), Output::Json)?,
        ConfigOutput::Yaml => structured(&Value::Object(pages), Output::Yaml)?,
        ConfigOutput::Short => [
            cluster::table(&cluster::all(of(Page::ConfigDump))),
            listener::table(&listener::all(of(Page::ConfigDump))),
            route::table(&route::all(of(Page::ConfigDump))),
            endpoint::table(&endpoint::all(of(Page::Clusters))),
            secret::table(&secret::select(of(Page::Certificates))),
        ]
        .join("\n"),
    })
}

async fn log(target: &Target, change: &LogChange) -> Result<String, Failure> {
    unfiltered(&change.proxy)?;
    let source = Source::open(target, &change.proxy).await?;
    let level = if change.reset { Some("info") } else { change.level.as_deref() };
    let answer = match level {
        None => source.ask(Method::GET, "/logging").await,
        Some(level) => {
            let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:=,".contains(&byte);
            if !level.bytes().all(valid) {
                return Err(Failure::usage(format!(
                    "{level:?} is not a level; write info, or info,weir_gateway::upstream=debug"
                )));
            }
            source.ask(Method::POST, &format!("/logging?level={level}")).await
        }
    };
    Ok(answer.context("the log level")?)
}

/// The text at a place in a resource; empty if there is none.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The resources of a map in a dump, by name.
fn resources<'a>(dump: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    dump.get(name).and_then(Value::as_object).into_iter().flat_map(Map::values)
}

/// The elements at a place in a resource.
fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests;
