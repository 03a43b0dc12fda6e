//! The few DNS messages that are read and written here (RFC 1035, RFC 6891): a query with one question,
//! and its answer with addresses. Everything else passes unread.

use std::net::IpAddr;

/// Of a header, which every message has.
const HEADER_BYTES: usize = 12;
const MAX_NAME_BYTES: usize = 255;
/// What a client without EDNS takes over UDP.
const MIN_UDP_BYTES: usize = 512;
/// More than this is cut up on the way.
const MAX_UDP_BYTES: usize = 1232;
const MAX_TCP_BYTES: usize = u16::MAX as usize;

const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;

/// Seconds an answer holds, as Istio's.
const TTL: u32 = 30;

/// A query that could be one of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query<'a> {
    message: &'a [u8],
    /// Where the question ends.
    end: usize,
    /// Lower case, without a trailing dot.
    pub(super) name: String,
    pub(super) family: Family,
    /// What the client takes over UDP; `None`: it does not speak EDNS.
    udp_bytes: Option<u16>,
}

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What a message is to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<'a> {
    /// Addresses are asked for.
    Addresses(Query<'a>),
    /// Something else, which is the name server's business.
    Other,
    /// No query at all.
    Garbage,
}

/// Reads a message of a client.
pub(super) fn read(message: &[u8]) -> Received<'_> {
    if message.len() < HEADER_BYTES || message[2] & RESPONSE != 0 {
        return Received::Garbage;
    }
    let is_standard = message[2] & OPCODE == 0;
    let counts = (number(message, 4), number(message, 6), number(message, 8));
    if !is_standard || counts != (Some(1), Some(0), Some(0)) {
        return Received::Other;
    }
    let Some((name, end)) = name(message) else { return Received::Other };
    let (kind, class) = (number(message, end), number(message, end + 2));
    let family = match (kind, class) {
        (Some(TYPE_A), Some(CLASS_IN)) => Family::V4,
        (Some(TYPE_AAAA), Some(CLASS_IN)) => Family::V6,
        (Some(_), Some(_)) => return Received::Other,
        (_, _) => return Received::Garbage,
    };
    let end = end + 4;
    // The root as name, the type, and where other records have their class the size.
    let has_opt = message.get(end) == Some(&0) && number(message, end + 1) == Some(TYPE_OPT);
    let udp_bytes = number(message, end + 3).filter(|_| has_opt);
    Received::Addresses(Query { message, end, name, family, udp_bytes })
}

/// The name that is asked for, and where it ends. A question stands first, so that nothing is there it
/// could point to. `None` for what no host is called.
fn name(message: &[u8]) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        let label = message.get(at..at + length).filter(|_| length < 64)?;
        if !name.is_empty() {
            name.push('.');
        }
        for byte in label {
            let is_part = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            name.push(is_part.then(|| byte.to_ascii_lowercase().into())?);
        }
        at += length;
        if at - HEADER_BYTES > MAX_NAME_BYTES {
            return None;
        }
    }
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

impl Query<'_> {
    /// The response with those of `addresses` that were asked for: none of the family is an answer too,
    /// "no such name" would be taken for one of both families. What does not fit into a datagram is
    /// left to be asked for over TCP.
    pub(super) fn answer(&self, addresses: &[IpAddr], is_udp: bool) -> Vec<u8> {
        let limit = match (is_udp, self.udp_bytes) {
            (false, _) => MAX_TCP_BYTES,
            (true, None) => MIN_UDP_BYTES,
            (true, Some(bytes)) => usize::from(bytes).clamp(MIN_UDP_BYTES, MAX_UDP_BYTES),
        };
        let question = &self.message[HEADER_BYTES..self.end];
        let mut out = Vec::with_capacity(limit.min(MIN_UDP_BYTES));
        out.extend_from_slice(&self.message[..2]);
        out.push(RESPONSE | AUTHORITATIVE | self.message[2] & RECURSION_DESIRED);
        out.push(RECURSION_AVAILABLE);
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.udp_bytes.is_some())]);
        out.extend_from_slice(question);
        let room = limit - if self.udp_bytes.is_some() { OPT.len() } else { 0 };
        let mut count = 0u16;
        for address in addresses.iter().filter(|address| self.family.has(address)) {
            let before = out.len();
            write_record(&mut out, *address);
            if out.len() > room {
                out.truncate(before);
                out[2] |= TRUNCATED;
                break;
            }
            count += 1;
        }
        out[6..8].copy_from_slice(&count.to_be_bytes());
        if self.udp_bytes.is_some() {
            out.extend_from_slice(&OPT);
        }
        out
    }
}

impl Family {
    fn has(self, address: &IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// The root, the type, 1232 bytes, and nothing more to say.
const OPT: [u8; 11] = [0, 0, TYPE_OPT as u8, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

/// A record of the name in the question.
fn write_record(out: &mut Vec<u8>, address: IpAddr) {
    let kind = if address.is_ipv4() { TYPE_A } else { TYPE_AAAA };
    out.extend_from_slice(&[0xc0, HEADER_BYTES as u8]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&TTL.to_be_bytes());
    match address {
        IpAddr::V4(ip) => {
            out.extend_from_slice(&[0, 4]);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.extend_from_slice(&[0, 16]);
            out.extend_from_slice(&ip.octets());
        }
    }
}

/// The response to a query nobody can answer.
pub(super) fn server_failure(query: &[u8]) -> Vec<u8> {
    const SERVER_FAILURE: u8 = 2;
    let mut out = query.get(..HEADER_BYTES).unwrap_or_default().to_vec();
    if let [_, _, flags, more, rest @ ..] = out.as_mut_slice() {
        *flags = RESPONSE | *flags & (OPCODE | RECURSION_DESIRED);
        *more = RECURSION_AVAILABLE | SERVER_FAILURE;
        rest.fill(0);
    }
    out
}

/// Whether `response` is one to `query`: its number and, where it repeats it, its question.
pub(super) fn is_response(query: &[u8], response: &[u8]) -> bool {
    let has_header = response.len() >= HEADER_BYTES && query.len() >= HEADER_BYTES;
    if !has_header || response[..2] != query[..2] || response[2] & RESPONSE == 0 {
        return false;
    }
    match (name(query), number(response, 4)) {
        // A failure need not say what of.
        (_, Some(0)) => true,
        (Some((_, end)), _) => {
            let question = |message: &[u8]| message.get(HEADER_BYTES..end + 4).map(<[u8]>::to_vec);
            let (asked, answered) = (question(query), question(response));
            asked.is_some_and(|asked| {
                answered.is_some_and(|answered| answered.eq_ignore_ascii_case(&asked))
            })
        }
        (None, _) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_resolver::proto::{
        op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode},
        rr::{Name, RecordType},
    };

    use super::*;

    fn query(name: &str, kind: RecordType, udp_bytes: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Question::query(Name::from_str(name).unwrap(), kind));
        if let Some(bytes) = udp_bytes {
            let mut edns = Edns::new();
            edns.set_max_payload(bytes);
            message.edns = Some(edns);
        }
        message.to_vec().unwrap()
    }

    fn read_query(message: &[u8]) -> Query<'_> {
        match read(message) {
            Received::Addresses(query) => query,
            other => panic!("{other:?}"),
        }
    }

    fn addresses(count: u8) -> Vec<IpAddr> {
        (0..count).map(|number| IpAddr::from([10, 0, 0, number])).collect()
    }

    #[test]
    fn another_implementation_reads_the_answers() {
        let mut sent = query("reviews.shop.", RecordType::A, Some(1232));
        sent[HEADER_BYTES + 1] = b'R';
        let query = read_query(&sent);
        assert_eq!((&*query.name, query.family), ("reviews.shop", Family::V4));
        let mixed = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let bytes = query.answer(&mixed, true);
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.id, 7);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
        let found: Vec<_> = answer.answers.iter().map(|it| it.data.to_string()).collect();
        assert_eq!(found, ["10.0.0.1"]);
        assert_eq!(answer.answers[0].ttl, TTL);
        assert!(answer.edns.is_some());
        // As it was written: clients compare it.
        assert_eq!(bytes[HEADER_BYTES..query.end], sent[HEADER_BYTES..query.end]);
    }

    #[test]
    fn a_name_without_an_address_of_the_family_exists() {
        let sent = query("reviews.shop.", RecordType::AAAA, None);
        let answer = Message::from_vec(&read_query(&sent).answer(&addresses(1), true)).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty() && answer.edns.is_none());
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said_to_be() {
        for (udp_bytes, is_udp, cut) in
            [(None, true, true), (Some(1232), true, true), (None, false, false)]
        {
            let sent = query("reviews.shop.", RecordType::A, udp_bytes);
            let bytes = read_query(&sent).answer(&addresses(200), is_udp);
            let limit = if is_udp { usize::from(udp_bytes.unwrap_or(512)) } else { MAX_TCP_BYTES };
            assert!(bytes.len() <= limit, "{} bytes", bytes.len());
            let answer = Message::from_vec(&bytes).unwrap();
            assert_eq!(answer.metadata.truncation, cut);
            assert_eq!(answer.answers.len() == 200, !cut);
        }
    }

    #[test]
    fn other_queries_are_not_ours_and_garbage_is_nobodys() {
        assert_eq!(read(&query("a.", RecordType::SRV, None)), Received::Other);
        let mut spaced = query("axb.", RecordType::A, None);
        spaced[HEADER_BYTES + 2] = b' ';
        assert_eq!(read(&spaced), Received::Other);
        let mut response = query("a.", RecordType::A, None);
        response[2] |= RESPONSE;
        assert_eq!(read(&response), Received::Garbage);
        let whole = query("reviews.shop.", RecordType::A, Some(1232));
        for length in 0..whole.len() {
            // Nothing to be sure of but that it ends.
            let _ = read(&whole[..length]);
        }
        assert_eq!(read(&whole[..HEADER_BYTES - 1]), Received::Garbage);
        // A name that points to itself.
        let mut looping = whole;
        looping[HEADER_BYTES..HEADER_BYTES + 2].copy_from_slice(&[0xc0, HEADER_BYTES as u8]);
        assert_eq!(read(&looping), Received::Other);
    }

    #[test]
    fn whatever_bytes_come_are_read_without_harm() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut bytes = query("reviews.shop.", RecordType::A, Some(4096));
            for _ in 0..rng.usize(..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            if let Received::Addresses(query) = read(&bytes) {
                assert!(query.answer(&addresses(3), true).len() <= MAX_UDP_BYTES);
            }
            assert!(server_failure(&bytes).len() <= HEADER_BYTES);
        }
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let sent = query("a.example.", RecordType::A, None);
        let mut response = read_query(&sent).answer(&[], true);
        assert!(is_response(&sent, &response));
        assert!(!is_response(&sent, &sent));
        assert!(!is_response(&query("b.example.", RecordType::A, None), &response));
        response[0] ^= 1;
        assert!(!is_response(&sent, &response));
        assert!(is_response(&sent, &server_failure(&sent)));
    }
}
