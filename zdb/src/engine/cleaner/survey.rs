//! How much of each segment is no longer wanted: an estimate from a few pages of its sidecar, so that nobody has
//! to count while clients write, and a change of settings counts at once.

use super::super::Engine;
use super::super::index::KeyHash;
use super::super::log::format::{self, Kind};
use super::super::log::sidecar::{self, LogEntry, PAGE_HEADER_BYTES};
use super::super::namespace::{Keys, Namespace, Retention};

/// Pages of a segment that are looked at.
const PAGES_MAX: usize = 2;

/// What was seen of a segment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub bytes: u64,
    /// Of records that may be dropped.
    pub dead_bytes: u64,
}

impl Sample {
    /// Of a hundred bytes so many are dead.
    pub fn dead_percent(&self) -> u64 {
        (self.dead_bytes * 100).checked_div(self.bytes).unwrap_or(0)
    }

    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.dead_bytes += other.dead_bytes;
    }
}

/// The pages to look at, of a segment of so many: others each time.
pub fn pages(count: usize, round: u64) -> impl Iterator<Item = usize> {
    let wanted = PAGES_MAX.min(count);
    let shift = (round as usize).wrapping_mul(7919);
    (0..wanted).map(move |number| (number * count / wanted + shift) % count)
}

/// Looks at the entries of a page. `clean_until`: no older segment has what was ended below this position.
pub fn look(engine: &Engine, first: u64, page: &[u8], clean_until: u64) -> Sample {
    let mut sample = Sample::default();
    let mut last: Option<(u32, Option<&Namespace>)> = None;
    for entry in sidecar::entries(first, &page[PAGE_HEADER_BYTES..]) {
        let bytes = format::record_bytes(entry.key_length.into(), entry.payload_length as usize);
        let namespace = match last {
            Some((id, namespace)) if id == entry.namespace => namespace,
            _ => {
                let slot = engine.namespaces.slot_of(entry.namespace);
                let namespace = slot.and_then(|slot| engine.namespaces.get(slot));
                last = Some((entry.namespace, namespace));
                namespace
            }
        };
        sample.bytes += bytes;
        if is_dead(engine, namespace, &entry, clean_until) {
            sample.dead_bytes += bytes;
        }
    }
    sample
}

fn is_dead(
    engine: &Engine,
    namespace: Option<&Namespace>,
    entry: &LogEntry,
    clean_until: u64,
) -> bool {
    if !matches!(entry.kind, Kind::Set | Kind::Delete) {
        return false;
    }
    let Some(namespace) = namespace else { return true };
    if namespace.settings.retention == Retention::Forever {
        return false;
    }
    if entry.kind == Kind::Delete {
        return entry.position < clean_until;
    }
    match &namespace.keys {
        Keys::User(table) => table
            .get(&engine.pool, KeyHash::from_bits(entry.key))
            .is_none_or(|found| found.place.get() != entry.position || found.is_dead()),
        Keys::Sequential(table) => table.get(entry.key).is_none_or(|at| at.get() != entry.position),
    }
}
