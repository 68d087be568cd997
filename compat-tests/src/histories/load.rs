//! Clients that write to whoever is the master, and note what they were told.

use super::{History, KEY_WRITES_MAX, Outcome, Reign, Write, value};
use crate::args;
use crate::client::Client;
use crate::hosts::Host;
use crate::node::{Info, authenticate};
use crate::sentinel;
use crate::server::poll;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Acknowledgements that take longer do not come; a failover is in it.
const ACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(40);
/// Between two attempts to find a master.
const FIND_INTERVAL: Duration = Duration::from_millis(20);

/// How a client finds the master.
#[derive(Clone, Debug)]
pub enum Find {
    /// The first of these that says that it is one; the search goes on from there after each error.
    Fixed(Vec<SocketAddr>),
    /// As Sentinel's clients do: the first that answers names it.
    Sentinels { addresses: Vec<SocketAddr>, master_name: String },
}

/// Which load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Begins the names of its keys: another one for each load of a test.
    pub name: String,
    /// Where its clients are.
    pub host: Host,
    pub find: Find,
    pub client_count: usize,
    pub value_bytes: usize,
    /// Of each client, between a reply and its next request: two cores are to be left for who answers.
    pub pause: Duration,
    /// A reply or connection that takes longer is given up.
    pub reply_time_max: Duration,
}

impl Plan {
    /// Four clients, each with a write of 100 bytes at most every millisecond, that wait half a second for a reply.
    pub fn new(name: &str, host: &Host, find: Find) -> Plan {
        Plan {
            name: name.into(),
            host: host.clone(),
            find,
            client_count: 4,
            value_bytes: 100,
            pause: Duration::from_millis(1),
            reply_time_max: Duration::from_millis(500),
        }
    }
}

/// It writes until it is stopped.
pub struct Load {
    shared: Arc<Shared>,
    value_bytes: usize,
    threads: Vec<JoinHandle<Vec<Write>>>,
}

#[derive(Default)]
struct Shared {
    is_stopping: AtomicBool,
    acknowledged: AtomicU64,
    refused: AtomicU64,
}

impl Load {
    pub fn start(plan: Plan) -> Load {
        let shared = Arc::new(Shared::default());
        let start = |number: usize| {
            let (plan, shared) = (plan.clone(), shared.clone());
            std::thread::spawn(move || {
                plan.host.enter();
                Writer::new(plan, shared, number).run()
            })
        };
        let threads = (0..plan.client_count).map(start).collect();
        Load { shared, value_bytes: plan.value_bytes, threads }
    }

    pub fn acknowledged_count(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    pub fn refused_count(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes are acknowledged.
    #[track_caller]
    pub fn wait_for_acknowledged(&self, more: u64) {
        let wanted = self.acknowledged_count() + more;
        let reached =
            poll(ACKNOWLEDGED_TIME_MAX, || (self.acknowledged_count() >= wanted).then_some(()));
        let count = self.acknowledged_count();
        assert!(reached.is_some(), "{count} writes are acknowledged, not {wanted}");
    }

    /// Waits for the clients' last replies.
    pub fn stop(mut self) -> History {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        let notes = threads.into_iter().flat_map(|thread| thread.join().expect("no client panics"));
        History { writes: notes.collect(), value_bytes: self.value_bytes }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
    }
}

struct Writer {
    plan: Plan,
    shared: Arc<Shared>,
    number: usize,
    key_count: u64,
    /// Where the search for the master begins.
    first: usize,
    notes: Vec<Write>,
}

impl Writer {
    fn new(plan: Plan, shared: Arc<Shared>, number: usize) -> Writer {
        Writer { plan, shared, number, key_count: 0, first: number, notes: Vec::new() }
    }

    fn run(mut self) -> Vec<Write> {
        let mut key = self.next_key();
        let mut write_number = 0;
        while !self.is_stopping() {
            let Ok((mut client, reign)) = self.find() else {
                std::thread::sleep(FIND_INTERVAL);
                continue;
            };
            while !self.is_stopping() {
                write_number += 1;
                let outcome = self.write(&mut client, &reign, &key, write_number);
                if outcome == Outcome::Unknown || write_number == KEY_WRITES_MAX {
                    key = self.next_key();
                    write_number = 0;
                }
                std::thread::sleep(self.plan.pause);
                if outcome != Outcome::Acknowledged {
                    break;
                }
            }
        }
        self.notes
    }

    fn is_stopping(&self) -> bool {
        self.shared.is_stopping.load(Ordering::Relaxed)
    }

    fn next_key(&mut self) -> Arc<str> {
        self.key_count += 1;
        format!("{}-{}-{}", self.plan.name, self.number, self.key_count).into()
    }

    fn write(
        &mut self,
        client: &mut Client,
        reign: &Arc<Reign>,
        key: &Arc<str>,
        number: u64,
    ) -> Outcome {
        let value = value(key, number, self.plan.value_bytes);
        let sent_at = Instant::now();
        let outcome = match client.try_call(args!["SET", **key, value]) {
            Ok(reply) if reply.is_error() => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                Outcome::Refused(format!("{reply:?}"))
            }
            Ok(_) => {
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                Outcome::Acknowledged
            }
            Err(_) => Outcome::Unknown,
        };
        let (key, reign) = (key.clone(), reign.clone());
        let ended_at = Instant::now();
        self.notes.push(Write { key, number, sent_at, ended_at, outcome: outcome.clone(), reign });
        outcome
    }

    /// A connection to a server that says that it is the master.
    fn find(&mut self) -> io::Result<(Client, Arc<Reign>)> {
        let time_max = self.plan.reply_time_max;
        let first = self.first;
        // The next attempt asks the next one: this one may be behind a cut link.
        self.first += 1;
        let address = match &self.plan.find {
            Find::Fixed(addresses) => addresses[first % addresses.len()],
            Find::Sentinels { addresses, master_name } => {
                let address = addresses[first % addresses.len()];
                let mut client = Client::connect_within(address, time_max)?;
                sentinel::master(&mut client, master_name)?
            }
        };
        let mut client = Client::connect_within(address, time_max)?;
        authenticate(&mut client)?;
        let info = Info::read(&mut client)?;
        if info.get("role") != "master" {
            return Err(io::Error::other(format!("{address} is no master")));
        }
        let (run_id, replication_id) =
            (info.get("run_id").to_owned(), info.get("master_replid").to_owned());
        assert!(!run_id.is_empty(), "INFO of {address} has no run_id: masters look all the same");
        Ok((client, Arc::new(Reign { address, run_id, replication_id })))
    }
}
