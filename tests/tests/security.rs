//! Tokens and policies are enforced, and hostile bytes go no further than the gateway. IDs in names
//! (H01, D04, J01, ...) are rows of `docs/limits.md` and of the lists it cites.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use serde_json::json;
use weir_tests::{
    backend::{
        echo::Echo,
        raw::{RawUpstream, Then},
        tcp,
    },
    client::{
        connect,
        http::{Connection, Request},
        raw::RawClient,
    },
    config::Config,
    eventually::eventually_eq,
    gateway::{self, Gateway},
    jwt::{Issuer, now},
    objects::{HTTP_GATEWAY, forward, indent, service_entry, tcp_forward, virtual_service},
};

const ISSUER: &str = "https://issuer.test";

/// A RequestAuthentication with these jwtRules (a YAML list at column 0).
fn request_authentication(rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: jwt}}\nspec:\n  selector: {{matchLabels: {{istio: ingressgateway}}}}\n  jwtRules:\n{}",
        indent(rules, 2)
    )
}

/// An AuthorizationPolicy with this spec (YAML at column 0).
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec:\n{}",
        indent(spec, 2)
    )
}

/// A gateway that forwards everything to `echo`, with these objects.
async fn gateway_with(echo: &Echo, objects: &[String]) -> Gateway {
    let mut config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[echo.port()]))
        .with(forward("all", "*", "up.test"));
    for object in objects {
        config = config.with(object);
    }
    Gateway::start(config).await
}

fn bearer(token: &str) -> Request {
    Request::get("a.test", "/").header("authorization", &format!("Bearer {token}"))
}

const REQUIRE_TOKEN: &str =
    "action: ALLOW\nrules:\n- from: [{source: {requestPrincipals: ['*']}}]\n";

#[tokio::test]
async fn a_valid_token_passes_and_an_invalid_one_is_401() {
    let (echo, issuer) = (Echo::start("v1").await, Issuer::new(ISSUER, "k1"));
    let rsa = Issuer::rsa("https://rsa.test", "k2");
    let rules = format!(
        "- issuer: {ISSUER}\n  jwks: '{}'\n- issuer: https://rsa.test\n  jwks: '{}'\n",
        issuer.jwks(),
        rsa.jwks()
    );
    let mut gateway = gateway_with(&echo, &[request_authentication(&rules)]).await;
    for token in [issuer.token("me", json!({})), rsa.token("me", json!({}))] {
        let reply = gateway.send(&bearer(&token)).await;
        // The token was for us, not for the upstream.
        assert_eq!(reply.echo().header("authorization"), None);
    }
    // Requiring one is the AuthorizationPolicy's part.
    assert_eq!(gateway.get("a.test", "/").await.status, 200);
    assert_eq!(echo.requests().len(), 3);

    let stranger = Issuer::new(ISSUER, "k1");
    let unknown = Issuer::new("https://unknown.test", "k1");
    let valid = issuer.token("me", json!({}));
    let mut parts: Vec<_> = valid.split('.').collect();
    parts[2] = "";
    let unsigned = parts.join(".");
    // {"alg":"none"}
    parts[0] = "eyJhbGciOiJub25lIn0";
    let none = parts.join(".");
    for (what, token) in [
        ("another key", stranger.token("me", json!({}))),
        ("another issuer", unknown.token("me", json!({}))),
        ("expired", issuer.token("me", json!({"exp": now() - 120}))),
        ("not yet valid", issuer.token("me", json!({"nbf": now() + 120}))),
        ("no signature", unsigned),
        ("alg none", none),
        ("no token at all", "abc".to_owned()),
    ] {
        let reply = gateway.send(&bearer(&token)).await;
        assert_eq!(reply.status, 401, "{what}");
        assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer"), "{what}");
    }
    assert_eq!(echo.requests().len(), 3, "an invalid token reached the upstream");
}

#[tokio::test]
async fn a_minute_of_clock_skew_is_tolerated() {
    let (echo, issuer) = (Echo::start("v1").await, Issuer::new(ISSUER, "k1"));
    let rules = format!("- issuer: {ISSUER}\n  jwks: '{}'\n", issuer.jwks());
    let mut gateway = gateway_with(&echo, &[request_authentication(&rules)]).await;
    let just_expired = issuer.token("me", json!({"exp": now() - 30}));
    assert_eq!(gateway.send(&bearer(&just_expired)).await.status, 200);
}

#[tokio::test]
async fn a_wrong_audience_is_403() {
    let (echo, issuer) = (Echo::start("v1").await, Issuer::new(ISSUER, "k1"));
    let rules =
        format!("- issuer: {ISSUER}\n  audiences: [shop, bank]\n  jwks: '{}'\n", issuer.jwks());
    let mut gateway = gateway_with(&echo, &[request_authentication(&rules)]).await;
    for (audience, status) in [
        (json!({"aud": "shop"}), 200),
        (json!({"aud": ["other", "bank"]}), 200),
        (json!({"aud": "sho"}), 403),
        (json!({"aud": ["other"]}), 403),
        (json!({}), 403),
    ] {
        let token = issuer.token("me", audience.clone());
        assert_eq!(gateway.send(&bearer(&token)).await.status, status, "{audience}");
    }
}

#[tokio::test]
async fn tokens_are_looked_for_where_the_rule_says() {
    let (echo, issuer) = (Echo::start("v1").await, Issuer::new(ISSUER, "k1"));
    let rules = format!(
        "- issuer: {ISSUER}\n  jwks: '{}'\n  fromHeaders: [{{name: x-token, prefix: 'Token '}}]\n  fromParams: [t]\n  forwardOriginalToken: true\n",
        issuer.jwks()
    );
    let objects = [request_authentication(&rules), policy("require", REQUIRE_TOKEN)];
    let mut gateway = gateway_with(&echo, &objects).await;
    let token = issuer.token("me", json!({}));
    let header = Request::get("a.test", "/").header("x-token", &format!("Token {token}"));
    let reply = gateway.send(&header).await;
    assert_eq!(reply.echo().header("x-token"), Some(format!("Token {token}").as_str()));
    assert_eq!(gateway.get("a.test", &format!("/?t={token}")).await.status, 200);
    // Naming places switches the default one off.
    assert_eq!(gateway.send(&bearer(&token)).await.status, 403);

    let default = format!("- issuer: {ISSUER}\n  jwks: '{}'\n", issuer.jwks());
    let objects = [request_authentication(&default), policy("require", REQUIRE_TOKEN)];
    let mut gateway = gateway_with(&echo, &objects).await;
    let path = format!("/?access_token={token}");
    assert_eq!(gateway.get("a.test", &path).await.status, 200);
}

#[tokio::test]
async fn claims_become_headers_that_no_client_can_forge() {
    let (echo, issuer) = (Echo::start("v1").await, Issuer::new(ISSUER, "k1"));
    let rules = format!(
        "- issuer: {ISSUER}\n  jwks: '{}'\n  outputPayloadToHeader: x-payload\n  outputClaimToHeaders: [{{header: x-group, claim: team.name}}]\n",
        issuer.jwks()
    );
    let mut gateway = gateway_with(&echo, &[request_authentication(&rules)]).await;
    let token = issuer.token("me", json!({"team": {"name": "blue"}}));
    let forged = bearer(&token).header("x-group", "root").header("x-payload", "e30");
    let echoed = gateway.send(&forged).await.echo();
    assert_eq!(echoed.header("x-group"), Some("blue"));
    let payload = token.split('.').nth(1).unwrap();
    assert_eq!(echoed.header("x-payload"), Some(payload));
    let forged = Request::get("a.test", "/").header("x-group", "root").header("x-payload", "e30");
    let echoed = gateway.send(&forged).await.echo();
    assert_eq!((echoed.header("x-group"), echoed.header("x-payload")), (None, None));
}

#[tokio::test]
async fn keys_are_fetched_from_a_uri_and_without_them_every_token_fails() {
    let (echo, issuer) = (Echo::start("v1").await, Issuer::new(ISSUER, "k1"));
    let jwks = issuer.jwks();
    let keys = RawUpstream::start(
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{jwks}",
            jwks.len()
        ),
        Then::Close,
    )
    .await;
    let rules = format!("- issuer: {ISSUER}\n  jwksUri: http://127.0.0.1:{}/keys\n", keys.port());
    let objects = [request_authentication(&rules), policy("require", REQUIRE_TOKEN)];
    let mut gateway = gateway_with(&echo, &objects).await;
    let token = issuer.token("me", json!({}));
    eventually_eq(200, async || gateway.send(&bearer(&token)).await.status).await;
    assert!(keys.received().starts_with("GET /keys HTTP/1.1\r\n"), "{}", keys.received());
    for _ in 0..20 {
        assert_eq!(gateway.send(&bearer(&token)).await.status, 200);
    }
    assert_eq!(keys.connections(), 1, "keys are fetched once, not per request");

    let nowhere = format!("- issuer: {ISSUER}\n  jwksUri: http://127.0.0.1:1/keys\n");
    let mut gateway = gateway_with(&echo, &[request_authentication(&nowhere)]).await;
    assert_eq!(gateway.send(&bearer(&token)).await.status, 401);
}

#[tokio::test]
async fn routes_are_chosen_by_claims_of_a_valid_token() {
    let (echo, issuer) = (Echo::start("v1").await, Issuer::new(ISSUER, "k1"));
    let rules = format!("- issuer: {ISSUER}\n  jwks: '{}'\n", issuer.jwks());
    let routes = virtual_service(
        "claims",
        "claims.test",
        r"
- match: [{headers: {'@request.auth.claims.groups': {exact: admin}}}]
  directResponse: {status: 200, body: {string: admin}}
- match: [{headers: {'@request.auth.claims[team][name]': {exact: blue}}}]
  directResponse: {status: 200, body: {string: blue}}
- directResponse: {status: 200, body: {string: anybody}}
",
    );
    let mut gateway = gateway_with(&echo, &[request_authentication(&rules), routes]).await;
    for (claims, body) in [
        (json!({"groups": ["user", "admin"]}), "admin"),
        (json!({"groups": "admin"}), "admin"),
        (json!({"team": {"name": "blue"}}), "blue"),
        (json!({"groups": ["user"]}), "anybody"),
    ] {
        let token = issuer.token("me", claims.clone());
        let request =
            Request::get("claims.test", "/").header("authorization", &format!("Bearer {token}"));
        assert_eq!(gateway.send(&request).await.text(), body, "{claims}");
    }
    assert_eq!(gateway.get("claims.test", "/").await.text(), "anybody");
}

#[tokio::test]
async fn a_token_is_required_by_a_policy_on_request_principals() {
    let (echo, issuer) = (Echo::start("v1").await, Issuer::new(ISSUER, "k1"));
    let rules = format!("- issuer: {ISSUER}\n  jwks: '{}'\n", issuer.jwks());
    let spec = format!(
        "action: ALLOW\nrules:\n- from: [{{source: {{requestPrincipals: ['{ISSUER}/me']}}}}]\n  to: [{{operation: {{paths: [/private/*]}}}}]\n- to: [{{operation: {{paths: [/public/*]}}}}]\n"
    );
    let objects = [request_authentication(&rules), policy("private", &spec)];
    let mut gateway = gateway_with(&echo, &objects).await;
    let get = |path: &str, subject: Option<&str>| {
        let request = Request::get("a.test", path);
        match subject {
            Some(subject) => {
                let token = issuer.token(subject, json!({}));
                request.header("authorization", &format!("Bearer {token}"))
            }
            None => request,
        }
    };
    for (path, subject, status) in [
        ("/private/x", Some("me"), 200),
        ("/private/x", Some("you"), 403),
        ("/private/x", None, 403),
        ("/public/x", None, 200),
        ("/elsewhere", Some("me"), 403),
    ] {
        let reply = gateway.send(&get(path, subject)).await;
        assert_eq!(reply.status, status, "{path} as {subject:?}");
        if status == 403 {
            assert_eq!(reply.text(), "RBAC: access denied");
        }
    }
    let line = gateway.access_log_line("/elsewhere").await;
    assert!(line.contains(" 403 - rbac_access_denied_matched_policy[none] "), "{line}");
}

#[tokio::test]
async fn policies_match_methods_hosts_paths_addresses_and_headers() {
    let echo = Echo::start("v1").await;
    let spec = r#"
action: DENY
rules:
- to: [{operation: {methods: [DELETE]}}]
- to: [{operation: {hosts: [secret.test, "*.internal.test"]}}]
- to: [{operation: {paths: [/exact, "/prefix/*", "*.php"], notMethods: [HEAD]}}]
- from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]
- when: [{key: "request.headers[x-bad]", values: ["yes", "very*"]}]
"#;
    let mut gateway = gateway_with(&echo, &[policy("deny", spec)]).await;
    for (request, status) in [
        (Request::get("a.test", "/"), 200),
        (Request::get("a.test", "/").method("DELETE"), 403),
        (Request::get("SECRET.test", "/"), 403),
        (Request::get("x.internal.test", "/"), 403),
        (Request::get("internal.test", "/"), 200),
        (Request::get("a.test", "/exact"), 403),
        (Request::get("a.test", "/exact?x=y"), 403),
        (Request::get("a.test", "/exact/"), 200),
        (Request::get("a.test", "/prefix/a"), 403),
        (Request::get("a.test", "/a/b.php"), 403),
        (Request::get("a.test", "/exact").method("HEAD"), 200),
        (Request::get("a.test", "/").header("x-bad", "yes"), 403),
        (Request::get("a.test", "/").header("x-bad", "very much"), 403),
        (Request::get("a.test", "/").header("x-bad", "no"), 200),
        // Nobody in front of us is trusted, so this is what the client says of itself.
        (Request::get("a.test", "/").header("x-forwarded-for", "203.0.113.7"), 200),
    ] {
        assert_eq!(gateway.send(&request).await.status, status, "{request:?}");
    }
    let addresses = "action: ALLOW\nrules:\n- from: [{source: {ipBlocks: [10.0.0.0/8]}}]\n";
    let mut gateway = gateway_with(&echo, &[policy("addresses", addresses)]).await;
    assert_eq!(gateway.get("a.test", "/").await.status, 403);
    let addresses = addresses.replace("10.0.0.0", "127.0.0.0");
    let mut gateway = gateway_with(&echo, &[policy("addresses", &addresses)]).await;
    assert_eq!(gateway.get("a.test", "/").await.status, 200);
}

#[tokio::test]
async fn an_empty_policy_denies_all_an_empty_rule_allows_all_and_deny_comes_first() {
    let echo = Echo::start("v1").await;
    let nothing = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: none}\nspec: {}\n".to_owned();
    let all = policy("all", "rules: [{}]\n");
    let deny = policy("deny", "action: DENY\nrules:\n- to: [{operation: {paths: [/no]}}]\n");
    for (objects, path, status) in [
        (vec![nothing.clone()], "/", 403),
        (vec![all.clone()], "/", 200),
        (vec![nothing, all.clone()], "/", 200),
        (vec![all.clone(), deny.clone()], "/no", 403),
        (vec![all, deny], "/", 200),
    ] {
        let mut gateway = gateway_with(&echo, &objects).await;
        assert_eq!(gateway.get("a.test", path).await.status, status, "{objects:?} {path}");
    }
}

#[tokio::test]
async fn a_policy_that_cannot_be_enforced_fails_closed_and_says_so() {
    let echo = Echo::start("v1").await;
    for (what, spec) in [
        ("CUSTOM", "action: CUSTOM\nprovider: {name: ext}\nrules: [{}]\n"),
        (
            "a condition nobody knows",
            "action: DENY\nrules:\n- when: [{key: 'experimental.envoy.filters.x[y]', values: [z]}]\n",
        ),
    ] {
        let mut gateway = gateway_with(&echo, &[policy("custom", spec)]).await;
        assert_eq!(gateway.get("a.test", "/").await.status, 403, "{what}");
        gateway.log_line("AuthorizationPolicy default/custom").await;
        let output = gateway::check(&gateway.config().path()).await;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.contains("AuthorizationPolicy default/custom"), "{what}: {printed}");
    }
    assert_eq!(echo.requests().len(), 0);
}

#[tokio::test]
async fn policies_hold_for_tcp_connections_as_far_as_they_are_not_about_http() {
    let server = tcp::greeter("220 ready\r\n").await;
    let elsewhere = "from: [{source: {ipBlocks: [203.0.113.0/24]}}]";
    let here = "from: [{source: {ipBlocks: [127.0.0.0/8]}}]";
    let reached = "220 ready\r\n";
    for (spec, greeting) in [
        (format!("action: ALLOW\nrules:\n- {elsewhere}\n"), ""),
        (format!("action: ALLOW\nrules:\n- {here}\n"), reached),
        (format!("action: DENY\nrules:\n- {here}\n"), ""),
        (format!("action: DENY\nrules:\n- {elsewhere}\n"), reached),
        // What is about HTTP never allows bytes, and does not keep a rule from denying them.
        ("action: ALLOW\nrules:\n- to: [{operation: {methods: [GET]}}]\n".to_owned(), ""),
        ("action: DENY\nrules:\n- to: [{operation: {methods: [GET]}}]\n".to_owned(), ""),
        ("action: DENY\nrules:\n- to: [{operation: {ports: ['1']}}]\n".to_owned(), reached),
    ] {
        let before = server.connections();
        let config = Config::new()
            .with(tcp_forward("tcp.test"))
            .with(service_entry("tcp.test", "TCP", &[server.port()]))
            .with(policy("tcp", &spec));
        let mut gateway = Gateway::start(config).await;
        let mut client = RawClient::connect(gateway.port("tcp")).await;
        let answer = match greeting {
            "" => client.read_to_end().await,
            greeting => client.read_until(greeting.as_bytes()).await,
        };
        assert_eq!(String::from_utf8(answer).unwrap(), greeting, "{spec}");
        assert_eq!(server.connections() - before, usize::from(!greeting.is_empty()), "{spec}");
        if greeting.is_empty() {
            gateway.access_log_line("rbac_access_denied_matched_policy[").await;
        }
    }
}

#[tokio::test]
async fn policies_for_other_workloads_do_not_apply() {
    let echo = Echo::start("v1").await;
    let elsewhere = policy("a", "selector: {matchLabels: {app: other}}\n");
    let other_namespace =
        policy("b", "rules: []\n").replace("{name: b}", "{name: b, namespace: x}");
    let mut gateway = gateway_with(&echo, &[elsewhere, other_namespace]).await;
    assert_eq!(gateway.get("a.test", "/").await.status, 200);
    let root = policy("c", "{}\n").replace("{name: c}", "{name: c, namespace: istio-system}");
    let mut gateway = gateway_with(&echo, &[root]).await;
    assert_eq!(gateway.get("a.test", "/").await.status, 403);
}

#[tokio::test]
async fn no_spelling_of_a_denied_path_gets_through() {
    let upstream =
        RawUpstream::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::KeepOpen).await;
    let deny = "action: DENY\nrules:\n- to: [{operation: {paths: [/admin, '/admin/*']}}]\n";
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[upstream.port()]))
        .with(forward("all", "*", "up.test"))
        .with(policy("deny", deny));
    let mut gateway = Gateway::start(config).await;
    let denied = [
        "/admin",
        "/admin/",
        "/admin?x",
        "/admin/x",
        "/./admin",
        "/a/../admin",
        "/a/b/../../admin/x",
        "/%61dmin",
        "/%61%64%6d%69%6e",
        "/a/%2e%2e/admin",
        "/a/.%2e/admin",
        "/a/%2E%2E/admin",
        "/a\\..\\admin",
        "/admin\\x",
        "/../admin",
        "http://a.test/admin",
        "http://a.test/x/../admin",
    ];
    let malformed = ["\\admin", "/admin#x", "/admin%00", "/admin/%", "/admin/%zz"];
    let all = denied.map(|path| (path, 403)).into_iter().chain(malformed.map(|path| (path, 400)));
    for (path, status) in all {
        let mut client = RawClient::connect(gateway.port("http")).await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n")).await;
        assert_eq!(client.read_head().await.status, status, "{path}");
    }
    assert_eq!(upstream.received(), "");
}

/// Sends bytes, and expects one status, the end of the connection and silence upstream.
async fn expect_refused(gateway: &mut Gateway, what: &str, bytes: &str, status: u16) {
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send(bytes).await;
    let response = client.read_response().await;
    assert_eq!(response.status, status, "{what}: {bytes:?}");
    assert!(client.is_closed_by_server().await, "{what}: the connection goes on");
}

#[tokio::test]
async fn ambiguous_messages_are_refused_whole() {
    let upstream =
        RawUpstream::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::KeepOpen).await;
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[upstream.port()]))
        .with(forward("all", "*", "up.test"));
    let mut gateway = Gateway::start(config).await;
    let canary = "GET /canary HTTP/1.1\r\nhost: a.test\r\n\r\n";
    let post = |fields: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n{body}{canary}")
    };
    for (what, bytes, status) in [
        (
            "H01 CL.TE",
            post("content-length: 4\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
            400,
        ),
        (
            "H01 TE.CL",
            post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
            400,
        ),
        ("H02 two lengths", post("content-length: 5\r\ncontent-length: 6\r\n", "hello"), 400),
        ("H02 equal lengths", post("content-length: 5\r\ncontent-length: 5\r\n", "hello"), 400),
        ("H02 length list", post("content-length: 5, 5\r\n", "hello"), 400),
        ("H03 plus", post("content-length: +5\r\n", "hello"), 400),
        ("H03 minus", post("content-length: -1\r\n", ""), 400),
        ("H03 hex", post("content-length: 0x5\r\n", "hello"), 400),
        ("H03 empty", post("content-length:\r\n", ""), 400),
        ("H03 overflow", post("content-length: 18446744073709551616\r\n", ""), 400),
        ("H05 space before colon", post("transfer-encoding : chunked\r\n", "0\r\n\r\n"), 400),
        ("H05 leading space", post(" transfer-encoding: chunked\r\n", "0\r\n\r\n"), 400),
        ("H05 vertical tab", post("transfer-encoding: \x0bchunked\r\n", "0\r\n\r\n"), 400),
        ("H11 obsolete folding", post("x-a: b\r\n c\r\n", ""), 400),
        ("H11 NUL in a value", post("x-a: b\0c\r\n", ""), 400),
        ("H11 no colon", post("x-a\r\n", ""), 400),
        ("H11 bare LF", format!("GET / HTTP/1.1\nhost: a.test\n\n{canary}"), 400),
        ("H11 bare CR", post("x-a: b\rx-c: d\r\n", ""), 400),
        ("H13 two spaces", format!("GET  / HTTP/1.1\r\nhost: a.test\r\n\r\n{canary}"), 400),
        ("H13 fragment", format!("GET /#x HTTP/1.1\r\nhost: a.test\r\n\r\n{canary}"), 400),
        ("H14 no host", format!("GET / HTTP/1.1\r\n\r\n{canary}"), 400),
        (
            "H14 two hosts",
            format!("GET / HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n{canary}"),
            400,
        ),
        ("H14 userinfo", format!("GET / HTTP/1.1\r\nhost: x@a.test\r\n\r\n{canary}"), 400),
        (
            "H06 chunked in HTTP/1.0",
            format!(
                "POST / HTTP/1.0\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{canary}"
            ),
            400,
        ),
        ("H12 a TLS hello", "\x16\x03\x01\x00\x05hello\r\n\r\n".to_owned(), 400),
        ("H13 HTTP/1.2", format!("GET / HTTP/1.2\r\nhost: a.test\r\n\r\n{canary}"), 505),
        ("H13 HTTP/2.0", format!("GET / HTTP/2.0\r\nhost: a.test\r\n\r\n{canary}"), 505),
        ("H13 HTTP/0.9", format!("GET /\r\n\r\n{canary}"), 400),
        ("H14 empty host", format!("GET / HTTP/1.1\r\nhost:\r\n\r\n{canary}"), 400),
        ("H14 host list", format!("GET / HTTP/1.1\r\nhost: a.test, b.test\r\n\r\n{canary}"), 400),
        (
            "H14 another authority",
            format!("GET http://a.test/ HTTP/1.1\r\nhost: b.test\r\n\r\n{canary}"),
            400,
        ),
        (
            "H15 another scheme",
            format!("GET ftp://a.test/ HTTP/1.1\r\nhost: a.test\r\n\r\n{canary}"),
            400,
        ),
        ("H22 underscore", post("content_length: 5\r\n", ""), 400),
    ] {
        expect_refused(&mut gateway, what, &bytes, status).await;
    }
    assert_eq!(upstream.received(), "", "refused bytes reached the upstream");
}

#[tokio::test]
async fn transfer_codings_other_than_chunked_are_refused() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    for coding in ["gzip", "gzip, chunked", "identity", "xchunked", "chunked, chunked", ",chunked"]
    {
        let bytes = format!(
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: {coding}\r\n\r\n0\r\n\r\nGET /canary HTTP/1.1\r\nhost: a.test\r\n\r\n"
        );
        let mut client = RawClient::connect(gateway.port("http")).await;
        client.send(bytes).await;
        assert_eq!(client.read_response().await.status, 501, "H04 {coding}");
        assert!(client.is_closed_by_server().await, "H04 {coding}: the connection goes on");
    }
    assert!(echo.requests().is_empty());
}

#[tokio::test]
async fn malformed_chunks_end_the_connection_before_the_next_request() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    for (what, chunks) in [
        ("H07 hex prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("H07 sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("H07 empty size", "\r\nhello\r\n0\r\n\r\n"),
        ("H07 overflow", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("H08 no CRLF after data", "5\r\nhello0\r\n\r\n"),
        ("H08 LF only", "5\nhello\n0\n\n"),
        ("H08 spill", "5\r\nhello world\r\n0\r\n\r\n"),
    ] {
        let mut client = RawClient::connect(gateway.port("http")).await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n{chunks}GET /canary HTTP/1.1\r\nhost: a.test\r\n\r\n"
            ))
            .await;
        let answer = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(!answer.contains("/canary"), "{what}: {answer}");
        assert!(!answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
    }
    assert!(echo.requests().iter().all(|request| request.target != "/canary"));
}

#[tokio::test]
async fn a_body_nobody_read_never_becomes_the_next_request() {
    let echo = Echo::start("v1").await;
    let deny = policy("deny", "action: DENY\nrules:\n- to: [{operation: {paths: [/no]}}]\n");
    let mut gateway = gateway_with(&echo, &[deny]).await;
    let canary = "GET /canary HTTP/1.1\r\nhost: a.test\r\n\r\n";
    let mut client = RawClient::connect(gateway.port("http")).await;
    // H16: the body of a request answered early looks like a request.
    client
        .send(format!(
            "POST /no HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n{canary}",
            canary.len()
        ))
        .await;
    assert_eq!(client.read_response().await.status, 403);
    client.send("GET /next HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").await;
    client.read_to_end().await;
    assert!(echo.requests().iter().all(|request| request.target != "/canary"));
}

#[tokio::test]
async fn large_heads_are_refused_by_their_kind() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    let head = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n")
    };
    let many: String = (0..101).map(|i| format!("x-{i}: y\r\n")).collect();
    for (what, bytes, status) in [
        ("D04 61 KiB of header", head("/", &format!("x-a: {}\r\n", "y".repeat(61 * 1024))), 431),
        ("D04 101 headers", head("/", &many), 431),
        ("D04 17 KiB of target", head(&format!("/{}", "y".repeat(17 * 1024)), ""), 414),
    ] {
        expect_refused(&mut gateway, what, &bytes, status).await;
    }
    let fits = head(&format!("/{}", "y".repeat(8000)), &format!("x-a: {}\r\n", "y".repeat(40_000)));
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send(fits).await;
    assert_eq!(client.read_response().await.status, 200);
}

#[tokio::test]
async fn a_slow_head_is_cut_on_the_first_request_and_on_the_second() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    let port = gateway.port("http");
    let dripping = async |mut client: RawClient| {
        // One byte a second never ends this head; the deadline does.
        for byte in "GET / HTTP/1.1\r".bytes() {
            client.send([byte]).await;
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        client.read_to_end().await
    };
    let first = RawClient::connect(port).await;
    let mut second = RawClient::connect(port).await;
    second.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    assert_eq!(second.read_response().await.status, 200);
    let (first, second) = tokio::join!(dripping(first), dripping(second));
    for answer in [first, second] {
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "D01: {answer}");
    }
    assert_eq!(echo.requests().len(), 1);
}

#[tokio::test]
async fn hop_by_hop_fields_end_here_and_protected_ones_cannot_be_removed() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    let request = Request::get("a.test", "/")
        .header("connection", "x-private, keep-alive")
        .header("x-private", "1")
        .header("keep-alive", "timeout=5")
        .header("te", "trailers")
        .header("proxy-connection", "close");
    let received = gateway.send(&request).await.echo();
    for gone in ["connection", "x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(received.header(gone), None, "{gone}");
    }
    for protected in ["x-forwarded-for", "host", "authorization", "x-forwarded-client-cert"] {
        let request = Request::get("a.test", "/").header("connection", protected);
        assert_eq!(gateway.send(&request).await.status, 400, "H20 {protected}");
    }
}

#[tokio::test]
async fn methods_that_leak_or_tunnel_are_refused() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send("TRACE / HTTP/1.1\r\nhost: a.test\r\ncookie: secret\r\n\r\n").await;
    assert_eq!(client.read_response().await.status, 405);
    let mut client = RawClient::connect(gateway.port("http")).await;
    client.send("CONNECT other.test:443 HTTP/1.1\r\nhost: other.test:443\r\n\r\n").await;
    assert_eq!(client.read_response().await.status, 405);
    assert!(echo.requests().is_empty());
}

#[tokio::test]
async fn upgrades_other_than_to_websocket_are_ignored() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    let request = Request::get("a.test", "/")
        .header("connection", "upgrade, http2-settings")
        .header("upgrade", "h2c")
        .header("http2-settings", "AAMAAABkAAQAAP__");
    let received = gateway.send(&request).await.echo();
    for name in ["connection", "upgrade", "http2-settings"] {
        assert_eq!(received.header(name), None, "H18 {name}");
    }
}

#[tokio::test]
async fn a_switch_of_protocols_nobody_asked_for_is_502() {
    let upstream = RawUpstream::start(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        Then::KeepOpen,
    )
    .await;
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("up.test", "HTTP", &[upstream.port()]))
        .with(forward("all", "*", "up.test"));
    let mut gateway = Gateway::start(config).await;
    assert_eq!(gateway.get("a.test", "/").await.status, 502, "H19");
}

/// T01: requests that are cancelled as soon as they are made, until the server has enough.
async fn reset_rapidly(mut sender: h2::client::SendRequest<bytes::Bytes>) {
    for _ in 0..20_000 {
        let Ok(mut ready) = sender.ready().await else { return };
        let request = http::Request::get("http://a.test/").body(()).unwrap();
        let Ok((_, mut stream)) = ready.send_request(request, false) else { return };
        // The connection's task sends the request now; reset before that, it would never be sent.
        tokio::task::yield_now().await;
        stream.send_reset(h2::Reason::CANCEL);
        sender = ready;
    }
}

#[tokio::test]
async fn a_client_that_resets_streams_rapidly_is_sent_away_and_others_are_served() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    let stream = connect(gateway.port("http")).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    reset_rapidly(sender).await;
    // GOAWAY, or the closed socket where the flood did not leave room to read it.
    ended.await.unwrap().expect_err("the gateway ends the connection");
    let reached = echo.requests().len();
    assert!(reached < 2_000, "{reached} cancelled requests reached the upstream");
    assert_eq!(gateway.get("a.test", "/").await.status, 200);
}

#[tokio::test]
async fn http_2_requests_that_http_1_could_misread_are_refused() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    let port = gateway.port("http");
    for (what, request) in [
        ("H21 host differs", Request::get("a.test", "/").header("host", "b.test")),
        ("H21 underscore", Request::get("a.test", "/").header("content_length", "5")),
    ] {
        let mut connection = Connection::http2(port).await.unwrap();
        assert_eq!(connection.send(&request).await.unwrap().status, 400, "{what}");
    }
    assert!(echo.requests().is_empty());
}

#[tokio::test]
async fn what_an_http_2_client_may_ask_for_is_bounded() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    let mut connection = Connection::http2(gateway.port("http")).await.unwrap();
    let mut request = Request::get("a.test", "/");
    for i in 0..101 {
        request = request.header(&format!("x-{i}"), "y");
    }
    assert_eq!(connection.send(&request).await.unwrap().status, 431, "T05 101 fields");
    let large = Request::get("a.test", "/").header("x-a", &"y".repeat(61 * 1024));
    assert_eq!(connection.send(&large).await.unwrap().status, 431, "T05 61 KiB");
    assert!(echo.requests().is_empty());
}

#[tokio::test]
async fn control_characters_in_requests_do_not_reach_the_log_raw() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    let agent = "a\tb\" \x7f end-of-agent";
    let mut client = RawClient::connect(gateway.port("http")).await;
    client
        .send(format!(
            "GET /log HTTP/1.1\r\nhost: a.test\r\nuser-agent: {}\r\n\r\n",
            agent.replace('\x7f', "")
        ))
        .await;
    assert_eq!(client.read_response().await.status, 200);
    let line = gateway.access_log_line("end-of-agent").await;
    assert!(line.contains("/log"), "one exchange is one line: {line}");
    assert!(!line.contains('\t'), "{line:?}");
}

#[tokio::test]
async fn a_preflight_is_answered_before_anybody_asks_for_credentials() {
    let echo = Echo::start("v1").await;
    let cors = virtual_service(
        "cors",
        "cors.test",
        r"
- corsPolicy:
    allowOrigins: [{exact: 'https://app.test'}]
    allowMethods: [GET, PUT]
    maxAge: 1h
  route: [{destination: {host: up.test}}]
",
    );
    let mut gateway = gateway_with(&echo, &[policy("require", REQUIRE_TOKEN), cors]).await;
    let preflight = Request::get("cors.test", "/")
        .method("OPTIONS")
        .header("origin", "https://app.test")
        .header("access-control-request-method", "PUT");
    let reply = gateway.send(&preflight).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.test"));
    assert_eq!(reply.header("access-control-allow-methods"), Some("GET,PUT"));
    assert_eq!(reply.header("access-control-max-age"), Some("3600"));
    let actual = Request::get("cors.test", "/").header("origin", "https://app.test");
    assert_eq!(gateway.send(&actual).await.status, 403);
    assert!(echo.requests().is_empty());
}

#[tokio::test]
async fn nobody_reaches_the_admin_pages_by_way_of_the_gateway() {
    let echo = Echo::start("v1").await;
    let mut gateway = gateway_with(&echo, &[]).await;
    let port = gateway.admin_port();
    for (name, resolution, address) in [
        ("literal", "STATIC", "127.0.0.1"),
        ("any-address", "STATIC", "0.0.0.0"),
        ("name", "DNS", "localhost"),
    ] {
        let host = format!("{name}.test");
        let entry = service_entry(&host, "HTTP", &[port])
            .replace("resolution: STATIC", &format!("resolution: {resolution}"))
            .replace("address: 127.0.0.1", &format!("address: {address}"));
        gateway.config().write(&format!("{name}-entry.yaml"), entry);
        // With the name the pages expect of somebody on this host.
        let http = format!(
            "- rewrite: {{authority: localhost}}\n  route:\n  - destination: {{host: {host}}}\n"
        );
        let file = format!("{name}-route.yaml");
        gateway.config().write(&file, virtual_service(name, &host, &http));
        let request = Request::get(&host, "/config_dump");
        // Not yet configured, it is 404.
        eventually_eq(503, async || gateway.send(&request).await.status).await;
    }
    let line = gateway.access_log_line("own admin port").await;
    assert!(line.contains(" 503 "), "{line}");
    assert_eq!(gateway.admin("/config_dump").await.status, 200, "C05: it is this host's");
}
