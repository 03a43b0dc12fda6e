//! Ranges of addresses, without overlaps: the kernel refuses a set with any.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::table::Family;

/// All addresses from the first to the last, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub first: u128,
    pub last: u128,
}

impl Range {
    pub fn of(network: &IpNet) -> Self {
        Self { first: number(network.network()), last: number(network.broadcast()) }
    }

    /// The length of the prefix, if the range is one.
    pub fn prefix(self, family: Family) -> Option<u32> {
        let differing = self.first ^ self.last;
        let is_prefix = differing & (differing.wrapping_add(1)) == 0 && self.first & differing == 0;
        is_prefix.then(|| family.bits() - differing.count_ones())
    }
}

/// The networks of one family as few ranges in order, neither overlapping nor adjacent.
pub fn merged(networks: &[IpNet], family: Family) -> Vec<Range> {
    let mut ranges: Vec<Range> = networks
        .iter()
        .filter(|network| Family::of(network.addr()) == family)
        .map(Range::of)
        .collect();
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub fn bits(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The last of its addresses, as a number.
    pub fn last(self) -> u128 {
        u128::MAX >> (128 - self.bits())
    }

    /// An address as on the wire; of an IPv4 address the number has only its bits.
    pub fn octets(self, number: u128) -> Vec<u8> {
        number.to_be_bytes()[16 - self.bits() as usize / 8..].to_vec()
    }

    pub fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn shown(texts: &[&str], family: Family) -> Vec<String> {
        let show = |range: Range| {
            let (first, last) = (family.address(range.first), family.address(range.last));
            match range.prefix(family) {
                Some(bits) => format!("{first}/{bits}"),
                None => format!("{first}-{last}"),
            }
        };
        merged(&networks(texts), family).into_iter().map(show).collect()
    }

    #[test]
    fn overlapping_and_adjacent_networks_are_one_range() {
        assert_eq!(shown(&["10.1.0.0/16", "10.0.0.0/8"], Family::V4), ["10.0.0.0/8"]);
        assert_eq!(shown(&["10.0.1.0/24", "10.0.0.0/24"], Family::V4), ["10.0.0.0/23"]);
        assert_eq!(shown(&["10.0.1.0/25", "10.0.0.0/24"], Family::V4), ["10.0.0.0-10.0.1.127"]);
        assert_eq!(shown(&["fd00::/64", "fd00::/8"], Family::V6), ["fd00::/8"]);
    }

    #[test]
    fn the_ends_of_the_address_space_are_ranges_like_others() {
        assert_eq!(shown(&["0.0.0.0/0", "255.255.255.255/32"], Family::V4), ["0.0.0.0/0"]);
        assert_eq!(shown(&["::/0", "ffff::/16"], Family::V6), ["::/0"]);
        assert_eq!(shown(&["0.0.0.0/0", "fd00::/8"], Family::V6), ["fd00::/8"]);
    }

    #[test]
    fn bits_of_the_host_are_ignored() {
        assert_eq!(shown(&["10.1.2.3/8"], Family::V4), ["10.0.0.0/8"]);
    }
}
