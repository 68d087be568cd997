//! 0-db's clients against the server, with the requests they send: zstor, rfs, zos, the hub and
//! jumpscale, and 0-db's own tools.

use compat_tests::certificates::text;
use compat_tests::door::{Door, PASSWORD};
use compat_tests::program::{client_path, python, run_checks, run_with};
use compat_tests::server::{binary, poll};
use compat_tests::{Client, Reply, Server, args};
use redis::aio::MultiplexedConnection;
use redis::{AsyncTypedCommands, ConnectionAddr, IntoConnectionInfo, RedisResult, cmd};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// zstor's limit for each of its requests.
const TIMEOUT: Duration = Duration::from_secs(30);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

fn pong() -> Reply {
    Reply::Simple("PONG".into())
}

/// An admin who makes namespaces for others.
fn admin(server: &Server) -> Client {
    let mut admin = server.connect();
    admin.expect(args!["AUTH", PASSWORD], Reply::ok());
    admin
}

fn namespace(admin: &mut Client, name: &str, settings: &[(&str, &str)]) {
    admin.expect(args!["NSNEW", name], Reply::ok());
    for (property, value) in settings {
        admin.expect(args!["NSSET", name, property, value], Reply::ok());
    }
}

/// A connection with zstor's patience.
async fn connected(client: &redis::Client) -> RedisResult<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// zstor's connection to one namespace: PING once, SELECT before every operation.
struct Zstor {
    connection: MultiplexedConnection,
    namespace: String,
    password: Option<String>,
}

/// What zstor reads out of NSINFO; a field that is missing or of another shape ends it.
#[derive(Debug)]
struct NamespaceInfo {
    name: String,
    entries: usize,
    is_public: bool,
    has_password: bool,
    data_size_bytes: u64,
    data_limits_bytes: u64,
    index_size_bytes: u64,
    mode: String,
    is_worm: bool,
    is_locked: bool,
    /// Input and output errors and faults of index and data: 0 on a whole disk.
    troubles: Vec<u64>,
    freespace_bytes: [u64; 2],
}

impl Zstor {
    async fn connect(
        address: SocketAddr,
        namespace: &str,
        password: Option<&str>,
    ) -> RedisResult<Zstor> {
        let place = ConnectionAddr::Tcp(address.ip().to_string(), address.port());
        let client = redis::Client::open(place.into_connection_info()?)?;
        // The crate sends CLIENT SETINFO twice here, and takes an error for an answer.
        let mut connection = connected(&client).await?;
        cmd("PING").query_async::<()>(&mut connection).await?;
        let mut zstor = Zstor {
            connection,
            namespace: namespace.to_owned(),
            password: password.map(str::to_owned),
        };
        zstor.select().await?;
        Ok(zstor)
    }

    async fn select(&mut self) -> RedisResult<()> {
        let mut select = cmd("SELECT");
        select.arg(&self.namespace);
        if let Some(password) = &self.password {
            select.arg(password);
        }
        select.query_async(&mut self.connection).await
    }

    async fn set(&mut self, key: Option<&[u8]>, data: &[u8]) -> RedisResult<Option<Vec<u8>>> {
        self.select().await?;
        let mut set = cmd("SET");
        set.arg(key.unwrap_or(&[])).arg(data);
        set.query_async(&mut self.connection).await
    }

    async fn get(&mut self, key: &[u8]) -> RedisResult<Option<Vec<u8>>> {
        self.select().await?;
        cmd("GET").arg(key).query_async(&mut self.connection).await
    }

    async fn delete(&mut self, key: &[u8]) -> RedisResult<()> {
        self.select().await?;
        cmd("DEL").arg(key).query_async(&mut self.connection).await
    }

    /// All keys: pages until there is an error of any kind.
    async fn keys(&mut self) -> RedisResult<Vec<Vec<u8>>> {
        type Page = (Vec<u8>, Vec<(Vec<u8>, u32, u32)>);
        let mut keys = Vec::new();
        let mut cursor: Option<Vec<u8>> = None;
        loop {
            self.select().await?;
            let mut scan = cmd("SCAN");
            if let Some(cursor) = &cursor {
                scan.arg(cursor);
            }
            let page: RedisResult<Page> = scan.query_async(&mut self.connection).await;
            let Ok((next, entries)) = page else { return Ok(keys) };
            keys.extend(entries.into_iter().map(|(key, _, _)| key));
            cursor = Some(next);
        }
    }

    async fn info(&mut self) -> RedisResult<NamespaceInfo> {
        self.select().await?;
        let mut nsinfo = cmd("NSINFO");
        let list: String = nsinfo.arg(&self.namespace).query_async(&mut self.connection).await?;
        let fields: HashMap<&str, &str> = list
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let mut parts = line.split(": ");
                (parts.next().unwrap_or(""), parts.next().unwrap_or(""))
            })
            .collect();
        let number = |name: &str| -> u64 {
            fields[name].parse().unwrap_or_else(|_| panic!("{name}: {}", fields[name]))
        };
        let is = |name: &str| match fields[name] {
            "yes" => true,
            "no" => false,
            other => panic!("{name}: {other}"),
        };
        let troubles = [
            "stats_index_io_errors",
            "stats_index_io_error_last",
            "stats_index_faults",
            "stats_data_io_errors",
            "stats_data_io_error_last",
            "stats_data_faults",
        ];
        Ok(NamespaceInfo {
            name: fields["name"].to_owned(),
            entries: number("entries") as usize,
            is_public: is("public"),
            has_password: is("password"),
            data_size_bytes: number("data_size_bytes"),
            data_limits_bytes: number("data_limits_bytes"),
            index_size_bytes: number("index_size_bytes"),
            mode: fields["mode"].to_owned(),
            is_worm: is("worm"),
            is_locked: is("locked"),
            troubles: troubles.map(number).to_vec(),
            freespace_bytes: [
                number("index_disk_freespace_bytes"),
                number("data_disk_freespace_bytes"),
            ],
        })
    }
}

/// zstor's backends: chunks in sequential namespaces, just below 8 MiB each.
#[test]
fn zstor_chunks_in_a_sequential_namespace() {
    let server = Server::start(&["--admin", PASSWORD]);
    let mut admin = admin(&server);
    let limit = (64u64 << 20).to_string();
    let settings =
        [("mode", "seq"), ("password", "nspass"), ("public", "0"), ("maxsize", limit.as_str())];
    namespace(&mut admin, "chunks", &settings);
    block_on(async {
        let address = server.address();
        let mut zstor = Zstor::connect(address, "chunks", Some("nspass")).await.expect("zstor");
        let list = admin.call(args!["CLIENT", "LIST"]).into_bytes();
        let list = String::from_utf8_lossy(&list).into_owned();
        assert!(list.contains("lib-name=redis-rs"), "CLIENT SETINFO was sent: {list}");

        let empty = zstor.info().await.expect("NSINFO");
        assert_eq!(
            (empty.name.as_str(), empty.entries, empty.mode.as_str()),
            ("chunks", 0, "sequential")
        );
        assert_eq!(zstor.keys().await.expect("keys"), Vec::<Vec<u8>>::new());

        let data: Vec<u8> = (0..20u32 << 20).map(|at| (at >> 7) as u8).collect();
        let mut keys = Vec::new();
        for chunk in data.chunks((8 << 20) - 1) {
            let key = zstor.set(None, chunk).await.expect("SET").expect("a key");
            // zstor takes ids of 4 bytes, of 0-db's first version, and of 8.
            assert!(key.len() == 4 || key.len() == 8, "{key:?}");
            keys.push(key);
        }
        // Equal contents are two chunks all the same.
        for _ in 0..2 {
            keys.push(zstor.set(None, b"same").await.expect("SET").expect("a key"));
        }
        let mut together = Vec::new();
        for key in &keys[..3] {
            together.extend(zstor.get(key).await.expect("GET").expect("the chunk"));
        }
        assert!(together == data, "the chunks make the data");
        assert_eq!(zstor.keys().await.expect("keys"), keys);
        assert_eq!(zstor.get(&99u64.to_le_bytes()).await.expect("GET"), None);

        let info = zstor.info().await.expect("NSINFO");
        assert_eq!((info.entries, info.data_size_bytes), (5, data.len() as u64 + 8));
        assert_eq!(info.data_limits_bytes, 64 << 20);
        assert!(info.has_password && !info.is_public && !info.is_worm && !info.is_locked);
        assert!(info.index_size_bytes > 0 && info.freespace_bytes.iter().all(|bytes| *bytes > 0));
        assert_eq!(info.troubles, [0; 6]);

        zstor.delete(&keys[0]).await.expect("DEL");
        assert_eq!(zstor.get(&keys[0]).await.expect("GET"), None);
        assert_eq!(zstor.keys().await.expect("keys"), keys[1..]);
        let twice = zstor.delete(&keys[0]).await.expect_err("it is gone");
        assert_eq!((twice.code(), twice.detail()), (Some("Key"), Some("not found")));

        // Full: zstor goes to another backend on the error.
        let chunk = vec![1; (8 << 20) - 1];
        let full = loop {
            match zstor.set(None, &chunk).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(full.detail(), Some("space left on this namespace"), "{full}");

        let wrong = Zstor::connect(address, "chunks", Some("wrong")).await;
        assert!(wrong.is_err_and(|error| error.to_string().contains("denied")));
        let private = Zstor::connect(address, "chunks", None).await;
        assert!(private.is_err_and(|error| error.to_string().contains("protected and private")));
        let missing = Zstor::connect(address, "missing", None).await;
        assert!(missing.is_err_and(|error| error.to_string().contains("not found")));
    });
}

/// zstor's metadata: keys of its own in user namespaces, overwritten and listed by prefix.
#[test]
fn zstor_metadata_in_a_user_namespace() {
    let server = Server::start(&["--admin", PASSWORD]);
    namespace(&mut admin(&server), "meta", &[("password", "nspass"), ("public", "0")]);
    block_on(async {
        let mut zstor =
            Zstor::connect(server.address(), "meta", Some("nspass")).await.expect("zstor");
        assert_eq!(zstor.info().await.expect("NSINFO").mode, "userkey");
        let key = |number: u32| format!("/zstor/meta/{:032x}", u128::from(number) << 64);
        for number in 0..3000 {
            let key = key(number);
            let stored = zstor.set(Some(key.as_bytes()), b"first").await.expect("SET");
            assert_eq!(stored, Some(key.into_bytes()));
        }
        let again = zstor.set(Some(key(7).as_bytes()), b"first").await.expect("SET");
        assert_eq!(again, None, "the same value is not written again");
        let newer = zstor.set(Some(key(7).as_bytes()), b"second").await.expect("SET");
        assert_eq!(newer, Some(key(7).into_bytes()));
        assert_eq!(zstor.get(key(7).as_bytes()).await.expect("GET"), Some(b"second".to_vec()));
        assert_eq!(zstor.get(b"/zstor/meta/missing").await.expect("GET"), None);
        zstor.delete(key(8).as_bytes()).await.expect("DEL");
        let mut keys = zstor.keys().await.expect("keys");
        assert_eq!(keys.last(), Some(&key(7).into_bytes()), "an updated key moves to the end");
        keys.sort();
        let expected: Vec<Vec<u8>> = (0..3000)
            .filter(|number| *number != 8)
            .map(|number| key(number).into_bytes())
            .collect();
        assert_eq!(keys, expected);
    });
}

/// rfs: a pool of 20, each connection selects once; EXISTS is a truth, GET of a missing key nil.
#[test]
fn rfs_with_a_pool_of_20() {
    let server = Server::start(&["--admin", PASSWORD]);
    namespace(&mut admin(&server), "blobs", &[("password", "nspass"), ("public", "1")]);
    block_on(async {
        let place = ConnectionAddr::Tcp("127.0.0.1".into(), server.address().port());
        let client = redis::Client::open(place.into_connection_info().expect("a place"));
        let client = client.expect("a client");
        let mut pool = Vec::new();
        for _ in 0..20 {
            let mut connection = connected(&client).await.expect("a connection");
            let mut select = cmd("SELECT");
            select.arg("blobs").arg("nspass");
            select.query_async::<()>(&mut connection).await.expect("SELECT");
            pool.push(connection);
        }
        let jobs = (0..2000usize).map(|number| {
            let mut connection = pool[number % pool.len()].clone();
            async move {
                // A blob's key is its hash; the same blob comes from many places.
                let (key, blob) = ([(number / 2) as u8; 32], vec![(number / 2) as u8; 4096]);
                let was_there = connection.exists(&key).await?;
                if !was_there {
                    cmd("SET").arg(&key).arg(&blob).query_async::<()>(&mut connection).await?;
                }
                let got: Option<Vec<u8>> =
                    cmd("GET").arg(&key).query_async(&mut connection).await?;
                assert_eq!(got, Some(blob));
                RedisResult::Ok(())
            }
        });
        let done = futures::future::join_all(jobs).await;
        done.into_iter().collect::<RedisResult<Vec<()>>>().expect("all jobs end well");
        let mut connection = pool.remove(0);
        let missing: Option<Vec<u8>> =
            cmd("GET").arg(&[1u8; 16]).query_async(&mut connection).await.expect("GET");
        assert_eq!(missing, None);
        assert!(!connection.exists(&[1u8; 16]).await.expect("EXISTS"));

        // Readers have no password: the namespace is public.
        let mut reader = connected(&client).await.expect("a connection");
        cmd("SELECT").arg("blobs").query_async::<()>(&mut reader).await.expect("SELECT");
        assert!(reader.exists(&[7u8; 32]).await.expect("EXISTS"));
        let refused = cmd("SET").arg("key").arg("blob").query_async::<()>(&mut reader).await;
        let error = refused.expect_err("a reader does not write").to_string();
        assert!(error.contains("is in read-only mode"), "{error}");
    });
}

/// The server with zos's flags and no others.
struct Zos {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    log: Arc<Mutex<Vec<u8>>>,
}

const ZOS_ID: &str = "zos-admin-id";
const START_TIME_MAX: Duration = Duration::from_secs(60);

impl Zos {
    fn start() -> Zos {
        let dir = compat_tests::server::scratch_dir();
        let free = std::net::TcpListener::bind("[::1]:0").expect("a port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
        Zos::start_in(dir, port)
    }

    fn start_in(dir: tempfile::TempDir, port: u16) -> Zos {
        let place = |name: &str| dir.path().join(name);
        let child = Command::new(binary())
            .arg("--protect")
            .args(["--admin", ZOS_ID])
            .arg("--data")
            .arg(place("data"))
            .arg("--index")
            .arg(place("index"))
            .args(["--listen", "::", "--port", &port.to_string()])
            .arg("--socket")
            .arg(place("zdb.sock"))
            .arg("--dualnet")
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the server runs");
        let mut zos = Zos { child, dir, port, log: Arc::default() };
        let mut stdout = zos.child.stdout.take().expect("stdout is piped");
        let log = zos.log.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = std::io::Read::read(&mut stdout, &mut bytes) {
                log.lock().expect("no reader of the log panics").extend(&bytes[..count]);
            }
        });
        // zos waits until the socket answers.
        let ready = poll(START_TIME_MAX, || {
            let mut client = Client::connect_unix(&zos.socket()).ok()?;
            client.try_call(args!["PING"]).ok()
        });
        assert_eq!(ready, Some(pong()), "{:?}", zos.log());
        zos
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("zdb.sock")
    }

    fn log(&self) -> String {
        let log = self.log.lock().expect("no reader of the log panics");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A connection of zos's pool: over the unix socket, AUTH at once, then PING.
    fn admin(&self) -> Client {
        let mut admin = Client::connect_unix(&self.socket()).expect("the socket answers");
        admin.expect(args!["AUTH", ZOS_ID], Reply::ok());
        admin.expect(args!["PING"], pong());
        admin
    }

    /// A tenant's connection, over the network.
    fn tenant(&self) -> Client {
        let address = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, self.port));
        Client::connect(address).expect("the port answers")
    }

    /// zos stops the process by SIGTERM, and starts it again on the same directories.
    fn restart(mut self) -> Zos {
        self.terminate();
        let dir = std::mem::replace(&mut self.dir, compat_tests::server::scratch_dir());
        let port = self.port;
        Zos::start_in(dir, port)
    }

    fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let deadline = Instant::now() + START_TIME_MAX;
        while self.child.try_wait().expect("our own child can be waited for").is_none() {
            assert!(Instant::now() < deadline, "SIGTERM ends it: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Zos {
    fn drop(&mut self) {
        // Without SIGTERM its write buffer would stay in /dev/shm; it may have ended already.
        let pid = rustix::process::Pid::from_child(&self.child);
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// NSINFO as YAML 1.1, whose `yes` is a truth: fields by name, with their types.
fn yaml(text: &Reply) -> HashMap<String, (String, String)> {
    let Reply::Bulk(text) = text else { panic!("NSINFO answers a bulk string, not {text:?}") };
    let printed = run_with(python().arg(client_path("python/yaml_fields.py")), text);
    printed
        .lines()
        .map(|line| {
            let mut parts = line.splitn(3, ' ').map(str::to_owned);
            let mut part = || parts.next().expect("name, type and value");
            (part(), (part(), part()))
        })
        .collect()
}

/// zos makes and changes its tenants' namespaces over the unix socket.
#[test]
fn zos_administers_namespaces() {
    let zos = Zos::start();
    let mut admin = zos.admin();
    let field = |admin: &mut Client, name: &str, field: &str| {
        let fields = yaml(&admin.call(args!["NSINFO", name]));
        let (kind, value) = fields.get(field).unwrap_or_else(|| panic!("no {field}: {fields:?}"));
        format!("{kind} {value}")
    };
    // Exist: an error that says "not found" means no.
    let Reply::Error(error) = admin.call(args!["NSINFO", "w-1"]) else { panic!("it exists") };
    assert!(error.contains("not found"), "{error}");
    admin.expect(args!["NSNEW", "w-1"], Reply::ok());
    admin.expect(args!["NSNEW", "w-2"], Reply::ok());
    admin.expect(args!["NSSET", "w-1", "mode", "seq"], Reply::ok());
    admin.expect(args!["NSSET", "w-1", "password", "tenant"], Reply::ok());
    admin.expect(args!["NSSET", "w-1", "maxsize", "10737418240"], Reply::ok());
    admin.expect(args!["NSSET", "w-1", "public", "0"], Reply::ok());
    admin.expect(args!["NSLIST"], Reply::Array(["default", "w-1", "w-2"].map(Reply::bulk).into()));
    assert_eq!(field(&mut admin, "w-1", "name"), "str w-1");
    assert_eq!(field(&mut admin, "w-1", "mode"), "str sequential");
    assert_eq!(field(&mut admin, "w-1", "password"), "bool True");
    assert_eq!(field(&mut admin, "w-1", "public"), "bool False");
    assert_eq!(field(&mut admin, "w-1", "data_limits_bytes"), "int 10737418240");
    assert!(field(&mut admin, "w-1", "data_disk_freespace_bytes").starts_with("int "));
    admin.expect(args!["DBSIZE"], Reply::Integer(0));

    // The tenant, over the network.
    let mut tenant = zos.tenant();
    tenant.expect(args!["SELECT", "w-1"], Reply::error("Namespace protected and private"));
    tenant.expect(args!["SELECT", "w-1", "wrong"], Reply::error("Access denied"));
    tenant.expect(args!["NSNEW", "mine"], Reply::error("Permission denied"));
    tenant.expect(args!["SELECT", "w-1", "tenant"], Reply::ok());
    let id = Reply::bulk(0u64.to_le_bytes());
    tenant.expect(args!["SET", "", "value"], id.clone());

    // zos's lock is a freeze: nothing is read or written meanwhile.
    let frozen = "Namespace is temporarily frozen (read-write disabled)";
    admin.expect(args!["NSSET", "w-1", "freeze", "1"], Reply::ok());
    assert_eq!(field(&mut admin, "w-1", "locked"), "bool True");
    tenant.expect(args!["GET", 0u64.to_le_bytes()], Reply::error(frozen));
    tenant.expect(args!["SET", "", "value"], Reply::error(frozen));
    drop((admin, tenant));

    // After a restart everything is as zos left it, the freeze too.
    let zos = zos.restart();
    let mut admin = zos.admin();
    let mut tenant = zos.tenant();
    tenant.expect(args!["SELECT", "w-1", "tenant"], Reply::ok());
    tenant.expect(args!["GET", 0u64.to_le_bytes()], Reply::error(frozen));
    admin.expect(args!["NSSET", "w-1", "freeze", "0"], Reply::ok());
    tenant.expect(args!["GET", 0u64.to_le_bytes()], Reply::bulk("value"));
    admin.expect(args!["NSSET", "w-1", "lock", "1"], Reply::ok());
    let locked = "Namespace is temporarily locked (read-only)";
    tenant.expect(args!["SET", "", "value"], Reply::error(locked));
    tenant.expect(args!["GET", 0u64.to_le_bytes()], Reply::bulk("value"));
    admin.expect(args!["NSSET", "w-1", "lock", "0"], Reply::ok());
    assert_eq!(field(&mut admin, "w-1", "data_limits_bytes"), "int 10737418240");
    assert_eq!(field(&mut admin, "w-1", "entries"), "int 1");

    // --protect: the default namespace is read-only until SELECT with the admin's password.
    let mut stranger = zos.tenant();
    let read_only = Reply::error("Namespace is in read-only mode");
    stranger.expect(args!["SET", "key", "value"], read_only.clone());
    admin.expect(args!["SET", "key", "value"], read_only);
    admin.expect(args!["SELECT", "default", ZOS_ID], Reply::ok());
    admin.expect(args!["SET", "key", "value"], Reply::bulk("key"));
    stranger.expect(args!["GET", "key"], Reply::bulk("value"));

    // Decommissioned: the tenant's connection is told and closed.
    admin.expect(args!["NSDEL", "w-1"], Reply::ok());
    let gone = "Your active namespace is not available anymore (probably removed).";
    tenant.expect(args!["GET", 0u64.to_le_bytes()], Reply::error(gone));
    assert_eq!(tenant.wait_closed(), Ok(()));
    admin.expect(args!["NSINFO", "w-1"], Reply::error("Namespace not found"));
}

/// zos's pool has three connections at most, and asks PING of one that was idle for long.
#[test]
fn zos_pool_of_three() {
    let zos = Zos::start();
    let mut pool: Vec<Client> = (0..3).map(|_| zos.admin()).collect();
    for turn in 0..30 {
        let admin = &mut pool[turn % 3];
        let name = format!("w-{turn}");
        admin.expect(args!["PING"], pong());
        admin.expect(args!["NSNEW", name], Reply::ok());
        admin.expect(args!["NSSET", name, "maxsize", "1048576"], Reply::ok());
        admin.expect(args!["NSDEL", name], Reply::ok());
    }
    let mut wrong = Client::connect_unix(&zos.socket()).expect("the socket answers");
    wrong.expect(args!["AUTH", "wrong"], Reply::error("Access denied"));
    wrong.expect(args!["NSNEW", "w"], Reply::error("Permission denied"));
}

#[test]
fn hub_and_jumpscale() {
    let door = Door::plain();
    run_checks(
        python().arg(client_path("python/hub.py")).args([&door.port().to_string(), PASSWORD]),
    );
}

/// A program that a server runs as its hook.
fn hook(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("hook.sh");
    std::fs::write(&path, "#!/bin/sh\nexit 0\n").expect("the hook can be written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("and run");
    path
}

/// Live stats, the monitor of hooks, and the requests of the incremental update.
#[test]
fn tools_of_0_db() {
    let dir = compat_tests::server::scratch_dir();
    let hook = hook(dir.path());
    let master = Server::start(&["--admin", PASSWORD, "--protect", "--hook", text(&hook)]);
    let slave = Server::start(&["--admin", PASSWORD, "--protect"]);
    let ports = [&master, &slave].map(|server| server.address().port().to_string());
    run_checks(python().arg(client_path("python/zdb_tools.py")).args(ports).arg(PASSWORD));
}

/// `DATA RAW` and `NSJUMP` as the incremental update sends them, from the master's start to its
/// end: what it reads makes the same keys on the other side.
#[test]
fn data_raw_goes_where_nsinfo_says() {
    let server = Server::start::<&str>(&[]);
    let mut client = server.connect();
    let place = |client: &mut Client| {
        let text = client.call(args!["NSINFO", "default"]).into_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        let number = |name: &str| -> String {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {text}"))
                .trim_start_matches(": ")
                .to_owned()
        };
        (number("data_current_id"), number("data_current_offset"))
    };
    for round in 0..3 {
        for number in 0..40usize {
            let (id, offset) = place(&mut client);
            let (key, value) = (format!("key{round}-{number}"), vec![b'v'; number * number * 7]);
            client.expect(args!["SET", key, value], Reply::bulk(&key));
            let raw = client.call(args!["DATA", "RAW", id, offset]).into_array();
            assert_eq!(raw.len(), 6, "DATA RAW {id} {offset}: {raw:?}");
            let expected = (&Reply::bulk(&key), &Reply::Integer(0), &Reply::bulk(&value));
            assert_eq!((&raw[0], &raw[3], &raw[5]), expected);
        }
        let (id, offset) = place(&mut client);
        client.expect(args!["DATA", "RAW", id, offset], Reply::error("EOF"));
        client.expect(args!["NSJUMP"], Reply::ok());
        assert_ne!(place(&mut client).0, id, "NSJUMP begins another file");
        client.expect(args!["DATA", "RAW", id, offset], Reply::error("EOF"));
    }
}
