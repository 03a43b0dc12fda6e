use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;
use weir_config::model::{
    filter::{self, Attribute, AuthzPolicy, AuthzRule, Condition, ValueMatch},
    matcher::{FullRegex, StringMatch},
};

use super::Authz;
use crate::{
    connection::ConnectionInfo,
    filter::{
        RequestContext,
        claims::claims,
        test_support::{connection, info_of, request, tls_connection},
    },
    head::RequestHeader,
    local_reply::LocalReply,
};

fn exact(text: &str) -> ValueMatch {
    ValueMatch::String(StringMatch::Exact(text.into()))
}

fn starting(text: &str) -> ValueMatch {
    ValueMatch::String(StringMatch::Prefix(text.into()))
}

fn ending(text: &str) -> ValueMatch {
    ValueMatch::String(StringMatch::Suffix(text.into()))
}

fn present() -> ValueMatch {
    ValueMatch::String(StringMatch::Present)
}

fn cidr(text: &str) -> ValueMatch {
    ValueMatch::Cidr(text.parse().unwrap())
}

fn is(attribute: Attribute, values: &[ValueMatch]) -> Condition {
    Condition { attribute, values: values.into(), not_values: Arc::default() }
}

fn is_not(attribute: Attribute, values: &[ValueMatch]) -> Condition {
    Condition { attribute, values: Arc::default(), not_values: values.into() }
}

fn header(name: &'static str) -> Attribute {
    Attribute::Header(HeaderName::from_static(name))
}

fn to(conditions: &[Condition]) -> AuthzRule {
    AuthzRule { to: [Arc::from(conditions)].into(), ..AuthzRule::default() }
}

fn when(conditions: &[Condition]) -> AuthzRule {
    AuthzRule { when: conditions.into(), ..AuthzRule::default() }
}

fn policy(name: &str, rules: impl IntoIterator<Item = AuthzRule>) -> AuthzPolicy {
    AuthzPolicy {
        name: format!("ns[foo]-policy[{name}]").into(),
        dry_run: false,
        rules: rules.into_iter().collect(),
    }
}

fn dry(policy: AuthzPolicy) -> AuthzPolicy {
    AuthzPolicy { dry_run: true, ..policy }
}

fn policies(deny: &[AuthzPolicy], allow: &[AuthzPolicy]) -> filter::Authz {
    filter::Authz {
        deny: deny.into(),
        allow: allow.into(),
        audit: Arc::default(),
        unenforceable: Arc::default(),
    }
}

fn run_on(
    config: filter::Authz,
    request: &RequestHeader,
    context: &RequestContext,
    connection: ConnectionInfo,
) -> Result<(), LocalReply> {
    Authz::new(Arc::new(config)).on_request(request, context, &info_of(connection))
}

fn run(config: filter::Authz, request: &RequestHeader) -> Result<(), LocalReply> {
    run_on(config, request, &RequestContext::default(), connection("192.0.2.7:4711"))
}

fn details(outcome: Result<(), LocalReply>) -> String {
    outcome.map_or_else(|reply| reply.details.into_owned(), |()| "passed".to_owned())
}

/// istio-compat 1.9 "Evaluation", trap 14.
#[test]
fn denying_comes_first_then_one_has_to_allow() {
    let get = request("GET", "a.example", "/a");
    let all = || AuthzRule::default();
    let other = || to(&[is(Attribute::Path, &[exact("/other")])]);
    let denied = |name: &str, rule: usize| {
        format!("rbac_access_denied_matched_policy[ns[foo]-policy[{name}]-rule[{rule}]]")
    };
    let nobody = "rbac_access_denied_matched_policy[none]".to_owned();
    for (deny, allow, expected) in [
        (vec![], vec![], "passed".to_owned()),
        (vec![], vec![policy("all", [all()])], "passed".into()),
        (vec![], vec![policy("none", [])], nobody.clone()),
        (vec![], vec![policy("other", [other()])], nobody.clone()),
        (
            vec![],
            vec![policy("other", [other()]), policy("second", [other(), all()])],
            "passed".into(),
        ),
        (vec![policy("d", [other(), all()])], vec![policy("all", [all()])], denied("d", 1)),
        (vec![policy("d", [other()])], vec![], "passed".into()),
        (vec![policy("d", [])], vec![], "passed".into()),
        (vec![dry(policy("d", [all()]))], vec![], "passed".into()),
        (vec![dry(policy("d", [all()])), policy("e", [all()])], vec![], denied("e", 0)),
        (vec![], vec![dry(policy("none", []))], "passed".into()),
        (vec![], vec![dry(policy("all", [all()])), policy("other", [other()])], nobody),
    ] {
        let outcome = run(policies(&deny, &allow), &get);
        assert_eq!(details(outcome), expected, "deny {deny:?} allow {allow:?}");
    }
}

#[test]
fn a_denied_client_is_told_what_istio_tells_it() {
    let reply = run(policies(&[], &[policy("none", [])]), &request("GET", "a", "/")).unwrap_err();
    assert_eq!((reply.status, &*reply.body), (StatusCode::FORBIDDEN, &b"RBAC: access denied"[..]));
    assert_eq!(reply.flag, None);
}

#[test]
fn audit_only_reports() {
    let config =
        filter::Authz { audit: [policy("a", [AuthzRule::default()])].into(), ..policies(&[], &[]) };
    assert!(run(config, &request("GET", "a", "/")).is_ok());
}

#[test]
fn a_policy_that_cannot_be_enforced_denies_everything() {
    let config = filter::Authz {
        unenforceable: ["ns[foo]-policy[custom]".into()].into(),
        ..policies(&[], &[policy("all", [AuthzRule::default()])])
    };
    let expected = "rbac_access_denied_matched_policy[ns[foo]-policy[custom]]";
    assert_eq!(details(run(config, &request("GET", "a", "/"))), expected);
}

#[test]
fn sources_and_operations_are_alternatives_of_conjunctions() {
    let part = |path: &str, method: Method| -> Arc<[Condition]> {
        [is(Attribute::Path, &[exact(path)]), is(Attribute::Method, &[ValueMatch::Method(method)])]
            .into()
    };
    let rule = AuthzRule {
        from: [Arc::from([is(Attribute::SourceIp, &[cidr("192.0.2.0/24")])])].into(),
        to: [part("/a", Method::GET), part("/b", Method::POST)].into(),
        when: [is(header("x-a"), &[exact("1")])].into(),
    };
    for (method, path, value, peer, allowed) in [
        ("GET", "/a", "1", "192.0.2.7:1", true),
        ("POST", "/b", "1", "192.0.2.7:1", true),
        ("POST", "/a", "1", "192.0.2.7:1", false),
        ("GET", "/b", "1", "192.0.2.7:1", false),
        ("GET", "/a", "2", "192.0.2.7:1", false),
        ("GET", "/a", "1", "192.0.3.7:1", false),
    ] {
        let mut request = request(method, "a", path);
        request.headers.try_insert("x-a", value).unwrap();
        let config = policies(&[], &[policy("p", [rule.clone()])]);
        let outcome = run_on(config, &request, &RequestContext::default(), connection(peer));
        assert_eq!(outcome.is_ok(), allowed, "{method} {path} {value} {peer}");
    }
}

/// Whether a rule with this condition matches, asked by a policy that allows.
fn holds(
    condition: Condition,
    request: &RequestHeader,
    context: &RequestContext,
    connection: ConnectionInfo,
) -> bool {
    run_on(policies(&[], &[policy("p", [when(&[condition])])]), request, context, connection)
        .is_ok()
}

#[test]
fn every_attribute_of_the_connection_is_compared_as_what_it_is() {
    let client =
        || tls_connection("[::ffff:192.0.2.7]:4711", Some("spiffe://td.example/ns/shop/sa/web"));
    let stranger = || tls_connection("192.0.2.7:4711", None);
    let get = request("GET", "a", "/");
    let regex = |text: &str| ValueMatch::String(StringMatch::Regex(FullRegex::new(text).unwrap()));
    for (condition, of_client, of_stranger) in [
        (is(Attribute::SourcePrincipal, &[exact("td.example/ns/shop/sa/web")]), true, false),
        (
            is(Attribute::SourcePrincipal, &[exact("spiffe://td.example/ns/shop/sa/web")]),
            false,
            false,
        ),
        (is(Attribute::SourcePrincipal, &[present()]), true, false),
        (is(Attribute::SourcePrincipal, &[ending("/sa/web")]), true, false),
        (is(Attribute::SourcePrincipal, &[regex("td.example/ns/[a-z]+/sa/web")]), true, false),
        (is_not(Attribute::SourcePrincipal, &[exact("td.example/ns/shop/sa/web")]), false, true),
        (is(Attribute::SourceNamespace, &[exact("shop")]), true, false),
        (is(Attribute::SourceNamespace, &[exact("sho")]), false, false),
        (is(Attribute::SourceServiceAccount, &[exact("shop/web")]), true, false),
        (is(Attribute::SourceServiceAccount, &[exact("shop.web")]), false, false),
        (is(Attribute::SourceTrustDomain, &[exact("td.example")]), true, false),
        (is(Attribute::SourceIp, &[cidr("192.0.2.7/32")]), true, true),
        (is(Attribute::SourceIp, &[cidr("198.51.100.0/24"), cidr("192.0.2.0/24")]), true, true),
        (is_not(Attribute::SourceIp, &[cidr("192.0.0.0/16")]), false, false),
        (is(Attribute::DestinationIp, &[cidr("10.0.0.1/32")]), true, true),
        (is(Attribute::DestinationPort, &[ValueMatch::Port(443)]), true, true),
        (is(Attribute::DestinationPort, &[ValueMatch::Port(8080)]), false, false),
        (is(Attribute::ConnectionSni, &[exact("www.example.com")]), true, true),
        (is(Attribute::ConnectionSni, &[ending(".example.com")]), true, true),
    ] {
        let context = RequestContext::default();
        assert_eq!(
            holds(condition.clone(), &get, &context, client()),
            of_client,
            "client: {condition:?}"
        );
        assert_eq!(
            holds(condition.clone(), &get, &context, stranger()),
            of_stranger,
            "stranger: {condition:?}"
        );
    }
}

#[test]
fn only_an_identity_of_the_mesh_is_a_principal() {
    let any = is(Attribute::SourcePrincipal, &[present()]);
    let get = request("GET", "a", "/");
    for (uri, known) in [("spiffe://td/ns/n/sa/s", true), ("https://client.example/", false)] {
        let client = tls_connection("192.0.2.7:1", Some(uri));
        assert_eq!(holds(any.clone(), &get, &RequestContext::default(), client), known, "{uri}");
    }
    let odd = tls_connection("192.0.2.7:1", Some("spiffe://td/foo/n/sa/s"));
    let namespace = is(Attribute::SourceNamespace, &[present()]);
    assert!(!holds(namespace, &get, &RequestContext::default(), odd));
}

/// istio-compat trap 17.
#[test]
fn the_remote_address_is_the_clients_and_the_source_is_the_peers() {
    let get = request("GET", "a", "/");
    let mut info = info_of(connection("192.0.2.7:4711"));
    info.client_addr = "203.0.113.9:0".parse().unwrap();
    for (attribute, net, expected) in [
        (Attribute::RemoteIp, "203.0.113.0/24", true),
        (Attribute::RemoteIp, "192.0.2.0/24", false),
        (Attribute::SourceIp, "192.0.2.0/24", true),
        (Attribute::SourceIp, "203.0.113.0/24", false),
    ] {
        let rule = when(&[is(attribute.clone(), &[cidr(net)])]);
        let authz = Authz::new(Arc::new(policies(&[], &[policy("p", [rule])])));
        let outcome = authz.on_request(&get, &RequestContext::default(), &info);
        assert_eq!(outcome.is_ok(), expected, "{attribute:?} in {net}");
    }
}

/// istio-compat trap 15, advisory ISTIO-SECURITY-2021-008.
#[test]
fn hosts_match_without_case_and_with_or_without_the_port() {
    let context = RequestContext::default();
    for (values, host, expected) in [
        (vec![exact("Example.COM")], "example.com", true),
        (vec![exact("example.com")], "example.com:8080", true),
        (vec![exact("example.com:8080")], "example.com:8080", true),
        (vec![exact("example.com:8080")], "example.com", false),
        (vec![exact("example.com:8080")], "example.com:80", false),
        (vec![ending(".Example.com")], "a.example.com:80", true),
        (vec![starting("A.")], "a.example.com", true),
        (vec![ending(".example.com")], "example.com", false),
        (vec![exact("example.com")], "example.com.evil", false),
        (vec![present()], "x", true),
    ] {
        let peer = || connection("192.0.2.7:1");
        let get = request("GET", host, "/");
        assert_eq!(holds(is(Attribute::Host, &values), &get, &context, peer()), expected, "{host}");
        assert_eq!(
            holds(is_not(Attribute::Host, &values), &get, &context, peer()),
            !expected,
            "not {host}"
        );
        let denying = policies(&[policy("d", [to(&[is_not(Attribute::Host, &values)])])], &[]);
        assert_eq!(run(denying, &get).is_ok(), expected, "everything but {host} is denied");
    }
}

#[test]
fn methods_and_paths_are_compared_exactly() {
    let get = request("GET", "a", "/a/b?c=/d");
    let template = ValueMatch::PathTemplate(FullRegex::new("/a/[^/]+").unwrap());
    for (condition, expected) in [
        (is(Attribute::Method, &[ValueMatch::Method(Method::GET)]), true),
        (is(Attribute::Method, &[ValueMatch::Method(Method::POST)]), false),
        (is(Attribute::Method, &[starting("G")]), true),
        (is(Attribute::Method, &[exact("get")]), false),
        (is(Attribute::Path, &[exact("/a/b")]), true),
        (is(Attribute::Path, &[exact("/A/b")]), false),
        (is(Attribute::Path, &[starting("/a/")]), true),
        (is(Attribute::Path, &[ending("/d")]), false),
        (is(Attribute::Path, &[template]), true),
        (is_not(Attribute::Path, &[starting("/a")]), false),
    ] {
        let peer = connection("192.0.2.7:1");
        assert_eq!(
            holds(condition.clone(), &get, &RequestContext::default(), peer),
            expected,
            "{condition:?}"
        );
    }
}

#[test]
fn only_a_validated_token_has_claims() {
    let known = RequestContext {
        claims: Some(claims(json!({
            "iss": "https://issuer", "sub": "alice", "aud": ["web", "api"], "azp": "cli",
            "groups": ["dev", "ops"], "a": {"b": "c"}, "scope": "read write",
        }))),
        ..RequestContext::default()
    };
    let claim =
        |path: &[&str]| Attribute::RequestClaim(path.iter().map(|name| (*name).into()).collect());
    for (condition, expected) in [
        (is(Attribute::RequestPrincipal, &[exact("https://issuer/alice")]), true),
        (is(Attribute::RequestPrincipal, &[starting("https://issuer/")]), true),
        (is(Attribute::RequestPrincipal, &[present()]), true),
        (is(Attribute::RequestPrincipal, &[exact("alice")]), false),
        (is(Attribute::RequestAudiences, &[exact("api")]), true),
        (is(Attribute::RequestAudiences, &[exact("ap")]), false),
        (is(Attribute::RequestPresenter, &[exact("cli")]), true),
        (is(claim(&["groups"]), &[exact("ops")]), true),
        (is(claim(&["a", "b"]), &[exact("c")]), true),
        (is(claim(&["scope"]), &[exact("write")]), true),
        (is(claim(&["groups"]), &[exact("hr")]), false),
        (is_not(claim(&["groups"]), &[exact("ops")]), false),
        (is_not(claim(&["groups"]), &[exact("hr")]), true),
    ] {
        let get = request("GET", "a", "/");
        let peer = || connection("192.0.2.7:1");
        assert_eq!(holds(condition.clone(), &get, &known, peer()), expected, "{condition:?}");
        let anonymous = holds(condition.clone(), &get, &RequestContext::default(), peer());
        assert_eq!(anonymous, condition.values.is_empty(), "anonymous: {condition:?}");
    }
    let denying =
        policies(&[policy("d", [when(&[is_not(claim(&["groups"]), &[exact("ops")])])])], &[]);
    let outcome = run_on(denying, &request("GET", "a", "/"), &known, connection("192.0.2.7:1"));
    assert!(outcome.is_ok(), "one element of the list is the exception");
}

/// Hardening C5 (CVE-2021-32777, CVE-2026-26308).
#[test]
fn one_value_of_a_header_is_enough_to_deny_and_no_value_hides_another() {
    let values = |values: &[&str]| {
        let mut request = request("GET", "a", "/");
        for value in values {
            request.headers.try_append("x-role", *value).unwrap();
        }
        request
    };
    let admin = is(header("x-role"), &[exact("admin")]);
    let guest_only = is_not(header("x-role"), &[exact("guest")]);
    for (condition, sent, denied) in [
        (&admin, vec!["admin"], true),
        (&admin, vec!["guest", "admin"], true),
        (&admin, vec!["admin", "guest"], true),
        (&admin, vec!["guest"], false),
        (&admin, vec![], false),
        (&guest_only, vec!["guest"], false),
        (&guest_only, vec!["guest", "guest"], false),
        (&guest_only, vec!["guest", "admin"], true),
        (&guest_only, vec!["admin", "guest"], true),
        (&guest_only, vec![], true),
    ] {
        let outcome = run(
            policies(&[policy("d", [when(std::slice::from_ref(condition))])], &[]),
            &values(&sent),
        );
        assert_eq!(outcome.is_err(), denied, "{condition:?} {sent:?}");
    }
    for (condition, sent, allowed) in [
        (&admin, vec!["guest", "admin"], true),
        (&admin, vec!["guest"], false),
        (&guest_only, vec!["guest", "admin"], false),
        (&guest_only, vec!["admin"], true),
    ] {
        let outcome = run(
            policies(&[], &[policy("a", [when(std::slice::from_ref(condition))])]),
            &values(&sent),
        );
        assert_eq!(outcome.is_ok(), allowed, "{condition:?} {sent:?}");
    }
}

#[test]
fn bytes_that_are_no_text_do_not_hide_a_value() {
    let mut get = request("GET", "a", "/");
    get.headers.try_append("x-role", HeaderValue::from_bytes(b"admin\xff").unwrap()).unwrap();
    let denying = |value| policies(&[policy("d", [when(&[is(header("x-role"), &[value])])])], &[]);
    assert!(run(denying(starting("admin")), &get).is_err());
    assert!(run(denying(present()), &get).is_err());
}

#[test]
fn a_header_that_is_empty_is_not_present() {
    let mut get = request("GET", "a", "/");
    get.headers.try_append("x-role", "").unwrap();
    let peer = connection("192.0.2.7:1");
    assert!(!holds(is(header("x-role"), &[present()]), &get, &RequestContext::default(), peer));
}
