//! Records of another server's log, taken over as they are: each at its own place, and with all that it does
//! to index and namespaces.

use super::index::KeyHash;
use super::log::copy::{CopiedSegment, CopyTrouble};
use super::log::format::{BATCH_HEAD_BYTES, Head, Kind, RECORD_HEAD_BYTES, Verified};
use super::log::sidecar::LogEntry;
use super::log::{Refusal, format};
use super::namespace::Namespace;
use super::node::Node;
use super::terms;
use super::{Engine, Event, apply, control_entry, entry_of, sequential_id};
use crate::limits::TERM_MAX;

/// Records that are verified before the first of them is taken.
const LOOK_AHEAD_RECORDS: usize = 16;

impl Engine {
    /// Takes the whole records at the start of `bytes`, and returns how many bytes these are. Before a trouble
    /// some may have been taken: `log.end()` says how far it got.
    pub fn copy_records(&mut self, bytes: &[u8]) -> Result<usize, CopyTrouble> {
        let mut at = self.copy_damage(bytes)?;
        let mut ahead = Vec::with_capacity(LOOK_AHEAD_RECORDS);
        if self.damage.is_open() {
            return Ok(at);
        }
        loop {
            // Of several records the memory that they will touch is asked for at once.
            let (start, wrong) = (self.log.end(), self.look_ahead(&bytes[at..], &mut ahead));
            if ahead.is_empty() {
                return wrong.map(|()| at);
            }
            debug_assert_eq!(start, self.log.end());
            for (record, hash) in ahead.drain(..) {
                self.copy_record(record, hash)?;
                at += record.head.bytes() as usize;
            }
        }
    }

    /// Verifies the next records, as far as they are whole.
    fn look_ahead<'a>(
        &self,
        bytes: &'a [u8],
        ahead: &mut Vec<(Verified<'a>, Option<KeyHash>)>,
    ) -> Result<(), CopyTrouble> {
        let (mut at, first) = (0, self.log.end());
        let mut namespace: Option<&Namespace> = None;
        while ahead.len() < LOOK_AHEAD_RECORDS {
            let Some(record) = self.record_at(&bytes[at..], first + at as u64)? else { break };
            let head = record.head;
            at += head.bytes() as usize;
            let mut hash = None;
            if matches!(head.kind, Kind::Set | Kind::Delete) {
                if namespace.is_none_or(|known| known.id != head.namespace) {
                    let slot = self.namespaces.slot_of(head.namespace);
                    namespace = slot.and_then(|slot| self.namespaces.get(slot));
                }
                if let Some(namespace) = namespace {
                    let of_key = self.hash(record.key());
                    self.prefetch_index(namespace, of_key);
                    hash = Some(of_key);
                }
            }
            ahead.push((record, hash));
        }
        Ok(())
    }

    /// The record at the start, verified; none: there are too few bytes yet.
    fn record_at<'a>(
        &self,
        bytes: &'a [u8],
        position: u64,
    ) -> Result<Option<Verified<'a>>, CopyTrouble> {
        if bytes.len() < RECORD_HEAD_BYTES {
            return Ok(None);
        }
        let wrong = || {
            CopyTrouble::Damaged(format!(
                "what came for position {position} is no whole record of it"
            ))
        };
        let head = format::decode_fields(bytes).ok_or_else(wrong)?;
        let seed = self.log.seed;
        if bytes.len() as u64 >= head.bytes() {
            return Verified::check(bytes, seed, position).map(Some).ok_or_else(wrong);
        }
        // A head that is wrong would have others waited for.
        if bytes.len() >= head.payload_offset() {
            format::decode_head(bytes, seed, position).ok_or_else(wrong)?;
        }
        Ok(None)
    }

    fn copy_record(
        &mut self,
        record: Verified<'_>,
        hash: Option<KeyHash>,
    ) -> Result<(), CopyTrouble> {
        let head = &record.head;
        let members = match head.kind {
            Kind::Batch => self.members(record)?,
            Kind::Term => {
                self.check_term(record.key())?;
                Vec::new()
            }
            _ => Vec::new(),
        };
        let (position, end) = self.log.copy_record(self.now.monotonic_ms, head, record.bytes())?;
        match head.kind {
            Kind::Padding | Kind::Seal => {}
            Kind::Set | Kind::Delete => {
                let (slot, entry) = self.entry_of_copied(position, &record, hash);
                self.log.note(&[entry], end);
                apply(&mut self.namespaces, &mut self.pool, slot, &entry, end);
            }
            Kind::Batch => self.take_batch(&members, end),
            Kind::Namespace | Kind::NamespaceEnd => {
                self.log.note(&[control_entry(position, head, record.key())], end);
                self.take_namespace(head, record);
            }
            Kind::Term => {
                let entry = control_entry(position, head, record.key());
                self.log.note(&[entry], end);
                self.terms.push(&entry);
            }
        }
        Ok(())
    }

    /// Terms go up: where two logs parted is told by them alone.
    pub(super) fn check_term(&self, key: &[u8]) -> Result<(), CopyTrouble> {
        let (last, number) = (self.terms.number(), sequential_id(key).unwrap_or(0));
        if number > last && number <= TERM_MAX {
            return Ok(());
        }
        let end = self.log.end();
        Err(CopyTrouble::Wrong(format!(
            "what came for position {end} is the record of term {number}, behind term {last}"
        )))
    }

    /// The records of a batch.
    fn members<'a>(&self, batch: Verified<'a>) -> Result<Vec<(u64, Verified<'a>)>, CopyTrouble> {
        let first = self.log.end() + BATCH_HEAD_BYTES as u64;
        let bytes = batch.payload();
        let (mut members, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let position = first + at as u64;
            let member = Verified::check(&bytes[at..], self.log.seed, position)
                .filter(|one| matches!(one.head.kind, Kind::Set | Kind::Delete))
                .ok_or_else(|| {
                    CopyTrouble::Wrong(format!("the batch before position {position} is not whole"))
                })?;
            at += member.head.bytes() as usize;
            members.push((position, member));
        }
        Ok(members)
    }

    /// What a record of a key does, and where its namespace is.
    fn entry_of_copied(
        &mut self,
        position: u64,
        record: &Verified<'_>,
        hash: Option<KeyHash>,
    ) -> (usize, LogEntry) {
        let head = &record.head;
        let slot = self.slot_or_stand_in(head);
        let namespace = self.namespaces.get(slot).expect("slots by id are in use");
        let hash = || hash.unwrap_or_else(|| self.secret.hash(record.key()));
        (slot, entry_of(position, head, record.key(), namespace, hash))
    }

    /// Damage of the other log may have taken the settings of a namespace.
    pub(super) fn slot_or_stand_in(&mut self, head: &Head) -> usize {
        let slot = self.namespaces.slot_of(head.namespace);
        let slot = slot.unwrap_or_else(|| self.namespaces.stand_in(head.namespace));
        self.namespaces.settle_mode(slot, head.flags);
        slot
    }

    /// Records that count together and end at `end`.
    fn take_batch(&mut self, records: &[(u64, Verified<'_>)], end: u64) {
        let entries: Vec<_> = records
            .iter()
            .map(|(position, record)| self.entry_of_copied(*position, record, None))
            .collect();
        let noted: Vec<_> = entries.iter().map(|(_, entry)| *entry).collect();
        self.log.note(&noted, end);
        for (slot, entry) in &entries {
            apply(&mut self.namespaces, &mut self.pool, *slot, entry, end);
        }
    }

    fn take_namespace(&mut self, head: &Head, record: Verified<'_>) {
        let (name, known) = (record.key(), self.namespaces.slot_of(head.namespace));
        let event = match head.kind {
            Kind::NamespaceEnd => Some(Event::NamespaceDeleted(name.into())),
            _ if known.is_some() => Some(Event::NamespaceUpdated(name.into())),
            _ if self.namespaces.find(name).is_some() => None,
            _ => Some(Event::NamespaceCreated(name.into())),
        };
        self.events.extend(event);
        self.namespaces.apply_record(head, name, record.payload(), &mut self.pool);
    }

    /// Goes on in a further segment of the other log.
    pub fn copy_segment(&mut self, next: CopiedSegment) -> Result<(), CopyTrouble> {
        self.log.copy_segment(self.now.monotonic_ms, next)
    }

    /// Whether the log never had anything but terms.
    pub fn is_bare(&self) -> bool {
        self.namespaces.iter().all(|one| !one.recorded && one.stored_bytes == 0)
            && self.namespaces.ended_bytes == 0
    }

    // ---------------------------------------------------------------- terms

    /// Begins a term: from here on the log is this server's. It need not wait for the disk, since a copy that
    /// has records behind it has it, too.
    pub fn begin_term(&mut self, number: u64) -> Result<u64, Refusal> {
        self.end_damage();
        let Node { name, .. } = self.node;
        let timestamp = self.now.unix_s() as u32;
        let (head, key) = terms::record(self.log.seed, number, name, timestamp);
        let (position, end) = self.log.append(self.now.monotonic_ms, head, &key, &[])?;
        let entry = control_entry(position, &head, &key);
        self.log.note(&[entry], end);
        self.terms.push(&entry);
        self.term_due = None;
        // Only now the log is this server's: a padding before would be in nobody's term.
        self.log.set_copying(self.now.monotonic_ms, false);
        Ok(end)
    }

    /// Begins the term that the next record needs.
    pub fn begin_term_if_due(&mut self) -> Result<(), Refusal> {
        match self.term_due {
            Some(_) if !self.is_term_kept => Err(Refusal::Wait),
            Some(number) => self.begin_term(number).map(|_| ()),
            None => Ok(()),
        }
    }
}
