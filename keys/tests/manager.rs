//! The key manager over a real store: races, damage, rotation of the key-encrypting key, and that
//! no key byte leaves.

mod support;

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use support::{Counting, Directory, Maintain as _, NOW, people, schemas, subject};
use veilstream_engine::SecretKey;
use veilstream_engine::key::{KeyKind, KeyState, Scope};
use veilstream_engine::transform::NeededKey;
use veilstream_engine::wrap::WrapContext;
use veilstream_keys::erasure::{FileLedger, Terms};
use veilstream_keys::provider::{
    EnvProvider, FileProvider, ITERATIONS, Kek, PasswordProvider, Provider, ProviderError,
};
use veilstream_keys::store::{SqliteStore, Store, Wrap};
use veilstream_keys::{KeyError, Manager, Parts, Settings, directory};

#[test]
fn roots_are_made_once_and_read_back_the_same() {
    let dir = Directory::new();
    let ids = |manager: &Manager| {
        let ring = manager.keyring();
        [KeyKind::Index, KeyKind::Deterministic, KeyKind::DeadLetter, KeyKind::SubjectRef]
            .map(|kind| ring.sealing(kind, &Scope::Version(1)).unwrap().id)
    };
    let first = dir.open();
    first.prepare_roots(NOW).unwrap();
    let second = dir.open();
    second.prepare_roots(NOW + 1).unwrap();
    assert_eq!(ids(&first), ids(&second));
    assert_eq!(dir.records().len(), 5, "the audit key is kept from the engine");
}

#[test]
fn kinds_that_stay_wrapped_are_not_there() {
    let dir = Directory::new();
    dir.open().prepare_roots(NOW).unwrap();
    dir.open().fetch(&[subject(1)], NOW).unwrap();
    let wrapped = &[KeyKind::DeadLetter, KeyKind::Wrapping];
    let manager = dir.open_with(Settings { wrapped, ..Settings::of("default") }, NOW).unwrap();
    let ring = manager.keyring();
    assert_eq!(ring.of_kind(KeyKind::DeadLetter).count(), 0);
    assert_eq!(ring.of_kind(KeyKind::Index).count(), 1);
    for record in dir.records() {
        let is_there = manager.lookup(&record.kid, NOW).unwrap().is_some();
        assert_eq!(is_there, !wrapped.contains(&record.kind), "{:?}", record.kind);
    }
}

#[test]
fn processes_that_race_for_one_key_end_with_one_key() {
    let dir = Directory::new();
    let managers: Vec<Arc<Manager>> = (0..8).map(|_| Arc::new(dir.open())).collect();
    let barrier = Arc::new(Barrier::new(managers.len()));
    let threads: Vec<_> = managers
        .iter()
        .map(|manager| {
            let (manager, barrier) = (manager.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                let mut needed: Vec<_> = (0..50).map(subject).collect();
                needed
                    .push(NeededKey { kind: KeyKind::Data, scope: Scope::Shared("people".into()) });
                needed.push(NeededKey { kind: KeyKind::Index, scope: Scope::Version(1) });
                manager.fetch(&needed, NOW).unwrap().iter().map(|key| key.id).collect::<Vec<_>>()
            })
        })
        .collect();
    let answers: HashSet<Vec<_>> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(answers.len(), 1);
    assert_eq!(dir.store().count_subjects("default").unwrap().keys, 50);
}

#[test]
fn subject_keys_are_wrapped_by_a_wrapping_key_and_open_in_another_process() {
    let dir = Directory::new();
    let keys = dir.open().fetch(&[subject(1), subject(2), subject(1)], NOW).unwrap();
    assert_eq!(keys[0].id, keys[2].id);
    let wrapping = dir.records().into_iter().find(|r| r.kind == KeyKind::Wrapping).unwrap();
    let stored = dir.stored(&keys[0].id);
    assert_eq!(
        stored.wraps.iter().map(|w| w.kek_uri.clone()).collect::<Vec<_>>(),
        [format!("kid:{}", wrapping.kid)]
    );
    let read = dir.open().lookup(&keys[1].id, NOW).unwrap().unwrap();
    assert_eq!(read.secret.as_ref().unwrap().expose(), keys[1].secret.as_ref().unwrap().expose());
    // The engine has no business with wrapping keys.
    assert_eq!(dir.open().keyring().of_kind(KeyKind::Wrapping).count(), 0);
}

#[test]
fn subjects_asked_for_together_cost_one_lookup_and_one_insert() {
    let dir = Directory::new();
    // The wrapping key is there.
    dir.open().fetch(&[subject(0)], NOW).unwrap();
    let (store, asked) = Counting::over(dir.store());
    let manager = Manager::open(
        Settings::of("default"),
        Parts { store: Box::new(store), ..dir.parts() },
        NOW,
    )
    .unwrap();
    let all: Vec<NeededKey> = (0..100).map(subject).collect();
    // Opening asks for the store key.
    assert_eq!(asked.of("find"), 1);
    let keys = manager.fetch(&all, NOW).unwrap();
    assert_eq!((asked.of("find"), asked.of("insert"), keys.len()), (2, 1, 100));
    manager.fetch(&all, NOW + 599).unwrap();
    assert_eq!((asked.of("find"), asked.of("insert")), (2, 1), "at hand");
    manager.fetch(&all, NOW + 600).unwrap();
    assert_eq!((asked.of("find"), asked.of("insert")), (3, 1), "forgotten, not new");
}

#[test]
fn a_wrapping_key_of_another_process_is_found() {
    let dir = Directory::new();
    let early = dir.open();
    let key = dir.open().fetch(&[subject(1)], NOW).unwrap().remove(0);
    assert!(early.lookup(&key.id, NOW).unwrap().unwrap().secret.is_some());
}

#[test]
fn wraps_swapped_between_rows_do_not_open() {
    let dir = Directory::new();
    let keys = dir.open().fetch(&[subject(1), subject(2)], NOW).unwrap();
    dir.sql(&format!(
        "UPDATE wraps SET kid = 'x' WHERE kid = '{0}'; UPDATE wraps SET kid = '{0}' WHERE kid = \
        '{1}'; UPDATE wraps SET kid = '{1}' WHERE kid = 'x';",
        keys[0].id, keys[1].id
    ));
    for key in &keys {
        let error = dir.open().lookup(&key.id, NOW).unwrap_err();
        assert!(error.to_string().contains("its row was changed"), "{error}");
    }
}

#[test]
fn an_edited_row_is_refused_and_named() {
    for (edit, column) in [
        ("scope = 'subject:' || substr(scope, 9, 31) || 'f'", "mac does not hold"),
        ("kind = 'index'", "mac does not hold"),
        ("tenant = 'other'", "mac does not hold"),
        (
            "kcv = substr(kcv, 1, 63) || (CASE substr(kcv, 64) WHEN '0' THEN '1' ELSE '0' END)",
            "mac does not hold",
        ),
        ("version = 7", "mac does not hold"),
        ("state = 'decrypt_only'", "mac does not hold"),
        ("created = '2026-11-24T06:00:01Z'", "mac does not hold"),
        ("created = '2026-11-24T06:00:00.000Z'", "(created)"),
        ("retired = '2026-11-24T06:00:00Z'", "mac does not hold"),
        ("mac = NULL", "mac does not hold"),
        ("mac = upper(mac)", "(mac)"),
        ("kcv = 'ab'", "(kcv)"),
        ("state = 'fine'", "(state)"),
        ("created = 'yesterday'", "(created)"),
        ("version = -1", "(version)"),
    ] {
        let dir = Directory::new();
        let key = dir.open().fetch(&[subject(1)], NOW).unwrap().remove(0);
        dir.sql(&format!("UPDATE keys SET {edit} WHERE kid = '{}'", key.id));
        let error = dir.open().lookup(&key.id, NOW).unwrap_err().to_string();
        assert!(error.contains(column) && error.contains(&key.id.to_string()), "{edit}: {error}");
    }
}

#[test]
fn erased_retired_and_unknown_are_three_answers() {
    let dir = Directory::new();
    let keys = dir.open().fetch(&[subject(1), subject(2)], NOW).unwrap();
    let manager = dir.open();
    let Scope::Subject(erased) = keys[0].scope else { unreachable!() };
    manager
        .shred(
            &[erased],
            &Terms {
                reason: "request 1",
                domain: None,
                may_return: false,
                backups_until: None,
                remains: &[],
            },
            NOW,
        )
        .unwrap();
    manager.store().set_state(&[keys[1].id], KeyState::Retired, Some(NOW)).unwrap();
    for (key, state) in keys.iter().zip([KeyState::Shredded, KeyState::Retired]) {
        let found = manager.lookup(&key.id, NOW).unwrap().unwrap();
        assert_eq!((found.state, found.secret.is_none()), (state, true));
    }
    assert!(manager.lookup(&"00".repeat(16).parse().unwrap(), NOW).unwrap().is_none());
    // And no new key is made for an erased subject behind everybody's back, but one for a subject
    // whose key was retired.
    let answer = manager.fetch(&[subject(1), subject(2)], NOW).unwrap();
    assert_eq!((answer[0].state, answer[0].secret.is_none()), (KeyState::Shredded, true));
    assert_eq!((answer[1].state, answer[1].version), (KeyState::Active, 2));
}

#[test]
fn a_store_has_one_tenant() {
    let dir = Directory::new();
    let error = dir.open_with(Settings::of("acme-eu"), NOW).err().unwrap();
    assert!(
        matches!(error, KeyError::OtherTenant { .. })
            && error.to_string().contains("store of its own"),
        "{error}"
    );
}

#[test]
fn a_store_without_store_key_or_head_is_refused_and_never_mended() {
    for (edit, says) in [
        ("DELETE FROM head", "has no store key and no head"),
        ("DELETE FROM keys WHERE kind = 'store'", "has no store key and no head"),
        ("UPDATE keys SET state = 'retired' WHERE kind = 'store'", "mac does not hold"),
        ("UPDATE head SET sha256 = mac", "its head"),
        ("INSERT INTO head SELECT * FROM head", "its head"),
        ("PRAGMA user_version = 2", "of an earlier build"),
    ] {
        let dir = Directory::new();
        dir.sql(edit);
        let store = SqliteStore::open(&directory::store(&dir.path()));
        let error = match store {
            Err(error) => error.to_string(),
            Ok(_) => dir.try_open().err().unwrap().to_string(),
        };
        assert!(error.contains(says), "{edit}: {error}");
    }
    let dir = Directory::new();
    let error = Manager::init(Settings::of("default"), dir.parts(), NOW).err().unwrap().to_string();
    assert!(error.contains("is there already"), "{error}");
}

/// The issue's case: sixty processes crash and start in one hour. Inside the pace nobody asks the
/// key service.
#[test]
fn waiting_for_a_key_of_ones_own_asks_the_key_service_for_nothing() {
    let dir = Directory::new();
    dir.open().prepare_roots(NOW).unwrap();
    let wraps = Arc::new(AtomicUsize::new(0));
    let open = || {
        let provider = CountingWraps(dir.provider(), wraps.clone());
        Manager::open(
            Settings::of("default"),
            Parts { provider: Box::new(provider), ..dir.parts() },
            NOW,
        )
        .unwrap()
    };
    const PROCESSES: usize = 20;
    let managers: Vec<Manager> = (0..PROCESSES).map(|_| open()).collect();
    for manager in &managers {
        manager.prepare(&people(), NOW).unwrap();
    }
    let mut now = NOW;
    let made = || dir.scopes("schema:people");
    while made() < PROCESSES && now < NOW + 2 * 3600 {
        now += 1;
        for manager in &managers {
            manager.maintain(now).unwrap();
        }
    }
    assert_eq!(made(), PROCESSES, "everybody has one in the end");
    let asked = wraps.load(Ordering::Relaxed);
    assert!((PROCESSES..3 * PROCESSES).contains(&asked), "{asked} wraps of {PROCESSES} keys");
}

struct CountingWraps(FileProvider, Arc<AtomicUsize>);

impl Provider for CountingWraps {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn opens(&self, kek_uri: &str) -> bool {
        self.0.opens(kek_uri)
    }
    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.wrap(key, context)
    }
    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        self.0.unwrap(wrap, context)
    }
    fn describe(&self) -> Result<Kek, ProviderError> {
        self.0.describe()
    }
    fn rotate(&self, now: u64) -> Result<Kek, ProviderError> {
        self.0.rotate(now)
    }
}

#[test]
fn a_root_that_was_never_made_is_not_invented() {
    let pinned = |root: u32| {
        schemas(&format!(
            r#"{{"veilstream":1,"name":"cards","version":1,"fields":[{{"id":"card","path":"$.card","protect":"deterministic","root":{root}}}]}}"#
        ))
    };
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare(&pinned(1), NOW).unwrap();
    let error = manager.prepare(&pinned(2), NOW).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no deterministic root v2; pin one that `veilstream keys list` shows"
    );
}

#[test]
fn a_new_key_encrypting_key_wraps_new_keys_and_old_ones_still_open() {
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare(&people(), NOW).unwrap();
    let kek = directory::kek(&dir.path());
    let mut file = OpenOptions::new().append(true).open(&kek).unwrap();
    file.write_all(b"2 ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n").unwrap();
    // Also in a process that runs.
    manager.maintain(NOW + 20 * 3600).unwrap();
    let versions: Vec<String> = dir
        .records()
        .into_iter()
        .filter(|r| r.scope.to_string() == "schema:people")
        .map(|r| r.wraps[0].kek_version.clone())
        .collect();
    assert_eq!(versions, ["1", "2"]);
    dir.open();
    // Without the old line the old keys do not open, and the message says which line is missing.
    fs::write(&kek, "2 ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n").unwrap();
    let error = dir.try_open().err().unwrap().to_string();
    assert!(error.contains("no line of version 1"), "{error}");
}

#[test]
fn another_key_encrypting_key_is_told_at_the_start() {
    let dir = Directory::new();
    dir.open().prepare_roots(NOW).unwrap();
    fs::write(directory::kek(&dir.path()), "1 ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n")
        .unwrap();
    let error = dir.try_open().err().unwrap().to_string();
    assert!(error.contains("wrapped with another key-encrypting key"), "{error}");
    let other = EnvProvider::new("ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=").unwrap();
    let error = Manager::open(
        Settings::of("default"),
        Parts { provider: Box::new(other), ..dir.parts() },
        NOW,
    )
    .err()
    .unwrap();
    assert!(matches!(error, KeyError::OtherProvider { .. }), "{error}");
}

#[test]
fn every_provider_unwraps_what_it_wrapped_and_nothing_else() {
    type Make = fn() -> Box<dyn Provider>;
    let providers: [(Make, Make); 2] = [
        (
            || Box::new(EnvProvider::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap()),
            || Box::new(EnvProvider::new("ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=").unwrap()),
        ),
        (
            || Box::new(PasswordProvider::new("correct horse battery staple", ITERATIONS).unwrap()),
            || {
                Box::new(
                    PasswordProvider::new("correct horse battery stapler", ITERATIONS).unwrap(),
                )
            },
        ),
    ];
    for (same, other) in providers {
        let dir = Directory::new();
        let path = dir.path().join("other.db");
        SqliteStore::create(&path).unwrap();
        let parts = |provider| Parts {
            provider,
            store: Box::new(SqliteStore::open(&path).unwrap()),
            ledger: Arc::new(FileLedger::new(dir.path().join("other.jsonl"))),
            ..dir.parts()
        };
        Manager::init(Settings::of("default"), parts(same()), NOW).unwrap();
        let open = |provider| Manager::open(Settings::of("default"), parts(provider), NOW);
        open(same()).unwrap().prepare(&people(), NOW).unwrap();
        assert!(
            open(same()).unwrap().keyring().sealing(KeyKind::Index, &Scope::Version(1)).is_some()
        );
        let error = open(other()).err().unwrap();
        assert!(matches!(error, KeyError::Provider(_)), "{error}");
        // One salt for all, not one for each key.
        let uris: HashSet<String> = SqliteStore::open(&path)
            .unwrap()
            .list("default")
            .unwrap()
            .into_iter()
            .map(|r| r.wraps[0].kek_uri.clone())
            .collect();
        assert_eq!(uris.len(), 1);
    }
}

#[test]
fn a_store_that_is_not_there_or_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db");
    let error = SqliteStore::open(&path).err().unwrap().to_string();
    assert!(error.contains("veilstream keys init"), "{error}");
    fs::write(&path, "not a database, but long enough to look at it twice").unwrap();
    assert!(SqliteStore::open(&path).is_err());
    assert!(SqliteStore::create(&path).is_err(), "never overwritten");
    let other = dir.path().join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    assert!(SqliteStore::open(&other).err().unwrap().to_string().contains("is no key store"));
}

/// No key byte reaches the disk or a message: the bytes of every key in hand are searched for in
/// every file, in clear and in the usual encodings.
#[test]
fn no_key_byte_leaves() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let dir = Directory::new();
    let manager = dir.open();
    manager.prepare(&people(), NOW).unwrap();
    let mut keys = manager.fetch(&[subject(1), subject(2)], NOW).unwrap();
    let ring = manager.keyring();
    for kind in [
        KeyKind::Data,
        KeyKind::Index,
        KeyKind::Deterministic,
        KeyKind::DeadLetter,
        KeyKind::SubjectRef,
    ] {
        keys.extend(ring.of_kind(kind).cloned());
    }
    assert_eq!(keys.len(), 7);
    let mut haystack = format!("{keys:?} {:?} {ring:?}", keys[0].secret).into_bytes();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path != directory::kek(&dir.path()) {
            haystack.extend(fs::read(path).unwrap());
        }
    }
    let found = |needle: &[u8]| haystack.windows(needle.len()).any(|w| w == needle);
    // That the search finds what is there: wrapped keys stand in the store.
    assert!(found(&dir.stored(&keys[0].id).wraps[0].wrapped));
    for key in &keys {
        let bytes = key.secret.as_ref().unwrap().expose();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        for needle in [
            &bytes[..16],
            &bytes[16..],
            &hex.as_bytes()[..32],
            &STANDARD.encode(bytes).as_bytes()[..20],
            &URL_SAFE_NO_PAD.encode(bytes).as_bytes()[..20],
        ] {
            assert!(!found(needle), "{:?}", key.id);
        }
    }
}

#[test]
fn the_store_is_as_the_public_format_says() {
    let dir = Directory::new();
    dir.open().prepare(&people(), NOW).unwrap();
    let connection = rusqlite::Connection::open(directory::store(&dir.path())).unwrap();
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(
        one("SELECT group_concat(name || ' ' || type) FROM pragma_table_info('keys')"),
        "kid TEXT,kcv TEXT,kind TEXT,tenant TEXT,scope TEXT,version INTEGER,state TEXT,created \
        TEXT,retired TEXT,mac TEXT"
    );
    assert_eq!(
        one("SELECT group_concat(name || ' ' || type) FROM pragma_table_info('head')"),
        "store TEXT,tenant TEXT,seq INTEGER,sha256 TEXT,mac TEXT"
    );
    assert_eq!(
        one("SELECT group_concat(name || ' ' || type) FROM pragma_table_info('wraps')"),
        "kid TEXT,kek_uri TEXT,kek_version TEXT,wrapped BLOB"
    );
    assert_eq!(one("SELECT DISTINCT created FROM keys"), "2026-11-24T06:00:00Z");
    assert_eq!(one("PRAGMA journal_mode"), "wal");
    let text = one("SELECT group_concat(kind || ' ' || scope, ', ' ORDER BY kind) FROM keys");
    assert_eq!(
        text,
        "audit v1, data schema:people, dead_letter v1, deterministic v1, index v1, store v1, \
        subject_ref v1"
    );
}
