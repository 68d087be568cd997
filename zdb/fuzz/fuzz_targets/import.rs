//! `zdb import` over directories that a 0-db could have written, whole and damaged.
//!
//! What is whole arrives: keys, values, times, history, settings, the next id. Damage is no panic, takes no
//! memory by what a file says and no endless time, and leaves a log that a server starts on and whose
//! counters are right. The old files stay as they are.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use zdb::disk::Root;
use zdb::engine::log::Policy;
use zdb::import::walk::{Item, Walk};
use zdb::import::{Arguments, format, run};
use zdb::limits::SEGMENT_BYTES_MIN;
use zdb_fuzz::allocations::{self, Watched};
use zdb_fuzz::old::Old;
use zdb_sim::disk::MemoryFiles;
use zdb_sim::input::Choices;
use zdb_sim::recount::{ask, enter, recount};
use zdb_sim::reply::Reply;
use zdb_sim::words;
use zdb_sim::world::{Setup, World, buffer_directory};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

const NAMES: [&[u8]; 3] = [b"default", b"other", b"a b\xff"];
/// Most requests that made the old directories.
const STEPS_MAX: usize = 200;
/// No single allocation of an import is larger: the files are small, the window and the write buffer are
/// bounded. The largest is the list of chunks of a sequential index after ids that are lost: 8 MiB for as
/// many as may be skipped at once, twice that where the list had to grow.
const ALLOCATED_BYTES_MAX: usize = 16 << 20;

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let shape = choices.byte();
    let mut all: Vec<Old> = (0..usize::from(shape % 3) + 1)
        .map(|at| {
            let shape = choices.byte();
            let password: &[u8] = if shape & 2 == 0 { b"" } else { words::PASSWORD.as_bytes() };
            // The default namespace has neither.
            let own = at > 0;
            Old::new(
                NAMES[at],
                shape & 1 == 1,
                if own { password } else { b"" },
                own && shape & 4 != 0,
            )
        })
        .collect();
    let mut is_damaged = false;
    let mut steps = 0;
    while !choices.is_empty() && steps < STEPS_MAX {
        is_damaged |= step(&mut all, is_damaged, &mut choices);
        steps += 1;
    }
    all.iter_mut().for_each(walk);
    let home = buffer_directory().join("import");
    let _ = std::fs::remove_dir_all(&home);
    let [data, index] = ["data", "index"].map(|name| home.join("old").join(name));
    for old in &all {
        old.save(&data, &index).expect("memory has room");
    }
    let arguments = Arguments {
        data: data.clone(),
        index: index.clone(),
        to_data: home.join("new-data"),
        to_index: home.join("new-index"),
        datasize: SEGMENT_BYTES_MIN,
    };
    let (outcome, largest_bytes) = allocations::largest(|| run(&arguments));
    assert!(largest_bytes <= ALLOCATED_BYTES_MAX, "{largest_bytes} bytes at once");
    assert!(
        all.iter().all(|old| old.is_unchanged(&data, &index)),
        "the old files stay as they are"
    );
    if !is_damaged {
        assert_eq!(outcome, Ok(false), "what is whole arrives whole");
    }
    if outcome.is_ok() {
        let mut world = serve(&arguments.to_data, &arguments.to_index);
        if !is_damaged {
            all.iter().for_each(|old| compare(&mut world, old));
        }
        recount(&mut world);
    }
});

/// A request to the 0-db, or damage to its files: then true, and the 0-db takes no more.
fn step(all: &mut [Old], is_damaged: bool, choices: &mut Choices<'_>) -> bool {
    let action = choices.byte();
    let count = all.len();
    let old = &mut all[usize::from(action >> 5) % count];
    let time = u32::from(choices.byte()) << 22;
    match action & 31 {
        _ if is_damaged => {
            damage(old, choices);
            return true;
        }
        0..12 => {
            let key = words::key(choices, &words::Seen::default());
            let payload = words::value(choices);
            let key = match (old.sequential, old.live.contains_key(&key)) {
                (true, false) => None,
                _ if key.len() > 255 || key.is_empty() => {
                    Some(&b"k"[..]).filter(|_| !old.sequential)
                }
                _ => Some(key.as_slice()),
            };
            old.set(key, &payload, time);
        }
        12..17 => {
            let live: Vec<Vec<u8>> = old.live.keys().cloned().collect();
            if !live.is_empty() {
                old.delete(&live[choices.below(live.len())], time);
            }
        }
        17 | 18 => {
            let newest = old.live.keys().nth(choices.below(old.live.len().max(1))).cloned();
            if let Some(key) = newest {
                old.set(Some(&key), &words::value(choices), time);
            }
        }
        19 => old.jump(),
        20 if !old.sequential => old.placeholder(time),
        21..28 => {
            damage(old, choices);
            return true;
        }
        _ => {}
    }
    false
}

fn damage(old: &mut Old, choices: &mut Choices<'_>) {
    let kind = choices.byte();
    let (number, at) = (choices.below(8), usize::from(choices.word()));
    if kind >= 240 {
        // A file is gone.
        let data = if kind & 1 == 0 { &mut old.data } else { &mut old.index };
        if let Some(number) = data.keys().nth(number % data.len().max(1)).copied() {
            data.remove(&number);
        }
        return;
    }
    let mut files = old.files();
    let which = number % files.len();
    let file = &mut *files[which];
    let at = at % (file.len() + 1);
    match kind {
        0..120 => {
            if let Some(byte) = file.get_mut(at) {
                *byte = choices.byte();
            }
        }
        120..150 => file.truncate(at),
        150..180 => {
            let bytes = choices.below(32);
            file.splice(at..at, choices.take(bytes).to_vec());
        }
        180..200 => file.extend(std::iter::repeat_n(0, usize::from(choices.byte()) * 16)),
        200..220 => {
            let end = file.len().min(at + choices.below(64));
            file[at..end].fill(0);
        }
        220..232 => {
            let end = file.len().min(at + choices.below(64));
            drop(file.drain(at..end));
        }
        _ => {
            let bytes = choices.below(256);
            *file = choices.take(bytes).to_vec();
        }
    }
}

/// The walk alone, over each data file and its index: it comes to the end, and steps over nothing twice.
fn walk(old: &mut Old) {
    let _ = format::Descriptor::parse(&old.descriptor);
    for (number, data) in &old.data {
        let index = old.index.get(number).cloned().unwrap_or_default();
        let mut walk = Walk::of_bytes(data.clone(), index);
        let _ = walk.check_header(*number);
        let mut reached = 0;
        while let Some(item) = walk.next_item() {
            assert!(walk.position() > reached, "the walk goes on");
            reached = walk.position();
            match item {
                Item::Record { offset, head, .. } => {
                    let (key, payload) = walk.record(offset, &head).expect("a whole record");
                    assert_eq!(key.len(), usize::from(head.key_length));
                    assert_eq!(payload.len(), head.payload_length as usize);
                }
                Item::Placeholder { .. } => {}
                Item::Lost(lost) => assert!(lost.start < lost.end && lost.end <= walk.length()),
            }
        }
    }
}

/// A server on the new directories.
fn serve(data: &Path, index: &Path) -> World {
    let files = MemoryFiles::default();
    for (root, directory) in [(Root::Data, data), (Root::Index, index)] {
        for entry in std::fs::read_dir(directory).expect("the import made it") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name of ours");
            files.put(root, name, &std::fs::read(&path).expect("a file"));
        }
    }
    World::over(
        files,
        Setup {
            policy: Policy::No,
            shared_buffer: false,
            segment_bytes: 64 << 10,
            cache_bytes: 0,
            password: false,
            protect: false,
            few_hashes: false,
            prompt: false,
            scrub: false,
            has_threads: false,
            offload: false,
        },
    )
}

/// Compares all that a server shows of a namespace with what was written.
fn compare(world: &mut World, old: &Old) {
    let client = enter(world);
    let selected = match old.password.is_empty() {
        true => ask(world, client, &[b"SELECT", &old.name]),
        false => ask(world, client, &[b"SELECT", &old.name, &old.password]),
    };
    assert_eq!(selected, Reply::Simple(b"OK".to_vec()), "{}", old.name.escape_ascii());
    assert_eq!(ask(world, client, &[b"DBSIZE"]), Reply::Integer(old.live.len() as i64));
    for (key, versions) in &old.live {
        let (time, payload) = versions.last().expect("a live key has a version");
        assert_eq!(ask(world, client, &[b"GET", key]), Reply::Bulk(payload.clone()));
        assert_eq!(ask(world, client, &[b"KEYTIME", key]), Reply::Integer(i64::from(*time)));
        let mut token: Option<Vec<u8>> = None;
        for (time, payload) in versions.iter().rev() {
            let shown = match &token {
                None => ask(world, client, &[b"HISTORY", key]),
                Some(token) => ask(world, client, &[b"HISTORY", key, token]),
            };
            let Reply::Many(parts) = shown else { panic!("HISTORY says {shown}") };
            assert_eq!(parts[1], Reply::Bulk(time.to_string().into_bytes()), "time of a version");
            assert_eq!(parts[2], Reply::Bulk(payload.clone()), "payload of a version");
            token = parts[0].bulk().map(<[u8]>::to_vec);
        }
        assert_eq!(token, None, "the history ends where it began");
    }
    let Reply::Bulk(info) = ask(world, client, &[b"NSINFO", &old.name]) else {
        panic!("no NSINFO")
    };
    let info = String::from_utf8_lossy(&info).into_owned();
    let next_id = format!("next_internal_id: {:#010x}\n", old.next_id.swap_bytes());
    assert!(info.contains(&next_id), "{} ids in {info}", old.next_id);
    let worm = format!("worm: {}\n", if old.worm { "yes" } else { "no" });
    assert!(info.contains(&worm), "{info}");
}
