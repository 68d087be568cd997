//! Random requests to the server and to the model: every reply is compared.
//!
//! Several connections, both modes, all states, few keys, with restarts and kills between. What differs is
//! cut down to the few requests that still differ, and printed with the seed.

use compat_tests::client::{encode, show};
use compat_tests::model::{Mode, Options, Session, secure_answer};
use compat_tests::{Client, Model, Reply, Server, args, count_from_env, seed};
use fastrand::Rng;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds that the test takes, unless `ZDB_DIFFERENTIAL_SECONDS` says otherwise.
const SECONDS_DEFAULT: usize = 20;
/// Operations of one server and its directories.
const OPERATION_COUNT: usize = 1500;
const CONNECTION_COUNT: usize = 4;
/// The longest pipeline.
const DEPTH_MAX: usize = 12;
/// The server has so much patience with wrong passwords, less a few for the slowness of the test.
const WRONG_PASSWORDS_MAX: usize = 25;
/// Times this near to each other are one time.
const CLOCK_TOLERANCE_S: u64 = 30;
/// Attempts to leave out operations from those that failed.
const CUT_ATTEMPTS_MAX: usize = 150;

const ADMIN_PASSWORD: &str = "secret";
const NAMES: &[&str] = &["default", "n1", "n2", "n3", "0"];
const PASSWORDS: &[&str] = &["p1", "p2"];

/// An argument: bytes, or what an earlier reply gave out, which is not the same on both sides.
#[derive(Clone, Debug)]
enum Word {
    Bytes(Vec<u8>),
    Cursor(usize),
    Token(usize),
}

#[derive(Clone, Debug)]
enum Operation {
    /// Several are a pipeline.
    Requests(usize, Vec<Vec<Word>>),
    /// SCAN in the Redis form with these options, to its end.
    ScanAll(usize, Vec<Vec<u8>>),
    /// KSCAN with this prefix, to its end.
    PrefixScanAll(usize, Vec<u8>),
    /// A challenge, and AUTH, or SELECT of this namespace, with the answer for this password.
    Challenge(usize, Option<&'static str>, &'static str),
    Disconnect(usize),
    Restart,
    Kill,
}

/// What both sides are started with.
#[derive(Clone, Debug)]
struct Setting {
    flags: Vec<&'static str>,
    options: Options,
}

impl Setting {
    fn random(random: &mut Rng) -> Setting {
        let mut setting = Setting { flags: Vec::new(), options: Options::default() };
        let mut flags = |flags: &[&'static str]| setting.flags.extend(flags);
        match random.u32(..4) {
            0 => {
                flags(&["--mode", "seq"]);
                setting.options.mode = Some(Mode::Sequential);
            }
            1 => {
                flags(&["--mode", "user"]);
                setting.options.mode = Some(Mode::User);
            }
            _ => {}
        }
        if random.u32(..3) == 0 {
            flags(&["--admin", ADMIN_PASSWORD]);
            setting.options.admin = Some(ADMIN_PASSWORD.into());
            if random.bool() {
                flags(&["--protect"]);
                setting.options.protect = true;
            }
        }
        if random.u32(..4) == 0 {
            flags(&["--maxsize", "5000"]);
            setting.options.maxsize = 5000;
        }
        flags(&["--sync", ["always", "everysec", "no"][random.usize(..3)]]);
        // Small segments: some fill up.
        flags(&["--datasize", "524288"]);
        if random.bool() {
            flags(&["--cache", "1M"]);
        }
        setting
    }
}

struct Connection {
    client: Client,
    session: Session,
}

/// What both sides gave out for the same thing.
struct Pair {
    model: Vec<u8>,
    server: Vec<u8>,
    /// A token means nothing in another namespace.
    namespace: u64,
}

struct World {
    server: Server,
    model: Model,
    connections: Vec<Option<Connection>>,
    cursors: Vec<Pair>,
    tokens: Vec<Pair>,
}

impl World {
    fn new(setting: &Setting) -> World {
        World {
            server: Server::start(&setting.flags),
            model: Model::new(setting.options.clone()),
            connections: (0..CONNECTION_COUNT).map(|_| None).collect(),
            cursors: Vec::new(),
            tokens: Vec::new(),
        }
    }

    fn play(&mut self, operation: &Operation) -> Result<(), String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        self.model.set_time(Duration::from_secs(now.as_secs()));
        match operation {
            Operation::Requests(at, requests) => self.requests(*at, requests),
            Operation::ScanAll(at, options) => self.to_the_end(*at, |cursor| {
                let mut request = vec![b"SCAN".to_vec(), cursor.to_vec()];
                request.extend(options.iter().cloned());
                request
            }),
            Operation::PrefixScanAll(at, prefix) => self
                .to_the_end(*at, |cursor| vec![b"KSCAN".to_vec(), prefix.clone(), cursor.to_vec()]),
            Operation::Challenge(at, name, password) => self.challenge(*at, *name, password),
            Operation::Disconnect(at) => {
                self.connections[*at] = None;
                Ok(())
            }
            Operation::Restart | Operation::Kill => {
                self.connections.iter_mut().for_each(|connection| *connection = None);
                if matches!(operation, Operation::Kill) {
                    self.server.kill();
                } else {
                    self.server.terminate();
                }
                self.server.try_resume().map_err(|refusal| format!("no start: {refusal:?}"))?;
                self.model.restart();
                self.compare_namespaces()
            }
        }
    }

    fn connection(&mut self, at: usize) -> Result<&mut Connection, String> {
        if self.connections[at].is_none() {
            let client = Client::connect(self.server.address())
                .map_err(|error| format!("cannot connect: {error}"))?;
            self.connections[at] = Some(Connection { client, session: self.model.session() });
        }
        Ok(self.connections[at].as_mut().expect("it was opened above"))
    }

    fn requests(&mut self, at: usize, requests: &[Vec<Word>]) -> Result<(), String> {
        self.connection(at)?;
        let mut connection = self.connections[at].take().expect("it is open");
        let mut bytes = Vec::new();
        let mut played = Vec::new();
        for request in requests {
            let namespace = connection.session.namespace();
            let (model, server) = self.resolve(request, namespace);
            encode(&server, &mut bytes);
            if !connection.session.is_closed() {
                let words: Vec<&[u8]> = model.iter().map(Vec::as_slice).collect();
                let expected = self.model.execute(&mut connection.session, &words);
                played.push((namespace, model, server, expected));
            }
        }
        connection.client.send_raw(&bytes).map_err(|error| format!("cannot send: {error}"))?;
        for (namespace, model, server, expected) in &played {
            let model: Vec<&[u8]> = model.iter().map(Vec::as_slice).collect();
            let got = connection.client.receive_for(server);
            let got = got.map_err(|error| format!("no reply to {}: {error}", show(server)))?;
            if !self.agree(*namespace, &model, expected, &got) {
                return Err(difference(server, expected, &got));
            }
            self.capture(*namespace, &mut connection.session, &model, expected, &got);
        }
        if connection.session.is_closed() {
            return connection.client.wait_closed();
        }
        self.connections[at] = Some(connection);
        Ok(())
    }

    /// A request as the model and as the server must get it.
    fn resolve(&self, request: &[Word], namespace: u64) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let pair = |pairs: &[Pair], number: usize| match pairs {
            [] => (b"none".to_vec(), b"none".to_vec()),
            _ => {
                let pair = &pairs[number % pairs.len()];
                (pair.model.clone(), pair.server.clone())
            }
        };
        request
            .iter()
            .map(|word| match word {
                Word::Bytes(bytes) => (bytes.clone(), bytes.clone()),
                Word::Cursor(number) => pair(&self.cursors, *number),
                Word::Token(number) if self.tokens.is_empty() => pair(&self.tokens, *number),
                Word::Token(number) => {
                    let token = &self.tokens[number % self.tokens.len()];
                    if token.namespace == namespace {
                        (token.model.clone(), token.server.clone())
                    } else {
                        pair(&[], 0)
                    }
                }
            })
            .unzip()
    }

    /// Whether two replies are the same, but for what must differ.
    fn agree(&self, namespace: u64, request: &[&[u8]], expected: &Reply, got: &Reply) -> bool {
        let name = request[0].to_ascii_uppercase();
        match (&name[..], expected, got) {
            (b"RANDOMKEY", Reply::Bulk(_), Reply::Bulk(key)) => {
                let namespace = self.model.namespaces().iter().find(|one| one.id() == namespace);
                namespace.is_some_and(|one| one.scan().any(|version| version.key == *key))
            }
            // Freed places in the list are used again; the model keeps the order of creation.
            (b"NSLIST", Reply::Array(expected), Reply::Array(got)) => {
                let sorted = |names: &[Reply]| {
                    let mut names: Vec<String> =
                        names.iter().map(|name| format!("{name:?}")).collect();
                    names.sort();
                    names
                };
                expected.first() == got.first() && sorted(expected) == sorted(got)
            }
            (b"MEMORY", Reply::Integer(_), Reply::Integer(bytes)) => *bytes > 0,
            (b"NSINFO", Reply::Bulk(expected), Reply::Bulk(got)) => {
                comparable_lines(expected) == comparable_lines(got)
            }
            (b"HELLO", Reply::Map(_) | Reply::Array(_), Reply::Map(_) | Reply::Array(_)) => {
                std::mem::discriminant(expected) == std::mem::discriminant(got)
            }
            // A page of the server's is no longer than it likes; the model has one page.
            (b"SCAN" | b"SCANX" | b"RSCAN", Reply::Array(expected), Reply::Array(got)) => {
                let (Some(Reply::Array(expected)), Some(Reply::Array(got))) =
                    (expected.get(1), got.get(1))
                else {
                    return false;
                };
                !got.is_empty()
                    && got.len() <= expected.len()
                    && expected.iter().zip(got).all(|(expected, got)| same(expected, got))
            }
            (b"HISTORY", Reply::Array(expected), Reply::Array(got)) => {
                expected.len() == got.len()
                    && (expected[0] == Reply::Nil) == (got[0] == Reply::Nil)
                    && same(&expected[1], &got[1])
                    && expected[2] == got[2]
            }
            (b"KEYCUR", Reply::Bulk(_), Reply::Bulk(cursor)) => cursor.len() == 17,
            _ => same(expected, got),
        }
    }

    /// Keeps cursors and tokens for later requests.
    fn capture(
        &mut self,
        namespace: u64,
        session: &mut Session,
        request: &[&[u8]],
        expected: &Reply,
        got: &Reply,
    ) {
        let name = request[0].to_ascii_uppercase();
        match (&name[..], expected, got) {
            (b"KEYCUR", Reply::Bulk(model), Reply::Bulk(server)) => {
                let (model, server) = (model.to_vec(), server.to_vec());
                self.cursors.push(Pair { model, server, namespace });
            }
            (b"SCAN" | b"SCANX" | b"RSCAN", Reply::Array(_), Reply::Array(got)) => {
                let (Reply::Bulk(server), Reply::Array(entries)) = (&got[0], &got[1]) else {
                    return;
                };
                let Some(Reply::Array(last)) = entries.last() else { return };
                let Some(Reply::Bulk(key)) = last.first() else { return };
                // The server's page may be shorter: the model's cursor to the same key.
                if let Reply::Bulk(model) = self.model.execute(session, args!["KEYCUR", key]) {
                    let (model, server) = (model.to_vec(), server.to_vec());
                    self.cursors.push(Pair { model, server, namespace });
                }
            }
            (b"HISTORY", Reply::Array(expected), Reply::Array(got)) => {
                if let (Reply::Bulk(model), Reply::Bulk(server)) = (&expected[0], &got[0]) {
                    let (model, server) = (model.to_vec(), server.to_vec());
                    self.tokens.push(Pair { model, server, namespace });
                }
            }
            _ => {}
        }
    }

    /// Follows decimal cursors to their end on both sides, and compares the keys.
    fn to_the_end(
        &mut self,
        at: usize,
        request: impl Fn(&[u8]) -> Vec<Vec<u8>>,
    ) -> Result<(), String> {
        self.connection(at)?;
        let mut connection = self.connections[at].take().expect("it is open");
        let first = request(b"0");
        let model = &mut self.model;
        let session = &mut connection.session;
        let expected = pages(&request, |request| {
            let request: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            Ok(model.execute(session, &request))
        })?;
        let client = &mut connection.client;
        let got = pages(&request, |request| {
            client.try_call(request).map_err(|error| format!("no reply: {error}"))
        })?;
        if expected != got {
            return Err(format!("{}...: the model says {expected:?}\n  got {got:?}", show(&first)));
        }
        if connection.session.is_closed() {
            return connection.client.wait_closed();
        }
        self.connections[at] = Some(connection);
        Ok(())
    }

    fn challenge(&mut self, at: usize, name: Option<&str>, password: &str) -> Result<(), String> {
        let connection = self.connection(at)?;
        let mut session = connection.session.clone();
        let request = args!["AUTH", "SECURE", "CHALLENGE"];
        let got = connection
            .client
            .try_call(request)
            .map_err(|error| format!("no challenge: {error}"))?;
        let expected = self.model.execute(&mut session, request);
        let (Reply::Simple(ours), Reply::Simple(theirs)) = (&expected, &got) else {
            return if expected == got {
                self.connections[at] = None;
                Ok(())
            } else {
                Err(format!("AUTH SECURE CHALLENGE: the model says {expected:?}\n  got {got:?}"))
            };
        };
        let answers = [ours, theirs]
            .map(|challenge| secure_answer(challenge.as_bytes(), password.as_bytes()));
        let request = |answer: &'_ str| -> Vec<Vec<u8>> {
            let words = match name {
                None => vec!["AUTH", "SECURE", answer],
                Some(name) => vec!["SELECT", name, "SECURE", answer],
            };
            words.into_iter().map(|word| word.as_bytes().to_vec()).collect()
        };
        let [ours, theirs] = answers.map(|answer| request(&answer));
        let ours: Vec<&[u8]> = ours.iter().map(Vec::as_slice).collect();
        let expected = self.model.execute(&mut session, &ours);
        let connection = self.connections[at].as_mut().expect("it is open");
        connection.session = session;
        let got =
            connection.client.try_call(&theirs).map_err(|error| format!("no reply: {error}"))?;
        if expected != got {
            return Err(format!("{}: the model says {expected:?}\n  got {got:?}", show(&theirs)));
        }
        Ok(())
    }

    /// NSLIST and all of NSINFO.
    fn compare_namespaces(&mut self) -> Result<(), String> {
        let names: Vec<Vec<u8>> =
            self.model.namespaces().iter().map(|namespace| namespace.name().to_vec()).collect();
        let word = |word: &[u8]| Word::Bytes(word.to_vec());
        let mut requests = vec![vec![word(b"NSLIST")]];
        requests.extend(names.iter().map(|name| vec![word(b"NSINFO"), word(name)]));
        self.requests(0, &requests)
    }
}

/// What differs, short.
fn difference(request: &[Vec<u8>], expected: &Reply, got: &Reply) -> String {
    let request_text = show(request);
    match (expected, got) {
        (Reply::Bulk(expected), Reply::Bulk(got)) if request[0].eq_ignore_ascii_case(b"NSINFO") => {
            let (expected, got) = (comparable_lines(expected), comparable_lines(got));
            let lines = expected.iter().zip(&got).find(|(expected, got)| expected != got);
            format!("{request_text}: {lines:?}")
        }
        _ => format!("{request_text}: the model says {expected:?}\n  got {got:?}"),
    }
}

/// All keys that pages with decimal cursors give, or the reply that is no page.
fn pages(
    request: impl Fn(&[u8]) -> Vec<Vec<u8>>,
    mut ask: impl FnMut(&[Vec<u8>]) -> Result<Reply, String>,
) -> Result<Reply, String> {
    let mut keys = Vec::new();
    let mut cursor = b"0".to_vec();
    // A cursor that comes back would go on for ever.
    for _ in 0..10_000 {
        let reply = ask(&request(&cursor))?;
        let Reply::Array(parts) = &reply else { return Ok(reply) };
        let [Reply::Bulk(next), Reply::Array(page)] = &parts[..] else {
            return Err(format!("no page: {reply:?}"));
        };
        keys.extend_from_slice(page);
        if **next == *b"0" {
            return Ok(Reply::Array(keys));
        }
        cursor = next.to_vec();
    }
    Err("the pages have no end".into())
}

/// Whether two replies are the same, but for the seconds between the two clocks.
fn same(expected: &Reply, got: &Reply) -> bool {
    let near = |one: u64, other: u64| {
        // Times that a request gave are small.
        one > 1_000_000_000 && one.abs_diff(other) <= CLOCK_TOLERANCE_S
    };
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
    match (expected, got) {
        (Reply::Integer(one), Reply::Integer(other)) => {
            one == other || near(*one as u64, *other as u64)
        }
        (Reply::Bulk(one), Reply::Bulk(other)) if one != other => {
            number(one).zip(number(other)).is_some_and(|(one, other)| near(one, other))
        }
        (Reply::Array(one), Reply::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => expected == got,
    }
}

/// The lines of NSINFO that do not tell about a disk.
fn comparable_lines(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text)
        .lines()
        .filter(|line| {
            ![
                "index_disk",
                "data_disk",
                "data_path",
                "data_active",
                "data_current",
                "index_path",
                "index_active",
            ]
            .iter()
            .any(|start| line.starts_with(start))
        })
        .map(str::to_owned)
        .collect()
}

/// Draws operations that are likely to mean something in the state that there is.
struct Generator {
    random: Rng,
    wrong_password_count: usize,
}

impl Generator {
    fn operation(&mut self, world: &World) -> Operation {
        let at = self.random.usize(..CONNECTION_COUNT);
        match self.random.u32(..1000) {
            0..4 => Operation::Restart,
            4..8 => {
                self.wrong_password_count = 0;
                Operation::Kill
            }
            8..16 => Operation::Disconnect(at),
            16..40 => {
                let options = self.scan_options();
                Operation::ScanAll(at, options)
            }
            40..55 => Operation::PrefixScanAll(
                at,
                [&b"k"[..], b"", b"k1", b"x", b"\0"][self.random.usize(..5)].into(),
            ),
            55..65 => {
                let name = self.random.bool().then(|| self.name());
                let password = if self.random.bool() { ADMIN_PASSWORD } else { self.password() };
                Operation::Challenge(at, name, password)
            }
            65..600 => {
                let request = self.request(world, at);
                Operation::Requests(at, vec![request])
            }
            _ => {
                let count = self.random.usize(2..DEPTH_MAX);
                let mut requests: Vec<Vec<Word>> = Vec::new();
                while requests.len() < count
                    && !requests.last().is_some_and(|last| ends_pipeline(last))
                {
                    requests.push(self.request(world, at));
                }
                Operation::Requests(at, requests)
            }
        }
    }

    fn pick(&mut self, words: &[&'static str]) -> &'static str {
        words[self.random.usize(..words.len())]
    }

    fn name(&mut self) -> &'static str {
        self.pick(NAMES)
    }

    /// Often the right one; seldom, and never too often, a wrong one.
    fn password(&mut self) -> &'static str {
        if self.wrong_password_count < WRONG_PASSWORDS_MAX {
            self.wrong_password_count += 1;
            return self.pick(PASSWORDS);
        }
        ""
    }

    fn scan_options(&mut self) -> Vec<Vec<u8>> {
        let mut options = Vec::new();
        let mut add =
            |words: &[&str]| options.extend(words.iter().map(|word| word.as_bytes().to_vec()));
        if self.random.bool() {
            add(&["COUNT", ["1", "2", "7", "1000"][self.random.usize(..4)]]);
        }
        if self.random.bool() {
            add(&["MATCH", ["k*", "*1*", "k[0-3]", "?", "*"][self.random.usize(..5)]]);
        }
        if self.random.u32(..10) == 0 {
            add(&["TYPE", ["string", "list"][self.random.usize(..2)]]);
        }
        options
    }

    fn key(&mut self) -> Vec<u8> {
        match self.random.u32(..40) {
            0 => Vec::new(),
            1 => vec![b'k'; 255],
            2 => vec![b'k'; 256],
            3 => b"\0\r\n\xff".to_vec(),
            4..14 => self.random.u64(..24).to_le_bytes().to_vec(),
            _ => format!("k{}", self.random.u32(..12)).into_bytes(),
        }
    }

    /// In sequential mode an empty key is a new one.
    fn key_to_write(&mut self) -> Vec<u8> {
        if self.random.u32(..4) == 0 { Vec::new() } else { self.key() }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.u32(..20) {
            0 => Vec::new(),
            1 => vec![self.random.u8(..); self.random.usize(..20_000)],
            2..5 => vec![b'v'; self.random.usize(..1000)],
            _ => format!("v{}", self.random.u32(..4)).into_bytes(),
        }
    }

    fn time(&mut self) -> Vec<u8> {
        self.random.u32(..100_000).to_string().into_bytes()
    }

    /// What the key has now, or something else.
    fn guess(&mut self, world: &World, at: usize, key: &[u8]) -> Vec<u8> {
        let session =
            world.connections[at].as_ref().map(|connection| connection.session.namespace());
        let namespace = world.model.namespaces().iter().find(|one| Some(one.id()) == session);
        match namespace.and_then(|namespace| namespace.chain(key).next()) {
            Some(version) if self.random.u32(..3) > 0 => version.value.to_vec(),
            _ => self.value(),
        }
    }

    fn request(&mut self, world: &World, at: usize) -> Vec<Word> {
        let words = |words: Vec<Vec<u8>>| words.into_iter().map(Word::Bytes).collect::<Vec<_>>();
        let name = |name: &str| name.as_bytes().to_vec();
        match self.random.u32(..100) {
            0..14 => {
                let mut request = vec![name("SET"), self.key_to_write(), self.value()];
                if self.random.u32(..4) == 0 {
                    request.push(self.time());
                }
                words(request)
            }
            14..24 => {
                let key = self.key();
                let mut request = vec![name("SET"), key.clone(), self.guess(world, at, &key)];
                if self.random.u32(..6) == 0 {
                    request.push(self.time());
                }
                for _ in 0..self.random.u32(..3) {
                    match self.random.u32(..8) {
                        0..2 => request.push(name("NX")),
                        2..4 => request.push(name("XX")),
                        4..6 => request.extend([name("IFEQ"), self.guess(world, at, &key)]),
                        6 => request.push(name("GET")),
                        _ => request.push(name("EX")),
                    }
                }
                words(request)
            }
            24..29 => {
                let mut request = vec![name("MSET")];
                for _ in 0..self.random.u32(..5) {
                    request.extend([self.key(), self.value()]);
                }
                words(request)
            }
            29..32 => words(vec![name("SETNX"), self.key(), self.value()]),
            32..38 => {
                let mut request = vec![name("DEL"), self.key()];
                match self.random.u32(..10) {
                    0 => request.push(self.time()),
                    1 => request.push(self.key()),
                    _ => {}
                }
                words(request)
            }
            38..41 => {
                let mut request = vec![name("UNLINK")];
                request.extend((0..self.random.u32(..5)).map(|_| self.key()));
                words(request)
            }
            41..58 => {
                let command = self.pick(&[
                    "GET", "GET", "GET", "EXISTS", "CHECK", "LENGTH", "KEYTIME", "KEYCUR",
                    "STRLEN", "TYPE", "TTL", "PTTL",
                ]);
                words(vec![name(command), self.key()])
            }
            58..61 => {
                let mut request = vec![name("MGET")];
                request.extend((0..self.random.u32(..6)).map(|_| self.key()));
                words(request)
            }
            61..63 => {
                let mut bound = || name(["0", "-1", "1", "-3", "100", "x"][self.random.usize(..6)]);
                let bounds = [bound(), bound()];
                let mut request = vec![name("GETRANGE"), self.key()];
                request.extend(bounds);
                words(request)
            }
            63..65 => words(vec![name("MEMORY"), name("USAGE"), self.key()]),
            65..66 => words(vec![name("OBJECT"), name("ENCODING"), self.key()]),
            66..69 => words(vec![name(self.pick(&["DBSIZE", "RANDOMKEY", "NSLIST", "PING"]))]),
            69..73 => {
                let mut request = words(vec![name(self.pick(&["SCAN", "RSCAN", "SCANX"]))]);
                match self.random.u32(..6) {
                    0 => {}
                    1 => request.push(Word::Bytes(self.key())),
                    _ => request.push(Word::Cursor(self.random.usize(..1000))),
                }
                request
            }
            73..77 => {
                let mut request = words(vec![name("HISTORY"), self.key()]);
                match self.random.u32(..10) {
                    0 => request.push(Word::Bytes(vec![0; 8])),
                    1..5 => request.push(Word::Token(self.random.usize(..1000))),
                    _ => {}
                }
                request
            }
            77..84 => {
                let mut request = vec![name("SELECT"), name(self.name())];
                match self.random.u32(..4) {
                    0 => request.push(name(self.password())),
                    1 => request.push(name(ADMIN_PASSWORD)),
                    _ => {}
                }
                words(request)
            }
            84..86 => words(vec![name("NSINFO"), name(self.name())]),
            86..88 => words(vec![name("NSNEW"), name(self.name())]),
            88 => words(vec![name("NSDEL"), name(self.name())]),
            89..96 => self
                .setting()
                .into_iter()
                .map(|word| Word::Bytes(word.as_bytes().to_vec()))
                .collect(),
            96 => words(vec![name("FLUSH")]),
            97 => match self.random.u32(..4) {
                0 => words(vec![name(self.pick(&["QUIT", "NSJUMP", "NSJUMP"]))]),
                1 => words(vec![name("NOSUCHCOMMAND"), self.key()]),
                _ => words(vec![name("ECHO"), self.value()]),
            },
            _ => words(vec![name("AUTH"), name(ADMIN_PASSWORD)]),
        }
    }

    /// Settings: what forbids is set seldom and cleared often.
    fn setting(&mut self) -> Vec<&'static str> {
        let (property, value) = match self.random.u32(..30) {
            0 => ("lock", "1"),
            1..4 => ("lock", "0"),
            4 => ("freeze", "1"),
            5..9 => ("freeze", "0"),
            9 => ("worm", "1"),
            10..13 => ("worm", "0"),
            13..15 => ("maxsize", self.pick(&["10", "100", "3000"])),
            15..18 => ("maxsize", "0"),
            18..20 => ("password", self.pick(PASSWORDS)),
            20..23 => ("password", "*"),
            23..25 => ("public", "0"),
            25..27 => ("public", "1"),
            27..29 => ("mode", self.pick(&["user", "seq", "seq", "other"])),
            _ => ("nosuch", "1"),
        };
        vec!["NSSET", self.name(), property, value]
    }
}

/// What is the last one of its pipeline: a scan, which sees what later requests wrote, and RANDOMKEY, whose
/// reply is looked up in the model as it is afterwards.
fn ends_pipeline(request: &[Word]) -> bool {
    const NAMES: [&[u8]; 4] = [b"SCAN", b"SCANX", b"RSCAN", b"RANDOMKEY"];
    matches!(request.first(), Some(Word::Bytes(name)) if NAMES.contains(&name.as_slice()))
}

/// Plays operations on new directories; what differs, with the number of the operation.
fn replay(setting: &Setting, operations: &[Operation]) -> Result<(), (usize, String)> {
    let mut world = World::new(setting);
    for (number, operation) in operations.iter().enumerate() {
        world.play(operation).map_err(|error| (number, error))?;
    }
    Ok(())
}

/// Leaves out operations, then requests of pipelines, as long as something still differs.
fn cut_down(setting: &Setting, operations: Vec<Operation>) -> (Vec<Operation>, String) {
    let mut kept = operations;
    let mut error = String::from("it does not differ a second time");
    let mut attempts = 0;
    let mut differs = |kept: &mut Vec<Operation>, mut fewer: Vec<Operation>| {
        attempts += 1;
        if attempts > CUT_ATTEMPTS_MAX {
            return false;
        }
        let Err((number, difference)) = replay(setting, &fewer) else { return false };
        fewer.truncate(number + 1);
        (*kept, error) = (fewer, difference);
        true
    };
    let mut length = kept.len();
    while length > 0 {
        let mut start = 0;
        while start < kept.len() {
            let mut fewer = kept.clone();
            fewer.drain(start..(start + length).min(kept.len()));
            if !differs(&mut kept, fewer) {
                start += length;
            }
        }
        length /= 2;
    }
    for at in 0..kept.len() {
        let mut number = 0;
        while let Some(Operation::Requests(_, requests)) = kept.get(at)
            && number < requests.len()
            && requests.len() > 1
        {
            let mut fewer = kept.clone();
            if let Operation::Requests(_, requests) = &mut fewer[at] {
                requests.remove(number);
            }
            if !differs(&mut kept, fewer) {
                number += 1;
            }
        }
    }
    (kept, error)
}

#[test]
fn server_and_model_answer_alike() {
    let seed = seed("differential");
    let seconds = count_from_env("ZDB_DIFFERENTIAL_SECONDS", SECONDS_DEFAULT);
    let deadline = Instant::now() + Duration::from_secs(seconds as u64);
    let mut operation_count = 0;
    for life in 0.. {
        if Instant::now() >= deadline {
            break;
        }
        let mut random = Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(life));
        let setting = Setting::random(&mut random);
        let mut world = World::new(&setting);
        let mut generator = Generator { random, wrong_password_count: 0 };
        let mut played = Vec::new();
        while played.len() < OPERATION_COUNT && Instant::now() < deadline {
            let operation = generator.operation(&world);
            played.push(operation.clone());
            operation_count += 1;
            if let Err(error) = world.play(&operation) {
                drop(world);
                let (operations, again) = cut_down(&setting, played);
                let steps: Vec<String> = operations.iter().map(describe).collect();
                panic!(
                    "ZDB_SEED={seed}, life {life}, flags {:?}: {error}\ncut down: {again}\n{}",
                    setting.flags,
                    steps.join("\n")
                );
            }
        }
    }
    println!("{operation_count} operations");
    assert!(operation_count > 100, "only {operation_count} operations were played");
}

/// An operation as a transcript writes it, about.
fn describe(operation: &Operation) -> String {
    let word = |word: &Word| match word {
        Word::Bytes(bytes) if bytes.len() > 300 => {
            format!("\"{}...\" ({} bytes)", bytes[..8].escape_ascii(), bytes.len())
        }
        Word::Bytes(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        Word::Cursor(number) => format!("${{cursor {number}}}"),
        Word::Token(number) => format!("${{token {number}}}"),
    };
    match operation {
        Operation::Requests(at, requests) => requests
            .iter()
            .map(|request| {
                let words: Vec<String> = request.iter().map(word).collect();
                format!("c{at}> {}", words.join(" "))
            })
            .collect::<Vec<_>>()
            .join("\n"),
        Operation::Restart => "! restart".into(),
        Operation::Kill => "! kill".into(),
        Operation::Disconnect(at) => format!("! disconnect c{at}"),
        other => format!("{other:?}"),
    }
}
