//! `[[files]]`: what a source is made of.

use std::collections::BTreeMap;

use super::load::Build;
use super::machine::zone_name;
use super::problem::{Place, meant};
use super::settings::Settings;
use super::walk::{Entries, Located, Value};
use super::{FileSource, Start, keys};
use crate::key::Table;
use crate::parse::{Format, Parser};

const NAME_BYTES_MAX: usize = 64;

/// Builds all sources. One with a problem may be left out: it is told already.
pub(super) fn build(build: &mut Build<'_>, sections: Vec<Located<Entries>>) -> Vec<FileSource> {
    let keys = keys::section("files").map_or(&[][..], |section| section.keys);
    let mut seen = BTreeMap::new();
    let mut sources = Vec::new();
    for section in sections {
        let header = section.place;
        let settings = Settings::new(keys, section.value);
        let source = source(build, &header, &settings);
        for path in settings.texts("paths") {
            let pair = (settings.text("source").to_owned(), path.value.clone());
            if let Some(first) = seen.insert(pair, path.place.clone()) {
                let message = format!(
                    "path \"{}\" is named twice for source \"{}\", first at {first}",
                    path.value,
                    settings.text("source")
                );
                build.problem(&path.place, message);
            }
        }
        sources.extend(source);
    }
    sources
}

fn source(build: &mut Build<'_>, header: &Place, settings: &Settings) -> Option<FileSource> {
    let name = name(build, header, settings);
    let paths = paths(build, header, settings);
    let exclude = exclude(build, settings);
    let format = format(build, settings);
    let options = options(build, header, settings, format);
    let timezone = timezone(build, header, settings);
    Some(FileSource {
        source: name?,
        paths,
        exclude,
        format: format?,
        options,
        table: Table::LOGS.into_iter().find(|table| table.word() == settings.text("table"))?,
        timezone: timezone?,
        start: if settings.text("start") == "end" { Start::End } else { Start::Beginning },
        max_line_bytes: settings.bytes("max_line"),
        rotate_wait: settings.duration("rotate_wait")?,
        multiline_wait: settings.duration("multiline_wait")?,
    })
}

fn name(build: &mut Build<'_>, header: &Place, settings: &Settings) -> Option<String> {
    let name = settings.text("source");
    let Some(said) = settings.said("source") else {
        if !settings.wrong("source") {
            build.problem(header, "[[files]] needs source, the name that its rows carry");
        }
        return None;
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
        let message = format!(
            "source is \"{name}\"; it must be 1 to {NAME_BYTES_MAX} letters, digits and / . _ -"
        );
        build.problem(&said.place, message);
        return None;
    }
    Some(name.to_owned())
}

fn paths(build: &mut Build<'_>, header: &Place, settings: &Settings) -> Vec<String> {
    match settings.said("paths") {
        None if settings.wrong("paths") => {}
        None => build.problem(header, "[[files]] needs paths, the files to follow"),
        Some(said) if settings.texts("paths").is_empty() => {
            build.problem(&said.place, "paths needs at least one path or pattern");
        }
        Some(_) => {}
    }
    for path in settings.texts("paths") {
        if path.value.starts_with('/') {
            pattern(build, path);
        } else {
            let message = format!(
                "path \"{}\" must be absolute, beginning with /: a service has no home",
                path.value
            );
            build.problem(&path.place, message);
        }
    }
    settings.texts("paths").iter().map(|path| path.value.clone()).collect()
}

fn exclude(build: &mut Build<'_>, settings: &Settings) -> Vec<String> {
    for exclude in settings.texts("exclude") {
        if exclude.value.contains('/') && !exclude.value.starts_with('/') {
            let message = format!(
                "exclude \"{}\" must be the pattern of a name, or of a whole path beginning with /",
                exclude.value
            );
            build.problem(&exclude.place, message);
        } else {
            pattern(build, exclude);
        }
    }
    settings.texts("exclude").iter().map(|exclude| exclude.value.clone()).collect()
}

fn pattern(build: &mut Build<'_>, pattern: &Located<String>) {
    let text = &pattern.value;
    if let Err(error) = glob::Pattern::new(text) {
        // the crate counts characters from 0
        let message =
            format!("pattern \"{text}\" is wrong at character {}: {}", error.pos + 1, error.msg);
        build.problem(&pattern.place, message);
    } else if text.contains('{') && text.contains('}') {
        let message = format!(
            "pattern \"{text}\" has braces, which stand for themselves: write each pattern on its own, \
             or [{{] for a brace"
        );
        build.problem(&pattern.place, message);
    } else if text.contains('\0') {
        build.problem(&pattern.place, "a path cannot hold a NUL");
    } else if text.ends_with('/') {
        build.problem(
            &pattern.place,
            format!("\"{text}\" names a directory; add a pattern such as *.log"),
        );
    }
}

fn format(build: &mut Build<'_>, settings: &Settings) -> Option<Format> {
    let known = || Format::ALL.into_iter().map(Format::name);
    let list = || known().collect::<Vec<_>>().join(", ");
    if let Some(said) = settings.said("format") {
        let word = settings.text("format");
        let format = Format::from_name(word);
        if format.is_none() {
            let message =
                format!("unknown format \"{word}\"{}; there are {}", meant(word, known()), list());
            build.problem(&said.place, message);
        }
        return format;
    }
    if settings.wrong("format") {
        return None;
    }
    let source = settings.said("source")?;
    let word = settings.text("source");
    let format = Format::from_name(word);
    if format.is_none() {
        let message = format!(
            "source \"{word}\" is not the name of a format{}; add format, which is one of {}",
            meant(word, known()),
            list()
        );
        build.problem(&source.place, message);
    }
    format
}

/// Compiles the options as the source will. The parser tells one error at a time, so that what is
/// wrong is taken out until the rest compiles.
fn options(
    build: &mut Build<'_>,
    header: &Place,
    settings: &Settings,
    format: Option<Format>,
) -> BTreeMap<String, String> {
    let Some(Located { value: Value::Table(said), place }) = settings.said("options") else {
        return BTreeMap::new();
    };
    let mut options = BTreeMap::new();
    for (key, located) in said {
        if let Value::Text(text) = &located.value {
            options.insert(key.clone(), text.clone());
        }
    }
    let all = options.clone();
    while let Some(Err(error)) = format.map(|format| Parser::new(format, &options)) {
        let known = format.map_or(&[][..], Format::options);
        let hint = if known.contains(&error.option.as_str()) {
            String::new()
        } else {
            meant(&error.option, known.iter().copied())
        };
        let place = said.get(&error.option).map_or(place, |located| &located.place);
        let place = if said.is_empty() { header } else { place };
        build.problem(place, format!("{error}{hint}"));
        if options.remove(&error.option).is_none() {
            break;
        }
    }
    all
}

fn timezone(build: &mut Build<'_>, header: &Place, settings: &Settings) -> Option<String> {
    if settings.wrong("timezone") {
        return None;
    }
    let place = settings.said("timezone").map_or(header, |said| &said.place);
    let name = match settings.text("timezone") {
        "local" => build.machine.timezone.clone().map_err(|why| {
            format!("the machine's time zone has no name: {why}; write timezone = \"Area/City\"")
        }),
        name => zone_name(name),
    };
    name.map_err(|message| build.problem(place, message)).ok()
}
