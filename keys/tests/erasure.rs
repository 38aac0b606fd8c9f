//! The erasure of a data subject: nothing of it opens again, nobody revives it, and everybody else is as before.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{Directory, NOW, Process, subject_number};
use veilstream_engine::error::{OpenError, RejectCode};
use veilstream_engine::key::{KeyId, KeyState, Scope, SubjectRef};
use veilstream_engine::reveal::Status;
use veilstream_keys::erasure::{Ledger, ReceiptError, SignedReceipt, Terms};
use veilstream_keys::store::Store;
use veilstream_keys::{Manager, directory};

const TERMS: Terms<'_> = Terms { reason: "request 17", may_return: false, backups_until: None };
const ADA: &str = r#"{"type":"customer","id":7,"name":"Ada"}"#;
const BOB: &str = r#"{"type":"customer","id":8,"name":"Bob"}"#;
const ERASED: Status = Status::Failed(OpenError::Erased);

fn erase(manager: &Manager, id: &str, terms: &Terms<'_>, now: u64) -> SignedReceipt {
    let subject = manager.subject_ref(id, now).unwrap();
    manager.shred(&[subject], terms, now).unwrap().remove(0)
}

fn all_is_well(manager: &Manager, receipt: &SignedReceipt) -> bool {
    manager.check_receipt(receipt, NOW).unwrap().iter().all(|check| check.wrong.is_none())
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
    assert_eq!((process.reveal_status(&before, NOW).1, process.reveal(&after, NOW).as_str()), (ERASED, ADA));
    // A start replays the ledger: the new key is not the erasure's.
    let mut late = Process::start(&dir, NOW + 10);
    assert_eq!((late.reveal_status(&before, NOW + 10).1, late.reveal(&after, NOW + 10).as_str()), (ERASED, ADA));
    // Erased for good; then let back all the same.
    erase(&late.manager, "7", &TERMS, NOW + 10);
    assert_eq!(late.reveal_status(&after, NOW + 10).1, ERASED);
    assert_eq!(late.try_protect(ADA, NOW + 10), Err(RejectCode::ErasedSubject));
    erase(&late.manager, "7", &Terms { may_return: true, ..TERMS }, NOW + 20);
    assert!(late.try_protect(ADA, NOW + 70).is_ok(), "a minute after it was asked for last");
}

#[test]
fn somebody_nobody_knows_yet_can_be_erased() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    let receipt = erase(&process.manager, "7", &TERMS, NOW);
    assert_eq!(receipt.receipt["kids"].as_array().unwrap().len(), 0);
    assert!(receipt.receipt["canary"].is_null());
    assert_eq!(process.try_protect(ADA, NOW), Err(RejectCode::ErasedSubject));
    assert!(all_is_well(&process.manager, &receipt));
}

#[test]
fn every_version_of_the_key_is_destroyed_and_erasing_again_changes_nothing() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    let tokens: Vec<String> = [0, 90, 180].map(|day| process.protect(ADA, NOW + day * 86400).1).into();
    let now = NOW + 181 * 86400;
    let receipt = erase(&process.manager, "7", &TERMS, now);
    assert_eq!(receipt.receipt["kids"].as_array().unwrap().len(), 3);
    for token in &tokens {
        assert_eq!(process.reveal_status(token, now).1, ERASED);
    }
    let rows = |dir: &Directory| dir.store().count_subjects("default").unwrap();
    let before = rows(&dir);
    let again = erase(&process.manager, "7", &TERMS, now + 1);
    assert_eq!((again.receipt["kids"].clone(), rows(&dir)), (receipt.receipt["kids"].clone(), before), "the ledger names them still");
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
    let subjects: Vec<SubjectRef> = gone.iter().map(|key| if let Scope::Subject(s) = key.scope { s } else { unreachable!() }).collect();
    let found =
        |needle: &[u8]| fs::read_dir(dir.0.path()).unwrap().any(|entry| fs::read(entry.unwrap().path()).unwrap().windows(needle.len()).any(|w| w == needle));
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
        let _ = fs::remove_file(dir.0.path().join(name));
    }
    fs::copy(&backup, directory::store(dir.0.path())).unwrap();
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
fn without_a_readable_ledger_no_store_opens() {
    let dir = Directory::new();
    let process = Process::start(&dir, NOW);
    erase(&process.manager, "7", &TERMS, NOW);
    let ledger = directory::ledger(dir.0.path());
    let text = fs::read_to_string(&ledger).unwrap();
    fs::write(&ledger, text.replace("request 17", "request 18").replace("\"position\":1", "\"position\":2")).unwrap();
    let error = dir.try_open().err().unwrap().to_string();
    assert!(error.contains("an erasure must not be forgotten"), "{error}");
}

/// Killed after the ledger and before the store: the next start completes it.
#[test]
fn an_erasure_that_was_begun_is_completed_by_the_next_start() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    let ada = process.protect(ADA, NOW).1;
    let subject = process.manager.subject_ref("7", NOW).unwrap();
    let kids = dir.store().find("default", veilstream_engine::KeyKind::Data, &[Scope::Subject(subject)]).unwrap().iter().map(|r| r.kid).collect();
    let begun = veilstream_keys::erasure::Erasure { time: NOW, tenant: "default".to_owned(), subject, kids, may_return: false, reason: String::new() };
    dir.ledger().append(&[begun]).unwrap();
    let mut next = Process::start(&dir, NOW + 1);
    assert_eq!(next.reveal_status(&ada, NOW + 1).1, ERASED);
    process.manager.maintain(NOW + 2).unwrap();
    assert_eq!(process.reveal_status(&ada, NOW + 2).1, ERASED);
}

/// While eight threads make and rotate keys for a subject, it is erased again and again: after each time nothing of before opens, and in the end it is closed.
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
    while dir.store().find("default", veilstream_engine::KeyKind::Data, std::slice::from_ref(&wanted.scope)).unwrap().len() < 20 {
        std::thread::yield_now();
    }
    eraser.shred(&[subject], &TERMS, NOW).unwrap();
    stop.store(true, Ordering::Relaxed);
    for kid in threads.into_iter().flat_map(|t| t.join().unwrap()) {
        let stored = dir.stored(&kid);
        assert_eq!((stored.state, stored.wraps.len()), (KeyState::Shredded, 0), "version {}", stored.version);
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
    assert_eq!((read.verify(&key), read.receipt["backups_until"].as_str()), (Ok(()), Some("2026-12-29T06:00:00Z")));
    assert_eq!(read.receipt["canary"]["field"], "receipt#canary");
    assert!(!String::from_utf8_lossy(&text).contains("request 17"), "the reason is the ledger's");

    let mut changed = signed.to_json();
    changed["receipt"]["kids"] = serde_json::json!([]);
    assert_eq!(SignedReceipt::parse(changed.to_string().as_bytes()).unwrap().verify(&key), Err(ReceiptError::Signature));
    let other = Process::start(&Directory::new(), NOW).manager.receipt_key(NOW).unwrap();
    assert_eq!(read.verify(&other), Err(ReceiptError::OtherKey));
    for wrong in [&b""[..], b"{}", b"[]", br#"{"receipt":{},"public_key":"","signature":""}"#] {
        assert_eq!(SignedReceipt::parse(wrong), Err(ReceiptError::Malformed));
    }
    // Somebody undoes the erasure in the store: the receipt says so.
    let kid = signed.receipt["kids"][0].as_str().unwrap();
    dir.sql(&format!("INSERT INTO wraps SELECT '{kid}', kek_uri, kek_version, wrapped FROM wraps LIMIT 1"));
    assert_eq!(dir.store().count_subjects("default").unwrap().half_shredded, 1);
    assert!(!all_is_well(&process.manager, &read));
    // The next start puts it right.
    let late = Process::start(&dir, NOW);
    assert!(all_is_well(&late.manager, &read));
    assert_eq!(dir.store().count_subjects("default").unwrap().half_shredded, 0);
}
