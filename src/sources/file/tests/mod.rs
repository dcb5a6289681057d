//! Rotation, driven step by step over real files.
