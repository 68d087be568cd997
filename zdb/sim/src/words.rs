//! Requests by the table of commands: a new row is fuzzed without a word here. The hint of a row says
//! which arguments there are; names of arguments stand for sets of words that lead somewhere.

use crate::disk::Random;
use crate::input::Choices;
use sha1::{Digest, Sha1};
use zdb::command::{COMMANDS, Command};
use zdb::limits::PAYLOAD_BYTES_MAX;

pub const PASSWORD: &str = "secret";
pub const NAMESPACES: [&[u8]; 4] = [b"default", b"one", b"two", b"seq"];

/// Half of all requests are these: the others live on what they store.
const FREQUENT: [&str; 16] = [
    "set", "get", "set", "get", "del", "set", "mget", "exists", "scan", "set", "get", "select",
    "nsnew", "nsset", "del", "history",
];
const KEYS: [&[u8]; 10] =
    [b"a", b"b", b"c", b"key-1", b"key-2", b"key-3", b"", b"\r\n", &[0; 8], b"\x01\0\0\0\0\0\0\0"];
const PROPERTIES: [&str; 9] =
    ["mode", "worm", "lock", "freeze", "maxsize", "password", "public", "other", "mode"];
const PROPERTY_VALUES: [&str; 9] = ["1", "0", "seq", "user", "100", "5000", PASSWORD, "*", ""];
const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "2",
    "7",
    "-1",
    "10",
    "100",
    "4096",
    "1000000",
    "-5",
    "9223372036854775807",
    "18446744073709551616",
    "",
    "x",
];
const PATTERNS: [&str; 8] = ["*", "key-*", "?", "[ab]", "[^a]*", "a\\*", "*-[1-2]", "[a"];
/// Words that commands know, and some that they do not.
const LITERALS: [&str; 40] = [
    "NX",
    "XX",
    "GET",
    "IFEQ",
    "MATCH",
    "COUNT",
    "TYPE",
    "string",
    "SECURE",
    "CHALLENGE",
    "AUTH",
    "SETNAME",
    "default",
    "2",
    "3",
    "LIST",
    "INFO",
    "DOCS",
    "ID",
    "GETNAME",
    "SETINFO",
    "LIB-NAME",
    "LIB-VER",
    "KILL",
    "PAUSE",
    "RESETSTAT",
    "REWRITE",
    "SET",
    "RAW",
    "DIRTY",
    "RESET",
    "ENCODING",
    "USAGE",
    "LATEST",
    "LEN",
    "keyspace",
    "HELP",
    "NO-EVICT",
    "on",
    "SKIPME",
];

/// Subcommands with arguments that fit, which chance alone would not find.
const PHRASES: [(&str, &[&str]); 11] = [
    (
        "config",
        &[
            "SET appendfsync always",
            "SET appendfsync everysec",
            "SET appendfsync no",
            "SET cache 4096",
            "SET cache 0",
            "SET rotate 1",
            "SET rotate 0",
            "SET maxsize 5000",
            "SET maxclients 2",
            "SET maxclients 100",
            "SET latency-monitor-threshold 1",
            "SET slowlog-log-slower-than 0",
            "SET slowlog-max-len 2",
            "GET *",
            "REWRITE",
            "RESETSTAT",
        ],
    ),
    (
        "client",
        &[
            "LIST",
            "KILL ID 1",
            "KILL TYPE normal SKIPME yes",
            "PAUSE 500",
            "PAUSE 5000 WRITE",
            "UNPAUSE",
            "REPLY OFF",
            "REPLY SKIP",
            "INFO",
            "NO-EVICT on",
            "SETNAME me",
            "GETNAME",
            "LIST ID 1 2",
        ],
    ),
    (
        "latency",
        &["LATEST", "HISTORY command", "RESET", "HISTOGRAM get set", "DOCTOR", "GRAPH command"],
    ),
    ("wait", &["SET", "* 100", "1 100", "2 0", "0 0"]),
    ("replicaof", &["NO ONE", "a 4096"]),
    ("replconf", &["listening-port 1 node 7", "ack 4096", "capa zdb"]),
    (
        "psync",
        &[
            "00000000000000000000000000000000 0000000000000000 0 0 00000000 bare 0000000000000000:0 0:0 all",
            "00000000000000000000000000000000 0000000000000000 4096 9 00000007 data 0000000000000000:8192 9:4096 newest 9:00000007:4096",
        ],
    ),
    ("pubsub", &["CHANNELS", "CHANNELS *", "NUMSUB one two", "NUMPAT"]),
    ("slowlog", &["GET", "GET 1", "GET -1", "LEN", "RESET"]),
    ("debug", &["SLEEP 0.1", "SLEEP 1000000", "JMAP"]),
    ("command", &["DOCS", "INFO get", "COUNT", "LIST", "DOCS set", "GETKEYS set a b"]),
];

/// What a client saw, to use it again.
#[derive(Default)]
pub struct Seen {
    pub cursor: Vec<u8>,
    pub token: Vec<u8>,
    pub key: Vec<u8>,
    pub challenge: Vec<u8>,
}

/// The request for a byte. A new command takes over a few bytes from the others, so that what is in the
/// corpus keeps its meaning.
pub fn command(byte: u8) -> &'static str {
    if byte < 128 {
        return FREQUENT[usize::from(byte) % FREQUENT.len()];
    }
    let weight = |command: &&Command| {
        let name = command.name.bytes();
        let seed = name.fold(u64::from(byte), |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Random(seed).number()
    };
    COMMANDS.iter().max_by_key(weight).map_or("ping", |command| command.name)
}

pub fn request(choices: &mut Choices<'_>, seen: &Seen) -> Vec<Vec<u8>> {
    let name = command(choices.byte());
    let shape = choices.byte();
    let mut words = vec![name.as_bytes().to_vec()];
    let hint = COMMANDS.iter().find(|one| one.name == name).map_or("", |one| one.arguments);
    match PHRASES.iter().find(|(of, _)| *of == name) {
        Some((_, phrases)) if shape < 192 => {
            words.extend(choices.of(phrases).split(' ').map(|word| word.as_bytes().to_vec()));
        }
        _ => arguments(hint, shape, choices, seen, &mut words),
    }
    match shape % 16 {
        13 => words.push(word("", choices, seen)),
        14 => drop(words.pop()),
        15 => words[0].make_ascii_uppercase(),
        _ => {}
    }
    if words.is_empty() {
        words.push(b"get".to_vec());
    }
    words
}

/// Arguments as a hint writes them: `[...]` may be missing, `A | B` is one of the two, capital letters are
/// themselves, and `...` means more of the same.
fn arguments(
    hint: &str,
    shape: u8,
    choices: &mut Choices<'_>,
    seen: &Seen,
    words: &mut Vec<Vec<u8>>,
) {
    let alternatives = split(hint, '|');
    let chosen = alternatives[usize::from(shape >> 4) % alternatives.len()];
    let mut last = "";
    for part in split(chosen, ' ') {
        if let Some(inner) = part.strip_prefix('[').and_then(|part| part.strip_suffix(']')) {
            let times = match choices.byte() {
                0..110 => 0,
                110..230 => 1,
                more => usize::from(more - 228),
            };
            for _ in 0..if inner.contains("...") { times } else { times.min(1) } {
                arguments(inner, choices.byte(), choices, seen, words);
            }
        } else if part == "..." {
            words.push(word(last, choices, seen));
        } else if !part.is_empty() {
            words.push(word(part, choices, seen));
            last = part;
        }
    }
}

/// The parts of a hint between separators that are in no brackets.
fn split(hint: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, sign) in hint.char_indices() {
        match sign {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ if sign == separator && depth == 0 => {
                parts.push(hint[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(hint[start..].trim());
    parts
}

fn word(name: &str, choices: &mut Choices<'_>, seen: &Seen) -> Vec<u8> {
    let literal = name.chars().any(|sign| sign.is_ascii_uppercase());
    match name {
        _ if literal => name.trim_matches(['|', '<', '>']).as_bytes().to_vec(),
        "key" | "prefix" => key(choices, seen),
        "user" => b"default".to_vec(),
        "value" | "message" | "v" => value(choices),
        "namespace" | "name" | "channel" => choices.of(&NAMESPACES).to_vec(),
        "property" => choices.of(&PROPERTIES).as_bytes().to_vec(),
        "password" => [PASSWORD, "wrong", "", "default"][choices.below(4)].into(),
        "hash" => response(seen),
        "cursor" => match choices.below(4) {
            0 => b"0".to_vec(),
            1 => choices.of(&NUMBERS).as_bytes().to_vec(),
            _ => seen.cursor.clone(),
        },
        "token" => match choices.below(4) {
            0 => (u64::from(choices.word()) * 8).to_le_bytes().to_vec(),
            _ => seen.token.clone(),
        },
        "pattern" => choices.of(&PATTERNS).as_bytes().to_vec(),
        "timestamp" | "count" | "n" | "offset" | "start" | "end" | "id" | "milliseconds"
        | "seconds" => number(choices),
        _ => match choices.below(8) {
            0 => key(choices, seen),
            1 => value(choices),
            2 => number(choices),
            3 => choices.of(&PROPERTY_VALUES).as_bytes().to_vec(),
            4 => choices.of(&PROPERTIES).as_bytes().to_vec(),
            _ => choices.of(&LITERALS).as_bytes().to_vec(),
        },
    }
}

pub fn key(choices: &mut Choices<'_>, seen: &Seen) -> Vec<u8> {
    match choices.below(16) {
        known @ 0..10 => KEYS[known].to_vec(),
        10 | 11 => format!("key-{}", choices.byte()).into_bytes(),
        12 => u64::from(choices.byte()).to_le_bytes().to_vec(),
        13 => vec![b'k'; 254 + choices.below(3)],
        _ => seen.key.clone(),
    }
}

/// Few different values, so that the same one comes again, of sizes around the limits.
pub fn value(choices: &mut Choices<'_>) -> Vec<u8> {
    let (size, tag) = (choices.byte(), choices.byte());
    if size < 40 {
        return choices.of(&PROPERTY_VALUES).as_bytes().to_vec();
    }
    let bytes = match size % 32 {
        0..12 => usize::from(size % 12),
        12..20 => usize::from(tag) * 2,
        20..26 => 1000 + usize::from(tag) * 16,
        26..28 => 4096 - 300 + usize::from(tag),
        28..30 => 16_000 + usize::from(tag),
        30 => PAYLOAD_BYTES_MAX,
        _ => 40_000,
    };
    (0..bytes).map(|at| tag.wrapping_add((at / 251) as u8)).collect()
}

fn number(choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.below(3) {
        0 => choices.word().to_string().into_bytes(),
        _ => choices.of(&NUMBERS).as_bytes().to_vec(),
    }
}

/// The answer to the challenge that was seen last.
fn response(seen: &Seen) -> Vec<u8> {
    let mut hash = Sha1::new();
    hash.update(&seen.challenge);
    hash.update(b":");
    hash.update(PASSWORD);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes()
}

/// A request on the wire.
pub fn encode(words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}
