//! Who has the log beside this server: whether it follows another one or is followed, when a term begins, and
//! when enough others have a write.
//!
//! Terms: a server that begins to write to a log that others have first appends a term's record. Where
//! `min_replicas` is R and N servers have the log, a master acknowledges what R replicas have, too, and begins
//! a term only when N-R-1 replicas have promised to follow no earlier one and it has all that any of them has:
//! of these and itself at least one has everything that was ever acknowledged (Lamport's Paxos, with the quorums
//! of Howard, Malkhi and Spiegelman, "Flexible Paxos", 2016; as in Raft the log is copied as it is).

mod feeding;
mod link;

use super::Hub;
use super::connection::Connection;
use crate::command::replication::{
    Address, Candidate, Gate, Link, LinkState, ReceivedFile, Replica, ReplicaWait, Stage,
    SyncRequest,
};
use crate::command::{ClientRef, Finished, Tasks};
use crate::disk::{Operation, Root};
use crate::engine::node::{self, Errand, Promise};
use crate::engine::{Answer, Engine, Waiter};
use crate::limits::{REPLICA_RETRY_MS, REPLICA_SILENCE_MS, REPLICA_STATUS_MS};
use crate::output::Output;
use crate::resp::Protocol;
use xxhash_rust::xxh3::xxh3_64;

/// What the loop is to do for replication, and what this server has not got through with.
#[derive(Default)]
pub(super) struct Affairs {
    /// A server that the loop is to connect to.
    dial: Option<Address>,
    /// How often what the server keeps about itself changed, and which of these changes are on the disk.
    changed: u64,
    saved: u64,
    saving: bool,
    /// When it is tried again after a failure, in milliseconds of the loop's clock.
    save_ms: u64,
    /// The promise is to be told to the master once it is kept.
    asks_again: bool,
    /// The server is to start anew once what it keeps about itself is on the disk.
    restarts: bool,
    /// What came of a file whose link is gone: it is removed once the disk is done with it.
    leftover: Option<ReceivedFile>,
    /// When replicas are told next how far the log is, in milliseconds of the loop's clock.
    status_ms: u64,
    /// How many replicas a write needed in the turn before, and what the master was told of where this server is.
    min_replicas: usize,
    announced: (String, u16),
}

impl Hub {
    // ---------------------------------------------------------------- roles

    /// Takes up the part that the settings give.
    pub fn begin_replication(&mut self) {
        self.affairs.min_replicas = self.server.settings.min_replicas;
        match Address::parse(&self.server.settings.replica_of) {
            Some(master) => self.follow(master),
            None if self.engine.node.is_named() || self.server.settings.min_replicas > 0 => {
                self.lead();
            }
            None => {}
        }
    }

    /// Whether replication wants a look in each turn.
    pub(super) fn replicates(&self) -> bool {
        let replication = &self.server.replication;
        replication.link.is_some()
            || replication.candidate.is_some()
            || !replication.replicas.is_empty()
            || !replication.waits.is_empty()
            || !self.syncs.is_empty()
            || self.affairs.changed != self.affairs.saved
            || self.affairs.restarts
            || replication.gate != Gate::Open
            || self.server.settings.min_replicas > 0
            || self.affairs.min_replicas > 0
    }

    /// REPLICAOF. False: nothing changes.
    pub(super) fn change_master(&mut self, master: Option<Address>) -> bool {
        if self.server.replication.master == master {
            return false;
        }
        let text = master.as_ref().map_or_else(|| "no one".into(), Address::to_string);
        self.server.settings.replica_of = text;
        match master {
            Some(master) => self.follow(master),
            None => self.lead(),
        }
        true
    }

    fn follow(&mut self, master: Address) {
        let now_ms = self.engine.now.monotonic_ms;
        self.name_node();
        self.leave_roles();
        // What no replica has may be lost with the term: whoever waits for it is not told that it is kept.
        self.forget_unacknowledged();
        self.engine.log.replicated = None;
        self.engine.term_due = None;
        self.engine.log.set_copying(now_ms, true);
        let replication = &mut self.server.replication;
        replication.link = Some(Link::new(master.clone(), now_ms));
        replication.master = Some(master);
        self.look_at_gate();
    }

    fn lead(&mut self) {
        let now_ms = self.engine.now.monotonic_ms;
        self.name_node();
        self.leave_roles();
        self.server.replication.master = None;
        // Until its term begins this server adds nothing to the log.
        self.engine.log.set_copying(now_ms, true);
        let number = self.engine.node.promised.number.max(self.engine.terms.number()) + 1;
        self.promise(Promise { number, node: self.engine.node.name });
        if self.server.settings.min_replicas > 0 {
            self.engine.log.replicated = Some(0);
            self.server.replication.candidate = Some(Candidate { number, wanted: None });
        } else {
            self.engine.log.replicated = None;
            self.engine.term_due = Some(number);
            self.engine.is_term_kept = self.is_node_saved();
        }
        self.look_at_gate();
    }

    /// Neither follows nor is followed: whoever did begins anew.
    fn leave_roles(&mut self) {
        self.drop_link();
        let replication = &mut self.server.replication;
        replication.link = None;
        replication.candidate = None;
        let keys: Vec<u64> = replication.replicas.iter().map(|one| one.connection).collect();
        for key in keys {
            self.let_go(key);
        }
    }

    /// A name for this server in terms, if it has none.
    fn name_node(&mut self) {
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

    fn promise(&mut self, promise: Promise) {
        if self.engine.node.promised != promise {
            self.engine.node.promised = promise;
            self.affairs.changed += 1;
        }
    }

    /// Closes a connection at once.
    fn let_go(&mut self, key: u64) {
        if let Some(connection) = self.get_mut(key) {
            connection.is_killed = true;
            connection.closing = true;
            self.touch_key(key);
        }
        self.server.replication.replicas.retain(|one| one.connection != key);
    }

    /// Clients whose writes may not be kept get no reply, but the end of their connection.
    fn forget_unacknowledged(&mut self) {
        for key in std::mem::take(&mut self.unacknowledged) {
            if let Some(connection) = self.get_mut(key) {
                connection.drop_replies();
                connection.is_unacknowledged = false;
                self.let_go(key);
            }
        }
    }

    // ---------------------------------------------------------------- the turn

    /// What replication has to do in a turn.
    pub(super) fn run_replication(&mut self) {
        let now_ms = self.engine.now.monotonic_ms;
        for (key, request) in std::mem::take(&mut self.syncs) {
            self.sync(key, request);
        }
        self.save_node();
        self.look_at_settings();
        if self.stopping {
            // A log that is being closed takes nothing more.
            return self.drop_link();
        }
        self.tend_link(now_ms);
        self.seek_term();
        self.tend_replicas(now_ms);
        self.count_replicated();
        self.look_at_gate();
        self.end_waits(now_ms);
        if self.affairs.restarts && self.is_node_saved() {
            self.forget_unacknowledged();
            self.stopping = true;
        }
    }

    /// A master that is told by CONFIG SET to wait for replicas has to be sure first that it is the only one.
    fn look_at_settings(&mut self) {
        let settings = &self.server.settings;
        let (host, port) = &self.affairs.announced;
        let is_announced = settings.announce_host == *host && settings.announce_port == *port;
        let link = self.server.replication.link.as_ref();
        if !is_announced && link.is_some_and(|link| link.connection().is_some()) {
            // A replica introduces itself only once.
            self.drop_link();
        }
        let min_replicas = self.server.settings.min_replicas;
        let before = std::mem::replace(&mut self.affairs.min_replicas, min_replicas);
        let is_master = self.server.replication.master.is_none();
        if before == 0 && min_replicas > 0 && is_master {
            self.lead();
        }
        if before > 0 && min_replicas == 0 {
            self.engine.log.replicated = None;
            self.log_moved = true;
            if is_master && let Some(candidate) = self.server.replication.candidate.take() {
                self.drop_link();
                self.server.replication.link = None;
                self.engine.term_due = Some(candidate.number);
                self.engine.is_term_kept = self.is_node_saved();
            }
        }
    }

    /// The server is to end, and not to start anew.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.affairs.restarts = false;
    }

    /// Closes all connections at once.
    pub fn let_all_go(&mut self) {
        for key in self.keys() {
            self.let_go(key);
        }
    }

    /// Goes on with another engine. All connections are closed.
    pub fn begin_again(&mut self, engine: Engine) {
        self.policy = engine.log.policy;
        self.engine = engine;
        self.tasks = Tasks::default();
        self.affairs = Affairs::default();
        self.stopping = false;
        self.log_moved = false;
        for list in [&mut self.unacknowledged, &mut self.stalled, &mut self.touched] {
            list.clear();
        }
        self.queued.clear();
        let replication = &mut self.server.replication;
        (replication.link, replication.candidate) = (None, None);
        (replication.replicas, replication.waits) = (Vec::new(), Vec::new());
    }

    /// Whether the server, once it has stopped, is to start again with what is on the disk then.
    pub fn restarts(&self) -> bool {
        self.affairs.restarts
    }

    pub(super) fn replication_deadline_ms(&self) -> Option<u64> {
        let replication = &self.server.replication;
        let link = replication.link.as_ref().map(|link| match link.state {
            LinkState::Down { retry_ms } if self.may_dial() => retry_ms,
            LinkState::Down { .. } | LinkState::Dialing => u64::MAX,
            LinkState::Handshake { .. } => link.heard_ms + REPLICA_SILENCE_MS,
            LinkState::Following { .. } => {
                (link.heard_ms + REPLICA_SILENCE_MS).min(link.acked_ms + REPLICA_STATUS_MS)
            }
        });
        let status = (!replication.replicas.is_empty()).then_some(self.affairs.status_ms);
        let waits = replication.waits.iter().filter_map(|wait| wait.until_ms).min();
        let save = (!self.is_node_saved() && !self.affairs.saving).then_some(self.affairs.save_ms);
        [link, status, waits, save].into_iter().flatten().min()
    }

    // ---------------------------------------------------------------- what is kept about this server

    fn save_node(&mut self) {
        let is_due = self.engine.now.monotonic_ms >= self.affairs.save_ms;
        if self.affairs.saving || self.is_node_saved() || !is_due {
            return;
        }
        self.affairs.saving = true;
        let bytes = self.engine.node.text().into_bytes();
        let name = node::FILE_NAME.to_owned();
        let operation = Operation::WriteSmall { root: Root::Data, name, bytes };
        self.engine.work_for(Waiter::Node(self.affairs.changed), operation);
    }

    fn is_node_saved(&self) -> bool {
        self.affairs.saved == self.affairs.changed
    }

    /// The answer to work of replication.
    pub(super) fn replication_answer(&mut self, waiter: Waiter, answer: Answer) {
        let Answer::Work(result) = answer else { unreachable!("replication asks for work only") };
        match waiter {
            Waiter::Node(change) => {
                self.affairs.saving = false;
                match result {
                    Ok(_) => {
                        self.affairs.saved = change;
                        if self.is_node_saved() {
                            // Who waited for the term may go on.
                            self.engine.is_term_kept = true;
                            self.log_moved = true;
                            if self.server.replication.candidate.is_none() {
                                self.let_waiting_ask();
                            }
                        }
                    }
                    Err(error) => {
                        self.affairs.save_ms = self.engine.now.monotonic_ms + REPLICA_RETRY_MS;
                        self.engine.log.notices.push(format!(
                            "cannot write the file {:?} to the data directory: {error}; replication waits for it",
                            node::FILE_NAME
                        ));
                    }
                }
            }
            Waiter::Replica(key, from) => self.replica_read(key, from, result),
            Waiter::Link => self.file_answer(result),
            _ => unreachable!("others are answered elsewhere"),
        }
    }

    /// Has the server start anew, and do something first.
    fn start_anew(&mut self, errand: Errand) {
        if errand != Errand::None {
            self.engine.node.errand = errand;
            self.affairs.changed += 1;
        }
        self.affairs.restarts = true;
        self.drop_link();
    }

    // ---------------------------------------------------------------- terms

    /// A candidate begins its term when enough others have agreed and it has what they have.
    fn seek_term(&mut self) {
        let Some(candidate) = &self.server.replication.candidate else { return };
        let (number, ours) = (candidate.number, self.log_at());
        let mine = Promise { number, node: self.engine.node.name };
        let settings = &self.server.settings;
        let needed = (settings.nodes().saturating_sub(settings.min_replicas)).saturating_sub(1);
        let has_agreed = |one: &&Replica| one.promised == mine && !one.is_backup;
        let agreed: Vec<&Replica> =
            self.server.replication.replicas.iter().filter(has_agreed).collect();
        let mut nodes: Vec<u32> = agreed.iter().map(|one| one.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if !self.is_node_saved() || nodes.len() < needed {
            return;
        }
        let best = agreed.iter().max_by_key(|one| one.log_at).filter(|one| one.log_at > ours);
        if let Some(best) = best {
            let (log_at, port) = (best.log_at, best.port.to_string());
            let from = Address::new(&best.host, &port);
            if let (None, Some(from)) = (&self.server.replication.link, from) {
                self.engine.log.notices.push(format!(
                    "before term {number} begins, the end of the log is taken from {from}"
                ));
                let now_ms = self.engine.now.monotonic_ms;
                self.engine.log.set_copying(now_ms, true);
                let replication = &mut self.server.replication;
                replication.link = Some(Link::new(from, now_ms));
                replication.candidate = Some(Candidate { number, wanted: Some(log_at) });
            }
            return;
        }
        if self.server.replication.link.is_some() {
            self.drop_link();
            self.server.replication.link = None;
        }
        if self.engine.begin_term(number).is_err() {
            return;
        }
        self.engine.log.notices.push(format!("term {number} begins: this server is the master"));
        self.server.replication.candidate = None;
        self.let_waiting_ask();
    }

    /// What replicas had to wait for has happened.
    fn let_waiting_ask(&mut self) {
        for at in 0..self.server.replication.replicas.len() {
            let replica = &mut self.server.replication.replicas[at];
            if replica.stage == Stage::Waiting {
                let key = replica.connection;
                self.send(key, &[b"AGAIN"]);
            }
        }
    }

    /// Number of the last term, and the log's end: what is larger has more that was acknowledged.
    fn log_at(&self) -> (u64, u64) {
        if self.engine.is_bare() {
            return (0, 0);
        }
        (self.engine.terms.number(), self.engine.log.end())
    }

    /// A replica asks for the log.
    pub(super) fn sync(&mut self, key: u64, request: SyncRequest) {
        let now_ms = self.engine.now.monotonic_ms;
        let last_term = request.terms.last().map_or(0, |term| term.number);
        let is_full = self.server.settings.min_replicas > 0
            && self.other_nodes(key) + 1 >= self.server.settings.nodes();
        let secret_check = xxh3_64(&self.engine.secret_bytes());
        let is_copy = request.log == self.engine.log.id.0 && request.secret_check == secret_check;
        let is_bare = self.engine.is_bare();
        let is_candidate = self.server.replication.candidate.is_some();
        let node = self.engine.node.name;
        let Some(replica) = self.server.replication.replica_mut(key) else {
            return self.refuse_replica(key, "REPLCONF comes before PSYNC");
        };
        if replica.node == 0 {
            return self.refuse_replica(key, "a replica has to name its node");
        }
        if replica.node == node {
            return self.refuse_replica(key, "a server cannot copy itself");
        }
        if matches!(replica.stage, Stage::Online | Stage::Leaving) {
            // What is read for it belongs to what it asked for first.
            self.refuse_replica(key, "a replica asks once for the log");
            return self.close_behind_replies(key);
        }
        replica.heard_ms = now_ms;
        replica.promised = request.promised;
        let is_backup = replica.is_backup;
        // Of another log nobody can tell whether it has more; but whatever it has is more than nothing.
        let is_comparable = is_copy || is_bare || request.is_bare;
        let has_data = is_comparable && !request.is_bare;
        replica.log_at = if has_data { (last_term, request.position) } else { (0, 0) };
        replica.stage = Stage::New;
        if is_candidate && !is_comparable && !is_backup {
            let text =
                "two servers with different logs cannot agree on a master: empty one of them first";
            return self.refuse_replica(key, text);
        }
        if is_full && !is_backup {
            return self
                .refuse_replica(key, "as many servers as --nodes says have this log already");
        }
        let is_master = self.server.replication.master.is_none();
        if is_master && !is_backup && !self.may_sync(key, &request) {
            return;
        }
        self.name_node();
        if !self.is_node_saved() {
            // A start that does not know of copies would go on in the term that they have.
            let replica = self.server.replication.replica_mut(key).expect("looked up above");
            replica.stage = Stage::Waiting;
            return;
        }
        let end = self.engine.log.end();
        let common = match is_copy {
            true => {
                let other = (&request.terms[..], request.position, request.is_all);
                self.engine.terms.common_end(end, other)
            }
            false => None,
        };
        match common {
            Some(common) if common == request.position && self.engine.can_send(common) => {
                let term = self.engine.terms.number().max(self.engine.term_due.unwrap_or(0));
                let replica = self.server.replication.replica_mut(key).expect("looked up above");
                replica.sent = common;
                replica.reads.clear();
                replica.acked = common;
                replica.stage = Stage::Online;
                self.server.replication.syncs_partial += 1;
                let now_s = self.engine.now.unix_s();
                let words = [common, term, end, now_s].map(|number| number.to_string());
                let [common, term, end, now_s] = words.each_ref().map(String::as_bytes);
                self.send(key, &[b"CONTINUE", common, term, end, now_s]);
            }
            Some(common) if common < request.position && common > 0 => {
                self.leaving(key);
                let (common, rank) = (common.to_string(), self.rank());
                self.send(key, &[b"REWIND", common.as_bytes(), rank.as_bytes()]);
            }
            _ => {
                self.leaving(key);
                self.server.replication.syncs_full += 1;
                let (log, secret) = (self.engine.log.id.to_hex(), self.engine.secret_bytes());
                let secret = crate::engine::log::format::LogId(secret).to_hex();
                let rank = self.rank();
                self.send(key, &[b"ADOPT", log.as_bytes(), secret.as_bytes(), rank.as_bytes()]);
            }
        }
    }

    /// The number of the term of which this server is the master; 0: it is none.
    fn rank(&self) -> String {
        let replication = &self.server.replication;
        let is_master = replication.master.is_none() && replication.candidate.is_none();
        let number = if is_master { self.engine.terms.number() } else { 0 };
        number.to_string()
    }

    /// How many other servers than that of this connection copy the log.
    fn other_nodes(&self, key: u64) -> usize {
        let replicas = &self.server.replication.replicas;
        let node = replicas.iter().find(|one| one.connection == key).map_or(0, |one| one.node);
        let is_other = |one: &&Replica| one.node != node && one.node != 0 && !one.is_backup;
        let others = replicas.iter().filter(is_other);
        let mut others: Vec<u32> = others.map(|one| one.node).collect();
        others.sort_unstable();
        others.dedup();
        others.len()
    }

    fn leaving(&mut self, key: u64) {
        if let Some(replica) = self.server.replication.replica_mut(key) {
            replica.stage = Stage::Leaving;
        }
    }

    /// Whether a master may send its log: it is the newest that this replica knows of.
    fn may_sync(&mut self, key: u64, request: &SyncRequest) -> bool {
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
            self.send(key, &[b"PROMISE", number.as_bytes(), node.as_bytes()]);
        }
        false
    }

    fn refuse_replica(&mut self, key: u64, text: &str) {
        let mut output = Output::default();
        output.writer(Protocol::Resp2).error(text);
        self.push(key, output);
    }

    // ---------------------------------------------------------------- enough others

    /// A replica says how far it has the log. What it was never sent it cannot have.
    pub(super) fn acknowledged(&mut self, connection: &mut Connection, position: u64) {
        let Some(replica) = self.server.replication.replica_mut(connection.key) else { return };
        if replica.stage != Stage::Online {
            // It gets no log yet, or none any more.
            return;
        }
        if position <= replica.sent {
            replica.acked = position;
            return self.count_replicated();
        }
        let (host, port, sent) = (replica.host.clone(), replica.port, replica.sent);
        self.engine.log.notices.push(format!(
            "replica {host} {port} acknowledges position {position} and was sent the log up to {sent}: it is let go"
        ));
        self.server.replication.replicas.retain(|one| one.connection != connection.key);
        connection.is_killed = true;
        connection.closing = true;
    }

    /// How far as many replicas have the log as a write needs.
    pub(super) fn count_replicated(&mut self) {
        let min_replicas = self.server.settings.min_replicas;
        let replication = &self.server.replication;
        if min_replicas == 0 || replication.master.is_some() || replication.candidate.is_some() {
            return;
        }
        let mut acked: Vec<(u32, u64)> =
            replication.online().map(|one| (one.node, one.acked)).collect();
        acked.sort_unstable_by_key(|(node, position)| (*node, std::cmp::Reverse(*position)));
        acked.dedup_by_key(|(node, _)| *node);
        let mut positions: Vec<u64> = acked.into_iter().map(|(_, position)| position).collect();
        positions.sort_unstable_by_key(|position| std::cmp::Reverse(*position));
        let reached = positions.get(min_replicas - 1).copied().unwrap_or(0);
        if self.engine.log.replicated.is_none_or(|before| before < reached) {
            self.engine.log.replicated = Some(reached);
            self.log_moved = true;
        }
    }

    fn look_at_gate(&mut self) {
        let now_ms = self.engine.now.monotonic_ms;
        let replication = &self.server.replication;
        let min_replicas = self.server.settings.min_replicas;
        let is_good = |one: &&Replica| now_ms < one.heard_ms + REPLICA_SILENCE_MS;
        let good = replication.online().filter(is_good).count();
        let gate = if replication.master.is_some() || self.affairs.restarts {
            Gate::ReadOnly
        } else if replication.candidate.is_some() || good < min_replicas {
            Gate::NoReplicas
        } else {
            Gate::Open
        };
        self.server.replication.gate = gate;
    }

    /// A client waits until so many replicas have what was written so far.
    pub(super) fn wait_for_replicas(&mut self, client: ClientRef, count: usize, ms: u64) {
        let until_ms = (ms > 0).then(|| self.engine.now.monotonic_ms + ms);
        let position = self.engine.log.appended();
        self.server.replication.waits.push(ReplicaWait { client, count, position, until_ms });
    }

    /// Whether a connection waits for replicas, be it for ever.
    pub fn waits_for_replicas(&self, key: u64) -> bool {
        self.server.replication.waits.iter().any(|wait| wait.client.connection == key)
    }

    fn end_waits(&mut self, now_ms: u64) {
        let mut at = 0;
        while let Some(wait) = self.server.replication.waits.get(at) {
            let has_it = |one: &&Replica| one.acked >= wait.position;
            let count = self.server.replication.online().filter(has_it).count();
            let is_over = wait.until_ms.is_some_and(|until| until <= now_ms);
            // Who says no more may be gone: nobody is waited for without an end.
            let is_gone = self.get(wait.client.connection).is_none_or(|one| one.eof);
            if count < wait.count && !is_over && !is_gone {
                at += 1;
                continue;
            }
            let wait = self.server.replication.waits.remove(at);
            let mut output = Output::default();
            output.writer(Protocol::Resp2).integer(count as i64);
            self.finish(Finished { client: wait.client, output, rests_on: 0 });
        }
    }

    /// Sends a replica, or a master, an array of words.
    fn send(&mut self, key: u64, words: &[&[u8]]) {
        let mut output = Output::default();
        let mut writer = output.writer(Protocol::Resp2);
        writer.array(words.len());
        words.iter().for_each(|word| writer.bulk(word));
        self.push(key, output);
    }
}
