//! What capturing needs besides rules: the address that the proxy calls the application from, and
//! for TPROXY the routing table in which every destination is here. Numbers are those of
//! `linux/rtnetlink.h`.

use nix::errno::Errno;

use super::{
    netlink::{Attributes, CREATE, EXCLUSIVE, Error, route},
    settings::{Mode, Settings},
    table::Family,
};

/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;

/// What was not there before.
#[derive(Debug, Default)]
pub struct Added(Vec<Item>);

/// A thing that is added or removed; there are no two alike.
#[derive(Debug, Clone, Copy)]
enum Item {
    /// `::6` on the loopback interface: of IPv4 all of 127.0.0.0/8 is there, of IPv6 only `::1`.
    SourceAddress,
    /// Packets with the mark look into the table.
    Rule { family: Family, mark: u32, table: u32 },
    /// In the table every destination is here.
    Route { family: Family, table: u32 },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

/// Adds what the settings need. A namespace without IPv6 needs nothing for it.
pub fn add(settings: &Settings) -> Result<Added, Error> {
    let mut added = Added::default();
    let mut items = vec![Item::SourceAddress];
    if settings.mode == Mode::Tproxy {
        items.extend(tproxy(settings));
    }
    for item in items {
        match item.change(Change::Add) {
            Ok(()) => added.0.push(item),
            Err(error) if error.errno() == Errno::EEXIST || item.is_pointless(&error) => {}
            Err(error) => {
                added.take_back();
                return Err(error);
            }
        }
    }
    Ok(added)
}

/// Removes what TPROXY needs.
pub fn remove_tproxy(settings: &Settings) -> Result<(), Error> {
    tproxy(settings).into_iter().try_for_each(Item::remove)
}

/// Removes `::6`.
pub fn remove_source_address() -> Result<(), Error> {
    Item::SourceAddress.remove()
}

impl Added {
    /// Makes it as it was. What cannot be removed is left: the reason to take it back is told.
    pub fn take_back(self) {
        for item in self.0 {
            let _ = item.remove();
        }
    }
}

fn tproxy(settings: &Settings) -> Vec<Item> {
    let (mark, table) = (settings.tproxy_mark, settings.tproxy_table);
    let of = |family| [Item::Rule { family, mark, table }, Item::Route { family, table }];
    Family::BOTH.into_iter().flat_map(of).collect()
}

impl Item {
    fn remove(self) -> Result<(), Error> {
        match self.change(Change::Remove) {
            // Not there. The kernel has a word of its own for each kind of thing.
            Err(error)
                if matches!(error.errno(), Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL) =>
            {
                Ok(())
            }
            Err(error) if self.is_pointless(&error) => Ok(()),
            result => result,
        }
    }

    /// Whether it was refused because there is no IPv6: switched off for the namespace, for the
    /// kernel, or not built. Who lacks the capability is told something else.
    fn is_pointless(self, error: &Error) -> bool {
        let family = match self {
            Self::SourceAddress => Family::V6,
            Self::Rule { family, .. } | Self::Route { family, .. } => family,
        };
        let no_ipv6 = [Errno::EACCES, Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP];
        family == Family::V6 && no_ipv6.contains(&error.errno())
    }

    fn change(self, change: Change) -> Result<(), Error> {
        let (new, header, attributes, what) = self.message();
        match change {
            Change::Add => {
                route(new, CREATE | EXCLUSIVE, &header, &attributes, &format!("add {what}"))
            }
            // Each RTM_DEL is one more than its RTM_NEW.
            Change::Remove => route(new + 1, 0, &header, &attributes, &format!("remove {what}")),
        }
    }

    fn message(self) -> (u16, Vec<u8>, Attributes, String) {
        match self {
            Self::SourceAddress => {
                let address = Family::V6.octets(6);
                // Permanent, and without asking whether a neighbour has it.
                let (prefix, flags, scope) = (128, 0x82, 254);
                let start = [Family::V6.number() as u8, prefix, flags, scope];
                let header = [start, LOOPBACK.to_ne_bytes()].concat();
                let attributes = Attributes::default().bytes(2, &address).bytes(1, &address);
                (20, header, attributes, "address ::6 to the loopback interface".into())
            }
            Self::Rule { family, mark, table } => {
                let (to_table, flags) = (1, [0; 4]);
                let start = [family.number() as u8, 0, 0, 0, 0, 0, 0, to_table];
                let header = [&start[..], &flags].concat();
                let attributes = Attributes::default()
                    .bytes(10, &mark.to_ne_bytes())
                    .bytes(15, &table.to_ne_bytes());
                (32, header, attributes, format!("{family} rule fwmark {mark} lookup {table}"))
            }
            Self::Route { family, table } => {
                let (unspecified, by_administrator, host, local) = (0, 4, 254, 2);
                let start = [family.number() as u8, 0, 0, 0];
                let kind = [unspecified, by_administrator, host, local];
                let header = [start, kind, [0; 4]].concat();
                let attributes = Attributes::default()
                    .bytes(15, &table.to_ne_bytes())
                    .bytes(4, &LOOPBACK.to_ne_bytes());
                (
                    24,
                    header,
                    attributes,
                    format!("{family} route local default dev lo table {table}"),
                )
            }
        }
    }
}
