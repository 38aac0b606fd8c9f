//! What the log is for: reports, proofs, and old lines that go.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::fs;
use std::sync::atomic::Ordering;

use support::{Lab, NOON, entry, signer};
use veilstream_engine::key::SubjectRef;
use veilstream_reading::audit::prove::Proof;
use veilstream_reading::audit::prune::prune;
use veilstream_reading::audit::report::{Audience, Report, Wanted, csv, json};
use veilstream_reading::audit::verify::{Copies, Wrong};
use veilstream_reading::audit::{AuditLog, Entry, Event, LogParts};

const DAY: u64 = 86_400;

/// A log of four days: one chain each, the last of which is open.
fn four_days(lab: &Lab) -> AuditLog {
    for day in 0..3 {
        lab.clock.store(NOON + day * DAY, Ordering::SeqCst);
        let mut settings = lab.settings();
        settings.checkpoint_lines = 5;
        let log = AuditLog::open(settings).unwrap();
        let bulk = (0..101).map(|n| SubjectRef([n; 16])).collect();
        log.append((day * 10..day * 10 + 8).map(|n| Entry { attempt: None, ..entry(n) }).collect())
            .unwrap();
        log.append(vec![Entry { bulk, subject: None, ..entry(1) }]).unwrap();
        log.stop().unwrap();
    }
    lab.clock.store(NOON + 3 * DAY, Ordering::SeqCst);
    AuditLog::open(lab.settings()).unwrap()
}

#[test]
fn every_covered_line_is_proved_to_who_sees_no_other() {
    let lab = Lab::new();
    let log = four_days(&lab);
    let parts = LogParts::of(&lab.file()).unwrap();
    let mut proved = 0;
    for line in lab.lines() {
        let Some(proof) = Proof::of(&parts, line.chain, line.seq).unwrap() else { continue };
        assert_eq!(proof.check(&signer().checkpoint_key()).unwrap(), line);
        proved += 1;
    }
    assert!(proved > 30, "{proved}");
    let open = log.append(vec![entry(1)]).unwrap();
    assert_eq!(Proof::of(&parts, open.chain, open.seq).unwrap(), None, "no checkpoint covers it");
}

#[test]
fn a_report_says_what_its_reader_may_know() {
    let lab = Lab::new();
    let log = four_days(&lab);
    log.append(vec![
        Entry { subject: None, ..entry(1) },
        Entry { reason: Some("ticket 4711".to_owned()), attempt: None, ..entry(3) },
        Entry { attempt: Some(2), ..entry(3) },
    ])
    .unwrap();
    log.stop().unwrap();
    let parts = LogParts::of(&lab.file()).unwrap();
    let report = |audience, subject, names| {
        Report::of(&parts, &Wanted { audience, subject, names }).unwrap()
    };
    let ada = Some(SubjectRef([3; 16]));
    let own = report(Audience::Subject, ada, false);
    assert_eq!((own.rows.len(), own.nobody), (5, 1), "two lines, three bulk reads");
    let text = csv(&own) + &json(&own).to_string();
    assert!(!text.contains("ana@corp") && !text.contains("4711"), "{text}");
    assert!(text.contains("email") && text.contains("customers"), "{text}");
    assert!(csv(&report(Audience::Subject, ada, true)).contains("ana@corp"));
    let hipaa = csv(&report(Audience::Hipaa, ada, false));
    assert!(hipaa.contains("ana@corp") && hipaa.contains("ticket 4711"), "{hipaa}");
    let pci = csv(&report(Audience::Pci, None, false));
    assert!(pci.contains(",start,") && pci.contains("email=revealed"), "{pci}");
    assert!(report(Audience::Subject, Some(SubjectRef([200; 16])), false).rows.is_empty());
}

#[test]
fn what_is_pruned_leaves_a_log_that_verifies() {
    let lab = Lab::new();
    let log = four_days(&lab);
    let before = lab.lines().len();
    let actor = Entry { actor: Some("root@host".to_owned()), ..Entry::new(Event::Prune) };
    let pruned = prune(&log, &actor, NOON + DAY + 1).unwrap();
    assert_eq!(pruned.chains, 2, "the days 0 and 1");
    assert_eq!(lab.lines().len() as u64, before as u64 - pruned.lines + 1);
    assert_eq!(pruned.side_files, 0, "the third day names the same people");
    let verdict = lab.verify(&Copies::default());
    assert_eq!(verdict.faults, []);
    assert_eq!(verdict.chains.iter().filter(|chain| chain.pruned_to.is_some()).count(), 2);
    // Again, when the line that tells of the gaps has its own day gone.
    log.stop().unwrap();
    lab.clock.store(NOON + 9 * DAY, Ordering::SeqCst);
    let log = AuditLog::open(lab.settings()).unwrap();
    log.append(vec![entry(1)]).unwrap();
    let pruned = prune(&log, &actor, NOON + 8 * DAY).unwrap();
    assert_eq!((pruned.chains, pruned.side_files), (2, 1));
    assert_eq!(prune(&log, &actor, NOON + 8 * DAY).unwrap().chains, 0, "nothing is left to go");
    log.stop().unwrap();
    assert_eq!(lab.verify(&Copies::default()).faults, []);
}

#[test]
fn a_gap_that_no_line_names_is_a_fault() {
    let lab = Lab::new();
    let log = four_days(&lab);
    log.stop().unwrap();
    let ended = lab.dir.path().join(&lab.files()[1]);
    let text = fs::read_to_string(&ended).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().rposition(|line| line.contains("\"event\":\"checkpoint\"")).unwrap();
    fs::write(&ended, format!("{}\n{}\n", lines[0], lines[at..].join("\n"))).unwrap();
    let faults = lab.verify(&Copies::default()).faults;
    assert_eq!((faults[0].why, faults[0].line), (Wrong::Seq, 2));
}
