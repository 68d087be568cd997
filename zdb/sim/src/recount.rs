//! The counters of NSINFO, counted again by SCAN.

use crate::reply::{self, Reply};
use crate::words;
use crate::world::World;
use zdb::output::Output;

/// Most calls of SCAN in one namespace.
const PAGES_MAX: usize = 10_000;

/// Rounds without a reply: a pause may last long, and there is something to do every few seconds.
const ROUNDS_MAX: usize = 20_000;

/// Asks as an admin, and waits for the reply.
pub fn ask(world: &mut World, key: u64, request: &[&[u8]]) -> Reply {
    let request: Vec<Vec<u8>> = request.iter().map(|word| word.to_vec()).collect();
    world.hub.received(key, &words::encode(&request));
    let mut bytes = Vec::new();
    for _ in 0..ROUNDS_MAX {
        world.turn();
        let mut output = Output::default();
        world.hub.take_output(key, &mut output);
        let mut slices = Vec::new();
        output.slices(0, &mut slices);
        slices.into_iter().for_each(|slice| bytes.extend_from_slice(slice));
        world.hub.sent(key, output.len(), output.len());
        if let Ok(Some((reply, _))) = reply::parse(&bytes, false) {
            return reply;
        }
        world.finish_all();
        // Time does not pass between what the disk says and who waits for it.
        world.turn();
        world.advance_to_deadline();
    }
    panic!("no reply to {:?}: {}", request, bytes.escape_ascii())
}

fn field(lines: &[u8], name: &str) -> u64 {
    let lines = String::from_utf8_lossy(lines);
    let value = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.and_then(|value| value.trim().parse().ok()).expect("NSINFO has the field")
}

/// A connection of an admin.
pub fn enter(world: &mut World) -> u64 {
    world.hub.server.settings.clients_max = u64::MAX;
    let at = world.connect(true);
    let key = world.clients.remove(at).key;
    if world.setup.password {
        ask(world, key, &[b"AUTH", words::PASSWORD.as_bytes()]);
    }
    key
}

/// Walks all namespaces. Where the disk failed there is nothing to compare.
pub fn recount(world: &mut World) {
    if !world.is_trusted() {
        return;
    }
    let key = enter(world);
    let Reply::Many(names) = ask(world, key, &[b"NSLIST"]) else { panic!("NSLIST is a list") };
    for name in names {
        let name = name.bulk().expect("names are bulks").to_vec();
        ask(world, key, &[b"NSSET", &name, b"password", b"*"]);
        let is_open = !ask(world, key, &[b"NSSET", &name, b"freeze", b"0"]).is_error();
        let password = words::PASSWORD.as_bytes();
        let is_entered = !ask(world, key, &[b"SELECT", &name]).is_error()
            || !ask(world, key, &[b"SELECT", &name, password]).is_error();
        if !is_open || !is_entered {
            // The disk is full: what hinders could not be taken away.
            continue;
        }
        let forward = walk(world, key, b"SCAN").expect("a namespace that is not frozen is scanned");
        compare_counters(world, key, &name, &forward);
        for (key_there, _) in &forward {
            let found = ask(world, key, &[b"EXISTS", key_there]);
            assert_eq!(found, Reply::Integer(1), "SCAN shows a key that is there");
        }
    }
}

/// The counters of a namespace are what a scan of it has found.
pub fn compare_counters(world: &mut World, key: u64, name: &[u8], found: &[(Vec<u8>, u64)]) {
    let Reply::Bulk(info) = ask(world, key, &[b"NSINFO", name]) else {
        panic!("NSINFO of {}", name.escape_ascii())
    };
    let (shown, entries) = (name.escape_ascii(), found.len() as u64);
    let keys: u64 = found.iter().map(|(key, _)| key.len() as u64).sum();
    let bytes: u64 = found.iter().map(|(_, length)| length).sum();
    assert_eq!(field(&info, "entries"), entries, "entries of {shown}");
    assert_eq!(field(&info, "data_size_bytes"), bytes, "bytes of {shown}");
    assert_eq!(field(&info, "index_size_bytes"), entries * 64 + keys, "bytes of keys of {shown}");
    assert_eq!(ask(world, key, &[b"DBSIZE"]), Reply::Integer(entries as i64), "DBSIZE of {shown}");
}

/// All keys of the namespace in the order of the scan, with the length of their values; or the error that
/// the scan ends with.
pub fn walk(world: &mut World, key: u64, command: &[u8]) -> Result<Vec<(Vec<u8>, u64)>, Vec<u8>> {
    let mut found = Vec::new();
    let mut cursor: Option<Vec<u8>> = None;
    for _ in 0..PAGES_MAX {
        let reply = match &cursor {
            Some(cursor) => ask(world, key, &[command, cursor]),
            None => ask(world, key, &[command]),
        };
        let page = match reply {
            Reply::Many(page) => page,
            Reply::Error(text) if text == b"No more data" => return Ok(found),
            Reply::Error(text) => return Err(text),
            other => panic!("a page of SCAN is {other:?}"),
        };
        let [Reply::Bulk(next), Reply::Many(entries)] = page.as_slice() else {
            panic!("a page of SCAN is {page:?}")
        };
        cursor = Some(next.clone());
        for entry in entries {
            let Reply::Many(fields) = entry else { panic!("an entry is {entry:?}") };
            let [Reply::Bulk(name), Reply::Integer(length), Reply::Integer(_)] = fields.as_slice()
            else {
                panic!("an entry is {entry:?}")
            };
            found.push((name.clone(), *length as u64));
        }
    }
    panic!("SCAN does not end")
}
