//! A year of rotations by a clock of our own, what moves wraps, and what ends keys.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::{Directory, Maintain as _, NOW, Process, customers, people, subject};
use veilstream_engine::key::{KeyKind, KeyState, Scope};
use veilstream_keys::provider::{FileProvider, create_kek_file};
use veilstream_keys::store::{KeyRecord, Store};
use veilstream_keys::{KeyError, Manager, Parts, RetireError, Rotate, Settings};

const DAY: u64 = 86400;

fn of_kind(records: &[KeyRecord], kind: KeyKind, scope: &str) -> Vec<(u32, KeyState)> {
    let mut found: Vec<_> = records
        .iter()
        .filter(|r| r.kind == kind && r.scope.to_string().starts_with(scope))
        .map(|r| (r.version, r.state))
        .collect();
    found.sort_unstable_by_key(|(version, _)| *version);
    found
}

fn rewrap(manager: &Manager, now: u64) -> veilstream_keys::Rewrapped {
    let (mut done, mut total) = (0, 0);
    let rewrapped = manager
        .rewrap(false, now, &mut |progress| {
            assert!(progress.done >= done && progress.done <= progress.total, "{progress:?}");
            (done, total) = (progress.done, progress.total);
        })
        .unwrap();
    assert_eq!(done, total, "to the end");
    assert!(rewrapped.failed.is_empty(), "{:?}", rewrapped.failed);
    rewrapped
}

/// Two processes that never stop, one more that starts every month, an operator who rotates by hand
/// what is rotated by hand. Every record of the year is protected when it comes, and opens at the
/// end.
#[test]
fn a_year_without_a_restart_and_without_a_gap() {
    let dir = Directory::new();
    let mut one = Process::start(&dir, NOW);
    let mut two = Process::start(&dir, NOW);
    let mut protected = Vec::new();
    let mut bidx = BTreeSet::new();
    let (mut index_rotated, mut retired) = (false, false);
    for day in 0..=365_u64 {
        let now = NOW + day * DAY;
        for hour in [0, 8, 16] {
            let now = now + hour * 3600;
            one.manager.maintain(now).unwrap();
            two.manager.maintain(now + 1).unwrap();
        }
        let now = now + 17 * 3600;
        if day % 30 == 7 {
            let mut late = Process::start(&dir, now);
            protected.push(late.protect(&customer(day, 7), now));
        }
        for process in [&mut one, &mut two] {
            // One person all year, and a new one each day.
            protected.push(process.protect(&customer(day, 7), now));
            protected.push(process.protect(&customer(day, 1000 + day), now));
            let note = process.protect(&format!(r#"{{"email":"day{day}@example.com"}}"#), now);
            let members: serde_json::Value = serde_json::from_str(&note.1).unwrap();
            let version = |name: &str| {
                members[name].as_str().map(|tag| tag.split('~').next().unwrap().to_owned())
            };
            bidx.insert((
                index_rotated,
                retired,
                version("email_bidx"),
                version("email_bidx_prev"),
            ));
            protected.push(note);
        }
        match day {
            100 => {
                assert_eq!(one.manager.rotate(&Rotate::Kek, now).unwrap()[0].version, "2");
                assert!(rewrap(&two.manager, now).moved > 100);
                assert_eq!(rewrap(&one.manager, now).moved, 0, "done already");
            }
            150 => {
                one.manager.rotate(&Rotate::Index, now).unwrap();
                let error = two.manager.rotate(&Rotate::Index, now).unwrap_err();
                assert!(matches!(error, KeyError::RootRotates { .. }), "{error}");
                index_rotated = true;
                // A few seconds later in the other process too.
                two.manager.maintain(now + 5).unwrap();
            }
            200 => {
                let old = dir
                    .records()
                    .into_iter()
                    .find(|r| r.kind == KeyKind::Index && r.version == 1)
                    .unwrap();
                two.manager.retire(&old.kid, &people(), true, now).unwrap();
                retired = true;
                one.manager.maintain(now + 5).unwrap();
            }
            _ => {}
        }
    }
    let end = NOW + 366 * DAY;
    // What was written at which time: the old index, both, the new one.
    let text = |v: &str| Some(v.to_owned());
    assert_eq!(
        bidx,
        [
            (false, false, text("1"), None),
            (true, false, text("2"), text("1")),
            (true, true, text("2"), None)
        ]
        .into()
    );

    let records = dir.records();
    let (old, new) = (KeyState::DecryptOnly, KeyState::Active);
    // 0, 90, 180, 270 and 360 days.
    assert_eq!(
        of_kind(&records, KeyKind::Wrapping, "epoch:"),
        [(1, old), (2, old), (3, old), (4, old), (5, new)]
    );
    let person = one.manager.fetch(&[one.needed("7")], end).unwrap().remove(0);
    let versions = of_kind(
        &dir.store().find("default", KeyKind::Data, std::slice::from_ref(&person.scope)).unwrap(),
        KeyKind::Data,
        "subject:",
    );
    assert_eq!(versions, [(1, old), (2, old), (3, old), (4, old), (5, new)]);
    // One a day and process, as seldom as it was looked after here.
    let process_keys = of_kind(&records, KeyKind::Data, "schema:people").len();
    assert!((740..760).contains(&process_keys), "{process_keys}");
    for (event, output) in &protected {
        assert_eq!(one.reveal(output, end), *event);
    }
    assert_eq!(protected.len(), 12 + 366 * 6);

    // The old wrapping keys go when nothing is wrapped under them any more.
    let epoch = |number: u32| records.iter().find(|r| r.scope == Scope::Epoch(number)).unwrap().kid;
    let refused = one.manager.retire(&epoch(2), &people(), true, end).unwrap_err().to_string();
    assert!(refused.contains("keys of data subjects are wrapped under it"), "{refused}");
    rewrap(&one.manager, end);
    for number in 1..=4 {
        one.manager.retire(&epoch(number), &people(), false, end).unwrap();
    }
    assert_eq!(two.reveal(&protected[0].1, end), protected[0].0, "moved under the newest");
}

fn customer(day: u64, id: u64) -> String {
    format!(r#"{{"type":"customer","id":{id},"name":"Ada {day}"}}"#)
}

#[test]
fn rotation_can_be_off() {
    let dir = Directory::new();
    let manager =
        dir.open_with(Settings { rotation: None, ..Settings::of("default") }, NOW).unwrap();
    manager.prepare(&customers(), NOW).unwrap();
    let first = manager.fetch(&[subject(1)], NOW).unwrap().remove(0);
    manager.maintain(NOW + 1000 * DAY).unwrap();
    let later = manager.fetch(&[subject(1)], NOW + 1000 * DAY).unwrap().remove(0);
    assert_eq!((first.id, later.version), (later.id, 1));
    assert_eq!(of_kind(&dir.records(), KeyKind::Wrapping, "epoch:"), [(1, KeyState::Active)]);
}

#[test]
fn shared_keys_rotate_by_age_and_by_hand() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare(&people(), NOW).unwrap();
    let needed = veilstream_engine::transform::NeededKey {
        kind: KeyKind::Data,
        scope: Scope::Shared("people".into()),
    };
    let seals = || {
        let ring = manager.keyring();
        ring.sealing(KeyKind::Data, &needed.scope).unwrap().version
    };
    manager.fetch(std::slice::from_ref(&needed), NOW).unwrap();
    assert_eq!(seals(), 1);
    manager.maintain(NOW + 90 * DAY - 60).unwrap();
    assert_eq!(seals(), 1);
    manager.maintain(NOW + 90 * DAY).unwrap();
    assert_eq!(seals(), 2);
    manager.rotate(&Rotate::Shared(None), NOW + 91 * DAY).unwrap();
    assert_eq!(seals(), 3);
    assert!(
        manager.rotate(&Rotate::Shared(Some("nobody".into())), NOW + 91 * DAY).unwrap().is_empty()
    );
    assert_eq!(manager.fetch(&[needed], NOW + 91 * DAY).unwrap()[0].version, 3);
    assert_eq!(
        of_kind(&dir.records(), KeyKind::Data, "shared:"),
        [(1, KeyState::DecryptOnly), (2, KeyState::DecryptOnly), (3, KeyState::Active)]
    );
}

#[test]
fn one_persons_key_rotates_by_hand() {
    let dir = Directory::new();
    let manager = dir.open();
    let old = manager.fetch(&[subject(1)], NOW).unwrap().remove(0);
    let Scope::Subject(reference) = old.scope else { unreachable!() };
    manager.rotate(&Rotate::Subject(reference), NOW).unwrap();
    let new = manager.fetch(&[subject(1)], NOW).unwrap().remove(0);
    assert_eq!((old.version, new.version), (1, 2));
    assert!(manager.lookup(&old.id, NOW).unwrap().unwrap().secret.is_some());
    let nobody = veilstream_engine::key::SubjectRef([99; 16]);
    assert!(matches!(
        manager.rotate(&Rotate::Subject(nobody), NOW),
        Err(KeyError::NoSuchSubject { .. })
    ));
}

#[test]
fn what_something_refers_to_is_not_retired() {
    let dir = Directory::new();
    let pinned = support::schemas(
        r#"{"veilstream":1,"name":"cards","version":1,"fields":[{"id":"card","path":"$.card","protect":"deterministic","root":1}]}"#,
    );
    let manager = dir.open();
    manager.prepare(&people(), NOW).unwrap();
    manager.prepare(&pinned, NOW).unwrap();
    manager.fetch(&[subject(1)], NOW).unwrap();
    let why = |kind: KeyKind, scope: &str, unreferenced: bool| {
        let kid = dir
            .records()
            .into_iter()
            .find(|r| r.kind == kind && r.scope.to_string() == scope)
            .unwrap()
            .kid;
        match manager.retire(&kid, &pinned, unreferenced, NOW) {
            Err(RetireError::Referred { why, .. }) => why,
            other => panic!("{kind:?} {scope}: {other:?}"),
        }
    };
    for (kind, scope, expected) in [
        (KeyKind::Deterministic, "v1", "schema cards pins root 1"),
        (KeyKind::Index, "v1", "newest index root"),
        (KeyKind::DeadLetter, "v1", "needed for ever"),
        (KeyKind::SubjectRef, "v1", "needed for ever"),
        (KeyKind::Wrapping, "epoch:1", "wraps new keys"),
        (KeyKind::Data, "schema:people", "a running process may seal with it"),
    ] {
        let why = why(kind, scope, true);
        assert!(why.contains(expected), "{why}");
    }
    manager.rotate(&Rotate::Index, NOW).unwrap();
    assert!(why(KeyKind::Index, "v1", false).contains("--unreferenced"));
    let key = manager.fetch(&[subject(1)], NOW).unwrap().remove(0);
    assert!(
        manager
            .retire(&key.id, &pinned, true, NOW)
            .unwrap_err()
            .to_string()
            .contains("veilstream shred")
    );
    assert!(matches!(
        manager.retire(&veilstream_engine::KeyId([0; 16]), &pinned, true, NOW),
        Err(RetireError::Keys(KeyError::NoSuchKey { .. }))
    ));
}

#[test]
fn a_retirement_can_be_taken_back() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare(&people(), NOW).unwrap();
    manager.rotate(&Rotate::Index, NOW).unwrap();
    let old =
        dir.records().into_iter().find(|r| r.kind == KeyKind::Index && r.version == 1).unwrap().kid;
    let states = || manager.keyring().get(&old).map(|key| (key.state, key.secret.is_some()));
    manager.retire(&old, &people(), true, NOW).unwrap();
    assert_eq!(states(), Some((KeyState::Retired, false)));
    assert!(
        manager
            .retire(&old, &people(), true, NOW)
            .unwrap_err()
            .to_string()
            .contains("retired already")
    );
    manager.unretire(&old).unwrap();
    assert_eq!(states(), Some((KeyState::Active, true)));
    assert!(manager.unretire(&old).is_err());
}

/// A key-encrypting key is lost with its backups; the other one is not.
#[test]
fn a_lost_key_encrypting_key_is_not_the_loss_of_the_data() {
    let dir = Directory::new();
    let recovery_kek = dir.0.path().join("recovery");
    create_kek_file(&recovery_kek).unwrap();
    let recovery = || {
        Some(Box::new(FileProvider::new(recovery_kek.clone()).unwrap())
            as Box<dyn veilstream_keys::provider::Provider>)
    };
    let open = |now| {
        Manager::open(Settings::of("default"), Parts { recovery: recovery(), ..dir.parts() }, now)
    };
    // Some keys are older than the recovery provider.
    dir.open().prepare(&people(), NOW).unwrap();
    let manager = open(NOW).unwrap();
    let key = manager.fetch(&[subject(1)], NOW).unwrap().remove(0);
    let added = rewrap(&manager, NOW).added;
    assert_eq!(added, 7, "five roots, a process key and the store key; the wrapping key has one");
    assert_eq!(rewrap(&manager, NOW).added, 0);
    let expected: BTreeMap<_, _> = manager
        .keyring()
        .of_kind(KeyKind::Index)
        .map(|k| (k.id, *k.secret.as_ref().unwrap().expose()))
        .collect();
    drop(manager);

    std::fs::remove_file(dir.kek()).unwrap();
    create_kek_file(&dir.kek()).unwrap();
    assert!(open(NOW).is_err(), "the recovery provider opens nothing by itself");
    let manager = Manager::open_to_recover(
        Settings::of("default"),
        Parts { recovery: recovery(), ..dir.parts() },
        NOW,
    )
    .unwrap();
    let error = manager.rewrap(false, NOW, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("wrapped with another key-encrypting key"), "{error}");
    let rewrapped = manager.rewrap(true, NOW, &mut |_| {}).unwrap();
    assert_eq!((rewrapped.recovered, rewrapped.failed.len()), (8, 0), "{rewrapped:?}");
    drop(manager);

    let manager = open(NOW).unwrap();
    let found: BTreeMap<_, _> = manager
        .keyring()
        .of_kind(KeyKind::Index)
        .map(|k| (k.id, *k.secret.as_ref().unwrap().expose()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(
        manager.lookup(&key.id, NOW).unwrap().unwrap().secret.as_ref().unwrap().expose(),
        key.secret.as_ref().unwrap().expose()
    );
    // Without a recovery provider that command has nothing to work with.
    assert!(matches!(dir.open().rewrap(true, NOW, &mut |_| {}), Err(KeyError::NoRecovery)));
}

/// The next run resumes one that was killed between two batches.
#[test]
fn an_interrupted_rewrap_resumes() {
    let dir = Directory::new();
    let manager = dir.open();
    let people: Vec<_> = (0..250).map(support::subject_number).collect();
    for batch in people.chunks(100) {
        manager.fetch(batch, NOW).unwrap();
    }
    manager.rotate(&Rotate::Wrapping, NOW).unwrap();
    let moved = |store: &dyn Store| {
        let newest = dir.records().into_iter().find(|r| r.scope == Scope::Epoch(2)).unwrap().kid;
        store.count_wrapped_by(&format!("kid:{newest}")).unwrap()
    };
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        manager.rewrap(false, NOW, &mut |progress| assert!(progress.done < 200, "killed"))
    }));
    assert!(broken.is_err());
    drop(manager);
    let manager = dir.open();
    rewrap(&manager, NOW);
    assert_eq!(moved(&dir.store()), 250);
    let key = manager.fetch(&people[17..18], NOW).unwrap().remove(0);
    assert_eq!(key.version, 1, "the same key");
}
