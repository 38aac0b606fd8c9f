//! What every store keeps of what `Store` promises, whichever it is. `store_suite!` makes a test of
//! each.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use veilstream_engine::SecretKey;
use veilstream_engine::kdf;
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_keys::credential::{ApiKey, Credential, CredentialRow, Suspension};
use veilstream_keys::erasure::LedgerError;
use veilstream_keys::store::{
    Authentic, KeyRecord, Planned, STORE_TENANT, Shred, Shredded, Store, StoreError, StoreKeys,
    Subjects, Wrap, WrapChange,
};

/// Some time in November 2026.
const NOW: u64 = 1_795_500_000;
const TENANT: &str = "default";
const THREADS: usize = 8;

/// A new, empty store.
pub(crate) trait Place: Sync {
    /// A handle to it, as another process would have one.
    fn open(&self) -> Box<dyn Store>;

    /// Writes into a column of a key what no program writes there.
    fn damage(&self, kid: &KeyId, column: &str);

    /// Makes a key active, as somebody without the store key would.
    fn activate(&self, kid: &KeyId);
}

fn store_key() -> SecretKey {
    SecretKey::new([0xA7; 32])
}

/// A handle with the store key; the store is founded by whoever is first.
pub(crate) fn open(place: &dyn Place) -> Authentic {
    authentic(place.open())
}

pub(crate) fn authentic(store: Box<dyn Store>) -> Authentic {
    let keys = StoreKeys::of(&store_key());
    if store.head().unwrap().is_none() {
        let kcv = kdf::key_check_value(&store_key());
        let wraps = vec![wrap("suite", "1")];
        let record = KeyRecord {
            kid: kdf::key_id(&kcv),
            kcv,
            tenant: STORE_TENANT.into(),
            wraps,
            ..key(KeyKind::Store, Scope::Version(1), 1)
        };
        // Another thread may have been first.
        let _ = store.found(&record, &keys.head(TENANT, [1; 16], 0, [2; 32]));
    }
    Authentic::new(store, keys, TENANT)
}

/// Erases, with a line of its own in a ledger that is not there.
pub(crate) fn erase(
    store: &Authentic,
    shreds: &[Shred],
    now: u64,
) -> Result<Vec<Shredded>, StoreError> {
    store.erase(&[], now, &mut |head, _| {
        Ok(Planned {
            shreds: shreds.to_vec(),
            head: store.keys().head(&head.tenant, head.store, head.seq + 1, head.sha256),
        })
    })
}

fn page(store: &Authentic, tenant: &str, after: Option<&KeyId>, limit: usize) -> Vec<KeyRecord> {
    store
        .subjects(tenant, after, limit)
        .unwrap()
        .into_iter()
        .map(|(_, record)| record.unwrap())
        .collect()
}

/// A test of each function here, over the places that the expression makes.
macro_rules! store_suite {
    ($place:expr) => {
        store_suite! { $place;
            a_key_is_read_as_it_was_written
            what_is_asked_for_is_found_and_nothing_else
            whoever_is_first_has_the_place_and_all_see_the_same
            a_batch_may_name_a_place_twice
            process_keys_keep_their_pace
            imported_keys_leave_what_is_there
            process_keys_expire
            uses_are_written_over
            states_change_but_never_from_shredded
            wraps_are_replaced_if_they_are_as_they_were_read
            two_wraps_may_become_one
            a_wrap_that_was_deleted_does_not_come_back
            an_erased_subject_is_closed_and_erasing_it_again_changes_nothing
            a_subject_that_may_return_returns_at_the_next_version
            only_the_named_keys_go_when_not_all_are_to
            a_half_shredded_key_loses_its_wraps_again
            what_one_changes_every_other_sees
            whoever_wins_the_subject_ends_closed
            many_are_erased_together_while_keys_are_made_for_them
            lists_are_in_their_order_and_pages_meet
            subjects_are_counted
            tenants_do_not_see_each_other
            a_damaged_row_is_named_with_its_column
            scrubbing_leaves_the_living
            an_edited_record_counts_for_nothing
            an_edited_record_is_erased_all_the_same
            heads_follow_each_other
            a_plan_that_fails_changes_nothing
            a_store_is_founded_once
            api_keys_are_revoked_once
            the_suspended_are_resumed_once
            an_edited_api_key_counts_for_nothing
        }
    };
    ($place:expr; $($name:ident)*) => {
        $(#[test]
        fn $name() {
            store_suite::$name(&$place);
        })*
    };
}
pub(crate) use store_suite;

fn key(kind: KeyKind, scope: Scope, version: u32) -> KeyRecord {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut kcv = [0; 32];
    // In no order, as check values are.
    kcv[..4].copy_from_slice(&number.wrapping_mul(0x9E37_79B9).to_be_bytes());
    kcv[16..20].copy_from_slice(&number.to_be_bytes());
    let kid = kdf::key_id(&kcv);
    let wraps = vec![Wrap {
        kek_uri: "file".to_owned(),
        kek_version: "1".to_owned(),
        wrapped: [&b"wrapped "[..], &kcv].concat(),
    }];
    KeyRecord {
        kid,
        kcv,
        kind,
        tenant: TENANT.into(),
        scope,
        version,
        state: KeyState::Active,
        created: NOW,
        retired: None,
        wraps,
        uses: None,
        mac: None,
    }
}

fn subject(n: u32) -> SubjectRef {
    let mut reference = [0xff; 16];
    reference[..4].copy_from_slice(&n.to_be_bytes());
    SubjectRef(reference)
}

pub(crate) fn subject_key(n: u32, version: u32) -> KeyRecord {
    key(KeyKind::Data, Scope::Subject(subject(n)), version)
}

fn process_key(name: &str, created: u64) -> KeyRecord {
    KeyRecord { created, ..key(KeyKind::Data, Scope::Schema(name.into()), 1) }
}

pub(crate) fn shred(n: u32, state: KeyState) -> Shred {
    let marker = KeyRecord { state, retired: Some(NOW), wraps: Vec::new(), ..subject_key(n, 0) };
    Shred { subject: subject(n), all: true, kids: Vec::new(), marker }
}

fn wrap(uri: &str, version: &str) -> Wrap {
    Wrap {
        kek_uri: uri.to_owned(),
        kek_version: version.to_owned(),
        wrapped: format!("{uri} {version}").into_bytes(),
    }
}

fn one(store: &Authentic, kid: KeyId) -> KeyRecord {
    let mut found = store.get(&[kid]).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn of_subject(store: &Authentic, n: u32) -> Vec<KeyRecord> {
    let mut found = store.find(TENANT, KeyKind::Data, &[Scope::Subject(subject(n))]).unwrap();
    found.sort_by_key(|record| record.version);
    found
}

fn kids(records: &[KeyRecord]) -> Vec<KeyId> {
    records.iter().map(|record| record.kid).collect()
}

/// Closed for good: nothing opens, and the newest is shredded.
fn is_closed(records: &[KeyRecord]) -> bool {
    !records.is_empty()
        && records
            .iter()
            .all(|record| record.state == KeyState::Shredded && record.wraps.is_empty())
}

/// Does it in as many threads at once as a store may have processes, each with a handle of its own.
fn at_once<T: Send>(place: &dyn Place, work: impl Fn(usize, &Authentic) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        let start = |i| {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                let store = open(place);
                barrier.wait();
                work(i, &store)
            })
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

pub(crate) fn a_key_is_read_as_it_was_written(place: &dyn Place) {
    let store = open(place);
    let mut record = key(KeyKind::Index, Scope::Version(3), 3);
    // In the order they are given out in: of their kek_uri, by its bytes.
    record.wraps = vec![wrap("Z", "1"), wrap("a", "2"), wrap("\u{e4}", "3")];
    record.retired = Some(NOW + 5);
    record.state = KeyState::Compromised;
    assert_eq!(store.insert(std::slice::from_ref(&record)).unwrap(), [record.clone()]);
    let marker =
        KeyRecord { wraps: Vec::new(), version: u32::MAX, created: 0, ..subject_key(1, 1) };
    assert_eq!(
        store.insert(std::slice::from_ref(&marker)).unwrap()[..],
        *std::slice::from_ref(&marker)
    );
    drop(store);
    let store = open(place);
    assert_eq!((one(&store, record.kid), one(&store, marker.kid)), (record, marker));
    assert!(!store.place().is_empty());
}

pub(crate) fn what_is_asked_for_is_found_and_nothing_else(place: &dyn Place) {
    let store = open(place);
    let records = [
        subject_key(1, 1),
        subject_key(1, 2),
        subject_key(2, 1),
        key(KeyKind::Index, Scope::Version(1), 1),
    ];
    store.insert(&records).unwrap();
    let process = process_key("people", NOW);
    assert!(store.insert_paced(&process, 60).unwrap());
    let unknown = KeyId([7; 16]);
    let found: HashSet<KeyId> =
        kids(&store.get(&[records[3].kid, unknown, records[0].kid, records[0].kid]).unwrap())
            .into_iter()
            .collect();
    assert_eq!(found, [records[0].kid, records[3].kid].into());
    assert!(store.get(&[]).unwrap().is_empty());
    let scopes =
        [Scope::Subject(subject(1)), Scope::Schema("people".into()), Scope::Subject(subject(3))];
    let found: HashSet<KeyId> =
        kids(&store.find(TENANT, KeyKind::Data, &scopes).unwrap()).into_iter().collect();
    assert_eq!(found, [records[0].kid, records[1].kid, process.kid].into());
    assert!(store.find(TENANT, KeyKind::Data, &[]).unwrap().is_empty());
    assert!(
        store.find(TENANT, KeyKind::Data, &[Scope::Version(1)]).unwrap().is_empty(),
        "of another kind"
    );
    assert_eq!(
        (store.count_wrapped_by("file").unwrap(), store.count_wrapped_by("fil").unwrap()),
        (5, 0)
    );
}

pub(crate) fn whoever_is_first_has_the_place_and_all_see_the_same(place: &dyn Place) {
    const SUBJECTS: u32 = 200;
    let answers = at_once(place, |i, store| {
        let mut records: Vec<KeyRecord> = (0..SUBJECTS).map(|n| subject_key(n, 1)).collect();
        // Each in an order of its own: nobody may wait in a circle.
        records.rotate_left(i * 23);
        if i % 2 == 0 {
            records.reverse();
        }
        let stored = store.insert(&records).unwrap();
        let same_places = records.iter().zip(&stored).all(|(given, held)| {
            given.scope == held.scope && given.version == held.version && held.wraps.len() == 1
        });
        assert!(same_places && records.len() == stored.len(), "one for each, in their order");
        let given: HashSet<KeyId> = kids(&records).into_iter().collect();
        let won = stored.iter().filter(|record| given.contains(&record.kid)).count();
        (
            won,
            stored.into_iter().map(|record| (record.scope, record.kid)).collect::<HashMap<_, _>>(),
        )
    });
    assert!(answers.windows(2).all(|pair| pair[0].1 == pair[1].1), "all see the same");
    assert_eq!(
        answers.iter().map(|(won, _)| won).sum::<usize>(),
        SUBJECTS as usize,
        "one winner each"
    );
    let store = open(place);
    assert_eq!(store.count_subjects(TENANT).unwrap().keys, u64::from(SUBJECTS));
    assert_eq!(
        store.count_wrapped_by("file").unwrap(),
        u64::from(SUBJECTS),
        "nothing is left of those that lost"
    );
}

pub(crate) fn a_batch_may_name_a_place_twice(place: &dyn Place) {
    let store = open(place);
    let (first, second) = (subject_key(1, 1), subject_key(1, 1));
    let stored = store.insert(&[first.clone(), second, subject_key(2, 1)]).unwrap();
    assert_eq!(kids(&stored[..2]), [first.kid, first.kid]);
    assert_eq!(store.count_subjects(TENANT).unwrap().keys, 2);
}

pub(crate) fn process_keys_keep_their_pace(place: &dyn Place) {
    let made = at_once(place, |i, store| {
        (0..5)
            .filter(|n| store.insert_paced(&process_key("people", NOW + i as u64 + n), 60).unwrap())
            .count()
    });
    assert_eq!(made.iter().sum::<usize>(), 1);
    let store = open(place);
    let first = store.list(TENANT).unwrap()[0].created;
    assert!(!store.insert_paced(&process_key("people", first + 59), 60).unwrap());
    assert!(
        !store.insert_paced(&process_key("people", first - 59), 60).unwrap(),
        "the clock went back"
    );
    assert!(store.insert_paced(&process_key("people", first + 60), 60).unwrap());
    assert!(store.insert_paced(&process_key("people", first - 60), 60).unwrap());
    assert!(store.insert_paced(&process_key("orders", first), 60).unwrap(), "of another scope");
    let other = KeyRecord { tenant: "other".into(), ..process_key("people", first) };
    assert!(store.insert_paced(&other, 60).unwrap(), "of another tenant");
}

pub(crate) fn imported_keys_leave_what_is_there(place: &dyn Place) {
    let store = open(place);
    let here = key(KeyKind::Index, Scope::Version(1), 1);
    let taken = key(KeyKind::Audit, Scope::Version(1), 1);
    store.insert(&[here.clone(), taken.clone()]).unwrap();
    let changed =
        KeyRecord { state: KeyState::Retired, wraps: vec![wrap("elsewhere", "9")], ..here.clone() };
    let rival = KeyRecord { kind: taken.kind, ..key(KeyKind::Index, Scope::Version(1), 1) };
    let (process, twin) = (process_key("people", NOW), process_key("people", NOW));
    let new = key(KeyKind::Wrapping, Scope::Epoch(1), 1);
    let left_out = store
        .import(&[changed, rival.clone(), process.clone(), twin.clone(), new.clone()])
        .unwrap();
    assert_eq!(left_out, [rival.kid]);
    assert_eq!(one(&store, here.kid), here, "as it was");
    assert_eq!(
        (one(&store, new.kid), one(&store, process.kid), one(&store, twin.kid)),
        (new, process, twin)
    );
    assert!(store.get(&[rival.kid]).unwrap().is_empty());
    assert_eq!(store.import(&[]).unwrap(), []);
}

pub(crate) fn process_keys_expire(place: &dyn Place) {
    let store = open(place);
    let old = process_key("people", NOW - 100);
    let (named, stays) = (process_key("people", NOW), process_key("orders", NOW));
    let elsewhere = KeyRecord { tenant: "other".into(), ..process_key("people", NOW - 100) };
    let retired = KeyRecord { state: KeyState::Retired, ..process_key("notes", NOW - 100) };
    let subject = KeyRecord { created: NOW - 100, ..subject_key(1, 1) };
    store
        .import(&[
            old.clone(),
            named.clone(),
            stays.clone(),
            elsewhere.clone(),
            retired.clone(),
            subject.clone(),
        ])
        .unwrap();
    at_once(place, |_, store| {
        store.expire(TENANT, &[named.kid, subject.kid, retired.kid], NOW - 99).unwrap()
    });
    let state = |record: &KeyRecord| one(&store, record.kid).state;
    assert_eq!([&old, &named].map(state), [KeyState::DecryptOnly; 2]);
    assert_eq!([&stays, &elsewhere, &subject].map(state), [KeyState::Active; 3]);
    assert_eq!(state(&retired), KeyState::Retired);
}

pub(crate) fn uses_are_written_over(place: &dyn Place) {
    let store = open(place);
    let records = [process_key("people", NOW), process_key("orders", NOW)];
    store.import(&records).unwrap();
    let [a, b] = [records[0].kid, records[1].kid];
    store.save_uses(&[(a, 5), (b, 1 << 30)]).unwrap();
    store.save_uses(&[(a, 7)]).unwrap();
    assert_eq!((one(&store, a).uses, one(&store, b).uses), (Some(7), Some(1 << 30)));
    at_once(place, |i, store| {
        store.save_uses(&if i % 2 == 0 { [(a, 9), (b, 9)] } else { [(b, 9), (a, 9)] }).unwrap()
    });
    assert_eq!((one(&store, a).uses, one(&store, b).uses), (Some(9), Some(9)));
}

pub(crate) fn states_change_but_never_from_shredded(place: &dyn Place) {
    let store = open(place);
    let records: Vec<KeyRecord> = (0..100).map(|n| subject_key(n, 1)).collect();
    store.insert(&records).unwrap();
    store.set_state(&[records[0].kid], KeyState::Retired, Some(NOW + 1)).unwrap();
    let retired = one(&store, records[0].kid);
    assert_eq!(
        (retired.state, retired.retired, retired.wraps.len()),
        (KeyState::Retired, Some(NOW + 1), 1)
    );
    // While others move every key to and fro, all are erased.
    let all = kids(&records);
    let stop = AtomicBool::new(false);
    at_once(place, |i, store| {
        if i == 0 {
            let shreds: Vec<Shred> = (0..100).map(|n| shred(n, KeyState::Shredded)).collect();
            let done = erase(store, &shreds, NOW + 2);
            stop.store(true, Ordering::Relaxed);
            done.unwrap();
        }
        for _ in 0..50 {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            store
                .set_state(
                    &all,
                    if i % 2 == 0 { KeyState::Active } else { KeyState::DecryptOnly },
                    None,
                )
                .unwrap();
        }
    });
    store.set_state(&all, KeyState::Active, None).unwrap();
    let after = store.get(&all).unwrap();
    assert!(
        after
            .iter()
            .all(|record| record.state == KeyState::Shredded && record.retired == Some(NOW + 2)),
        "{after:?}"
    );
}

pub(crate) fn wraps_are_replaced_if_they_are_as_they_were_read(place: &dyn Place) {
    let store = open(place);
    let mut record = key(KeyKind::Index, Scope::Version(1), 1);
    record.wraps = vec![wrap("a", "1"), wrap("b", "1")];
    store.insert(std::slice::from_ref(&record)).unwrap();
    let change = |old: Option<Wrap>, new: Wrap| WrapChange { kid: record.kid, old, new };
    let wraps = || one(&store, record.kid).wraps;
    assert_eq!(
        store
            .replace_wraps(&[
                change(Some(wrap("a", "1")), wrap("a", "2")),
                change(Some(wrap("b", "0")), wrap("b", "2"))
            ])
            .unwrap(),
        1
    );
    assert_eq!(wraps(), [wrap("a", "2"), wrap("b", "1")]);
    let other_bytes = Wrap { wrapped: vec![0], ..wrap("a", "2") };
    assert_eq!(store.replace_wraps(&[change(Some(other_bytes), wrap("a", "3"))]).unwrap(), 0);
    assert_eq!(
        store
            .replace_wraps(&[
                change(Some(wrap("a", "2")), wrap("c", "1")),
                change(None, wrap("d", "1"))
            ])
            .unwrap(),
        2
    );
    assert_eq!(wraps(), [wrap("b", "1"), wrap("c", "1"), wrap("d", "1")]);
    assert_eq!(
        store.replace_wraps(&[change(None, wrap("d", "2"))]).unwrap(),
        1,
        "in the place of one with its kek_uri"
    );
    assert_eq!(wraps(), [wrap("b", "1"), wrap("c", "1"), wrap("d", "2")]);
    // Nothing comes beside nothing.
    let marker = KeyRecord { wraps: Vec::new(), ..subject_key(1, 1) };
    store.insert(std::slice::from_ref(&marker)).unwrap();
    assert_eq!(
        store
            .replace_wraps(&[WrapChange { kid: marker.kid, old: None, new: wrap("a", "1") }])
            .unwrap(),
        0
    );
    assert_eq!(
        store
            .replace_wraps(&[WrapChange { kid: KeyId([7; 16]), old: None, new: wrap("a", "1") }])
            .unwrap(),
        0
    );
    assert_eq!(store.replace_wraps(&[]).unwrap(), 0);
    // Of several who read the same one wins.
    let won = at_once(place, |i, store| {
        store
            .replace_wraps(&[change(Some(wrap("b", "1")), wrap("b", &format!("won {i}")))])
            .unwrap()
    });
    assert_eq!(won.iter().sum::<u64>(), 1);
    let winner = won.iter().position(|replaced| *replaced == 1).unwrap();
    assert_eq!(wraps()[0], wrap("b", &format!("won {winner}")));
}

pub(crate) fn two_wraps_may_become_one(place: &dyn Place) {
    let store = open(place);
    let mut record = subject_key(1, 1);
    record.wraps = vec![wrap("a", "1"), wrap("b", "1")];
    store.insert(std::slice::from_ref(&record)).unwrap();
    let change = |old: &str| WrapChange {
        kid: record.kid,
        old: Some(wrap(old, "1")),
        new: wrap("new", "1"),
    };
    assert_eq!(store.replace_wraps(&[change("a"), change("b")]).unwrap(), 2);
    assert_eq!(one(&store, record.kid).wraps, [wrap("new", "1")]);
}

pub(crate) fn a_wrap_that_was_deleted_does_not_come_back(place: &dyn Place) {
    const SUBJECTS: u32 = 20;
    let store = open(place);
    let records: Vec<KeyRecord> = (0..SUBJECTS).map(|n| subject_key(n, 1)).collect();
    store.insert(&records).unwrap();
    let stop = AtomicBool::new(false);
    let moved = AtomicU32::new(0);
    at_once(place, |i, store| {
        if i == 0 {
            // Not before the others are at it.
            while moved.load(Ordering::Relaxed) < 20 {
                std::thread::yield_now();
            }
            let erased = (0..SUBJECTS)
                .try_for_each(|n| erase(store, &[shred(n, KeyState::Shredded)], NOW).map(drop));
            stop.store(true, Ordering::Relaxed);
            erased.unwrap();
        }
        // So many that they are still at it then, and no more: a store may be unfair, and who waits
        // for it does so for a bounded time.
        for round in 0..3 {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            for record in store.get(&kids(&records)).unwrap() {
                let Some(old) = record.wraps.first().cloned() else { continue };
                let beside = WrapChange {
                    kid: record.kid,
                    old: None,
                    new: wrap(&format!("beside {i}"), &round.to_string()),
                };
                let instead = WrapChange {
                    kid: record.kid,
                    old: Some(old),
                    new: wrap(&format!("moved {i}"), &round.to_string()),
                };
                store.replace_wraps(&[instead, beside]).unwrap();
                moved.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    assert!((0..SUBJECTS).all(|n| is_closed(&of_subject(&store, n))));
    assert_eq!(store.count_subjects(TENANT).unwrap().half_shredded, 0);
}

pub(crate) fn an_erased_subject_is_closed_and_erasing_it_again_changes_nothing(place: &dyn Place) {
    let store = open(place);
    let (first, second, bob) = (subject_key(1, 1), subject_key(1, 2), subject_key(2, 1));
    store.insert(&[first.clone(), second.clone(), bob.clone()]).unwrap();
    let wanted = shred(1, KeyState::Shredded);
    let done = erase(&store, &[shred(7, KeyState::Shredded), wanted.clone()], NOW + 9).unwrap();
    assert_eq!(done.iter().map(|one| one.subject).collect::<Vec<_>>(), [subject(7), subject(1)]);
    assert!(done[0].kids.is_empty());
    assert_eq!(
        done[1].kids.iter().collect::<BTreeSet<_>>(),
        [first.kid, second.kid].iter().collect()
    );
    let rows = of_subject(&store, 1);
    assert!(is_closed(&rows));
    assert_eq!(
        (rows.len(), rows[2].version, rows[2].kid),
        (3, 3, wanted.marker.kid),
        "a process about to store a successor finds its place taken"
    );
    assert!(rows[..2].iter().all(|record| record.retired == Some(NOW + 9)));
    assert_eq!(store.insert(&[subject_key(1, 3)]).unwrap()[0].state, KeyState::Shredded);
    let nobody = of_subject(&store, 7);
    assert_eq!((nobody.len(), nobody[0].version, is_closed(&nobody)), (1, 1, true));
    assert_eq!(one(&store, bob.kid), bob);

    let again =
        erase(&store, &[shred(1, KeyState::Shredded), shred(7, KeyState::Shredded)], NOW + 20)
            .unwrap();
    assert!(again.iter().all(|one| one.kids.is_empty()));
    assert_eq!((of_subject(&store, 1), of_subject(&store, 7)), (rows, nobody));
    let since =
        |since: u64| store.ended_since(TENANT, since).unwrap().into_iter().collect::<HashSet<_>>();
    assert!(since(NOW + 9).is_superset(&[first.kid, second.kid].into()));
    assert!(since(NOW + 10).is_empty());
    // Of whatever scope, unless the end is taken back.
    let root = key(KeyKind::Index, Scope::Version(1), 1);
    let shared = key(KeyKind::Data, Scope::Shared("people".into()), 1);
    store.insert(&[root.clone(), shared.clone()]).unwrap();
    let ends = [bob.kid, root.kid, shared.kid];
    let states = [KeyState::Compromised, KeyState::Retired, KeyState::Compromised];
    for (kid, state) in ends.iter().zip(states) {
        store.set_state(&[*kid], state, Some(NOW + 15)).unwrap();
    }
    assert_eq!((since(NOW + 15), since(NOW + 16)), (ends.into(), HashSet::new()));
    store.set_state(&ends[1..], KeyState::DecryptOnly, None).unwrap();
    assert_eq!(since(NOW + 15), [bob.kid].into());
    assert!(erase(&store, &[], NOW).unwrap().is_empty());
}

pub(crate) fn a_subject_that_may_return_returns_at_the_next_version(place: &dyn Place) {
    let store = open(place);
    store.insert(&[subject_key(1, 1)]).unwrap();
    erase(&store, &[shred(1, KeyState::Retired)], NOW).unwrap();
    let states =
        |n: u32| of_subject(&store, n).iter().map(|record| record.state).collect::<Vec<_>>();
    assert_eq!(states(1), [KeyState::Shredded, KeyState::Retired]);
    let new = subject_key(1, 3);
    assert_eq!(kids(&store.insert(std::slice::from_ref(&new)).unwrap()), [new.kid]);
    // The marker is no key: what was erased for good is the new key alone.
    let done = erase(&store, &[shred(1, KeyState::Shredded)], NOW).unwrap();
    assert_eq!(done[0].kids, [new.kid]);
    assert_eq!(states(1), [KeyState::Shredded; 4]);
    // Closed by a marker that was open, when nobody came back.
    erase(&store, &[shred(2, KeyState::Retired)], NOW).unwrap();
    erase(&store, &[shred(2, KeyState::Shredded)], NOW).unwrap();
    assert_eq!(states(2), [KeyState::Shredded; 2]);
    // Let back all the same.
    erase(&store, &[shred(2, KeyState::Retired)], NOW).unwrap();
    assert_eq!(states(2), [KeyState::Shredded, KeyState::Shredded, KeyState::Retired]);
}

pub(crate) fn only_the_named_keys_go_when_not_all_are_to(place: &dyn Place) {
    let store = open(place);
    let (old, new, bob) = (subject_key(1, 1), subject_key(1, 2), subject_key(2, 1));
    store.insert(&[old.clone(), new.clone(), bob.clone()]).unwrap();
    // A key of somebody else is not this subject's to erase.
    let wanted = Shred { all: false, kids: vec![old.kid, bob.kid], ..shred(1, KeyState::Retired) };
    assert_eq!(erase(&store, std::slice::from_ref(&wanted), NOW).unwrap()[0].kids, [old.kid]);
    assert_eq!(
        (one(&store, old.kid).state, one(&store, new.kid), one(&store, bob.kid)),
        (KeyState::Shredded, new, bob)
    );
    assert_eq!(of_subject(&store, 1).len(), 2, "no marker: somebody is there");
}

pub(crate) fn a_half_shredded_key_loses_its_wraps_again(place: &dyn Place) {
    let store = open(place);
    let undone = KeyRecord { state: KeyState::Shredded, retired: Some(NOW), ..subject_key(1, 1) };
    store.insert(std::slice::from_ref(&undone)).unwrap();
    assert_eq!(
        store.count_subjects(TENANT).unwrap(),
        Subjects { keys: 0, shredded: 1, half_shredded: 1 }
    );
    assert_eq!(erase(&store, &[shred(1, KeyState::Shredded)], NOW).unwrap()[0].kids, [undone.kid]);
    assert_eq!(
        store.count_subjects(TENANT).unwrap(),
        Subjects { keys: 0, shredded: 2, half_shredded: 0 }
    );
}

/// Seven processes store successor after successor, each at the version after the newest it sees,
/// while one erases.
pub(crate) fn whoever_wins_the_subject_ends_closed(place: &dyn Place) {
    for n in 0..10 {
        let erased = AtomicBool::new(false);
        let made = AtomicU32::new(0);
        at_once(place, |i, store| {
            if i == 0 {
                while made.load(Ordering::Relaxed) < n {
                    std::thread::yield_now();
                }
                let done = erase(store, &[shred(n, KeyState::Shredded)], NOW);
                erased.store(true, Ordering::Relaxed);
                done.unwrap();
                return;
            }
            for _ in 0..20 {
                let last = erased.load(Ordering::Relaxed);
                let newest = of_subject(store, n).pop();
                if newest.as_ref().is_some_and(|newest| newest.state == KeyState::Shredded) {
                    break;
                }
                assert!(!last, "open after it was erased: {newest:?}");
                store
                    .insert(&[subject_key(n, newest.map_or(1, |newest| newest.version + 1))])
                    .unwrap();
                made.fetch_add(1, Ordering::Relaxed);
            }
        });
        let rows = of_subject(&open(place), n);
        assert!(is_closed(&rows), "{rows:?}");
        assert!(
            rows.iter().zip(1..).all(|(record, version)| record.version == version),
            "one after another"
        );
    }
}

/// Another process that has just looked sees the next change.
pub(crate) fn what_one_changes_every_other_sees(place: &dyn Place) {
    let (one, other) = (open(place), open(place));
    for n in 0..20 {
        let mine = subject_key(n, 1);
        assert!(of_subject(&other, n).is_empty());
        one.insert(std::slice::from_ref(&mine)).unwrap();
        assert_eq!(of_subject(&other, n), [mine]);
        erase(&one, &[shred(n, KeyState::Shredded)], NOW).unwrap();
        assert!(is_closed(&of_subject(&other, n)));
    }
}

pub(crate) fn many_are_erased_together_while_keys_are_made_for_them(place: &dyn Place) {
    const SUBJECTS: u32 = 200;
    at_once(place, |i, store| {
        if i == 0 {
            let shreds: Vec<Shred> = (0..SUBJECTS).map(|n| shred(n, KeyState::Shredded)).collect();
            erase(store, &shreds, NOW).unwrap();
            return;
        }
        let mut order: Vec<u32> = (0..SUBJECTS).collect();
        order.rotate_left(i * 23);
        for version in 1..3 {
            let records: Vec<KeyRecord> = order.iter().map(|n| subject_key(*n, version)).collect();
            let stored = store.insert(&records).unwrap();
            assert_eq!(stored.len(), records.len());
            // Who finds one erased does not go on.
            let closed: HashSet<Scope> = stored
                .into_iter()
                .filter(|record| record.state == KeyState::Shredded)
                .map(|record| record.scope)
                .collect();
            order.retain(|n| !closed.contains(&Scope::Subject(subject(*n))));
        }
    });
    let store = open(place);
    assert!((0..SUBJECTS).all(|n| is_closed(&of_subject(&store, n))));
}

pub(crate) fn lists_are_in_their_order_and_pages_meet(place: &dyn Place) {
    let store = open(place);
    let at = |created: u64, record: KeyRecord| KeyRecord { created, ..record };
    let records = [
        at(NOW + 3, key(KeyKind::Wrapping, Scope::Epoch(1), 1)),
        at(NOW + 1, key(KeyKind::Index, Scope::Version(2), 2)),
        at(NOW + 1, key(KeyKind::Data, Scope::Shared("people".into()), 1)),
        at(NOW, key(KeyKind::Audit, Scope::Version(1), 1)),
        at(NOW + 1, key(KeyKind::Index, Scope::Version(1), 1)),
    ];
    store.insert(&records).unwrap();
    let process = process_key("people", NOW + 2);
    store.insert_paced(&process, 60).unwrap();
    let subjects: Vec<KeyRecord> = (0..25).map(|n| subject_key(n, 1)).collect();
    store.insert(&subjects).unwrap();
    let ids = |order: &[usize]| order.iter().map(|i| records[*i].kid).collect::<Vec<_>>();
    assert_eq!(kids(&store.shared(TENANT).unwrap()), ids(&[3, 2, 4, 1, 0]));
    let mut listed = ids(&[3, 2, 4, 1]);
    listed.extend([process.kid, records[0].kid]);
    assert_eq!(kids(&store.list(TENANT).unwrap()), listed);

    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = page(&store, TENANT, after.as_ref(), 10);
        assert!(page.len() <= 10 && page.iter().all(|record| record.wraps.len() == 1));
        let Some(last) = page.last() else { break };
        after = Some(last.kid);
        seen.extend(kids(&page));
    }
    let mut all = kids(&subjects);
    all.sort_unstable();
    assert_eq!(seen, all);
}

pub(crate) fn subjects_are_counted(place: &dyn Place) {
    let store = open(place);
    assert_eq!(store.count_subjects(TENANT).unwrap(), Subjects::default());
    store
        .insert(&[
            subject_key(1, 1),
            subject_key(1, 2),
            subject_key(2, 1),
            key(KeyKind::Data, Scope::Shared("people".into()), 1),
        ])
        .unwrap();
    store.insert_paced(&process_key("people", NOW), 60).unwrap();
    assert_eq!(
        store.count_subjects(TENANT).unwrap(),
        Subjects { keys: 3, shredded: 0, half_shredded: 0 }
    );
    erase(&store, &[shred(1, KeyState::Shredded)], NOW).unwrap();
    assert_eq!(
        store.count_subjects(TENANT).unwrap(),
        Subjects { keys: 1, shredded: 3, half_shredded: 0 }
    );
}

pub(crate) fn tenants_do_not_see_each_other(place: &dyn Place) {
    let store = open(place);
    let ours = [subject_key(1, 1), key(KeyKind::Index, Scope::Version(1), 1)];
    let theirs: Vec<KeyRecord> = [subject_key(1, 1), key(KeyKind::Index, Scope::Version(1), 1)]
        .map(|r| KeyRecord { tenant: "other".into(), ..r })
        .into();
    store.insert(&ours).unwrap();
    assert_eq!(kids(&store.insert(&theirs).unwrap()), kids(&theirs), "their places are their own");
    let subjects = |tenant: &str| kids(&page(&store, tenant, None, 10));
    assert_eq!((subjects(TENANT), subjects("other")), (vec![ours[0].kid], vec![theirs[0].kid]));
    assert_eq!(kids(&store.list("other").unwrap()), [theirs[1].kid]);
    assert_eq!(kids(&store.shared("other").unwrap()), [theirs[1].kid]);
    assert_eq!(
        kids(&store.find("other", KeyKind::Data, &[Scope::Subject(subject(1))]).unwrap()),
        [theirs[0].kid]
    );
    erase(&store, &[shred(1, KeyState::Shredded)], NOW).unwrap();
    assert_eq!(one(&store, theirs[0].kid), theirs[0]);
    assert_eq!(
        store.count_subjects("other").unwrap(),
        Subjects { keys: 1, shredded: 0, half_shredded: 0 }
    );
    assert!(store.ended_since("other", 0).unwrap().is_empty());
    assert!(store.list("").unwrap().is_empty());
}

pub(crate) fn a_damaged_row_is_named_with_its_column(place: &dyn Place) {
    let store = open(place);
    for column in ["kcv", "kind", "scope", "version", "state", "created", "retired", "mac"] {
        let record = key(KeyKind::Index, Scope::Version(1), 1);
        let record = KeyRecord { tenant: column.into(), ..record };
        store.insert(std::slice::from_ref(&record)).unwrap();
        place.damage(&record.kid, column);
        let error = store.get(&[record.kid]).unwrap_err();
        let StoreError::Row { kid, what, .. } = &error else { panic!("{column}: {error}") };
        assert_eq!((kid, *what), (&record.kid.to_string(), column));
        assert!(error.to_string().contains("restore it from a backup"), "{error}");
    }
}

pub(crate) fn scrubbing_leaves_the_living(place: &dyn Place) {
    let store = open(place);
    let bob = subject_key(2, 1);
    store.insert(&[subject_key(1, 1), bob.clone()]).unwrap();
    erase(&store, &[shred(1, KeyState::Shredded)], NOW).unwrap();
    let first = store.scrub().unwrap();
    assert_eq!(store.scrub().unwrap(), first, "the same as long as the store is the same");
    assert!(first.remains.iter().all(|text| !text.is_empty()));
    assert_eq!(one(&store, bob.kid), bob);
    assert!(is_closed(&of_subject(&store, 1)));
}

pub(crate) fn an_edited_record_counts_for_nothing(place: &dyn Place) {
    let store = open(place);
    let (retired, process, other) = (
        key(KeyKind::Index, Scope::Version(1), 1),
        process_key("people", NOW),
        key(KeyKind::Index, Scope::Version(2), 2),
    );
    store.insert(&[retired.clone(), other.clone()]).unwrap();
    store.insert_paced(&process, 60).unwrap();
    store.set_state(&[retired.kid, process.kid], KeyState::Retired, Some(NOW)).unwrap();
    place.activate(&retired.kid);
    place.activate(&process.kid);
    // Another process: nobody has it in hand.
    let store = open(place);
    let is_corrupt = |error: StoreError, kid: KeyId| matches!(error, StoreError::Corrupt { kid: found, .. } if found == kid);
    assert!(is_corrupt(store.get(&[retired.kid]).unwrap_err(), retired.kid));
    assert!(is_corrupt(
        store.find(TENANT, KeyKind::Index, &[Scope::Version(1)]).unwrap_err(),
        retired.kid
    ));
    assert!(store.list(TENANT).is_err() && store.shared(TENANT).is_err());
    // Nothing that changes it makes it whole.
    assert!(is_corrupt(
        store.set_state(&[retired.kid], KeyState::Active, None).unwrap_err(),
        retired.kid
    ));
    assert!(is_corrupt(store.expire(TENANT, &[process.kid], 0).unwrap_err(), process.kid));
    assert!(store.get(&[retired.kid]).is_err() && store.get(&[process.kid]).is_err());
    let message = store.get(&[retired.kid]).unwrap_err().to_string();
    assert!(
        message.contains("restore it from a backup") && message.contains(&retired.kid.to_string()),
        "{message}"
    );
    assert_eq!(one(&store, other.kid), other);
}

pub(crate) fn an_edited_record_is_erased_all_the_same(place: &dyn Place) {
    let store = open(place);
    let record = subject_key(1, 1);
    store.insert(std::slice::from_ref(&record)).unwrap();
    store.set_state(&[record.kid], KeyState::DecryptOnly, None).unwrap();
    place.activate(&record.kid);
    let store = open(place);
    assert!(store.get(&[record.kid]).is_err());
    assert_eq!(erase(&store, &[shred(1, KeyState::Shredded)], NOW).unwrap()[0].kids, [record.kid]);
    assert!(is_closed(&of_subject(&store, 1)));
}

/// Of several that erase at once each is asked with the head that the one before it left, and no
/// step is lost.
pub(crate) fn heads_follow_each_other(place: &dyn Place) {
    const EACH: u64 = 10;
    let first = open(place).head().unwrap();
    let seen: Vec<u64> = at_once(place, |i, store| {
        let moved = |n: u64| {
            let (mut seen, number) =
                (0, u32::try_from(i).unwrap() * 100 + u32::try_from(n).unwrap());
            store.insert(&[subject_key(number, 1)]).unwrap();
            let plan = &mut |head: &veilstream_keys::store::Head, records: &[KeyRecord]| {
                assert_eq!(records.len(), 1, "the keys of whom it is about");
                seen = head.seq;
                Ok(Planned {
                    shreds: vec![shred(number, KeyState::Shredded)],
                    head: store.keys().head(TENANT, head.store, head.seq + 1, head.sha256),
                })
            };
            assert_eq!(store.erase(&[subject(number)], NOW, plan).unwrap()[0].kids.len(), 1);
            seen
        };
        (0..EACH).map(moved).collect::<Vec<_>>()
    })
    .into_iter()
    .flatten()
    .collect();
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "no two had the same head");
    let last = open(place).head().unwrap();
    assert_eq!((last.seq, last.store, &*last.tenant), (THREADS as u64 * EACH, first.store, TENANT));
}

pub(crate) fn a_plan_that_fails_changes_nothing(place: &dyn Place) {
    let store = open(place);
    let record = subject_key(1, 1);
    store.insert(std::slice::from_ref(&record)).unwrap();
    let before = store.head().unwrap();
    let failed = store.erase(&[subject(1)], NOW, &mut |_, _| {
        Err(LedgerError::Moved { place: "ledger".to_owned() })
    });
    assert!(matches!(failed, Err(StoreError::Ledger(LedgerError::Moved { .. }))));
    assert_eq!((store.head().unwrap(), one(&store, record.kid)), (before, record));
}

pub(crate) fn a_store_is_founded_once(place: &dyn Place) {
    assert!(place.open().head().unwrap().is_none(), "not by whoever opens it");
    let store = open(place);
    let head = store.head().unwrap();
    let refused = store.unverified().found(
        &key(KeyKind::Store, Scope::Version(1), 1),
        &store.keys().head("other", [9; 16], 0, [9; 32]),
    );
    assert!(refused.unwrap_err().to_string().contains("is there already"));
    assert_eq!(store.head().unwrap(), head);
    assert_eq!(
        store.unverified().find(STORE_TENANT, KeyKind::Store, &[Scope::Version(1)]).unwrap().len(),
        1
    );
}

fn credential(name: &str) -> Credential {
    let key = ApiKey::generate().unwrap();
    Credential {
        id: key.id(),
        sha256: key.sha256(),
        name: name.to_owned(),
        roles: vec!["analyst".to_owned(), "export".to_owned()],
        created: NOW,
        expires: NOW + 90 * 86400,
        revoked: None,
    }
}

/// Of several that revoke one at once, one does.
pub(crate) fn api_keys_are_revoked_once(place: &dyn Place) {
    let store = open(place);
    let mut made: Vec<Credential> = ["a", "b", "b"].map(credential).to_vec();
    made.sort_by_key(|one| one.id);
    for one in &made {
        assert!(store.add_credential(one).unwrap());
        assert!(!store.add_credential(&Credential { name: "c".into(), ..one.clone() }).unwrap());
    }
    assert_eq!(open(place).credentials().unwrap().authentic, made);
    let revoked = at_once(place, |_, store| {
        store.revoke_credentials(&[made[1].id, credential("d").id], NOW + 5).unwrap()
    });
    assert_eq!(revoked.concat(), [made[1].id]);
    assert_eq!(store.revoke_credentials(&[made[1].id], NOW + 9).unwrap(), []);
    made[1].revoked = Some(NOW + 5);
    let found = open(place).credentials().unwrap();
    assert_eq!((found.authentic, found.corrupt), (made, Vec::new()));
}

/// A suspension is no API key: each stands in its own list and ends in its own way. Of several that
/// resume somebody at once, one does.
pub(crate) fn the_suspended_are_resumed_once(place: &dyn Place) {
    let store = open(place);
    let key = credential("crm");
    assert!(store.add_credential(&key).unwrap());
    let person = Some("jwt:corp:a\n\",\"b");
    let mut suspended =
        [None, person].map(|p| Suspension::new("key:crm", p, NOW).unwrap()).to_vec();
    suspended.sort_by_key(|one| one.id);
    for one in &suspended {
        assert!(store.suspend(one).unwrap());
        assert!(!store.suspend(&Suspension { principal: "other".into(), ..one.clone() }).unwrap());
    }
    let found = open(place).credentials().unwrap();
    assert_eq!((&found.suspensions, &found.authentic), (&suspended, &vec![key.clone()]));
    assert_eq!(store.revoke_credentials(&[suspended[0].id], NOW + 1).unwrap(), []);
    assert_eq!(store.resume(&[key.id], NOW + 1).unwrap(), []);
    let resumed = at_once(place, |_, store| store.resume(&[suspended[0].id], NOW + 5).unwrap());
    assert_eq!(resumed.concat(), [suspended[0].id]);
    suspended[0].resumed = Some(NOW + 5);
    let found = open(place).credentials().unwrap();
    assert_eq!((found.suspensions, found.corrupt), (suspended, Vec::new()));
}

/// Somebody who writes the store without its key gets no key in, and takes no revocation back.
pub(crate) fn an_edited_api_key_counts_for_nothing(place: &dyn Place) {
    let store = open(place);
    let mut corrupt = Vec::new();
    let edits: [fn(&mut CredentialRow); 6] = [
        |row| row.roles = "admin".to_owned(),
        |row| row.name = "other".to_owned(),
        |row| row.sha256 = "ab".repeat(32),
        |row| row.expires = "2100-01-01T00:00:00Z".to_owned(),
        |row| row.mac = "ab".repeat(32),
        |row| row.created = "yesterday".to_owned(),
    ];
    for edit in edits {
        let one = credential("a");
        let mut row = one.row(&store.keys().credential_mac(&one));
        edit(&mut row);
        assert!(store.unverified().add_credential(&row).unwrap());
        corrupt.push(row.id);
    }
    let revoked = Credential { revoked: Some(NOW), ..credential("a") };
    let mut row = revoked.row(&store.keys().credential_mac(&revoked));
    row.revoked = None;
    assert!(store.unverified().add_credential(&row).unwrap());
    corrupt.push(row.id);
    corrupt.sort();
    let whole = credential("b");
    assert!(store.add_credential(&whole).unwrap());
    let found = open(place).credentials().unwrap();
    assert_eq!((found.authentic, found.corrupt), (vec![whole], corrupt));
}
