use http::HeaderName;
use serde_json::json;
use weir_config::model::{
    matcher::{FullRegex, StringMatch},
    route::{ClaimMatch, PathMatch, RouteMatch, Scheme},
};

use super::{any, exact, header, is, prefix, query, route, selected, table, virtual_host};
use crate::{
    filter::{RequestContext, claims::claims, test_support::request},
    telemetry::ResponseFlag,
};

fn regex(pattern: &str) -> FullRegex {
    FullRegex::new(pattern).unwrap()
}

#[test]
fn the_most_specific_host_wins() {
    let domains = [
        "*",
        "*.example.com",
        "*.a.example.com",
        "b.a.example.com",
        "example.com",
        "*-dev.example.com",
        "[::1]",
    ];
    let table = table(
        domains
            .iter()
            .map(|domain| virtual_host(domain.trim_matches(['[', ']']), vec![route(domain, any())]))
            .collect(),
    );
    for (host, expected) in [
        ("b.a.example.com", "b.a.example.com"),
        ("c.a.example.com", "*.a.example.com"),
        ("x.y.a.example.com", "*.a.example.com"),
        ("a.example.com", "*.example.com"),
        ("x.example.com", "*.example.com"),
        ("example.com", "example.com"),
        ("shop-dev.example.com", "*-dev.example.com"),
        ("-dev.example.com", "*.example.com"),
        ("notexample.com", "*"),
        ("example.com.evil", "*"),
        ("b.a.example.com:8080", "b.a.example.com"),
        ("[::1]:80", "[::1]"),
    ] {
        let taken = selected(&table, &request("GET", host, "/"), &RequestContext::default());
        assert_eq!(taken, expected, "{host}");
    }
}

#[test]
fn no_host_and_no_route_are_not_found() {
    let table = table(vec![virtual_host("a.example", vec![route("a", prefix("/a"))])]);
    for (host, path) in [("b.example", "/a"), ("a.example", "/b"), ("x.a.example", "/a")] {
        let reply =
            table.select(&request("GET", host, path), &RequestContext::default()).unwrap_err();
        assert_eq!(reply.status, http::StatusCode::NOT_FOUND, "{host}{path}");
        assert_eq!(reply.flag, Some(ResponseFlag::NoRoute));
        assert_eq!(reply.details, "route_not_found");
    }
}

#[test]
fn no_route_opens_a_tunnel() {
    let table = table(vec![virtual_host("*", vec![route("all", any())])]);
    let connect = request("CONNECT", "a.example:443", "/");
    assert_eq!(selected(&table, &connect, &RequestContext::default()), "route_not_found");
}

/// One route with the match, and one behind it that takes the rest.
fn takes(
    matcher: &RouteMatch,
    request: &crate::head::RequestHeader,
    context: &RequestContext,
) -> bool {
    let routes = vec![route("match", matcher.clone()), route("rest", any())];
    selected(&table(vec![virtual_host("*", routes)]), request, context) == "match"
}

#[test]
fn a_path_is_matched_without_its_query() {
    let segments = |text: &str| RouteMatch { path: PathMatch::SegmentPrefix(text.into()), ..any() };
    let pattern = |text: &str| RouteMatch { path: PathMatch::Regex(regex(text)), ..any() };
    let folded = |matcher: RouteMatch| RouteMatch { ignore_path_case: true, ..matcher };
    for (matcher, yes, no) in [
        (exact("/a"), vec!["/a", "/a?b=/c"], vec!["/a/", "/A", "/", "/ab"]),
        (prefix("/foo"), vec!["/foo", "/foobar", "/foo/x?y"], vec!["/fo", "/Foo", "/x/foo"]),
        (prefix(""), vec!["/", "/a"], vec![]),
        (segments("/foo"), vec!["/foo", "/foo/", "/foo/x"], vec!["/foobar", "/fo"]),
        (segments("/"), vec!["/", "/x"], vec![]),
        (pattern("/v[0-9]+/.*"), vec!["/v1/a", "/v22/"], vec!["/v1", "/x/v1/a", "/v1a/b"]),
        (pattern("/a|/b"), vec!["/a", "/b"], vec!["/a/b", "/ab"]),
        (folded(exact("/AbC")), vec!["/abc", "/ABC"], vec!["/abcd"]),
        (folded(prefix("/aB")), vec!["/Abc", "/AB"], vec!["/b"]),
        (folded(segments("/aB")), vec!["/AB/c"], vec!["/abc"]),
        (folded(pattern("/a")), vec!["/a"], vec!["/A"]),
    ] {
        let context = RequestContext::default();
        for path in yes {
            assert!(
                takes(&matcher, &request("GET", "a", path), &context),
                "{matcher:?} takes {path}"
            );
        }
        for path in no {
            assert!(
                !takes(&matcher, &request("GET", "a", path), &context),
                "{matcher:?} leaves {path}"
            );
        }
    }
}

#[test]
fn method_scheme_and_authority_are_matched() {
    let get = request("GET", "a.example:8080", "/");
    let https = RequestContext { scheme: Scheme::Https, ..RequestContext::default() };
    let http = RequestContext::default();
    let method = |value| RouteMatch { method: Some(value), ..any() };
    let scheme = |value| RouteMatch { scheme: Some(value), ..any() };
    let authority = |value| RouteMatch { authority: Some(value), ..any() };
    for (matcher, context, expected) in [
        (method(is("GET")), &http, true),
        (method(is("get")), &http, false),
        (method(StringMatch::Prefix("GE".into())), &http, true),
        (method(StringMatch::Regex(regex("GET|HEAD"))), &http, true),
        (method(StringMatch::Regex(regex("GE"))), &http, false),
        (scheme(is("http")), &http, true),
        (scheme(is("https")), &http, false),
        (scheme(is("https")), &https, true),
        (authority(is("a.example:8080")), &http, true),
        (authority(is("a.example")), &http, false),
        (authority(StringMatch::Prefix("a.".into())), &http, true),
    ] {
        assert_eq!(takes(&matcher, &get, context), expected, "{matcher:?}");
    }
}

#[test]
fn headers_are_matched_and_several_values_are_one() {
    let mut get = request("GET", "a", "/");
    for (name, value) in [("x-a", "1"), ("x-b", "1"), ("x-b", "2"), ("x-empty", "")] {
        get.headers.try_append(name, value).unwrap();
    }
    get.headers
        .try_append("x-raw", http::HeaderValue::from_bytes(b"caf\xe9-bar").unwrap())
        .unwrap();
    let inverted = |name, value| super::HeaderMatch { invert: true, ..header(name, value) };
    for (matcher, expected) in [
        (header("x-a", is("1")), true),
        (header("x-a", is("2")), false),
        (header("x-b", is("1")), false),
        (header("x-b", is("1,2")), true),
        (header("x-b", StringMatch::Suffix("2".into())), true),
        (header("x-empty", is("")), true),
        (header("x-empty", StringMatch::Present), true),
        (header("x-none", StringMatch::Present), false),
        (header("x-none", is("")), false),
        (header("x-raw", StringMatch::Prefix("caf".into())), true),
        (header("x-raw", StringMatch::Regex(regex("caf.*-bar"))), true),
        (inverted("x-a", is("1")), false),
        (inverted("x-a", is("2")), true),
        (inverted("x-none", is("2")), true),
        (inverted("x-none", StringMatch::Present), true),
        (inverted("x-a", StringMatch::Present), false),
    ] {
        let matcher = RouteMatch { headers: [matcher].into(), ..any() };
        assert_eq!(takes(&matcher, &get, &RequestContext::default()), expected, "{matcher:?}");
    }
    let both =
        RouteMatch { headers: [header("x-a", is("1")), header("x-b", is("2"))].into(), ..any() };
    assert!(!takes(&both, &get, &RequestContext::default()), "all headers have to match");
}

#[test]
fn the_first_value_of_a_query_parameter_is_matched_as_it_stands() {
    let get = request("GET", "a", "/?a=1&a=2&b&c=&d=%31&&e=x=y");
    for (matcher, expected) in [
        (query("a", is("1")), true),
        (query("a", is("2")), false),
        (query("b", StringMatch::Present), true),
        (query("b", is("")), true),
        (query("c", is("")), true),
        (query("d", is("1")), false),
        (query("d", is("%31")), true),
        (query("e", is("x=y")), true),
        (query("f", StringMatch::Present), false),
        (query("", StringMatch::Present), false),
        (query("a", StringMatch::Regex(regex("[0-9]"))), true),
    ] {
        let matcher = RouteMatch { query_params: [matcher].into(), ..any() };
        assert_eq!(takes(&matcher, &get, &RequestContext::default()), expected, "{matcher:?}");
    }
}

#[test]
fn claims_of_a_validated_token_are_matched() {
    let get = request("GET", "a", "/");
    let known = RequestContext {
        claims: Some(claims(json!({"groups": ["dev", "ops"], "a": {"b": "c"}, "admin": true}))),
        ..RequestContext::default()
    };
    let unknown = RequestContext::default();
    let claim = |path: &[&str], value: &str, invert| ClaimMatch {
        path: path.iter().map(|name| (*name).into()).collect(),
        value: is(value),
        invert,
    };
    for (matcher, context, expected) in [
        (claim(&["groups"], "ops", false), &known, true),
        (claim(&["groups"], "hr", false), &known, false),
        (claim(&["a", "b"], "c", false), &known, true),
        (claim(&["A", "b"], "c", false), &known, false),
        (claim(&["admin"], "true", false), &known, false),
        (claim(&["groups"], "ops", false), &unknown, false),
        (claim(&["groups"], "ops", true), &known, false),
        (claim(&["groups"], "hr", true), &known, true),
        (claim(&["groups"], "ops", true), &unknown, true),
    ] {
        let matcher = RouteMatch { claims: [matcher].into(), ..any() };
        assert_eq!(takes(&matcher, &get, context), expected, "{matcher:?}");
    }
}

#[test]
fn a_forged_claim_header_is_no_claim() {
    let mut get = request("GET", "a", "/");
    let name = HeaderName::from_static("groups");
    get.headers.try_insert(name, "ops").unwrap();
    let matcher = RouteMatch {
        claims: [ClaimMatch { path: ["groups".into()].into(), value: is("ops"), invert: false }]
            .into(),
        ..any()
    };
    assert!(!takes(&matcher, &get, &RequestContext::default()));
}

#[test]
fn a_host_that_requires_tls_redirects_before_any_route() {
    let mut host = virtual_host("*", vec![]);
    host.require_tls = true;
    let table = table(vec![host]);
    for (sent, location) in [
        ("a.example", "https://a.example/p?q=1"),
        ("a.example:80", "https://a.example/p?q=1"),
        ("a.example:443", "https://a.example/p?q=1"),
        ("a.example:8080", "https://a.example:8080/p?q=1"),
        ("[::1]:80", "https://[::1]/p?q=1"),
    ] {
        let reply =
            table.select(&request("GET", sent, "/p?q=1"), &RequestContext::default()).unwrap_err();
        assert_eq!(reply.status, http::StatusCode::MOVED_PERMANENTLY);
        assert_eq!(reply.headers[0].1, location);
        assert_eq!(reply.flag, None);
    }
    let https = RequestContext { scheme: Scheme::Https, ..RequestContext::default() };
    assert_eq!(selected(&table, &request("GET", "a.example", "/"), &https), "route_not_found");
}
