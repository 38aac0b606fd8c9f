//! `POST /v1/reveal` as a stream, over connections on which both sides talk at once.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::instance::{Instance, ServeProcess, Setup, done, fed, veilstream};
use crate::testing::until;

const EVENT: &str = r#"{"type":"customer.updated","customer":{"id":42,"email":"ada@example.com","ssn":"078-05-1120","phone":"+1 415 555 0101"}}"#;

/// A stream under way.
struct Stream {
    to: TcpStream,
    from: BufReader<Chunked>,
}

/// The bytes of an answer in chunks.
struct Chunked {
    from: BufReader<TcpStream>,
    left: usize,
}

impl Read for Chunked {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut size = String::new();
            while size.trim().is_empty() {
                size.clear();
                if self.from.read_line(&mut size)? == 0 {
                    return Ok(0);
                }
            }
            self.left = usize::from_str_radix(size.trim(), 16).unwrap();
            if self.left == 0 {
                return Ok(0);
            }
        }
        let most = self.left.min(into.len());
        let read = self.from.read(&mut into[..most])?;
        self.left -= read;
        Ok(read)
    }
}

impl Stream {
    /// Sends the head and the first line. Returns the status too.
    fn begin(running: &ServeProcess, key: &str, first: &str) -> (u16, Self) {
        let mut to = TcpStream::connect(&running.address).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        write!(
            to,
            "POST /v1/reveal HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: \
            application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        .unwrap();
        let mut from = BufReader::new(to.try_clone().unwrap());
        send(&mut to, format!("{first}\n").as_bytes()).unwrap();
        let (mut status, mut is_chunked) = (String::new(), false);
        from.read_line(&mut status).unwrap();
        loop {
            let mut line = String::new();
            from.read_line(&mut line).unwrap();
            is_chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
            if line.trim().is_empty() {
                break;
            }
        }
        let left = if is_chunked { 0 } else { usize::MAX };
        let from = BufReader::new(Chunked { from, left });
        (status.split(' ').nth(1).unwrap().parse().unwrap(), Self { to, from })
    }

    fn support(running: &ServeProcess, key: &str) -> Self {
        let (status, stream) = Self::begin(running, key, r#"{"purpose":"support"}"#);
        assert_eq!(status, 200);
        stream
    }

    fn send(&mut self, line: &str) {
        send(&mut self.to, format!("{line}\n").as_bytes()).unwrap();
    }

    fn end(&mut self) {
        self.to.write_all(b"0\r\n\r\n").unwrap();
    }

    /// The next line of the answer; `None`: it is at its end.
    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.from.read_line(&mut line).unwrap();
        (read > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// The next line that is an item, and the head of the last part before it.
    fn item(&mut self, head: &mut Value) -> Value {
        loop {
            let line = self.line().unwrap();
            match line.get("part") {
                Some(part) => *head = part.clone(),
                None => return line,
            }
        }
    }
}

fn send(to: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    write!(to, "{:x}\r\n", bytes.len())?;
    to.write_all(bytes)?;
    to.write_all(b"\r\n")
}

fn item(id: u64, record: &Value) -> String {
    let item = json!({ "id": id, "schema": "customers", "fields": ["email"], "record": record });
    item.to_string()
}

fn email(item: &Value) -> (&str, &Value) {
    let status = item["fields"]["email"]["status"].as_str().unwrap_or_default();
    (status, &item["record"]["customer"]["email"])
}

/// The most memory that the process ever had.
fn peak(running: &ServeProcess) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

const FAST: &str = "insecure = true\nitems_per_second = 1000000\n";

#[test]
fn a_stream_of_many_items_takes_little_memory() {
    // By then it had its largest parts: how large they are depends on who is faster.
    const WARM: u64 = 10_000;
    const ITEMS: u64 = WARM + 28_000;
    let instance = Instance::new(FAST);
    let (_, key) = instance.make_key("desk");
    let mut record = instance.seal("customers", EVENT).remove(0);
    record["padding"] = "x".repeat(2 << 10).into();
    let mut running = instance.start();
    let mut stream = Stream::support(&running, &key);
    let mut to = stream.to.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let mut sent = 0;
        for id in 0..ITEMS {
            let line = format!("{}\n", item(id, &record));
            sent += line.len();
            send(&mut to, line.as_bytes()).unwrap();
        }
        to.write_all(b"0\r\n\r\n").unwrap();
        sent
    });
    let (mut head, mut warm) = (Value::Null, 0);
    for id in 0..ITEMS {
        let item = stream.item(&mut head);
        assert_eq!(
            (&item["id"], email(&item)),
            (&id.into(), ("revealed", &"ada@example.com".into()))
        );
        if id == WARM {
            warm = peak(&running);
        }
    }
    assert!(head["policy"].as_str().unwrap().starts_with("sha256:"), "{head}");
    assert_eq!(stream.line(), Some(json!({ "end": { "summary": { "revealed": ITEMS } } })));
    assert_eq!(stream.line(), None);
    // The kernel counts per processor: a later peak may read a little lower.
    let sent = sending.join().unwrap() as u64;
    let grown = peak(&running).saturating_sub(warm);
    println!("{ITEMS} items, {sent} bytes; the peak of memory grew by {grown} bytes after {WARM}");
    assert!(sent > 64 << 20 && grown < 24 << 20, "{grown} of {sent}");
    assert_eq!(running.stop(), 0);
    let lines = instance.audited();
    let items = lines.iter().filter(|line| line["event"] == "reveal");
    let items: u64 = items.map(|line| line["items"].as_u64().unwrap()).sum();
    assert_eq!(items, ITEMS, "each part is in the log");
    assert!(instance.verify().status.success());
}

#[test]
fn a_stream_ends_when_its_key_is_revoked() {
    let instance = Instance::new(FAST);
    let (id, key) = instance.make_key("desk");
    let record = instance.seal("customers", EVENT).remove(0);
    let mut running = instance.start();
    let mut stream = Stream::support(&running, &key);
    let (mut head, mut answered) = (Value::Null, 0);
    let (mut revoked, since) = (None, Instant::now());
    let problem = loop {
        assert!(since.elapsed() < Duration::from_secs(60), "it goes on after {answered} items");
        stream.send(&item(answered, &record));
        let line = stream.item(&mut head);
        if let Some(end) = line.get("end") {
            break end["problem"].clone();
        }
        assert_eq!(email(&line).0, "revealed");
        answered += 1;
        if answered == 3 {
            done(&mut instance.keys(&["revoke", &id]));
            revoked = Some(Instant::now());
        }
    };
    let took = revoked.map(|at| at.elapsed());
    assert_eq!(problem["code"], "unauthorized", "{problem}");
    assert!(took.is_some_and(|took| took <= Duration::from_secs(5)), "it ended after {took:?}");
    assert_eq!((stream.line(), problem["status"].as_u64()), (None, Some(401)));
    assert_eq!(running.stop(), 0);
    let lines = instance.audited();
    let opened = lines.iter().filter(|line| line["event"] == "reveal").count() as u64;
    assert_eq!(opened, answered, "what left is in the log, and nothing more was opened");
    assert_eq!(refused(&lines), [("key:desk", "/v1/reveal unauthorized")]);
}

/// Whose requests were refused, and why, as the audit has it.
fn refused(lines: &[Value]) -> Vec<(&str, &str)> {
    let lines = lines.iter().filter(|line| line["event"] == "request_refused");
    lines.map(|line| (line["actor"].as_str().unwrap(), line["reason"].as_str().unwrap())).collect()
}

#[test]
fn a_caller_who_does_not_read_is_not_read_from() {
    let instance = Instance::new(FAST);
    let (_, key) = instance.make_key("desk");
    let mut record = instance.seal("customers", EVENT).remove(0);
    record["padding"] = "x".repeat(8 << 10).into();
    let mut running = instance.start();
    let mut stream = Stream::support(&running, &key);
    let line = format!("{}\n", item(1, &record));
    let before = peak(&running);
    // Until the connection is closed from the other side.
    let mut sent = 0_u64;
    stream.to.set_write_timeout(Some(Duration::from_secs(120))).unwrap();
    let ended = loop {
        match send(&mut stream.to, line.as_bytes()) {
            Ok(()) => sent += line.len() as u64,
            Err(error) => break error,
        }
    };
    assert_ne!(ended.kind(), io::ErrorKind::WouldBlock, "the connection stays open");
    let grown = peak(&running) - before;
    println!("{sent} bytes went out before {ended}; memory grew by {grown} bytes");
    assert!(sent < 96 << 20, "{sent} bytes were taken");
    assert!(grown < 80 << 20, "{grown} bytes are held");
    // What is left of the answer is cut: it has no end.
    let mut rest = Vec::new();
    let _ = stream.from.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("\"end\""));
    // Others are answered.
    let mut other = Stream::support(&running, &key);
    other.end();
    assert_eq!(other.line(), Some(json!({ "end": { "summary": {} } })));
    assert_eq!(running.stop(), 0);
    assert!(instance.verify().status.success());
}

#[test]
fn a_stream_is_decided_part_by_part() {
    let cedar = r#"permit(principal in Role::"analyst", action == Action::"reveal", resource == Field::"customers.email");
        forbid(principal, action, resource) when { context.items > 1500 };"#;
    let instance = Instance::of(&Setup { serve: FAST, cedar, ..Setup::default() });
    let (_, key) = instance.make_key("desk");
    let record = instance.seal("customers", EVENT).remove(0);
    let mut running = instance.start();
    // The items of a stream are counted together, or it would be the way round a `forbid`.
    let mut stream = Stream::support(&running, &key);
    let mut to = stream.to.try_clone().unwrap();
    let records = record.clone();
    let sending = std::thread::spawn(move || {
        for id in 0..3000 {
            send(&mut to, format!("{}\n", item(id, &records)).as_bytes()).unwrap();
        }
    });
    let mut head = Value::Null;
    let statuses: Vec<String> =
        (0..3000).map(|_| email(&stream.item(&mut head)).0.to_owned()).collect();
    sending.join().unwrap();
    let revealed = statuses.iter().filter(|status| *status == "revealed").count();
    assert!((500..=1500).contains(&revealed), "{revealed}");
    assert!(statuses[revealed..].iter().all(|status| status == "denied"), "in this order");
    stream.end();
    let summary = json!({ "revealed": revealed, "denied": 3000 - revealed });
    assert_eq!(stream.line(), Some(json!({ "end": { "summary": summary } })));

    // New policies count from the next part on.
    let mut stream = Stream::support(&running, &key);
    stream.send(&item(1, &record));
    assert_eq!(email(&stream.item(&mut head)).0, "revealed");
    let old = head["policy"].clone();
    instance.write("policies/all.cedar", "");
    until("the new policies count", || {
        stream.send(&item(2, &record));
        email(&stream.item(&mut head)).0 == "denied"
    });
    assert_ne!(head["policy"], old);
    // The service stops: the stream ends with its next part.
    running.signal(rustix::process::Signal::TERM);
    until("the stream ends", || {
        stream.send(&item(3, &record));
        let line = stream.item(&mut head);
        let Some(end) = line.get("end") else { return false };
        assert_eq!(end["problem"]["code"], "stopping", "{end}");
        true
    });
    assert!(running.child.wait().unwrap().success());
}

#[test]
fn honey_withholds_its_field_from_its_part_on() {
    let instance = Instance::new(FAST);
    let (_, key) = instance.make_key("desk");
    let record = instance.seal("customers", EVENT).remove(0);
    let schema = instance.path("schemas/customers.json");
    let keys = instance.path("keys");
    let args = ["honey", "create", "--keys", &keys, "--schema", &schema, "--field", "email"];
    let mut create = veilstream(&args);
    create.args(["--subject", "42", "--stdin"]);
    let honey = fed(&mut create, "mary.sample@example.org\n");
    let mut planted = record.clone();
    planted["customer"]["email"] = honey.trim().into();
    let mut running = instance.start();
    let mut stream = Stream::support(&running, &key);
    let mut head = Value::Null;
    stream.send(&item(1, &record));
    assert_eq!(email(&stream.item(&mut head)).0, "revealed");
    for (id, record) in [(2, &planted), (3, &record)] {
        stream.send(&item(id, record));
        let line = stream.item(&mut head);
        assert_eq!((email(&line).0, &line["record"]), ("denied", &Value::Null), "{id}");
    }
    stream.end();
    assert_eq!(
        stream.line(),
        Some(json!({ "end": { "summary": { "revealed": 1, "denied": 2 } } }))
    );
    assert!(running.metrics().contains("veilstream_honey_opened_total 1"));
    assert_eq!(running.stop(), 0);
    let lines = instance.audited();
    assert_eq!(lines.iter().filter(|line| line["event"] == "honey").count(), 1);
}

#[test]
fn what_is_no_stream_is_refused() {
    let instance = Instance::new(FAST);
    let (_, key) = instance.make_key("desk");
    let record = instance.seal("customers", EVENT).remove(0);
    let running = instance.start();
    for (first, code) in [
        ("", "not_json"),
        ("{", "not_json"),
        ("{}", "bad_request"),
        (r#"{"purpose":"support","items":[]}"#, "bad_request"),
        (r#"{"purpose":"support","want":"all"}"#, "bad_request"),
    ] {
        let (status, mut stream) = Stream::begin(&running, &key, first);
        let mut problem = String::new();
        stream.from.read_line(&mut problem).unwrap();
        assert_eq!(status, 400, "{first}");
        assert!(problem.contains(&format!("\"code\":\"{code}\"")), "{first}: {problem}");
    }
    // To the byte, however it comes.
    let first = |length: usize| format!("{{\"purpose\":\"support\"{}}}", " ".repeat(length - 21));
    for (length, status) in [(64 << 10, 200), ((64 << 10) + 1, 400), (1 << 20, 400)] {
        let (told, mut stream) = Stream::begin(&running, &key, &first(length - 1));
        assert_eq!(told, status, "a first line of {length} bytes");
        if told == 200 {
            stream.end();
            assert_eq!(stream.line(), Some(json!({ "end": { "summary": {} } })));
        }
    }
    // A line that is no item is told of in its place.
    let mut stream = Stream::support(&running, &key);
    let mut head = Value::Null;
    for line in ["", "x", "{}", r#"{"id":7,"token":1}"#, &item(8, &record)] {
        stream.send(line);
    }
    for _ in 0..2 {
        assert_eq!(stream.item(&mut head), json!({ "status": "malformed" }));
    }
    assert_eq!(stream.item(&mut head), json!({ "id": 7, "status": "malformed" }));
    assert_eq!(stream.item(&mut head)["id"], 8);
    // A body that breaks off: what came whole is answered, and no end says that it was all.
    stream.send(&item(9, &record));
    stream.to.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.item(&mut head)["id"], 9);
    let end = stream.line();
    let code = end.as_ref().map(|end| end["end"]["problem"]["code"].clone());
    assert!(code.is_none() || code == Some("body_broken".into()), "{end:?}");
}

/// The last line, after items that are answered as they should be.
fn ending(mut stream: Stream, answered: usize) -> Value {
    let mut head = Value::Null;
    for _ in 0..answered {
        assert_eq!(email(&stream.item(&mut head)).0, "revealed");
    }
    let last = stream.item(&mut head);
    assert_eq!(stream.line(), None, "nothing comes after the end");
    last["end"].clone()
}

/// A caller that sends lines without an end, or too many items, ends its own stream alone.
#[test]
fn lines_and_items_that_are_too_much_end_their_stream_with_a_code() {
    let instance = Instance::new(FAST);
    // Of one principal there is one line a second.
    let (_, key) = instance.make_key("desk");
    let (_, office) = instance.make_key("office");
    let record = instance.seal("customers", EVENT).remove(0);
    let mut running = instance.start();
    let code = |end: &Value| (end["problem"]["status"].clone(), end["problem"]["code"].clone());
    let mut other = Stream::support(&running, &key);
    for round in 0..3 {
        let mut stream = Stream::support(&running, &key);
        stream.send(&item(1, &record));
        let mut head = Value::Null;
        assert_eq!(email(&stream.item(&mut head)).0, "revealed");
        // The other end may have enough before the last byte.
        for _ in 0..9 {
            let _ = send(&mut stream.to, &vec![b'x'; 1 << 20]);
        }
        assert_eq!(code(&ending(stream, 0)), (413.into(), "body_too_large".into()), "{round}");
    }
    let grown = peak(&running);
    let names = |count: usize| (0..count).map(|n| format!("f{n}")).collect::<Vec<_>>();
    let of = |count: usize| {
        json!({ "schema": "customers", "fields": names(count), "record": record }).to_string()
    };
    let mut stream = Stream::support(&running, &office);
    stream.send(&of(200));
    let mut head = Value::Null;
    assert_eq!(stream.item(&mut head)["fields"]["f199"]["status"], "denied");
    stream.send(&of(201));
    assert_eq!(code(&ending(stream, 0)), (400.into(), "bad_request".into()));
    let mut stream = Stream::support(&running, &key);
    let digits = "0,".repeat(1 << 19);
    stream.send(&format!(r#"{{"schema":"customers","record":{{"n":[{digits}0]}}}}"#));
    assert_eq!(code(&ending(stream, 0)), (400.into(), "bad_request".into()));
    // Deeper than any record is: no item, and the next one is.
    let mut stream = Stream::support(&running, &key);
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    stream.send(&format!(r#"{{"id":1,"schema":"customers","record":{{"a":{deep}}}}}"#));
    assert_eq!(stream.item(&mut head), json!({ "status": "malformed" }));
    stream.send(&item(2, &record));
    stream.end();
    assert_eq!(ending(stream, 1), json!({ "summary": { "malformed": 1, "revealed": 1 } }));
    // One that was open all the while.
    other.send(&item(3, &record));
    other.end();
    assert_eq!(ending(other, 1), json!({ "summary": { "revealed": 1 } }));
    println!("the peak of memory is {} MiB", grown >> 20);
    assert!(grown < 160 << 20, "{grown}");
    assert_eq!(running.stop(), 0);
    assert!(instance.verify().status.success());
    let lines = instance.audited();
    let refused = refused(&lines);
    for told in
        [("key:desk", "/v1/reveal body_too_large"), ("key:office", "/v1/reveal bad_request")]
    {
        assert!(refused.contains(&told), "{told:?}: {refused:?}");
    }
}

/// Beyond its limit of items a stream waits, and holds nobody up who is below theirs.
#[test]
fn a_stream_waits_at_the_limit_of_items_and_others_do_not() {
    let instance = Instance::new("insecure = true\nitems_per_second = 1000\n");
    let (_, key) = instance.make_key("desk");
    let (_, other) = instance.make_key("office");
    let mut running = instance.start();
    let since = Instant::now();
    let mut stream = Stream::support(&running, &key);
    // What is no item counts as one.
    send(&mut stream.to, "{}\n".repeat(4000).as_bytes()).unwrap();
    stream.end();
    let mut head = Value::Null;
    assert_eq!(stream.item(&mut head), json!({ "status": "malformed" }));
    let body = json!({ "purpose": "support", "items": vec![json!({}); 1000] });
    let client = reqwest::blocking::Client::new();
    assert_eq!(running.post(&client, &other, "/v1/reveal", &body).0, 200);
    // A request does not wait: its caller is told when to ask again.
    let asked = client.post(format!("http://{}/v1/reveal", running.address)).json(&body);
    let refused = asked.bearer_auth(&other).send().unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    (1..4000).for_each(|_| drop(stream.item(&mut head)));
    assert_eq!(stream.line(), Some(json!({ "end": { "summary": { "malformed": 4000 } } })));
    // A second's worth at once, and a second for each one after it.
    assert!(since.elapsed() >= Duration::from_millis(2900), "{:?}", since.elapsed());
    assert_eq!(running.stop(), 0);
}

/// Whether its caller says nothing or never pauses.
#[cfg(feature = "inject")]
#[test]
fn a_stream_ends_when_its_time_is_over() {
    let instance = Instance::new(FAST);
    let (_, key) = instance.make_key("desk");
    let record = instance.seal("customers", EVENT).remove(0);
    let mut running = instance.start_with(|command| {
        command.env("VEILSTREAM_INJECT_STREAM_SECONDS", "2");
    });
    let problem = |end: &Value| (end["problem"]["status"].clone(), end["problem"]["code"].clone());
    let too_long = (408.into(), "stream_too_long".into());
    let idle = Stream::support(&running, &key);
    assert_eq!(problem(&ending(idle, 0)), too_long);
    let mut stream = Stream::support(&running, &key);
    let mut to = stream.to.try_clone().unwrap();
    let lines = format!("{}\n", item(1, &record)).repeat(500);
    let sending = std::thread::spawn(move || {
        let since = Instant::now();
        while send(&mut to, lines.as_bytes()).is_ok() {
            assert!(since.elapsed() < Duration::from_secs(60), "it goes on");
        }
    });
    let (mut head, mut answered) = (Value::Null, 0_u64);
    let end = loop {
        let line = stream.item(&mut head);
        if let Some(end) = line.get("end") {
            break end.clone();
        }
        answered += 1;
    };
    assert_eq!(problem(&end), too_long);
    println!("{answered} items before the end");
    drop(stream);
    sending.join().unwrap();
    assert_eq!(running.stop(), 0);
    let lines = instance.audited();
    let items = lines.iter().filter(|line| line["event"] == "reveal");
    let items: u64 = items.map(|line| line["items"].as_u64().unwrap()).sum();
    assert_eq!(items, answered, "what left is in the log, and nothing else");
    assert!(refused(&lines).contains(&("key:desk", "/v1/reveal stream_too_long")));
}
