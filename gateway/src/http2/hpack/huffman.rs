//! The Huffman code of header strings (RFC 7541 section 5.2 and appendix B), read.
//!
//! The code is canonical: in the order of lengths, and of symbols of one length, each code is the one
//! before plus one. So the lengths are all there is to know.

use bytes::{BufMut, BytesMut};

/// The end of a string is a prefix of this symbol, which itself never stands in one.
const EOS: u16 = 256;
const SYMBOLS: usize = 257;
const LONGEST: usize = 30;
/// Codes up to this long, which is what texts are made of, are looked up.
const FAST_BITS: u32 = 9;

/// Bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5,
    6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11,
    14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23,
    23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20,
    24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

static CODE: Code = Code::build();

struct Code {
    /// By the first bits of what is left: the symbol and the length of its code, 0 for longer ones.
    fast: [(u8, u8); 1 << FAST_BITS],
    /// Ordered as the codes are.
    symbols: [u16; SYMBOLS],
    /// For each length: the first code above all codes of that length, in the highest bits of 32.
    end: [u64; LONGEST + 1],
    /// For each length: the first code of it.
    first: [u32; LONGEST + 1],
    /// For each length: the place in `symbols` of the first code of it.
    start: [usize; LONGEST + 1],
}

impl Code {
    const fn build() -> Self {
        let mut code = Self {
            fast: [(0, 0); 1 << FAST_BITS],
            symbols: [0; SYMBOLS],
            end: [0; LONGEST + 1],
            first: [0; LONGEST + 1],
            start: [0; LONGEST + 1],
        };
        let (mut next, mut place, mut length) = (0_u32, 0, 1);
        while length <= LONGEST {
            next <<= 1;
            code.first[length] = next;
            code.start[length] = place;
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if LENGTHS[symbol] as usize == length {
                    code.symbols[place] = symbol as u16;
                    if length <= FAST_BITS as usize {
                        code.fill_fast(next, symbol as u8);
                    }
                    place += 1;
                    next += 1;
                }
                symbol += 1;
            }
            code.end[length] = (next as u64) << (32 - length);
            length += 1;
        }
        code
    }

    const fn fill_fast(&mut self, code: u32, symbol: u8) {
        let free = FAST_BITS - LENGTHS[symbol as usize] as u32;
        let mut rest = 0;
        while rest < 1 << free {
            self.fast[((code << free) | rest) as usize] = (symbol, LENGTHS[symbol as usize]);
            rest += 1;
        }
    }

    /// The symbol whose code begins `bits`, which are in the highest of 64, and that code's length.
    fn long(&self, bits: u64) -> (u16, u32) {
        let bits = bits >> 32;
        let length = (FAST_BITS as usize + 1..LONGEST).find(|length| bits < self.end[*length]);
        let length = length.unwrap_or(LONGEST);
        let code = usize::try_from(bits >> (32 - length)).unwrap_or_default();
        let symbol = self.symbols[self.start[length] + code - self.first[length] as usize];
        (symbol, u32::try_from(length).unwrap_or_default())
    }
}

/// Appends the text to `out`, at most 8/5 times as long. `None`: nothing that the code says.
pub(super) fn decode(encoded: &[u8], out: &mut BytesMut) -> Option<()> {
    out.reserve(encoded.len() * 8 / 5);
    let mut rest = encoded.iter();
    // The next bits, in the highest ones.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56 {
            let Some(byte) = rest.next() else { break };
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        if count == 0 {
            return Some(());
        }
        let (symbol, length) = match CODE.fast[(bits >> (64 - FAST_BITS)) as usize] {
            (_, 0) => CODE.long(bits),
            (symbol, length) => (u16::from(symbol), u32::from(length)),
        };
        if length > count {
            // Less than an octet of ones fills the last one up.
            return (count < 8 && bits >> (64 - count) == (1 << count) - 1).then_some(());
        }
        if symbol == EOS {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "all but EOS are octets")]
        out.put_u8(symbol as u8);
        bits <<= length;
        count -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(symbol: usize) -> (u32, u32) {
        let length = usize::from(LENGTHS[symbol]);
        let place = CODE.symbols.iter().position(|s| usize::from(*s) == symbol).unwrap();
        let code = CODE.first[length] as usize + place - CODE.start[length];
        (u32::try_from(code).unwrap(), u32::from(LENGTHS[symbol]))
    }

    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let (code, length) = code_of(usize::from(*byte));
            bits += &format!("{code:0width$b}", width = length as usize);
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let octets = bits.as_bytes().chunks(8);
        octets
            .map(|octet| u8::from_str_radix(std::str::from_utf8(octet).unwrap(), 2).unwrap())
            .collect()
    }

    fn decoded(encoded: &[u8]) -> Option<Vec<u8>> {
        let mut out = BytesMut::new();
        decode(encoded, &mut out).map(|()| out.to_vec())
    }

    #[test]
    fn codes_are_those_of_the_appendix() {
        for (symbol, code) in [
            (usize::from(b'0'), (0x0, 5)),
            (usize::from(b'a'), (0x3, 5)),
            (usize::from(b':'), (0x5c, 7)),
            (usize::from(b'!'), (0x3f8, 10)),
            (0, (0x1ff8, 13)),
            (22, (0x3fff_fffe, 30)),
            (255, (0x3ff_ffee, 26)),
            (usize::from(EOS), (0x3fff_ffff, 30)),
        ] {
            assert_eq!(code_of(symbol), code, "{symbol}");
        }
    }

    #[test]
    fn every_octet_is_read_alone_and_among_others() {
        for octet in 0..=u8::MAX {
            assert_eq!(decoded(&encode(&[octet])), Some(vec![octet]));
        }
        let all: Vec<u8> = (0..=u8::MAX).chain((0..=u8::MAX).rev()).collect();
        assert_eq!(decoded(&encode(&all)), Some(all));
    }

    #[test]
    fn the_examples_of_the_specification() {
        let encoded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&encoded).unwrap(), b"www.example.com");
        assert_eq!(decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), b"no-cache");
        assert_eq!(decoded(&[]).unwrap(), b"");
    }

    #[test]
    fn strings_end_with_less_than_an_octet_of_ones() {
        assert_eq!(decoded(&[0b0001_1111]), Some(b"a".to_vec()));
        for (what, wrong) in [
            ("zeros", &[0b0001_1000][..]),
            ("an octet too much", &[0b0001_1111, 0xff]),
            ("nothing but ones", &[0xff]),
            ("EOS", &[0xff, 0xff, 0xff, 0xff]),
        ] {
            assert_eq!(decoded(wrong), None, "{what}");
        }
    }
}
