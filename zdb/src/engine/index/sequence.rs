//! The sequential-mode index: id -> place, a dense array of 8 bytes an id.
//!
//! The array stands in chunks of 64 KiB that never move, so growth copies nothing but the list of
//! chunks (16 bytes for 8192 ids). A chunk without a live id is not allocated, or is given back,
//! so ids deleted long ago cost 16 bytes for 8192 too.

use super::Place;

const CHUNK_BYTES: usize = 64 * 1024;
const IDS_PER_CHUNK: usize = CHUNK_BYTES / size_of::<u64>();

/// How many ids a single [`SequenceTable::set`] or [`SequenceTable::reserve`] may skip. Skipped
/// ids cost 1/512 byte each in the list of chunks: a skip of 2^32 ids is 8 MiB. The server gives
/// ids out one by one, so gaps come only from a log whose deleted records were cleaned away.
pub const SKIP_IDS_MAX: u64 = 1 << 32;

#[derive(Default)]
struct Chunk {
    /// Places in bytes, 0 where there is none. Plain integers, since only for them does `vec!`
    /// take zeroed memory from the allocator without touching it.
    places: Option<Box<[u64; IDS_PER_CHUNK]>>,
    live: u32,
}

#[derive(Default)]
pub struct SequenceTable {
    /// May be shorter than `next_id` asks: reserved ids do not extend it.
    chunks: Vec<Chunk>,
    allocated: usize,
    next_id: u64,
    live: u64,
}

impl SequenceTable {
    pub fn new() -> SequenceTable {
        SequenceTable::default()
    }

    /// The place of an id; `None` for one that is deleted, reserved or was never given out.
    #[inline]
    pub fn get(&self, id: u64) -> Option<Place> {
        if id >= self.next_id {
            return None;
        }
        let (chunk, at) = split(id);
        let places = self.chunks.get(chunk)?.places.as_ref()?;
        some_place(places[at])
    }

    /// Sets the place of an id and returns the one it had. Ids between `next_id` and `id` become
    /// missing ones.
    ///
    /// # Panics
    /// When `id` is more than [`SKIP_IDS_MAX`] past `next_id`, or the place is none.
    pub fn set(&mut self, id: u64, place: Place) -> Option<Place> {
        assert!(!place.is_none(), "id {id} set to no place");
        self.reserve(id);
        let (chunk, at) = split(id);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, Chunk::default);
        }
        let chunk = &mut self.chunks[chunk];
        let places = chunk.places.get_or_insert_with(|| {
            self.allocated += 1;
            let zeroed = vec![0; IDS_PER_CHUNK].into_boxed_slice();
            zeroed.try_into().expect("a chunk has IDS_PER_CHUNK places")
        });
        let old = some_place(std::mem::replace(&mut places[at], place.get()));
        if old.is_none() {
            chunk.live += 1;
            self.live += 1;
        }
        old
    }

    /// Takes the place of an id away; the id stays used up.
    pub fn remove(&mut self, id: u64) -> Option<Place> {
        if id >= self.next_id {
            return None;
        }
        let (chunk_no, at) = split(id);
        let chunk = self.chunks.get_mut(chunk_no)?;
        let old = some_place(std::mem::take(&mut chunk.places.as_mut()?[at]))?;
        chunk.live -= 1;
        self.live -= 1;
        self.release_if_empty(chunk_no);
        Some(old)
    }

    /// Gives a chunk without live ids back. The chunk that new ids go to stays, or set and remove
    /// in turn would allocate each time; it is looked at again when `next_id` leaves it.
    fn release_if_empty(&mut self, chunk_no: usize) {
        let Some(chunk) = self.chunks.get_mut(chunk_no) else {
            return;
        };
        if chunk.live == 0 && chunk_no != split(self.next_id).0 && chunk.places.take().is_some() {
            self.allocated -= 1;
        }
    }

    /// One past the highest id ever set or reserved.
    #[inline]
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Uses an id up without giving it a place; an id already used up stays as it is.
    ///
    /// # Panics
    /// When `id` is more than [`SKIP_IDS_MAX`] past `next_id`.
    pub fn reserve(&mut self, id: u64) {
        if id < self.next_id {
            return;
        }
        assert!(
            id - self.next_id <= SKIP_IDS_MAX,
            "id {id} is more than {SKIP_IDS_MAX} past the next id {}",
            self.next_id
        );
        let tail = split(self.next_id).0;
        self.next_id = id.checked_add(1).expect("the last id is never given out");
        self.release_if_empty(tail);
    }

    /// How many ids have a place.
    #[inline]
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Forgets all ids and gives the memory back; the next id is 0 again.
    pub fn clear(&mut self) {
        *self = SequenceTable::default();
    }

    /// Bytes held, without the allocator's own.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.allocated * CHUNK_BYTES
    }

    /// The lowest id with a place above `after`, or of all. Costs at most 8192 places and, where
    /// ids were deleted, one step for each 8192 of them.
    pub fn next_live(&self, after: Option<u64>) -> Option<(u64, Place)> {
        let first = after.map_or(Some(0), |id| id.checked_add(1))?;
        if first >= self.next_id {
            return None;
        }
        let (first_chunk, mut at) = split(first);
        for (chunk_no, chunk) in self.chunks.iter().enumerate().skip(first_chunk) {
            if let Some(places) = chunk.populated()
                && let Some(found) = (at..IDS_PER_CHUNK).find(|&i| places[i] != 0)
            {
                return Some((join(chunk_no, found), Place::new(places[found])));
            }
            at = 0;
        }
        None
    }

    /// The highest id with a place below `before`, or of all. Costs as `next_live`.
    pub fn previous_live(&self, before: Option<u64>) -> Option<(u64, Place)> {
        let end = before.unwrap_or(self.next_id).min(self.next_id);
        let (last_chunk, mut end) = split(end);
        let up_to = self.chunks.len().min(last_chunk + 1);
        if up_to <= last_chunk {
            end = IDS_PER_CHUNK;
        }
        for (chunk_no, chunk) in self.chunks[..up_to].iter().enumerate().rev() {
            if let Some(places) = chunk.populated()
                && let Some(found) = (0..end).rfind(|&i| places[i] != 0)
            {
                return Some((join(chunk_no, found), Place::new(places[found])));
            }
            end = IDS_PER_CHUNK;
        }
        None
    }
}

impl Chunk {
    fn populated(&self) -> Option<&[u64; IDS_PER_CHUNK]> {
        self.places.as_deref().filter(|_| self.live > 0)
    }
}

/// Chunk and position in it. Callers have bounded `id` by `next_id`, whose chunk number fits.
#[inline]
fn split(id: u64) -> (usize, usize) {
    let per_chunk = IDS_PER_CHUNK as u64;
    ((id / per_chunk) as usize, (id % per_chunk) as usize)
}

#[inline]
fn join(chunk: usize, at: usize) -> u64 {
    (chunk * IDS_PER_CHUNK + at) as u64
}

#[inline]
fn some_place(bytes: u64) -> Option<Place> {
    (bytes != 0).then(|| Place::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Random;
    use super::*;
    use std::collections::BTreeMap;

    const CHUNK: u64 = IDS_PER_CHUNK as u64;

    #[test]
    fn agrees_with_a_model() {
        for seed in 1..=4 {
            let mut random = Random::seeded(seed);
            let mut table = SequenceTable::new();
            let mut model: BTreeMap<u64, Place> = BTreeMap::new();
            let mut next_id = 0;
            // A run that mostly deletes empties whole chunks.
            for step in 0..16_000 {
                let deletes = (step / 4_000) % 2 == 1;
                let id = random.below(next_id.max(1) + 2);
                match random.below(10) {
                    0..4 if !deletes => {
                        let skip = match random.below(400) {
                            0 => [1, 3, CHUNK, 3 * CHUNK + 5][random.below(4) as usize],
                            _ => 0,
                        };
                        let place = Place::new(8 * (1 + random.below((1 << 46) - 1)));
                        assert_eq!(table.set(next_id + skip, place), None);
                        model.insert(next_id + skip, place);
                        next_id += skip + 1;
                    }
                    4 if id < next_id => {
                        let place = Place::new(8 * (1 + random.below(1000)));
                        assert_eq!(table.set(id, place), model.insert(id, place));
                    }
                    0..7 => {
                        let id = match random.below(2) {
                            0 => id,
                            _ => model.range(id..).next().map_or(id, |(&id, _)| id),
                        };
                        assert_eq!(table.remove(id), model.remove(&id));
                    }
                    7 => {
                        let id = id + 2 * CHUNK * u64::from(random.below(1000) == 0);
                        table.reserve(id);
                        next_id = next_id.max(id + 1);
                    }
                    _ => assert_eq!(table.get(id), model.get(&id).copied()),
                }
                let pair = |(&id, &place): (&u64, &Place)| (id, place);
                assert_eq!(table.next_live(Some(id)), model.range(id + 1..).next().map(pair));
                assert_eq!(table.previous_live(Some(id)), model.range(..id).next_back().map(pair));
                assert_eq!((table.live(), table.next_id()), (model.len() as u64, next_id));
            }
            let mut after = None;
            for (&id, &place) in &model {
                assert_eq!(table.next_live(after), Some((id, place)));
                after = Some(id);
            }
            assert_eq!(table.next_live(after), None);
            let mut before = None;
            for (&id, &place) in model.iter().rev() {
                assert_eq!(table.previous_live(before), Some((id, place)));
                before = Some(id);
            }
            assert_eq!(table.previous_live(before), None);
        }
    }

    #[test]
    fn huge_ids_find_nothing_and_allocate_nothing() {
        let mut table = SequenceTable::new();
        table.set(0, Place::new(8));
        let bytes = table.memory_bytes();
        for id in [1, CHUNK, 1 << 40, u64::MAX - 1, u64::MAX] {
            assert_eq!(table.get(id), None);
            assert_eq!(table.remove(id), None);
            assert_eq!(table.next_live(Some(id)), None);
            assert_eq!(table.previous_live(Some(id)), Some((0, Place::new(8))));
        }
        assert_eq!(table.previous_live(Some(0)), None);
        assert_eq!(table.memory_bytes(), bytes);
    }

    #[test]
    #[should_panic(expected = "past the next id")]
    fn a_hostile_id_is_refused() {
        SequenceTable::new().set(u64::MAX, Place::new(8));
    }

    #[test]
    fn the_longest_skip_costs_little() {
        let mut table = SequenceTable::new();
        table.set(SKIP_IDS_MAX, Place::new(8));
        assert!(table.memory_bytes() < 9 << 20);
        assert_eq!(table.next_live(None), Some((SKIP_IDS_MAX, Place::new(8))));
    }

    #[test]
    fn a_chunk_emptied_while_new_ids_went_there_is_given_back_later() {
        let mut table = SequenceTable::new();
        table.set(CHUNK, Place::new(8));
        table.remove(CHUNK);
        assert_eq!(table.memory_bytes() / CHUNK_BYTES, 1);
        table.reserve(2 * CHUNK - 1);
        assert_eq!(table.memory_bytes() / CHUNK_BYTES, 0);
    }

    #[test]
    fn deleted_chunks_are_given_back_and_clear_starts_over() {
        let mut table = SequenceTable::new();
        let full = 10 * CHUNK;
        for id in 0..full {
            table.set(id, Place::new(8 * (id + 1)));
        }
        assert_eq!(table.memory_bytes() / CHUNK_BYTES, 10);
        for id in 0..full {
            assert_eq!(table.remove(id), Some(Place::new(8 * (id + 1))));
        }
        assert!(table.memory_bytes() < CHUNK_BYTES);
        assert_eq!((table.live(), table.next_id()), (0, full));
        table.clear();
        assert_eq!((table.live(), table.next_id()), (0, 0));
        assert_eq!(table.set(0, Place::new(16)), None);
    }
}
