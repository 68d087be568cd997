//! What no master and no replica would say: the other side names it, lives on with all of its data, and goes on
//! with a real one.

use compat_tests::client::encoded;
use compat_tests::mount::Mount;
use compat_tests::proxy::{Cut, Link, Proxy, Way};
use compat_tests::server::{Setup, poll};
use compat_tests::wire::{
    Ask, FakeMaster, ask, field, follow, hear, in_sync, introduce, records, said,
};
use compat_tests::{Client, Reply, Server, args, seed};
use std::time::Duration;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const TIME_MAX: Duration = Duration::from_secs(30);
/// From the end of a link to the line about it.
const REPORT_TIME_MAX: Duration = Duration::from_secs(5);
/// The smallest segments that there are.
const SEGMENT_BYTES: u64 = 524_288;
const SMALL: [&str; 4] = ["--datasize", "524288", "--cleaner-rate", "0"];
const KEYS: usize = 100;

fn setup(flags: &[&str]) -> Setup {
    Setup::new().flags(&SMALL).flags(flags)
}

fn value(at: usize) -> String {
    format!("value {at} {}", "v".repeat(at * 7))
}

fn write_keys(server: &Server, keys: std::ops::Range<usize>) {
    let mut client = server.connect();
    for at in keys {
        let key = format!("key-{at}");
        client.expect(args!["SET", key, value(at)], Reply::bulk(&key));
    }
}

#[track_caller]
fn has_keys(server: &Server, keys: std::ops::Range<usize>) {
    let mut client = server.connect();
    for at in keys {
        client.expect(args!["GET", format!("key-{at}")], Reply::bulk(value(at)));
    }
}

fn end(server: &Server) -> u64 {
    let end = field(&mut server.connect(), "master_repl_offset");
    end.and_then(|end| end.parse().ok()).expect("a position")
}

fn word(value: impl ToString) -> String {
    value.to_string()
}

/// A master and its replica, which has all of the master's log but its last records, and follows the test.
struct Scene {
    master: Server,
    replica: Server,
    fake: FakeMaster,
    /// A client of the replica who must notice nothing.
    reader: Client,
    /// Where the replica was left, and what the master's log has behind that.
    tail: (u64, Vec<u8>),
}

impl Scene {
    fn new(flags: &[&str]) -> Scene {
        let mut master = setup(flags).start();
        let replica = setup(flags).start();
        follow(&mut replica.connect(), master.address());
        if flags.contains(&"--min-replicas") {
            let open = poll(TIME_MAX, || {
                let reply = master.connect().call(args!["SET", "opens", "1"]);
                (!reply.is_error()).then_some(())
            });
            assert!(open.is_some(), "{:?}", master.log());
        } else {
            in_sync(&master, &replica);
            // A master that has had replicas begins a term at its start.
            master.terminate();
            master.resume();
            follow(&mut replica.connect(), master.address());
        }
        write_keys(&master, 0..KEYS);
        in_sync(&master, &replica);
        let fake = FakeMaster::default();
        follow(&mut replica.connect(), fake.address());
        let reader = replica.connect();
        Scene { master, replica, fake, reader, tail: (0, Vec::new()) }
    }

    /// Lets the master write on, and notes what that is in its log.
    fn with_tail(mut self) -> Scene {
        let (call, asked) = self.fake.asked();
        drop(call);
        write_keys(&self.master, KEYS..2 * KEYS);
        let mut copy = introduce(&self.master, "00c0ffee");
        let answer = ask(&mut copy, &asked.words).expect("the master answers");
        assert_eq!(answer[..2], ["CONTINUE".to_owned(), word(asked.position())], "{answer:?}");
        let bytes = records(&mut copy, end(&self.master));
        self.tail = (asked.position(), bytes);
        self
    }

    /// What the log has from this position on.
    fn rest(&self, position: u64) -> &[u8] {
        &self.tail.1[(position - self.tail.0) as usize..]
    }

    /// The replica hears this after the greeting of a master or, where `follows`, of one whose log it gets; it
    /// names the cause, hangs up and is as it was.
    #[track_caller]
    fn refuses(&mut self, follows: bool, cause: &str, bytes: &dyn Fn(&Ask) -> Vec<u8>) {
        let (mut call, asked) = self.fake.asked();
        let mut said = if follows { asked.go_on() } else { Vec::new() };
        said.extend(bytes(&asked));
        // It may hang up before it has read all.
        let _ = call.send_raw(&said);
        let shown = said[..said.len().min(200)].escape_ascii();
        let gone = loop {
            if let Err(error) = hear(&mut call) {
                break error.kind();
            }
        };
        let is_open = gone == std::io::ErrorKind::WouldBlock;
        assert!(!is_open, "\"{shown}\": the link is still open: {:#?}", self.replica.log());
        // The same cause is not told twice in a row.
        let last = || self.replica.log().into_iter().rfind(|line| line.contains("trying again"));
        let found = poll(REPORT_TIME_MAX, || last().filter(|line| line.contains(cause)));
        assert!(found.is_some(), "\"{shown}\": no {cause:?} but {:?}", last());
        self.reader.expect(args!["GET", "key-7"], Reply::bulk(value(7)));
    }

    /// Nothing that it heard has left a trace, and it follows a real master again.
    #[track_caller]
    fn ends_well(mut self) {
        self.reader.expect(args!["GET", "key-7"], Reply::bulk(value(7)));
        has_keys(&self.replica, 0..KEYS);
        let names = std::fs::read_dir(self.replica.data_dir()).expect("it is there");
        let names = names.map(|entry| entry.expect("an entry").file_name().into_string());
        for name in names.map(|name| name.expect("a plain name")) {
            assert!(!name.ends_with(".new"), "{name} is left");
        }
        follow(&mut self.replica.connect(), self.master.address());
        in_sync(&self.master, &self.replica);
        write_keys(&self.master, 2 * KEYS..3 * KEYS);
        in_sync(&self.master, &self.replica);
        has_keys(&self.replica, 0..KEYS);
        has_keys(&self.replica, 2 * KEYS..3 * KEYS);
        self.replica.kill();
        self.replica.resume();
        has_keys(&self.replica, 0..KEYS);
        has_keys(&self.replica, 2 * KEYS..3 * KEYS);
        let panicked = self.replica.log().into_iter().find(|line| line.contains("panicked"));
        assert_eq!(panicked, None);
    }
}

/// A term's record as it stands at a position of a log.
fn term_record(log: &str, position: u64, number: u64, node: u32) -> Vec<u8> {
    let id: Vec<u8> = (0..16)
        .map(|at| u8::from_str_radix(&log[2 * at..2 * at + 2], 16).expect("hexadecimal"))
        .collect();
    let seed = xxh3_64(&id);
    let mut bytes = [0; 56];
    bytes[4..8].copy_from_slice(&(8u32 << 24).to_le_bytes());
    bytes[8..16].copy_from_slice(&xxh3_64_with_seed(&[], seed).to_le_bytes());
    bytes[22] = 8;
    bytes[28..32].copy_from_slice(&node.to_le_bytes());
    bytes[40..44].fill(0xff);
    bytes[44..52].copy_from_slice(&number.to_le_bytes());
    let check = xxh3_64_with_seed(&bytes[4..52], seed ^ position.rotate_left(32)) as u32;
    bytes[..4].copy_from_slice(&check.to_le_bytes());
    bytes.to_vec()
}

// -------------------------------------------------------------------- a false master

#[test]
fn a_replica_names_what_is_no_answer() {
    let mut scene = Scene::new(&[]);
    let long_line = [&b"+"[..], &[b'a'; 1 << 20]].concat();
    let faults: [(&str, &[u8]); 20] = [
        ("none of ours: Malformed request, array expected", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("none of ours", b"$5\r\nhello\r\n"),
        ("none of ours", b":12\r\n"),
        ("none of ours", b"\x16\x03\x01\x02\x00\x01\x00\r\n"),
        ("none of ours", b"*-7\r\n"),
        ("none of ours", b"*99999999999999999999\r\n"),
        ("none of ours: Too many arguments", b"*5000\r\n"),
        ("none of ours: Payload too big", b"*3\r\n$7\r\nRECORDS\r\n$1\r\n5\r\n$99999999999\r\n"),
        ("none of ours", b"*1\r\n:5\r\n"),
        ("it says: LOADING not now", b"-LOADING not now\r\n"),
        ("none of ours: a line without an end", &long_line),
        ("damaged on its way", b"*3\r\n$6\r\nREWIND\r\n$1\r\n8\r\n$16\r\n0123456789abcdef\r\n"),
        ("damaged on its way", b"*1\r\n$5\r\nAGAIN\r\n"),
        ("not known here: RECORDS", b"*3\r\n$7\r\nRECORDS\r\n$1\r\n0\r\n$1\r\na\r\n"),
        ("not known here: SEGMENT", &said(&["SEGMENT", "0", "0", "0"])),
        ("not known here: FILE", &said(&["FILE", "0", "9"])),
        ("not known here: STATUS", &said(&["STATUS", "-1"])),
        ("not known here: ADOPT", &said(&["ADOPT", "0", "0", "0"])),
        ("not known here: REWIND", &said(&["REWIND", "0"])),
        ("not known here: PROMISE", &said(&["PROMISE", "1", "node"])),
    ];
    for (cause, bytes) in faults {
        scene.refuses(false, cause, &|_| bytes.to_vec());
    }
    scene.ends_well();
}

#[test]
fn a_replica_names_what_does_not_belong_where_its_log_is() {
    let mut scene = Scene::new(&[]).with_tail();
    for (cause, position) in [
        ("go on at 0", "0"),
        ("go on at 999999999999", "999999999999"),
        ("not known here: CONTINUE", "-1"),
        ("not known here: CONTINUE", "18446744073709551616"),
    ] {
        scene.refuses(false, cause, &|_| said(args!["CONTINUE", position, "1", "0", "0"]));
    }
    let back = |position: u64| said(args!["REWIND", word(position), "1"]);
    scene.refuses(false, "have the log go back to", &|asked| back(asked.position()));
    scene.refuses(false, "have the log go back to", &|_| back(u64::MAX));
    scene.refuses(false, "have the log go back to 0,", &|_| back(0));
    let of = |position: u64| move |bytes: &[u8]| encoded(args!["RECORDS", word(position), bytes]);
    scene.refuses(true, "came where", &|asked| of(asked.position() + 8)(b"x"));
    scene.refuses(true, "came where", &|asked| of(asked.position() - 8)(b"x"));
    scene.refuses(true, "came where", &|_| of(u64::MAX)(b"x"));
    scene.refuses(true, "no whole record", &|asked| of(asked.position())(&[0xee; 4096]));
    scene.refuses(true, "not known here: RECORDS", &|_| encoded(args!["RECORDS", "0"]));
    scene.refuses(true, "not known here: RECORDS", &|_| encoded(args!["RECORDS", "0", "a", "b"]));
    let flipped: Vec<(u64, Vec<u8>)> = [0, 5, 20, 46, 3000]
        .map(|at| {
            let mut bytes = scene.rest(scene.tail.0).to_vec();
            bytes[at] ^= 4;
            (scene.tail.0, bytes)
        })
        .into();
    for (from, bytes) in flipped {
        // What comes before the damage is taken.
        scene.refuses(true, "no whole record", &move |asked| {
            of(asked.position())(&bytes[(asked.position() - from) as usize..])
        });
    }
    // Terms go up, and not without an end.
    for number in [0, 1, u64::MAX] {
        scene.refuses(true, "of term", &move |asked| {
            assert!(asked.term() >= 1, "{asked:?}");
            let number = if number == 1 { asked.term() } else { number };
            let record = term_record(asked.log(), asked.position(), number, 7);
            encoded(args!["RECORDS", word(asked.position()), record])
        });
    }
    scene.ends_well();
}

#[test]
fn a_replica_begins_no_segment_that_cannot_be() {
    let mut scene = Scene::new(&[]);
    let segment = |base: u64, capacity: u64, end: u64| {
        said(args!["SEGMENT", word(base), word(capacity), word(end)])
    };
    let next = 4 * SEGMENT_BYTES;
    for (base, capacity) in [
        (next + 1, SEGMENT_BYTES),
        (next + 8, SEGMENT_BYTES),
        (u64::MAX, SEGMENT_BYTES),
        (u64::MAX - 4095, SEGMENT_BYTES),
        (1 << 49, SEGMENT_BYTES),
        (next, 0),
        (next, 4096),
        (next, SEGMENT_BYTES + 1),
        (next, u64::MAX),
        (next, u64::MAX - 4095),
        (next, 1 << 40),
    ] {
        let cause = format!("segment {base:x} of {capacity} bytes");
        scene.refuses(true, &cause, &|asked| segment(base, capacity, asked.position()));
    }
    scene.refuses(true, "would overlap", &|asked| segment(0, SEGMENT_BYTES, asked.position()));
    scene.refuses(true, "follow one that ends at", &|_| segment(next, SEGMENT_BYTES, 8));
    scene.refuses(true, "in the middle of", &|asked| {
        let position = asked.position();
        let record = term_record(asked.log(), position, 99, 7);
        let mut said = encoded(args!["RECORDS", word(position), record[..20]]);
        said.extend(segment(next, SEGMENT_BYTES, position));
        said
    });
    // One that begins as it may, and the link is gone: the next one can be another.
    let (mut call, asked) = scene.fake.asked();
    call.send_raw(&asked.go_on()).expect("it is there");
    call.send_raw(&segment(next, SEGMENT_BYTES, asked.position())).expect("it is there");
    let name = scene.replica.data_dir().join(format!("{next:016x}.log"));
    assert!(poll(TIME_MAX, || name.exists().then_some(())).is_some(), "the segment is made");
    drop(call);
    scene.ends_well();
}

#[test]
fn a_replica_takes_no_file_that_is_not_as_it_was_sent() {
    let mut scene = Scene::new(&[]);
    let base = word(4 * SEGMENT_BYTES);
    let files = std::fs::read_dir(scene.replica.data_dir()).expect("it is there").count();
    let block = vec![0x5a; 8192];
    let check = |bytes: &[u8]| word(xxh3_64_with_seed(bytes, 0));
    let all = |frames: &[&[&[u8]]]| frames.iter().flat_map(|frame| said(frame)).collect::<Vec<_>>();
    let file: &[&[u8]] = &[b"FILE", base.as_bytes(), b"8192"];
    let bytes: &[&[u8]] = &[b"BYTES", &block];
    let whole = check(&block);
    let file_end = |check: &str| said(args!["FILE-END", base, check]);
    for (base, bytes) in [
        ("0", "8192"),
        ("2097153", "8192"),
        ("562949953421312", "8192"),
        ("18446744073709551615", "8192"),
        ("2097152", "0"),
        ("2097152", "4000"),
        ("2097152", "18446744073709551615"),
        ("2097152", "18446744073709547520"),
    ] {
        let cause = format!("a file of {bytes} bytes at {base}");
        scene.refuses(true, &cause, &|_| said(args!["FILE", base, bytes]));
    }
    scene.refuses(true, "not known here: FILE", &|_| said(args!["FILE", "2097152", "-1"]));
    scene.refuses(true, "bytes of a file came without one", &|_| all(&[bytes]));
    scene.refuses(true, "end of a file came without one", &|_| file_end(&whole));
    scene.refuses(true, "in the middle of", &|_| all(&[file, file]));
    scene.refuses(true, "longer than was said", &|_| all(&[file, bytes, bytes]));
    scene.refuses(true, "did not come as it was sent", &|_| {
        let half: &[&[u8]] = &[b"BYTES", &block[..4096]];
        [all(&[file, half]), file_end(&check(&block[..4096]))].concat()
    });
    scene.refuses(true, "did not come as it was sent", &|_| {
        [all(&[file, bytes]), file_end("1234")].concat()
    });
    scene.refuses(true, "not known here: FILE-END", &|_| {
        [all(&[file, bytes]), file_end("-1")].concat()
    });
    scene.refuses(true, "in the middle of", &|asked| {
        let record = term_record(asked.log(), asked.position(), 99, 7);
        [all(&[file]), encoded(args!["RECORDS", word(asked.position()), record])].concat()
    });
    scene.refuses(true, "in the middle of", &|asked| {
        let position = word(asked.position());
        [all(&[file]), said(args!["SEGMENT", "4194304", "524288", position])].concat()
    });
    scene.refuses(true, "start anew for nothing", &|_| said(args!["RESTART"]));
    // The link is gone in the middle of one.
    for said in [all(&[file]), all(&[file, bytes])] {
        let (mut call, asked) = scene.fake.asked();
        call.send_raw(&[asked.go_on(), said].concat()).expect("it is there");
        drop(call);
    }
    let (call, _) = scene.fake.asked();
    drop(call);
    let cleared = poll(TIME_MAX, || {
        let count = std::fs::read_dir(scene.replica.data_dir()).expect("it is there").count();
        (count == files).then_some(())
    });
    assert!(cleared.is_some(), "nothing of a file stays");
    scene.ends_well();
}

#[test]
fn a_replica_calls_again_whenever_it_is_hung_up_on() {
    let mut scene = Scene::new(&[]).with_tail();
    let hung_up = "the connection was closed";
    for _ in 0..2 {
        drop(scene.fake.accept());
    }
    scene.replica.wait_for_log("the end of the link", |line| line.contains(hung_up));
    let (call, _) = scene.fake.asked();
    drop(call);
    let (from, bytes) = scene.tail.clone();
    let rest = move |asked: &Ask| {
        let position = asked.position();
        encoded(args!["RECORDS", word(position), bytes[(position - from) as usize..]])
    };
    for length in [1, 20, 45, 700, 5000] {
        let (mut call, asked) = scene.fake.asked();
        let said = [asked.go_on(), rest(&asked)].concat();
        call.send_raw(&said[..length.min(said.len())]).expect("it is there");
        drop(call);
    }
    // One that says nothing more in the middle of a word is hung up on.
    let before = scene.replica.log().len();
    let (mut call, asked) = scene.fake.asked();
    let said = [asked.go_on(), rest(&asked)].concat();
    call.send_raw(&said[..said.len() / 2]).expect("it is there");
    let silent = poll(TIME_MAX, || {
        let log = scene.replica.log();
        log[before..].iter().any(|line| line.contains("silent for too long")).then_some(())
    });
    assert!(silent.is_some(), "{:#?}", scene.replica.log());
    scene.reader.expect(args!["GET", "key-7"], Reply::bulk(value(7)));
    // One that is slow is waited for: all comes byte by byte.
    let (mut call, asked) = scene.fake.asked();
    let goal = scene.tail.0 + scene.tail.1.len() as u64;
    for byte in [asked.go_on(), rest(&asked)].concat() {
        call.send_raw(&[byte]).expect("it is there");
    }
    let there = poll(TIME_MAX, || {
        let end = field(&mut scene.replica.connect(), "slave_repl_offset")?;
        (end == word(goal)).then_some(())
    });
    assert!(there.is_some(), "it stands at {}, not {goal}", end(&scene.replica));
    has_keys(&scene.replica, 0..2 * KEYS);
    drop(call);
    scene.ends_well();
}

/// A real master behind a wire that flips bits: what is wrong is asked for again.
#[test]
fn flipped_bits_are_asked_for_again() {
    let seed = seed("replication_wire");
    let master = setup(&[]).start();
    write_keys(&master, 0..KEYS);
    let proxy = Proxy::start(master.address());
    let replica = setup(&[]).start();
    follow(&mut replica.connect(), proxy.address());
    in_sync(&master, &replica);
    let mut keys = KEYS;
    for round in 0..4 {
        proxy.set(Way::Back, Link::flipping(30_000, seed + round));
        write_keys(&master, keys..keys + 2 * KEYS);
        keys += 2 * KEYS;
        let flipped = poll(TIME_MAX, || {
            // Each sign of life may be hit, too.
            master.connect().call(args!["SET", "more", fastrand::u64(..).to_le_bytes()]);
            (proxy.counts().way(Way::Back).flipped_bits >= 2 * (round + 1)).then_some(())
        });
        assert!(flipped.is_some(), "{:?}", proxy.counts());
        proxy.set(Way::Back, Link::PASS);
        in_sync(&master, &replica);
        has_keys(&replica, 0..keys);
    }
    replica.wait_for_log("what was wrong", |line| line.contains("trying again"));
}

/// Packed segments come as files. Of those that are whole when the link breaks none comes again, and of one that is
/// not nothing stays.
#[test]
fn files_that_are_cut_off_come_again() {
    let master = setup(&[]).start();
    let mut client = master.connect();
    client.expect(args!["NSSET", "default", "history", "0"], Reply::ok());
    let mut random = fastrand::Rng::with_seed(seed("replication_wire"));
    let mut values = vec![Vec::new(); 1500];
    let cleaned = poll(TIME_MAX, || {
        for _ in 0..3000 {
            let at = random.usize(..values.len());
            values[at] = std::iter::repeat_with(|| random.u8(..)).take(2500).collect();
            client.call(args!["SET", format!("file-{at}"), values[at]]);
        }
        client.expect(args!["DEBUG", "CLEAN"], Reply::ok());
        let text = client.call(args!["INFO", "engine"]).into_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        let count = text.lines().find_map(|line| line.strip_prefix("cleaner_segments_cleaned: "));
        (count?.trim().parse::<u64>().ok()? > 8).then_some(())
    });
    assert!(cleaned.is_some(), "the cleaner has work");
    // What it cleans meanwhile would have to come again.
    client.expect(args!["CONFIG", "SET", "cleaner", "no"], Reply::ok());
    let idle = poll(TIME_MAX, || {
        let text = client.call(args!["INFO", "engine"]).into_bytes();
        String::from_utf8_lossy(&text).contains("cleaner_state: off").then_some(())
    });
    assert!(idle.is_some(), "the cleaner comes to rest");
    let proxy = Proxy::start(master.address());
    proxy.set(Way::Back, Link::throttled(1_000_000));
    let replica = setup(&[]).start();
    follow(&mut replica.connect(), proxy.address());
    let forwarded = || proxy.counts().way(Way::Back).forwarded_bytes;
    for _ in 0..4 {
        let before = forwarded();
        let moved = poll(TIME_MAX, || (forwarded() > before + 700_000).then_some(()));
        assert!(moved.is_some(), "{:?} {:#?}", proxy.counts(), replica.log());
        proxy.cut(Cut::Reset);
    }
    proxy.set(Way::Back, Link::PASS);
    in_sync(&master, &replica);
    let mut copy = replica.connect();
    for (at, value) in values.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
        copy.expect(args!["GET", format!("file-{at}")], Reply::bulk(value));
    }
    // No half of a file is left, and no copy was given up.
    let names = std::fs::read_dir(replica.data_dir()).expect("it is there");
    let names = names.map(|entry| entry.expect("an entry").file_name().into_string());
    for name in names.map(|name| name.expect("a plain name")) {
        assert!(!name.ends_with(".new") && !name.starts_with("aside"), "{name} is left");
    }
    let broken = replica.log().iter().filter(|line| line.contains("was closed")).count();
    assert!(broken >= 3, "{:#?}", replica.log());
}

/// A replica whose disk has no room takes no more than it has room for: its master waits.
#[test]
fn a_replica_that_is_stuck_is_not_flooded() {
    let mount = Mount::ext4(64);
    let replica = Setup::new().home(mount.path()).flags(&SMALL).start();
    let fake = FakeMaster::default();
    follow(&mut replica.connect(), fake.address());
    let (mut call, asked) = fake.asked();
    let segment = said(args!["SEGMENT", "0", word(1 << 30), "0"]);
    call.send_raw(&[asked.go_on(), segment].concat()).expect("it is there");
    replica.wait_for_log("the full disk", |line| line.contains("No space"));
    let before = replica.resident_bytes();
    let frame = encoded(args!["RECORDS", "4096", vec![0; 256 << 10]]);
    let limit = Duration::from_secs(2);
    call.tcp().set_write_timeout(Some(limit)).expect("a socket takes a limit");
    let taken = (0..400).take_while(|_| call.send_raw(&frame).is_ok()).count();
    assert!(taken < 100, "it takes {taken} frames of 256 KiB");
    let grown = replica.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{} MiB more", grown >> 20);
    replica.connect().expect(args!["GET", "none"], Reply::Nil);
}

/// Where replicas count for each write, a server follows nobody of an earlier term than it has promised, and
/// promises nothing that would leave no number for the next one.
#[test]
fn a_replica_keeps_its_promises() {
    let flags = ["--min-replicas", "1", "--nodes", "2"];
    let mut scene = Scene::new(&flags);
    scene.refuses(false, "later one was promised", &|asked| {
        said(args!["CONTINUE", word(asked.position()), "0", "0", "0"])
    });
    scene.refuses(false, "it wants term 0", &|_| said(args!["PROMISE", "0", "00000007"]));
    for number in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let cause = format!("it wants term {number}");
        scene.refuses(false, &cause, &|_| said(args!["PROMISE", word(number), "00000007"]));
    }
    for term in ["0", "18446744073709551615"] {
        let cause = if term == "0" { "not the master of the newest term" } else { "it names term" };
        scene.refuses(false, cause, &|_| said(args!["REWIND", "4096", term]));
        scene.refuses(false, cause, &|asked| {
            said(args!["ADOPT", asked.log(), "0".repeat(32), term])
        });
    }
    // Whatever it heard, it can become a master.
    scene.replica.connect().expect(args!["REPLICAOF", "NO", "ONE"], Reply::ok());
    follow(&mut scene.master.connect(), scene.replica.address());
    let open = poll(TIME_MAX, || {
        (!scene.replica.connect().call(args!["SET", "own", "1"]).is_error()).then_some(())
    });
    assert!(open.is_some(), "{:#?}", scene.replica.log());
    in_sync(&scene.replica, &scene.master);
    has_keys(&scene.master, 0..KEYS);
}

/// A server that had to begin anew, and has not yet what it had, is nobody's master.
#[test]
fn half_a_copy_is_nobodys_master() {
    let scene = Scene::new(&[]);
    let (mut call, asked) = scene.fake.asked();
    let adopt = said(args!["ADOPT", asked.log(), "0".repeat(32), "1"]);
    call.send_raw(&adopt).expect("it is there");
    drop(scene.fake.asked());
    scene.replica.connect().expect(args!["REPLICAOF", "NO", "ONE"], Reply::ok());
    let refused = scene.replica.connect().call(args!["SET", "own", "1"]);
    assert!(format!("{refused:?}").contains("NOREPLICAS"), "{refused:?}");
    let mut call = introduce(&scene.replica, "00c0ffee");
    let answer = ask(&mut call, &asked.words).expect("it answers").remove(0);
    assert!(answer.contains("is being copied anew itself"), "{answer}");
    scene.replica.wait_for_log("why it is none", |line| line.contains("does not begin"));
    follow(&mut scene.replica.connect(), scene.master.address());
    in_sync(&scene.master, &scene.replica);
    has_keys(&scene.replica, 0..KEYS);
}

// -------------------------------------------------------------------- a false replica

/// What a real replica asks this master, which has nobody else then.
fn asked_of(scene: &Scene) -> Ask {
    let (call, asked) = scene.fake.asked();
    drop(call);
    asked
}

#[test]
fn a_master_says_what_a_replica_may_not_say() {
    let scene = Scene::new(&[]);
    let asked = asked_of(&scene);
    let master = &scene.master;
    let with = |at: usize, value: &str| {
        let mut words = asked.words.clone();
        words[at] = value.into();
        words
    };
    let foreign = "PSYNC here is zdb's own";
    let max = u64::MAX.to_string();
    let nonsense = [
        (with(1, "nonsense"), foreign),
        (with(2, "-1"), foreign),
        (with(3, "-1"), foreign),
        (with(3, "18446744073709551616"), foreign),
        (with(3, "1e9"), foreign),
        (with(4, "-1"), foreign),
        (with(4, &max), foreign),
        (with(5, "node"), foreign),
        (with(6, "other"), foreign),
        (with(7, "versions"), foreign),
        (with(8, "some"), foreign),
        (asked.words[..8].to_vec(), foreign),
        ([&asked.words[..], &["1:2".into()]].concat(), foreign),
        ([&asked.words[..], &["1:00000002:-5".into()]].concat(), foreign),
        ([&asked.words[..], &vec!["1:00000002:5".into(); 900]].concat(), foreign),
        ([&asked.words[..], &vec!["1:00000002:5".into(); 1100]].concat(), "Too many arguments"),
    ];
    for (words, cause) in &nonsense {
        let mut call = introduce(master, "00c0ffee");
        let answer = ask(&mut call, words).expect("the master answers").remove(0);
        let shown = words[..words.len().min(12)].join(" ");
        assert!(answer.contains(cause), "{shown}: {answer}");
    }
    // The same words in another order, and numbers that are none of this log: it begins anew, or goes back.
    let behind = word(asked.position() + 1_000_000);
    for (words, answers) in [
        (with(1, &"0".repeat(32)), "ADOPT"),
        (with(2, "0"), "ADOPT"),
        (with(3, &max), "REWIND"),
        (with(3, &behind), "REWIND"),
        ([&asked.words[..10], &[format!("{max}:00000002:{max}")]].concat(), "REWIND"),
    ] {
        let mut call = introduce(master, "00c0ffee");
        let answer = ask(&mut call, &words).expect("the master answers").remove(0);
        assert_eq!(answer, answers, "{words:?}");
    }
    let mut call = master.connect();
    assert_eq!(ask(&mut call, &asked.words).expect("it answers")[0], "REPLCONF comes before PSYNC");
    for words in [
        &["REPLCONF", "node", "-1"][..],
        &["REPLCONF", "node", "fffffffff"],
        &["REPLCONF", "node"],
        &["REPLCONF", "listening-port", "-1"],
        &["REPLCONF", "listening-port", "18446744073709551616"],
        &["REPLCONF", "ip-address", "two words"],
        &["REPLCONF", "ip-address", "one\r\nrole:slave"],
        &["REPLCONF", "ip-address", ""],
        &["REPLCONF", "ack", "-1"],
        &["REPLCONF", "ack", "18446744073709551616"],
    ] {
        let reply = call.call(words);
        assert!(reply.is_error(), "{words:?}: {reply:?}");
    }
    // A server that would copy itself, by whichever way.
    let own = field(&mut master.connect(), "node").expect("it has a name");
    let mut call = introduce(master, &own);
    let answer = ask(&mut call, &asked.words).expect("it answers").remove(0);
    assert!(answer.contains("itself"), "{answer}");
    // Nobody asks twice.
    let mut call = introduce(master, "00c0ffee");
    assert_eq!(ask(&mut call, &asked.words).expect("it answers")[0], "CONTINUE");
    call.send_raw(&said(&asked.words)).expect("it is sent");
    let last = loop {
        match hear(&mut call) {
            Ok(words) if words[0].starts_with(b"a replica asks once") => break words,
            Ok(_) => {}
            Err(error) => panic!("no word of why: {error}"),
        }
    };
    assert_eq!(last.len(), 1);
    master.ask_others();
    has_keys(master, 0..KEYS);
    scene.ends_well();
}

/// A replica that acknowledges what it was never sent is no replica.
#[test]
fn acknowledgements_of_what_was_not_sent_count_for_nothing() {
    let scene = Scene::new(&["--min-replicas", "1", "--nodes", "2"]);
    let asked = asked_of(&scene);
    let master = &scene.master;
    let copy = || {
        let mut call = introduce(master, "00c0ffee");
        let answer = ask(&mut call, &asked.words).expect("the master answers");
        assert_eq!(answer[0], "CONTINUE", "{answer:?}");
        call
    };
    let ack = |call: &mut Client, position: &str| {
        call.send_raw(&encoded(args!["REPLCONF", "ack", position])).expect("it is sent");
    };
    for position in [word(u64::MAX), word(i64::MAX), word(asked.position() + (1 << 30))] {
        let mut call = copy();
        let mut writer = master.connect();
        let limit = writer.tcp().set_read_timeout(Some(Duration::from_secs(1)));
        limit.expect("a socket takes a limit");
        ack(&mut call, &position);
        let reply = writer.try_call(args!["SET", "not kept", "anywhere"]);
        let is_refused = match &reply {
            Ok(reply) => reply.is_error(),
            Err(_) => true,
        };
        assert!(is_refused, "{reply:?} with nobody who has it");
        let gone = poll(TIME_MAX, || hear(&mut call).is_err().then_some(()));
        assert!(gone.is_some(), "it is let go");
    }
    let told = |line: &str| line.contains("acknowledges position");
    master.wait_for_log("an acknowledgement of nothing", told);
    // One that goes back takes nothing away, and one that is right is enough.
    let mut call = copy();
    let mut writer = master.connect();
    ack(&mut call, &word(asked.position()));
    ack(&mut call, "0");
    let request = encoded(args!["SET", "kept", "1"]);
    writer.send_raw(&request).expect("it is sent");
    records(&mut call, end(master));
    ack(&mut call, &word(end(master)));
    assert_eq!(writer.receive().expect("a reply"), Reply::bulk("kept"));
    ack(&mut call, "0");
    assert_eq!(master.connect().call(args!["GET", "kept"]), Reply::bulk("1"));
    drop(call);
    follow(&mut scene.replica.connect(), master.address());
    in_sync(master, &scene.replica);
    has_keys(&scene.replica, 0..KEYS);
}

/// Whoever takes nothing costs the master no more than its share of memory.
#[test]
fn deaf_replicas_cost_little() {
    let master = Setup::new().flags(&["--cache", "0"]).start();
    let replica = Setup::new().start();
    follow(&mut replica.connect(), master.address());
    in_sync(&master, &replica);
    let fake = FakeMaster::default();
    follow(&mut replica.connect(), fake.address());
    let (call, asked) = fake.asked();
    drop(call);
    drop(replica);
    let mut random = fastrand::Rng::with_seed(7);
    let mut write = |mib: usize| {
        let mut client = master.connect();
        for at in 0..mib {
            let key = format!("large-{at}");
            client.expect(args!["SET", key, vec![random.u8(..); 1 << 20]], Reply::bulk(&key));
        }
    };
    write(80);
    let before = master.resident_bytes();
    let mut deaf: Vec<Client> = Vec::new();
    for at in 0..4 {
        let mut call = introduce(&master, &format!("0000000{}", at + 1));
        call.send_raw(&said(&asked.words)).expect("it is sent");
        deaf.push(call);
    }
    for _ in 0..4 {
        write(40);
        for call in &mut deaf {
            // It says that it is there.
            let _ = call.send_raw(&encoded(args!["REPLCONF", "ack", "0"]));
        }
    }
    let grown = master.resident_bytes().saturating_sub(before);
    // Each has 4 MiB to take and reads of 1 MiB under way; twice that is for the allocator.
    assert!(grown < 40 << 20, "{} MiB more", grown >> 20);
    master.ask_others();
}

#[test]
fn a_thousand_replicas_come_and_go() {
    let scene = Scene::new(&[]);
    let asked = asked_of(&scene);
    let master = &scene.master;
    let round = |count: usize| {
        for at in 0..count {
            let mut call = match at % 5 {
                0 => master.connect(),
                _ => introduce(master, &format!("{:08x}", at + 1)),
            };
            match at % 5 {
                2 => call.send_raw(&said(&asked.words)).expect("it is sent"),
                3 => {
                    call.send_raw(&encoded(&asked.words)[..60]).expect("it is sent");
                }
                4 => {
                    let answer = ask(&mut call, &asked.words).expect("the master answers");
                    assert_eq!(answer[0], "CONTINUE", "{answer:?}");
                }
                _ => {}
            }
        }
        let gone = poll(TIME_MAX, || {
            let count = field(&mut master.connect(), "connected_slaves")?;
            (count == "0").then_some(())
        });
        assert!(gone.is_some(), "all have gone");
    };
    round(200);
    let (descriptors, bytes) = (master.descriptor_count(), master.resident_bytes());
    round(1000);
    let few = poll(TIME_MAX, || (master.descriptor_count() <= descriptors + 2).then_some(()));
    assert!(few.is_some(), "{} descriptors, {descriptors} before", master.descriptor_count());
    let grown = master.resident_bytes().saturating_sub(bytes);
    assert!(grown < 16 << 20, "{} MiB more", grown >> 20);
    scene.ends_well();
}
