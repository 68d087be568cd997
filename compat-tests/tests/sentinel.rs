//! Debian's redis-sentinel watches a server as it is: it finds other sentinels over the server's channels, tells
//! clients where the server is, and sees it go.

use compat_tests::program::{client_path, python, run_checks};
use compat_tests::server::{Setup, poll, scratch_dir};
use compat_tests::{Client, Reply, args};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const TIME_MAX: Duration = Duration::from_secs(60);
const PASSWORD: &str = "secret";

/// A port that nobody has just now: sentinels cannot be told of one that the server chooses at its start.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("it has an address").port()
}

struct Sentinel {
    process: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Sentinel {
    fn start(watched: SocketAddr) -> Sentinel {
        let dir = scratch_dir();
        let config = dir.path().join("sentinel.conf");
        let port = free_port();
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\n\
             sentinel auth-pass main {PASSWORD}\nsentinel down-after-milliseconds main 2000\n",
            dir.path().display(),
            watched.port()
        );
        std::fs::write(&config, text).expect("the file can be written");
        let process = Command::new("redis-sentinel")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-sentinel runs: ./test.sh installs it");
        Sentinel { process, address: SocketAddr::from(([127, 0, 0, 1], port)), _dir: dir }
    }

    /// What it says of the server it watches.
    fn main(&self) -> Option<BTreeMap<String, String>> {
        let mut client = Client::connect(self.address).ok()?;
        let words = client.try_call(args!["SENTINEL", "MASTER", "main"]).ok()?.into_array();
        let text = |reply: &Reply| match reply {
            Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        };
        Some(words.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect())
    }

    fn wait_for(&self, name: &str, value: &str) {
        let seen = poll(TIME_MAX, || {
            let fields = self.main()?;
            fields.get(name).is_some_and(|now| now == value).then_some(())
        });
        assert!(seen.is_some(), "{name} is not {value}: {:?}", self.main());
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.process.kill().expect("our own child can be killed");
        self.process.wait().expect("our own child can be waited for");
    }
}

#[test]
fn sentinels_watch_a_server() {
    let port = free_port().to_string();
    let flags = ["--listen", "127.0.0.1", "--port", &port, "--admin", PASSWORD];
    let mut server = Setup::new().without_port().flags(&flags).start();
    let (one, two) = (Sentinel::start(server.address()), Sentinel::start(server.address()));
    // They know of each other by what they publish on a channel of the server.
    for sentinel in [&one, &two] {
        sentinel.wait_for("num-other-sentinels", "1");
        sentinel.wait_for("flags", "master");
        sentinel.wait_for("role-reported", "master");
    }
    let mut admin = server.connect();
    admin.expect(args!["AUTH", PASSWORD], Reply::ok());
    let clients = admin.call(args!["CLIENT", "LIST", "TYPE", "pubsub"]).into_bytes();
    let clients = String::from_utf8_lossy(&clients).into_owned();
    assert_eq!(clients.matches("name=sentinel-").count(), 2, "{clients}");
    // Nothing that they send is refused.
    let errors = admin.call(args!["INFO", "Commandstats"]).into_bytes();
    let errors = String::from_utf8_lossy(&errors).into_owned();
    for line in errors.lines().filter(|line| line.starts_with("cmdstat_")) {
        assert!(line.ends_with("rejected_calls=0,failed_calls=0"), "{line}");
    }
    // A sentinel's subscription that is ended comes again.
    let killed = admin.call(args!["CLIENT", "KILL", "TYPE", "pubsub"]).into_integer();
    assert_eq!(killed, 2);
    let back = poll(TIME_MAX, || {
        let subscribed = admin.call(args!["PUBSUB", "NUMSUB", "__sentinel__:hello"]).into_array();
        (subscribed[1] == Reply::Integer(2)).then_some(())
    });
    assert!(back.is_some(), "the sentinels subscribe again");
    // Clients find the server through a sentinel.
    run_checks(
        python()
            .arg(client_path("python/redis_py_sentinel.py"))
            .args([&one.address.port().to_string(), PASSWORD]),
    );
    let url = format!("redis://{}/", one.address);
    let node = redis::sentinel::SentinelNodeConnectionInfo::default()
        .set_redis_connection_info(redis::RedisConnectionInfo::default().set_password(PASSWORD));
    let client = redis::sentinel::SentinelClient::build(
        vec![url],
        "main",
        Some(node),
        redis::sentinel::SentinelServerType::Master,
    );
    let connection = client.and_then(|mut client| client.get_connection());
    let mut connection = connection.expect("the sentinel says where the server is");
    let stored: String =
        redis::cmd("SETX").arg("crate").arg("1").query(&mut connection).expect("it is stored");
    assert_eq!(stored, "crate");
    // It goes: both see it.
    server.kill();
    for sentinel in [&one, &two] {
        let seen = poll(TIME_MAX, || {
            let fields = sentinel.main()?;
            fields.get("flags").is_some_and(|flags| flags.contains("s_down")).then_some(())
        });
        assert!(seen.is_some(), "{:?}", sentinel.main());
    }
    server.resume();
    for sentinel in [&one, &two] {
        sentinel.wait_for("flags", "master");
    }
}
