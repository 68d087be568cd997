//! What the fuzz targets share.

pub mod allocations;
pub mod input;
