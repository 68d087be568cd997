//! Stops the machine at every step of a fixed load: at each call that changes something on the disk, in
//! each setting, with a kill and with a power cut, and once more at each step of the start after that.

use crate::disk::{Random, Trouble};
use crate::sweep::sweep;
use crate::words;
use crate::world::{Setup, StartTrouble, World};
use zdb::engine::log::Policy;

/// Calls of a start that are looked at.
const START_CALLS_MAX: u64 = 12;

/// What the load asks for: two clients in turn. `@` is a value that fills a block and more, `_` nothing.
const LOAD: [&str; 63] = [
    "NSNEW one",
    "NSNEW seq",
    "NSSET seq mode seq",
    "SET a 1",
    "SET b 2",
    "SET a 3",
    "SELECT seq",
    "SET _ @4",
    "SET _ @5",
    "MSET a 6 b @7 d 8",
    "DEL c",
    "SET c 9",
    "FLUSHDISK",
    "SELECT one",
    "SET a 10",
    "SET b @11",
    "MSET x 12 y 13 z @14",
    "UNLINK x b",
    "SET a @15",
    "SELECT default",
    "SET b 16",
    "NSJUMP",
    "SET a 17",
    "SET big @18",
    "SET a 19",
    "FLUSHDISK",
    "MSET a @20 b @21 c @22 d @23",
    "SET a @24",
    "SET b @25",
    "SET c @26",
    "NSNEW two",
    "NSSET two password secret",
    "NSSET two public 0",
    "SELECT two secret",
    "SET t 27",
    "MSET t @28 u 29",
    "FLUSH",
    "SET t 30",
    "SELECT default",
    "NSDEL one",
    "NSSET default history 0",
    "NSSET seq history 0",
    "SET a @33",
    "SELECT seq",
    "SET _ @34",
    "SELECT default",
    "NSJUMP",
    "DEL c",
    "SET a 35",
    "NSJUMP",
    "DEL d",
    "SET b 36",
    "NSJUMP",
    "DEBUG CLEAN",
    "FLUSHDISK",
    "SET b 37",
    "NSJUMP",
    "DEBUG CLEAN",
    "FLUSHDISK",
    "RESTART",
    "SET a 31",
    "MSET a 32 e 33",
    "DEL a",
];

/// Runs all that are wanted, each by its number, and tells how many there were.
pub fn run_all(mut is_wanted: impl FnMut(u64) -> bool) -> u64 {
    let mut runs = 0;
    for setting in 0..6 {
        let setup = setup(setting);
        let all = load(&setup, 0).files.steps();
        for step in 1..=all + 1 {
            for power in [false, true] {
                for at in 0..=START_CALLS_MAX {
                    let seed = setting << 32 | step << 16 | at << 1 | u64::from(power);
                    if !is_wanted(seed) {
                        continue;
                    }
                    run(&setup, step, power, at, seed);
                    runs += 1;
                }
            }
        }
    }
    runs
}

fn setup(setting: u64) -> Setup {
    Setup {
        policy: match setting % 3 {
            0 => Policy::No,
            1 => Policy::Every { period_ms: 1000 },
            _ => Policy::Always,
        },
        shared_buffer: setting < 3,
        segment_bytes: 64 << 10,
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

/// One run: stopped at a step, and where `at` is not 0 at that call of the first start after it.
fn run(setup: &Setup, step: u64, power: bool, at: u64, seed: u64) {
    let mut world = load(setup, step);
    if !world.files.is_stopped() {
        world.quiet();
    }
    let trouble =
        StartTrouble { trouble: Trouble::Stops, calls: at.saturating_sub(1), power, seed };
    let troubles = if at == 0 { &[][..] } else { std::slice::from_ref(&trouble) };
    world.crash(power, &mut Random(seed), troubles);
    sweep(&mut world, true);
    // What is there now stays, whatever happens next.
    world.crash(true, &mut Random(seed), &[]);
    sweep(&mut world, true);
}

/// The load, up to a step; 0: to its end.
fn load(setup: &Setup, step: u64) -> World {
    let mut world = World::new(setup.clone());
    world.files.stop_at(step);
    let mut clients = [world.connect(true), world.connect(true)];
    for (at, line) in LOAD.iter().enumerate() {
        let client = clients[usize::from(at % 7 == 6)];
        match *line {
            "FLUSHDISK" => {
                world.advance(2000);
                world.quiet();
            }
            "RESTART" => {
                world.restart();
                if world.files.is_stopped() {
                    return world;
                }
                clients = [world.connect(true), world.connect(true)];
            }
            line => {
                let long = line.replace('@', &"long-".repeat(1100));
                let request: Vec<Vec<u8>> =
                    long.split(' ').map(|word| word.trim_matches('_').into()).collect();
                world.clients[client].wire.extend(words::encode(&request));
                world.deliver(client, usize::MAX);
                world.turn();
                if at % 3 == 2 {
                    world.finish_all();
                    world.turn();
                }
            }
        }
        if world.files.is_stopped() {
            return world;
        }
    }
    world
}
