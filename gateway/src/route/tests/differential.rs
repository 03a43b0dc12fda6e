//! The index against a scan in order, on random tables, and the work it does on large ones.

use std::{cell::Cell, sync::LazyLock};

use fastrand::Rng;
use http::HeaderName;
use weir_config::model::{
    matcher::{FullRegex, StringMatch},
    route::{HeaderMatch, PathMatch, RouteMatch, Scheme},
};

use super::{any, exact, header, is, prefix, query};
use crate::{
    filter::{RequestContext, test_support::request},
    head::RequestHeader,
    route::{
        index::{Matchers, RouteIndex},
        matcher::{Subject, matches},
    },
};

/// A list that counts how often one of it is tried.
struct Counted<'a> {
    matchers: &'a [RouteMatch],
    tried: Cell<usize>,
}

impl<'a> Counted<'a> {
    fn new(matchers: &'a [RouteMatch]) -> Self {
        Self { matchers, tried: Cell::new(0) }
    }
}

impl Matchers for Counted<'_> {
    fn matcher(&self, position: usize) -> &RouteMatch {
        self.tried.set(self.tried.get() + 1);
        &self.matchers[position]
    }
}

fn index(matchers: &[RouteMatch]) -> RouteIndex {
    RouteIndex::new(&matchers.iter().collect::<Vec<_>>())
}

const HEADERS: [&str; 12] =
    ["x-a", "x-b", "x-c", "x-d", "x-e", "x-f", "x-g", "x-h", "x-i", "x-j", "x-k", "x-l"];

/// Compiled once: compiling is most of the time of a random table.
static VALUE: LazyLock<FullRegex> = LazyLock::new(|| FullRegex::new("1.?|,").unwrap());
static PATH: LazyLock<FullRegex> = LazyLock::new(|| FullRegex::new("/a.*|/b").unwrap());

fn pick<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(0..of.len())]
}

fn random_path(rng: &mut Rng) -> String {
    (0..rng.usize(0..5)).fold(String::new(), |path, _| {
        path + pick(rng, &["/", "/a", "/b", "/A", "a", "/ab", "/a/b"])
    })
}

fn random_value(rng: &mut Rng) -> StringMatch {
    let text = pick(rng, &["1", "2", "3", "12", ""]);
    match rng.u8(0..10) {
        0 => StringMatch::Prefix(text.into()),
        1 => StringMatch::Suffix(text.into()),
        2 => StringMatch::Present,
        3 => StringMatch::Regex(VALUE.clone()),
        _ => is(text),
    }
}

fn random_match(rng: &mut Rng, names: usize) -> RouteMatch {
    let path = random_path(rng);
    let maybe = |rng: &mut Rng, share: f64| rng.f64() < share;
    let headers = (0..rng.usize(0..3)).map(|_| HeaderMatch {
        invert: rng.u8(0..5) == 0,
        ..header(HEADERS[rng.usize(0..names)], random_value(rng))
    });
    let headers = headers.collect::<Vec<_>>();
    let params = (0..rng.usize(0..2)).map(|_| {
        let name = HEADERS[rng.usize(0..names)];
        query(name, random_value(rng))
    });
    let query_params = params.collect::<Vec<_>>();
    let mut matcher = RouteMatch {
        path: match rng.u8(0..10) {
            0 => PathMatch::Any,
            1..=3 => PathMatch::Exact(path.as_str().into()),
            4..=6 => PathMatch::Prefix(path.as_str().into()),
            7 | 8 => PathMatch::SegmentPrefix(path.as_str().into()),
            _ => PathMatch::Regex(PATH.clone()),
        },
        ignore_path_case: maybe(rng, 0.2),
        method: maybe(rng, 0.3).then(|| is(pick(rng, &["GET", "POST"]))),
        scheme: maybe(rng, 0.1).then(|| is("https")),
        authority: maybe(rng, 0.2).then(|| is(pick(rng, &["a", "b"]))),
        headers: headers.into(),
        query_params: query_params.into(),
        ..any()
    };
    if maybe(rng, 0.4) {
        matcher.headers = [].into();
        matcher.query_params = [].into();
    }
    matcher
}

fn random_request(rng: &mut Rng) -> (RequestHeader, RequestContext) {
    let query: Vec<String> = (0..rng.usize(0..14))
        .map(|_| format!("{}={}", HEADERS[rng.usize(0..12)], pick(rng, &["1", "2", "12", ""])))
        .collect();
    let target = format!("/{}?{}", random_path(rng).trim_start_matches('/'), query.join("&"));
    let mut request = request(pick(rng, &["GET", "POST"]), pick(rng, &["a", "b"]), &target);
    for _ in 0..rng.usize(0..14) {
        let name = HeaderName::from_static(HEADERS[rng.usize(0..12)]);
        request.headers.try_append(name, pick(rng, &["1", "2", "3", "12", ""])).unwrap();
    }
    let scheme = if rng.bool() { Scheme::Http } else { Scheme::Https };
    (request, RequestContext { scheme, ..RequestContext::default() })
}

#[test]
fn the_index_finds_what_a_scan_finds_and_tries_no_more() {
    for seed in 0..2_500 {
        let mut rng = Rng::with_seed(seed);
        let routes = [3, 10, 60, 200][rng.usize(0..4)];
        let names = if rng.bool() { 3 } else { 12 };
        let matchers: Vec<_> = (0..routes).map(|_| random_match(&mut rng, names)).collect();
        let index = index(&matchers);
        for _ in 0..8 {
            let (request, context) = random_request(&mut rng);
            let subject = Subject { request: &request, context: &context };
            let expected = matchers.iter().position(|matcher| matches(matcher, subject));
            let counted = Counted::new(&matchers);
            let found = index.find(&counted, subject);
            assert_eq!(found, expected, "seed {seed}: {} of {matchers:#?}", request.uri);
            let scanned = expected.map_or(matchers.len(), |position| position + 1);
            assert!(
                counted.tried.get() <= scanned,
                "seed {seed}: {} of {scanned}",
                counted.tried.get()
            );
        }
    }
}

const MANY: usize = 10_000;

fn with_header(matcher: RouteMatch, name: &'static str, value: &str) -> RouteMatch {
    RouteMatch { headers: [header(name, is(value))].into(), ..matcher }
}

/// How many of the routes are tried for a request that takes the one at `position`.
fn tried(matchers: &[RouteMatch], request: &RequestHeader, position: usize) -> usize {
    let counted = Counted::new(matchers);
    let context = RequestContext::default();
    let found = index(matchers).find(&counted, Subject { request, context: &context });
    assert_eq!(found, Some(position));
    counted.tried.get()
}

#[test]
fn ten_thousand_exact_and_prefix_routes_are_looked_up() {
    let exacts: Vec<_> = (0..MANY).map(|i| exact(&format!("/route/{i}"))).collect();
    assert_eq!(tried(&exacts, &request("GET", "a", "/route/9999"), 9_999), 0);

    let prefixes: Vec<_> = (0..MANY).map(|i| prefix(&format!("/service-{i}/"))).collect();
    assert_eq!(tried(&prefixes, &request("GET", "a", "/service-9999/x"), 9_999), 0);

    let mut mixed: Vec<_> = (0..MANY)
        .map(|i| if i % 2 == 0 { exact(&format!("/{i}")) } else { prefix(&format!("/{i}/")) })
        .collect();
    mixed.push(prefix("/"));
    assert_eq!(tried(&mixed, &request("GET", "a", "/9999/x"), 9_999), 0);
    assert_eq!(tried(&mixed, &request("GET", "a", "/none"), MANY), 0);

    let folded: Vec<_> = (0..MANY)
        .map(|i| RouteMatch { ignore_path_case: true, ..prefix(&format!("/Service-{i}/")) })
        .collect();
    assert_eq!(tried(&folded, &request("GET", "a", "/SERVICE-9999/x"), 9_999), 0);
}

#[test]
fn ten_thousand_routes_of_one_path_are_told_apart_by_what_else_they_need() {
    let tenants: Vec<_> =
        (0..MANY).map(|i| with_header(prefix("/"), "x-tenant", &i.to_string())).collect();
    let mut get = request("GET", "a", "/x?user=9999");
    get.headers.try_insert("x-tenant", "9999").unwrap();
    get.headers.try_insert("x-version", "99").unwrap();
    assert_eq!(tried(&tenants, &get, 9_999), 1);

    let users: Vec<_> = (0..MANY)
        .map(|i| RouteMatch { query_params: [query("user", is(&i.to_string()))].into(), ..any() })
        .collect();
    assert_eq!(tried(&users, &get, 9_999), 1);

    // 100 paths with 100 versions each, all GET.
    let grid: Vec<_> = (0..MANY)
        .map(|i| RouteMatch {
            method: Some(is("GET")),
            ..with_header(prefix(&format!("/{}/", i / 100)), "x-version", &(i % 100).to_string())
        })
        .collect();
    let mut grid_request = request("GET", "a", "/99/");
    grid_request.headers.try_insert("x-version", "99").unwrap();
    assert!(tried(&grid, &grid_request, 9_999) <= 2);

    // Two headers in the same path's routes, half of them each.
    let halves: Vec<_> = (0..MANY)
        .map(|i| {
            let name = if i % 2 == 0 { "x-other" } else { "x-tenant" };
            with_header(exact("/x"), name, &i.to_string())
        })
        .collect();
    assert!(tried(&halves, &get, 9_999) <= 2);
}

#[test]
fn a_chain_of_ten_thousand_prefixes_is_not_walked() {
    let path = format!("/{}", "a".repeat(MANY));
    let longest_first: Vec<_> = (1..=MANY).rev().map(|end| prefix(&path[..end])).collect();
    assert_eq!(tried(&longest_first, &request("GET", "a", &path), 0), 0);
    assert_eq!(tried(&longest_first, &request("GET", "a", "/"), MANY - 1), 0);

    let shortest_first: Vec<_> = (1..=MANY).map(|end| prefix(&path[..end])).collect();
    assert_eq!(tried(&shortest_first, &request("GET", "a", &path), 0), 0);
}

#[test]
fn many_prefixes_of_one_path_that_need_more_are_tried_in_order() {
    let path = format!("/{}", "a".repeat(100));
    let chain: Vec<_> = (1..=100)
        .rev()
        .map(|end| with_header(prefix(&path[..end]), "x-a", "1"))
        .chain([prefix("/")])
        .collect();
    let mut get = request("GET", "a", &path);
    assert_eq!(tried(&chain, &get, 100), 100);
    get.headers.try_insert("x-a", "1").unwrap();
    assert_eq!(tried(&chain, &get, 0), 1);
}

#[test]
fn a_scan_is_never_longer_than_it_has_to_be() {
    // Needed whenever the path matches, whatever the index does.
    let patterns: Vec<_> = (0..100)
        .map(|i| RouteMatch {
            path: PathMatch::Regex(FullRegex::new(&format!("/p{i}/.*")).unwrap()),
            ..any()
        })
        .chain([prefix("/")])
        .collect();
    assert_eq!(tried(&patterns, &request("GET", "a", "/p10/x"), 10), 11);
}
