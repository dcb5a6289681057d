//! `OPTION SETTING NUL TEXT`: a setting of a server is refused with a reason or can be parsed with.
#![no_main]

use std::collections::BTreeMap;

use bitacora::parse::{Format, Parser};
use bitacora_fuzz::record::{WORD, loses_no_word, parse_all};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((option, rest)) = data.split_first() else { return };
    let nul = memchr::memchr(0, rest).unwrap_or(rest.len());
    let setting = String::from_utf8_lossy(&rest[..nul]);
    let bytes = rest.get(nul + 1..).unwrap_or_default();
    let (format, name) = match option % 4 {
        0 => (Format::NginxAccess, "log_format"),
        1 => (Format::Postgresql, "log_line_prefix"),
        2 => (Format::Postgresql, "log_error_verbosity"),
        _ => (Format::Json, "level_scheme"),
    };
    let options = BTreeMap::from([(name.to_owned(), setting.clone().into_owned())]);
    let parser = match Parser::new(format, &options) {
        Ok(parser) => parser,
        Err(error) => {
            assert_eq!(error.option, name);
            return assert!(!error.detail.is_empty());
        }
    };
    parse_all(&parser, bytes);
    let text = String::from_utf8_lossy(bytes);
    let part = &WORD[..WORD.len() / 2];
    // a prefix may name a value twice, of which the server writes the same both times
    if format == Format::NginxAccess && !text.contains(part) && !setting.contains(part) {
        loses_no_word(&parser, &text, usize::from(*option) * 7);
    }
});
