//! What a disk with one arm has to do for one tenant and for two hundred, with the limits of the real server:
//! the log is one, so the seeks must be the same. And what an idle server does to it: nothing.
//!
//! A seek is a read or a write that does not begin where the one before ended, or a change of a name or a
//! length, which a file system notes elsewhere.

use std::process::ExitCode;
use zdb::engine::log::Policy;
use zdb_sim::disk::{Moves, Random};
use zdb_sim::requests::encode_all;
use zdb_sim::world::{Setup, World};

const TENANTS: u64 = 200;
const VALUE_BYTES: usize = 1000;
const TOTAL_BYTES: u64 = 96 << 20;
/// Requests in a millisecond: about 50 MB/s.
const REQUESTS_PER_MS: u64 = 50;
const IDLE_MINUTES: u64 = 600;
/// So many more seeks may many tenants cost.
const TENANTS_SHARE_MAX: f64 = 1.02;

const _: () = assert!(!cfg!(fuzzing), "build it with zdb/simulate seeks: it wants the real limits");

fn main() -> ExitCode {
    let policies = [
        ("no", Policy::No),
        ("everysec", Policy::Every { period_ms: 1000 }),
        ("always", Policy::Always),
    ];
    println!("SET of {VALUE_BYTES} bytes, {} MiB in all, segments of 32 MiB", TOTAL_BYTES >> 20);
    println!(
        "policy    tenants  MB written  seeks  seeks/MB  calls while idle for {IDLE_MINUTES} minutes"
    );
    let mut passed = true;
    for (name, policy) in policies {
        let rates = [1, TENANTS].map(|tenants| {
            let (moves, idle) = measure(policy, tenants);
            let megabytes = moves.bytes as f64 / 1e6;
            let rate = moves.seeks as f64 / megabytes;
            println!(
                "{name:9} {tenants:7}  {megabytes:10.1}  {:5}  {rate:8.3}  {}",
                moves.seeks, idle.calls
            );
            passed &= idle.calls == 0;
            rate
        });
        passed &= rates[1] <= rates[0] * TENANTS_SHARE_MAX;
    }
    if passed {
        return ExitCode::SUCCESS;
    }
    eprintln!("more tenants cost more seeks, or an idle server does not let its disk rest");
    ExitCode::FAILURE
}

fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

/// What the load took, and what came after it.
fn measure(policy: Policy, tenants: u64) -> (Moves, Moves) {
    let setup = Setup {
        policy,
        shared_buffer: true,
        segment_bytes: 32 << 20,
        cache_bytes: 1 << 20,
        password: false,
        protect: false,
        few_hashes: false,
        prompt: true,
        scrub: false,
        has_threads: false,
        offload: false,
    };
    let mut world = World::new(setup);
    let clients: Vec<usize> = (0..tenants)
        .map(|tenant| {
            let client = world.connect(true);
            let name = format!("tenant-{tenant}");
            let hello = [words(&[b"NSNEW", name.as_bytes()]), words(&[b"SELECT", name.as_bytes()])];
            world.clients[client].wire.extend(encode_all(&hello));
            client
        })
        .collect();
    world.quiet();
    let before = world.files.moves();
    let mut random = Random(1);
    let value = vec![b'v'; VALUE_BYTES];
    for at in 0..TOTAL_BYTES / VALUE_BYTES as u64 {
        let client = clients[random.below(tenants) as usize];
        let key = at.to_be_bytes();
        let request = words(&[b"SET", &key, &value]);
        world.clients[client].wire.extend(encode_all(&[request]));
        world.deliver(client, usize::MAX);
        if at % REQUESTS_PER_MS == 0 {
            world.turn();
            world.advance(1);
        }
    }
    world.quiet();
    // What no policy hurries is written some time later.
    world.advance(60_000);
    let loaded = world.files.moves();
    for _ in 0..IDLE_MINUTES {
        world.advance(60_000);
    }
    (since(before, loaded), since(loaded, world.files.moves()))
}

fn since(before: Moves, after: Moves) -> Moves {
    Moves {
        seeks: after.seeks - before.seeks,
        calls: after.calls - before.calls,
        bytes: after.bytes - before.bytes,
    }
}
