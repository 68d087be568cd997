struct Instant(u64);
impl Instant { fn now()->Instant{ let mut t: libc::timespec = unsafe{std::mem::zeroed()}; unsafe{libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID,&mut t)}; Instant(t.tv_sec as u64*1_000_000_000+t.tv_nsec as u64)}
fn elapsed(&self)->std::time::Duration{ std::time::Duration::from_nanos(Instant::now().0-self.0)}}
use zdb::engine::index::*;
fn main() {
    let secret = HashSecret::new([3; 16]);
    for n in std::env::args().skip(1).map(|a| a.parse::<u64>().unwrap()) {
        let hashes: Vec<KeyHash> = (0..n).map(|i| secret.hash(&i.to_le_bytes())).collect();
        let mut order: Vec<KeyHash> = hashes.clone();
        let mut x = 88172645463325252u64;
        for i in (1..order.len()).rev() {
            x ^= x << 13; x ^= x >> 7; x ^= x << 17;
            order.swap(i, (x % (i as u64 + 1)) as usize);
        }
        let e = |i: u64| Entry { place: Place::new(8 + 8 * i), length: 100, fingerprint: 7 };
        {
            let mut pool = PagePool::new(); let mut t = KeyTable::new();
            let start = Instant::now();
            for (i, &h) in hashes.iter().enumerate() { t.insert(&mut pool, h, e(i as u64)); }
            let ins = start.elapsed().as_nanos() as f64 / n as f64;
            let start = Instant::now();
            let mut s = 0u64;
            for &h in &order { s += t.get(&pool, h).unwrap().place.get(); }
            let get = start.elapsed().as_nanos() as f64 / n as f64;
            let start = Instant::now();
            for w in 0..order.len() {
                if let Some(&h) = order.get(w + 8) { t.prefetch(&pool, h); }
                s += t.get(&pool, order[w]).unwrap().place.get();
            }
            let getp = start.elapsed().as_nanos() as f64 / n as f64;
            let start = Instant::now();
            for &h in &order { s += t.get(&pool, KeyHash::clone(&secret_flip(h, &secret))).is_some() as u64; }
            let miss = start.elapsed().as_nanos() as f64 / n as f64;
            let start = Instant::now();
            let mut c=0u64; t.for_each(&pool, |e| c += e.place.get());
            let each = start.elapsed().as_nanos() as f64 / n as f64;
            println!("n={n} insert {ins:.0} get {get:.0} get+prefetch8 {getp:.0} miss(+siphash) {miss:.0} for_each {each:.1} ns; {:.2} B/key table, pool {:.2} {s}{c}", t.memory_bytes() as f64 / n as f64, pool.memory_bytes() as f64 / n as f64);
            let start = Instant::now();
            for &h in &order { t.remove(&mut pool, h); }
            println!("   remove {:.0} ns, pages left {}", start.elapsed().as_nanos() as f64 / n as f64, pool.pages_in_use());
        }
        {
            let mut pool = PagePool::new(); let mut t = KeyTable::new();
            let mut hist: Vec<u32> = Vec::with_capacity(n as usize);
            for (i, &h) in hashes.iter().enumerate() {
                let s = std::time::Instant::now(); t.insert(&mut pool, h, e(i as u64));
                hist.push(s.elapsed().as_nanos() as u32);
            }
            hist.sort_unstable();
            let p = |q: f64| hist[((n - 1) as f64 * q) as usize];
            println!("   single insert p50 {} p99 {} p99.9 {} p99.99 {} p99.999 {} max {} ns", p(0.5), p(0.99), p(0.999), p(0.9999), p(0.99999), p(1.0));
        }
        {
            let mut by_root = hashes.clone(); by_root.sort_by_key(|h| h.root());
            let mut pool = PagePool::new(); let mut t = KeyTable::new();
            let s = Instant::now();
            for (i, &h) in by_root.iter().enumerate() { t.insert(&mut pool, h, e(i as u64)); }
            println!("   by root {:.0} ns", s.elapsed().as_nanos() as f64 / n as f64);
            drop(pool);
            for bits in [6, 8, 10] {
                let mut g = hashes.clone(); g.sort_by_key(|h| h.get() >> (64 - bits));
                let mut pool = PagePool::new(); let mut t = KeyTable::new();
                let s = Instant::now();
                for (i, &h) in g.iter().enumerate() { t.insert(&mut pool, h, e(i as u64)); }
                println!("   by {bits} bits {:.0} ns", s.elapsed().as_nanos() as f64 / n as f64);
            }
            by_root.sort_unstable();
            let mut pool = PagePool::new(); let mut t = KeyTable::new();
            let s = Instant::now();
            for (i, &h) in by_root.iter().enumerate() { t.insert(&mut pool, h, e(i as u64)); }
            println!("   sorted {:.0} ns; {:.2} B/key", s.elapsed().as_nanos() as f64 / n as f64, t.memory_bytes() as f64 / n as f64);
        }
    }
}
fn secret_flip(h: KeyHash, s: &HashSecret) -> KeyHash { s.hash(&h.get().to_be_bytes()) }
