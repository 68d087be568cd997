//! The server and the model, side by side: each operation is played to both, the replies are compared.

use super::{CONNECTION_COUNT, Operation, Setting, Word};
use compat_tests::client::{encode, show};
use compat_tests::model::{Namespace, Session, secure_answer};
use compat_tests::{Client, Model, Reply, Server, args};
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Times this near to each other are one time.
const CLOCK_TOLERANCE_S: u64 = 30;

pub struct Connection {
    client: Client,
    pub session: Session,
}

/// What both sides gave out for the same thing.
struct Pair {
    model: Vec<u8>,
    server: Vec<u8>,
    /// A token means nothing in another namespace.
    namespace: u64,
}

/// A request whose reply by the server is to come.
struct Played {
    namespace: u64,
    /// The command's, in capitals.
    name: Vec<u8>,
    server: Vec<Vec<u8>>,
    expected: Reply,
    /// For scans and RANDOMKEY: what was there at that moment, and the model's cursors to it.
    cursors: HashMap<Vec<u8>, Vec<u8>>,
}

impl Played {
    /// Whether two replies are the same, but for what must differ.
    fn agrees(&self, got: &Reply) -> bool {
        let expected = &self.expected;
        match (&self.name[..], expected, got) {
            (b"RANDOMKEY", Reply::Bulk(_), Reply::Bulk(key)) => self.cursors.contains_key(&**key),
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
            // The record of a token may be one of a namespace that has ended: the cleaner takes it away.
            (b"HISTORY", Reply::Error(expected), Reply::Error(got)) => {
                let is_strange = &**expected == "Invalid arguments (invalid key)";
                expected == got || is_strange && &**got == "No more history"
            }
            (b"KEYCUR", Reply::Bulk(_), Reply::Bulk(cursor)) => cursor.len() == 17,
            _ => same(expected, got),
        }
    }
}

pub struct World {
    server: Server,
    pub model: Model,
    pub connections: Vec<Option<Connection>>,
    cursors: Vec<Pair>,
    tokens: Vec<Pair>,
}

impl World {
    pub fn new(setting: &Setting) -> World {
        World {
            server: Server::start(&setting.flags),
            model: Model::new(setting.options.clone()),
            connections: (0..CONNECTION_COUNT).map(|_| None).collect(),
            cursors: Vec::new(),
            tokens: Vec::new(),
        }
    }

    pub fn play(&mut self, operation: &Operation) -> Result<(), String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        self.model.set_time(Duration::from_secs(now.as_secs()));
        match operation {
            Operation::Requests(at, requests) => self.requests(*at, requests),
            Operation::ScanAll(at, options) => self.follow(*at, |cursor| {
                let mut request = vec![b"SCAN".to_vec(), cursor.to_vec()];
                request.extend(options.iter().cloned());
                request
            }),
            Operation::PrefixScanAll(at, prefix) => {
                self.follow(*at, |cursor| vec![b"KSCAN".to_vec(), prefix.clone(), cursor.to_vec()])
            }
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
                played.push(self.play_to_model(&mut connection.session, namespace, model, server));
            }
        }
        connection.client.send_raw(&bytes).map_err(|error| format!("cannot send: {error}"))?;
        for one in &played {
            let got = connection.client.receive_for(&one.server);
            let got = got.map_err(|error| format!("no reply to {}: {error}", show(&one.server)))?;
            if !one.agrees(&got) {
                return Err(difference(&one.server, &one.expected, &got));
            }
            self.capture(one, &got);
        }
        if connection.session.is_closed() {
            return connection.client.wait_closed();
        }
        self.connections[at] = Some(connection);
        Ok(())
    }

    fn play_to_model(
        &mut self,
        session: &mut Session,
        namespace: u64,
        model: Vec<Vec<u8>>,
        server: Vec<Vec<u8>>,
    ) -> Played {
        let words: Vec<&[u8]> = model.iter().map(Vec::as_slice).collect();
        let expected = self.model.execute(session, &words);
        let name = model[0].to_ascii_uppercase();
        let mut cursors = HashMap::new();
        if !expected.is_error()
            && (name.ends_with(b"SCAN") || name == b"SCANX" || name == b"RANDOMKEY")
        {
            let one = self.model.namespaces().iter().find(|one| one.id() == namespace);
            let keys: Vec<_> = one
                .into_iter()
                .flat_map(Namespace::scan)
                .map(|version| version.key.clone())
                .collect();
            for key in keys {
                if let Reply::Bulk(cursor) = self.model.execute(session, args!["KEYCUR", key]) {
                    cursors.insert(key.to_vec(), cursor.to_vec());
                }
            }
        }
        Played { namespace, name, server, expected, cursors }
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

    /// Keeps cursors and tokens for later requests.
    fn capture(&mut self, played: &Played, got: &Reply) {
        let namespace = played.namespace;
        match (&played.name[..], &played.expected, got) {
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
                if let Some(model) = played.cursors.get(&**key) {
                    let (model, server) = (model.clone(), server.to_vec());
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
    fn follow(&mut self, at: usize, request: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> Result<(), String> {
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
    let text = String::from_utf8_lossy(text);
    // Where not all is kept, the server drops what the model keeps, at some time.
    let keeps_all = text.lines().any(|line| line == "history: forever");
    text.lines()
        .filter(|line| {
            keeps_all
                || !["data_history_bytes", "data_dead_bytes"]
                    .iter()
                    .any(|one| line.starts_with(one))
        })
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
