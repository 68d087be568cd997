//! Random operations, likely to mean something in the state that there is.

use super::world::World;
use super::{ADMIN_PASSWORD, CONNECTION_COUNT, Operation, Word};
use fastrand::Rng;

/// The longest pipeline.
const DEPTH_MAX: usize = 12;
/// The server has so much patience with wrong passwords, less a few for the slowness of the test.
const WRONG_PASSWORDS_MAX: usize = 25;

const NAMES: &[&str] = &["default", "n1", "n2", "n3", "0"];
const PASSWORDS: &[&str] = &["p1", "p2"];

pub struct Generator {
    random: Rng,
    wrong_password_count: usize,
}

impl Generator {
    pub fn new(random: Rng) -> Generator {
        Generator { random, wrong_password_count: 0 }
    }

    pub fn operation(&mut self, world: &World) -> Operation {
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
                let requests = (0..count).map(|_| self.request(world, at)).collect();
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
        let (property, value) = match self.random.u32(..33) {
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
            // Of years that no record reaches: nothing is dropped, and deleted keys stay in the index.
            29..31 => ("history", "36500d"),
            31 => ("history", self.pick(&["forever", "0d"])),
            _ => ("nosuch", "1"),
        };
        vec!["NSSET", self.name(), property, value]
    }
}
