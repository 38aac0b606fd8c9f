//! What the budgets have spent, as the audit log tells it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use veilstream_engine::key::SubjectRef;
use veilstream_reading::audit::{AuditError, Event, Hex, Line, LogParts};

use super::replays::WINDOW;

use crate::policy::budget::{BudgetLimits, Budgets, Counted, Disclosure, Unit};

/// Seconds that count.
const DAY: u64 = 86_400;

/// Budgets as the last 24 hours of the log left them. A request that was made again counts once.
/// Where a chain of that time is missing, nobody knows what was spent before it ended: all of it.
///
/// # Errors
/// The log cannot be read.
pub fn spent_budgets(
    limits: BudgetLimits,
    log: &LogParts,
    now: u64,
) -> Result<Budgets, AuditError> {
    let (mut past, mut attempts) = (Vec::new(), Attempts::default());
    let (mut chains, mut named) = (HashSet::new(), Vec::new());
    log.each(|_, _, line| {
        let time = line.seconds();
        chains.insert(line.chain);
        if time >= now.saturating_sub(DAY) {
            past.extend(disclosure(&line, log, &mut attempts));
            named.extend(line.predecessor.map(|before| (before.chain, time)));
        }
        Ok(())
    })?;
    let budgets = Budgets::rebuild(limits, past, now);
    // A chain had ended when the next one named it.
    let missing = named.into_iter().filter(|(chain, _)| !chains.contains(chain));
    let Some((chain, until)) = missing.max_by_key(|(_, time)| *time) else { return Ok(budgets) };
    tracing::warn!(
        chain = %chain, hours = (until + DAY).saturating_sub(now).div_ceil(3600),
        "a part of the last 24 hours of the audit log is missing: every budget counts as spent for \
        so many hours; put the file of the chain back, then start again"
    );
    Ok(budgets.unknown_until(until))
}

/// `None`: the line spends nothing.
fn disclosure(line: &Line, log: &LogParts, attempts: &mut Attempts) -> Option<Disclosure> {
    let entry = &line.entry;
    let outcome = entry.outcome.as_deref();
    let names_somebody = entry.subject.is_some() || entry.subjects_sha256.is_some();
    let counted = match entry.event {
        // What was reserved stays spent, whatever came of it. Of nobody, `denied` was denied before.
        Event::Reveal if names_somebody || matches!(outcome, Some("ok" | "failed")) => {
            Counted::Subjects
        }
        Event::Search if outcome == Some("ok") => Counted::Values,
        _ => return None,
    };
    let mut anonymous = |count: Option<u64>| {
        let count = attempts.new_units(line, count.unwrap_or(1));
        vec![Unit::Anonymous; usize::try_from(count).unwrap_or(1)]
    };
    let units = match (entry.subject, entry.subjects_sha256) {
        (Some(subject), _) => vec![Unit::Reference(subject.0)],
        // Who is named in a side file that is gone is counted all the same.
        (None, Some(name)) => match log.subjects(&name) {
            Some(subjects) => subjects.iter().map(|SubjectRef(s)| Unit::Reference(*s)).collect(),
            None => anonymous(entry.subjects),
        },
        (None, None) => anonymous(entry.items),
    };
    Some(Disclosure {
        time: line.seconds(),
        principal: Arc::from(entry.actor.as_deref()?),
        purpose: Arc::from(entry.purpose.as_deref()?),
        counted,
        units,
    })
}

/// Requests that were made again, as lines tell it: what one attempt has spent, the next ones do not
/// spend again.
#[derive(Default)]
struct Attempts(HashMap<(Hex<16>, String, String), Attempt>);

/// The last attempt of a request so far.
#[derive(Default)]
struct Attempt {
    number: u64,
    /// When its last line was written.
    time: u64,
    /// Units of its lines so far.
    units: u64,
    /// The most that an earlier attempt had.
    before: u64,
}

impl Attempts {
    /// How many of a line's units no earlier attempt of its request has spent.
    fn new_units(&mut self, line: &Line, units: u64) -> u64 {
        let entry = &line.entry;
        let (Some(actor), Some(id)) = (&entry.actor, &entry.request_id) else { return units };
        let last = self.0.entry((line.chain, actor.clone(), id.clone())).or_default();
        let (number, time) = (entry.attempt.unwrap_or(1), line.seconds());
        // Ten minutes later the id is another request's.
        if number == 1 && (last.number != 1 || time > last.time.saturating_add(WINDOW)) {
            *last = Attempt::default();
        } else if number != last.number {
            last.before = last.before.max(std::mem::take(&mut last.units));
        }
        let spent = last.units.max(last.before);
        last.units += units;
        (last.number, last.time) = (number, time);
        last.units.saturating_sub(spent)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::path::PathBuf;

    use ed25519_dalek::SigningKey;
    use veilstream_reading::audit::{AuditLog, Entry, Hex, Settings, Signer, VerifierKey};

    use super::*;
    use crate::config::{Budget, Limit, Policy, Purpose};

    fn limits(most: u64) -> BudgetLimits {
        let purpose = Purpose { name: "support".to_owned(), reason_required: false, pattern: None };
        let most = Limit::Count(most);
        let budget = Budget { purpose: None, subjects: most, values: most };
        let budgets =
            vec![budget.clone(), Budget { purpose: Some("support".to_owned()), ..budget }];
        let policy = Policy { dir: "policies".into(), purposes: vec![purpose], budgets };
        BudgetLimits::new(&policy, NonZeroU32::MIN)
    }

    #[test]
    fn what_was_reserved_stays_spent_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        let recipient = VerifierKey::generate().unwrap().recipient().unwrap();
        let signer = Signer::new(SigningKey::from_bytes(&[7; 32]));
        let log = AuditLog::open(Settings::new(file.clone(), recipient, signer, "test".to_owned()));
        let log = log.unwrap();
        let line = |event, outcome: &str| Entry {
            actor: Some("key:crm".to_owned()),
            purpose: Some("support".to_owned()),
            outcome: Some(outcome.to_owned()),
            items: Some(3),
            ..Entry::new(event)
        };
        let made = |id: &str, items| Entry {
            request_id: Some(id.to_owned()),
            items,
            ..line(Event::Reveal, "ok")
        };
        let of = |n: u8, entry| Entry { subject: Some(Hex([n; 16])), ..entry };
        log.append(vec![
            of(1, line(Event::Reveal, "ok")),
            // Opened, and nothing of it shown.
            of(2, line(Event::Reveal, "denied")),
            // Denied by policy, and beyond a budget: nothing was reserved.
            line(Event::Reveal, "denied"),
            line(Event::Reveal, "budget"),
            // A request, and the same again with more that is permitted by now.
            Entry { request_id: Some("r".to_owned()), ..line(Event::Reveal, "denied") },
            Entry { attempt: Some(2), ..made("r", Some(1)) },
            Entry { attempt: Some(3), ..made("r", Some(2)) },
            Entry { attempt: Some(4), ..made("r", Some(2)) },
            // Three values; and three that were none.
            line(Event::Search, "ok"),
            line(Event::Search, "failed"),
        ])
        .unwrap();
        let now = crate::keys::now();
        let parts = LogParts::of(&file).unwrap();
        let has_room = |most: u64, counted| {
            let mut budgets = spent_budgets(limits(most), &parts, now).unwrap();
            let unit = Unit::Reference([9; 16]);
            budgets.reserve(now, &"key:crm".into(), &"support".into(), counted, unit).is_ok()
        };
        for (counted, spent) in [(Counted::Subjects, 4), (Counted::Values, 3)] {
            assert!(!has_room(spent, counted), "{counted:?}");
            assert!(has_room(spent + 1, counted), "{counted:?}");
        }
    }

    #[test]
    fn a_missing_file_of_the_last_day_is_a_spent_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        let recipient = VerifierKey::generate().unwrap().recipient().unwrap();
        let signer = Signer::new(SigningKey::from_bytes(&[7; 32]));
        let settings = Settings::new(file.clone(), recipient, signer, "test".to_owned());
        // Each append ends a file: the next chain names the one before.
        let log = AuditLog::open(Settings { file_bytes: 1, ..settings }).unwrap();
        for _ in 0..2 {
            log.append(vec![Entry::new(Event::Start)]).unwrap();
        }
        let has_room = || {
            let now = crate::keys::now();
            let parts = LogParts::of(&file).unwrap();
            let mut budgets = spent_budgets(limits(5), &parts, now).unwrap();
            let unit = Unit::Reference([9; 16]);
            let (crm, support) = ("key:crm".into(), "support".into());
            budgets.reserve(now, &crm, &support, Counted::Subjects, unit).is_ok()
        };
        assert!(has_room());
        let is_ended = |path: &PathBuf| path.to_string_lossy().contains(".ended-");
        let ended = LogParts::of(&file).unwrap().files().iter().find(|p| is_ended(p)).cloned();
        std::fs::remove_file(ended.unwrap()).unwrap();
        assert!(!has_room());
    }
}
