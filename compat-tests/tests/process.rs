//! The process and its disk: signals, a second server, flags, full disks, disks without direct I/O.

use compat_tests::client::encoded;
use compat_tests::mount::Mount;
use compat_tests::server::{Setup, poll};
use compat_tests::{Client, Reply, Server, args};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

// The process

#[test]
fn signals_end_the_server_in_order() {
    let mut server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    client.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    assert_eq!(server.terminate().code(), Some(143), "SIGTERM");
    client.wait_closed().expect("its connections end");
    server.resume();
    server.connect().expect(args!["GET", "key"], Reply::bulk("value"));
    assert_eq!(server.interrupt().code(), Some(130), "SIGINT");
    server.resume();
    server.connect().expect(args!["GET", "key"], Reply::bulk("value"));
}

/// Connections that are silent, deaf or half-way through a request do not delay the end.
#[test]
fn a_stop_waits_for_nobody() {
    let mut server = Server::start::<&str>(&[]);
    let mut clients: Vec<Client> = (0..50).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send_raw(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$10\r\nhalf").expect("half a request");
    }
    let mut deaf = server.connect();
    deaf.expect(args!["SET", "large", vec![b'v'; 4 * MIB]], Reply::bulk("large"));
    deaf.send_raw(&encoded(args!["GET", "large"]).repeat(20)).expect("it is sent");
    let started = Instant::now();
    assert_eq!(server.terminate().code(), Some(143));
    assert!(started.elapsed() < Duration::from_secs(10), "the stop took {:?}", started.elapsed());
}

#[test]
fn a_second_server_is_refused() {
    let mut server = Server::start::<&str>(&[]);
    server.connect().expect(args!["SET", "key", "value"], Reply::bulk("key"));
    for _ in 0..2 {
        let refusal = server.start_second();
        assert_eq!(refusal.code, Some(1), "{refusal:?}");
        let home =
            server.data_dir().parent().expect("it is in its home").to_string_lossy().into_owned();
        assert!(
            refusal.log.iter().any(|line| line.contains(&home)),
            "no line names the directory in use: {refusal:?}"
        );
        assert!(!refusal.log.iter().any(|line| line.contains("panicked")), "{refusal:?}");
    }
    server.connect().expect(args!["GET", "key"], Reply::bulk("value"));
    server.kill();
    server.resume();
    server.connect().expect(args!["GET", "key"], Reply::bulk("value"));
}

#[test]
fn impossible_flags_are_refused_with_a_line() {
    for flags in [
        &["--protect"][..],
        &["--mode", "other"],
        &["--datasize", "524287"],
        &["--datasize", "4294967295"],
        &["--sync", "sometimes"],
        &["--nosuchflag"],
    ] {
        let refusal = match Setup::new().flags(flags).try_start() {
            Ok(_) => panic!("{flags:?} was accepted"),
            Err(refusal) => refusal,
        };
        assert_eq!(refusal.code, Some(1), "{flags:?}: {refusal:?}");
        assert!(!refusal.log.is_empty(), "{flags:?}: nothing says why");
        assert!(
            !refusal.log.iter().any(|line| line.contains("panicked")),
            "{flags:?}: {refusal:?}"
        );
    }
}

/// A data directory of one mode is not opened by a server of the other.
#[test]
fn the_other_mode_is_refused() {
    let mut server = Server::start(&["--mode", "seq"]);
    server.connect().expect(args!["SET", "", "value"], Reply::bulk([0; 8]));
    server.terminate();
    server.set_flags(&["--mode", "user"]);
    let refusal = server.try_resume().expect_err("the namespace is sequential");
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    server.set_flags::<&str>(&[]);
    server.resume();
    server.connect().expect(args!["GET", [0; 8]], Reply::bulk("value"));
}

// Disks

/// Whether NSINFO and INFO say that the disk is full.
#[track_caller]
fn is_told_full(client: &mut Client) -> bool {
    let told = [args!["NSINFO", "default"], args!["INFO", "space"]].map(|request| {
        let text = client.call(request).into_bytes();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix("disk_full: "));
        line.unwrap_or_else(|| panic!("{text}")) == "1"
    });
    assert_eq!(told[0], told[1], "both say the same");
    told[0]
}

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    for policy in ["everysec", "always"] {
        let mount = Mount::ext4(96);
        let filler = mount.path().join("filler");
        std::fs::write(&filler, vec![0; 40 * MIB]).expect("the filler fits");
        let setup = Setup::new().flags(&["--datasize", "2M", "--cache", "1M", "--sync", policy]);
        let mut server = setup.home(mount.path()).start();
        let mut client = server.connect();
        let value = |number: usize| {
            let mut value = number.to_le_bytes().to_vec();
            value.resize(60_000, number as u8);
            value
        };
        let full = Reply::error("Cannot write data right now");
        let mut written = 0;
        loop {
            let reply = client.call(args!["SET", written.to_string(), value(written)]);
            if reply == full {
                break;
            }
            assert_eq!(reply, Reply::bulk(written.to_string()));
            written += 1;
            assert!(written < 2_000, "the disk of 96 MiB never fills");
        }
        assert!(written > 100, "only {written} values of 60,000 bytes fit");
        // Its text is 0-db's. What tells it from a full namespace, beside the text, is this.
        assert!(is_told_full(&mut client), "--sync {policy}");
        let check_all = |client: &mut Client| {
            for number in 0..written {
                let reply = client.call(args!["GET", number.to_string()]);
                assert_eq!(reply, Reply::bulk(value(number)), "value {number}, --sync {policy}");
            }
        };
        // Reads go on, and more attempts are answered, not swallowed.
        check_all(&mut client);
        for _ in 0..20 {
            let reply = client.call(args!["SET", "more", value(1)]);
            assert_eq!(reply, full);
        }
        let deleted = client.call(args!["DEL", "0"]);
        assert!(
            deleted == Reply::error("Cannot delete key (data)") || deleted == Reply::ok(),
            "DEL on a full disk: {deleted:?}"
        );
        if deleted == Reply::ok() {
            client.expect(args!["SET", "0", value(0)], full.clone());
        }
        let first = usize::from(deleted == Reply::ok());
        // It starts on the full disk as well, and has all that was acknowledged.
        server.kill();
        server.resume();
        let mut client = server.connect();
        client.expect(args!["DBSIZE"], Reply::Integer((written - first) as i64));
        for number in first..written {
            client.expect(args!["GET", number.to_string()], Reply::bulk(value(number)));
        }
        // Room: writes resume by themselves.
        std::fs::remove_file(&filler).expect("the filler can be removed");
        let resumed = poll(Duration::from_secs(20), || {
            (client.call(args!["SET", "resumed", "value"]) == Reply::bulk("resumed")).then_some(())
        });
        assert!(
            resumed.is_some(),
            "no write succeeds with 40 MiB free, --sync {policy}: {:#?}",
            server.log()
        );
        assert!(!is_told_full(&mut client), "--sync {policy}");
        for number in 0..100 {
            let key = format!("after{number}");
            client.expect(args!["SET", key, value(number)], Reply::bulk(&key));
        }
        server.kill();
        server.resume();
        let mut client = server.connect();
        client.expect(args!["GET", "resumed"], Reply::bulk("value"));
        client.expect(args!["GET", "after99"], Reply::bulk(value(99)));
        for number in first..written {
            client.expect(args!["GET", number.to_string()], Reply::bulk(value(number)));
        }
    }
}

/// A file system that refuses O_DIRECT: a warning, then everything works.
#[test]
fn without_direct_io() {
    let mount = Mount::ramfs();
    let mut server = Setup::new().flags(&["--datasize", "2M"]).home(mount.path()).start();
    let warned = |line: &str| {
        let line = line.to_ascii_lowercase();
        line.contains("direct")
    };
    server.wait_for_log("missing direct I/O", warned);
    let mut client = server.connect();
    for number in 0..200 {
        let key = format!("key{number}");
        client.expect(args!["SET", key, vec![number as u8; 50_000]], Reply::bulk(&key));
    }
    for restart in 0..2 {
        if restart == 0 {
            server.kill();
        } else {
            server.terminate();
        }
        server.resume();
        let mut client = server.connect();
        for number in 0..200 {
            let reply = client.call(args!["GET", format!("key{number}")]);
            assert_eq!(reply, Reply::bulk(vec![number as u8; 50_000]), "key{number}");
        }
    }
}

/// Data and index in memory, as people do for tests.
#[test]
fn on_dev_shm() {
    let home =
        tempfile::Builder::new().prefix("zdb-test-").tempdir_in("/dev/shm").expect("/dev/shm");
    let mut server = Setup::new().flags(&["--datasize", "2M"]).home(home.path()).start();
    server.connect().expect(args!["SET", "key", "value"], Reply::bulk("key"));
    server.kill();
    server.resume();
    server.connect().expect(args!["GET", "key"], Reply::bulk("value"));
}
