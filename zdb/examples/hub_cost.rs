//! What a request costs without a socket: nanoseconds of the hub, for profiling.
use std::sync::Arc;
use std::time::Instant;
use zdb::command::{ServerState, ServerStats, Table};
use zdb::disk::{Completion, Files, housekeeper, Operation, Done};
use zdb::disk::system::SystemFiles;
use zdb::engine::log::Policy;
use zdb::engine::recovery::{self, StartOptions};
use zdb::engine::Now;
use zdb::hub::{Hub, Peer};

fn main() {
    let dir = std::env::args().nth(1).unwrap_or("/tmp/hub_cost".into());
    let keys: u64 = std::env::args().nth(2).map_or(100_000, |s| s.parse().unwrap());
    let n: u64 = std::env::args().nth(3).map_or(2_000_000, |s| s.parse().unwrap());
    let null = std::env::args().nth(4).is_some();
    let _ = std::fs::remove_dir_all(&dir);
    let (files, _) = SystemFiles::open((dir.clone() + "/d").as_ref(), (dir + "/i").as_ref()).unwrap();
    let files: Arc<dyn Files> = Arc::new(files);
    let mut random = [0u8; 32];
    random[0] = 1;
    let (engine, _) = recovery::start(&*files, StartOptions { mode: None, policy: Policy::Every { period_ms: 1000 }, segment_bytes: 256 << 20, cache_bytes: 256 << 20, buffer: None, random }).unwrap();
    let server = ServerState { table: Table::new(), admin_password: None, protect: false, mode: None, data_path: String::new(), index_path: String::new(), settings: vec![], random: Box::new(|_| ()), instance_id: 1, boot_s: 0, stats: ServerStats::default() };
    let mut hub = Hub::new(engine, server, null);
    hub.set_time(Now { unix_us: 1_700_000_000_000_000, monotonic_ms: 5 });
    let key = hub.connected(Peer { name: "x".into(), local: true });
    let mut ops = Vec::new();
    let mut ms = 5;
    let mut pump = |hub: &mut Hub| {
        ms += 1;
        hub.set_time(Now { unix_us: 1_700_000_000_000_000, monotonic_ms: ms / 100 });
        hub.settle();
        loop {
            hub.take_operations(&mut ops);
            if ops.is_empty() { break; }
            for (token, op) in std::mem::take(&mut ops) {
                let result = match op {
                    Operation::Write { length, .. } => Ok(Done::Count(length)),
                    Operation::Sync { .. } => Ok(Done::Count(0)),
                    Operation::Read { file, offset, length } => { let mut b = zdb::disk::aligned::AlignedBuffer::new(length as usize); let n = files.read_at(file, offset, &mut b).unwrap(); b.truncate(n); Ok(Done::Bytes(b)) }
                    slow => housekeeper::perform(&*files, slow),
                };
                hub.completed(Completion { token, result });
            }
            hub.settle();
        }
        let c = hub.get_mut(key).unwrap();
        c.output.clear();
    };
    let mut seed = 88172645463325252u64;
    let mut rnd = move || { seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17; seed };
    let mut run = |hub: &mut Hub, what: &str, n: u64, rnd: &mut dyn FnMut(u64) -> u64| {
        let mut batches = Vec::new();
        let mut i = 0;
        while i < n {
            let mut b = Vec::new();
            for _ in 0..16 {
                let k = format!("key:{:012}", rnd(i));
                if what == "get" { b.extend_from_slice(format!("*2\r\n$3\r\nGET\r\n$16\r\n{k}\r\n").as_bytes()); }
                else { b.extend_from_slice(format!("*3\r\n$3\r\nSET\r\n$16\r\n{k}\r\n$100\r\n{i:0100}\r\n").as_bytes()); }
                i += 1;
            }
            batches.push(b);
        }
        let t = Instant::now();
        for b in &batches { hub.received(key, b); pump(hub); }
        println!("{what}: {:.0} ns", t.elapsed().as_nanos() as f64 / n as f64);
    };
    run(&mut hub, "set", keys, &mut |i| i);
    if std::env::args().nth(5).is_none() {
    run(&mut hub, "get", n, &mut |_| rnd() % keys);
    }
    let mut s2 = 77u64;
    run(&mut hub, "set", n, &mut |_| { s2 = s2.wrapping_mul(6364136223846793005).wrapping_add(1); (s2 >> 33) % keys });
    run(&mut hub, "set", n, &mut |_| { s2 = s2.wrapping_mul(6364136223846793005).wrapping_add(1); (s2 >> 24) });
}
