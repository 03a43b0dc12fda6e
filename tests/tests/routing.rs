//! Which request goes where, and what happens to it on the way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::time::{Duration, Instant};

use weir_tests::{
    backend::echo::Echo,
    client::http::{Connection, Reply, Request},
    config::Config,
    gateway::{Gateway, Launch},
    objects::{HTTP_GATEWAY, documents, forward, respond, service_entry, virtual_service},
};

/// A gateway with these http rules for host `shop.test`.
async fn gateway_with(rules: &str) -> Gateway {
    let config = Config::new().with(HTTP_GATEWAY).with(virtual_service("shop", "shop.test", rules));
    Gateway::start(config).await
}

/// A gateway with these http rules and the services `v1.test` and `v2.test`.
async fn gateway_and_backends(rules: &str) -> (Gateway, Echo, Echo) {
    let (v1, v2) = (Echo::start("v1").await, Echo::start("v2").await);
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("v1.test", "HTTP", &[v1.port()]))
        .with(service_entry("v2.test", "HTTP", &[v2.port()]))
        .with(virtual_service("shop", "shop.test", rules));
    (Gateway::start(config).await, v1, v2)
}

/// A rule that answers with its name, so that the test sees which one was selected.
fn rule(name: &str, matches: &str) -> String {
    format!("- match: [{matches}]\n  directResponse: {{status: 200, body: {{string: {name}}}}}\n")
}

fn rules(all: &[(&str, &str)]) -> String {
    all.iter().map(|(name, matches)| rule(name, matches)).collect()
}

/// The body of a 200, or the status of anything else.
fn outcome(reply: &Reply) -> String {
    if reply.status == 200 { reply.text().to_owned() } else { reply.status.to_string() }
}

/// Sends GETs to `shop.test` and expects each to be answered by that rule (or status).
async fn expect_paths(gateway: &mut Gateway, expected: &[(&str, &str)]) {
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    for (path, rule) in expected {
        let reply = connection.send(&Request::get("shop.test", path)).await.unwrap();
        assert_eq!(outcome(&reply), *rule, "{path}");
    }
}

#[tokio::test]
async fn the_first_rule_that_matches_the_path_wins() {
    let mut gateway = gateway_with(&rules(&[
        ("exact", "{uri: {exact: /login}}"),
        ("prefix", "{uri: {prefix: /lo}}"),
        ("regex", r"{uri: {regex: '/items/[0-9]+'}}"),
        ("late", "{uri: {exact: /logout}}"),
    ]))
    .await;
    expect_paths(
        &mut gateway,
        &[
            ("/login", "exact"),
            ("/login?user=a", "exact"),
            ("/login/", "prefix"),
            ("/logout", "prefix"),
            ("/items/42", "regex"),
            ("/items/42/", "404"),
            ("/a/items/42", "404"),
            ("/", "404"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_prefix_is_of_bytes_and_not_of_segments() {
    let mut gateway = gateway_with(&rule("foo", "{uri: {prefix: /foo}}")).await;
    expect_paths(
        &mut gateway,
        &[("/foo", "foo"), ("/foobar", "foo"), ("/foo/bar", "foo"), ("/fo", "404")],
    )
    .await;
}

#[tokio::test]
async fn ignoring_the_case_of_a_path_is_asked_for() {
    let mut gateway = gateway_with(&rules(&[
        ("exact", "{uri: {exact: /Login}, ignoreUriCase: true}"),
        ("prefix", "{uri: {prefix: /API/}, ignoreUriCase: true}"),
        ("strict", "{uri: {exact: /Strict}}"),
    ]))
    .await;
    expect_paths(
        &mut gateway,
        &[("/LOGIN", "exact"), ("/api/x", "prefix"), ("/Strict", "strict"), ("/strict", "404")],
    )
    .await;
}

#[tokio::test]
async fn paths_are_normalised_before_they_are_matched_and_forwarded_so() {
    let (mut gateway, _v1, _v2) = gateway_and_backends(
        "- match: [{uri: {prefix: /api/}}]\n  route: [{destination: {host: v1.test}}]\n",
    )
    .await;
    for (sent, forwarded) in [
        ("/api/./x", "/api/x"),
        ("/other/../api/x", "/api/x"),
        ("/%61pi/x", "/api/x"),
        ("/api\\x", "/api/x"),
        ("/api/x?a=/../b", "/api/x?a=/../b"),
    ] {
        let reply = gateway.get("shop.test", sent).await;
        assert_eq!(reply.echo().target, forwarded, "{sent}");
    }
    assert_eq!(gateway.get("shop.test", "/api/../secret").await.status, 404);
}

#[tokio::test]
async fn headers_are_matched_by_value_prefix_regex_and_presence() {
    let mut gateway = gateway_with(&rules(&[
        ("exact", "{headers: {x-kind: {exact: a}}}"),
        ("prefix", "{headers: {x-kind: {prefix: b}}}"),
        ("regex", "{headers: {x-kind: {regex: 'c[0-9]+'}}}"),
        ("present", "{headers: {x-token: {}}}"),
        ("both", "{headers: {x-left: {exact: l}, x-right: {exact: r}}}"),
        ("without", "{withoutHeaders: {x-kind: {exact: d}, x-none: {}}}"),
    ]))
    .await;
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    for (headers, rule) in [
        (&[("x-kind", "a")][..], "exact"),
        (&[("X-Kind", "a")], "exact"),
        (&[("x-kind", "bcd")], "prefix"),
        (&[("x-kind", "c12")], "regex"),
        (&[("x-kind", "xc12")], "without"),
        (&[("x-token", "")], "present"),
        (&[("x-left", "l"), ("x-right", "r")], "both"),
        (&[("x-left", "l")], "without"),
        (&[], "without"),
        (&[("x-kind", "d")], "404"),
        (&[("x-none", "1")], "404"),
    ] {
        let mut request = Request::get("shop.test", "/");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let reply = connection.send(&request).await.unwrap();
        assert_eq!(outcome(&reply), rule, "{headers:?}");
    }
}

#[tokio::test]
async fn query_parameters_are_matched_by_their_first_value() {
    let mut gateway = gateway_with(&rules(&[
        ("exact", "{queryParams: {v: {exact: '1'}}}"),
        ("prefix", "{queryParams: {v: {prefix: be}}}"),
        ("regex", "{queryParams: {v: {regex: '[0-9]+'}}}"),
        ("present", "{queryParams: {debug: {}}}"),
    ]))
    .await;
    expect_paths(
        &mut gateway,
        &[
            ("/?v=1", "exact"),
            ("/?a=b&v=1", "exact"),
            ("/?v=beta", "prefix"),
            ("/?v=23", "regex"),
            ("/?v=x&v=1", "404"),
            ("/?debug", "present"),
            ("/?debug=", "present"),
            ("/?nodebug=1", "404"),
        ],
    )
    .await;
}

#[tokio::test]
async fn methods_schemes_and_authorities_are_matched() {
    let mut gateway = gateway_with(&rules(&[
        ("write", "{method: {regex: 'POST|PUT'}}"),
        ("delete", "{method: {exact: DELETE}}"),
        ("secure", "{scheme: {exact: https}}"),
        ("port", "{authority: {exact: 'shop.test:8080'}}"),
        ("plain", "{scheme: {exact: http}}"),
    ]))
    .await;
    for (request, rule) in [
        (Request::post("shop.test", "/", "x"), "write"),
        (Request::get("shop.test", "/").method("PUT"), "write"),
        (Request::get("shop.test", "/").method("DELETE"), "delete"),
        (Request::get("shop.test:8080", "/"), "port"),
        (Request::get("shop.test", "/"), "plain"),
    ] {
        let reply = gateway.send(&request).await;
        assert_eq!(outcome(&reply), rule, "{request:?}");
    }
}

#[tokio::test]
async fn a_match_on_another_port_never_applies() {
    let two_ports = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: ${PORT_http}, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: ${PORT_other}, name: other, protocol: HTTP}, hosts: ["*"]}
"#;
    let rules = rules(&[("first", "{port: ${PORT_http}}"), ("second", "{uri: {prefix: /}}")]);
    let config = Config::new().with(two_ports).with(virtual_service("shop", "shop.test", &rules));
    let mut gateway = Gateway::start(config).await;
    let other = gateway.port("other");
    assert_eq!(gateway.get("shop.test", "/").await.text(), "first");
    // The Host header's port is not what is compared.
    assert_eq!(gateway.get(&format!("shop.test:{other}"), "/").await.text(), "first");
    let mut connection = Connection::http1(other).await.unwrap();
    let reply = connection.send(&Request::get("shop.test", "/")).await.unwrap();
    assert_eq!(reply.text(), "second");
}

#[tokio::test]
async fn a_rule_without_a_match_hides_the_rules_after_it() {
    let mut gateway = gateway_with(&format!(
        "{}- directResponse: {{status: 200, body: {{string: all}}}}\n{}",
        rule("first", "{uri: {exact: /first}}"),
        rule("hidden", "{uri: {exact: /hidden}}"),
    ))
    .await;
    expect_paths(&mut gateway, &[("/first", "first"), ("/hidden", "all"), ("/", "all")]).await;
}

#[tokio::test]
async fn the_most_specific_host_wins_in_any_case_and_with_any_port() {
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(respond("any", "*", "any"))
        .with(respond("short", "*.test", "short"))
        .with(respond("long", "*.shop.test", "long"))
        .with(respond("exact", "eu.shop.test", "exact"));
    let mut gateway = Gateway::start(config).await;
    for (host, body) in [
        ("eu.shop.test", "exact"),
        ("EU.Shop.Test", "exact"),
        ("eu.shop.test:8080", "exact"),
        ("us.shop.test", "long"),
        ("a.b.shop.test", "long"),
        ("shop.test", "short"),
        ("example.com", "any"),
        ("test", "any"),
    ] {
        assert_eq!(outcome(&gateway.get(host, "/").await), body, "{host}");
    }
}

#[tokio::test]
async fn a_host_without_routes_is_not_found() {
    let mut gateway = gateway_with(&rule("all", "{uri: {prefix: /}}")).await;
    let reply = gateway.get("other.test", "/").await;
    assert_eq!(reply.status, 404);
    assert!(gateway.access_log_line("other.test").await.contains(" 404 NR route_not_found "));
}

#[tokio::test]
async fn a_gateway_without_routes_answers_404() {
    let mut gateway = Gateway::start(Config::new().with(HTTP_GATEWAY)).await;
    assert_eq!(gateway.get("shop.test", "/").await.status, 404);
}

#[tokio::test]
async fn virtual_services_of_one_host_are_merged_oldest_first_with_catch_alls_last() {
    let object = |name: &str, created: &str, rules: &str| {
        virtual_service(name, "shop.test", rules).replace(
            "namespace: default}",
            &format!("namespace: default, creationTimestamp: \"{created}\"}}"),
        )
    };
    let catch_all = "- directResponse: {status: 200, body: {string: oldest-default}}\n";
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(object(
            "c-oldest",
            "2020-01-01T00:00:00Z",
            &(rule("oldest", "{uri: {exact: /both}}") + catch_all),
        ))
        .with(object(
            "a-younger",
            "2021-01-01T00:00:00Z",
            &rules(&[("younger", "{uri: {exact: /both}}"), ("only", "{uri: {exact: /only}}")]),
        ))
        .with(object(
            "b-youngest",
            "2022-01-01T00:00:00Z",
            "- directResponse: {status: 200, body: {string: youngest-default}}\n",
        ));
    let mut gateway = Gateway::start(config).await;
    expect_paths(
        &mut gateway,
        &[("/both", "oldest"), ("/only", "only"), ("/rest", "oldest-default")],
    )
    .await;
}

#[tokio::test]
async fn a_server_takes_routes_only_for_its_hosts_and_from_its_namespaces() {
    let restricted = HTTP_GATEWAY.replace(r#"["*"]"#, r#"["default/a.test", "team/*.b.test"]"#);
    let team = respond("team", "*", "team").replace("namespace: default", "namespace: team");
    let team = team.replace("[gw]", "[default/gw]");
    let config = Config::new().with(restricted).with(respond("own", "*", "own")).with(team);
    let mut gateway = Gateway::start(config).await;
    for (host, expected) in
        [("a.test", "own"), ("x.b.test", "team"), ("b.test", "404"), ("c.test", "404")]
    {
        assert_eq!(outcome(&gateway.get(host, "/").await), expected, "{host}");
    }
}

#[tokio::test]
async fn a_gateway_selects_the_workload_by_its_labels() {
    let other = HTTP_GATEWAY
        .replace("istio: ingressgateway", "istio: egressgateway")
        .replace("name: gw,", "name: other,")
        .replace("PORT_http", "PORT_other");
    let config = || Config::new().with(HTTP_GATEWAY).with(&other).with(respond("a", "*", "a"));
    let mut gateway = Gateway::start(config()).await;
    assert_eq!(gateway.get("a.test", "/").await.text(), "a");
    assert!(Connection::http1(gateway.port("other")).await.is_err());

    let mut gateway = Launch::new(config()).labels("istio=egressgateway").start().await;
    assert!(Connection::http1(gateway.port("http")).await.is_err());
    Connection::http1(gateway.port("other")).await.unwrap();
}

#[tokio::test]
async fn weights_split_the_traffic_by_their_share() {
    let (mut gateway, v1, v2) = gateway_and_backends(
        "- route:\n  - {destination: {host: v1.test}, weight: 3}\n  - {destination: {host: v2.test}, weight: 1}\n",
    )
    .await;
    let mut connection = Connection::http1(gateway.port("http")).await.unwrap();
    for _ in 0..1000 {
        let reply = connection.send(&Request::get("shop.test", "/")).await.unwrap();
        assert_eq!(reply.status, 200);
    }
    assert_eq!(v1.requests().len() + v2.requests().len(), 1000);
    // 250 is expected; eight standard deviations are 110.
    let second = v2.requests().len();
    assert!((140..=360).contains(&second), "{second} of 1000 requests");
}

#[tokio::test]
async fn a_single_destination_takes_all_whatever_its_weight_and_weight_zero_takes_none() {
    let (mut gateway, v1, v2) = gateway_and_backends(
        "- match: [{uri: {prefix: /single}}]\n  route:\n  - {destination: {host: v1.test}, weight: 5}\n\
         - route:\n  - {destination: {host: v1.test}, weight: 0}\n  - {destination: {host: v2.test}, weight: 7}\n",
    )
    .await;
    for _ in 0..20 {
        assert_eq!(gateway.get("shop.test", "/single").await.backend(), "v1");
        assert_eq!(gateway.get("shop.test", "/other").await.backend(), "v2");
    }
    assert_eq!((v1.requests().len(), v2.requests().len()), (20, 20));
}

#[tokio::test]
async fn the_matched_prefix_is_rewritten_and_the_query_stays() {
    let (mut gateway, _v1, _v2) = gateway_and_backends(
        r"
- match: [{uri: {prefix: /api/}}]
  rewrite: {uri: /}
  route: [{destination: {host: v1.test}}]
- match: [{uri: {prefix: /raw}}]
  rewrite: {uri: /}
  route: [{destination: {host: v1.test}}]
- match: [{uri: {exact: /old}}]
  rewrite: {uri: /new/place}
  route: [{destination: {host: v1.test}}]
- match: [{uri: {regex: '/r/.*'}}]
  rewrite: {uri: /whole}
  route: [{destination: {host: v1.test}}]
- match: [{uri: {prefix: /u/}}]
  rewrite: {uriRegexRewrite: {match: '/u/([^/]+)/(.*)', rewrite: '/\2/of/\1'}}
  route: [{destination: {host: v1.test}}]
- match: [{headers: {x-any: {exact: 'yes'}}}]
  rewrite: {uri: /under/}
  route: [{destination: {host: v1.test}}]
",
    )
    .await;
    for (sent, received) in [
        ("/api/users?x=1", "/users?x=1"),
        ("/raw/x", "//x"),
        ("/old?q", "/new/place?q"),
        ("/r/a/b?c=d", "/whole?c=d"),
        ("/u/ann/photos/1?s=2", "/photos/1/of/ann?s=2"),
    ] {
        let reply = gateway.get("shop.test", sent).await;
        let echo = reply.echo();
        assert_eq!(echo.target, received, "{sent}");
        assert_eq!(echo.header("x-envoy-original-path"), Some(sent), "{sent}");
    }
    // Without a path to match, the prefix is "/".
    let request = Request::get("shop.test", "/a/b").header("x-any", "yes");
    assert_eq!(gateway.send(&request).await.echo().target, "/under/a/b");
}

#[tokio::test]
async fn the_authority_is_rewritten_by_either_spelling() {
    let (mut gateway, _v1, _v2) = gateway_and_backends(
        r"
- match: [{uri: {prefix: /rewrite}}]
  rewrite: {authority: inner.test}
  route: [{destination: {host: v1.test}}]
- match: [{uri: {prefix: /set}}]
  headers: {request: {set: {Host: set.test}}}
  route: [{destination: {host: v1.test}}]
- match: [{uri: {prefix: /destination}}]
  route:
  - destination: {host: v1.test}
    headers: {request: {set: {':authority': destination.test}}}
- route: [{destination: {host: v1.test}}]
",
    )
    .await;
    for (path, host) in [
        ("/rewrite", "inner.test"),
        ("/set", "set.test"),
        ("/destination", "destination.test"),
        ("/", "shop.test"),
    ] {
        assert_eq!(gateway.get("shop.test", path).await.echo().host, host, "{path}");
    }
}

#[tokio::test]
async fn headers_are_set_added_and_removed_route_first_then_destination() {
    let (mut gateway, _v1, _v2) = gateway_and_backends(
        r#"
- headers:
    request:
      set: {x-set: route, x-env: "%REQ(x-from)%", x-percent: "100%%"}
      add: {x-add: one}
      remove: [x-secret]
    response:
      set: {x-res: route}
      add: {x-backend: more}
      remove: [x-leak]
  route:
  - destination: {host: v1.test}
    headers:
      request: {set: {x-set: destination}, add: {x-add: two}}
      response: {set: {x-res: destination}}
"#,
    )
    .await;
    let request = Request::get("shop.test", "/")
        .header("x-set", "client")
        .header("x-add", "zero")
        .header("x-secret", "s")
        .header("x-from", "here")
        .header("x-echo-header", "x-leak=1");
    let reply = gateway.send(&request).await;
    let values: Vec<_> = reply.headers.get_all("x-backend").iter().collect();
    assert_eq!(values, ["v1", "more"]);
    assert_eq!(reply.header("x-res"), Some("destination"));
    assert_eq!(reply.header("x-leak"), None);
    let echo = reply.echo();
    assert_eq!(echo.header("x-set"), Some("destination"));
    assert_eq!(echo.headers["x-add"], ["zero", "one", "two"]);
    assert_eq!(echo.header("x-secret"), None);
    assert_eq!(echo.header("x-env"), Some("here"));
    assert_eq!(echo.header("x-percent"), Some("100%"));
}

#[tokio::test]
async fn redirects_say_where_to_go() {
    let mut gateway = gateway_with(
        r"
- match: [{uri: {exact: /path}}]
  redirect: {uri: /elsewhere}
- match: [{uri: {exact: /host}}]
  redirect: {authority: new.test, redirectCode: 308}
- match: [{uri: {exact: /scheme}}]
  redirect: {scheme: https, authority: new.test}
- match: [{uri: {exact: /port}}]
  redirect: {authority: new.test, port: 8443, scheme: https}
- match: [{uri: {exact: /default-port}}]
  redirect: {scheme: https, authority: new.test, derivePort: FROM_PROTOCOL_DEFAULT}
- match: [{uri: {prefix: /old/}}]
  redirect: {prefixRewrite: /new/, redirectCode: 302}
",
    )
    .await;
    for (sent, status, location) in [
        ("/path?q=1", 301, "http://shop.test/elsewhere?q=1"),
        ("/host?q=1", 308, "http://new.test/host?q=1"),
        ("/scheme", 301, "https://new.test/scheme"),
        ("/port", 301, "https://new.test:8443/port"),
        ("/default-port", 301, "https://new.test/default-port"),
        ("/old/a/b?c", 302, "http://shop.test/new/a/b?c"),
    ] {
        let reply = gateway.get("shop.test", sent).await;
        assert_eq!((reply.status, reply.header("location")), (status, Some(location)), "{sent}");
    }
}

#[tokio::test]
async fn a_direct_response_has_the_status_body_and_headers_configured() {
    let mut gateway = gateway_with(
        r"
- match: [{uri: {exact: /text}}]
  directResponse: {status: 503, body: {string: closed for today}}
  headers: {response: {set: {retry-after: '60'}}}
- match: [{uri: {exact: /bytes}}]
  directResponse: {status: 200, body: {bytes: AAEC/w==}}
- match: [{uri: {exact: /empty}}]
  directResponse: {status: 204}
",
    )
    .await;
    let reply = gateway.get("shop.test", "/text").await;
    assert_eq!((reply.status, reply.text()), (503, "closed for today"));
    assert_eq!(reply.header("retry-after"), Some("60"));
    assert_eq!(reply.header("content-length"), Some("16"));
    assert_eq!(&gateway.get("shop.test", "/bytes").await.body[..], [0, 1, 2, 255]);
    let reply = gateway.get("shop.test", "/empty").await;
    assert_eq!((reply.status, reply.body.len()), (204, 0));
}

#[tokio::test]
async fn https_redirect_answers_every_host_even_without_routes() {
    let redirecting = HTTP_GATEWAY.to_owned() + "    tls: {httpsRedirect: true}\n";
    let config = Config::new().with(redirecting).with(respond("shop", "shop.test", "never"));
    let mut gateway = Gateway::start(config).await;
    for host in ["shop.test", "unknown.test"] {
        let reply = gateway.get(host, "/a?b=c").await;
        let location = format!("https://{host}/a?b=c");
        assert_eq!((reply.status, reply.header("location")), (301, Some(location.as_str())));
    }
    // Nobody in front of us is trusted to have terminated TLS.
    let claimed = Request::get("shop.test", "/").header("x-forwarded-proto", "https");
    assert_eq!(gateway.send(&claimed).await.status, 301);
}

#[tokio::test]
async fn delegates_are_merged_into_the_root() {
    let root = virtual_service(
        "root",
        "shop.test",
        r"
- match: [{uri: {prefix: /reviews}}]
  delegate: {name: reviews, namespace: team}
  headers: {request: {set: {x-root: 'yes'}}}
- match: [{uri: {prefix: /missing}}]
  delegate: {name: nobody}
- directResponse: {status: 200, body: {string: rest}}
",
    );
    let delegate = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: team}
spec:
  http:
  - match: [{uri: {prefix: /reviews/v2}}]
    route: [{destination: {host: v2.test}}]
  - match: [{uri: {prefix: /elsewhere}}]
    directResponse: {status: 200, body: {string: conflicting}}
  - route: [{destination: {host: v1.test}}]
";
    let (v1, v2) = (Echo::start("v1").await, Echo::start("v2").await);
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service_entry("v1.test", "HTTP", &[v1.port()]))
        .with(service_entry("v2.test", "HTTP", &[v2.port()]))
        .with(root)
        .with(delegate);
    let mut gateway = Gateway::start(config).await;
    let reply = gateway.get("shop.test", "/reviews/v2/x").await;
    assert_eq!((reply.backend(), reply.echo().header("x-root")), ("v2", Some("yes")));
    assert_eq!(gateway.get("shop.test", "/reviews/v1").await.backend(), "v1");
    for path in ["/elsewhere", "/missing"] {
        assert_eq!(gateway.get("shop.test", path).await.text(), "rest", "{path}");
    }
}

#[tokio::test]
async fn subsets_choose_endpoints_by_their_labels() {
    let (v1, v2) = (Echo::start("v1").await, Echo::start("v2").await);
    let service = format!(
        r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: reviews}}
spec:
  hosts: [reviews.test]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints:
  - {{address: 127.0.0.1, ports: {{http: {}}}, labels: {{version: v1}}}}
  - {{address: 127.0.0.1, ports: {{http: {}}}, labels: {{version: v2}}}}
",
        v1.port(),
        v2.port()
    );
    let subsets = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews.test
  subsets:
  - {name: one, labels: {version: v1}}
  - {name: two, labels: {version: v2}}
  - {name: empty, labels: {version: v3}}
";
    let rules = r"
- match: [{uri: {prefix: /one}}]
  route: [{destination: {host: reviews.test, subset: one}}]
- match: [{uri: {prefix: /two}}]
  route: [{destination: {host: reviews.test, subset: two}}]
- match: [{uri: {prefix: /empty}}]
  route: [{destination: {host: reviews.test, subset: empty}}]
- match: [{uri: {prefix: /unknown}}]
  route: [{destination: {host: reviews.test, subset: unknown}}]
";
    let config = Config::new()
        .with(HTTP_GATEWAY)
        .with(service)
        .with(subsets)
        .with(virtual_service("shop", "shop.test", rules));
    let mut gateway = Gateway::start(config).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("shop.test", "/one").await.backend(), "v1");
        assert_eq!(gateway.get("shop.test", "/two").await.backend(), "v2");
    }
    assert_eq!(gateway.get("shop.test", "/empty").await.status, 503);
    assert!(gateway.access_log_line("/empty").await.contains(" 503 UH "));
    assert_eq!(gateway.get("shop.test", "/unknown").await.status, 503);
    assert!(gateway.access_log_line("/unknown").await.contains(" 503 NC "));
}

#[tokio::test]
async fn an_unknown_destination_is_503_nc() {
    let config =
        Config::new().with(HTTP_GATEWAY).with(forward("shop", "shop.test", "nowhere.test"));
    let mut gateway = Gateway::start(config).await;
    assert_eq!(gateway.get("shop.test", "/").await.status, 503);
    assert!(gateway.access_log_line("shop.test").await.contains(" 503 NC "));
}

#[tokio::test]
async fn a_route_timeout_answers_504() {
    let (mut gateway, _v1, _v2) =
        gateway_and_backends("- timeout: 0.2s\n  route: [{destination: {host: v1.test}}]\n").await;
    let slow = Request::get("shop.test", "/slow").header("x-echo-delay", "30000");
    assert_eq!(gateway.send(&slow).await.status, 504);
    assert!(gateway.access_log_line("/slow").await.contains(" 504 UT "));
    assert_eq!(gateway.get("shop.test", "/").await.status, 200);
}

#[tokio::test]
async fn faults_are_injected_into_their_share_of_requests() {
    let (mut gateway, v1, _v2) = gateway_and_backends(
        r"
- match: [{uri: {prefix: /abort}}]
  fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
  route: [{destination: {host: v1.test}}]
- match: [{uri: {prefix: /delay}}]
  fault: {delay: {fixedDelay: 0.3s, percentage: {value: 100}}}
  route: [{destination: {host: v1.test}}]
- match: [{uri: {prefix: /never}}]
  fault: {abort: {httpStatus: 418}, delay: {fixedDelay: 60s}}
  route: [{destination: {host: v1.test}}]
",
    )
    .await;
    let aborted = gateway.get("shop.test", "/abort").await;
    assert_eq!((aborted.status, aborted.text()), (418, "fault filter abort"));
    assert!(gateway.access_log_line("/abort").await.contains(" 418 FI "));
    assert!(v1.requests().is_empty());

    let started = Instant::now();
    assert_eq!(gateway.get("shop.test", "/delay").await.status, 200);
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    assert!(gateway.access_log_line("/delay").await.contains(" 200 DI "));
    // Without a percentage a fault is for none.
    assert_eq!(gateway.get("shop.test", "/never").await.status, 200);
}

#[tokio::test]
async fn responses_to_allowed_origins_say_so() {
    let (mut gateway, _v1, _v2) = gateway_and_backends(
        r"
- corsPolicy:
    allowOrigins: [{exact: 'https://app.test'}, {regex: 'https://[a-z]+[.]app[.]test'}]
    exposeHeaders: [x-a, x-b]
    allowCredentials: true
  route: [{destination: {host: v1.test}}]
",
    )
    .await;
    for origin in ["https://app.test", "https://eu.app.test"] {
        let reply = gateway.send(&Request::get("shop.test", "/").header("origin", origin)).await;
        assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
        assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(reply.header("access-control-expose-headers"), Some("x-a,x-b"));
    }
    let stranger = Request::get("shop.test", "/").header("origin", "https://evil.test");
    let reply = gateway.send(&stranger).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, None));
}

#[tokio::test]
async fn the_upstream_learns_who_asked_and_how() {
    let (mut gateway, _v1, _v2) =
        gateway_and_backends("- route: [{destination: {host: v1.test}}]\n").await;
    let request = Request::get("shop.test", "/")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-forwarded-proto", "https")
        .header("x-request-id", "chosen-by-the-client")
        .header("x-envoy-retry-on", "5xx")
        .header("x-envoy-upstream-rq-timeout-ms", "1")
        .header("x-envoy-original-path", "/admin")
        .header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/a/sa/b")
        .header("connection", "x-hop")
        .header("x-hop", "1");
    let reply = gateway.send(&request).await;
    assert_eq!(reply.header("server"), Some("istio-envoy"));
    let service_time = reply.header("x-envoy-upstream-service-time").unwrap();
    service_time.parse::<u64>().unwrap();
    let echo = reply.echo();
    assert_eq!(echo.header("x-forwarded-for"), Some("203.0.113.9,127.0.0.1"));
    assert_eq!(echo.header("x-forwarded-proto"), Some("http"));
    let id = echo.header("x-request-id").unwrap();
    assert_eq!((id.len(), id.split('-').count()), (36, 5), "{id} is no UUID");
    assert_eq!(echo.header("x-envoy-attempt-count"), Some("1"));
    for stripped in [
        "x-envoy-retry-on",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-original-path",
        "x-forwarded-client-cert",
        "connection",
        "x-hop",
    ] {
        assert_eq!(echo.header(stripped), None, "{stripped}");
    }
}

#[tokio::test]
async fn trusted_proxies_are_believed() {
    let redirecting = HTTP_GATEWAY.to_owned() + "    tls: {httpsRedirect: true}\n";
    let echo = Echo::start("v1").await;
    let config = Config::new()
        .with(redirecting)
        .with(service_entry("v1.test", "HTTP", &[echo.port()]))
        .with(forward("shop", "shop.test", "v1.test"));
    let mut gateway = Launch::new(config)
        .mesh_config("defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}\n")
        .start()
        .await;
    let request = Request::get("shop.test", "/")
        .header("x-forwarded-for", "56.5.6.7, 72.9.5.6, 98.1.2.3")
        .header("x-forwarded-proto", "https");
    let echo = gateway.send(&request).await.echo();
    assert_eq!(echo.header("x-envoy-external-address"), Some("72.9.5.6"));
    assert_eq!(echo.header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn ten_thousand_routes_are_told_apart() {
    let routes: String = (0..10_000)
        .map(|i| rule(&format!("r{i}"), &format!("{{uri: {{exact: /item/{i}}}}}")))
        .collect();
    let mut gateway = gateway_with(&routes).await;
    for i in [0, 1, 4_999, 9_999] {
        let reply = gateway.get("shop.test", &format!("/item/{i}")).await;
        assert_eq!(reply.text(), format!("r{i}"));
    }
    assert_eq!(gateway.get("shop.test", "/item/10000").await.status, 404);
}

#[tokio::test]
async fn ten_thousand_hosts_are_told_apart() {
    let hosts: Vec<_> = (0..10_000)
        .map(|i| respond(&format!("h{i}"), &format!("h{i}.test"), &format!("h{i}")))
        .collect();
    let config = Config::new().with(HTTP_GATEWAY).with(documents(&hosts));
    let mut gateway = Gateway::start(config).await;
    for i in [0, 1, 4_999, 9_999] {
        assert_eq!(gateway.get(&format!("h{i}.test"), "/").await.text(), format!("h{i}"));
    }
    assert_eq!(gateway.get("h10000.test", "/").await.status, 404);
}
