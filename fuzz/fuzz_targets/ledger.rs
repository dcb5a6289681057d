//! `TYPE TEXT`: what the stores keep as JSON is refused, or reads back as it was written.
#![no_main]

use std::fmt::Debug;

use bitacora::ledger::{
    Carried, Context, DeadLetter, LossReceipt, Marker, OriginRecord, Reasons, Watermark,
};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match kind % 8 {
        0 => drop(again::<OriginRecord>(text)),
        1 => {
            let context = again::<Context>(text);
            assert!(context.is_none_or(|context| context.same_rules(&context)));
        }
        2 => counts(text),
        3 => drop(again::<Vec<Carried>>(text)),
        4 => drop(again::<Vec<Marker>>(text)),
        5 => drop(again::<LossReceipt>(text)),
        6 => drop(again::<Watermark>(text)),
        _ => drop(again::<DeadLetter>(text)),
    }
});

fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str) -> Option<T> {
    let value: T = serde_json::from_str(text).ok()?;
    let written = serde_json::to_string(&value).expect("what was read can be written");
    assert_eq!(serde_json::from_str::<T>(&written).expect("what was written"), value);
    Some(value)
}

fn counts(text: &str) {
    let Some(reasons) = again::<Reasons>(text) else { return };
    assert!(reasons.iter().all(|(reason, lines)| lines == reasons.get(reason)));
    assert!(reasons.iter().all(|(_, lines)| lines <= reasons.total()));
    let mut twice = reasons.clone();
    twice.merge(&reasons);
    assert!(twice.total() >= reasons.total());
}
