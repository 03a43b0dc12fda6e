use weir_config::model::{
    Secret, SecretName,
    cluster::{UpstreamTls, UpstreamTrust, Warmup},
    secret::SecretMaterial,
};

use super::*;
use crate::upstream::{
    Reuse,
    tests::{Server, exchange},
};

fn endpoint(cluster: &Cluster, number: u8) -> Arc<Endpoint> {
    let EndpointAddress::Ip(wanted) = address(number) else { unreachable!("it is an address") };
    let members = cluster.members();
    let found = members.iter().find(|(member, _)| member.address().socket_addr() == Some(wanted));
    Arc::clone(&found.expect("it is a member").0)
}

fn pool(endpoint: &Endpoint) -> Arc<crate::upstream::Pool> {
    Arc::clone(endpoint.pool(Protocol::Http11))
}

/// A proxy with the cluster of `config` and two endpoints.
fn proxy(config: model::Cluster) -> Proxy {
    let mut proxy = Proxy::new();
    proxy.apply(&cluster_change(config));
    proxy.apply(&endpoints_change(&[1, 2]));
    proxy
}

#[tokio::test]
async fn an_unchanged_cluster_keeps_its_state_across_snapshots() {
    let mut proxy = proxy(config());
    let before = proxy.cluster();
    let _in_flight = endpoint(&before, 1).begin();
    let _permit = before.admit().expect("there is no limit");

    let other = ClusterName::new("outbound|80||other");
    let unrelated = model::Cluster { name: other.clone(), ..config() };
    proxy.apply(&Delta {
        clusters: BTreeMap::from([(other, Some(Arc::new(unrelated)))]),
        ..Delta::default()
    });
    assert!(Arc::ptr_eq(&before, &proxy.cluster()));

    proxy.apply(&cluster_change(config()));
    assert!(Arc::ptr_eq(&before, &proxy.cluster()), "the same configuration changes nothing");
    assert_eq!(endpoint(&proxy.cluster(), 1).in_flight(), 1);
}

#[tokio::test]
async fn endpoints_that_stay_keep_their_state_and_their_connections() {
    let mut proxy = proxy(config());
    let cluster = proxy.cluster();
    let before = endpoint(&cluster, 1);
    let _in_flight = before.begin();
    proxy.apply(&endpoints_change(&[3, 1]));

    assert!(Arc::ptr_eq(&cluster, &proxy.cluster()));
    assert_eq!(addresses(&cluster), ["10.0.0.1:80", "10.0.0.3:80"]);
    let after = endpoint(&cluster, 1);
    assert_eq!((after.id(), after.in_flight()), (before.id(), 1));
    assert!(Arc::ptr_eq(&pool(&after), &pool(&before)));
    assert_ne!(endpoint(&cluster, 3).id(), before.id());
}

#[tokio::test]
async fn an_endpoint_with_another_weight_keeps_its_connections() {
    let mut proxy = proxy(config());
    let before = endpoint(&proxy.cluster(), 1);
    proxy.apply(&members_change(vec![Member { weight: 5, ..member(address(1)) }]));
    let after = endpoint(&proxy.cluster(), 1);
    assert_eq!((after.weight(), after.id()), (5, before.id()));
    assert!(Arc::ptr_eq(&pool(&after), &pool(&before)));
}

#[tokio::test]
async fn another_balancer_keeps_connections_and_another_connect_timeout_does_not() {
    let mut proxy = proxy(config());
    let cluster = proxy.cluster();
    let before = endpoint(&cluster, 1);
    let _in_flight = before.begin();
    let _permit = cluster.admit().expect("there is no limit");

    proxy.apply(&cluster_change(model::Cluster { lb_policy: LbPolicy::Random, ..config() }));
    let after = endpoint(&proxy.cluster(), 1);
    assert!(!Arc::ptr_eq(&cluster, &proxy.cluster()));
    assert!(Arc::ptr_eq(&pool(&after), &pool(&before)));

    let connect_timeout = Duration::from_secs(1);
    proxy.apply(&cluster_change(model::Cluster { connect_timeout, ..config() }));
    let after = endpoint(&proxy.cluster(), 1);
    assert!(!Arc::ptr_eq(&pool(&after), &pool(&before)));
    assert_eq!((after.id(), after.in_flight()), (before.id(), 1), "what is in flight still counts");

    let circuit_breakers = CircuitBreakers { max_requests: 1, ..CircuitBreakers::default() };
    proxy.apply(&cluster_change(model::Cluster { circuit_breakers, ..config() }));
    assert!(proxy.cluster().admit().is_err(), "the request of before takes the one place");
}

#[tokio::test]
async fn clusters_and_their_endpoints_may_come_in_either_order() {
    let mut proxy = Proxy::new();
    proxy.apply(&endpoints_change(&[1]));
    assert!(proxy.clusters.find(&name()).is_none());
    proxy.apply(&cluster_change(config()));
    assert_eq!(addresses(&proxy.cluster()), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn a_removed_cluster_is_not_found_and_comes_back_anew() {
    let mut proxy = proxy(config());
    let before = proxy.cluster();
    let removal = Delta { clusters: BTreeMap::from([(name(), None)]), ..Delta::default() };
    proxy.apply(&removal);
    assert!(proxy.clusters.find(&name()).is_none());
    proxy.apply(&cluster_change(config()));
    assert!(!Arc::ptr_eq(&before, &proxy.cluster()));
    assert_eq!(addresses(&proxy.cluster()), ["10.0.0.1:80", "10.0.0.2:80"]);
}

/// Serves one request through the cluster, which leaves an idle connection.
async fn request(cluster: &Cluster) {
    let endpoint = cluster.pick(None, &[], None).expect("there is an endpoint");
    let acquired = endpoint.pool(Protocol::Http11).acquire(None, Reuse::Allowed).await;
    let mut session = acquired.expect("the server can be connected to");
    exchange(&mut session, "/").await.expect("the exchange succeeds");
}

#[tokio::test]
async fn idle_connections_end_with_what_they_are_for() {
    let removed_endpoint = endpoints_change(&[]);
    let removed_cluster = Delta { clusters: BTreeMap::from([(name(), None)]), ..Delta::default() };
    let connect_timeout = Duration::from_secs(1);
    let other_transport = cluster_change(model::Cluster { connect_timeout, ..config() });
    let other_balancer =
        cluster_change(model::Cluster { lb_policy: LbPolicy::RoundRobin, ..config() });
    for (change, left) in
        [(removed_endpoint, 0), (removed_cluster, 0), (other_transport, 0), (other_balancer, 1)]
    {
        let server = Server::http1().await;
        let mut proxy = Proxy::new();
        proxy.apply(&cluster_change(config()));
        proxy.apply(&members_change(vec![member(EndpointAddress::Ip(server.address))]));
        let cluster = proxy.cluster();
        request(&cluster).await;
        let connections = || cluster.gauges().connections_active.load(Ordering::Relaxed);
        assert_eq!(connections(), 1);
        proxy.apply(&change);
        assert_eq!(connections(), left, "after {change:?}");
    }
}

#[tokio::test]
async fn what_is_in_flight_at_a_removed_endpoint_is_finished() {
    let server = Server::http1().await;
    let mut proxy = Proxy::new();
    proxy.apply(&cluster_change(config()));
    proxy.apply(&members_change(vec![member(EndpointAddress::Ip(server.address))]));
    let cluster = proxy.cluster();
    let endpoint = cluster.pick(None, &[], None).expect("there is an endpoint");
    let acquired = endpoint.pool(Protocol::Http11).acquire(None, Reuse::Allowed).await;
    let mut session = acquired.expect("the server can be connected to");
    proxy.apply(&endpoints_change(&[]));
    let (status, _) = exchange(&mut session, "/").await.expect("the exchange succeeds");
    assert_eq!(status, 200);
    drop(session);
    assert_eq!(cluster.gauges().connections_active.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_changed_secret_renews_the_connections_of_those_that_use_it() {
    fn secret_change(bundle: &str) -> Delta {
        let name = SecretName::new("trust");
        let material = SecretMaterial::Inline {
            certificate_chain: None,
            private_key: None,
            trust_bundle: Some(bundle.as_bytes().into()),
            revocation_list: None,
            ocsp_staple: None,
        };
        let secret = Secret { name: name.clone(), material };
        Delta { secrets: BTreeMap::from([(name, Some(Arc::new(secret)))]), ..Delta::default() }
    }
    fn bundle() -> String {
        let certified = rcgen::generate_simple_self_signed(["a.example".to_owned()]);
        certified.expect("a certificate").cert.pem()
    }
    let tls = UpstreamTls {
        sni: Some("a.example".into()),
        certificate: None,
        trust: UpstreamTrust::Verify {
            trust_bundle: Some(SecretName::new("trust")),
            subject_alt_names: Arc::default(),
        },
        alpn: Arc::default(),
    };
    let mut proxy = Proxy::new();
    let first = bundle();
    proxy.apply(&secret_change(&first));
    proxy.apply(&cluster_change(model::Cluster { tls: Some(tls), ..config() }));
    proxy.apply(&endpoints_change(&[1]));
    let before = proxy.cluster();
    proxy.apply(&secret_change(&first));
    assert!(Arc::ptr_eq(&before, &proxy.cluster()), "the same secret changes nothing");

    proxy.apply(&secret_change(&bundle()));
    let (old, new) = (endpoint(&before, 1), endpoint(&proxy.cluster(), 1));
    assert_eq!(old.id(), new.id());
    assert!(!Arc::ptr_eq(&pool(&old), &pool(&new)));
}

#[tokio::test]
async fn upstream_speaks_what_downstream_speaks_where_configured() {
    let protocol = UpstreamProtocol::MatchDownstream;
    let proxy = proxy(model::Cluster { protocol, ..config() });
    let endpoint = endpoint(&proxy.cluster(), 1);
    let protocol = |downstream| endpoint.pool(downstream).target().transport.protocol;
    assert_eq!(protocol(Protocol::Http2), crate::upstream::Protocol::Http2);
    assert_eq!(protocol(Protocol::Http11), crate::upstream::Protocol::Http1);
    assert_eq!(protocol(Protocol::Http10), crate::upstream::Protocol::Http1);
}

#[tokio::test]
async fn without_endpoints_the_answer_is_503_no_healthy_upstream() {
    let mut proxy = proxy(config());
    proxy.apply(&endpoints_change(&[]));
    let reply = proxy.cluster().pick(None, &[], None).expect_err("there is nothing to pick");
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.flag, Some(ResponseFlag::NoHealthyUpstream));
    assert_eq!(reply.details, "no_healthy_upstream");
}

#[tokio::test]
async fn an_endpoint_not_tried_yet_is_always_preferred() {
    let mut proxy = Proxy::new();
    proxy.apply(&cluster_change(config()));
    let all: Vec<u8> = (1..=50).collect();
    proxy.apply(&endpoints_change(&all));
    let cluster = proxy.cluster();
    let untried = endpoint(&cluster, 17).id();
    let mut tried: Vec<_> = cluster.members().iter().map(|(member, _)| member.id()).collect();
    tried.retain(|id| *id != untried);
    for _ in 0..100 {
        assert_eq!(cluster.pick(None, &tried, None).expect("there are endpoints").id(), untried);
    }
    tried.push(untried);
    assert!(cluster.pick(None, &tried, None).is_ok(), "when all were tried, any will do");
}

#[tokio::test]
async fn requests_go_where_less_is_in_flight() {
    let proxy = proxy(config());
    let cluster = proxy.cluster();
    let _in_flight = endpoint(&cluster, 1).begin();
    for _ in 0..100 {
        assert_eq!(
            cluster.pick(None, &[], None).expect("there are endpoints").id(),
            endpoint(&cluster, 2).id()
        );
    }
}

fn detection() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 2,
        consecutive_gateway_errors: None,
        split_external_local_origin_errors: false,
        consecutive_local_origin_failures: 5,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_percent: 100,
        min_health_percent: 0,
    }
}

/// Has outlier detection eject an endpoint.
fn eject(cluster: &Cluster, number: u8) {
    for _ in 0..2 {
        cluster.report(&endpoint(cluster, number), Outcome::Response(503));
    }
}

fn ejected(cluster: &Cluster) -> Vec<String> {
    let members = cluster.members();
    let ejected = members.iter().filter(|(_, ejected)| *ejected);
    ejected.map(|(member, _)| format!("{:?}", member.address().socket_addr())).collect()
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_gets_no_requests_until_its_time_is_over() {
    let outlier_detection = Some(detection());
    let proxy = proxy(model::Cluster { outlier_detection, ..config() });
    let cluster = proxy.cluster();
    let picked =
        |id| (0..200).any(|_| cluster.pick(None, &[], None).expect("an endpoint").id() == id);
    let bad = endpoint(&cluster, 1).id();
    assert!(picked(bad));
    eject(&cluster, 1);
    assert!(!picked(bad));
    assert_eq!(cluster.gauges().endpoints_healthy.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(29)).await;
    assert!(!picked(bad));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(picked(bad));
    assert_eq!(cluster.gauges().endpoints_healthy.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn with_every_endpoint_ejected_there_is_no_healthy_upstream() {
    let outlier_detection = Some(detection());
    let proxy = proxy(model::Cluster { outlier_detection, ..config() });
    let cluster = proxy.cluster();
    eject(&cluster, 1);
    eject(&cluster, 2);
    let reply = cluster.pick(None, &[], None).expect_err("all are ejected");
    assert_eq!(reply.flag, Some(ResponseFlag::NoHealthyUpstream));
}

#[tokio::test]
async fn below_the_minimum_of_healthy_endpoints_all_are_used() {
    let outlier_detection = Some(OutlierDetection { min_health_percent: 60, ..detection() });
    let proxy = proxy(model::Cluster { outlier_detection, ..config() });
    let cluster = proxy.cluster();
    eject(&cluster, 1);
    let bad = endpoint(&cluster, 1).id();
    assert!((0..200).any(|_| cluster.pick(None, &[], None).expect("an endpoint").id() == bad));
}

#[tokio::test]
async fn ejections_survive_another_configuration_and_new_members() {
    let outlier_detection = Some(detection());
    let ejecting = model::Cluster { outlier_detection, ..config() };
    let mut proxy = proxy(ejecting.clone());
    eject(&proxy.cluster(), 1);
    proxy.apply(&endpoints_change(&[1, 2, 3]));
    assert_eq!(ejected(&proxy.cluster()), ["Some(10.0.0.1:80)"]);
    proxy.apply(&cluster_change(model::Cluster { lb_policy: LbPolicy::Random, ..ejecting }));
    assert_eq!(ejected(&proxy.cluster()), ["Some(10.0.0.1:80)"]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_joins_comes_to_its_share_little_by_little() {
    let warmup = Warmup { duration: Duration::from_secs(100), minimum: 0.1, aggression: 1.0 };
    let lb_policy = LbPolicy::RoundRobin;
    let mut proxy = proxy(model::Cluster { warmup: Some(warmup), lb_policy, ..config() });
    proxy.apply(&endpoints_change(&[1, 2]));
    tokio::time::advance(Duration::from_secs(200)).await;
    proxy.apply(&endpoints_change(&[1, 2, 3]));
    let cluster = proxy.cluster();
    let joined = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 3), 80));
    let share = || {
        let picks = (0..2100).filter(|_| {
            let endpoint = cluster.pick(None, &[], None).expect("there are endpoints");
            endpoint.address().socket_addr() == Some(joined)
        });
        picks.count()
    };
    // Of two whole shares and this one: 0.1 of 2.1, 0.5 of 2.5, 1 of 3.
    for (seconds, expected) in [(0, 100), (50, 420), (50, 700), (100, 700)] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        let share = share();
        assert!(share.abs_diff(expected) <= 2, "{share} instead of {expected}");
    }
}

#[tokio::test]
async fn a_cluster_that_nobody_calls_is_not_made() {
    let mut proxy = Proxy::new();
    proxy.apply(&cluster_change(config()));
    proxy.apply(&endpoints_change(&[1, 2]));
    let running = |proxy: &Proxy| proxy.clusters.running().count();
    assert_eq!(running(&proxy), 0);
    let seen: Vec<_> = proxy.clusters.iter().map(|cluster| addresses(&cluster)).collect();
    assert_eq!(seen, [["10.0.0.1:80", "10.0.0.2:80"]]);
    assert_eq!(running(&proxy), 0, "it was only looked at");

    let earlier = proxy.clusters.clone();
    let called = proxy.cluster();
    assert_eq!(running(&proxy), 1);
    assert!(Arc::ptr_eq(&called, earlier.find(&name()).unwrap()), "all snapshots have the same");
    proxy.apply(&endpoints_change(&[2, 3]));
    assert!(Arc::ptr_eq(&called, &proxy.cluster()), "from now on it is kept");
    assert_eq!(addresses(&called), ["10.0.0.2:80", "10.0.0.3:80"]);
}

#[tokio::test]
async fn a_cluster_that_has_something_to_do_before_it_is_called_is_made_at_once() {
    let warmup = Warmup { duration: Duration::from_secs(10), minimum: 0.1, aggression: 1.0 };
    let discovery = Discovery::StrictDns { refresh: Duration::from_secs(5), refuses_local: false };
    for config in [
        model::Cluster { warmup: Some(warmup), ..config() },
        model::Cluster { discovery, ..config() },
    ] {
        let mut proxy = Proxy::new();
        proxy.apply(&cluster_change(config));
        assert_eq!(proxy.clusters.running().count(), 1);
    }
}
