//! MSET is all or nothing: beside other clients, under `kill -9`, and when a power cut tears its records.

use compat_tests::client::encoded;
use compat_tests::server::{Buffer, Setup, scratch_dir};
use compat_tests::{Client, Reply, Server};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Keys of one batch: some five blocks of the log.
const KEYS: usize = 20;
const BLOCK: u64 = 4096;
const ROUNDS: usize = 5;
const WRITERS: usize = 4;

fn batch(name: &str, value: &str) -> Vec<String> {
    let mut words = vec!["MSET".to_owned()];
    for at in 0..KEYS {
        words.push(format!("{name}:{at:02}"));
        words.push(format!("{value:-<1000}"));
    }
    words
}

/// The values of a batch's keys.
fn values(client: &mut Client, name: &str) -> Vec<Reply> {
    (0..KEYS).map(|at| client.call(&["GET", &format!("{name}:{at:02}")])).collect()
}

#[test]
fn after_a_kill_every_batch_is_whole_or_not_there() {
    for sync in ["always", "everysec", "no"] {
        let mut server = Setup::new().flags(&["--sync", sync]).start();
        let mut acknowledged = [0; WRITERS];
        for round in 0..ROUNDS {
            let kill = server.killer();
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let mut client = server.connect();
                    let mut number = acknowledged[writer];
                    thread::spawn(move || {
                        loop {
                            let request = batch(&format!("w{writer}"), &format!("{}", number + 1));
                            match client.try_call(&request) {
                                Ok(reply) if reply == Reply::ok() => number += 1,
                                Ok(other) => panic!("MSET answered {other:?}"),
                                Err(_) => return number,
                            }
                        }
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(40 + 30 * round as u64));
            kill();
            for (writer, thread) in writers.into_iter().enumerate() {
                acknowledged[writer] = thread.join().expect("the writer ends with the server");
            }
            server.kill();
            server.resume();
            let mut client = server.connect();
            for (writer, last) in acknowledged.iter_mut().enumerate() {
                let values = values(&mut client, &format!("w{writer}"));
                assert!(values.iter().all(|value| *value == values[0]), "{sync}: {values:?}");
                if values[0] == Reply::Nil {
                    assert_eq!(*last, 0, "{sync}: an acknowledged batch is lost");
                    continue;
                }
                let text = String::from_utf8(values[0].clone().into_bytes().to_vec()).unwrap();
                let number: usize = text.trim_end_matches('-').parse().expect("a number");
                // The last one may have been written and not answered any more.
                assert!(number == *last || number == *last + 1, "{sync}: {number} of {last}");
                *last = number;
            }
        }
    }
}

/// Segment of the log that is written to and the offset in it, from NSINFO.
fn place(client: &mut Client) -> (PathBuf, u64) {
    let text = client.call(&["NSINFO", "default"]).into_bytes();
    let text = String::from_utf8(text.to_vec()).expect("text");
    let fields: HashMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once(": ")).collect();
    (fields["data_active"].into(), fields["data_current_offset"].parse().expect("a number"))
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("the directory is there") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}

/// Starts a server on a copy of `data` in which a block is zeroed; without index, so that it reads the log.
fn start_damaged(data: &Path, segment: &Path, block: u64) -> (Server, tempfile::TempDir) {
    let home = scratch_dir();
    let copy = home.path().join("data");
    copy_dir(data, &copy);
    let name = segment.file_name().expect("a name");
    let file = OpenOptions::new().write(true).open(copy.join(name)).expect("the segment is there");
    file.write_all_at(&[0; BLOCK as usize], block * BLOCK).expect("a block can be overwritten");
    let server = Setup::new().buffer(Buffer::None).home(home.path()).start();
    (server, home)
}

#[test]
fn a_torn_batch_does_not_count() {
    for with_later_record in [false, true] {
        let mut server = Setup::new().buffer(Buffer::None).flags(&["--sync", "always"]).start();
        let mut client = server.connect();
        client.expect(&["SET", "before", "1"], Reply::bulk("before"));
        let (segment, start) = place(&mut client);
        client.expect(&batch("b", "x"), Reply::ok());
        let (same, end) = place(&mut client);
        assert_eq!(segment, same);
        if with_later_record {
            client.expect(&["SET", "after", "1"], Reply::bulk("after"));
        }
        server.kill();
        assert!(end - start > 5 * BLOCK, "the batch takes some blocks");
        for block in start / BLOCK..end / BLOCK {
            let (mut damaged, _home) = start_damaged(&server.data_dir(), &segment, block);
            let mut client = damaged.connect();
            let found = values(&mut client, "b");
            // The last block may hold nothing but padding.
            let whole = found.iter().filter(|value| matches!(value, Reply::Bulk(_))).count();
            assert!(
                whole == 0 || (whole == KEYS && block + 1 == end / BLOCK),
                "{block}: {found:?}"
            );
            let is_nil = |value: &Reply| *value == Reply::Nil;
            assert!(whole == KEYS || found.iter().all(is_nil), "{block}: {found:?}");
            client.expect(&["GET", "before"], Reply::bulk("1"));
            let after = if with_later_record { Reply::bulk("1") } else { Reply::Nil };
            client.expect(&["GET", "after"], after);
            if block == start / BLOCK + 1 {
                // Nor does it later, when the segment is not the last any more and its sidecar is gone.
                client.expect(&["SET", "later", "1"], Reply::bulk("later"));
                damaged.terminate();
                std::fs::remove_dir_all(damaged.index_dir()).expect("the index can be lost");
                damaged.resume();
                let mut client = damaged.connect();
                assert!(values(&mut client, "b").iter().all(is_nil), "half a batch came back");
                client.expect(&["GET", "later"], Reply::bulk("1"));
            }
        }
    }
}

#[test]
fn of_a_batch_that_was_durable_the_undamaged_records_stay() {
    let flags = ["--sync", "always", "--datasize", "512k"];
    let mut server = Setup::new().buffer(Buffer::None).flags(&flags).start();
    let mut client = server.connect();
    client.expect(&["SET", "before", "1"], Reply::bulk("before"));
    let (segment, start) = place(&mut client);
    client.expect(&batch("b", "x"), Reply::ok());
    let (_, end) = place(&mut client);
    // Into the next segment: what was in this one is durable now.
    for number in 0..20 {
        let key = format!("fill{number}");
        client.expect(&["SET", &key, &"f".repeat(50_000)], Reply::bulk(&key));
    }
    assert_ne!(place(&mut client).0, segment);
    server.kill();
    for block in start / BLOCK..end / BLOCK - 1 {
        let (damaged, _home) = start_damaged(&server.data_dir(), &segment, block);
        let mut client = damaged.connect();
        let found = values(&mut client, "b");
        let whole = found.iter().filter(|value| matches!(value, Reply::Bulk(_))).count();
        assert!((KEYS - 6..KEYS).contains(&whole), "block {block}: {whole} of {KEYS}");
        client.expect(&["GET", "fill19"], Reply::bulk("f".repeat(50_000)));
    }
}

#[test]
fn nobody_sees_half_a_batch() {
    let server = Server::start::<&str>(&[]);
    let mut first = server.connect();
    first.expect(&batch("b", "0"), Reply::ok());
    let mut words = vec!["MGET".to_owned()];
    words.extend((0..KEYS).map(|at| format!("b:{at:02}")));
    let reader = {
        let mut client = server.connect();
        thread::spawn(move || {
            for _ in 0..100 {
                let values = client.call(&words).into_array();
                assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
            }
        })
    };
    let mut pipeline = Vec::new();
    for number in 0..20 {
        pipeline.extend(encoded(&batch("b", &number.to_string())));
    }
    while !reader.is_finished() {
        let (replies, end) = first.pipeline(&pipeline, 20);
        end.expect("the server stays");
        assert!(replies.iter().all(|reply| *reply == Reply::ok()));
    }
    reader.join().expect("the reader saw whole batches only");
}
