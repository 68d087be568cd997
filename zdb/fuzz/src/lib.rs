//! What the fuzz targets share beside the simulated world of `zdb/sim`.

pub mod allocations;
pub mod old;
