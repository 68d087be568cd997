//! Many changes to a table at once, as at a start: sorted first, then merged leaf by leaf. Each leaf is
//! laid out once, so ten million keys cost a sort and a pass instead of ten million cache misses.

use super::table::{
    DEPTH_MAX, KeyTable, LEAF_PAGES_MAX, Leaf, ROOTS, Root, SPLIT_LOAD_PERCENT, SPLIT_LOAD_STEPS,
    pages_for, prefix,
};
use super::{Entry, KeyHash, PagePool, SLOTS_PER_PAGE, Slot, is_gap, pack, tag_in, tag_of};

/// Fewer changes are sorted by one thread, in less time than others take to begin.
const PARALLEL_MIN: usize = 16 << 10;

/// Most entries of a leaf that is made here: what its pages hold at the lowest load of a split.
const LEAF_SLOTS_MAX: usize = LEAF_PAGES_MAX * SLOTS_PER_PAGE * SPLIT_LOAD_PERCENT / 100;

/// Changes in the order in which they happened; the last one of a hash counts.
#[derive(Default)]
pub struct Bulk {
    /// By root. A removal is a slot with a tag and without a place.
    roots: [Vec<Slot>; ROOTS],
    len: usize,
}

impl Bulk {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub fn insert(&mut self, hash: KeyHash, entry: Entry) {
        self.push(hash, pack(tag_of(hash), entry));
    }

    #[inline]
    pub fn remove(&mut self, hash: KeyHash) {
        self.push(hash, Slot::from(tag_of(hash)) << u64::BITS);
    }

    #[inline]
    fn push(&mut self, hash: KeyHash, slot: Slot) {
        self.roots[hash.root()].push(slot);
        self.len += 1;
    }

    /// Sorts by tag and keeps the last change of each, on so many threads.
    pub fn sort(mut self, threads: usize) -> SortedBulk {
        if threads <= 1 || self.len < PARALLEL_MIN {
            self.roots.iter_mut().for_each(sort_root);
            return SortedBulk { roots: self.roots };
        }
        let threads = threads.min(ROOTS);
        std::thread::scope(|scope| {
            for part in self.roots.chunks_mut(ROOTS.div_ceil(threads)) {
                scope.spawn(|| part.iter_mut().for_each(sort_root));
            }
        });
        SortedBulk { roots: self.roots }
    }
}

/// Changes that are ready to be merged.
pub struct SortedBulk {
    roots: [Vec<Slot>; ROOTS],
}

fn sort_root(slots: &mut Vec<Slot>) {
    // Stable: changes of one tag stay in their order.
    slots.sort_by_key(|&slot| tag_in(slot));
    let mut kept = 0;
    for at in 0..slots.len() {
        let last = slots.get(at + 1).is_none_or(|&next| tag_in(next) != tag_in(slots[at]));
        if last {
            slots[kept] = slots[at];
            kept += 1;
        }
    }
    slots.truncate(kept);
}

impl KeyTable {
    /// Makes the changes.
    pub fn merge(&mut self, pool: &mut PagePool, bulk: SortedBulk) {
        for (no, changes) in bulk.roots.into_iter().enumerate() {
            if !changes.is_empty() {
                let root = std::mem::take(&mut self.roots[no]);
                self.roots[no] = merge_root(root, pool, &changes, no);
            }
        }
        let leaves = || self.roots.iter().flat_map(|root| &root.leaves);
        let (len, pages) = (
            leaves().map(|leaf| leaf.len as usize).sum(),
            leaves().map(|leaf| leaf.pages.len()).sum(),
        );
        self.len = len;
        self.pages = pages;
    }
}

fn merge_root(mut old: Root, pool: &mut PagePool, mut changes: &[Slot], root_no: usize) -> Root {
    old.leaf_no_or_first(0);
    let mut made = Made { root: Root::default(), prefixes: Vec::new(), root_no };
    let mut at = 0;
    while at < old.directory.len() {
        let leaf = std::mem::take(&mut old.leaves[old.directory[at] as usize]);
        let copies = old.depth - leaf.depth;
        let of_leaf =
            changes.partition_point(|&slot| prefix(tag_in(slot), leaf.depth) <= at >> copies);
        let (of_this, rest) = changes.split_at(of_leaf);
        changes = rest;
        at += 1 << copies;
        let (scratch, count) = leaf.gather(pool);
        let merged = merge_slots(&scratch[..count], of_this);
        pool.scratch = scratch;
        let depth = leaf.depth;
        let leaf_prefix = (at >> copies) - 1;
        made.leaves(pool, leaf, &merged, leaf_prefix, depth);
    }
    made.finish()
}

/// Two sorted runs into one; of equal tags the change counts, and a removal leaves nothing.
fn merge_slots(old: &[Slot], changes: &[Slot]) -> Vec<Slot> {
    let mut merged = Vec::with_capacity(old.len() + changes.len());
    let mut old = old.iter().copied().peekable();
    for &change in changes {
        while let Some(slot) = old.next_if(|&slot| tag_in(slot) < tag_in(change)) {
            merged.push(slot);
        }
        old.next_if(|&slot| tag_in(slot) == tag_in(change));
        if !is_gap(change) {
            merged.push(change);
        }
    }
    merged.extend(old);
    merged
}

struct Made {
    root: Root,
    /// Of each leaf, with its depth.
    prefixes: Vec<usize>,
    root_no: usize,
}

impl Made {
    /// Makes one leaf or, of too many slots, several. `old` gives its pages to the first.
    fn leaves(
        &mut self,
        pool: &mut PagePool,
        mut old: Leaf,
        slots: &[Slot],
        leaf_prefix: usize,
        depth: u32,
    ) {
        if slots.len() > LEAF_SLOTS_MAX && depth < DEPTH_MAX {
            let bit = 1 << (u64::BITS - depth - 1);
            let middle = slots.partition_point(|&slot| tag_in(slot) & bit == 0);
            let (lower, upper) = slots.split_at(middle);
            self.leaves(pool, old, lower, leaf_prefix << 1, depth + 1);
            return self.leaves(pool, Leaf::default(), upper, leaf_prefix << 1 | 1, depth + 1);
        }
        let step = (self.prefixes.len() + self.root_no * 5) % SPLIT_LOAD_STEPS;
        let pages = pages_for(slots.len(), SPLIT_LOAD_PERCENT + step);
        old.depth = depth;
        old.lay_out(pool, slots, pages, 0);
        self.root.leaves.push(old);
        self.root.depth = self.root.depth.max(depth);
        self.prefixes.push(leaf_prefix);
    }

    fn finish(mut self) -> Root {
        self.root.directory = vec![0; 1 << self.root.depth];
        for (no, leaf_prefix) in self.prefixes.iter().enumerate() {
            let copies = self.root.depth - self.root.leaves[no].depth;
            let first = leaf_prefix << copies;
            self.root.directory[first..first + (1 << copies)].fill(no as u32);
        }
        self.root
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Random;
    use super::super::{HashSecret, Place};
    use super::*;
    use std::collections::HashMap;

    fn check(seed: u64, rounds: usize, changes: usize, keys: u64) {
        let mut random = Random::seeded(seed);
        let secret = HashSecret::new([7; 16]);
        let (mut pool, mut table, mut bulk) = (PagePool::new(), KeyTable::new(), Bulk::new());
        let mut model: HashMap<u64, Entry> = HashMap::new();
        for _ in 0..rounds {
            for _ in 0..changes {
                let key = random.next() % keys;
                let hash = secret.hash(&key.to_le_bytes());
                if random.next().is_multiple_of(4) {
                    bulk.remove(hash);
                    model.remove(&key);
                } else {
                    let place = Place::new((random.next() % (1 << 40) + 1) * 8);
                    let entry = Entry { place, length: key as u32 % 1000, fingerprint: 3 };
                    bulk.insert(hash, entry);
                    model.insert(key, entry);
                }
            }
            table.merge(&mut pool, std::mem::take(&mut bulk).sort(1 + changes % 3));
            // Ordinary changes go on where a merge ended.
            for _ in 0..changes / 10 {
                let key = random.next() % keys;
                let hash = secret.hash(&key.to_le_bytes());
                assert_eq!(table.remove(&mut pool, hash), model.remove(&key));
                let entry = Entry { place: Place::new(4096), length: 1, fingerprint: 1 };
                assert_eq!(table.insert(&mut pool, hash, entry), None);
                model.insert(key, entry);
            }
            assert_eq!(table.len(), model.len());
            for key in 0..keys.min(200_000) {
                let hash = secret.hash(&key.to_le_bytes());
                assert_eq!(table.get(&pool, hash), model.get(&key).copied(), "key {key}");
            }
        }
    }

    #[test]
    fn merges_match_a_map() {
        check(1, 20, 50, 40);
        check(2, 10, 3_000, 2_000);
        check(3, 4, 150_000, 300_000);
    }

    #[test]
    fn a_merged_table_keeps_the_promise_of_memory() {
        let secret = HashSecret::new([9; 16]);
        let (mut pool, mut table, mut bulk) = (PagePool::new(), KeyTable::new(), Bulk::new());
        for key in 0u64..1_000_000 {
            let entry = Entry { place: Place::new(8 + key * 8), length: 5, fingerprint: 0 };
            bulk.insert(secret.hash(&key.to_le_bytes()), entry);
        }
        table.merge(&mut pool, bulk.sort(2));
        let bytes = table.memory_bytes();
        assert!(bytes <= 20 * table.len(), "{} bytes a key", bytes as f64 / 1e6);
    }
}
