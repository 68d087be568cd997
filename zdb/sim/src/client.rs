//! A client: what it has sent, what came back, and whether the answers can be.

use crate::history::{History, Moment, Seen, Ticket, Value};
use crate::reply::{self, Reply};
use crate::words;
use std::collections::VecDeque;
use std::sync::OnceLock;
use zdb::output::Output;
use zdb::resp::{Progress, RequestParser};

/// Namespaces and their settings are registers too, in namespaces that no client can name.
pub const NAMES: &[u8] = b"\0names";
/// Commands after which a connection gets lines that are no replies, several replies to one request, replies out
/// of their order, or where the last word of a request is none of it.
const STREAMS: [&str; 11] = [
    "monitor",
    "mirror",
    "wait",
    "master",
    "subscribe",
    "psubscribe",
    "unsubscribe",
    "punsubscribe",
    "multi",
    "psync",
    "replconf",
];
/// Commands that the model follows or that leave keys alone, whatever their flags say.
const FOLLOWED: [&str; 9] =
    ["set", "setx", "del", "unlink", "mset", "setnx", "flush", "index", "reload"];

/// Errors after which nobody knows whether a write took effect.
const UNSURE: [&[u8]; 4] = [
    b"Cannot write data right now",
    b"Cannot delete key (data)",
    b"Could not create namespace",
    b"Could not delete this namespace",
];

/// A request that was sent and not answered yet.
struct Expected {
    words: Vec<Vec<u8>>,
    begun: Moment,
    writes: Vec<Ticket>,
}

pub struct Client {
    /// Of its connection.
    pub key: u64,
    /// Bytes that the connection did not take yet.
    pub wire: Vec<u8>,
    /// It reads only when told to.
    pub slow: bool,
    /// It will send no more.
    pub ended: bool,
    /// The server has closed its side.
    pub closed: bool,
    /// The server has said that nothing follows what it has taken for it.
    pub is_answered: bool,
    /// Replies that the loop has taken for it, and how many bytes of them it has read.
    pub sending: Output,
    pub read_bytes: usize,
    pub seen: words::Seen,
    pub namespace: Vec<u8>,
    unparsed: Vec<u8>,
    delivered: Vec<u8>,
    parser: RequestParser,
    expected: VecDeque<Expected>,
    /// What it sends is no longer taken: it broke the protocol or said QUIT.
    mute: bool,
    /// It is sent things unasked, or does not want to hear replies.
    pub streams: bool,
    resp3: bool,
}

/// What the checks need to know.
pub struct World<'a> {
    pub history: &'a mut History,
    pub now: Moment,
    /// Some reads of the disk failed or were changed on their way.
    pub bad_reads: bool,
}

fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).to_ascii_lowercase()
}

static TRACED: OnceLock<bool> = OnceLock::new();

/// Whether requests and replies are shown, to understand a finding: with ZDB_TRACE set.
pub fn traced() -> bool {
    *TRACED.get_or_init(|| std::env::var_os("ZDB_TRACE").is_some())
}

/// Shows them.
pub fn trace() {
    let _ = TRACED.set(true);
}

/// A request, for people.
fn said(words: &[Vec<u8>]) -> String {
    let short = |word: &Vec<u8>| match word.len() {
        ..40 => word.escape_ascii().to_string(),
        bytes => format!("{}...({bytes} bytes)", word[..8].escape_ascii()),
    };
    words.iter().map(short).collect::<Vec<_>>().join(" ")
}

impl Client {
    pub fn new(key: u64) -> Self {
        Self {
            key,
            wire: Vec::new(),
            slow: false,
            ended: false,
            closed: false,
            is_answered: false,
            sending: Output::default(),
            read_bytes: 0,
            seen: words::Seen::default(),
            namespace: b"default".to_vec(),
            unparsed: Vec::new(),
            delivered: Vec::new(),
            parser: RequestParser::new(),
            expected: VecDeque::new(),
            mute: false,
            streams: false,
            resp3: false,
        }
    }

    /// How many requests have no reply yet, where each must get one.
    pub fn unanswered(&self) -> usize {
        if self.streams { 0 } else { self.expected.len() }
    }

    pub fn oldest(&self) -> String {
        self.expected.front().map_or(String::new(), |one| said(&one.words))
    }

    /// The server turns it away: one error, and nothing else.
    pub fn turned_away(&mut self) {
        self.mute = true;
        self.expected.push_back(Expected { words: Vec::new(), begun: 0, writes: Vec::new() });
    }

    // ---------------------------------------------------------------- requests

    /// Bytes are on their way to the server: which requests are in them?
    pub fn deliver(&mut self, bytes: &[u8], world: &mut World<'_>) {
        if self.mute {
            return;
        }
        self.delivered.extend_from_slice(bytes);
        loop {
            match self.parser.parse(&self.delivered) {
                Ok(Progress::Complete { consumed }) => {
                    let request = self.parser.request(&self.delivered);
                    let words: Vec<Vec<u8>> = request.iter().map(<[u8]>::to_vec).collect();
                    self.delivered.drain(..consumed);
                    if !words.is_empty() {
                        self.expect(words, world);
                    }
                }
                Ok(Progress::Incomplete) => return,
                Err(_) => {
                    self.mute = true;
                    self.expect(Vec::new(), world);
                    return;
                }
            }
        }
    }

    fn expect(&mut self, words: Vec<Vec<u8>>, world: &mut World<'_>) {
        let begun = world.now;
        if traced() {
            eprintln!("{begun}: {:x} asks {}", self.key, said(&words));
        }
        let name = words.first().map_or(String::new(), |word| text(word));
        let mutes = name == "client" && words.get(1).is_some_and(|word| text(word) == "reply");
        if mutes || STREAMS.contains(&name.as_str()) {
            self.streams = true;
        }
        if name == "nsset"
            && let [_, namespace, property, value] = words.as_slice()
            && property == b"history"
            && let Some(kept) = kept_versions(value)
        {
            world.history.may_drop(namespace, kept);
        }
        let mut begin = |namespace: Option<&[u8]>, key: Option<&[u8]>, value| {
            world.history.begin(namespace, key, value, begun)
        };
        let mut writes = Vec::new();
        match (name.as_str(), words.len()) {
            ("set" | "setx" | "setnx", 3..) => {
                // An empty key becomes an id in a sequential namespace: known with the reply.
                writes.push(begin(None, Some(&words[1]), Value::Bytes(words[2].clone())));
            }
            ("mset", 3..) => {
                for pair in words[1..].chunks_exact(2) {
                    writes.push(begin(None, Some(&pair[0]), Value::Bytes(pair[1].clone())));
                }
            }
            ("del", 2..) => writes.push(begin(None, Some(&words[1]), Value::Missing)),
            ("unlink", 2..) => {
                for key in &words[1..] {
                    writes.push(begin(None, Some(key), Value::Missing));
                }
            }
            ("flush", _) => writes.push(begin(None, None, Value::Missing)),
            ("nsnew", 2) => {
                writes.push(begin(Some(NAMES), Some(&words[1]), Value::Bytes(b"1".to_vec())));
            }
            ("nsdel", 2) => {
                writes.push(begin(Some(NAMES), Some(&words[1]), Value::Missing));
                writes.push(begin(Some(&settings_of(&words[1])), None, Value::Missing));
                writes.push(begin(Some(&words[1]), None, Value::Missing));
            }
            ("nsset", 4) => {
                let (property, value) = setting(&words[2], &words[3]);
                writes.push(begin(Some(&settings_of(&words[1])), Some(property), value));
            }
            _ => {
                let writing = zdb::command::COMMANDS
                    .iter()
                    .any(|one| one.name == name && one.flags.contains(&"write"));
                if writing && !FOLLOWED.contains(&name.as_str()) {
                    writes.push(begin(None, None, Value::Any));
                }
            }
        }
        self.expected.push_back(Expected { words, begun, writes });
    }

    // ---------------------------------------------------------------- replies

    /// Takes bytes from the server and checks every reply that is whole.
    pub fn read(&mut self, bytes: &[u8], world: &mut World<'_>) {
        self.unparsed.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let rest = &self.unparsed[at..];
            // The reply to HELLO is in the protocol that it asks for.
            let asked = self.expected.front().is_some_and(|one| {
                one.words.first().is_some_and(|word| text(word) == "hello")
                    && one.words.get(1).is_some_and(|word| word == b"3")
            });
            let mut parsed = reply::parse(rest, self.resp3 || asked);
            if self.streams && parsed.is_err() {
                // Nobody follows which protocol it has asked for.
                parsed = reply::parse(rest, !self.resp3);
            }
            let Some((reply, used)) = parsed.unwrap_or_else(|what| {
                panic!("no RESP: {what}: {}", rest[..rest.len().min(200)].escape_ascii())
            }) else {
                break;
            };
            at += used;
            self.take(reply, world);
        }
        self.unparsed.drain(..at);
    }

    fn take(&mut self, reply: Reply, world: &mut World<'_>) {
        if matches!(reply, Reply::Push(_)) {
            return;
        }
        let Some(expected) = self.expected.pop_front() else {
            assert!(self.streams, "a reply to no request: {reply:?}");
            return;
        };
        let name = expected.words.first().map_or(String::new(), |word| text(word));
        if self.streams {
            return;
        }
        if expected.words.is_empty() {
            assert!(reply.is_error(), "a broken request got {reply:?}");
            return;
        }
        if traced() {
            let shown: String = reply.to_string().chars().take(120).collect();
            eprintln!("{}: {} -> {shown}", world.now, said(&expected.words));
        }
        self.remember(&reply);
        self.conclude(&name, &expected, &reply, world);
        match (name.as_str(), &reply) {
            ("select", Reply::Simple(_)) => {
                self.namespace = expected.words[1].clone();
                if self.namespace == b"0" {
                    self.namespace = b"default".to_vec();
                }
                self.look(world, NAMES, &self.namespace, &Seen::Present, expected.begun);
            }
            ("hello", Reply::Many(_)) => match expected.words.get(1).map(Vec::as_slice) {
                Some(b"3") => self.resp3 = true,
                Some(b"2") => self.resp3 = false,
                _ => {}
            },
            ("reset", Reply::Simple(_)) => {
                self.namespace = b"default".to_vec();
                self.resp3 = false;
            }
            ("shutdown", _) => assert!(reply.is_error(), "SHUTDOWN answers only where it does not"),
            ("stop" | "quit", Reply::Simple(_)) => {
                // What was sent behind it is not run.
                self.expected.clear();
                self.mute = true;
            }
            _ => {}
        }
        self.check(&name, &expected, &reply, world);
    }

    /// Keeps what a client would use again.
    fn remember(&mut self, reply: &Reply) {
        match reply {
            Reply::Many(many) => {
                match many.first() {
                    Some(Reply::Bulk(bytes)) if bytes.len() == 8 => self.seen.token = bytes.clone(),
                    Some(Reply::Bulk(bytes)) => self.seen.cursor = bytes.clone(),
                    _ => {}
                }
                if let Some(Reply::Many(entries)) = many.get(1)
                    && let Some(Reply::Many(entry)) = entries.first()
                    && let Some(key) = entry.first().and_then(Reply::bulk)
                {
                    self.seen.key = key.to_vec();
                }
            }
            Reply::Bulk(bytes) if bytes.len() == 17 => self.seen.cursor = bytes.clone(),
            Reply::Bulk(bytes) if bytes.len() == 8 => self.seen.key = bytes.clone(),
            Reply::Simple(text) if text.len() == 16 => self.seen.challenge = text.clone(),
            _ => {}
        }
    }

    /// Tells the history what became of the writes of a request.
    fn conclude(&self, name: &str, expected: &Expected, reply: &Reply, world: &mut World<'_>) {
        let Expected { words, writes, begun } = expected;
        let (now, here) = (world.now, self.namespace.as_slice());
        let history = &mut *world.history;
        let Some(first) = writes.first() else { return };
        let unsure = matches!(reply, Reply::Error(text) if UNSURE.contains(&text.as_slice()));
        let option =
            |word: &[u8]| !word.first().is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-');
        match (name, reply) {
            _ if unsure => {}
            // The keys before the one that failed are gone.
            ("unlink", Reply::Error(_)) => {
                writes.iter().for_each(|write| history.ended(write, now));
            }
            (_, Reply::Error(_)) => {
                writes.iter().for_each(|write| history.refused(write));
                if name == "del" && matches!(reply, Reply::Error(text) if text == b"Key not found")
                {
                    self.look(world, here, &words[1], &Seen::Missing, *begun);
                }
            }
            ("set" | "setx", Reply::Nil) if words.len() == 3 => {
                history.refused(first);
                if !words[1].is_empty() {
                    self.look(world, here, &words[1], &Seen::Bytes(&words[2]), *begun);
                }
            }
            ("set" | "setx", _) if words.len() > 4 || words.len() == 4 && option(&words[3]) => {
                match reply {
                    Reply::Simple(_) => history.succeeded(first, here, now),
                    _ => history.ended(first, now),
                }
            }
            ("set" | "setx", Reply::Nil) => history.ended(first, now),
            ("set" | "setx", Reply::Bulk(key)) if words[1].is_empty() => {
                history.refused(first);
                let write =
                    history.begin(Some(here), Some(key), Value::Bytes(words[2].clone()), *begun);
                history.succeeded(&write, here, now);
            }
            ("set" | "setx", Reply::Bulk(key)) => {
                assert_eq!(key, &words[1], "SET answers with its key");
                history.succeeded(first, here, now);
            }
            ("setnx", Reply::Integer(0)) => {
                history.refused(first);
                // As with EXISTS, a record that cannot be read counts for the key with its hash.
                if !world.bad_reads {
                    self.look(world, here, &words[1], &Seen::Present, *begun);
                }
            }
            ("setnx", Reply::Integer(1)) => history.succeeded(first, here, now),
            // Of a key that comes twice the last value holds.
            ("mset", Reply::Simple(_)) => {
                for (at, write) in writes.iter().enumerate() {
                    let key = &words[1 + 2 * at];
                    match words[1..].chunks(2).skip(at + 1).any(|pair| pair[0] == *key) {
                        true => history.refused(write),
                        false => history.succeeded(write, here, now),
                    }
                }
            }
            // It has done nothing, and says what it saw: a broken log promises nothing by that.
            ("unlink", Reply::Integer(0)) => {
                writes.iter().for_each(|write| history.refused(write));
                for key in &words[1..] {
                    self.look(world, here, key, &Seen::Missing, *begun);
                }
            }
            ("unlink", Reply::Integer(_))
            | ("del", Reply::Simple(_))
            | ("flush", Reply::Simple(_)) => {
                writes.iter().for_each(|write| history.succeeded(write, here, now));
            }
            ("nsnew" | "nsdel" | "nsset", Reply::Simple(_)) => {
                writes.iter().for_each(|write| history.succeeded(write, NAMES, now));
            }
            _ => writes.iter().for_each(|write| history.ended(write, now)),
        }
    }

    /// Compares what a request read with what was written.
    fn check(&self, name: &str, expected: &Expected, reply: &Reply, world: &World<'_>) {
        let Expected { words, begun, .. } = expected;
        let here = self.namespace.as_slice();
        let look = |key: &[u8], seen: &Seen<'_>| self.look(world, here, key, seen, *begun);
        match (name, reply) {
            ("get", Reply::Bulk(bytes)) => look(&words[1], &Seen::Bytes(bytes)),
            ("get", Reply::Nil) => look(&words[1], &Seen::Missing),
            ("mget", Reply::Many(many)) => {
                assert_eq!(many.len(), words.len() - 1, "MGET answers for each key");
                for (key, one) in words[1..].iter().zip(many) {
                    match one {
                        Reply::Bulk(bytes) => look(key, &Seen::Bytes(bytes)),
                        Reply::Nil => look(key, &Seen::Missing),
                        other => assert!(other.is_error(), "MGET has {other:?}"),
                    }
                }
            }
            ("exists", Reply::Integer(0)) => look(&words[1], &Seen::Missing),
            ("exists", Reply::Integer(_)) if !world.bad_reads => look(&words[1], &Seen::Present),
            ("check", Reply::Integer(number)) if !world.bad_reads => {
                assert_eq!(*number, 1, "CHECK of a whole disk");
                look(&words[1], &Seen::Present);
            }
            ("length", Reply::Integer(length)) => look(&words[1], &Seen::Length(*length as usize)),
            ("strlen", Reply::Integer(length)) if *length > 0 => {
                look(&words[1], &Seen::Length(*length as usize));
            }
            ("length" | "keytime" | "check", Reply::Nil) => look(&words[1], &Seen::Missing),
            ("keytime", Reply::Integer(_)) => look(&words[1], &Seen::Present),
            ("history", Reply::Many(many)) => {
                let payload = many.get(2).and_then(Reply::bulk).expect("HISTORY shows a version");
                if words.len() == 2 {
                    look(&words[1], &Seen::Bytes(payload));
                }
                assert!(
                    world.history.was_value(&words[1], payload),
                    "HISTORY shows what nobody wrote"
                );
            }
            ("scan" | "scanx" | "rscan", Reply::Many(many)) => {
                let Some(Reply::Many(entries)) = many.get(1) else { panic!("SCAN has no keys") };
                for entry in entries {
                    match entry {
                        Reply::Many(fields) => match fields.as_slice() {
                            [Reply::Bulk(key), Reply::Integer(length), Reply::Integer(_)] => {
                                look(key, &Seen::Length(*length as usize));
                            }
                            other => panic!("SCAN has an entry {other:?}"),
                        },
                        Reply::Bulk(key) => look(key, &Seen::Present),
                        other => panic!("SCAN has an entry {other:?}"),
                    }
                }
            }
            ("kscan", Reply::Many(many)) => {
                let Some(Reply::Many(keys)) = many.get(1) else { panic!("KSCAN has no keys") };
                for key in keys {
                    let key = key.bulk().expect("keys are bulks");
                    assert!(key.starts_with(&words[1]), "KSCAN shows a key with another prefix");
                    look(key, &Seen::Present);
                }
            }
            ("randomkey", Reply::Bulk(key)) => {
                assert!(world.history.was_written(key, None), "RANDOMKEY shows what nobody wrote");
            }
            ("type", Reply::Simple(kind)) if kind == b"none" => look(&words[1], &Seen::Missing),
            ("type", Reply::Simple(_)) if !world.bad_reads => look(&words[1], &Seen::Present),
            ("getrange", Reply::Bulk(bytes)) if !bytes.is_empty() => {
                look(&words[1], &Seen::Part(bytes));
            }
            ("data", Reply::Many(many)) => {
                let (key, payload) = match many.as_slice() {
                    [Reply::Bulk(key), .., Reply::Bulk(payload)] => (key, payload),
                    other => panic!("DATA RAW has {other:?}"),
                };
                let known = payload.is_empty() || world.history.was_value(key, payload);
                assert!(known, "DATA RAW shows what nobody wrote");
            }
            ("nslist", Reply::Many(many)) => {
                for name in &words::NAMESPACES[1..] {
                    let listed = many.iter().any(|one| one.bulk() == Some(name));
                    let seen = if listed { Seen::Present } else { Seen::Missing };
                    self.look(world, NAMES, name, &seen, *begun);
                }
            }
            ("nsinfo", Reply::Bulk(lines)) => self.check_settings(&words[1], lines, *begun, world),
            _ => {}
        }
    }

    fn check_settings(&self, name: &[u8], lines: &[u8], begun: Moment, world: &World<'_>) {
        let settings = settings_of(name);
        for (field, seen) in settings_in(name, lines) {
            let seen = seen.as_ref().map_or(Seen::Missing, |shown| Seen::Bytes(shown));
            self.look(world, &settings, field.as_bytes(), &seen, begun);
        }
    }
    fn look(
        &self,
        world: &World<'_>,
        namespace: &[u8],
        key: &[u8],
        seen: &Seen<'_>,
        begun: Moment,
    ) {
        if namespace == NAMES && key == b"default" {
            return;
        }
        if let Err(what) = world.history.check(namespace, key, seen, begun, world.now) {
            panic!("{what}");
        }
    }
}

/// The settings in the lines of NSINFO; what is at its default is "missing".
pub fn settings_in(name: &[u8], lines: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut settings = Vec::new();
    for line in String::from_utf8_lossy(lines).lines() {
        let Some((field, shown)) = line.trim_end().split_once(": ") else { continue };
        let default = match field {
            "public" => "yes",
            // With --protect the default namespace has the admin's.
            "password" if name == b"default" => continue,
            "worm" | "locked" | "password" => "no",
            "mode" => "userkey",
            "history" => "forever",
            // That of the default namespace is a setting of the server.
            "data_limits_bytes" if name == b"default" => continue,
            "data_limits_bytes" => "0",
            _ => continue,
        };
        settings.push((field.to_owned(), (shown != default).then(|| shown.as_bytes().to_vec())));
    }
    settings
}

/// The namespace of the registers for a namespace's settings.
pub fn settings_of(name: &[u8]) -> Vec<u8> {
    [b"\0settings ".as_slice(), name].concat()
}

/// How many versions before the newest one a setting of `history` keeps; `None`: all, or it is none.
fn kept_versions(value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?;
    match value.strip_suffix('d') {
        // The clock of a run does not go this far, but to the days of other settings it may.
        Some("36500") => None,
        Some(_) => Some(0),
        None => value.parse().ok(),
    }
}

/// The field of NSINFO that a property changes, and what it shows then; the default is "missing".
fn setting<'a>(property: &'a [u8], value: &[u8]) -> (&'a [u8], Value) {
    let shown = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    let yes = value.first() == Some(&b'1');
    match property {
        b"public" => (property, if yes { Value::Missing } else { shown("no") }),
        b"worm" => (property, if yes { shown("yes") } else { Value::Missing }),
        b"lock" | b"freeze" => (b"locked", if yes { shown("yes") } else { Value::Missing }),
        b"password" => (property, if value == b"*" { Value::Missing } else { shown("yes") }),
        b"history" => match value {
            b"forever" => (property, Value::Missing),
            days => (property, Value::Bytes(days.to_vec())),
        },
        b"mode" => (property, if value == b"seq" { shown("sequential") } else { Value::Missing }),
        b"maxsize" => match value {
            b"100" => (b"data_limits_bytes", shown("100")),
            b"5000" => (b"data_limits_bytes", shown("5000")),
            _ => (b"data_limits_bytes", Value::Any),
        },
        other => (other, Value::Any),
    }
}
