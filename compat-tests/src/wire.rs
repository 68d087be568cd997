//! Either end of the way between a master and a replica, played by a test: it says what no server would say.

use crate::args;
use crate::client::{Client, encoded};
use crate::reply::Reply;
use crate::server::{Server, poll};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

const TIME_MAX: Duration = Duration::from_secs(30);

/// Whoever copies it speaks with the test.
pub struct FakeMaster {
    listener: TcpListener,
}

impl Default for FakeMaster {
    fn default() -> FakeMaster {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket takes the option");
        FakeMaster { listener }
    }
}

impl FakeMaster {
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    /// Waits until a replica has called.
    #[track_caller]
    pub fn accept(&self) -> Client {
        let stream = poll(TIME_MAX, || self.listener.accept().ok());
        let (stream, _) = stream.expect("a replica calls");
        Client::accepted(stream).expect("a socket takes options")
    }

    /// The same, up to where the replica has asked for the log.
    #[track_caller]
    pub fn asked(&self) -> (Client, Ask) {
        let mut call = self.accept();
        let first = call.receive().expect("it introduces itself").into_array();
        assert_eq!(first[0], Reply::bulk("REPLCONF"), "{first:?}");
        call.send_raw(b"+OK\r\n").expect("it is there");
        let words = call.receive().expect("it asks for the log").into_array();
        let mut words: Vec<String> = words.into_iter().map(text).collect();
        assert_eq!(words[0], "PSYNC", "{words:?}");
        let check = words.pop();
        assert_eq!(check, Some(check_of(&words)), "{words:?}");
        (call, Ask { words })
    }
}

/// The word that ends what servers say to each other, but for records and files.
pub fn check_of<A: AsRef<[u8]>>(words: &[A]) -> String {
    let mut all = Vec::new();
    for word in words {
        all.extend((word.as_ref().len() as u64).to_le_bytes());
        all.extend(word.as_ref());
    }
    format!("{:016x}", xxh3_64(&all))
}

/// Words as a server says them.
pub fn said<A: AsRef<[u8]>>(words: &[A]) -> Vec<u8> {
    if matches!(words[0].as_ref(), b"RECORDS" | b"BYTES") {
        return encoded(words);
    }
    let check = check_of(words);
    let words = words.iter().map(AsRef::as_ref).chain([check.as_bytes()]);
    encoded(&words.collect::<Vec<_>>())
}

fn text(word: Reply) -> String {
    String::from_utf8(word.into_bytes().to_vec()).expect("a word is text")
}

/// PSYNC as a replica said it.
#[derive(Clone, Debug)]
pub struct Ask {
    pub words: Vec<String>,
}

impl Ask {
    pub fn log(&self) -> &str {
        &self.words[1]
    }

    pub fn position(&self) -> u64 {
        self.words[3].parse().expect("a number")
    }

    /// The number of its last term; 0: it has none.
    pub fn term(&self) -> u64 {
        let last = self.words[10..].last().and_then(|term| term.split(':').next()?.parse().ok());
        last.unwrap_or(0)
    }

    /// The answer of a master that goes on where the replica is.
    pub fn go_on(&self) -> Vec<u8> {
        let (position, term) = (&self.words[3], self.term().to_string());
        said(args!["CONTINUE", position, term, position, "1800000000"])
    }
}

/// A test that introduced itself to a master as a replica with this name.
pub fn introduce(master: &Server, node: &str) -> Client {
    let mut call = master.connect();
    call.expect(args!["REPLCONF", "listening-port", "9", "node", node], Reply::ok());
    call
}

/// Asks for the log; returns the first words of the answer.
pub fn ask(call: &mut Client, words: &[String]) -> io::Result<Vec<String>> {
    call.send_raw(&said(words))?;
    Ok(hear(call)?.into_iter().map(|word| String::from_utf8_lossy(&word).into_owned()).collect())
}

/// The next words of a master, without their check; an error is one word.
pub fn hear(call: &mut Client) -> io::Result<Vec<Vec<u8>>> {
    Ok(match call.receive()? {
        Reply::Array(words) => {
            let mut words: Vec<Vec<u8>> =
                words.into_iter().map(|word| word.into_bytes().to_vec()).collect();
            if !matches!(words[0].as_slice(), b"RECORDS" | b"BYTES") {
                let check = words.pop();
                assert_eq!(check, Some(check_of(&words).into_bytes()), "{words:?}");
            }
            words
        }
        Reply::Error(text) | Reply::Simple(text) => vec![text.into_bytes()],
        other => vec![format!("{other:?}").into_bytes()],
    })
}

/// The records that a master sends from where `call` goes on, up to `end`.
pub fn records(call: &mut Client, end: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let words = hear(call).expect("the master sends its log");
        if words[0] == b"RECORDS" {
            let position = String::from_utf8_lossy(&words[1]).parse::<u64>().expect("a number");
            bytes.extend_from_slice(&words[2]);
            if position + words[2].len() as u64 >= end {
                return bytes;
            }
        }
    }
}

/// A field of INFO replication.
pub fn field(client: &mut Client, name: &str) -> Option<String> {
    let text = client.try_call(args!["INFO", "replication"]).ok()?.into_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(|value| value.trim().to_owned())
}

pub fn follow(client: &mut Client, master: SocketAddr) {
    let (host, port) = (master.ip().to_string(), master.port().to_string());
    client.expect(args!["REPLICAOF", host, port], Reply::ok());
}

/// Waits until a replica has all that its master has. It may start anew meanwhile.
#[track_caller]
pub fn in_sync(master: &Server, replica: &Server) {
    let found = poll(TIME_MAX, || {
        let mut theirs = Client::connect(replica.address()).ok()?;
        let mut ours = Client::connect(master.address()).ok()?;
        let is_up = field(&mut theirs, "master_link_status")? == "up";
        let end = field(&mut ours, "master_repl_offset")?;
        (is_up && field(&mut theirs, "slave_repl_offset")? == end).then_some(())
    });
    if found.is_none() {
        let told = |server: &Server| {
            let info = server.connect().call(args!["INFO", "replication"]).into_bytes();
            format!("{:#?}\n{}", server.log(), String::from_utf8_lossy(&info))
        };
        panic!(
            "the replica does not catch up; master: {} replica: {}",
            told(master),
            told(replica)
        );
    }
}
