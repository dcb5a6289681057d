//! No place in the program says more than so much a minute: a log that floods hides what matters,
//! and what stands in syslog is a file that the daemon itself carries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// Messages of one place in a window.
const MESSAGES_MAX: u32 = 50;
/// A window of a place begins with its first message.
const WINDOW: Duration = Duration::from_mins(1);

/// Messages of one place that were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The place: file and line of the source.
    pub place: String,
    /// How many.
    pub messages: u64,
}

/// Counts the messages of each place.
#[derive(Debug)]
pub struct RateLimit {
    places: Mutex<HashMap<Identifier, Place>>,
    now: fn() -> Instant,
}

#[derive(Debug)]
struct Place {
    name: String,
    began: Instant,
    said: u32,
    left_out: u64,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { places: Mutex::default(), now: Instant::now }
    }
}

impl RateLimit {
    fn allows(&self, metadata: &Metadata<'_>) -> bool {
        let now = (self.now)();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(metadata.callsite()).or_insert_with(|| Place {
            name: format!("{}:{}", metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0)),
            began: now,
            said: 0,
            left_out: 0,
        });
        if now.duration_since(place.began) >= WINDOW {
            (place.began, place.said) = (now, 0);
        }
        if place.said < MESSAGES_MAX {
            place.said += 1;
            return true;
        }
        place.left_out += 1;
        false
    }

    /// What was left out in windows that are over, since the last time.
    #[must_use]
    pub fn left_out(&self) -> Vec<LeftOut> {
        let now = (self.now)();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let over =
            |place: &&mut Place| place.left_out > 0 && now.duration_since(place.began) >= WINDOW;
        let told = places.values_mut().filter(over).map(|place| LeftOut {
            place: place.name.clone(),
            messages: std::mem::take(&mut place.left_out),
        });
        told.collect()
    }
}

/// The limit as a filter of a layer.
pub(super) struct Limited(pub Arc<RateLimit>);

impl<S: Subscriber> Filter<S> for Limited {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.0.allows(event.metadata())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tracing_subscriber::layer::{Layer, SubscriberExt};

    use super::*;

    /// A clock that a test moves.
    static LATER_S: AtomicU64 = AtomicU64::new(0);

    fn clock() -> Instant {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        *BEGAN.get_or_init(Instant::now) + Duration::from_secs(LATER_S.load(Ordering::Relaxed))
    }

    struct Count(Arc<AtomicU64>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_place_that_says_too_much_is_cut_off_and_counted_and_others_are_not() {
        let limit = Arc::new(RateLimit { places: Mutex::default(), now: clock });
        let said = Arc::new(AtomicU64::new(0));
        let layer = Count(Arc::clone(&said)).with_filter(Limited(Arc::clone(&limit)));
        let flood = || {
            for _ in 0..200 {
                tracing::warn!("again");
            }
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            flood();
            assert_eq!(said.load(Ordering::Relaxed), u64::from(MESSAGES_MAX));
            tracing::warn!("something else");
            assert_eq!(said.load(Ordering::Relaxed), u64::from(MESSAGES_MAX) + 1);
            assert_eq!(limit.left_out(), [], "not before its minute is over");
            LATER_S.store(61, Ordering::Relaxed);
            let told = limit.left_out();
            assert_eq!(told.iter().map(|one| one.messages).collect::<Vec<_>>(), [150]);
            assert!(told[0].place.contains("limit.rs:"), "{told:?}");
            assert_eq!(limit.left_out(), [], "it is told once");
            flood();
            assert_eq!(said.load(Ordering::Relaxed), 2 * u64::from(MESSAGES_MAX) + 1);
        });
    }
}
