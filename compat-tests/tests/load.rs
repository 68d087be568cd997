//! The check of the crash tests, checked: it accepts what a crash may leave and nothing else.

use compat_tests::client::encode;
use compat_tests::fake::{Break, Fake};
use compat_tests::load::{Writer, scan};
use compat_tests::{Client, Model, Reply, args, seed};
use fastrand::Rng;
use std::sync::atomic::AtomicUsize;

const WRITER_COUNT: usize = 3;

fn begin(seed: u64) -> (Fake, Vec<Writer>, Client) {
    let fake = Fake::start(Model::new(Default::default()));
    let mut client = Client::connect(fake.address()).expect("it listens");
    let mut writers: Vec<Writer> =
        (0..WRITER_COUNT).map(|number| Writer::new(number, seed)).collect();
    for writer in &mut writers {
        writer.prepare(&mut client).expect("the namespaces are new");
    }
    (fake, writers, client)
}

/// Runs all writers until the fake breaks their connections, or to the end of their pipelines.
fn run(fake: &Fake, writers: &mut [Writer], pipeline_count: usize) {
    for writer in writers {
        let mut client = Client::connect(fake.address()).expect("it listens");
        writer
            .run(&mut client, pipeline_count, &AtomicUsize::new(0))
            .expect("all replies are right");
    }
}

/// Whatever was executed beyond the replies, the check finds the right moment.
#[test]
fn broken_connections_leave_what_they_may() {
    let seed = seed("broken connections");
    let mut random = Rng::with_seed(seed);
    let (fake, mut writers, mut client) = begin(seed);
    for round in 0..30 {
        let answered = random.usize(..300);
        let executed = answered + random.usize(..20);
        fake.set_break(Break { executed, answered });
        run(&fake, &mut writers, usize::MAX);
        for writer in &mut writers {
            let verified = writer.verify(&mut client);
            assert_eq!(verified, Ok(()), "round {round}, ZDB_SEED={seed}");
        }
    }
}

/// Every kind of loss and of invention is found.
#[test]
fn a_changed_state_is_found() {
    let seed = seed("a changed state");
    type Change = fn(&mut Client, &[Vec<u8>]);
    let changes: [(&str, Change); 6] = [
        ("a lost key", |client, keys| {
            client.expect(args!["DEL", keys[0]], Reply::ok());
        }),
        ("a new key", |client, _| {
            client.call(args!["SET", "w0:new", "value"]);
        }),
        ("a value never sent", |client, keys| {
            client.call(args!["SET", keys[0], "never sent"]);
        }),
        ("a lost version", |client, keys| {
            let value = client.call(args!["GET", keys[0]]).into_bytes();
            client.expect(args!["DEL", keys[0]], Reply::ok());
            client.call(args!["SET", keys[0], value]);
        }),
        ("a lost namespace", |client, _| {
            client.expect(args!["SELECT", "default"], Reply::ok());
            client.expect(args!["NSDEL", "w0-user"], Reply::ok());
        }),
        ("a namespace from nowhere", |client, _| {
            client.expect(args!["NSNEW", "w0-other"], Reply::ok());
        }),
    ];
    for (what, change) in changes {
        let (fake, mut writers, mut client) = begin(seed);
        run(&fake, &mut writers, 60);
        client.expect(args!["SELECT", "w0-user"], Reply::ok());
        let keys = scan(&mut client).expect("the scan agrees with DBSIZE");
        let keys: Vec<Vec<u8>> = keys.into_iter().map(|(key, ..)| key.to_vec()).collect();
        assert!(keys.len() > 3, "the load has written keys");
        change(&mut client, &keys);
        assert!(writers[0].verify(&mut client).is_err(), "{what} goes unseen, ZDB_SEED={seed}");
        assert_eq!(writers[1].verify(&mut client), Ok(()), "ZDB_SEED={seed}");
    }
}

/// A wrong reply under load is an error at once.
#[test]
fn a_wrong_reply_is_found() {
    let seed = seed("a wrong reply");
    let (fake, mut writers, mut client) = begin(seed);
    client.expect(args!["SELECT", "w0-seq"], Reply::ok());
    let mut requests = Vec::new();
    (0..3).for_each(|_| {
        encode(args!["SET", "", "an id that the writer does not know"], &mut requests)
    });
    let (replies, ending) = client.pipeline(&requests, 3);
    ending.expect("all replies come");
    assert_eq!(replies.len(), 3);
    let mut connection = Client::connect(fake.address()).expect("it listens");
    let result = writers[0].run(&mut connection, 300, &AtomicUsize::new(0));
    assert!(result.is_err(), "{result:?}, ZDB_SEED={seed}");
}
