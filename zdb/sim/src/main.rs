//! The simulator from the command line.
use zdb_sim::run::run;
fn main() {
    let mut args = std::env::args().skip(1);
    let first: u64 = args.next().unwrap().parse().unwrap();
    let count: u64 = args.next().unwrap().parse().unwrap();
    for seed in first..first + count {
        if std::env::var_os("ZDB_SEEDS").is_some() { eprintln!("seed {seed}"); }
        run(seed);
    }
}
