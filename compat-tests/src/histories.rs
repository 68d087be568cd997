//! What clients were promised while masters changed, and a checker that says what became of it.
//!
//! [`Load`] writes and takes notes: each key belongs to one client, its values count up. [`read`] gets what the
//! surviving master has, and [`check`] compares: acknowledged writes that are gone, values that nobody sent, masters
//! that acknowledged at the same time. It judges nothing: replication that answers before it has copied may lose.
//!
//! A write without a reply may be executed at any later time, so it is the last one of its key: what the key has
//! then is clear. A key also ends after [`KEY_WRITES_MAX`] writes, so its versions can all be read.

mod check;
mod load;

pub use check::{Loss, TwoMasters, Verdict, check};
pub use load::{Find, Load, Plan};

use crate::args;
use crate::client::{Client, encode};
use crate::reply::Reply;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// After so many writes a client goes on with its next key.
pub const KEY_WRITES_MAX: u64 = 20;
/// So many keys are asked for at a time.
const READ_KEYS: usize = 1000;

/// A server as a client saw it when it connected: what it says it is, and of which replication.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reign {
    pub address: SocketAddr,
    /// INFO's `run_id`: a process.
    pub run_id: String,
    /// INFO's `master_replid`: it changes when a replica becomes the master.
    pub replication_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    /// An error reply: it should not have been executed.
    Refused(String),
    /// No reply: it may be executed, now or later.
    Unknown,
}

/// One SET.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: Arc<str>,
    /// From 1 on, for each key.
    pub number: u64,
    pub sent_at: Instant,
    /// When the reply came, or was given up.
    pub ended_at: Instant,
    pub outcome: Outcome,
    pub reign: Arc<Reign>,
}

/// All writes of some clients, each client's in their order.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub writes: Vec<Write>,
    /// What each value is filled up to.
    pub value_bytes: usize,
}

impl History {
    /// Both together: of clients with different names.
    pub fn with(mut self, mut other: History) -> History {
        assert_eq!(self.value_bytes, other.value_bytes, "the values of both are alike");
        self.writes.append(&mut other.writes);
        self
    }

    pub fn acknowledged(&self) -> impl Iterator<Item = &Write> {
        self.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged)
    }

    fn keys(&self) -> Vec<Arc<str>> {
        let mut keys: Vec<_> = self.writes.iter().map(|write| write.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// The value of a key's write: it names both, so that no other can be taken for it.
pub fn value(key: &str, number: u64, value_bytes: usize) -> String {
    let mut value = format!("{key}#{number}.");
    value.extend(std::iter::repeat_n('v', value_bytes.saturating_sub(value.len())));
    value
}

/// What a server has.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// By key, the newest first.
    pub versions: BTreeMap<Arc<str>, Vec<String>>,
    /// Whether these are all versions, or the newest alone.
    pub is_complete: bool,
}

/// Reads all keys of a history: their versions where the server has HISTORY, otherwise GET.
pub fn read(client: &mut Client, history: &History, has_history: bool) -> Result<Found, String> {
    let mut found = Found { versions: BTreeMap::new(), is_complete: has_history };
    for keys in history.keys().chunks(READ_KEYS) {
        let versions = match has_history {
            true => read_versions(client, keys)?,
            false => read_newest(client, keys)?,
        };
        found.versions.extend(keys.iter().cloned().zip(versions));
    }
    Ok(found)
}

fn read_newest(client: &mut Client, keys: &[Arc<str>]) -> Result<Vec<Vec<String>>, String> {
    let mut requests = Vec::new();
    keys.iter().for_each(|key| encode(args!["GET", **key], &mut requests));
    let replies = replies(client, &requests, keys.len())?;
    let versions = keys.iter().zip(replies).map(|(key, reply)| match reply {
        Reply::Nil => Ok(Vec::new()),
        Reply::Bulk(bytes) => Ok(vec![String::from_utf8_lossy(&bytes).into_owned()]),
        other => Err(format!("GET {key}: {other:?}")),
    });
    versions.collect()
}

/// Level by level: each reply has the token that the next question takes.
fn read_versions(client: &mut Client, keys: &[Arc<str>]) -> Result<Vec<Vec<String>>, String> {
    let mut versions = vec![Vec::new(); keys.len()];
    let mut asked: Vec<(usize, Option<bytes::Bytes>)> =
        (0..keys.len()).map(|index| (index, None)).collect();
    while !asked.is_empty() {
        let mut requests = Vec::new();
        for (index, token) in &asked {
            match token {
                None => encode(args!["HISTORY", *keys[*index]], &mut requests),
                Some(token) => encode(args!["HISTORY", *keys[*index], token], &mut requests),
            }
        }
        let mut next = Vec::new();
        for ((index, token), reply) in asked.iter().zip(replies(client, &requests, asked.len())?) {
            let shown = format!("HISTORY {}: {reply:?}", keys[*index]);
            let parts = match reply {
                Reply::Array(parts) => parts,
                Reply::Error(text) if token.is_none() && text == "Key not found" => continue,
                _ => return Err(shown),
            };
            let [token, _, value]: [Reply; 3] = parts.try_into().map_err(|_| shown)?;
            versions[*index].push(String::from_utf8_lossy(&value.into_bytes()).into_owned());
            if let Reply::Bulk(token) = token {
                next.push((*index, Some(token)));
            }
        }
        asked = next;
    }
    Ok(versions)
}

fn replies(client: &mut Client, requests: &[u8], count: usize) -> Result<Vec<Reply>, String> {
    let (replies, ending) = client.pipeline(requests, count);
    ending.map_err(|error| format!("the connection broke while reading: {error}"))?;
    Ok(replies)
}
