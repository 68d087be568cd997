//! Transcripts: cases as data. `transcripts/README.md` describes the format.

mod pattern;
mod run;
mod text;

pub use pattern::Pattern;
pub use run::{ModelSubject, ServerSubject, Subject, run, run_case};
pub use text::Text;

use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Transcript {
    pub path: PathBuf,
    pub cases: Vec<Case>,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub title: String,
    pub flags: Vec<String>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub struct Step {
    /// The line in the file, from 1.
    pub line: usize,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    Send {
        connection: String,
        form: Form,
        arguments: Vec<Text>,
    },
    /// The next reply on the connection that was last used.
    Expect(Pattern),
    /// The next unanswered request has no reply, or none yet.
    Silent,
    /// A reply that comes to this connection by itself.
    Pushed {
        connection: String,
        pattern: Pattern,
    },
    /// The server closes the connection that was last used.
    Closed,
    Disconnect {
        connection: String,
    },
    Restart(Restart),
    /// The server has ended by itself, with this exit status.
    Exited(i32),
}

/// How a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Array,
    Inline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// SIGTERM.
    Clean,
    /// SIGKILL.
    Kill,
}

/// The directory of the transcripts.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts")
}

/// All transcripts, by name.
pub fn load_all() -> Vec<Transcript> {
    let mut paths: Vec<_> = std::fs::read_dir(dir())
        .expect("the directory of the transcripts can be read")
        .map(|entry| entry.expect("its entries too").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| Transcript::load(path).unwrap_or_else(|error| panic!("{error}")))
        .collect()
}

impl Transcript {
    pub fn load(path: &Path) -> Result<Transcript, String> {
        let source = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Transcript::parse(path, &source)
    }

    pub fn parse(path: &Path, source: &str) -> Result<Transcript, String> {
        let mut transcript = Transcript { path: path.into(), cases: Vec::new() };
        let mut lines =
            source.lines().enumerate().map(|(index, line)| (index + 1, line)).peekable();
        while let Some((line, text)) = lines.next() {
            let place = |error: String| format!("{}:{line}: {error}", path.display());
            if text.trim().is_empty() || text.starts_with('#') {
                continue;
            }
            if let Some(title) = text.strip_prefix("== ") {
                transcript.cases.push(Case {
                    title: title.into(),
                    flags: Vec::new(),
                    steps: Vec::new(),
                });
                continue;
            }
            let case =
                transcript.cases.last_mut().ok_or_else(|| place("a case begins with ==".into()))?;
            if let Some(directive) = text.strip_prefix("! ") {
                case.direct(line, directive).map_err(place)?;
                continue;
            }
            let action = if text.trim_end() == "lines:" {
                let mut block = Vec::new();
                while let Some((_, text)) = lines.next_if(|(_, text)| text.starts_with("  ")) {
                    block.push(Text::parse(&text[2..]).map_err(place)?);
                }
                Action::Expect(Pattern::Bulk(Text::lines(&block)))
            } else if text.trim_end() == "closed" {
                Action::Closed
            } else if text.trim_end() == "silent" {
                Action::Silent
            } else if let Some(action) = request(text).map_err(place)? {
                action
            } else {
                let (connection, text) = pushed(text);
                let mut whole = text.to_owned();
                while open_brackets(&whole) {
                    let (_, more) =
                        lines.next().ok_or_else(|| place("a bracket is not closed".into()))?;
                    whole.push(' ');
                    whole.push_str(more.trim());
                }
                let pattern = Pattern::parse(&whole).map_err(place)?;
                match connection {
                    Some(connection) => Action::Pushed { connection, pattern },
                    None => Action::Expect(pattern),
                }
            };
            case.steps.push(Step { line, action });
        }
        transcript.check()?;
        Ok(transcript)
    }

    /// A request without its reply would prove nothing.
    fn check(&self) -> Result<(), String> {
        for case in &self.cases {
            let mut outstanding = 0usize;
            let mut used = "";
            for step in &case.steps {
                let place =
                    |error: &str| Err(format!("{}:{}: {error}", self.path.display(), step.line));
                match &step.action {
                    Action::Send { connection, .. } if outstanding > 0 && connection != used => {
                        return place("the request before has no reply");
                    }
                    Action::Send { connection, .. } => {
                        outstanding += 1;
                        used = connection;
                    }
                    Action::Expect(_) | Action::Silent if outstanding == 0 => {
                        return place("a reply without a request");
                    }
                    Action::Expect(_) | Action::Silent => outstanding -= 1,
                    Action::Closed => outstanding = 0,
                    _ if outstanding > 0 => return place("the request before has no reply"),
                    _ => {}
                }
            }
            if outstanding > 0 || case.steps.is_empty() {
                return Err(format!(
                    "{}: {:?}: the last request has no reply",
                    self.path.display(),
                    case.title
                ));
            }
        }
        Ok(())
    }
}

impl Case {
    fn direct(&mut self, line: usize, directive: &str) -> Result<(), String> {
        let words: Vec<&str> = directive.split_whitespace().collect();
        if let ["server", flags @ ..] = &words[..] {
            if !self.steps.is_empty() {
                return Err("the flags of the server come first in a case".into());
            }
            self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
            return Ok(());
        }
        let mut step = |action| self.steps.push(Step { line, action });
        match words[..] {
            ["restart"] => step(Action::Restart(Restart::Clean)),
            ["kill"] => step(Action::Restart(Restart::Kill)),
            ["restart", count] => {
                let count: usize = count.parse().map_err(|_| "restart takes a count")?;
                (0..count).for_each(|_| step(Action::Restart(Restart::Clean)));
            }
            ["disconnect", connection] => {
                step(Action::Disconnect { connection: connection.into() })
            }
            ["exited", code] => {
                step(Action::Exited(code.parse().map_err(|_| "exited takes a number")?))
            }
            _ => return Err(format!("unknown directive {directive:?}")),
        }
        Ok(())
    }
}

/// A request line: `> ...`, `name> ...`, or with `>>` for the inline form.
fn request(line: &str) -> Result<Option<Action>, String> {
    let Some(sign) = line.find('>') else {
        return Ok(None);
    };
    let name = &line[..sign];
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(None);
    }
    let (form, rest) = match line[sign + 1..].strip_prefix('>') {
        Some(rest) => (Form::Inline, rest),
        None => (Form::Array, &line[sign + 1..]),
    };
    let connection = if name.is_empty() { "main" } else { name };
    let arguments = words(rest)?;
    if arguments.is_empty() {
        return Err("a request has a name at least".into());
    }
    Ok(Some(Action::Send { connection: connection.into(), form, arguments }))
}

/// The connection of a line `name< reply`, and the reply.
fn pushed(line: &str) -> (Option<String>, &str) {
    match line.split_once("< ") {
        Some((name, reply))
            if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) =>
        {
            (Some(name.into()), reply)
        }
        _ => (None, line),
    }
}

/// Words separated by blanks; quotes keep blanks together.
fn words(line: &str) -> Result<Vec<Text>, String> {
    let mut words = Vec::new();
    let bytes = line.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b' ' {
            at += 1;
            continue;
        }
        let quoted = bytes[at] == b'"';
        let start = if quoted { at + 1 } else { at };
        let end_sign = if quoted { b'"' } else { b' ' };
        at = start;
        while at < bytes.len() && bytes[at] != end_sign {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
        }
        if quoted && at >= bytes.len() {
            return Err("a quote is not closed".into());
        }
        words.push(Text::parse(&line[start..at.min(bytes.len())])?);
        if quoted {
            at += 1;
        }
    }
    Ok(words)
}

/// Whether a bracket outside quotes waits for its end.
fn open_brackets(text: &str) -> bool {
    if !text.starts_with(['[', '{']) {
        return false;
    }
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for sign in text.chars() {
        match sign {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            _ => {}
        }
    }
    depth > 0
}
