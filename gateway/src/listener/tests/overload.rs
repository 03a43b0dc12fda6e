//! What a flood of connections, or slow ones, can take.

use super::*;
use crate::tls::test_ca::{TestCa, key_pair};

async fn gateway(limits: Limits) -> Gateway {
    let ca = TestCa::new("ca");
    let mut gateway = Gateway::with_limits(limits);
    gateway
        .apply(delta([
            listener("tls", ListenerKind::Tls),
            listener("tcp", ListenerKind::Tcp),
            cluster("echo", &[echo("hello").await]),
            Change::Secret(key_pair("a", &ca.server("a.example.com"))),
            chain("a", &["*"], Some(simple("a")), "echo"),
            chain("tcp/only", &[], None, "echo"),
        ]))
        .await;
    gateway
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_at_once_and_room_is_used_again() {
    let gateway = gateway(Limits { max_connections: 2, ..Limits::default() }).await;
    let address = gateway.address("tcp").await;
    let (mut first, mut second) = (connect(address).await, connect(address).await);
    assert_eq!(first.line().await.unwrap(), "hello");
    assert_eq!(second.line().await.unwrap(), "hello");
    assert!(connect(address).await.line().await.is_err());
    gateway.metric(&["connections_refused", "tcp", "connection limit", "} 1"]).await;
    assert!(first.is_alive().await && second.is_alive().await);

    drop(first);
    eventually("room", || (gateway.manager.open_connections() == 1).then_some(())).await;
    assert_eq!(connect(address).await.line().await.unwrap(), "hello");
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_handshake_is_closed_at_the_deadline() {
    let limits = Limits { handshake_timeout: Duration::from_millis(100), ..Limits::default() };
    let gateway = gateway(limits).await;
    let address = gateway.address("tls").await;
    let name = ServerName::try_from("a.example.com").unwrap();
    let config = Arc::new(TlsClient::new().config);
    let mut hello = Vec::new();
    rustls::ClientConnection::new(config, name).unwrap().write_tls(&mut hello).unwrap();
    // Nothing at all, half a ClientHello, and a whole one that nothing follows.
    for (count, sent) in [0, hello.len() / 2, hello.len()].into_iter().enumerate() {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&hello[..sent]).await.unwrap();
        let _ = Client::new(stream).closed().await;
        let value = format!("reason=\"timeout\"}} {}", count + 1);
        gateway.metric(&["handshake_errors", &value]).await;
    }
}

#[tokio::test]
async fn slow_hellos_do_not_keep_others_from_their_handshake() {
    let gateway = gateway(Limits { max_handshakes: 1, ..Limits::default() }).await;
    let address = gateway.address("tls").await;
    let mut slow = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[0x16, 3, 1]).await.unwrap();
        slow.push(stream);
    }
    eventually("all accepted", || (gateway.manager.open_connections() == 5).then_some(())).await;
    let greeting = TlsClient::new().greeting(address, "a.example.com").await.unwrap();
    assert_eq!(greeting, "hello");
}

#[tokio::test]
async fn every_handshake_gets_its_turn() {
    let gateway = gateway(Limits { max_handshakes: 4, ..Limits::default() }).await;
    let address = gateway.address("tls").await;
    let clients: Vec<_> = (0..64)
        .map(|_| {
            tokio::spawn(async move { TlsClient::new().greeting(address, "a.example.com").await })
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap().unwrap(), "hello");
    }
}

/// Set for the process in which the test below runs out of files.
const OUT_OF_FILES: &str = "WEIR_TEST_OUT_OF_FILES";

/// The other half of the test below: a gateway in a process without a file descriptor to spare, until
/// a line comes in on its standard input.
#[tokio::test]
async fn out_of_files_child() {
    if std::env::var_os(OUT_OF_FILES).is_none() {
        return;
    }
    use nix::sys::resource::{Resource, setrlimit};
    let gateway = gateway(Limits::default()).await;
    let address = gateway.address("tcp").await;
    // Both ends' files exist before there are no more.
    let mut warm = connect(address).await;
    assert_eq!(warm.line().await.unwrap(), "hello");
    setrlimit(Resource::RLIMIT_NOFILE, 256, 256).unwrap();
    let files: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    println!("listening on {address}");
    let line = || tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new()));
    line().await.unwrap().unwrap();
    drop(files);
    println!("released");
    assert!(warm.is_alive().await, "who was there before was not disturbed");
    line().await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_file_descriptor_clients_are_closed_at_once_and_served_again_right_after() {
    use std::process::Stdio;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "listener::tests::overload::out_of_files_child", "--nocapture"])
        .env(OUT_OF_FILES, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut stdin = child.stdin.take().unwrap();
    let mut line_with = async |start: &str| loop {
        let line = lines.next_line().await.unwrap().expect("the child ended");
        if let Some(at) = line.find(start) {
            break line[at + start.len()..].to_owned();
        }
    };
    let address: SocketAddr = line_with("listening on ").await.parse().unwrap();
    for _ in 0..5 {
        let closed = async { connect(address).await.line().await };
        let closed = tokio::time::timeout(Duration::from_secs(2), closed).await;
        assert!(closed.expect("closed within two seconds").is_err());
    }
    stdin.write_all(b"release\n").await.unwrap();
    line_with("released").await;
    let served =
        async { while !connect(address).await.line().await.is_ok_and(|line| line == "hello") {} };
    tokio::time::timeout(Duration::from_secs(2), served).await.expect("served within two seconds");
    stdin.write_all(b"end\n").await.unwrap();
    assert!(child.wait().await.unwrap().success());
}
