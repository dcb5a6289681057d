//! Tests of the whole store over real files.
