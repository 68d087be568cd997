//! Damage of another log that is copied. Bytes in which no whole record begins stay such bytes here, so that each
//! record has its own place in every copy, and a copy answers as the server does of which it has the log: `recovery.rs`
//! goes by the same rules. They are not taken over as they are: zeroes would look like what a power cut leaves, behind
//! which a copy's log ends.

use super::log::copy::CopyTrouble;
use super::log::format::{
    self, ALIGN, BATCH_HEAD_BYTES, FLAG_MEMBER, Head, Kind, RECORD_BYTES_MAX, RECORD_HEAD_BYTES,
    Verified,
};
use super::log::sidecar::LogEntry;
use super::{Engine, apply, control_entry, entry_of, walk};
use crate::disk::LOST_BYTE;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes that are written at once.
const PIECE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug)]
struct Stretch {
    start: u64,
    end: u64,
    /// Head and key of the record that was there, where these are whole.
    lost: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
pub struct CopiedDamage {
    /// What is being taken over.
    stretch: Option<Stretch>,
    /// Where it goes on, if no whole record was in sight.
    goes_on: Option<u64>,
    /// What of it may still be in the write buffer.
    buffered: Vec<Range<u64>>,
}

impl CopiedDamage {
    /// Whether what is in the write buffer at a place is no record.
    pub fn has(&self, position: u64) -> bool {
        self.buffered.iter().any(|range| range.contains(&position))
    }

    /// Whether more is to come of what is being taken over.
    pub(super) fn is_open(&self) -> bool {
        self.stretch.is_some()
    }

    /// Whether damage was taken over up to a position.
    pub fn ends_at(&self, position: u64) -> bool {
        self.buffered.last().is_some_and(|range| range.end == position)
    }

    /// Whether damage that was taken over goes on at a position.
    pub fn goes_on_at(&self, position: u64) -> bool {
        self.goes_on == Some(position)
    }
}

/// Tells damage that comes a second time from another one at the same place.
pub fn damage_check(bytes: &[u8], seed: u64, position: u64) -> u64 {
    let head = format::decode_head(bytes, seed, position);
    let length = head.map_or(RECORD_HEAD_BYTES, |head| head.bytes() as usize);
    xxh3_64(&bytes[..length.min(bytes.len())])
}

/// What is damaged of these bytes, with which no whole record begins, by the rules of a start; and whether it goes on.
/// `None`: it takes more bytes to tell. `is_all`: there are no more.
fn damaged_at(bytes: &[u8], (seed, position): (u64, u64), is_all: bool) -> Option<(Stretch, bool)> {
    let stretch = |length, lost| Stretch { start: position, end: position + length, lost };
    let lost = format::decode_head(bytes, seed, position);
    if let Some(head) = lost.filter(|head| bytes.len() as u64 >= head.bytes()) {
        let is_torn = walk::is_half_written(bytes, position, &head);
        let length = match head.kind {
            Kind::Batch if !is_torn => BATCH_HEAD_BYTES as u64,
            _ => head.bytes(),
        };
        let kept = bytes[..head.payload_offset()].to_vec();
        return Some((stretch(length, Some(kept).filter(|_| !is_torn)), false));
    }
    let sectors = 2 * walk::SECTOR as usize;
    if bytes.len() < sectors && !is_all {
        return None;
    }
    // Without the head of its batch a record that a power cut left does not count.
    let is_torn = walk::is_gap(bytes, position);
    let counts = |record: Verified<'_>| !is_torn || record.head.flags & FLAG_MEMBER == 0;
    let next = (ALIGN..bytes.len() as u64).step_by(ALIGN as usize).find(|at| {
        Verified::check(&bytes[*at as usize..], seed, position + at).is_some_and(counts)
    });
    if let Some(next) = next {
        return Some((stretch(next, None), false));
    }
    let all = bytes.len() as u64;
    // A record may begin in the rest.
    let without_record = all.checked_sub(RECORD_BYTES_MAX).filter(|sure| *sure >= RECORD_BYTES_MAX);
    match is_all {
        true => (all >= ALIGN).then(|| (stretch(all / ALIGN * ALIGN, None), false)),
        false => without_record.map(|sure| (stretch(sure / ALIGN * ALIGN, None), true)),
    }
}

impl Engine {
    /// Begins to take over what is damaged at the end of the log, by the bytes that follow there. Whether these tell
    /// how far it goes. `is_all`: nothing follows them in the segment.
    pub fn begin_damage(&mut self, bytes: &[u8], is_all: bool) -> bool {
        let start = self.log.end();
        let Some((stretch, goes_on)) = damaged_at(bytes, (self.log.seed, start), is_all) else {
            return false;
        };
        let length = stretch.end - start;
        self.log.notices.push(format!(
            "position {start}: {length} bytes are damaged on the server of which this one copies the log, too: what was \
             there is lost here as it is there"
        ));
        self.damage.goes_on = goes_on.then_some(stretch.end);
        self.damage.stretch = Some(stretch);
        true
    }

    /// Takes the place of damaged bytes. Returns how many of these that follow belong to them.
    pub(super) fn copy_damage(&mut self, bytes: &[u8]) -> Result<usize, CopyTrouble> {
        let mut taken = 0;
        while let Some(stretch) = &self.damage.stretch {
            let from = self.log.end();
            let left = (stretch.end - from).min((bytes.len() - taken) as u64);
            let length = left.min(PIECE_BYTES_MAX) / ALIGN * ALIGN;
            if from < stretch.end && length == 0 {
                break;
            }
            let kept = stretch.lost.as_deref().unwrap_or_default();
            let kept = kept.get((from - stretch.start) as usize..).unwrap_or_default();
            self.log.copy_bytes(self.now.monotonic_ms, length, |room| {
                let kept = &kept[..kept.len().min(room.len())];
                room.fill(LOST_BYTE);
                room[..kept.len()].copy_from_slice(kept);
            })?;
            taken += length as usize;
            self.end_damage_if(|stretch, end| end == stretch.end);
        }
        Ok(taken)
    }

    /// What came of damaged bytes is all: from here on the log is this server's.
    pub(super) fn end_damage(&mut self) {
        self.end_damage_if(|_, _| true);
    }

    fn end_damage_if(&mut self, is_over: impl FnOnce(&Stretch, u64) -> bool) {
        let end = self.log.end();
        let Some(Stretch { start, lost, .. }) =
            self.damage.stretch.take_if(|stretch| is_over(stretch, end))
        else {
            return;
        };
        let buffered_from = self.log.buffered_from();
        self.damage.buffered.retain(|range| range.end > buffered_from);
        self.damage.buffered.push(start..end);
        let lost = lost.and_then(|kept| {
            let head = format::decode_head(&kept, self.log.seed, start)?;
            self.step_over_copied(start, &head, &kept[RECORD_HEAD_BYTES..], end);
            Some(head)
        });
        let ids = walk::ids_lost_max(start, end, lost.as_ref());
        if ids > 0 {
            self.log.note(&[LogEntry::damage(end, ids)], end);
            self.namespaces.use_up_ids(ids);
        }
    }

    /// Does what is known of a record that is lost: its key is not taken for what it was before.
    fn step_over_copied(&mut self, position: u64, head: &Head, key: &[u8], end: u64) {
        match head.kind {
            Kind::Set | Kind::Delete => {
                let slot = self.slot_or_stand_in(head);
                let namespace = self.namespaces.get(slot).expect("slots by id are in use");
                let entry = entry_of(position, head, key, namespace, || self.secret.hash(key));
                self.log.note(&[entry], end);
                apply(&mut self.namespaces, &mut self.pool, slot, &entry, end);
            }
            Kind::Term if self.check_term(key).is_ok() => {
                let entry = control_entry(position, head, key);
                self.log.note(&[entry], end);
                self.terms.push(&entry);
            }
            Kind::Namespace => {
                self.slot_or_stand_in(head);
                self.namespaces.keep_history(head.namespace);
            }
            Kind::Term | Kind::Padding | Kind::Seal | Kind::NamespaceEnd | Kind::Batch => {}
        }
    }
}
