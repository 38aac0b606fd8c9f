//! Keys written to a safe place and taken back from it.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

mod support;

use support::{Directory, NOW, Process, subject};
use veilstream_engine::key::{KeyState, Scope};
use veilstream_keys::erasure::FileLedger;
use veilstream_keys::escrow::EscrowError;
use veilstream_keys::provider::{FileProvider, create_kek_file};
use veilstream_keys::store::{SqliteStore, Store};
use veilstream_keys::{Manager, Parts, Settings};

/// Another, empty store under the same key-encrypting key.
fn empty(dir: &Directory) -> (tempfile::TempDir, Manager) {
    let new = tempfile::tempdir().unwrap();
    let path = new.path().join("keys.db");
    let parts =
        Parts { store: Box::new(SqliteStore::create(&path).unwrap()), ledger: std::sync::Arc::new(FileLedger::new(new.path().join("l"))), ..dir.parts() };
    (new, Manager::open(Settings::of("default"), parts, NOW).unwrap())
}

#[test]
fn what_was_exported_opens_in_a_new_store() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    let mail = process.protect(r#"{"email":"ada@example.com"}"#, NOW).1;
    process.manager.fetch(&[subject(1)], NOW).unwrap();
    let export = process.manager.export(&[], NOW).unwrap();
    assert!(!export.to_string().contains("subject:"));

    let (new, manager) = empty(&dir);
    let count = manager.import(export.to_string().as_bytes()).unwrap();
    assert_eq!(count, 7, "five roots, a wrapping key, a key of a process");
    assert_eq!(manager.import(export.to_string().as_bytes()).unwrap(), 7, "again");
    let stored = SqliteStore::open(&new.path().join("keys.db")).unwrap().list("default").unwrap();
    let of_process = stored.iter().find(|record| matches!(record.scope, Scope::Schema(_))).unwrap();
    assert_eq!(of_process.state, KeyState::DecryptOnly, "its process is another");
    assert_eq!(Process::with(manager, NOW + 61).reveal(&mail, NOW + 61), r#"{"email":"ada@example.com"}"#);
}

#[test]
fn keys_of_data_subjects_are_neither_exported_nor_imported() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare_roots(NOW).unwrap();
    let key = manager.fetch(&[subject(1)], NOW).unwrap().remove(0);
    assert!(matches!(manager.export(&[key.id], NOW), Err(EscrowError::Subject { .. })));
    let mut export = manager.export(&[], NOW).unwrap();
    export["export"]["keys"][0]["scope"] = format!("{}", key.scope).into();
    assert!(matches!(empty(&dir).1.import(export.to_string().as_bytes()), Err(EscrowError::Subject { .. })));
}

#[test]
fn an_export_that_was_changed_is_refused_and_nothing_of_it_taken() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare_roots(NOW).unwrap();
    let export = manager.export(&[], NOW).unwrap();
    let (new, other) = empty(&dir);
    for (pointer, value) in
        [("/export/keys/1/state", "active"), ("/export/keys/1/version", "7"), ("/export/time", "2026-11-25T00:00:00Z"), ("/signature", "AAAA")]
    {
        let mut changed = export.clone();
        *changed.pointer_mut(pointer).unwrap() = if pointer.ends_with("version") { 7.into() } else { value.into() };
        if changed == export {
            changed["export"]["keys"][1]["state"] = "retired".into();
        }
        let error = other.import(changed.to_string().as_bytes()).unwrap_err();
        assert!(matches!(error, EscrowError::Signature | EscrowError::Malformed { .. }), "{pointer}: {error}");
    }
    // Signed by somebody whose key-encrypting key is not ours.
    let stranger = Directory::new();
    let theirs = stranger.open();
    theirs.prepare_roots(NOW).unwrap();
    assert!(matches!(other.import(theirs.export(&[], NOW).unwrap().to_string().as_bytes()), Err(EscrowError::Keys(_))));
    for wrong in ["", "{}", "[]", r#"{"export":{"veilstream_escrow":1,"tenant":"default","keys":[]}}"#] {
        assert!(matches!(other.import(wrong.as_bytes()), Err(EscrowError::Malformed { .. })), "{wrong}");
    }
    assert!(SqliteStore::open(&new.path().join("keys.db")).unwrap().list("default").unwrap().is_empty());
}

#[test]
fn a_store_with_other_keys_in_their_place_says_so() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare_roots(NOW).unwrap();
    let export = manager.export(&[], NOW).unwrap();
    let (_new, other) = empty(&dir);
    other.prepare_roots(NOW).unwrap();
    assert!(matches!(other.import(export.to_string().as_bytes()), Err(EscrowError::Taken { kids }) if kids.len() == 5));
}

/// The key-encrypting key is gone, and the store too: what is left is the export and the recovery key.
#[test]
fn an_export_is_recovered_without_the_key_encrypting_key() {
    let dir = Directory::new();
    let kek = dir.0.path().join("recovery");
    create_kek_file(&kek).unwrap();
    let recovery = || Some(Box::new(FileProvider::new(kek.clone()).unwrap()) as Box<dyn veilstream_keys::provider::Provider>);
    let manager = Manager::open(Settings::of("default"), Parts { recovery: recovery(), ..dir.parts() }, NOW).unwrap();
    let mut process = Process::with(manager, NOW);
    let mail = process.protect(r#"{"email":"ada@example.com"}"#, NOW).1;
    let export = process.manager.export(&[], NOW).unwrap().to_string();
    drop(process);

    let new = Directory::new();
    let manager = Manager::open_to_recover(Settings::of("default"), Parts { recovery: recovery(), ..new.parts() }, NOW).unwrap();
    manager.import(export.as_bytes()).unwrap();
    assert_eq!(manager.rewrap(true, NOW, &mut |_| {}).unwrap().recovered, 6);
    drop(manager);
    assert_eq!(Process::start(&new, NOW + 61).reveal(&mail, NOW + 61), r#"{"email":"ada@example.com"}"#);
}
