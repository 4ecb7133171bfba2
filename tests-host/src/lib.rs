//! Tests, benches and fuzz targets that cross rooms.

pub mod floors;
