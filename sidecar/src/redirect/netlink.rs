//! Messages to the kernel over netlink, and its answers.

use std::io::{self, Read as _};
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
const NETLINK_NETFILTER: i32 = 12;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// `NLM_F_EXCL`: fails when it is there already.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`, of rules: after those there are.
pub const APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
/// `nlmsghdr`.
const HEADER: usize = 16;
const NLA_F_NESTED: u16 = 1 << 15;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const AF_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;

/// The kernel answers while it is asked; a batch of thousands of ranges takes it milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Asked for; the kernel gives what its limit allows.
const SEND_BUFFER: usize = 4 << 20;

/// What could not be changed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}", advice(*errno))]
pub struct Error {
    what: String,
    errno: Errno,
    #[source]
    source: io::Error,
}

impl Error {
    fn new(what: &str, source: io::Error) -> Self {
        let errno = Errno::from_raw(source.raw_os_error().unwrap_or_default());
        Self { what: what.into(), errno, source }
    }

    /// What the kernel said.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

/// What to do about it, if that is known.
fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => " (this needs the capability NET_ADMIN, as user 0)",
        Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => {
            " (the kernel has no netfilter; nf_tables is needed)"
        }
        Errno::EOPNOTSUPP | Errno::ENOENT => {
            " (the kernel has no nf_tables, or lacks a part of it; load on the node the modules \
             nf_tables, nft_chain_nat, nft_ct, nft_fib_inet, nft_redir, nft_reject_inet, nft_tproxy)"
        }
        Errno::EMSGSIZE | Errno::ENOBUFS => {
            " (more rules than the kernel takes at once; merge ranges)"
        }
        _ => "",
    }
}

/// Attributes of a message: type, length, value, and filling to four bytes.
#[derive(Debug, Default, Clone)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("values are cut to fit");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        fill(&mut self.0);
        self
    }

    /// Netfilter's numbers are in network byte order.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

/// Changes of nf_tables that happen all at once or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each message is about, by its sequence number.
    subjects: Vec<String>,
}

impl Batch {
    pub fn new() -> Self {
        let mut batch = Self::default();
        batch.bound(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    /// A change of the family `inet`; `subject` says what was tried if it is refused.
    pub fn change(&mut self, kind: u16, flags: u16, attributes: &Attributes, subject: String) {
        // The last change has to be answered: only then is it known that there was no error.
        let header = [NFPROTO_INET, 0, 0, 0];
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        self.push(kind, flags | NLM_F_ACK, &header, attributes, subject);
    }

    /// Has the kernel make the changes.
    ///
    /// # Errors
    /// The first that was refused; then none is made.
    pub fn commit(mut self) -> Result<(), Error> {
        let last = self.subjects.len() - 1;
        self.bound(NFNL_MSG_BATCH_END);
        let socket = connect(NETLINK_NETFILTER, "reach nf_tables")?;
        send(&socket, &self.bytes).map_err(|error| Error::new("send the rules", error))?;
        let mut answered = 0;
        while answered < last {
            for answer in
                receive(&socket).map_err(|error| Error::new("program the rules", error))?
            {
                answered = answer.sequence as usize;
                if let Some(refusal) = answer.refusal {
                    let subject = self.subjects.get(answered).map_or("the rules", String::as_str);
                    return Err(Error::new(&format!("program {subject}"), refusal));
                }
            }
        }
        Ok(())
    }

    fn bound(&mut self, kind: u16) {
        let subsystem = NFNL_SUBSYS_NFTABLES.to_be_bytes();
        let header = [AF_UNSPEC, 0, subsystem[0], subsystem[1]];
        self.push(kind, 0, &header, &Attributes::default(), "the rules".into());
    }

    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: &Attributes,
        subject: String,
    ) {
        let sequence = self.subjects.len() as u32;
        self.bytes.extend(message(kind, flags, sequence, &[header, &attributes.0].concat()));
        self.subjects.push(subject);
    }
}

/// Asks nf_tables whether there is something, in the family `inet`.
pub fn is_there(kind: u16, attributes: &Attributes, what: &str) -> Result<bool, Error> {
    let failed = |error| Error::new(what, error);
    let socket = connect(NETLINK_NETFILTER, what)?;
    let body = [&[NFPROTO_INET, 0, 0, 0], &attributes.0[..]].concat();
    let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
    send(&socket, &message(kind, NLM_F_ACK, 1, &body)).map_err(failed)?;
    loop {
        // What is there is told before the end is.
        let Some(end) = receive(&socket).map_err(failed)?.into_iter().next() else { continue };
        return match end.refusal {
            None => Ok(true),
            Some(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
            Some(error) => Err(failed(error)),
        };
    }
}

/// Asks the routing part of the kernel for one change.
pub fn route(
    kind: u16,
    flags: u16,
    header: &[u8],
    attributes: &Attributes,
    what: &str,
) -> Result<(), Error> {
    let failed = |error| Error::new(what, error);
    let socket = connect(NETLINK_ROUTE, what)?;
    let body = [header, &attributes.0].concat();
    send(&socket, &message(kind, flags | NLM_F_ACK, 1, &body)).map_err(failed)?;
    match receive(&socket).map_err(failed)?.into_iter().find_map(|answer| answer.refusal) {
        Some(refusal) => Err(failed(refusal)),
        None => Ok(()),
    }
}

fn connect(protocol: i32, what: &str) -> Result<Socket, Error> {
    let failed = |error| Error::new(what, error);
    let kind = Type::RAW.cloexec();
    let socket = Socket::new_raw(Domain::from(AF_NETLINK), kind, Some(Protocol::from(protocol)))
        .map_err(failed)?;
    socket.set_read_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
    socket.set_send_buffer_size(SEND_BUFFER).map_err(failed)?;
    Ok(socket)
}

fn send(socket: &Socket, bytes: &[u8]) -> io::Result<()> {
    // Without an address a netlink socket sends to the kernel; and all of a message or nothing.
    socket.send(bytes).map(drop)
}

/// The kernel's answer to one message.
struct Answer {
    sequence: u32,
    refusal: Option<io::Error>,
}

fn receive(socket: &Socket) -> io::Result<Vec<Answer>> {
    // An error comes with the message it is about, which are 64 KiB at most.
    let mut buffer = vec![0; 128 << 10];
    let length = (&mut &*socket).read(&mut buffer)?;
    let mut answers = Vec::new();
    let mut rest = &buffer[..length];
    while let Some((header, body)) = rest.split_at_checked(HEADER) {
        let size = u32_at(header, 0) as usize;
        if u16::from_ne_bytes([header[4], header[5]]) == NLMSG_ERROR && body.len() >= 4 {
            let errno = u32_at(body, 0).cast_signed();
            let refusal = (errno != 0).then(|| io::Error::from_raw_os_error(-errno));
            answers.push(Answer { sequence: u32_at(header, 8), refusal });
        }
        rest = rest.get(size.next_multiple_of(4).max(HEADER)..).unwrap_or_default();
    }
    Ok(answers)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = (HEADER + body.len()) as u32;
    let mut message = Vec::with_capacity(length.next_multiple_of(4) as usize);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(body);
    fill(&mut message);
    message
}

fn fill(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        let words =
            bytes.chunks(4).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect());
        words.collect::<Vec<String>>().join(" ")
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_batch_is_bounded_and_each_change_numbered_and_answered() {
        let mut batch = Batch::new();
        batch.change(0, CREATE, &Attributes::default().text(1, "weir"), "the table".into());
        assert_eq!(
            hex(&batch.bytes),
            // length, type and flags, sequence, port; family, version and resource
            "14000000 10000100 00000000 00000000 0000000a \
             20000000 000a0504 01000000 00000000 01000000 \
             09000100 77656972 00000000"
        );
        assert_eq!(batch.subjects, ["the rules", "the table"]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn nested_attributes_are_marked_and_filled_to_four_bytes() {
        let inner = Attributes::default().bytes(2, &[1, 2]).number(3, 7);
        assert_eq!(
            hex(&Attributes::default().nest(4, &inner).0),
            "14000480 06000200 01020000 08000300 00000007"
        );
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refused = |errno: Errno| {
            Error::new("program chain in", io::Error::from_raw_os_error(errno as i32)).to_string()
        };
        assert_eq!(
            refused(Errno::EPERM),
            "program chain in (this needs the capability NET_ADMIN, as user 0)"
        );
        assert_eq!(
            refused(Errno::EOPNOTSUPP),
            "program chain in (the kernel has no nf_tables, or lacks a part of it; load on the node \
             the modules nf_tables, nft_chain_nat, nft_ct, nft_fib_inet, nft_redir, nft_reject_inet, \
             nft_tproxy)"
        );
        assert_eq!(
            refused(Errno::EPROTONOSUPPORT),
            "program chain in (the kernel has no netfilter; nf_tables is needed)"
        );
        assert_eq!(refused(Errno::EINVAL), "program chain in");
    }
}
