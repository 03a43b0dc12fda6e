//! Which objects each proxy gets.

mod scope;

pub use self::scope::{Audience, Delta, ProxyType, Scope};
