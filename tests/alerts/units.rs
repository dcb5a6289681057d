//! The timers and what they start.
