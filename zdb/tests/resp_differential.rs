//! Our RESP parser and reply writer against the crate `redis-protocol`, case by case from a printed
//! seed. Repeat a run with `ZDB_SEED=<seed>`.
//!
//! Fault model: a client sends any bytes, in pieces of any size. Where `redis-protocol` reads a flat
//! array of bulk strings, ours must read the same; the contract allows more only in the ways that
//! `Difference` names. Limits and error texts have their own tests beside the parser.

use std::collections::BTreeMap;

use redis_protocol::resp2::decode::decode as decode2;
use redis_protocol::resp2::encode::encode as encode2;
use redis_protocol::resp2::types::{OwnedFrame as Frame2, Resp2Frame};
use redis_protocol::resp3::decode::complete::decode as decode3;
use redis_protocol::resp3::types::OwnedFrame as Frame3;
use zdb::resp::{CRLF, Progress, Protocol, ProtocolError, ReplyWriter, RequestParser};

type Arguments = Vec<Vec<u8>>;

/// splitmix64: small, seedable, good enough to pick cases.
struct Random(u64);

impl Random {
    fn from_seed(test: &str) -> Self {
        let seed = match std::env::var("ZDB_SEED") {
            Ok(seed) => seed.parse().expect("ZDB_SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().expect("clock after 1970").as_nanos() as u64,
        };
        println!("{test}: ZDB_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..limit.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Half of the bytes are those that mean something to a parser.
    fn byte(&mut self) -> u8 {
        const HOSTILE: &[u8] = b"*$+-:_%\r\n\t \"'\\0123456789aPxX\0\xff";
        if self.one_in(2) { self.next() as u8 } else { HOSTILE[self.below(HOSTILE.len())] }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let limit = match self.below(100) {
            0 => 12_000,
            1..10 => 1200,
            10..30 => 120,
            _ => 12,
        };
        (0..self.below(limit)).map(|_| self.byte()).collect()
    }

    fn arguments(&mut self) -> Arguments {
        let limit = if self.one_in(50) { 150 } else { 6 };
        (0..1 + self.below(limit)).map(|_| self.bytes()).collect()
    }
}

fn encoded(arguments: &[Vec<u8>]) -> Vec<u8> {
    let frame = Frame2::Array(arguments.iter().cloned().map(Frame2::BulkString).collect());
    let mut wire = vec![0; frame.encode_len(false)];
    let size = encode2(&mut wire, &frame, false).expect("encodes");
    assert_eq!(size, wire.len());
    wire
}

/// What a connection makes of the bytes it was sent.
#[derive(Debug, Default, PartialEq)]
struct Served {
    requests: Vec<Arguments>,
    /// Bytes up to the end of the last complete request or blank line.
    consumed: usize,
    error: Option<ProtocolError>,
}

/// Sends `wire` in pieces that end at `ends` and at its end, as a connection with one buffer would
/// see them.
fn serve(wire: &[u8], ends: impl IntoIterator<Item = usize>) -> Served {
    let mut parser = RequestParser::new();
    let mut served = Served::default();
    for end in ends.into_iter().chain([wire.len()]) {
        while served.consumed < end {
            let input = &wire[served.consumed..end];
            match parser.parse(input) {
                Ok(Progress::Incomplete) => break,
                Ok(Progress::Complete { consumed }) => {
                    assert!(consumed > 0 && consumed <= input.len());
                    served.consumed += consumed;
                    let request = parser.request(input);
                    if !request.is_empty() {
                        served.requests.push(request.iter().map(<[u8]>::to_vec).collect());
                    }
                }
                Err(error) => {
                    served.error = Some(error);
                    return served;
                }
            }
        }
    }
    served
}

fn random_ends(random: &mut Random, size: usize) -> Vec<usize> {
    let mut ends: Vec<_> = (0..1 + random.below(8)).map(|_| random.below(size + 1)).collect();
    ends.sort_unstable();
    ends
}

#[test]
fn valid_requests_read_alike_however_they_are_split() {
    let mut random = Random::from_seed("valid requests");
    for _ in 0..3000 {
        let requests: Vec<_> = (0..1 + random.below(3)).map(|_| random.arguments()).collect();
        let wire: Vec<u8> = requests.iter().flat_map(|arguments| encoded(arguments)).collect();
        let expected = Served { requests, consumed: wire.len(), error: None };
        assert!(serve(&wire, []) == expected, "{}", wire.escape_ascii());
        for _ in 0..3 {
            let ends = random_ends(&mut random, wire.len());
            assert!(serve(&wire, ends.clone()) == expected, "{ends:?}: {}", wire.escape_ascii());
        }
        if wire.len() < 1000 {
            assert!(serve(&wire, 1..wire.len()) == expected, "{}", wire.escape_ascii());
        }
        if wire.len() < 100 {
            for end in 1..wire.len() {
                assert!(serve(&wire, [end]) == expected, "{end}: {}", wire.escape_ascii());
            }
        }
    }
}

/// Why ours completes a request where `redis-protocol` does not: each is in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    Inline,
    LineFeedOnly,
    BlankBeforeNumber,
}

/// The differences in the first request of `wire`, which ours read as `arguments`. Panics where a
/// header does not say what ours read.
fn differences(wire: &[u8], arguments: &[Vec<u8>]) -> Vec<Difference> {
    if wire[0].is_ascii_alphabetic() {
        return vec![Difference::Inline];
    }
    let mut found = Vec::new();
    let mut rest = wire;
    let mut header = |rest: &mut &[u8], kind: u8, number: usize| {
        let line_feed = rest.iter().position(|&byte| byte == b'\n').expect("a line");
        let (line, tail) = rest.split_at(line_feed);
        *rest = &tail[1..];
        let text = line.strip_prefix(&[kind]).expect("a type byte");
        let text = text.strip_suffix(b"\r").unwrap_or_else(|| {
            found.push(Difference::LineFeedOnly);
            text
        });
        let digits = text.trim_ascii_start();
        if digits.len() < text.len() {
            found.push(Difference::BlankBeforeNumber);
        }
        let digits = std::str::from_utf8(digits).expect("digits");
        assert_eq!(digits.parse(), Ok(number as i64), "{}", wire.escape_ascii());
    };
    header(&mut rest, b'*', arguments.len());
    for argument in arguments {
        header(&mut rest, b'$', argument.len());
        assert!(rest.starts_with(argument), "{}", wire.escape_ascii());
        rest = &rest[argument.len() + CRLF.len()..];
    }
    found
}

/// The arguments of a flat array of bulk strings; None for any other frame.
fn flat(frame: &Frame2) -> Option<Arguments> {
    let Frame2::Array(frames) = frame else {
        return None;
    };
    frames
        .iter()
        .map(|frame| match frame {
            Frame2::BulkString(bytes) => Some(bytes.clone()),
            _ => None,
        })
        .collect()
}

/// Compares one input; returns what to count it as.
fn check(random: &mut Random, wire: &[u8]) -> Vec<String> {
    let name = wire.escape_ascii();
    let whole = serve(wire, []);
    let ends = random_ends(random, wire.len());
    assert_eq!(whole, serve(wire, ends.clone()), "split at {ends:?}: {name}");
    if wire.len() < 200 {
        assert_eq!(whole, serve(wire, 1..wire.len()), "byte by byte: {name}");
    }

    // Contract: blank lines before a request are skipped; `redis-protocol` refuses them.
    let blank_end = wire.iter().position(|byte| !matches!(byte, b' ' | b'\t'..=b'\r'));
    if blank_end != Some(0) {
        return vec!["blank line".to_string()];
    }
    let first = whole.requests.first();
    match decode2(wire) {
        Ok(Some((frame, consumed))) => match flat(&frame) {
            // Contract: an empty request is an error.
            Some(arguments) if arguments.is_empty() => {
                assert_eq!(
                    whole.error.map(|error| error.reply),
                    Some("Missing arguments"),
                    "{name}"
                );
                vec!["empty array".to_string()]
            }
            Some(arguments) => {
                assert_eq!(first, Some(&arguments), "{name}");
                let alone = serve(&wire[..consumed], []);
                let expected = Served { requests: vec![arguments], consumed, error: None };
                assert_eq!(alone, expected, "{name}");
                assert_eq!(serve(&wire[..consumed - 1], []), Served::default(), "{name}");
                vec!["accepted by both".to_string()]
            }
            // Contract: nothing but bulk strings, and no null among them.
            None => {
                assert!(first.is_none() && whole.error.is_some(), "{name}");
                vec!["other frame".to_string()]
            }
        },
        Ok(None) | Err(_) => match first {
            Some(arguments) => {
                let reasons = differences(wire, arguments);
                assert!(!reasons.is_empty(), "accepted by ours alone: {name}");
                reasons.iter().map(|reason| format!("{reason:?}")).collect()
            }
            None => vec!["accepted by neither".to_string()],
        },
    }
}

fn mutate(random: &mut Random, wire: &mut Vec<u8>) {
    let place = random.below(wire.len() + 1);
    let end = (place + random.below(6)).min(wire.len());
    match random.below(9) {
        0 if place < wire.len() => wire[place] = random.byte(),
        1 => wire.insert(place, random.byte()),
        2 => drop(wire.drain(place..end)),
        3 => wire.truncate(place),
        4 => {
            let copy = wire[place..end].to_vec();
            wire.splice(place..place, copy);
        }
        // Every line end loses its CR.
        5 => *wire = replaced(wire, CRLF, b"\n"),
        // A number becomes another.
        6 => {
            let numbers = [
                "0",
                "-0",
                "+1",
                "-1",
                "-2",
                "01",
                "1025",
                "8388609",
                "4294967300",
                "9223372036854775808",
                "18446744073709551616",
                "",
                " 1",
                "1 ",
                "x",
            ];
            let starts: Vec<_> = (0..wire.len()).filter(|&at| b"*$".contains(&wire[at])).collect();
            if let Some(&start) = starts.get(random.below(starts.len().max(1))) {
                let digits =
                    wire[start + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = random.pick(&numbers).bytes();
                wire.splice(start + 1..start + 1 + digits, number);
            }
        }
        7 => {
            let number = random.pick(&[" ", "+", "\t", "00", "-", "*", "$"]);
            wire.splice(1.min(wire.len())..1.min(wire.len()), number.bytes());
        }
        _ => {
            let line = random.pick(&[
                "PING\r\n",
                "GET \"a\\x00b\" 'c'\n",
                "\r\n",
                "$-1\r\n",
                "*0\r\n",
                "x",
            ]);
            let place = if random.one_in(2) { 0 } else { place };
            wire.splice(place..place, line.bytes());
        }
    }
}

fn replaced(wire: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::new();
    let mut rest = wire;
    while let Some(&first) = rest.first() {
        match rest.strip_prefix(from) {
            Some(tail) => {
                result.extend(to);
                rest = tail;
            }
            None => {
                result.push(first);
                rest = &rest[1..];
            }
        }
    }
    result
}

#[test]
fn mutated_requests_read_alike_but_for_the_contract() {
    let mut random = Random::from_seed("mutated requests");
    let mut tally = BTreeMap::new();
    for _ in 0..25_000 {
        let mut wire = encoded(&random.arguments());
        for _ in 0..1 + random.below(3) {
            mutate(&mut random, &mut wire);
        }
        if wire.is_empty() {
            continue;
        }
        for kind in check(&mut random, &wire) {
            *tally.entry(kind).or_insert(0) += 1;
        }
    }
    println!("{tally:?}");
    // A generator that stops reaching a case would make this test say nothing.
    for kind in [
        "accepted by both",
        "accepted by neither",
        "other frame",
        "empty array",
        "blank line",
        "Inline",
        "LineFeedOnly",
        "BlankBeforeNumber",
    ] {
        assert!(tally.get(kind).is_some_and(|&count| count > 20), "{kind}: {tally:?}");
    }
}

#[test]
fn noise_never_panics() {
    let mut random = Random::from_seed("noise");
    for _ in 0..15_000 {
        let mut wire = random.bytes();
        if random.one_in(2) {
            wire.insert(0, b'*');
        }
        if !wire.is_empty() {
            check(&mut random, &wire);
        }
    }
}

#[test]
fn differences_of_the_contract_one_by_one() {
    let mut random = Random::from_seed("differences");
    for (wire, kind) in [
        (&b"*1\n$4\nPING\r\n"[..], "LineFeedOnly"),
        (b"* 1\r\n$4\r\nPING\r\n", "BlankBeforeNumber"),
        (b"PING\r\n", "Inline"),
        (b"\r\n*1\r\n$4\r\nPING\r\n", "blank line"),
        (b"*0\r\n", "empty array"),
        (b"*1\r\n$-1\r\n", "other frame"),
        (b"*-1\r\n", "other frame"),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", "other frame"),
        (b"+PING\r\n", "other frame"),
        // No difference: neither looks at the two bytes behind a payload.
        (b"*1\r\n$4\r\nPINGxx", "accepted by both"),
        // A count with garbage behind it, which 0-db takes for 1.
        (b"*1x\r\n$4\r\nPING\r\n", "accepted by neither"),
    ] {
        assert_eq!(check(&mut random, wire)[0], kind, "{}", wire.escape_ascii());
    }
}

/// Writes one random reply and returns what both decoders must read.
fn reply(random: &mut Random, writer: &mut ReplyWriter, depth: usize) -> (Frame2, Frame3) {
    let blob = |data: Vec<u8>| Frame3::BlobString { data, attributes: None };
    match random.below(if depth == 0 { 6 } else { 8 }) {
        kind @ 0..2 => {
            let text = String::from_utf8_lossy(&random.bytes()).into_owned();
            let clean = text.replace(['\r', '\n'], " ");
            if kind == 0 {
                writer.simple(&text);
                let data = clean.into_bytes();
                let frame = Frame2::SimpleString(data.clone());
                (frame, Frame3::SimpleString { data, attributes: None })
            } else {
                writer.error(&text);
                let frame = Frame2::Error(clean.clone());
                (frame, Frame3::SimpleError { data: clean, attributes: None })
            }
        }
        2 => {
            let data = match random.below(4) {
                0 => random.below(120) as i64 - 10,
                1 => [i64::MIN, i64::MIN + 1, -1, 0, 9, 10, 99, 100, i64::MAX][random.below(9)],
                _ => random.next() as i64 >> random.below(64),
            };
            writer.integer(data);
            (Frame2::Integer(data), Frame3::Number { data, attributes: None })
        }
        3..5 => {
            let data = random.bytes();
            writer.bulk(&data);
            (Frame2::BulkString(data.clone()), blob(data))
        }
        5 => {
            writer.nil();
            (Frame2::Null, Frame3::Null)
        }
        6 => {
            let limit = if random.one_in(20) { 130 } else { 12 };
            let count = random.below(limit);
            writer.array(count);
            let (frames, data) = (0..count).map(|_| reply(random, writer, depth - 1)).unzip();
            (Frame2::Array(frames), Frame3::Array { data, attributes: None })
        }
        _ => {
            let count = random.below(12);
            writer.map(count);
            let mut frames = Vec::new();
            let data = (0..count).map(|index| {
                let key = format!("key {index}").into_bytes();
                writer.bulk(&key);
                let (value2, value3) = reply(random, writer, depth - 1);
                frames.extend([Frame2::BulkString(key.clone()), value2]);
                (blob(key), value3)
            });
            let data = data.collect();
            (Frame2::Array(frames), Frame3::Map { data, attributes: None })
        }
    }
}

#[test]
fn replies_decode_to_what_was_written() {
    let mut random = Random::from_seed("replies");
    for _ in 0..4000 {
        let start = random.next();
        let mut out = b"before".to_vec();
        let mut writer = ReplyWriter::new(&mut out, Protocol::Resp2);
        let (frame, _) = reply(&mut Random(start), &mut writer, 2);
        let wire = &out[b"before".len()..];
        let decoded = decode2(wire).unwrap_or_else(|e| panic!("{e}: {}", wire.escape_ascii()));
        assert!(decoded == Some((frame, wire.len())), "{}", wire.escape_ascii());

        out.clear();
        let mut writer = ReplyWriter::new(&mut out, Protocol::Resp3);
        let (_, frame) = reply(&mut Random(start), &mut writer, 2);
        let decoded = decode3(&out).unwrap_or_else(|e| panic!("{e}: {}", out.escape_ascii()));
        assert!(decoded == Some((frame, out.len())), "{}", out.escape_ascii());
    }
}

#[test]
fn replies_byte_by_byte() {
    let check = |protocol, write: &dyn Fn(&mut ReplyWriter), expected: &str| {
        let mut out = Vec::new();
        write(&mut ReplyWriter::new(&mut out, protocol));
        assert_eq!(String::from_utf8(out).as_deref(), Ok(expected), "{protocol:?}");
    };
    let both = |write: &dyn Fn(&mut ReplyWriter), expected: &str| {
        check(Protocol::Resp2, write, expected);
        check(Protocol::Resp3, write, expected);
    };
    both(&|writer| writer.simple("OK"), "+OK\r\n");
    both(&|writer| writer.error("Command not supported"), "-Command not supported\r\n");
    both(&|writer| writer.error("a\r\nb"), "-a  b\r\n");
    both(&|writer| writer.bulk(b""), "$0\r\n\r\n");
    for size in [1, 9, 10, 99, 100, 12_345] {
        let payload = "x".repeat(size);
        both(&|writer| writer.bulk(payload.as_bytes()), &format!("${size}\r\n{payload}\r\n"));
        both(&|writer| writer.array(size), &format!("*{size}\r\n"));
    }
    both(&|writer| writer.bulk_header(8_388_608), "$8388608\r\n");
    both(&|writer| writer.bulk_header(usize::MAX), "$18446744073709551615\r\n");
    for number in [i64::MIN, -10, -1, 0, 9, 10, 99, 100, i64::MAX] {
        both(&|writer| writer.integer(number), &format!(":{number}\r\n"));
    }
    check(Protocol::Resp2, &|writer| writer.nil(), "$-1\r\n");
    check(Protocol::Resp3, &|writer| writer.nil(), "_\r\n");
    check(Protocol::Resp2, &|writer| writer.map(7), "*14\r\n");
    check(Protocol::Resp3, &|writer| writer.map(7), "%7\r\n");
}
