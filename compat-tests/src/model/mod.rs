//! A reference implementation of zdb's commands, in memory: what a reply must be, without the how.
//!
//! It is deterministic: the time is handed in, challenges come from a counter. Cursors and tokens are
//! its own; clients must treat a server's as opaque, so a comparison captures and sends them back.
//!
//! ```
//! use compat_tests::{Model, Reply, args};
//! let mut model = Model::new(Default::default());
//! let mut session = model.session();
//! assert_eq!(model.execute(&mut session, args!["SET", "key", "value"]), Reply::bulk("key"));
//! assert_eq!(model.execute(&mut session, args!["GET", "key"]), Reply::bulk("value"));
//! ```

mod connection;
mod keys;
mod namespace;
mod settings;

pub use connection::secure_answer;
pub use namespace::{Mode, Namespace, Version};

use crate::reply::Reply;
use bytes::Bytes;
use std::time::Duration;

/// The options of the server that change replies.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--admin`
    pub admin: Option<String>,
    /// `--protect`
    pub protect: bool,
    /// `--mode`
    pub mode: Option<Mode>,
    /// `--maxsize`, bytes, 0 = no limit
    pub maxsize: u64,
}

/// A reply, or the text of an error.
type Answer = Result<Reply, &'static str>;
type Handler = fn(&mut Model, &mut Session, &[&[u8]]) -> Answer;

struct Command {
    name: &'static str,
    admin: bool,
    handler: Handler,
}

const fn open(name: &'static str, handler: Handler) -> Command {
    Command { name, admin: false, handler }
}

const fn admin(name: &'static str, handler: Handler) -> Command {
    Command { name, admin: true, handler }
}

const COMMANDS: &[Command] = &[
    open("SET", Model::set),
    open("SETX", Model::set),
    open("GET", Model::get),
    open("MGET", Model::mget),
    open("DEL", Model::del),
    open("EXISTS", Model::exists),
    open("CHECK", Model::check),
    open("LENGTH", Model::length),
    open("KEYTIME", Model::keytime),
    open("SCAN", Model::scan),
    open("SCANX", Model::scan),
    open("RSCAN", Model::rscan),
    open("KEYCUR", Model::keycur),
    open("HISTORY", Model::history),
    open("DBSIZE", Model::dbsize),
    open("PING", |_, _, _| Ok(Reply::Simple("PONG".into()))),
    open("TIME", Model::time),
    open("INFO", Model::info),
    open("AUTH", Model::auth),
    open("SELECT", Model::select),
    admin("NSNEW", Model::nsnew),
    admin("NSDEL", Model::nsdel),
    open("NSLIST", Model::nslist),
    open("NSINFO", Model::nsinfo),
    admin("NSSET", Model::nsset),
    open("STOP", Model::stop),
    open("HELLO", Model::hello),
    open("COMMAND", Model::command),
    open("CLIENT", Model::client),
    open("CONFIG", Model::config),
    open("ECHO", Model::echo),
    open("QUIT", Model::quit),
];

/// What the server knows of one connection.
#[derive(Clone, Debug)]
pub struct Session {
    id: u64,
    /// The id of the selected namespace.
    namespace: u64,
    admin: bool,
    authenticated: bool,
    writable: bool,
    challenge: Option<String>,
    protocol: u8,
    name: Bytes,
    closed: bool,
}

impl Session {
    /// Whether the server has closed the connection: it gets no more replies.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

#[derive(Clone, Debug)]
pub struct Model {
    options: Options,
    /// In the order of their creation, `default` first.
    namespaces: Vec<Namespace>,
    namespace_count_ever: u64,
    session_count: u64,
    challenge_count: u64,
    now: Duration,
    stopped: bool,
}

impl Model {
    pub fn new(options: Options) -> Model {
        let mut default =
            Namespace::new(0, Bytes::from_static(b"default"), options.mode.unwrap_or(Mode::User));
        default.maxsize = options.maxsize;
        if options.protect {
            default.password = options.admin.clone().map(Bytes::from);
        }
        Model {
            options,
            namespaces: vec![default],
            namespace_count_ever: 1,
            session_count: 0,
            challenge_count: 0,
            now: Duration::ZERO,
            stopped: false,
        }
    }

    /// A new connection.
    pub fn session(&mut self) -> Session {
        self.session_count += 1;
        Session {
            id: self.session_count,
            namespace: 0,
            admin: self.options.admin.is_none(),
            authenticated: false,
            writable: !self.options.protect,
            challenge: None,
            protocol: 2,
            name: Bytes::new(),
            closed: false,
        }
    }

    /// The time of all that follows, since the Unix epoch.
    pub fn set_time(&mut self, now: Duration) {
        self.now = now;
    }

    /// A stop and a start: data and settings stay, sessions from before must not be used again.
    pub fn restart(&mut self) {
        self.stopped = false;
    }

    /// Whether STOP has ended the server.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The namespaces in the order of their creation.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// The names of all commands.
    pub fn command_names() -> impl Iterator<Item = &'static str> {
        COMMANDS.iter().map(|command| command.name)
    }

    /// One request, the command's name first.
    pub fn execute(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Reply {
        assert!(!session.closed, "a closed connection sends nothing");
        let reply = match self.dispatch(session, arguments) {
            Ok(reply) => reply,
            Err(text) => Reply::error(text),
        };
        if session.protocol == 3 { reply } else { reply.flattened() }
    }

    fn dispatch(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if !self.namespaces.iter().any(|namespace| namespace.id == session.namespace) {
            session.closed = true;
            return Err("Your active namespace is not available anymore (probably removed).");
        }
        if arguments[0] == b"*" {
            return Err("This is not a valid command");
        }
        let command = COMMANDS
            .iter()
            .find(|command| command.name.as_bytes().eq_ignore_ascii_case(arguments[0]))
            .ok_or("Command not supported")?;
        if command.admin && !session.admin {
            return Err("Permission denied");
        }
        (command.handler)(self, session, arguments)
    }

    fn current(&mut self, session: &Session) -> &mut Namespace {
        self.namespaces
            .iter_mut()
            .find(|namespace| namespace.id == session.namespace)
            .expect("dispatch has looked")
    }

    fn find(&mut self, name: &[u8]) -> Option<&mut Namespace> {
        self.namespaces.iter_mut().find(|namespace| namespace.name == name)
    }
}

/// The rule of the commands with a fixed number of arguments.
fn exact(arguments: &[&[u8]], count: usize) -> Result<(), &'static str> {
    if arguments.len() != count {
        return Err("Unexpected arguments");
    }
    if arguments.iter().any(|argument| argument.is_empty()) {
        return Err("Invalid argument");
    }
    Ok(())
}

/// C's `atoll`: blanks, a sign, digits; anything else ends it.
fn atoll(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let value = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0i64, |value, byte| value.saturating_mul(10).saturating_add(i64::from(byte - b'0')));
    if negative { -value } else { value }
}
