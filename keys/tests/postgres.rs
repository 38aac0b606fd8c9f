//! The PostgreSQL store on a real server: the manager over it, several processes, broken
//! connections, TLS, and backups.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

#[path = "support/ports.rs"]
mod ports;
#[path = "support/postgres.rs"]
mod server;
mod support;

use std::collections::HashSet;
use std::sync::{Arc, Barrier};

use server::{Database, PASSWORD, server};
use support::{Directory, Maintain as _, NOW, Process, subject_number};
use veilstream_engine::error::{OpenError, RejectCode};
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope};
use veilstream_engine::reveal::Status;
use veilstream_engine::transform::NeededKey;
use veilstream_keys::erasure::{FileLedger, PostgresLedger, SignedReceipt, Terms};
use veilstream_keys::store::{PostgresStore, Store, StoreError};
use veilstream_keys::{KeyError, Manager, Parts, Rotate, Settings};

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

/// The provider and the ledger of a key directory, and a store in a database.
struct Keys {
    directory: Directory,
    database: Database,
}

impl Keys {
    fn new() -> Self {
        let database = server().database();
        let store = PostgresStore::create(&database.url(), None).unwrap();
        let directory = Directory::new();
        // The directory's ledger is its own store's.
        std::fs::remove_file(directory.ledger_path()).unwrap();
        Manager::init(
            Settings::of("default"),
            Parts { store: Box::new(store), ..directory.parts() },
            NOW,
        )
        .unwrap();
        Self { directory, database }
    }

    fn store(&self) -> PostgresStore {
        PostgresStore::open(&self.database.url(), None).unwrap()
    }

    /// One process.
    fn open(&self, now: u64) -> Manager {
        Manager::open(
            Settings::of("default"),
            Parts { store: Box::new(self.store()), ..self.directory.parts() },
            now,
        )
        .unwrap()
    }

    fn start(&self, now: u64) -> Process {
        Process::with(self.open(now), now)
    }

    fn stored(&self, kid: &KeyId) -> veilstream_keys::store::KeyRecord {
        self.store().get(&[*kid]).unwrap().remove(0)
    }
}

fn erase(manager: &Manager, id: &str, now: u64) -> SignedReceipt {
    let subject = manager.subject_ref(id, None, now).unwrap();
    manager.shred(&[subject], &TERMS, now).unwrap().remove(0).receipt.unwrap()
}

fn all_is_well(manager: &Manager, receipt: &SignedReceipt) -> bool {
    manager.check_receipt(receipt, NOW).unwrap().iter().all(|check| check.wrong.is_none())
}

fn error(result: Result<PostgresStore, StoreError>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn processes_mint_look_up_rotate_rewrap_and_erase_together() {
    let keys = Keys::new();
    let (mut one, mut two) = (keys.start(NOW), keys.start(NOW));
    let (ada, bob) = (one.protect(ADA, NOW).1, two.protect(BOB, NOW).1);
    assert_eq!((two.reveal(&ada, NOW), one.reveal(&bob, NOW)), (ADA.to_owned(), BOB.to_owned()));
    // New wrapping keys and a new key-encrypting key: every wrap moves, and all opens as before.
    two.manager.rotate(&Rotate::Wrapping, NOW + 10).unwrap();
    two.manager.rotate(&Rotate::Kek, NOW + 10).unwrap();
    let rewrapped = one.manager.rewrap(false, NOW + 20, &mut |_| {}).unwrap();
    assert!(rewrapped.failed.is_empty() && rewrapped.moved >= 8, "{rewrapped:?}");
    assert_eq!(two.manager.rewrap(false, NOW + 20, &mut |_| {}).unwrap().moved, 0);
    // A later version of Bob's key, and a process that starts later.
    two.protect(BOB, NOW + 91 * 86400);
    let mut late = keys.start(NOW + 91 * 86400);
    assert_eq!((late.reveal(&ada, NOW), late.reveal(&bob, NOW)), (ADA.to_owned(), BOB.to_owned()));

    let receipt = erase(&one.manager, "7", NOW);
    two.manager.maintain(NOW + 91 * 86400 + 60).unwrap();
    for process in [&mut one, &mut two, &mut keys.start(NOW)] {
        assert_eq!(process.reveal_status(&ada, NOW).1, ERASED);
        assert_eq!(process.try_protect(ADA, NOW), Err(RejectCode::ErasedSubject));
        assert_eq!(process.reveal(&bob, NOW), BOB);
        assert!(all_is_well(&process.manager, &receipt));
    }
    let remains = receipt.receipt["remains"].to_string();
    assert!(
        ["veilstream.wraps", "write-ahead log", "base backups"]
            .iter()
            .all(|place| remains.contains(place)),
        "{remains}"
    );
}

#[test]
fn processes_that_race_for_keys_end_with_the_same() {
    let keys = Keys::new();
    let managers: Vec<Manager> = (0..8).map(|_| keys.open(NOW)).collect();
    let barrier = Barrier::new(managers.len());
    let answers: HashSet<Vec<KeyId>> = std::thread::scope(|scope| {
        let race = |manager| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                let mut needed: Vec<NeededKey> = (0..50).map(subject_number).collect();
                needed
                    .push(NeededKey { kind: KeyKind::Data, scope: Scope::Shared("people".into()) });
                needed.push(NeededKey { kind: KeyKind::Index, scope: Scope::Version(1) });
                Manager::fetch(manager, &needed, NOW).unwrap().iter().map(|key| key.id).collect()
            })
        };
        let threads: Vec<_> = managers.iter().map(race).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers.len(), 1);
    assert_eq!(keys.store().count_subjects("default").unwrap().keys, 50);
}

#[test]
fn a_restored_dump_does_not_bring_the_erased_back() {
    let keys = Keys::new();
    let mut process = keys.start(NOW);
    let (ada, bob) = (process.protect(ADA, NOW).1, process.protect(BOB, NOW).1);
    let dump = keys.directory.0.path().join("keys.dump");
    keys.database.dump(&dump);
    let receipt = erase(&process.manager, "7", NOW + 1);
    keys.database.restore(&dump);
    let kid: KeyId = receipt.receipt["kids"][0].as_str().unwrap().parse().unwrap();
    assert_eq!(keys.stored(&kid).state, KeyState::Active, "the dump has it");
    // A process that was there before must not use what was not erased again.
    for _ in 0..2 {
        let error = process.manager.store().get(&[kid]).unwrap_err().to_string();
        assert!(error.contains("was replaced while this process ran; start it again"), "{error}");
    }
    drop(process);

    let mut process = keys.start(NOW + 2);
    assert_eq!(process.reveal_status(&ada, NOW + 2).1, ERASED);
    assert_eq!(process.try_protect(ADA, NOW + 2), Err(RejectCode::ErasedSubject));
    assert_eq!(process.reveal(&bob, NOW + 2), BOB);
    assert_eq!((keys.stored(&kid).state, keys.stored(&kid).wraps.len()), (KeyState::Shredded, 0));
    assert!(all_is_well(&process.manager, &receipt));
}

/// A server that comes back, and a connection that the server ended: nobody who calls notices.
#[test]
fn a_broken_connection_is_made_again_by_the_next_call() {
    // A server of its own: the others' tests use the common one.
    let server: &'static server::Server = Box::leak(Box::new(server::Server::start()));
    let database = server.database();
    let store = PostgresStore::create(&database.url(), None).unwrap();
    server.restart();
    assert_eq!(store.list("default").unwrap(), []);
    server.restart();
    store.save_uses(&[(KeyId([1; 16]), 1)]).unwrap();
    for _ in 0..3 {
        let mut admin = server.admin("postgres");
        let ended = admin
            .execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
            WHERE usename = 'veil'",
                &[],
            )
            .unwrap();
        assert_eq!(ended, 1, "one connection");
        store.save_uses(&[(KeyId([1; 16]), 2)]).unwrap();
    }
    let uses: i64 =
        database.admin().query_one("SELECT uses FROM veilstream.uses", &[]).unwrap().get(0);
    assert_eq!(uses, 2);
}

/// In the middle of its transaction, waiting for somebody: rolled back by the server, and done
/// again.
#[test]
fn a_write_whose_connection_breaks_before_its_commit_is_done_once() {
    let keys = Keys::new();
    let store = Arc::new(keys.store());
    let mut admin = keys.database.admin();
    let mut holder = keys.database.admin();
    let manager = keys.open(NOW);
    // Read still, but not written.
    holder.batch_execute("BEGIN; LOCK TABLE veilstream.wraps IN SHARE MODE").unwrap();
    let manager = std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            manager.prepare_roots(NOW).unwrap();
            manager
        });
        let waiting = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
            keys.database.name
        );
        let pid: i32 = loop {
            if let Some(row) = admin.query_opt(&waiting, &[]).unwrap() {
                break row.get(0);
            }
        };
        assert!(
            admin
                .query_one("SELECT pg_terminate_backend($1, 10000)", &[&pid])
                .unwrap()
                .get::<_, bool>(0)
        );
        holder.batch_execute("COMMIT").unwrap();
        opening.join().unwrap()
    });
    drop(manager);
    assert_eq!(store.list("default").unwrap().len(), 5, "each root once, and the audit key");
}

#[test]
fn every_session_is_durable_and_bounded_whatever_the_server_says() {
    let keys = Keys::new();
    let store = keys.store();
    let mut holder = keys.database.admin();
    // The test's server has synchronous_commit off, serializable transactions and no timeouts.
    holder.batch_execute("BEGIN; LOCK TABLE veilstream.uses IN ACCESS EXCLUSIVE MODE").unwrap();
    let refused = store.save_uses(&[(KeyId([1; 16]), 1)]).unwrap_err().to_string();
    assert!(refused.contains("lock timeout") && refused.contains("55P03"), "{refused}");
    holder.batch_execute("ROLLBACK").unwrap();
    store.save_uses(&[(KeyId([1; 16]), 1)]).unwrap();
    // A trigger sees what the session has.
    keys.database.sql(
        "CREATE TABLE veilstream.seen (name text, setting text); GRANT ALL ON veilstream.seen TO veil;
         CREATE FUNCTION veilstream.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO veilstream.seen SELECT name, pg_settings.setting FROM pg_settings; RETURN NULL; END $$;
         CREATE TRIGGER note BEFORE UPDATE ON veilstream.keys FOR EACH STATEMENT EXECUTE FUNCTION veilstream.note()",
    );
    let manager = keys.open(NOW);
    manager.prepare(&support::people(), NOW).unwrap();
    manager.store().expire("default", &[], NOW + 1).unwrap();
    let mut admin = keys.database.admin();
    let mut setting = |name: &str| -> String {
        admin
            .query_one("SELECT setting FROM veilstream.seen WHERE name = $1", &[&name])
            .unwrap()
            .get(0)
    };
    assert_eq!(setting("synchronous_commit"), "on");
    assert_eq!(setting("transaction_isolation"), "read committed");
    assert_eq!(
        (setting("statement_timeout"), setting("lock_timeout")),
        ("30000".to_owned(), "10000".to_owned())
    );
}

/// Keys of so many data subjects, which nobody could open.
fn subjects(count: u32) -> String {
    format!(
        "INSERT INTO veilstream.keys SELECT decode(md5(n::text), 'hex'), '', 'data', 'default',
           'subject:' || md5(n::text), 1, 'active', now(), NULL, NULL FROM generate_series(1, {count}) n;
         ANALYZE veilstream.keys"
    )
}

/// Counts of all data subjects take the time that millions take. The other statements of a session are
/// bounded before and after.
#[test]
fn what_goes_through_whole_tables_has_time() {
    let keys = Keys::new();
    let manager = keys.open(NOW);
    manager.prepare(&support::people(), NOW).unwrap();
    let kid = manager.store().list("default").unwrap()[0].kid;
    keys.database.sql(&subjects(1));
    // Views in the tables' places see what the session has that reads them.
    keys.database.sql(
        "CREATE TABLE veilstream.seen (timeout text, seqscan text);
         CREATE FUNCTION veilstream.see() RETURNS boolean LANGUAGE plpgsql COST 0.001 AS $$ BEGIN
           INSERT INTO veilstream.seen VALUES (current_setting('statement_timeout'), current_setting('enable_seqscan'));
           RETURN true; END $$;
         ALTER TABLE veilstream.keys RENAME TO all_keys; ALTER TABLE veilstream.wraps RENAME TO all_wraps;
         CREATE VIEW veilstream.keys AS SELECT * FROM veilstream.all_keys WHERE veilstream.see();
         CREATE VIEW veilstream.wraps AS SELECT * FROM veilstream.all_wraps WHERE veilstream.see();
         GRANT ALL ON ALL TABLES IN SCHEMA veilstream TO veil",
    );
    let store = keys.store();
    let mut admin = keys.database.admin();
    let mut seen = || {
        let sql = "WITH all_seen AS (DELETE FROM veilstream.seen RETURNING *)
            SELECT string_agg(DISTINCT timeout || ' ' || seqscan, ',') FROM all_seen";
        admin.query_one(sql, &[]).unwrap().get::<_, Option<String>>(0)
    };
    let (bounded, whole) = (Some("30s off".to_owned()), Some("10min on".to_owned()));
    store.get(&[kid]).unwrap();
    assert_eq!(seen(), bounded);
    store.count_subjects("default").unwrap();
    assert_eq!(seen(), whole);
    store.count_wrapped_by("key:none").unwrap();
    assert_eq!(seen(), whole);
    store.get(&[kid]).unwrap();
    assert_eq!(seen(), bounded);
}

/// A list of keys costs what there is but data subjects, however many those are.
#[test]
fn data_subjects_are_stepped_over() {
    let keys = Keys::new();
    let manager = keys.open(NOW);
    manager.prepare(&support::people(), NOW).unwrap();
    let before = keys.store().list("default").unwrap().len();
    keys.database.sql(&subjects(20_000));
    let mut admin = keys.database.admin();
    let mut read = || {
        let sql =
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'keys'";
        admin.query_one(sql, &[]).unwrap().get::<_, i64>(0)
    };
    let store = keys.store();
    let start = read();
    for _ in 0..3 {
        assert_eq!(store.list("default").unwrap().len(), before);
        store.shared("default").unwrap();
    }
    // A session that ends says what it read.
    drop(store);
    let since = std::time::Instant::now();
    while read() == start {
        assert!(since.elapsed() < std::time::Duration::from_secs(60), "nothing was read");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(read() - start < 1_000, "{} rows were read", read() - start);
}

#[test]
fn a_store_is_made_once_and_never_in_passing() {
    let database = server().database();
    let url = database.url();
    let refused = error(PostgresStore::open(&url, None));
    assert!(refused.contains("has no key store; make it with `veilstream keys init`"), "{refused}");
    // Of several that make it one does.
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    PostgresStore::create(&url, None).map(drop).map_err(|e| e.to_string())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1, "{made:?}");
    let place = format!(
        "key store {}: is there already; nothing was changed",
        PostgresStore::open(&url, None).unwrap().place()
    );
    assert!(
        made.iter().all(|made| made.as_ref().err().is_none_or(|error| *error == place)),
        "{made:?}"
    );

    database.sql("UPDATE veilstream.layout SET layout = 99");
    let refused = error(PostgresStore::open(&url, None));
    assert!(
        refused.contains("has layout 99, this version reads 4; use a newer veilstream"),
        "{refused}"
    );
    database.sql("DELETE FROM veilstream.layout");
    let refused = error(PostgresStore::open(&url, None));
    assert!(refused.contains("is damaged (table layout)"), "{refused}");
}

#[test]
fn a_store_of_an_earlier_build_is_refused() {
    let database = server().database();
    PostgresStore::create(&database.url(), None).unwrap();
    database.sql("UPDATE veilstream.layout SET layout = 1");
    let refused = error(PostgresStore::open(&database.url(), None));
    assert!(
        refused.contains("of an earlier build") && refused.contains("`veilstream keys init`"),
        "{refused}"
    );
}

/// Two tenants share a server, each in a schema of its own.
#[test]
fn stores_in_two_schemas_are_two() {
    let (database, directory) = (server().database(), Directory::new());
    for (schema, tenant) in [("veilstream", "default"), ("acme_eu", "acme-eu")] {
        let parts = || Parts {
            store: Box::new(PostgresStore::open_in(&database.url(), None, schema).unwrap()),
            ledger: Arc::new(FileLedger::new(directory.path().join(schema))),
            ..directory.parts()
        };
        drop(PostgresStore::create_in(&database.url(), None, schema).unwrap());
        Manager::init(Settings::of(tenant), parts(), NOW).unwrap().prepare_roots(NOW).unwrap();
        assert_eq!(parts().store.list(tenant).unwrap().len(), 5);
        let other = Manager::open(Settings::of("other"), parts(), NOW).err().unwrap();
        assert!(matches!(other, KeyError::OtherTenant { .. }), "{other}");
    }
    let refused = error(PostgresStore::open_in(&database.url(), None, "x; DROP SCHEMA veilstream"));
    assert!(refused.contains("keys.store_schema is no name"), "{refused}");
}

/// Store and ledger in two databases, four hosts that erase at once.
#[test]
fn a_ledger_in_another_database_takes_turns_and_is_set_aside_when_it_is_rebuilt() {
    let (keys, books) = (Keys::new(), server().database());
    let store = server().database();
    drop(PostgresStore::create(&store.url(), None).unwrap());
    let refused = PostgresLedger::open(&books.url(), None).err().unwrap().to_string();
    assert!(refused.contains("has no ledger; make it with `veilstream keys init`"), "{refused}");
    PostgresLedger::create(&books.url(), None).unwrap();
    PostgresLedger::create(&books.url(), None).unwrap();
    let parts = || Parts {
        store: Box::new(PostgresStore::open(&store.url(), None).unwrap()),
        ledger: Arc::new(PostgresLedger::open(&books.url(), None).unwrap()),
        ..keys.directory.parts()
    };
    let open = || Manager::open(Settings::of("default"), parts(), NOW).unwrap();
    Manager::init(Settings::of("default"), parts(), NOW).unwrap().prepare_roots(NOW).unwrap();
    std::thread::scope(|scope| {
        for host in 0..4 {
            scope.spawn(move || {
                let manager = open();
                for n in 0..10 {
                    let wanted = subject_number(host * 100 + n);
                    let Scope::Subject(subject) = wanted.scope else { unreachable!() };
                    manager.fetch(std::slice::from_ref(&wanted), NOW).unwrap();
                    assert!(manager.shred(&[subject], &TERMS, NOW).unwrap()[0].receipt.is_some());
                }
            });
        }
    });
    assert_eq!((parts().ledger.read(0).unwrap().len(), open().revived()), (41, 0));
    books.sql("DELETE FROM veilstream_ledger.lines WHERE seq = 7");
    let refused = Manager::open(Settings::of("default"), parts(), NOW).err().unwrap().to_string();
    assert!(refused.contains("line 7 has another number"), "{refused}");
    let rebuilt = Manager::rebuild_ledger(Settings::of("default"), parts(), "lost", NOW).unwrap();
    assert_eq!(rebuilt.subjects, 40);
    assert!(rebuilt.kept.unwrap().contains("veilstream_ledger.lines_replaced_"));
    assert_eq!((parts().ledger.read(0).unwrap().len(), open().revived()), (41, 0));
}

/// The same instant in another zone is the same time; a part of a second is none of ours.
#[test]
fn a_time_has_one_spelling() {
    let keys = Keys::new();
    let manager = keys.open(NOW);
    manager.prepare_roots(NOW).unwrap();
    let kid = manager.store().list("default").unwrap()[0].kid;
    let set = |time: &str| {
        keys.database
            .sql(&format!("UPDATE veilstream.keys SET created = '{time}' WHERE kid = '\\x{kid}'"))
    };
    set("2026-11-24 07:00:00+01");
    assert!(manager.store().get(&[kid]).is_ok());
    set("2026-11-24 06:00:00.5+00");
    assert!(matches!(manager.store().get(&[kid]), Err(StoreError::Row { what: "created", .. })));
    set("2026-11-24 06:00:01+00");
    assert!(matches!(manager.store().get(&[kid]), Err(StoreError::Corrupt { .. })));
}

#[test]
fn the_tables_are_as_the_public_format_says() {
    let keys = Keys::new();
    keys.start(NOW);
    let mut admin = keys.database.admin();
    let mut columns = |table: &str| -> String {
        let of = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position) FROM information_schema.columns
                  WHERE table_schema = 'veilstream' AND table_name = $1";
        admin.query_one(of, &[&table]).unwrap().get(0)
    };
    assert_eq!(
        columns("keys"),
        "kid bytea, kcv bytea, kind text, tenant text, scope text, version bigint, state text, \
        created timestamp with time zone, retired timestamp with time zone, mac bytea"
    );
    assert_eq!(columns("head"), "store bytea, tenant text, seq bigint, sha256 bytea, mac bytea");
    assert_eq!(columns("wraps"), "kid bytea, kek_uri text, kek_version text, wrapped bytea");
    let created: String = keys
        .database
        .admin()
        .query_one("SELECT DISTINCT (created AT TIME ZONE 'UTC')::text FROM veilstream.keys", &[])
        .unwrap()
        .get(0);
    assert_eq!(created, "2026-11-24 06:00:00");
}

/// Deleted rows are out of the table after it, but for those that somebody still reads, of which it
/// tells.
#[test]
fn scrubbing_takes_deleted_wraps_out_of_the_table() {
    let keys = Keys::new();
    let manager = keys.open(NOW);
    let numbers: Vec<_> = (0..200).map(subject_number).collect();
    manager.fetch(&numbers, NOW).unwrap();
    manager.rotate(&Rotate::Wrapping, NOW).unwrap();
    manager.rewrap(false, NOW, &mut |_| {}).unwrap();
    keys.database.sql("CREATE EXTENSION pgstattuple");
    let dead = || -> i64 {
        keys.database
            .admin()
            .query_one("SELECT dead_tuple_count FROM pgstattuple('veilstream.wraps')", &[])
            .unwrap()
            .get(0)
    };
    assert!(dead() >= 200, "moved once");
    let mut reader = keys.database.admin();
    reader
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM veilstream.wraps",
        )
        .unwrap();
    let Scope::Subject(subject) = numbers[0].scope else { unreachable!() };
    manager.shred(&[subject], &TERMS, NOW).unwrap();
    assert!(dead() >= 1, "what the reader still sees");
    reader.batch_execute("COMMIT").unwrap();
    let scrubbed = keys.store().scrub().unwrap();
    assert_eq!((dead(), scrubbed.remains.len()), (0, 3));
    // A user who may not: it is not passed over.
    keys.database.sql(&format!("ALTER DATABASE {} OWNER TO postgres", keys.database.name));
    keys.database.sql(
        "ALTER TABLE veilstream.wraps OWNER TO postgres; GRANT ALL ON veilstream.wraps TO veil",
    );
    let refused = keys.store().scrub().unwrap_err().to_string();
    assert!(
        refused.contains("were not vacuumed") && refused.contains("own veilstream.wraps"),
        "{refused}"
    );
}

#[test]
fn only_the_right_certificate_is_trusted() {
    let database = server().database();
    let url =
        |host: &str, mode: &str| format!("{}{mode}", server().url(host, PASSWORD, &database.name));
    let (ca, other) = (server().dir.join("ca.pem"), server().dir.join("other-ca.pem"));
    drop(PostgresStore::create(&url("localhost", "?sslmode=verify-full"), Some(&ca)).unwrap());
    let store = PostgresStore::open(&url("localhost", "?sslmode=verify-full"), Some(&ca)).unwrap();
    let encrypted = "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
        WHERE a.usename = 'veil' AND a.datname = current_database()";
    assert!(database.admin().query_one(encrypted, &[]).unwrap().get::<_, bool>(0));
    drop(store);
    for (host, ca) in [("localhost", Some(&*other)), ("localhost", None), ("127.0.0.1", Some(&*ca))]
    {
        let refused = error(PostgresStore::open(&url(host, "?sslmode=verify-full"), ca));
        assert!(refused.contains("certificate verify failed"), "{host} {ca:?}: {refused}");
    }
    // This host needs none.
    PostgresStore::open(&url("127.0.0.1", ""), None).unwrap();
    let refused = error(PostgresStore::open(
        &url("localhost", "?sslmode=verify-full"),
        Some(&server().dir.join("server.log")),
    ));
    assert!(refused.contains("holds no certificate"), "{refused}");
    let refused =
        error(PostgresStore::open(&url("localhost", ""), Some(&server().dir.join("nothing"))));
    assert!(refused.contains("cannot be read"), "{refused}");
}

#[test]
fn a_weaker_sslmode_is_refused_with_what_to_write() {
    for mode in ["allow", "prefer", "require", "verify-ca"] {
        let refused = error(PostgresStore::open(
            &format!("postgres://veil:{PASSWORD}@localhost/keys?sslmode={mode}"),
            None,
        ));
        assert!(
            refused.contains("sslmode must be `verify-full`") && refused.contains("`disable`"),
            "{refused}"
        );
    }
    let refused = error(PostgresStore::open("postgres://localhost/keys?sslmode=no", None));
    assert!(refused.contains("sslmode must be"), "{refused}");
    // TLS is the default for every address that is no loopback, and this one leads here all the
    // same.
    let elsewhere = server().url("0.0.0.0", PASSWORD, "postgres");
    let refused = error(PostgresStore::open(&elsewhere, None));
    assert!(refused.contains("certificate verify failed"), "{refused}");
}

#[test]
fn no_message_holds_user_or_password() {
    let database = server().database();
    let nobody = ports::free_port();
    let secret = "s3cret";
    let port = server()
        .url("h", "p", "d")
        .rsplit(':')
        .next()
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let mut messages = Vec::new();
    for (url, says) in [
        (
            server().url("127.0.0.1", secret, &database.name),
            "refused the user or the password (SQLSTATE 28P01",
        ),
        (
            format!("postgres://hidden:{secret}@127.0.0.1:{port}/{}", database.name),
            "refused the user or the password (SQLSTATE 28",
        ),
        (server().url("127.0.0.1", PASSWORD, "nowhere"), "no such database"),
        (format!("postgres://hidden:{secret}@127.0.0.1:{nobody}/keys"), "Connection refused"),
        (format!("postgres://hidden:{secret}@nowhere.invalid/keys"), "failed to lookup address"),
        (format!("postgres://hidden:{secret}@/keys"), "names no host"),
        (format!("postgres://hidden:{secret}@localhost"), "names no database"),
        (format!("postgres://hidden:{secret}@localhost:port/keys"), "is no URL"),
        (format!("postgres://hidden:x@{secret}@localhost/keys"), "more than one `@`"),
        (format!("postgres://hidden:x%ff{secret}@localhost/keys?{secret}"), "is no URL"),
        (format!("postgres://localhost/keys?pasword={secret}"), "is no URL"),
        (format!("postgres://hidden:{secret}@localhost/keys?hostaddr=10.0.0.1"), "hostaddr"),
        (
            format!(
                "postgres://hidden:{secret}@localhost/keys?sslmode=disable&sslmode=verify-full"
            ),
            "more than one `sslmode`",
        ),
        (format!("host=localhost user=hidden password={secret}"), "is no URL"),
        (format!("mysql://hidden:{secret}@localhost/keys"), "is no URL"),
    ] {
        let message = error(PostgresStore::open(&url, None));
        assert!(message.contains(says), "{url}: {message}");
        messages.push(message);
    }
    let store = PostgresStore::create(&database.url(), None).unwrap();
    assert_eq!(store.place(), format!("postgres://127.0.0.1:{port}/{}", database.name));
    messages.push(store.place());
    database.sql("DROP TABLE veilstream.wraps");
    messages.push(store.list("default").unwrap_err().to_string());
    messages.push(store.scrub().unwrap_err().to_string());
    for message in &messages {
        assert!(
            ![secret, PASSWORD, "hidden", "veil:", "\"veil\"", "user=veil"]
                .iter()
                .any(|hidden| message.contains(hidden)),
            "{message}"
        );
    }
    assert!(server().log().contains("password authentication failed"), "the server was asked");
}
