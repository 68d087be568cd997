//! Real programs against the server: redis-cli, redis-benchmark, redis-py, and the crate `redis`.
//!
//! A program that is missing is a failure: `./test.sh` installs them.

use compat_tests::server::{Setup, workspace_dir};
use compat_tests::{Reply, Server, args};

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Runs a program to its end and returns what it printed; a failure of any kind is the test's.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => {
            panic!("{command:?} does not run ({error}): run ./test.sh, which installs it")
        }
    };
    let Output { status, stdout, stderr } = output;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    assert_eq!(stderr, "", "{command:?} complains");
    stdout
}

fn redis_cli(server: &Server) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &server.address().port().to_string()]);
    command
}

#[test]
fn redis_cli_reads_and_writes() {
    let server = Server::start::<&str>(&[]);
    let cli = |words: &[&str]| run(redis_cli(&server).args(words));
    assert_eq!(cli(&["PING"]), "PONG\n");
    assert_eq!(cli(&["SET", "key", "value with blanks"]), "key\n");
    assert_eq!(cli(&["GET", "key"]), "value with blanks\n");
    assert_eq!(cli(&["GET", "missing"]), "\n");
    assert_eq!(cli(&["DEL", "missing"]), "Key not found\n\n");
    assert_eq!(cli(&["-3", "GET", "key"]), "value with blanks\n");
    assert_eq!(cli(&["-2", "EXISTS", "key"]), "1\n");
    assert_eq!(cli(&["NSNEW", "ns"]), "OK\n");
    assert_eq!(cli(&["--no-raw", "NSLIST"]), "1) \"default\"\n2) \"ns\"\n");
    assert_eq!(
        cli(&["--no-raw", "-3", "MGET", "key", "missing"]),
        "1) \"value with blanks\"\n2) (nil)\n"
    );
}

/// Commands typed one after another: redis-cli asks for COMMAND DOCS first, and selects with -n.
#[test]
fn redis_cli_takes_a_script() {
    let server = Server::start::<&str>(&[]);
    let script = tempfile::NamedTempFile::new().expect("a temporary file");
    let lines: String = (0..500).map(|number| format!("SET key{number} value{number}\n")).collect();
    std::fs::write(script.path(), lines + "DBSIZE\nGET key499\nNOSUCHCOMMAND\nPING\n")
        .expect("it can be written");
    let input = std::fs::File::open(script.path()).expect("it can be read");
    let output =
        redis_cli(&server).stdin(input).output().expect("redis-cli runs: ./test.sh installs it");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.ends_with("key499\n500\nvalue499\nCommand not supported\n\nPONG\n"), "{stdout}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn redis_cli_authenticates() {
    let server = Server::start(&["--admin", "secret"]);
    let cli = |words: &[&str]| run(redis_cli(&server).args(words));
    assert_eq!(cli(&["NSNEW", "ns"]), "Permission denied\n\n");
    assert_eq!(cli(&["--no-auth-warning", "-a", "secret", "NSNEW", "ns"]), "OK\n");
    assert_eq!(cli(&["--no-auth-warning", "-3", "-a", "secret", "NSDEL", "ns"]), "OK\n");
}

/// Data in bulk, as `redis-cli --pipe` sends it.
#[test]
fn redis_cli_pipes() {
    let server = Server::start::<&str>(&[]);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut requests = Vec::new();
    for number in 0..20_000 {
        compat_tests::client::encode(
            args!["SET", format!("key{number}"), format!("value{number}")],
            &mut requests,
        );
    }
    std::fs::write(file.path(), requests).expect("it can be written");
    let input = std::fs::File::open(file.path()).expect("it can be read");
    let output = redis_cli(&server)
        .arg("--pipe")
        .stdin(input)
        .output()
        .expect("redis-cli runs: ./test.sh installs it");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("errors: 0, replies: 20000"), "{stdout}");
    let mut client = server.connect();
    client.expect(args!["DBSIZE"], Reply::Integer(20_000));
    client.expect(args!["GET", "key19999"], Reply::bulk("value19999"));
}

#[test]
fn redis_benchmark_writes_and_reads() {
    let server = Server::start::<&str>(&[]);
    let port = server.address().port().to_string();
    let benchmark = |words: &[&str]| {
        let mut command = Command::new("redis-benchmark");
        let output = run(command
            .args(["-h", "127.0.0.1", "-p", &port, "-t", "set,get", "--csv"])
            .args(words));
        let tests: Vec<&str> = output.lines().filter_map(|line| line.split(',').next()).collect();
        assert_eq!(tests, ["\"test\"", "\"SET\"", "\"GET\""], "{output}");
    };
    let mut client = server.connect();
    let key = "key:__rand_int__";
    benchmark(&["-n", "5000"]);
    client.expect(args!["DBSIZE"], Reply::Integer(1));
    client.expect(args!["LENGTH", key], Reply::Integer(3));
    benchmark(&["-n", "100000", "-P", "16", "-d", "100"]);
    // What the program sends as data is its own; it is letters, and the same for all keys.
    let value = client.call(args!["GET", key]).into_bytes();
    assert_eq!(value.len(), 100);
    assert!(value.iter().all(u8::is_ascii_graphic), "{value:?}");
    benchmark(&["-n", "50000", "-P", "16", "-r", "1000000", "-d", "100"]);
    let keys = compat_tests::load::scan(&mut client).expect("the scan agrees with DBSIZE");
    // Of 50,000 draws from a million all but some 1,250 are distinct.
    assert!((48_000..=50_001).contains(&keys.len()), "{} keys", keys.len());
    for (key, length, _) in keys.iter().step_by(1000) {
        assert!(key.starts_with(b"key:"), "{key:?}");
        assert_eq!(*length, 100, "{key:?}");
        client.expect(args!["GET", key], Reply::Bulk(value.clone()));
    }
    benchmark(&["-n", "2000", "-d", "65536", "-P", "4", "-r", "100"]);
    benchmark(&["-n", "20000", "-3", "-c", "200", "-r", "1000"]);
}

/// The Python that has the package `redis`: `ZDB_PYTHON`, or the one in the environment that
/// `./test.sh` makes.
fn python() -> PathBuf {
    match std::env::var_os("ZDB_PYTHON") {
        Some(path) => path.into(),
        None => workspace_dir().join("target/python/bin/python"),
    }
}

#[test]
fn redis_py_works() {
    let server = Server::start(&["--admin", "secret"]);
    let script = workspace_dir().join("compat-tests/clients/redis_py.py");
    let printed = run(Command::new(python())
        .arg(script)
        .arg(server.address().port().to_string())
        .arg("secret"));
    assert_eq!(printed, "ok\n");
    // What it left is there for others.
    server.connect().expect(args!["GET", "from-python"], Reply::bulk(b"bytes \x00\xff"));
}

#[test]
fn the_crate_redis_works() -> redis::RedisResult<()> {
    let server = Server::start::<&str>(&[]);
    for protocol in ["resp2", "resp3"] {
        let url = format!("redis://{}/?protocol={protocol}", server.address());
        let mut connection = redis::Client::open(url)?.get_connection()?;
        let key = format!("key-{protocol}");
        let stored: Vec<u8> = connection.set(&key, b"bytes \x00\xff")?;
        assert_eq!(stored, key.as_bytes());
        let same: Option<Vec<u8>> = connection.set(&key, b"bytes \x00\xff")?;
        assert_eq!(same, None);
        let value: Vec<u8> = connection.get(&key)?;
        assert_eq!(value, b"bytes \x00\xff");
        let missing: Option<Vec<u8>> = connection.get("missing")?;
        assert_eq!(missing, None);
        assert!(connection.exists::<_, bool>(&key)?);
        assert!(!connection.exists::<_, bool>("missing")?);
        let many: Vec<Option<Vec<u8>>> = connection.mget(&[&key, "missing"])?;
        assert_eq!(many, [Some(b"bytes \x00\xff".to_vec()), None]);
        let error = connection.del::<_, ()>("missing").expect_err("a missing key is an error");
        // The crate takes the first word of an error for its code.
        assert_eq!((error.code(), error.detail()), (Some("Key"), Some("not found")));

        let mut pipeline = redis::pipe();
        (0..1000).for_each(|number| {
            pipeline.set(format!("{protocol}-{number}"), format!("value {number}")).ignore();
        });
        pipeline.get(format!("{protocol}-999"));
        let (last,): (String,) = pipeline.query(&mut connection)?;
        assert_eq!(last, "value 999");

        let namespace = format!("ns-{protocol}");
        redis::cmd("NSNEW").arg(&namespace).exec(&mut connection)?;
        redis::cmd("NSSET").arg(&namespace).arg("mode").arg("seq").exec(&mut connection)?;
        redis::cmd("SELECT").arg(&namespace).exec(&mut connection)?;
        let id: Vec<u8> = redis::cmd("SET").arg("").arg("value").query(&mut connection)?;
        assert_eq!(id, 0u64.to_le_bytes());
        type Scan = (Vec<u8>, Vec<(Vec<u8>, u64, u64)>);
        let (cursor, entries): Scan = redis::cmd("SCAN").query(&mut connection)?;
        assert_eq!((cursor.len(), entries.len()), (17, 1));
        assert_eq!((&entries[0].0, entries[0].1), (&id, 5));
        let end = redis::cmd("SCAN")
            .arg(cursor)
            .query::<Scan>(&mut connection)
            .expect_err("the end is an error");
        assert_eq!((end.code(), end.detail()), (Some("No"), Some("more data")));
    }
    Ok(())
}

#[test]
fn the_crate_redis_authenticates() -> redis::RedisResult<()> {
    let server = Server::start(&["--admin", "secret"]);
    for protocol in ["resp2", "resp3"] {
        let url = format!("redis://:secret@{}/?protocol={protocol}", server.address());
        let mut connection = redis::Client::open(url)?.get_connection()?;
        redis::cmd("NSNEW").arg(protocol).exec(&mut connection)?;
        let wrong = format!("redis://:wrong@{}/?protocol={protocol}", server.address());
        let refused = redis::Client::open(wrong)?.get_connection();
        assert!(refused.is_err(), "a wrong password is refused");
    }
    Ok(())
}

/// Over the unix socket, with TCP beside it and alone.
#[test]
fn redis_cli_over_a_unix_socket() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for dual in [true, false] {
        let socket = dir.path().join(format!("zdb-{dual}.sock"));
        let path = socket.to_str().expect("the path is text");
        let mut setup = Setup::new().flags(&["--socket", path]);
        setup = if dual { setup.flags(&["--dualnet"]) } else { setup.without_port() };
        let server = setup.start();
        let cli = |words: &[&str]| run(Command::new("redis-cli").args(["-s", path]).args(words));
        assert_eq!(cli(&["SET", "key", "value"]), "key\n");
        assert_eq!(cli(&["GET", "key"]), "value\n");
        if dual {
            assert_eq!(run(redis_cli(&server).args(["GET", "key"])), "value\n");
        }
    }
}
