//! Many keys: what they cost in memory, and how long a start with them takes.

use crate::client::{self, KEY_SIZE, STAMP_SIZE};
use crate::load::{Command, Load, Sync, churn, fill_scattered, scattered_key, write_key};
use crate::measure::{Run, empty};
use crate::report::{Scale, thousands};
use crate::server::{Kind, Memory, Server};
use anyhow::{Context, Result, ensure};
use std::time::Instant;

const KEYS: u64 = 10_000_000;
const KEYS_QUICK: u64 = 100_000;
/// Enough to fill every buffer of fixed size and the cache: some 700 MB through the log.
const CHURN: u64 = 5_000_000;
const CHURN_QUICK: u64 = 50_000;
const VALUE_BYTES: usize = 100;
const STARTS: usize = 3;
/// Small, so that it cannot hide what a key costs.
pub const CACHE: &str = "16M";
const PLACE: &str = "scale";
/// After a start this many keys, spread over all, must have their values.
pub const PROBES: u64 = 1_000;

/// Fills zdb and Redis in turn; with `starts` also measures how long each takes to serve it again.
pub fn run(run: &Run, starts: bool) -> Result<Vec<Scale>> {
    let keys = if run.quick { KEYS_QUICK } else { KEYS };
    let kinds: Vec<Kind> = run.servers.iter().copied().filter(|&kind| kind != Kind::Null).collect();
    let mut found = Vec::new();
    for &kind in &kinds {
        found.push(fill(run, kind, keys)?);
    }
    for round in 0..if starts { STARTS } else { 0 } {
        for (place, &kind) in kinds.iter().enumerate() {
            let seconds = start_again(run, kind, keys)?;
            eprintln!(
                "start {}/{STARTS}  {} with {} keys: {seconds:.3} s",
                round + 1,
                kind.name(),
                thousands(keys as f64)
            );
            found[place].start_s.push(seconds);
        }
    }
    for &kind in &kinds {
        empty(&run.setup(kind, Sync::EverySecond, CACHE, PLACE).directory)?;
    }
    Ok(found)
}

/// Fills a server that is stopped again with all keys in its directory.
fn fill(run: &Run, kind: Kind, keys: u64) -> Result<Scale> {
    // A server of its own, so that the start later on finds nothing but the keys.
    let (memory_empty, memory_warmed) =
        warmed_memory(run, kind, &churn(Command::Set, VALUE_BYTES))?;
    let (memory_full, fill_keys_per_s) = with_empty_server(run, kind, |server| {
        let begin = Instant::now();
        client::fill(server.address, &fill_scattered(0, keys))?;
        let seconds = begin.elapsed().as_secs_f64();
        let memory_full = server.memory()?;
        ensure_complete(server, keys, VALUE_BYTES)?;
        Ok((memory_full, keys as f64 / seconds))
    })?;
    let growth = |before: Memory| {
        (memory_full.resident_kib as f64 - before.resident_kib as f64) * 1024.0 / keys as f64
    };
    let scale = Scale {
        server: kind,
        keys,
        memory_empty,
        memory_warmed,
        memory_full,
        bytes_per_key: growth(memory_warmed),
        bytes_per_key_above_empty: growth(memory_empty),
        fill_keys_per_s,
        start_s: Vec::new(),
    };
    let name = kind.name();
    eprintln!(
        "memory  {name}: {:.1} bytes/key with {} keys",
        scale.bytes_per_key,
        thousands(keys as f64)
    );
    Ok(scale)
}

/// Memory of an empty server, and after `churn`, when buffers and caches have their size.
fn warmed_memory(run: &Run, kind: Kind, churn: &Load) -> Result<(Memory, Memory)> {
    with_empty_server(run, kind, |server| {
        let memory_empty = server.memory()?;
        warm(run, server, churn)?;
        Ok((memory_empty, server.memory()?))
    })
}

pub fn warm(run: &Run, server: &Server, churn: &Load) -> Result<()> {
    client::send_some(server.address, churn, if run.quick { CHURN_QUICK } else { CHURN })?;
    Ok(())
}

fn with_empty_server<T>(run: &Run, kind: Kind, work: impl Fn(&Server) -> Result<T>) -> Result<T> {
    let setup = run.setup(kind, Sync::EverySecond, CACHE, PLACE);
    empty(&setup.directory)?;
    let mut server = Server::start(&run.programs, &setup)?;
    let value = work(&server)
        .map_err(|error| server.explain(error).context(format!("many keys, {}", kind.name())))?;
    server.stop()?;
    Ok(value)
}

/// Seconds from starting the program to the first PONG. No load generator needs a core, so the
/// server may use all of them.
fn start_again(run: &Run, kind: Kind, keys: u64) -> Result<f64> {
    let mut setup = run.setup(kind, Sync::EverySecond, CACHE, PLACE);
    setup.core = None;
    let mut server = Server::start(&run.programs, &setup)?;
    let seconds = server.started_in.as_secs_f64();
    ensure_complete(&server, keys, VALUE_BYTES).map_err(|error| {
        server.explain(error).context(format!("{} after its start", kind.name()))
    })?;
    server.stop()?;
    Ok(seconds)
}

/// A server that answers PING before it can serve its keys would have its start measured wrong.
pub fn ensure_complete(server: &Server, keys: u64, value_bytes: usize) -> Result<()> {
    let reply = server.ask(&[b"DBSIZE"])?;
    let text = String::from_utf8_lossy(&reply);
    let count: Option<u64> = text.strip_prefix(':').and_then(|rest| rest.trim_end().parse().ok());
    let count = count.with_context(|| format!("DBSIZE answered {text:?}"))?;
    ensure!(count == keys, "DBSIZE answered {count}, but {keys} keys were acknowledged");
    let mut key = [0; KEY_SIZE];
    let head = format!("${value_bytes}\r\n");
    let key_at = head.len() + STAMP_SIZE;
    for index in (0..keys).step_by((keys / PROBES).max(1) as usize) {
        write_key(&mut key, *b"key:", scattered_key(index));
        let reply = server.ask(&[b"GET", &key])?;
        ensure!(
            reply.starts_with(head.as_bytes())
                && reply.get(key_at..key_at + KEY_SIZE) == Some(&key),
            "GET {} answered {:?}",
            String::from_utf8_lossy(&key),
            String::from_utf8_lossy(&reply)
        );
    }
    Ok(())
}
