//! Commands as a table, and the one gatekeeper that asks the same questions in the same order.

mod keys;
mod namespaces;
mod number;
mod scan;
mod session;
mod system;
mod table;
mod task;
mod write;

pub use keys::multi_get_part;
pub use session::Session;
pub use system::client_line;
pub use table::{COMMANDS, Command, Table};
pub use task::{ClientRef, Finished, Task, Tasks};

use crate::engine::index::KeyHash;
use crate::engine::namespace::{Access, Namespace};
use crate::engine::{Engine, Fetched};
use crate::output::Output;
use crate::resp::{ReplyWriter, Request};

/// How a request went.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply is written.
    Done,
    /// The reply is written, and may be sent once the log is acknowledged up to this position.
    DoneAt(u64),
    /// A task will reply; requests behind this one go on. With an estimate of the reply's bytes.
    Later { bytes: usize },
    /// Nothing happened yet: run the request again when its record was read.
    NeedsRecord,
    /// Nothing happened yet: run the request again when the log has moved.
    NeedsLog,
    /// The header of an array is written; the elements follow, one `multi_get_part` each.
    Parts(usize),
    /// The reply is the list of all connections, in the form of CLIENT LIST.
    ListClients,
    /// Reply, then close the connection.
    Close,
    /// Reply, then stop the server.
    Stop,
}

/// Everything a command may touch.
pub struct Context<'a> {
    pub engine: &'a mut Engine,
    pub session: &'a mut Session,
    pub server: &'a mut ServerState,
    pub tasks: &'a mut Tasks,
    /// Whom a task answers.
    pub client: ClientRef,
    /// The hash of the request's second word, where the hub has it already.
    pub hash: Option<KeyHash>,
    /// The records that the request asked for when it was run before.
    pub fetched: &'a [Fetched],
}

/// Fills a buffer with random bytes: the door to the machine's randomness.
pub type FillRandom = Box<dyn FnMut(&mut [u8])>;

/// What belongs to the server as a whole.
pub struct ServerState {
    pub table: Table,
    pub admin_password: Option<Vec<u8>>,
    /// New connections are read-only in `default` until they select it with the admin password.
    pub protect: bool,
    /// `--mode`: all namespaces have it, NSSET mode is refused.
    pub mode: Option<crate::engine::namespace::Mode>,
    pub data_path: String,
    pub index_path: String,
    /// For CONFIG GET: names and values.
    pub settings: Vec<(&'static str, String)>,
    pub random: FillRandom,
    pub instance_id: u32,
    pub boot_s: u64,
    pub stats: ServerStats,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ServerStats {
    pub clients_lifetime: u64,
    pub clients_now: u64,
    pub commands: u64,
    pub commands_failed: u64,
    pub commands_unauthorized: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

impl ServerState {
    pub fn new_session(&self, id: u64, peer: crate::hub::Peer, now_s: u64) -> Session {
        Session {
            id,
            slot: 0,
            namespace: 0,
            admin: self.admin_password.is_none(),
            authenticated: false,
            writable: !self.protect,
            local: peer.local,
            protocol: crate::resp::Protocol::Resp2,
            challenge: None,
            name: Vec::new(),
            library_name: Vec::new(),
            library_version: Vec::new(),
            peer: peer.name,
            connected_s: now_s,
            last_command: "NULL",
            last_command_s: now_s,
        }
    }
}

impl Context<'_> {
    pub fn namespace(&self) -> &Namespace {
        self.engine.namespaces.get(self.session.slot).expect("the gatekeeper looked")
    }

    /// The hash of the key that is the request's second word.
    fn key_hash(&self, key: &[u8]) -> KeyHash {
        self.hash.unwrap_or_else(|| self.engine.hash(key))
    }

    pub fn error(&self, out: &mut Output, text: &str) -> Outcome {
        self.writer(out).error(text);
        Outcome::Done
    }

    pub fn ok(&self, out: &mut Output) -> Outcome {
        self.writer(out).simple("OK");
        Outcome::Done
    }

    pub fn writer<'o>(&self, out: &'o mut Output) -> ReplyWriter<'o> {
        out.writer(self.session.protocol)
    }

    /// A reply that rests on the log up to `end`. A broken log acknowledges nothing more, and reads go
    /// on from what is in memory and on the disk.
    pub fn done_at(&self, end: u64) -> Outcome {
        let log = &self.engine.log;
        if end <= log.acknowledged() || log.broken().is_some() {
            Outcome::Done
        } else {
            Outcome::DoneAt(end)
        }
    }

    /// Answers where the namespace is frozen.
    pub fn refuse_frozen(&self, out: &mut Output) -> Option<Outcome> {
        (self.namespace().settings.access == Access::Frozen)
            .then(|| self.error(out, "Namespace is temporarily frozen (read-write disabled)"))
    }

    /// Answers where this connection may not write here now.
    pub fn refuse_write(&self, out: &mut Output) -> Option<Outcome> {
        if !self.session.writable {
            return Some(self.error(out, "Namespace is in read-only mode"));
        }
        if self.namespace().settings.access == Access::Locked {
            return Some(self.error(out, "Namespace is temporarily locked (read-only)"));
        }
        self.refuse_frozen(out)
    }

    /// Whether the session's namespace is still the one it selected.
    pub fn is_attached(&self) -> bool {
        self.engine
            .namespaces
            .get(self.session.slot)
            .is_some_and(|namespace| namespace.id == self.session.namespace)
    }
}

pub const DETACHED: &str = "Your active namespace is not available anymore (probably removed).";

/// Runs one request.
pub fn execute(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    if !context.is_attached() {
        context.error(out, DETACHED);
        return Outcome::Close;
    }
    let name = request.get(0);
    let Some(command) = context.server.table.find(name) else {
        context.server.stats.commands_failed += 1;
        return unknown(context, name, out);
    };
    context.server.stats.commands += 1;
    context.session.last_command = command.name;
    context.session.last_command_s = context.engine.now.unix_s();
    if command.admin && !context.session.admin {
        context.server.stats.commands_unauthorized += 1;
        return context.error(out, "Permission denied");
    }
    if let Some(text) = command.arity.refuse(request) {
        return context.error(out, text);
    }
    (command.run)(context, request, out)
}

fn unknown(context: &Context<'_>, name: &[u8], out: &mut Output) -> Outcome {
    if name == b"*" {
        return context.error(out, "This is not a valid command");
    }
    match table::later(name) {
        Some(later) => {
            context.error(out, &format!("Command not supported ({later} is not built yet)"))
        }
        None => context.error(out, "Command not supported"),
    }
}
