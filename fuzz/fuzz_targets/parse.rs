//! `KIND PLACE PLACE TEXT`: no text makes a parser panic, and none of its words is lost.
#![no_main]

use bitacora::parse::Format;
use bitacora::parse::json::members;
use bitacora_fuzz::kinds::Kind;
use bitacora_fuzz::record::{WORD, loses_no_word, parse_all};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

fuzz_target!(|data: &[u8]| {
    let [kind, high, low, bytes @ ..] = data else { return };
    let (_, parser) = Kind::pick(*kind);
    parse_all(parser, bytes);
    let text = String::from_utf8_lossy(bytes);
    if !text.contains(&WORD[..WORD.len() / 2]) {
        loses_no_word(parser, &text, usize::from(u16::from_be_bytes([*high, *low])));
    }
    if parser.format() == Format::Json {
        // whatever another reader of JSON takes for an object is one
        let object = text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{');
        let known = object && serde_json::from_str::<IgnoredAny>(&text).is_ok();
        assert!(!known || members(text.as_bytes(), |_, _| {}), "refused: {text:?}");
    }
});
