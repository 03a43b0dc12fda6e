//! Chunked bodies (H07 to H10).

use bytes::BytesMut;
use http::HeaderMap;

use super::{
    super::{
        body::BodyWriter,
        buffer::WriteBuffer,
        chunked::{ChunkedDecoder, Decoded},
    },
    damaged,
};
use crate::codec::{Frame, StreamError};

#[derive(Debug, PartialEq, Eq)]
enum End {
    Clean,
    NeedsMore,
    Error,
}

/// Decodes what comes in pieces: data, trailers, how it ended, what was left over.
fn decode(pieces: &[&[u8]]) -> (Vec<u8>, HeaderMap, End, Vec<u8>) {
    let mut decoder = ChunkedDecoder::new(60 * 1024);
    let mut buffer = BytesMut::new();
    let mut data = Vec::new();
    let mut trailers = HeaderMap::new();
    let mut pieces = pieces.iter();
    loop {
        match decoder.decode(&mut buffer) {
            Ok(Decoded::Frame(Frame::Data(piece))) => data.extend_from_slice(&piece),
            Ok(Decoded::Frame(Frame::Trailers(found))) => trailers = found,
            Ok(Decoded::NeedMore) => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return (data, trailers, End::NeedsMore, buffer.to_vec()),
            },
            Ok(Decoded::End) => {
                pieces.for_each(|piece| buffer.extend_from_slice(piece));
                return (data, trailers, End::Clean, buffer.to_vec());
            }
            Err(_) => return (data, trailers, End::Error, buffer.to_vec()),
        }
    }
}

#[test]
fn chunks_are_joined_and_what_follows_is_left() {
    let body = b"5\r\nhello\r\nA;name=\"value\"\r\n0123456789\r\n00\r\n\r\nGET /";
    for at in 0..body.len() {
        let (data, trailers, end, rest) = decode(&[&body[..at], &body[at..]]);
        assert_eq!(data, b"hello0123456789", "split at {at}");
        assert!(trailers.is_empty());
        assert_eq!(end, End::Clean);
        assert_eq!(rest, b"GET /");
    }
}

#[test]
fn malformed_chunks_are_refused_however_they_are_split() {
    let vectors: &[(&str, &[u8])] = &[
        ("H07 0x5", b"0x5\r\nhello\r\n0\r\n\r\n"),
        ("H07 plus", b"+5\r\nhello\r\n0\r\n\r\n"),
        ("H07 minus", b"-5\r\nhello\r\n0\r\n\r\n"),
        ("H07 space in front", b" 5\r\nhello\r\n0\r\n\r\n"),
        ("H07 space behind", b"5 \r\nhello\r\n0\r\n\r\n"),
        ("H07 underscore", b"5_\r\nhello\r\n0\r\n\r\n"),
        ("H07 tab before extension", b"5\t;a\r\nhello\r\n0\r\n\r\n"),
        ("H07 space before extension", b"5 ;a\r\nhello\r\n0\r\n\r\n"),
        ("H07 empty", b"\r\nhello\r\n0\r\n\r\n"),
        ("H07 17 digits", b"00000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("H07 overflow", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("H07 overflow by digits", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("H07 extension ends with LF", b"5;ext\nhello\r\n0\r\n\r\n"),
        ("H07 size ends with LF", b"5\nhello\r\n0\r\n\r\n"),
        ("H07 bare CR in extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("H07 bare CR behind size", b"5\r;a\r\nhello\r\n0\r\n\r\n"),
        ("H07 NUL in extension", b"5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("H07 not hexadecimal", b"g\r\nhello\r\n0\r\n\r\n"),
        ("H08 no line end behind data", b"5\r\nhello0\r\n\r\nxx"),
        ("H08 LF behind data", b"5\r\nhello\n0\r\n\r\n"),
        ("H08 spill", b"5\r\nhello world\r\n0\r\n\r\n"),
        ("H08 empty line before last chunk", b"5\r\nhello\r\n\r\n0\r\n\r\n"),
        ("H08 junk behind last chunk", b"5\r\nhello\r\n0\r\nX\r\n\r\n"),
        ("H09 TERM.EXT", b"5\n;a\r\nhello\r\n0\r\n\r\n"),
        ("H09 EXT.TERM", b"5;\nxx\r\nhello\r\n0\r\n\r\n"),
        ("H09 EXT CR", b"5;\rxx\r\nhello\r\n0\r\n\r\n"),
        ("H09 SPILL.TERM", b"5\r\nhelloXX0\r\n\r\nxx"),
        ("H09 LF CR behind data", b"5\r\nhello\n\r0\r\n\r\n"),
        ("H09 CR CR LF", b"5\r\r\nhello\r\n0\r\n\r\n"),
        ("H10 LF in trailers", b"0\r\nX: a\nY: b\r\n\r\n"),
        ("H10 trailer folded", b"0\r\nX: a\r\n b\r\n\r\n"),
        ("H10 trailer without colon", b"0\r\nXa\r\n\r\n"),
        ("H10 control in trailer", b"0\r\nX: \x01\r\n\r\n"),
    ];
    for (id, body) in vectors {
        for at in 0..body.len() {
            let (_, _, end, _) = decode(&[&body[..at], &body[at..]]);
            assert_eq!(end, End::Error, "{id} split at {at}");
        }
    }
}

#[test]
fn an_extension_over_8_kib_is_refused_before_its_end() {
    let line = [b"5;", &b"a".repeat(8 * 1024)[..]].concat();
    assert_eq!(decode(&[&line]).2, End::Error);
}

#[test]
fn extensions_may_not_outweigh_the_data() {
    let chunk = [b"1;", &b"a".repeat(1000)[..], b"\r\nx\r\n"].concat();
    let pieces: Vec<&[u8]> = std::iter::repeat_n(&chunk[..], 100).collect();
    let (data, _, end, _) = decode(&pieces);
    assert_eq!(end, End::Error);
    assert!(data.len() < 20, "{} chunks were taken", data.len());
}

#[test]
fn signed_chunks_of_some_size_pass_without_end() {
    let signature =
        b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485";
    let chunk = [&signature[..], b"\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
    let pieces: Vec<&[u8]> = std::iter::repeat_n(&chunk[..], 400).collect();
    let (data, _, end, _) = decode(&pieces);
    assert_eq!(end, End::NeedsMore);
    assert_eq!(data.len(), 400 * 0x10000);
}

#[test]
fn a_million_chunks_of_one_byte_are_served() {
    let many = b"1\r\nx\r\n".repeat(1000);
    let pieces: Vec<&[u8]> =
        std::iter::repeat_n(&many[..], 1000).chain([&b"0\r\n\r\n"[..]]).collect();
    let (data, _, end, rest) = decode(&pieces);
    assert_eq!(end, End::Clean);
    assert_eq!(data.len(), 1_000_000);
    assert!(rest.is_empty());
}

#[test]
fn trailers_are_bounded() {
    let endless = [b"0\r\nX: ", &b"a".repeat(61 * 1024)[..]].concat();
    assert_eq!(decode(&[&endless]).2, End::Error);
    let many = [b"0\r\n", &b"X: a\r\n".repeat(65)[..], b"\r\n"].concat();
    assert_eq!(decode(&[&many]).2, End::Error);
}

#[test]
fn trailers_that_would_deceive_are_dropped() {
    let body =
        b"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: b\r\nAuthorization: x\r\n\
        Cookie: a\r\nX-Forwarded-For: 1.2.3.4\r\nx_forwarded_for: 1.2.3.4\r\nConnection: close\r\n\
        Grpc-Status: 0\r\nX-Checksum: abc\r\n\r\n";
    let (_, trailers, end, _) = decode(&[body]);
    assert_eq!(end, End::Clean);
    let mut names: Vec<_> = trailers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["grpc-status", "x-checksum"]);
}

#[test]
fn what_the_writer_chunks_the_decoder_reads() {
    let mut out = WriteBuffer::default();
    let mut writer = BodyWriter::Chunked;
    let mut expected = Vec::new();
    for length in [1, 0, 9, 15, 16, 255, 4096, 70_000] {
        let piece = vec![b'a'; length];
        expected.extend_from_slice(&piece);
        writer.write(piece.into(), &mut out).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "1".parse().unwrap());
    trailers.insert("content-length", "1".parse().unwrap());
    writer.finish(Some(trailers), &mut out).unwrap();
    let written = out.contents();
    let (data, trailers, end, rest) = decode(&[&written]);
    assert_eq!(data, expected);
    assert_eq!(trailers.len(), 1, "framing fields do not leave as trailers");
    assert_eq!(trailers["x-checksum"], "1");
    assert_eq!(end, End::Clean);
    assert!(rest.is_empty());
}

#[test]
fn a_sized_body_is_neither_shorter_nor_longer_than_announced() {
    let mut out = WriteBuffer::default();
    let mut writer = BodyWriter::Exact(3);
    writer.write("ab".into(), &mut out).unwrap();
    assert!(matches!(writer.finish(None, &mut out), Err(StreamError::Length)));
    assert!(matches!(writer.write("cd".into(), &mut out), Err(StreamError::Length)));
    writer.write("c".into(), &mut out).unwrap();
    writer.finish(None, &mut out).unwrap();
    assert_eq!(out.contents(), b"abc");
}

/// Damage to a chunked body: however the bytes come, they are the same body or none.
#[test]
fn where_chunks_are_cut_makes_no_difference() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let body =
        b"5;a=b\r\nhello\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 7\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n";
    for _ in 0..4_000 {
        let damaged = damaged(body, &mut random);
        let shown = damaged.escape_ascii();
        let (data, trailers, end, rest) = decode(&[&damaged]);
        let size = random.usize(1..8);
        let pieces: Vec<_> = damaged.chunks(size).collect();
        let (cut_data, cut_trailers, cut_end, cut_rest) = decode(&pieces);
        assert_eq!(end, cut_end, "seed {seed}: {shown} in pieces of {size}");
        if end != End::Error {
            assert_eq!((data, trailers), (cut_data, cut_trailers), "seed {seed}: {shown}");
        }
        if end == End::Clean {
            assert_eq!(rest, cut_rest, "seed {seed}: {shown} in pieces of {size}");
            assert!(damaged.ends_with(&rest), "seed {seed}: {shown}: what follows is not touched");
        }
    }
}
