//! `veilstream reveal --server` and `index --server`: what they print beside what they print with
//! keys.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use crate::instance::{Instance, SUPPORT, Setup, veilstream};
use crate::testing::Authority;

const ALL: &str = r#"permit(principal in Role::"analyst", action in [Action::"reveal", Action::"search"], resource);"#;
const SOME: &str = r#"
permit(principal in Role::"analyst", action in [Action::"reveal", Action::"search"], resource == Field::"customers.email");
permit(principal in Role::"analyst", action == Action::"mask", resource == Field::"customers.phone");"#;

const EVENTS: &str = concat!(
    r#"{"type":"customer.updated","customer":{"id":42,"email":"ada@example.com","ssn":"078-05-1120","phone":"+1 415 555 0101","n":1.50},"phone":"+1 415 555 0102"}"#,
    "\n",
    r#"{"type":"customer.updated","customer":{"id":"x-7","ssn":"219-09-9999","address":{"street":"A \"quoted\" way 1","phone":"1"}},"payments":[{"card":"4242424242424242"},{"card":null}]}"#,
    "\n",
);

fn run(command: &mut Command, input: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writing = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

struct World {
    instance: Instance,
    running: crate::instance::ServeProcess,
    schema: String,
    keys: String,
    sealed: String,
}

impl World {
    fn new(cedar: &str, serve: &str, files: &[(&str, &str)]) -> Self {
        let budget = "[[policy.budgets]]\nvalues = 10000\n";
        let policy = format!("{SUPPORT}{budget}{budget}purpose = \"support\"\n");
        let instance = Instance::of(&Setup { cedar, serve, policy: &policy, ..Setup::default() });
        for (name, text) in files {
            instance.write(name, text);
        }
        let (_, key) = instance.make_key("desk");
        instance.write("token", &format!("{key}\n"));
        let sealed: Vec<String> =
            instance.seal("customers", EVENTS).iter().map(ToString::to_string).collect();
        let running = instance.start();
        let (schema, keys) = (instance.path("schemas/customers.json"), instance.path("keys"));
        Self { schema, keys, sealed: sealed.join("\n") + "\n", instance, running }
    }

    /// With keys.
    fn local(&self, args: &[&str], input: &str) -> Output {
        run(veilstream(args).args(["--keys", &self.keys]), input)
    }

    /// Over HTTP.
    fn remote(&self, args: &[&str], input: &str) -> Output {
        let (url, token) =
            (format!("http://{}", self.running.address), self.instance.path("token"));
        let mut command = veilstream(args);
        command.args(["--server", &url, "--token-file", &token, "--purpose", "support"]);
        run(&mut command, input)
    }
}

/// Standard error without what only a key directory says.
fn told(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.lines()
        .filter(|line| !line.contains("nothing is audited"))
        .map(|l| format!("{l}\n"))
        .collect()
}

#[track_caller]
fn same(local: &Output, remote: &Output) {
    assert_eq!(String::from_utf8_lossy(&local.stdout), String::from_utf8_lossy(&remote.stdout));
    assert_eq!(told(local), told(remote));
    assert_eq!(local.status.code(), remote.status.code());
}

#[test]
fn a_client_prints_what_the_keys_print() {
    let world = World::new(ALL, "insecure = true\n", &[]);
    let World { schema, sealed, .. } = &world;
    let email = sealed.split("\"email\":\"").nth(1).unwrap().split('"').next().unwrap();
    let foreign =
        sealed.replace(&email[30..34], if &email[30..34] == "AAAA" { "BBBB" } else { "AAAA" });
    let moved = sealed.replace("\"id\":42", "\"id\":43");
    let mixed = format!(
        "{sealed}\nno json\n{{\"type\":\"other\"}}\n{moved}{{\"type\":\"customer.updated\",\"customer\":{{\"id\":1,\"email\":\"a@b.c\",\"ssn\":null}}}}\n\
        {{\"type\":\"customer.updated\",\"customer\":{{\"id\":1,\"ssn\":\"{email}\"}},\"x\":\"{email}\"}}\n"
    );
    let reveal = ["reveal", "--schema", schema];
    for more in [
        &[][..],
        &["--status"],
        &["--fields", "email,card", "--status"],
        &["--keep-indexes", "--allow-clear"],
    ] {
        let args = [&reveal[..], more].concat();
        same(&world.local(&args, sealed), &world.remote(&args, sealed));
        let (local, remote) = (world.local(&args, &mixed), world.remote(&args, &mixed));
        // Of what does not open a caller learns less.
        let blurred = |output: &Output| Output {
            stdout: String::from_utf8_lossy(&output.stdout)
                .replace("\"binding\"", "\"corrupt\"")
                .into(),
            stderr: told(output).replace("\"binding\"", "\"corrupt\"").into(),
            status: output.status,
        };
        same(&blurred(&local), &remote);
        assert_eq!(remote.status.code(), Some(1));
    }
    assert!(!world.remote(&reveal, &foreign).status.success());
    // More lines than a request takes, in order.
    let many = sealed.repeat(1500);
    same(&world.local(&reveal, &many), &world.remote(&reveal, &many));

    let bare = ["reveal", "--token", "--field", "customers.email"];
    let tokens = format!("{email}\n\"{email}\"\r\nvs1.x\nclear\n");
    same(&world.local(&bare, &tokens), &world.remote(&bare, &tokens));
    let ssn = ["reveal", "--token", "--field", "customers.ssn"];
    same(&world.local(&ssn, &tokens), &world.remote(&ssn, &tokens));

    let index = ["index", "--schema", schema, "--field"];
    for (field, more, input) in [
        ("email", &["Ada@Example.com"][..], ""),
        ("email", &["--stdin"], "ada@example.com\r\n\nbob@example.com\n"),
        ("email", &["--stdin"], "\u{200b}\n"),
        ("ssn", &["078051120"], ""),
        ("#key", &["customer-17"], ""),
        ("#key", &["a", "b"], ""),
        ("dob", &["1"], ""),
    ] {
        let args = [&index[..], &[field], more].concat();
        same(&world.local(&args, input), &world.remote(&args, input));
    }
    let many: String = (0..2500).map(|n| format!("a{n}@example.com\n")).collect();
    let args = [&index[..], &["email", "--stdin"]].concat();
    same(&world.local(&args, &many), &world.remote(&args, &many));
}

#[test]
fn what_is_withheld_keeps_its_token() {
    let world = World::new(SOME, "insecure = true\n", &[]);
    let World { schema, sealed, .. } = &world;
    let output = world.remote(&["reveal", "--schema", schema, "--status"], sealed);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<serde_json::Value> = String::from_utf8(output.stdout.clone())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let before: serde_json::Value = serde_json::from_str(sealed.lines().next().unwrap()).unwrap();
    let event = &lines[0]["event"];
    assert_eq!(event["customer"]["email"], "ada@example.com");
    assert_eq!(event["customer"]["phone"], "********0101");
    assert_eq!(event["phone"], "********0102");
    assert_eq!(event["customer"]["ssn"], before["customer"]["ssn"], "a token stays");
    let places: Vec<(&str, &str)> = lines[0]["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|place| (place["field"].as_str().unwrap(), place["status"].as_str().unwrap()))
        .collect();
    assert!(places.contains(&("ssn", "denied")) && places.contains(&("phone", "masked")));
    assert!(told(&output).contains(r#""fields":[{"field":"ssn","status":"denied"}],"line":1"#));
    let denied = world.remote(&["index", "--schema", schema, "--field", "ssn", "1"], "");
    assert_eq!((denied.status.code(), denied.stdout.len()), (Some(1), 0));
    assert!(told(&denied).contains("denied: "), "{}", told(&denied));
    // An index of one's own answers to nobody else's credential.
    world.instance.write("token", "vsk_wrong\n");
    let refused = world.remote(&["reveal", "--schema", schema], sealed);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    assert!(told(&refused).contains("answers 401 (unauthorized)"), "{}", told(&refused));
    assert!(!told(&refused).contains("vsk_wrong"));
}

#[test]
fn a_client_trusts_the_authorities_it_was_given_and_follows_nobody() {
    let authority = Authority::new();
    let server = authority.server();
    let serve = "certificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\n";
    let files = [
        ("tls.crt", server.certificate.as_str()),
        ("tls.key", server.key.as_str()),
        ("ca.pem", &authority.pem()),
        ("other.pem", &Authority::new().pem()),
    ];
    let world = World::new(ALL, serve, &files);
    let url = format!("https://{}", world.running.address);
    let ask = |url: &str, ca: Option<&str>| {
        let token = world.instance.path("token");
        let mut command =
            veilstream(&["reveal", "--schema", &world.schema, "--purpose", "support"]);
        command.args(["--server", url, "--token-file", &token]);
        if let Some(ca) = ca {
            command.args(["--ca-file", &world.instance.path(ca)]);
        }
        run(&mut command, &world.sealed)
    };
    let opened = ask(&url, Some("ca.pem"));
    assert!(opened.status.success(), "{}", told(&opened));
    same(&world.local(&["reveal", "--schema", &world.schema], &world.sealed), &opened);
    for ca in [None, Some("other.pem")] {
        let refused = ask(&url, ca);
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{ca:?}");
        assert!(told(&refused).contains("does not answer"), "{}", told(&refused));
    }
    assert_eq!(ask("http://192.0.2.1:1", None).status.code(), Some(2));
    // Who answers with another address gets no second request.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let read = stream.read(&mut request).unwrap();
        let to = format!("http://{address}/elsewhere");
        write!(stream, "HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        drop(stream);
        listener.set_nonblocking(true).unwrap();
        (read, listener)
    });
    let refused = ask(&format!("http://{address}"), None);
    assert!(told(&refused).contains("redirect, which is not followed"), "{}", told(&refused));
    let (read, listener) = answering.join().unwrap();
    assert!(read > 0 && listener.accept().is_err(), "it came again");
}
