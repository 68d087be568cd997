//! The commands for who operates the server.

use super::{Answer, Command, Model, Session, open};
use crate::reply::Reply;

pub(super) const COMMANDS: &[Command] = &[open("STOP", Model::stop)];

/// What these commands keep for the whole server.
#[derive(Clone, Debug, Default)]
pub(super) struct Operation {
    pub stopped: bool,
}

impl Model {
    pub(super) fn stop(&mut self, session: &mut Session, _: &[&[u8]]) -> Answer {
        if self.options.admin.is_some() && !session.authenticated {
            return Err("Unauthorized");
        }
        self.operation.stopped = true;
        session.closed = true;
        Ok(Reply::Simple("Stopping".into()))
    }
}
