//! Work on rows, by itself: pages, comparison, faults.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};

use veilstream::rows::{
    Change, Compare, Connection, Layout, Row, RowsError, Table, TableName, WalkError, WalkOptions,
    Walked, Work, walk,
};
use veilstream_keys::store::PostgresAddress;

use crate::postgres_server::{Database, server};

const SECRET: &str = "canary-4711@example.com";

fn address(database: &Database) -> PostgresAddress {
    PostgresAddress::parse(&database.url(), None, "--postgres-ca-file").unwrap()
}

fn table(database: &Database, name: &str, key: &[&str]) -> Result<Table, RowsError> {
    let name: TableName = name.parse().unwrap();
    let key: Vec<String> = key.iter().map(|column| (*column).to_owned()).collect();
    Table::find(&mut Connection::open(&address(database)).unwrap(), &name, &key)
}

/// Writes `<old>+` for each cell, and does something in between.
struct Append<F> {
    between: F,
    seen: Vec<Vec<String>>,
}

impl<F: FnMut(&[Row])> Work for Append<F> {
    type Error = Infallible;

    fn changes(&mut self, rows: &[Row]) -> Result<Vec<Change>, Infallible> {
        (self.between)(rows);
        self.seen.extend(rows.iter().map(|row| row.key.clone()));
        let change = |(row, of): (usize, &Row)| {
            let old = String::from_utf8(of.cells[0].clone()?).unwrap();
            Some(Change { row, cells: vec![Some(format!("{old}+"))] })
        };
        Ok(rows.iter().enumerate().filter_map(change).collect())
    }
}

fn append(
    database: &Database,
    layout: &Layout,
    batch: usize,
    dry_run: bool,
    between: impl FnMut(&[Row]),
) -> (Result<Walked, WalkError<Infallible>>, Vec<Vec<String>>) {
    let stop = AtomicBool::new(false);
    let options = WalkOptions { batch, rate: None, dry_run, stop: &stop };
    let (mut work, mut told) = (Append { between, seen: Vec::new() }, 0);
    let walked = walk(&address(database), layout, &options, &mut work, &mut |progress| {
        assert!(progress.done > told);
        told = progress.done;
    });
    (walked, work.seen)
}

fn written(database: &Database, sql: &str) -> i64 {
    database.admin().query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn every_row_is_seen_once_in_the_order_of_any_key() {
    let database = server().database();
    database.sql(
        "CREATE TABLE numbers (id bigint PRIMARY KEY, v text);
         INSERT INTO numbers SELECT i * 3 - 1500, 'v' || i FROM generate_series(1, 1003) i;
         INSERT INTO numbers VALUES (9223372036854775807, NULL);
         CREATE TABLE ids (id uuid PRIMARY KEY, v varchar(99));
         INSERT INTO ids SELECT gen_random_uuid(), 'v' FROM generate_series(1, 503);
         CREATE SCHEMA \"Odd\";
         CREATE TABLE \"Odd\".\"T\" (\"a\"\"b\" text, n integer, v text, UNIQUE (n, \"a\"\"b\"));
         ALTER TABLE \"Odd\".\"T\" ALTER n SET NOT NULL, ALTER \"a\"\"b\" SET NOT NULL;
         INSERT INTO \"Odd\".\"T\" SELECT 'k''' || i % 7, i / 7, 'v' FROM generate_series(1, 500) i;
         CREATE TABLE parts (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (MINVALUE) TO (100);
         CREATE TABLE high PARTITION OF parts FOR VALUES FROM (100) TO (MAXVALUE);
         INSERT INTO parts SELECT i, 'v' FROM generate_series(1, 300) i;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO veil; GRANT USAGE ON SCHEMA \"Odd\" TO veil;
         GRANT ALL ON \"Odd\".\"T\" TO veil",
    );
    for (name, key, rows, nulls) in [
        ("numbers", &["id"][..], 1004, 1),
        ("public.ids", &[], 503, 0),
        ("Odd.T", &["a\"b", "n"], 500, 0),
        ("parts", &["id"], 300, 0),
    ] {
        let table = table(&database, name, key).unwrap();
        assert_eq!(table.estimate, rows, "{name}");
        let sql = table.sql.clone();
        let layout = Layout::new(table, &["v"], &["v"], Compare::Cells, &["v"]).unwrap();
        let (walked, dry) = append(&database, &layout, 100, true, |_| {});
        assert_eq!((walked.unwrap().rows, dry.len() as u64), (rows, rows), "{name}");
        let changed = format!("SELECT count(*) FROM {sql} WHERE v LIKE '%+'");
        assert_eq!(written(&database, &changed), 0, "a dry run writes nothing");
        // One page more than rows, the last page full, and one row a page.
        for (round, batch) in [(1, 100), (2, 1004), (3, 251)] {
            let (walked, mut seen) = append(&database, &layout, batch, false, |_| {});
            let rest = rows - nulls;
            assert_eq!(walked.unwrap(), Walked { rows, written: rest, ..Walked::default() });
            let plus = "+".repeat(round);
            let done = format!("SELECT count(*) FROM {sql} WHERE v ~ '^v[0-9]*[{plus}]+$'");
            assert_eq!(written(&database, &done) as u64, rest, "{name}");
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len() as u64, rows, "{name}");
        }
    }
}

#[test]
fn what_others_wrote_meanwhile_stays() {
    let database = server().database();
    for (compare, other_cell) in [(Compare::Cells, true), (Compare::Version, false)] {
        database.sql(
            "DROP TABLE IF EXISTS t; CREATE TABLE t (id integer PRIMARY KEY, v text, w text);
             INSERT INTO t SELECT i, 'v', 'w' FROM generate_series(1, 50) i; GRANT ALL ON t TO veil",
        );
        let table = table(&database, "t", &["id"]).unwrap();
        let layout = Layout::new(table, &["v"], &["v"], compare, &["v"]).unwrap();
        let (walked, _) = append(&database, &layout, 20, false, |rows| {
            if rows[0].key == ["21"] {
                database.sql(
                    "UPDATE t SET v = 'theirs' WHERE id = 22; UPDATE t SET v = NULL WHERE id = 23;
                     DELETE FROM t WHERE id = 24; UPDATE t SET w = 'theirs' WHERE id = 25",
                );
            }
        });
        let missed = if other_cell { 3 } else { 4 };
        let expected = Walked { rows: 50, written: 50 - missed, missed, stopped: false };
        assert_eq!(walked.unwrap(), expected);
        let kept =
            "SELECT count(*) FROM t WHERE (id, v) = (22, 'theirs') OR (id = 23 AND v IS NULL)
            OR (id, w) = (25, 'theirs')";
        assert_eq!(written(&database, kept), 3);
        assert_eq!(written(&database, "SELECT count(*) FROM t WHERE v = 'v+'") as u64, 50 - missed);
    }
}

/// A transaction that holds rows keeps the walk waiting; a deadlock is tried again.
#[test]
fn a_lock_of_others_is_waited_for() {
    let database = server().database();
    database.sql(
        "CREATE TABLE t (id integer PRIMARY KEY, v text);
         INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i; GRANT ALL ON t TO veil",
    );
    let table = table(&database, "t", &["id"]).unwrap();
    let layout = Layout::new(table, &["v"], &["v"], Compare::Cells, &["v"]).unwrap();
    let mut other = database.admin();
    let mut held = other.transaction().unwrap();
    held.execute("UPDATE t SET v = 'theirs' WHERE id = 7", &[]).unwrap();
    let walked = std::thread::scope(|scope| {
        let walking = scope.spawn(|| append(&database, &layout, 100, false, |_| {}).0);
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
            AND query LIKE 'UPDATE%'";
        while written(&database, waits) == 0 {
            assert!(!walking.is_finished(), "it did not wait");
            std::thread::yield_now();
        }
        held.commit().unwrap();
        walking.join().unwrap()
    });
    assert_eq!(walked.unwrap(), Walked { rows: 100, written: 99, missed: 1, stopped: false });
    assert_eq!(written(&database, "SELECT count(*) FROM t WHERE v = 'theirs'"), 1);
}

#[test]
fn a_walk_that_is_told_so_stops() {
    let database = server().database();
    database.sql(
        "CREATE TABLE t (id integer PRIMARY KEY, v text);
         INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i; GRANT ALL ON t TO veil",
    );
    let table = table(&database, "t", &["id"]).unwrap();
    let layout = Layout::new(table, &["v"], &["v"], Compare::Cells, &["v"]).unwrap();
    let stop = AtomicBool::new(false);
    let options = WalkOptions { batch: 10, rate: None, dry_run: false, stop: &stop };
    let mut work = Append { between: |_: &[Row]| {}, seen: Vec::new() };
    let walked = walk(&address(&database), &layout, &options, &mut work, &mut |progress| {
        stop.store(progress.done >= 30, Ordering::Relaxed);
    });
    assert_eq!(walked.unwrap(), Walked { rows: 30, written: 30, missed: 0, stopped: true });
    assert_eq!(written(&database, "SELECT count(*) FROM t WHERE v = 'v+'"), 30);
}

#[test]
fn what_cannot_be_walked_is_refused_by_name() {
    let database = server().database();
    database.sql(
        "CREATE TABLE t (id integer PRIMARY KEY, v text, other text UNIQUE, part text NOT NULL,
            f float8 NOT NULL UNIQUE, n integer, g text GENERATED ALWAYS AS (v || 'x') STORED);
         CREATE UNIQUE INDEX ON t (part) WHERE id > 3;
         CREATE VIEW view AS SELECT * FROM t; CREATE TABLE child () INHERITS (t);
         CREATE TABLE good (LIKE t INCLUDING ALL); GRANT ALL ON ALL TABLES IN SCHEMA public TO veil",
    );
    let said = |result: Result<Table, RowsError>| result.err().unwrap().to_string();
    assert!(said(table(&database, "nothing", &["id"])).contains("no table nothing"));
    assert!(said(table(&database, "view", &["id"])).contains("public.view is no table"));
    assert!(said(table(&database, "t", &["id"])).contains("parent of tables"));
    assert!(said(table(&database, "good", &["nope"])).contains("no column nope; it has f, g, id"));
    for column in ["v", "other", "part"] {
        assert!(said(table(&database, "good", &[column])).contains(&format!("{column} is no key")));
    }
    assert!(said(table(&database, "good", &["f"])).contains("good.f is double precision"));
    let good = table(&database, "good", &["id"]).unwrap();
    let layout = |write: &str| {
        Layout::new(good.clone(), &["v"], &[write], Compare::Cells, &["v"])
            .err()
            .unwrap()
            .to_string()
    };
    assert!(layout("n").contains("good.n is integer; tokens and indexes need text"));
    assert!(layout("g").contains("good.g is generated"));
    assert!(layout("w").contains("no column w"));
}

/// What the server refuses, and what it writes down about it, quotes no row: neither here nor in
/// its log, where the role may keep it out.
#[test]
fn a_refusal_quotes_no_row() {
    let database = server().database();
    let logs = || Connection::open(&address(&database)).unwrap().logs_parameters().unwrap();
    assert!(!logs());
    database.sql(&format!("ALTER DATABASE {} SET log_statement = 'all'", database.name));
    assert!(logs(), "this role may not keep them out");
    database.sql(&format!(
        "CREATE TABLE t (id integer PRIMARY KEY, v text, n varchar(3), clear text,
            CONSTRAINT tokens_only CHECK (v !~ '[+]$'));
         INSERT INTO t VALUES (1, '{SECRET}', NULL, '{SECRET}');
         CREATE TABLE hidden (id integer PRIMARY KEY, v text);
         INSERT INTO hidden VALUES (1, 'v'); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
         CREATE TABLE foreign_one (id integer PRIMARY KEY, v text);
         GRANT ALL ON t, hidden TO veil;
         GRANT SET ON PARAMETER log_parameter_max_length, log_error_verbosity TO veil"
    ));
    assert!(!logs(), "this one may");
    let fault = |name: &str, write: &str| {
        let table = table(&database, name, &["id"]).unwrap();
        let layout = Layout::new(table, &["v"], &[write], Compare::Cells, &["v"]).unwrap();
        append(&database, &layout, 10, false, |_| {}).0.unwrap_err().to_string()
    };
    let check = fault("t", "v");
    assert!(check.contains("the check tokens_only refuses"), "{check}");
    let narrow = fault("t", "n");
    assert!(narrow.contains("too narrow"), "{narrow}");
    let hidden = table(&database, "hidden", &["id"]).err().unwrap().to_string();
    assert!(hidden.contains("row security"), "{hidden}");
    for text in [&check, &narrow, &hidden] {
        assert!(!text.contains("canary"), "{text}");
    }
    let log = server().log();
    // What the test itself said is there too.
    let own =
        "INSERT INTO t VALUES (1, 'canary-4711@example.com', NULL, 'canary-4711@example.com')";
    let log = log.replace(own, "");
    assert!(log.contains("tokens_only") && !log.contains("canary"), "{log}");
}
