//! The hub: all connections and the engine, without a socket. Bytes come in, replies and disk
//! operations go out; the loop around it moves them. Deterministic, so that a simulator can be the loop.

mod connection;
mod messages;
mod meter;
mod metrics;
mod orders;
mod outlet;
mod pipeline;
mod replication;
mod stalled;
mod transaction;
mod watchers;

pub use connection::{Connection, Wishes};

use crate::command::{
    self, COMMANDS, ClientRef, Context, Finished, Outcome, ServerState, Source, Tasks,
};
use crate::disk::{Completion, Operation, Token};
use crate::engine::index::KeyHash;
use crate::engine::log::Policy;
use crate::engine::{Answer, Engine, Now, Waiter};
use crate::limits::*;
use crate::output::Output;
use crate::resp::Request;
use connection::{Blocked, Reply, SpareInputs};
use meter::Meter;
use pipeline::Batch;
use replication::Affairs;
use std::collections::VecDeque;
use watchers::Watchers;

/// Rounds of one settling; what is left after them is for the next turn.
const SETTLE_ROUNDS_MAX: usize = 8;
/// Reply of the null server to GET, in bytes.
const NULL_PAYLOAD: [u8; 100] = [b'x'; 100];

pub struct Hub {
    pub engine: Engine,
    pub server: ServerState,
    /// Answers SET and GET with constants: the cost of the loops without the engine, for `bench`.
    pub null: bool,
    pub stopping: bool,
    tasks: Tasks,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Connections with something new for the loop: output, or a change of what they want.
    touched: Vec<u64>,
    /// Connections whose oldest reply waits for the log.
    unacknowledged: Vec<u64>,
    /// Connections whose next request waits for the log.
    stalled: Vec<u64>,
    /// Connections that had their share of a turn, in the order in which they go on.
    queued: VecDeque<u64>,
    /// Bytes of replies that this turn has made, and those of the queue among them.
    turn_bytes: usize,
    queue_bytes: usize,
    log_moved: bool,
    /// By which writes were acknowledged in the turn before.
    policy: Policy,
    watchers: Watchers,
    meter: Meter,
    /// Counts the turns, from 1: replies of one turn travel together.
    turn: u64,
    next_session: u64,
    /// Connections that are turned away and not gone yet.
    rejected_now: u64,
    input_bytes: usize,
    output_bytes: usize,
    spare_inputs: SpareInputs,
    /// When clients that do not read were last looked for.
    stalled_looked_ms: u64,
    batch: Box<Batch>,
    affairs: Affairs,
    /// Replicas that asked for the log in this turn.
    syncs: Vec<(u64, crate::command::replication::SyncRequest)>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// Who is at the other end.
pub struct Peer {
    pub name: String,
    /// Where it connected to.
    pub local_address: String,
    /// Over loopback or a unix socket.
    pub local: bool,
    /// Bytes come in and go out through TLS.
    pub encrypted: bool,
    /// Only who has shown a certificate of the authority that this server was given gets this far.
    pub verified: bool,
    /// Whom its wrong passwords are counted for.
    pub source: Source,
}

impl Hub {
    pub fn new(engine: Engine, server: ServerState, null: bool) -> Self {
        Self {
            policy: engine.log.policy,
            watchers: Watchers::default(),
            meter: Meter::default(),
            engine,
            server,
            null,
            stopping: false,
            tasks: Tasks::default(),
            slots: Vec::new(),
            free: Vec::new(),
            touched: Vec::new(),
            unacknowledged: Vec::new(),
            stalled: Vec::new(),
            queued: VecDeque::new(),
            turn_bytes: 0,
            queue_bytes: 0,
            log_moved: false,
            turn: 1,
            next_session: 0,
            rejected_now: 0,
            input_bytes: 0,
            output_bytes: 0,
            spare_inputs: SpareInputs::default(),
            stalled_looked_ms: 0,
            batch: Box::default(),
            affairs: Affairs::default(),
            syncs: Vec::new(),
        }
    }

    // ---------------------------------------------------------------- connections

    /// Takes a new connection and returns its key, which is below 2^56. Whoever is not to be served is
    /// told why, and let go.
    pub fn connected(&mut self, peer: Peer) -> u64 {
        let refusal = self.refusal(&peer);
        self.open(peer, refusal)
    }

    /// Takes the connection to the master.
    fn open_link(&mut self, peer: Peer) -> u64 {
        let key = self.open(peer, None);
        let connection = self.get_mut(key).expect("just opened");
        connection.session.is_link = true;
        connection.is_watching = true;
        key
    }

    fn open(&mut self, peer: Peer, refusal: Option<&'static str>) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let key = u64::from(slot.generation) << 24 | u64::from(index);
        self.next_session += 1;
        self.server.stats.clients_lifetime += 1;
        let session = self.server.new_session(self.next_session, peer, self.engine.now.unix_s());
        let mut connection = Box::new(Connection::new(key, session));
        connection.active_ms = self.engine.now.monotonic_ms;
        match refusal {
            Some(text) => {
                connection.is_rejected = true;
                self.rejected_now += 1;
                self.server.stats.rejected_connections += 1;
                self.refuse(&mut connection, text);
            }
            None => self.server.stats.clients_now += 1,
        }
        self.touch(&mut connection);
        self.put_back(connection);
        key
    }

    /// Whether as many clients are served as may be.
    fn is_crowded(&self) -> bool {
        self.server.stats.clients_now >= self.server.settings.clients_max
    }

    /// Whether a new connection is closed without a word: the table is full, or it would be turned away
    /// as so many others that are still there.
    pub fn turns_away(&mut self, peer: &Peer) -> bool {
        let is_full = self.free.is_empty() && self.slots.len() > 0xff_ffff;
        let is_one_of_many =
            self.rejected_now >= REJECTED_CLIENTS_MAX && self.refusal(peer).is_some();
        let turns_away = is_full || is_one_of_many;
        self.server.stats.rejected_connections += u64::from(turns_away);
        turns_away
    }

    /// Why a new connection is not served.
    fn refusal(&self, peer: &Peer) -> Option<&'static str> {
        match self.is_crowded() {
            true => Some("max number of clients reached"),
            false => self.server.refuse_stranger(peer),
        }
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut Connection> {
        self.slots
            .get_mut((key & 0xff_ffff) as usize)?
            .connection
            .as_deref_mut()
            .filter(|connection| connection.key == key)
    }

    fn get(&self, key: u64) -> Option<&Connection> {
        self.slots
            .get((key & 0xff_ffff) as usize)?
            .connection
            .as_deref()
            .filter(|connection| connection.key == key)
    }

    pub fn keys(&self) -> Vec<u64> {
        self.slots.iter().filter_map(|slot| slot.connection.as_ref()).map(|one| one.key).collect()
    }

    /// Takes a connection out, to work on it beside the rest of the hub.
    fn take(&mut self, key: u64) -> Option<Box<Connection>> {
        self.get_mut(key)?;
        self.slots[(key & 0xff_ffff) as usize].connection.take()
    }

    fn put_back(&mut self, mut connection: Box<Connection>) {
        let pending = connection.pending_bytes();
        self.output_bytes = self.output_bytes + pending - connection.counted_bytes;
        connection.counted_bytes = pending;
        let index = (connection.key & 0xff_ffff) as usize;
        self.slots[index].connection = Some(connection);
    }

    fn touch(&mut self, connection: &mut Connection) {
        if !connection.touched {
            connection.touched = true;
            self.touched.push(connection.key);
        }
    }

    // ---------------------------------------------------------------- bytes in

    /// Takes bytes from a client.
    pub fn received(&mut self, key: u64, bytes: &[u8]) {
        let Some(mut connection) = self.take(key) else { return };
        self.server.stats.received_bytes += bytes.len() as u64;
        connection.active_ms = self.engine.now.monotonic_ms;
        if connection.session.is_link && !connection.closing {
            connection.stash(bytes, &mut self.spare_inputs);
            self.input_bytes += bytes.len();
            self.touch(&mut connection);
            self.put_back(connection);
            return self.link_received(key);
        }
        if !connection.closing {
            if connection.has_input() {
                connection.stash(bytes, &mut self.spare_inputs);
                self.input_bytes += bytes.len();
                self.go_on(&mut connection);
            } else {
                let consumed = self.run(&mut connection, bytes, self.share());
                let rest = &bytes[consumed..];
                if !rest.is_empty() && !connection.closing {
                    connection.stash(rest, &mut self.spare_inputs);
                    self.input_bytes += rest.len();
                }
            }
            if self.input_bytes > INPUT_BYTES_TOTAL_MAX {
                let text = "Too many unfinished requests on all connections, try again later";
                self.refuse(&mut connection, text);
                self.input_bytes -= connection.drop_input();
            }
        }
        self.touch(&mut connection);
        self.put_back(connection);
    }

    /// Goes on with requests that had to wait: for a record, the log, or room for replies.
    pub fn resume(&mut self, key: u64) {
        let Some(mut connection) = self.take(key) else { return };
        self.go_on(&mut connection);
        self.touch(&mut connection);
        self.put_back(connection);
    }

    fn go_on(&mut self, connection: &mut Connection) {
        // Nobody overtakes those before him in the queue.
        if !connection.is_queued && !connection.session.is_link {
            self.run_stashed(connection, self.share());
        }
    }

    fn run_stashed(&mut self, connection: &mut Connection, share: usize) {
        let (input, start) = connection.take_input();
        let consumed = self.run(connection, &input[start..], share);
        let before = input.len() - start;
        if connection.closing {
            self.input_bytes -= before;
        } else {
            self.input_bytes -= consumed;
            connection.give_input(input, start + consumed, &mut self.spare_inputs);
        }
    }

    /// Nothing more is taken from this client: says so behind its other replies, and closes.
    fn refuse(&mut self, connection: &mut Connection, text: &str) {
        let mut output = Output::default();
        output.writer(connection.session.protocol).error(text);
        connection.push_reply(Reply::Ready { output, rests_on: 0, turn: 0 });
        connection.closing = true;
        connection.release(self.engine.log.acknowledged(), false);
    }

    /// Runs one request. False: it has to be run again later.
    fn execute(
        &mut self,
        connection: &mut Connection,
        request: Request<'_>,
        hash: Option<KeyHash>,
    ) -> bool {
        if self.null && self.answer_null(connection, request) {
            return true;
        }
        if self.watchers.is_needed | connection.session.is_special() {
            return self.execute_watched(connection, request, hash);
        }
        self.execute_plain(connection, request, hash)
    }

    fn execute_plain(
        &mut self,
        connection: &mut Connection,
        request: Request<'_>,
        hash: Option<KeyHash>,
    ) -> bool {
        if connection.parts > 0 {
            return self.execute_parts(connection, request);
        }
        let outcome =
            self.step(connection, hash, |context, out| command::execute(context, request, out));
        if self.must_wait(connection, &outcome) {
            return false;
        }
        match outcome {
            Outcome::Parts(_) => {
                connection.parts = 1;
                connection.parts_since_ns = self.meter.since_ns;
                return self.execute_parts(connection, request);
            }
            Outcome::Later { alone, .. } => {
                if alone {
                    let reply = connection.next_reply() - 1;
                    connection.blocked = Blocked::OnTask { reply };
                }
                connection.time_reply(self.timed(connection, request));
                connection.fetched.clear();
                return true;
            }
            Outcome::Order(order) => self.carry_out(connection, *order),
            Outcome::Transaction(requests) => self.run_transaction(connection, &requests),
            Outcome::Close => connection.closing = true,
            Outcome::Stop => {
                // SHUTDOWN has no reply: that of a request behind it would pass for one.
                connection.closing = true;
                self.stop();
            }
            Outcome::Done
            | Outcome::DoneAt(_)
            | Outcome::Failed
            | Outcome::NeedsRecord
            | Outcome::NeedsLog => {}
        }
        connection.fetched.clear();
        self.ran(connection, request);
        true
    }

    /// Goes on with the parts of an MGET or an UNLINK, as far as there is room for replies.
    fn execute_parts(&mut self, connection: &mut Connection, request: Request<'_>) -> bool {
        while connection.parts < request.len() {
            if !connection.may_run_now() {
                return false;
            }
            let at = connection.parts;
            let outcome = self
                .step(connection, None, |context, out| command::part(context, request, at, out));
            if self.must_wait(connection, &outcome) {
                return false;
            }
            connection.fetched.clear();
            connection.parts += 1;
            if outcome == Outcome::Failed {
                break;
            }
        }
        connection.parts_end();
        // What was pushed meanwhile may be first in the queue now.
        connection.release(self.engine.log.acknowledged(), self.engine.log.broken().is_some());
        if connection.waits_for_log() {
            self.wait_for_log(connection);
        }
        if let Some(command) = connection.session.running.command {
            self.ran_alone(connection, request, command, connection.parts_since_ns);
        }
        true
    }

    /// Whether the request has to be run again later; sees to it that it is.
    fn must_wait(&mut self, connection: &mut Connection, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::NeedsRecord => connection.blocked = Blocked::OnRecord,
            Outcome::NeedsLog => {
                connection.blocked = Blocked::OnLog;
                self.stalled.push(connection.key);
            }
            _ => return false,
        }
        if connection.parts == 0 {
            // It counts when it is through.
            self.server.stats.commands -= 1;
        }
        true
    }

    /// Calls a command and puts its reply where it belongs: straight into the output where nothing is
    /// queued before it, into the last reply of the queue where that is of this turn, or behind it.
    fn step(
        &mut self,
        connection: &mut Connection,
        hash: Option<KeyHash>,
        run: impl FnOnce(&mut Context<'_>, &mut Output) -> Outcome,
    ) -> Outcome {
        let client = ClientRef { connection: connection.key, reply: connection.next_reply() };
        let direct = connection.replies.is_empty();
        let mut out = match connection.open_reply(self.turn) {
            Some(Reply::Ready { output, .. }) => std::mem::take(output),
            _ if direct => std::mem::take(&mut connection.output),
            _ => Output::default(),
        };
        let mark = out.mark();
        let before = out.len();
        let mut context = Context {
            engine: &mut self.engine,
            session: &mut connection.session,
            server: &mut self.server,
            tasks: &mut self.tasks,
            client,
            hash,
            fetched: &connection.fetched,
        };
        let mut outcome = run(&mut context, &mut out);
        let running = connection.session.running;
        self.account(running.command, running.is_rejected, out.head_since(mark));
        // Also what a client does not want to hear was made for it.
        connection.turn_bytes += out.len() - before;
        let is_muted = connection.session.is_muted();
        if is_muted {
            out.undo(mark);
            if let Outcome::DoneAt(_) = outcome {
                outcome = Outcome::Done;
            }
        }
        let end = match &outcome {
            Outcome::DoneAt(end) => *end,
            _ => 0,
        };
        let grown = out.len() - before;
        match connection.open_reply(self.turn) {
            Some(Reply::Ready { output, rests_on, .. }) => {
                *output = out;
                *rests_on = end.max(*rests_on);
                connection.reply_grew(grown);
            }
            _ if direct && end == 0 => connection.output = out,
            _ if direct => {
                let output = out.split_off(mark);
                connection.output = out;
                self.wait_for_log(connection);
                connection.push_reply(Reply::Ready { output, rests_on: end, turn: self.turn });
            }
            _ if grown > 0 => {
                connection.push_reply(Reply::Ready { output: out, rests_on: end, turn: self.turn });
            }
            _ => {}
        }
        if let Outcome::Later { bytes, .. } = outcome {
            connection.push_reply(Reply::Waiting { bytes, is_muted, timed: None });
        }
        if end > 0 {
            self.commit_begins(end);
        }
        outcome
    }

    /// Counts a reply by how it begins.
    #[inline]
    fn account(&mut self, command: Option<u8>, is_rejected: bool, head: [u8; 2]) {
        if let Some(command) = command {
            let stats = &mut self.server.stats;
            match head {
                [b'-', _] => {
                    stats.errors += 1;
                    if !is_rejected {
                        self.server.latencies.failed(usize::from(command));
                    }
                }
                [b'$', b'-'] | [b'_', _] if self.server.table.looks_up(usize::from(command)) => {
                    stats.misses += 1;
                }
                [b'$' | b':', _] if self.server.table.looks_up(usize::from(command)) => {
                    let is_missing =
                        head == *b":0" && COMMANDS[usize::from(command)].name == "exists";
                    stats.misses += u64::from(is_missing);
                    stats.hits += u64::from(!is_missing);
                }
                _ => {}
            }
        } else {
            self.server.stats.errors += u64::from(head[0] == b'-');
        }
    }

    fn wait_for_log(&mut self, connection: &mut Connection) {
        if !connection.is_unacknowledged {
            connection.is_unacknowledged = true;
            self.unacknowledged.push(connection.key);
        }
    }

    fn answer_null(&mut self, connection: &mut Connection, request: Request<'_>) -> bool {
        let name = request.get(0);
        let mut writer = connection.output.writer(connection.session.protocol);
        if name.eq_ignore_ascii_case(b"SET") && request.len() == 3 {
            writer.bulk(request.get(1));
        } else if name.eq_ignore_ascii_case(b"GET") {
            writer.bulk(&NULL_PAYLOAD);
        } else {
            return false;
        }
        true
    }

    // ---------------------------------------------------------------- the disk

    /// Takes the end of a disk operation.
    pub fn completed(&mut self, completion: Completion) {
        self.log_moved |= crate::engine::log::Log::owns(completion.token);
        self.engine.completed(completion);
    }

    /// The tidy-up after each turn: what the turn made possible happens, what is due is asked for.
    pub fn settle(&mut self) {
        self.settle_requests();
        if self.replicates() {
            // What was written goes to replicas in the same turn.
            self.run_replication();
            self.engine.pump();
        }
    }

    fn settle_requests(&mut self) {
        if self.output_bytes > OUTPUT_BYTES_LAST_MAX {
            self.let_stalled_go();
        }
        if self.watchers.is_needed {
            self.run_deadlines();
        }
        if self.policy != self.engine.log.policy {
            self.policy = self.engine.log.policy;
            self.log_moved = true;
        }
        self.run_queued();
        // Answers from memory lead to more of them; sockets and the log must not wait for the last.
        for _ in 0..SETTLE_ROUNDS_MAX {
            self.engine.pump();
            self.turn += 1;
            let answers = std::mem::take(&mut self.engine.answers);
            if answers.is_empty() && !self.log_moved {
                return;
            }
            for (waiter, answer) in answers {
                self.deliver(waiter, answer);
            }
            if std::mem::take(&mut self.log_moved) {
                self.release_acknowledged();
                for key in std::mem::take(&mut self.stalled) {
                    if let Some(connection) = self.get_mut(key) {
                        connection.blocked = Blocked::No;
                        self.resume(key);
                    }
                }
            }
        }
        self.engine.pump();
        self.turn += 1;
    }

    /// Whether there is nothing left for the next turn.
    pub fn is_settled(&self) -> bool {
        self.engine.answers.is_empty() && !self.log_moved && self.queued.is_empty()
    }

    fn deliver(&mut self, waiter: Waiter, answer: Answer) {
        match waiter {
            Waiter::Connection(key) => {
                let Answer::Record(fetched) = answer else {
                    unreachable!("connections wait for records")
                };
                if let Some(connection) = self.get_mut(key) {
                    connection.fetched.push(fetched);
                    connection.blocked = Blocked::No;
                    self.resume(key);
                }
            }
            Waiter::Cleaner(_) => unreachable!("the engine keeps the cleaner's answers"),
            Waiter::Node(_) | Waiter::Replica(..) | Waiter::Link => {
                self.replication_answer(waiter, answer);
            }
            Waiter::Task { task, part } => {
                if let Some(finished) = self.tasks.resume(&mut self.engine, task, part, answer) {
                    self.finish(finished);
                }
            }
        }
    }

    fn finish(&mut self, finished: Finished) {
        let key = finished.client.connection;
        let acknowledged = self.engine.log.acknowledged();
        let broken = self.engine.log.broken().is_some();
        let head = finished.output.head_since(Output::default().mark());
        let Some(connection) = self.get_mut(key) else { return };
        if connection.blocked == (Blocked::OnTask { reply: finished.client.reply }) {
            connection.blocked = Blocked::No;
        }
        let timed =
            connection.fill_reply(finished.client.reply, finished.output, finished.rests_on);
        connection.release(acknowledged, broken);
        if connection.waits_for_log() && !connection.is_unacknowledged {
            connection.is_unacknowledged = true;
            self.unacknowledged.push(key);
        }
        if let Some(timed) = timed {
            self.account(Some(timed.command), false, head);
            self.task_ended(key, *timed);
        }
        self.resume(key);
    }

    fn release_acknowledged(&mut self) {
        let acknowledged = self.engine.log.acknowledged();
        let broken = self.engine.log.broken().is_some();
        self.commits_end();
        for key in std::mem::take(&mut self.unacknowledged) {
            let Some(connection) = self.get_mut(key) else { continue };
            connection.release(acknowledged, broken);
            connection.is_unacknowledged = connection.waits_for_log();
            if connection.is_unacknowledged {
                self.unacknowledged.push(key);
            }
            self.resume(key);
        }
    }

    pub fn take_operations(&mut self, out: &mut Vec<(Token, Operation)>) {
        self.engine.take_operations(out);
    }

    /// A turn begins.
    pub fn set_time(&mut self, now: Now) {
        self.turn_bytes = 0;
        self.queue_bytes = 0;
        self.engine.now = now;
        self.server.rates.tick(now.monotonic_ms, &self.server.stats);
    }
}
