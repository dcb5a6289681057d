//! `TEXT [NUL TEXT]`: a configuration is good in all that others rely on, or told what is wrong
//! with it and where.
#![no_main]

use std::path::{Path, PathBuf};

use bitacora::config::{Config, Machine, Place};
use bitacora::parse::Parser;
use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let names = ["bitacora.toml", "conf.d/more.toml"];
    let parts = data.splitn(names.len(), |byte| *byte == 0);
    let texts: Vec<(PathBuf, Vec<u8>)> =
        names.iter().zip(parts).map(|(name, part)| (PathBuf::from(name), part.to_vec())).collect();
    let machine = Machine { name: "ship".to_owned(), timezone: Ok("Europe/Madrid".to_owned()) };
    match Config::from_texts(&texts, &machine) {
        Ok(config) => {
            holds(&config);
            config.later.iter().for_each(|notice| exists(&notice.place, &texts));
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            for problem in &problems.0 {
                assert!(!problem.message.is_empty());
                exists(&problem.place, &texts);
            }
        }
    }
});

fn holds(config: &Config) {
    assert!(config.store.batch_rows > 0 && !config.store.cassandra.nodes.is_empty());
    assert!(!config.daemon.host.is_empty() && config.daemon.state_dir != Path::new(""));
    for source in &config.files {
        assert!(!source.source.is_empty() && !source.paths.is_empty() && source.max_line_bytes > 0);
        for pattern in &source.paths {
            assert!(Path::new(pattern).is_absolute(), "{pattern:?}");
        }
        let parser = Parser::new(source.format, &source.options);
        assert!(parser.is_ok(), "{:?}", parser.err());
        assert!(TimeZone::get(&source.timezone).is_ok(), "{:?}", source.timezone);
    }
}

/// A place is in its text, or right behind it.
fn exists(place: &Place, texts: &[(PathBuf, Vec<u8>)]) {
    let (_, text) = texts.iter().find(|(file, _)| **file == *place.file).expect("its file");
    let line = text.split(|byte| *byte == b'\n').nth(place.line - 1);
    let line = String::from_utf8_lossy(line.unwrap_or_else(|| panic!("no line at {place}")));
    assert!((1..=line.chars().count() + 1).contains(&place.column), "no column at {place}");
}
