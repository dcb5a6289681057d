//! The layer: what `tracing` calls. It notes, and leaves all else to the worker.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::SystemTime;

use tracing::span::{Attributes, Id, Record as SpanRecord};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::client::Client;
use crate::fields::Fields;
use crate::options::Builder;

/// Memory of a record besides its fields, about.
const RECORD_BYTES: usize = 400;

/// An event as the calling thread noted it; it stands in the queue.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) at: SystemTime,
    pub(crate) metadata: &'static Metadata<'static>,
    pub(crate) thread: Option<Thread>,
    pub(crate) fields: Fields,
    /// Outermost first.
    pub(crate) spans: Vec<Enclosing>,
}

/// A span around an event. Its fields are shared with the span, as most events add none.
#[derive(Debug)]
pub(crate) struct Enclosing {
    pub(crate) name: &'static str,
    pub(crate) fields: Arc<Fields>,
}

impl Record {
    /// Memory of the record, about. What records share counts for each, so that it is a bound.
    pub(crate) fn bytes(&self) -> usize {
        let spans: usize = self.spans.iter().map(|span| span.fields.bytes + 32).sum();
        RECORD_BYTES + self.fields.bytes + spans
    }
}

/// What a span keeps in the registry.
struct SpanFields(Arc<Fields>);

/// Sends the events of `tracing` to bitacora; made by [`layer`](crate::layer) or a [`Builder`].
///
/// An event never waits for the daemon, unless the queue is full and the policy is
/// [`WhenFull::Block`](crate::WhenFull::Block).
#[derive(Debug)]
pub struct Layer {
    client: Arc<Client>,
}

impl Layer {
    /// Begins with the default options.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { client }
    }

    /// Notes what is given, unless this thread is noting something already.
    fn note(&self, visit: impl FnOnce(&mut Fields)) -> Option<Fields> {
        let Some(_inside) = Inside::enter() else {
            self.client
                .count_error("what was logged from within the formatting of an event was left out");
            return None;
        };
        let mut fields = Fields::default();
        visit(&mut fields);
        if let Some(fault) = &fields.fault {
            self.client.count_error(fault);
        }
        Some(fields)
    }
}

impl<S> tracing_subscriber::Layer<S> for Layer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if is_worker() {
            return;
        }
        let Some(fields) = self.note(|fields| attributes.record(fields)) else { return };
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(SpanFields(Arc::new(fields)));
        }
    }

    fn on_record(&self, id: &Id, values: &SpanRecord<'_>, context: Context<'_, S>) {
        if is_worker() {
            return;
        }
        let Some(span) = context.span(id) else { return };
        // Noted apart: the application's formatting must not run while the span is locked.
        let Some(more) = self.note(|fields| values.record(fields)) else { return };
        let mut extensions = span.extensions_mut();
        if let Some(SpanFields(fields)) = extensions.get_mut::<SpanFields>() {
            Arc::make_mut(fields).take(more);
        } else {
            extensions.insert(SpanFields(Arc::new(more)));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if is_worker() {
            return;
        }
        let at = SystemTime::now();
        let Some(fields) = self.note(|fields| event.record(fields)) else { return };
        let mut spans = Vec::new();
        if let Some(scope) = context.event_scope(event) {
            for span in scope.from_root() {
                let fields = span.extensions().get::<SpanFields>().map(|known| known.0.clone());
                spans.push(Enclosing { name: span.name(), fields: fields.unwrap_or_default() });
            }
        }
        let thread = THREAD.try_with(Thread::clone).ok();
        self.client.put(Record { at, metadata: event.metadata(), thread, fields, spans });
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Doing {
    Other,
    Noting,
    /// The worker's own thread: what happens in it is never logged, or it would log for ever.
    Shipping,
}

thread_local! {
    static DOING: Cell<Doing> = const { Cell::new(Doing::Other) };
    /// Asking the standard library each time costs more, and may fail as the thread ends.
    static THREAD: Thread = thread::current();
}

fn is_worker() -> bool {
    DOING.get() == Doing::Shipping
}

/// Says that this thread is a worker.
pub(crate) fn become_worker() {
    DOING.set(Doing::Shipping);
}

/// While it lives, this thread notes something.
struct Inside;

impl Inside {
    fn enter() -> Option<Self> {
        (DOING.get() == Doing::Other).then(|| {
            DOING.set(Doing::Noting);
            Self
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DOING.set(Doing::Other);
    }
}
