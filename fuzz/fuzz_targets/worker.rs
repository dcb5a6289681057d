//! `KIND KIND FLAGS SWITCH SWITCH PICK SIZE SIZE SIZE TEXT`: the same bytes cut differently, handed
//! out early, or read again from the end of any piece, give the same rows; pieces tile.
#![no_main]

use bitacora::key::Table;
use bitacora_fuzz::drive::{From, Text, read};
use bitacora_fuzz::kinds::Kind;
use libfuzzer_sys::fuzz_target;

const BYTES_MAX: usize = 192 << 10;
/// From here on small cuts take too long.
const LARGE_BYTES: usize = 8 << 10;

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first_chunk::<9>() else { return };
    let [kind, next_kind, flags, high, low, pick, sizes @ ..] = *head;
    let bytes = grown(rest);
    let least = if bytes.len() > LARGE_BYTES { 500 } else { 1 };
    let sizes = sizes.map(|size| least + usize::from(size) * usize::from(size));
    let mut contexts = vec![(0, Kind::pick(kind).0)];
    let switch = usize::from(u16::from_be_bytes([high, low]));
    let line_start = memchr::memchr(b'\n', bytes.get(switch..).unwrap_or_default());
    if let Some(newline) = line_start
        && flags & 1 == 1
    {
        contexts.push((switch + newline + 1, Kind::pick(next_kind).0));
    }
    let text = Text {
        bytes: &bytes,
        contexts,
        table: if flags & 2 == 2 { Table::Application } else { Table::Infrastructure },
        max_line_bytes: [1 << 18, 4096, 200, 30][usize::from(flags >> 2 & 3)],
    };
    let whole = read(&text, &From::default(), &[usize::MAX], false);
    let cut = read(&text, &From::default(), &sizes, false);
    assert_eq!(cut.rows, whole.rows, "rows hang on the cuts");
    assert_eq!(cut.sum, whole.sum, "accounts hang on the cuts");
    let early = read(&text, &From::default(), &sizes, true);
    assert_eq!(early.rows, whole.rows, "early rows differ in the end");
    assert_eq!(early.sum, whole.sum, "accounts hang on early rows");

    let pieces = if flags & 16 == 16 { &early.pieces } else { &cut.pieces };
    let Some(piece) = pieces.get(usize::from(pick) % pieces.len().max(1)) else { return };
    let again = read(&text, &From::end_of(piece), &sizes, flags & 32 == 32);
    let end = i64::try_from(piece.end_bytes).expect("texts are short");
    let mut expected = whole.rows;
    let rest = expected.split_off(&end);
    assert_eq!(again.rows, rest, "rows hang on where reading began");
});

/// Some control bytes stand for what would take long to find: many NUL bytes, long lines.
fn grown(bytes: &[u8]) -> Vec<u8> {
    let mut grown = Vec::new();
    for byte in bytes {
        match byte {
            1 => grown.extend([0; 70]),
            2 => grown.extend([b'x'; 9000]),
            byte => grown.push(*byte),
        }
        if grown.len() > BYTES_MAX {
            break;
        }
    }
    grown
}
