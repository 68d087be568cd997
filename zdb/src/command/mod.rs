//! Commands as a table, and the one gatekeeper that asks the same questions in the same order.

mod argument;
mod auth;
mod batch;
mod catalogue;
mod channels;
mod client;
mod condition;
mod config;
mod control;
mod files;
mod glob;
mod help;
mod hooks;
mod info;
mod keys;
mod latency;
mod machine;
mod measure;
mod namespaces;
mod number;
mod order;
mod publish;
mod rates;
mod raw;
mod redact;
mod refused;
pub mod replication;
mod scan;
mod session;
mod settings;
mod slowlog;
mod system;
mod table;
mod task;
mod throttle;
mod transaction;
mod watch;
mod write;

pub use channels::{Channels, Kind, Receiver, Subscriptions};
pub use config::FILE_NAME as SETTINGS_FILE_NAME;
pub use hooks::{HookRun, HookRuns};
pub use machine::{Machine, ProcessUsage};
pub use measure::{CommandCost, Histogram, Latencies};
pub use order::{ClientFilter, Order};
pub use rates::Rates;
pub use redact::{Audience, quoted, redacted};
pub use session::{Replies, Running, Session};
pub use settings::Settings;
pub use slowlog::{SlowLog, kept_arguments};
pub use table::{COMMANDS, Command, Table};
pub use task::{ClientRef, Finished, Task, Tasks};
pub use throttle::{Source, Throttle};
pub use transaction::Transaction;

use crate::engine::index::KeyHash;
use crate::engine::namespace::{Access, Namespace};
use crate::engine::{Engine, Fetched, Waiter};
use crate::output::Output;
use crate::resp::{ReplyWriter, Request};
use replication::{Gate, Replication};
use task::TaskKind;

/// How a request went.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply is written.
    Done,
    /// The reply is written, and may be sent once the log is acknowledged up to this position.
    DoneAt(u64),
    /// A task will reply; requests behind this one go on, unless it wants to be alone. With an estimate of
    /// the reply's bytes.
    Later { bytes: usize, alone: bool },
    /// Nothing happened yet: run the request again when its record was read.
    NeedsRecord,
    /// Nothing happened yet: run the request again when the log has moved.
    NeedsLog,
    /// The request goes on in parts, one `part` for each of its arguments.
    Parts(usize),
    /// The hub has something to do with other connections. Where nothing is written yet, it replies.
    Order(Box<Order>),
    /// The head of the reply is written: run these requests in one go, each of which writes its part.
    Transaction(Box<Transaction>),
    /// Of a part: the reply is written and the rest of the request is not run.
    Failed,
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
    pub settings: Settings,
    /// What a restart could change, for CONFIG GET: names and values.
    pub fixed_settings: Vec<(&'static str, String)>,
    pub random: FillRandom,
    pub machine: Machine,
    pub instance_id: u32,
    pub boot_s: u64,
    /// The most that `maxclients` may be: as many as the limit of open files allows.
    pub clients_possible: u64,
    pub throttle: Throttle,
    pub hooks: HookRuns,
    pub stats: ServerStats,
    pub rates: Rates,
    pub latencies: Latencies,
    pub slow_log: SlowLog,
    pub channels: Channels,
    /// The kernel encrypts the connections that let it.
    pub tls_kernel: bool,
    pub replication: Replication,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ServerStats {
    pub clients_lifetime: u64,
    pub clients_now: u64,
    /// Clients that wait for others: WAIT, CLIENT PAUSE.
    pub clients_blocked: u64,
    /// Clients turned away: too many of them, or strangers in protected mode.
    pub rejected_connections: u64,
    /// Clients let go after the silence that `timeout` allows.
    pub timed_out_connections: u64,
    /// From the hub's thread to another.
    pub connections_moved: u64,
    /// Clients let go since they did not take what is sent unasked.
    pub output_limit_disconnections: u64,
    pub tls_handshakes: u64,
    pub tls_handshakes_failed: u64,
    /// Those after which the kernel took over.
    pub tls_handshakes_kernel: u64,
    pub passwords_wrong: u64,
    /// Passwords of peers that had too many wrong ones.
    pub passwords_not_looked_at: u64,
    pub commands: u64,
    pub commands_failed: u64,
    pub commands_unauthorized: u64,
    /// Replies that were errors.
    pub errors: u64,
    /// Reads of one key that found it, or not.
    pub hits: u64,
    pub misses: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

impl ServerState {
    /// Why this peer is not served: without a password everybody is admin, so only who is on this machine
    /// or shows a certificate that this server's authority signed may be everybody.
    pub fn refuse_stranger(&self, peer: &crate::hub::Peer) -> Option<&'static str> {
        (self.admin_password.is_none() && !peer.local && !peer.verified).then_some(PROTECTED)
    }

    pub fn new_session(&self, id: u64, peer: crate::hub::Peer, now_s: u64) -> Session {
        Session {
            id,
            slot: 0,
            namespace: 0,
            origin: 0,
            unlinked: Default::default(),
            admin: self.admin_password.is_none(),
            authenticated: false,
            writable: !self.protect,
            admin_at_first: self.admin_password.is_none(),
            writable_at_first: !self.protect,
            local: peer.local,
            source: peer.source,
            protocol: crate::resp::Protocol::Resp2,
            challenge: None,
            name: Vec::new(),
            library_name: Vec::new(),
            library_version: Vec::new(),
            peer: peer.name,
            local_address: peer.local_address,
            connected_s: now_s,
            last_command: "NULL",
            last_command_s: now_s,
            running: Running::default(),
            replies: Replies::On,
            subscriptions: Subscriptions::default(),
            transaction: None,
            is_monitor: false,
            is_mirror: false,
            is_master: false,
            is_replica: false,
            is_link: false,
        }
    }

    /// The value of a setting that does not change.
    pub fn fixed_setting(&self, name: &str) -> &str {
        self.fixed_settings.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
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

    /// A task that will answer the request; whom to tell what it waits for.
    fn add_task(&mut self, kind: TaskKind) -> Waiter {
        self.tasks.add(Task {
            client: self.client,
            protocol: self.session.protocol,
            slot: self.session.slot,
            namespace: self.session.namespace,
            kind,
        })
    }

    pub fn error(&self, out: &mut Output, text: &str) -> Outcome {
        self.writer(out).error(text);
        Outcome::Done
    }

    pub fn ok(&self, out: &mut Output) -> Outcome {
        self.writer(out).simple("OK");
        Outcome::Done
    }

    /// The lines of a HELP.
    fn help(&self, out: &mut Output, lines: &[&str]) -> Outcome {
        let mut writer = self.writer(out);
        writer.array(lines.len());
        lines.iter().for_each(|line| writer.simple(line));
        Outcome::Done
    }

    /// The error for a subcommand that a command does not have.
    fn unknown_subcommand(&self, out: &mut Output, request: Request<'_>) -> Outcome {
        let (name, word) = (request.get(0).to_ascii_uppercase(), request.get(1));
        let text = refused::subcommand(&name, word).unwrap_or_else(|| {
            let name = String::from_utf8_lossy(&name);
            format!("Unknown {name} subcommand ({name} HELP lists them)")
        });
        self.error(out, &text)
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

    /// Whether the session's namespace is still the one it selected, perhaps flushed meanwhile.
    pub fn attach(&mut self) -> bool {
        let namespace = self.engine.namespaces.get(self.session.slot);
        let Some(namespace) = namespace.filter(|one| one.origin == self.session.origin) else {
            return false;
        };
        self.session.namespace = namespace.id;
        true
    }
}

/// A word of a client in an error: short, and with nothing that a terminal would act on.
fn shown(word: &[u8]) -> String {
    const CHARACTERS_MAX: usize = 32;
    let text = word.escape_ascii().to_string();
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

const PROTECTED: &str = "DENIED zdb is running in protected mode because it has no admin password and this \
    connection shows no verified TLS client certificate. In this mode only clients on loopback and on the \
    unix socket are served. To serve others, restart zdb in one of these ways: 1) with a password, by \
    --admin-file FILE or --admin PASS, which clients then give with AUTH; 2) with --tls-port, --tls-cert, \
    --tls-key and --tls-ca, which clients then reach with a certificate of their own.";

/// What a connection with subscriptions may do on RESP2, where a message cannot be told from a reply.
const SUBSCRIBED: &[&str] =
    &["ping", "psubscribe", "punsubscribe", "quit", "reset", "subscribe", "unsubscribe"];

/// What was asked for is in a segment that was moved away, and did not come back.
pub const AWAY: &str = "Internal Error (the segment is away)";
pub const DETACHED: &str = "Your active namespace is not available anymore (probably removed).";

/// Runs one request.
pub fn execute(context: &mut Context<'_>, request: Request<'_>, out: &mut Output) -> Outcome {
    context.session.running = Running::default();
    if !context.attach() {
        context.error(out, DETACHED);
        return Outcome::Close;
    }
    let name = request.get(0);
    let Some(at) = context.server.table.position(name) else {
        context.server.stats.commands_failed += 1;
        context.session.spoil_transaction();
        return unknown(context, name, out);
    };
    let command = &COMMANDS[at];
    context.session.running.command = Some(at as u8);
    context.server.stats.commands += 1;
    context.session.last_command = command.name;
    context.session.last_command_s = context.engine.now.unix_s();
    if command.admin && !context.session.admin {
        context.server.stats.commands_unauthorized += 1;
        return reject(context, at, "Permission denied", out);
    }
    if let Some(text) = command.arity.refuse(request) {
        return reject(context, at, text, out);
    }
    let gate = context.server.replication.gate;
    if gate != Gate::Open && context.server.table.writes(at) {
        context.server.replication.writes_refused += u64::from(gate == Gate::NoReplicas);
        return reject(context, at, gate.text(), out);
    }
    if context.session.hears_messages_only() && !SUBSCRIBED.contains(&command.name) {
        let text = format!(
            "Can't execute '{}': only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
             this context",
            command.name
        );
        return reject(context, at, &text, out);
    }
    if context.session.transaction.is_some()
        && let Some(queued) = transaction::queue(context, at, request, out)
    {
        if let Err(text) = queued {
            return reject(context, at, &text, out);
        }
        // It counts, and shows, when it is run.
        context.server.stats.commands -= 1;
        context.session.running.command = None;
        return Outcome::Done;
    }
    if !context.server.table.is_fast(at) {
        context.session.running.since_ns = Some((context.server.machine.clock_ns)());
    }
    (command.run)(context, request, out)
}

/// Answers a request that does not get to its command; nor does the transaction that it was to be in.
fn reject(context: &mut Context<'_>, command: usize, text: &str, out: &mut Output) -> Outcome {
    context.session.running.is_rejected = true;
    context.session.spoil_transaction();
    context.server.latencies.rejected(command);
    context.error(out, text)
}

/// Runs one part of a request that goes on in parts: that for argument `at`.
pub fn part(
    context: &mut Context<'_>,
    request: Request<'_>,
    at: usize,
    out: &mut Output,
) -> Outcome {
    if request.get(0).eq_ignore_ascii_case(b"UNLINK") {
        return write::unlink_part(context, request.get(at), at + 1 == request.len(), out);
    }
    keys::multi_get_part(context, request.get(at), out)
}

fn unknown(context: &Context<'_>, name: &[u8], out: &mut Output) -> Outcome {
    if name == b"*" {
        return context.error(out, "This is not a valid command");
    }
    let text = refused::command(name);
    context.error(out, text.as_deref().unwrap_or("Command not supported"))
}
