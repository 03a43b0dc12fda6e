//! Heads as they are received.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue};

use super::{Field, Pseudo, huffman, static_table};

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

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Undecodable> {
        let mut fields = Vec::new();
        decoder.decode(block, |field| {
            fields.push(match field {
                Field::Pseudo(name, value) => {
                    (name.as_str().to_owned(), String::from_utf8(value.to_vec()).unwrap())
                }
                Field::Regular(name, value) => {
                    (name.to_string(), value.to_str().unwrap().to_owned())
                }
                Field::Malformed(size) => ("malformed".to_owned(), size.to_string()),
            });
        })?;
        Ok(fields)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
            .collect()
    }

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ];

    fn check(decoder: &mut Decoder, block: &str, expected: &[(&str, &str)], size: usize) {
        let fields = decoded(decoder, &hex(block)).unwrap();
        let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(fields, expected);
        assert_eq!(decoder.size, size);
    }

    #[test]
    fn the_requests_of_appendix_c_4() {
        let mut decoder = Decoder::default();
        check(&mut decoder, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &GET, 57);
        let second = [&GET[..], &[("cache-control", "no-cache")]].concat();
        check(&mut decoder, "8286 84be 5886 a8eb 1064 9cbf", &second, 110);
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        let block = "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf";
        check(&mut decoder, block, &third, 164);
    }

    #[test]
    fn what_is_too_much_for_the_table_goes_in_the_order_it_came() {
        let mut decoder = Decoder::default();
        // 256 octets, as in appendix C.5.
        let mut first = hex("3fe101");
        for (name, value) in [
            (8_u8, "302"),
            (24, "private"),
            (33, "Mon, 21 Oct 2013 20:13:21 GMT"),
            (46, "https://www.example.com"),
        ] {
            first.extend([0x40 | name, u8::try_from(value.len()).unwrap()]);
            first.extend(value.bytes());
        }
        decoded(&mut decoder, &first).unwrap();
        assert_eq!(decoder.size, 222);
        let second = [&hex("48 03")[..], b"307", &hex("c1 c0 bf")].concat();
        let fields = decoded(&mut decoder, &second).unwrap();
        assert_eq!(fields[0], (":status".into(), "307".into()));
        assert_eq!(fields[1].0, "cache-control");
        assert_eq!((fields.len(), decoder.size, decoder.entries.len()), (4, 222, 4));
        decoded(&mut decoder, &hex("20")).unwrap();
        assert_eq!((decoder.size, decoder.entries.len()), (0, 0));
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut decoder = Decoder::default();
        let mut block =
            [&[0x40, 1, b'a', 1, b'b'][..], &[0x40, 1, b'c', 0x7f, 0xbf, 0x1e]].concat();
        block.extend([b'v'; 4030]);
        assert_eq!(decoded(&mut decoder, &block).unwrap().len(), 2);
        assert_eq!(decoder.entries.len(), 1, "34 + 4063 octets do not both fit");
        let mut block = vec![0x40, 1, b'd', 0x7f, 0xc9, 0x1f];
        block.extend([b'v'; 4096 + 72]);
        assert_eq!(decoded(&mut decoder, &block).unwrap().len(), 1);
        assert_eq!((decoder.entries.len(), decoder.size), (0, 0));
    }

    #[test]
    fn what_is_no_field_keeps_its_place() {
        let mut decoder = Decoder::default();
        let block = [&[0x40, 1, b'A', 1, b'b'][..], &[0x40, 1, b'a', 1, 0], &[0xbe, 0xbf]].concat();
        let fields = decoded(&mut decoder, &block).unwrap();
        assert!(fields.iter().all(|(name, size)| name == "malformed" && size == "2"), "{fields:?}");
        assert_eq!((fields.len(), decoder.size), (4, 2 * 34));
        let block = [&[0x04, 3][..], b"/\r\n"].concat();
        assert_eq!(decoded(&mut decoder, &block).unwrap()[0].0, "malformed", "line end in :path");
        for (what, name) in [("unknown pseudo", ":x"), ("empty", ""), ("space", "a b")] {
            let length = u8::try_from(name.len()).unwrap();
            let block = [&[0, length][..], name.as_bytes(), &[0]].concat();
            assert_eq!(decoded(&mut decoder, &block).unwrap()[0].0, "malformed", "{what}");
        }
    }

    #[test]
    fn literals_that_are_never_to_be_indexed_stay_so() {
        let mut sensitive = Vec::new();
        let block = [&[0x10, 1, b'a', 1, b'b'][..], &[0x00, 1, b'a', 1, b'b']].concat();
        let decoded = Decoder::default().decode(&block, |field| {
            let Field::Regular(_, value) = field else { panic!("{field:?}") };
            sensitive.push(value.is_sensitive());
        });
        assert_eq!((decoded, sensitive), (Ok(()), vec![true, false]));
    }

    #[test]
    fn broken_blocks_are_told_from_broken_fields() {
        for (what, block) in [
            ("index 0", &[0x80][..]),
            ("index of nothing", &[0xbe]),
            ("name of nothing", &[0x7e, 1, b'a']),
            ("no value", &[0x41]),
            ("cut value", &[0x41, 2, b'a']),
            ("endless integer", &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80]),
            ("cut integer", &[0xff]),
            ("large integer", &[0x41, 0x7f, 0xff, 0xff, 0xff, 0x7f]),
            ("table larger than allowed", &[0x3f, 0xe2, 0x1f]),
            ("table size after a field", &[0x82, 0x20]),
            ("EOS", &[0x41, 0x84, 0xff, 0xff, 0xff, 0xff]),
        ] {
            assert_eq!(decoded(&mut Decoder::default(), block), Err(Undecodable), "{what}");
        }
        let twice = decoded(&mut Decoder::default(), &[0x20, 0x3f, 0xe1, 0x1f, 0x82]);
        assert_eq!(twice.unwrap().len(), 1, "two sizes before the first field are allowed");
    }
}
