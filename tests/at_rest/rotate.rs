//! `rotate postgres` and `rotate report`: what moves, what stays, what is told.

use serde_json::{Value, json};

use crate::desk::{Desk, said, text};
use crate::postgres_server::server;

const SHARED: &str = r#"{"veilstream":1,"name":"people","version":1,"fields":[
  {"id":"email","path":"$.email","index":{"normalize":"email"}},
  {"id":"name","path":"$.name","index":{"normalize":"text","bits":24,"of":["$.name","$.city"],"into":"who"}},
  {"id":"ssn","path":"$.ssn","bind":[{"name":"id","path":"$.id"}]},
  {"id":"card","path":"$.card","protect":"deterministic","root":1}]}"#;
const SHARED_TABLE: &str =
    "CREATE TABLE people (id bigint PRIMARY KEY, email text, email_bidx text,
    email_bidx_prev text, name varchar(200), who text, city text, ssn text, card text)";

const SUBJECTS: &str = r#"{"veilstream":1,"name":"people","version":1,"subject":"$.id","subject_optional":true,"fields":[
  {"id":"email","path":"$.email","index":{"normalize":"email"}},
  {"id":"ssn","path":"$.ssn","bind":[{"name":"id","path":"$.id"}]}]}"#;
const SUBJECTS_TABLE: &str =
    "CREATE TABLE people (id text PRIMARY KEY, email text, email_bidx text, ssn text)";

fn person(id: usize) -> Value {
    json!({ "id": id, "email": format!("Canary{id}@EXAMPLE.com"), "name": format!("Canary {id}"),
        "city": "Delft", "ssn": format!("078-05-{id:04}"), "card": "4111111111111111" })
}

fn prefixes(desk: &Desk, column: &str) -> Vec<String> {
    let version = format!("split_part({column}, '~', 1)");
    let sql =
        format!("SELECT DISTINCT {version} FROM people WHERE {column} IS NOT NULL ORDER BY 1");
    desk.rows().query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn tokens_move_to_the_newest_key_and_indexes_to_the_newest_root() {
    let desk = Desk::new(SHARED, SHARED_TABLE);
    let events: Vec<Value> = (0..250).map(person).collect();
    desk.store(&events);
    desk.insert(&[json!({ "id": 1000, "city": "Delft" })]);
    let before = desk.reveal();
    let (fresh, counts, _) = desk.rotated("report", &[]);
    assert!(fresh && counts["counts"]["rows"] == 251, "{counts}");
    let first = counts["counts"]["fields"]["email"]["keys"][0]["kid"].clone();

    desk.keys(&["rotate", "--shared"]);
    desk.keys(&["rotate", "--index"]);
    let (fresh, counts, _) = desk.rotated("report", &[]);
    assert!(!fresh && counts["old"] == 750, "{counts}");
    let stored = "SELECT md5(string_agg(people::text, ',' ORDER BY id)) FROM people";
    let sum = || desk.rows().query_one(stored, &[]).unwrap().get::<_, String>(0);
    let untouched = sum();
    let (fresh, dry, _) = desk.rotated("postgres", &["--dry-run"]);
    assert!(!fresh && dry["old"] == 750 && dry["written"] == 0 && sum() == untouched, "{dry}");

    let (whole, done, told) = desk.rotated("postgres", &["--batch", "64", "--key", "id"]);
    assert!(whole, "{done} {told}");
    assert_eq!(
        (&done["written"], &done["old"], &done["walks"]),
        (&250.into(), &0.into(), &2.into())
    );
    let moved = done["moved"].as_array().unwrap();
    assert_eq!(moved.len(), 3);
    assert!(moved.iter().all(|line| line["from"] == first && line["tokens"] == 250), "{done}");
    assert!(told.contains("card is left as it is: it is deterministic"), "{told}");
    assert_eq!(desk.reveal(), before, "and everything opens as before");
    // Both roots are written: the newest beside the one before, of unique indexes.
    assert_eq!(prefixes(&desk, "email_bidx").concat(), "2");
    assert_eq!(prefixes(&desk, "email_bidx_prev").concat(), "1");
    assert_eq!(prefixes(&desk, "who").concat(), "2");
    let search = |field: &str, values: &[&str]| {
        let start = ["index", "--config", "veilstream.toml", "--schema", "people.json", "--field"];
        desk.ok(&[&start, &[field][..], values].concat(), "")
    };
    let email = search("email", &["canary7@example.com"]);
    let newest = email.lines().next().unwrap().to_owned();
    assert_eq!(desk.count(&format!("email_bidx = '{newest}' AND id = 7")), 1);
    let previous = email.lines().nth(1).unwrap();
    assert_eq!(desk.count(&format!("email_bidx_prev = '{previous}' AND id = 7")), 1);
    let who = search("name", &["canary 7", "DELFT"]);
    assert_eq!(desk.count(&format!("who = '{}' AND id = 7", who.lines().next().unwrap())), 1);

    let (whole, again, _) = desk.rotated("postgres", &[]);
    assert!(whole && again["written"] == 0 && again["walks"] == 1, "{again}");
    assert!(desk.rotated("report", &[]).0);
}

#[test]
fn a_receipt_names_what_is_under_keys_of_other_systems() {
    let badges = r#"{"veilstream":1,"name":"badges","version":1,"fields":[
        {"id":"badge","path":"$.badge","type":"string","format":"fernet"}]}"#;
    let desk = Desk::new(badges, "CREATE TABLE people (id bigint)");
    let persons = r#"{"veilstream":1,"name":"persons","version":1,"subject":"$.id","fields":[
        {"id":"email","path":"$.email"}]}"#;
    std::fs::write(desk.path("persons.json"), persons).unwrap();
    let shared = ["--config", "veilstream.toml"];
    let transform = [&["transform", "--schema", "persons.json"], &shared[..]].concat();
    desk.ok(&transform, r#"{"id":7,"email":"canary@example.com"}"#);
    let shred = [&["shred", "--subject", "7", "--reason", "request 1"], &shared[..]].concat();
    let receipt: Value = serde_json::from_str(&desk.ok(&shred, "")).unwrap();
    let expected =
        "values of the field badges.badge, which are fernet under keys of another system";
    let remains = receipt["receipt"]["remains"].as_array().unwrap();
    assert!(remains.contains(&expected.into()), "{receipt}");
}

#[test]
fn columns_in_the_form_of_another_system_stay() {
    let before = r#"{"veilstream":1,"name":"people","version":1,"fields":[
        {"id":"email","path":"$.email"}]}"#;
    let desk =
        Desk::new(before, "CREATE TABLE people (id bigint PRIMARY KEY, email text, badge text)");
    let event = |id| json!({ "id": id, "email": "canary@example.com", "badge": "gAAAAABnZGk" });
    desk.store(&(0..20).map(event).collect::<Vec<_>>());
    let with_badge = before
        .replace("]}", r#",{"id":"badge","path":"$.badge","type":"string","format":"fernet"}]}"#);
    std::fs::write(desk.path("people.json"), with_badge).unwrap();
    desk.keys(&["rotate", "--shared"]);
    for what in ["postgres", "report"] {
        let (whole, done, told) = desk.rotated(what, &[]);
        assert!(whole && !told.contains("clear"), "{done} {told}");
        assert!(told.contains("badge is left as it is: it is in the form of another"), "{told}");
    }
    assert_eq!(desk.count("badge = 'gAAAAABnZGk'"), 20);
}

#[test]
fn reindex_writes_what_is_missing_and_nothing_else() {
    let desk = Desk::new(SHARED, SHARED_TABLE);
    desk.store(&(0..40).map(person).collect::<Vec<_>>());
    desk.rows()
        .batch_execute(
            "UPDATE people SET email_bidx = NULL WHERE id < 10;
             UPDATE people SET who = '1~AAAA' WHERE id = 11",
        )
        .unwrap();
    let tokens = "SELECT md5(string_agg(email || name || ssn, ',' ORDER BY id)) FROM people";
    let sum = || desk.rows().query_one(tokens, &[]).unwrap().get::<_, String>(0);
    let untouched = sum();
    let (whole, plain, _) = desk.rotated("postgres", &[]);
    assert!(whole && plain["written"] == 0, "without it, tokens that stay are not opened: {plain}");
    let (whole, done, _) = desk.rotated("postgres", &["--reindex"]);
    assert!(whole && done["written"] == 10, "{done}");
    assert_eq!((desk.count("email_bidx IS NULL"), sum()), (0, untouched));

    desk.keys(&["rotate", "--index"]);
    let (_, old, _) = desk.rotated("postgres", &["--reindex", "--dry-run"]);
    assert_eq!(old["old_indexes"], 80, "{old}");
    let (whole, done, _) = desk.rotated("postgres", &["--reindex"]);
    assert!(whole && done["written"] == 40 && done["old_indexes"] == 0, "{done}");
    assert_eq!(prefixes(&desk, "who").concat(), "2");
    assert!(desk.reveal().iter().all(|row| row["email"].as_str().unwrap().contains('@')));

    // A column that the table does not have.
    desk.rows().batch_execute("ALTER TABLE people DROP COLUMN email_bidx").unwrap();
    let output = desk.rotate("postgres", &["--reindex"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("no column for the index of email"), "{}", said(&output));
}

/// A row with a value that does not open is named by its key and stays; the rest moves.
#[test]
fn what_does_not_open_is_named_and_left_alone() {
    let desk = Desk::new(SHARED, SHARED_TABLE);
    desk.store(&(0..30).map(person).collect::<Vec<_>>());
    desk.rows()
        .batch_execute(
            "UPDATE people SET email = 'canary-clear@example.com' WHERE id = 3;
             UPDATE people SET email = overlay(email placing 'AAAAAAAA' from 60) WHERE id = 4;
             UPDATE people SET email = left(email, 30) WHERE id = 5;
             UPDATE people SET email = p.ssn FROM people p WHERE people.id = 6 AND p.id = 6;
             UPDATE people SET ssn = p.ssn FROM people p WHERE people.id = 7 AND p.id = 8;
             UPDATE people SET email = overlay(email placing 'AAAAAAAAAAAA' from 12) WHERE id = 9",
        )
        .unwrap();
    let bad = "SELECT string_agg(coalesce(email, '') || ssn, ',' ORDER BY id) FROM people
        WHERE id BETWEEN 3 AND 9 AND id <> 8";
    let before: String = desk.rows().query_one(bad, &[]).unwrap().get(0);
    desk.keys(&["rotate", "--shared"]);
    let (whole, done, told) = desk.rotated("postgres", &[]);
    assert!(!whole, "{done}");
    for line in [
        "id=3: email: clear",
        "id=4: email: corrupt",
        "id=5: email: malformed",
        "id=6: email: field_mismatch",
        "id=7: ssn: corrupt",
        "id=9: email: key_unavailable",
    ] {
        assert!(told.contains(&format!("veilstream: {line}\n")), "{line}: {told}");
    }
    assert_eq!(told.lines().filter(|line| line.contains("id=")).count(), 6, "each once: {told}");
    let emails = &done["counts"]["fields"]["email"];
    assert_eq!((&done["failed"], &emails["failed"]["clear"]), (&6.into(), &1.into()));
    // What stands under a known key and does not open is old as well.
    assert_eq!((&emails["old"], &done["counts"]["fields"]["ssn"]["old"]), (&1.into(), &1.into()));
    let after: String = desk.rows().query_one(bad, &[]).unwrap().get(0);
    // The other fields of these rows moved.
    assert_ne!(after, before);
    assert_eq!(desk.count("id = 3 AND email = 'canary-clear@example.com'"), 1);
    assert!(!told.contains("canary") && !done.to_string().contains("canary"), "{told}");
    let (whole, again, _) = desk.rotated("postgres", &[]);
    assert!(!whole && again["written"] == 0 && again["walks"] == 1, "{again}");
}

#[test]
fn retired_and_compromised_keys_open_as_for_everybody() {
    let desk = Desk::new(SHARED, SHARED_TABLE);
    desk.store(&(0..5).map(person).collect::<Vec<_>>());
    let (_, counts, _) = desk.rotated("report", &[]);
    let kid = counts["counts"]["fields"]["email"]["keys"][0]["kid"].as_str().unwrap().to_owned();
    desk.keys(&["compromise", &kid]);
    let (whole, shut, told) = desk.rotated("postgres", &[]);
    assert!(!whole && shut["written"] == 0, "{shut}");
    assert!(told.contains("id=0: email: key_unavailable"), "{told}");
    let (whole, done, _) = desk.rotated("postgres", &["--allow-compromised"]);
    assert!(whole && done["written"] == 5, "{done}");
    assert_eq!(desk.reveal().len(), 5);
    desk.store(&[person(7)]);
    desk.keys(&["rotate", "--shared"]);
    let (_, counts, _) = desk.rotated("report", &[]);
    let kid = counts["counts"]["fields"]["email"]["keys"][0]["kid"].as_str().unwrap().to_owned();
    desk.keys(&["retire", &kid, "--unreferenced"]);
    let (whole, shut, _) = desk.rotated("postgres", &[]);
    assert!(!whole && shut["failed"] == 18, "{shut}");
    desk.keys(&["retire", &kid, "--undo"]);
    assert!(desk.rotated("postgres", &[]).0);
}

/// Each person's tokens go under that person's newest key. Who is erased stays erased, and a token
/// in another person's row stays where it is.
#[test]
fn tokens_of_data_subjects_stay_theirs() {
    let desk = Desk::new(SUBJECTS, SUBJECTS_TABLE);
    let people: Vec<Value> = (0..20)
        .map(|id| json!({ "id": format!("p{id}"), "email": format!("canary{id}@example.com"), "ssn": "078-05-1120" }))
        .collect();
    desk.store(&people);
    for id in ["p1", "p2", "p3"] {
        desk.keys(&["rotate", "--subject", id]);
    }
    desk.ok(&["shred", "--config", "veilstream.toml", "--subject", "p3", "--reason", "test"], "");
    desk.rows()
        .batch_execute("UPDATE people SET email = p.email FROM people p WHERE people.id = 'p4' AND p.id = 'p1'")
        .unwrap();
    let (fresh, counts, _) = desk.rotated("report", &[]);
    assert!(!fresh, "{counts}");
    let emails = &counts["counts"]["fields"]["email"];
    assert_eq!((&emails["old"], &emails["erased"]), (&3.into(), &1.into()), "{counts}");
    let (whole, done, told) = desk.rotated("postgres", &[]);
    assert!(!whole && done["written"] == 2, "{done}");
    assert!(told.contains("id=p4: email: binding"), "{told}");
    assert_eq!(done["counts"]["fields"]["email"]["erased"], 1);
    let opened = desk.reveal();
    let of = |id: &str| opened.iter().find(|row| row["id"] == id).unwrap().clone();
    assert_eq!(
        (&of("p1")["email"], &of("p2")["ssn"]),
        (&"canary1@example.com".into(), &"078-05-1120".into())
    );
    assert!(of("p3")["email"].as_str().unwrap().starts_with("vs1."));
    assert!(of("p4")["email"].as_str().unwrap().starts_with("vs1."));
    desk.rows().batch_execute("DELETE FROM people WHERE id = 'p4'").unwrap();
    let (whole, again, _) = desk.rotated("postgres", &[]);
    assert!(whole && again["written"] == 0, "{again}");
}

/// Tokens that name nobody and are bound to nothing stay so, but for whom rows are trusted.
#[test]
fn rows_are_trusted_by_whoever_says_so_alone() {
    let loose = r#"{"veilstream":1,"name":"people","version":1,"fields":[
        {"id":"email","path":"$.email","index":{"normalize":"email"}},{"id":"ssn","path":"$.ssn"}]}"#;
    let desk = Desk::new(loose, SUBJECTS_TABLE);
    let people: Vec<Value> = (0..10)
        .map(|id| json!({ "id": format!("p{id}"), "email": format!("canary{id}@example.com"), "ssn": "078-05-1120" }))
        .collect();
    desk.store(&people);
    std::fs::write(desk.path("people.json"), SUBJECTS).unwrap();
    desk.keys(&["rotate", "--shared"]);
    let (whole, done, _) = desk.rotated("postgres", &[]);
    assert!(whole && done["written"] == 10 && done["trusted"] == 0, "{done}");
    let ssn = &done["counts"]["fields"]["ssn"];
    assert_eq!((&ssn["without_subject"], &ssn["without_binding"]), (&10.into(), &10.into()));
    // Whom nothing is sealed for yet.
    desk.run(&["shred", "--config", "veilstream.toml", "--subject", "p9", "--reason", "test"], "");
    let (whole, done, told) = desk.rotated("postgres", &["--trust-rows"]);
    assert!(!whole && done["trusted"] == 18 && done["written"] == 9, "{done}");
    assert!(told.contains("id=p9: email: erased_subject"), "{told}");
    let ssn = &done["counts"]["fields"]["ssn"];
    assert_eq!((&ssn["without_subject"], &ssn["without_binding"]), (&1.into(), &1.into()));
    desk.rows().batch_execute("DELETE FROM people WHERE id = 'p9'").unwrap();
    assert_eq!(desk.reveal(), people[..9]);
    // Now they are tied: in another row they do not open.
    desk.rows()
        .batch_execute(
            "UPDATE people SET ssn = p.ssn FROM people p WHERE people.id = 'p1' AND p.id = 'p2'",
        )
        .unwrap();
    assert!(desk.reveal()[1]["ssn"].as_str().unwrap().starts_with("vs1."));
}

/// A honey token moves like its neighbours, stays one, and raises no alarm on the way.
#[test]
fn honey_moves_and_does_not_stand_out() {
    let desk = Desk::new(SHARED, SHARED_TABLE);
    desk.store(&(0..5).map(person).collect::<Vec<_>>());
    let start = ["honey", "create", "--config", "veilstream.toml", "--schema", "people.json"];
    let honey = desk.ok(&[&start[..], &["--field", "email", "jane@example.com"]].concat(), "");
    desk.rows().execute("UPDATE people SET email = $1 WHERE id = 3", &[&honey.trim()]).unwrap();
    desk.keys(&["rotate", "--shared"]);
    let (whole, done, told) = desk.rotated("postgres", &[]);
    assert!(whole && done["written"] == 5, "{done} {told}");
    let kids = "SELECT count(DISTINCT substr(email, 5, 24)) FROM people";
    assert_eq!(desk.rows().query_one(kids, &[]).unwrap().get::<_, i64>(0), 1);
    assert!(!told.contains("alarm") && !done.to_string().contains("honey"), "{told}");
    let lines = desk.audit_lines();
    assert!(!lines.iter().any(|line| line["event"] == "honey"), "not by rotation");
    desk.reveal();
    assert!(desk.audit_lines().iter().any(|line| line["event"] == "honey"), "it still is one");
}

#[test]
fn the_audit_log_has_begin_and_end_and_nothing_goes_without() {
    let desk = Desk::new(SHARED, SHARED_TABLE);
    desk.store(&(0..5).map(person).collect::<Vec<_>>());
    desk.keys(&["rotate", "--shared"]);
    let unaudited = desk.unaudited();
    let arguments = [
        "rotate",
        "postgres",
        "--config",
        &unaudited,
        "--postgres-file",
        "app.url",
        "--table",
        "people",
        "--schema",
        "people.json",
    ];
    let refused = desk.run(&arguments, "");
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("no [audit] section"), "{}", said(&refused));
    let (whole, done, told) = desk.rotated("postgres", &[]);
    assert!(whole, "{done}");
    let lines: Vec<Value> =
        desk.audit_lines().into_iter().filter(|line| line["event"] == "rotate").collect();
    let reasons: Vec<&str> = lines.iter().map(|line| line["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons[0], "rotate postgres begin: public.people");
    assert_eq!(lines[0]["fields"], json!({ "email": "rotate", "name": "rotate", "ssn": "rotate" }));
    assert!(reasons[1..].iter().all(|reason| *reason == "rotate postgres end: public.people"));
    let rotated: Vec<&Value> =
        lines.iter().filter(|line| line["fields"]["email"] == "rotated").collect();
    assert_eq!((rotated.len(), &rotated[0]["items"]), (1, &5.into()));
    assert_eq!(rotated[0]["kids"][0], done["moved"][0]["from"]);
    assert!(lines.iter().any(|line| line["fields"]["ssn"] == "newest" && line["items"] == 5));
    assert!(lines.iter().all(|line| line["schema"] == "people" && line["actor"].is_string()));
    // Nothing in clear anywhere.
    let everything = format!("{told}{done}{}{}", text(&desk.path("audit.jsonl")), server().log());
    assert!(!everything.contains("Canary") && !everything.contains("078-05"), "{everything}");
    desk.ok(&["audit", "verify", "--config", "veilstream.toml", "--key", "verifier.key"], "");
}

#[test]
fn columns_are_found_by_the_names_of_a_sink_or_as_told() {
    let nested = r#"{"veilstream":1,"name":"people","version":1,"fields":[
        {"id":"email","path":"$.contact.email","index":{"normalize":"email","into":"mail_index"}},
        {"id":"any","path":"$..note"},{"id":"gone","path":"$.gone"}]}"#;
    let desk = Desk::new(
        nested,
        "CREATE TABLE people (id bigint PRIMARY KEY, contact_email text, contact_mail_index text,
            remark text, wide text)",
    );
    let event = json!({ "id": 1, "contact": { "email": "canary@example.com" }, "note": "canary" });
    let safe = desk.protect(&[event]).remove(0);
    desk.insert(&[json!({ "id": 1, "contact_email": safe["contact"]["email"],
        "contact_mail_index": safe["contact"]["mail_index"], "remark": safe["note"] })]);
    desk.keys(&["rotate", "--shared"]);
    let (whole, done, told) = desk.rotated("postgres", &["--column", "any=remark"]);
    assert!(whole && done["moved"].as_array().unwrap().len() == 2, "{done}");
    assert!(told.contains("gone is left as it is: the table has no column"), "{told}");
    assert_eq!(done["counts"]["fields"]["email"]["indexes"]["1"], 1);
    for (arguments, why) in [
        (&["--column", "nope=remark"][..], "people has no field nope; it has email, any, gone"),
        (&["--column", "any=nope"], "no column nope"),
        (&["--column", "any=id"], "people.id is bigint"),
        (&["--column", "any=contact_email"], "holds another field already"),
        (&["--key", "remark"], "remark is no key"),
        (&["--column", "any"], "NAME=COLUMN"),
        (&["--index", "email=nope"], "no column nope"),
        (&["--bind", "id=id"], "no field of people is bound to id"),
    ] {
        let output = desk.rotate("postgres", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(said(&output).contains(why), "{arguments:?}: {}", said(&output));
    }
}

/// The CHECK that `schema ddl` writes of a list.
#[test]
fn a_list_of_tokens_takes_nothing_else() {
    let schema = r#"{"veilstream":1,"name":"people","version":1,"fields":[
        {"id":"tags","path":"$.tags[*]"}]}"#;
    let desk = Desk::new(schema, "CREATE TABLE other ()");
    let event = json!({ "tags": ["canary", "canary"] });
    std::fs::write(desk.path("sample.ndjson"), event.to_string()).unwrap();
    let ddl = ["schema", "ddl", "--schema", "people.json", "--sample", "sample.ndjson"];
    let mut rows = desk.rows();
    rows.batch_execute(&desk.ok(&ddl, "")).unwrap();
    let token = desk.protect(&[event])[0]["tags"][0].as_str().unwrap().to_owned();
    let token = &*token;
    let mut stores = |id: &str, tags: Option<&[&str]>| {
        let sql = "INSERT INTO people (record_key, tags) VALUES ($1, $2)";
        rows.execute(sql, &[&id, &tags]).is_ok()
    };
    for (at, fits) in
        [None, Some(&[][..]), Some(&[token]), Some(&[token, token])].iter().enumerate()
    {
        assert!(stores(&format!("fits {at}"), *fits), "{fits:?}");
    }
    for other in [&["clear"][..], &[""], &[token, ""], &["", token], &[token, "clear"]] {
        assert!(!stores("other", Some(other)), "{other:?}");
    }
}

/// Columns as `schema ddl` makes them of a list: each element is a token, each index stands beside.
#[test]
fn lists_move_element_by_element() {
    let schema = r#"{"veilstream":1,"name":"people","version":1,"subject":"$.id","subject_optional":true,"fields":[
        {"id":"phones","path":"$.contact.phones[*]","index":{"normalize":"digits"},"bind":[{"name":"id","path":"$.id"}]},
        {"id":"tags","path":"$.tags[*]"},{"id":"email","path":"$.email"}]}"#;
    let desk = Desk::new(
        schema,
        "CREATE TABLE people (id text PRIMARY KEY, contact_phones text[] COLLATE \"C\",
            contact_phones_bidx text[] COLLATE \"C\", contact_phones_bidx_prev text[], tags varchar(999)[],
            email text)",
    );
    let events: Vec<Value> = (0..24)
        .map(|id| {
            let phones: Vec<String> = (0..id % 4).map(|n| format!("+31 20 {id:04} {n}")).collect();
            json!({ "id": id.to_string(), "contact": { "phones": phones },
                "tags": ["canary, \"one\"", "{canary}"], "email": format!("canary{id}@example.com") })
        })
        .collect();
    let stored: Vec<Value> = desk
        .protect(&events)
        .into_iter()
        .map(|safe| {
            json!({ "id": safe["id"], "contact_phones": safe["contact"]["phones"],
                "contact_phones_bidx": safe["contact"]["phones_bidx"], "tags": safe["tags"],
                "email": safe["email"] })
        })
        .collect();
    desk.insert(&stored);
    desk.insert(&[json!({ "id": "none" })]);
    let opened = || {
        let sql = "SELECT json_strip_nulls(json_build_object('id', id, 'contact', json_build_object('phones', contact_phones,
            'phones_bidx', contact_phones_bidx), 'tags', tags, 'email', email))::text FROM people
            WHERE id <> 'none' ORDER BY id::int";
        let rows: Vec<String> =
            desk.rows().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
        let reveal = ["reveal", "--config", "veilstream.toml", "--schema", "people.json"];
        let text = desk.ok(&reveal, &rows.join("\n"));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    assert!(opened() == events);
    let (fresh, counts, _) = desk.rotated("report", &[]);
    assert!(fresh && counts["counts"]["rows"] == 25, "{counts}");
    let tokens = |counts: &Value| {
        let of = |field: &str| {
            let keys = counts["counts"]["fields"][field]["keys"].as_array().unwrap();
            keys.iter().map(|key| key["tokens"].as_u64().unwrap()).sum::<u64>()
        };
        ["phones", "tags", "email"].map(of)
    };
    assert_eq!(tokens(&counts), [36, 48, 24]);

    // Of these a token stands in another row, a list has a list in it, and an element is in clear.
    desk.rows()
        .batch_execute(
            "UPDATE people SET contact_phones = (SELECT contact_phones FROM people WHERE id = '7') WHERE id = '3';
             UPDATE people SET tags = ARRAY[tags, tags] WHERE id = '5';
             UPDATE people SET tags[2] = 'canary' WHERE id = '6'",
        )
        .unwrap();
    let planted = "SELECT (SELECT contact_phones FROM people WHERE id = '3')::text
        || (SELECT tags FROM people WHERE id = '5')::text";
    let planted = || desk.rows().query_one(planted, &[]).unwrap().get::<_, String>(0);
    let before = planted();
    for id in 0..8 {
        desk.keys(&["rotate", "--subject", &id.to_string()]);
    }
    desk.keys(&["rotate", "--index"]);
    let (whole, done, told) = desk.rotated("postgres", &["--batch", "7", "--reindex"]);
    let fields = &done["counts"]["fields"];
    assert!(!whole && done["old"] == 3 && before == planted(), "{done}");
    assert_eq!(fields["phones"]["failed"], json!({ "binding": 3 }));
    assert_eq!(fields["tags"]["failed"], json!({ "clear": 1, "malformed": 1 }));
    for line in ["id=3: phones: binding", "id=5: tags: malformed", "id=6: tags: clear"] {
        assert!(told.contains(line), "{told}");
    }
    desk.rows().batch_execute("DELETE FROM people WHERE id IN ('3', '5', '6')").unwrap();
    let (whole, again, _) = desk.rotated("postgres", &["--reindex"]);
    assert!(whole && again["written"] == 0 && again["walks"] == 1, "{again}");
    let (fresh, counts, _) = desk.rotated("report", &[]);
    assert!(fresh && tokens(&counts) == [30, 42, 21] && counts["old"] == 0, "{counts}");
    assert_eq!(counts["counts"]["fields"]["phones"]["indexes"], json!({ "2": 30 }));
    let gone = ["3", "5", "6"].map(Value::from);
    let left: Vec<Value> =
        events.into_iter().filter(|event| !gone.contains(&event["id"])).collect();
    assert!(opened() == left, "and everything opens as before");
    let search = ["index", "--config", "veilstream.toml", "--schema", "people.json", "--field"];
    let found = desk.ok(&[&search, &["phones", "+31 (20) 0007-2"][..]].concat(), "");
    let [newest, previous] = found.lines().collect::<Vec<_>>()[..] else { panic!("{found}") };
    for (column, index) in [("contact_phones_bidx", newest), ("contact_phones_bidx_prev", previous)]
    {
        let is_third = format!("array_position({column}, '{index}') = 3");
        assert_eq!(
            (desk.count(&is_third), desk.count(&format!("{is_third} AND id = '7'"))),
            (1, 1)
        );
    }

    // Nothing but lists.
    desk.rows().batch_execute("ALTER TABLE people DROP COLUMN email").unwrap();
    let (_, counts, _) = desk.rotated("report", &[]);
    assert_eq!(counts["counts"]["rows"], 22);

    // An index that is no list.
    desk.rows()
        .batch_execute(
            "ALTER TABLE people DROP COLUMN contact_phones_bidx;
             ALTER TABLE people ADD contact_phones_bidx text",
        )
        .unwrap();
    let output = desk.rotate("postgres", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("one is a list, the other is not"), "{}", said(&output));
}
