//! What commands ask of the hub about connections: CLIENT LIST, INFO, KILL, PAUSE, and who watches.

use super::Hub;
use super::connection::{Blocked, Connection, Reply};
use crate::command::{ClientRef, Kind, Order};
use crate::output::Output;
use crate::resp::{Protocol, ReplyWriter};

impl Hub {
    pub(super) fn carry_out(&mut self, connection: &mut Connection, order: Order) {
        let now_s = self.engine.now.unix_s();
        let now_ms = self.engine.now.monotonic_ms;
        let key = connection.key;
        match order {
            Order::List(_) | Order::Describe if connection.session.is_muted() => {}
            Order::List(filter) => {
                let others = self.slots.iter().filter_map(|slot| slot.connection.as_deref());
                let text: String = others
                    .chain([&*connection])
                    .filter(|one| filter.matches(&one.session, now_s))
                    .map(|one| self.client_line(one))
                    .collect();
                self.reply(connection, |writer| writer.verbatim(&text));
            }
            Order::Describe => {
                let text = self.client_line(connection);
                self.reply(connection, |writer| writer.verbatim(&text));
            }
            Order::Kill { filter, old_form } => {
                let mut count = 0;
                for key in self.keys() {
                    let Some(mut other) = self.take(key) else { continue };
                    if filter.matches(&other.session, now_s) && !other.closing {
                        other.is_killed = true;
                        other.closing = true;
                        count += 1;
                        // Nobody is told of it any more, though its socket is still open for a moment.
                        let subscriptions = &mut other.session.subscriptions;
                        self.server.channels.forget(key, subscriptions);
                        self.touch(&mut other);
                    }
                    self.put_back(other);
                }
                let me = !filter.not_me && filter.matches(&connection.session, now_s);
                count += i64::from(me);
                self.reply(connection, |writer| match (old_form, count) {
                    (false, _) => writer.integer(count),
                    (true, 0) => writer.error("No such client"),
                    (true, _) => writer.simple("OK"),
                });
                // It gets its reply.
                connection.closing |= me;
            }
            Order::Pause { ms, all } => {
                self.watchers.pause(now_ms + ms, all);
                self.reply(connection, |writer| writer.simple("OK"));
            }
            Order::Unpause => {
                self.watchers.unpause();
                self.reply(connection, |writer| writer.simple("OK"));
            }
            Order::Monitor => {
                connection.session.is_monitor = true;
                self.watchers.monitor(key);
            }
            Order::Mirror => {
                connection.session.is_mirror = true;
                self.watchers.mirror(key);
            }
            Order::Publish { channel, message } => self.publish(connection, &channel, &message),
            Order::Wait { command, ms } => self.watchers.wait(key, command, now_ms + ms),
            Order::Follow(master) => {
                let is_new = self.change_master(master);
                if is_new && connection.waits_for_log() {
                    // Nobody knows whether what it wrote is kept.
                    connection.drop_replies();
                    connection.is_killed = true;
                    connection.closing = true;
                }
                let text = match is_new {
                    true => "OK",
                    false => "OK Already connected to specified master",
                };
                self.reply(connection, |writer| writer.simple(text));
            }
            Order::Sync(request) => self.syncs.push((key, *request)),
            Order::Acknowledged(position) => self.acknowledged(connection, position),
            Order::WaitReplicas { count, ms } => {
                let is_muted = connection.session.is_muted();
                connection.push_reply(Reply::Waiting { bytes: 16, is_muted, timed: None });
                let reply = connection.next_reply() - 1;
                connection.blocked = Blocked::OnTask { reply };
                self.wait_for_replicas(ClientRef { connection: key, reply }, count, ms);
            }
            Order::Unwatch => {
                connection.session.is_monitor = false;
                connection.session.is_mirror = false;
                self.watchers.forget(key);
            }
        }
        let session = &connection.session;
        connection.is_watching =
            session.is_monitor || session.is_mirror || self.watchers.is_waiting(key);
        self.watchers_changed();
    }

    /// Puts a reply behind those that are there.
    pub(super) fn reply(
        &self,
        connection: &mut Connection,
        write: impl FnOnce(&mut ReplyWriter<'_>),
    ) {
        if connection.session.is_muted() {
            return;
        }
        let mut output = Output::default();
        write(&mut output.writer(connection.session.protocol));
        connection.turn_bytes += output.len();
        connection.push_reply(Reply::Ready { output, rests_on: 0, turn: 0 });
        connection.release(self.engine.log.acknowledged(), false);
    }

    /// One line of CLIENT LIST, with Redis's names for the fields that mean something here.
    fn client_line(&self, one: &Connection) -> String {
        let session = &one.session;
        let now_s = self.engine.now.unix_s();
        let namespace = self.engine.namespaces.get(session.slot);
        let namespace = namespace.map_or(&b""[..], |namespace| &namespace.name);
        let input = one.stashed();
        let (queued, queued_bytes) = one.queued();
        let waiting = one.waiting_bytes();
        let flags: String = [
            (session.is_monitor || session.is_mirror, 'O'),
            (session.is_master, 'M'),
            (!session.subscriptions.is_empty(), 'P'),
            (self.watchers.is_waiting(one.key) || one.blocked == Blocked::OnPause, 'b'),
            (session.transaction.is_some(), 'x'),
            (one.closing, 'c'),
        ]
        .into_iter()
        .filter_map(|(is_so, flag)| is_so.then_some(flag))
        .collect();
        format!(
            "id={} addr={} laddr={} name={} age={} idle={} flags={} db={} ns={} sub={} psub={} ssub=0 multi={} \
             watch=0 qbuf={input} obl={waiting} oll={queued} omem={queued_bytes} tot-mem={} events={} cmd={} \
             user=default redir=-1 resp={} lib-name={} lib-ver={}\n",
            session.id,
            session.peer,
            session.local_address,
            String::from_utf8_lossy(&session.name),
            now_s.saturating_sub(session.connected_s),
            now_s.saturating_sub(session.last_command_s),
            if flags.is_empty() { "N" } else { &flags },
            session.slot,
            String::from_utf8_lossy(namespace).escape_default(),
            session.subscriptions.count(Kind::Channel),
            session.subscriptions.count(Kind::Pattern),
            session.transaction.as_ref().map_or(-1, |one| one.count() as i64),
            size_of::<Connection>() + input + waiting + queued_bytes,
            if one.in_flight > 0 { "rw" } else { "r" },
            session.last_command,
            if session.protocol == Protocol::Resp3 { 3 } else { 2 },
            String::from_utf8_lossy(&session.library_name),
            String::from_utf8_lossy(&session.library_version),
        )
    }
}
