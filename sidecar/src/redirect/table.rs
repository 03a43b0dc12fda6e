//! Rules as data: the part of nftables that capturing traffic needs.

use super::{ranges::Range, settings::Interface};

/// The name of our table.
pub const NAME: &str = "weir";

/// A table of the family `inet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub(super) chains: Vec<Chain>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    /// Where packets come from; a chain without is only gone to.
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    pub kind: Kind,
    pub point: Point,
    pub priority: Priority,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Filter,
    Nat,
    Route,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    Prerouting,
    Input,
    Output,
}

/// When a chain is asked, among those of its hook; lower is earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Before connection tracking.
    Raw = -300,
    Mangle = -150,
    DestinationNat = -100,
    Filter = 0,
}

/// What happens to packets that all of the matches fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub statements: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    Interface {
        direction: Direction,
        name: Interface,
        is: Is,
    },
    /// The user or group of the socket that sends.
    Owner {
        kind: OwnerKind,
        ids: Vec<u32>,
        is: Is,
    },
    Protocol(Protocol),
    Port {
        protocol: Protocol,
        side: Side,
        ports: Vec<u16>,
        is: Is,
    },
    Address {
        family: Family,
        side: Side,
        ranges: Vec<Range>,
    },
    /// The destination is not an address of this namespace.
    NotForUs,
    Mark(u32),
    ConnectionMark(u32),
    /// No rule has changed the destination.
    NotRedirected,
    /// Connection tracking cannot make sense of it.
    InvalidState,
}

/// Whether one of the values is matched, or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    OneOf,
    NoneOf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerKind {
    User,
    Group,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    SetMark(u32),
    SetConnectionMark(u32),
    /// Tracks the connection apart from those of other zones.
    SetZone(u16),
    /// To this port of an address of this namespace.
    Redirect(u16),
    /// To the socket on this port, the destination as it is.
    Tproxy(Family, u16),
    Goto(&'static str),
    Return,
    Drop,
    /// Refuses a TCP connection.
    Reset,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl Rule {
    pub fn new(matches: Vec<Match>, statement: Statement) -> Self {
        Self { matches, statements: vec![statement] }
    }
}

/// Matches by one value, or by any or none of several.
impl Match {
    pub fn incoming(name: &Interface) -> Self {
        Self::Interface { direction: Direction::In, name: name.clone(), is: Is::OneOf }
    }

    pub fn outgoing(name: &Interface) -> Self {
        Self::Interface { direction: Direction::Out, name: name.clone(), is: Is::OneOf }
    }

    pub fn loopback(direction: Direction, is: Is) -> Self {
        Self::Interface { direction, name: Interface::loopback(), is }
    }

    pub fn user(id: u32) -> Self {
        Self::Owner { kind: OwnerKind::User, ids: vec![id], is: Is::OneOf }
    }

    pub fn group(id: u32) -> Self {
        Self::Owner { kind: OwnerKind::Group, ids: vec![id], is: Is::OneOf }
    }

    pub fn to_port(protocol: Protocol, port: u16) -> Self {
        Self::Port { protocol, side: Side::Destination, ports: vec![port], is: Is::OneOf }
    }

    pub fn to_ports(ports: Vec<u16>, is: Is) -> Self {
        Self::Port { protocol: Protocol::Tcp, side: Side::Destination, ports, is }
    }

    pub fn to(family: Family, ranges: Vec<Range>) -> Self {
        Self::Address { family, side: Side::Destination, ranges }
    }

    pub fn from(family: Family, ranges: Vec<Range>) -> Self {
        Self::Address { family, side: Side::Source, ranges }
    }
}
