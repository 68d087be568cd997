//! The user-mode index: key hash -> [`Entry`], 16 bytes a slot, no key kept.
//!
//! ```text
//! root (one of 16) -> directory (upper tag bits) -> leaf -> pages of 64 slots
//! ```
//!
//! A hash identifies by its upper 54 bits. Two keys that agree in them are ONE entry here: the
//! caller compares the key stored in the record and handles the collision. Among 10^9 keys of a
//! namespace about 28 pairs collide (n^2 / 2^55).
//!
//! A leaf is an array of slots sorted by tag, with gaps: linear probing in Robin Hood order (Celis
//! 1986). A tag's home is its fraction of the leaf's range times the leaf's home slots; an entry
//! lies at its home or after it, no gap between. A lookup reads on from home until the tag is met,
//! a greater one, or a gap: some 7 slots in the fullest leaf. Growth and splitting are one
//! sequential pass, since the order is the same at every size.
//!
//! Growth is by a twelfth of a leaf, so a leaf is 0.85 to 0.92 full at every count, where a table
//! that doubles is half empty at worst (32 bytes a key) and stalls while it copies. A leaf of 128
//! pages splits at the next tag bit (extendible hashing, Fagin et al. 1979), so no insert moves
//! more than 8192 slots.
//!
//! These costs hold for uniform hashes. Hashes that share long prefixes make lookups linear in a
//! leaf, never wrong; the secret of the hash keeps them out of reach.

use super::{
    Entry, GAP, KeyHash, PAGE_BYTES, PagePool, Place, ROOT_BITS, SLOTS_PER_PAGE, Slot, is_gap,
    is_of, pack, tag_in, tag_of, unpack, upper_half,
};
use crate::engine::prefetch;

pub(super) const ROOTS: usize = 1 << ROOT_BITS;

/// A leaf of this many pages (8192 slots, 128 KiB) splits where a smaller one grows.
pub(super) const LEAF_PAGES_MAX: usize = 128;
/// A leaf grows or splits before more than this share of its slots is taken.
const LOAD_PERCENT_MAX: usize = 91;
/// A leaf of `n` pages grows by `n / GROWTH_DIVISOR`, rounded, at least one.
const GROWTH_DIVISOR: usize = 11;
/// The halves of a split start with a load from here on ..
pub(super) const SPLIT_LOAD_PERCENT: usize = 84;
/// .. in this many steps of a percent, so that leaves of the same count do not all grow at the same
/// count: uniform hashes fill them alike to about one percent.
pub(super) const SPLIT_LOAD_STEPS: usize = 6;
/// A leaf of more than one page that falls below this load is laid out anew ..
const SHRINK_BELOW_PERCENT: usize = 50;
/// .. at this one, well away from both ends.
const SHRINK_LOAD_PERCENT: usize = 75;
/// Slots at the end of a leaf that are no tag's home, for what the last homes push on: one
/// sixteenth of the leaf, at most 32. When they run out the leaf is laid out with twice as many.
const SPILL_DIVISOR: usize = 16;
const SPILL_SLOTS_MAX: usize = 32;
/// Bits of a directory. 20 are enough for 10^10 keys (16 * 2^20 leaves of 4000) and bound what
/// hashes with a common prefix can make of it: 4 MiB a root. A leaf this deep grows without limit.
pub(super) const DEPTH_MAX: u32 = 20;

const _: () = assert!(SPLIT_LOAD_PERCENT + SPLIT_LOAD_STEPS < LOAD_PERCENT_MAX);
const _: () = assert!(SHRINK_BELOW_PERCENT < SHRINK_LOAD_PERCENT);
const _: () = assert!(SHRINK_LOAD_PERCENT < LOAD_PERCENT_MAX && LOAD_PERCENT_MAX < 100);

/// The index of one namespace. All of a table's calls take the same [`PagePool`]; a table dropped
/// without [`KeyTable::clear`] leaves its pages taken.
#[derive(Default)]
pub struct KeyTable {
    pub(super) roots: [Root; ROOTS],
    pub(super) len: usize,
    pub(super) pages: usize,
}

impl KeyTable {
    pub fn new() -> KeyTable {
        KeyTable::default()
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub fn get(&self, pool: &PagePool, hash: KeyHash) -> Option<Entry> {
        let tag = tag_of(hash);
        let leaf = self.roots[hash.root()].leaf(tag)?;
        let (_, slot) = leaf.find(pool, tag);
        is_of(slot, tag).then(|| unpack(slot))
    }

    /// Puts an entry in and returns the one it replaces.
    ///
    /// Many inserts are two to four times as fast when fed in groups by the upper bits of the hash
    /// (the root, and more bits in a large table), any order within a group: a group's leaves stay
    /// in cache. Groups want 100 000 keys or more. Sorted input, or groups down to a leaf or two,
    /// fill only a part of a leaf's range and cost two to four times as much as random order.
    ///
    /// # Panics
    /// When the entry's place is none or its length is neither one nor [`Entry::DEAD`].
    pub fn insert(&mut self, pool: &mut PagePool, hash: KeyHash, entry: Entry) -> Option<Entry> {
        let tag = tag_of(hash);
        let new = pack(tag, entry);
        let root = &mut self.roots[hash.root()];
        loop {
            let leaf_no = root.leaf_no_or_first(tag);
            let leaf = &mut root.leaves[leaf_no];
            let (at, old) = leaf.find(pool, tag);
            if is_of(old, tag) {
                *leaf.slot_mut(pool, at) = new;
                return Some(unpack(old));
            }
            let has_room = !leaf.is_full();
            if has_room && leaf.insert_at(pool, at, new) {
                self.len += 1;
                return None;
            }
            let before = pool.pages_in_use();
            if has_room {
                leaf.widen_spill(pool);
            } else {
                root.make_room(pool, leaf_no, hash.root());
            }
            self.pages = self.pages + pool.pages_in_use() - before;
        }
    }

    pub fn remove(&mut self, pool: &mut PagePool, hash: KeyHash) -> Option<Entry> {
        let tag = tag_of(hash);
        let root = &mut self.roots[hash.root()];
        let leaf_no = root.leaf_no(tag)?;
        let leaf = &mut root.leaves[leaf_no];
        let (at, slot) = leaf.find(pool, tag);
        if !is_of(slot, tag) {
            return None;
        }
        leaf.close_gap(pool, at);
        self.len -= 1;
        let before = pool.pages_in_use();
        leaf.shrink_if_sparse(pool);
        self.pages = self.pages + pool.pages_in_use() - before;
        Some(unpack(slot))
    }

    /// Forgets all entries and gives the pages and directories back. Costs a step a leaf.
    pub fn clear(&mut self, pool: &mut PagePool) {
        for root in std::mem::take(&mut self.roots) {
            for leaf in root.leaves {
                pool.give_back(leaf.pages);
            }
        }
        self.len = 0;
        self.pages = 0;
    }

    /// Bytes of this table: its pages, the lists of them, leaves and directories. Free pages of the
    /// pool are not in it.
    pub fn memory_bytes(&self) -> usize {
        let lists: usize = self.roots.iter().map(Root::memory_bytes).sum();
        size_of::<Self>() + self.pages * (PAGE_BYTES + size_of::<u32>()) + lists
    }

    /// Calls `visit` with every entry, in the order of their hashes' roots and, within one, by no
    /// order a caller may rely on.
    pub fn for_each(&self, pool: &PagePool, mut visit: impl FnMut(Entry)) {
        for leaf in self.roots.iter().flat_map(|root| &root.leaves) {
            for &id in &leaf.pages {
                for &slot in pool.page(id).iter().filter(|&&slot| slot != GAP) {
                    visit(unpack(slot));
                }
            }
        }
    }

    /// The place of some live entry, chosen by `draw`: leaves alike, then slots of the leaf alike.
    pub fn any(&self, pool: &PagePool, draw: u64) -> Option<Place> {
        let leaves = || self.roots.iter().flat_map(|root| &root.leaves);
        let count: usize = self.roots.iter().map(|root| root.leaves.len()).sum();
        let first = (draw % count.max(1) as u64) as usize;
        leaves().cycle().skip(first).take(count).find_map(|leaf| {
            let slots = leaf.capacity();
            let start = (draw >> 32) as usize % slots.max(1);
            (0..slots).map(|at| (start + at) % slots).find_map(|at| {
                let slot = pool.page(leaf.pages[at / SLOTS_PER_PAGE])[at % SLOTS_PER_PAGE];
                let entry = (slot != GAP).then(|| unpack(slot))?;
                (!entry.is_dead()).then_some(entry.place)
            })
        })
    }

    /// Asks the processor for the lines a `get` of this hash reads first. Worth it when several
    /// lookups are known ahead: their misses overlap.
    #[inline]
    pub fn prefetch(&self, pool: &PagePool, hash: KeyHash) {
        let tag = tag_of(hash);
        let Some(leaf) = self.roots[hash.root()].leaf(tag) else {
            return;
        };
        let home = leaf.home(tag);
        if let Some(&id) = leaf.pages.get(home / SLOTS_PER_PAGE) {
            prefetch::value(&pool.page(id)[home % SLOTS_PER_PAGE]);
        }
    }
}

/// All keys of which the hash begins with the same four bits.
#[derive(Default)]
pub(super) struct Root {
    /// Leaf number by the upper `depth` tag bits; empty until the first insert. A leaf of less
    /// depth stands in it more than once.
    pub(super) directory: Vec<u32>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) depth: u32,
}

impl Root {
    #[inline]
    fn leaf_no(&self, tag: u64) -> Option<usize> {
        let no = self.directory.get(prefix(tag, self.depth))?;
        Some(*no as usize)
    }

    #[inline]
    fn leaf(&self, tag: u64) -> Option<&Leaf> {
        Some(&self.leaves[self.leaf_no(tag)?])
    }

    #[inline]
    pub(super) fn leaf_no_or_first(&mut self, tag: u64) -> usize {
        if self.directory.is_empty() {
            self.directory.push(0);
            self.leaves.push(Leaf::default());
        }
        self.directory[prefix(tag, self.depth)] as usize
    }

    /// Grows or splits a full leaf. After a split of skewed hashes the half in question may still
    /// be full: the caller looks again.
    fn make_room(&mut self, pool: &mut PagePool, leaf_no: usize, root_no: usize) {
        let leaf = &mut self.leaves[leaf_no];
        let pages = leaf.pages.len();
        let step = ((pages + GROWTH_DIVISOR / 2) / GROWTH_DIVISOR).max(1);
        if leaf.depth == DEPTH_MAX {
            leaf.lay_out_anew(pool, pages + step, 0);
        } else if pages < LEAF_PAGES_MAX {
            leaf.lay_out_anew(pool, (pages + step).min(LEAF_PAGES_MAX), 0);
        } else {
            self.split(pool, leaf_no, root_no);
        }
    }

    fn split(&mut self, pool: &mut PagePool, leaf_no: usize, root_no: usize) {
        let upper_no = self.leaves.len();
        let leaf = &mut self.leaves[leaf_no];
        let (scratch, count) = leaf.gather(pool);
        let slots = &scratch[..count];
        leaf.depth += 1;
        let depth = leaf.depth;
        let bit = 1 << (u64::BITS - depth);
        let middle = slots.partition_point(|&slot| tag_in(slot) & bit == 0);
        let upper_prefix = prefix(tag_in(slots[0]), depth) | 1;
        let pages = |half: &[Slot], no: usize| {
            let step = (no + root_no * 5) % SPLIT_LOAD_STEPS;
            pages_for(half.len(), SPLIT_LOAD_PERCENT + step).min(LEAF_PAGES_MAX)
        };
        let (lower_half, upper_half) = slots.split_at(middle);
        let mut upper = Leaf { depth, ..Leaf::default() };
        // The lower half first: it leaves the pages that the upper half takes.
        leaf.lay_out(pool, lower_half, pages(lower_half, leaf_no), 0);
        upper.lay_out(pool, upper_half, pages(upper_half, upper_no), 0);
        pool.scratch = scratch;
        self.leaves.push(upper);

        if depth > self.depth {
            self.directory = self.directory.iter().flat_map(|&no| [no, no]).collect();
            self.depth = depth;
        }
        let copies = self.depth - depth;
        let first = upper_prefix << copies;
        self.directory[first..first + (1 << copies)].fill(upper_no as u32);
    }

    /// Without the lists of pages, which the table counts by the page.
    fn memory_bytes(&self) -> usize {
        self.directory.capacity() * size_of::<u32>() + self.leaves.capacity() * size_of::<Leaf>()
    }
}

/// A sorted array with gaps over `pages`. See the head of this file for its order.
#[derive(Default)]
pub(super) struct Leaf {
    /// Never longer than needed, so that its capacity need not be counted apart.
    pub(super) pages: Vec<u32>,
    pub(super) len: u32,
    /// Slots that can be a home; those after them only take what is pushed on.
    home_slots: u32,
    /// How many upper tag bits all tags of this leaf have in common.
    pub(super) depth: u32,
}

impl Leaf {
    #[inline]
    fn capacity(&self) -> usize {
        self.pages.len() * SLOTS_PER_PAGE
    }

    #[inline]
    fn is_full(&self) -> bool {
        (self.len as usize + 1) * 100 > self.capacity() * LOAD_PERCENT_MAX
    }

    /// Monotonic in `tag`, which makes the order by position the order by tag.
    #[inline]
    fn home(&self, tag: u64) -> usize {
        let fraction = u128::from(tag << self.depth);
        ((fraction * u128::from(self.home_slots)) >> u64::BITS) as usize
    }

    /// The first position from home on with a gap, this tag or a greater one, and the slot there;
    /// past the end of the leaf when there is none, with a gap.
    #[inline]
    fn find(&self, pool: &PagePool, tag: u64) -> (usize, Slot) {
        let home = self.home(tag);
        let mut at = home;
        for &id in &self.pages[home / SLOTS_PER_PAGE..] {
            for &slot in &pool.page(id)[at % SLOTS_PER_PAGE..] {
                if is_gap(slot) || upper_half(slot) >= tag {
                    return (at, slot);
                }
                at += 1;
            }
        }
        (at, GAP)
    }

    fn slot_mut<'a>(&self, pool: &'a mut PagePool, at: usize) -> &'a mut Slot {
        &mut pool.page_mut(self.pages[at / SLOTS_PER_PAGE])[at % SLOTS_PER_PAGE]
    }

    /// Puts `new` at `at` and pushes what is there on, up to the next gap. False, and nothing
    /// changed, when there is no gap before the end.
    fn insert_at(&mut self, pool: &mut PagePool, at: usize, new: Slot) -> bool {
        let Some(gap) = self.next_gap(pool, at) else {
            return false;
        };
        let mut carried = new;
        let mut from = at % SLOTS_PER_PAGE;
        let last_page = gap / SLOTS_PER_PAGE;
        for &id in &self.pages[at / SLOTS_PER_PAGE..last_page] {
            let page = pool.page_mut(id);
            let pushed_out = page[SLOTS_PER_PAGE - 1];
            page.copy_within(from..SLOTS_PER_PAGE - 1, from + 1);
            page[from] = carried;
            carried = pushed_out;
            from = 0;
        }
        let page = pool.page_mut(self.pages[last_page]);
        page.copy_within(from..gap % SLOTS_PER_PAGE, from + 1);
        page[from] = carried;
        self.len += 1;
        true
    }

    #[inline]
    fn next_gap(&self, pool: &PagePool, at: usize) -> Option<usize> {
        let mut from = at % SLOTS_PER_PAGE;
        for (no, &id) in self.pages.iter().enumerate().skip(at / SLOTS_PER_PAGE) {
            let page = pool.page(id);
            if let Some(found) = first_gap(&page[from..]) {
                return Some(no * SLOTS_PER_PAGE + from + found);
            }
            from = 0;
        }
        None
    }

    /// Takes the slot at `at` out and moves those after it back by one, up to a gap or to one that
    /// is at its home.
    fn close_gap(&mut self, pool: &mut PagePool, at: usize) {
        self.len -= 1;
        let mut from = at % SLOTS_PER_PAGE;
        for no in at / SLOTS_PER_PAGE..self.pages.len() {
            let first = no * SLOTS_PER_PAGE;
            let page = pool.page_mut(self.pages[no]);
            let stays = |i: usize| page[i] == GAP || self.home(tag_in(page[i])) == first + i;
            let end = (from + 1..SLOTS_PER_PAGE).find(|&i| stays(i));
            let end = end.unwrap_or(SLOTS_PER_PAGE);
            page.copy_within(from + 1..end, from);
            page[end - 1] = GAP;
            let Some(&next_id) = self.pages.get(no + 1).filter(|_| end == SLOTS_PER_PAGE) else {
                return;
            };
            let next = pool.page(next_id)[0];
            if next == GAP || self.home(tag_in(next)) == first + SLOTS_PER_PAGE {
                return;
            }
            pool.page_mut(self.pages[no])[SLOTS_PER_PAGE - 1] = next;
            from = 0;
        }
    }

    fn shrink_if_sparse(&mut self, pool: &mut PagePool) {
        let len = self.len as usize;
        if len * 100 < self.capacity() * SHRINK_BELOW_PERCENT {
            let wanted = pages_for(len, SHRINK_LOAD_PERCENT);
            if wanted < self.pages.len() {
                self.lay_out_anew(pool, wanted, 0);
            }
        }
    }

    /// For when the spill slots are used up though the leaf is not full.
    #[cold]
    fn widen_spill(&mut self, pool: &mut PagePool) {
        let spill = self.capacity() - self.home_slots as usize;
        self.lay_out_anew(pool, self.pages.len(), spill * 2);
    }

    fn lay_out_anew(&mut self, pool: &mut PagePool, pages: usize, spill_min: usize) {
        let (scratch, count) = self.gather(pool);
        self.lay_out(pool, &scratch[..count], pages, spill_min);
        pool.scratch = scratch;
    }

    /// All entries in order, at the start of the pool's scratch, which the caller puts back; and how
    /// many they are.
    pub(super) fn gather(&self, pool: &mut PagePool) -> (Vec<Slot>, usize) {
        let mut slots = std::mem::take(&mut pool.scratch);
        // Only hashes with a common prefix make a leaf larger than this.
        let least = LEAF_PAGES_MAX * SLOTS_PER_PAGE + 1;
        slots.resize((self.len as usize + 1).max(least), GAP);
        slots.shrink_to(least);
        // Each slot is written and only an entry counted, gaps being too irregular to predict; the
        // last place is for the gaps after the last entry.
        let mut count = 0;
        for &id in &self.pages {
            for &slot in pool.page(id) {
                slots[count] = slot;
                count += usize::from(!is_gap(slot));
            }
        }
        (slots, count)
    }

    /// Makes `slots`, in order, the content of this leaf, over exactly `pages` pages.
    pub(super) fn lay_out(
        &mut self,
        pool: &mut PagePool,
        slots: &[Slot],
        pages: usize,
        spill_min: usize,
    ) {
        if pages < self.pages.len() {
            pool.give_back(self.pages.drain(pages..));
            self.pages.shrink_to_fit();
        } else {
            self.pages.reserve_exact(pages - self.pages.len());
            self.pages.resize_with(pages, || pool.take());
        }
        let capacity = self.capacity();
        assert!(slots.len() <= capacity, "{} slots laid out in {capacity}", slots.len());
        self.len = slots.len() as u32;
        self.home_slots = 0;
        if capacity == 0 {
            return;
        }
        let mut spill = (capacity / SPILL_DIVISOR).min(SPILL_SLOTS_MAX).max(spill_min);
        loop {
            // With a single home all slots lie side by side from the start: that always fits.
            spill = spill.min(capacity - 1);
            self.home_slots = (capacity - spill) as u32;
            if self.fits(pool, slots) {
                return;
            }
            spill *= 2;
        }
    }

    /// Writes `slots` to their homes or after them; false when the last ones end up past the end.
    fn fits(&self, pool: &mut PagePool, slots: &[Slot]) -> bool {
        let mut next = 0;
        let mut written = 0;
        for (no, &id) in self.pages.iter().enumerate() {
            let end = (no + 1) * SLOTS_PER_PAGE;
            let page = pool.page_mut(id);
            page.fill(GAP);
            while let Some(&slot) = slots.get(written) {
                let at = self.home(tag_in(slot)).max(next);
                if at >= end {
                    break;
                }
                page[at % SLOTS_PER_PAGE] = slot;
                next = at + 1;
                written += 1;
            }
        }
        written == slots.len()
    }
}

pub(super) fn pages_for(len: usize, load_percent: usize) -> usize {
    (len * 100).div_ceil(SLOTS_PER_PAGE * load_percent)
}

#[inline]
pub(super) fn prefix(tag: u64, depth: u32) -> usize {
    // In two steps: a shift by 64, for depth 0, is an overflow.
    (tag >> 1 >> (u64::BITS - 1 - depth)) as usize
}

/// Four slots a step: an insert reads some 40 slots to the next gap.
#[inline]
fn first_gap(slots: &[Slot]) -> Option<usize> {
    let (fours, _) = slots.as_chunks::<4>();
    let is_met = |four: &[Slot; 4]| four.iter().fold(false, |met, &slot| met | is_gap(slot));
    let passed = fours.iter().position(is_met).unwrap_or(fours.len()) * 4;
    let found = slots[passed..].iter().position(|&slot| is_gap(slot))?;
    Some(passed + found)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Random;
    use super::super::{Entry, Place, TAG_BITS};
    use super::*;
    use std::collections::{HashMap, HashSet};

    fn hash_of(root: u64, tag: u64) -> KeyHash {
        assert!(root < 1 << ROOT_BITS && tag < 1 << TAG_BITS);
        KeyHash(root << (64 - ROOT_BITS) | tag << (64 - ROOT_BITS - TAG_BITS))
    }

    /// Every invariant of the structure, from scratch.
    fn check(tables: &[&KeyTable], pool: &PagePool) {
        let mut pages = HashSet::new();
        for table in tables {
            let mut len = 0;
            let pages_before = pages.len();
            for root in table.roots.iter().filter(|root| !root.directory.is_empty()) {
                assert_eq!(root.directory.len(), 1 << root.depth);
                let mut stands = vec![0usize; root.leaves.len()];
                root.directory.iter().for_each(|&no| stands[no as usize] += 1);
                for (no, leaf) in root.leaves.iter().enumerate() {
                    assert_eq!(stands[no], 1 << (root.depth - leaf.depth));
                    assert!(leaf.pages.len() <= LEAF_PAGES_MAX || leaf.depth == DEPTH_MAX);
                    assert_eq!(leaf.pages.capacity(), leaf.pages.len());
                    assert!(leaf.pages.iter().all(|&id| pages.insert(id)));
                    len += check_leaf(root, no, leaf, pool);
                }
            }
            assert_eq!(table.len(), len);
            assert_eq!(table.pages, pages.len() - pages_before);
        }
        assert_eq!(pool.pages_in_use(), pages.len());
        assert!(pool.free.iter().all(|&id| id < pool.fresh && pages.insert(id)));
    }

    fn check_leaf(root: &Root, no: usize, leaf: &Leaf, pool: &PagePool) -> usize {
        let slots: Vec<Slot> = leaf.pages.iter().flat_map(|&id| *pool.page(id)).collect();
        let mut last = None;
        let mut gap = None;
        for (at, &slot) in slots.iter().enumerate() {
            if slot == GAP {
                gap = Some(at);
                continue;
            }
            let tag = tag_in(slot);
            let home = leaf.home(tag);
            assert_eq!(root.leaf_no(tag), Some(no));
            assert!(last < Some(tag) && home <= at && gap < Some(home));
            assert!(home < leaf.home_slots as usize);
            last = Some(tag);
        }
        let len = slots.iter().filter(|&&slot| slot != GAP).count();
        assert_eq!(leaf.len as usize, len);
        len
    }

    /// Random operations on hashes that `draw` makes, mostly inserts in even phases and mostly
    /// removals in odd ones.
    fn run_model(seed: u64, steps: usize, phases: usize, draw: impl Fn(&mut Random) -> KeyHash) {
        let mut random = Random::seeded(seed);
        let mut pool = PagePool::new();
        let mut table = KeyTable::new();
        let mut model: HashMap<u64, Entry> = HashMap::new();
        let mut seen: Vec<KeyHash> = Vec::new();
        for step in 0..steps * phases {
            let shrinks = step / steps % 2 == 1;
            let known = seen.len() as u64;
            let hash = match random.below(4) {
                0 => draw(&mut random),
                _ if shrinks && known > 0 => seen.swap_remove(random.below(known) as usize),
                1 if known > 0 => seen[random.below(known) as usize],
                _ => draw(&mut random),
            };
            // The ten lower bits identify nothing.
            let hash = KeyHash(hash.0 ^ random.below(1 << 10));
            let id = hash.0 >> 10;
            match random.below(8) {
                0 => assert_eq!(table.get(&pool, hash), model.get(&id).copied()),
                1..7 if !shrinks => {
                    let entry = random.entry();
                    assert_eq!(table.insert(&mut pool, hash, entry), model.insert(id, entry));
                    seen.push(hash);
                }
                _ => assert_eq!(table.remove(&mut pool, hash), model.remove(&id)),
            }
            table.prefetch(&pool, hash);
            assert_eq!(table.len(), model.len());
            if step % (steps / 4) == 0 {
                check(&[&table], &pool);
            }
        }
        check(&[&table], &pool);
        for (&id, &entry) in &model {
            assert_eq!(table.get(&pool, KeyHash(id << 10)), Some(entry));
        }
        let sorted = |mut all: Vec<(u64, u32, u8)>| {
            all.sort_unstable();
            all
        };
        let fields = |entry: Entry| (entry.place.get(), entry.length, entry.fingerprint);
        let mut visited = Vec::new();
        table.for_each(&pool, |entry| visited.push(fields(entry)));
        let expected = model.values().map(|&entry| fields(entry)).collect();
        assert_eq!(sorted(visited), sorted(expected));
        for &id in model.keys() {
            assert!(table.remove(&mut pool, KeyHash(id << 10)).is_some());
        }
        check(&[&table], &pool);
        assert_eq!((table.len(), pool.pages_in_use()), (0, 0));
    }

    #[test]
    fn uniform_hashes_agree_with_a_model() {
        for seed in 1..=3 {
            run_model(seed, 60_000, 4, |random| KeyHash(random.next()));
        }
    }

    #[test]
    fn uniform_tags_of_one_root_agree_with_a_model() {
        run_model(4, 60_000, 4, |random| hash_of(9, random.below(1 << TAG_BITS)));
    }

    #[test]
    fn few_tag_bits_agree_with_a_model() {
        // Dense low bits, all at home 0; the same at the end of the range; the same in the middle.
        for (seed, high) in [(5, 0), (6, (1 << TAG_BITS) - (1 << 11)), (7, 0x2_5A5A << 30)] {
            run_model(seed, 8_000, 4, |random| hash_of(0, high | random.below(1 << 11)));
        }
        // Few upper bits: sixteen bunches of tags.
        run_model(8, 20_000, 4, |random| {
            hash_of(15, random.below(16) << (TAG_BITS - 4) | random.below(1 << 9))
        });
    }

    #[test]
    fn sorted_hashes_agree_with_the_count() {
        for descending in [false, true] {
            let mut pool = PagePool::new();
            let mut table = KeyTable::new();
            let count = 40_000u64;
            let hash = |i: u64| {
                let i = if descending { count - 1 - i } else { i };
                hash_of(3, i << (TAG_BITS - 16))
            };
            let entry = |i: u64| Entry { place: Place::new(8 + i * 8), length: 1, fingerprint: 2 };
            for i in 0..count {
                assert_eq!(table.insert(&mut pool, hash(i), entry(i)), None);
            }
            check(&[&table], &pool);
            for i in 0..count {
                assert_eq!(table.get(&pool, hash(i)), Some(entry(i)));
                assert_eq!(table.remove(&mut pool, hash(i)), Some(entry(i)));
            }
            check(&[&table], &pool);
        }
    }

    #[test]
    fn tags_with_one_long_prefix_stop_splitting_at_the_depth_limit() {
        let mut pool = PagePool::new();
        let mut table = KeyTable::new();
        let mut random = Random::seeded(9);
        let entry = random.entry();
        let prefix = 0xABCDE << (TAG_BITS - 20);
        let count = 9000;
        for low in 0..count {
            table.insert(&mut pool, hash_of(1, prefix | low), entry);
        }
        check(&[&table], &pool);
        assert_eq!(table.roots[1].depth, DEPTH_MAX);
        assert!((0..count).all(|low| table.get(&pool, hash_of(1, prefix | low)) == Some(entry)));
        assert_eq!(table.get(&pool, hash_of(1, prefix | count)), None);
        assert_eq!(table.get(&pool, hash_of(1, 0)), None);
        table.clear(&mut pool);
        assert_eq!(pool.pages_in_use(), 0);
    }

    /// The end of a leaf: the last home, the spill slots after it, and growth while they are full.
    #[test]
    fn the_greatest_tags_spill_past_the_last_home_and_come_back() {
        let mut pool = PagePool::new();
        let mut random = Random::seeded(10);
        let max = (1 << TAG_BITS) - 1;
        for count in [1, 4, 5, 8, 58, 59, 64, 65, 128, 200, 1000] {
            let mut table = KeyTable::new();
            let entry = random.entry();
            for i in 0..count {
                // From both sides of what is already there.
                let below = if i % 2 == 0 { count + i } else { count - i };
                assert_eq!(table.insert(&mut pool, hash_of(15, max - below), entry), None);
                check(&[&table], &pool);
            }
            assert_eq!(table.insert(&mut pool, hash_of(15, max), entry), None);
            assert_eq!(table.get(&pool, hash_of(15, max)), Some(entry));
            assert_eq!(table.get(&pool, hash_of(15, 0)), None);
            assert_eq!(table.get(&pool, hash_of(14, max)), None);
            assert_eq!(table.insert(&mut pool, hash_of(15, 0), entry), None);
            for i in 0..count {
                let below = if i % 2 == 0 { count + i } else { count - i };
                assert_eq!(table.remove(&mut pool, hash_of(15, max - below)), Some(entry));
                assert_eq!(table.remove(&mut pool, hash_of(15, max - below)), None);
                check(&[&table], &pool);
            }
            assert_eq!(table.remove(&mut pool, hash_of(15, max)), Some(entry));
            assert_eq!(table.remove(&mut pool, hash_of(15, 0)), Some(entry));
            assert_eq!(pool.pages_in_use(), 0);
        }
    }

    #[test]
    fn cleared_pages_are_used_again() {
        let mut pool = PagePool::new();
        let mut random = Random::seeded(11);
        let mut tables: Vec<KeyTable> = (0..20).map(|_| KeyTable::new()).collect();
        for round in 0..4 {
            for table in &mut tables {
                for _ in 0..2_000 {
                    table.insert(&mut pool, KeyHash(random.next()), random.entry());
                }
            }
            check(&tables.iter().collect::<Vec<_>>(), &pool);
            for table in &mut tables {
                table.clear(&mut pool);
                assert!(table.is_empty() && table.get(&pool, KeyHash(round)).is_none());
                assert!(table.memory_bytes() < 2048);
            }
            assert_eq!(pool.pages_in_use(), 0);
            assert_eq!(pool.chunks.len(), 1);
        }
    }
}
