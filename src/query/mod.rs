//! Looks at stored rows, through [`crate::stores::LogReader`] only: which rows, in which order,
//! how many, how complete the answer is, and how it looks.

use std::io;

use crate::stores::StoreError;

pub mod complete;
pub mod count;
pub mod cursor;
pub mod filter;
pub mod follow;
pub mod output;
pub mod raw;
pub mod run;
pub mod time;

pub use filter::{Filter, FilterError};
pub use run::{Asked, Lines, run};

/// Why an answer ended early.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever reads the answer; a broken pipe is no error to its user.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// Takes the rows of an answer, one by one.
pub type Emit<'a> = &'a mut dyn FnMut(&crate::stores::StoredRow) -> io::Result<()>;

#[cfg(test)]
pub(crate) mod tests;
