//! MULTI, EXEC and DISCARD.

use super::{Answer, Command, Model, Session, exact, open};
use crate::reply::Reply;

pub(super) const COMMANDS: &[Command] =
    &[open("MULTI", Model::multi), open("EXEC", Model::exec), open("DISCARD", Model::discard)];

const REQUESTS_MAX: usize = 64;
const BYTES_MAX: usize = 64 << 10;
/// What may be between MULTI and EXEC.
const QUEUED: &[&str] = &[
    "CLIENT",
    "CONFIG",
    "DBSIZE",
    "ECHO",
    "INFO",
    "LATENCY",
    "NSINFO",
    "PING",
    "PUBLISH",
    "PUBSUB",
    "REPLICAOF",
    "ROLE",
    "SELECT",
    "SLAVEOF",
    "SLOWLOG",
    "TIME",
];
const AT_ONCE: &[&str] = &["DISCARD", "EXEC", "MULTI", "QUIT", "RESET"];
/// Of other commands of the model, how many words they take at least: fewer are refused before.
const AT_LEAST: &[(&str, usize)] =
    &[("CLIENT", 2), ("CONFIG", 2), ("LATENCY", 2), ("PUBLISH", 3), ("PUBSUB", 2), ("SLOWLOG", 2)];

/// The requests since MULTI.
#[derive(Clone, Debug, Default)]
pub(super) struct Transaction {
    requests: Vec<Vec<Vec<u8>>>,
    pub is_spoilt: bool,
}

impl Transaction {
    fn bytes(&self) -> usize {
        self.requests.iter().flatten().map(Vec::len).sum()
    }
}

impl Model {
    /// What a request is answered that is not run now; `None`: it is.
    pub(super) fn queue(
        &mut self,
        session: &mut Session,
        name: &'static str,
        arguments: &[&[u8]],
    ) -> Option<Answer> {
        let transaction = session.transaction.as_mut()?;
        if AT_ONCE.contains(&name) {
            return None;
        }
        let least =
            AT_LEAST.iter().find(|(known, _)| *known == name).map_or(0, |(_, least)| *least);
        let is_reply = name == "CLIENT"
            && arguments.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"REPLY"));
        let bytes: usize = arguments.iter().map(|word| word.len()).sum();
        let refusal = if arguments.len() < least {
            "Missing arguments"
        } else if is_reply || !QUEUED.contains(&name) {
            format!(
                "{} cannot be between MULTI and EXEC: only commands about the server and its clients can, \
                 which never wait, so that nothing comes between them. MSET and SET with NX, XX or IFEQ are \
                 atomic",
                if is_reply { "CLIENT REPLY" } else { name }
            )
            .leak()
        } else if transaction.requests.len() >= REQUESTS_MAX {
            "Too many requests in one MULTI (at most 64)"
        } else if transaction.bytes() + bytes > BYTES_MAX {
            "Too long requests in one MULTI (at most 65536 bytes)"
        } else {
            transaction.requests.push(arguments.iter().map(|word| word.to_vec()).collect());
            return Some(Ok(Reply::Simple("QUEUED".into())));
        };
        transaction.is_spoilt = true;
        Some(Err(refusal))
    }

    fn multi(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        exact(arguments, 1).inspect_err(|_| session.spoil())?;
        if session.transaction.is_some() {
            return Err("MULTI calls can not be nested");
        }
        session.transaction = Some(Transaction::default());
        Ok(Reply::ok())
    }

    fn exec(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        exact(arguments, 1).inspect_err(|_| session.spoil())?;
        let transaction = session.transaction.take().ok_or("EXEC without MULTI")?;
        if transaction.is_spoilt {
            return Err("EXECABORT Transaction discarded because of previous errors.");
        }
        let mut replies = Vec::new();
        for request in &transaction.requests {
            let words: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            replies.push(self.run(session, &words).unwrap_or_else(Reply::error));
        }
        Ok(Reply::Array(replies))
    }

    fn discard(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        exact(arguments, 1).inspect_err(|_| session.spoil())?;
        session.transaction.take().ok_or("DISCARD without MULTI")?;
        Ok(Reply::ok())
    }
}

impl Session {
    /// A request between MULTI and EXEC was refused.
    pub(super) fn spoil(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.is_spoilt = true;
        }
    }
}
