//! What is captured, and how: the knobs of `istio-iptables` and of the pods' annotations, parsed.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};

use super::names::Names;

/// What is captured of a network namespace's traffic. The default is all TCP that is not the
/// proxy's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How inbound connections are taken.
    pub mode: Mode,
    /// The proxy's port for outbound connections.
    pub outbound_port: u16,
    /// The proxy's port for inbound connections.
    pub inbound_port: u16,
    /// The proxy's port for HBONE, which comes to it by itself.
    pub tunnel_port: u16,
    /// The users the proxy runs as: their traffic is not captured.
    pub users: BTreeSet<u32>,
    /// The groups the proxy runs as.
    pub groups: BTreeSet<u32>,
    /// Inbound ports that are captured.
    pub inbound: Ports,
    /// Inbound ports that are not captured, where all are.
    pub inbound_exclude: BTreeSet<u16>,
    /// Destinations that are captured.
    pub outbound: Ranges,
    /// Destinations that are not captured.
    pub outbound_exclude: Vec<IpNet>,
    /// Outbound ports that are captured whatever the destination.
    pub outbound_ports: BTreeSet<u16>,
    /// Outbound ports that are not captured.
    pub outbound_ports_exclude: BTreeSet<u16>,
    /// Groups whose outbound traffic is captured.
    pub owner_groups: Groups,
    /// Interfaces of virtual machines: what comes in there is outbound.
    pub reroute_interfaces: Vec<Interface>,
    /// Interfaces whose traffic is not captured.
    pub exclude_interfaces: Vec<Interface>,
    /// DNS queries that are captured.
    pub dns: Dns,
    /// Drops packets that belong to no connection, which would be answered with a reset.
    pub drop_invalid: bool,
    /// What counts as the loopback address; without, all of 127.0.0.0/8.
    pub loopback: Option<Ipv4Net>,
    /// The mark of packets that TPROXY takes back to the proxy.
    pub tproxy_mark: u32,
    /// The routing table of these packets.
    pub tproxy_table: u32,
}

/// How inbound connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The destination is changed to the proxy.
    Redirect,
    /// The proxy takes the place of the destination, and of the client towards the application.
    Tproxy,
}

/// Ports that are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Written `*`.
    All,
    /// These; none if there are none.
    Only(BTreeSet<u16>),
}

/// Destinations that are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranges {
    /// Written `*`.
    All,
    /// These; none if there are none.
    Only(Vec<IpNet>),
}

/// Groups whose traffic is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    /// All but these.
    Except(BTreeSet<u32>),
    /// These.
    Only(BTreeSet<u32>),
}

/// DNS queries that are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dns {
    /// None.
    Off,
    /// Those to these servers: others may be asked by a resolver of the pod itself.
    Servers(BTreeSet<IpAddr>),
    /// Those to any server.
    All,
}

/// An interface, or with a `+` at the end all whose names start so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    pub(super) name: String,
    pub(super) is_prefix: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Redirect,
            outbound_port: 15001,
            inbound_port: 15006,
            tunnel_port: 15008,
            users: BTreeSet::from([1337]),
            groups: BTreeSet::from([1337]),
            inbound: Ports::All,
            inbound_exclude: BTreeSet::new(),
            outbound: Ranges::All,
            outbound_exclude: Vec::new(),
            outbound_ports: BTreeSet::new(),
            outbound_ports_exclude: BTreeSet::new(),
            owner_groups: Groups::Except(BTreeSet::new()),
            reroute_interfaces: Vec::new(),
            exclude_interfaces: Vec::new(),
            dns: Dns::Off,
            drop_invalid: false,
            loopback: None,
            tproxy_mark: 1337,
            tproxy_table: 133,
        }
    }
}

impl Interface {
    pub(super) fn loopback() -> Self {
        Self { name: "lo".into(), is_prefix: false }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redirect => "REDIRECT",
            Self::Tproxy => "TPROXY",
        })
    }
}

/// A word that has no meaning where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not {expected}")]
pub struct Invalid {
    word: String,
    expected: &'static str,
}

impl Invalid {
    fn new(word: &str, expected: &'static str) -> Self {
        Self { word: word.into(), expected }
    }
}

/// The words of flags, environment variables and annotations. Lists are separated by commas; space
/// around their items and empty items mean nothing.
pub mod parse {
    use super::*;

    /// `REDIRECT` or `TPROXY`; nothing is `REDIRECT`.
    ///
    /// # Errors
    /// Anything else. `NONE` is for who starts this program, or does not.
    pub fn mode(word: &str) -> Result<Mode, Invalid> {
        match word {
            "" | "REDIRECT" => Ok(Mode::Redirect),
            "TPROXY" => Ok(Mode::Tproxy),
            _ => Err(Invalid::new(word, "a mode; there are REDIRECT and TPROXY")),
        }
    }

    /// A port.
    ///
    /// # Errors
    /// Anything but a number from 1 to 65535.
    pub fn port(word: &str) -> Result<u16, Invalid> {
        let port = word.parse().ok().filter(|port| *port > 0);
        port.ok_or_else(|| Invalid::new(word, "a port; those are 1 to 65535"))
    }

    /// A list of ports.
    ///
    /// # Errors
    /// The first that is none.
    pub fn ports(list: &str) -> Result<BTreeSet<u16>, Invalid> {
        items(list).map(port).collect()
    }

    /// A list of ports, or `*` for all.
    ///
    /// # Errors
    /// The first that is none.
    pub fn ports_or_all(list: &str) -> Result<Ports, Invalid> {
        if list.trim() == "*" { Ok(Ports::All) } else { ports(list).map(Ports::Only) }
    }

    /// A list of networks.
    ///
    /// # Errors
    /// The first that is none.
    pub fn ranges(list: &str) -> Result<Vec<IpNet>, Invalid> {
        let range = |word: &str| {
            let expected = "a range of addresses; write for example 10.0.0.0/8, or /32 for one";
            word.parse().ok().ok_or_else(|| Invalid::new(word, expected))
        };
        items(list).map(range).collect()
    }

    /// A list of networks, or `*` for all.
    ///
    /// # Errors
    /// The first that is none.
    pub fn ranges_or_all(list: &str) -> Result<Ranges, Invalid> {
        if list.trim() == "*" { Ok(Ranges::All) } else { ranges(list).map(Ranges::Only) }
    }

    /// A list of interfaces.
    ///
    /// # Errors
    /// The first that cannot be the name of one.
    pub fn interfaces(list: &str) -> Result<Vec<Interface>, Invalid> {
        let interface = |word: &str| {
            let (name, is_prefix) =
                word.strip_suffix('+').map_or((word, false), |prefix| (prefix, true));
            // As the kernel has it: 16 bytes with the zero at the end. The rest would not survive
            // being printed.
            let is_name = (1..16).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\"\\*".contains(&byte));
            let expected = "an interface; names have up to 15 characters";
            is_name
                .then(|| Interface { name: name.into(), is_prefix })
                .ok_or_else(|| Invalid::new(word, expected))
        };
        items(list).map(interface).collect()
    }

    /// A list of users, by number or name.
    ///
    /// # Errors
    /// The first that there is not.
    pub fn users(list: &str, names: &Names) -> Result<BTreeSet<u32>, Invalid> {
        let user = |word: &str| {
            let number = word.parse().ok().or_else(|| names.user(word));
            number.ok_or_else(|| Invalid::new(word, "a user: neither a number nor a name here"))
        };
        items(list).map(user).collect()
    }

    /// A list of groups, by number or name.
    ///
    /// # Errors
    /// The first that there is not.
    pub fn groups(list: &str, names: &Names) -> Result<BTreeSet<u32>, Invalid> {
        let group = |word: &str| {
            let number = word.parse().ok().or_else(|| names.group(word));
            number.ok_or_else(|| Invalid::new(word, "a group: neither a number nor a name here"))
        };
        items(list).map(group).collect()
    }

    /// Groups whose traffic is captured, and groups whose is not. The second counts where the first
    /// names all.
    ///
    /// # Errors
    /// The first group that there is not.
    pub fn owner_groups(only: &str, except: &str, names: &Names) -> Result<Groups, Invalid> {
        match only.trim() {
            "*" => groups(except, names).map(Groups::Except),
            only => groups(only, names).map(Groups::Only),
        }
    }

    /// The network of the loopback address.
    ///
    /// # Errors
    /// What is not within 127.0.0.0/8.
    pub fn loopback(word: &str) -> Result<Ipv4Net, Invalid> {
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        let network = word.parse().ok().filter(|network: &Ipv4Net| loopback.contains(network));
        network.ok_or_else(|| Invalid::new(word, "a part of 127.0.0.0/8, such as 127.0.0.1/32"))
    }

    /// A mark of packets or the number of a routing table.
    ///
    /// # Errors
    /// Anything but a number over 0.
    pub fn number(word: &str) -> Result<u32, Invalid> {
        let number = word.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| Invalid::new(word, "a number over 0"))
    }

    /// The servers of a `resolv.conf`.
    #[must_use]
    pub fn name_servers(resolv_conf: &str) -> BTreeSet<IpAddr> {
        let servers = resolv_conf.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next().filter(|word| *word == "nameserver")?;
            let address = words.next()?;
            // The interface of a link-local address is no part of what is looked for in packets.
            address.split('%').next()?.parse().ok()
        });
        servers.collect()
    }

    fn items(list: &str) -> impl Iterator<Item = &str> {
        list.split(',').map(str::trim).filter(|item| !item.is_empty())
    }
}
