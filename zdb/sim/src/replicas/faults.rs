//! What goes wrong with the disks of the servers, and what a power cut may cost.
//!
//! Under `--sync everysec` a reply means that the master and `--min-replicas` others have a write in memory that
//! outlives their processes, and flush it within a second. So a machine that loses power may lose what it had not
//! flushed. A write that it had been acknowledged for is then one copy short, and the servers that agree on the next
//! master may be those without it: it may be lost, but none that was acknowledged before that.

use super::{Mark, NODES, Run};
use crate::disk::Trouble;
use std::io;
use zdb::disk::Operation;
use zdb::engine::log::Policy;
use zdb::engine::recovery;

/// Longest time for which a disk is full.
const FULL_MS_MAX: u64 = 20_000;
/// Calls of a disk that go well before one fails.
const CALLS_MAX: u64 = 60;

impl Run {
    /// Something happens to a disk, or somebody looks after one that takes no more writes.
    pub(super) fn spoil_disk(&mut self, at: usize) {
        if self.nodes[at].hub.engine.log.broken().is_some() {
            return self.crash(at, false);
        }
        if self.random.below(2) == 0 {
            self.nodes[at].full_until_ms = self.now_ms + self.random.below(FULL_MS_MAX);
            self.trace(|| format!("the disk of {at} is full"));
        } else {
            let (calls, seed) = (self.random.below(CALLS_MAX), self.random.number());
            self.nodes[at].files.plan(Trouble::Fails, calls, seed);
            self.trace(|| format!("the disk of {at} will fail"));
        }
    }

    /// What a full disk says to an operation that needs room. Blocks of the log have theirs.
    pub(super) fn refuse(&self, at: usize, operation: &Operation) -> Option<io::Error> {
        let needs_room = matches!(
            operation,
            Operation::CreateSegment { .. }
                | Operation::MakeFile { .. }
                | Operation::WriteBlocks { .. }
                | Operation::WriteSidecar { .. }
                | Operation::WriteSmall { .. }
        );
        let is_full = self.nodes[at].full_until_ms > self.now_ms;
        (needs_room && is_full).then(|| io::ErrorKind::StorageFull.into())
    }

    /// A start that comes to nothing: it is killed, or the disk fails or is full. Then somebody mends the disk.
    pub(super) fn start_with_trouble(&mut self, at: usize) {
        let trouble =
            [Trouble::Stops, Trouble::Fails, Trouble::Full][self.random.below(3) as usize];
        let (calls, seed) = (self.random.below(CALLS_MAX), self.random.number());
        let (files, buffer) = (self.nodes[at].files.clone(), self.nodes[at].buffer.clone());
        files.plan(trouble, calls, seed);
        let started = recovery::start(&*files, self.options(at, &buffer));
        let struck = files.forget_plan();
        self.trace(|| {
            let how = started.as_ref().err().map_or("starts", String::as_str);
            format!("{at} {how}, with {struck:?} after {calls} calls")
        });
        // What a start cannot read may have given out ids, which are then not given out again.
        self.skips_ids |= struck == Some(Trouble::Fails) && started.is_ok();
        if let Err(line) = &started {
            assert!(struck.is_some(), "server {at} does not start: {line}");
        }
        drop(started);
        files.close_all();
        files.switch_on();
        // What a kill left in memory is not on the disk before the policy says so.
        if struck == Some(Trouble::Stops) && self.policy == Policy::Always {
            self.cut_power(at);
        }
    }

    /// Takes what was not flushed, and what was in memory.
    pub(super) fn cut_power(&mut self, at: usize) {
        self.nodes[at].files.cut_power(&mut self.random);
        for entry in std::fs::read_dir(&self.nodes[at].buffer).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
    }

    // ---------------------------------------------------------------- what a power cut may cost

    /// Notes how far the log of a server is, before anybody hears of it.
    pub(super) fn mark(&mut self, at: usize) {
        let (acknowledged, node) = (self.acknowledged, &mut self.nodes[at]);
        let end = node.hub.engine.log.end();
        if node.marks.last().is_none_or(|last| last.end != end) {
            node.marks.push(Mark { acknowledged, end });
        }
    }

    /// A start may have taken the log back.
    pub(super) fn unmark(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let end = node.hub.engine.log.end();
        node.marks.retain(|mark| mark.end <= end);
    }

    /// A server loses what it had not flushed: what was acknowledged since it had that may be lost.
    pub(super) fn doubt(&mut self, at: usize) {
        let log = &self.nodes[at].hub.engine.log;
        if self.policy == Policy::Always {
            return;
        }
        let durable = log.durable();
        let marks = &self.nodes[at].marks;
        let Some(first) = marks.iter().find(|mark| mark.end > durable) else { return };
        let since = first.acknowledged;
        self.clients.iter_mut().for_each(|client| client.doubt(since));
        self.trace(|| format!("what was acknowledged from write {since} on may be lost"));
    }

    /// Within the time that the policy allows, everything is flushed, at a master and at those who copy it.
    pub(super) fn check_flushed(&mut self) {
        for _ in 0..=2 * super::PERIOD_MS / super::HEAL_ROUND_MS {
            self.round();
            self.now_ms += super::HEAL_ROUND_MS;
        }
        for at in 0..NODES {
            let log = &self.nodes[at].hub.engine.log;
            let (durable, end) = (log.durable(), log.end());
            assert!(durable >= end, "{at} has flushed its log up to {durable} of {end}");
        }
    }
}
