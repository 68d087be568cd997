//! The end of a run: all is healed, one server is the master, and all of them have the same.

use super::clients::{PASSWORD, name_of, number_of};
use super::{CLIENTS, HEAL_ROUND_MS, HEAL_ROUNDS_MAX, KEYS, NODES, Run, peer};
use crate::reply::{self, Reply};
use crate::words;
use zdb::command::replication::Gate;
use zdb::disk::{Files, Operation};
use zdb::engine::log::format::{self, BLOCK};
use zdb::output::Output;

impl Run {
    pub(super) fn heal(&mut self) -> usize {
        self.cut.clear();
        for at in 0..NODES {
            let node = &mut self.nodes[at];
            (node.paused_until_ms, node.full_until_ms) = (0, 0);
            node.files.forget_plan();
            // Somebody has looked at the disk.
            if node.hub.engine.log.broken().is_some() {
                self.crash(at, false);
            }
        }
        let able = self.able_to_lead();
        let master = able[self.random.below(able.len() as u64) as usize];
        self.trace(|| format!("healed: {master} is the master"));
        self.command(master, None);
        for other in (0..NODES).filter(|other| *other != master) {
            self.command(other, Some(master));
        }
        for round in 0..HEAL_ROUNDS_MAX {
            self.round();
            self.now_ms += HEAL_ROUND_MS;
            let is_open = self.nodes[master].hub.server.replication.gate == Gate::Open;
            let end = self.nodes[master].hub.engine.log.end();
            let in_sync = self.nodes.iter().enumerate().all(|(at, node)| {
                let link = node.hub.server.replication.link.as_ref();
                at == master
                    || link.is_some_and(|link| link.is_up()) && node.hub.engine.log.end() == end
            });
            let online = self.nodes[master].hub.server.replication.online().count();
            // What the replicas say of it is heard, too.
            let is_heard = self.nodes[master].hub.engine.log.replicated.is_none_or(|at| at >= end);
            // Nor does a write wait any more, that would go on behind our back.
            let is_quiet = (0..CLIENTS).all(|client| !self.is_waiting(client));
            if is_open && in_sync && online == NODES - 1 && is_heard && is_quiet {
                self.trace(|| format!("in sync after {round} rounds, at {end}"));
                return master;
            }
        }
        if self.traced {
            self.tell_logs();
        }
        let waiting = (0..CLIENTS).filter(|client| self.is_waiting(*client)).count();
        let told: Vec<String> = self
            .nodes
            .iter()
            .map(|node| {
                let replication = &node.hub.server.replication;
                let link = replication.link.as_ref().map(|link| (link.state, link.trouble.clone()));
                format!(
                    "end {}, gate {:?}, candidate {:?}, promised {:?}, link {link:?}",
                    node.hub.engine.log.end(),
                    replication.gate,
                    replication.candidate,
                    node.hub.engine.node.promised,
                )
            })
            .collect();
        panic!(
            "with all healed and {master} the master they do not come together, {waiting} clients wait: {told:#?}"
        );
    }

    /// Who may be made the master. Two servers that were one before either had a copy have begun a log each, which they say
    /// rather than lose one, and the operator keeps the one that went on. Without replicas for each write it has to be one
    /// that is not being copied anew, and that has most.
    fn able_to_lead(&self) -> Vec<usize> {
        let engine = |at: usize| &self.nodes[at].hub.engine;
        let has = |at: usize| (engine(at).terms.number(), engine(at).log.end());
        if self.min_replicas == 0 {
            let whole = (0..NODES).filter(|at| engine(*at).is_whole());
            let best = whole.max_by_key(|at| has(*at));
            return vec![best.expect("a server gives way to a whole one alone")];
        }
        let last = (0..NODES).max_by_key(|at| engine(*at).terms.number()).expect("there are nodes");
        let is_of_it =
            |at: &usize| engine(*at).log.end() == 0 || engine(*at).log.id == engine(last).log.id;
        (0..NODES).filter(is_of_it).collect()
    }

    fn ask(&mut self, at: usize, words: &[Vec<u8>]) -> Reply {
        self.ask_for(at, &[words])
    }

    /// Asks in a client's namespace.
    fn ask_in(&mut self, at: usize, client: usize, words: &[Vec<u8>]) -> Reply {
        let name = self.clients[client].namespace().unwrap_or("default").as_bytes().to_vec();
        self.ask_within(at, &name, words)
    }

    fn ask_within(&mut self, at: usize, name: &[u8], words: &[Vec<u8>]) -> Reply {
        let select = [b"SELECT".to_vec(), name.to_vec(), PASSWORD.into()];
        self.ask_for(at, &[&select, words])
    }

    /// Asks several things, and returns the last reply.
    fn ask_for(&mut self, at: usize, requests: &[&[Vec<u8>]]) -> Reply {
        let words = requests.last().expect("there is a request");
        let mut awaited = requests.len();
        let key = self.nodes[at].hub.connected(peer());
        for words in requests {
            self.nodes[at].hub.received(key, &words::encode(words));
        }
        let mut bytes = Vec::new();
        for _ in 0..1000 {
            let now = self.clock(self.nodes[at].offset_s);
            self.nodes[at].hub.set_time(now);
            self.nodes[at].hub.settle();
            let mut output = Output::default();
            self.nodes[at].hub.take_output(key, &mut output);
            let mut slices = Vec::new();
            output.slices(0, &mut slices);
            bytes.extend(slices.concat());
            self.nodes[at].hub.sent(key, output.len(), output.len());
            while let Ok(Some((reply, length))) = reply::parse(&bytes, false) {
                bytes.drain(..length);
                awaited -= 1;
                if awaited == 0 {
                    self.nodes[at].hub.failed(key);
                    self.nodes[at].hub.remove(key);
                    return reply;
                }
            }
            let mut operations = Vec::new();
            self.nodes[at].hub.take_operations(&mut operations);
            for (token, operation) in operations {
                match operation {
                    Operation::Write { .. }
                    | Operation::Zero { .. }
                    | Operation::Sync { .. }
                    | Operation::Read { .. } => self.nodes[at].ring.push((token, operation)),
                    slow => self.nodes[at].orders.push_back((token, slow)),
                }
            }
            self.finish_all(at);
        }
        panic!("{at} does not answer {:?}", words[0].escape_ascii().to_string());
    }

    /// What the logs are, for who looks at a failure.
    fn tell_logs(&mut self) {
        for at in 0..NODES {
            let engine = &self.nodes[at].hub.engine;
            let segments: Vec<String> = engine
                .log
                .segments
                .list()
                .iter()
                .map(|one| {
                    format!(
                        "{:x}..{:x}{}",
                        one.base,
                        one.end(),
                        one.packed.as_ref().map_or_else(String::new, |packed| format!(
                            " packed at {:x}",
                            packed.header.rests_on
                        ))
                    )
                })
                .collect();
            eprintln!(
                "{at}: id {} terms {:?} owed {:?} segments {segments:?}",
                engine.log.id.to_hex(),
                engine.terms.list(),
                engine.node.owed
            );
            let mut records = Vec::new();
            for segment in engine.log.segments.list() {
                let (base, file) = (segment.base, segment.file);
                let size = self.nodes[at].files.size(file).unwrap_or(0);
                let Ok(bytes) = self.nodes[at].files.read(file, 0, size) else { continue };
                let mut position = base + BLOCK;
                let seed = self.nodes[at].hub.engine.log.seed;
                while let Some(one) = bytes
                    .get((position - base) as usize..)
                    .and_then(|bytes| format::Verified::check(bytes, seed, position))
                {
                    records.push(format!(
                        "{position:x} {:?} {}",
                        one.head.kind,
                        one.key().escape_ascii()
                    ));
                    position += one.head.bytes();
                }
            }
            eprintln!("   {records:?}");
        }
    }

    pub(super) fn check(&mut self) {
        if self.traced {
            self.tell_logs();
        }
        for client in 0..CLIENTS {
            for key in 0..KEYS {
                let get = [b"GET".to_vec(), name_of(client, key)];
                let replies: Vec<Reply> =
                    (0..NODES).map(|at| self.ask_in(at, client, &get)).collect();
                let is_same = replies.iter().all(|reply| *reply == replies[0]);
                assert!(is_same, "key {key} of client {client} differs: {}", shown(&replies));
                let found = replies[0].bulk().map(number_of);
                let judged = self.clients[client].judge(key, found, self.min_replicas > 0);
                judged.unwrap_or_else(|line| panic!("key {key} of client {client}: {line}"));
                if self.cleans {
                    continue;
                }
                let history = [b"HISTORY".to_vec(), name_of(client, key)];
                let histories: Vec<Reply> =
                    (0..NODES).map(|at| self.ask_in(at, client, &history)).collect();
                let is_same = histories.iter().all(|one| *one == histories[0]);
                assert!(is_same, "history of key {key} of client {client}: {}", shown(&histories));
            }
        }
        let names: Vec<Reply> = (0..NODES).map(|at| self.ask(at, &[b"NSLIST".to_vec()])).collect();
        assert!(names.iter().all(|one| *one == names[0]), "{names:?}");
        let Reply::Many(names) = &names[0] else { panic!("NSLIST is a list") };
        for name in names.iter().filter_map(Reply::bulk) {
            self.compare_namespace(name);
        }
    }

    /// Keys in their order, values, settings and counters of a namespace are everywhere the same.
    fn compare_namespace(&mut self, name: &[u8]) {
        let of = name.escape_ascii();
        let infos: Vec<Vec<String>> = (0..NODES).map(|at| self.settings_of(at, name)).collect();
        assert!(infos.iter().all(|one| *one == infos[0]), "NSINFO of {of}: {infos:#?}");
        let keys: Vec<Vec<Vec<u8>>> = (0..NODES).map(|at| self.keys_of(at, name)).collect();
        assert!(keys.iter().all(|one| *one == keys[0]), "SCAN of {of}: {keys:?}");
        for key in &keys[0] {
            for word in ["EXISTS", "GET"] {
                let request = [word.as_bytes().to_vec(), key.clone()];
                let replies: Vec<Reply> =
                    (0..NODES).map(|at| self.ask_within(at, name, &request)).collect();
                let is_same = replies.iter().all(|reply| *reply == replies[0]);
                let is_there =
                    !matches!(replies[0], Reply::Nil | Reply::Integer(0) | Reply::Error(_));
                let key = key.escape_ascii();
                assert!(is_same && is_there, "{word} {key} of {of}: {}", shown(&replies));
            }
        }
    }

    /// What NSINFO says that does not depend on the disk.
    fn settings_of(&mut self, at: usize, name: &[u8]) -> Vec<String> {
        let reply = self.ask(at, &[b"NSINFO".to_vec(), name.to_vec()]);
        let text = String::from_utf8_lossy(reply.bulk().expect("it is listed")).into_owned();
        let lines = text.lines().take_while(|line| !line.starts_with("data_live_bytes"));
        let is_told = |line: &&str| !self.skips_ids || !line.starts_with("next_internal_id");
        lines.filter(is_told).map(str::to_owned).collect()
    }

    /// The keys of a namespace, as SCAN shows them.
    fn keys_of(&mut self, at: usize, name: &[u8]) -> Vec<Vec<u8>> {
        let (mut keys, mut request) = (Vec::new(), vec![b"SCAN".to_vec()]);
        loop {
            let page = match self.ask_within(at, name, &request) {
                Reply::Many(page) => page,
                Reply::Error(text) if text == b"No more data" => return keys,
                other => panic!("SCAN of {} gets {other}", name.escape_ascii()),
            };
            let [Reply::Bulk(cursor), Reply::Many(entries)] = page.as_slice() else {
                panic!("a page of SCAN is {page:?}")
            };
            request = vec![b"SCAN".to_vec(), cursor.clone()];
            for entry in entries {
                let Reply::Many(fields) = entry else { panic!("an entry is {entry:?}") };
                keys.extend(fields.first().and_then(Reply::bulk).map(<[u8]>::to_vec));
            }
        }
    }
}

/// The beginnings of replies: values are long.
fn shown(replies: &[Reply]) -> String {
    let short = |reply: &Reply| match reply.bulk() {
        Some(bytes) => format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(12)])),
        None => format!("{reply:?}").chars().take(60).collect(),
    };
    replies.iter().map(short).collect::<Vec<_>>().join(", ")
}
