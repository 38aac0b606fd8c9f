//! The scanner makes the table, or the error, that the one before it made.

mod reference;

use veilstream_engine::scan::Tape;

/// Input: one JSON text, perhaps. Whether it is one.
pub fn scanner_reference(data: &[u8]) -> bool {
    let (mut tape, mut reference) = (Tape::default(), reference::Tape::default());
    assert_eq!(tape.scan(data), reference.scan(data));
    // `Node` is compared by what it shows: every field of it.
    assert_eq!(format!("{:?}", tape.nodes()), format!("{:?}", reference.nodes()));
    !tape.nodes().is_empty()
}
