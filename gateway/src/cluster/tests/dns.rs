use std::{collections::HashMap, net::IpAddr, sync::atomic::AtomicUsize};

use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{RData, Record, RecordType},
};
use tokio::{net::UdpSocket, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone)]
enum Answer {
    Addresses(&'static [&'static str], u32),
    Code(ResponseCode),
    /// Nothing at all.
    Silence,
}

/// A name server of a few lines.
struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<HashMap<&'static str, Answer>>>,
    queries: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl NameServer {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("the socket is bound");
        let zone = Arc::new(Mutex::new(HashMap::new()));
        let queries = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(serve(socket, Arc::clone(&zone), Arc::clone(&queries)));
        Self { address, zone, queries, _task: AbortOnDropHandle::new(task) }
    }

    fn set(&self, name: &'static str, answer: Answer) {
        self.zone.lock().expect("not poisoned").insert(name, answer);
    }

    fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }
}

async fn serve(
    socket: UdpSocket,
    zone: Arc<Mutex<HashMap<&'static str, Answer>>>,
    queries: Arc<AtomicUsize>,
) {
    let mut buffer = [0; 1500];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        queries.fetch_add(1, Ordering::SeqCst);
        let query = Message::from_vec(&buffer[..length]).expect("a query");
        let zone = Arc::clone(&zone);
        if let Some(response) = respond(&query, &zone) {
            let bytes = response.to_vec().expect("a response");
            socket.send_to(&bytes, client).await.expect("the client is there");
        }
    }
}

fn respond(query: &Message, zone: &Mutex<HashMap<&'static str, Answer>>) -> Option<Message> {
    let question = query.queries[0].clone();
    let name = question.name().to_utf8();
    let zone = zone.lock().expect("not poisoned");
    let answer = zone.get(&*name).cloned().unwrap_or(Answer::Code(ResponseCode::NXDomain));
    let mut response = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    response.add_query(question.clone());
    match answer {
        Answer::Silence => return None,
        Answer::Code(code) => response.metadata.response_code = code,
        Answer::Addresses(addresses, ttl) => {
            for address in addresses {
                let address: IpAddr = address.parse().expect("an address");
                let data = RData::from(address);
                let is_asked = match question.query_type() {
                    RecordType::A => address.is_ipv4(),
                    RecordType::AAAA => address.is_ipv6(),
                    _ => false,
                };
                if is_asked {
                    let record = Record::from_rdata(question.name().clone(), ttl, data);
                    response.add_answer(record);
                }
            }
        }
    }
    Some(response)
}

fn named(host: &str) -> Member {
    member(EndpointAddress::Dns { host: host.into(), port: 80 })
}

const STRICT: Discovery =
    Discovery::StrictDns { refresh: Duration::from_secs(60), refuses_local: false };
const LOGICAL: Discovery =
    Discovery::LogicalDns { refresh: Duration::from_secs(60), refuses_local: false };

/// A proxy with one cluster of these members, not yet resolved.
fn proxy(server: &NameServer, discovery: Discovery, members: Vec<Member>) -> Proxy {
    let mut proxy = Proxy::with_resolver(server.address);
    proxy.apply(&members_change(members));
    proxy.apply(&cluster_change(model::Cluster { discovery, ..config() }));
    proxy
}

async fn has_addresses(proxy: &Proxy, wanted: &[&str]) {
    let deadline = Instant::now() + DEADLINE;
    while addresses(&proxy.cluster()) != wanted {
        let found = addresses(&proxy.cluster());
        assert!(Instant::now() < deadline, "{found:?} instead of {wanted:?}");
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn every_address_of_every_name_is_an_endpoint() {
    let server = NameServer::start().await;
    server.set("a.example.", Answer::Addresses(&["127.0.0.1", "127.0.0.2"], 60));
    server.set("b.example.", Answer::Addresses(&["127.0.0.3"], 60));
    let members = vec![named("a.example"), named("b.example"), member(address(9))];
    let proxy = proxy(&server, STRICT, members);
    assert!(proxy.clusters.warm(DEADLINE).await);
    assert_eq!(
        addresses(&proxy.cluster()),
        ["10.0.0.9:80", "127.0.0.1:80", "127.0.0.2:80", "127.0.0.3:80"]
    );
}

#[tokio::test]
async fn a_name_with_version_6_addresses_only_is_used() {
    let server = NameServer::start().await;
    server.set("a.example.", Answer::Addresses(&["::1"], 60));
    let proxy = proxy(&server, STRICT, vec![named("a.example")]);
    assert!(proxy.clusters.warm(DEADLINE).await);
    assert_eq!(addresses(&proxy.cluster()), ["[::1]:80"]);
}

#[tokio::test]
async fn localhost_and_literals_need_no_name_server() {
    let server = NameServer::start().await;
    let members = vec![named("localhost"), named("127.0.0.7"), named("::1")];
    let proxy = proxy(&server, STRICT, members);
    assert!(proxy.clusters.warm(DEADLINE).await);
    assert_eq!(addresses(&proxy.cluster()), ["127.0.0.1:80", "127.0.0.7:80", "[::1]:80"]);
    assert_eq!(server.queries(), 0);
}

/// Hardening N07.
#[tokio::test]
async fn a_name_that_another_tenant_wrote_does_not_lead_to_this_host() {
    let server = NameServer::start().await;
    let all = Answer::Addresses(&["127.0.0.1", "169.254.169.254", "192.0.2.1"], 60);
    server.set("a.example.", all);
    server.set("b.example.", Answer::Addresses(&["::1", "fe80::1"], 60));
    let refresh = Duration::from_secs(60);
    for discovery in [
        Discovery::StrictDns { refresh, refuses_local: true },
        Discovery::LogicalDns { refresh, refuses_local: true },
    ] {
        let proxy = proxy(&server, discovery, vec![named("a.example"), named("b.example")]);
        assert!(proxy.clusters.warm(DEADLINE).await);
        assert_eq!(addresses(&proxy.cluster()), ["192.0.2.1:80"]);
    }
}

#[tokio::test]
async fn warming_ends_at_its_limit_and_resolution_goes_on() {
    let server = NameServer::start().await;
    server.set("a.example.", Answer::Silence);
    let proxy = proxy(&server, STRICT, vec![named("a.example")]);
    assert!(!proxy.clusters.warm(Duration::from_millis(10)).await);
    server.set("a.example.", Answer::Addresses(&["127.0.0.1"], 60));
    has_addresses(&proxy, &["127.0.0.1:80"]).await;
}

#[tokio::test]
async fn a_name_that_does_not_exist_has_been_resolved() {
    let server = NameServer::start().await;
    let proxy = proxy(&server, STRICT, vec![named("nowhere.example")]);
    assert!(proxy.clusters.warm(DEADLINE).await);
    assert_eq!(addresses(&proxy.cluster()), [] as [&str; 0]);
}

#[tokio::test]
async fn when_the_ttl_is_over_new_addresses_replace_the_old() {
    let server = NameServer::start().await;
    server.set("a.example.", Answer::Addresses(&["127.0.0.1", "127.0.0.2"], 0));
    let proxy = proxy(&server, STRICT, vec![named("a.example")]);
    assert!(proxy.clusters.warm(DEADLINE).await);
    let before = proxy.cluster();
    server.set("a.example.", Answer::Addresses(&["127.0.0.2", "127.0.0.3"], 0));
    has_addresses(&proxy, &["127.0.0.2:80", "127.0.0.3:80"]).await;
    assert!(Arc::ptr_eq(&before, &proxy.cluster()));
}

#[tokio::test]
async fn failures_keep_the_last_good_addresses() {
    for failure in [ResponseCode::ServFail, ResponseCode::NXDomain, ResponseCode::Refused] {
        let server = NameServer::start().await;
        server.set("a.example.", Answer::Addresses(&["127.0.0.1"], 0));
        let proxy = proxy(&server, STRICT, vec![named("a.example")]);
        assert!(proxy.clusters.warm(DEADLINE).await);
        server.set("a.example.", Answer::Code(failure));
        let asked = server.queries();
        let deadline = Instant::now() + DEADLINE;
        while server.queries() < asked + 4 {
            assert!(Instant::now() < deadline, "the name is not asked for again");
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(addresses(&proxy.cluster()), ["127.0.0.1:80"], "after {failure}");
    }
}

#[tokio::test]
async fn a_logical_name_is_one_endpoint_that_keeps_its_connections() {
    let server = NameServer::start().await;
    server.set("a.example.", Answer::Addresses(&["127.0.0.1", "127.0.0.2"], 0));
    let proxy = proxy(&server, LOGICAL, vec![named("a.example")]);
    assert!(proxy.clusters.warm(DEADLINE).await);
    assert_eq!(addresses(&proxy.cluster()), ["127.0.0.1:80"]);
    let before = proxy.cluster().pick(None, &[], None).expect("an endpoint");
    server.set("a.example.", Answer::Addresses(&["127.0.0.2", "127.0.0.1"], 0));
    has_addresses(&proxy, &["127.0.0.2:80"]).await;
    let after = proxy.cluster().pick(None, &[], None).expect("an endpoint");
    assert!(Arc::ptr_eq(before.pool(Protocol::Http11), after.pool(Protocol::Http11)));
}

#[tokio::test]
async fn another_configuration_keeps_the_resolved_addresses_without_asking_again() {
    let server = NameServer::start().await;
    server.set("a.example.", Answer::Addresses(&["127.0.0.1"], 60));
    let mut proxy = proxy(&server, STRICT, vec![named("a.example")]);
    assert!(proxy.clusters.warm(DEADLINE).await);
    let asked = server.queries();
    server.set("a.example.", Answer::Silence);
    let lb_policy = LbPolicy::Random;
    proxy.apply(&cluster_change(model::Cluster { discovery: STRICT, lb_policy, ..config() }));
    assert_eq!(addresses(&proxy.cluster()), ["127.0.0.1:80"]);
    assert!(proxy.clusters.warm(DEADLINE).await);
    assert_eq!(addresses(&proxy.cluster()), ["127.0.0.1:80"]);
    assert_eq!(server.queries(), asked);
}

/// Where a client that asks for a name is sent at once; `None`: it has to wait.
fn at_once(proxy: &Proxy, host: &str) -> Option<Result<SocketAddr, ()>> {
    let cluster = proxy.cluster();
    let mut selecting = std::pin::pin!(cluster.select(None, &[], None, Some(host)));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match selecting.as_mut().poll(&mut context) {
        std::task::Poll::Ready(Ok(endpoint)) => endpoint.address().socket_addr().map(Ok),
        std::task::Poll::Ready(Err(_refused)) => Some(Err(())),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_name_below_a_wildcard_is_waited_for_once_and_then_asked_for_off_the_path() {
    let server = NameServer::start().await;
    server.set("a.example.", Answer::Addresses(&["127.0.0.1"], 1));
    let names = DynamicNames {
        pattern: HostPattern::parse("*.example"),
        port: 80,
        refresh: Duration::from_secs(60),
        allowed: ["127.0.0.0/8".parse().unwrap()].into(),
        refuses_local: false,
    };
    let mut proxy = Proxy::with_resolver(server.address);
    let discovery = Discovery::DynamicDns(Arc::new(names));
    let connect_timeout = Duration::from_millis(300);
    proxy.apply(&cluster_change(model::Cluster { discovery, connect_timeout, ..config() }));

    // Many come at once; the name server is asked for both families, once.
    assert_eq!(at_once(&proxy, "a.example"), None);
    let cluster = proxy.cluster();
    let select = || cluster.select(None, &[], None, Some("a.example"));
    let (one, two) = tokio::join!(select(), select());
    assert_eq!(one.unwrap().id(), two.unwrap().id());
    assert_eq!(server.queries(), 2);

    // Before the answer ends it is asked for again, and again while nobody answers; that is nothing to
    // wait for.
    server.set("a.example.", Answer::Silence);
    let first = Some(Ok((Ipv4Addr::new(127, 0, 0, 1), 80).into()));
    let deadline = Instant::now() + DEADLINE;
    while server.queries() < 6 {
        assert!(Instant::now() < deadline, "the name is not asked for again");
        assert_eq!(at_once(&proxy, "a.example"), first);
        sleep(Duration::from_millis(1)).await;
    }
    server.set("a.example.", Answer::Addresses(&["127.0.0.2"], 60));
    while at_once(&proxy, "a.example") == first {
        assert!(Instant::now() < deadline, "the new address is not used");
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(at_once(&proxy, "a.example"), Some(Ok((Ipv4Addr::new(127, 0, 0, 2), 80).into())));
    // A name that does not exist has to be asked for by whoever wants it.
    assert_eq!(at_once(&proxy, "nowhere.example"), None);
}

#[tokio::test]
async fn new_names_are_resolved_and_old_ones_forgotten() {
    let server = NameServer::start().await;
    server.set("a.example.", Answer::Addresses(&["127.0.0.1"], 60));
    server.set("b.example.", Answer::Addresses(&["127.0.0.2"], 60));
    let mut proxy = proxy(&server, STRICT, vec![named("a.example")]);
    assert!(proxy.clusters.warm(DEADLINE).await);
    proxy.apply(&members_change(vec![named("b.example")]));
    has_addresses(&proxy, &["127.0.0.2:80"]).await;
}
