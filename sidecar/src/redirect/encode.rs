//! A table as the kernel takes it: messages of nf_tables, whose rules are small programs on
//! registers. Numbers are those of `linux/netfilter/nf_tables.h`.

use super::{
    netlink::{self, APPEND, Attributes, Batch, CREATE, Error},
    ranges::Range,
    table::{
        Chain, Direction, Family, Hook, Is, Match, NAME, OwnerKind, Point, Protocol, Rule, Side,
        Statement, Table,
    },
};

const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;

/// `NFT_REG_VERDICT`, and the one register that everything is compared in.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;

const SET_ANONYMOUS_CONSTANT: u32 = 1 | 2;
const SET_INTERVAL: u32 = 4;
const ELEMENT_INTERVAL_END: u32 = 1;
/// So many elements are a message of at most 20 KiB; attributes end at 64.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Replaces our table by this one.
pub fn replace(table: &Table) -> Batch {
    let mut batch = delete();
    let name = Attributes::default().text(1, NAME);
    batch.change(NEWTABLE, CREATE, &name, format!("table inet {NAME}"));
    for chain in &table.chains {
        new_chain(&mut batch, chain);
    }
    let mut sets = 0;
    for chain in &table.chains {
        for rule in &chain.rules {
            new_rule(&mut batch, &mut sets, chain.name, rule);
        }
    }
    batch
}

/// Removes our table.
pub fn delete() -> Batch {
    let mut batch = Batch::new();
    let name = Attributes::default().text(1, NAME);
    // Only what is there can be deleted.
    batch.change(NEWTABLE, CREATE, &name, format!("table inet {NAME}"));
    batch.change(DELTABLE, 0, &name, format!("no table inet {NAME}"));
    batch
}

/// Whether there is a table of ours.
pub fn is_there() -> Result<bool, Error> {
    netlink::is_there(GETTABLE, &Attributes::default().text(1, NAME), "look for our table")
}

fn new_chain(batch: &mut Batch, chain: &Chain) {
    let mut attributes = Attributes::default().text(1, NAME).text(3, chain.name);
    if let Some(Hook { kind, point, priority }) = chain.hook {
        let number = match point {
            Point::Prerouting => 0,
            Point::Input => 1,
            Point::Output => 3,
        };
        let priority = (priority as i32).cast_unsigned();
        let hook = Attributes::default().number(1, number).number(2, priority);
        attributes = attributes.nest(4, &hook).text(7, kind.name());
    }
    batch.change(NEWCHAIN, CREATE, &attributes, format!("chain {}", chain.name));
}

fn new_rule(batch: &mut Batch, sets: &mut u32, chain: &str, rule: &Rule) {
    let subject = format!("in chain {chain}: {rule}");
    let mut program = Program { expressions: Attributes::default(), batch, sets, subject };
    for matched in &rule.matches {
        program.matches(matched);
    }
    for statement in &rule.statements {
        program.statement(statement);
    }
    let Program { expressions, batch, subject, .. } = program;
    let attributes = Attributes::default().text(1, NAME).text(2, chain).nest(4, &expressions);
    batch.change(NEWRULE, CREATE | APPEND, &attributes, subject);
}

/// The expressions of a rule. Its sets go into the batch before it.
struct Program<'a> {
    expressions: Attributes,
    batch: &'a mut Batch,
    sets: &'a mut u32,
    subject: String,
}

/// The type of a set's values.
#[derive(Clone, Copy)]
struct Key {
    /// As nft numbers them, which shows them by it.
    kind: u32,
    length: u32,
    order: Order,
}

/// The order of a value's bytes. The kernel compares them as they are; nft has to know.
#[derive(Clone, Copy)]
enum Order {
    Host = 1,
    Network = 2,
}

impl Program<'_> {
    fn matches(&mut self, matched: &Match) {
        match matched {
            Match::Interface { direction, name, is } => {
                self.load_meta(match direction {
                    Direction::In => 6,
                    Direction::Out => 7,
                });
                let mut bytes = name.name.clone().into_bytes();
                if !name.is_prefix {
                    bytes.resize(16, 0);
                }
                self.compare(*is, &bytes);
            }
            Match::Owner { kind, ids, is } => {
                let (meta, kind) = match kind {
                    OwnerKind::User => (10, 24),
                    OwnerKind::Group => (11, 25),
                };
                self.load_meta(meta);
                let ids: Vec<_> = ids.iter().map(|id| id.to_ne_bytes().to_vec()).collect();
                self.any(*is, Key { kind, length: 4, order: Order::Host }, &ids);
            }
            Match::Protocol(protocol) => self.protocol(*protocol),
            Match::Port { protocol, side, ports, is } => {
                self.protocol(*protocol);
                let offset = match side {
                    Side::Source => 0,
                    Side::Destination => 2,
                };
                self.load_payload(2, offset, 2);
                let ports: Vec<_> = ports.iter().map(|port| port.to_be_bytes().to_vec()).collect();
                self.any(*is, Key { kind: 13, length: 2, order: Order::Network }, &ports);
            }
            Match::Address { family, side, ranges } => self.address(*family, *side, ranges),
            Match::NotForUs => {
                let fib = Attributes::default().number(1, REGISTER).number(2, 3).number(3, 2);
                self.push("fib", &fib);
                self.compare(Is::NoneOf, &2u32.to_ne_bytes());
            }
            Match::Mark(mark) => {
                self.load_meta(3);
                self.compare(Is::OneOf, &mark.to_ne_bytes());
            }
            Match::ConnectionMark(mark) => {
                self.load_conntrack(3);
                self.compare(Is::OneOf, &mark.to_ne_bytes());
            }
            Match::NotRedirected => {
                self.load_conntrack(2);
                self.mask(&(1u32 << 5).to_ne_bytes());
                self.compare(Is::OneOf, &0u32.to_ne_bytes());
            }
            Match::InvalidState => {
                self.load_conntrack(0);
                self.mask(&1u32.to_ne_bytes());
                self.compare(Is::NoneOf, &0u32.to_ne_bytes());
            }
        }
    }

    fn statement(&mut self, statement: &Statement) {
        let register = |kind| Attributes::default().number(kind, REGISTER);
        match statement {
            Statement::SetMark(mark) => {
                self.immediate(&mark.to_ne_bytes());
                self.push("meta", &Attributes::default().number(2, 3).number(3, REGISTER));
            }
            Statement::SetConnectionMark(mark) => {
                self.immediate(&mark.to_ne_bytes());
                self.push("ct", &Attributes::default().number(2, 3).number(4, REGISTER));
            }
            Statement::SetZone(zone) => {
                self.immediate(&zone.to_ne_bytes());
                self.push("ct", &Attributes::default().number(2, 17).number(4, REGISTER));
            }
            Statement::Redirect(port) => {
                self.immediate(&port.to_be_bytes());
                // The port is given, not only the address.
                self.push("redir", &register(1).number(3, 2));
            }
            Statement::Tproxy(family, port) => {
                self.immediate(&port.to_be_bytes());
                let family = Attributes::default().number(1, family.number());
                self.push("tproxy", &family.number(3, REGISTER));
            }
            Statement::Goto(chain) => self.verdict(-4, Some(chain)),
            Statement::Return => self.verdict(-5, None),
            Statement::Drop => self.verdict(0, None),
            Statement::Reset => {
                self.push("reject", &Attributes::default().number(1, 1).bytes(2, &[0]))
            }
        }
    }

    fn protocol(&mut self, protocol: Protocol) {
        self.load_meta(16);
        self.compare(Is::OneOf, &[protocol as u8]);
    }

    fn address(&mut self, family: Family, side: Side, ranges: &[Range]) {
        self.load_meta(15);
        self.compare(Is::OneOf, &[family.number() as u8]);
        let length = family.bits() / 8;
        let source = match family {
            Family::V4 => 12,
            Family::V6 => 8,
        };
        let offset = match side {
            Side::Source => source,
            Side::Destination => source + length,
        };
        self.load_payload(1, offset, length);
        match ranges {
            [one] => self.range(family, *one),
            several => self.intervals(family, several),
        }
    }

    fn range(&mut self, family: Family, range: Range) {
        let (first, last) = (family.octets(range.first), family.octets(range.last));
        match range.prefix(family) {
            Some(bits) if bits == family.bits() => self.compare(Is::OneOf, &first),
            Some(_) => {
                self.mask(&family.octets(!(range.first ^ range.last)));
                self.compare(Is::OneOf, &first);
            }
            None => {
                let bounds = Attributes::default().number(1, REGISTER).number(2, 0);
                self.push("range", &bounds.nest(3, &value(&first)).nest(4, &value(&last)));
            }
        }
    }

    /// A set of intervals has where one begins and where it is over. That nothing is in it before the
    /// first is said too.
    fn intervals(&mut self, family: Family, ranges: &[Range]) {
        let mut bounds = Vec::new();
        if ranges.first().is_some_and(|range| range.first > 0) {
            bounds.push((family.octets(0), ELEMENT_INTERVAL_END));
        }
        for range in ranges {
            bounds.push((family.octets(range.first), 0));
            if range.last < family.last() {
                bounds.push((family.octets(range.last + 1), ELEMENT_INTERVAL_END));
            }
        }
        let kind = match family {
            Family::V4 => 7,
            Family::V6 => 8,
        };
        let key = Key { kind, length: family.bits() / 8, order: Order::Network };
        self.lookup(Is::OneOf, key, SET_INTERVAL, &bounds);
    }

    fn any(&mut self, is: Is, key: Key, values: &[Vec<u8>]) {
        match values {
            [one] => self.compare(is, one),
            several => {
                let elements: Vec<_> = several.iter().map(|value| (value.clone(), 0)).collect();
                self.lookup(is, key, 0, &elements);
            }
        }
    }

    fn lookup(&mut self, is: Is, key: Key, flags: u32, elements: &[(Vec<u8>, u32)]) {
        *self.sets += 1;
        let (id, name) = (*self.sets, "__set%d");
        let size = Attributes::default().number(1, elements.len() as u32);
        let set = Attributes::default()
            .text(1, NAME)
            .text(2, name)
            .number(3, SET_ANONYMOUS_CONSTANT | flags)
            .number(4, key.kind)
            .number(5, key.length)
            .nest(9, &size)
            .number(10, id)
            // A note of nft to itself: type, length, value.
            .bytes(13, &[&[0, 4], &(key.order as u32).to_ne_bytes()[..]].concat());
        self.batch.change(NEWSET, CREATE, &set, format!("a set {}", self.subject));
        for elements in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let list = elements.iter().fold(Attributes::default(), |list, (key, flags)| {
                let element = Attributes::default().nest(1, &value(key));
                list.nest(1, &if *flags == 0 { element } else { element.number(3, *flags) })
            });
            let content =
                Attributes::default().text(1, NAME).text(2, name).nest(3, &list).number(4, id);
            self.batch.change(NEWSETELEM, CREATE, &content, format!("a set {}", self.subject));
        }
        let inverted = match is {
            Is::OneOf => 0,
            Is::NoneOf => 1,
        };
        let lookup = Attributes::default().text(1, name).number(2, REGISTER).number(4, id);
        self.push("lookup", &lookup.number(5, inverted));
    }

    fn load_meta(&mut self, key: u32) {
        self.push("meta", &Attributes::default().number(1, REGISTER).number(2, key));
    }

    fn load_conntrack(&mut self, key: u32) {
        self.push("ct", &Attributes::default().number(1, REGISTER).number(2, key));
    }

    /// Base 1 is the network header, 2 the transport header.
    fn load_payload(&mut self, base: u32, offset: u32, length: u32) {
        let place = Attributes::default().number(1, REGISTER).number(2, base);
        self.push("payload", &place.number(3, offset).number(4, length));
    }

    fn mask(&mut self, mask: &[u8]) {
        let registers = Attributes::default().number(1, REGISTER).number(2, REGISTER);
        let length = registers.number(3, mask.len() as u32);
        let none = vec![0; mask.len()];
        self.push("bitwise", &length.nest(4, &value(mask)).nest(5, &value(&none)));
    }

    fn compare(&mut self, is: Is, bytes: &[u8]) {
        let operation = match is {
            Is::OneOf => 0,
            Is::NoneOf => 1,
        };
        let left = Attributes::default().number(1, REGISTER).number(2, operation);
        self.push("cmp", &left.nest(3, &value(bytes)));
    }

    fn immediate(&mut self, bytes: &[u8]) {
        let data = Attributes::default().number(1, REGISTER).nest(2, &value(bytes));
        self.push("immediate", &data);
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        let mut verdict = Attributes::default().number(1, code.cast_unsigned());
        if let Some(chain) = chain {
            verdict = verdict.text(2, chain);
        }
        let data = Attributes::default().nest(2, &verdict);
        self.push("immediate", &Attributes::default().number(1, VERDICT).nest(2, &data));
    }

    fn push(&mut self, name: &str, attributes: &Attributes) {
        let expression = Attributes::default().text(1, name).nest(2, attributes);
        let expressions = std::mem::take(&mut self.expressions);
        self.expressions = expressions.nest(1, &expression);
    }
}

impl Family {
    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`; also the numbers of socket families.
    pub fn number(self) -> u32 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}
