//! The chunked transfer coding, read strictly (RFC 9112 section 7.1; hardening H07 to H10).
//!
//! Every line ends with CRLF and nothing else, sizes are plain hexadecimal, and there is no white
//! space around them: each tolerance here has been somebody's way to smuggle a request.

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;

use super::super::{Frame, StreamError, field};

/// A chunk's line: size, extensions.
const MAX_LINE: usize = 8 * 1024;
/// Lines may exceed the data they announce by this much in all: who sends single bytes in chunks is
/// served, who hides megabytes in extensions is not.
const MAX_EXCESS: u64 = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 64;

#[derive(Debug)]
pub(super) struct ChunkedDecoder {
    state: State,
    excess: u64,
    max_trailer_bytes: usize,
}

#[derive(Debug)]
enum State {
    Size,
    /// Bytes of this chunk still to come.
    Data(u64),
    /// The CRLF behind a chunk's data.
    DataEnd,
    Trailers,
    Done,
}

/// What the decoder made of the bytes there are.
#[derive(Debug)]
pub(super) enum Decoded {
    Frame(Frame),
    NeedMore,
    End,
}

impl ChunkedDecoder {
    pub fn new(max_trailer_bytes: usize) -> Self {
        Self { state: State::Size, excess: 0, max_trailer_bytes }
    }

    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Decoded, StreamError> {
        loop {
            let progressed = match self.state {
                State::Size => self.decode_size(bytes)?,
                State::Data(remaining) => {
                    if bytes.is_empty() {
                        return Ok(Decoded::NeedMore);
                    }
                    let take = usize::try_from(remaining).unwrap_or(usize::MAX).min(bytes.len());
                    self.state = match remaining - take as u64 {
                        0 => State::DataEnd,
                        rest => State::Data(rest),
                    };
                    return Ok(Decoded::Frame(Frame::Data(bytes.split_to(take).freeze())));
                }
                State::DataEnd => {
                    let ended = take_crlf(bytes)?;
                    if ended {
                        self.state = State::Size;
                    }
                    ended
                }
                State::Trailers => return self.decode_trailers(bytes),
                State::Done => return Ok(Decoded::End),
            };
            if !progressed {
                return Ok(Decoded::NeedMore);
            }
        }
    }

    fn decode_size(&mut self, bytes: &mut BytesMut) -> Result<bool, StreamError> {
        let searched = &bytes[..bytes.len().min(MAX_LINE)];
        let Some(end) = memchr::memchr(b'\n', searched) else {
            return match searched.len() {
                MAX_LINE => Err(StreamError::TooLarge("chunk extension")),
                _ => Ok(false),
            };
        };
        let Some(line) = searched[..end].strip_suffix(b"\r") else {
            return Err(StreamError::Protocol("chunk_bare_lf"));
        };
        let size = parse_size_line(line)?;
        // A short line and the CRLF behind the data are the price of any chunk.
        self.excess = (self.excess + end as u64).saturating_sub(16 + size.saturating_mul(2));
        if self.excess > MAX_EXCESS {
            return Err(StreamError::TooLarge("chunk extensions"));
        }
        bytes.advance(end + 1);
        self.state = if size == 0 { State::Trailers } else { State::Data(size) };
        Ok(true)
    }

    fn decode_trailers(&mut self, bytes: &mut BytesMut) -> Result<Decoded, StreamError> {
        if bytes.starts_with(b"\r\n") {
            bytes.advance(2);
            self.state = State::Done;
            return Ok(Decoded::End);
        }
        let searched = &bytes[..bytes.len().min(self.max_trailer_bytes)];
        let Some(end) = memmem::find(searched, b"\r\n\r\n") else {
            // A line that already breaks the rules will not get better.
            if !super::head::ends_lines_with_crlf(searched) {
                return Err(StreamError::Protocol("trailer_bare_lf"));
            }
            return match searched.len() == self.max_trailer_bytes {
                true => Err(StreamError::TooLarge("trailer section")),
                false => Ok(Decoded::NeedMore),
            };
        };
        let section = bytes.split_to(end + 4);
        self.state = State::Done;
        let trailers = parse_trailers(&section)?;
        if trailers.is_empty() {
            return Ok(Decoded::End);
        }
        Ok(Decoded::Frame(Frame::Trailers(trailers)))
    }
}

/// Takes the CRLF at the front; false: not all of it is there yet.
fn take_crlf(bytes: &mut BytesMut) -> Result<bool, StreamError> {
    match bytes[..] {
        [b'\r', b'\n', ..] => {
            bytes.advance(2);
            Ok(true)
        }
        [] | [b'\r'] => Ok(false),
        _ => Err(StreamError::Protocol("chunk_data_not_ended")),
    }
}

/// `chunk-size [ chunk-ext ]`, without the CRLF.
fn parse_size_line(line: &[u8]) -> Result<u64, StreamError> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extension) = line.split_at(digits);
    if !matches!(digits.len(), 1..=16) {
        return Err(StreamError::Protocol("chunk_size"));
    }
    let extension_is_valid = match extension {
        [] => true,
        // Nobody reads extensions; it is enough that they hide nothing.
        [b';', text @ ..] => text.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e)),
        _ => false,
    };
    if !extension_is_valid {
        return Err(StreamError::Protocol("chunk_extension"));
    }
    let size = digits.iter().fold(0_u64, |size, digit| {
        size << 4 | u64::from((*digit as char).to_digit(16).unwrap_or(0))
    });
    i64::try_from(size).map(|_fits| size).map_err(|_overflow| StreamError::Protocol("chunk_size"))
}

fn parse_trailers(section: &[u8]) -> Result<HeaderMap, StreamError> {
    let invalid = || StreamError::Protocol("trailer");
    if !super::head::ends_lines_with_crlf(section) {
        return Err(StreamError::Protocol("trailer_bare_lf"));
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let fields = match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => fields,
        Ok(_) | Err(_) => return Err(invalid()),
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for parsed in fields {
        let name = HeaderName::from_bytes(parsed.name.as_bytes()).map_err(|_bad| invalid())?;
        if field::may_be_trailer(&name) && !field::collides(name.as_str()) {
            let value = HeaderValue::from_bytes(parsed.value).map_err(|_bad| invalid())?;
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}
