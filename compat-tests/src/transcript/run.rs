//! The runner: plays a case to the server, or to the model, and compares the replies.

use super::text::Variables;
use super::{Action, Case, Form, Restart, Transcript};
use crate::client::{Client, encode, show};
use crate::model::{Mode, Model, Options, Session};
use crate::reply::Reply;
use crate::server::Server;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Something that answers requests on named connections, opened at their first use.
pub trait Subject {
    /// Takes a request; it may wait until the next reply is asked for, as in a pipeline.
    fn send(&mut self, connection: &str, form: Form, request: Vec<Vec<u8>>) -> Result<(), String>;
    fn receive(&mut self, connection: &str) -> Result<Reply, String>;
    /// The next unanswered request has no reply, or none yet.
    fn pass_over(&mut self, connection: &str) -> Result<(), String>;
    /// A reply that comes by itself.
    fn receive_pushed(&mut self, connection: &str) -> Result<Reply, String>;
    /// Waits until the connection is closed by the other side, without another reply.
    fn wait_closed(&mut self, connection: &str) -> Result<(), String>;
    fn disconnect(&mut self, connection: &str);
    /// Closes all connections.
    fn hang_up(&mut self);
    /// Stops and starts, whatever it was doing; connections are lost.
    fn restart(&mut self, restart: Restart) -> Result<(), String>;
    /// Waits for the end of the server and returns its exit status.
    fn exit_code(&mut self) -> Result<i32, String>;
    /// Whether a connection holds replies that nobody expected.
    fn leftovers(&mut self) -> Result<(), String>;
}

/// Plays all cases, each to a subject of its own but for the lines of a table, and collects what failed.
pub fn run<S: Subject>(transcript: &Transcript, start: impl Fn(&Case) -> S) -> Result<(), String> {
    let mut failed = Vec::new();
    let mut subject: Option<S> = None;
    for case in &transcript.cases {
        if !case.goes_on {
            subject = None;
        }
        let used = subject.get_or_insert_with(|| start(case));
        if let Err(error) = run_case(case, used) {
            let name = transcript.path.file_name().unwrap_or_default().to_string_lossy();
            failed.push(format!("{name}:{error}\n    in the case \"{}\"", case.title));
            // What it was in the middle of would disturb the next one.
            subject = None;
        } else {
            used.hang_up();
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

pub fn run_case(case: &Case, subject: &mut impl Subject) -> Result<(), String> {
    let mut variables = Variables::new();
    let mut current = String::from("main");
    let mut last_request = String::new();
    for step in &case.steps {
        let place = |error: String| match step.state.as_str() {
            "" => format!("{}: {error}", step.line),
            state => format!("{}: in the state {state}: {error}", step.line),
        };
        match &step.action {
            Action::Send { connection, form, arguments } => {
                let request: Result<Vec<_>, _> =
                    arguments.iter().map(|text| text.value(&variables)).collect();
                let request = request.map_err(place)?;
                last_request = show(&request);
                current.clone_from(connection);
                subject.send(connection, *form, request).map_err(place)?;
            }
            Action::Expect(pattern) => {
                let reply = subject.receive(&current).map_err(place)?;
                if !pattern.matches(&reply, &mut variables) {
                    return Err(place(format!(
                        "expected {pattern:?}\n    got {reply:?}\n    after {last_request}"
                    )));
                }
            }
            Action::Silent => subject.pass_over(&current).map_err(place)?,
            Action::Pushed { connection, pattern } => {
                let reply = subject.receive_pushed(connection).map_err(place)?;
                if !pattern.matches(&reply, &mut variables) {
                    return Err(place(format!(
                        "expected {pattern:?} by itself on {connection}\n    got {reply:?}"
                    )));
                }
            }
            Action::Closed => subject.wait_closed(&current).map_err(place)?,
            Action::Disconnect { connection } => subject.disconnect(connection),
            Action::Restart(restart) => subject.restart(*restart).map_err(place)?,
            Action::Exited(expected) => {
                let code = subject.exit_code().map_err(place)?;
                if code != *expected {
                    return Err(place(format!("expected exit status {expected}, got {code}")));
                }
            }
        }
    }
    subject.leftovers()
}

/// The server, started for one case.
pub struct ServerSubject {
    server: Server,
    connections: HashMap<String, Connection>,
}

struct Connection {
    client: Client,
    unsent: Vec<u8>,
    /// Requests whose replies are to come: the reply to HELLO depends on its request.
    waiting: VecDeque<Vec<Vec<u8>>>,
}

impl ServerSubject {
    pub fn new(case: &Case) -> ServerSubject {
        ServerSubject { server: Server::start(&case.flags), connections: HashMap::new() }
    }

    fn flush(&mut self, connection: &str) -> Result<&mut Connection, String> {
        let open = self.connections.get_mut(connection).ok_or("the connection is not open")?;
        let unsent = std::mem::take(&mut open.unsent);
        open.client.send_raw(&unsent).map_err(|error| format!("cannot send: {error}"))?;
        Ok(open)
    }
}

impl Subject for ServerSubject {
    fn send(&mut self, connection: &str, form: Form, request: Vec<Vec<u8>>) -> Result<(), String> {
        if !self.connections.contains_key(connection) {
            let client = Client::connect(self.server.address())
                .map_err(|error| format!("cannot connect: {error}"))?;
            let open = Connection { client, unsent: Vec::new(), waiting: VecDeque::new() };
            self.connections.insert(connection.into(), open);
        }
        let open = self.connections.get_mut(connection).expect("it was opened above");
        match form {
            Form::Array => encode(&request, &mut open.unsent),
            Form::Inline => open.unsent.extend(inline(&request)),
        }
        open.waiting.push_back(request);
        Ok(())
    }

    fn receive(&mut self, connection: &str) -> Result<Reply, String> {
        let open = self.flush(connection)?;
        let request = open.waiting.pop_front().ok_or("no request waits for a reply")?;
        open.client.receive_for(&request).map_err(|error| format!("no reply: {error}"))
    }

    fn pass_over(&mut self, connection: &str) -> Result<(), String> {
        let open = self.flush(connection)?;
        open.waiting.pop_front().map(drop).ok_or("no request waits for a reply".into())
    }

    fn receive_pushed(&mut self, connection: &str) -> Result<Reply, String> {
        let open = self.flush(connection)?;
        open.client.receive().map_err(|error| format!("nothing came: {error}"))
    }

    fn wait_closed(&mut self, connection: &str) -> Result<(), String> {
        self.flush(connection)?.client.wait_closed()?;
        self.connections.remove(connection);
        Ok(())
    }

    fn disconnect(&mut self, connection: &str) {
        self.connections.remove(connection);
    }

    fn hang_up(&mut self) {
        self.connections.clear();
    }

    fn restart(&mut self, restart: Restart) -> Result<(), String> {
        self.connections.clear();
        if self.server.is_running() {
            match restart {
                Restart::Clean => drop(self.server.terminate()),
                Restart::Kill => self.server.kill(),
            }
        } else {
            self.server.kill();
        }
        self.server.try_resume().map_err(|refusal| format!("no start: {refusal:?}"))
    }

    fn exit_code(&mut self) -> Result<i32, String> {
        self.connections.clear();
        self.server.wait().code().ok_or("the server was ended by a signal".into())
    }

    fn leftovers(&mut self) -> Result<(), String> {
        for (name, connection) in &mut self.connections {
            if !connection.client.is_quiet() {
                return Err(format!("more replies on the connection {name} than requests"));
            }
        }
        Ok(())
    }
}

/// An inline command in which every byte that could confuse is escaped.
fn inline(request: &[Vec<u8>]) -> Vec<u8> {
    let mut line = Vec::new();
    for argument in request {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric();
        if !argument.is_empty() && argument.iter().all(plain) {
            line.extend_from_slice(argument);
        } else {
            line.push(b'"');
            for byte in argument {
                if plain(byte) {
                    line.push(*byte);
                } else {
                    line.extend(format!("\\x{byte:02x}").into_bytes());
                }
            }
            line.push(b'"');
        }
        line.push(b' ');
    }
    line.pop();
    line.extend_from_slice(b"\r\n");
    line
}

/// The model, made for one case.
pub struct ModelSubject {
    model: Model,
    connections: HashMap<String, ModelConnection>,
}

struct ModelConnection {
    session: Session,
    /// What requests were answered, in their order; `None` where one was not.
    replies: VecDeque<Option<Reply>>,
    pushed: VecDeque<Reply>,
}

impl ModelSubject {
    /// Panics on flags that are none of the server's.
    pub fn new(case: &Case) -> ModelSubject {
        let mut options = Options::default();
        let mut flags = case.flags.iter();
        while let Some(flag) = flags.next() {
            let mut value = || flags.next().unwrap_or_else(|| panic!("{flag} wants a value"));
            match flag.as_str() {
                "--admin" => options.admin = Some(value().clone()),
                "--protect" => options.protect = true,
                "--mode" if value() == "seq" => options.mode = Some(Mode::Sequential),
                "--mode" => options.mode = Some(Mode::User),
                "--maxsize" => options.maxsize = value().parse().expect("--maxsize takes a number"),
                "--sync" | "--datasize" | "--cache" => drop(value()),
                other => panic!("{other} means nothing to the model"),
            }
        }
        ModelSubject { model: Model::new(options), connections: HashMap::new() }
    }

    fn open(&mut self, connection: &str) -> Result<&mut ModelConnection, String> {
        self.connections.get_mut(connection).ok_or("the connection is not open".into())
    }

    fn deliver(&mut self) {
        for (id, reply) in self.model.take_pushed() {
            let open = self.connections.values_mut().find(|open| open.session.id() == id);
            if let Some(open) = open {
                open.pushed.push_back(reply);
            }
        }
    }
}

impl Subject for ModelSubject {
    fn send(&mut self, connection: &str, _: Form, request: Vec<Vec<u8>>) -> Result<(), String> {
        if self.model.is_stopped() {
            return Err("the server has stopped".into());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        self.model.set_time(Duration::from_micros(now.as_micros() as u64));
        let open = self.connections.entry(connection.into()).or_insert_with(|| ModelConnection {
            session: self.model.session(),
            replies: VecDeque::new(),
            pushed: VecDeque::new(),
        });
        if !open.session.is_closed() {
            let request: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            open.replies.push_back(self.model.request(&mut open.session, &request));
        }
        self.deliver();
        Ok(())
    }

    fn receive(&mut self, connection: &str) -> Result<Reply, String> {
        match self.open(connection)?.replies.pop_front() {
            Some(Some(reply)) => Ok(reply),
            Some(None) => Err("no reply: the request is not answered at once".into()),
            None => Err("no reply: the connection is closed".into()),
        }
    }

    fn pass_over(&mut self, connection: &str) -> Result<(), String> {
        match self.open(connection)?.replies.pop_front() {
            Some(None) => Ok(()),
            Some(Some(reply)) => Err(format!("a reply where none should be: {reply:?}")),
            None => Err("no request waits for a reply".into()),
        }
    }

    fn receive_pushed(&mut self, connection: &str) -> Result<Reply, String> {
        if self.open(connection)?.pushed.is_empty() {
            // The server's clock would go on.
            self.model.end_waits();
            self.deliver();
        }
        self.open(connection)?.pushed.pop_front().ok_or("nothing came".into())
    }

    fn wait_closed(&mut self, connection: &str) -> Result<(), String> {
        match self.connections.remove(connection) {
            Some(open) if open.session.is_closed() && open.replies.is_empty() => Ok(()),
            Some(open) => Err(format!("still open, or with more replies: {:?}", open.replies)),
            None => Err("the connection is not open".into()),
        }
    }

    fn disconnect(&mut self, connection: &str) {
        self.connections.remove(connection);
    }

    fn hang_up(&mut self) {
        self.connections.clear();
    }

    fn restart(&mut self, _: Restart) -> Result<(), String> {
        self.connections.clear();
        self.model.restart();
        Ok(())
    }

    fn exit_code(&mut self) -> Result<i32, String> {
        if self.model.is_stopped() { Ok(0) } else { Err("the server still runs".into()) }
    }

    fn leftovers(&mut self) -> Result<(), String> {
        for (name, open) in &self.connections {
            if !open.replies.is_empty() || !open.pushed.is_empty() {
                let (replies, pushed) = (&open.replies, &open.pushed);
                return Err(format!(
                    "more replies on the connection {name} than requests: {replies:?} {pushed:?}"
                ));
            }
        }
        Ok(())
    }
}
