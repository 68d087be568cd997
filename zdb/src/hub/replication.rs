//! Who has the log beside this server: whether it follows another one or is followed, what it keeps about that, and
//! what is to be done for it in each turn. The rooms behind this one have the way of the data: a replica joins,
//! is fed and acknowledges; a server that follows has its link; and before anybody writes a term begins.

mod acknowledging;
mod feeding;
mod joining;
mod link;
mod receiving;
mod terms;

use super::Hub;
use crate::command::Tasks;
use crate::command::replication::{
    Address, Candidate, Gate, Link, LinkState, ReceivedFile, check_of,
};
use crate::disk::{Operation, Root};
use crate::engine::node::{self, Errand, Promise};
use crate::engine::{Answer, Engine, Waiter};
use crate::limits::{REPLICA_RETRY_MS, REPLICA_SILENCE_MS, REPLICA_STATUS_MS};
use crate::output::Output;
use crate::resp::Protocol;

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
        // One that is being copied anew is none to whom others should give way.
        if self.server.settings.min_replicas > 0 || !self.engine.is_whole() {
            self.engine.log.replicated = Some(0);
            self.server.replication.candidate =
                Some(Candidate { number, wanted: None, is_told: false });
        } else {
            self.engine.log.replicated = None;
            self.engine.term_due = Some(number);
            self.engine.is_term_kept = self.is_node_saved();
        }
        self.look_at_gate();
    }

    /// Neither follows nor is followed: whoever did begins anew.
    fn leave_roles(&mut self) {
        if self.engine.node.errand != Errand::None && !self.stopping {
            // It was to give way to somebody whom it does not follow any more.
            self.engine.node.errand = Errand::None;
            self.affairs.changed += 1;
            self.affairs.restarts = false;
        }
        self.end_link();
        let replication = &mut self.server.replication;
        replication.candidate = None;
        let keys: Vec<u64> = replication.replicas.iter().map(|one| one.connection).collect();
        for key in keys {
            self.let_go(key);
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

    // ---------------------------------------------------------------- the turn

    /// What replication has to do in a turn.
    pub(super) fn run_replication(&mut self) {
        let now_ms = self.engine.now.monotonic_ms;
        for (key, request) in std::mem::take(&mut self.syncs) {
            self.sync(key, request);
        }
        self.settle_owed();
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
                self.end_link();
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
            let owed = match errand {
                Errand::Adopt { log, .. } if log == self.engine.log.id => {
                    self.kept_before(self.engine.log.end())
                }
                Errand::Adopt { .. } | Errand::Rewind { .. } | Errand::None => (0, 0),
            };
            let node = &mut self.engine.node;
            node.owed = node.owed.max(owed);
            node.errand = errand;
            self.affairs.changed += 1;
        }
        self.affairs.restarts = true;
        self.drop_link();
    }

    /// Says words to a replica, or to a master, and their check.
    fn say(&mut self, key: u64, words: &[&[u8]]) {
        let check = check_of(words);
        self.send(key, &[words, &[check.as_bytes()]].concat());
    }

    /// The same without a check, for what has one of its own.
    fn send(&mut self, key: u64, words: &[&[u8]]) {
        let mut output = Output::default();
        let mut writer = output.writer(Protocol::Resp2);
        writer.array(words.len());
        words.iter().for_each(|word| writer.bulk(word));
        self.push(key, output);
    }
}
