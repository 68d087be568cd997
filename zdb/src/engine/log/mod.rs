//! The log: one stream of records for the whole disk, cut into segments. It hands out positions,
//! gathers records in the write buffer and decides what is written and flushed when.
//!
//! The log never reads a clock or a file: `pump` turns what is due into operations, `completed` takes
//! their ends. Positions only grow: appended >= submitted >= written >= durable.

pub mod buffer;
mod close;
pub mod copy;
pub mod format;
pub mod packed;
pub mod segments;
pub mod sidecar;
pub mod stub;
mod switch;

use crate::disk::{Done, FileId, Operation, Token};
use crate::engine::index::Place;
use crate::limits::*;
use crate::planted::{self, Bug};
use buffer::WriteBuffer;
use format::{BLOCK, Head, Kind, LogId, RECORD_BYTES_MAX, RECORD_BYTES_MIN};
use segments::{Segment, Segments};
use sidecar::LogEntry;
use std::collections::VecDeque;
use std::io;

/// When a write is acknowledged, and what survives then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It is on stable storage.
    Always,
    /// It survives the process being killed, and a power cut `period_ms` later.
    Every { period_ms: u64 },
    /// It survives the process being killed.
    No,
}

/// Why a record could not be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not now: the buffer is full or a segment is being made. Try again after the next completion.
    Wait,
    /// The file system has no room for a segment, or the log is broken.
    Failed,
}

/// Room that every segment keeps for its end: a padding that fills a block, then a seal of one block.
const SEAL_ROOM: u64 = 2 * BLOCK + RECORD_BYTES_MIN;
/// How long after a flush that could not begin it is tried again, in milliseconds.
const FLUSH_AGAIN_MS: u64 = 10;
/// How long after a failed attempt a segment is asked for again, in milliseconds.
const RETRY_MS: u64 = 500;

enum Prepared {
    Nothing,
    Requested {
        base: u64,
        capacity: u64,
        source: Room,
    },
    Ready(Segment, Room),
    /// Not even from the reserve, if that was tried.
    Failed {
        at_ms: u64,
        source: Room,
    },
}

/// Where the room for a segment comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Free,
    /// What is kept for the cleaner: on a full disk only records that lead to more room get some of it.
    Reserve,
}

/// A write on its way.
struct Flight {
    token: Token,
    file: FileId,
    base: u64,
    start: u64,
    end: u64,
    /// Up to here there are records: less than all where a copy writes its last block as it is.
    covers: u64,
    done: bool,
    /// It ended, but not well: what is behind it never counts as written.
    failed: bool,
}

/// The old segment is full and must be durable before the first write to the new one.
#[derive(Clone, Copy)]
struct Switch {
    end: u64,
    next_start: u64,
}

/// A record of a batch.
pub struct Member<'a> {
    pub head: Head,
    pub key: &'a [u8],
    pub payload: &'a [u8],
    /// Which record before it in the batch is of another key with the same hash: it follows that one.
    pub behind: Option<usize>,
}

/// The log went on from one segment to the next: the bases of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    pub old: u64,
    pub new: u64,
}

/// Where the next record goes, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// Number of the segment, counted from the start of the log.
    pub number: u64,
    pub base: u64,
    /// In the segment's file.
    pub offset: u64,
}

pub struct Log {
    pub id: LogId,
    pub seed: u64,
    pub policy: Policy,
    pub segments: Segments,
    pub operations: Vec<(Token, Operation)>,
    buffer: WriteBuffer,
    segment_bytes: u64,
    /// Whether the last of `segments` takes records, and where its room is from.
    open: bool,
    room: Room,
    /// Bytes that new segments leave free on the disk.
    pub reserve_bytes: u64,
    /// When a segment could not be made last, with the reserve left alone.
    no_room_ms: Option<u64>,
    prepared: Prepared,
    /// It is not wanted any more as soon as it is there.
    drops_prepared: bool,
    switch: Option<Switch>,
    appended: u64,
    submitted: u64,
    written: u64,
    durable: u64,
    /// Under `Policy::Always`, all writes from this position on are durable when they end.
    durable_writes_from: u64,
    /// The lowest position whose bytes are in the buffer.
    buffered_from: u64,
    flights: VecDeque<Flight>,
    /// Start and end of the batches that are not durable yet.
    batches: VecDeque<(u64, u64)>,
    /// Unix seconds, for the headers of new segments.
    pub now_s: u64,
    flush_due_ms: Option<u64>,
    flush_target: Option<u64>,
    sync: Option<(Token, u64)>,
    zero: Option<(Token, u64, u64)>,
    zeroed: u64,
    broken: Option<String>,
    /// Lines for the operator.
    pub notices: Vec<String>,
    /// Jumps of which the old segment and its sidecar are whole on the disk.
    pub jumps: Vec<Jump>,
    /// Jumps whose old segment is still being finished.
    jumping: VecDeque<Jump>,
    /// How long after its first record a segment is closed, in milliseconds; 0 = when it is full.
    pub rotate_ms: u64,
    rotate_due_ms: Option<u64>,
    /// The segment is to be closed as soon as the next one is there.
    rotating: bool,
    pub stats: LogStats,
    /// Records appended, and how many of them a padding has closed a batch for.
    records: u64,
    records_padded: u64,
    creating: Option<Token>,
    truncating: Option<Token>,
    closing: bool,
    /// It copies another log and adds nothing of its own.
    is_copy: bool,
    /// The segment that was asked for to go on as that one, and where a seal of it ended the open segment.
    copied: Option<copy::CopiedSegment>,
    sealed_at: Option<u64>,
    /// The block that ends here is written although only zeroes follow the records in it.
    filled_to: Option<u64>,
    /// Writes are acknowledged up to here at most: so far others have the log, too.
    pub replicated: Option<u64>,
    next_token: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct LogStats {
    /// Bytes of records, without padding.
    pub record_bytes: u64,
    /// Bytes written to segments, padding included, zeroing not.
    pub written_bytes: u64,
    pub zeroed_bytes: u64,
    pub sidecar_bytes: u64,
    pub writes: u64,
    pub flushes: u64,
    pub write_errors: u64,
    /// Unix seconds.
    pub write_error_last: u64,
    /// The last attempt to make a segment met a full file system, or the end of a quota.
    pub disk_full: bool,
}

/// What a recovery found, to go on from.
pub struct LogStart {
    pub id: LogId,
    pub segments: Segments,
    /// Where the next segment begins.
    pub next_base: u64,
    /// Where the records of the last segment end if no seal tells it; 0 otherwise.
    pub previous_end: u64,
}

impl Log {
    /// A log without an open segment; the first append asks for one.
    pub fn new(
        mut start: LogStart,
        buffer: WriteBuffer,
        policy: Policy,
        segment_bytes: u64,
    ) -> Self {
        let position = start.next_base;
        start.segments.previous_end = start.previous_end;
        Self {
            id: start.id,
            seed: start.id.seed(),
            policy,
            segments: start.segments,
            operations: Vec::new(),
            buffer,
            segment_bytes: segment_bytes.next_multiple_of(BLOCK),
            open: false,
            room: Room::Free,
            reserve_bytes: 0,
            no_room_ms: None,
            prepared: Prepared::Nothing,
            drops_prepared: false,
            switch: None,
            appended: position,
            submitted: position,
            written: position,
            durable: position,
            durable_writes_from: 0,
            buffered_from: position,
            flights: VecDeque::new(),
            batches: VecDeque::new(),
            now_s: 0,
            flush_due_ms: None,
            flush_target: None,
            sync: None,
            zero: None,
            zeroed: position,
            broken: None,
            notices: Vec::new(),
            jumps: Vec::new(),
            jumping: VecDeque::new(),
            rotate_ms: 0,
            rotate_due_ms: None,
            rotating: false,
            stats: LogStats::default(),
            records: 0,
            records_padded: 0,
            creating: None,
            truncating: None,
            closing: false,
            is_copy: false,
            copied: None,
            sealed_at: None,
            filled_to: None,
            replicated: None,
            next_token: 0,
        }
    }

    /// Goes on in the last segment, whose records end at `end`; `begun` is what the last block has of them.
    pub fn go_on(&mut self, end: u64, begun: &[u8]) {
        let block = end - begun.len() as u64;
        self.buffer.slice_mut(block, begun.len()).copy_from_slice(begun);
        self.open = true;
        self.appended = end;
        // The block is written again with what follows in it.
        self.submitted = block;
        self.written = end;
        self.durable = end;
        self.buffered_from = block;
        self.zeroed = end.next_multiple_of(BLOCK);
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token << 1)
    }

    /// Tokens of the log are even, those of reads are odd.
    pub fn owns(token: Token) -> bool {
        token.0 & 1 == 0
    }

    // ---------------------------------------------------------------- appending

    /// Appends a record and tells where it is. `head.sequence` is filled in here.
    pub fn append(
        &mut self,
        now_ms: u64,
        mut head: Head,
        key: &[u8],
        payload: &[u8],
    ) -> Result<(u64, u64), Refusal> {
        let bytes = head.bytes();
        let room = if head.kind == Kind::Set { Room::Free } else { Room::Reserve };
        let position = self.reserve(now_ms, bytes, room)?;
        head.sequence = position / format::ALIGN;
        self.put(position, &head, key, payload);
        self.appended_record(now_ms, bytes);
        Ok((position, position + bytes))
    }

    /// Appends records that count together or not at all, and tells where the first of them is and where
    /// all end; each begins where the one before it ends.
    pub fn append_batch(
        &mut self,
        now_ms: u64,
        members: &mut [Member<'_>],
    ) -> Result<(u64, u64), Refusal> {
        let bytes: u64 = members.iter().map(|member| member.head.bytes()).sum();
        assert!(
            bytes <= format::BATCH_BYTES_MAX as u64,
            "the command checked the size of the batch"
        );
        let bytes = format::BATCH_HEAD_BYTES as u64 + bytes;
        let adds = members.iter().any(|member| member.head.kind == Kind::Set);
        let room = if adds { Room::Free } else { Room::Reserve };
        let position = self.reserve(now_ms, bytes, room)?;
        let seed = self.seed;
        let out = self.room(position, bytes);
        let mut at = format::BATCH_HEAD_BYTES;
        for index in 0..members.len() {
            let place = position + at as u64;
            let behind = members[index].behind.map(|before| members[before].head.sequence);
            let Member { head, key, payload, .. } = &mut members[index];
            head.sequence = place / format::ALIGN;
            head.flags |= format::FLAG_MEMBER;
            if let Some(sequence) = behind {
                head.previous = Place::new(sequence * format::ALIGN);
                head.flags |= format::FLAG_UNVERIFIED;
            }
            format::encode(&mut out[at..], seed, place, head, key, payload);
            at += head.bytes() as usize;
        }
        format::encode_batch(out, seed, position);
        self.appended = position + bytes;
        self.batches.push_back((position, position + bytes));
        self.appended_record(now_ms, bytes);
        Ok((position + format::BATCH_HEAD_BYTES as u64, position + bytes))
    }

    fn appended_record(&mut self, now_ms: u64, bytes: u64) {
        self.stats.record_bytes += bytes;
        self.records += 1;
        if self.flush_due_ms.is_none() {
            self.flush_due_ms = match self.policy {
                Policy::Always => None,
                // The other half of the period is for the write and the flush themselves.
                Policy::Every { period_ms } => Some(now_ms + period_ms / 2),
                Policy::No => Some(now_ms + LAZY_FLUSH_MS),
            };
        }
        if self.rotate_ms > 0 && self.rotate_due_ms.is_none() && !self.rotating {
            self.rotate_due_ms = Some(now_ms + self.rotate_ms);
        }
    }

    /// Remembers what the records that were just appended, which end at `end`, do to the index.
    pub fn note(&mut self, entries: &[LogEntry], end: u64) {
        self.segments.note(entries, end);
    }

    fn put(&mut self, position: u64, head: &Head, key: &[u8], payload: &[u8]) {
        let (seed, bytes) = (self.seed, head.bytes());
        format::encode(self.room(position, bytes), seed, position, head, key, payload);
        self.appended = position + bytes;
    }

    /// The part of the write buffer for new bytes of the log.
    fn room(&mut self, position: u64, bytes: u64) -> &mut [u8] {
        let end = position + bytes;
        if end - self.buffered_from > WRITE_BUFFER_BYTES as u64 {
            self.buffered_from = end - WRITE_BUFFER_BYTES as u64;
        }
        self.buffer.slice_mut(position, bytes as usize)
    }

    /// Finds the place for a record, going to the next segment where this one is full.
    /// `room`: what it may use.
    fn reserve(&mut self, now_ms: u64, bytes: u64, room: Room) -> Result<u64, Refusal> {
        if self.broken.is_some() {
            return Err(Refusal::Failed);
        }
        loop {
            if self.open {
                let segment = self.segments.last().expect("an open log has a segment");
                let has_room = self.room == Room::Free || room == Room::Reserve;
                let is_allowed = has_room && !self.is_sealed();
                if is_allowed && self.appended + bytes + SEAL_ROOM <= segment.base + segment.size {
                    let buffered = self.appended + bytes + SEAL_ROOM - self.written;
                    // A record that is partly on the disk must be whole in the buffer, to be read.
                    if buffered > WRITE_BUFFER_BYTES as u64 - RECORD_BYTES_MAX {
                        return Err(Refusal::Wait);
                    }
                    if self.appended - segment.base > segment.size / 2
                        && matches!(self.prepared, Prepared::Nothing)
                    {
                        self.request_segment(bytes, Room::Free);
                    }
                    return Ok(self.appended);
                }
            }
            self.next_segment(now_ms, bytes, room)?;
        }
    }

    /// Writes the seal record and closes the segment's sidecar. Returns the end of the segment.
    fn seal(&mut self) -> u64 {
        self.fill_block(Kind::Seal);
        let end = self.appended;
        self.segments.seal(end);
        end
    }

    /// Appends a record that reaches to the end of a block.
    fn fill_block(&mut self, kind: Kind) {
        let position = self.appended;
        let bytes = (position + RECORD_BYTES_MIN).next_multiple_of(BLOCK) - position;
        let payload = vec![0; bytes as usize - format::RECORD_HEAD_BYTES];
        let head = Head {
            kind,
            flags: 0,
            key_length: 0,
            payload_length: payload.len() as u32,
            payload_check: format::payload_check(self.seed, &payload),
            sequence: position / format::ALIGN,
            timestamp: self.now_s as u32,
            namespace: 0,
            previous: Place::NONE,
            replaced: None,
        };
        debug_assert_eq!(head.bytes(), bytes);
        self.put(position, &head, &[], &payload);
    }

    // ---------------------------------------------------------------- reading the buffer

    /// The bytes from `position` on, where they are still in the buffer.
    pub fn buffered(&self, position: u64, length: usize) -> Option<&[u8]> {
        (position >= self.buffered_from && position + length as u64 <= self.appended)
            .then(|| self.buffer.slice(position, length))
    }

    pub fn buffered_from(&self) -> u64 {
        self.buffered_from
    }

    /// Bytes on their way to the disk: records, and the zeroes that end the last block of a copy.
    pub fn being_written(&self, position: u64, length: usize) -> Option<&[u8]> {
        let flights = self.flights.iter().map(|flight| flight.end).max();
        let end = flights.into_iter().chain(self.filled_to).fold(self.appended, u64::max);
        (position >= self.buffered_from && position + length as u64 <= end)
            .then(|| self.buffer.slice(position, length))
    }

    pub fn buffer_pointer(&self, position: u64) -> *const u8 {
        self.buffer.pointer(position)
    }

    /// The position up to which writes may be acknowledged.
    /// It is never inside a batch, which counts as a whole.
    pub fn acknowledged(&self) -> u64 {
        let position = match self.policy {
            _ if planted::is(Bug::EarlyAck) => return u64::MAX,
            Policy::Always => self.durable,
            _ if self.buffer.survives_kill() => return self.replicated.unwrap_or(u64::MAX),
            _ => self.written,
        };
        let position = self.replicated.map_or(position, |replicated| position.min(replicated));
        let at = self.batches.partition_point(|(_, end)| *end <= position);
        self.batches.get(at).map_or(position, |(start, _)| position.min(*start))
    }

    /// Changes when writes are acknowledged. What was acknowledged stays so; under a stricter policy it is
    /// flushed at once.
    pub fn set_policy(&mut self, now_ms: u64, policy: Policy) {
        if policy == Policy::Always && self.policy != Policy::Always {
            self.durable_writes_from = self.submitted;
        }
        self.policy = policy;
        self.flush_due_ms = match policy {
            _ if !self.open || self.appended <= self.durable => None,
            Policy::Always => Some(now_ms),
            Policy::Every { period_ms } => Some(now_ms + period_ms / 2),
            Policy::No => Some(now_ms + LAZY_FLUSH_MS),
        };
    }

    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// The position up to which the log survives a power cut.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The segments that take no more records and are durable.
    pub fn closed(&self) -> &[Segment] {
        self.segments.before_last(usize::from(self.open) + usize::from(self.switch.is_some()))
    }

    /// Whether it comes to its end, or has.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    // ---------------------------------------------------------------- writing

    /// When `pump` has something to do again, in milliseconds of the loop's clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        if self.broken.is_some() {
            return None;
        }
        [self.flush_due_ms, self.rotate_due_ms].into_iter().flatten().min()
    }

    /// Asks that everything appended so far becomes durable, as before a stop.
    pub fn flush(&mut self) {
        if self.open && self.appended > self.durable && self.broken.is_none() {
            self.flush_due_ms = Some(0);
        }
    }

    /// Turns what is due into operations.
    pub fn pump(&mut self, now_ms: u64) {
        while self.batches.front().is_some_and(|(_, end)| *end <= self.durable) {
            self.batches.pop_front();
        }
        if self.broken.is_some() || !self.open {
            return;
        }
        self.rotate_if_due(now_ms);
        let due = self.flush_due_ms.is_some_and(|due| due <= now_ms);
        if due {
            self.flush_due_ms = None;
        }
        let waits = self.clients_wait();
        if (due || waits) && self.switch.is_none() {
            // Group commit: who waits for the disk gathers while a write is on its way, but enough of
            // them go on a write of their own.
            let gathered = self.records - self.records_padded >= COMMIT_RECORDS;
            let room = self.flights.len() < WRITES_IN_FLIGHT_MAX;
            let flushes = due && self.flush_target.is_none();
            let go = flushes || (waits && (self.flights.is_empty() || (gathered && room)));
            if go && !self.is_copy && !self.appended.is_multiple_of(BLOCK) {
                self.fill_block(Kind::Padding);
                self.records_padded = self.records;
            }
            if flushes {
                self.flush_target = Some(self.appended);
            } else if due {
                // A slow disk is still at the flush before. Its target stays, or it might never be met.
                self.flush_due_ms = Some(now_ms + FLUSH_AGAIN_MS);
            }
        } else if due {
            // The switch flushes the old segment; what is in the new one waits for the turn after.
            self.flush_due_ms = Some(now_ms + FLUSH_AGAIN_MS);
        }
        loop {
            self.submit_writes(waits);
            self.sync_if_due();
            if !self.finish_switch() {
                break;
            }
        }
        self.zero_ahead();
        let durable = if planted::is(Bug::EarlySidecar) { self.appended } else { self.durable };
        self.segments.write_pages(durable, &mut self.next_token, &mut self.operations);
        self.report_jumps();
    }

    fn submit_writes(&mut self, waits: bool) {
        loop {
            let limit = match self.switch {
                Some(switch) => switch.end,
                None => self.appended,
            };
            // Nothing is written where zeroes are on their way.
            let zeroes = self.zero.map(|(_, start, _)| start).filter(|at| *at >= self.submitted);
            let zeroes = zeroes.unwrap_or(u64::MAX);
            let limit = limit.min(zeroes);
            let whole = match self.filled_to {
                Some(end) if end > self.submitted && end <= zeroes => end,
                _ => limit / BLOCK * BLOCK,
            };
            let ready = whole.saturating_sub(self.submitted);
            let forced = waits || self.flush_target.is_some_and(|target| target > self.submitted);
            // The last block of a copy may be on its way, to be written again with more in it.
            if self.flights.iter().any(|flight| flight.covers < flight.end && !flight.done) {
                return;
            }
            if ready == 0 && forced && self.is_copy && self.switch.is_none() {
                if limit == self.appended {
                    self.submit_tail();
                }
                return;
            }
            if ready == 0
                || self.flights.len() >= WRITES_IN_FLIGHT_MAX
                || (!forced && ready < WRITE_UNIT_BYTES)
            {
                return;
            }
            let end = self.submitted + ready.min(WRITE_BYTES_MAX);
            let segment = self.segments.of(self.submitted).expect("submitted bytes have a segment");
            let (file, base) = (segment.file, segment.base);
            let token = self.token();
            self.flights.push_back(Flight {
                token,
                file,
                base,
                start: self.submitted,
                end,
                covers: end,
                done: false,
                failed: false,
            });
            self.push_write(token, file, base, self.submitted, end);
            self.submitted = end;
            self.stats.writes += 1;
        }
    }

    fn push_write(&mut self, token: Token, file: FileId, base: u64, start: u64, end: u64) {
        let durable = self.policy == Policy::Always && !planted::is(Bug::LazyWrite);
        self.operations.push((
            token,
            Operation::Write {
                file,
                offset: start - base,
                position: start,
                length: end - start,
                durable,
            },
        ));
    }

    fn sync_if_due(&mut self) {
        let Some(target) = self.flush_target else { return };
        if self.durable >= target {
            self.flush_target = None;
        } else if planted::is(Bug::SkippedFlush) {
            self.durable = self.written;
        } else if self.written >= target && self.sync.is_none() {
            let segment = self.segments.of(target - 1).expect("written bytes have a segment");
            let file = segment.file;
            let token = self.token();
            self.sync = Some((token, self.written));
            self.operations.push((token, Operation::Sync { file }));
            self.stats.flushes += 1;
        }
    }

    /// Whether clients wait for writes to reach the disk.
    fn clients_wait(&self) -> bool {
        self.policy == Policy::Always || !self.buffer.survives_kill()
    }

    /// Where clients wait, keeps zeroed blocks in front of the writes.
    fn zero_ahead(&mut self) {
        if !self.clients_wait() || self.zero.is_some() || self.switch.is_some() {
            return;
        }
        let segment = self.segments.last().expect("an open log has a segment");
        // A copy has written its last block, and hands it in again.
        let flights = self.flights.iter().map(|flight| flight.end).max().unwrap_or(0);
        let used = self.submitted.max(self.written.next_multiple_of(BLOCK)).max(flights);
        let start = self.zeroed.max(used);
        let end = (start + ZERO_UNIT_BYTES).min(segment.base + segment.size);
        if start >= used + ZERO_AHEAD_BYTES || start >= end {
            return;
        }
        let (file, offset) = (segment.file, start - segment.base);
        let token = self.token();
        self.zero = Some((token, start, end));
        self.operations.push((token, Operation::Zero { file, offset, length: end - start }));
        self.stats.zeroed_bytes += end - start;
    }

    // ---------------------------------------------------------------- completions

    /// Takes the end of an operation of the log.
    pub fn completed(&mut self, now_ms: u64, token: Token, result: io::Result<Done>) {
        if self.creating == Some(token) {
            self.creating = None;
            return self.segment_created(now_ms, result);
        }
        if self.truncating == Some(token) {
            self.truncating = None;
            return;
        }
        if self.zero.is_some_and(|(zero, ..)| zero == token) {
            let (_, _, end) = self.zero.take().expect("just looked at");
            // A failed zeroing costs speed only: the blocks stay unwritten.
            self.zeroed = end;
            return;
        }
        if self.sync.is_some_and(|(sync, _)| sync == token) {
            let (_, covers) = self.sync.take().expect("just looked at");
            match result {
                Ok(_) => {
                    self.durable = self.durable.max(covers);
                    self.count_durable_writes();
                }
                Err(error) => self.latch("flush", covers, &error),
            }
            return;
        }
        if let Some(at) = self.flights.iter().position(|flight| flight.token == token) {
            return self.write_ended(at, result);
        }
        if let Some(notice) = self.segments.page_written(token, result, &mut self.stats) {
            self.notices.push(notice);
        }
    }

    fn write_ended(&mut self, at: usize, result: io::Result<Done>) {
        let flight = &mut self.flights[at];
        let length = flight.end - flight.start;
        match result {
            Ok(Done::Count(count)) if count == length => flight.done = true,
            Ok(Done::Count(count)) if count > 0 && count < length => {
                let whole = count / BLOCK * BLOCK;
                self.stats.written_bytes += whole;
                flight.start += whole;
                let (token, file, base) = (flight.token, flight.file, flight.base);
                let (start, end) = (flight.start, flight.end);
                return self.push_write(token, file, base, start, end);
            }
            Ok(_) => {
                let start = flight.start;
                flight.failed = true;
                let error = io::Error::new(io::ErrorKind::WriteZero, "wrote nothing");
                return self.latch("write", start, &error);
            }
            Err(error) => {
                let start = flight.start;
                flight.failed = true;
                return self.latch("write", start, &error);
            }
        }
        self.stats.written_bytes += length;
        while self.flights.front().is_some_and(|flight| flight.done) {
            let flight = self.flights.pop_front().expect("just looked at");
            self.written = flight.covers;
        }
        self.count_durable_writes();
    }

    /// What was written durably counts once nothing before it is missing.
    fn count_durable_writes(&mut self) {
        if self.policy == Policy::Always && self.durable >= self.durable_writes_from {
            self.durable = self.durable.max(self.written);
        }
    }

    /// After a failed write or flush nobody knows what is on the disk: no more writes until a restart
    /// has looked. Reads go on.
    fn latch(&mut self, what: &str, position: u64, error: &io::Error) {
        self.stats.write_errors += 1;
        self.stats.write_error_last = self.now_s;
        if self.broken.is_none() {
            let segment = self.segments.of(position.saturating_sub(1)).map_or(0, |s| s.base);
            let line = format!(
                "{what} failed in segment {} at offset {}: {error}. No more writes are taken, reads go \
                 on; look at the disk, then restart zdb",
                format::segment_name(segment),
                position - segment
            );
            self.notices.push(line.clone());
            self.broken = Some(line);
        }
    }
}
