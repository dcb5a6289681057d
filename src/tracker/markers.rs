//! Markers of an origin from about 1, 2, 4 … 64 seconds ago: where a file that a power cut has cut
//! back may still be the same.

use crate::ledger::Marker;

/// Ages of 1 s, 2 s, … 64 s and more; and what is younger than a second.
const CLASSES: usize = 8;

/// At most one marker for each age.
#[derive(Debug, Clone, Default)]
pub(super) struct Markers {
    /// Newest first.
    kept: Vec<Marker>,
}

impl Markers {
    /// Goes on with the markers of a run before, newest first.
    pub(super) fn resume(kept: Vec<Marker>) -> Self {
        Self { kept }
    }

    /// Adds the newest. One at the same position replaces nothing: the older age says more.
    pub(super) fn note(&mut self, marker: Marker) {
        if self.kept.first().is_none_or(|newest| newest.position < marker.position) {
            self.kept.insert(0, marker);
        }
        self.thin(marker.at_ms);
    }

    /// What is kept, newest first.
    pub(super) fn list(&self) -> Vec<Marker> {
        self.kept.clone()
    }

    /// Keeps the oldest of each age, because it is the next to reach the age above, but the newest
    /// of the last age, because nothing is above.
    fn thin(&mut self, now_ms: i64) {
        let mut oldest_first = [None; CLASSES];
        for marker in &self.kept {
            let class = class_of(now_ms - marker.at_ms);
            if let Some(slot) = oldest_first.get_mut(class)
                && (slot.is_none() || class < CLASSES - 1)
            {
                *slot = Some(*marker);
            }
        }
        self.kept.clear();
        self.kept.extend(oldest_first.into_iter().flatten());
        // ages are by the wall clock, which may be set back; the order is by position
        self.kept.sort_by_key(|marker| std::cmp::Reverse(marker.position));
    }
}

/// 0 below a second, then one more with each doubling.
fn class_of(age_ms: i64) -> usize {
    let seconds = u64::try_from(age_ms / 1000).unwrap_or(0);
    let class = usize::try_from(u64::BITS - seconds.leading_zeros()).unwrap_or(CLASSES);
    class.min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(count: u32, step_ms: i64) -> (Markers, i64) {
        let mut markers = Markers::default();
        for number in 1..=i64::from(count) {
            let position = u64::try_from(number).unwrap() * 100;
            markers.note(Marker { at_ms: number * step_ms, position, hash: position });
        }
        (markers, i64::from(count) * step_ms)
    }

    #[test]
    fn after_two_minutes_there_is_one_of_about_each_age() {
        for step_ms in [50, 300, 1000, 1900] {
            let (markers, now_ms) = noted(u32::try_from(130_000 / step_ms).unwrap(), step_ms);
            let ages: Vec<i64> = markers.list().iter().map(|m| now_ms - m.at_ms).collect();
            for wanted_ms in [2000, 4000, 8000, 16_000, 32_000, 64_000] {
                let near = wanted_ms / 2 - step_ms..=wanted_ms * 2 + step_ms;
                assert!(ages.iter().any(|age| near.contains(age)), "{wanted_ms} in {ages:?}");
            }
            assert!(ages.len() <= CLASSES && ages.is_sorted(), "{ages:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_the_order_and_the_bound() {
        let (mut markers, now_ms) = noted(100, 1000);
        for number in 0..50 {
            let position = 20_000 + number;
            markers.note(Marker { at_ms: now_ms - 3_600_000, position, hash: 0 });
        }
        let kept = markers.list();
        assert!(kept.len() <= CLASSES);
        assert!(kept.is_sorted_by_key(|marker| std::cmp::Reverse(marker.position)));
    }

    #[test]
    fn a_file_that_does_not_move_keeps_the_marker_of_when_it_stopped() {
        let mut markers = Markers::default();
        markers.note(Marker { at_ms: 0, position: 10, hash: 1 });
        markers.note(Marker { at_ms: 90_000, position: 10, hash: 1 });
        assert_eq!(markers.list(), [Marker { at_ms: 0, position: 10, hash: 1 }]);
    }
}
