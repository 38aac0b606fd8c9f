//! Keys of a process through their life, by a clock of our own.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

mod support;

use std::sync::Arc;

use support::{Directory, Maintain as _, NOW, people};
use veilstream_engine::key::{Key, KeyKind, KeyState, Scope};
use veilstream_engine::transform::NeededKey;
use veilstream_keys::{Manager, SCHEMA_KEY_LIFE};

const HOUR: u64 = 3600;

fn needed() -> NeededKey {
    NeededKey { kind: KeyKind::Data, scope: Scope::Schema("people".into()) }
}

/// The key that seals now, as the engine would choose it.
fn sealing(manager: &Manager) -> Arc<Key> {
    let ring = manager.keyring();
    let own = ring.sealing(KeyKind::Data, &Scope::Schema("people".into()));
    own.or_else(|| ring.sealing(KeyKind::Data, &Scope::Shared("people".into()))).unwrap().clone()
}

#[test]
fn a_key_is_stored_before_it_can_seal() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare(&people(), NOW).unwrap();
    let key = sealing(&manager);
    let stored = dir.records().into_iter().find(|r| r.kid == key.id).unwrap();
    assert_eq!((stored.kcv, stored.created), (key.kcv, NOW));
    assert_eq!(key.seal_until, Some(NOW + SCHEMA_KEY_LIFE));
}

#[test]
fn a_key_is_replaced_by_age_before_it_ends_and_without_a_gap() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare(&people(), NOW).unwrap();
    let mut seen = vec![sealing(&manager).id];
    // Three days, a look every ten minutes.
    for now in (NOW..NOW + 72 * HOUR).step_by(600) {
        manager.maintain(now).unwrap();
        let key = sealing(&manager);
        assert!(key.seal_until.unwrap() > now + 6 * HOUR, "minted ahead, at 70 %");
        if seen.last() != Some(&key.id) {
            seen.push(key.id);
        }
    }
    assert_eq!(seen.len(), 5, "one each 16.8 hours");
    // All of them still open; only the last one is active.
    for kid in &seen {
        assert!(manager.lookup(kid, NOW + 72 * HOUR).unwrap().unwrap().secret.is_some());
    }
    let active: Vec<_> = dir
        .records()
        .into_iter()
        .filter(|r| r.scope == needed().scope && r.state == KeyState::Active)
        .map(|r| r.kid)
        .collect();
    assert_eq!(active, seen[4..]);
}

#[test]
fn a_key_is_replaced_when_its_uses_are_nearly_spent() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare(&people(), NOW).unwrap();
    let first = sealing(&manager);
    assert_eq!(first.budget.limit(), 1 << 30);
    assert_eq!(first.budget.reserve((1 << 30) / 2), (1 << 30) / 2);
    manager.maintain(NOW + 120).unwrap();
    assert_eq!(sealing(&manager).id, first.id);
    assert_eq!(first.budget.reserve((1 << 30) / 4), (1 << 30) / 4);
    manager.maintain(NOW + 121).unwrap();
    assert_ne!(sealing(&manager).id, first.id);
    let noted = dir.records().into_iter().find(|r| r.kid == first.id).unwrap().uses;
    assert_eq!(noted, Some((1 << 30) / 2 + (1 << 30) / 4));
}

#[test]
fn a_spent_key_gives_way_to_the_shared_one_inside_the_minute() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare(&people(), NOW).unwrap();
    assert_eq!(sealing(&manager).budget.reserve(u64::MAX), 1 << 30);
    let shared = manager.fetch(&[needed()], NOW + 1).unwrap().remove(0);
    assert_eq!(shared.scope, Scope::Shared("people".into()));
    assert_eq!(sealing(&manager).id, shared.id);
    manager.maintain(NOW + 30).unwrap();
    assert_eq!(sealing(&manager).id, shared.id, "the minute is not over");
    // The minute, and the spread of those who wait for its end.
    manager.maintain(NOW + 120).unwrap();
    assert_eq!(sealing(&manager).scope, needed().scope);
}

#[test]
fn a_crash_loop_makes_one_key_a_minute() {
    let dir = Directory::new();
    for start in 0..30 {
        let manager = dir.open();
        manager.prepare(&people(), NOW + 10 * start).unwrap();
        assert!(sealing(&manager).secret.is_some());
        // Killed: nothing is written down.
        std::mem::forget(manager);
    }
    assert_eq!(dir.scopes("schema:people"), 5, "300 seconds");
    assert_eq!(dir.scopes("shared:people"), 1);
}

#[test]
fn a_clock_that_goes_back_neither_stops_minting_nor_floods_the_store() {
    let dir = Directory::new();
    dir.open().prepare(&people(), NOW).unwrap();
    let manager = dir.open();
    manager.prepare(&people(), NOW - 30).unwrap();
    assert_eq!(sealing(&manager).scope, Scope::Shared("people".into()));
    manager.maintain(NOW - HOUR).unwrap();
    assert_eq!(sealing(&manager).scope, needed().scope);
}

#[test]
fn another_process_does_not_seal_with_it() {
    let dir = Directory::new();
    let (one, two) = (dir.open(), dir.open());
    one.prepare(&people(), NOW).unwrap();
    two.prepare(&people(), NOW + 61).unwrap();
    assert_ne!(sealing(&one).id, sealing(&two).id);
    let seen = two.lookup(&sealing(&one).id, NOW + 61).unwrap().unwrap();
    assert_eq!(seen.state, KeyState::DecryptOnly);
}

#[test]
fn the_end_of_a_process_is_the_end_of_its_key() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare(&people(), NOW).unwrap();
    assert_eq!(sealing(&manager).budget.reserve(7), 7);
    let kid = sealing(&manager).id;
    drop(manager);
    let stored = dir.records().into_iter().find(|r| r.kid == kid).unwrap();
    assert_eq!((stored.state, stored.uses), (KeyState::DecryptOnly, Some(7)));
}

#[test]
fn what_a_killed_process_left_active_ends_by_its_age() {
    let dir = Directory::new();
    let killed = dir.open();
    killed.prepare(&people(), NOW).unwrap();
    let kid = sealing(&killed).id;
    std::mem::forget(killed);
    let manager = dir.open();
    manager.prepare(&people(), NOW + SCHEMA_KEY_LIFE + 1).unwrap();
    manager.maintain(NOW + SCHEMA_KEY_LIFE + 1).unwrap();
    assert_eq!(
        dir.records().into_iter().find(|r| r.kid == kid).unwrap().state,
        KeyState::DecryptOnly
    );
}
