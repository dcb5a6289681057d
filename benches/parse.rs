//! Lines a second of each parser on one core, without reading and writing.
//!
//! `cargo bench --bench parse` prints a line for each format. Time is the thread's own CPU time, and
//! the figure is the best of five rounds, because other programs can only slow a round down.

#![allow(clippy::expect_used, reason = "a measurement may stop at its first mistake")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use bitacora::parse::{Clock, Format, Parser};
use bitacora::record::Record;
use jiff::tz::TimeZone;

const LINES: u64 = 20_000;
const ROUND: Duration = Duration::from_millis(600);
const ROUNDS: u32 = 5;
/// So many lines share a second.
const LINES_A_SECOND: u64 = 2000;

fn main() {
    let extended = "$remote_addr - $remote_user [$time_local] \"$request\" $status \
                    $body_bytes_sent \"$http_referer\" \"$http_user_agent\" \
                    \"$http_x_forwarded_for\" $request_time $upstream_response_time";
    measure("combined", Format::NginxAccess, &[], combined);
    measure("with times", Format::NginxAccess, &[("log_format", extended)], |number| {
        format!("{} \"10.0.0.2, 10.0.0.1\" 0.{:03} 0.004", combined(number), number % 997)
    });
    measure("errors", Format::NginxError, &[], |number| {
        format!(
            "2031/05/04 10:{:02}:12 [error] 71#72: *{number} open() \"/srv/pan/{number}.html\" \
             failed (2: No such file or directory), client: 192.0.2.{}, server: pan.example, \
             request: \"GET /{number}.html HTTP/1.1\", host: \"pan.example\"",
            number / LINES_A_SECOND,
            number % 256
        )
    });
    measure("application", Format::Json, &[], |number| {
        format!(
            "{{\"timestamp\":\"2031-05-04T10:11:12.{:03}Z\",\"level\":\"info\",\"logger\":\
             \"pan.horno\",\"message\":\"batch {number} is done\",\"request_id\":\"r-{number}\",\
             \"duration_ms\":{}.25,\"oven\":{{\"grados\":180,\"puerta\":\"cerrada\"}}}}",
            number % 1000,
            number % 71
        )
    });
}

/// A line of about 220 bytes.
fn combined(number: u64) -> String {
    format!(
        "192.0.{}.{} - - [04/May/2031:12:11:{:02} +0200] \"GET /pan/{number}?con=tomate&sal={} \
         HTTP/1.1\" {} {} \"https://pan.example/hornos/{}\" \"Mozilla/5.0 (X11; Linux x86_64; \
         rv:140.0) Gecko/20100101 Firefox/140.0 horneado/{}.0\"",
        number % 7,
        number % 251,
        number / LINES_A_SECOND,
        number % 3,
        if number.is_multiple_of(50) { 404 } else { 200 },
        number * 37 % 90_000,
        number % 113,
        number % 9
    )
}

fn measure(name: &str, format: Format, options: &[(&str, &str)], line: impl Fn(u64) -> String) {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let parser = Parser::new(format, &options.collect::<BTreeMap<_, _>>()).expect("compiles");
    let lines: Vec<String> = (0..LINES).map(line).collect();
    let bytes: usize = lines.iter().map(String::len).sum();
    let mut clock = Clock::new(TimeZone::UTC, 1_935_655_872_000);
    let mut record = Record::default();
    let mut best = 0.0_f64;
    for _ in 0..ROUNDS {
        let (begin, mut count) = (cpu_time(), 0_u32);
        while cpu_time().saturating_sub(begin) < ROUND {
            for line in &lines {
                parser.parse(line.as_bytes(), &mut clock, &mut record);
                assert!(black_box(&record).parsed, "not understood: {line}");
                count += 1;
            }
        }
        best = best.max(f64::from(count) / cpu_time().saturating_sub(begin).as_secs_f64());
    }
    println!(
        "{:<14} {name:<12} {:>4} bytes a line {:>6.2} M lines/s",
        format.name(),
        bytes / lines.len(),
        best / 1e6
    );
}

/// How long this thread has run (proc(5), schedstat).
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let nanos = text.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanos.expect("it begins with a number"))
}
