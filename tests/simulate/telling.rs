//! What a history that is repeated tells of the tailer and of the store.

use bitacora::sources::Input;
use bitacora::sources::file::FileEvent;

use super::store::Memory;

/// Tells one event on stderr.
pub fn tell(event: &FileEvent) {
    match event {
        FileEvent::Announce { record, contexts } => eprintln!(
            "    origin {} of {}, inode {}, from {}, contexts at {:?}",
            record.id,
            record.path.display(),
            record.kernel.inode,
            record.first_offset,
            contexts.iter().map(|context| context.from_bytes).collect::<Vec<_>>()
        ),
        FileEvent::Input(Input::Chunk(chunk)) => eprintln!(
            "    reads origin {} from {} to {}",
            chunk.origin,
            chunk.start,
            chunk.start + chunk.bytes.len() as u64
        ),
        FileEvent::Input(Input::Finish { origin }) => eprintln!("    ends origin {origin}"),
        FileEvent::Input(_) => {}
        FileEvent::Receipt(receipt) => eprintln!(
            "    receipt of origin {}: {:?} from {} to {:?}",
            receipt.origin, receipt.cause, receipt.start_bytes, receipt.end_bytes
        ),
        FileEvent::CutBack { origin, from, to, .. } => {
            eprintln!("    origin {origin} of {to} is cut back, {from} holds");
        }
        FileEvent::Happened { what, .. } => eprintln!("    {}", what.name()),
        FileEvent::Said { path, text, .. } => eprintln!("    says of {}: {text}", path.display()),
    }
}

/// What the store has in the end.
pub fn tell_store(store: &Memory) {
    store.each_row(|key, cell| {
        let (origin, offset) = (key.origin, key.offset_bytes);
        eprintln!("  origin {origin} at {offset}: {:?} {}", cell.message, cell.metadata);
    });
    store.each_span(|span| {
        let (origin, start, end) = (span.origin, span.start_bytes, span.end_bytes);
        eprintln!("  span of {origin} from {start} to {end}, carried: {:?}", span.carried);
    });
}
