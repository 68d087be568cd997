//! Bits that flip on a disk at rest and blocks that cannot be read any more, and the scrub that has to find them:
//! each of them, and nothing else, in segments that the cleaner made too, and while it makes some. Also that
//! it leaves the disk alone when it is done, and goes on where it was after a start.

use crate::disk::Random;
use crate::words;
use crate::world::{Setup, World};
use zdb::disk::Root;
use zdb::engine::log::Policy;
use zdb::engine::log::format::{self, BLOCK, SEGMENT_HEADER_BYTES};
use zdb::engine::log::packed;
use zdb::engine::log::segments::Segment;

const DAY_MS: u64 = 86_400_000;
/// Bytes of a segment's header that its checksum covers, and of one that the cleaner wrote.
const HEADER_BYTES: u64 = 64;
const PACKED_HEADER_BYTES: u64 = 128;

/// What a run has looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Places of the disk that were damaged.
    pub damaged: u64,
    /// Segments that the cleaner made: before the scrub, and while it was at work.
    pub packed: u64,
    pub packed_beside: u64,
}

impl Seen {
    pub fn add(&mut self, other: Self) {
        self.damaged += other.damaged;
        self.packed += other.packed;
        self.packed_beside += other.packed_beside;
    }
}

/// A place of the disk that was damaged.
struct Wound {
    /// Base of the segment plus the offset in its file.
    place: u64,
    /// Of the segment when it was damaged.
    base: u64,
    judged_until: u64,
    is_rotten: bool,
}

/// One run: a load, some damage, a pass.
pub fn run(seed: u64) -> Seen {
    let mut random = Random(seed);
    let mut world = World::new(setup(&mut random));
    let client = world.connect(true);
    let keeps_all = random.below(3) == 0;
    ask(&mut world, client, "NSNEW seq");
    ask(&mut world, client, "NSSET seq mode seq");
    if !keeps_all {
        ask(&mut world, client, "NSSET default history 0");
        ask(&mut world, client, "NSSET seq history 1");
    }
    let requests = 20 + random.below(120);
    load(&mut world, client, requests, &mut random);
    ask(&mut world, client, "NSJUMP");
    clean(&mut world, client);
    if random.below(2) == 0 {
        world.restart();
    }
    let packed = packed(&world);
    let wounds = damage(&mut world, &mut random);
    world.hub.engine.scrub.set(1 << 20, 30);
    world.hub.engine.start_scrub();
    let is_beside = random.below(2) == 0;
    if is_beside {
        // The cleaner gets to segments before the scrub, behind it, and while they are read.
        let client = world.connect(true);
        for _ in 0..random.below(8) {
            load(&mut world, client, 10, &mut random);
            ask(&mut world, client, "DEBUG CLEAN");
            world.advance(random.below(100));
        }
    }
    if random.below(3) == 0 {
        // A part of it is done before.
        for _ in 0..=random.below(40) {
            world.advance(20);
        }
        world.restart();
        world.hub.engine.scrub.set(1 << 20, 30);
        assert!(world.hub.engine.scrub.began_s() > 0, "a start has forgotten the scrub");
    }
    let packed_beside = world.hub.engine.cleaner.stats.segments_written;
    finish(&mut world);
    // What was behind the scrub when the cleaner took it is looked at by the next one.
    if is_beside {
        world.hub.engine.start_scrub();
        finish(&mut world);
    }
    check(&world, &wounds);
    let client = world.connect(true);
    clean(&mut world, client);
    stays_away(&mut world, random.below(29 * DAY_MS));
    Seen { damaged: wounds.len() as u64, packed, packed_beside }
}

fn setup(random: &mut Random) -> Setup {
    Setup {
        policy: Policy::Always,
        shared_buffer: random.below(2) == 0,
        segment_bytes: [64 << 10, 128 << 10][random.below(2) as usize],
        cache_bytes: 0,
        password: false,
        protect: false,
        few_hashes: false,
        prompt: true,
        scrub: false,
        has_threads: false,
        offload: false,
    }
}

fn ask(world: &mut World, client: usize, line: &str) {
    let request: Vec<Vec<u8>> = line.split(' ').map(Into::into).collect();
    world.clients[client].wire.extend(words::encode(&request));
    world.quiet();
}

fn load(world: &mut World, client: usize, requests: u64, random: &mut Random) {
    for _ in 0..requests {
        let value = |random: &mut Random| "x".repeat(1 + random.below(9000) as usize);
        let line = match random.below(14) {
            0 => "NSJUMP".to_owned(),
            1 => format!("DEL k{}", random.below(20)),
            2 => format!("MSET a {} b {} c {}", value(random), value(random), random.number()),
            3 => "SELECT seq".to_owned(),
            4 => "SELECT default".to_owned(),
            // In `seq` it is no id, and refused.
            _ => format!("SET k{} {}", random.below(20), value(random)),
        };
        ask(world, client, &line);
    }
}

/// Lets the cleaner do what there is to do.
fn clean(world: &mut World, client: usize) {
    ask(world, client, "DEBUG CLEAN");
    for _ in 0..1000 {
        if world.hub.engine.cleaner.is_resting() {
            return world.quiet();
        }
        world.advance(100);
    }
    panic!("the cleaner does not come to its end");
}

fn packed(world: &World) -> u64 {
    let list = world.hub.engine.log.segments.list();
    list.iter().filter(|segment| segment.packed.is_some()).count() as u64
}

/// By what a segment is known that has the base of another: how far it was judged.
fn judged_until(segment: &Segment) -> u64 {
    segment.packed.as_ref().map_or(0, |packed| packed.header.judged_until)
}

/// Flips bits in closed segments, and takes blocks away.
fn damage(world: &mut World, random: &mut Random) -> Vec<Wound> {
    let log = &world.hub.engine.log;
    let closed = log.closed();
    assert!(!closed.is_empty(), "the load closes a segment");
    let last = log.segments.before_last(2).len();
    let mut wounds: Vec<Wound> = Vec::new();
    for _ in 0..random.below(5) {
        let at = random.below(closed.len() as u64) as usize;
        let segment = &closed[at];
        let offset = place(segment, random);
        // A start refuses where the last segment cannot be read, of which the sidecar is gone. It may be the one
        // before an empty one.
        let may_rot = offset >= SEGMENT_HEADER_BYTES && at < last;
        let is_rotten = may_rot && random.below(4) == 0;
        let offset = if is_rotten { offset / BLOCK * BLOCK + BLOCK - 1 } else { offset };
        let (place, base) = (segment.base + offset, segment.base);
        // Twice would be not at all.
        if wounds.iter().any(|one| one.place == place) {
            continue;
        }
        let name = format::segment_name(base);
        match is_rotten {
            true => world.files.rot(Root::Data, &name, offset),
            false => world.files.flip(Root::Data, &name, offset, 1 << random.below(8)),
        }
        wounds.push(Wound { place, base, judged_until: judged_until(segment), is_rotten });
    }
    wounds
}

/// An offset in the file of a byte that counts.
fn place(segment: &Segment, random: &mut Random) -> u64 {
    let header = if segment.packed.is_some() { PACKED_HEADER_BYTES } else { HEADER_BYTES };
    let records = segment.records_end() - SEGMENT_HEADER_BYTES;
    let trailer = segment.packed.as_ref().map(|packed| packed::trailer_range(&packed.header));
    let (trailer_start, trailer_bytes) = trailer.unwrap_or_default();
    let drawn = random.below(header + records + trailer_bytes as u64);
    match drawn {
        _ if drawn < header => drawn,
        _ if drawn < header + records => drawn - header + SEGMENT_HEADER_BYTES,
        _ => drawn - header - records + trailer_start,
    }
}

/// Lets the clock go on until the pass is done.
fn finish(world: &mut World) {
    for _ in 0..100_000 {
        if !world.hub.engine.scrub.is_running() {
            return world.quiet();
        }
        world.advance(20);
    }
    panic!("a scrub does not come to its end");
}

/// Each damaged place is in damage that was found, and all damage has one.
fn check(world: &World, wounds: &[Wound]) {
    let found: Vec<u64> = world.hub.engine.scrub.damage().collect();
    let shown: Vec<u64> = wounds.iter().map(|one| one.place).collect();
    let closed = world.hub.engine.log.closed();
    // What the cleaner dropped is gone. A start that has no sidecar looks at the segment itself, and ends it
    // before a seal that is damaged.
    let is_there = |wound: &&Wound| {
        closed.iter().any(|one| {
            one.base == wound.base
                && judged_until(one) == wound.judged_until
                && wound.place < one.base + one.file_bytes()
        })
    };
    for Wound { place, .. } in wounds.iter().filter(is_there) {
        let near = found.iter().rfind(|start| *start <= place);
        let is_near = near.is_some_and(|start| place - start < format::RECORD_BYTES_MAX);
        assert!(is_near, "damage at {place:x} was not found: {found:x?}, damaged {shown:x?}");
    }
    // A bit in a batch damages the batch and the record in it; a block may end one record and begin another.
    let most: usize = wounds.iter().map(|one| if one.is_rotten { 3 } else { 2 }).sum();
    assert!(found.len() <= most, "found {found:x?}, damaged {shown:x?}");
}

/// Nothing is asked of the disk until the next pass is due, and then it begins.
fn stays_away(world: &mut World, wait_ms: u64) {
    let passes = world.hub.engine.scrub.stats.passes;
    // The cleaner looks once more at what it has left.
    for _ in 0..100 {
        world.pass(10_000);
        world.turn();
        world.finish_all();
    }
    for _ in 0..4 {
        world.pass(wait_ms / 4);
        world.turn();
        let (ring, orders) = (&world.ring, &world.orders);
        let is_idle = ring.is_empty() && orders.is_empty();
        assert!(
            is_idle,
            "between passes the disk is left alone, but not for {ring:?} and {orders:?}"
        );
    }
    world.pass(31 * DAY_MS);
    world.turn();
    assert!(world.hub.engine.scrub.is_running(), "a pass is due and does not begin");
    finish(world);
    assert_eq!(world.hub.engine.scrub.stats.passes, passes + 1);
}
