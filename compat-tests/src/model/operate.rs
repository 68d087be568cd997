//! The commands for who operates the server.

use super::watch::{subcommand, unknown};
use super::{Answer, Command, Model, Session, admin, open};
use crate::reply::Reply;

pub(super) const COMMANDS: &[Command] =
    &[open("STOP", Model::stop), open("SHUTDOWN", Model::shutdown), admin("DEBUG", Model::debug)];

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

    fn shutdown(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if self.options.admin.is_some() && !session.authenticated {
            return Err("Unauthorized");
        }
        for word in &arguments[1..] {
            match word.to_ascii_uppercase().as_slice() {
                b"NOSAVE" | b"SAVE" | b"NOW" | b"FORCE" => {}
                b"ABORT" => return Err("No shutdown in progress."),
                _ => return Err("Unexpected arguments"),
            }
        }
        self.operation.stopped = true;
        session.closed = true;
        session.silent = true;
        Ok(Reply::Nil)
    }

    fn debug(&mut self, _: &mut Session, arguments: &[&[u8]]) -> Answer {
        match (&subcommand(arguments)?[..], &arguments[2..]) {
            (b"SLEEP", [seconds]) => {
                let seconds = std::str::from_utf8(seconds).ok().and_then(|text| text.parse().ok());
                match seconds {
                    Some(0.0..=60.0) => Ok(Reply::ok()),
                    _ => Err("Invalid argument (0 to 60 seconds)"),
                }
            }
            (b"CLEAN", []) => Ok(Reply::ok()),
            (b"HELP", []) => Ok(Reply::Array(vec![Reply::Simple("DEBUG <subcommand>".into())])),
            (b"SCRUB", [word]) => match word.to_ascii_uppercase().as_slice() {
                b"START" if self.scrub_is_off() => Err("The scrub is off: scrub-rate is 0"),
                b"START" | b"STOP" => Ok(Reply::ok()),
                _ => Err("Invalid argument (START or STOP)"),
            },
            (b"CLEAN" | b"SCRUB" | b"SLEEP" | b"HELP", _) => Err("Unexpected arguments"),
            _ => Err(unknown(arguments)),
        }
    }
}
