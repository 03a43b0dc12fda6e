//! Which rules capture what the settings ask for.
//!
//! | chain | where | what it does |
//! |---|---|---|
//! | `in` | destinations of what arrives | to the inbound port of the proxy |
//! | `out` | destinations of what is sent | the proxy's own to `own`, queries to the DNS port, the rest to `outbound` |
//! | `own` | the proxy's own | only what it sends to this workload goes to the inbound port |
//! | `outbound` | what is neither the proxy's nor local | to the outbound port |
//! | `guard` | what is delivered | refuses who calls the proxy's ports from outside |
//! | `pre`, `post` | TPROXY instead of `in` | to the inbound port, the destination as it is |
//! | `dns` | before connection tracking | keeps queries to the proxy and of the proxy apart |
//! | `invalid` | what arrives | drops what belongs to no connection |

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{
    ranges::merged,
    settings::{Dns, Groups, Mode, Ports, Ranges, Settings},
    table::{
        Chain, Direction, Family, Hook, Is, Kind, Match, OwnerKind, Point, Priority, Protocol,
        Rule, Side, Statement, Table,
    },
};

/// Ports of the proxy that are its own besides the captured ones: merged metrics, health, metrics.
const OWN_PORTS: [u16; 3] = [15020, 15021, 15090];
/// Where the proxy asks whether it is reached at all: nobody else has the address, and without rules
/// nobody is there.
const TEST: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 15002);
const DNS_PORT: u16 = 53;
/// Where the proxy answers captured queries.
const PROXY_DNS_PORT: u16 = 15053;
/// Queries to the proxy; those of the proxy itself are in zone 0, with everything else.
const DNS_ZONE: u16 = 2;
/// Where the proxy's connections to the application come from: they go to it, not to the proxy.
const SOURCES: [(Family, IpAddr); 2] = [
    (Family::V4, IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6))),
    (Family::V6, IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))),
];

/// The table of these settings. Chains that would be empty are left out.
pub fn table(settings: &Settings) -> Table {
    let mut chains = vec![
        chain("outbound", None, outbound(settings)),
        chain("own", None, own(settings)),
        chain("in", Some(at(Kind::Nat, Point::Prerouting, Priority::DestinationNat)), {
            let mut rules = incoming(settings);
            if settings.mode == Mode::Redirect {
                rules.extend(inbound(settings, &[Statement::Redirect(settings.inbound_port)]));
            }
            rules
        }),
        chain("out", Some(at(Kind::Nat, Point::Output, Priority::DestinationNat)), out(settings)),
        chain("guard", Some(at(Kind::Filter, Point::Input, Priority::Filter)), guard(settings)),
    ];
    if settings.mode == Mode::Tproxy {
        let pre = at(Kind::Filter, Point::Prerouting, Priority::Mangle);
        let post = at(Kind::Route, Point::Output, Priority::Mangle);
        chains.push(chain("pre", Some(pre), tproxy_in(settings)));
        chains.push(chain("post", Some(post), tproxy_out(settings)));
    }
    if captures_dns(settings) {
        let raw = at(Kind::Filter, Point::Output, Priority::Raw);
        chains.push(chain("dns", Some(raw), dns(settings)));
    }
    if settings.drop_invalid {
        let mangle = at(Kind::Filter, Point::Prerouting, Priority::Mangle);
        let rule = Rule::new(vec![Match::InvalidState], Statement::Drop);
        chains.push(chain("invalid", Some(mangle), vec![rule]));
    }
    chains.retain(|chain| !chain.rules.is_empty());
    Table { chains }
}

/// What the interface decides on alone.
fn incoming(settings: &Settings) -> Vec<Rule> {
    let excluded = settings.exclude_interfaces.iter();
    let mut rules: Vec<_> =
        excluded.map(|name| when(Match::incoming(name), Statement::Return)).collect();
    let captures = !outbound(settings).is_empty();
    for name in &settings.reroute_interfaces {
        if !captures {
            rules.push(when(Match::incoming(name), Statement::Return));
            continue;
        }
        let matches = vec![Match::incoming(name), Match::Protocol(Protocol::Tcp)];
        rules.push(Rule::new(matches, Statement::Goto("outbound")));
        rules.push(when(Match::incoming(name), Statement::Return));
    }
    rules
}

/// What arrives for this workload, to the proxy.
fn inbound(settings: &Settings, capture: &[Statement]) -> Vec<Rule> {
    let mut skip = own_ports(settings);
    match &settings.inbound {
        Ports::Only(only) if only.is_empty() => return Vec::new(),
        Ports::Only(_) => {}
        Ports::All => skip.extend(&settings.inbound_exclude),
    }
    // What is only forwarded here belongs to somebody else: containers in the pod, for example.
    let mut rules = vec![when(Match::NotForUs, Statement::Return)];
    rules.push(when(Match::to_ports(sorted(&skip), Is::OneOf), Statement::Return));
    if let Ports::Only(only) = &settings.inbound {
        rules.push(when(Match::to_ports(sorted(only), Is::NoneOf), Statement::Return));
    }
    let tcp = |statement: &Statement| when(Match::Protocol(Protocol::Tcp), statement.clone());
    rules.extend(capture.iter().map(tcp));
    rules
}

/// What is sent, whoever does.
fn out(settings: &Settings) -> Vec<Rule> {
    let mut rules: Vec<_> = owners(settings).map(|owner| test(owner, settings)).collect();
    let excluded = settings.exclude_interfaces.iter();
    rules.extend(excluded.map(|name| when(Match::outgoing(name), Statement::Return)));
    rules.extend(owners(settings).map(|owner| when(owner, Statement::Goto("own"))));
    rules.extend(match &settings.owner_groups {
        Groups::Except(groups) => groups_return(groups, Is::OneOf),
        Groups::Only(groups) if groups.is_empty() => return rules,
        Groups::Only(groups) => groups_return(groups, Is::NoneOf),
    });
    if captures_dns(settings) {
        // Before what is local: the server may be.
        rules.extend(queries(settings, &[Protocol::Udp, Protocol::Tcp], &|| {
            Statement::Redirect(PROXY_DNS_PORT)
        }));
    }
    rules.extend(local(settings));
    if !outbound(settings).is_empty() {
        rules.push(when(Match::Protocol(Protocol::Tcp), Statement::Goto("outbound")));
    }
    rules
}

/// Of the proxy's own connections the only one that comes back to it as the workload's do.
fn test(owner: Match, settings: &Settings) -> Rule {
    let (address, port) = TEST;
    let to = Match::to(Family::V4, merged(&[IpNet::from(IpAddr::V4(address))], Family::V4));
    let port = Match::to_port(Protocol::Tcp, port);
    Rule::new(vec![owner, to, port], Statement::Redirect(settings.outbound_port))
}

/// What stays here is not captured, unless a range of captured destinations is of loopback addresses:
/// then only what goes to the usual one.
fn local(settings: &Settings) -> Vec<Rule> {
    let Ranges::Only(ranges) = &settings.outbound else {
        return vec![when(Match::loopback(Direction::Out, Is::OneOf), Statement::Return)];
    };
    if !ranges.iter().any(|range| range.addr().is_loopback()) {
        return vec![when(Match::loopback(Direction::Out, Is::OneOf), Statement::Return)];
    }
    loopback_addresses(settings.loopback.unwrap_or_else(|| Ipv4Addr::LOCALHOST.into()).into())
}

/// What the proxy sends. Out of here it is not captured; to this workload it is, as if it arrived
/// from outside: so a call of the workload to its own service meets its inbound policy.
fn own(settings: &Settings) -> Vec<Rule> {
    let capture = inbound(settings, &[Statement::Redirect(settings.inbound_port)]);
    let mut rules = vec![when(Match::loopback(Direction::Out, Is::NoneOf), Statement::Return)];
    if settings.mode == Mode::Tproxy {
        // To the application in the client's name.
        rules.push(when(Match::Mark(settings.tproxy_mark), Statement::Return));
    }
    for (family, source) in SOURCES {
        let range = merged(&[IpNet::from(source)], family);
        rules.push(when(Match::from(family, range), Statement::Return));
    }
    let loopback = settings
        .loopback
        .unwrap_or_else(|| ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
    rules.extend(loopback_addresses(loopback.into()));
    if captures_dns(settings) {
        // The proxy's question to a name server of this pod is for that server.
        let port = Match::to_port(Protocol::Tcp, DNS_PORT);
        rules.push(when(port, Statement::Return));
    }
    rules.extend(capture.into_iter().filter(|rule| rule.matches != [Match::NotForUs]));
    rules
}

/// What is neither the proxy's nor local.
fn outbound(settings: &Settings) -> Vec<Rule> {
    let capture = || Statement::Redirect(settings.outbound_port);
    let mut captured = Vec::new();
    if !settings.outbound_ports.is_empty() {
        let ports = sorted(&settings.outbound_ports);
        captured.push(when(Match::to_ports(ports, Is::OneOf), capture()));
    }
    match &settings.outbound {
        Ranges::All => captured.push(when(Match::Protocol(Protocol::Tcp), capture())),
        Ranges::Only(ranges) => captured.extend(
            destinations(ranges)
                .map(|range| Rule::new(vec![range, Match::Protocol(Protocol::Tcp)], capture())),
        ),
    }
    if captured.is_empty() {
        return captured;
    }
    let mut rules = Vec::new();
    if !settings.outbound_ports_exclude.is_empty() {
        let ports = sorted(&settings.outbound_ports_exclude);
        rules.push(when(Match::to_ports(ports, Is::OneOf), Statement::Return));
    }
    let excluded = destinations(&settings.outbound_exclude);
    rules.extend(excluded.map(|range| when(range, Statement::Return)));
    rules.extend(captured);
    rules
}

/// The proxy's captured ports are reached by being redirected to. Who calls them himself would be
/// taken for somebody who called another port.
fn guard(settings: &Settings) -> Vec<Rule> {
    let ports = sorted(&BTreeSet::from([settings.outbound_port, settings.inbound_port]));
    let matches = vec![
        Match::loopback(Direction::In, Is::NoneOf),
        Match::to_ports(ports, Is::OneOf),
        Match::NotRedirected,
    ];
    vec![Rule::new(matches, Statement::Reset)]
}

fn tproxy_in(settings: &Settings) -> Vec<Rule> {
    let mark = settings.tproxy_mark;
    let mut rules = vec![Rule {
        // The proxy's connection to the application, in the client's name: answers to it have to
        // come back to the proxy, see `tproxy_out`.
        matches: vec![Match::loopback(Direction::In, Is::OneOf), Match::Mark(mark)],
        statements: vec![Statement::SetConnectionMark(mark), Statement::Return],
    }];
    rules.push(when(Match::loopback(Direction::In, Is::OneOf), Statement::Return));
    let mut others = settings.exclude_interfaces.clone();
    others.extend(settings.reroute_interfaces.iter().cloned());
    rules.extend(others.iter().map(|name| when(Match::incoming(name), Statement::Return)));
    let port = settings.inbound_port;
    rules.extend(inbound(settings, &Family::BOTH.map(|family| Statement::Tproxy(family, port))));
    rules
}

/// Takes the application's answers to the client back to the proxy: the mark chooses the routing
/// table in which every destination is here.
fn tproxy_out(settings: &Settings) -> Vec<Rule> {
    let mark = settings.tproxy_mark;
    vec![Rule::new(
        vec![Match::Protocol(Protocol::Tcp), Match::ConnectionMark(mark)],
        Statement::SetMark(mark),
    )]
}

/// A query of the application and one of the proxy may have the same source port; as one connection
/// one of them would go the way of the other.
fn dns(settings: &Settings) -> Vec<Rule> {
    let zone = || Statement::SetZone(DNS_ZONE);
    let answers = Match::Port {
        protocol: Protocol::Udp,
        side: Side::Source,
        ports: vec![PROXY_DNS_PORT],
        is: Is::OneOf,
    };
    let mut rules: Vec<_> =
        owners(settings).map(|owner| Rule::new(vec![owner, answers.clone()], zone())).collect();
    rules.extend(owners(settings).map(|owner| when(owner, Statement::Return)));
    rules.extend(queries(settings, &[Protocol::Udp], &zone));
    rules
}

/// Queries that are captured.
fn queries(
    settings: &Settings,
    protocols: &[Protocol],
    statement: &dyn Fn() -> Statement,
) -> Vec<Rule> {
    let servers: Vec<Option<Match>> = match &settings.dns {
        Dns::Off => Vec::new(),
        Dns::All => vec![None],
        Dns::Servers(servers) => {
            let servers: Vec<_> = servers.iter().copied().map(IpNet::from).collect();
            destinations(&servers).map(Some).collect()
        }
    };
    let mut rules = Vec::new();
    for server in servers {
        for protocol in protocols {
            let port = Match::to_port(*protocol, DNS_PORT);
            rules.push(Rule::new(server.clone().into_iter().chain([port]).collect(), statement()));
        }
    }
    rules
}

/// Whether any query is captured: not where the port is excluded.
fn captures_dns(settings: &Settings) -> bool {
    let any = match &settings.dns {
        Dns::Off => false,
        Dns::All => true,
        Dns::Servers(servers) => !servers.is_empty(),
    };
    any && !settings.outbound_ports_exclude.contains(&DNS_PORT)
}

/// Whose packets are the proxy's.
fn owners(settings: &Settings) -> impl Iterator<Item = Match> {
    let users = settings.users.iter().copied().map(Match::user);
    users.chain(settings.groups.iter().copied().map(Match::group))
}

fn groups_return(groups: &BTreeSet<u32>, is: Is) -> Vec<Rule> {
    if groups.is_empty() {
        return Vec::new();
    }
    let ids = groups.iter().copied().collect();
    vec![when(Match::Owner { kind: OwnerKind::Group, ids, is }, Statement::Return)]
}

fn loopback_addresses(v4: IpNet) -> Vec<Rule> {
    let both = destinations(&[v4, IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST))]);
    both.map(|range| when(range, Statement::Return)).collect()
}

/// Matches for networks as destinations, of each family there are any of.
fn destinations(networks: &[IpNet]) -> impl Iterator<Item = Match> + use<> {
    let families = Family::BOTH.map(|family| (family, merged(networks, family)));
    let families = families.into_iter().filter(|(_, ranges)| !ranges.is_empty());
    families.map(|(family, ranges)| Match::to(family, ranges))
}

/// Ports of the proxy that are reached as they are.
fn own_ports(settings: &Settings) -> BTreeSet<u16> {
    let configured = [settings.outbound_port, settings.inbound_port, settings.tunnel_port];
    // On loopback only: from outside there is nobody.
    let dns = captures_dns(settings).then_some(PROXY_DNS_PORT);
    configured.into_iter().chain(OWN_PORTS).chain(dns).collect()
}

fn sorted(ports: &BTreeSet<u16>) -> Vec<u16> {
    ports.iter().copied().collect()
}

fn when(matched: Match, statement: Statement) -> Rule {
    Rule::new(vec![matched], statement)
}

fn at(kind: Kind, point: Point, priority: Priority) -> Hook {
    Hook { kind, point, priority }
}

fn chain(name: &'static str, hook: Option<Hook>, rules: Vec<Rule>) -> Chain {
    Chain { name, hook, rules }
}
