//! The tools the tests share: a client, the server as a process, and a model of what it must answer.
//!
//! The way of the data: a [`transcript`] or a [`load`] makes requests; a [`server`] answers them
//! through a [`client`], the [`model`] answers them in memory; both answers are a [`reply`].

pub mod certificates;
pub mod checks;
pub mod client;
pub mod door;
pub mod fake;
pub mod fixture;
pub mod histories;
pub mod hosts;
pub mod import;
pub mod load;
pub mod model;
pub mod mount;
pub mod node;
pub mod offline;
pub mod old;
pub mod program;
pub mod proxy;
pub mod reply;
pub mod sentinel;
pub mod server;
pub mod terminal;
pub mod tls;
pub mod transcript;
pub mod wire;

pub use client::Client;
pub use model::Model;
pub use reply::Reply;
pub use server::Server;

/// The seed of this run: `ZDB_SEED`, or one from the clock. Every test that draws numbers prints it.
pub fn seed(test: &str) -> u64 {
    let seed = match std::env::var("ZDB_SEED") {
        Ok(text) => text.parse().expect("ZDB_SEED is a decimal number"),
        Err(_) => fastrand::u64(..1 << 48),
    };
    println!("{test}: ZDB_SEED={seed}");
    seed
}

/// A count that a long run raises through the environment.
pub fn count_from_env(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a decimal number")),
        Err(_) => default,
    }
}
