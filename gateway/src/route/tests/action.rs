use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderName, HeaderValue, StatusCode};
use weir_config::model::{
    self,
    route::{
        DirectResponse, Forward, HeaderMutation, HeaderTemplate, PathRewrite, Redirect,
        RedirectPath, RedirectPort, RouteAction, RouteMatch, Scheme,
    },
};

use super::{any, cluster, exact, forward, prefix, route};
use crate::{
    filter::{
        RequestContext,
        test_support::{connection, info, info_of, request},
    },
    local_reply::LocalReply,
    route::Route,
};

fn ready(matcher: RouteMatch, action: RouteAction) -> Route {
    Route::new(Arc::new(model::Route { action, ..route("r", matcher) }))
}

fn answer(route: &Route, host: &str, path: &str, scheme: Scheme) -> LocalReply {
    let context = RequestContext { scheme, ..RequestContext::default() };
    let mut info = info_of(model_connection());
    let mut rng = fastrand::Rng::with_seed(1);
    route.forward(&mut request("GET", host, path), &context, &mut info, &mut rng).unwrap_err()
}

fn model_connection() -> crate::connection::ConnectionInfo {
    crate::connection::ConnectionInfo { port: 8443, ..connection("192.0.2.7:4711") }
}

fn set(name: &'static str, value: &'static str) -> HeaderMutation {
    HeaderMutation {
        set: [(
            HeaderName::from_static(name),
            HeaderTemplate::Literal(HeaderValue::from_static(value)),
        )]
        .into(),
        ..HeaderMutation::default()
    }
}

#[test]
fn clusters_are_chosen_by_weight() {
    let clusters = vec![cluster("a", 1), cluster("b", 7), cluster("c", 2)];
    let route = ready(any(), RouteAction::Forward(forward(clusters)));
    let mut rng = fastrand::Rng::with_seed(42);
    let mut chosen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..10_000 {
        let (mut request, mut info) = (request("GET", "a", "/"), info());
        let context = RequestContext::default();
        let destination = route.forward(&mut request, &context, &mut info, &mut rng).unwrap();
        let name = destination.cluster.cluster.to_string();
        assert_eq!(info.upstream.cluster_name.as_deref(), Some(&*name));
        *chosen.entry(name).or_default() += 1;
    }
    for (name, expected) in [("a", 1_000), ("b", 7_000), ("c", 2_000)] {
        assert!(chosen[name].abs_diff(expected) < 200, "{chosen:?}");
    }
}

#[test]
fn one_cluster_needs_no_weight() {
    let route = ready(any(), RouteAction::Forward(forward(vec![cluster("only", 0)])));
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut request, mut info) = (request("GET", "a", "/"), info());
    let destination =
        route.forward(&mut request, &RequestContext::default(), &mut info, &mut rng).unwrap();
    assert_eq!(destination.cluster.cluster.as_str(), "only");
}

#[test]
fn a_forwarded_request_is_rewritten() {
    let mut weighted = cluster("c", 1);
    weighted.request_headers = set("x-by", "cluster");
    weighted.host_rewrite = Some("cluster.example".into());
    let action = Forward {
        path_rewrite: Some(PathRewrite::Prefix("/v2/".into())),
        host_rewrite: Some("route.example".into()),
        ..forward(vec![weighted])
    };
    let route = Route::new(Arc::new(model::Route {
        action: RouteAction::Forward(action),
        request_headers: set("x-by", "route"),
        ..route("r", prefix("/v1/"))
    }));
    let context = RequestContext { append_forwarded_host: true, ..RequestContext::default() };
    let mut request = request("GET", "public.example", "/v1/a%20b?q=/v1/");
    route.forward(&mut request, &context, &mut info(), &mut fastrand::Rng::with_seed(1)).unwrap();
    assert_eq!(request.uri, "/v2/a%20b?q=/v1/");
    assert_eq!(request.headers["x-envoy-original-path"], "/v1/a%20b?q=/v1/");
    assert_eq!(
        request.headers["host"], "route.example",
        "the route's host wins over the cluster's"
    );
    assert_eq!(request.headers["x-forwarded-host"], "public.example");
    assert_eq!(
        request.headers["x-by"], "cluster",
        "the cluster's fields are set after the route's"
    );
}

#[test]
fn a_request_that_is_not_rewritten_stays_as_it_is() {
    let action = Forward {
        path_rewrite: Some(PathRewrite::Prefix("/a".into())),
        ..forward(vec![cluster("c", 1)])
    };
    let route = ready(prefix("/a"), RouteAction::Forward(action));
    let mut request = request("GET", "public.example", "/a/b");
    let context = RequestContext { append_forwarded_host: true, ..RequestContext::default() };
    route.forward(&mut request, &context, &mut info(), &mut fastrand::Rng::with_seed(1)).unwrap();
    assert_eq!(request.uri, "/a/b");
    for name in ["x-envoy-original-path", "x-forwarded-host"] {
        assert!(!request.headers.contains_key(name), "{name}");
    }
}

#[test]
fn a_rewrite_cannot_climb_out_of_what_it_maps_to() {
    let action = Forward {
        path_rewrite: Some(PathRewrite::Prefix("/static/".into())),
        ..forward(vec![cluster("c", 1)])
    };
    let route = ready(prefix("/a"), RouteAction::Forward(action));
    let mut rng = fastrand::Rng::with_seed(1);
    for path in ["/a../secret", "/a..", "/a./x"] {
        let mut request = request("GET", "h", path);
        let refused =
            route.forward(&mut request, &RequestContext::default(), &mut info(), &mut rng);
        assert_eq!(refused.unwrap_err().status, StatusCode::BAD_REQUEST, "{path}");
    }
}

/// What a redirect replaces, and where that leads from a request.
type Row = (fn(&mut Redirect), Scheme, &'static str, &'static str, &'static str);

const REDIRECTS: [Row; 14] = {
    use RedirectPort::{FromProtocolDefault, FromRequestPort, Number};
    use Scheme::{Http, Https};
    [
        (|to| to.path = full("/new"), Http, "a.example", "/v1?q=1", "http://a.example/new?q=1"),
        (|to| to.path = full("/new?x=y"), Http, "a.example", "/v1?q", "http://a.example/new?x=y"),
        (|to| to.path = full("new"), Http, "a.example", "/v1", "http://a.example/new"),
        (|to| to.path = start("/v2"), Http, "a.example", "/v1/x?q", "http://a.example/v2/x?q"),
        (
            |to| to.authority = host("b.example"),
            Https,
            "a.example",
            "/v1?q",
            "https://b.example/v1?q",
        ),
        (|to| to.authority = host("b.example"), Http, "a.example:81", "/v1", "http://b.example/v1"),
        (|to| to.scheme = Some(Https), Http, "a.example:80", "/v1", "https://a.example/v1"),
        (|to| to.scheme = Some(Https), Http, "a.example:81", "/v1", "https://a.example:81/v1"),
        (|to| to.scheme = Some(Http), Https, "a.example:443", "/v1", "http://a.example/v1"),
        (
            |to| to.port = Some(Number(8443)),
            Https,
            "a.example:444",
            "/v1",
            "https://a.example:8443/v1",
        ),
        (|to| to.port = Some(Number(443)), Https, "a.example:444", "/v1", "https://a.example/v1"),
        (|to| to.port = Some(Number(81)), Http, "[::1]:80", "/v1", "http://[::1]:81/v1"),
        (
            |to| to.port = Some(FromProtocolDefault),
            Http,
            "a.example:81",
            "/v1",
            "http://a.example/v1",
        ),
        (
            |to| to.port = Some(FromRequestPort),
            Https,
            "a.example",
            "/v1",
            "https://a.example:8443/v1",
        ),
    ]
};

fn full(path: &str) -> Option<RedirectPath> {
    Some(RedirectPath::Full(path.into()))
}

fn start(path: &str) -> Option<RedirectPath> {
    Some(RedirectPath::Prefix(path.into()))
}

fn host(name: &str) -> Option<Arc<str>> {
    Some(name.into())
}

#[test]
fn a_redirect_keeps_what_it_does_not_replace() {
    for (edit, scheme, host, path, location) in REDIRECTS {
        let mut redirect = Redirect {
            path: None,
            authority: None,
            scheme: None,
            port: None,
            code: StatusCode::FOUND,
        };
        edit(&mut redirect);
        let route = ready(prefix("/v1"), RouteAction::Redirect(redirect));
        let reply = answer(&route, host, path, scheme);
        assert_eq!(reply.status, StatusCode::FOUND);
        let (name, value) = &reply.headers[0];
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("location", location));
        assert_eq!(reply.flag, None);
    }
}

#[test]
fn a_direct_response_carries_the_routes_response_headers() {
    let action = DirectResponse {
        status: StatusCode::SERVICE_UNAVAILABLE,
        body: "later".into(),
        stands_for: None,
    };
    let route = Route::new(Arc::new(model::Route {
        action: RouteAction::DirectResponse(action),
        response_headers: set("retry-after", "60"),
        ..route("r", exact("/"))
    }));
    let reply = answer(&route, "a.example", "/", Scheme::Http);
    assert_eq!((reply.status, &*reply.body), (StatusCode::SERVICE_UNAVAILABLE, &b"later"[..]));
    assert_eq!(
        reply.headers.to_vec(),
        [(http::header::RETRY_AFTER, HeaderValue::from_static("60"))]
    );
    assert_eq!(reply.details, "direct_response");
}
