//! zdb: an append-only key-value server for one disk, over io_uring, speaking the Redis protocol.
//!
//! The way of the data, and of the modules: server (sockets) -> hub (connections) -> command ->
//! engine (namespaces, index, log) -> disk. See ARCHITECTURE.md.

pub mod backup;
pub mod command;
pub mod crc32c;
pub mod disk;
pub mod engine;
pub mod hub;
pub mod import;
pub mod limits;
pub mod offline;
pub mod options;
pub mod output;
pub mod planted;
pub mod resp;
pub mod server;
