//! What replicas say that they have, and what waits for it: the log's acknowledged end, the gate for writes, and
//! clients in WAIT.

use crate::command::replication::{Gate, Replica, ReplicaWait, Stage};
use crate::command::{ClientRef, Finished};
use crate::hub::Hub;
use crate::hub::connection::Connection;
use crate::limits::REPLICA_SILENCE_MS;
use crate::output::Output;
use crate::planted::{self, Bug};
use crate::resp::Protocol;

impl Hub {
    /// A replica says how far it has the log. What it was never sent it cannot have.
    pub(in crate::hub) fn acknowledged(&mut self, connection: &mut Connection, position: u64) {
        let Some(replica) = self.server.replication.replica_mut(connection.key) else { return };
        if replica.stage != Stage::Online {
            // It gets no log yet, or none any more.
            return;
        }
        if position <= replica.sent {
            replica.acked = position;
            return self.count_replicated();
        }
        let (host, port, sent) = (replica.host.clone(), replica.port, replica.sent);
        self.engine.log.notices.push(format!(
            "replica {host} {port} acknowledges position {position} and was sent the log up to {sent}: it is let go"
        ));
        self.server.replication.replicas.retain(|one| one.connection != connection.key);
        connection.is_killed = true;
        connection.closing = true;
    }

    /// How far as many replicas have the log as a write needs.
    pub(super) fn count_replicated(&mut self) {
        let min_replicas = self.server.settings.min_replicas;
        let replication = &self.server.replication;
        if min_replicas == 0 || replication.master.is_some() || replication.candidate.is_some() {
            return;
        }
        let mut acked: Vec<(u32, u64)> =
            replication.online().map(|one| (one.node, one.acked)).collect();
        acked.sort_unstable_by_key(|(node, position)| (*node, std::cmp::Reverse(*position)));
        acked.dedup_by_key(|(node, _)| *node);
        let mut positions: Vec<u64> = acked.into_iter().map(|(_, position)| position).collect();
        positions.sort_unstable_by_key(|position| std::cmp::Reverse(*position));
        let reached = match planted::is(Bug::LoneAck) {
            true => self.engine.log.end(),
            false => positions.get(min_replicas - 1).copied().unwrap_or(0),
        };
        if self.engine.log.replicated.is_none_or(|before| before < reached) {
            self.engine.log.replicated = Some(reached);
            self.log_moved = true;
        }
    }

    pub(super) fn look_at_gate(&mut self) {
        let now_ms = self.engine.now.monotonic_ms;
        let replication = &self.server.replication;
        let min_replicas = self.server.settings.min_replicas;
        let is_good = |one: &&Replica| now_ms < one.heard_ms + REPLICA_SILENCE_MS;
        let good = replication.online().filter(is_good).count();
        let gate = if replication.master.is_some() || self.affairs.restarts {
            Gate::ReadOnly
        } else if replication.candidate.is_some() || good < min_replicas {
            Gate::NoReplicas
        } else {
            Gate::Open
        };
        self.server.replication.gate = gate;
    }

    /// A client waits until so many replicas have what was written so far.
    pub(in crate::hub) fn wait_for_replicas(&mut self, client: ClientRef, count: usize, ms: u64) {
        let until_ms = (ms > 0).then(|| self.engine.now.monotonic_ms + ms);
        let position = self.engine.log.appended();
        self.server.replication.waits.push(ReplicaWait { client, count, position, until_ms });
    }

    /// Whether a connection waits for replicas, be it for ever.
    pub fn waits_for_replicas(&self, key: u64) -> bool {
        self.server.replication.waits.iter().any(|wait| wait.client.connection == key)
    }

    pub(super) fn end_waits(&mut self, now_ms: u64) {
        let mut at = 0;
        while let Some(wait) = self.server.replication.waits.get(at) {
            let has_it = |one: &&Replica| one.acked >= wait.position;
            let count = self.server.replication.online().filter(has_it).count();
            let is_over = wait.until_ms.is_some_and(|until| until <= now_ms);
            // Who says no more may be gone: nobody is waited for without an end.
            let is_gone = self.get(wait.client.connection).is_none_or(|one| one.eof);
            if count < wait.count && !is_over && !is_gone {
                at += 1;
                continue;
            }
            let wait = self.server.replication.waits.remove(at);
            let mut output = Output::default();
            output.writer(Protocol::Resp2).integer(count as i64);
            self.finish(Finished { client: wait.client, output, rests_on: 0 });
        }
    }

    /// Clients whose writes may not be kept get no reply, but the end of their connection.
    pub(super) fn forget_unacknowledged(&mut self) {
        for key in std::mem::take(&mut self.unacknowledged) {
            if let Some(connection) = self.get_mut(key) {
                connection.drop_replies();
                connection.is_unacknowledged = false;
                self.let_go(key);
            }
        }
    }
}
