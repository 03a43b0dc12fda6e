//! Heads as they are received.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue};

use super::{Field, Pseudo, huffman, static_table};

#[cfg(test)]
mod tests;

/// What our peers may fill a table with: the size before anybody says otherwise, and we never do.
const TABLE_BYTES: usize = 4096;
/// No head we take needs a larger number.
const MAX_INTEGER: usize = 1 << 24;

/// A block that leaves both sides with different tables: the end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undecodable;

/// What one direction of a connection has in its table.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The newest first.
    entries: VecDeque<Field>,
    size: usize,
    /// Less than [`TABLE_BYTES`], where the peer wants it so.
    renounced: usize,
}

enum Name {
    Pseudo(Pseudo),
    Regular(HeaderName),
    Malformed(usize),
}

impl Decoder {
    /// Gives the fields of a complete block to `each`, in their order.
    ///
    /// # Errors
    /// The connection has to end with COMPRESSION_ERROR.
    pub fn decode(&mut self, block: &[u8], mut each: impl FnMut(Field)) -> Result<(), Undecodable> {
        let mut input = Input { rest: block, texts: BytesMut::new() };
        let mut is_first = true;
        while let Some(octet) = input.rest.first().copied() {
            if octet & 0xe0 == 0x20 {
                // RFC 7541 section 4.2: before the first field only.
                let limit = input.integer(5)?;
                if !is_first || limit > TABLE_BYTES {
                    return Err(Undecodable);
                }
                self.renounced = TABLE_BYTES - limit;
                self.evict();
                continue;
            }
            is_first = false;
            if octet & 0x80 != 0 {
                let index = input.integer(7)?;
                each(self.field(index)?);
            } else if octet & 0x40 != 0 {
                let name = self.name(&mut input, 6)?;
                // Of its own, because the table keeps it longer than the head's others.
                let value = Bytes::copy_from_slice(&input.text()?);
                let field = field_of(name, value, false);
                self.insert(field.clone());
                each(field);
            } else {
                let name = self.name(&mut input, 4)?;
                let value = input.text()?;
                each(field_of(name, value, octet & 0x10 != 0));
            }
        }
        Ok(())
    }

    fn name(&self, input: &mut Input<'_>, bits: u32) -> Result<Name, Undecodable> {
        let index = input.integer(bits)?;
        if index == 0 {
            return input.name();
        }
        Ok(match self.field(index)? {
            Field::Pseudo(pseudo, _) => Name::Pseudo(pseudo),
            Field::Regular(name, _) => Name::Regular(name),
            Field::Malformed(size) => Name::Malformed(size),
        })
    }

    fn field(&self, index: usize) -> Result<Field, Undecodable> {
        if index <= static_table::LENGTH {
            return static_table::field(index).ok_or(Undecodable);
        }
        self.entries.get(index - static_table::LENGTH - 1).cloned().ok_or(Undecodable)
    }

    fn insert(&mut self, field: Field) {
        // One that is larger than the table empties it (section 4.4).
        self.size += field.size();
        self.entries.push_front(field);
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > TABLE_BYTES - self.renounced {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.size();
        }
    }
}

fn field_of(name: Name, value: Bytes, is_sensitive: bool) -> Field {
    match name {
        // The octets of a field's value, for which nothing else looks here.
        Name::Pseudo(pseudo) if value.iter().all(|octet| *octet >= b' ' && *octet != 0x7f) => {
            Field::Pseudo(pseudo, value)
        }
        Name::Pseudo(pseudo) => Field::Malformed(pseudo.as_str().len() + value.len()),
        Name::Malformed(size) => Field::Malformed(size + value.len()),
        Name::Regular(name) => {
            let size = name.as_str().len() + value.len();
            match HeaderValue::from_maybe_shared(value) {
                Ok(mut value) => {
                    value.set_sensitive(is_sensitive);
                    Field::Regular(name, value)
                }
                Err(_octets) => Field::Malformed(size),
            }
        }
    }
}

/// What is left of a block, and the memory the texts in it share.
struct Input<'a> {
    rest: &'a [u8],
    texts: BytesMut,
}

impl Input<'_> {
    /// Section 5.1.
    fn integer(&mut self, bits: u32) -> Result<usize, Undecodable> {
        let most = (1 << bits) - 1;
        let mut value = usize::from(self.octet()?) & most;
        if value < most {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let octet = self.octet()?;
            value += usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return if value <= MAX_INTEGER { Ok(value) } else { Err(Undecodable) };
            }
        }
        Err(Undecodable)
    }

    fn octet(&mut self) -> Result<u8, Undecodable> {
        let (octet, rest) = self.rest.split_first().ok_or(Undecodable)?;
        self.rest = rest;
        Ok(*octet)
    }

    /// Section 5.2: decoded to the end of `texts`.
    fn string(&mut self) -> Result<(), Undecodable> {
        let is_huffman = self.rest.first().is_some_and(|octet| octet & 0x80 != 0);
        let length = self.integer(7)?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(Undecodable)?;
        if self.texts.capacity() == 0 {
            // For all that may follow, so that the first text is the only one that allocates.
            self.texts.reserve(self.rest.len() * 8 / 5);
        }
        self.rest = rest;
        if is_huffman {
            huffman::decode(text, &mut self.texts).ok_or(Undecodable)
        } else {
            self.texts.extend_from_slice(text);
            Ok(())
        }
    }

    fn text(&mut self) -> Result<Bytes, Undecodable> {
        self.string()?;
        Ok(self.texts.split().freeze())
    }

    fn name(&mut self) -> Result<Name, Undecodable> {
        self.string()?;
        let name = match Pseudo::parse(&self.texts) {
            Some(pseudo) => Name::Pseudo(pseudo),
            None => HeaderName::from_lowercase(&self.texts)
                .map_or_else(|_invalid| Name::Malformed(self.texts.len()), Name::Regular),
        };
        self.texts.clear();
        Ok(name)
    }
}
