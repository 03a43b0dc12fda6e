//! The order of the filters, pinned.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};
use weir_config::model::{
    filter::{
        AbortStatus, Authz, AuthzPolicy, Cors, Fault, FaultAbort, JwksSource, JwtAuthn,
        JwtLocation, JwtRule,
    },
    matcher::StringMatch,
    route::{HeaderMutation, HeaderTemplate},
};

use super::*;
use crate::{
    filter::test_support::{info, request},
    head::ResponseHeader,
};

fn jwt() -> JwtAuthn {
    let rule = JwtRule {
        origin: "ns/jwt".into(),
        issuer: "issuer".into(),
        audiences: Arc::default(),
        keys: JwksSource::Inline(r#"{"keys":[]}"#.into()),
        locations: [JwtLocation::QueryParam("token".into())].into(),
        output_payload_to_header: None,
        output_claim_to_headers: Arc::default(),
        forward_original_token: false,
        space_delimited_claims: Arc::default(),
        timeout: Duration::from_secs(5),
    };
    JwtAuthn { rules: [rule].into() }
}

fn nobody_allowed() -> Authz {
    Authz {
        deny: Arc::default(),
        allow: [AuthzPolicy { name: "p".into(), dry_run: false, rules: Arc::default() }].into(),
        audit: Arc::default(),
        unenforceable: Arc::default(),
    }
}

fn filters(jwt_authn: Option<JwtAuthn>, authz: Option<Authz>) -> HttpFilters {
    let policies =
        WorkloadPolicies { jwt_authn: jwt_authn.map(Arc::new), authz: authz.map(Arc::new) };
    HttpFilters::next(&HttpFilters::default(), &Arc::new(policies))
}

fn route() -> RouteFilters {
    let cors = Cors {
        allow_origins: [StringMatch::Exact("https://shop.example".into())].into(),
        allow_methods: None,
        allow_headers: None,
        expose_headers: None,
        max_age: None,
        allow_credentials: None,
        forward_unmatched_preflights: true,
    };
    let abort =
        FaultAbort { status: AbortStatus::Http(StatusCode::IM_A_TEAPOT), per_million: 1_000_000 };
    let set = (
        HeaderName::from_static("access-control-allow-origin"),
        HeaderTemplate::Literal(HeaderValue::from_static("operator")),
    );
    RouteFilters {
        cors: Some(cors::Cors::new(&cors)),
        fault: Some(Arc::new(Fault { delay: None, abort: Some(abort) })),
        response_headers: HeaderMutation { set: [set].into(), ..HeaderMutation::default() },
    }
}

/// The status of whichever filter answers first, to a request all of them have something against.
async fn first(filters: &HttpFilters, preflight: bool) -> u16 {
    let mut request = request(if preflight { "OPTIONS" } else { "GET" }, "a", "/?token=x");
    request.headers.try_insert("origin", "https://shop.example").unwrap();
    if preflight {
        request.headers.try_insert("access-control-request-method", "GET").unwrap();
    }
    let (mut context, mut info, route) = (RequestContext::default(), info(), route());
    let outcome = match filters.authenticate(&route, &mut request, &mut context, &mut info) {
        Ok(()) => filters.on_request(&route, &request, &mut context, &mut info).await,
        Err(reply) => Err(reply),
    };
    outcome.map_or_else(|reply| reply.status.as_u16(), |()| 0)
}

#[tokio::test]
async fn preflight_then_jwt_then_authz_then_fault() {
    assert_eq!(
        first(&filters(Some(jwt()), Some(nobody_allowed())), true).await,
        200,
        "preflights need no credentials"
    );
    assert_eq!(
        first(&filters(Some(jwt()), Some(nobody_allowed())), false).await,
        401,
        "who comes before may they"
    );
    assert_eq!(
        first(&filters(None, Some(nobody_allowed())), false).await,
        403,
        "a fault is for who would be served"
    );
    assert_eq!(first(&filters(None, None), false).await, 418);
}

#[test]
fn the_operators_response_headers_win_over_the_filters() {
    let (request, route) = (request("GET", "a", "/"), route());
    let origin = HeaderValue::from_static("https://shop.example");
    let context = RequestContext { cors_origin: Some(origin.clone()), ..RequestContext::default() };
    let mut response = ResponseHeader::new(StatusCode::OK);
    route.on_response(&HeaderMutation::default(), &request, &mut response, &context, &info());
    assert_eq!(response.headers["access-control-allow-origin"], "operator");

    let without = RouteFilters { response_headers: HeaderMutation::default(), ..route };
    without.on_response(&HeaderMutation::default(), &request, &mut response, &context, &info());
    assert_eq!(response.headers["access-control-allow-origin"], origin);
}

#[tokio::test]
async fn a_browser_may_read_why_it_is_refused() {
    let mut request = request("GET", "a", "/?token=x");
    request.headers.try_insert("origin", "https://shop.example").unwrap();
    for filters in [filters(Some(jwt()), None), filters(None, Some(nobody_allowed()))] {
        let (mut context, mut info, route) = (RequestContext::default(), info(), route());
        let mut reply = match filters.authenticate(&route, &mut request, &mut context, &mut info) {
            Ok(()) => {
                filters.on_request(&route, &request, &mut context, &mut info).await.unwrap_err()
            }
            Err(reply) => reply,
        };
        route.on_local_reply(&context, &mut reply);
        let origins: Vec<_> = reply
            .headers
            .iter()
            .filter(|(name, _)| name == "access-control-allow-origin")
            .collect();
        assert_eq!(origins.len(), 1, "{:?}", reply.status);
        assert_eq!(origins[0].1, "https://shop.example");
    }
}
