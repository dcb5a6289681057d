//! The command line: words, exit codes, texts.

pub mod logs;
mod pager;
