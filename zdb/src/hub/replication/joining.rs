//! A replica asks for the log: by the terms of both it goes on where it is, goes back to where they part, or begins
//! anew. Nobody gets the log before this server may send it.

use super::terms::count_nodes;
use crate::command::replication::{Link, Replica, Stage, SyncRequest};
use crate::engine::node::Promise;
use crate::hub::Hub;
use crate::output::Output;
use crate::resp::Protocol;
use xxhash_rust::xxh3::xxh3_64;

impl Hub {
    /// A replica asks for the log.
    pub(in crate::hub) fn sync(&mut self, key: u64, request: SyncRequest) {
        let now_ms = self.engine.now.monotonic_ms;
        let last_term = request.terms.last().map_or(0, |term| term.number);
        let is_full = self.server.settings.min_replicas > 0
            && self.other_nodes(key) + 1 >= self.server.settings.nodes();
        let secret_check = xxh3_64(&self.engine.secret_bytes());
        let is_copy = request.log == self.engine.log.id.0 && request.secret_check == secret_check;
        let is_bare = self.engine.is_bare();
        let is_candidate = self.server.replication.candidate.is_some();
        let node = self.engine.node.name;
        let Some(replica) = self.server.replication.replica_mut(key) else {
            return self.refuse_replica(key, "REPLCONF comes before PSYNC");
        };
        if replica.node == 0 {
            return self.refuse_replica(key, "a replica has to name its node");
        }
        if replica.node == node {
            return self.refuse_replica(key, "a server cannot copy itself");
        }
        if replica.stage == Stage::Online || !replica.reads.is_empty() {
            // What is read for it belongs to what it asked for first.
            self.refuse_replica(key, "a replica asks once for the log");
            return self.close_behind_replies(key);
        }
        replica.heard_ms = now_ms;
        // Who is refused has agreed to nothing: what it has was not looked at.
        replica.promised = Promise::default();
        replica.owed = request.owed;
        let is_backup = replica.is_backup;
        // Of another log nobody can tell whether it has more; but whatever it has is more than nothing.
        let is_comparable = is_copy || is_bare || request.is_bare;
        let has_data = is_comparable && !request.is_bare;
        replica.log_at = if has_data { (last_term, request.position) } else { (0, 0) };
        replica.stage = Stage::New;
        if is_candidate && !is_comparable && !is_backup {
            let text =
                "two servers with different logs cannot agree on a master: empty one of them first";
            return self.refuse_replica(key, text);
        }
        if is_full && !is_backup {
            return self
                .refuse_replica(key, "as many servers as --nodes says have this log already");
        }
        let replica = self.server.replication.replica_mut(key).expect("looked up above");
        replica.promised = request.promised;
        let is_master = self.server.replication.master.is_none();
        if is_master && !is_backup && !self.may_sync(key, &request) {
            return;
        }
        let link = self.server.replication.link.as_ref();
        let is_bound = self.server.settings.min_replicas > 0 || is_backup || is_master;
        if !is_bound && !link.is_some_and(Link::is_up) {
            // As Redis has it. Two that follow each other would both give way to the other; with replicas for each
            // write only the master of the newest term is given way to, and candidates ask here.
            let text = "NOMASTERLINK Can't SYNC while not connected with my master";
            return self.refuse_replica(key, text);
        }
        if !self.engine.is_whole() {
            // Others would give way to a part of what they have.
            let text = "this server is being copied anew itself, and has nothing for others yet";
            return self.refuse_replica(key, text);
        }
        self.name_node();
        if !self.is_node_saved() {
            // A start that does not know of copies would go on in the term that they have.
            let replica = self.server.replication.replica_mut(key).expect("looked up above");
            replica.stage = Stage::Waiting;
            return;
        }
        let end = self.engine.log.end();
        let common = match is_copy {
            true => {
                let other = (&request.terms[..], request.position, request.is_all);
                self.engine.terms.common_end(end, other)
            }
            false => None,
        };
        match common {
            Some(common)
                if common == request.position && self.engine.can_send(common, request.versions) =>
            {
                let term = self.engine.terms.number().max(self.engine.term_due.unwrap_or(0));
                let replica = self.server.replication.replica_mut(key).expect("looked up above");
                replica.sent = common;
                replica.reads.clear();
                // What it has is not durable there before it says so.
                replica.acked = 0;
                replica.stage = Stage::Online;
                self.server.replication.syncs_partial += 1;
                let now_s = self.engine.now.unix_s();
                let words = [common, term, end, now_s].map(|number| number.to_string());
                let [common, term, end, now_s] = words.each_ref().map(String::as_bytes);
                self.say(key, &[b"CONTINUE", common, term, end, now_s]);
            }
            Some(common) if common < request.position && common > 0 => {
                self.leaving(key);
                let (common, rank) = (common.to_string(), self.rank());
                self.say(key, &[b"REWIND", common.as_bytes(), rank.as_bytes()]);
            }
            _ => {
                self.leaving(key);
                self.server.replication.syncs_full += 1;
                let (log, secret) = (self.engine.log.id.to_hex(), self.engine.secret_bytes());
                let secret = crate::engine::log::format::LogId(secret).to_hex();
                let rank = self.rank();
                self.say(key, &[b"ADOPT", log.as_bytes(), secret.as_bytes(), rank.as_bytes()]);
            }
        }
    }

    /// How many other servers than that of this connection copy the log.
    fn other_nodes(&self, key: u64) -> usize {
        let replicas = &self.server.replication.replicas;
        let node = replicas.iter().find(|one| one.connection == key).map_or(0, |one| one.node);
        let is_other = |one: &&Replica| one.node != node && one.node != 0 && !one.is_backup;
        count_nodes(replicas.iter().filter(is_other))
    }

    pub(super) fn leaving(&mut self, key: u64) {
        if let Some(replica) = self.server.replication.replica_mut(key) {
            replica.stage = Stage::Leaving;
        }
    }

    fn refuse_replica(&mut self, key: u64, text: &str) {
        let mut output = Output::default();
        output.writer(Protocol::Resp2).error(text);
        self.push(key, output);
    }
}
