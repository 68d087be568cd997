//! Random requests to the server and to the model: every reply is compared.
//!
//! Several connections, both modes, all states, few keys, with restarts and kills between. What differs is
//! cut down to the few requests that still differ, and printed with the seed.

mod generator;
mod world;

use compat_tests::model::{Mode, Options};
use compat_tests::{count_from_env, seed};
use fastrand::Rng;
use generator::Generator;
use std::time::{Duration, Instant};
use world::World;

/// Seconds that the test takes, unless `ZDB_DIFFERENTIAL_SECONDS` says otherwise.
const SECONDS_DEFAULT: usize = 20;
/// Operations of one server and its directories.
const OPERATION_COUNT: usize = 1500;
/// Attempts to leave out operations from those that failed.
const CUT_ATTEMPTS_MAX: usize = 150;

const CONNECTION_COUNT: usize = 4;
const ADMIN_PASSWORD: &str = "secret";

/// An argument: bytes, or what an earlier reply gave out, which is not the same on both sides.
#[derive(Clone, Debug)]
enum Word {
    Bytes(Vec<u8>),
    Cursor(usize),
    Token(usize),
}

#[derive(Clone, Debug)]
enum Operation {
    /// Several are a pipeline.
    Requests(usize, Vec<Vec<Word>>),
    /// SCAN in the Redis form with these options, to its end.
    ScanAll(usize, Vec<Vec<u8>>),
    /// KSCAN with this prefix, to its end.
    PrefixScanAll(usize, Vec<u8>),
    /// A challenge, and AUTH, or SELECT of this namespace, with the answer for this password.
    Challenge(usize, Option<&'static str>, &'static str),
    Disconnect(usize),
    Restart,
    Kill,
}

/// What both sides are started with.
#[derive(Clone, Debug)]
struct Setting {
    flags: Vec<&'static str>,
    options: Options,
}

impl Setting {
    fn random(random: &mut Rng) -> Setting {
        let mut setting = Setting { flags: Vec::new(), options: Options::default() };
        let mut flags = |flags: &[&'static str]| setting.flags.extend(flags);
        match random.u32(..4) {
            0 => {
                flags(&["--mode", "seq"]);
                setting.options.mode = Some(Mode::Sequential);
            }
            1 => {
                flags(&["--mode", "user"]);
                setting.options.mode = Some(Mode::User);
            }
            _ => {}
        }
        if random.u32(..3) == 0 {
            flags(&["--admin", ADMIN_PASSWORD]);
            setting.options.admin = Some(ADMIN_PASSWORD.into());
            if random.bool() {
                flags(&["--protect"]);
                setting.options.protect = true;
            }
        }
        if random.u32(..4) == 0 {
            flags(&["--maxsize", "5000"]);
            setting.options.maxsize = 5000;
        }
        flags(&["--sync", ["always", "everysec", "no"][random.usize(..3)]]);
        // Small segments: some fill up.
        flags(&["--datasize", "524288"]);
        if random.bool() {
            flags(&["--cache", "1M"]);
        }
        setting
    }
}

/// Plays operations on new directories; what differs, with the number of the operation.
fn replay(setting: &Setting, operations: &[Operation]) -> Result<(), (usize, String)> {
    let mut world = World::new(setting);
    for (number, operation) in operations.iter().enumerate() {
        world.play(operation).map_err(|error| (number, error))?;
    }
    Ok(())
}

/// Leaves out operations, then requests of pipelines, as long as something still differs.
fn cut_down(setting: &Setting, operations: Vec<Operation>) -> (Vec<Operation>, String) {
    let mut kept = operations;
    let mut error = String::from("it does not differ a second time");
    let mut attempts = 0;
    let mut differs = |kept: &mut Vec<Operation>, mut fewer: Vec<Operation>| {
        attempts += 1;
        if attempts > CUT_ATTEMPTS_MAX {
            return false;
        }
        let Err((number, difference)) = replay(setting, &fewer) else { return false };
        fewer.truncate(number + 1);
        (*kept, error) = (fewer, difference);
        true
    };
    let mut length = kept.len();
    while length > 0 {
        let mut start = 0;
        while start < kept.len() {
            let mut fewer = kept.clone();
            fewer.drain(start..(start + length).min(kept.len()));
            if !differs(&mut kept, fewer) {
                start += length;
            }
        }
        length /= 2;
    }
    for at in 0..kept.len() {
        let mut number = 0;
        while let Some(Operation::Requests(_, requests)) = kept.get(at)
            && number < requests.len()
            && requests.len() > 1
        {
            let mut fewer = kept.clone();
            if let Operation::Requests(_, requests) = &mut fewer[at] {
                requests.remove(number);
            }
            if !differs(&mut kept, fewer) {
                number += 1;
            }
        }
    }
    (kept, error)
}

#[test]
fn server_and_model_answer_alike() {
    let seed = seed("differential");
    let seconds = count_from_env("ZDB_DIFFERENTIAL_SECONDS", SECONDS_DEFAULT);
    let deadline = Instant::now() + Duration::from_secs(seconds as u64);
    let mut operation_count = 0;
    for life in 0.. {
        if Instant::now() >= deadline {
            break;
        }
        let mut random = Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(life));
        let setting = Setting::random(&mut random);
        let mut world = World::new(&setting);
        let mut generator = Generator::new(random);
        let mut played = Vec::new();
        while played.len() < OPERATION_COUNT && Instant::now() < deadline {
            let operation = generator.operation(&world);
            played.push(operation.clone());
            operation_count += 1;
            if let Err(error) = world.play(&operation) {
                drop(world);
                let (operations, again) = cut_down(&setting, played);
                let steps: Vec<String> = operations.iter().map(describe).collect();
                panic!(
                    "ZDB_SEED={seed}, life {life}, flags {:?}: {error}\ncut down: {again}\n{}",
                    setting.flags,
                    steps.join("\n")
                );
            }
        }
    }
    println!("{operation_count} operations");
    assert!(operation_count > 100, "only {operation_count} operations were played");
}

/// An operation as a transcript writes it, about.
fn describe(operation: &Operation) -> String {
    let word = |word: &Word| match word {
        Word::Bytes(bytes) if bytes.len() > 300 => {
            format!("\"{}...\" ({} bytes)", bytes[..8].escape_ascii(), bytes.len())
        }
        Word::Bytes(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        Word::Cursor(number) => format!("${{cursor {number}}}"),
        Word::Token(number) => format!("${{token {number}}}"),
    };
    match operation {
        Operation::Requests(at, requests) => requests
            .iter()
            .map(|request| {
                let words: Vec<String> = request.iter().map(word).collect();
                format!("c{at}> {}", words.join(" "))
            })
            .collect::<Vec<_>>()
            .join("\n"),
        Operation::Restart => "! restart".into(),
        Operation::Kill => "! kill".into(),
        Operation::Disconnect(at) => format!("! disconnect c{at}"),
        other => format!("{other:?}"),
    }
}
