//! Hooks: the program that `--hook` names, run on events.
//!
//! Those of the start and the end are waited for by the main thread. All others run beside the loop: it
//! hands their events to a thread of their own, which starts them in their order and does not wait
//! for one before it starts the next. Only the jumps of the log are told one after the other: first
//! `jump-index`, and when that has ended `jump-data`.

use super::bell::Bell;
use super::process;
use super::program::{Child, Program, Waited, poll};
use crate::command::{HookRun, HookRuns};
use crate::engine::Event;
use crate::engine::log::{Jump, format};
use crate::limits::{HOOKS_RUNNING_MAX, HOOKS_WAITING_MAX};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a stop waits until hooks that had to wait for others have begun.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a stop waits for `close`, and then for all `namespace-closing` together. What runs on then
/// is left alone.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(30);
/// Status of a program that could not be started, as a shell has it.
const NOT_STARTED: i32 = 127;

type Arguments = Vec<Vec<u8>>;

/// The hook, and what every call of it begins with.
pub struct Hook {
    program: Program,
    instance: Vec<u8>,
    data: PathBuf,
    index: PathBuf,
    last_number: u64,
    /// Runs that HOOKS does not know of yet.
    runs: HookRuns,
}

/// How a hook that was waited for went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    Ended(i32),
    /// Not in the time that there was.
    RunsOn,
    /// A signal came meanwhile.
    Interrupted,
}

impl Hook {
    /// `instance` is the address of the server; the directories are absolute.
    pub fn new(
        path: &Path,
        instance: String,
        data: PathBuf,
        index: PathBuf,
    ) -> Result<Self, String> {
        let program = Program::new(path)?;
        let runs = HookRuns::default();
        Ok(Self { program, instance: instance.into(), data, index, last_number: 0, runs })
    }

    /// The port was not known before the server listened.
    pub fn set_instance(&mut self, instance: String) {
        self.instance = instance.into();
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What comes behind the program's name in every call.
    pub fn words<'a>(&'a self, name: &'a str) -> [&'a [u8]; 2] {
        [name.as_bytes(), &self.instance]
    }

    fn start(&mut self, name: &'static str, arguments: &Arguments) -> (HookRun, Option<Child>) {
        self.last_number += 1;
        let words = self.words(name).into_iter().chain(arguments.iter().map(Vec::as_slice));
        let child = self.program.start(words);
        if let Err(error) = &child {
            let path = self.program.path().display();
            process::warn(&format!("cannot run the hook {path} for {name}: {error}"));
        }
        let now_s = unix_s();
        let run = HookRun {
            number: self.last_number,
            name,
            arguments: arguments.clone(),
            pid: child.as_ref().map_or(0, |child| child.pid as u32),
            created_s: now_s,
            finished_s: if child.is_ok() { 0 } else { now_s },
            status: if child.is_ok() { 0 } else { NOT_STARTED },
        };
        (run, child.ok())
    }

    /// Runs it and waits: for ever, or for a time; but not when `signals` has something to read.
    fn run(
        &mut self,
        name: &'static str,
        arguments: &Arguments,
        until: Option<Instant>,
        signals: RawFd,
    ) -> Went {
        let (run, child) = self.start(name, arguments);
        let number = run.number;
        self.runs.begun(run);
        let Some(child) = child else { return Went::Ended(NOT_STARTED) };
        match child.wait(until, signals) {
            Waited::Ended(status) => {
                self.runs.ended(number, unix_s(), status);
                Went::Ended(status)
            }
            Waited::TimeOut => Went::RunsOn,
            Waited::Interrupted => Went::Interrupted,
        }
    }

    // ---------------------------------------------------------------- the start

    pub fn namespaces_init(&mut self, signals: RawFd) -> Went {
        let arguments = vec![bytes(&self.index), bytes(&self.data)];
        self.run("namespaces-init", &arguments, None, signals)
    }

    /// A file of the log that is missing: the hook may bring it back.
    pub fn missing_data(&mut self, base: u64, signals: RawFd) -> Went {
        let file = bytes(&self.data.join(format::segment_name(base)));
        self.run("missing-data", &vec![file], None, signals)
    }

    pub fn ready(&mut self, signals: RawFd) -> Went {
        self.run("ready", &Vec::new(), None, signals)
    }

    // ---------------------------------------------------------------- the end

    /// The last two kinds, when everything is in its files. `current` is the base of the last segment.
    pub fn close<'a>(
        mut self,
        namespaces: impl ExactSizeIterator<Item = &'a [u8]>,
        current: u64,
        signals: RawFd,
    ) {
        let until = Some(Instant::now() + CLOSE_TIME_MAX);
        let limit_s = CLOSE_TIME_MAX.as_secs();
        match self.run("close", &Vec::new(), until, signals) {
            Went::Ended(_) => {}
            Went::RunsOn => {
                process::warn(&format!(
                    "the hook close is not done after {limit_s} s: not waiting"
                ));
            }
            // Asked to stop once more: now without the hooks.
            Went::Interrupted => return,
        }
        let index = bytes(&self.index.join(format::sidecar_name(current)));
        let data = bytes(&self.data.join(format::segment_name(current)));
        let until = Instant::now() + CLOSE_TIME_MAX;
        let mut left = namespaces.len();
        for name in namespaces {
            if Instant::now() >= until {
                process::warn(&format!(
                    "the hooks namespace-closing are not done after {limit_s} s: not telling of the last \
                     {left} namespaces"
                ));
                return;
            }
            let arguments = vec![name.to_vec(), index.clone(), data.clone(), Vec::new()];
            if self.run("namespace-closing", &arguments, Some(until), signals) == Went::Interrupted
            {
                return;
            }
            left -= 1;
        }
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

// -------------------------------------------------------------------- beside the loop

/// A hook that is to be run.
struct Call {
    name: &'static str,
    arguments: Arguments,
    /// Runs when this one has ended; until then no other call with one begins.
    then: Option<Box<Call>>,
    /// The segment that is missing: somebody waits for the end.
    missing: Option<u64>,
}

enum Order {
    Call(Call),
    /// What waits gets a little time to begin.
    Finish,
}

/// What HOOKS shows.
pub enum Report {
    Begun(HookRun),
    Ended {
        number: u64,
        finished_s: u64,
        status: i32,
    },
    /// Of `missing-data`, for the segment with this base.
    MissingEnded {
        base: u64,
        status: i32,
    },
}

/// The thread, seen from the loop.
pub struct HookThread {
    orders: Sender<Order>,
    bell: Bell,
    pub reports: Receiver<Report>,
    thread: Option<JoinHandle<Hook>>,
    data: PathBuf,
    index: PathBuf,
}

impl HookThread {
    /// `loop_bell` is rung after each report.
    pub fn start(mut hook: Hook, runs: &mut HookRuns, loop_bell: Bell) -> Result<Self, String> {
        *runs = std::mem::take(&mut hook.runs);
        let (orders, inbox) = channel();
        let (outbox, reports) = channel();
        let bell = Bell::new()?;
        let (data, index) = (hook.data.clone(), hook.index.clone());
        let worker = Worker {
            hook,
            inbox,
            bell: bell.clone(),
            outbox,
            loop_bell,
            waiting: VecDeque::new(),
            running: Vec::new(),
            dropped: 0,
            until: None,
        };
        let thread = std::thread::Builder::new()
            .name("zdb-hooks".into())
            .spawn(move || worker.work())
            .map_err(|error| format!("cannot start the thread for hooks: {error}"))?;
        Ok(Self { orders, bell, reports, thread: Some(thread), data, index })
    }

    /// Runs the hooks of an event, some time soon.
    pub fn tell(&self, event: Event) {
        let call = |name, argument: Box<[u8]>| Call {
            name,
            arguments: vec![argument.into_vec()],
            then: None,
            missing: None,
        };
        self.order(Order::Call(match event {
            Event::Jumped(jump) => self.jump(jump),
            Event::Missing(base) => self.missing(base),
            Event::NamespaceCreated(name) => call("namespace-created", name),
            Event::NamespaceUpdated(name) => call("namespace-updated", name),
            Event::NamespaceReloaded(name) => call("namespace-reloaded", name),
            Event::NamespaceDeleted(name) => call("namespace-deleted", name),
        }));
    }

    /// 0-db names the dirty index files too; there never are any.
    fn jump(&self, jump: Jump) -> Call {
        let index = |base| bytes(&self.index.join(format::sidecar_name(base)));
        let data = |base| bytes(&self.data.join(format::segment_name(base)));
        let then = Call {
            name: "jump-data",
            arguments: vec![data(jump.old), data(jump.new)],
            then: None,
            missing: None,
        };
        Call {
            name: "jump-index",
            arguments: vec![index(jump.old), index(jump.new), Vec::new()],
            then: Some(Box::new(then)),
            missing: None,
        }
    }

    fn missing(&self, base: u64) -> Call {
        let file = bytes(&self.data.join(format::segment_name(base)));
        Call { name: "missing-data", arguments: vec![file], then: None, missing: Some(base) }
    }

    fn order(&self, order: Order) {
        // The thread ends only after its last order.
        let _ = self.orders.send(order);
        self.bell.ring();
    }

    /// Ends the thread; hooks that run go on.
    pub fn finish(mut self) -> Option<Hook> {
        self.order(Order::Finish);
        self.thread.take()?.join().ok()
    }
}

struct Running {
    number: u64,
    name: &'static str,
    child: Child,
    then: Option<Box<Call>>,
    missing: Option<u64>,
}

struct Worker {
    hook: Hook,
    inbox: Receiver<Order>,
    bell: Bell,
    outbox: Sender<Report>,
    loop_bell: Bell,
    waiting: VecDeque<Call>,
    running: Vec<Running>,
    /// Calls that were not taken since the last one that was.
    dropped: u64,
    /// When to end, with or without those that wait.
    until: Option<Instant>,
}

impl Worker {
    fn work(mut self) -> Hook {
        loop {
            while let Ok(order) = self.inbox.try_recv() {
                self.take(order);
            }
            self.start_waiting();
            if let Some(until) = self.until {
                if self.waiting.is_empty() && self.running.iter().all(|one| one.then.is_none()) {
                    return self.hook;
                }
                if Instant::now() >= until {
                    let count = self.waiting.len();
                    process::warn(&format!("stopping: {count} events are not told to the hook"));
                    return self.hook;
                }
            }
            let mut descriptors = vec![self.bell.descriptor()];
            descriptors.extend(self.running.iter().map(|one| one.child.end()));
            let look = |until, one: &Running| one.child.look_at(until);
            if poll(&descriptors, self.running.iter().fold(self.until, look))[0] {
                self.bell.hear();
            }
            self.reap();
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Finish => self.until = Some(Instant::now() + BEGIN_TIME_MAX),
            Order::Call(call) if self.waiting.len() >= HOOKS_WAITING_MAX => {
                self.report_missing(call.missing, NOT_STARTED);
                if self.dropped == 0 {
                    process::warn(&format!(
                        "{HOOKS_WAITING_MAX} events wait for hooks that run: further ones are not told"
                    ));
                }
                self.dropped += 1;
            }
            Order::Call(call) => {
                if self.dropped > 0 {
                    process::warn(&format!("{} events were not told to the hook", self.dropped));
                    self.dropped = 0;
                }
                self.waiting.push_back(call);
            }
        }
    }

    /// Starts what waits, in its order; a jump waits for the one before it and holds nobody else up.
    fn start_waiting(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() && self.running.len() < HOOKS_RUNNING_MAX {
            let jumping = self.running.iter().any(|one| one.then.is_some());
            if self.waiting[at].then.is_some() && jumping {
                at += 1;
                continue;
            }
            if let Some(call) = self.waiting.remove(at) {
                self.start(call);
            }
        }
    }

    fn start(&mut self, call: Call) {
        let (run, child) = self.hook.start(call.name, &call.arguments);
        let (number, name) = (run.number, call.name);
        self.report(Report::Begun(run));
        match child {
            Some(child) => {
                let Call { then, missing, .. } = call;
                self.running.push(Running { number, name, child, then, missing });
            }
            None => {
                self.report_missing(call.missing, NOT_STARTED);
                call.then.into_iter().for_each(|then| self.waiting.push_front(*then));
            }
        }
    }

    /// Looks for those that have ended.
    fn reap(&mut self) {
        let ended: Vec<(Running, i32)> = {
            let mut ended = Vec::new();
            let mut at = 0;
            while at < self.running.len() {
                match self.running[at].child.ended() {
                    Some(status) => ended.push((self.running.remove(at), status)),
                    None => at += 1,
                }
            }
            ended
        };
        for (one, status) in ended {
            if status != 0 {
                process::warn(&format!("the hook {} ended with status {status}", one.name));
            }
            self.report(Report::Ended { number: one.number, finished_s: unix_s(), status });
            self.report_missing(one.missing, status);
            if let Some(then) = one.then {
                self.waiting.push_front(*then);
            }
        }
    }

    fn report_missing(&self, base: Option<u64>, status: i32) {
        if let Some(base) = base {
            self.report(Report::MissingEnded { base, status });
        }
    }

    fn report(&self, report: Report) {
        // A loop that has ended wants no reports.
        let _ = self.outbox.send(report);
        self.loop_bell.ring();
    }
}
