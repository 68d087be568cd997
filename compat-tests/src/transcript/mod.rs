//! Transcripts: cases as data. `transcripts/README.md` describes the format.

mod pattern;
mod read;
mod run;
mod table;
mod text;

pub use pattern::Pattern;
pub use run::{ModelSubject, ServerSubject, Subject, run, run_case};
pub use text::Text;

use read::Reader;
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
    /// It goes on with the server of the case before it, which has cleaned up behind itself.
    pub goes_on: bool,
}

#[derive(Clone, Debug)]
pub struct Step {
    /// The line in the file, from 1.
    pub line: usize,
    /// The column, in a table.
    pub state: String,
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

/// The directory of those that are about no single command.
pub fn topics_dir() -> PathBuf {
    dir().join("topics")
}

/// All transcripts, by name.
pub fn load_all() -> Vec<Transcript> {
    let mut paths = paths(&dir());
    paths.extend(self::paths(&topics_dir()));
    paths
        .iter()
        .map(|path| Transcript::load(path).unwrap_or_else(|error| panic!("{error}")))
        .collect()
}

/// The transcripts in a directory.
pub fn paths(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("an entry of a directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths
}

impl Transcript {
    pub fn load(path: &Path) -> Result<Transcript, String> {
        let source = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Transcript::parse(path, &source)
    }

    pub fn parse(path: &Path, source: &str) -> Result<Transcript, String> {
        let cases = Reader::read(source)
            .map_err(|(line, error)| format!("{}:{line}: {error}", path.display()))?;
        let transcript = Transcript { path: path.into(), cases };
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
