//! All of the server behind its sockets: clients that send requests and bytes, a disk that ends
//! operations when and how the input says, a clock that moves, stops, kills and power cuts.
//!
//! Each request gets one reply, in its place and in RESP. What is read was written, and was not replaced
//! by something acknowledged before. What was acknowledged under the policy is there after a restart. At
//! the end everything that waits comes to an end, and the counters of NSINFO are what SCAN finds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use zdb::engine::log::Policy;
use zdb_sim::disk::Random;
use zdb_sim::input::Choices;
use zdb_sim::recount::recount;
use zdb_sim::words;
use zdb_sim::world::{Fate, Setup, World};

const CLIENTS_MAX: usize = 6;
/// Steps of one input: a long one says no more than a short one.
const STEPS_MAX: usize = 300;

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let mut world = World::new(setup(&mut choices));
    furnish(&mut world, choices.byte());
    let mut steps = 0;
    while !choices.is_empty() && steps < STEPS_MAX {
        step(&mut world, &mut choices);
        if world.hub.stopping {
            world.restart();
        }
        steps += 1;
    }
    world.quiet();
    recount(&mut world);
});

fn setup(choices: &mut Choices<'_>) -> Setup {
    let (shape, more) = (choices.byte(), choices.byte());
    Setup {
        policy: match shape & 3 {
            0 => Policy::No,
            1 => Policy::Every { period_ms: 1000 },
            _ => Policy::Always,
        },
        shared_buffer: shape & 4 == 0,
        segment_bytes: [64 << 10, 128 << 10, 1 << 20, 64 << 10][usize::from(shape >> 3 & 3)],
        cache_bytes: [0, 8 << 10, 1 << 20, 0][usize::from(shape >> 5 & 3)],
        password: shape & 128 != 0,
        protect: more & 1 == 1,
        few_hashes: more & 6 == 6,
        prompt: false,
        scrub: more & 8 == 8,
        has_threads: shape & 64 != 0,
        offload: false,
    }
}

/// Namespaces to begin with, and a client that is admin.
fn furnish(world: &mut World, shape: u8) {
    let client = greet(world, true);
    if shape & 1 == 0 {
        for words in ["NSNEW one", "NSNEW seq", "NSSET seq mode seq", "NSNEW two"] {
            send(world, client, format!("{words}\r\n").as_bytes());
        }
    }
    match shape >> 1 & 3 {
        1 => send(world, client, b"SELECT seq\r\n"),
        2 => send(world, client, b"SELECT one\r\n"),
        3 => send(world, client, b"HELLO 3\r\n"),
        _ => {}
    }
    world.turn();
    if shape & 8 == 0 {
        world.quiet();
    }
}

/// A new client, who knows the password.
fn greet(world: &mut World, local: bool) -> usize {
    let client = world.connect(local);
    if world.setup.password {
        send(world, client, format!("AUTH {}\r\n", words::PASSWORD).as_bytes());
    }
    client
}

fn step(world: &mut World, choices: &mut Choices<'_>) {
    let action = choices.byte();
    let mut random = Random(action.into());
    if world.clients.is_empty() {
        greet(world, true);
    }
    let client = usize::from(action >> 4) % world.clients.len();
    match action {
        0..144 => {
            let words = words::request(choices, &world.clients[client].seen);
            send(world, client, &words::encode(&words));
        }
        144..152 => {
            let count = choices.below(32);
            let bytes = choices.take(count).to_vec();
            send(world, client, &bytes);
        }
        // Several requests that arrive together, or one of them in part.
        152..168 => {
            for _ in 0..=choices.below(20) {
                let words = words::request(choices, &world.clients[client].seen);
                world.clients[client].wire.extend(words::encode(&words));
            }
            let cut = choices.word();
            world
                .deliver(client, if cut.is_multiple_of(4) { usize::from(cut) } else { usize::MAX });
        }
        168..200 => world.finish_all(),
        200..212 => {
            let (at, fate) = (choices.below(8), choices.byte());
            random.0 = u64::from(choices.word());
            world.finish(at % world.ring.len().max(1), fate_of(fate), &mut random);
        }
        212..218 => {
            let fate = choices.byte();
            world.finish_order(fate_of(fate), &mut random);
        }
        218..226 => world.advance([1, 10, 100, 600, 1100, 31_000, 3_600_000, 5][choices.below(8)]),
        226 => world.set_clock_back(choices.word().into()),
        227..232 => {
            if world.clients.len() < CLIENTS_MAX {
                let at = match action {
                    227 => world.connect(false),
                    _ => greet(world, true),
                };
                world.clients[at].slow = choices.below(4) == 0;
            }
        }
        232..236 => world.read(client, choices.word().into()),
        236..239 => world.clients[client].slow ^= true,
        239..241 => world.deliver(client, usize::MAX),
        241 | 242 => world.end(client, action == 241),
        243 => world.set_room([None, Some(0), Some(40 << 10), Some(100 << 10)][choices.below(4)]),
        244..247 => world.quiet(),
        247 | 248 => world.restart(),
        249..252 => {
            random.0 = u64::from(choices.word());
            world.kill(false, &mut random);
        }
        _ => {
            random.0 = u64::from(choices.word());
            world.kill(true, &mut random);
        }
    }
    world.turn();
}

fn send(world: &mut World, client: usize, bytes: &[u8]) {
    world.clients[client].wire.extend_from_slice(bytes);
    world.deliver(client, usize::MAX);
}

fn fate_of(byte: u8) -> Fate {
    match byte {
        0..200 => Fate::Well,
        200..220 => Fate::Short,
        220..232 => Fate::Flipped,
        232..244 => Fate::Full,
        _ => Fate::Failed,
    }
}
