//! Looks at everything after a restart: all namespaces with their settings, every key that was ever
//! written, its versions, and the order of scans. What is found then is what the model goes on from.

use crate::client::{NAMES, settings_in, settings_of};
use crate::history::{Moment, Seen, Value};
use crate::recount::{ask, compare_counters, enter, walk};
use crate::reply::Reply;
use crate::words;
use crate::world::World;
use std::collections::BTreeSet;
use zdb::limits::KEY_BYTES_MAX;

/// Most versions of a key.
const VERSIONS_MAX: usize = 10_000;

/// What a key was found to have.
struct Found {
    key: Vec<u8>,
    /// The newest first.
    versions: Vec<Vec<u8>>,
    /// All of them were read.
    is_whole: bool,
}

/// Compares all that there is with the model. With `settle` the model goes on from what was found: only
/// where all of it is durable, as right after a start.
pub fn sweep(world: &mut World, settle: bool) {
    // A log that takes no more writes lets go of who waits for those that it took.
    let is_broken = world.hub.engine.log.broken().is_some();
    if world.hub.stopping || world.files.is_stopped() || is_broken {
        return;
    }
    // Nothing goes wrong while somebody looks.
    world.files.forget_plan();
    let begun = world.now_moment();
    let admin = enter(world);
    let Reply::Many(names) = ask(world, admin, &[b"NSLIST"]) else { panic!("NSLIST is a list") };
    let names: Vec<Vec<u8>> = names.iter().filter_map(Reply::bulk).map(<[u8]>::to_vec).collect();
    let settle = settle && !world.bad_start;
    for known in &words::NAMESPACES {
        let listed = names.iter().any(|name| name == known);
        look_at_name(world, admin, known, listed, settle, begun);
    }
    for name in &names {
        // Stands in for a namespace whose own record a crash took while later ones came through.
        if name.starts_with(b"recovered-") && (world.has_gaps || world.bad_start) {
            continue;
        }
        if ask(world, admin, &[b"SELECT", name, words::PASSWORD.as_bytes()]).is_error()
            && ask(world, admin, &[b"SELECT", name]).is_error()
        {
            continue;
        }
        if let Some((found, order)) = look_inside(world, admin, name, begun)
            && settle
        {
            remember(world, name, &found, &order);
        }
    }
    world.hub.remove(admin);
}

/// The name of a namespace and its settings.
fn look_at_name(
    world: &mut World,
    admin: u64,
    name: &[u8],
    listed: bool,
    settle: bool,
    begun: Moment,
) {
    if name != b"default" {
        let seen = if listed { Seen::Present } else { Seen::Missing };
        check(world, NAMES, name, &seen, begun);
    }
    let registers = settings_of(name);
    let mut settings = Vec::new();
    if listed {
        let Reply::Bulk(lines) = ask(world, admin, &[b"NSINFO", name]) else {
            panic!("NSINFO of a namespace that is there")
        };
        settings = settings_in(name, &lines);
        for (field, shown) in &settings {
            let seen = shown.as_ref().map_or(Seen::Missing, |shown| Seen::Bytes(shown));
            check(world, &registers, field.as_bytes(), &seen, begun);
        }
    }
    if !settle {
        return;
    }
    let now = world.tick();
    world.history.settle(&registers, now);
    if !listed {
        world.history.settle(name, now);
    }
    let now = world.tick();
    let there = if listed { Value::Bytes(b"1".to_vec()) } else { Value::Missing };
    world.history.found(NAMES, name, there, now);
    for (field, shown) in settings {
        let value = shown.map_or(Value::Missing, Value::Bytes);
        world.history.found(&registers, field.as_bytes(), value, now);
    }
}

/// All keys of the namespace that was entered, and their order in a scan. `None` where something cannot
/// be read.
fn look_inside(
    world: &mut World,
    admin: u64,
    name: &[u8],
    begun: Moment,
) -> Option<(Vec<Found>, Vec<Vec<u8>>)> {
    // It is frozen.
    if ask(world, admin, &[b"EXISTS", b"a"]).is_error() && !world.bad_start {
        return None;
    }
    let shown = name.escape_ascii().to_string();
    let mut is_readable = true;
    let forward = walk(world, admin, b"SCAN");
    let backward = walk(world, admin, b"RSCAN");
    if let (Ok(forward), Ok(backward)) = (&forward, &backward) {
        assert!(
            forward.iter().rev().eq(backward) || world.bad_start,
            "RSCAN of {shown} is SCAN backwards: {forward:?}, {backward:?}"
        );
    } else {
        assert!(world.bad_start, "a scan of {shown} ends with {forward:?}, {backward:?}");
        is_readable = false;
    }
    let forward = forward.unwrap_or_default();
    let order: Vec<Vec<u8>> = forward.iter().map(|(key, _)| key.clone()).collect();
    let scanned: BTreeSet<&Vec<u8>> = order.iter().collect();
    assert_eq!(scanned.len(), order.len(), "SCAN of {shown} shows a key twice");
    let mut found = Vec::new();
    let keys: BTreeSet<Vec<u8>> = world.history.keys().into_iter().chain(order.clone()).collect();
    for key in keys {
        if key.len() > KEY_BYTES_MAX {
            continue;
        }
        match ask(world, admin, &[b"GET", &key]) {
            Reply::Bulk(value) => {
                check(world, name, &key, &Seen::Bytes(&value), begun);
                found.push(versions(world, admin, name, key));
            }
            Reply::Nil => check(world, name, &key, &Seen::Missing, begun),
            other => {
                // The way to a key leads through others with its hash, which may be in a gap.
                let may_be_cut = world.bad_start || (world.setup.few_hashes && world.has_gaps);
                let what = format!("GET {} of {shown} gets {other}", key.escape_ascii());
                assert!(may_be_cut, "{what}");
                is_readable = false;
            }
        }
    }
    is_readable &= found.iter().all(|one| one.is_whole);
    // A scan goes by the hash, and shows one of the keys that share it.
    if !world.setup.few_hashes && is_readable {
        let there: BTreeSet<&Vec<u8>> = found.iter().map(|one| &one.key).collect();
        assert!(
            there == scanned || world.bad_start,
            "SCAN of {shown}: {scanned:?}, but there are {there:?}"
        );
        check_order(world, admin, name, &order, &found);
    }
    if world.is_trusted() {
        compare_counters(world, admin, name, &forward);
    }
    is_readable.then_some((found, order))
}

/// Walks down the history of a key.
fn versions(world: &mut World, admin: u64, name: &[u8], key: Vec<u8>) -> Found {
    let mut versions = Vec::new();
    let mut token: Option<Vec<u8>> = None;
    let mut is_whole = false;
    while versions.len() < VERSIONS_MAX {
        let reply = match &token {
            Some(token) => ask(world, admin, &[b"HISTORY", &key, token]),
            None => ask(world, admin, &[b"HISTORY", &key]),
        };
        // The cleaner was quicker.
        let is_gone = matches!(&reply, Reply::Error(text) if text == b"No more history");
        if is_gone && world.history.kept_versions(name) < versions.len() as u64 {
            is_whole = true;
            break;
        }
        let Reply::Many(fields) = &reply else {
            let what = format!("HISTORY {} after {}: {reply}", key.escape_ascii(), versions.len());
            // A packed segment whose header could not be read, and which has no record, says of no position that
            // it was dropped.
            assert!(world.bad_start || world.has_gaps || world.bad_reads, "{what}");
            break;
        };
        let [before, _, Reply::Bulk(value)] = fields.as_slice() else {
            panic!("HISTORY gets {reply}")
        };
        versions.push(value.clone());
        token = before.bulk().map(<[u8]>::to_vec);
        if token.is_none() {
            is_whole = true;
            break;
        }
    }
    let must_be_whole = is_whole && !world.has_gaps && !world.bad_start;
    if !world.bad_start
        && let Err(what) = world.history.check_versions(name, &key, &versions, must_be_whole)
    {
        let (key, name) = (key.escape_ascii(), name.escape_ascii());
        let shown: Vec<String> = versions.iter().map(|one| brief(one)).collect();
        panic!("HISTORY {key} of {name} shows {what}; it shows {}", shown.join(", "));
    }
    Found { key, versions, is_whole }
}

/// The beginning of a value, for people.
fn brief(value: &[u8]) -> String {
    format!("{} ({} bytes)", value[..value.len().min(8)].escape_ascii(), value.len())
}

/// In user mode keys come in the order of their last writes, else by their ids.
fn check_order(world: &mut World, admin: u64, name: &[u8], order: &[Vec<u8>], found: &[Found]) {
    if is_sequential(world, admin, name) {
        let ids: Vec<u64> = order
            .iter()
            .filter_map(|key| Some(u64::from_le_bytes(key.as_slice().try_into().ok()?)))
            .collect();
        assert!(ids.is_sorted(), "SCAN of {} is in the order of ids", name.escape_ascii());
        return;
    }
    let mut latest = 0;
    for key in order {
        let Some(one) = found.iter().find(|one| one.key == *key) else { continue };
        let Some(value) = one.versions.first() else { continue };
        let (first, last) = world.history.written_between(name, key, &Seen::Bytes(value));
        assert!(
            latest <= last || world.bad_start,
            "SCAN of {} shows {} behind a key that was written later",
            name.escape_ascii(),
            key.escape_ascii()
        );
        latest = latest.max(first);
    }
}

fn is_sequential(world: &mut World, admin: u64, name: &[u8]) -> bool {
    let Reply::Bulk(lines) = ask(world, admin, &[b"NSINFO", name]) else { return false };
    String::from_utf8_lossy(&lines).contains("mode: sequential")
}

fn check(world: &World, namespace: &[u8], key: &[u8], seen: &Seen<'_>, begun: Moment) {
    let now = world.now_moment();
    if let Err(what) = world.history.check(namespace, key, seen, begun, now) {
        panic!("after a start: {what}");
    }
}

/// What was found is all there is.
fn remember(world: &mut World, name: &[u8], found: &[Found], order: &[Vec<u8>]) {
    let now = world.tick();
    world.history.settle(name, now);
    for one in found {
        for version in one.versions.iter().skip(1).rev() {
            let now = world.tick();
            world.history.found(name, &one.key, Value::Bytes(version.clone()), now);
        }
    }
    let (scanned, hidden): (Vec<&Found>, Vec<&Found>) =
        found.iter().partition(|one| order.contains(&one.key));
    let in_order = order.iter().filter_map(|key| scanned.iter().find(|one| one.key == *key));
    for one in hidden.iter().chain(in_order) {
        if let Some(newest) = one.versions.first() {
            let now = world.tick();
            world.history.found(name, &one.key, Value::Bytes(newest.clone()), now);
        }
    }
}
