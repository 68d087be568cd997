//! The server without sockets, files and a clock, and the models that say what it may answer. The
//! simulator drives it from a seed, the fuzz targets from bytes.

pub mod client;
pub mod disk;
pub mod history;
pub mod input;
pub mod recount;
pub mod replicas;
pub mod reply;
pub mod requests;
pub mod run;
pub mod scrub;
pub mod steps;
pub mod sweep;
pub mod words;
pub mod world;
