use std::sync::Arc;

use weir_config::model::{
    self, RouteTableName, VirtualHostName,
    matcher::HostPattern,
    route::{ClaimMatch, RouteMatch},
};

use super::{any, delta, is, prefix, route, selected, table, virtual_host};
use crate::{
    filter::{RequestContext, test_support::request},
    route::{RouteTables, VirtualHost},
};

fn name() -> RouteTableName {
    RouteTableName::new("http.80")
}

fn host<'a>(tables: &'a RouteTables, domain: &str) -> &'a Arc<VirtualHost> {
    tables.virtual_hosts.get(format!("http.80|{domain}").as_str()).unwrap()
}

fn taken(tables: &RouteTables, domain: &str) -> String {
    match tables.find(&name()) {
        Ok(table) => selected(table, &request("GET", domain, "/"), &RequestContext::default()),
        Err(reply) => reply.details.into_owned(),
    }
}

#[test]
fn a_change_rebuilds_only_the_virtual_host_it_is_about() {
    let hosts = ["a.example", "b.example", "*.example", "*"];
    let all = hosts.map(|domain| virtual_host(domain, vec![route(domain, any())])).to_vec();
    let first = RouteTables::next(&RouteTables::default(), &delta(all));
    let second = RouteTables::next(
        &first,
        &delta(vec![virtual_host("a.example", vec![route("new", any())])]),
    );
    for domain in ["b.example", "*.example", "*"] {
        assert!(Arc::ptr_eq(host(&first, domain), host(&second, domain)), "{domain}");
    }
    assert_eq!(
        (taken(&first, "a.example"), taken(&second, "a.example")),
        ("a.example".into(), "new".into())
    );
    assert_eq!(taken(&second, "b.example"), "b.example");
}

#[test]
fn routes_that_stay_in_place_are_the_same_objects() {
    let routes: Vec<_> =
        (0..3).map(|i| Arc::new(route(&i.to_string(), prefix(&format!("/{i}"))))).collect();
    let before = model::VirtualHost { routes: routes.clone().into(), ..virtual_host("a", vec![]) };
    let mut changed = routes;
    changed[1] = Arc::new(route("new", prefix("/1")));
    let after = model::VirtualHost { routes: changed.into(), ..before.clone() };
    let first = RouteTables::next(&RouteTables::default(), &delta(vec![before]));
    let route_of = |tables: &RouteTables, path: &str| {
        let request = request("GET", "a", path);
        let table = tables.find(&name()).unwrap();
        Arc::clone(table.select(&request, &RequestContext::default()).unwrap())
    };
    for path in ["/0", "/1", "/2"] {
        route_of(&first, path);
    }
    let second = RouteTables::next(&first, &delta(vec![after]));
    let same = ["/0", "/1", "/2"]
        .map(|path| Arc::ptr_eq(&route_of(&first, path), &route_of(&second, path)));
    assert_eq!(same, [true, false, true]);
}

#[test]
fn all_domains_of_a_host_have_one_list_of_routes_that_is_ready_when_one_is_called() {
    let domains = ["web.shop.svc", "web.shop", "*.web.shop.svc", "10.0.0.1"];
    let web = model::VirtualHost {
        aliases: domains[1..].iter().map(|domain| HostPattern::parse(domain)).collect(),
        ..virtual_host(domains[0], vec![route("web", any())])
    };
    let other = virtual_host("other", vec![route("other", any())]);
    let first = RouteTables::next(&RouteTables::default(), &delta(vec![web.clone(), other]));
    let are_ready = |domain: &str| host(&first, domain).routes.are_ready();
    assert!(!are_ready("web.shop.svc"));
    for domain in ["web.shop.svc", "web.shop", "pod-0.web.shop.svc", "10.0.0.1"] {
        assert_eq!(taken(&first, domain), "web", "{domain}");
    }
    assert!(are_ready("web.shop.svc"));
    assert!(!are_ready("other"), "nobody called it");

    let fewer = model::VirtualHost { aliases: [HostPattern::parse("web")].into(), ..web };
    let second = RouteTables::next(&first, &delta(vec![fewer]));
    assert_eq!(taken(&second, "web"), "web");
    assert_eq!(taken(&second, "web.shop"), "route_not_found");
}

#[test]
fn many_routes_are_ready_before_a_request_comes() {
    let many = (0..100).map(|i| route(&i.to_string(), prefix(&format!("/{i}")))).collect();
    let tables = RouteTables::next(&RouteTables::default(), &delta(vec![virtual_host("a", many)]));
    assert!(host(&tables, "a").routes.are_ready());
}

#[test]
fn a_removed_virtual_host_is_gone_and_an_empty_table_with_it() {
    let first = RouteTables::next(
        &RouteTables::default(),
        &delta(vec![
            virtual_host("a", vec![route("a", any())]),
            virtual_host("*", vec![route("*", any())]),
        ]),
    );
    let removal = |domain: &str| {
        let name = VirtualHostName::new(format!("http.80|{domain}"));
        model::Delta { virtual_hosts: [(name, None)].into(), ..model::Delta::default() }
    };
    let second = RouteTables::next(&first, &removal("a"));
    assert_eq!(taken(&second, "a"), "*");
    let third = RouteTables::next(&second, &removal("*"));
    assert_eq!(third.find(&name()).unwrap_err().status, http::StatusCode::NOT_FOUND);
    assert_eq!(taken(&first, "a"), "a", "earlier tables are what they were");
    assert_eq!(taken(&RouteTables::next(&third, &removal("never-there")), "a"), "route_not_found");
}

#[test]
fn a_domain_can_pass_from_one_virtual_host_to_another() {
    for (old, new) in [("http.80|1", "http.80|2"), ("http.80|2", "http.80|1")] {
        let named = |name: &str, target: &str| model::VirtualHost {
            name: VirtualHostName::new(name),
            ..virtual_host("a", vec![route(target, any())])
        };
        let first = RouteTables::next(&RouteTables::default(), &delta(vec![named(old, "old")]));
        let mut change = delta(vec![named(new, "new")]);
        change.virtual_hosts.insert(VirtualHostName::new(old), None);
        assert_eq!(taken(&RouteTables::next(&first, &change), "a"), "new", "{old} to {new}");
    }
}

#[test]
fn a_virtual_host_can_change_its_domain_and_its_table() {
    let before = virtual_host("a", vec![route("before", any())]);
    let other = RouteTableName::new("https.443");
    let after = model::VirtualHost {
        name: before.name.clone(),
        route_table: other.clone(),
        ..virtual_host("b", vec![route("after", any())])
    };
    let first = RouteTables::next(&RouteTables::default(), &delta(vec![before]));
    let second = RouteTables::next(&first, &delta(vec![after]));
    assert!(second.find(&name()).is_err());
    let table = second.find(&other).unwrap();
    assert_eq!(selected(table, &request("GET", "b", "/"), &RequestContext::default()), "after");
}

#[test]
fn a_table_knows_whether_claims_decide() {
    let with_claims = RouteMatch {
        claims: [ClaimMatch { path: ["a".into()].into(), value: is("b"), invert: false }].into(),
        ..any()
    };
    let plain = vec![virtual_host("a", vec![route("a", any())])];
    assert!(!table(plain.clone()).has_claim_matches());
    let first = RouteTables::next(
        &RouteTables::default(),
        &delta(vec![virtual_host("a", vec![route("a", with_claims)]), virtual_host("b", vec![])]),
    );
    assert!(first.find(&name()).unwrap().has_claim_matches());
    let second = RouteTables::next(&first, &delta(plain));
    assert!(!second.find(&name()).unwrap().has_claim_matches());
}
