//! Compression of heads (HPACK, RFC 7541).
//!
//! What peers send is decoded whatever they use of it. What we send uses the static table only: a head
//! can then be encoded where it is made, needs no look at what went before, and costs a peer no memory;
//! a proxy's peers are near.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

mod decoder;
mod encoder;
mod huffman;
mod static_table;

pub(super) use decoder::{Decoder, Undecodable};
pub use encoder::HeadBlock;

/// What RFC 7541 section 4.1 counts for a field besides its name and value.
const FIELD_OVERHEAD: usize = 32;

/// A pseudo-header field (RFC 9113 section 8.3, RFC 8441).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pseudo {
    Authority,
    Method,
    Path,
    Protocol,
    Scheme,
    Status,
}

impl Pseudo {
    fn parse(name: &[u8]) -> Option<Self> {
        Some(match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Authority => ":authority",
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
            Self::Scheme => ":scheme",
            Self::Status => ":status",
        }
    }
}

/// A field as a head has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Pseudo(Pseudo, Bytes),
    Regular(HeaderName, HeaderValue),
    /// What is no field (RFC 9113 section 8.2.1): upper case, octets that may not be there, a
    /// pseudo-header field nobody has defined. With its size.
    Malformed(usize),
}

impl Field {
    /// As tables and limits count it.
    pub fn size(&self) -> usize {
        FIELD_OVERHEAD
            + match self {
                Self::Pseudo(pseudo, value) => pseudo.as_str().len() + value.len(),
                Self::Regular(name, value) => name.as_str().len() + value.len(),
                Self::Malformed(size) => *size,
            }
    }
}
