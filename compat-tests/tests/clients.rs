//! Client libraries against the server, on both protocols, over TCP and TLS: redis-py, node-redis,
//! ioredis, hiredis, and the crates `redis` and `fred`.
//!
//! The programs that are not Rust stand under `clients/`; a library that is missing is a failure.

use compat_tests::certificates::text;
use compat_tests::checks::Checks;
use compat_tests::door::{Door, PASSWORD, PROTOCOLS};
use compat_tests::program::{client_path, node, python, run, run_checks};
use compat_tests::server::scratch_dir;
use std::path::Path;
use std::process::Command;

/// Both parsers of redis-py, on both protocols.
fn redis_py(door: &Door) {
    for protocol in PROTOCOLS {
        for parser in ["python", "hiredis"] {
            run_checks(
                python()
                    .arg(client_path("python/redis_py.py"))
                    .args([&door.port().to_string(), PASSWORD, &protocol.to_string(), parser])
                    .args(door.authority_argument()),
            );
        }
    }
}

#[test]
fn redis_py_works() {
    redis_py(&Door::plain());
}

#[test]
fn redis_py_works_over_tls() {
    redis_py(&Door::tls());
}

fn run_on_both_protocols(door: &Door, program: impl Fn() -> Command) {
    for protocol in PROTOCOLS {
        run_checks(
            program()
                .args([&door.port().to_string(), PASSWORD, &protocol.to_string()])
                .args(door.authority_argument()),
        );
    }
}

fn run_script(program: fn() -> Command, script: &str, door: &Door) {
    run_on_both_protocols(door, || {
        let mut command = program();
        command.arg(client_path(script));
        command
    });
}

#[test]
fn redis_py_works_with_asyncio() {
    run_script(python, "python/redis_py_asyncio.py", &Door::plain());
    run_script(python, "python/redis_py_asyncio.py", &Door::tls());
}

#[test]
fn node_redis_works() {
    run_script(node, "node/node_redis.js", &Door::plain());
}

#[test]
fn node_redis_works_over_tls() {
    run_script(node, "node/node_redis.js", &Door::tls());
}

#[test]
fn ioredis_works() {
    run_script(node, "node/ioredis.js", &Door::plain());
}

#[test]
fn ioredis_works_over_tls() {
    run_script(node, "node/ioredis.js", &Door::tls());
}

/// The hiredis of the system: Debian 12's, version 0.14, speaks neither RESP3 nor TLS, which
/// redis-cli and redis-py's second parser do with newer ones.
#[test]
fn hiredis_works() {
    let dir = scratch_dir();
    let program = dir.path().join("hiredis_client");
    let has_tls = Path::new("/usr/include/hiredis/hiredis_ssl.h").exists();
    let mut compile = Command::new("cc");
    compile.args(["-Wall", "-Wextra", "-Werror", "-O1", "-o", text(&program)]);
    compile.arg(client_path("hiredis/hiredis_client.c"));
    if has_tls {
        compile.args(["-DWITH_TLS", "-lhiredis_ssl", "-lssl", "-lcrypto"]);
    }
    run(compile.arg("-lhiredis"));
    let major: u32 = {
        let header = std::fs::read_to_string("/usr/include/hiredis/hiredis.h")
            .expect("cc has just found the header");
        let line = header.lines().find(|line| line.starts_with("#define HIREDIS_MAJOR"));
        let number = line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
        number.expect("hiredis says its version")
    };
    let doors = [Some(Door::plain()), has_tls.then(Door::tls)];
    for door in doors.iter().flatten() {
        for protocol in PROTOCOLS.into_iter().filter(|protocol| *protocol == 2 || major >= 1) {
            run_checks(
                Command::new(&program)
                    .args([&door.port().to_string(), text(&door.socket()), PASSWORD])
                    .arg(protocol.to_string())
                    .args(door.authority_argument()),
            );
        }
    }
}

mod crate_redis {
    //! The crate `redis`, with threads and with tokio.

    use super::{Checks, Door, PASSWORD, PROTOCOLS, text};
    use redis::{
        AsyncTypedCommands, Client, ClientTlsConfig, Commands, ConnectionLike, ExistenceCheck,
        InfoDict, RedisResult, SetOptions, TlsCertificates, Value, ValueComparison, cmd, pipe,
    };
    use std::collections::BTreeSet;

    type Entries = (Vec<u8>, Vec<(Vec<u8>, u64, u64)>);

    pub fn client(door: &Door, url: &str) -> RedisResult<Client> {
        match door.authority() {
            None => Client::open(url),
            Some(authority) => {
                // Which of its kinds of cryptography rustls takes is the program's to say.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let root_cert = std::fs::read(authority).ok();
                Client::build_with_tls(
                    url,
                    TlsCertificates { client_tls: None::<ClientTlsConfig>, root_cert },
                )
            }
        }
    }

    fn blocking(door: &Door, protocol: u8) {
        let mut checks = Checks::of(format!("the crate redis on RESP{protocol}"));
        let opened = client(door, &door.url(protocol)).and_then(|client| client.get_connection());
        let mut connection = opened.expect("a connection");
        let connection = &mut connection;
        keys(connection, &mut checks);
        conditions(connection, &mut checks);
        scans(connection, &mut checks);
        server(connection, &mut checks);
        namespaces(connection, protocol, &mut checks);
        messages(door, connection, protocol, &mut checks);
        let wrong = door.url(protocol).replace(PASSWORD, "wrong");
        let refused = client(door, &wrong).and_then(|client| client.get_connection());
        checks.holds("a wrong password", refused.is_err(), || "is accepted".into());
        let named = door.url(protocol).replace("://:", "://default:");
        let accepted = client(door, &named).and_then(|client| client.get_connection());
        checks.value("user default", accepted.map(|_| ()), ());
        let other = door.url(protocol).replace("/?", "/7?");
        let refused = client(door, &other).and_then(|client| client.get_connection());
        checks.holds("database 7", refused.is_err(), || "is there".into());
        checks.finish();
    }

    fn keys(connection: &mut impl ConnectionLike, checks: &mut Checks) {
        let value = b"bytes \x00\xff".to_vec();
        let _: RedisResult<Value> = cmd("UNLINK").arg("key").query(connection);
        checks.value("SET", connection.set("key", &value), b"key".to_vec());
        checks.value("SET of the same", connection.set("key", &value), None::<Vec<u8>>);
        checks.value("GET", connection.get("key"), value);
        checks.value("GET missing", connection.get("missing"), None::<Vec<u8>>);
        checks.value("EXISTS", connection.exists("key"), true);
        checks.value("EXISTS missing", connection.exists("missing"), false);
        let many = [Some("1".to_owned()), None];
        checks.value("MSET", connection.mset(&[("m1", "1"), ("m2", "2")]), "OK".to_owned());
        checks.value("MGET", connection.mget(&["m1", "missing"]), many);
        checks.value("STRLEN", connection.strlen("m1"), 1);
        checks.value("GETRANGE", connection.getrange("key", 1, 3), "yte".to_owned());
        checks.value("TYPE", connection.key_type("key"), redis::ValueType::String);
        checks.value("TTL", connection.ttl("key"), -1);
        checks.value("PTTL missing", connection.pttl("missing"), -2);
        checks.value("OBJECT ENCODING", connection.object_encoding("key"), "raw".to_owned());
        checks.value("UNLINK", connection.unlink(&["m1", "m2", "missing"]), 2);
        checks.value("DEL", connection.del("key"), "OK".to_owned());
        // The crate takes the first word of an error for its code.
        let error = connection.del::<_, Value>("missing").expect_err("a missing key is an error");
        checks.same(
            "DEL missing",
            (error.code(), error.detail()),
            (Some("Key"), Some("not found")),
        );
        let value = vec![7; 8 << 20];
        checks.value("SET of 8 MiB", connection.set("large", &value), "large".to_owned());
        let same = connection.get("large").map(|got: Vec<u8>| got == value);
        checks.value("GET of 8 MiB", same, true);
        checks.value("DEL large", connection.del("large"), "OK".to_owned());
    }

    fn conditions(connection: &mut impl ConnectionLike, checks: &mut Checks) {
        let _: RedisResult<Value> = cmd("UNLINK").arg("nx").arg("nx2").query(connection);
        checks.value("SETNX", connection.set_nx("nx", "1"), true);
        checks.value("SETNX again", connection.set_nx("nx", "2"), false);
        let nx = SetOptions::default().conditional_set(ExistenceCheck::NX);
        checks.value("SET NX", connection.set_options("nx2", "1", nx.clone()), "OK".to_owned());
        checks.value("SET NX again", connection.set_options("nx2", "2", nx), None::<String>);
        let xx = SetOptions::default().conditional_set(ExistenceCheck::XX).get(true);
        checks.value("SET XX GET", connection.set_options("nx2", "3", xx), "1".to_owned());
        let compare = |value| SetOptions::default().value_comparison(ValueComparison::ifeq(value));
        checks.value("SET IFEQ", connection.set_options("nx2", "4", compare("3")), "OK".to_owned());
        let other = connection.set_options("nx2", "5", compare("3"));
        checks.value("SET IFEQ other", other, None::<String>);
        checks.value("GET after IFEQ", connection.get("nx2"), "4".to_owned());
    }

    fn scans(connection: &mut impl ConnectionLike, checks: &mut Checks) {
        let mut pipeline = pipe();
        (0..2000).for_each(|number| {
            pipeline
                .cmd("SETX")
                .arg(format!("p{number:04}"))
                .arg(format!("value {number}"))
                .ignore();
        });
        pipeline.get("p1999");
        let last = pipeline.query(connection).map(|(last,): (String,)| last);
        checks.value("a pipeline", last, "value 1999".to_owned());
        let expected: BTreeSet<String> = (0..2000).map(|number| format!("p{number:04}")).collect();
        let found: RedisResult<BTreeSet<String>> =
            connection.scan_match("p*").and_then(|keys| keys.collect());
        checks.value("SCAN", found, expected);
        let scan: RedisResult<Entries> = cmd("SCANX").query(connection);
        let shape = scan.as_ref().map(|(cursor, entries)| (cursor.len(), !entries.is_empty()));
        checks.value("SCANX", shape.map_err(ToString::to_string), (17, true));
    }

    fn server(connection: &mut impl ConnectionLike, checks: &mut Checks) {
        let info: RedisResult<InfoDict> = cmd("INFO").query(connection);
        match info {
            Err(error) => checks.holds("INFO", false, || error.to_string()),
            Ok(info) => {
                for field in [
                    "sequential_key_size",
                    "redis_version",
                    "used_memory",
                    "connected_clients",
                    "role",
                ] {
                    let there = info.contains_key(&field);
                    checks.holds(field, there, || format!("is not in INFO: {info:?}"));
                }
            }
        }
        let unknown = cmd("LPUSH").arg("list").arg("1").query::<Value>(connection);
        checks.refused("LPUSH", unknown, "not supported (LPUSH");
    }

    fn namespaces(connection: &mut impl ConnectionLike, protocol: u8, checks: &mut Checks) {
        let name = format!("crate-redis-{protocol}");
        checks.value("NSNEW", cmd("NSNEW").arg(&name).query(connection), "OK".to_owned());
        let mode = cmd("NSSET").arg(&name).arg("mode").arg("seq").query(connection);
        checks.value("NSSET", mode, "OK".to_owned());
        checks.value("SELECT", cmd("SELECT").arg(&name).query(connection), "OK".to_owned());
        let id = cmd("SET").arg("").arg("value").query(connection);
        checks.value("SET in sequence", id, 0u64.to_le_bytes().to_vec());
        let scan: RedisResult<Entries> = cmd("SCAN").query(connection);
        let (cursor, entries) = scan.unwrap_or_default();
        checks.same("SCAN", (cursor.len(), entries.len()), (17, 1));
        let end = cmd("SCAN").arg(cursor).query::<Entries>(connection);
        // The crate's text of an error is its code, a colon, and the rest.
        checks.refused("the end", end, "more data");
        checks.value("SELECT 0", cmd("SELECT").arg(0).query(connection), "OK".to_owned());
    }

    fn messages(
        door: &Door,
        connection: &mut impl ConnectionLike,
        protocol: u8,
        checks: &mut Checks,
    ) {
        let opened = client(door, &door.url(2)).and_then(|client| client.get_connection());
        let mut subscriber = opened.expect("a connection");
        let channel = format!("crate-redis-{protocol}");
        let received = || -> RedisResult<Vec<(bool, String, Vec<u8>)>> {
            let mut messages = subscriber.as_pubsub();
            messages.subscribe(&channel)?;
            messages.psubscribe("crate-*")?;
            let value = b"bytes \x00\xff".to_vec();
            let count: i64 = cmd("PUBLISH").arg(&channel).arg(&value).query(connection)?;
            checks.same("PUBLISH", count, 2);
            let received = (0..2).map(|_| {
                let message = messages.get_message()?;
                let is_pattern = message.from_pattern();
                Ok((is_pattern, message.get_channel_name().to_owned(), message.get_payload()?))
            });
            let received = received.collect::<RedisResult<_>>()?;
            messages.unsubscribe(&channel)?;
            messages.punsubscribe("crate-*")?;
            Ok(received)
        }();
        let value = b"bytes \x00\xff".to_vec();
        let expected = vec![(false, channel.clone(), value.clone()), (true, channel, value)];
        checks.value("messages", received, expected);
        let after = cmd("PING").query(&mut subscriber);
        checks.value("PING after all subscriptions", after, "PONG".to_owned());
        let together = pipe().atomic().ping().cmd("ECHO").arg("hello").query(connection);
        checks.value("MULTI", together, ("PONG".to_owned(), "hello".to_owned()));
        let refused = pipe().atomic().get("key").query::<Value>(connection);
        checks.holds("MULTI with GET", refused.is_err(), || "is accepted".into());
        checks.value("after a refused MULTI", cmd("PING").query(connection), "PONG".to_owned());
    }

    /// One connection shared by many tasks, and one that is made anew by itself.
    fn with_tokio(door: &Door, protocol: u8) {
        let mut checks = Checks::of(format!("the crate redis with tokio on RESP{protocol}"));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let client = client(door, &door.url(protocol)).expect("a client");
            let connection = client.get_multiplexed_async_connection().await.expect("a connection");
            let tasks = (0..500).map(|number| {
                let mut connection = connection.clone();
                async move {
                    let key = format!("tokio-{protocol}-{number}");
                    let stored: RedisResult<String> =
                        cmd("SET").arg(&key).arg(&key).query_async(&mut connection).await;
                    let value = connection.get(&key).await;
                    stored.is_ok_and(|stored| stored == key)
                        && value.is_ok_and(|value| value == Some(key))
                }
            });
            let right = futures::future::join_all(tasks).await;
            checks.same("500 tasks", right.iter().filter(|right| **right).count(), 500);
            let mut manager = client.get_connection_manager().await.expect("a connection");
            let id: i64 = cmd("CLIENT").arg("ID").query_async(&mut manager).await.expect("an id");
            let mut other = connection.clone();
            let killed = cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async(&mut other).await;
            checks.value("CLIENT KILL", killed, 1);
            // The call that finds the connection gone fails; a later one has a new connection.
            let mut answered = false;
            for _ in 0..20 {
                answered |= cmd("PING").query_async::<String>(&mut manager).await.is_ok();
            }
            checks.same("a killed connection is made anew", answered, true);
        });
        checks.finish();
    }

    #[test]
    fn works() {
        let door = Door::plain();
        PROTOCOLS.into_iter().for_each(|protocol| blocking(&door, protocol));
    }

    #[test]
    fn works_over_tls() {
        let door = Door::tls();
        PROTOCOLS.into_iter().for_each(|protocol| blocking(&door, protocol));
    }

    #[test]
    fn works_with_tokio() {
        for door in [Door::plain(), Door::tls()] {
            PROTOCOLS.into_iter().for_each(|protocol| with_tokio(&door, protocol));
        }
    }

    #[test]
    fn works_over_a_unix_socket() {
        let door = Door::plain();
        for protocol in PROTOCOLS {
            let mut checks = Checks::of(format!("the crate redis, unix socket, RESP{protocol}"));
            let socket = door.socket();
            let url =
                format!("redis+unix://{}?pass={PASSWORD}&protocol=resp{protocol}", text(&socket));
            let opened = Client::open(url).and_then(|client| client.get_connection());
            let mut connection = opened.expect("a connection");
            conditions(&mut connection, &mut checks);
            checks.finish();
        }
    }
}

mod crate_fred {
    //! The crate `fred`, with rustls.

    use super::{Checks, Door, PASSWORD, PROTOCOLS};
    use fred::prelude::*;
    use fred::types::{ClusterHash, CustomCommand, RespVersion, SetOptions};
    use futures::TryStreamExt;
    use std::sync::Arc;

    fn config(door: &Door, protocol: u8) -> Config {
        let mut config = Config {
            server: ServerConfig::new_centralized("127.0.0.1", door.port()),
            username: Some("default".into()),
            password: Some(PASSWORD.into()),
            version: if protocol == 3 { RespVersion::RESP3 } else { RespVersion::RESP2 },
            ..Config::default()
        };
        if let Some(authority) = door.authority() {
            use rustls::pki_types::{CertificateDer, pem::PemObject};
            let authority = CertificateDer::from_pem_file(authority).expect("a certificate");
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority).expect("an authority");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring has the protocols")
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.tls = Some(fred::types::config::TlsConnector::from(tls).into());
        }
        config
    }

    fn custom(name: &'static str) -> CustomCommand {
        CustomCommand::new_static(name, ClusterHash::FirstKey, false)
    }

    async fn keys(client: &Client, protocol: u8, checks: &mut Checks) -> FredResult<()> {
        let namespace = format!("fred-{protocol}");
        checks.value(
            "NSNEW",
            client.custom(custom("NSNEW"), vec![&*namespace]).await,
            "OK".to_owned(),
        );
        checks.value(
            "SELECT",
            client.custom(custom("SELECT"), vec![&*namespace]).await,
            "OK".to_owned(),
        );
        checks.value("PING", client.ping(None).await, "PONG".to_owned());
        let bytes = fred::bytes::Bytes::from_static(b"bytes \x00\xff");
        let stored = client.set("key", bytes.clone(), None, None, false).await;
        checks.value("SET", stored, "key".to_owned());
        checks.value("GET", client.get("key").await, bytes.clone());
        let again = client.set("key", bytes, None, None, false).await;
        checks.value("SET of the same", again, None::<String>);
        checks.value("GET missing", client.get("missing").await, None::<String>);
        checks.value("EXISTS", client.exists("key").await, 1);
        let many = vec![("m1", "1"), ("m2", "2")];
        checks.value("MSET", client.mset(many).await, ());
        checks.value(
            "MGET",
            client.mget(vec!["m1", "missing"]).await,
            vec![Some("1".to_owned()), None],
        );
        let refused = client.del::<Value, _>("missing").await;
        checks.refused("DEL missing", refused.map_err(|error| error.to_string()), "Key not found");
        checks.value("DEL", client.del("key").await, "OK".to_owned());
        let nx = Some(SetOptions::NX);
        checks.value(
            "SET NX",
            client.set("nx", "1", None, nx.clone(), false).await,
            "OK".to_owned(),
        );
        checks.value("SET NX again", client.set("nx", "2", None, nx, false).await, None::<String>);
        let get = client.set("nx", "3", None, Some(SetOptions::XX), true).await;
        checks.value("SET XX GET", get, "1".to_owned());
        checks.value("STRLEN", client.strlen("nx").await, 1);
        checks.value("GETRANGE", client.getrange("nx", 0, 0).await, "3".to_owned());
        checks.value("TTL", client.ttl("nx").await, -1);
        checks.value("UNLINK", client.unlink(vec!["m1", "m2", "missing"]).await, 2);
        let value = fred::bytes::Bytes::from(vec![7; 8 << 20]);
        let stored = client.set("large", value.clone(), None, None, false).await;
        checks.value("SET of 8 MiB", stored, "large".to_owned());
        let got: FredResult<fred::bytes::Bytes> = client.get("large").await;
        checks.value("GET of 8 MiB", got.map(|got| got == value), true);

        let pipeline = client.pipeline();
        for number in 0..1000 {
            let key = format!("p{number:04}");
            let _: () = pipeline.set(&key, &*key, None, None, false).await?;
        }
        let replies: FredResult<Vec<String>> = pipeline.all().await;
        checks.value("a pipeline", replies.map(|replies| replies.len()), 1000);
        let found: FredResult<Vec<Key>> =
            client.scan_buffered("p*", Some(100), None).try_collect().await;
        checks.value("SCAN", found.map(|found| found.len()), 1000);
        let info: FredResult<String> = client.info(None).await;
        let has = info.map(|info| {
            ["sequential_key_size: 8\n", "redis_version:", "used_memory:"]
                .map(|field| info.contains(field))
        });
        checks.value("INFO", has, [true; 3]);
        Ok(())
    }

    fn all(door: &Door) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for protocol in PROTOCOLS {
            let mut checks = Checks::of(format!("the crate fred on RESP{protocol}"));
            runtime.block_on(async {
                let client =
                    Builder::from_config(config(door, protocol)).build().expect("a client");
                let connection = client.init().await.expect("a connection");
                let done = keys(&client, protocol, &mut checks).await;
                checks.value("no check was left out", done, ());
                checks.value("QUIT", client.quit().await, ());
                drop(connection);

                let pool = Builder::from_config(config(door, protocol)).build_pool(20);
                let pool = pool.expect("a pool");
                let connections = pool.init().await.expect("20 connections");
                let tasks = (0..500).map(|number| {
                    let pool = pool.clone();
                    async move {
                        let key = format!("fred-{protocol}-{number}");
                        let stored: FredResult<String> =
                            pool.set(&key, &*key, None, None, false).await;
                        let value: FredResult<String> = pool.get(&key).await;
                        stored.is_ok_and(|stored| stored == key) && value.is_ok_and(|v| v == key)
                    }
                });
                let right = futures::future::join_all(tasks).await;
                checks.same("500 tasks", right.iter().filter(|right| **right).count(), 500);
                checks.value("QUIT of the pool", pool.quit().await, ());
                drop(connections);
            });
            checks.finish();
        }
    }

    #[test]
    fn works() {
        all(&Door::plain());
    }

    #[test]
    fn works_over_tls() {
        all(&Door::tls());
    }
}
