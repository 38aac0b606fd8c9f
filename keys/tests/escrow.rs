//! Keys written to a safe place and taken back from it.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

mod support;

use support::{Directory, NOW, Process, subject};
use veilstream_engine::error::{OpenError, RejectCode};
use veilstream_engine::key::{KeyState, Scope};
use veilstream_engine::reveal::Status;
use veilstream_keys::erasure::{FileLedger, Terms};
use veilstream_keys::escrow::EscrowError;
use veilstream_keys::provider::{FileProvider, create_kek_file};
use veilstream_keys::store::{SqliteStore, Store};
use veilstream_keys::{KeyError, Manager, Parts, Settings};

/// Another, empty store under the same key-encrypting key, with a copy of the ledger.
struct New<'a>(&'a Directory, tempfile::TempDir);

fn empty(dir: &Directory) -> New<'_> {
    let new = tempfile::tempdir().unwrap();
    SqliteStore::create(&new.path().join("keys.db")).unwrap();
    std::fs::copy(dir.ledger_path(), new.path().join("l")).unwrap();
    New(dir, new)
}

impl New<'_> {
    fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.1.path().join("keys.db")).unwrap()
    }

    fn parts(&self) -> Parts {
        Parts {
            store: Box::new(self.store()),
            ledger: std::sync::Arc::new(FileLedger::new(self.1.path().join("l"))),
            ..self.0.parts()
        }
    }

    fn import(&self, export: &str) -> Result<usize, EscrowError> {
        Manager::import(Settings::of("default"), self.parts(), export.as_bytes(), NOW)
    }
}

#[test]
fn what_was_exported_opens_in_a_new_store() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    let mail = process.protect(r#"{"email":"ada@example.com"}"#, NOW).1;
    let ada = process.protect(r#"{"type":"customer","id":7,"name":"Ada"}"#, NOW).1;
    process.manager.fetch(&[subject(1)], NOW).unwrap();
    let export = process.manager.export(&[], NOW).unwrap().to_string();
    assert!(!export.contains("subject:"));
    // Erased after the export: the ledger knows it, and the head is older.
    let erased = process.manager.subject_ref("7", None, NOW).unwrap();
    let terms = Terms {
        reason: "request 1",
        domain: None,
        may_return: false,
        backups_until: None,
        remains: &[],
    };
    process.manager.shred(&[erased], &terms, NOW).unwrap();

    let new = empty(&dir);
    assert_eq!(new.import(&export).unwrap(), 7, "five roots, a wrapping key, a key of a process");
    assert_eq!(new.import(&export).unwrap(), 7, "again");
    let stored = new.store().list("default").unwrap();
    let of_process = stored.iter().find(|record| matches!(record.scope, Scope::Schema(_))).unwrap();
    assert_eq!(of_process.state, KeyState::DecryptOnly, "its process is another");
    assert_eq!(
        (new.store().head().unwrap(), new.store().head().unwrap().unwrap().seq),
        (dir.store().head().unwrap(), 1)
    );
    let mut process = Process::with(
        Manager::open(Settings::of("default"), new.parts(), NOW + 61).unwrap(),
        NOW + 61,
    );
    assert_eq!(process.reveal(&mail, NOW + 61), r#"{"email":"ada@example.com"}"#);
    assert_eq!(process.reveal_status(&ada, NOW + 61).1, Status::Failed(OpenError::Erased));
    assert_eq!(
        process.try_protect(r#"{"type":"customer","id":7,"name":"Ada"}"#, NOW + 61),
        Err(RejectCode::ErasedSubject)
    );
}

#[test]
fn an_import_needs_the_whole_ledger() {
    let dir = Directory::new();
    let mut process = Process::start(&dir, NOW);
    process.protect(r#"{"type":"customer","id":7,"name":"Ada"}"#, NOW);
    let erased = process.manager.subject_ref("7", None, NOW).unwrap();
    let terms = Terms {
        reason: "request 1",
        domain: None,
        may_return: false,
        backups_until: None,
        remains: &[],
    };
    process.manager.shred(&[erased], &terms, NOW).unwrap();
    let export = process.manager.export(&[], NOW).unwrap().to_string();
    let whole = std::fs::read_to_string(dir.ledger_path()).unwrap();
    for (ledger, says) in [
        (None, "line 0 is missing"),
        (Some(whole.lines().next().unwrap().to_owned() + "\n"), "line 1 is missing"),
    ] {
        let new = empty(&dir);
        let path = new.1.path().join("l");
        match ledger {
            Some(text) => std::fs::write(path, text).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        let error = new.import(&export).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(new.store().head().unwrap().is_none(), "nothing was taken");
    }
}

#[test]
fn only_keys_of_the_tenant_are_exported() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare_roots(NOW).unwrap();
    let foreign = dir
        .store()
        .find("-", veilstream_engine::KeyKind::Store, &[Scope::Version(1)])
        .unwrap()
        .remove(0);
    assert!(matches!(
        manager.export(&[foreign.kid], NOW),
        Err(EscrowError::Keys(KeyError::NoSuchKey { .. }))
    ));
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
    assert!(matches!(empty(&dir).import(&export.to_string()), Err(EscrowError::Subject { .. })));
}

#[test]
fn an_export_that_was_changed_is_refused_and_nothing_of_it_taken() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare_roots(NOW).unwrap();
    let export = manager.export(&[], NOW).unwrap();
    let new = empty(&dir);
    for (pointer, value) in [
        ("/export/keys/1/state", "active"),
        ("/export/keys/1/version", "7"),
        ("/export/time", "2026-11-25T00:00:00Z"),
        ("/signature", "AAAA"),
    ] {
        let mut changed = export.clone();
        *changed.pointer_mut(pointer).unwrap() =
            if pointer.ends_with("version") { 7.into() } else { value.into() };
        if changed == export {
            changed["export"]["keys"][1]["state"] = "retired".into();
        }
        let error = new.import(&changed.to_string()).unwrap_err();
        assert!(
            matches!(error, EscrowError::Signature | EscrowError::Malformed { .. }),
            "{pointer}: {error}"
        );
    }
    // Signed by somebody whose key-encrypting key is not ours.
    let stranger = Directory::new();
    let theirs = stranger.open();
    theirs.prepare_roots(NOW).unwrap();
    assert!(matches!(
        new.import(&theirs.export(&[], NOW).unwrap().to_string()),
        Err(EscrowError::Keys(_))
    ));
    for wrong in
        ["", "{}", "[]", r#"{"export":{"veilstream_escrow":2,"tenant":"default","keys":[]}}"#]
    {
        assert!(matches!(new.import(wrong), Err(EscrowError::Malformed { .. })), "{wrong}");
    }
    assert!(
        new.store().list("default").unwrap().is_empty() && new.store().head().unwrap().is_none()
    );
}

#[test]
fn another_store_is_not_imported_into() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare_roots(NOW).unwrap();
    let export = manager.export(&[], NOW).unwrap().to_string();
    let other = Directory::new();
    std::fs::copy(dir.kek(), other.kek()).unwrap();
    // Its own store key cannot be opened any more; the export's is another one all the same.
    let refused = Manager::import(Settings::of("default"), other.parts(), export.as_bytes(), NOW);
    assert!(matches!(refused, Err(EscrowError::OtherStore)));
}

/// The store was made again from the export, and a process made a root in it before the rest was
/// imported.
#[test]
fn a_store_with_other_keys_in_their_place_says_so() {
    let dir = Directory::new();
    let manager = dir.open();
    let before = manager.export(&[], NOW).unwrap().to_string();
    manager.prepare_roots(NOW).unwrap();
    let export = manager.export(&[], NOW).unwrap().to_string();
    let new = empty(&dir);
    new.import(&before).unwrap();
    Manager::open(Settings::of("default"), new.parts(), NOW).unwrap().prepare_roots(NOW).unwrap();
    assert!(
        matches!(new.import(&export), Err(EscrowError::Taken { kids }) if kids.len() == 4),
        "the audit key came with the first"
    );
}

/// The key-encrypting key is gone, and the store too: what is left is the export and the recovery
/// key.
#[test]
fn an_export_is_recovered_without_the_key_encrypting_key() {
    let dir = Directory::new();
    let kek = dir.0.path().join("recovery");
    create_kek_file(&kek).unwrap();
    let recovery = || {
        Some(Box::new(FileProvider::new(kek.clone()).unwrap())
            as Box<dyn veilstream_keys::provider::Provider>)
    };
    let manager =
        Manager::open(Settings::of("default"), Parts { recovery: recovery(), ..dir.parts() }, NOW)
            .unwrap();
    // The store key is older than the recovery key.
    manager.rewrap(false, NOW, &mut |_| {}).unwrap();
    let mut process = Process::with(manager, NOW);
    let mail = process.protect(r#"{"email":"ada@example.com"}"#, NOW).1;
    let export = process.manager.export(&[], NOW).unwrap().to_string();
    drop(process);

    let new = empty(&dir);
    std::fs::remove_file(dir.kek()).unwrap();
    create_kek_file(&dir.kek()).unwrap();
    let parts = || Parts { recovery: recovery(), ..new.parts() };
    assert!(
        Manager::import(Settings::of("default"), new.parts(), export.as_bytes(), NOW).is_err(),
        "without the recovery key"
    );
    Manager::import(Settings::of("default"), parts(), export.as_bytes(), NOW).unwrap();
    let manager = Manager::open_to_recover(Settings::of("default"), parts(), NOW).unwrap();
    assert_eq!(manager.rewrap(true, NOW, &mut |_| {}).unwrap().recovered, 7, "the store key too");
    drop(manager);
    assert_eq!(
        Process::with(
            Manager::open(Settings::of("default"), new.parts(), NOW + 61).unwrap(),
            NOW + 61
        )
        .reveal(&mail, NOW + 61),
        r#"{"email":"ada@example.com"}"#
    );
}
