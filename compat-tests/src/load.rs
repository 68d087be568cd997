//! A mixed load of writers, each with a model of what it wrote: what a crash must leave behind.
//!
//! A writer owns its keys in `default`, its namespaces, and one connection at a time, so all that is
//! seen of them follows from its own requests in their order. After a crash the state must be the one
//! after some number of its requests, all of the acknowledged ones among them.

use crate::args;
use crate::client::{Client, encode, show};
use crate::model::{Mode, Model, Namespace, Session, Version};
use crate::reply::Reply;
use bytes::Bytes;
use fastrand::Rng;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The largest value of the load, in bytes.
const VALUE_BYTES_MAX: usize = 300 * 1024;
/// Keys of a writer in each of its namespaces in user mode.
const KEY_COUNT: usize = 25;
/// The longest pipeline of the load.
const DEPTH_MAX: usize = 64;
/// Replies of one pipeline, in bytes: a GET more than this waits for the next one.
const PIPELINE_REPLY_BYTES_MAX: usize = 1 << 20;
/// How many versions of each key are looked at.
const HISTORY_DEPTH: usize = 4;
/// The time that the model gives to what the server stamps itself: such times are not compared.
const SERVER_TIME_S: u32 = u32::MAX;

type Request = Vec<Bytes>;

/// One connection's worth of load and its model.
pub struct Writer {
    name: String,
    random: Rng,
    /// The state after all acknowledged requests.
    model: Model,
    session: Session,
    /// What was sent since and has no reply, in order.
    unacknowledged: VecDeque<Request>,
    value_count: u64,
    /// Whether the selected namespace is one of ours: what is in `default` under the keys that look
    /// like ids would be everybody's.
    is_own: bool,
}

impl Writer {
    pub fn new(number: usize, seed: u64) -> Writer {
        let mut model = Model::new(Default::default());
        model.set_time(Duration::from_secs(SERVER_TIME_S.into()));
        let session = model.session();
        Writer {
            name: format!("w{number}"),
            random: Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(number as u64)),
            model,
            session,
            unacknowledged: VecDeque::new(),
            value_count: 0,
            is_own: false,
        }
    }

    /// Makes this writer's two lasting namespaces.
    pub fn prepare(&mut self, client: &mut Client) -> Result<(), String> {
        let (user, sequential) = (self.namespace("user"), self.namespace("seq"));
        self.session = self.model.session();
        let requests = [
            request(&["NSNEW", &user]),
            request(&["NSNEW", &sequential]),
            request(&["NSSET", &sequential, "mode", "seq"]),
        ];
        self.play(client, requests.into(), &AtomicUsize::new(0)).map(drop)
    }

    /// Sends pipelines until `pipeline_count` are answered, or the connection breaks: then false. Each
    /// acknowledged request adds one to `acknowledged`. A wrong reply is an error.
    pub fn run(
        &mut self,
        client: &mut Client,
        pipeline_count: usize,
        acknowledged: &AtomicUsize,
    ) -> Result<bool, String> {
        assert!(self.unacknowledged.is_empty(), "a crash is verified before the load goes on");
        self.session = self.model.session();
        self.is_own = false;
        for _ in 0..pipeline_count {
            let requests = self.requests();
            if !self.play(client, requests, acknowledged)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends one pipeline; false where the connection broke.
    fn play(
        &mut self,
        client: &mut Client,
        requests: Vec<Request>,
        acknowledged: &AtomicUsize,
    ) -> Result<bool, String> {
        let mut bytes = Vec::new();
        requests.iter().for_each(|request| encode(request, &mut bytes));
        self.unacknowledged = requests.into();
        let (replies, ending) = client.pipeline(&bytes, self.unacknowledged.len());
        for reply in replies {
            acknowledged.fetch_add(1, Ordering::Relaxed);
            let request = self.unacknowledged.pop_front().expect("no more replies than requests");
            let expected = self.execute(&request);
            if reply != expected {
                return Err(format!(
                    "{}: {}: expected {expected:?}, got {reply:?}",
                    self.name,
                    show(&request)
                ));
            }
        }
        match ending {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    Ok(false)
                }
                _ => Err(format!("{}: {error}", self.name)),
            },
        }
    }

    fn execute(&mut self, request: &Request) -> Reply {
        let request: Vec<&[u8]> = request.iter().map(|argument| &argument[..]).collect();
        self.model.execute(&mut self.session, &request)
    }

    /// Compares what the server has with the model after each number of requests that it may have
    /// executed, and goes on from the one that fits.
    pub fn verify(&mut self, client: &mut Client) -> Result<(), String> {
        let observed = Observed::read(client, &self.name)?;
        let first = observed.difference(&self.model);
        let mut difference = first.clone();
        while difference.is_some() {
            let Some(request) = self.unacknowledged.pop_front() else {
                break;
            };
            self.execute(&request);
            difference = observed.difference(&self.model);
        }
        match (first, difference) {
            (_, None) => {
                self.unacknowledged.clear();
                Ok(())
            }
            (first, last) => Err(format!(
                "{}: the state is none that the acknowledged requests can have left;\n  against all acknowledged: \
                 {}\n  against all sent: {}",
                self.name,
                first.unwrap_or_default(),
                last.unwrap_or_default()
            )),
        }
    }

    fn namespace(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.name)
    }

    /// The next pipeline: it begins with a SELECT and may wander on.
    fn requests(&mut self) -> Vec<Request> {
        let depth = match self.random.u8(..10) {
            0..5 => 1,
            5..9 => self.random.usize(2..16),
            _ => self.random.usize(16..=DEPTH_MAX),
        };
        let mut requests = vec![self.select()];
        let mut reply_bytes = 0;
        while requests.len() <= depth {
            let request = match self.random.u8(..100) {
                0..8 => self.select(),
                8..10 => request(&["NSNEW", &self.temporary()]),
                10..12 => request(&["NSDEL", &self.temporary()]),
                12..55 => self.set(),
                55..80 => request_bytes(&[b"DEL", &self.key()]),
                80..90 => request(&["DBSIZE"]),
                _ if reply_bytes + VALUE_BYTES_MAX > PIPELINE_REPLY_BYTES_MAX => continue,
                _ => {
                    reply_bytes += VALUE_BYTES_MAX;
                    request_bytes(&[b"GET", &self.key()])
                }
            };
            // The other writers' keys count as well in the namespace that all share.
            if request[0] == "DBSIZE" {
                requests.push(self.select_own());
            }
            requests.push(request);
        }
        requests
    }

    fn select(&mut self) -> Request {
        match self.random.u8(..10) {
            0..3 => {
                self.is_own = false;
                request(&["SELECT", "default"])
            }
            3..9 => self.select_own(),
            // It may be missing: then the selection stays.
            _ => request(&["SELECT", &self.temporary()]),
        }
    }

    fn select_own(&mut self) -> Request {
        self.is_own = true;
        let name = if self.random.bool() { self.namespace("user") } else { self.namespace("seq") };
        request(&["SELECT", &name])
    }

    /// A namespace that comes and goes.
    fn temporary(&mut self) -> String {
        let number = self.random.u8(..3);
        self.namespace(&format!("tmp{number}"))
    }

    fn set(&mut self) -> Request {
        let key = if self.random.u8(..4) == 0 { Bytes::new() } else { self.key() };
        let value = self.value();
        if self.random.bool() {
            return request_bytes(&[b"SET", &key, &value]);
        }
        let timestamp = self.random.u32(..1_000_000).to_string();
        request_bytes(&[b"SET", &key, &value, timestamp.as_bytes()])
    }

    /// A key for any mode: in the namespace of the other mode it is an error, or missing.
    fn key(&mut self) -> Bytes {
        if self.is_own && self.random.u8(..3) == 0 {
            return Bytes::copy_from_slice(&self.random.u64(..300).to_le_bytes());
        }
        let number = self.random.usize(..KEY_COUNT);
        let padding = "p".repeat(if number.is_multiple_of(5) { number * 10 } else { number });
        Bytes::from(format!("{}:{number}{padding}", self.name))
    }

    fn value(&mut self) -> Bytes {
        let size = match self.random.u8(..100) {
            0..5 => 0,
            5..10 => return Bytes::from_static(b"always the same"),
            10..65 => self.random.usize(..200),
            65..93 => self.random.usize(..5_000),
            93..99 => self.random.usize(..65_536),
            _ => self.random.usize(..=VALUE_BYTES_MAX),
        };
        self.value_count += 1;
        let mut value = format!("{}#{}:", self.name, self.value_count).into_bytes();
        let pattern = self.random.u64(..).to_le_bytes();
        value.extend(pattern.iter().cycle().take(size.saturating_sub(value.len())));
        value.truncate(size);
        Bytes::from(value)
    }
}

fn request(words: &[&str]) -> Request {
    words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

fn request_bytes(words: &[&[u8]]) -> Request {
    words.iter().map(|word| Bytes::copy_from_slice(word)).collect()
}

/// What a server has of one writer.
struct Observed {
    namespaces: BTreeMap<Bytes, Vec<Entry>>,
    /// What NSINFO says of the next id: an id that was handed out and ended again shows nowhere else.
    next_ids: BTreeMap<Bytes, u64>,
}

struct Entry {
    key: Bytes,
    timestamp: i64,
    /// The newest first, `HISTORY_DEPTH` at most.
    versions: Vec<(i64, Bytes)>,
}

impl Observed {
    fn read(client: &mut Client, writer: &str) -> Result<Observed, String> {
        let mut namespaces = BTreeMap::new();
        let mut next_ids = BTreeMap::new();
        for name in client.call(args!["NSLIST"]).into_array() {
            let name = name.into_bytes();
            let own = name.starts_with(format!("{writer}-").as_bytes());
            if !own && name != "default" {
                continue;
            }
            client.expect(args!["SELECT", name], Reply::ok());
            let scanned = scan(client)?;
            let mut keys: Vec<_> = scanned.iter().map(|(key, ..)| key.clone()).collect();
            if !own {
                keys.retain(|key| key.starts_with(format!("{writer}:").as_bytes()));
            }
            let mut entries = read_versions(client, &keys)?;
            for entry in &mut entries {
                let (length, timestamp) = scanned
                    .iter()
                    .find(|(key, ..)| *key == entry.key)
                    .map(|(_, length, timestamp)| (*length, *timestamp))
                    .expect("the entries come from the scan");
                entry.timestamp = timestamp;
                let (newest_timestamp, newest) = &entry.versions[0];
                if length != newest.len() as i64 || timestamp != *newest_timestamp {
                    return Err(format!(
                        "{name:?}: SCAN says {length} bytes of time {timestamp} for {:?}, HISTORY {} of {}",
                        entry.key,
                        newest.len(),
                        newest_timestamp
                    ));
                }
            }
            next_ids.insert(name.clone(), next_id(client, &name));
            namespaces.insert(name, entries);
        }
        client.expect(args!["SELECT", "default"], Reply::ok());
        Ok(Observed { namespaces, next_ids })
    }

    /// The first difference to a model, if any.
    fn difference(&self, model: &Model) -> Option<String> {
        let expected: HashMap<&Bytes, &Namespace> =
            model.namespaces().iter().map(|namespace| (namespace.name(), namespace)).collect();
        for name in expected.keys() {
            if !self.namespaces.contains_key(*name) {
                return Some(format!("the namespace {name:?} is missing"));
            }
        }
        for (name, entries) in &self.namespaces {
            let Some(namespace) = expected.get(name) else {
                return Some(format!("the namespace {name:?} should not be there"));
            };
            let (next_id, expected_id) = (self.next_ids[name], namespace.next_id());
            if namespace.mode() == Mode::Sequential && next_id != expected_id {
                return Some(format!("{name:?}: the next id is {next_id}, not {expected_id}"));
            }
            let versions: Vec<&Version> = namespace.scan().collect();
            if entries.len() != versions.len() {
                return Some(format!(
                    "{name:?} has {} keys, not {}",
                    entries.len(),
                    versions.len()
                ));
            }
            for (entry, version) in entries.iter().zip(versions) {
                if let Some(text) = entry.difference(namespace, version) {
                    return Some(format!("{name:?} ({:?}): {text}", namespace.mode()));
                }
            }
        }
        None
    }
}

/// The field is the id with its bytes reversed, in hexadecimal.
fn next_id(client: &mut Client, namespace: &[u8]) -> u64 {
    let text = client.call(&[b"NSINFO".as_slice(), namespace]).into_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    let field = text.lines().find_map(|line| line.strip_prefix("next_internal_id: 0x"));
    u64::from_str_radix(field.expect("a next id"), 16).expect("hexadecimal").swap_bytes()
}

impl Entry {
    fn difference(&self, namespace: &Namespace, version: &Version) -> Option<String> {
        if self.key != version.key {
            return Some(format!("the scan has {:?} in the place of {:?}", self.key, version.key));
        }
        let chain: Vec<&Version> = namespace.chain(&version.key).take(HISTORY_DEPTH).collect();
        if chain.len() != self.versions.len() {
            return Some(format!(
                "{:?} has {} versions, not {}",
                self.key,
                self.versions.len(),
                chain.len()
            ));
        }
        for (age, ((timestamp, value), expected)) in self.versions.iter().zip(chain).enumerate() {
            if *value != expected.value {
                return Some(format!(
                    "{:?}, {age} versions ago: {} instead of {}",
                    self.key,
                    show(&[value]),
                    show(&[&expected.value])
                ));
            }
            if expected.timestamp != SERVER_TIME_S && *timestamp != i64::from(expected.timestamp) {
                return Some(format!(
                    "{:?}: time {timestamp}, not {}",
                    self.key, expected.timestamp
                ));
            }
        }
        None
    }
}

/// Scans the selected namespace both ways and compares the ways and the count of keys.
pub fn scan(client: &mut Client) -> Result<Vec<(Bytes, i64, i64)>, String> {
    let count = client.call(args!["DBSIZE"]).into_integer() as usize;
    let forward = scan_one_way(client, "SCAN", count)?;
    let mut backward = scan_one_way(client, "RSCAN", count)?;
    backward.reverse();
    if forward.len() != count || forward != backward {
        return Err(format!(
            "DBSIZE says {count} keys, SCAN {} and RSCAN {}; first difference at {:?}",
            forward.len(),
            backward.len(),
            forward.iter().zip(&backward).position(|(forward, backward)| forward != backward)
        ));
    }
    Ok(forward)
}

fn scan_one_way(
    client: &mut Client,
    command: &str,
    count: usize,
) -> Result<Vec<(Bytes, i64, i64)>, String> {
    let mut entries = Vec::with_capacity(count);
    let mut reply = client.call(args![command]);
    while reply != Reply::error("No more data") {
        let Reply::Array(parts) = reply else {
            return Err(format!("{command}: {reply:?}"));
        };
        let [cursor, batch]: [Reply; 2] =
            parts.try_into().map_err(|parts| format!("{command}: {parts:?}"))?;
        let before = entries.len();
        for entry in batch.into_array() {
            let parts = entry.into_array();
            let [key, length, timestamp]: [Reply; 3] =
                parts.try_into().map_err(|parts| format!("{command}: {parts:?}"))?;
            entries.push((key.into_bytes(), length.into_integer(), timestamp.into_integer()));
        }
        if entries.len() == before || entries.len() > count {
            return Err(format!(
                "{command} does not end: {} entries of {count} keys",
                entries.len()
            ));
        }
        reply = client.call(args![command, cursor.into_bytes()]);
    }
    Ok(entries)
}

/// The newest versions of each key, level by level; GET must agree with the newest.
fn read_versions(client: &mut Client, keys: &[Bytes]) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = keys
        .iter()
        .map(|key| Entry { key: key.clone(), timestamp: 0, versions: Vec::new() })
        .collect();
    let mut asked: Vec<(usize, Option<Bytes>)> =
        (0..keys.len()).map(|index| (index, None)).collect();
    for _ in 0..HISTORY_DEPTH {
        let mut requests = Vec::new();
        for (index, token) in &asked {
            match token {
                None => encode(args!["HISTORY", keys[*index]], &mut requests),
                Some(token) => encode(args!["HISTORY", keys[*index], token], &mut requests),
            }
        }
        let mut next = Vec::new();
        for ((index, _), reply) in asked.iter().zip(replies(client, &requests, asked.len())?) {
            let shown = format!("{reply:?}");
            let Reply::Array(parts) = reply else {
                return Err(format!("HISTORY {:?}: {shown}", keys[*index]));
            };
            let [token, timestamp, value]: [Reply; 3] =
                parts.try_into().map_err(|_| format!("HISTORY {:?}: {shown}", keys[*index]))?;
            let timestamp =
                String::from_utf8_lossy(&timestamp.into_bytes()).parse().map_err(|_| shown)?;
            entries[*index].versions.push((timestamp, value.into_bytes()));
            if let Reply::Bulk(token) = token {
                next.push((*index, Some(token)));
            }
        }
        asked = next;
    }
    let mut requests = Vec::new();
    keys.iter().for_each(|key| encode(args!["GET", key], &mut requests));
    for (entry, reply) in entries.iter().zip(replies(client, &requests, keys.len())?) {
        if reply != Reply::Bulk(entry.versions[0].1.clone()) {
            return Err(format!("GET {:?}: {reply:?}, unlike HISTORY", entry.key));
        }
    }
    Ok(entries)
}

fn replies(client: &mut Client, requests: &[u8], count: usize) -> Result<Vec<Reply>, String> {
    let (replies, ending) = client.pipeline(requests, count);
    ending.map_err(|error| format!("the connection broke while reading: {error}"))?;
    Ok(replies)
}
