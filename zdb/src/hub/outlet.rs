//! A connection and its socket: what the loop is to do for it, and what the loop tells of it.

use super::Hub;
use super::connection::{Connection, Wishes};
use crate::output::Output;

impl Hub {
    /// The connections to look at after a turn.
    pub fn take_touched(&mut self, out: &mut Vec<u64>) {
        out.append(&mut self.touched);
    }

    /// The loop will look at it.
    pub fn touch_key(&mut self, key: u64) {
        let Some(connection) = self.get_mut(key) else { return };
        if !connection.touched {
            connection.touched = true;
            self.touched.push(key);
        }
    }

    /// What the loop is to do for a connection that was touched.
    pub fn look(&mut self, key: u64) -> Option<Wishes> {
        let connection = self.get_mut(key)?;
        connection.touched = false;
        Some(connection.wishes())
    }

    /// Takes what is to be sent, in exchange for an empty output. It counts until `sent` says it is out.
    pub fn take_output(&mut self, key: u64, into: &mut Output) {
        debug_assert!(into.is_empty());
        let Some(connection) = self.get_mut(key) else { return };
        std::mem::swap(&mut connection.output, into);
        connection.in_flight += into.len();
    }

    /// `count` bytes went into the socket. `released` of the bytes that were taken need no memory any more:
    /// there may be room for the replies of requests that wait.
    pub fn sent(&mut self, key: u64, count: usize, released: usize) {
        let Some(mut connection) = self.take(key) else { return };
        self.server.stats.sent_bytes += count as u64;
        connection.in_flight -= released;
        connection.active_ms = self.engine.now.monotonic_ms;
        self.go_on(&mut connection);
        self.touch(&mut connection);
        self.put_back(connection);
    }

    /// The client will send no more.
    pub fn ended(&mut self, key: u64) {
        let Some(mut connection) = self.take(key) else { return };
        connection.eof = true;
        self.touch(&mut connection);
        self.put_back(connection);
    }

    /// The client cannot be reached any more.
    pub fn failed(&mut self, key: u64) {
        let Some(connection) = self.get_mut(key) else { return };
        connection.eof = true;
        self.lingers(key);
    }

    /// Our side of the socket is closed: nothing more is sent, and what still comes is thrown away.
    pub fn lingers(&mut self, key: u64) {
        let Some(connection) = self.get_mut(key) else { return };
        connection.closing = true;
        connection.lingering = true;
        connection.output.clear();
        self.resume(key);
    }

    /// The server stops: the client gets the replies to what it has asked for, and no more.
    pub fn close_behind_replies(&mut self, key: u64) {
        let Some(connection) = self.get_mut(key) else { return };
        connection.closing = true;
        self.resume(key);
    }

    /// Whether some client still has something to get.
    pub fn is_draining(&self) -> bool {
        let connections = self.slots.iter().filter_map(|slot| slot.connection.as_deref());
        connections.into_iter().any(|one| !one.lingering && !one.is_finished())
    }

    /// Forgets a connection whose socket is closed.
    pub fn remove(&mut self, key: u64) {
        let index = (key & 0xff_ffff) as usize;
        if self.get_mut(key).is_none() {
            return;
        }
        if let Some(mut connection) = self.slots[index].connection.take() {
            self.server.channels.forget(key, &mut connection.session.subscriptions);
            self.input_bytes -= connection.stashed();
            self.output_bytes -= connection.counted_bytes;
            match connection.is_rejected {
                true => self.rejected_now -= 1,
                false => self.server.stats.clients_now -= 1,
            }
            self.free.push(index as u32);
            if connection.session.is_link {
                self.link_closed(key);
            } else if connection.session.is_replica {
                self.server.replication.replicas.retain(|one| one.connection != key);
            }
            if self.watchers.is_needed {
                self.watchers.forget(key);
                self.watchers_changed();
            }
        }
    }

    /// The keys of clients that have been silent for too long.
    pub fn silent(&self) -> Vec<u64> {
        let timeout_ms = self.server.settings.timeout_s.saturating_mul(1000);
        let now_ms = self.engine.now.monotonic_ms;
        let is_due = |one: &&Connection| {
            !one.may_be_silent() && now_ms.saturating_sub(one.active_ms) >= timeout_ms
        };
        let connections = self.slots.iter().filter_map(|slot| slot.connection.as_deref());
        connections.filter(is_due).map(|one| one.key).collect()
    }
}
