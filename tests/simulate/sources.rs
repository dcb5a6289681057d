//! The sources of a history, and the numbers of its lines.

use std::collections::BTreeMap;
use std::time::Duration;

use bitacora::config::{FileSource, Start};
use bitacora::key::Table;
use bitacora::parse::Format;

use super::disk::Style;

/// The one source that follows a log of this style, by name or by pattern.
pub fn source_of(dir: &std::path::Path, name: &str, style: Style, pattern: bool) -> FileSource {
    let (format, options) = match style {
        Style::Json => (Format::Json, BTreeMap::new()),
        Style::Syslog => (Format::Syslog, BTreeMap::new()),
        Style::Postgresql => {
            let prefix = ("log_line_prefix".to_owned(), "%m [%p] ".to_owned());
            (Format::Postgresql, BTreeMap::from([prefix]))
        }
    };
    let name = if pattern { name.replace("ss", "?s").replace("rr", "?r") } else { name.to_owned() };
    FileSource {
        source: "source-0".to_owned(),
        paths: vec![dir.join(name).display().to_string()],
        exclude: Vec::new(),
        format,
        options,
        table: Table::Infrastructure,
        timezone: "UTC".to_owned(),
        start: Start::Beginning,
        max_line_bytes: 256 << 10,
        rotate_wait: Duration::from_secs(5),
        multiline_wait: Duration::from_secs(2),
    }
}

/// The numbers between angle brackets.
pub fn numbers_in(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.split('<').skip(1).filter_map(|rest| rest.split_once('>')?.0.parse().ok())
}
