//! Workers: chunks in, batches and pieces out.
