//! Who reads while all that goes on, from any server: a value or a version is one that was written to that key once,
//! whatever became of it. Of how old it may be nothing is promised.

use super::clients::{PASSWORD, name_of, number_of};
use super::{CLIENTS, KEYS, NODES, Run, peer};
use crate::reply::{self, Reply};
use crate::words;

#[derive(Default)]
pub struct Reader {
    pub node: usize,
    pub key: Option<u64>,
    inbox: Vec<u8>,
    /// What is asked for: whose key, and how many replies come before, of SELECT.
    asked: Option<(usize, u64, usize)>,
}

impl Run {
    /// Lets a reader ask for something, where it does not wait for what it asked before.
    pub(super) fn read(&mut self, reader: usize) {
        if self.readers[reader].asked.is_some() {
            return;
        }
        let at = self.random.below(NODES as u64) as usize;
        let client = self.random.below(CLIENTS as u64) as usize;
        let key = self.random.below(KEYS);
        let word = [&b"GET"[..], b"HISTORY"][self.random.below(2) as usize];
        let select = self.clients[client].namespace().map(|name| {
            let words = ["SELECT", name, PASSWORD];
            words::encode(&words.map(|word| word.as_bytes().to_vec()))
        });
        let connection = self.nodes[at].hub.connected(peer());
        let before = usize::from(select.is_some());
        let asked = Some((client, key, before));
        self.readers[reader] = Reader { node: at, key: Some(connection), inbox: Vec::new(), asked };
        let request = words::encode(&[word.to_vec(), name_of(client, key)]);
        let request = [select.unwrap_or_default(), request].concat();
        self.nodes[at].hub.received(connection, &request);
    }

    /// Bytes come to a reader.
    pub(super) fn take_in(&mut self, reader: usize, bytes: &[u8]) {
        let one = &mut self.readers[reader];
        one.inbox.extend(bytes);
        while let Ok(Some((reply, length))) = reply::parse(&one.inbox, false) {
            one.inbox.drain(..length);
            let Some((client, key, before)) = one.asked else { return };
            if before > 0 {
                // A namespace that is not there has nothing.
                one.asked = (!reply.is_error()).then_some((client, key, before - 1));
                continue;
            }
            one.asked = None;
            let value = match &reply {
                Reply::Many(fields) => fields.get(2).and_then(Reply::bulk),
                other => other.bulk(),
            };
            if let Some(number) = value.map(number_of) {
                let is_known = self.clients[client].has_written(key, number);
                let (at, key) = (one.node, key);
                assert!(is_known, "{at} has {number} as key {key} of client {client}");
                self.read += 1;
            }
        }
        if one.asked.is_none()
            && let Some(key) = one.key.take()
        {
            let at = one.node;
            self.nodes[at].hub.failed(key);
            self.nodes[at].hub.remove(key);
        }
    }
}
