//! What was measured, beside what it must reach.

use std::cell::Cell;
use std::fs;

/// What a figure must reach.
#[derive(Clone, Copy)]
pub enum Limit {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
    /// Told for comparison only.
    None,
}

/// Prints figures and counts those that missed their limit.
#[derive(Default)]
pub struct Figures {
    missed: Cell<usize>,
}

impl Figures {
    /// Prints one figure: the median of `values`, and their range where there are several.
    pub fn print(&self, name: &str, values: &[f64], unit: &str, limit: Limit) {
        let (low, middle, high) = spread(values);
        let mut notes = Vec::new();
        if values.len() > 1 {
            notes.push(format!("min {}, max {}, {} runs", short(low), short(high), values.len()));
        }
        let (words, reached) = match limit {
            Limit::AtLeast(least) => (format!("at least {}", short(least)), middle >= least),
            Limit::AtMost(most) => (format!("at most {}", short(most)), middle <= most),
            Limit::None => (String::new(), true),
        };
        if !words.is_empty() {
            let verdict = if reached { "reached" } else { "missed" };
            notes.push(format!("limit {words}: {verdict}"));
        }
        self.missed.set(self.missed.get() + usize::from(!reached));
        let notes =
            if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
        println!("{name}: {} {unit}{notes}", short(middle));
    }

    /// How many missed their limit.
    pub fn missed(&self) -> usize {
        self.missed.get()
    }
}

/// Announces a benchmark, with how busy the machine is already.
pub fn title(text: &str) {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    println!("\n{text} [load average {}]", load.join(" "));
}

fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len() - 1;
    (sorted[0], sorted[last / 2], sorted[last])
}

/// The value below which `share` percent of the values are.
pub fn percentile(values: &[f64], share: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * share / 100]
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    spread(values).1
}

/// Three or four digits, with commas in large numbers.
fn short(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        _ if size >= 100.0 || size == 0.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if size < 10_000.0 {
        return text;
    }
    let mut grouped = String::new();
    for (index, digit) in text.chars().enumerate() {
        if index > 0 && (text.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
