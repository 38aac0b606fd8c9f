//! What a later version of a schema protects less than the one before.

use crate::error::{Fault, Severity};
use crate::schema::{Field, Generalize, IndexRule, Protect, Residue, Schema, Undeclared};

use super::SchemaSet;

impl SchemaSet {
    /// Where these schemas protect less than those of the same names in `before`: a field, a
    /// subject, a binding or a tag is gone, a value is no longer encrypted, an index tells more, a
    /// mask shows more. The pointer is the schema's name; the message says how to put it right.
    #[must_use]
    pub fn weaker_than(&self, before: &Self) -> Vec<Fault> {
        let pairs = self.schemas().iter().filter_map(|new| Some((before.get(&new.name)?, new)));
        pairs
            .flat_map(|(old, new)| {
                weakened(old, new).into_iter().map(|message| Fault {
                    pointer: new.name.to_string(),
                    message,
                    severity: Severity::Error,
                })
            })
            .collect()
    }
}

fn weakened(old: &Schema, new: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    if !old.subjects.is_empty() && new.subjects.is_empty() {
        found.push("has no subject any more: nobody can be erased; put it back".to_owned());
    }
    if undeclared(new.undeclared) < undeclared(old.undeclared) {
        found.push("lets more undeclared members through; put \"undeclared\" back".to_owned());
    }
    if residue(new.residue) < residue(old.residue) {
        found.push("looks less for values in clear elsewhere; put \"residue\" back".to_owned());
    }
    for before in &old.fields {
        match new.field(&before.id) {
            Some(after) => weakened_field(before, after, &mut found),
            None => found.push(format!("has no field {} any more; put it back", before.id)),
        }
    }
    if old.key.is_some() && new.key.is_none() {
        found.push("leaves the record key in clear; put \"key\" back".to_owned());
    }
    for before in &old.headers {
        if !new.headers.iter().any(|after| after.header == before.header) {
            found.push(format!("leaves the header {} in clear; put it back", before.header));
        }
    }
    found
}

fn weakened_field(old: &Field, new: &Field, found: &mut Vec<String>) {
    let mut say = |what: String| found.push(format!("field {}: {what}", new.id));
    if keeps_more(&new.protect, &old.protect) {
        say("its protect tells more than before; put it back".to_owned());
    }
    for bind in old.bind.iter().filter(|b| !new.bind.iter().any(|other| other.name == b.name)) {
        say(format!("is no longer bound to {}; put it back", bind.name));
    }
    if old.interop.is_none()
        && let Some(interop) = &new.interop
    {
        say(format!(
            "is {} now, which opens as any field of the same keys; remove \"format\"",
            interop.form.as_str()
        ));
    }
    if tells_more(old.index.as_ref(), new.index.as_ref()) {
        say("its index tells more than before; put back its bits and domain".to_owned());
    }
    for tag in old.tags().iter().filter(|tag| !new.tags().contains(tag)) {
        say(format!("has no tag {tag} any more, which policies may forbid by; put it back"));
    }
    if let Some(mask) = new.mask()
        && old.mask().is_none_or(|before| mask.shows_more_than(before))
    {
        say("its mask shows more than before, if only of short values; put it back".to_owned());
    }
}

/// Whether a sanitized record tells more of a value, by the kind of protection alone.
fn keeps_more(new: &Protect, old: &Protect) -> bool {
    match (new, old) {
        (Protect::Mask(new), Protect::Mask(old)) => {
            new.keep_first > old.keep_first || new.keep_last > old.keep_last
        }
        (Protect::Generalize(new), Protect::Generalize(old)) => finer(*new, *old),
        _ => strength(new) < strength(old),
    }
}

/// How little a kind of protection tells.
fn strength(protect: &Protect) -> u8 {
    match protect {
        Protect::Mask(_) | Protect::Generalize(_) => 0,
        Protect::Deterministic(_) | Protect::Hash => 1,
        Protect::Encrypt => 2,
        Protect::Redact(_) | Protect::Drop => 3,
    }
}

/// Months are finer than years; of buckets only those that join whole ones of before are not.
fn finer(new: Generalize, old: Generalize) -> bool {
    match (new, old) {
        (Generalize::Bucket(new), Generalize::Bucket(old)) => !new.is_multiple_of(old),
        (Generalize::Month(_), Generalize::Year(_)) => true,
        _ => false,
    }
}

fn undeclared(rule: Undeclared) -> u8 {
    match rule {
        Undeclared::Pass => 0,
        Undeclared::Drop | Undeclared::Reject => 1,
    }
}

fn residue(rule: Residue) -> u8 {
    match rule {
        Residue::Off => 0,
        Residue::Count => 1,
        Residue::Reject => 2,
    }
}

/// A new index, more bits, or a domain in which more can be compared.
fn tells_more(old: Option<&IndexRule>, new: Option<&IndexRule>) -> bool {
    let Some(new) = new else { return false };
    old.is_none_or(|old| {
        new.bits > old.bits || (new.domain != old.domain && new.domain.starts_with('@'))
    })
}
