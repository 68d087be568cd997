//! `zdb backup`: asks a server for what a set does not have yet, and adds it.

use super::master::Master;
use super::set::{self, BackupSet, Run, State, Trouble};
use super::{now_s, shown_time};
use crate::command::replication::{Address, SyncRequest, newest_terms, without_check};
use crate::engine::log::copy::CopiedSegment;
use crate::engine::log::format::LogId;
use crate::engine::node::Promise;
use crate::engine::sending::Versions;
use crate::limits::{REPLICA_RETRY_MS, REPLICA_STATUS_MS};
use crate::offline::{EXIT_DAMAGED, EXIT_WHOLE, Lines, Progress};
use crate::options::{Password, parse_size, password_in};
use crate::server::{MasterTls, MasterTlsFiles, process};
use clap::Parser;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

const LOCK_NAME: &str = ".lockfile";
/// Least `--rate`: with less the server would hear too seldom from us.
const RATE_MIN: u64 = 64 << 10;

/// Copies what a running server has into a directory, or adds to it what came since the last time.
#[derive(Parser)]
#[command(
    name = "zdb backup",
    version,
    infer_long_args = true,
    args_override_self = true,
    after_help = "The directory holds sets, set-<Unix time of its beginning>: each is all that the server had then, and what \
                  the backups after it added. A set that is not wanted any more can be removed as a whole. Each record is \
                  verified when it comes. An interrupted backup is gone on with by the next.\n\n\
                  While a backup runs the server's cleaner leaves alone what it has still to get. What it cleans between two \
                  backups is copied as it is then: times in between cannot be restored. With --follow there are none.\n\n\
                  A server that was backed up goes on in another term after each start, as one with replicas does. Its namespaces' \
                  passwords are in the backup, which only its owner can read.\n\n\
                  Exit codes: 0 all is copied; 1 copied, but something was damaged on the server; 2 it could not be done.\n\n\
                  Example: zdb backup /backup/disk1 --from \"10.0.0.1 9900\" --masterauth-file /etc/zdb/password"
)]
pub struct Arguments {
    /// Directory of the backup; created if missing.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Host and port of the server, a master or a replica.
    #[arg(long, value_name = "HOST PORT", default_value = "127.0.0.1 9900")]
    from: String,
    /// Begin another set with all that the server has.
    #[arg(long)]
    full: bool,
    /// Do not end, but go on copying what is written, until a signal.
    #[arg(long)]
    follow: bool,
    /// Copy at most so many bytes a second (k, M, G are understood), at least 64k; 0: as fast as it goes.
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = parse_size)]
    rate: u64,
    /// Administrator's password of the server, on the first line of a file.
    #[arg(long, value_name = "FILE")]
    masterauth_file: Option<PathBuf>,
    /// Authorities of the server, as PEM: the way there is then encrypted by TLS 1.3, and its certificate must name the
    /// host of --from.
    #[arg(long, value_name = "FILE")]
    master_tls_ca: Option<PathBuf>,
    /// Certificate to show to the server, as PEM.
    #[arg(long, value_name = "FILE", requires_all = ["master_tls_ca", "master_tls_key"])]
    master_tls_cert: Option<PathBuf>,
    /// Private key of --master-tls-cert, as PEM.
    #[arg(long, value_name = "FILE", requires = "master_tls_cert")]
    master_tls_key: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<u8, String> {
    let from = Address::parse(&arguments.from)
        .ok_or("--from takes a host and a port: --from \"10.0.0.1 9900\"")?;
    if arguments.rate > 0 && arguments.rate < RATE_MIN {
        return Err("--rate must be 0 or at least 64k".into());
    }
    let password = arguments.masterauth_file.as_deref();
    let password = password.map(|path| password_in("--masterauth-file", path)).transpose()?;
    let certificate = arguments.master_tls_cert.clone().zip(arguments.master_tls_key.clone());
    let tls = match arguments.master_tls_ca.clone() {
        None => None,
        Some(authority) => Some(MasterTls::new(&MasterTlsFiles { authority, certificate })?),
    };
    let _lock = open_directory(&arguments.directory)?;
    let mut backup = Backup {
        arguments,
        from,
        password,
        tls,
        set: None,
        wants_full: arguments.full,
        known_damage: None,
        failed_at: None,
        goal: u64::MAX,
        as_of_s: 0,
        progress: Progress::new(0, 0),
        damage_count: 0,
        counts: (0, 0, 0),
        told: String::new(),
        lines: Lines::new(),
    };
    if !arguments.full
        && let Some(newest) = set::list(&arguments.directory)?.last()
    {
        backup.set = Some(BackupSet::open(newest)?);
    }
    backup.run()
}

/// Makes the directory, and keeps other backups out of it.
fn open_directory(directory: &Path) -> Result<File, String> {
    let shown = directory.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| format!("cannot make the directory {shown}: {error}"))?;
    if directory.join(set::STATE_NAME).exists() {
        return Err(format!("{shown} is a set of a backup: give the directory that it lies in"));
    }
    let path = directory.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    let lock = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = lock.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(format!("another backup or restore is at work in {shown}: wait for its end"))
        }
        Err(TryLockError::Error(error)) => Err(format!("cannot lock {}: {error}", path.display())),
    }
}

struct Backup<'a> {
    arguments: &'a Arguments,
    from: Address,
    password: Option<Password>,
    tls: Option<MasterTls>,
    set: Option<BackupSet>,
    /// A further set is to be begun, whatever there is.
    wants_full: bool,
    /// Where the same damage came twice.
    known_damage: Option<u64>,
    failed_at: Option<u64>,
    /// How far the server was at a time, which is to be reached.
    goal: u64,
    as_of_s: u64,
    progress: Progress,
    damage_count: usize,
    /// Segments, bytes and records of sets that were left for another one.
    counts: (u64, u64, u64),
    /// The last trouble of a backup that goes on for ever, told once.
    told: String,
    lines: Lines,
}

/// How a connection ended.
enum Ended {
    /// All is here.
    Whole,
    /// It is worth another try at once.
    Again,
    Failed(String),
    /// No further try would help.
    Refused(String),
}

impl Backup<'_> {
    fn run(&mut self) -> Result<u8, String> {
        loop {
            let ended = self.session();
            self.progress.clear();
            let saved = self.save(matches!(ended, Ended::Whole));
            self.tell_damage();
            saved?;
            match ended {
                Ended::Whole => return Ok(self.summary()),
                Ended::Again => {}
                Ended::Refused(line) => return Err(line),
                Ended::Failed(line) if !self.arguments.follow => {
                    let has_password = self.password.is_some();
                    let advice = match line.ends_with("Permission denied") && !has_password {
                        true => {
                            " (--masterauth-file names a file with the administrator's password)"
                        }
                        false => "",
                    };
                    let line = format!("{}: {line}{advice}", self.from);
                    return Err(match &self.set {
                        Some(set) if set.bytes_new > 0 => {
                            format!("{line}; what came is kept: run it again to go on")
                        }
                        _ => line,
                    });
                }
                Ended::Failed(line) => {
                    if self.told != line {
                        process::warn(&format!("backup: {}: {line}; trying again", self.from));
                        self.told = line;
                    }
                    std::thread::sleep(Duration::from_millis(REPLICA_RETRY_MS));
                }
            }
        }
    }

    fn save(&mut self, is_whole: bool) -> Result<(), String> {
        let Some(set) = &mut self.set else { return Ok(()) };
        let run = Run { as_of_s: self.as_of_s, position: set.position() };
        set.save(is_whole.then_some(run))?;
        // What came in part comes again.
        let directory = set.directory.clone();
        if !is_whole {
            self.leave_set();
            self.set = Some(BackupSet::open(&directory)?);
        }
        Ok(())
    }

    /// Counts what the set got.
    fn leave_set(&mut self) {
        let Some(set) = self.set.take() else { return };
        self.counts.0 += set.segments_new;
        self.counts.1 += set.bytes_new;
        self.counts.2 += set.records_new;
    }

    fn tell_damage(&mut self) {
        let Some(set) = &mut self.set else { return };
        for line in set.damage.drain(..) {
            self.damage_count += 1;
            self.lines.line(&format!("damage: {line}"));
        }
        self.lines.flush();
    }

    fn summary(&mut self) -> u8 {
        let directory = self.set.as_ref().map(|set| set.directory.display().to_string());
        let position = self.set.as_ref().map_or(0, BackupSet::position);
        self.leave_set();
        let (segments, bytes, records) = self.counts;
        self.lines.line(&format!(
            "{}: {segments} segments begun, {records} records, {bytes} bytes copied in {:.1} s; it has all up to position \
             {position}, of {}",
            directory.unwrap_or_default(),
            self.progress.seconds(),
            shown_time(self.as_of_s),
        ));
        self.lines.flush();
        if self.damage_count == 0 { EXIT_WHOLE } else { EXIT_DAMAGED }
    }

    // ---------------------------------------------------------------- one connection

    fn session(&mut self) -> Ended {
        let mut master = match Master::connect(&self.from, self.tls.as_ref()) {
            Ok(master) => master,
            Err(line) => return Ended::Failed(line),
        };
        match self.talk(&mut master) {
            Ok(ended) => ended,
            Err(line) => Ended::Failed(line),
        }
    }

    fn talk(&mut self, master: &mut Master) -> Result<Ended, String> {
        if let Some(password) = &self.password {
            master.say(&[b"AUTH", password.as_bytes()])?;
        }
        self.ask(master)?;
        let mut spoken = Instant::now();
        let period = Duration::from_millis(REPLICA_STATUS_MS);
        loop {
            let is_heard = master.listen()?;
            if is_heard && let Some(ended) = self.hear(master)? {
                return Ok(ended);
            }
            let Some(set) = &mut self.set else { continue };
            set.known_damage = self.known_damage.or(set.known_damage);
            if set.position() >= self.goal && !set.is_within() {
                if !self.arguments.follow {
                    return Ok(Ended::Whole);
                }
                set.state.as_of_s = set.state.as_of_s.max(self.as_of_s);
            }
            if spoken.elapsed() >= period {
                spoken = Instant::now();
                let position = set.position().to_string();
                master.say_checked(&[b"REPLCONF", b"ack", position.as_bytes(), b"check"])?;
                if self.arguments.follow {
                    set.save(None)?;
                    self.told.clear();
                }
                self.tell_damage();
            }
        }
    }

    fn ask(&mut self, master: &mut Master) -> Result<(), String> {
        let state = match (&self.set, self.wants_full) {
            (Some(set), false) => set.state.clone(),
            _ => State::default(),
        };
        let node = match &self.set {
            Some(set) => set.state.node,
            None => new_node(),
        };
        let node = format!("{node:08x}");
        master.say_checked(&[
            b"REPLCONF",
            b"node",
            node.as_bytes(),
            b"backup",
            b"yes",
            b"check",
        ])?;
        let secret = match (&self.set, self.wants_full) {
            (Some(set), false) => set.secret()?,
            _ => [0; 16],
        };
        let versions = match &self.set {
            Some(set) if state.position > 0 => set.versions()?,
            _ => Versions::default(),
        };
        let (terms, is_all) = newest_terms(&state.terms);
        let request = SyncRequest {
            log: state.log.0,
            secret_check: xxh3_64(&secret),
            position: state.position,
            promised: Promise::default(),
            versions,
            owed: (0, 0),
            terms,
            is_all,
            is_bare: state.position == 0,
        };
        let words = request.words();
        let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        master.say_checked(&words)
    }

    /// Does what the server says.
    fn hear(&mut self, master: &mut Master) -> Result<Option<Ended>, String> {
        let words = master.words();
        let words = without_check(&words).ok_or("what it says was damaged on its way")?;
        let text = |at: usize| words.get(at).and_then(|word| std::str::from_utf8(word).ok());
        let number = |at: usize| text(at).and_then(|text| text.parse::<u64>().ok());
        let name = *words.first().unwrap_or(&&b""[..]);
        let taken = match (name, &mut self.set) {
            (b"" | b"PROMISE", _) => return Ok(None),
            (b"STATUS", Some(set)) => {
                // Who follows has everything of a time again and again.
                let is_there = set.position() >= self.goal;
                if let Some(told) = number(1).zip(number(2)).filter(|_| is_there) {
                    (self.goal, self.as_of_s) = told;
                }
                return Ok(None);
            }
            (b"STATUS", None) => return Ok(None),
            (b"AGAIN", _) => {
                self.ask(master)?;
                return Ok(None);
            }
            (b"CONTINUE", Some(set)) if number(1) == Some(set.position()) => {
                let told = number(3).zip(number(4)).ok_or("it is of an older version")?;
                // One that was told at the beginning is reached by a second connection, too.
                if self.goal == u64::MAX {
                    (self.goal, self.as_of_s) = told;
                }
                let total = self.goal.saturating_sub(set.position());
                self.progress = Progress::new(total, self.arguments.rate);
                return Ok(None);
            }
            (b"ADOPT", _) => {
                let log = text(1).and_then(LogId::from_hex);
                let secret = text(2).and_then(LogId::from_hex);
                let (log, LogId(secret)) = log.zip(secret).ok_or("it says ADOPT without a log")?;
                return self.begin_set(log, secret, master);
            }
            (b"REWIND", Some(set)) => {
                let position = number(1).ok_or("it says REWIND without a position")?;
                let cut = set.cut(&self.arguments.directory, now_s(), position)?;
                self.lines.line(&format!(
                    "the server's log goes on in another way from position {position} on: another set begins"
                ));
                match cut {
                    Some(cut) => {
                        self.leave_set();
                        self.set = Some(cut);
                    }
                    None => self.wants_full = true,
                }
                self.ask(master)?;
                return Ok(None);
            }
            (b"SEGMENT", Some(set)) => {
                number(1).zip(number(2)).zip(number(3)).map(|((base, capacity), previous_end)| {
                    let created_s = now_s();
                    set.segment(CopiedSegment { base, capacity, previous_end, created_s })
                })
            }
            (b"RECORDS", Some(set)) if words.len() == 3 => number(1).map(|position| {
                let taken = set.records(position, words[2]);
                self.progress.advance(words[2].len() as u64, set.records_new);
                taken
            }),
            (b"FILE", Some(set)) => {
                number(1).zip(number(2)).map(|(base, bytes)| set.file(base, bytes))
            }
            (b"BYTES", Some(set)) if words.len() == 2 => {
                let taken = set.file_bytes(words[1]);
                self.progress.advance(words[1].len() as u64, set.records_new);
                Some(taken)
            }
            (b"FILE-END", Some(set)) => number(2).map(|check| set.file_end(check)),
            _ => None,
        };
        match taken {
            Some(Ok(())) => Ok(None),
            Some(Err(Trouble::Failed(line))) => Ok(Some(Ended::Refused(line))),
            Some(Err(Trouble::Wrong(position, line))) => {
                // Once it may be the way here. Twice it is what the server has.
                if self.failed_at == Some(position) && self.known_damage == Some(position) {
                    return Err(line);
                }
                if self.failed_at == Some(position) {
                    self.known_damage = Some(position);
                }
                self.failed_at = Some(position);
                Ok(Some(Ended::Again))
            }
            None => {
                let shown = name[..name.len().min(32)].escape_ascii();
                Err(format!("it says what is not known here: {shown}"))
            }
        }
    }

    /// The server has another log than the set, or one with which it cannot go on.
    fn begin_set(
        &mut self,
        log: LogId,
        secret: [u8; 16],
        master: &mut Master,
    ) -> Result<Option<Ended>, String> {
        let directory = &self.arguments.directory;
        if let Some(other) = set::list(directory)?.last() {
            let state = set::read_state(other);
            if state.is_ok_and(|state| state.log != log && state.position > 0) {
                return Ok(Some(Ended::Refused(format!(
                    "{} has another log than what is in {}: give each server a directory of its own",
                    self.from,
                    directory.display()
                ))));
            }
        }
        if self.set.is_some() && !self.wants_full {
            self.lines.line(
                "the server's log cannot be gone on with from where this set is: another set begins",
            );
        }
        let node = self.set.as_ref().map_or_else(new_node, |set| set.state.node);
        self.leave_set();
        self.wants_full = false;
        let state = State { log, node, ..State::default() };
        self.set = Some(BackupSet::create(directory, now_s(), state, secret)?);
        self.ask(master)?;
        Ok(None)
    }
}

fn new_node() -> u32 {
    let mut bytes = [0; 4];
    while bytes == [0; 4] {
        process::fill_random(&mut bytes);
    }
    u32::from_le_bytes(bytes)
}
