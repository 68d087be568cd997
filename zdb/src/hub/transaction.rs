//! EXEC: the requests of a MULTI, one after the other in one go. Their replies follow the head of an array, so
//! that nothing that comes unasked may stand between them.

use super::Hub;
use super::connection::Connection;
use crate::command::{self, Outcome, Transaction};
use crate::resp::Request;

impl Hub {
    pub(super) fn run_transaction(&mut self, connection: &mut Connection, requests: &Transaction) {
        // That of EXEC, which the caller goes on with.
        let running = connection.session.running;
        connection.is_in_transaction = true;
        requests.for_each(|request| self.run_part(connection, request));
        connection.is_in_transaction = false;
        connection.push_held_back();
        connection.release(self.engine.log.acknowledged(), self.engine.log.broken().is_some());
        if connection.waits_for_log() {
            self.wait_for_log(connection);
        }
        connection.session.running = running;
    }

    fn run_part(&mut self, connection: &mut Connection, request: Request<'_>) {
        let since_ns = self.clock_ns();
        let outcome =
            self.step(connection, None, |context, out| command::execute(context, request, out));
        match outcome {
            Outcome::Done | Outcome::DoneAt(_) => {}
            Outcome::Order(order) => self.carry_out(connection, *order),
            Outcome::Later { .. } => connection.time_reply(self.timed(connection, request)),
            // Its namespace is gone; the requests behind it are told the same.
            Outcome::Close => connection.closing = true,
            Outcome::Stop
            | Outcome::Failed
            | Outcome::Parts(_)
            | Outcome::Transaction(_)
            | Outcome::NeedsRecord
            | Outcome::NeedsLog => unreachable!("the table lets no command wait in a transaction"),
        }
        let running = connection.session.running;
        if let Some(command) = running.command.filter(|_| !running.is_rejected) {
            let took_ns = self.clock_ns().saturating_sub(since_ns);
            self.server.latencies.record(usize::from(command), took_ns, 1);
        }
        if self.watchers.is_needed {
            self.show(connection, request, self.watchers.owner);
        }
    }
}
