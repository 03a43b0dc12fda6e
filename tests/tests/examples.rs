//! Every folder of `examples/` loads without a finding and does what its README says.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use weir_tests::{
    backend::{echo::Echo, tcp},
    client::{
        connect,
        curl::{CurlOutput, curl},
        http::{Connection, Reply, Request},
        tools,
    },
    config::Config,
    eventually::eventually,
    gateway::{self, Gateway},
    ports,
};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// The example's files with its fixed ports replaced: listeners by free ones (`${PORT_8080}`),
/// upstreams by those given.
fn config(name: &str, upstreams: &[(u16, u16)]) -> Config {
    let mut config = Config::new();
    for entry in fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut replaced = String::new();
        for line in text.lines() {
            let mut line = line.to_owned();
            // Lines of certificates and keys have no colon.
            if line.contains(':') {
                for port in ["8080", "8443", "5432"] {
                    let number = format!("number: {port},");
                    line = line.replace(&number, &format!("number: ${{PORT_{port}}},"));
                }
                for (fixed, running) in upstreams {
                    line = line.replace(&format!(": {fixed}"), &format!(": {running}"));
                }
            }
            replaced += &line;
            replaced.push('\n');
        }
        config.write(path.file_name().unwrap().to_str().unwrap(), replaced);
    }
    config
}

/// Echo servers in place of 9001, 9002, ...; they are named by their number: `1`, `2`, ...
async fn upstreams<const N: usize>() -> ([Echo; N], Vec<(u16, u16)>) {
    let mut all = Vec::new();
    for number in 1..=N {
        all.push(Echo::start(&number.to_string()).await);
    }
    let ports = all.iter().zip(9001..).map(|(echo, fixed)| (fixed, echo.port())).collect();
    (all.try_into().expect("N backends"), ports)
}

async fn send(gateway: &mut Gateway, request: &Request) -> Reply {
    let mut connection = Connection::http1(gateway.port("8080")).await.unwrap();
    connection.send(request).await.unwrap()
}

async fn get(gateway: &mut Gateway, host: &str, path: &str) -> Reply {
    send(gateway, &Request::get(host, path)).await
}

/// `curl` over TLS with files of the example.
async fn curl_tls(gateway: &mut Gateway, example: &str, host: &str, more: &[&str]) -> CurlOutput {
    let port = gateway.port("8443");
    let root = folder(example).join("ca.pem");
    let (resolve, url) = (format!("{host}:{port}:127.0.0.1"), format!("https://{host}:{port}/"));
    let fixed = ["--cacert", root.to_str().unwrap(), "--resolve", &resolve, &url];
    curl(&[&fixed, more].concat()).await
}

fn token(example: &str) -> String {
    let token = fs::read_to_string(folder(example).join("token.txt")).unwrap();
    format!("Bearer {}", token.trim())
}

/// Examples for several proxies of a mesh; the suites of these names drive them.
const OF_A_MESH: [&str; 3] = ["egress", "mesh", "migration"];

#[tokio::test]
async fn every_example_is_loaded_without_a_finding_and_has_a_test_here() {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(path.join("README.md").exists(), "{name} has no README.md");
        if OF_A_MESH.contains(&name.as_str()) {
            continue;
        }
        let output = gateway::check(&path).await;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{name}: {printed}");
        for finding in ["error:", "warning:"] {
            assert!(!printed.contains(finding), "{name}: {printed}");
        }
        names.insert(name);
    }
    let tested = [
        "ab-test",
        "bookinfo",
        "jwt",
        "mtls",
        "nginx",
        "passthrough",
        "quickstart",
        "redirect-rewrite",
        "tcp",
        "tls",
    ];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), tested);
}

#[tokio::test]
async fn quickstart() {
    let (_backends, ports) = upstreams::<3>().await;
    let mut gateway = Gateway::start(config("quickstart", &ports)).await;
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        seen.insert(get(&mut gateway, "localhost", "/").await.backend().to_owned());
    }
    assert_eq!(seen, BTreeSet::from(["1".to_owned(), "2".to_owned()]), "the canary is split");
    let tester = Request::get("localhost", "/").header("x-user", "tester");
    assert_eq!(send(&mut gateway, &tester).await.backend(), "2");
    let api = get(&mut gateway, "localhost", "/api/users").await;
    assert_eq!((api.backend(), api.echo().target.as_str()), ("3", "/users"));
    let moved = get(&mut gateway, "localhost", "/old").await;
    assert_eq!((moved.status, moved.header("location")), (301, Some("http://localhost/new")));
    let secure = curl_tls(&mut gateway, "quickstart", "localhost", &[]).await;
    assert_eq!((secure.status, secure.version.as_str()), (200, "2"), "{secure:?}");

    for path in ["/private", "/private/x"] {
        assert_eq!(get(&mut gateway, "localhost", path).await.status, 403);
        let request = Request::get("localhost", path).header("authorization", &token("quickstart"));
        assert_eq!(send(&mut gateway, &request).await.status, 200);
    }
    let broken = token("quickstart").replacen("eyJ", "eyK", 1);
    let request = Request::get("localhost", "/private").header("authorization", &broken);
    assert_eq!(send(&mut gateway, &request).await.status, 401);
}

#[tokio::test]
async fn bookinfo() {
    let (_backends, ports) = upstreams::<4>().await;
    let mut gateway = Gateway::start(config("bookinfo", &ports)).await;
    for path in ["/productpage", "/static/a.css", "/login", "/logout", "/api/v1/products/0"] {
        assert_eq!(get(&mut gateway, "any.test", path).await.backend(), "1", "{path}");
    }
    assert_eq!(get(&mut gateway, "any.test", "/").await.status, 404);
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        seen.insert(
            get(&mut gateway, "reviews.example.test", "/reviews/0").await.backend().to_owned(),
        );
    }
    assert_eq!(seen, BTreeSet::from(["2".to_owned(), "4".to_owned()]), "v1 and v3");
    let jason = Request::get("reviews.example.test", "/reviews/0").header("end-user", "jason");
    for _ in 0..20 {
        assert_eq!(send(&mut gateway, &jason).await.backend(), "3", "v2");
    }
}

#[tokio::test]
async fn nginx() {
    let (_backends, ports) = upstreams::<1>().await;
    let mut gateway = Gateway::start(config("nginx", &ports)).await;
    assert_eq!(get(&mut gateway, "nginx.example.test", "/").await.backend(), "1");
    assert_eq!(get(&mut gateway, "other.example.test", "/").await.status, 404);
}

#[tokio::test]
async fn tls() {
    let (_backends, ports) = upstreams::<1>().await;
    let mut gateway = Gateway::start(config("tls", &ports)).await;
    let plain = get(&mut gateway, "www.example.test", "/a").await;
    let location = Some("https://www.example.test/a");
    assert_eq!((plain.status, plain.header("location")), (301, location));
    let secure = curl_tls(&mut gateway, "tls", "www.example.test", &[]).await;
    assert_eq!((secure.status, secure.header("x-backend")), (200, Some("1")), "{secure:?}");
}

#[tokio::test]
async fn mtls() {
    let (_backends, ports) = upstreams::<1>().await;
    let mut gateway = Gateway::start(config("mtls", &ports)).await;
    let (cert, key) = (folder("mtls").join("client.pem"), folder("mtls").join("client-key.pem"));
    let client = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let known = curl_tls(&mut gateway, "mtls", "www.example.test", &client).await;
    assert_eq!(known.status, 200, "{known:?}");
    assert!(known.body.contains("alice.example.test"), "{known:?}");
    let unknown = curl_tls(&mut gateway, "mtls", "www.example.test", &[]).await;
    assert_eq!((unknown.status, unknown.exit.success()), (0, false), "{unknown:?}");
}

#[tokio::test]
async fn jwt() {
    let (_backends, ports) = upstreams::<1>().await;
    let mut gateway = Gateway::start(config("jwt", &ports)).await;
    for path in ["/", "/admin"] {
        assert_eq!(get(&mut gateway, "a.test", path).await.status, 403);
        let request = Request::get("a.test", path).header("authorization", &token("jwt"));
        assert_eq!(send(&mut gateway, &request).await.status, 200);
    }
}

#[tokio::test]
async fn ab_test() {
    let (_backends, ports) = upstreams::<2>().await;
    let mut gateway = Gateway::start(config("ab-test", &ports)).await;
    for (header, value, backend, variant) in [
        ("x-group", "B", "2", Some("B")),
        ("cookie", "theme=dark; group=B", "2", Some("B")),
        ("x-group", "A", "1", None),
        ("cookie", "group=Bx", "1", None),
    ] {
        let reply = send(&mut gateway, &Request::get("a.test", "/").header(header, value)).await;
        assert_eq!((reply.backend(), reply.header("x-variant")), (backend, variant), "{value}");
    }
}

#[tokio::test]
async fn redirect_rewrite() {
    let (_backends, ports) = upstreams::<1>().await;
    let mut gateway = Gateway::start(config("redirect-rewrite", &ports)).await;
    for (host, path, status, location) in [
        ("example.test", "/anything", 308, "http://www.example.test/anything"),
        (
            "www.example.test",
            "/blog/2024/hello",
            301,
            "http://www.example.test/articles/2024/hello",
        ),
    ] {
        let reply = get(&mut gateway, host, path).await;
        assert_eq!((reply.status, reply.header("location")), (status, Some(location)));
    }
    let rewritten = get(&mut gateway, "a.test", "/v1/users/7/photos").await.echo();
    assert_eq!(rewritten.target, "/photos/of/7");
    let internal = get(&mut gateway, "a.test", "/internal/x").await.echo();
    assert_eq!((internal.target.as_str(), internal.host.as_str()), ("/x", "internal.demo.test"));
    assert_eq!(get(&mut gateway, "a.test", "/health").await.text(), "ok");
}

#[tokio::test]
async fn tcp_database() {
    let database = tcp::echo().await;
    let mut gateway = Gateway::start(config("tcp", &[(9001, database.port())])).await;
    let mut stream = connect(gateway.port("5432")).await.unwrap();
    stream.write_all(b"select 1").await.unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"select 1");
}

#[tokio::test]
async fn passthrough() {
    let ca = weir_tests::certs::Authority::new("behind");
    let server = ca.server(&["secure.example.test"]);
    let behind = Echo::start_tls("behind", ca.server_config(&server, &["h2"], false)).await;
    let front = Echo::start("front").await;
    let ports = [(9001, front.port()), (9002, behind.port())];
    let mut gateway = Gateway::start(config("passthrough", &ports)).await;
    let terminated = curl_tls(&mut gateway, "passthrough", "www.example.test", &[]).await;
    assert_eq!(terminated.header("x-backend"), Some("front"), "{terminated:?}");
    let tls = ca.client_config(None, &["h2"]);
    let port = gateway.port("8443");
    let mut connection = Connection::tls(port, &tls, "secure.example.test").await.unwrap();
    let request = Request::get("secure.example.test", "/").https();
    assert_eq!(connection.send(&request).await.unwrap().backend(), "behind");
}

#[tokio::test]
async fn the_demo_prints_commands_that_work() {
    // A copy, because one of the commands edits a file.
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder("quickstart")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    // Its ports are the ones its README promises.
    for port in [8080, 8443, 9001, 9002, 9003] {
        eventually(&format!("port {port} is free; the demo needs it"), async || {
            TcpListener::bind(("0.0.0.0", port)).ok()
        })
        .await;
    }
    let mut demo = gateway::command()
        .args(["demo", "--dir", copy.path().to_str().unwrap()])
        .args(["--admin", &format!("127.0.0.1:{}", ports::free())])
        .args(["--status", &format!("127.0.0.1:{}", ports::free())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut printed = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut outputs = Vec::new();
    loop {
        let line = printed.next_line().await.unwrap().expect("the demo goes on");
        if let Some(command) = line.strip_prefix("  ") {
            let output = tools::stdout("sh", ["-c", command]).await;
            outputs.push((command.to_owned(), output));
        }
        if line.starts_with("Ctrl-C") {
            break;
        }
    }
    let expect = |command: &str, expected: &str| {
        let found = outputs.iter().find(|(printed, _)| printed.contains(command));
        let (_, output) = found.unwrap_or_else(|| panic!("no command with {command}"));
        assert!(output.contains(expected), "{command}: {output}");
    };
    expect("seq 20", "\"v1\"");
    expect("x-user: tester", "\"v2\"");
    expect("/api/users", "\"/users\"");
    expect("/old", "HTTP/1.1 301");
    expect("https://localhost:8443", "\"x-forwarded-proto\": \"https\"");
    expect("-i localhost:8080/private", "HTTP/1.1 403");
    expect("Bearer", "\"/private\"");
    expect("/clusters", "web.demo.test");
    expect("istio_requests_total", "istio_requests_total{");
    let routes = fs::read_to_string(copy.path().join("routes.yaml")).unwrap();
    assert_eq!(routes.matches("weight: 50").count(), 2);
}
