//! Redirect rules of a network namespace: what takes a workload's traffic to its proxy.
//!
//! ```text
//! Settings --rules--> Table --encode--> one netlink batch --> the kernel
//!                           \--print--> nft syntax
//! ```
//!
//! Everything is in a table of our own, `inet weir`, that is replaced as a whole: a connection meets
//! the old rules or the new ones, and when anything is refused the old ones stay. The rules are
//! plain data; an init container and a plugin on the node program the same.

mod encode;
mod names;
mod namespace;
mod netlink;
mod print;
mod ranges;
mod routes;
mod rules;
mod settings;
mod table;
mod validate;

pub use self::{
    names::Names,
    namespace::{NamespaceError, in_namespace},
    netlink::Error,
    settings::{Dns, Groups, Interface, Invalid, Mode, Ports, Ranges, Settings, parse},
    table::Table,
    validate::{StandIn, ValidationError},
};

/// The rules of these settings.
#[must_use]
pub fn table(settings: &Settings) -> Table {
    rules::table(settings)
}

/// Programs the rules of these settings in the network namespace of the calling thread, in place of
/// those that are there.
///
/// # Errors
/// What the kernel refused. The rules are then as they were.
pub fn apply(settings: &Settings) -> Result<(), Error> {
    // Before the rules, which need them. If the rules are refused only what was added now is taken
    // back: the old rules may need the rest.
    let added = routes::add(settings)?;
    if let Err(error) = encode::replace(&table(settings)).commit() {
        added.take_back();
        return Err(error);
    }
    match settings.mode {
        Mode::Tproxy => Ok(()),
        Mode::Redirect => routes::remove_tproxy(settings),
    }
}

/// Whether rules of ours are programmed in the network namespace of the calling thread. As they are
/// programmed all at once, that is all of them.
///
/// # Errors
/// The kernel does not say.
pub fn is_applied() -> Result<bool, Error> {
    encode::is_there()
}

/// Takes everything away that [`apply`] adds, of whatever mode; what is not there is not missed.
///
/// # Errors
/// What the kernel refused.
pub fn remove(settings: &Settings) -> Result<(), Error> {
    encode::delete().commit()?;
    routes::remove_tproxy(settings)?;
    routes::remove_source_address()
}
