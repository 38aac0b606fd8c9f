//! The name of an index member, and which fields have one.

use super::siblings::text_of;
use crate::scan::Node;
use crate::schema::{Field, IndexRule, Protect};

/// What an index member's name ends in when the schema gives no `into`.
pub(crate) const SUFFIX: &str = "_bidx";
/// What the name of an index under the root before the newest ends in.
pub(crate) const PREVIOUS: &str = "_prev";

/// Which index root: while a root rotates, `<into>` holds the newest version's index and, of unique
/// indexes, `<into>_prev` the one before. A bucketed one has no second: two of a value would say
/// twice as much about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootVersion {
    Newest,
    Previous,
}

impl RootVersion {
    pub(crate) const BOTH: [Self; 2] = [Self::Newest, Self::Previous];

    /// Those an index may be written in.
    pub(crate) fn of(rule: &IndexRule) -> &'static [Self] {
        if rule.is_unique() { &Self::BOTH } else { &Self::BOTH[..1] }
    }
}

/// Whether a field's values have members of their own for their indexes; a hash stands in the
/// value's place.
pub(crate) fn has_members(field: &Field) -> bool {
    field.index.is_some() && !matches!(field.protect, Protect::Hash)
}

/// The index member's name as it is written (`name`) and as it compares (`text`).
pub(crate) fn write_name(
    doc: &[u8],
    member: &Node,
    field: &Field,
    version: RootVersion,
    name: &mut Vec<u8>,
    text: &mut Vec<u8>,
) {
    name.clear();
    let into = field.index.as_ref().and_then(|rule| rule.into.as_deref());
    if let Some(into) = into {
        name.extend_from_slice(into.as_bytes());
    } else {
        name.extend_from_slice(&doc[member.name()]);
        name.extend_from_slice(SUFFIX.as_bytes());
    }
    if version == RootVersion::Previous {
        name.extend_from_slice(PREVIOUS.as_bytes());
    }
    text_of(name, text);
}
