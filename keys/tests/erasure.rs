//! The erasure of a data subject: nothing of it opens again, nobody revives it, and everybody else
//! is as before.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{Counting, Directory, Fenced, Maintain as _, NOW, Process, subject_number};
use veilstream_engine::error::{OpenError, RejectCode};
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_engine::reveal::Status;
use veilstream_engine::transform::NeededKey;
use veilstream_engine::wrap::WrapContext;
use veilstream_keys::erasure::{
    Erasure, Ledger, Position, ReceiptError, SignedReceipt, Terms, next_line,
};
use veilstream_keys::provider::Provider;
use veilstream_keys::store::{STORE_TENANT, Store, StoreKeys};
use veilstream_keys::{KeyError, Manager, Parts, Settings, directory};

const TERMS: Terms<'_> = Terms {
    reason: "request 17",
    domain: None,
    may_return: false,
    backups_until: None,
    remains: &[],
};
const ADA: &str = r#"{"type":"customer","id":7,"name":"Ada"}"#;
const BOB: &str = r#"{"type":"customer","id":8,"name":"Bob"}"#;
const ERASED: Status = Status::Failed(OpenError::Erased);

fn erase(manager: &Manager, id: &str, terms: &Terms<'_>, now: u64) -> SignedReceipt {
    let subject = manager.subject_ref(id, None, now).unwrap();
    manager.shred(&[subject], terms, now).unwrap().remove(0).receipt.unwrap()
}

fn all_is_well(manager: &Manager, receipt: &SignedReceipt) -> bool {
    manager.check_receipt(receipt, NOW).unwrap().iter().all(|check| check.wrong.is_none())
}

#[test]
fn a_compromised_key_of_a_subject_is_in_nobodys_hand_a_second_later() {
    let dir = Directory::new();
    let (mut one, mut two) = (Process::start(&dir, NOW), Process::start(&dir, NOW));
    let (ada, bob) = (one.protect(ADA, NOW).1, two.protect(BOB, NOW).1);
    assert_eq!((two.reveal(&ada, NOW), two.reveal(&bob, NOW)), (ADA.to_owned(), BOB.to_owned()));
    let key_of = |process: &Process, now: u64| {
        process.manager.fetch(&[process.needed("7")], now).unwrap().remove(0)
    };
    let kid = key_of(&one, NOW).id;
    let reads = |process: &Process| process.manager.held_for_reading(&kid, NOW + 1).is_some();
    assert!(reads(&two) && key_of(&two, NOW).id == kid);

    one.manager.compromise(&kid, NOW).unwrap();
    two.manager.follow(NOW + 1).unwrap();
    assert!(!reads(&two));
    assert!(two.manager.lookup_for_reading(&kid, NOW + 1).unwrap().is_none());
    // And it seals nothing any more.
    assert_ne!(key_of(&two, NOW + 1).id, kid);
    assert_eq!(two.reveal(&bob, NOW + 1), BOB);
}

#[test]
fn what_was_sealed_for_the_subject_never_opens_again_and_all_else_does() {
    let dir = Directory::new();
    let (mut one, mut two) = (Process::start(&dir, NOW), Process::start(&dir, NOW));
    let (ada, bob) = (one.protect(ADA, NOW).1, two.protect(BOB, NOW).1);
    let mail = one.protect(r#"{"email":"ada@example.com"}"#, NOW).1;
    // Both have Ada's key in hand, for sealing and for opening.
    two.protect(ADA, NOW);
    assert_eq!((one.reveal(&ada, NOW), two.reveal(&ada, NOW)), (ADA.to_owned(), ADA.to_owned()));

    let receipt = erase(&one.manager, "7", &TERMS, NOW);
    assert_eq!(one.reveal_status(&ada, NOW), (ada.clone(), ERASED));
    assert_eq!(one.try_protect(ADA, NOW), Err(RejectCode::ErasedSubject));
    // The other process learns it from the store, a second later.
    two.manager.maintain(NOW + 1).unwrap();
    assert_eq!(two.reveal_status(&ada, NOW + 1), (ada.clone(), ERASED));
    assert_eq!(two.try_protect(ADA, NOW + 1), Err(RejectCode::ErasedSubject));
    // Also a process that starts later.
    let mut late = Process::start(&dir, NOW + 5000);
    assert_eq!(late.reveal_status(&ada, NOW + 5000), (ada, ERASED));
    assert_eq!(late.try_protect(ADA, NOW + 5000), Err(RejectCode::ErasedSubject));

    for process in [&mut one, &mut two, &mut late] {
        assert_eq!(process.reveal(&bob, NOW + 5000), BOB);
        assert_eq!(process.reveal(&mail, NOW + 5000), r#"{"email":"ada@example.com"}"#);
        assert!(process.try_protect(BOB, NOW + 5000).is_ok());
    }
    assert!(all_is_well(&late.manager, &receipt));
    assert_eq!(dir.store().count_subjects("default").unwrap().half_shredded, 0);
}

/// An erasure that nobody tells of is bounded by the time keys are kept.
#[test]
fn a_process_that_does_not_look_forgets_the_key_in_time() {
    let dir = Directory::new();
    let (one, mut two) = (Process::start(&dir, NOW), Process::start(&dir, NOW));
    let ada = two.protect(ADA, NOW).1;
    two.reveal(&ada, NOW);
    erase(&one.manager, "7", &TERMS, NOW + 1);
    assert_eq!(two.reveal(&ada, NOW + 599), ADA);
    assert_eq!(two.reveal_status(&ada, NOW + 600).1, ERASED);
    assert!(two.try_protect(ADA, NOW + 599).is_ok());
    assert_eq!(two.try_protect(ADA, NOW + 600), Err(RejectCode::ErasedSubject));
}

#[test]
fn a_subject_may_be_let_back_with_a_new_key() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    let before = process.protect(ADA, NOW).1;
    erase(&process.manager, "7", &Terms { may_return: true, ..TERMS }, NOW);
    let after = process.protect(ADA, NOW).1;
    assert_eq!(
        (process.reveal_status(&before, NOW).1, process.reveal(&after, NOW).as_str()),
        (ERASED, ADA)
    );
    // A start replays the ledger: the new key is not the erasure's.
    let mut late = Process::start(&dir, NOW + 10);
    assert_eq!(
        (late.reveal_status(&before, NOW + 10).1, late.reveal(&after, NOW + 10).as_str()),
        (ERASED, ADA)
    );
    // Erased for good; then let back all the same.
    erase(&late.manager, "7", &TERMS, NOW + 10);
    assert_eq!(late.reveal_status(&after, NOW + 10).1, ERASED);
    assert_eq!(late.try_protect(ADA, NOW + 10), Err(RejectCode::ErasedSubject));
    erase(&late.manager, "7", &Terms { may_return: true, ..TERMS }, NOW + 20);
    assert!(late.try_protect(ADA, NOW + 70).is_ok(), "a minute after it was asked for last");
}

/// Nothing is there to be destroyed, so nothing is proved; what comes later is rejected all the
/// same.
#[test]
fn of_somebody_nobody_knows_there_is_no_receipt() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    process.protect(BOB, NOW);
    let [ada, bob] = ["7", "8"].map(|id| process.manager.subject_ref(id, None, NOW).unwrap());
    let outcomes = process.manager.shred(&[ada, bob, ada, bob], &TERMS, NOW).unwrap();
    assert_eq!(
        outcomes
            .iter()
            .map(|outcome| (outcome.subject, outcome.receipt.is_some()))
            .collect::<Vec<_>>(),
        [(ada, false), (bob, true)],
        "each once"
    );
    assert!(all_is_well(&process.manager, outcomes[1].receipt.as_ref().unwrap()));
    assert_eq!(process.try_protect(ADA, NOW), Err(RejectCode::ErasedSubject));
    // Asked again nobody is there still.
    assert!(process.manager.shred(&[ada], &TERMS, NOW).unwrap()[0].receipt.is_none());
}

#[test]
fn ids_of_two_domains_are_two_people() {
    let dir = Directory::new();
    let manager = dir.open();
    let [none, customers, staff] = [None, Some("customers"), Some("staff")]
        .map(|domain| manager.subject_ref("42", domain, NOW).unwrap());
    assert!(none != customers && customers != staff && none != staff);
    let keys = manager
        .fetch(
            &[customers, staff]
                .map(|subject| NeededKey { kind: KeyKind::Data, scope: Scope::Subject(subject) }),
            NOW,
        )
        .unwrap();
    let terms = Terms { domain: Some("staff"), ..TERMS };
    let receipt = manager.shred(&[staff], &terms, NOW).unwrap().remove(0).receipt.unwrap();
    assert_eq!(
        (&receipt.receipt["domain"], receipt.receipt["kids"].as_array().unwrap().len()),
        (&"staff".into(), 1)
    );
    assert_eq!(manager.lookup(&keys[1].id, NOW).unwrap().unwrap().state, KeyState::Shredded);
    assert_eq!(manager.lookup(&keys[0].id, NOW).unwrap().unwrap().state, KeyState::Active);
    assert!(
        std::fs::read_to_string(dir.ledger_path())
            .unwrap()
            .contains(r#"{"domain":"staff","kids":["#)
    );
}

#[test]
fn every_version_of_the_key_is_destroyed_and_erasing_again_changes_nothing() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    let tokens: Vec<String> =
        [0, 90, 180].map(|day| process.protect(ADA, NOW + day * 86400).1).into();
    let now = NOW + 181 * 86400;
    let receipt = erase(&process.manager, "7", &TERMS, now);
    assert_eq!(receipt.receipt["kids"].as_array().unwrap().len(), 3);
    for token in &tokens {
        assert_eq!(process.reveal_status(token, now).1, ERASED);
    }
    let rows = |dir: &Directory| dir.store().count_subjects("default").unwrap();
    let before = rows(&dir);
    let again = erase(&process.manager, "7", &TERMS, now + 1);
    assert_eq!(
        (again.receipt["kids"].clone(), rows(&dir)),
        (receipt.receipt["kids"].clone(), before),
        "the ledger names them still"
    );
    for _ in 0..3 {
        Process::start(&dir, now + 2);
    }
    assert_eq!(rows(&dir), before, "replaying at each start adds nothing");
}

/// The bytes of every wrap of the erased are looked for in every file of the store.
#[test]
fn the_wraps_of_the_erased_are_nowhere_in_the_files() {
    let dir = Directory::new();
    let manager = dir.open();
    let numbers: Vec<_> = (0..1000).map(subject_number).collect();
    let keys = manager.fetch(&numbers, NOW).unwrap();
    let wrap = |kid: &KeyId| dir.stored(kid).wraps[0].wrapped.clone();
    let (gone, stay) = keys.split_at(100);
    let gone_wraps: Vec<Vec<u8>> = gone.iter().map(|key| wrap(&key.id)).collect();
    let stay_wraps: Vec<Vec<u8>> = stay.iter().map(|key| wrap(&key.id)).collect();
    // Moved once before: what was overwritten counts as well.
    manager.rotate(&veilstream_keys::Rotate::Wrapping, NOW).unwrap();
    manager.rewrap(false, NOW, &mut |_| {}).unwrap();
    let moved: Vec<Vec<u8>> = gone.iter().map(|key| wrap(&key.id)).collect();
    let subjects: Vec<SubjectRef> = gone
        .iter()
        .map(|key| if let Scope::Subject(s) = key.scope { s } else { unreachable!() })
        .collect();
    let found = |needle: &[u8]| {
        fs::read_dir(dir.path()).unwrap().any(|entry| {
            fs::read(entry.unwrap().path()).unwrap().windows(needle.len()).any(|w| w == needle)
        })
    };
    assert!(found(&moved[0]));
    assert_eq!(manager.shred(&subjects, &TERMS, NOW).unwrap().len(), 100);
    for (i, wrap) in gone_wraps.iter().chain(&moved).enumerate().step_by(7) {
        // Any 16 bytes of it would be a piece of a ciphertext.
        assert!(!found(&wrap[24..40]) && !found(&wrap[40..56]), "{i}");
    }
    // That the search would find one.
    assert!(found(&wrap(&stay[0].id)));
    assert!(!stay_wraps.is_empty());
}

#[test]
fn a_restored_backup_does_not_bring_the_erased_back() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    let (ada, bob) = (process.protect(ADA, NOW).1, process.protect(BOB, NOW).1);
    let backup = dir.0.path().join("backup.db");
    dir.sql(&format!("VACUUM INTO '{}'", backup.display()));
    let receipt = erase(&process.manager, "7", &TERMS, NOW + 1);
    drop(process);
    for name in ["keys.db", "keys.db-wal", "keys.db-shm"] {
        let _ = fs::remove_file(dir.path().join(name));
    }
    fs::copy(&backup, directory::store(&dir.path())).unwrap();
    let kid: KeyId = receipt.receipt["kids"][0].as_str().unwrap().parse().unwrap();
    assert_eq!(dir.stored(&kid).state, KeyState::Active, "the backup has it");
    let mut process = Process::start(&dir, NOW + 2);
    assert_eq!(process.reveal_status(&ada, NOW + 2).1, ERASED);
    assert_eq!(process.try_protect(ADA, NOW + 2), Err(RejectCode::ErasedSubject));
    assert_eq!(process.reveal(&bob, NOW + 2), BOB);
    assert!(dir.stored(&kid).wraps.is_empty());
    assert!(all_is_well(&process.manager, &receipt));
}

#[test]
fn a_ledger_that_was_touched_opens_no_store_and_the_line_is_named() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    for event in [ADA, BOB] {
        process.protect(event, NOW);
    }
    erase(&process.manager, "7", &TERMS, NOW);
    erase(&process.manager, "8", &TERMS, NOW);
    drop(process);
    let path = dir.ledger_path();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 3);
    let rewritten = text.replacen("request 17", "request 18", 1);
    for (changed, says) in [
        (Some(rewritten), "line 1 was not written under this store's key (mac)"),
        (Some(lines[..2].concat()), "line 2 is missing"),
        (Some([lines[0], lines[2]].concat()), "line 1 has another number"),
        (Some(lines[1..].concat()), "line 0 is no line of form 2"),
        (Some(String::new()), "line 0 is missing"),
        (None, "line 0 is missing"),
    ] {
        match &changed {
            Some(changed) => fs::write(&path, changed).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = dir.try_open().err().unwrap().to_string();
        assert!(
            error.contains(says) && error.contains("keys ledger rebuild --reason"),
            "{says}: {error}"
        );
    }
    fs::write(&path, &text).unwrap();
    dir.open();
    // The head cannot be moved back to where a cut ledger ends.
    fs::write(&path, lines[..2].concat()).unwrap();
    dir.sql("UPDATE head SET seq = 1");
    let error = dir.try_open().err().unwrap().to_string();
    assert!(error.contains("its head") && error.contains("was changed"), "{error}");
}

/// Killed after the ledger and before the store: the next start completes it, and so does the next
/// erasure.
#[test]
fn an_erasure_that_was_begun_is_completed() {
    for by_start in [true, false] {
        let dir = Directory::new();
        let mut process = Process::start(&dir, NOW);
        let (ada, _bob) = (process.protect(ADA, NOW).1, process.protect(BOB, NOW));
        let subject = process.manager.subject_ref("7", None, NOW).unwrap();
        let kids = dir
            .store()
            .find("default", KeyKind::Data, &[Scope::Subject(subject)])
            .unwrap()
            .iter()
            .map(|r| r.kid)
            .collect();
        let (store, provider) = (dir.store(), dir.provider());
        let record =
            store.find(STORE_TENANT, KeyKind::Store, &[Scope::Version(1)]).unwrap().remove(0);
        let context = WrapContext {
            kid: record.kid,
            kind: record.kind,
            tenant: &record.tenant,
            scope: &record.scope,
        };
        let keys = StoreKeys::of(&provider.unwrap(&record.wraps[0], &context).unwrap());
        let begun = Erasure {
            time: NOW,
            tenant: "default".to_owned(),
            domain: None,
            subject,
            kids,
            may_return: false,
            reason: String::new(),
        };
        let (line, _) = next_line(&keys, &Position::of(&store.head().unwrap().unwrap()), &begun);
        dir.ledger().append(1, &[line]).unwrap();
        if by_start {
            let mut next = Process::start(&dir, NOW + 1);
            assert_eq!((next.reveal_status(&ada, NOW + 1).1, next.manager.revived()), (ERASED, 1));
        } else {
            erase(&process.manager, "8", &TERMS, NOW + 1);
            assert_eq!(process.reveal_status(&ada, NOW + 1).1, ERASED);
        }
        assert_eq!(dir.store().head().unwrap().unwrap().seq, if by_start { 1 } else { 2 });
        process.manager.maintain(NOW + 2).unwrap();
        assert_eq!(process.reveal_status(&ada, NOW + 2).1, ERASED);
        assert_eq!(dir.open().revived(), 0);
    }
}

/// A row of before the erasure carries a right MAC: the ledger knows better, at the start and in a
/// process that runs.
#[test]
fn an_old_row_put_back_stays_erased() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    let ada = process.protect(ADA, NOW).1;
    dir.sql(
        "CREATE TABLE old_keys AS SELECT * FROM keys WHERE scope LIKE 'subject:%'; CREATE TABLE \
        old_wraps AS SELECT w.* FROM wraps w JOIN old_keys USING (kid)",
    );
    let receipt = erase(&process.manager, "7", &TERMS, NOW);
    dir.sql(
        "DELETE FROM keys WHERE scope LIKE 'subject:%'; INSERT INTO keys SELECT * FROM \
        old_keys; INSERT INTO wraps SELECT * FROM old_wraps",
    );
    assert_eq!(process.reveal_status(&ada, NOW + 700).1, ERASED);
    assert_eq!(process.try_protect(ADA, NOW + 700), Err(RejectCode::ErasedSubject));
    assert!(!all_is_well(&process.manager, &receipt), "the receipt says that the store has it");
    let mut next = Process::start(&dir, NOW + 701);
    assert_eq!((next.manager.revived(), next.reveal_status(&ada, NOW + 701).1), (1, ERASED));
    assert!(all_is_well(&next.manager, &receipt));
}

/// A marker that lets a subject back is in the place of the key that somebody is about to store: it
/// is no key to seal with.
#[test]
fn a_marker_is_never_kept_as_a_sealing_key() {
    let dir = Directory::new();
    let eraser = dir.open();
    let (store, asked) = Counting::over(dir.store());
    let racer = Manager::open(
        Settings::of("default"),
        Parts { store: Box::new(store), ..dir.parts() },
        NOW,
    )
    .unwrap();
    let wanted = subject_number(1);
    let Scope::Subject(subject) = wanted.scope else { unreachable!() };
    asked.after("find", move || {
        eraser.shred(&[subject], &Terms { may_return: true, ..TERMS }, NOW).unwrap();
    });
    let key = racer.fetch(std::slice::from_ref(&wanted), NOW).unwrap().remove(0);
    assert_eq!(
        (key.state, key.secret.is_some(), key.version),
        (KeyState::Active, true, 2),
        "version 1 is the marker's"
    );
}

/// A key that was read before an erasure and is handed over after it was forgotten is not kept.
#[test]
fn a_key_read_before_an_erasure_is_not_kept_after_it() {
    let dir = Directory::new();
    let wanted = subject_number(1);
    let key = dir.open().fetch(std::slice::from_ref(&wanted), NOW).unwrap().remove(0);
    let Scope::Subject(subject) = wanted.scope else { unreachable!() };
    for question in ["get", "find"] {
        let dir = Directory::new();
        let eraser = dir.open();
        let key = eraser.fetch(std::slice::from_ref(&wanted), NOW).unwrap().remove(0);
        let (store, asked) = Counting::over(dir.store());
        let racer = Arc::new(
            Manager::open(
                Settings::of("default"),
                Parts { store: Box::new(store), ..dir.parts() },
                NOW,
            )
            .unwrap(),
        );
        let looks = racer.clone();
        asked.after(question, move || {
            eraser.shred(&[subject], &TERMS, NOW).unwrap();
            looks.maintain(NOW + 1).unwrap();
        });
        let found = match question {
            "get" => racer.lookup(&key.id, NOW).unwrap().unwrap(),
            _ => racer.fetch(std::slice::from_ref(&wanted), NOW).unwrap().remove(0),
        };
        assert_eq!((found.state, found.secret.is_none()), (KeyState::Shredded, true), "{question}");
        let again = racer.lookup(&key.id, NOW + 2).unwrap().unwrap();
        assert_eq!((again.state, again.secret.is_none()), (KeyState::Shredded, true), "{question}");
    }
    assert!(key.secret.is_some());
}

/// Eight processes erase at the same time: one ledger, without a fork, that every process opens.
#[test]
fn several_who_erase_at_once_write_one_ledger() {
    let dir = Directory::new();
    dir.open().prepare_roots(NOW).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|i| {
            let manager = dir.open();
            std::thread::spawn(move || {
                for n in 0..10 {
                    let wanted = subject_number(i * 100 + n);
                    let Scope::Subject(subject) = wanted.scope else { unreachable!() };
                    manager.fetch(std::slice::from_ref(&wanted), NOW).unwrap();
                    assert!(manager.shred(&[subject], &TERMS, NOW).unwrap()[0].receipt.is_some());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(
        (dir.ledger().read(0).unwrap().len(), dir.store().head().unwrap().unwrap().seq),
        (81, 80)
    );
    assert_eq!(dir.open().revived(), 0);
}

#[test]
fn a_lost_ledger_is_rebuilt_from_the_store() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    let (ada, bob) = (process.protect(ADA, NOW).1, process.protect(BOB, NOW).1);
    let receipt = erase(&process.manager, "7", &TERMS, NOW);
    erase(&process.manager, "8", &Terms { may_return: true, ..TERMS }, NOW);
    let rebuild =
        || Manager::rebuild_ledger(Settings::of("default"), dir.parts(), "disk lost", NOW + 9);
    assert!(
        matches!(rebuild(), Err(KeyError::LedgerWhole { .. })),
        "nothing is rebuilt that is whole"
    );
    let text = fs::read_to_string(dir.ledger_path()).unwrap();
    fs::write(
        dir.ledger_path(),
        text.lines().take(2).map(|line| line.to_owned() + "\n").collect::<String>(),
    )
    .unwrap();
    let rebuilt = rebuild().unwrap();
    assert_eq!(rebuilt.subjects, 2);
    assert!(
        fs::read_to_string(rebuilt.kept.unwrap())
            .unwrap()
            .starts_with(text.lines().next().unwrap())
    );
    let new = fs::read_to_string(dir.ledger_path()).unwrap();
    assert_eq!(
        (
            new.lines().count(),
            new.matches("rebuilt: disk lost").count(),
            new.matches(r#""may_return":true"#).count()
        ),
        (3, 2, 1)
    );
    // A process that runs takes it up; another starts with it.
    process.manager.maintain(NOW + 10).unwrap();
    let mut next = Process::start(&dir, NOW + 10);
    for process in [&mut process, &mut next] {
        assert_eq!(
            (process.reveal_status(&ada, NOW + 10).1, process.reveal_status(&bob, NOW + 10).1),
            (ERASED, ERASED)
        );
        assert_eq!(process.try_protect(ADA, NOW + 70), Err(RejectCode::ErasedSubject));
        assert!(process.try_protect(BOB, NOW + 70).is_ok());
        assert!(!all_is_well(&process.manager, &receipt), "its line is the old ledger's");
    }
}

#[test]
fn a_receipt_tells_of_a_key_that_the_subject_has_again() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    process.protect(ADA, NOW);
    let back = erase(&process.manager, "7", &Terms { may_return: true, ..TERMS }, NOW);
    process.protect(ADA, NOW + 1);
    assert!(all_is_well(&process.manager, &back), "it allows that");
    let gone = erase(&process.manager, "7", &TERMS, NOW + 2);
    erase(&process.manager, "7", &Terms { may_return: true, ..TERMS }, NOW + 3);
    process.protect(ADA, NOW + 100);
    let checks = process.manager.check_receipt(&gone, NOW).unwrap();
    let wrong: Vec<&str> =
        checks.iter().filter(|check| check.wrong.is_some()).map(|check| check.what).collect();
    assert_eq!(wrong, ["no live key"], "{checks:?}");
}

/// While eight threads make and rotate keys for a subject, it is erased again and again: after each
/// time nothing of before opens, and in the end it is closed.
#[test]
fn nobody_makes_a_key_for_a_subject_that_is_being_erased() {
    let dir = Directory::new();
    let wanted = subject_number(1);
    let Scope::Subject(subject) = wanted.scope else { unreachable!() };
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (manager, wanted, stop) = (dir.open(), wanted.clone(), stop.clone());
            std::thread::spawn(move || {
                let (mut kids, mut now) = (Vec::new(), NOW);
                while !stop.load(Ordering::Relaxed) {
                    // Every step is beyond the interval: a new version is due each time.
                    now += 91 * 86400;
                    let key = manager.fetch(std::slice::from_ref(&wanted), now).unwrap().remove(0);
                    kids.push(key.id);
                    if key.state == KeyState::Shredded {
                        break;
                    }
                }
                kids
            })
        })
        .collect();
    let eraser = dir.open();
    while dir
        .store()
        .find("default", KeyKind::Data, std::slice::from_ref(&wanted.scope))
        .unwrap()
        .len()
        < 20
    {
        std::thread::yield_now();
    }
    eraser.shred(&[subject], &TERMS, NOW).unwrap();
    stop.store(true, Ordering::Relaxed);
    for kid in threads.into_iter().flat_map(|t| t.join().unwrap()) {
        let stored = dir.stored(&kid);
        assert_eq!(
            (stored.state, stored.wraps.len()),
            (KeyState::Shredded, 0),
            "version {}",
            stored.version
        );
    }
    assert_eq!(dir.open().fetch(&[wanted], NOW).unwrap()[0].state, KeyState::Shredded);
}

#[test]
fn a_receipt_proves_itself_and_nothing_else() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    process.protect(ADA, NOW);
    let terms = Terms { backups_until: Some(NOW + 35 * 86400), ..TERMS };
    let signed = erase(&process.manager, "7", &terms, NOW);
    let key = process.manager.receipt_key(NOW).unwrap();
    let text = serde_json::to_vec_pretty(&signed.to_json()).unwrap();
    let read = SignedReceipt::parse(&text).unwrap();
    assert_eq!(
        (read.verify(&key), read.receipt["backups_until"].as_str()),
        (Ok(()), Some("2026-12-29T06:00:00Z"))
    );
    assert_eq!(read.receipt["canary"]["field"], "receipt#canary");
    assert!(!String::from_utf8_lossy(&text).contains("request 17"), "the reason is the ledger's");

    let mut changed = signed.to_json();
    changed["receipt"]["kids"] = serde_json::json!([]);
    assert_eq!(
        SignedReceipt::parse(changed.to_string().as_bytes()).unwrap().verify(&key),
        Err(ReceiptError::Signature)
    );
    let other = Process::start(&Directory::new(), NOW).manager.receipt_key(NOW).unwrap();
    assert_eq!(read.verify(&other), Err(ReceiptError::OtherKey));
    for wrong in [&b""[..], b"{}", b"[]", br#"{"receipt":{},"public_key":"","signature":""}"#] {
        assert_eq!(SignedReceipt::parse(wrong), Err(ReceiptError::Malformed));
    }
    // Somebody undoes the erasure in the store: the receipt says so.
    let kid = signed.receipt["kids"][0].as_str().unwrap();
    dir.sql(&format!(
        "INSERT INTO wraps SELECT '{kid}', kek_uri, kek_version, wrapped FROM wraps LIMIT 1"
    ));
    assert_eq!(dir.store().count_subjects("default").unwrap().half_shredded, 1);
    assert!(!all_is_well(&process.manager, &read));
    // The next start puts it right.
    let late = Process::start(&dir, NOW);
    assert!(all_is_well(&late.manager, &read));
    assert_eq!(dir.store().count_subjects("default").unwrap().half_shredded, 0);
}

/// The store fails after the line is durable, and another process erases before the plan is asked
/// again: it finds its own line, in the middle, and writes no second one.
#[test]
fn a_plan_that_is_asked_again_finds_its_line_though_others_followed() {
    let dir = Directory::new();
    let other = dir.open();
    let wanted = [1, 2].map(subject_number);
    other.fetch(&wanted, NOW).unwrap();
    let [first, second] = wanted.map(|wanted| {
        if let Scope::Subject(subject) = wanted.scope { subject } else { unreachable!() }
    });
    let manager = Manager::open(
        Settings::of("default"),
        Parts { store: Box::new(Fenced::new(dir.store(), other, second)), ..dir.parts() },
        NOW,
    )
    .unwrap();
    let receipt = manager.shred(&[first], &TERMS, NOW).unwrap().remove(0).receipt.unwrap();
    assert_eq!(
        (receipt.receipt["ledger"]["seq"].as_u64(), receipt.receipt["head"]["seq"].as_u64()),
        (Some(1), Some(2))
    );
    assert_eq!((dir.ledger().read(0).unwrap().len(), dir.open().revived()), (3, 0));
    assert!(all_is_well(&manager, &receipt));
}
