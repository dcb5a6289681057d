//! nginx access and error logs.

use super::{Clock, OptionError, Role, keys, time};

pub use access::AccessFormat;
pub use error::{error_role, parse_error};

mod access;
mod error;
mod log_format;
