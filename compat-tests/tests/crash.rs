//! What an acknowledged write survives: `kill -9` under load, torn tails, flipped bytes, a lost index.
//!
//! The fault model here is the death of the process at any moment, and damage to files while it is
//! down. Rounds a policy come from `ZDB_CRASH_ROUNDS` (10 unless set), the seed from `ZDB_SEED`. The
//! long run: `ZDB_CRASH_ROUNDS=200 cargo test --release -p compat-tests --test crash -- --nocapture`.

use compat_tests::client::encode;
use compat_tests::load::{Writer, scan};
use compat_tests::server::{Buffer, Setup, poll};
use compat_tests::{Client, Reply, Server, args, count_from_env, seed};
use fastrand::Rng;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const WRITER_COUNT: usize = 6;
/// Fresh directories after so many rounds: a model keeps every version in memory.
const ROUNDS_PER_DIRECTORY: usize = 10;
/// The load is killed after this time, or after a drawn count of replies if that comes first.
const LOAD_TIME_MAX: Duration = Duration::from_millis(150);
const LOAD_REPLIES_MAX: usize = 800;
/// Small segments and a small cache: both change many times in a round.
const SMALL: [&str; 4] = ["--datasize", "524288", "--cache", "1M"];

#[test]
fn kill_rounds_always() {
    rounds("always", Buffer::Private, 1);
}

#[test]
fn kill_rounds_everysec() {
    rounds("everysec", Buffer::Private, 1);
}

#[test]
fn kill_rounds_no() {
    rounds("no", Buffer::Private, 1);
}

#[test]
fn kill_rounds_without_buffer() {
    for policy in ["always", "everysec", "no"] {
        rounds(policy, Buffer::None, 3);
    }
}

/// The rounds of one policy; `share` tests divide the count between them.
fn rounds(policy: &str, buffer: Buffer, share: usize) {
    let seed = seed(&format!("kill rounds, --sync {policy}, buffer {buffer:?}"));
    let round_count = count_from_env("ZDB_CRASH_ROUNDS", 10).div_ceil(share);
    let mut random = Rng::with_seed(seed);
    let started = Instant::now();
    let (mut done, mut acknowledged) = (0, 0);
    while done < round_count {
        let setup = Setup::new().flags(&SMALL).flags(&["--sync", policy]).buffer(buffer.clone());
        let mut life = Life::begin(setup, seed.wrapping_add(done as u64));
        for _ in 0..ROUNDS_PER_DIRECTORY.min(round_count - done) {
            life.load_and_kill(&mut random);
            acknowledged += life.acknowledged;
            life.come_back(&mut random);
            life.verify(&format!("round {done}, ZDB_SEED={seed}"));
            done += 1;
        }
    }
    println!("{done} rounds in {:?}, {acknowledged} requests acknowledged", started.elapsed());
    assert!(
        acknowledged > round_count * 10,
        "the load hardly ran: {acknowledged} requests in {done} rounds"
    );
}

/// A server and the writers that know what it must hold.
struct Life {
    server: Server,
    writers: Vec<Writer>,
    acknowledged: usize,
}

impl Life {
    fn begin(setup: Setup, seed: u64) -> Life {
        let server = setup.start();
        let mut writers: Vec<Writer> =
            (0..WRITER_COUNT).map(|number| Writer::new(number, seed)).collect();
        let mut client = server.connect();
        for writer in &mut writers {
            writer.prepare(&mut client).unwrap_or_else(|error| panic!("{error}"));
        }
        Life { server, writers, acknowledged: 0 }
    }

    /// Runs the load of all writers to its end.
    fn load(&mut self, pipeline_count: usize) {
        let acknowledged = AtomicUsize::new(0);
        let address = self.server.address();
        std::thread::scope(|scope| {
            for writer in &mut self.writers {
                let acknowledged = &acknowledged;
                scope.spawn(move || {
                    let mut client = Client::connect(address).expect("the server accepts");
                    let alive = writer.run(&mut client, pipeline_count, acknowledged);
                    assert_eq!(alive, Ok(true), "the load ends with all replies");
                });
            }
        });
        self.acknowledged = acknowledged.into_inner();
    }

    /// Runs the load and kills the server, or sometimes stops it, at a drawn moment.
    fn load_and_kill(&mut self, random: &mut Rng) {
        let acknowledged = AtomicUsize::new(0);
        let address = self.server.address();
        let replies_max = random.usize(..LOAD_REPLIES_MAX);
        let clean = random.u8(..10) == 0;
        let server = &mut self.server;
        std::thread::scope(|scope| {
            for writer in &mut self.writers {
                let acknowledged = &acknowledged;
                scope.spawn(move || {
                    // The kill may come before the connection.
                    let Ok(mut client) = Client::connect(address) else {
                        return;
                    };
                    writer
                        .run(&mut client, usize::MAX, acknowledged)
                        .unwrap_or_else(|error| panic!("{error}"));
                });
            }
            poll(LOAD_TIME_MAX, || {
                (acknowledged.load(Ordering::Relaxed) >= replies_max).then_some(())
            });
            if clean {
                let status = server.terminate();
                assert_eq!(status.code(), Some(143), "SIGTERM under load");
            } else {
                server.killer()();
            }
        });
        self.server.kill();
        self.acknowledged = acknowledged.into_inner();
    }

    /// Starts again, sometimes killed once more while it starts, sometimes with its index lost.
    fn come_back(&mut self, random: &mut Rng) {
        if random.u8(..5) == 0 {
            self.server.resume_unready();
            // Not a wait for something: the moment of the kill is drawn.
            std::thread::sleep(Duration::from_micros(random.u64(..20_000)));
            self.server.kill();
        }
        if random.u8(..8) == 0 {
            std::fs::remove_dir_all(self.server.index_dir()).expect("the index can be removed");
        }
        self.server.resume();
    }

    fn verify(&mut self, when: &str) {
        let mut client = self.server.connect();
        for writer in &mut self.writers {
            if let Err(error) = writer.verify(&mut client) {
                panic!("{when}: {error}");
            }
        }
    }
}

#[test]
fn a_clean_stop_keeps_everything() {
    let seed = seed("a clean stop");
    for (policy, buffer) in
        [("everysec", Buffer::Default), ("always", Buffer::None), ("no", Buffer::Private)]
    {
        let setup = Setup::new().flags(&SMALL).flags(&["--sync", policy]).buffer(buffer);
        let mut life = Life::begin(setup, seed);
        for stop in 0..3 {
            life.load(40);
            if stop == 1 {
                assert_eq!(life.server.interrupt().code(), Some(130), "SIGINT");
            } else {
                assert_eq!(life.server.terminate().code(), Some(143), "SIGTERM");
            }
            life.server.resume();
            life.verify(&format!("--sync {policy}, stop {stop}, ZDB_SEED={seed}"));
        }
        life.server.terminate();
    }
}

/// Starts again and again without a request in between change nothing.
#[test]
fn empty_lives_change_nothing() {
    let seed = seed("empty lives");
    let mut random = Rng::with_seed(seed);
    let mut life = Life::begin(Setup::new().flags(&SMALL), seed);
    life.load(30);
    for _ in 0..8 {
        match random.bool() {
            true => life.server.kill(),
            false => drop(life.server.terminate()),
        }
        life.server.resume();
    }
    life.verify(&format!("ZDB_SEED={seed}"));
}

#[test]
fn a_lost_index_is_rebuilt() {
    let seed = seed("a lost index");
    let mut life = Life::begin(Setup::new().flags(&SMALL), seed);
    for clean in [true, false, true] {
        life.load(60);
        if clean {
            life.server.terminate();
        } else {
            life.server.kill();
        }
        std::fs::remove_dir_all(life.server.index_dir()).expect("the index can be removed");
        life.server.resume();
        life.verify(&format!("index removed, ZDB_SEED={seed}"));
    }
}

/// Records with payloads that occur nowhere else, so that a test finds them in the files.
struct Records {
    server: Server,
    payloads: Vec<Vec<u8>>,
}

impl Records {
    /// Writes records of these sizes and kills the server, which keeps no buffer beside its files.
    fn written(flags: &[&str], random: &mut Rng, sizes: &[usize]) -> Records {
        let setup = Setup::new().flags(&["--datasize", "524288"]).flags(flags).buffer(Buffer::None);
        let mut server = setup.start();
        let mut client = server.connect();
        let payloads: Vec<Vec<u8>> = sizes
            .iter()
            .map(|&size| {
                // No zero bytes: the end of what was written can be seen in the file.
                (0..size).map(|_| random.u8(1..)).collect()
            })
            .collect();
        for (index, payload) in payloads.iter().enumerate() {
            client.expect(args!["SET", key(index), payload], Reply::bulk(key(index)));
        }
        server.kill();
        Records { server, payloads }
    }

    /// The segment and the offset at which a record's payload lies.
    fn find(&self, index: usize) -> (PathBuf, usize) {
        let needle = &self.payloads[index][..32];
        for entry in
            std::fs::read_dir(self.server.data_dir()).expect("the data directory can be read")
        {
            let path = entry.expect("its entries too").path();
            let bytes = std::fs::read(&path).unwrap_or_default();
            if let Some(offset) = bytes.windows(needle.len()).position(|window| window == needle) {
                return (path, offset);
            }
        }
        panic!("record {index} is in no file under {}", self.server.data_dir().display());
    }

    /// Checks every record but those in `damaged`, of which it returns the replies.
    fn read_but(&self, damaged: &[usize]) -> Vec<Reply> {
        let mut client = self.server.connect();
        let mut requests = Vec::new();
        (0..self.payloads.len()).for_each(|index| encode(args!["GET", key(index)], &mut requests));
        let (replies, ending) = client.pipeline(&requests, self.payloads.len());
        ending.expect("the server answers");
        let mut replies_damaged = Vec::new();
        for (index, (reply, payload)) in replies.into_iter().zip(&self.payloads).enumerate() {
            if damaged.contains(&index) {
                replies_damaged.push(reply);
            } else {
                assert_eq!(reply, Reply::bulk(payload), "record {index}; damaged are {damaged:?}");
            }
        }
        replies_damaged
    }
}

fn key(index: usize) -> String {
    format!("record-{index:06}")
}

fn damage(path: &Path, offset: usize, bytes: &[u8]) {
    let file =
        std::fs::OpenOptions::new().write(true).open(path).expect("the segment can be opened");
    file.write_all_at(bytes, offset as u64).expect("the segment can be written");
}

/// The last record is torn in every way a write can end early: cut, zeroed or garbled from any byte
/// of its payload to the end of the log. It is gone then, all before it are there, writing goes on.
/// A single flipped byte with an intact end behind it may as well be reported as damage.
#[test]
fn a_torn_tail_loses_the_torn_record_only() {
    let seed = seed("a torn tail");
    let mut random = Rng::with_seed(seed);
    for round in 0..12 {
        let sizes: Vec<usize> =
            (0..random.usize(2..60)).map(|_| random.usize(100..20_000)).collect();
        let last = sizes.len() - 1;
        let policy = ["always", "everysec", "no"][round % 3];
        let mut records = Records::written(&["--sync", policy], &mut random, &sizes);
        let (path, offset) = records.find(last);
        let torn_from = offset + random.usize(..sizes[last]);
        let bytes = std::fs::read(&path).expect("the segment can be read");
        let end = bytes.iter().rposition(|&byte| byte != 0).expect("the payload has no zeroes") + 1;
        match round % 4 {
            0 => {
                let file =
                    std::fs::OpenOptions::new().write(true).open(&path).expect("the segment opens");
                file.set_len(torn_from as u64).expect("the segment can be cut");
            }
            1 => damage(&path, torn_from, &vec![0; end - torn_from]),
            2 => damage(&path, torn_from, &[!bytes[torn_from]]),
            _ => {
                let mut noise: Vec<u8> = (0..end - torn_from).map(|_| random.u8(..)).collect();
                noise[0] = !bytes[torn_from];
                damage(&path, torn_from, &noise);
            }
        }
        for life in 0..3 {
            let place = format!(
                "round {round}, life {life}, ZDB_SEED={seed}, {} at {torn_from}",
                path.display()
            );
            if life > 0 {
                records.server.kill();
            }
            records.server.resume();
            let reply = records.read_but(&[last]).remove(0);
            let kept = usize::from(round % 4 == 2 && reply == Reply::error("Internal Error"));
            assert!(kept == 1 || reply == Reply::Nil, "{place}: {reply:?}");
            let mut client = records.server.connect();
            let keys = scan(&mut client).unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(keys.len(), last + kept + life, "{place}");
            // The log goes on behind the tear.
            let new = format!("new-{life}");
            client.expect(args!["SET", new, "value"], Reply::bulk(&new));
            for number in 0..=life {
                client.expect(args!["GET", format!("new-{number}")], Reply::bulk("value"));
            }
        }
    }
}

/// Flips one byte of a record in the middle: all others are served, the wrong bytes never.
#[test]
fn a_flipped_byte_is_found_and_reported() {
    let seed = seed("a flipped byte");
    let mut random = Rng::with_seed(seed);
    for round in 0..12 {
        let sizes: Vec<usize> = (0..300).map(|_| random.usize(100..10_000)).collect();
        let mut records = Records::written(&["--cache", "1M"], &mut random, &sizes);
        let victim = random.usize(50..250);
        let (path, offset) = records.find(victim);
        let in_payload = round % 3 != 0;
        let at = if in_payload {
            offset + random.usize(..sizes[victim])
        } else {
            // The key stands before the payload, the head of the record before the key.
            offset - random.usize(1..=key(victim).len() + 30)
        };
        let mut byte = std::fs::read(&path).expect("the segment can be read")[at];
        byte ^= 1 << random.u8(..8);
        damage(&path, at, &[byte]);
        if round % 2 == 0 {
            // Without the index every record is read at the start; with it, when it is asked for.
            std::fs::remove_dir_all(records.server.index_dir()).expect("the index can be removed");
        }
        records.server.resume();
        let reply = records.read_but(&[victim]).remove(0);
        let broken = Reply::error("Internal Error");
        let place = format!("round {round}, ZDB_SEED={seed}, {} at {at}", path.display());
        if in_payload {
            assert_eq!(reply, broken, "{place}");
            let mut client = records.server.connect();
            client.expect(args!["CHECK", key(victim)], Reply::Integer(0));
            client.expect(args!["EXISTS", key(victim)], Reply::Integer(1));
            client.expect(
                args!["MGET", key(0), key(victim)],
                Reply::Array(vec![Reply::bulk(&records.payloads[0]), broken]),
            );
            let mended = client.call(args!["SET", key(victim), "mended"]);
            assert_eq!(
                mended,
                Reply::bulk(key(victim)),
                "an unreadable version is overwritten; {place}"
            );
            client.expect(args!["GET", key(victim)], Reply::bulk("mended"));
        } else {
            assert!(reply == broken || reply == Reply::Nil, "{place}: {reply:?}");
        }
        let segment = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let digits: String = segment.chars().filter(char::is_ascii_digit).collect();
        let number = digits.trim_start_matches('0');
        records.server.wait_for_log("the damaged record, with segment and offset", |line| {
            let lower = line.to_ascii_lowercase();
            lower.contains("segment") && lower.contains("offset") && line.contains(number)
        });
        // The damage stays where it is, through another life.
        records.server.kill();
        records.server.resume();
        records.read_but(&[victim]);
    }
}
