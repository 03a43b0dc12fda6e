//! Where requests go.

use serde_json::Value;

use super::{items, listener::host, resources, text};
use crate::ctl::{args::RouteFilter, table::Table};

/// Those the filter lets through.
pub fn select(dump: &Value, filter: &RouteFilter) -> Vec<Value> {
    let mut all = all(dump);
    all.retain(|virtual_host| {
        filter.name.as_deref().is_none_or(|name| name == text(virtual_host, "/routeTable"))
    });
    all
}

/// Every virtual host, with its routes.
pub fn all(dump: &Value) -> Vec<Value> {
    resources(dump, "virtualHosts").cloned().collect()
}

/// One row for each route, in the order they are tried.
pub fn table(virtual_hosts: &[Value]) -> String {
    let mut table =
        Table::new(["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE", "ACTION"]);
    for virtual_host in virtual_hosts {
        let of_host = [
            text(virtual_host, "/routeTable").to_owned(),
            text(virtual_host, "/name").to_owned(),
            domains(virtual_host),
        ];
        let mut push = |condition: String, origin: String, action: String| {
            let [name, virtual_host, domain] = of_host.clone();
            table.push([name, virtual_host, domain, condition, origin, action]);
        };
        if virtual_host["requireTls"] == true {
            push("/*".to_owned(), String::new(), "redirect to https".to_owned());
        }
        for route in items(virtual_host, "/routes") {
            push(condition(&route["match"]), origin(route), action(&route["action"]));
        }
    }
    table.print()
}

/// What requests may call the host.
fn domains(virtual_host: &Value) -> String {
    let aliases = items(virtual_host, "/aliases").map(host);
    let all = std::iter::once(host(&virtual_host["domain"])).chain(aliases);
    all.collect::<Vec<_>>().join(", ")
}

/// `name.namespace`, as istioctl names a VirtualService.
fn origin(route: &Value) -> String {
    match text(route, "/origin").split_once('/') {
        Some((namespace, name)) => format!("{name}.{namespace}"),
        None => text(route, "/origin").to_owned(),
    }
}

/// What a request has to have: the path, and the names of what else is looked at.
fn condition(matcher: &Value) -> String {
    let path = &matcher["path"];
    let mut condition = match path.as_object().and_then(|path| path.iter().next()) {
        Some((kind, value)) => {
            let value = value.as_str().unwrap_or_default();
            match kind.as_str() {
                "exact" => value.to_owned(),
                "prefix" => format!("{value}*"),
                "segmentPrefix" => format!("{value}/*"),
                _ => format!("regex {value}"),
            }
        }
        None => "/*".to_owned(),
    };
    for field in ["method", "scheme", "authority"] {
        if let Some((kind, value)) = matcher[field].as_object().and_then(|it| it.iter().next()) {
            let value = value.as_str().unwrap_or_default();
            condition.push_str(&match kind.as_str() {
                "exact" => format!(" {field}={value}"),
                _ => format!(" {field}~{value}"),
            });
        }
    }
    for (list, what) in [("headers", "header"), ("queryParams", "query"), ("claims", "claim")] {
        for it in items(matcher, &format!("/{list}")) {
            let path: Vec<&str> = items(it, "/path").filter_map(Value::as_str).collect();
            let not = if it["invert"] == true { "!" } else { "" };
            let name = if path.is_empty() { text(it, "/name").to_owned() } else { path.join(".") };
            condition.push_str(&format!(" {what}:{not}{name}"));
        }
    }
    condition
}

fn action(action: &Value) -> String {
    if let Some(redirect) = action.get("redirect") {
        return format!("redirect {}", redirect["code"]);
    }
    if let Some(response) = action.get("directResponse") {
        return format!("respond {}", response["status"]);
    }
    let clusters: Vec<&Value> = items(action, "/forward/clusters").collect();
    let named = |it: &&Value| match clusters.len() {
        1 => text(it, "/cluster").to_owned(),
        _ => format!("{} {}", it["weight"], text(it, "/cluster")),
    };
    clusters.iter().map(named).collect::<Vec<_>>().join(", ")
}
