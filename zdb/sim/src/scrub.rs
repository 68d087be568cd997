//! Bits that flip on a disk at rest, and the scrub that has to find them: each of them, and nothing else. Also
//! that it leaves the disk alone when it is done, and goes on where it was after a start.

use crate::disk::Random;
use crate::words;
use crate::world::{Setup, World};
use zdb::disk::Root;
use zdb::engine::log::Policy;
use zdb::engine::log::format::{self, SEGMENT_HEADER_BYTES};

const DAY_MS: u64 = 86_400_000;
/// Bytes of a segment's header that its checksum covers.
const HEADER_BYTES: u64 = 64;

/// One run: a load, some flipped bits, a pass.
pub fn run(seed: u64) {
    let mut random = Random(seed);
    let mut world = World::new(setup(&mut random));
    load(&mut world, &mut random);
    if random.below(2) == 0 {
        world.restart();
    }
    let flipped = flip(&mut world, &mut random);
    world.hub.engine.scrub.set(1 << 20, 30);
    world.hub.engine.start_scrub();
    if random.below(3) == 0 {
        // A part of it is done before.
        for _ in 0..=random.below(40) {
            world.advance(20);
        }
        world.restart();
        world.hub.engine.scrub.set(1 << 20, 30);
        assert!(world.hub.engine.scrub.began_s() > 0, "a start has forgotten the scrub");
    }
    finish(&mut world);
    check(&world, &flipped);
    stays_away(&mut world, random.below(29 * DAY_MS));
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
    }
}

fn load(world: &mut World, random: &mut Random) {
    let client = world.connect(true);
    for _ in 0..20 + random.below(120) {
        let value = |random: &mut Random| "x".repeat(1 + random.below(9000) as usize);
        let line = match random.below(12) {
            0 => "NSJUMP".to_owned(),
            1 => format!("DEL k{}", random.below(20)),
            2 => format!("MSET a {} b {} c {}", value(random), value(random), random.number()),
            _ => format!("SET k{} {}", random.below(20), value(random)),
        };
        let request: Vec<Vec<u8>> = line.split(' ').map(Into::into).collect();
        world.clients[client].wire.extend(words::encode(&request));
        world.quiet();
    }
    let request = [b"NSJUMP".to_vec()];
    world.clients[client].wire.extend(words::encode(&request));
    world.quiet();
}

/// Flips bits in closed segments, and tells their positions.
fn flip(world: &mut World, random: &mut Random) -> Vec<u64> {
    let closed: Vec<(u64, u64)> =
        world.hub.engine.log.closed().iter().map(|one| (one.base, one.end() - one.base)).collect();
    assert!(!closed.is_empty(), "the load closes a segment");
    let mut flipped = Vec::new();
    for _ in 0..random.below(5) {
        let (base, bytes) = closed[random.below(closed.len() as u64) as usize];
        let behind = SEGMENT_HEADER_BYTES - HEADER_BYTES;
        let drawn = random.below(bytes - behind);
        let offset = if drawn < HEADER_BYTES { drawn } else { drawn + behind };
        let position = base + offset;
        // Twice would be not at all.
        if !flipped.contains(&position) {
            let name = format::segment_name(base);
            world.files.flip(Root::Data, &name, offset, 1 << random.below(8));
            flipped.push(position);
        }
    }
    flipped.sort_unstable();
    flipped
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

/// Each flipped bit is in damage that was found, and all damage has one.
fn check(world: &World, flipped: &[u64]) {
    let found: Vec<u64> = world.hub.engine.scrub.damage().collect();
    // A start that has no sidecar looks at the segment itself, and ends it before a seal that is damaged.
    let is_closed = |position: &&u64| {
        let closed = world.hub.engine.log.closed();
        closed.iter().any(|one| (one.base..one.end()).contains(position))
    };
    for position in flipped.iter().filter(is_closed) {
        let near = found.iter().rfind(|start| *start <= position);
        let is_near = near.is_some_and(|start| position - start < format::RECORD_BYTES_MAX);
        assert!(is_near, "the bit at {position:x} was not found: {found:x?}, flipped {flipped:x?}");
    }
    // A bit in a batch damages the batch and the record in it.
    let most = 2 * flipped.len();
    assert!(found.len() <= most, "found {found:x?}, flipped {flipped:x?}");
}

/// Nothing is asked of the disk until the next pass is due, and then it begins.
fn stays_away(world: &mut World, wait_ms: u64) {
    let passes = world.hub.engine.scrub.stats.passes;
    for _ in 0..4 {
        world.pass(wait_ms / 4);
        world.turn();
        let asked = world.ring.len() + world.orders.len();
        assert_eq!(asked, 0, "between passes the disk is left alone");
    }
    world.pass(31 * DAY_MS);
    world.turn();
    assert!(world.hub.engine.scrub.is_running(), "a pass is due and does not begin");
    finish(world);
    assert_eq!(world.hub.engine.scrub.stats.passes, passes + 1);
}
