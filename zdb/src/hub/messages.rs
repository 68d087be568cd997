//! PUBLISH: a message on its way to all who are subscribed. Who does not take it never holds up the others:
//! `push` lets go of a connection for which too much waits.

use super::Hub;
use super::connection::Connection;
use crate::command::{Kind, Receiver};
use crate::output::Output;
use crate::resp::Protocol;
use bytes::Bytes;

impl Hub {
    /// Sends a message to all who are subscribed, answers how many there are, and only then sends it to who
    /// published it, where that is one of them: its reply comes first.
    pub(super) fn publish(
        &mut self,
        connection: &mut Connection,
        channel: &Bytes,
        message: &Bytes,
    ) {
        let channels = &self.server.channels;
        // Patterns take time even where nobody gets anything: a byte to compare counts like one to send.
        connection.turn_bytes += channels.count(Kind::Pattern) * channel.len();
        let mut count = 0;
        let mut own = Vec::new();
        for receiver in channels.receivers(channel) {
            let key = receiver.connection;
            if key == connection.key {
                let protocol = connection.session.protocol;
                own.push(written(protocol, &receiver, channel, message));
                count += 1;
            } else if let Some(other) = self.get_mut(key).filter(|other| !other.closing) {
                let output = written(other.session.protocol, &receiver, channel, message);
                connection.turn_bytes += output.len();
                self.push(key, output);
                count += 1;
            }
        }
        self.reply(connection, |writer| writer.integer(count));
        for output in own {
            connection.turn_bytes += output.len();
            self.push_to(connection, output);
        }
    }
}

/// A message as a subscriber gets it; a large one is shared by all.
fn written(protocol: Protocol, receiver: &Receiver, channel: &Bytes, message: &Bytes) -> Output {
    let mut output = Output::default();
    let mut writer = output.writer(protocol);
    match &receiver.pattern {
        None => {
            writer.push(3);
            writer.bulk(b"message");
        }
        Some(pattern) => {
            writer.push(4);
            writer.bulk(b"pmessage");
            writer.bulk(pattern);
        }
    }
    writer.bulk(channel);
    output.bulk(protocol, message, Some(message));
    output
}
