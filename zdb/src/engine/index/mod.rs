//! The in-memory index: where in the log the newest record of a key or an id lies.
//!
//! Two shapes, one per namespace mode: [`KeyTable`] maps the hash of a key to an [`Entry`] in
//! 16-byte slots, [`SequenceTable`] maps dense ids to a [`Place`] in 8 bytes. Neither holds keys or
//! values, neither reads the disk, and both are rebuilt from the log at start. This module never
//! does I/O and never takes a lock: one thread owns it.

mod bulk;
mod sequence;
mod table;

pub use bulk::Bulk;
pub use sequence::{SKIP_IDS_MAX, SequenceTable};
pub use table::KeyTable;

use siphasher::sip::SipHasher13;

/// Bits of a [`Place`] in bytes: 2^49 bytes is 512 TiB of log.
pub const PLACE_BITS: u32 = 49;

/// Every record starts at a multiple of this many bytes, so a place fits 46 bits.
pub const PLACE_ALIGN_BYTES: u64 = 8;

/// Largest payload an [`Entry`] can stand for, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = crate::limits::PAYLOAD_BYTES_MAX as u32;

const _: () = assert!(PAYLOAD_BYTES_MAX < Entry::DEAD);

/// A byte position in the log. Position 0 is the log's header, never a record, so it can mean
/// "none" without a flag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place(u64);

impl Place {
    pub const NONE: Place = Place(0);

    /// # Panics
    /// When `bytes` is not a multiple of [`PLACE_ALIGN_BYTES`] or not below 2^[`PLACE_BITS`]. A
    /// place read from outside is checked before it gets here.
    #[inline]
    pub fn new(bytes: u64) -> Place {
        assert!(
            bytes.is_multiple_of(PLACE_ALIGN_BYTES) && bytes >> PLACE_BITS == 0,
            "place {bytes} is unaligned or past 2^{PLACE_BITS}"
        );
        Place(bytes)
    }

    /// Whether a number from outside can be a place.
    #[inline]
    pub const fn is_valid(bytes: u64) -> bool {
        bytes.is_multiple_of(PLACE_ALIGN_BYTES) && bytes >> PLACE_BITS == 0
    }

    #[inline]
    pub fn get(self) -> u64 {
        self.0
    }

    #[inline]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// What the index knows of a key beside its hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where the record lies; never [`Place::NONE`].
    pub place: Place,
    /// Payload bytes, at most [`PAYLOAD_BYTES_MAX`], or [`Entry::DEAD`].
    pub length: u32,
    /// Eight bits of a hash of the value: tells an overwrite with the same value from a new one
    /// without a read in 255 of 256 cases.
    pub fingerprint: u8,
}

impl Entry {
    /// In place of a length: the record is a tombstone.
    pub const DEAD: u32 = 0xFF_FFFF;

    #[inline]
    pub fn is_dead(&self) -> bool {
        self.length == Entry::DEAD
    }
}

/// The 64-bit hash of a key under the secret of this data directory. The upper 54 bits identify
/// the key in a [`KeyTable`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyHash(u64);

impl KeyHash {
    /// A hash that was written down before.
    #[inline]
    pub fn from_bits(bits: u64) -> KeyHash {
        KeyHash(bits)
    }

    #[inline]
    pub fn get(self) -> u64 {
        self.0
    }

    /// Which of a table's 16 roots the key belongs to. A start that feeds its inserts group by
    /// group of the hash's upper bits stays in cache; see [`KeyTable::insert`].
    #[inline]
    pub fn root(self) -> usize {
        (self.0 >> (u64::BITS - ROOT_BITS)) as usize
    }
}

/// The key of the hash. Random per data directory and never shown, so that nobody who chooses keys
/// can aim at one leaf: the table's costs hold for uniform hashes only.
#[derive(Clone)]
pub struct HashSecret([u8; 16]);

/// With this secret fuzz targets get eight hashes: keys that share one are otherwise never met.
pub const FEW_HASHES_SECRET: [u8; 16] = *b"0123456789abcdef";
const FEW_HASHES: u64 = 7 << 61;

impl HashSecret {
    pub fn new(bytes: [u8; 16]) -> HashSecret {
        HashSecret(bytes)
    }

    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// SipHash-1-3 (Aumasson and Bernstein, with one compression and three final rounds): the
    /// cheapest keyed hash without a known way to aim collisions; xxh3 with a secret seed has one.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let hash = SipHasher13::new_with_key(&self.0).hash(key);
        if cfg!(fuzzing) && self.0 == FEW_HASHES_SECRET {
            return KeyHash(hash & FEW_HASHES);
        }
        KeyHash(hash)
    }
}

impl std::fmt::Debug for HashSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashSecret(..)")
    }
}

/// What a [`KeyTable`] keeps of a key, from the upper bits down:
///
/// ```text
/// hash    root 4 | tag 50 | 10 unused
/// slot    tag 50 | length, upper 6 | fingerprint 8 | place / 8, 46 | length, lower 18
/// ```
///
/// One integer, so that chunks come zeroed and untouched from the allocator (`vec!` does that for
/// integers only). 0 is a gap: a place is never 0.
type Slot = u128;
const GAP: Slot = 0;

const ROOT_BITS: u32 = 4;
const TAG_BITS: u32 = 50;
const LENGTH_BITS: u32 = 24;
const FINGERPRINT_BITS: u32 = 8;
/// Places are multiples of 8, so their lower three bits are not stored.
const STORED_PLACE_BITS: u32 = PLACE_BITS - PLACE_ALIGN_BYTES.trailing_zeros();

const LENGTH_LOW_BITS: u32 = u64::BITS - STORED_PLACE_BITS;
const LENGTH_HIGH_BITS: u32 = LENGTH_BITS - LENGTH_LOW_BITS;
const TAG_MASK: u64 = !0 << (u64::BITS - TAG_BITS);

const _: () = {
    assert!(TAG_BITS + LENGTH_BITS + FINGERPRINT_BITS + STORED_PLACE_BITS == Slot::BITS);
    assert!(TAG_BITS + LENGTH_HIGH_BITS + FINGERPRINT_BITS == u64::BITS);
    assert!(ROOT_BITS + TAG_BITS <= u64::BITS);
    assert!(Entry::DEAD == (1 << LENGTH_BITS) - 1);
    assert!(size_of::<Slot>() == 16);
};

/// The tag in the upper bits of the integer, where a slot has it, zeros below.
#[inline]
fn tag_of(hash: KeyHash) -> u64 {
    (hash.get() << ROOT_BITS) & TAG_MASK
}

#[inline]
fn upper_half(slot: Slot) -> u64 {
    (slot >> u64::BITS) as u64
}

#[inline]
fn tag_in(slot: Slot) -> u64 {
    upper_half(slot) & TAG_MASK
}

/// The lower half alone tells: it holds the place, which is never 0 in an entry.
#[inline]
fn is_gap(slot: Slot) -> bool {
    slot as u64 == 0
}

#[inline]
fn is_of(slot: Slot, tag: u64) -> bool {
    slot != GAP && tag_in(slot) == tag
}

#[inline]
fn pack(tag: u64, entry: Entry) -> Slot {
    let Entry { place, length, fingerprint } = entry;
    assert!(!place.is_none(), "an entry without a place");
    assert!(
        length <= PAYLOAD_BYTES_MAX || length == Entry::DEAD,
        "an entry of {length} payload bytes"
    );
    let length = u64::from(length);
    let upper = tag | length >> LENGTH_LOW_BITS << FINGERPRINT_BITS | u64::from(fingerprint);
    let length_low = length & ((1 << LENGTH_LOW_BITS) - 1);
    let lower = ((place.get() / PLACE_ALIGN_BYTES) << LENGTH_LOW_BITS) | length_low;
    Slot::from(upper) << u64::BITS | Slot::from(lower)
}

#[inline]
fn unpack(slot: Slot) -> Entry {
    let upper = upper_half(slot) & !TAG_MASK;
    let lower = slot as u64;
    let length_low = lower & ((1 << LENGTH_LOW_BITS) - 1);
    Entry {
        place: Place((lower >> LENGTH_LOW_BITS) * PLACE_ALIGN_BYTES),
        length: (upper >> FINGERPRINT_BITS << LENGTH_LOW_BITS | length_low) as u32,
        fingerprint: upper as u8,
    }
}

const SLOTS_PER_PAGE: usize = 64;
pub const PAGE_BYTES: usize = SLOTS_PER_PAGE * size_of::<Slot>();
const CHUNK_BYTES: usize = crate::limits::scaled(2 << 20, 64 << 10) as usize;
const PAGES_PER_CHUNK: usize = CHUNK_BYTES / PAGE_BYTES;
const CACHE_LINE_BYTES: usize = 64;

const _: () = assert!(PAGE_BYTES == 1024 && CHUNK_BYTES == PAGES_PER_CHUNK * PAGE_BYTES);

/// The slots of all tables, in pages of 1 KiB. One pool serves thousands of tables, so a small one
/// costs pages, not chunks. Pages given back are used again; chunks are never returned.
#[derive(Default)]
pub struct PagePool {
    chunks: Vec<Chunk>,
    /// Pages handed out so far, without counting reuse; also the id of the next fresh one.
    fresh: u32,
    free: Vec<u32>,
    /// The entries of the leaf being laid out; kept, so that growth does not allocate.
    scratch: Vec<Slot>,
}

/// 2 MiB of slots. The vector is longer by a cache line, so that `first` can be aligned to one
/// without `unsafe` and a page never shares its lines.
struct Chunk {
    slots: Vec<Slot>,
    first: usize,
}

type Page = [Slot; SLOTS_PER_PAGE];

impl PagePool {
    pub fn new() -> PagePool {
        PagePool::default()
    }

    /// Pages that tables hold, 1 KiB each.
    pub fn pages_in_use(&self) -> usize {
        self.fresh as usize - self.free.len()
    }

    /// Bytes held: the chunks, used or not, and the pool's own lists. Of the last chunk only
    /// pages handed out are backed by memory.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.chunks.len() * CHUNK_BYTES
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.free.capacity() * size_of::<u32>()
            + self.scratch.capacity() * size_of::<Slot>()
    }

    /// A page with any content.
    fn take(&mut self) -> u32 {
        if let Some(id) = self.free.pop() {
            return id;
        }
        let id = self.fresh;
        self.fresh = id.checked_add(1).expect("the index stays below 2^32 pages, 4 TiB");
        if id as usize / PAGES_PER_CHUNK == self.chunks.len() {
            self.chunks.push(Chunk::new());
        }
        id
    }

    fn give_back(&mut self, pages: impl IntoIterator<Item = u32>) {
        self.free.extend(pages);
    }

    #[inline]
    fn page(&self, id: u32) -> &Page {
        let chunk = &self.chunks[id as usize / PAGES_PER_CHUNK];
        let first = chunk.first + id as usize % PAGES_PER_CHUNK * SLOTS_PER_PAGE;
        chunk.slots[first..first + SLOTS_PER_PAGE].try_into().expect("a page's length")
    }

    #[inline]
    fn page_mut(&mut self, id: u32) -> &mut Page {
        let chunk = &mut self.chunks[id as usize / PAGES_PER_CHUNK];
        let first = chunk.first + id as usize % PAGES_PER_CHUNK * SLOTS_PER_PAGE;
        let slots = &mut chunk.slots[first..first + SLOTS_PER_PAGE];
        slots.try_into().expect("a page's length")
    }
}

impl Chunk {
    fn new() -> Chunk {
        let spare = CACHE_LINE_BYTES / size_of::<Slot>();
        let slots = vec![GAP; CHUNK_BYTES / size_of::<Slot>() + spare];
        // `align_offset` may refuse (it does not on any target of ours); then lines are shared.
        let first = slots.as_ptr().align_offset(CACHE_LINE_BYTES);
        let first = if first < spare { first } else { 0 };
        Chunk { slots, first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A xorshift generator that prints its seed, for the tests of this folder.
    pub(super) struct Random(u64);

    impl Random {
        pub(super) fn seeded(seed: u64) -> Random {
            println!("seed {seed}");
            Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
        }

        pub(super) fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
        }

        pub(super) fn below(&mut self, limit: u64) -> u64 {
            (self.next() >> 11) % limit
        }

        pub(super) fn entry(&mut self) -> Entry {
            Entry {
                place: Place::new(8 * (1 + self.below((1 << 46) - 1))),
                length: match self.below(4) {
                    0 => Entry::DEAD,
                    _ => self.below(u64::from(PAYLOAD_BYTES_MAX) + 1) as u32,
                },
                fingerprint: self.next() as u8,
            }
        }
    }

    #[test]
    fn a_place_keeps_its_bytes_at_both_ends() {
        assert!(Place::NONE.is_none());
        for bytes in [8, (1 << 49) - 8] {
            assert_eq!(Place::new(bytes).get(), bytes);
            assert!(!Place::new(bytes).is_none());
        }
    }

    #[test]
    #[should_panic(expected = "unaligned")]
    fn an_unaligned_place_is_refused() {
        Place::new(12);
    }

    #[test]
    #[should_panic(expected = "past 2^49")]
    fn a_place_past_the_limit_is_refused() {
        Place::new(1 << 49);
    }

    /// The published first vector of SipHash-1-3 (key 00..0f, empty message) pins the variant.
    #[test]
    fn the_hash_is_keyed_and_stable() {
        let secret = HashSecret::new(std::array::from_fn(|i| i as u8));
        assert_eq!(secret.hash(b"").get(), 0xabac_0158_050f_c4dc);
        assert_ne!(secret.hash(b"a"), HashSecret::new([7; 16]).hash(b"a"));
        assert_eq!(format!("{secret:?}"), "HashSecret(..)");
        assert_eq!(KeyHash(u64::MAX).root(), 15);
    }

    #[test]
    fn slots_keep_every_field_at_its_limits() {
        for tag in [0, 1 << 14, TAG_MASK] {
            for place in [8, (1 << PLACE_BITS) - 8] {
                for length in [0, 1, (1 << 18) - 1, 1 << 18, PAYLOAD_BYTES_MAX, Entry::DEAD] {
                    for fingerprint in [0, 255] {
                        let entry = Entry { place: Place::new(place), length, fingerprint };
                        let slot = pack(tag, entry);
                        assert_eq!((unpack(slot), tag_in(slot)), (entry, tag));
                        assert!(is_of(slot, tag) && !is_of(GAP, tag));
                    }
                }
            }
        }
    }

    /// At most 20 bytes a key at every count above 200 000, about 18.3 on average.
    #[test]
    fn memory_stays_within_its_promise_at_every_count() {
        let mut pool = PagePool::new();
        let mut table = KeyTable::new();
        let mut random = Random::seeded(12);
        let entry = random.entry();
        let mut sum = 0.0;
        let mut samples = 0;
        while table.len() < 3_000_000 {
            table.insert(&mut pool, KeyHash(random.next()), entry);
            if table.len().is_multiple_of(10_000) && table.len() > 200_000 {
                let each = table.memory_bytes() as f64 / table.len() as f64;
                assert!(each <= 20.0, "{each:.2} bytes a key at {} keys", table.len());
                sum += each;
                samples += 1;
            }
        }
        let average = sum / f64::from(samples);
        println!("{average:.2} bytes a key on average");
        assert!(average < 18.5, "{average:.2} bytes a key on average");
    }
}
