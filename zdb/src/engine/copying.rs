//! Records of another server's log, taken over as they are: each at its own place, and with all that it does
//! to index and namespaces.

use super::log::copy::{CopiedSegment, CopyTrouble};
use super::log::format::{BATCH_HEAD_BYTES, Head, Kind, RECORD_HEAD_BYTES, Verified};
use super::log::{Refusal, format};
use super::node::Node;
use super::terms;
use super::{Engine, Event, apply, control_entry, entry_of};

impl Engine {
    /// Takes the whole records at the start of `bytes`, and returns how many bytes these are. Before a trouble
    /// some may have been taken: `log.end()` says how far it got.
    pub fn copy_records(&mut self, bytes: &[u8]) -> Result<usize, CopyTrouble> {
        let mut at = 0;
        while let Some(record) = self.next_record(&bytes[at..])? {
            let head = record.head;
            self.copy_record(&head, record)?;
            at += head.bytes() as usize;
        }
        Ok(at)
    }

    /// The record at the start, verified; none: there are too few bytes yet.
    fn next_record<'a>(&self, bytes: &'a [u8]) -> Result<Option<Verified<'a>>, CopyTrouble> {
        if bytes.len() < RECORD_HEAD_BYTES {
            return Ok(None);
        }
        let position = self.log.end();
        let wrong = || {
            CopyTrouble::Wrong(format!("what came for position {position} is no whole record of it"))
        };
        let head = format::decode_fields(bytes).ok_or_else(wrong)?;
        let seed = self.log.seed;
        // A head that is wrong would have others waited for.
        if bytes.len() >= head.payload_offset() {
            format::decode_head(bytes, seed, position).ok_or_else(wrong)?;
        }
        if (bytes.len() as u64) < head.bytes() {
            return Ok(None);
        }
        Verified::check(bytes, seed, position).map(Some).ok_or_else(wrong)
    }

    fn copy_record(&mut self, head: &Head, record: Verified<'_>) -> Result<(), CopyTrouble> {
        let members = match head.kind {
            Kind::Batch => self.members(record)?,
            _ => Vec::new(),
        };
        let (position, end) =
            self.log.copy_record(self.now.monotonic_ms, head, record.bytes())?;
        match head.kind {
            Kind::Padding | Kind::Seal => {}
            Kind::Set | Kind::Delete => self.take_keys(&[(position, record)], end),
            Kind::Batch => self.take_keys(&members, end),
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

    /// Records of keys that count together and end at `end`.
    fn take_keys(&mut self, records: &[(u64, Verified<'_>)], end: u64) {
        let entries: Vec<_> = records
            .iter()
            .map(|(position, record)| {
                let head = record.head;
                let slot = self.namespaces.slot_of(head.namespace).unwrap_or_else(|| {
                    // Damage of the other log has taken its settings.
                    self.namespaces.stand_in(head.namespace)
                });
                self.namespaces.settle_mode(slot, head.flags);
                let namespace = self.namespaces.get(slot).expect("slots by id are in use");
                let hash = || self.secret.hash(record.key());
                (slot, entry_of(*position, &head, record.key(), namespace, hash))
            })
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

    // ---------------------------------------------------------------- terms

    /// Begins a term: from here on the log is this server's. It need not wait for the disk, since a copy that
    /// has records behind it has it, too.
    pub fn begin_term(&mut self, number: u64) -> Result<u64, Refusal> {
        let Node { name, .. } = self.node;
        let timestamp = self.now.unix_s() as u32;
        let (head, key) = terms::record(self.log.seed, number, name, timestamp);
        let (position, end) = self.log.append(self.now.monotonic_ms, head, &key, &[])?;
        let entry = control_entry(position, &head, &key);
        self.log.note(&[entry], end);
        self.terms.push(&entry);
        self.term_due = None;
        Ok(end)
    }

    /// Begins the term that the next record needs.
    pub(super) fn begin_term_if_due(&mut self) -> Result<(), Refusal> {
        match self.term_due {
            Some(number) => self.begin_term(number).map(|_| ()),
            None => Ok(()),
        }
    }
}
