//! Debian's redis-sentinel, unmodified, as the judge of which server is the master.

use crate::args;
use crate::client::Client;
use crate::hosts::Host;
use crate::node::PASSWORD;
use crate::program::Running;
use crate::reply::Reply;
use crate::server::{poll, scratch_dir};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A state that takes longer does not come. Sentinels look for replicas every ten seconds, and say hello every two.
const STATE_TIME_MAX: Duration = Duration::from_secs(40);
const REPLY_TIME_MAX: Duration = Duration::from_secs(2);
/// Between two questions to the same Sentinel: they are there to watch, not to be asked.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// What is watched, and how patiently.
#[derive(Clone, Debug)]
pub struct Watch {
    pub master_name: String,
    /// Who is the master at the start.
    pub master: SocketAddr,
    pub quorum: usize,
    /// So long without a valid answer, and a server is down for one Sentinel.
    pub down_after: Duration,
    /// The next failover of the same master begins no sooner than twice this.
    pub failover_timeout: Duration,
}

impl Watch {
    /// Two seconds until a master is down, a majority of `sentinel_count` to say so.
    ///
    /// With one second a second failover followed at once in 3 of 14 runs on two busy cores; where its events were
    /// looked at, all Sentinels gave the new master up 1.008 s after they had made it one. They send a PING a second.
    pub fn new(master: SocketAddr, sentinel_count: usize) -> Watch {
        Watch {
            master_name: "watched".into(),
            master,
            quorum: sentinel_count / 2 + 1,
            down_after: Duration::from_secs(2),
            failover_timeout: Duration::from_secs(5),
        }
    }
}

/// One process. It ends when it is dropped.
pub struct Sentinel {
    host: Host,
    address: SocketAddr,
    master_name: String,
    _dir: TempDir,
    running: Running,
}

impl Sentinel {
    /// Starts it in a host and waits until it watches.
    #[track_caller]
    pub fn start(host: &Host, watch: &Watch) -> Sentinel {
        let (dir, address) = (scratch_dir(), host.free_address());
        // It writes into its configuration what it learns: its own state.
        let path = dir.path().join("sentinel.conf");
        let text = configuration(address, dir.path().to_str().expect("a path of text"), watch);
        std::fs::write(&path, text).expect("the configuration can be written");
        let running = host.start(Command::new("redis-sentinel").arg(&path));
        running.wait_for("a Sentinel that watches", |line| line.contains("+monitor master"));
        let master_name = watch.master_name.clone();
        Sentinel { host: host.clone(), address, master_name, _dir: dir, running }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `kill -9`, SIGSTOP and SIGCONT are here. One that was stopped for two seconds does nothing for thirty (TILT).
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Who is the master: SENTINEL GET-MASTER-ADDR-BY-NAME.
    pub fn master(&self) -> io::Result<SocketAddr> {
        master(&mut self.client()?, &self.master_name)
    }

    /// What it knows of the master: SENTINEL MASTER.
    pub fn fields(&self) -> io::Result<BTreeMap<String, String>> {
        let reply = self.client()?.try_call(args!["SENTINEL", "MASTER", self.master_name])?;
        let Reply::Array(parts) = reply else {
            return Err(io::Error::other(format!("SENTINEL MASTER: {reply:?}")));
        };
        let texts: Vec<String> = parts.into_iter().map(text).collect::<Result<_, _>>()?;
        Ok(texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    }

    /// What it said of the master and its replicas so far, as `06:22:23.444 +sdown master watched 10.77.0.1 6379`.
    pub fn events(&self) -> Vec<String> {
        let lines = self.running.lines();
        let events = lines.iter().filter_map(|line| {
            // "1234:X 01 Dec 2026 06:22:23.444 # +sdown ..."
            let (head, event) = line.split_once("# ").or_else(|| line.split_once("* "))?;
            let time = head.split_whitespace().last()?;
            event.starts_with(['+', '-']).then(|| format!("{time} {event}"))
        });
        events.collect()
    }

    fn client(&self) -> io::Result<Client> {
        self.host.connect(self.address, REPLY_TIME_MAX)
    }
}

/// Who is the master, asked of any Sentinel.
pub fn master(client: &mut Client, name: &str) -> io::Result<SocketAddr> {
    let reply = client.try_call(args!["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name])?;
    let unclear = |what: &str| io::Error::other(format!("GET-MASTER-ADDR-BY-NAME: {what}"));
    let Reply::Array(parts) = reply else {
        return Err(unclear(&format!("{reply:?}")));
    };
    let [ip, port]: [Reply; 2] = parts.try_into().map_err(|_| unclear("no pair"))?;
    let ip: IpAddr = text(ip)?.parse().map_err(|_| unclear("no IP address"))?;
    let port = text(port)?.parse().map_err(|_| unclear("no port"))?;
    Ok(SocketAddr::new(ip, port))
}

fn text(reply: Reply) -> io::Result<String> {
    match reply {
        Reply::Bulk(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        other => Err(io::Error::other(format!("{other:?} instead of a text"))),
    }
}

fn configuration(address: SocketAddr, dir: &str, watch: &Watch) -> String {
    let Watch { master_name: name, master, quorum, .. } = watch;
    let (down_after_ms, timeout_ms) =
        (watch.down_after.as_millis(), watch.failover_timeout.as_millis());
    format!(
        "port {}\n\
         bind {}\n\
         dir {dir}\n\
         protected-mode no\n\
         sentinel monitor {name} {} {} {quorum}\n\
         sentinel auth-pass {name} {PASSWORD}\n\
         sentinel down-after-milliseconds {name} {down_after_ms}\n\
         sentinel failover-timeout {name} {timeout_ms}\n",
        address.port(),
        address.ip(),
        master.ip(),
        master.port()
    )
}

/// All Sentinels of a master.
pub struct Sentinels {
    pub each: Vec<Sentinel>,
    watch: Watch,
}

impl Sentinels {
    /// One in each of these hosts.
    #[track_caller]
    pub fn start(hosts: &[Host], watch: Watch) -> Sentinels {
        let each = hosts.iter().map(|host| Sentinel::start(host, &watch)).collect();
        Sentinels { each, watch }
    }

    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.each.iter().map(Sentinel::address).collect()
    }

    /// Waits until all know each other and the replicas, and the master is well: before that none can be replaced.
    #[track_caller]
    pub fn wait_until_ready(&self, replica_count: usize) {
        let others = (self.each.len() - 1).to_string();
        self.wait_for("Sentinels that know each other and the replicas", |sentinel| {
            let fields = sentinel.fields().ok()?;
            let is_ready = fields["num-slaves"] == replica_count.to_string()
                && fields["num-other-sentinels"] == others
                && fields["flags"] == "master";
            is_ready.then_some(())
        });
    }

    /// Waits until all name the same master, it is not this one, it is well and no failover goes on. Returns it, and
    /// how long it took.
    #[track_caller]
    pub fn wait_for_failover(&self, from: SocketAddr) -> (SocketAddr, Duration) {
        self.wait_for_failover_seen_by(&self.each.iter().collect::<Vec<_>>(), from)
    }

    /// The same for some of them, where others do not hear of it.
    #[track_caller]
    pub fn wait_for_failover_seen_by(
        &self,
        some: &[&Sentinel],
        from: SocketAddr,
    ) -> (SocketAddr, Duration) {
        let started = Instant::now();
        let masters = wait(self, some, "failover", |sentinel| {
            // While a failover goes on, GET-MASTER-ADDR-BY-NAME already names the one that is to come.
            let is_well = sentinel.fields().ok()?["flags"] == "master";
            sentinel.master().ok().filter(|master| is_well && *master != from)
        });
        assert!(masters.iter().all(|master| *master == masters[0]), "masters: {masters:?}");
        (masters[0], started.elapsed())
    }

    /// Waits until all of them say so; returns what they say.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, asked: impl FnMut(&Sentinel) -> Option<T>) -> Vec<T> {
        wait(self, &self.each.iter().collect::<Vec<_>>(), what, asked)
    }

    /// What all of them said, for the message of a test that fails.
    pub fn events(&self) -> Vec<String> {
        let of_one = |sentinel: &Sentinel| {
            let name = sentinel.host.name().to_owned();
            sentinel.events().into_iter().map(move |event| format!("{name}: {event}"))
        };
        self.each.iter().flat_map(of_one).collect()
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the Sentinels said: {:#?}", self.events());
        }
    }
}

#[track_caller]
fn wait<T>(
    all: &Sentinels,
    some: &[&Sentinel],
    what: &str,
    mut asked: impl FnMut(&Sentinel) -> Option<T>,
) -> Vec<T> {
    let deadline = Instant::now() + STATE_TIME_MAX;
    let mut answers = Vec::new();
    for sentinel in some {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut next_at = Instant::now();
        let answer = poll(left, || {
            if Instant::now() < next_at {
                return None;
            }
            next_at = Instant::now() + ASK_INTERVAL;
            asked(sentinel)
        });
        answers.push(answer.unwrap_or_else(|| {
            panic!("no {what} at {}: {:?}; {:#?}", sentinel.host, sentinel.fields(), all.events())
        }));
    }
    answers
}
