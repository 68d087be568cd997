//! One connection: what came in and is not run yet, and the replies in their order.

use super::meter::Timed;
use crate::command::Session;
use crate::engine::Fetched;
use crate::limits::{
    OUTPUT_BYTES_MAX, OUTPUT_BYTES_SHARE, PUSH_OUTPUT_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX, scaled,
};
use crate::output::Output;
use crate::resp::RequestParser;
use std::collections::VecDeque;

/// Input that a connection that cannot go on may pile up before the loop stops reading its socket.
const STASH_BYTES_MAX: usize = scaled(64 << 10, 4 << 10) as usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    No,
    OnRecord,
    /// A task whose reply, of this number, must come before anything else is run.
    OnTask {
        reply: u64,
    },
    OnLog,
    OnPause,
}

/// What a connection wants of its socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// There is something to send.
    pub has_output: bool,
    /// The socket is to be read.
    pub wants_input: bool,
    /// Nothing follows what was taken so far: the socket is to be closed behind it.
    pub is_answered: bool,
    /// The client is to go now, whatever is on its way.
    pub is_let_go: bool,
    /// The hub goes on with it when it hears that something is out.
    pub waits_for_room: bool,
}

/// Room for replies that an empty queue keeps.
const IDLE_REPLIES_MAX: usize = 64;
/// Room that is made ahead for the rest of one argument; larger ones grow as they come.
const STASH_RESERVE_BYTES: usize = 1 << 20;
/// How many buffers for input are kept, and of what size at most.
const SPARE_INPUTS_MAX: usize = 64;
const SPARE_INPUT_BYTES_MAX: usize = 2 << 20;

/// Memory for unfinished input: a connection has it only while it has such input.
#[derive(Default)]
pub struct SpareInputs(Vec<Vec<u8>>);

impl SpareInputs {
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    pub(super) fn give(&mut self, mut input: Vec<u8>) {
        if self.0.len() < SPARE_INPUTS_MAX && input.capacity() <= SPARE_INPUT_BYTES_MAX {
            input.clear();
            self.0.push(input);
        }
    }
}

/// A reply in the queue.
pub enum Reply {
    /// Written; to be sent when the log is acknowledged up to `rests_on`. Replies of one turn share
    /// one of these, as their records share one write.
    Ready { output: Output, rests_on: u64, turn: u64 },
    /// A task is at it; with an estimate of its bytes, and whether the client wants it.
    Waiting { bytes: usize, is_muted: bool, timed: Option<Box<Timed>> },
}

pub struct Connection {
    pub key: u64,
    pub session: Session,
    /// What is to be sent next.
    pub output: Output,
    /// Bytes of replies that the loop has taken and that are not out yet.
    pub(super) in_flight: usize,
    /// Replies are still sent, requests no longer taken.
    pub closing: bool,
    /// The client has closed its side.
    pub eof: bool,
    /// All is sent and our side is closed; what still comes in is thrown away.
    pub(super) lingering: bool,
    /// It does not take what is pushed to it: the loop shall let it go.
    pub(super) is_overrun: bool,
    /// CLIENT KILL: the loop shall let it go.
    pub(super) is_killed: bool,
    /// Silence is no reason to let it go: it waits for something, or is sent things unasked.
    pub is_watching: bool,
    /// When it last sent or took something, in milliseconds of the monotonic clock.
    pub active_ms: u64,
    /// It was turned away, and is not counted among the clients.
    pub(super) is_rejected: bool,
    pub(super) touched: bool,
    /// The hub has it among those whose oldest reply waits for the log.
    pub(super) is_unacknowledged: bool,
    /// All connections together have too many replies waiting, and this one more than its share.
    pub(super) is_held: bool,
    /// It had its share of a turn and goes on when those before it had theirs.
    pub(super) is_queued: bool,
    /// The way to a master of whom nothing can be taken before the disk has done something.
    pub(super) takes_no_more: bool,
    /// Bytes of replies that it was given since it was last its turn, and how many these may be.
    pub(super) turn_bytes: usize,
    pub(super) turn_bytes_max: usize,
    /// What the hub counts for it in the replies of all connections, in bytes.
    pub(super) counted_bytes: usize,
    pub(super) parser: RequestParser,
    pub(super) replies: VecDeque<Reply>,
    pub(super) blocked: Blocked,
    /// The next element of an MGET under way; 0: none.
    pub(super) parts: usize,
    /// When that MGET began, in nanoseconds of the machine's clock.
    pub(super) parts_since_ns: u64,
    /// EXEC is under way.
    pub(super) is_in_transaction: bool,
    /// What came unasked while an MGET or an EXEC was under way.
    pushed: Output,
    pub(super) fetched: Vec<Fetched>,
    /// Number of the first reply in the queue.
    first_reply: u64,
    /// Bytes of the replies in the queue, known or estimated.
    queued_bytes: usize,
    input: Vec<u8>,
    /// Bytes of `input` that were run.
    consumed: usize,
}

impl Connection {
    pub fn new(key: u64, session: Session) -> Self {
        Self {
            key,
            session,
            output: Output::default(),
            in_flight: 0,
            closing: false,
            eof: false,
            lingering: false,
            is_overrun: false,
            is_killed: false,
            is_watching: false,
            active_ms: 0,
            is_rejected: false,
            touched: false,
            is_unacknowledged: false,
            is_held: false,
            is_queued: false,
            takes_no_more: false,
            turn_bytes: 0,
            turn_bytes_max: 0,
            counted_bytes: 0,
            parser: RequestParser::new(),
            replies: VecDeque::new(),
            blocked: Blocked::No,
            parts: 0,
            parts_since_ns: 0,
            is_in_transaction: false,
            pushed: Output::default(),
            fetched: Vec::new(),
            first_reply: 0,
            queued_bytes: 0,
            input: Vec::new(),
            consumed: 0,
        }
    }

    // ---------------------------------------------------------------- input

    pub(super) fn has_input(&self) -> bool {
        self.stashed() > 0
    }

    /// Bytes that came in and are not run yet.
    pub fn stashed(&self) -> usize {
        self.input.len() - self.consumed
    }

    /// Keeps bytes for later. `spare` gives the memory, and a request of which the size is known gets
    /// room for all of it; the parser has checked the size.
    pub(super) fn stash(&mut self, bytes: &[u8], spare: &mut SpareInputs) {
        if self.input.capacity() == 0 {
            self.input = spare.take();
        }
        self.input.reserve(bytes.len() + self.parser.bytes_wanted().min(STASH_RESERVE_BYTES));
        self.input.extend_from_slice(bytes);
    }

    pub(super) fn take_input(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.input), std::mem::take(&mut self.consumed))
    }

    pub(super) fn give_input(
        &mut self,
        mut input: Vec<u8>,
        consumed: usize,
        spare: &mut SpareInputs,
    ) {
        if consumed == input.len() {
            spare.give(input);
            return;
        }
        if consumed > input.len() / 2 {
            input.drain(..consumed);
            self.consumed = 0;
        } else {
            self.consumed = consumed;
        }
        self.input = input;
    }

    /// Throws the input away and returns how many bytes it was.
    pub(super) fn drop_input(&mut self) -> usize {
        let bytes = self.stashed();
        self.input = Vec::new();
        self.consumed = 0;
        bytes
    }

    /// Whether the next request may be run: back-pressure for a client that does not read.
    pub fn may_run(&self) -> bool {
        !self.closing
            && self.blocked == Blocked::No
            && !(self.is_held && self.reply_bytes() > OUTPUT_BYTES_SHARE)
            && self.replies.len() < REQUESTS_IN_FLIGHT_MAX
            && self.reply_bytes() < OUTPUT_BYTES_MAX
    }

    /// Whether the next request may be run in this turn.
    pub(super) fn may_run_now(&self) -> bool {
        self.may_run() && self.turn_bytes < self.turn_bytes_max
    }

    /// Bytes of replies that the client can take, or that a task will bring. What was pushed meanwhile is
    /// not among them: it waits for the MGET under way, which must not wait for it.
    fn reply_bytes(&self) -> usize {
        self.waiting_bytes() + self.queued_bytes
    }

    /// Bytes of replies that wait for nothing but their way out.
    pub fn waiting_bytes(&self) -> usize {
        self.output.len() + self.in_flight
    }

    /// Bytes of replies that are not out yet, known or estimated.
    pub fn pending_bytes(&self) -> usize {
        self.reply_bytes() + self.pushed.len()
    }

    /// Replies that wait for something, and their bytes, known or estimated.
    pub(super) fn queued(&self) -> (usize, usize) {
        (self.replies.len(), self.queued_bytes)
    }

    /// Whether its silence says nothing: it watches, waits for a reply of ours, or is let go already.
    pub(super) fn may_be_silent(&self) -> bool {
        let waits = self.is_queued || !self.replies.is_empty() || self.blocked != Blocked::No;
        let is_subscribed = !self.session.subscriptions.is_empty();
        self.is_watching || is_subscribed || waits || self.lingering
    }

    /// Whether the loop should read the socket.
    pub fn wants_input(&self) -> bool {
        let runs = self.may_run() && !self.is_queued && !self.takes_no_more;
        !self.eof && (self.lingering || runs || self.stashed() < STASH_BYTES_MAX)
    }

    /// Whether everything that was asked is answered and nothing can follow; the last of it may be on its way.
    /// Requests that wait for room follow, and a request that the client has not ended does not.
    pub(super) fn is_answered(&self) -> bool {
        let is_run = self.may_run() || !self.has_input();
        let is_through = self.blocked == Blocked::No && !self.is_queued && is_run;
        let asked_all = self.closing || (self.eof && is_through);
        asked_all && self.replies.is_empty() && self.output.is_empty()
    }

    /// Whether all that is out, too.
    pub fn is_finished(&self) -> bool {
        self.is_answered() && self.in_flight == 0
    }

    /// Whether something waits for its replies to be out, so that the hub is to hear of that at once.
    fn waits_for_room(&self) -> bool {
        let has_more = self.has_input() || self.closing || self.eof;
        self.in_flight > 0 && (has_more || self.in_flight > OUTPUT_BYTES_SHARE)
    }

    /// What the loop is to do for it.
    pub(super) fn wishes(&self) -> Wishes {
        Wishes {
            has_output: !self.output.is_empty(),
            wants_input: self.wants_input(),
            is_answered: self.is_answered(),
            is_let_go: self.is_overrun || self.is_killed,
            waits_for_room: self.waits_for_room(),
        }
    }

    // ---------------------------------------------------------------- replies

    /// The number of the reply that is pushed next.
    pub(super) fn next_reply(&self) -> u64 {
        self.first_reply + self.replies.len() as u64
    }

    pub(super) fn push_reply(&mut self, reply: Reply) {
        self.queued_bytes += reply.bytes();
        self.replies.push_back(reply);
    }

    /// Puts what nobody asked for just now behind the replies, never into one. False: too much waits
    /// already.
    pub(super) fn push(&mut self, output: Output) -> bool {
        if self.pending_bytes() + output.len() > PUSH_OUTPUT_BYTES_MAX {
            return false;
        }
        if self.parts > 0 || self.is_in_transaction {
            self.pushed.append(output);
        } else if self.replies.is_empty() {
            self.output.append(output);
        } else {
            self.push_reply(Reply::Ready { output, rests_on: 0, turn: 0 });
        }
        true
    }

    /// The MGET under way is done.
    pub(super) fn parts_end(&mut self) {
        self.parts = 0;
        self.push_held_back();
    }

    /// Puts what came unasked meanwhile behind the replies.
    pub(super) fn push_held_back(&mut self) {
        if !self.pushed.is_empty() {
            let output = std::mem::take(&mut self.pushed);
            self.push_reply(Reply::Ready { output, rests_on: 0, turn: 0 });
        }
    }

    /// The last reply of the queue is timed.
    pub(super) fn time_reply(&mut self, of: Option<Box<Timed>>) {
        if let Some(Reply::Waiting { timed, .. }) = self.replies.back_mut() {
            *timed = of;
        }
    }

    /// The last reply of the queue, where one of this turn can go into it too.
    pub(super) fn open_reply(&mut self, turn: u64) -> Option<&mut Reply> {
        self.replies
            .back_mut()
            .filter(|reply| matches!(reply, Reply::Ready { turn: of, .. } if *of == turn))
    }

    /// The last reply of the queue has grown.
    pub(super) fn reply_grew(&mut self, bytes: usize) {
        self.queued_bytes += bytes;
    }

    /// Puts the reply of a task into its place, and tells of its time.
    pub(super) fn fill_reply(
        &mut self,
        number: u64,
        output: Output,
        rests_on: u64,
    ) -> Option<Box<Timed>> {
        let at = number.checked_sub(self.first_reply)?;
        let reply = self.replies.get_mut(at as usize)?;
        self.queued_bytes -= reply.bytes();
        let is_muted = matches!(reply, Reply::Waiting { is_muted: true, .. });
        let output = if is_muted { Output::default() } else { output };
        let rests_on = if is_muted { 0 } else { rests_on };
        let before = std::mem::replace(reply, Reply::Ready { output, rests_on, turn: 0 });
        self.queued_bytes += reply.bytes();
        match before {
            Reply::Waiting { timed, .. } => timed,
            Reply::Ready { .. } => None,
        }
    }

    /// Moves the replies that may be sent to the output.
    pub(super) fn release(&mut self, acknowledged: u64, broken: bool) {
        while let Some(Reply::Ready { rests_on, .. }) = self.replies.front() {
            let lost = broken && *rests_on > acknowledged;
            if *rests_on > acknowledged && !lost {
                return;
            }
            let Some(reply) = self.replies.pop_front() else { return };
            self.first_reply += 1;
            self.queued_bytes -= reply.bytes();
            match reply {
                Reply::Ready { output, .. } if !lost => self.output.append(output),
                // These were written, but nobody knows whether they are on the disk. Several replies
                // can be in one: the client must not take later ones for them, so this is the last.
                _ => {
                    self.output.writer(self.session.protocol).error("Cannot write data right now");
                    self.closing = true;
                    self.first_reply += self.replies.len() as u64;
                    self.replies.clear();
                    self.queued_bytes = 0;
                }
            }
        }
        if self.replies.is_empty() {
            self.replies.shrink_to(IDLE_REPLIES_MAX);
        }
    }

    /// Throws the replies away that wait for something.
    pub(super) fn drop_replies(&mut self) {
        self.first_reply += self.replies.len() as u64;
        self.replies.clear();
        self.queued_bytes = 0;
    }

    /// Whether its oldest reply waits for the log.
    pub(super) fn waits_for_log(&self) -> bool {
        matches!(self.replies.front(), Some(Reply::Ready { .. }))
    }
}

impl Reply {
    fn bytes(&self) -> usize {
        match self {
            Reply::Ready { output, .. } => output.len(),
            Reply::Waiting { bytes, .. } => *bytes,
        }
    }
}
