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
mod files;
mod habits;
mod keys;
mod messages;
mod namespace;
mod operate;
mod replicas;
mod settings;
mod transaction;
mod walk;
mod watch;
mod watchers;

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

/// All commands; each file brings its own.
fn commands() -> impl Iterator<Item = &'static Command> {
    [
        keys::COMMANDS,
        habits::COMMANDS,
        walk::COMMANDS,
        files::COMMANDS,
        settings::COMMANDS,
        connection::COMMANDS,
        watch::COMMANDS,
        watchers::COMMANDS,
        operate::COMMANDS,
        replicas::COMMANDS,
        messages::COMMANDS,
        transaction::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

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
    closed: bool,
    /// The request that runs gets its reply later, through `Watch::pushed`.
    silent: bool,
    watcher: watch::Watcher,
    transaction: Option<transaction::Transaction>,
}

impl Session {
    /// Whether the server has closed the connection: it gets no more replies.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The id of the selected namespace.
    pub fn namespace(&self) -> u64 {
        self.namespace
    }

    /// Tells connections apart, over all of a model's life.
    pub fn id(&self) -> u64 {
        self.id
    }
}

#[derive(Clone, Debug)]
pub struct Model {
    options: Options,
    /// In the order of their creation, `default` first.
    namespaces: Vec<Namespace>,
    namespace_count_ever: u64,
    /// Bytes of the records of what was removed or flushed.
    ended_bytes: u64,
    session_count: u64,
    challenge_count: u64,
    /// Wrong passwords that are not forgiven yet, as of this time.
    failures: f64,
    failures_at: Duration,
    now: Duration,
    watch: watch::Watch,
    operation: operate::Operation,
    replicas: replicas::Replicas,
    subscribers: messages::Subscribers,
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
            ended_bytes: 0,
            session_count: 0,
            challenge_count: 0,
            failures: 0.0,
            failures_at: Duration::ZERO,
            now: Duration::ZERO,
            watch: Default::default(),
            operation: Default::default(),
            replicas: Default::default(),
            subscribers: Default::default(),
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
            closed: false,
            silent: false,
            watcher: Default::default(),
            transaction: None,
        }
    }

    /// The time of all that follows, since the Unix epoch.
    pub fn set_time(&mut self, now: Duration) {
        self.now = now;
    }

    /// A stop and a start: data and settings stay, sessions from before must not be used again.
    pub fn restart(&mut self) {
        self.failures = 0.0;
        self.operation.stopped = false;
        self.subscribers.clear();
        self.restart_settings();
    }

    /// Whether STOP has ended the server.
    pub fn is_stopped(&self) -> bool {
        self.operation.stopped
    }

    /// The namespaces in the order of their creation.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// The names of all commands.
    pub fn command_names() -> impl Iterator<Item = &'static str> {
        commands().map(|command| command.name)
    }

    /// One request, the command's name first. Panics on a request that is not answered at once.
    pub fn execute(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Reply {
        self.request(session, arguments).expect("a reply at once")
    }

    /// One request; `None` where the reply comes later, if at all, among those of `take_pushed`.
    pub fn request(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Option<Reply> {
        assert!(!session.closed, "a closed connection sends nothing");
        session.silent = false;
        session.watcher.replies = session.watcher.replies.next();
        let reply = match self.dispatch(session, arguments) {
            Ok(reply) => reply,
            Err(text) => Reply::error(text),
        };
        let reply = if session.protocol == 3 { reply } else { reply.flattened() };
        (!session.silent && !session.watcher.replies.are_off()).then_some(reply)
    }

    /// What was sent to connections beside the replies to their requests, with the connections' ids.
    pub fn take_pushed(&mut self) -> Vec<(u64, Reply)> {
        std::mem::take(&mut self.watch.pushed)
    }

    fn dispatch(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if !self.namespaces.iter().any(|namespace| namespace.id == session.namespace) {
            session.closed = true;
            return Err("Your active namespace is not available anymore (probably removed).");
        }
        let arguments = self.split_owner(session, arguments)?;
        self.run(session, arguments)
    }

    /// A request without its owner.
    fn run(&mut self, session: &mut Session, arguments: &[&[u8]]) -> Answer {
        if arguments[0] == b"*" {
            session.spoil();
            return Err("This is not a valid command");
        }
        let command = commands()
            .find(|command| command.name.as_bytes().eq_ignore_ascii_case(arguments[0]))
            .ok_or_else(|| watch::not_supported(arguments[0]))
            .inspect_err(|_| session.spoil())?;
        let answer = if command.admin && !session.admin {
            session.spoil();
            Err("Permission denied")
        } else if let Err(text) = self.refuse_writes(command.name) {
            session.spoil();
            Err(text)
        } else if let Some(answer) = self.queue(session, command.name, arguments) {
            // What is kept shows when it is run.
            if answer.is_ok() {
                return answer;
            }
            answer
        } else {
            self.refuse_subscribed(session, command.name)
                .and_then(|()| (command.handler)(self, session, arguments))
        };
        self.show_watchers(session, command.name, arguments);
        self.note_slow(arguments);
        answer
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

/// A sign perhaps, and digits, and nothing else.
fn is_number(word: &[u8]) -> bool {
    let digits = match word {
        [b'-' | b'+', digits @ ..] => digits,
        _ => word,
    };
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, Reply)>) -> Reply {
    Reply::Map(pairs.into_iter().map(|(name, value)| (Reply::bulk(name), value)).collect())
}
