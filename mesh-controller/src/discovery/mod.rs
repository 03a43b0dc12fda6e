//! Delta discovery: from what changed to what each proxy has.

mod auth;
mod codec;
mod hello;
mod identity;
mod in_flight;
mod mailbox;
mod post;
mod proxies;
pub mod push;
mod requests;
mod scopes;
mod served;
pub mod server;
mod services;
mod session;

pub use self::{
    identity::Identity,
    proxies::{Proxies, ProxyStatus, Rejected},
};
