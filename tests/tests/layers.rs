//! Which module may use which, and that the stages are where the table says. Modules of one crate can
//! use each other freely as far as the compiler cares; this is what keeps them apart.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What everything in `gateway/` may use: facts and limits that know nothing themselves.
const GATEWAY_LEAVES: &[&str] = &[
    "canonical",
    "connection",
    "drain",
    "head",
    "http2",
    "io",
    "last_in_line",
    "limits",
    "local_reply",
    "redirection",
    "sharded_map",
    "telemetry",
    "tunnel",
    "worker",
];

/// For each module of `gateway/`, what it uses besides the leaves. Top-down: callers above callees.
const GATEWAY: &[(&str, &[&str])] = &[
    ("main", &[]),
    (
        "app",
        &[
            "admin",
            "bootstrap",
            "cluster",
            "control_plane",
            "discovery",
            "dns",
            "engine",
            "identity",
            "listener",
            "route",
            "snapshot",
            "tls",
            "upstream",
        ],
    ),
    ("bootstrap", &["application", "control_plane", "discovery", "dns", "identity"]),
    ("demo", &["app", "bootstrap"]),
    (
        "admin",
        &[
            "application",
            "bootstrap",
            "cluster",
            "discovery",
            "engine",
            "listener",
            "route",
            "snapshot",
            "tls",
            "upstream",
        ],
    ),
    ("application", &["upstream"]),
    ("discovery", &["cluster", "control_plane", "engine", "listener", "route", "snapshot", "tls"]),
    ("identity", &["control_plane", "tls"]),
    ("control_plane", &["tls"]),
    ("listener", &["engine", "http", "snapshot", "tcp", "tls"]),
    ("http", &["cluster", "codec", "engine", "filter", "route", "snapshot", "upstream"]),
    ("tcp", &["cluster", "engine", "snapshot", "upstream"]),
    // What is configured for it is its to know, as for listeners.
    ("dns", &["engine"]),
    ("engine", &["snapshot"]),
    // What is configured for listeners is theirs to know; the one edge that points up.
    ("snapshot", &["cluster", "dns", "filter", "listener", "route", "tls"]),
    ("route", &["filter"]),
    ("filter", &[]),
    ("cluster", &["codec", "tls", "upstream"]),
    ("upstream", &["codec", "tls"]),
    ("codec", &[]),
    ("tls", &[]),
];

/// For each module of `mesh-controller/`, all it uses. Top-down: callers above callees.
const CONTROLLER: &[(&str, &[&str])] = &[
    ("main", &[]),
    ("bin", &[]),
    // `weirctl`: it shares the table of kinds and injection with the controller, and nothing that runs.
    ("ctl", &["inject", "watch"]),
    (
        "app",
        &[
            "admin",
            "api_server",
            "args",
            "ca",
            "discovery",
            "leader",
            "log",
            "metrics",
            "review",
            "status",
            "store",
            "tls",
            "watch",
            "webhook",
        ],
    ),
    ("admin", &["discovery", "metrics", "watch"]),
    ("status", &["discovery", "leader", "metrics", "store", "watch"]),
    ("discovery", &["ca", "metrics", "review", "store", "tls", "translate", "watch"]),
    ("translate", &["store"]),
    ("watch", &["metrics", "store"]),
    ("store", &["on_purpose"]),
    ("webhook", &["inject", "leader", "metrics", "on_purpose", "tls"]),
    ("inject", &[]),
    ("ca", &["leader", "metrics", "tls"]),
    ("leader", &["metrics"]),
    ("tls", &["args"]),
    ("review", &[]),
    ("on_purpose", &[]),
    ("api_server", &[]),
    ("metrics", &[]),
    ("args", &[]),
    ("log", &[]),
];

/// For each module of `config/`, all it uses.
const CONFIG: &[(&str, &[&str])] = &[
    ("compile", &["api", "diagnostic", "model", "validate", "xxh64"]),
    ("validate", &["api", "diagnostic", "model"]),
    ("parse", &["api", "diagnostic"]),
    ("wire", &["api", "xxh64"]),
    ("diagnostic", &["api"]),
    ("model", &[]),
    ("api", &[]),
    ("xxh64", &[]),
];

#[test]
fn modules_of_the_gateway_use_only_what_is_below_them() {
    let mut allowed = BTreeMap::new();
    for (module, uses) in GATEWAY {
        allowed.insert(*module, [uses, GATEWAY_LEAVES].concat());
    }
    // The leaves in their own order.
    for (module, uses) in [
        ("telemetry", &["canonical", "connection", "head", "worker"][..]),
        ("local_reply", &["head", "telemetry"]),
        ("canonical", &[]),
        ("connection", &[]),
        ("drain", &[]),
        ("head", &[]),
        ("http2", &["head"]),
        ("io", &["tunnel"]),
        ("last_in_line", &[]),
        ("limits", &[]),
        ("redirection", &[]),
        ("sharded_map", &[]),
        ("tunnel", &["http2"]),
        ("worker", &[]),
    ] {
        allowed.insert(module, uses.to_vec());
    }
    assert_layers("gateway/src", &allowed);
}

#[test]
fn modules_of_the_controller_use_only_what_is_below_them() {
    let allowed = CONTROLLER.iter().map(|(module, uses)| (*module, uses.to_vec())).collect();
    assert_layers("mesh-controller/src", &allowed);
}

#[test]
fn grpc_and_kubernetes_are_known_only_where_they_are_spoken() {
    for (path, source) in sources("mesh-controller/src") {
        let module = module_of("mesh-controller/src", &path);
        assert!(
            !source.contains("tonic::") || ["ca", "discovery"].contains(&module.as_str()),
            "{} uses tonic",
            path.display()
        );
        assert!(
            !source.contains("kube::")
                || [
                    "api_server",
                    "app",
                    "ca",
                    "ctl",
                    "leader",
                    "review",
                    "status",
                    "watch",
                    "webhook"
                ]
                .contains(&module.as_str()),
            "{} uses kube",
            path.display()
        );
    }
}

#[test]
fn modules_of_the_configuration_use_only_what_is_below_them() {
    let allowed = CONFIG.iter().map(|(module, uses)| (*module, uses.to_vec())).collect();
    assert_layers("config/src", &allowed);
}

#[test]
fn redirect_rules_know_nothing_of_the_proxy() {
    for (path, source) in sources("sidecar/src/redirect") {
        assert!(!source.contains("weir_gateway"), "{} uses the proxy", path.display());
        assert_eq!(uses(&source), BTreeSet::new(), "{}", path.display());
    }
}

#[test]
fn the_configuration_does_no_input_or_output() {
    for (path, source) in sources("config/src") {
        for forbidden in ["std::fs", "std::net::Tcp", "std::env", "tokio", "std::thread"] {
            assert!(!source.contains(forbidden), "{} uses {forbidden}", path.display());
        }
    }
}

#[test]
fn pingora_is_known_only_where_bytes_become_requests() {
    for (path, source) in sources("gateway/src") {
        let module = module_of("gateway/src", &path);
        assert!(
            !source.contains("pingora_core") || module == "codec",
            "{} uses pingora_core",
            path.display()
        );
    }
}

#[test]
fn every_stage_is_in_the_file_the_table_names() {
    for table in ["gateway/src/lib.rs", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root().join(table)).unwrap();
        let rows: Vec<_> = text.lines().filter_map(stage_row).collect();
        assert_eq!(
            rows.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            (1..=rows.len()).collect::<Vec<_>>(),
            "the stages of {table} are numbered"
        );
        assert!(rows.len() >= 10, "{table} has no stage table");
        for (number, files) in rows {
            for file in files {
                let path = root().join("gateway/src").join(&file);
                assert!(path.exists(), "stage {number} of {table}: {file} does not exist");
            }
        }
    }
}

/// `| 3 | name | `file`, `file` | ... |`, maybe behind `//!`: the number and the files.
fn stage_row(line: &str) -> Option<(usize, Vec<String>)> {
    let mut cells = line.trim_start_matches("//!").trim().strip_prefix('|')?.split('|');
    let number = cells.next()?.trim().parse().ok()?;
    let files = cells.nth(1)?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((number, files))
}

fn assert_layers(crate_src: &str, allowed: &BTreeMap<&str, Vec<&str>>) {
    let mut wrong = Vec::new();
    for (path, source) in sources(crate_src) {
        let module = module_of(crate_src, &path);
        if module == "lib" {
            continue;
        }
        let allowed = allowed.get(module.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("module {module} is in no layer"));
        for used in uses(&source) {
            if used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first segments of all `crate::` paths.
fn uses(source: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in source.match_indices("crate::") {
        let rest = &source[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => used.extend(first_segments(group)),
            None => used.extend(identifier(rest)),
        }
    }
    used
}

/// The first segments of `a::{b, c}, d::e}`.
fn first_segments(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut at_start = true;
    let mut segments = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                segments.extend(identifier(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    segments
}

/// The identifier at the start of the text, if it can name a module.
fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let name = &text[..end];
    name.starts_with(|c: char| c.is_lowercase()).then(|| name.to_owned())
}

/// The files of a crate without their tests and comments.
fn sources(crate_src: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    collect(&root().join(crate_src), &mut files);
    assert!(!files.is_empty(), "{crate_src} has no sources");
    files
        .into_iter()
        .map(|path| {
            let source = fs::read_to_string(&path).unwrap();
            let code = source.split("#[cfg(test)]").next().unwrap_or_default();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            (path, lines.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            collect(&path, files);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
}

/// `gateway/src/http/retry.rs` belongs to `http`.
fn module_of(crate_src: &str, path: &Path) -> String {
    let relative = path.strip_prefix(root().join(crate_src)).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
