//! Tests, benches and fuzz targets that cross rooms.

pub mod floors;
pub mod fuzz;
pub mod hostile;
pub mod plain;
pub mod world;
