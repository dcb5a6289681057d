//! What looks after stored rows.

pub mod audit;
pub mod backup;
pub mod retention;
