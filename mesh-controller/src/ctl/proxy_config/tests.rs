use serde_json::{Value, json};

use super::{cluster, endpoint, listener, route, secret};

/// Cells of a row under the heading; those that are empty are left out.
fn cells(table: &str, row: usize) -> Vec<&str> {
    let line = table.lines().nth(row + 1).unwrap();
    line.split("     ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

fn dump() -> Value {
    json!({
        "listeners": {
            "0.0.0.0_8080": {"name": "0.0.0.0_8080", "kind": "http", "address": {"ip": "0.0.0.0:8080"}},
            "0.0.0.0_8443": {"name": "0.0.0.0_8443", "kind": "tls", "address": {"ip": "[::1]:8443"}},
        },
        "filterChains": {
            "http.8080": {
                "listener": "0.0.0.0_8080", "serverNames": [],
                "network": {"http": {"routeTable": "http.8080"}},
            },
            "tls": {
                "listener": "0.0.0.0_8443",
                "serverNames": [{"suffix": ".a.test"}, {"exact": "b.test"}],
                "network": {"tcpProxy": {"clusters": [{"cluster": "outbound|443||db", "weight": 1}]}},
            },
        },
        "virtualHosts": {
            "http.8080|*": {
                "name": "http.8080|*", "routeTable": "http.8080", "domain": "any", "requireTls": true,
                "routes": [
                    {
                        "origin": "shop/web",
                        "match": {
                            "path": {"prefix": "/api"}, "method": {"exact": "GET"},
                            "headers": [{"name": "x-user", "invert": true}],
                            "claims": [{"path": ["realm", "role"]}],
                        },
                        "action": {"forward": {"clusters": [
                            {"cluster": "outbound|80|v1|web", "weight": 9},
                            {"cluster": "outbound|80|v2|web", "weight": 1},
                        ]}},
                    },
                    {"origin": "shop/web", "match": {"path": "any"}, "action": {"redirect": {"code": 301}}},
                ],
            },
        },
        "clusters": {
            "a": {"name": "outbound|80|v1|web", "discovery": "static", "protocol": "http1", "tls": null},
            "b": {
                "name": "outbound|443||db", "discovery": {"strictDns": {}}, "protocol": "tcp",
                "tls": {"sni": null},
            },
        },
    })
}

#[test]
fn a_listener_has_a_row_for_each_of_its_filter_chains() {
    let table = listener::table(&listener::all(&dump()));
    assert_eq!(cells(&table, 0), ["0.0.0.0", "8080", "ALL", "Route: http.8080"]);
    let expected = ["::1", "8443", "SNI: *.a.test,b.test", "Cluster: outbound|443||db"];
    assert_eq!(cells(&table, 1), expected);
}

#[test]
fn routes_keep_the_order_they_are_tried_in() {
    let table = route::table(&route::all(&dump()));
    let rest = |row| cells(&table, row)[3..].to_vec();
    assert_eq!(rest(0), ["/*", "redirect to https"]);
    let matched = "/api* method=GET header:!x-user claim:realm.role";
    let action = "9 outbound|80|v1|web, 1 outbound|80|v2|web";
    assert_eq!(rest(1), [matched, "web.shop", action]);
    assert_eq!(rest(2), ["/*", "web.shop", "redirect 301"]);
}

#[test]
fn a_host_is_listed_with_all_it_is_called() {
    let mut dump = dump();
    dump["virtualHosts"]["http.8080|*"]["domain"] = json!({"exact": "web.shop"});
    dump["virtualHosts"]["http.8080|*"]["aliases"] = json!([{"exact": "web"}, {"suffix": ".web"}]);
    let table = route::table(&route::all(&dump));
    assert_eq!(cells(&table, 0)[2], "web.shop, web, *.web");
}

#[test]
fn a_cluster_is_taken_apart_by_its_name() {
    let table = cluster::table(&cluster::all(&dump()));
    assert_eq!(cells(&table, 0), ["db", "443", "-", "outbound", "STRICT_DNS", "TCP", "yes"]);
    assert_eq!(cells(&table, 1), ["web", "80", "v1", "outbound", "STATIC", "HTTP/1.1", "-"]);
}

#[test]
fn an_endpoint_that_was_taken_out_is_unhealthy() {
    let clusters = json!({"clusters": [{"name": "c", "endpoints": [
        {"address": "10.0.0.1:80", "health": "healthy"},
        {"address": "10.0.0.2:80", "health": "/failed_outlier_check"},
    ]}]});
    let table = endpoint::table(&endpoint::all(&clusters));
    assert_eq!(cells(&table, 0), ["10.0.0.1:80", "HEALTHY", "OK", "c"]);
    assert_eq!(cells(&table, 1), ["10.0.0.2:80", "UNHEALTHY", "FAILED", "c"]);
}

#[test]
fn a_secret_has_a_row_for_each_certificate_wherever_it_stands() {
    let certificate = |serial: &str, days: i64| {
        json!({"serialNumber": serial, "daysUntilExpiration": days,
            "expirationTime": "then", "validFrom": "before"})
    };
    let certificates = json!({
        "secrets": [
            {"name": "a", "certificateChain": [certificate("01", 3)], "trustBundle": null},
            {"name": "b", "certificateChain": null,
                "trustBundle": {"path": "/ca", "certificates": [certificate("02", -1)]}},
            {"name": "c", "certificateChain": {"path": "/none", "error": "not found"}},
        ],
        "problems": [{"secret": "c", "message": "not found"}],
    });
    let table = secret::table(&secret::select(&certificates));
    assert_eq!(cells(&table, 0), ["a", "Cert Chain", "ACTIVE", "true", "01", "then", "before"]);
    assert_eq!(cells(&table, 1), ["b", "CA", "ACTIVE", "false", "02", "then", "before"]);
    assert_eq!(cells(&table, 2), ["c", "Cert Chain", "BROKEN", "false"]);
}
