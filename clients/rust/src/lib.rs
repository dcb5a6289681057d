//! `tracing` into bitacora: never waits, and knows what is stored.
//!
//! [`layer`] makes a [`Layer`] with the default options, [`Layer::builder`] one with others. The
//! [`Guard`] that comes with it belongs into a variable of `main`: at its end the records that
//! still wait are sent.
//!
//! ```no_run
//! use tracing_subscriber::prelude::*;
//!
//! fn main() {
//!     let (bitacora, _guard) = bitacora_tracing::Layer::builder().source("billing").build();
//!     tracing_subscriber::registry().with(bitacora).init();
//!
//!     let request = tracing::info_span!("request", request_id = "7c0d6f34-51cb-4f8a-8e0b-d3b0c8a4b1aa");
//!     let _inside = request.enter();
//!     tracing::info!(user_id = 7, duration_ms = 12.5, customer = "ES", "invoice {} sent", 4711);
//!     tracing::info!(event_type = "login", user_id = 7, ip_address = "203.0.113.7", method = "password");
//! }
//! ```
//!
//! # What a record becomes
//!
//! | Of the event | Becomes |
//! |---|---|
//! | time, level, message, target | `timestamp` (microseconds), `level`, `message`, `logger` |
//! | the fields `request_id`, `user_id`, `session_id`, `duration_ms`, `traceback` | the columns of these names; a field that the event lacks is taken from the innermost span that has it |
//! | any other field | metadata with its type; what JSON lacks as text, an error with its causes |
//! | any other field of the spans around it | metadata `span.NAME`; of one name the innermost |
//! | names of the spans, file, line, module, thread, process | metadata `spans` (`outer:inner`), `file`, `line`, `module`, `thread`, `process` |
//!
//! An event with a text field `event_type` is a user event: `user_id`, `session_id`, `ip_address`
//! and `user_agent` (its own, or those of the spans) are columns, and its other fields, the message
//! and the `request_id` are its data.
//!
//! A field with a name of the record itself (`source`, `level`, `timestamp` …) becomes
//! `extra_source` and so on. A record over 256 KiB is cut at its longest texts; `cut` says which.
//! What the formatting of a value does wrong (a panic, an error) costs that value, is counted in
//! [`Stats::errors`], and stands in `format_error`; what it logs itself is left out and counted.
//!
//! # Forks
//!
//! A forked child gets a client id, a queue, a connection and counters of its own with its first
//! event, and never sends what its parent has queued.

mod client;
mod connection;
mod fields;
mod layer;
mod line;
mod options;
mod worker;

pub use layer::Layer;
pub use options::{Builder, DEFAULT_PATH, Guard, Stats, WhenFull};

/// A layer with the default options, and the guard that ends it.
#[must_use = "without its guard the layer takes no events"]
pub fn layer() -> (Layer, Guard) {
    Layer::builder().build()
}
