//! What plays the internet: a name server, and servers and clients that speak TLS.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    str::FromStr as _,
    sync::{Arc, Mutex},
    thread,
};

use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned,
    pki_types::ServerName,
};

use super::Pod;
use crate::eventually::DEADLINE;

/// The names of a test and what was asked for.
#[derive(Debug, Clone, Default)]
pub struct Zone(Arc<Mutex<Names>>);

#[derive(Debug, Default)]
struct Names {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    asked: Vec<String>,
}

/// Seconds answers hold: as few as a proxy accepts.
const TTL: u32 = 1;

impl Zone {
    /// `name` has these addresses from now on.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        self.names(|names| names.addresses.insert(name.to_owned(), addresses.to_vec()));
    }

    /// The names that were asked for, in their order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.names(|names| names.asked.clone())
    }

    fn names<T>(&self, work: impl FnOnce(&mut Names) -> T) -> T {
        work(&mut self.0.lock().expect("nobody panics with the lock"))
    }

    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        let question = query.queries.first()?;
        let name = question.name().to_lowercase().to_string();
        let name = name.trim_end_matches('.');
        let found = self.names(|names| {
            names.asked.push(name.to_owned());
            names.addresses.get(name).cloned()
        });
        let id = query.metadata.id;
        let mut response = Message::new(id, MessageType::Response, OpCode::Query);
        response.add_query(question.clone());
        if found.is_none() {
            response.metadata.response_code = ResponseCode::NXDomain;
        }
        for address in found.unwrap_or_default() {
            let data = match (question.query_type(), address) {
                (RecordType::A, IpAddr::V4(ip)) => RData::A(ip.into()),
                (RecordType::AAAA, IpAddr::V6(ip)) => RData::AAAA(ip.into()),
                _ => continue,
            };
            response.add_answer(Record::from_rdata(question.name().clone(), TTL, data));
        }
        response.to_vec().ok()
    }
}

impl Pod {
    /// Answers DNS queries for the names of `zone`, over UDP and TCP.
    pub fn serve_dns(&self, zone: &Zone) {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).expect("bind port 53");
        let socket = self.enter(bind);
        let names = zone.clone();
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                if let Some(answer) = names.answer(&buffer[..length]) {
                    // A client that is gone has its own view of it.
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        let names = zone.clone();
        self.serve(53, move |mut stream| {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut query = vec![0; u16::from_be_bytes(length).into()];
                let read = stream.read_exact(&mut query);
                let Some(answer) = read.ok().and_then(|()| names.answer(&query)) else { return };
                let length = u16::try_from(answer.len()).expect("a short answer").to_be_bytes();
                if stream.write_all(&[&length[..], &answer].concat()).is_err() {
                    return;
                }
            }
        });
    }

    /// Asks the name server at an address, from the pod: its answer's code and addresses.
    pub fn ask(
        &self,
        server: impl Into<IpAddr>,
        name: &str,
        kind: &str,
    ) -> Option<(String, Vec<IpAddr>)> {
        let server = SocketAddr::new(server.into(), 53);
        let query = query(name, kind);
        let socket = self.enter(move || {
            let any: IpAddr = match server {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            // Who answers has to be who was asked.
            socket.connect(server)?;
            std::io::Result::Ok(socket)
        });
        let socket = socket.expect("make a socket in the pod");
        socket.set_read_timeout(Some(DEADLINE)).expect("limit the wait");
        socket.send(&query).ok()?;
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer).ok()?;
        Some(read_answer(&answer[..length]))
    }

    /// The same over TCP.
    pub fn ask_tcp(
        &self,
        server: impl Into<IpAddr>,
        name: &str,
        kind: &str,
    ) -> Option<(String, Vec<IpAddr>)> {
        let mut stream = self.connect((server, 53)).ok()?;
        let query = query(name, kind);
        let length = u16::try_from(query.len()).expect("a short query").to_be_bytes();
        stream.write_all(&[&length[..], &query].concat()).ok()?;
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).ok()?;
        Some(read_answer(&answer))
    }

    /// Answers requests over TLS with `name`, the server name the client asked for, and whether it has
    /// shown a certificate.
    pub fn serve_https(&self, port: u16, name: &'static str, config: ServerConfig) {
        let config = Arc::new(config);
        self.serve(port, move |stream| {
            let session = ServerConnection::new(Arc::clone(&config)).expect("start a session");
            let mut stream = StreamOwned::new(session, stream);
            let Some(request) = read_head(&mut stream) else { return };
            let sni = stream.conn.server_name().unwrap_or_default().to_owned();
            let has_certificate = stream.conn.peer_certificates().is_some();
            let body = format!("name={name}\nsni={sni}\ncertificate={has_certificate}\n{request}");
            let length = body.len();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            // A client that is gone has its own view of it.
            let _ = stream.write_all((head + &body).as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        });
    }

    /// What comes back for a request over TLS of the pod's own; `None` if nothing does.
    pub fn try_https(
        &self,
        to: (impl Into<IpAddr>, u16),
        config: ClientConfig,
        host: &str,
    ) -> Option<String> {
        let socket: TcpStream = self.connect(to).ok()?;
        let name = ServerName::try_from(host.to_owned()).expect("a server name");
        let session = ClientConnection::new(Arc::new(config), name).expect("start a session");
        let mut stream = StreamOwned::new(session, socket);
        let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // The end is where the answer says.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        (!answer.is_empty()).then_some(answer)
    }
}

fn query(name: &str, kind: &str) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    let name = Name::from_str(name).expect("a name");
    message.add_query(Query::query(name, kind.parse().expect("a type")));
    message.to_vec().expect("a query has bytes")
}

fn read_answer(answer: &[u8]) -> (String, Vec<IpAddr>) {
    let answer = Message::from_vec(answer).expect("an answer");
    assert_eq!(answer.metadata.id, 4711);
    let addresses = answer.answers.iter().filter_map(|record| record.data.ip_addr());
    (format!("{:?}", answer.metadata.response_code), addresses.collect())
}

/// A request's head; `None`: there is none.
pub(super) fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    while !received.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => received.extend_from_slice(&buffer[..length]),
            Ok(_) | Err(_) => return None,
        }
    }
    Some(String::from_utf8_lossy(&received).into_owned())
}
