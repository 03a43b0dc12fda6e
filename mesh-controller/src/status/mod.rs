//! What became of an object, where its author looks: in its status.

mod conditions;
mod writer;

pub use self::writer::{Parts, start};
