//! The records that the cleaner dropped from a packed segment, for whoever plays the log again: what they did
//! to the counters and the ids of their namespaces.

use super::index::{PagePool, Place, SKIP_IDS_MAX, SequenceTable};
use super::log::format::{ID_RECORD_BYTES_MIN, Kind};
use super::log::packed::Residue;
use super::log::sidecar::LogEntry;
use super::namespace::{Keys, Namespaces};
use super::{apply, apply_sequential, count};
use std::collections::HashMap;

/// Of the segment whose records are being played.
#[derive(Default)]
pub struct Forgotten {
    /// By namespace, with whether that was met.
    residues: HashMap<u32, (Residue, bool)>,
    /// Of namespaces in sequential mode: the next id behind the segment.
    next_ids: HashMap<u32, u64>,
    /// The residues are lost: so many ids may have been given out by records that are gone.
    ids_lost_max: u64,
}

impl Forgotten {
    /// Before the first record of the segment.
    pub fn begin(residues: Vec<Residue>, namespaces: &mut Namespaces) -> Self {
        let ids: Vec<u32> = residues.iter().map(|residue| residue.namespace).collect();
        let residues = residues.into_iter().map(|one| (one.namespace, (one, false))).collect();
        let mut forgotten = Self { residues, ..Self::default() };
        for id in ids {
            forgotten.meet(id, namespaces);
        }
        forgotten
    }

    /// The same where the residues are lost, of records of so many bytes. Counters are then off; but no
    /// id may come to mean another value.
    pub fn unknown(bytes: u64) -> Self {
        let ids_lost_max = (bytes / ID_RECORD_BYTES_MIN).min(SKIP_IDS_MAX);
        Self { ids_lost_max, ..Self::default() }
    }

    /// A namespace is there, or has other settings. What came is counted before the records of the
    /// segment and what went behind them, so that no counter goes below 0 on the way.
    pub fn meet(&mut self, id: u32, namespaces: &mut Namespaces) {
        let Some((residue, is_met)) = self.residues.get_mut(&id) else { return };
        let slot = namespaces.slot_of(id);
        let Some(namespace) = slot.and_then(|slot| namespaces.get_mut(slot)) else { return };
        if !std::mem::replace(is_met, true) {
            namespace.live_keys += residue.keys_added;
            namespace.live_bytes += residue.bytes_added;
            namespace.key_bytes += residue.key_bytes_added;
            namespace.inserts += residue.inserts;
        }
        if let Keys::Sequential(table) = &mut namespace.keys {
            let next = table.next_id();
            let behind = *self
                .next_ids
                .entry(id)
                .or_insert(next.saturating_add(residue.ids).max(residue.ids_floor));
            skip_to(table, behind);
        }
    }

    /// Whether the next id of a namespace is known beforehand: records of it then only set and remove.
    pub fn has_ids(&self, id: u32) -> bool {
        !self.next_ids.is_empty() && self.next_ids.contains_key(&id)
    }

    /// Does to ids what a record of the segment says.
    pub fn apply_id(&self, namespace: u32, table: &mut SequenceTable, entry: &LogEntry) {
        if !self.has_ids(namespace) {
            return apply_sequential(table, entry);
        }
        match entry.kind {
            Kind::Delete => drop(table.remove(entry.key)),
            _ if entry.key < table.next_id() => {
                table.set(entry.key, Place::new(entry.position));
            }
            // The residue has not counted it: it is damaged, or the record is.
            _ => apply_sequential(table, entry),
        }
    }

    /// Does to index and counters what a record of a key says.
    pub fn apply(
        &self,
        namespaces: &mut Namespaces,
        pool: &mut PagePool,
        slot: usize,
        entry: &LogEntry,
        end: u64,
    ) {
        let Some(namespace) = namespaces.get_mut(slot) else { return };
        match &mut namespace.keys {
            Keys::Sequential(table) => self.apply_id(entry.namespace, table, entry),
            Keys::User(_) => return apply(namespaces, pool, slot, entry, end),
        }
        count(namespace, entry, end);
    }

    /// So many ids may have been given out by records that are gone and of which nothing is known.
    pub fn ids_lost_max(&self) -> u64 {
        self.ids_lost_max
    }

    /// Adds the next ids of sequential namespaces that are not there: their own records may be lost, and a
    /// record of a key may come.
    pub fn add_lost(&self, next_ids: &mut HashMap<u32, u64>) {
        let lost = self.residues.values().filter(|(residue, is_met)| !is_met && residue.ids > 0);
        for (residue, _) in lost {
            let next = next_ids.entry(residue.namespace).or_default();
            *next = next.saturating_add(residue.ids).max(residue.ids_floor);
        }
    }

    /// Behind the last record of the segment.
    pub fn end(self, namespaces: &mut Namespaces) {
        for (id, (residue, is_met)) in self.residues {
            let slot = namespaces.slot_of(id);
            let namespace = slot.and_then(|slot| namespaces.get_mut(slot));
            // A namespace that has ended, or that is lost, has no counters.
            let Some(namespace) = namespace.filter(|_| is_met) else { continue };
            namespace.live_keys = namespace.live_keys.saturating_sub(residue.keys_removed);
            namespace.live_bytes = namespace.live_bytes.saturating_sub(residue.bytes_removed);
            namespace.key_bytes = namespace.key_bytes.saturating_sub(residue.key_bytes_removed);
            // Not before: settings of the segment may change the mode of a namespace until its first key.
            namespace.used |= residue.is_used;
        }
        if self.ids_lost_max == 0 {
            return;
        }
        let slots: Vec<usize> = namespaces.slots().map(|(slot, _)| slot).collect();
        for slot in slots {
            if let Some(namespace) = namespaces.get_mut(slot)
                && let Keys::Sequential(table) = &mut namespace.keys
            {
                skip_to(table, table.next_id().saturating_add(self.ids_lost_max));
            }
        }
    }
}

/// Uses ids up, as far as a log of ours can go.
fn skip_to(table: &mut SequenceTable, next: u64) {
    let next = next.min(table.next_id().saturating_add(SKIP_IDS_MAX));
    if next > table.next_id() {
        table.reserve(next - 1);
    }
}
