use super::*;
use crate::{upstream::WorkerPools, worker};

fn pools(transport: Transport) -> Arc<WorkerPools> {
    let address = Address::Ip((Ipv4Addr::LOCALHOST, 1).into());
    let target = Target { address, transport: Arc::new(transport), identity: None };
    WorkerPools::new(target, Arc::default())
}

#[test]
fn each_worker_has_its_own_pool_of_as_many_as_there_are() {
    let pools = pools(Transport { pools: 2, ..transport(Protocol::Http1) });
    let first = Arc::clone(pools.local());
    assert!(Arc::ptr_eq(pools.local(), &first));
    worker::enlist(1);
    assert!(!Arc::ptr_eq(pools.local(), &first));
}

#[test]
fn one_pool_is_everybodys() {
    let pools = pools(transport(Protocol::Http1));
    let first = Arc::clone(pools.local());
    worker::enlist(1);
    assert!(Arc::ptr_eq(pools.local(), &first));
}

#[tokio::test]
async fn a_pool_first_used_after_the_endpoint_was_retired_keeps_nothing() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    let pools = WorkerPools::new(pool.pool.target().clone(), Arc::clone(&pool.gauges));
    pools.retire();
    let session = within("a connection", pools.local().acquire(None, Reuse::Allowed)).await;
    let mut session = session.expect("the upstream can be connected to");
    exchange(&mut session, "/").await.expect("the exchange succeeds");
    drop(session);
    assert_eq!(pool.connections(), 0);
}
