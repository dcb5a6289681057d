//! How figures are written for people, and the options that the reading commands share.

use crate::dora::figures::{Figure, LeftOut, Metric, Unit};
use crate::dora::history::Scope;

/// Days that can be asked for: ten years.
pub const DAYS_MAX: i64 = 3650;

/// Which deliveries are looked at.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Which {
    /// Only of this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only of this team
    #[arg(long, value_name = "NAME")]
    pub team: Option<String>,
}

impl Which {
    /// As the library takes it.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope { service: self.service.clone(), team: self.team.clone() }
    }

    /// ` of service shop, team web`, or nothing.
    #[must_use]
    pub fn words(&self) -> String {
        let parts = [("service", &self.service), ("team", &self.team)];
        let said: Vec<String> = parts
            .into_iter()
            .filter_map(|(word, value)| value.as_ref().map(|value| format!("{word} {value}")))
            .collect();
        if said.is_empty() { String::new() } else { format!(" of {}", said.join(", ")) }
    }
}

/// A metric's word, for clap.
///
/// # Errors
///
/// There is no such metric.
pub fn metric(word: &str) -> Result<Metric, String> {
    Metric::from_word(word).ok_or_else(|| {
        let words = Metric::ALL.map(Metric::word).join(", ");
        format!("there are {words}")
    })
}

/// `1 d 4 h`, `3 h 5 min`, `2 min 30 s`, `41 s`: the two largest units.
#[must_use]
pub fn duration(seconds: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s")];
    if seconds < 0.0 {
        return format!("-{}", duration(-seconds));
    }
    let mut rest = seconds.round();
    let mut parts: Vec<String> = Vec::new();
    for (unit, name) in UNITS {
        let count = (rest / unit).floor();
        if count > 0.0 || (parts.is_empty() && name == "s") {
            parts.push(format!("{count} {name}"));
            rest -= count * unit;
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    parts.join(" ")
}

/// A value of a metric, with its unit.
#[must_use]
pub fn value(unit: Unit, value: f64) -> String {
    value_like(unit, value, value)
}

/// A value beside another one, which says whether days, weeks or months are counted: what is
/// compared is told alike.
#[must_use]
pub fn value_like(unit: Unit, value: f64, like: f64) -> String {
    match unit {
        Unit::PerDay if like >= 1.0 || like <= 0.0 => format!("{value:.1} a day"),
        Unit::PerDay if like * 7.0 >= 1.0 => format!("{:.1} a week", value * 7.0),
        Unit::PerDay => format!("{:.1} a month", value * 30.0),
        Unit::Seconds => duration(value),
        Unit::Share => format!("{:.1} %", value * 100.0),
    }
}

/// The value of a figure, or that there is none.
#[must_use]
pub fn figure(figure: &Figure) -> String {
    figure.value.map_or_else(|| "no events".to_owned(), |one| value(figure.unit, one))
}

/// What a figure was made from: `9 changes`, `4 of 13 deployments`.
#[must_use]
pub fn events(figure: &Figure) -> String {
    let noun = match figure.metric {
        Metric::DeploymentFrequency => "deployment",
        Metric::LeadTime => "change",
        Metric::RecoveryTime => "failed deployment",
        Metric::ChangeFailureRate | Metric::ReworkRate => {
            return format!("{} of {} deployments", figure.events, figure.of.unwrap_or(0));
        }
    };
    counted(figure.events, noun)
}

/// `1 change`, `2 changes`.
#[must_use]
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// `1 did not reach production, 2 names no changes`; nothing if all count.
#[must_use]
pub fn left_out(figure: &Figure) -> String {
    let words = |(why, count): (&LeftOut, &usize)| format!("{count} {}", why.words());
    figure.left_out.iter().map(words).collect::<Vec<_>>().join(", ")
}

/// A field of CSV (RFC 4180). What a spreadsheet would take for a formula gets a quote in front.
#[must_use]
pub fn csv(text: &str) -> String {
    let safe = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if safe.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", safe.replace('"', "\"\""))
    } else {
        safe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_their_two_largest_units() {
        for (seconds, expected) in [
            (0.0, "0 s"),
            (41.4, "41 s"),
            (150.0, "2 min 30 s"),
            (3600.0, "1 h"),
            (3605.0, "1 h"),
            (100_800.0, "1 d 4 h"),
            (86_400.0 + 90.0, "1 d"),
            (-7200.0, "-2 h"),
        ] {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn a_frequency_is_told_in_the_unit_that_people_would_say() {
        for (per_day, expected) in
            [(2.25, "2.2 a day"), (0.5, "3.5 a week"), (0.1, "3.0 a month"), (0.0, "0.0 a day")]
        {
            assert_eq!(value(Unit::PerDay, per_day), expected);
        }
        assert_eq!(value_like(Unit::PerDay, 1.0, 0.5), "7.0 a week", "as what it is compared with");
        assert_eq!(value(Unit::Share, 0.125), "12.5 %");
    }

    #[test]
    fn a_name_cannot_be_a_formula_nor_break_a_line_of_csv() {
        assert_eq!(csv("shop"), "shop");
        assert_eq!(csv("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv("=HYPERLINK(1)"), "'=HYPERLINK(1)");
    }
}
