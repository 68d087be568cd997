//! The request parser: bytes that come in pieces are the same requests, errors and places as in one
//! piece; what they allocate follows from what was sent; and where redis-protocol takes a request for
//! an array of bulk strings, it is the same one.
//!
//! An input is a stream and, behind it, directions: the last byte is their number, each has three bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_protocol::resp2::{decode::decode, types::OwnedFrame};
use zdb::resp::request::{BULK_BYTES_MAX, REQUEST_WIRE_BYTES_MAX};
use zdb::resp::{Progress, ProtocolError, RequestParser};
use zdb_fuzz::allocations::{self, Watched};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Longest stream, stretched, in bytes: over every limit of a line and of a count.
const STREAM_BYTES_MAX: usize = 512 << 10;
const DIRECTIONS_MAX: usize = 16;

fuzz_target!(|input: &[u8]| {
    let (stream, cuts) = follow(input);
    let whole = parse_whole(&stream);
    let (cut, largest_bytes) = allocations::largest(|| parse_cut(&stream, &cuts));
    assert_eq!(whole, cut, "in one piece, and cut at {cuts:?}");
    // A word costs eight bytes and is sent in at least two; vectors double.
    let allowed_bytes = 16 * stream.len() + 4096;
    assert!(
        largest_bytes <= allowed_bytes,
        "{largest_bytes} bytes for a stream of {}",
        stream.len()
    );
});

/// The stream, with some of its bytes repeated, and where to cut it.
fn follow(input: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let Some((last, rest)) = input.split_last() else { return (Vec::new(), Vec::new()) };
    let count = usize::from(*last) % (DIRECTIONS_MAX + 1);
    let (stream, directions) = rest.split_at(rest.len().saturating_sub(3 * count));
    let mut stream = stream.to_vec();
    let mut cuts = Vec::new();
    for direction in directions.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([direction[1], direction[2]]));
        match direction[0] {
            0..192 => cuts.push(at),
            // Repeats a byte, as a line, a blank, a digit or a payload can be long.
            size => {
                let bytes = 1 << (size % 18);
                let Some(&byte) = stream.get(at % stream.len().max(1)) else { continue };
                if stream.len() + bytes <= STREAM_BYTES_MAX {
                    let at = at % stream.len();
                    stream.splice(at..at, std::iter::repeat_n(byte, bytes));
                }
            }
        }
    }
    cuts.retain_mut(|cut| {
        *cut %= stream.len() + 1;
        *cut > 0
    });
    cuts.sort_unstable();
    (stream, cuts)
}

#[derive(Debug, PartialEq)]
struct Parsed {
    requests: Vec<Vec<Vec<u8>>>,
    consumed: usize,
    error: Option<ProtocolError>,
}

/// All at once, each request by a parser of its own.
fn parse_whole(stream: &[u8]) -> Parsed {
    let mut parsed = Parsed { requests: Vec::new(), consumed: 0, error: None };
    loop {
        let rest = &stream[parsed.consumed..];
        let mut parser = RequestParser::new();
        let outcome = parser.parse(rest);
        match outcome {
            Ok(Progress::Complete { consumed }) => {
                assert!(consumed > 0 && consumed <= rest.len());
                let request = parser.request(rest);
                let words: Vec<Vec<u8>> = request.iter().map(<[u8]>::to_vec).collect();
                compare(rest, Some((&words, consumed)));
                parsed.consumed += consumed;
                if !words.is_empty() {
                    parsed.requests.push(words);
                }
            }
            Ok(Progress::Incomplete) => {
                assert!(
                    rest.len() < REQUEST_WIRE_BYTES_MAX,
                    "nothing is waited for without an end"
                );
                compare(rest, None);
                return parsed;
            }
            Err(error) => {
                parsed.error = Some(error);
                return parsed;
            }
        }
    }
}

/// As a connection does it: bytes come in pieces, one parser takes them all.
fn parse_cut(stream: &[u8], cuts: &[usize]) -> Parsed {
    let mut parsed = Parsed { requests: Vec::new(), consumed: 0, error: None };
    let mut parser = RequestParser::new();
    for &end in cuts.iter().chain([&stream.len()]) {
        loop {
            let held = &stream[parsed.consumed..end];
            match parser.parse(held) {
                Ok(Progress::Complete { consumed }) => {
                    let request = parser.request(held);
                    assert_eq!(request.len(), request.iter().len());
                    if !request.is_empty() {
                        parsed.requests.push(request.iter().map(<[u8]>::to_vec).collect());
                    }
                    parsed.consumed += consumed;
                }
                Ok(Progress::Incomplete) => {
                    assert!(parser.bytes_wanted() <= BULK_BYTES_MAX + 2);
                    break;
                }
                Err(error) => {
                    assert_eq!(parser.parse(held), Err(error), "an error stays");
                    parsed.error = Some(error);
                    return parsed;
                }
            }
        }
    }
    parsed
}

/// What redis-protocol makes of the same bytes. It is stricter with numbers and knows no limits, so
/// where it sees an array of bulk strings we see the same one.
fn compare(stream: &[u8], ours: Option<(&[Vec<u8>], usize)>) {
    // It would make room for as many elements as a header says.
    if stream.first() != Some(&b'*') || stream.iter().take(6).all(|byte| *byte != b'\n') {
        return;
    }
    let Ok(Some((OwnedFrame::Array(elements), consumed))) = decode(stream) else { return };
    let words: Option<Vec<Vec<u8>>> = elements
        .into_iter()
        .map(|element| match element {
            OwnedFrame::BulkString(word) => Some(word),
            _ => None,
        })
        .collect();
    let Some(words) = words else { return };
    assert_eq!(ours, Some((words.as_slice(), consumed)), "redis-protocol differs");
}
