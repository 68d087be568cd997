//! When a term begins. A server that begins to write to a log that others have first appends a term's record. Where
//! `min_replicas` is R and N servers have the log, a master acknowledges what R replicas have, too, and begins
//! a term only when N-R-1 replicas have promised to follow no earlier one and it has all that any of them has:
//! of these and itself at least one has everything that was ever acknowledged (Lamport's Paxos, with the quorums
//! of Howard, Malkhi and Spiegelman, "Flexible Paxos", 2016; as in Raft the log is copied as it is).

use crate::command::replication::{Address, Link, Replica, Stage, SyncRequest};
use crate::engine::node::Promise;
use crate::hub::Hub;
use crate::planted::{self, Bug};
use std::collections::BTreeSet;

/// How many servers these are: one may have two connections for a while.
pub(super) fn count_nodes<'a>(replicas: impl Iterator<Item = &'a Replica>) -> usize {
    replicas.map(|one| one.node).collect::<BTreeSet<u32>>().len()
}

impl Hub {
    /// A name for this server in terms, if it has none.
    pub(super) fn name_node(&mut self) {
        if self.engine.node.is_named() {
            return;
        }
        let mut bytes = [0; 4];
        while bytes == [0; 4] {
            (self.server.random)(&mut bytes);
        }
        self.engine.node.name = u32::from_le_bytes(bytes);
        self.affairs.changed += 1;
    }

    pub(super) fn promise(&mut self, promise: Promise) {
        if self.engine.node.promised != promise {
            self.engine.node.promised = promise;
            self.affairs.changed += 1;
        }
    }

    /// A candidate begins its term when enough others have agreed and it has what they have.
    pub(super) fn seek_term(&mut self) {
        let Some(candidate) = &self.server.replication.candidate else { return };
        let (number, ours) = (candidate.number, self.log_at());
        let mine = Promise { number, node: self.engine.node.name };
        let settings = &self.server.settings;
        let needed = match settings.min_replicas {
            // It only waits until it is whole.
            0 => 0,
            replicas => settings.nodes().saturating_sub(replicas).saturating_sub(1),
        };
        let has_agreed = |one: &&Replica| one.promised == mine && !one.is_backup;
        let agreed = || self.server.replication.replicas.iter().filter(has_agreed);
        // What a start is about to take in, or to take away, is not in this log yet.
        if self.affairs.restarts || !self.is_node_saved() || count_nodes(agreed()) < needed {
            return;
        }
        let best = agreed().max_by_key(|one| one.log_at).filter(|one| one.log_at > ours);
        if let Some(best) = best.filter(|_| !planted::is(Bug::NoCatchUp)) {
            let (log_at, port) = (best.log_at, best.port.to_string());
            let from = Address::new(&best.host, &port);
            // Who was copied until now has given all that he had, or is gone.
            let is_used_up = candidate.wanted.is_some_and(|wanted| wanted <= ours);
            let is_over = |link: &Link| is_used_up || !link.is_up();
            let link = self.server.replication.link.as_ref();
            if link.is_some_and(|link| Some(&link.to) != from.as_ref() && is_over(link)) {
                self.end_link();
            }
            if let (None, Some(from)) = (&self.server.replication.link, from) {
                self.engine.log.notices.push(format!(
                    "before term {number} begins, the end of the log is taken from {from}"
                ));
                let now_ms = self.engine.now.monotonic_ms;
                self.engine.log.set_copying(now_ms, true);
                let replication = &mut self.server.replication;
                replication.link = Some(Link::new(from, now_ms));
                if let Some(candidate) = &mut replication.candidate {
                    candidate.wanted = Some(log_at);
                }
            }
            return;
        }
        self.end_link();
        if !self.has_what_is_owed(mine, needed) {
            return;
        }
        if self.engine.begin_term(number).is_err() {
            return;
        }
        self.engine.log.notices.push(format!("term {number} begins: this server is the master"));
        self.server.replication.candidate = None;
        self.let_waiting_ask();
    }

    /// Whether what this server and enough others once had is here. Somebody who began anew and has not come so far again
    /// counts as one who has nothing that was acknowledged, unless it is known to be here.
    fn has_what_is_owed(&mut self, mine: Promise, needed: usize) -> bool {
        let here = (self.engine.terms.number(), self.engine.log.end());
        let counts = |one: &&Replica| one.promised == mine && !one.is_backup && one.owed <= here;
        let agreed = self.server.replication.replicas.iter().filter(counts);
        let has_it = self.engine.is_whole() && count_nodes(agreed) >= needed;
        if has_it && self.server.settings.min_replicas == 0 {
            self.engine.log.replicated = None;
        }
        let Some(candidate) = &mut self.server.replication.candidate else { return has_it };
        if !has_it && !candidate.is_told {
            candidate.is_told = true;
            self.engine.log.notices.push(format!(
                "term {} does not begin: of those who agree some began anew and have not yet what they had, so another \
                 server is waited for, which has it",
                candidate.number
            ));
        }
        has_it
    }

    /// What this server had before it began anew is on the disk again.
    pub(super) fn settle_owed(&mut self) {
        if self.engine.node.owed == (0, 0) {
            return;
        }
        let durable = self.engine.log.durable();
        let here = (self.engine.terms.number_at(durable), durable);
        let node = &mut self.engine.node;
        if node.owed <= here && !self.affairs.restarts {
            node.owed = (0, 0);
            self.affairs.changed += 1;
        }
    }

    /// What replicas had to wait for has happened.
    pub(super) fn let_waiting_ask(&mut self) {
        for at in 0..self.server.replication.replicas.len() {
            let replica = &mut self.server.replication.replicas[at];
            if replica.stage == Stage::Waiting {
                let key = replica.connection;
                self.say(key, &[b"AGAIN"]);
            }
        }
    }

    /// Number of the last term, and the end of the last record, of what the log has before a position.
    pub(super) fn kept_before(&self, position: u64) -> (u64, u64) {
        if self.engine.is_bare() {
            return (0, 0);
        }
        let end = self.engine.log.records_end(position);
        (self.engine.terms.number_at(end), end)
    }

    /// Number of the last term, and the log's end: what is larger has more that was acknowledged.
    pub(super) fn log_at(&self) -> (u64, u64) {
        if self.engine.is_bare() {
            return (0, 0);
        }
        (self.engine.terms.number(), self.engine.log.end())
    }

    /// Whether a master may send its log: it is the newest that this replica knows of.
    pub(super) fn may_sync(&mut self, key: u64, request: &SyncRequest) -> bool {
        if self.server.settings.min_replicas == 0 {
            return true;
        }
        let promised = request.promised;
        let node = self.engine.node.name;
        let ours = match &self.server.replication.candidate {
            Some(candidate) => candidate.number,
            None => self.engine.terms.number(),
        };
        if promised.number > ours || promised.number == ours && promised.node != node {
            // Others went on meanwhile: what they have counts, so this server asks them anew.
            let newest = promised.max(self.engine.node.promised);
            self.promise(newest);
            self.lead();
            return false;
        }
        if self.server.replication.candidate.is_none() {
            return true;
        }
        if promised == (Promise { number: ours, node }) {
            let replica =
                self.server.replication.replica_mut(key).expect("the caller looked it up");
            replica.stage = Stage::Waiting;
        } else {
            let (number, node) = (ours.to_string(), format!("{node:08x}"));
            self.say(key, &[b"PROMISE", number.as_bytes(), node.as_bytes()]);
        }
        false
    }

    /// The number of the term of which this server is the master; 0: it is none.
    pub(super) fn rank(&self) -> String {
        let replication = &self.server.replication;
        let is_master = replication.master.is_none() && replication.candidate.is_none();
        let number = if is_master { self.engine.terms.number() } else { 0 };
        number.to_string()
    }
}
