//! What looks after stored rows.

pub mod alerts;
pub mod audit;
pub mod backup;
pub mod retention;
