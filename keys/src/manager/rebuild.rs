//! A new ledger for one that is lost, from what the store knows.

use std::collections::BTreeMap;

use veilstream_engine::key::{KeyId, KeyState, Scope, SubjectRef};

use super::open::unlocked;
use super::{Parts, Settings};
use crate::KeyError;
use crate::erasure::{Erasure, Position, Verifier, first_line, next_line};
use crate::store::{Authentic, Planned};

/// Keys of data subjects read at once.
const BATCH: usize = 1000;

/// What [`Manager::rebuild_ledger`](super::Manager::rebuild_ledger) made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuiltLedger {
    /// Number of data subjects that it names.
    pub subjects: u64,
    /// Where the old ledger was set aside; `None`: there was none.
    pub kept: Option<String>,
}

/// [`Manager::rebuild_ledger`](super::Manager::rebuild_ledger).
pub(super) fn rebuild_ledger(
    settings: &Settings,
    parts: Parts,
    reason: &str,
    now: u64,
) -> Result<RebuiltLedger, KeyError> {
    let (keys, head) = unlocked(settings, &parts, false)?;
    if Verifier::new(&keys, head.store)
        .take_all(&parts.ledger.place(), &parts.ledger.read(0)?, &Position::of(&head))
        .is_ok()
    {
        return Err(KeyError::LedgerWhole { place: parts.ledger.place() });
    }
    let store = Authentic::new(parts.store, keys, &settings.tenant);
    let erased = erased_by_rows(&store)?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| KeyError::Random)?;
    let (first, mut last) = first_line(store.keys(), id, now);
    let mut lines = vec![first];
    for (subject, (may_return, kids)) in &erased {
        let erasure = Erasure {
            time: now,
            tenant: settings.tenant.to_string(),
            domain: None,
            subject: *subject,
            kids: kids.clone(),
            may_return: *may_return,
            reason: format!("rebuilt: {reason}"),
        };
        let (line, position) = next_line(store.keys(), &last, &erasure);
        lines.push(line);
        last = position;
    }
    let kept = parts.ledger.replace(&lines, now)?;
    let new = store.keys().head(&settings.tenant, last.store, last.seq, last.sha256);
    store.erase(&[], now, &mut |_, _| Ok(Planned { shreds: Vec::new(), head: new.clone() }))?;
    Ok(RebuiltLedger { subjects: erased.len() as u64, kept })
}

/// Data subjects with shredded keys: whether they may return, by their newest record, and those
/// keys.
fn erased_by_rows(store: &Authentic) -> Result<BTreeMap<SubjectRef, (bool, Vec<KeyId>)>, KeyError> {
    let mut subjects: BTreeMap<SubjectRef, (u32, bool, Vec<KeyId>)> = BTreeMap::new();
    let mut after = None;
    loop {
        let page = store.subjects(store.tenant(), after.as_ref(), BATCH)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (_, record) in page {
            let record = record?;
            let Scope::Subject(subject) = record.scope else { continue };
            let entry = subjects.entry(subject).or_insert((0, true, Vec::new()));
            if record.version >= entry.0 {
                (entry.0, entry.1) = (record.version, record.state != KeyState::Shredded);
            }
            entry.2.extend((record.state == KeyState::Shredded).then_some(record.kid));
        }
    }
    Ok(subjects
        .into_iter()
        .filter(|(_, (_, _, kids))| !kids.is_empty())
        .map(|(subject, (_, may, kids))| (subject, (may, kids)))
        .collect())
}
