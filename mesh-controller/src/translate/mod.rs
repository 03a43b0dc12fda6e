//! Which objects each proxy gets.

mod scope;

pub use self::scope::{Audience, Delta, Distinctive, ProxyType, Scope, Selectable};
