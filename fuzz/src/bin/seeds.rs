//! Writes the first inputs of each target, made of the lines of the tests, into the directory
//! `BITACORA_SEEDS`. What is built for coverage must be linked with the fuzzer: so this is a target
//! that tries nothing, to be called with `-runs=0`.
#![no_main]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bitacora::config::print::default_toml;
use bitacora::key::Table;
use bitacora::ledger::{
    Carried, Cause, Context, DeadLetter, Encoding, KernelIdentity, LossReceipt, Marker,
    OriginRecord, Reason, Reasons, Watermark,
};
use bitacora_fuzz::kinds::{KINDS, Kind};
use libfuzzer_sys::fuzz_target;

/// A longer log gives only its beginning.
const TEXT_MAX: usize = 1000;

fuzz_target!(init: write_all(), |_data: &[u8]| {});

fn write_all() {
    let top = PathBuf::from(std::env::var_os("BITACORA_SEEDS").expect("BITACORA_SEEDS is not set"));
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    for (index, kind) in KINDS.iter().enumerate() {
        let index = u8::try_from(index).expect("few kinds");
        for log in files(&data.join(kind.format.name()), "log") {
            texts(&top, index, kind, &log, &fs::read(&log).expect("a readable file"));
        }
    }
    for folder in ["config/good", "config/bad"] {
        for file in files(&data.join(folder), "toml") {
            let text = fs::read(&file).expect("a readable file");
            seed(&top, "config", &name(&file), &[&text]);
        }
    }
    seed(&top, "config", "default", &[default_toml().as_bytes()]);
    for (at, text) in SENT.iter().enumerate() {
        seed(&top, "socket", &at.to_string(), &[&[40], text.as_bytes()]);
    }
    ledger(&top);
}

/// What clients send.
const SENT: [&str; 4] = [
    "{\"bitacora\":1,\"ack\":true,\"client\":\"6f1c6a52-8b0e-4f43-9c37-3d3ab0d1a4cd\",\"next\":1}\n",
    "{\"timestamp\":\"2026-11-22T10:11:12.345Z\",\"level\":\"warn\",\"message\":\"one\",\"source\":\"shop\",\
     \"user_id\":7,\"a\":{\"b\":[1]},\"peer_pid\":1}\n{\"event_type\":\"login\",\"user_id\":7,\"event_data\":{\"c\":1}}\n",
    "<11>1 2026-11-22T10:11:12.345Z web1 nightly 7 - - three\n<13>Nov 22 10:11:12 nightly: six\n",
    "neither of them\r\n\n{broken",
];

fn texts(top: &Path, index: u8, kind: &Kind, log: &Path, text: &[u8]) {
    let text = &text[..text.len().min(TEXT_MAX)];
    let name = format!("{index}-{}", name(log));
    seed(top, "parse", &name, &[&[index, 0, 40], text]);
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        seed(top, "parse", &format!("{name}-{at}"), &[&[index, 0, 9], line]);
    }
    seed(top, "worker", &name, &[&[index, index, 2, 0, 0, 1, 4, 9, 1], text]);
    seed(
        top,
        "worker",
        &format!("{name}-turned"),
        &[&[index, index / 2, 33, 0, 90, 2, 3, 7, 12], text],
    );
    for (option, setting) in kind.options() {
        let option = match option.as_str() {
            "log_format" => 0,
            "log_line_prefix" => 1,
            "log_error_verbosity" => 2,
            _ => 3,
        };
        seed(top, "log_format", &name, &[&[option], setting.as_bytes(), &[0], text]);
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text).expect("memory");
    let packed = packed.finish().expect("memory");
    seed(top, "compressed", &format!("{name}-gz"), &[&[0, 0, 20], &packed]);
    seed(top, "compressed", &format!("{name}-gz-gz"), &[&[2, 0, 0], &packed, &packed]);
    let packed = zstd::stream::encode_all(text, 1).expect("memory");
    seed(top, "compressed", &format!("{name}-zst"), &[&[1, 0, 20], &packed]);
    seed(top, "compressed", &format!("{name}-zst-zst"), &[&[3, 1, 0], &packed, &packed]);
}

fn ledger(top: &Path) {
    let mut reasons = Reasons::default();
    reasons.add(Reason::Blank, 2);
    reasons.add(Reason::Continued, 3);
    let record = OriginRecord {
        id: 7,
        machine: "m".to_owned(),
        host: "ship".to_owned(),
        path: "/var/log/a.log".into(),
        kernel: KernelIdentity {
            generation: Some(1),
            born_ns: Some(2),
            ..KernelIdentity::default()
        },
        head_hash: u64::MAX,
        head_bytes: 9,
        first_offset: 0,
        born_ms: 1,
        encoding: Encoding::Gzip,
    };
    let context = Context {
        origin: 7,
        from_bytes: 0,
        source: "a".to_owned(),
        table: Table::Application,
        format: "json".to_owned(),
        options: KINDS[13].options(),
        timezone: "UTC".to_owned(),
        anchor_ms: 1,
        max_line_bytes: 99,
        parser_version: 1,
    };
    let carried = [Carried { thread: 71, start: 5, text_bytes: 9 }];
    let markers = [Marker { at_ms: 1, position: 5, hash: 9 }];
    let all = [
        serde_json::to_vec(&record),
        serde_json::to_vec(&context),
        serde_json::to_vec(&reasons),
        serde_json::to_vec(&carried),
        serde_json::to_vec(&markers),
    ];
    for (kind, text) in (0_u8..).zip(all.into_iter().chain(told())) {
        seed(top, "ledger", &kind.to_string(), &[&[kind], &text.expect("ours is JSON")]);
    }
    let most = format!("{{\"blank\":{max},\"lost\":{max}}}", max = u64::MAX);
    seed(top, "ledger", "most", &[&[2], most.as_bytes()]);
}

/// What a store is told besides spans.
fn told() -> [serde_json::Result<Vec<u8>>; 3] {
    let receipt = LossReceipt {
        origin: 7,
        start_bytes: 1,
        end_bytes: Some(2),
        cause: Cause::CutBack,
        source: "a".to_owned(),
        host: "ship".to_owned(),
        path: "/var/log/a.log".into(),
        noticed_ms: 1,
        detail: "gone".to_owned(),
    };
    let watermark = Watermark {
        source: "a".to_owned(),
        host: "ship".to_owned(),
        seen_ms: 1,
        written_ms: 2,
        behind_bytes: 3,
    };
    let letter = DeadLetter {
        table: Table::Infrastructure,
        source: "a".to_owned(),
        host: "ship".to_owned(),
        timestamp_ms: 1,
        origin: 7,
        offset_bytes: 3,
        level: "INFO".to_owned(),
        message: "said".to_owned(),
        metadata: "{\"a\":\"1\"}".to_owned(),
        reason: "too large".to_owned(),
        refused_ms: 4,
    };
    [serde_json::to_vec(&receipt), serde_json::to_vec(&watermark), serde_json::to_vec(&letter)]
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let listing = fs::read_dir(folder).expect("a folder of tests/data");
    let mut files: Vec<_> = listing.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == ending));
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn seed(top: &Path, target: &str, name: &str, parts: &[&[u8]]) {
    let folder = top.join(target);
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join(name), parts.concat()).expect("a file can be written");
}
