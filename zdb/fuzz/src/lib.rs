//! What the fuzz targets share.

pub mod allocations;
pub mod client;
pub mod disk;
pub mod history;
pub mod input;
pub mod old;
pub mod recount;
pub mod reply;
pub mod words;
pub mod world;
