//! The simulator from the command line: many seeds, one again, every step, planted bugs. See `zdb/simulate`.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use zdb::planted::{self, BUGS, REPLICA_BUGS};
use zdb_sim::run::run;
use zdb_sim::{client, replicas, scrub, steps};

/// Runs between two words to the process that waits for them.
const REPORT_SEEDS: u64 = 50;
/// Every so many runs one is done twice, and must say the same.
const TWICE_SEEDS: u64 = 200;
/// Seeds that each planted bug gets unless told otherwise.
const PLANTED_SEEDS: u64 = 5000;
/// So many more runs of three servers.
const REPLICA_SEEDS_FACTOR: u64 = 4;
/// Scrubs unless told otherwise.
const SCRUB_SEEDS: u64 = 500;
/// Runs of three servers unless told otherwise.
const REPLICA_SEEDS: u64 = 500;
/// Runs that once found something: a seed and what it found.
const KNOWN: &str = include_str!("../known-seeds");

/// What the running seed is, for who looks at a failure.
static SEED: AtomicU64 = AtomicU64::new(0);

const _: () =
    assert!(cfg!(fuzzing), "build it with zdb/simulate: it wants the server's small limits");

fn main() -> ExitCode {
    let mut options = Options::default();
    if let Err(what) = options.read(std::env::args().skip(1)) {
        eprintln!("simulate: {what}; zdb/simulate alone says how it is used");
        return ExitCode::from(2);
    }
    let passed = match (&options.task, options.part) {
        (_, Some(_)) => work(&options),
        (Task::Seeds, None) => supervise(&options).is_none(),
        (Task::Replay(seed), None) => replay(*seed),
        (Task::Steps, None) => work_steps(&options),
        (Task::Planted, None) => find_planted(&options),
        (Task::Known, None) => run_known(),
        (Task::Scrub, None) => scrub_all(&options),
        (Task::Replicas, None) => replicate_all(&options),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

enum Task {
    Seeds,
    Replay(u64),
    Steps,
    Planted,
    Known,
    Scrub,
    Replicas,
}

struct Options {
    task: Task,
    first: u64,
    seeds: Option<u64>,
    seconds: Option<u64>,
    jobs: u64,
    bug: Option<String>,
    /// The one of the steps that is run.
    only: Option<u64>,
    /// Of so many steps one is run.
    sample: u64,
    /// Which part of the seeds this process does.
    part: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let first = now.map_or(1, |now| now.as_nanos() as u64);
        let task = Task::Seeds;
        Self {
            task,
            first,
            seeds: None,
            seconds: None,
            jobs: 1,
            bug: None,
            only: None,
            sample: 1,
            part: None,
        }
    }
}

impl Options {
    fn read(&mut self, mut words: impl Iterator<Item = String>) -> Result<(), String> {
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} wants a value"));
            let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
            match word.as_str() {
                "steps" => self.task = Task::Steps,
                "planted" => self.task = Task::Planted,
                "known" => self.task = Task::Known,
                "scrub" => self.task = Task::Scrub,
                "replicas" => self.task = Task::Replicas,
                "--seeds" => self.seeds = Some(number(value()?)?),
                "--seconds" => self.seconds = Some(number(value()?)?),
                "--jobs" => self.jobs = number(value()?)?.max(1),
                "--first" => self.first = seed(&value()?)?,
                "--bug" => self.bug = Some(value()?),
                "--sample" => self.sample = number(value()?)?.max(1),
                "--only" => self.only = Some(seed(&value()?)?),
                "--part" => self.part = Some(number(value()?)?),
                _ => self.task = Task::Replay(seed(&word)?),
            }
        }
        if matches!(self.task, Task::Seeds) && self.seeds.is_none() && self.seconds.is_none() {
            return Err("how many seeds, or seconds?".into());
        }
        Ok(())
    }
}

/// The first 16 hexadecimal digits of a number: of a commit's hash too.
fn seed(text: &str) -> Result<u64, String> {
    let digits = text.get(..16).unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("{text} is no hexadecimal number"))
}

/// Whatever fails says how to see it again.
fn tell_the_seed(task: &'static str, bug: Option<String>) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |what| {
        usual(what);
        let planted = bug.as_ref().map_or(String::new(), |bug| format!(" --bug {bug}"));
        eprintln!("to see it again: zdb/simulate {task}{:016x}{planted}", SEED.load(Relaxed));
    }));
}

fn plant(options: &Options) {
    let wanted = options.bug.as_deref();
    if let Some((_, bug)) = BUGS.iter().chain(&REPLICA_BUGS).find(|(name, _)| Some(*name) == wanted)
    {
        planted::plant(*bug);
    }
}

// -------------------------------------------------------------------- many seeds

/// Does every `jobs`-th seed, and tells how many are done.
fn work(options: &Options) -> bool {
    tell_the_seed("", options.bug.clone());
    plant(options);
    let begun = Instant::now();
    let (count, part) = (options.seeds.unwrap_or(u64::MAX), options.part.unwrap_or(0));
    let mut done = 0;
    for at in (part..count).step_by(options.jobs as usize) {
        let seconds = options.seconds.unwrap_or(u64::MAX);
        if begun.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
        let seed = options.first.wrapping_add(at);
        SEED.store(seed, Relaxed);
        let digest = run(seed);
        if at % TWICE_SEEDS == 0 {
            assert_eq!(run(seed), digest, "the same seed does the same");
        }
        done += 1;
        if done % REPORT_SEEDS == 0 {
            println!("{REPORT_SEEDS}");
        }
    }
    println!("{}", done % REPORT_SEEDS);
    true
}

/// Runs the seeds in processes of their own: the clock and the buffers of a server are a process's.
/// Returns what one that failed has said.
fn supervise(options: &Options) -> Option<String> {
    let begun = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    let program = std::env::current_exe().expect("a program knows where it is");
    let failed = Arc::new(Mutex::new(None));
    let parts: Vec<_> = (0..options.jobs)
        .map(|part| {
            let mut command = Command::new(&program);
            command.args(["--first", &format!("{:016x}", options.first)]);
            command.args(["--jobs", &options.jobs.to_string(), "--part", &part.to_string()]);
            for (name, value) in [("--seeds", options.seeds), ("--seconds", options.seconds)] {
                if let Some(value) = value {
                    command.args([name, &value.to_string()]);
                }
            }
            if let Some(bug) = &options.bug {
                command.args(["--bug", bug]);
            }
            let (done, failed) = (done.clone(), failed.clone());
            let quiet = options.bug.is_some();
            std::thread::spawn(move || attend(command, &done, &failed, begun, quiet))
        })
        .collect();
    parts.into_iter().for_each(|part| part.join().expect("the thread only waits"));
    let seeds = done.load(Relaxed);
    let failure: Option<String> = failed.lock().expect("no thread has failed").take();
    if options.bug.is_none() {
        let seconds = begun.elapsed().as_secs_f64();
        let minute = seeds as f64 / seconds.max(0.001) * 60.0;
        let first = options.first;
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
        println!("{seeds} seeds from {first:016x} in {seconds:.0} s: {minute:.0} a minute");
        if let Some(said) = &failure {
            eprintln!("{said}");
        }
    }
    failure
}

/// Waits for one process, and counts what it does.
fn attend(
    mut command: Command,
    done: &AtomicU64,
    failed: &Mutex<Option<String>>,
    begun: Instant,
    quiet: bool,
) {
    command.env("RUST_BACKTRACE", "0").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs once more");
    let (out, error) = (child.stdout.take(), child.stderr.take());
    for line in BufReader::new(out.expect("it is a pipe")).lines().map_while(Result::ok) {
        let seeds = done.fetch_add(line.parse().unwrap_or(0), Relaxed);
        if std::io::stderr().is_terminal() && !quiet {
            let seconds = begun.elapsed().as_secs();
            let _ = write!(std::io::stderr(), "\r{seeds} seeds in {seconds} s ");
        }
    }
    let said = std::io::read_to_string(error.expect("it is a pipe")).unwrap_or_default();
    if !child.wait().is_ok_and(|status| status.success()) {
        *failed.lock().expect("no thread has failed") = Some(said);
    }
}

/// One run, with everything that happens.
fn replay(seed: u64) -> bool {
    let bug = std::env::args().skip_while(|word| word != "--bug").nth(1);
    tell_the_seed("", bug.clone());
    plant(&Options { bug, ..Options::default() });
    SEED.store(seed, Relaxed);
    client::trace();
    run(seed);
    println!("seed {seed:016x} finds nothing");
    true
}

/// The runs that found something once.
fn run_known() -> bool {
    tell_the_seed("", None);
    let mut count = 0;
    for line in KNOWN.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let digits = line.split(' ').next().unwrap_or_default();
        let seed = seed(digits).unwrap_or_else(|what| panic!("known-seeds: {what}"));
        SEED.store(seed, Relaxed);
        run(seed);
        count += 1;
    }
    println!("{count} known seeds find nothing any more");
    count > 0
}

/// Damage that a scrub has to find.
fn scrub_all(options: &Options) -> bool {
    tell_the_seed("scrub --seeds 1 --first ", None);
    let seeds = options.seeds.unwrap_or(SCRUB_SEEDS);
    let mut sum = scrub::Seen::default();
    for at in 0..seeds {
        let seed = options.first.wrapping_add(at);
        SEED.store(seed, Relaxed);
        sum.add(scrub::run(seed));
    }
    let scrub::Seen { damaged, packed, packed_beside } = sum;
    println!(
        "{seeds} scrubs find {damaged} damaged places and nothing else, over {packed} cleaned segments and \
         {packed_beside} more that were cleaned meanwhile"
    );
    // So many runs look at everything.
    let is_all = damaged > 0 && packed > 0 && packed_beside > 0;
    is_all || seeds < SCRUB_SEEDS
}

/// Three servers with one log, from seeds.
fn replicate_all(options: &Options) -> bool {
    tell_the_seed("replicas --seeds 1 --first ", options.bug.clone());
    plant(options);
    let seeds = options.seeds.unwrap_or(REPLICA_SEEDS);
    let begun = Instant::now();
    let (mut sum, mut done) = (replicas::Seen::default(), 0);
    for at in 0..seeds {
        let seed = options.first.wrapping_add(at);
        SEED.store(seed, Relaxed);
        let first = replicas::run(seed, seeds == 1);
        if at % TWICE_SEEDS == TWICE_SEEDS - 1 {
            assert_eq!(first, replicas::run(seed, false), "a seed does the same twice");
        }
        sum.acknowledged += first.acknowledged;
        sum.read += first.read;
        sum.restarts += first.restarts;
        sum.cleaned += first.cleaned;
        done += 1;
        if options.seconds.is_some_and(|seconds| begun.elapsed().as_secs() >= seconds) {
            break;
        }
    }
    println!(
        "{done} runs of three servers come together in the end: {} writes were acknowledged, {} values were read meanwhile, \
         servers began anew {} times, and {} segments were cleaned",
        sum.acknowledged, sum.read, sum.restarts, sum.cleaned
    );
    sum.acknowledged > 0
}

// -------------------------------------------------------------------- steps and bugs

fn work_steps(options: &Options) -> bool {
    tell_the_seed("steps --only ", options.bug.clone());
    plant(options);
    if options.only.is_some() {
        client::trace();
    }
    let (first, sample) = (options.first, options.sample);
    let mut at = 0;
    let count = steps::run_all(|step| {
        at += 1;
        SEED.store(step, Relaxed);
        options.only.map_or(first.wrapping_add(at) % sample == 0, |only| only == step)
    });
    println!("{count} runs, stopped at every step, find nothing");
    true
}

/// Each bug has to be found.
fn find_planted(options: &Options) -> bool {
    let seeds = options.seeds.unwrap_or(PLANTED_SEEDS);
    let mut all_found = true;
    for (name, _) in BUGS {
        let bug = Some(name.to_owned());
        let one = Options {
            seeds: Some(seeds),
            jobs: 1,
            bug,
            first: options.first,
            ..Options::default()
        };
        all_found &= is_found(name, options.first, seeds, supervise(&one));
    }
    for (name, _) in REPLICA_BUGS {
        // Each takes a chain of misfortunes, so the rarest one shows in one of some hundred runs.
        let seeds = seeds * REPLICA_SEEDS_FACTOR;
        let said = replicate_with(name, options.first, seeds);
        all_found &= is_found(name, options.first, seeds, said);
    }
    all_found
}

/// Tells how a bug was found, by what the process that met it has said.
fn is_found(name: &str, first: u64, seeds: u64, said: Option<String>) -> bool {
    let Some(said) = said else {
        println!("{name}: NOT found in {seeds} runs");
        return false;
    };
    let seed = said.split("to see it again: ").nth(1).and_then(|rest| {
        rest.split_whitespace().filter(|word| word.len() == 16).find_map(|word| seed(word).ok())
    });
    let runs = seed.map_or(0, |seed| seed.wrapping_sub(first) + 1);
    let what = said.lines().find(|line| !line.is_empty() && !line.contains("panicked"));
    println!("{name}: found by run {runs}: {}", what.unwrap_or_default());
    true
}

/// Runs three servers with a bug in a process of its own; returns what it said if it failed.
fn replicate_with(bug: &str, first: u64, seeds: u64) -> Option<String> {
    let program = std::env::current_exe().expect("a program knows where it is");
    let output = Command::new(program)
        .args(["replicas", "--bug", bug, "--seeds", &seeds.to_string()])
        .args(["--first", &format!("{first:016x}")])
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .expect("the program runs once more");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success()).then_some(said)
}
