//! Bodies and clients that mean harm: refused by the running service, with bounded memory and
//! threads, while others are answered.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::instance::{Instance, ServeProcess, Setup};
use crate::testing::until;

/// A body as bytes, and what is answered: status and code.
type Case = (&'static str, Vec<u8>, u16, &'static str);

fn json_of(items: &Value) -> Vec<u8> {
    json!({ "purpose": "support", "items": items }).to_string().into_bytes()
}

/// Items that repeat one text.
fn repeated(item: &str, count: usize) -> Vec<u8> {
    let items = vec![item; count].join(",");
    format!("{{\"purpose\":\"support\",\"items\":[{items}]}}").into_bytes()
}

fn cases() -> Vec<Case> {
    let deep = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(
            "{{\"purpose\":\"support\",\"items\":[{{\"schema\":\"customers\",\"record\":\
            {{\"a\":{open}{close}}}}}]}}"
        )
        .into_bytes()
    };
    let text = |text: &str| text.as_bytes().to_vec();
    let names: Vec<String> = (0..100_000).map(|n| format!("f{n}")).collect();
    // Each token in it would be looked for among the names.
    let token = format!("vs1.{}", "A".repeat(76));
    let phones = vec![json!({ "phone": token }); 50_000];
    let record = json!({ "type": "customer.updated", "phones": phones });
    let bomb = json!([{ "schema": "customers", "fields": names, "record": record }]);
    // The path of each place in it would repeat the name.
    let (name, token) = ("n".repeat(256 << 10), format!("vs1.{}", "A".repeat(76)));
    let places = vec![json!([{ "phone": token }, { "phone": "x" }, token]); 3000];
    let long =
        json!([{ "schema": "customers", "record": { "type": "customer.updated", name: places } }]);
    let digits = "0,".repeat((8 << 20) / 2 - 100);
    let values = format!(r#"{{"schema":"customers","record":{{"n":[{digits}0]}}}}"#);
    let values = repeated(&values, 1);
    let fields = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("f{n}")).collect();
        json_of(&json!([{ "schema": "customers", "fields": names, "record": {} }]))
    };
    vec![
        ("too large", vec![b' '; (8 << 20) + 1], 413, "body_too_large"),
        ("too deep", deep(200), 400, "not_json"),
        ("a bomb of brackets", vec![b'['; 8 << 20], 400, "bad_request"),
        ("four million values", values, 400, "bad_request"),
        ("deep enough", deep(100), 200, ""),
        ("empty", Vec::new(), 400, "not_json"),
        ("no object", text("[]"), 400, "bad_request"),
        ("not UTF-8", b"{\"purpose\":\"\xff\",\"items\":[]}".to_vec(), 400, "not_json"),
        ("an overlong NUL", b"{\"purpose\":\"\xc0\x80\",\"items\":[]}".to_vec(), 400, "not_json"),
        ("UTF-16", vec![0xff, 0xfe, b'{', 0, b'}', 0], 400, "not_json"),
        ("a lone surrogate", text(r#"{"purpose":"\ud800","items":[]}"#), 400, "bad_request"),
        ("two texts", text(r#"{"purpose":"support","items":[]}{}"#), 400, "not_json"),
        (
            "twice",
            text(r#"{"purpose":"support","purpose":"fraud","items":[]}"#),
            400,
            "bad_request",
        ),
        (
            "twice, escaped",
            text(r#"{"purpose":"support","\u0070urpose":"fraud","items":[]}"#),
            400,
            "bad_request",
        ),
        (
            "a member of old",
            text(r#"{"purpose":"support","items":[],"debug":true}"#),
            400,
            "bad_request",
        ),
        ("no purpose", text(r#"{"items":[]}"#), 400, "bad_request"),
        (
            "a long purpose",
            format!(r#"{{"purpose":"{}","items":[]}}"#, "a".repeat(201)).into(),
            400,
            "bad_request",
        ),
        (
            "an id with a slash",
            text(r#"{"purpose":"support","request_id":"a/b","items":[]}"#),
            400,
            "bad_request",
        ),
        ("a wish", text(r#"{"purpose":"support","want":"all","items":[]}"#), 400, "bad_request"),
        ("a thousand items", repeated("{}", 1000), 200, ""),
        ("more than a thousand", repeated("{}", 1001), 400, "bad_request"),
        ("a million items", repeated("{}", 1_000_000), 400, "bad_request"),
        ("200 fields", fields(200), 200, ""),
        ("more than 200 fields", fields(201), 400, "bad_request"),
        ("100,000 fields", json_of(&bomb), 400, "bad_request"),
        ("a long name above 9,000 places", json_of(&long), 200, ""),
        (
            "100,000 bindings",
            {
                let bind: String = (0..100_000).map(|n| format!("\"b{n}\":{n},")).collect();
                repeated(
                    &format!(r#"{{"field":"customers.ssn","token":"x","bind":{{{bind}"z":1}}}}"#),
                    1,
                )
            },
            200,
            "",
        ),
        (
            "a huge number",
            repeated(
                &format!(r#"{{"schema":"customers","record":{{"n":{}}}}}"#, "9".repeat(1 << 20)),
                1,
            ),
            200,
            "",
        ),
    ]
}

/// Bodies for the paths that take values, whose list has this name.
fn cases_of(list: &str) -> Vec<Case> {
    let of = |head: &str, items: &str| format!("{{{head},\"{list}\":{items}}}").into_bytes();
    let support = r#""purpose":"support""#;
    let brackets = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let many = |count: usize| of(support, &format!("[{}]", vec!["{}"; count].join(",")));
    let twice = format!("{support},{support}");
    let mut no_text = of(support, r#"["#);
    no_text.extend_from_slice(b"\"\xff\"]}");
    vec![
        ("too large", vec![b' '; (8 << 20) + 1], 413, "body_too_large"),
        ("too deep", of(support, &brackets(200)), 400, "not_json"),
        ("a bomb of brackets", vec![b'['; 8 << 20], 400, "bad_request"),
        ("not UTF-8", no_text, 400, "not_json"),
        ("two texts", [many(0), many(0)].concat(), 400, "not_json"),
        ("twice", of(&twice, "[]"), 400, "bad_request"),
        ("twice the list", of(support, &format!("[],\"{list}\":[]")), 400, "bad_request"),
        ("no list", format!("{{{support}}}").into_bytes(), 400, "bad_request"),
        ("a text as list", of(support, "\"x\""), 400, "bad_request"),
        ("an object as list", of(support, "{}"), 400, "bad_request"),
        ("a number as purpose", of(r#""purpose":1"#, "[]"), 400, "bad_request"),
        ("a list as reason", of(&format!("{support},\"reason\":[]"), "[]"), 400, "bad_request"),
        ("null as id", of(&format!("{support},\"request_id\":null"), "[]"), 400, "bad_request"),
        (
            "a member of another",
            of(&format!("{support},\"want\":\"auto\""), "[]"),
            400,
            "bad_request",
        ),
        ("a thousand", many(1000), 200, ""),
        ("more than a thousand", many(1001), 400, "bad_request"),
        ("deep enough", of(support, &brackets(100)), 200, ""),
    ]
}

/// Items of wrong types: each costs its own answer.
const WRONG: [&str; 5] = [
    r#"{"field":"customers.email","field":"customers.email","value":"x","subject":1}"#,
    r#"{"field":1,"value":"x","schema":2,"subject":3}"#,
    r#"{"field":["customers.email"],"value":{},"schema":{},"subject":[]}"#,
    r#"["customers.email"]"#,
    "null",
];

/// A member of `/proc/PID/status`, in its own unit.
fn status_of(running: &ServeProcess, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

fn served() -> (Instance, ServeProcess, String) {
    let serve = "insecure = true\nitems_per_second = 10000000\nmax_request_bytes = \"32MiB\"\n";
    let instance = Instance::of(&Setup { serve, ..Setup::default() });
    let (_, key) = instance.make_key("desk");
    let running = instance.start();
    (instance, running, key)
}

#[test]
fn bodies_that_mean_harm_are_refused() {
    let (instance, mut running, key) = served();
    let client = Client::new();
    for (path, cases) in [
        ("/v1/reveal", cases()),
        ("/v1/explain", cases()),
        ("/v1/index", cases_of("queries")),
        ("/v1/seal", cases_of("items")),
        ("/v1/subject-ref", cases_of("items")),
    ] {
        for (name, body, expected, code) in cases {
            let asked = client.post(format!("http://{}{path}", running.address)).bearer_auth(&key);
            let asked = asked.header("content-type", "application/json").body(body).send();
            // The other end may close before the client has written all.
            let Ok(answer) = asked else {
                assert_eq!(expected, 413, "{path} {name}");
                continue;
            };
            assert_eq!(answer.status(), expected, "{path} {name}");
            if expected != 200 {
                let answer: Value = answer.json().unwrap();
                assert_eq!(answer["code"], code, "{path} {name}: {answer}");
            }
        }
    }
    for (path, list) in
        [("/v1/index", "queries"), ("/v1/seal", "items"), ("/v1/subject-ref", "items")]
    {
        let body = format!(r#"{{"purpose":"support","{list}":[{}]}}"#, WRONG.join(","));
        let asked = client.post(format!("http://{}{path}", running.address)).bearer_auth(&key);
        let asked = asked.header("content-type", "application/json").body(body);
        let answer: Value = asked.send().unwrap().json().unwrap();
        assert_eq!(answer["summary"], json!({ "malformed": WRONG.len() }), "{path} {answer}");
    }
    // An item that is none costs its own answer and nobody else's.
    let token = "vs1.x";
    let items = json!([
        { "id": "a", "field": "customers.email", "token": token, "token2": token },
        { "id": "b", "field": "customers.email", "token": token, "record": {} },
        { "id": { "c": 1 }, "field": "customers.email", "token": token },
        { "id": "d", "schema": "customers", "record": [] },
        null,
        { "id": "f", "field": "customers.email", "token": token, "subject": 1 },
    ]);
    let body = json!({ "purpose": "support", "items": items });
    let (status, answer) = running.post(&client, &key, "/v1/reveal", &body);
    assert_eq!((status, &answer["summary"]), (200, &json!({ "malformed": 4, "corrupt": 2 })));
    let twice = r#"{"purpose":"support","items":[{"id":"a","id":"b","schema":"customers","record":{}},
        {"schema":"customers","schema":"orders","record":{}}]}"#;
    let asked = client.post(format!("http://{}/v1/reveal", running.address)).bearer_auth(&key);
    let asked = asked.header("content-type", "application/json").body(twice);
    let answer: Value = asked.send().unwrap().json().unwrap();
    assert_eq!(answer["summary"], json!({ "malformed": 2 }));
    let peak = status_of(&running, "VmHWM") >> 10;
    println!("peak memory {peak} MiB");
    assert!(peak < 256, "{peak} MiB");
    assert_eq!(running.stop(), 0, "{}", running.log());
    assert!(instance.verify().status.success());
    assert!(!running.log().contains("a request failed"), "{}", running.log());
    // Who sent them stands in the audit, and nothing of what they sent.
    let lines = instance.audited();
    let refused: Vec<&Value> =
        lines.iter().filter(|line| line["event"] == "request_refused").collect();
    assert_eq!(refused[0]["reason"], "/v1/reveal body_too_large", "{refused:?}");
    for line in refused {
        assert_eq!((&line["actor"], &line["auth"]), (&json!("key:desk"), &json!("api_key")));
        assert!(line["reason"].as_str().unwrap().starts_with("/v1/"), "{line}");
    }
}

/// Hundreds of clients that send a byte now and then, headers without an end and bodies that do not
/// come take no threads and little memory, and go after their time.
#[test]
fn floods_take_no_threads_and_little_memory() {
    let (_instance, mut running, key) = served();
    let client = Client::new();
    let body = json!({ "purpose": "support", "items": [] });
    let answered = || running.post(&client, &key, "/v1/reveal", &body).0;
    assert_eq!(answered(), 200);
    let before = (status_of(&running, "Threads"), status_of(&running, "VmRSS") >> 10);
    let connect = |head: &[u8]| {
        let mut stream = TcpStream::connect(&running.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // It may have been told to go before the last byte.
        let _ = stream.write_all(head);
        stream
    };
    let slow = b"POST /v1/reveal HTTP/1.1\r\nHost: x\r\nX: ".to_vec();
    let endless = [&slow[..], &vec![b'a'; 1 << 20]].concat();
    let nothing = format!(
        "POST /v1/reveal HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: \
        application/json\r\nContent-Length: 1000000\r\n\r\n{{"
    );
    let mut held = Vec::new();
    for n in 0..200 {
        let head = [&slow[..], &endless[..], nothing.as_bytes()][n % 3];
        held.push(connect(head));
        if n % 50 == 49 {
            let asked = client.post(format!("http://{}/v1/reveal", running.address));
            let answer = asked.bearer_auth(&key).json(&body).send().unwrap();
            // Bodies that are announced take their room until they do not come.
            assert!([200, 429].contains(&answer.status().as_u16()), "{}", answer.status());
        }
    }
    let during = (status_of(&running, "Threads"), status_of(&running, "VmRSS") >> 10);
    println!("threads and MiB before {before:?}, with 200 such clients {during:?}");
    assert!(during.0 <= before.0 + 8, "{before:?} {during:?}");
    assert!(during.1 <= before.1 + 64, "{before:?} {during:?}");
    for mut stream in held {
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("a slow client is still connected")
            }
            _ => {}
        }
    }
    until("the room is back", || running.post(&client, &key, "/v1/reveal", &body).0 == 200);
    assert_eq!(running.stop(), 0);
}
