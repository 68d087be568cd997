//! The read cache: verified records that were read from the disk, up to a number of bytes.
//!
//! Only reads fill it. What was just written is in the write buffer, and a write-heavy load must not
//! drive out what is read. The crate's replacement (CLOCK-Pro) survives scans.

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use std::cell::Cell;

/// What an item costs beside its bytes: the slot of the cache and the allocation's header.
const ITEM_BYTES: u64 = 96;
/// A record of this size and more keeps the buffer that it was read into; a smaller one is copied
/// out of its blocks.
const KEEP_BUFFER_BYTES: usize = 64 << 10;

#[derive(Clone)]
struct RecordWeight;

impl Weighter<u64, Bytes> for RecordWeight {
    fn weight(&self, _: &u64, record: &Bytes) -> u64 {
        record.len() as u64 + ITEM_BYTES
    }
}

pub struct RecordCache {
    /// `None` with `--cache 0`.
    records: Option<Cache<u64, Bytes, RecordWeight>>,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

impl RecordCache {
    pub fn new(capacity_bytes: u64) -> Self {
        // Sized for small records at first; it grows with what is put in.
        let items = (capacity_bytes / 4096).clamp(16, 1 << 16) as usize;
        let records =
            (capacity_bytes > 0).then(|| Cache::with_weighter(items, capacity_bytes, RecordWeight));
        Self { records, hits: Cell::new(0), misses: Cell::new(0) }
    }

    /// Changes how many bytes it may hold; what is too much goes at once.
    pub fn resize(&mut self, capacity_bytes: u64) {
        match &mut self.records {
            Some(records) if capacity_bytes > 0 => records.set_capacity(capacity_bytes),
            _ => *self = Self::new(capacity_bytes),
        }
    }

    /// Looks for the record that a request needs.
    pub fn find(&self, position: u64) -> Option<&Bytes> {
        let found = self.get(position);
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.set(count.get() + 1);
        found
    }

    /// How often `find` found a record, and how often not.
    pub fn lookups(&self) -> (u64, u64) {
        (self.hits.get(), self.misses.get())
    }

    pub fn get(&self, position: u64) -> Option<&Bytes> {
        self.records.as_ref()?.get(&position)
    }

    /// Takes a verified record, a part of `buffer_bytes` of memory, and returns it as it is kept.
    pub fn insert(&mut self, position: u64, record: Bytes, buffer_bytes: u64) -> Bytes {
        let Some(records) = &mut self.records else { return record };
        let record =
            if record.len() < KEEP_BUFFER_BYTES || buffer_bytes as usize > record.len() * 9 / 8 {
                Bytes::copy_from_slice(&record)
            } else {
                record
            };
        records.insert(position, record.clone());
        record
    }

    pub fn clear(&mut self) {
        if let Some(records) = &mut self.records {
            records.clear();
        }
    }

    pub fn bytes(&self) -> u64 {
        self.records.as_ref().map_or(0, |records| records.weight())
    }

    pub fn len(&self) -> usize {
        self.records.as_ref().map_or(0, |records| records.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
