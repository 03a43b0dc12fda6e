//! A table in the syntax of `nft`, which takes it back.

use std::fmt::{self, Display, Formatter};

use super::{
    ranges::Range,
    settings::Interface,
    table::{
        Chain, Direction, Family, Is, Kind, Match, NAME, OwnerKind, Point, Protocol, Rule, Side,
        Statement, Table,
    },
};

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {NAME} {{")?;
        for (index, chain) in self.chains.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(hook) = self.hook {
            let (kind, point, priority) = (hook.kind, hook.point, hook.priority as i32);
            writeln!(f, "\t\ttype {kind} hook {point} priority {priority}; policy accept;")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let matches = self.matches.iter().map(ToString::to_string);
        let statements = self.statements.iter().map(ToString::to_string);
        f.write_str(&matches.chain(statements).collect::<Vec<_>>().join(" "))
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface { direction, name, is } => write!(f, "{direction}{is} {name}"),
            Self::Owner { kind, ids, is } => write!(f, "meta {kind}{is} {}", one_or_set(ids)),
            Self::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::Port { protocol, side, ports, is } => {
                let side = side.letter();
                write!(f, "{protocol} {side}port{is} {}", one_or_set(ports))
            }
            Self::Address { family, side, ranges } => {
                let shown: Vec<_> = ranges.iter().map(|range| shown(*range, *family)).collect();
                write!(f, "{family} {}addr {}", side.letter(), one_or_set(&shown))
            }
            Self::NotForUs => f.write_str("fib daddr type != local"),
            Self::Mark(mark) => write!(f, "meta mark {mark:#010x}"),
            Self::ConnectionMark(mark) => write!(f, "ct mark {mark:#010x}"),
            Self::NotRedirected => f.write_str("ct status ! dnat"),
            Self::InvalidState => f.write_str("ct state invalid"),
        }
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetMark(mark) => write!(f, "meta mark set {mark:#010x}"),
            Self::SetConnectionMark(mark) => write!(f, "ct mark set {mark:#010x}"),
            Self::SetZone(zone) => write!(f, "ct zone set {zone}"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::Tproxy(family, port) => write!(f, "tproxy {family} to :{port}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Return => f.write_str("return"),
            Self::Drop => f.write_str("drop"),
            Self::Reset => f.write_str("reject with tcp reset"),
        }
    }
}

impl Display for Is {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneOf => "",
            Self::NoneOf => " !=",
        })
    }
}

impl Display for Interface {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}{}\"", self.name, if self.is_prefix { "*" } else { "" })
    }
}

impl Display for Direction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "iifname",
            Self::Out => "oifname",
        })
    }
}

impl Display for OwnerKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "skuid",
            Self::Group => "skgid",
        })
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Display for Point {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Output => "output",
        })
    }
}

impl Kind {
    /// As nft and the kernel call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

impl Side {
    fn letter(self) -> char {
        match self {
            Self::Source => 's',
            Self::Destination => 'd',
        }
    }
}

fn shown(range: Range, family: Family) -> String {
    let first = family.address(range.first);
    match range.prefix(family) {
        Some(bits) if bits == family.bits() => first.to_string(),
        Some(bits) => format!("{first}/{bits}"),
        None => format!("{first}-{}", family.address(range.last)),
    }
}

fn one_or_set<T: Display>(values: &[T]) -> String {
    match values {
        [one] => one.to_string(),
        several => {
            let several: Vec<_> = several.iter().map(ToString::to_string).collect();
            format!("{{ {} }}", several.join(", "))
        }
    }
}
