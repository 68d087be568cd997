//! Requests with weights: few keys, so that they are overwritten, ended and read again, and values that
//! are all different, so that a reader can tell which write they are from.

use crate::disk::Random;
use crate::words::{self, NAMESPACES, PASSWORD};

pub struct Requests {
    keys: u64,
    /// Of a hundred values, how many are large.
    large: u64,
    count: u64,
    last: Vec<u8>,
}

type Words = Vec<Vec<u8>>;

pub fn encode_all(requests: &[Words]) -> Vec<u8> {
    requests.iter().flat_map(|request| words::encode(request)).collect()
}

fn said(text: &str) -> Words {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

impl Requests {
    pub fn new(random: &mut Random) -> Self {
        Self {
            keys: 2 + random.below(10),
            large: [0, 2, 10][random.below(3) as usize],
            count: 0,
            last: Vec::new(),
        }
    }

    /// What a client in a namespace asks for next.
    pub fn next(
        &mut self,
        random: &mut Random,
        seen: &words::Seen,
        namespace: &[u8],
    ) -> Vec<Words> {
        let is_sequential = namespace == b"seq";
        let key = if is_sequential { self.id(random, seen) } else { self.key(random) };
        let name = pick(random, &NAMESPACES);
        let one = |command: &str, more: &[&[u8]]| {
            let mut words = vec![command.as_bytes().to_vec()];
            words.extend(more.iter().map(|word| word.to_vec()));
            vec![words]
        };
        match random.below(1000) {
            0..300 if is_sequential && random.below(2) == 0 => {
                one("SET", &[b"", &self.value(random)])
            }
            0..360 => one("SET", &[&key, &self.value(random)]),
            360..380 => one("SET", &[&key, &self.last]),
            380..400 => one("SETNX", &[&key, &self.value(random)]),
            400..430 => {
                let option = pick(random, &[b"NX", b"XX".as_slice()]);
                one("SET", &[&key, &self.value(random), option])
            }
            430..500 => one("DEL", &[&key]),
            500..515 => one("UNLINK", &[&key, &self.key(random)]),
            515..580 => {
                let mut words = said("MSET");
                for _ in 0..1 + random.below(4) {
                    words.extend([self.key(random), self.value(random)]);
                }
                vec![words]
            }
            580..680 => one("GET", &[&key]),
            680..710 => one("EXISTS", &[&key]),
            710..740 => one("MGET", &[&key, &self.key(random), &self.key(random)]),
            740..755 => one("CHECK", &[&key]),
            755..770 => one("LENGTH", &[&key]),
            770..790 => one("HISTORY", &[&key]),
            790..800 if seen.token.len() == 8 => one("HISTORY", &[&key, &seen.token]),
            800..820 => one(pick(random, &["SCAN", "RSCAN"]), &[]),
            820..860 if seen.cursor.len() == 17 => {
                one(pick(random, &["SCAN", "RSCAN"]), &[&seen.cursor])
            }
            860..870 => said_once("SCAN 0 COUNT 5"),
            870..875 => one("KSCAN", &[b"k"]),
            875..935 if name == b"two" => one("SELECT", &[name, PASSWORD.as_bytes()]),
            875..935 => one("SELECT", &[name]),
            935..945 => one("NSNEW", &[name]),
            945..950 => one("NSDEL", &[name]),
            950..962 => one("NSINFO", &[name]),
            962..966 => said_once("FLUSH"),
            966..970 => {
                let settings: [[&[u8]; 2]; 15] = [
                    [b"worm", b"1"],
                    [b"worm", b"0"],
                    [b"lock", b"1"],
                    [b"lock", b"0"],
                    [b"lock", b"0"],
                    [b"maxsize", b"5000"],
                    [b"maxsize", b"0"],
                    // Of years that no record reaches: deleted keys stay in the index, nothing is dropped.
                    [b"history", b"36500d"],
                    [b"freeze", b"1"],
                    [b"freeze", b"0"],
                    [b"history", b"0"],
                    [b"history", b"0"],
                    [b"history", b"2"],
                    [b"history", b"36500d"],
                    [b"history", b"forever"],
                ];
                let [property, value] = pick(random, &settings);
                one("NSSET", &[name, property, value])
            }
            970..976 => said_once("NSJUMP"),
            976..978 => {
                let policy = pick(random, &["always", "everysec", "no"]);
                one("CONFIG", &[b"SET", b"appendfsync", policy.as_bytes()])
            }
            978..981 => said_once("DBSIZE"),
            981..985 => said_once("DEBUG CLEAN"),
            985..990 => said_once("NSLIST"),
            _ => one("GET", &[&key]),
        }
    }

    fn key(&mut self, random: &mut Random) -> Vec<u8> {
        format!("k{}", random.below(self.keys)).into_bytes()
    }

    fn id(&mut self, random: &mut Random, seen: &words::Seen) -> Vec<u8> {
        match random.below(4) {
            0 if seen.key.len() == 8 => seen.key.clone(),
            _ => random.below(self.keys).to_le_bytes().to_vec(),
        }
    }

    /// A value that nobody else writes: its number, and bytes that follow from it.
    fn value(&mut self, random: &mut Random) -> Vec<u8> {
        self.count += 1;
        let bytes = match random.below(100) {
            large if large < self.large => 5_000 + random.below(25_000),
            0..60 => random.below(40),
            60..85 => random.below(600),
            85..95 => 300 + random.below(4_000),
            _ => 0,
        };
        let mut value = format!("{}:", self.count).into_bytes();
        value.resize(value.len() + bytes as usize, b'a' + (self.count % 26) as u8);
        self.last.clone_from(&value);
        value
    }
}

fn said_once(text: &str) -> Vec<Words> {
    vec![said(text)]
}

fn pick<T: Copy>(random: &mut Random, all: &[T]) -> T {
    all[random.below(all.len() as u64) as usize]
}
